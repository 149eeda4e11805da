#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The FUSE file by itself: size, permissions, what a volume refuses; writes of all sizes and places against a model; fio with verification
# while it hydrates and workers die. usage: file.sh KCLONE
set -euo pipefail
. "$(dirname "$0")/../kclone/lib.sh"
. "$(dirname "$0")/../../lib/loop.sh"
trap 'code=$?; loop_drop "${LOOP_DEVICE:-/none}" "$work/"; clean_up $code' EXIT
need fio jq fallocate setpriv findmnt losetup
kclone=$1 bytes=$((96 * 1024 * 1024 + 1536)) kills=20
disk=$work/disk seed=${SEED:-$RANDOM}
RANDOM=$seed
head -c "$bytes" /dev/urandom >"$work/source"
truncate -s "$bytes" "$work/dest"
"$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta"
: >"$disk"
serve --fuse "$disk" --rate 4M --read-around 0 # what is read in order would be here, and hydration over too early
[ "$(stat -c %s "$disk")" = "$bytes" ] || die "its size is $(stat -c %s "$disk")"

answers() { [ "$(field .worker_pid 2>/dev/null)" -gt 0 ]; }
kill_worker() {
	kill -KILL "$(field .worker_pid)"
	wait_for 20 "the next worker answers" answers
}
echo "# permissions: the owner's alone, until they are changed; the next worker knows them"
chmod 711 "$work"
as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
! as_nobody head -c 512 "$disk" >/dev/null 2>&1 || die "anybody can read the volume"
chmod 640 "$disk"
chown 0:65534 "$disk"
kill_worker
as_nobody head -c 512 "$disk" | cmp -n 512 - "$work/source" || die "the group cannot read what it may"
! as_nobody dd if=/dev/zero of="$disk" bs=512 count=1 conv=notrunc status=none 2>/dev/null || die "the group can write"
[ "$(stat -c '%a %g' "$disk")" = "640 65534" ] || die "a new worker forgot mode and owner: $(stat -c '%a %g' "$disk")"

echo "# a volume has one size"
! truncate -s 1M "$disk" 2>/dev/null || [ "$(stat -c %s "$disk")" = "$bytes" ] || die "it was truncated"
: >"$disk" # O_TRUNC leaves it as it is
cmp "$disk" "$work/source" || die "opening it for writing changed it"
! dd if=/dev/zero of="$disk" oflag=seek_bytes seek="$bytes" bs=512 count=1 conv=notrunc status=none 2>/dev/null || die "it grew"
[ "$(stat -c %s "$disk")" = "$bytes" ] || die "its size changed"

echo "# writes of any size anywhere, holes, zeroes, against a model"
cp "$work/source" "$work/want"
for ((i = 0; i < 60; i++)); do
	at=$(((RANDOM * 32768 + RANDOM) % (bytes - 300000))) n=$((1 + RANDOM * (i % 4 ? 1 : 8)))
	case $((RANDOM % 6)) in
	0) # at the very end
		at=$((bytes - n))
		;;
	1) # whole sectors
		at=$((at / 512 * 512)) n=$((n / 512 * 512 + 512))
		;;
	esac
	case $((RANDOM % 8)) in
	0 | 1)
		at=$((at / 4096 * 4096 + RANDOM % 2 * 512)) n=$((n / 512 * 512 + 512))
		[ $((at + n)) -le "$bytes" ] || n=$((bytes - at)) # a hole ends where the volume does
		how=$((RANDOM % 2 ? 0 : 1))
		for f in "$disk" "$work/want"; do
			if [ "$how" = 0 ]; then
				fallocate --punch-hole --keep-size -o "$at" -l "$n" "$f"
			else
				fallocate --zero-range --keep-size -o "$at" -l "$n" "$f" 2>/dev/null ||
					dd if=/dev/zero of="$f" oflag=seek_bytes seek="$at" bs="$n" count=1 conv=notrunc status=none
			fi
		done
		;;
	*)
		head -c "$n" /dev/urandom >"$work/piece"
		for f in "$disk" "$work/want"; do
			dd if="$work/piece" of="$f" oflag=seek_bytes seek="$at" bs=64k conv=notrunc status=none
		done
		;;
	esac
	[ $((i % 20)) != 10 ] || kill_worker
