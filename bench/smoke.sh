#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The bench in miniature: every case is there and measured something, in the shape that docs/benchmarking.md tells; the figures
# themselves are never judged. usage: smoke.sh BUILD
set -euo pipefail
build=$1
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/kedge-bench-smoke.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

"$here/run" --build "$build" --size-mib 64 --rounds 1 --seconds 0.2 --volumes 3 --json "$work/out.json" --plot "$work" || {
	echo "FAILED: bench/run ended with $?"
	exit 1
}
python3 "$here/kbench/check_json.py" "$work/out.json" "$work/report.html"

# what was recorded, as if it were two more runs, makes a table with each goal; the same run twice makes none
for n in 2 3; do
	jq --arg n "$n" '.began += $n' "$work/out.json" >"$work/out$n.json"
done
"$here/table" "$work/out.json" "$work/out2.json" "$work/out3.json" >"$work/table.md"
jq -r '.goals[].goal' "$work/out.json" | while read -r goal; do
	grep -qF "| $goal | " "$work/table.md" || {
		echo "FAILED: the table has no row of: $goal"
		exit 1
	}
done
"$here/profile" --build "$build" --size-mib 64 --rounds 1 >"$work/profile.md"
for what in "of the source's samples" "of the destination's samples" '| sendfile | [1-9]' '| io_uring_enter | [0-9,]* | [1-9]'; do
	grep -q "$what" "$work/profile.md" || {
		echo "FAILED: the profile says nothing of: $what"
		exit 1
	}
done
if "$here/table" "$work/out.json" "$work/out.json" >"$work/none.md" 2>&1; then
	echo "FAILED: one run, given twice, made a table"
	exit 1
fi
