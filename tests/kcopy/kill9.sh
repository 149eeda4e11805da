#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# kill -9 of kcopy at random moments, many times, then one run to the end: the copy is the source. CYCLES and SEED by environment.
. "$(dirname "$0")/lib.sh"
need openssl cmp

CYCLES=${CYCLES:-25}
PORT=$(free_port)
random_image "$WORK/src" 64
target_start "$PORT" "$WORK/src" vol-a
# old bytes that must all be gone in the end
openssl rand $((64 * 1048576)) >"$WORK/dst"
kills=0
for ((i = 0; i < CYCLES; i++)); do
	"$KCOPY" "$URL" "$WORK/dst" --map "$WORK/map" --rate 6M 2>>"$WORK/kcopy.log" &
	pid=$!
	PIDS+=("$pid")
	sleep "0.$((RANDOM % 4))$((RANDOM % 10))" # the random moment
	if kill -KILL "$pid" 2>/dev/null; then
		kills=$((kills + 1))
	fi
	wait "$pid" 2>/dev/null || :
	reaped "$pid"
done
"$KCOPY" "$URL" "$WORK/dst" --map "$WORK/map" --verify --json >"$WORK/json" 2>>"$WORK/kcopy.log"
cmp "$WORK/src" "$WORK/dst"
grep -o '"resumed_bytes":[0-9]*' "$WORK/json"
grep -q '"resumed_bytes":[1-9]' "$WORK/json" || fail "after $kills kills nothing was resumed"
echo "PASS: $kills kills in $CYCLES cycles, 0 bytes wrong"
