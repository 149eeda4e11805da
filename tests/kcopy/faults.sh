#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A source that dies, hangs, comes back, or comes back as another volume, in the middle of a copy.
. "$(dirname "$0")/lib.sh"
need openssl cmp

export KEDGE_SOURCE_TIMEOUTS=login=1000,command=600,nop=300,nop-reply=300,logout=200,backoff-max=300
MIB=64
PORT=$(free_port)
random_image "$WORK/src" "$MIB"

# copy_start: a copy of about 4 s in the background
copy_start() {
	"$KCOPY" "$URL" "$WORK/dst" --map "$WORK/map" --rate 12M --json "$@" >"$WORK/json" 2>"$WORK/kcopy.log" &
	COPY_PID=$!
	PIDS+=("$COPY_PID")
	wait_until 20 has_pages "$WORK/map" || fail "the copy does not get going"
}

copy_wait() {
	local want=$1 got=0
	wait "$COPY_PID" || got=$?
	reaped "$COPY_PID"
	[ "$got" -eq "$want" ] || fail "the copy ended with $got instead of $want"
}

fresh() {
	rm -f "$WORK/dst" "$WORK/map"
}

echo "- the target is killed and comes back"
target_start "$PORT" "$WORK/src" vol-a
fresh
copy_start
target_kill
wait_until 20 grep -q HYDRATION_DEGRADED "$WORK/json" || fail "nobody noticed that the target is gone"
target_start "$PORT" "$WORK/src" vol-a
copy_wait 0
cmp "$WORK/src" "$WORK/dst"
grep -q '"reconnects":[1-9]' "$WORK/json" || fail "there was no reconnect"

echo "- the target hangs (SIGSTOP) and comes back; meanwhile the copy uses next to no CPU"
fresh
copy_start
kill -STOP "$TARGET_PID"
wait_until 20 grep -q HYDRATION_DEGRADED "$WORK/json" || fail "nobody noticed that the target hangs"
ticks() { awk '{print $14 + $15}' "/proc/$COPY_PID/stat"; }
before=$(ticks)
sleep 4 # the time over which CPU is measured
used=$(($(ticks) - before))
# 1 % of 4 s is 4 ticks
[ "$used" -le 4 ] || fail "$used ticks of CPU in 4 s while the source is away"
kill -CONT "$TARGET_PID"
copy_wait 0
cmp "$WORK/src" "$WORK/dst"

echo "- a hung target and SIGTERM: ends soon, says how to go on, and does"
fresh
copy_start
kill -STOP "$TARGET_PID"
wait_until 20 grep -q HYDRATION_DEGRADED "$WORK/json" || fail "nobody noticed that the target hangs"
kill -TERM "$COPY_PID"
copy_wait 1
grep -q "run the same command again" "$WORK/kcopy.log"
kill -CONT "$TARGET_PID"
"$KCOPY" "$URL" "$WORK/dst" --map "$WORK/map" --json >"$WORK/json" 2>"$WORK/kcopy.log"
grep -q '"resumed_bytes":[1-9]' "$WORK/json" || fail "nothing was resumed"
cmp "$WORK/src" "$WORK/dst"

echo "- an impostor on the same port, same name, same size"
openssl rand "$((MIB * 1048576))" >"$WORK/other"
fresh
copy_start
target_kill
wait_until 20 grep -q HYDRATION_DEGRADED "$WORK/json" || fail "nobody noticed that the target is gone"
target_start "$PORT" "$WORK/other" vol-b
copy_wait 30
# not one byte of it: every block of the destination is the source's or still a hole
{ cmp -l "$WORK/src" "$WORK/dst" || :; } | awk '$3 != 0 { bad = 1; exit } END { exit bad }' || fail "bytes of the impostor in the destination"
target_kill
echo PASS
