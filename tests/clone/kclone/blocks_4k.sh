#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A destination with logical blocks of 4096 bytes below a volume with blocks of 512: as a device, and as a file in a file system on it.
# usage: blocks_4k.sh KCLONE
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq losetup mkfs.ext4 cmp blockdev
kclone=$1 bytes=$((8 * 1024 * 1024)) seed=${SEED:-$RANDOM}
RANDOM=$seed
unmount() { umount "$work/fs" 2>/dev/null || true; }
trap 'code=$?; unmount; clean_up $code' EXIT
head -c "$bytes" /dev/urandom >"$work/source"
truncate -s 64M "$work/backing"
device=$(losetup -f --show -b 4096 "$work/backing")
[ "$(blockdev --getss "$device")" = 4096 ] || die "no device with blocks of 4096 bytes"
mkdir "$work/fs"

try() { # DESTINATION
	local i at n dest=$1
	rm -f "$work"/meta*
	"$kclone" create --source "$work/source" --dest "$dest" --meta "$work/meta"
	: >"$work/disk"
	serve --fuse "$work/disk"
	is_here() { [ "$(field .durable_bytes)" = "$bytes" ]; }
	wait_for 20 "every block is here" is_here
	cp "$work/source" "$work/want"
	for ((i = 0; i < 40; i++)); do
		n=$((1 + RANDOM % 20))
		at=$(((RANDOM * 32768 + RANDOM) % (bytes / 512 - n)))
		head -c $((n * 512)) /dev/urandom >"$work/piece"
		dd if="$work/piece" of="$work/disk" bs=512 seek="$at" oflag=direct conv=notrunc status=none || die "a write of $n sectors at $at fails (seed $seed)"
		dd if="$work/piece" of="$work/want" bs=512 seek="$at" conv=notrunc status=none
		at=$(((RANDOM * 32768 + RANDOM) % (bytes / 512 - n)))
		dd if="$work/disk" bs=$((n * 512)) skip=$((at * 512)) iflag=direct,skip_bytes count=1 status=none >"$work/got" ||
			die "a read of $n sectors at $at fails (seed $seed)"
		dd if="$work/want" bs=512 skip="$at" count="$n" status=none | cmp - "$work/got" || die "$n sectors at $at read wrong (seed $seed)"
	done
	stop_serve
	cmp -n "$bytes" "$dest" "$work/want" || die "the destination is not what was served (seed $seed)"
}

truncate -s "$((bytes - 512))" "$work/source.odd"
must_fail 34 "logical block size" "$kclone" create --source "$work/source.odd" --dest "$device" --meta "$work/meta"
try "$device"
echo "ok: a device"
mkfs.ext4 -q -F "$device"
mount "$device" "$work/fs"
bytes=$((bytes + 1536)) # a file may end within a block
head -c "$bytes" /dev/urandom >"$work/source"
truncate -s "$bytes" "$work/fs/dest"
try "$work/fs/dest"
echo "ok: a file (seed $seed)"
