#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ext4 over the loop device over FUSE while the clone hydrates: workers are killed again and again and the file system sees nothing; then
# the clone stands alone, and the destination itself is checked. usage: ext4.sh KCLONE KTARGET
set -euo pipefail
. "$(dirname "$0")/../kclone/lib.sh"
own_mounts "$@"
need unshare mkfs.ext4 e2fsck jq losetup findmnt
kclone=$1 bytes=$((256 * 1024 * 1024)) kills=6
mnt=$work/mnt
unmount() { umount "$mnt" 2>/dev/null || true; }
trap 'code=$?; unmount; clean_up $code' EXIT
mkdir "$work/tree" "$mnt"
head -c 96M /dev/urandom >"$work/tree/old"
sum_old=$(sha256sum <"$work/tree/old")
truncate -s "$bytes" "$work/source" "$work/dest"
mkfs.ext4 -q -F -d "$work/tree" "$work/source"
rm -r "$work/tree"
start_ktarget "$2" "$work/source"
"$kclone" create --source "$target_url" --dest "$work/dest" --meta "$work/meta"
: >"$work/disk"
serve --fuse "$work/disk" --block --rate 12M
device=$(field .device.block)
[ -b "$device" ] || die "no block device: $(field .device)"
[ "$(blockdev --getsize64 "$device")" = "$bytes" ] || die "the device has another size"
mount -t ext4 -o errors=remount-ro "$device" "$mnt"
errors() { cat "/sys/fs/ext4/$(basename "$device")/errors_count"; }

for ((i = 1; i <= kills; i++)); do
	head -c 2M /dev/urandom >"$work/new.$i"
	cp "$work/new.$i" "$mnt/new.$i" &
	copy=$!
	worker=$(field .worker_pid)
	kill -KILL "$worker"
	wait "$copy" || die "a write failed when worker $i was killed"
	sync "$mnt/new.$i" || die "a sync failed when worker $i was killed"
	answers() { [ "$(field .worker_pid 2>/dev/null)" -gt 0 ]; }
	wait_for 20 "the next worker answers" answers
done
[ "$(errors)" = 0 ] || die "the file system counts $(errors) errors"
[ "$(field .durable_bytes)" -lt "$bytes" ] || die "hydration was over before the last kill: nothing is proven"
[ "$(sha256sum <"$mnt/old")" = "$sum_old" ] || die "the old file reads wrong"
for ((i = 1; i <= kills; i++)); do
	cmp "$work/new.$i" "$mnt/new.$i" || die "file $i reads wrong"
done
echo "ok: $kills workers killed, no I/O error, all files right (workers: $(field .workers))"

ask rate --rate 0 >/dev/null
is_here() { [ "$(field .durable_bytes)" = "$bytes" ]; }
wait_for 30 "every block is here" is_here
ask verify >/dev/null
is_verified() { is_field .verify.state passed; }
wait_for 60 "verified" is_verified
ask finish >/dev/null
kill "$target_pid"
head -c 1M /dev/urandom >"$work/last"
cp "$work/last" "$mnt/last"
sync "$mnt/last" || die "a sync failed when the clone stood alone"
[ "$(errors)" = 0 ] || die "the file system counts $(errors) errors"
umount "$mnt"
stop_serve
e2fsck -fn "$work/dest" >"$work/fsck" 2>&1 || die "e2fsck: $(cat "$work/fsck")"
mount -o loop,ro "$work/dest" "$mnt"
[ "$(sha256sum <"$mnt/old")" = "$sum_old" ] || die "the old file is wrong on the destination"
for f in "$work"/new.* "$work/last"; do
	cmp "$f" "$mnt/$(basename "$f")" || die "$(basename "$f") is wrong on the destination"
done
umount "$mnt"
echo "ok: the destination alone: e2fsck clean, all files right"
