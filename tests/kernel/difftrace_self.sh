#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The differential test can fail: a write that never reaches the user engine, and flushes that never do, are found. usage: difftrace_self.sh BIN TESTBIN
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
out=$(mktemp /var/tmp/kedge-diff.XXXXXX)
trap 'rm -f "$out"' EXIT
while read -r plant words; do
	code=0
	"$here/kuml" --mem 512M --timeout 120 -- "$here/difftrace.sh" "$1" "$2" 0 --seed 5 --traces 16 --plant "$plant" >"$out" 2>&1 || code=$?
	[ $code = 1 ] && grep -q "^FAILED: seed 5, .*user: .*$words" "$out" || { echo "FAILED: $plant was not found ($code)" && cat "$out" && exit 1; }
	grep '^FAILED' "$out" | sed "s/^FAILED/$plant: found/"
done <<-TABLE
	skip-write reads as
	skip-flush reads as
TABLE
echo "ok: planted faults are found"
