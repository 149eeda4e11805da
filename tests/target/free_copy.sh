#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A copy without free space, by kcopy and by qemu-img: of a file and of a block device, into a destination full of other bytes. The file system is
# whole, every file is as before, the source has not changed by a bit, and nothing that was deleted has travelled.
# A mount namespace of its own: one that another test makes meanwhile would keep our mounts when we let them go.
[ -n "${IN_NAMESPACE:-}" ] || IN_NAMESPACE=1 exec unshare -m bash "$0"
. "$(dirname "$0")/lib.sh"
: "${KCOPY:?path of kcopy}"
. "$(dirname "$0")/free_lib.sh"
need mkfs.ext4 mkfs.xfs xfs_repair e2fsck qemu-img losetup openssl cmp

noise 310

# copies_of LUN: a file or device with the bytes of IMAGE; by both programs, each has to be $WORK/want
copies_of() {
	local sum
	sum=$(sha256sum <"$IMAGE")
	start_target target --lun "$1" --free-space skip
	grep -q 'bytes of free space are left out' "$WORK/target.log" || fail "nothing is left out"
	url=iscsi://$PORTAL/$IQN/1
	head -c "$(stat -c %s "$IMAGE")" "$WORK/noise" | tr 'a-z' 'A-Z' >"$WORK/copy"
	"$KCOPY" "$url" "$WORK/copy" --map "$WORK/map" --verify --json >"$WORK/json" 2>"$WORK/kcopy.log" || fail "kcopy"
	grep -q '"event":"result","ok":true' "$WORK/json" || fail "kcopy: $(cat "$WORK/json")"
	cmp "$WORK/want" "$WORK/copy"
	rm -f "$WORK/map" "$WORK/qemu"
	qemu-img convert -f raw -O raw "$url" "$WORK/qemu" >"$WORK/qemu.log" 2>&1 || fail "qemu-img"
	cmp "$WORK/want" "$WORK/qemu"
	stop_target
	[ "$sum" = "$(sha256sum <"$IMAGE")" ] || fail "the source has changed"
}

# prove OPTIONS-TO-MOUNT CHECK...
prove() {
	local options=$1 device
	shift
	manifest "$IMAGE" "$options" "$WORK/before"
	cp "$IMAGE" "$WORK/want"
	"$FREEMAP_TOOL" zero "$WORK/want" >"$WORK/list"
	! cmp -s "$IMAGE" "$WORK/want" || fail "nothing was left to be left out"
	copies_of "$IMAGE"
	"$@" "$WORK/copy" >"$WORK/check.log" 2>&1 || fail "$*: $(tail -n 3 "$WORK/check.log")"
	manifest "$WORK/copy" "$options" "$WORK/after"
	cmp "$WORK/before" "$WORK/after" || fail "a file has changed"
	device=$(losetup -f --show -r "$IMAGE")
	copies_of "$device"
	loop_drop "$device" "$WORK/"
}

for bs in 1024 4096; do
	echo "- ext4 with blocks of $bs bytes"
	new_image ext4 96
	mkfs.ext4 -q -F -E nodiscard -b "$bs" "$IMAGE"
	mount_image "$IMAGE" rw
	fill 30
	umount_image "$IMAGE"
	prove noload e2fsck -fn
	rm "$IMAGE"
done
modprobe xfs 2>/dev/null || true
if grep -qw xfs /proc/filesystems; then
	echo "- xfs"
	new_image xfs 310
	mkfs.xfs -q -f -K -m rmapbt=1 "$IMAGE"
	mount_image "$IMAGE" nouuid
	fill 40
	umount_image "$IMAGE"
	prove norecovery,nouuid xfs_repair -n
else
	echo "- (no xfs: this kernel does not mount it; free_xfs.sh has its maps)"
fi

echo "- no file system: all of it"
head -c 20M "$WORK/noise" >"$WORK/raw"
start_target raw --lun "$WORK/raw" --free-space skip
grep -q 'no free map, all of it is copied: there is no file system' "$WORK/raw.log" || fail "it does not say why"
"$KCOPY" "iscsi://$PORTAL/$IQN/1" "$WORK/rawcopy" --verify >"$WORK/json" 2>"$WORK/kcopy.log"
cmp "$WORK/raw" "$WORK/rawcopy"
stop_target
