#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The long tier of E1: fresh seeds until the time is over. usage: long.sh UCLONE_CRASH SECONDS [FIRST-SEED]
set -euo pipefail
[ $# -ge 2 ] || {
	echo "usage: long.sh UCLONE_CRASH SECONDS [FIRST-SEED]" >&2
	exit 2
}
program=$1 seconds=$2 seed=${3:-$((RANDOM * 32768 + RANDOM))}
first=$seed end=$((SECONDS + seconds)) crashes=0
while [ $SECONDS -lt "$end" ]; do
	out=$("$program" 12000 "$seed") || {
		echo "$out"
		echo "E1, long: FAILED after $crashes crash points, seeds from $first on"
		exit 1
	}
	n=$(sed -n 's/^E1: \([0-9]*\) crash points.* 0 lost$/\1/p' <<<"$out")
	[ -n "$n" ] || {
		echo "FAILED: not what was expected of $program: $out"
		exit 1
	}
	next=$(sed -n 's/.*seeds [0-9]* to \([0-9]*\), 0 lost$/\1/p' <<<"$out")
	crashes=$((crashes + n))
	seed=$((next + 1))
done
echo "E1, long: $crashes crash points in $SECONDS s, seeds $first to $((seed - 1)), 0 lost"
