#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The long tier of E1: fresh seeds until the time is over. usage: long.sh UCLONE_CRASH SECONDS [FIRST-SEED]
set -euo pipefail
program=$1 seconds=$2 seed=${3:-$((RANDOM * 32768 + RANDOM))}
first=$seed end=$((SECONDS + seconds)) crashes=0
while [ $SECONDS -lt "$end" ]; do
	out=$("$program" 12000 "$seed") || {
		echo "$out"
		exit 1
	}
	crashes=$((crashes + $(sed -n 's/^E1: \([0-9]*\) .*/\1/p' <<<"$out")))
	seed=$((seed + 1000))
done
echo "E1, long: $crashes crash points, seeds $first to $((seed - 1)), 0 lost"
