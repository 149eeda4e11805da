# SPDX-License-Identifier: LGPL-2.1-or-later
# What the end-to-end tests of kcopy share: a scratch directory that is always cleaned up, targets on loopback, waiting with a bound.
# Programs come in by environment: KCOPY, and KTARGET for TARGET_KIND=ktarget (default: Debian's tgtd).

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../lib/loop.sh"
exec 9>&2 # failures are told here, whatever is redirected when they happen

: "${KCOPY:?path of kcopy}"
TARGET_KIND=${TARGET_KIND:-tgtd}
WORK=$(mktemp -d "${TMPDIR:-/tmp}/kcopy-test.XXXXXX")
PIDS=()
SEED=${SEED:-$RANDOM}
RANDOM=$SEED
echo "seed $SEED, target $TARGET_KIND"

cleanup() {
	local status=$?
	set +e
	for pid in "${PIDS[@]}"; do
		kill -CONT "$pid" 2>/dev/null
		kill -KILL "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	[ -z "${MOUNT:-}" ] || umount "$MOUNT"
	[ -z "${LOOP_DEVICE:-}" ] || loop_drop "$LOOP_DEVICE" "$WORK/"
	if [ "$status" -ne 0 ]; then
		echo "FAILED (seed $SEED); last lines of the logs:" >&9
		tail -n 15 "$WORK"/*.log >&9 2>/dev/null
	fi
	rm -rf "$WORK"
	exit "$status"
}
trap cleanup EXIT

fail() {
	echo "FAIL: $*" >&9
	exit 1
}

need() {
	for program in "$@"; do
		command -v "$program" >/dev/null || fail "$program is needed for this test and is not installed"
	done
}

# wait_until SECONDS COMMAND...: poll until it succeeds
wait_until() {
	local tries=$(($1 * 20))
	shift
	while ! "$@" 2>/dev/null; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || return 1
		sleep 0.05
	done
}

port_is_open() {
	(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 12000))
		port_is_open "$port" || break
	done
	echo "$port"
}

# random_image FILE MIB: data with a few holes in it, the same for one seed
random_image() {
	local file=$1 mib=$2 at=0 run nr=0
	truncate -s "${mib}M" "$file"
	while [ "$at" -lt "$mib" ]; do
		run=$((1 + RANDOM % 8))
		[ $((at + run)) -le "$mib" ] || run=$((mib - at))
		nr=$((nr + 1)) # the second run is a hole, whatever the seed says
		if [ $nr != 2 ] && [ $((RANDOM % 4)) -ne 0 ]; then
			openssl enc -aes-128-ctr -K "$(printf '%032x' $((SEED + at + 1)))" -iv 0 -in /dev/zero 2>/dev/null |
				head -c $((run * 1048576)) | dd of="$file" bs=1M seek="$at" conv=notrunc iflag=fullblock status=none || :
		fi
		at=$((at + run))
	done
}

IQN=iqn.2026-11.local.kedge:test
tgt() {
	tgtadm -C "$TGT_CONTROL" --lld iscsi "$@"
}

# target_start PORT FILE SERIAL [CHAP-FILE]: sets TARGET_PID; LUN 1 of $IQN
target_start() {
	local port=$1 file=$2 serial=$3 chap=${4:-}
	case $TARGET_KIND in
	tgtd)
		need tgtd tgtadm
		TGT_CONTROL=$((1000 + RANDOM % 30000))
		tgtd -f -C "$TGT_CONTROL" --iscsi portal="127.0.0.1:$port" >>"$WORK/target.log" 2>&1 &
		TARGET_PID=$!
		PIDS+=("$TARGET_PID")
		wait_until 10 tgt --op show --mode system >/dev/null || fail "tgtd does not start"
		tgt --op new --mode target --tid 1 -T "$IQN"
		tgt --op new --mode logicalunit --tid 1 --lun 1 -b "$file"
		tgt --op update --mode logicalunit --tid 1 --lun 1 --params "scsi_sn=$serial,thin_provisioning=${THIN:-1},readonly=1"
		if [ -n "$chap" ]; then
			tgt_chap "$chap"
		fi
		tgt --op bind --mode target --tid 1 -I ALL
		;;
	ktarget)
		: "${KTARGET:?path of ktarget}"
		"$KTARGET" --portal "127.0.0.1:$port" --iqn "$IQN" --lun "$file" --read-only --serial "$serial" \
			${chap:+--chap-file "$chap"} >>"$WORK/target.log" 2>&1 &
		TARGET_PID=$!
		PIDS+=("$TARGET_PID")
		wait_until 10 port_is_open "$port" || fail "ktarget does not start"
		;;
	*)
		fail "TARGET_KIND=$TARGET_KIND: expected tgtd or ktarget"
		;;
	esac
	URL=iscsi://127.0.0.1:$port/$IQN/1
}

chap_value() {
	sed -n "s/^$2 *= *//p" "$1"
}

tgt_chap() {
	local file=$1
	tgt --op new --mode account --user "$(chap_value "$file" user)" --password "$(chap_value "$file" secret)"
	tgt --op bind --mode account --tid 1 --user "$(chap_value "$file" user)"
	if [ -n "$(chap_value "$file" mutual-user)" ]; then
		tgt --op new --mode account --user "$(chap_value "$file" mutual-user)" --password "$(chap_value "$file" mutual-secret)"
		tgt --op bind --mode account --tid 1 --user "$(chap_value "$file" mutual-user)" --outgoing
	fi
}

# reaped PID: its number may be somebody else's from now on
reaped() {
	local pid rest=()
	for pid in "${PIDS[@]}"; do
		[ "$pid" = "$1" ] || rest+=("$pid")
	done
	PIDS=(${rest[@]+"${rest[@]}"})
}

target_kill() {
	kill -KILL "$TARGET_PID"
	wait "$TARGET_PID" 2>/dev/null || :
	reaped "$TARGET_PID"
}

# has_pages FILE: has the map file more than its header?
has_pages() {
	[ "$(stat -c %s "$1" 2>/dev/null || echo 0)" -gt 4096 ]
}

expect_exit() {
	local want=$1 got=0
	shift
	"$@" || got=$?
	[ "$got" -eq "$want" ] || fail "exit $got instead of $want: $*"
}
