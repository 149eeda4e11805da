#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Two hosts (network namespaces) and a link of 200 Mbit/s between them: --transit auto packs what can be packed and leaves the rest alone. What is
# judged is what travelled, not how long it took; that is printed. Needs root.
. "$(dirname "$0")/lib.sh"
need openssl cmp jq ip tc nsenter
MIB=1048576
NS_A=kcopy-a$$ NS_B=kcopy-b$$

ends() {
	local status=$?
	set +e
	[ -z "${TARGET_PID:-}" ] || kill -KILL "$TARGET_PID" 2>/dev/null
	ip netns del "$NS_A" 2>/dev/null
	ip netns del "$NS_B" 2>/dev/null
	(exit "$status")
	cleanup
}
trap ends EXIT

inside() {
	local ns=$1
	shift
	nsenter --net="/run/netns/$ns" -- "$@"
}

for ns in "$NS_A" "$NS_B"; do
	ip netns add "$ns"
	ip -n "$ns" link set lo up
done
ip link add "kc$$a" netns "$NS_A" type veth peer name "kc$$b" netns "$NS_B"
ip -n "$NS_A" addr add 10.253.7.1/30 dev "kc$$a"
ip -n "$NS_B" addr add 10.253.7.2/30 dev "kc$$b"
ip -n "$NS_A" link set "kc$$a" up
ip -n "$NS_B" link set "kc$$b" up
inside "$NS_A" tc qdisc add dev "kc$$a" root tbf rate "${RATE:-200mbit}" burst 256kb latency 50ms

SIZE=${SIZE:-96}
seq -f "line %09.0f of a text that can be packed" 1 $((SIZE * 26000)) | head -c $((SIZE * MIB)) >"$WORK/text" || :
openssl enc -aes-128-ctr -K "$(printf '%032x' "$SEED")" -iv 0 -in /dev/zero 2>/dev/null | head -c $((SIZE * MIB / 2)) >"$WORK/noise" || :

# copy IMAGE MODE: sets wire, ms
copy() {
	rm -f "$WORK/dst"
	nsenter --net="/run/netns/$NS_A" -- "$KTARGET" --portal 10.253.7.1:3260 --iqn "$IQN" --lun "$WORK/$1" --read-only --serial vol >"$WORK/target.log" 2>&1 &
	TARGET_PID=$!
	wait_until 10 grep -q listening "$WORK/target.log" || fail "ktarget does not start"
	inside "$NS_B" "$KCOPY" "iscsi://10.253.7.1:3260/$IQN/1" "$WORK/dst" --transit "$2" --json >"$WORK/json" 2>"$WORK/kcopy.log"
	cmp "$WORK/$1" "$WORK/dst"
	kill "$TARGET_PID"
	wait "$TARGET_PID" || fail "ktarget ended with $?"
	TARGET_PID=
	wire=$(jq -s 'map(select(.event == "result")) | .[0].wire_bytes' "$WORK/json")
	ms=$(jq -s 'map(select(.event == "result")) | .[0].elapsed_ms' "$WORK/json")
	echo "$1, $2: $((wire / MIB)) MiB travelled in $ms ms"
}

for mode in ${MODES:-auto}; do
	copy text "$mode"
	[ "$mode" != auto ] || [ "$wire" -lt $((SIZE * MIB * 7 / 10)) ] || fail "text is not packed"
	copy noise "$mode"
	[ "$wire" -ge $((SIZE * MIB / 2)) ] || fail "noise got smaller"
done
echo PASS
