#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Files and devices on both sides: odd sizes, a map that does not fit, a full destination, output for programs.
. "$(dirname "$0")/lib.sh"
need openssl cmp qemu-img losetup mkfs.ext4

echo "- sizes from 1 byte up, none of them round"
for size in 1 511 512 513 4095 4097 65536 1048577 $((3 * 1048576 + 12345)); do
	openssl rand "$size" >"$WORK/src"
	rm -f "$WORK/dst"
	"$KCOPY" "$WORK/src" "$WORK/dst" --verify 2>"$WORK/kcopy.log"
	cmp "$WORK/src" "$WORK/dst"
done

echo "- an odd size, killed in the middle and gone on with; then again, with nothing to do"
openssl rand $((8 * 1048576 + 1234)) >"$WORK/src"
rm -f "$WORK/dst" "$WORK/map"
"$KCOPY" "$WORK/src" "$WORK/dst" --map "$WORK/map" --rate 2M 2>"$WORK/kcopy.log" &
PIDS+=($!)
wait_until 20 has_pages "$WORK/map" || fail "the copy does not get going"
kill -KILL "${PIDS[-1]}"
wait "${PIDS[-1]}" 2>/dev/null || :
reaped "${PIDS[-1]}"
"$KCOPY" "$WORK/src" "$WORK/dst" --map "$WORK/map" --json >"$WORK/json" 2>"$WORK/kcopy.log"
grep -q '"resumed_bytes":[1-9]' "$WORK/json" || fail "nothing was resumed"
cmp "$WORK/src" "$WORK/dst"
"$KCOPY" "$WORK/src" "$WORK/dst" --map "$WORK/map" --json >"$WORK/json" 2>"$WORK/kcopy.log"
grep -q '"copied_bytes":0,"zero_bytes":0' "$WORK/json" || fail "a complete copy was copied again"
cmp "$WORK/src" "$WORK/dst"
rm -f "$WORK/map"

echo "- a sparse file of 300 GiB with data at both ends"
rm -f "$WORK/src" "$WORK/dst"
truncate -s 300G "$WORK/src"
openssl rand 1000000 | dd of="$WORK/src" conv=notrunc status=none
openssl rand 1000000 | dd of="$WORK/src" bs=1M seek=307199 oflag=seek_bytes conv=notrunc status=none 2>/dev/null ||
	openssl rand 1000000 | dd of="$WORK/src" bs=1M seek=307199 conv=notrunc status=none
"$KCOPY" "$WORK/src" "$WORK/dst" --map "$WORK/map" --json >"$WORK/json" 2>"$WORK/kcopy.log"
qemu-img compare -f raw -F raw "$WORK/src" "$WORK/dst" >/dev/null
[ "$(stat -c %b "$WORK/dst")" -lt 10000 ] || fail "the copy is not sparse"
rm -f "$WORK/src" "$WORK/dst" "$WORK/map"

echo "- a map is of one source and one destination"
random_image "$WORK/src" 8
"$KCOPY" "$WORK/src" "$WORK/dst" --map "$WORK/map" 2>"$WORK/kcopy.log"
cp "$WORK/src" "$WORK/src2"
expect_exit 22 "$KCOPY" "$WORK/src2" "$WORK/dst" --map "$WORK/map" 2>"$WORK/kcopy.log"
rm "$WORK/dst" # a new file of that name is another destination, even when it gets the same inode
expect_exit 33 "$KCOPY" "$WORK/src" "$WORK/dst" --map "$WORK/map" 2>"$WORK/kcopy.log"
expect_exit 33 "$KCOPY" "$WORK/src" "$WORK/dst2" --map "$WORK/map" 2>"$WORK/kcopy.log"
touch "$WORK/src" # changed since: what was copied may be old
expect_exit 22 "$KCOPY" "$WORK/src" "$WORK/dst" --map "$WORK/map" 2>"$WORK/kcopy.log"
echo x >"$WORK/nomap"
expect_exit 24 "$KCOPY" "$WORK/src" "$WORK/dst" --map "$WORK/nomap" 2>"$WORK/kcopy.log"
[ "$(cat "$WORK/nomap")" = x ] || fail "a file that is no map was changed"
expect_exit 2 "$KCOPY" "$WORK/src" "$WORK/src" 2>"$WORK/kcopy.log"
expect_exit 1 "$KCOPY" "$WORK/nothing" "$WORK/dst" 2>"$WORK/kcopy.log"

echo "- a source file that is cut off while it is copied: an error, no zeroes in its place"
rm -f "$WORK/src" "$WORK/dst" "$WORK/map"
truncate -s 33M "$WORK/src"
openssl rand 16777216 | dd of="$WORK/src" conv=notrunc status=none
# 2048 extents: more than one answer holds, so its end is asked for when much of the front has been copied
for ((i = 0; i < 1024; i++)); do fallocate -p -o $((i * 16384)) -l 4096 "$WORK/src"; done
openssl rand 65536 | dd of="$WORK/src" bs=1M seek=32 conv=notrunc status=none
"$KCOPY" "$WORK/src" "$WORK/dst" --map "$WORK/map" --rate 6M 2>"$WORK/kcopy.log" &
pid=$!
PIDS+=("$pid")
wait_until 20 has_pages "$WORK/map" || fail "the copy does not get going"
truncate -s 32M "$WORK/src"
expect_exit 7 wait "$pid"
reaped "$pid"
grep -q "bytes 33554432 to 34603008 cannot be read" "$WORK/kcopy.log"
# 256 blocks, but not as many events
nr=$(grep -c "the source cannot read" "$WORK/kcopy.log")
[ "$nr" -ge 1 ] && [ "$nr" -le 60 ] || fail "$nr events for one bad range"
rm -f "$WORK/src" "$WORK/dst" "$WORK/map"

