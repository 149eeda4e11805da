#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The differential test at length: TRACES traces, some rounds a guest, guests one after the other. Prints the count and the seed; a failure prints
# the seed of its round. On two cores start it twice, with seeds far apart.
# usage: diff_long.sh BIN TESTBIN TRACES [SEED]
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
bin=$1 tests=$2 want=$3 seed=${4:-$((RANDOM * 32768 + RANDOM))}
A_GUEST=160 # ten rounds, which have a seed each
out=$(mktemp /var/tmp/kedge-diff.XXXXXX)
trap 'rm -f "$out"' EXIT
done_traces=0 at=$seed
while [ $done_traces -lt "$want" ]; do
	n=$((want - done_traces < A_GUEST ? want - done_traces : A_GUEST))
	"$here/kuml" --mem 512M --timeout 1800 -- "$here/difftrace.sh" "$bin" "$tests" 0 --seed $at --traces $n >"$out" 2>&1 || {
		cat "$out"
		echo "FAILED after $done_traces traces, seed $seed"
		exit 1
	}
	grep '^ok:' "$out" || { cat "$out" && exit 1; }
	done_traces=$((done_traces + n)) at=$((at + (n + 15) / 16))
done
echo "ok: $done_traces traces, seed $seed, every read as the model and the other engines have it"
