#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The disk test on a file system whose disk has logical blocks of 4 KiB. usage: disk_4k.sh TEST_DISK
set -euo pipefail
. "$(dirname "$0")/../lib/loop.sh"

work=$(mktemp -d "${TMPDIR:-/tmp}/kedge-disk4k.XXXXXX")
device=
cleanup() {
	set +e
	mountpoint -q "$work/mnt" && umount "$work/mnt"
	[ -z "$device" ] || loop_drop "$device" "$work/"
	rm -rf "$work"
}
trap cleanup EXIT

mkdir "$work/mnt"
truncate -s 64M "$work/img"
device=$(losetup -f --show --sector-size 4096 "$work/img")
mkfs.ext4 -q "$device"
mount "$device" "$work/mnt"
"$1" "$work/mnt"