echo "- progress for programs"
rm -f "$WORK/dst"
random_image "$WORK/src" 8
"$KCOPY" "$WORK/src" "$WORK/dst" --progress=3 3>"$WORK/percent" 2>"$WORK/kcopy.log"
[ "$(tail -n 1 "$WORK/percent")" = 100/100 ] || fail "the last line of --progress is not 100/100"

echo "- a rate limit holds, in bytes"
rm -f "$WORK/dst" "$WORK/map"
openssl rand 8388608 >"$WORK/src"
start=$(date +%s%N)
"$KCOPY" "$WORK/src" "$WORK/dst" --rate 4M 2>"$WORK/kcopy.log"
passed_ms=$((($(date +%s%N) - start) / 1000000))
# 8 MiB less what the bucket holds at first (0.2 s) and one copy, at 4 MiB/s
[ "$passed_ms" -ge 1400 ] || fail "8 MiB at 4 MiB/s took $passed_ms ms"
cmp "$WORK/src" "$WORK/dst"

echo "- a destination that runs full: an error, and the copy goes on when there is room"
mkdir "$WORK/small"
mount -t tmpfs -o size=4M none "$WORK/small"
MOUNT=$WORK/small
expect_exit 1 "$KCOPY" "$WORK/src" "$WORK/small/dst" --map "$WORK/map2" 2>"$WORK/kcopy.log"
grep -q "full" "$WORK/kcopy.log"
mount -o remount,size=16M "$WORK/small"
"$KCOPY" "$WORK/src" "$WORK/small/dst" --map "$WORK/map2" --json 2>"$WORK/kcopy.log" >"$WORK/json"
grep -q '"resumed_bytes":[1-9]' "$WORK/json" || fail "nothing was resumed"
cmp "$WORK/src" "$WORK/small/dst"
umount "$WORK/small"
MOUNT=

echo "- a loop device as source and as destination"
random_image "$WORK/src" 16
LOOP_DEVICE=$(losetup -f --show -r "$WORK/src")
rm -f "$WORK/dst" "$WORK/map"
"$KCOPY" "$LOOP_DEVICE" "$WORK/dst" --map "$WORK/map" --verify 2>"$WORK/kcopy.log"
cmp "$WORK/src" "$WORK/dst"
losetup -d "$LOOP_DEVICE"
openssl rand $((20 * 1048576)) >"$WORK/dst"
LOOP_DEVICE=$(losetup -f --show "$WORK/dst")
rm -f "$WORK/map"
"$KCOPY" "$WORK/src" "$LOOP_DEVICE" --map "$WORK/map" --verify 2>"$WORK/kcopy.log"
losetup -d "$LOOP_DEVICE"
LOOP_DEVICE=
cmp -n $((16 * 1048576)) "$WORK/src" "$WORK/dst"

echo "- a file system on a disk with blocks of 4 KiB, a size that is no multiple of them"
rm -f "$WORK/dst" "$WORK/map"
truncate -s 64M "$WORK/disk"
LOOP_DEVICE=$(losetup -f --show --sector-size 4096 "$WORK/disk")
mkfs.ext4 -q "$LOOP_DEVICE"
mount "$LOOP_DEVICE" "$WORK/small"
MOUNT=$WORK/small
openssl rand $((1048576 + 2048)) >"$WORK/src"
truncate -s 2M "$WORK/small/larger"
for dst in dst larger; do
	"$KCOPY" "$WORK/src" "$WORK/small/$dst" --verify 2>"$WORK/kcopy.log"
	cmp -n $((1048576 + 2048)) "$WORK/src" "$WORK/small/$dst"
done
umount "$WORK/small"
MOUNT=
losetup -d "$LOOP_DEVICE"
LOOP_DEVICE=

echo "- 2 TiB that hold 2 MiB: a map of 16,513 pages, all of it durable, and none of it copied again"
rm -f "$WORK/src" "$WORK/dst" "$WORK/map" "$WORK/disk"
truncate -s 2T "$WORK/src"
for at in 3 1500000; do openssl rand 1048576 | dd of="$WORK/src" bs=1M seek=$at conv=notrunc iflag=fullblock status=none; done
"$KCOPY" "$WORK/src" "$WORK/dst" --map "$WORK/map" --json >"$WORK/json" 2>"$WORK/kcopy.log"
for at in 0 3 1500000; do cmp -n 2097152 -i $((at * 1048576)) "$WORK/src" "$WORK/dst"; done
[ "$(stat -c %b "$WORK/dst")" -le $((4096 + 128)) ] || fail "2 MiB take $(stat -c %b "$WORK/dst") blocks"
# as after the crash of a copy that was almost through: a page that is torn costs its own blocks
dd if=/dev/urandom of="$WORK/map" bs=1 seek=$((9000 * 4096 + 700)) count=8 conv=notrunc status=none
"$KCOPY" "$WORK/src" "$WORK/dst" --map "$WORK/map" --json >"$WORK/json" 2>"$WORK/kcopy.log"
grep -q "\"copied_bytes\":0,\"zero_bytes\":$((4064 * 8 * 4096)),\"resumed_bytes\":$(((2 << 40) - 4064 * 8 * 4096))" "$WORK/json" ||
	fail "$(cat "$WORK/json")"
echo PASS
