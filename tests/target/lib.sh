# SPDX-License-Identifier: LGPL-2.1-or-later
# What the interoperation tests of ktarget share: a scratch directory that is always cleaned up, targets on loopback.
# KTARGET: path of the program. SEED: of the disk's contents.

set -euo pipefail
exec 9>&2 # failures are told here, whatever is redirected when they happen

: "${KTARGET:?path of ktarget}"
WORK=$(mktemp -d "${TMPDIR:-/tmp}/ktarget-test.XXXXXX")
IQN=iqn.2026-01.test.kedge:interop
TARGET_PIDS=()
SEED=${SEED:-$RANDOM}
echo "seed $SEED"

cleanup() {
	local status=$?
	set +e
	for pid in "${TARGET_PIDS[@]}"; do
		kill -KILL "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
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

# start_target NAME OPTIONS...: sets TARGET_PID and PORTAL
start_target() {
	local log=$WORK/$1.log tries=200
	shift
	: >"$log" # what the one before said is not this one's answer
	"$KTARGET" --portal 127.0.0.1:0 --iqn "$IQN" "$@" >"$log" 2>&1 &
	TARGET_PID=$!
	TARGET_PIDS+=("$TARGET_PID")
	until PORTAL=$(sed -n 's/^ktarget: listening on //p' "$log") && [ -n "$PORTAL" ]; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || fail "ktarget does not listen"
		sleep 0.05
	done
}

# It must end with 0 when it is asked to.
stop_target() {
	local status=0
	kill -TERM "$TARGET_PID"
	wait "$TARGET_PID" || status=$?
	[ "$status" -eq 0 ] || fail "ktarget ended with $status"
	TARGET_PIDS=()
}

# Bytes that depend on SEED and a number, as many as asked for.
noise() { # NUMBER BYTES
	openssl enc -aes-128-ctr -nosalt -pass "pass:$SEED.$1" -pbkdf2 -iter 1 -in /dev/zero 2>/dev/null | head -c "$2" || true
}

# An odd disk: no multiple of 4 KiB, with holes, data that begins and ends inside of 4 KiB blocks, a hole at the end.
make_disk() { # FILE
	local i at=0
	truncate -s $((48 * 1024 * 1024 + 5 * 512)) "$1"
	noise 0 $((3 * 512)) | dd of="$1" conv=notrunc status=none
	for i in 1 2 3 4 5 6 7 8; do
		at=$((at + 1000003 * i / 2))
		noise "$i" $((4096 * i + 777)) | dd of="$1" bs=4096 oflag=seek_bytes seek="$at" conv=notrunc status=none iflag=fullblock
	done
	noise 9 512 | dd of="$1" bs=512 oflag=seek_bytes seek=$((32 * 1024 * 1024 + 512)) conv=notrunc status=none
}

sum_of() {
	sha256sum "$1" | cut -d' ' -f1
}