done
cmp "$disk" "$work/want" || die "it differs from the model (seed $seed)"
dd if="$disk" iflag=direct bs=1M status=none | cmp - "$work/want" || die "without the page cache it differs (seed $seed)"

echo "# all of kclone dies: the next one cleans up the dead mount and the loop device on it, and serves at the same place"
stop_serve
serve --fuse "$disk" --block --rate 4M --read-around 0
device=$(field .device.block)
sync_all() { dd if=/dev/null of="$disk" conv=notrunc,fsync status=none; }
sync_all
worker=$(field .worker_pid)
kill -KILL "$serve_pid" "$worker"
wait "$serve_pid" 2>/dev/null || true
serve --fuse "$disk" --block --rate 4M --read-around 0
grep -q "cleaned up" "$work/serve.log" || die "the dead mount was not noticed"
[ "$(findmnt -n "$disk" | wc -l)" = 1 ] || die "mounted $(findmnt -n "$disk" | wc -l) times"
[ "$(losetup -n -O NAME -j "$disk")" = "$(field .device.block)" ] || die "loop devices: $(losetup -j "$disk"); it was $device"
cmp "$(field .device.block)" "$work/want" || die "what was flushed is not there"

echo "# somebody else detaches the device: a new one comes, and the status never names one that is not ours"
device=$(field .device.block)
losetup -d "$device"
LOOP_DEVICE=$(losetup -f --show "$work/want") # takes the number that is free now
[ "$(field .device.block)" != "$device" ] || die "the status names another file's device"
has_new_device() { local now; now=$(field .device.block); [ "$now" != null ] && [ "$(losetup -n -O BACK-FILE "$now")" = "$disk" ]; }
wait_for 10 "a new device" has_new_device
cmp "$(field .device.block)" "$work/want" || die "the new device shows something else"
[ "$(losetup -n -O BACK-FILE "$LOOP_DEVICE")" = "$work/want" ] || die "another's device was taken away"
loop_drop "$LOOP_DEVICE" "$work/"

echo "# fio, verifying, while it hydrates and workers die"
[ "$(field .durable_bytes)" -lt "$bytes" ] || die "hydration was over before fio began: nothing is proven"
fio --name=verify --filename="$disk" --ioengine=libaio --direct=1 --rw=randrw --rwmixread=40 --bsrange=4k-64k --size=48M --iodepth=16 \
	--verify=crc32c --verify_state_save=0 --verify_backlog=256 --verify_fatal=1 --do_verify=1 --fsync=64 --randseed="$seed" --loops=6 --output="$work/fio.out" &
fio_pid=$!
pids+=("$fio_pid")
killed=0
while kill -0 "$fio_pid" 2>/dev/null && [ "$killed" -lt "$kills" ]; do
	kill_worker
	killed=$((killed + 1))
done
wait "$fio_pid" || die "fio (seed $seed): $(tail -20 "$work/fio.out")"
[ "$killed" -ge 3 ] || die "only $killed workers died under fio: nothing is proven"
ask rate --rate 0 >/dev/null
is_here() { [ "$(field .durable_bytes)" = "$bytes" ]; }
wait_for 30 "every block is here" is_here
cat "$disk" >"$work/copy"
stop_serve
cmp "$work/copy" "$work/dest" || die "the destination is not what was served"
[ ! -s "$disk" ] || die "the mount is still there"
[ -z "$(losetup -j "$disk")" ] || die "a loop device is still there"
echo "ok: the FUSE file, seed $seed, $killed workers killed under fio, no I/O error"
