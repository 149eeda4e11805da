#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Free maps of XFS in many shapes: as xfs_db counts, and without one block that somebody needs: with all of them overwritten xfs_repair finds
# nothing and every file is as before. In doubt there is none. Where the kernel has no XFS, mkfs.xfs fills the images (-p).
# A mount namespace of its own: one that another test makes meanwhile would keep our mounts when we let them go.
[ -n "${IN_NAMESPACE:-}" ] || IN_NAMESPACE=1 exec unshare -m bash "$0"
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/free_lib.sh"
need mkfs.xfs xfs_db xfs_repair losetup openssl

MIB=310 # mkfs.xfs makes none below 300
noise "$MIB"
modprobe xfs 2>/dev/null || true
HAS_KERNEL=
if grep -qw xfs /proc/filesystems; then
	HAS_KERNEL=1
else
	echo "(this kernel has no XFS: images are filled by mkfs.xfs)"
fi

# free_bytes IMAGE: as xfs_db lists it (extents by AG and block), whole 4 KiB blocks. It lists the blocks of the free lists too, one by one.
free_bytes() {
	local bs ag nr listed=0 i
	bs=$(xfs_db -r -c "sb 0" -c "p blocksize" "$1" | sed 's/.* //')
	ag=$(xfs_db -r -c "sb 0" -c "p agblocks" "$1" | sed 's/.* //')
	nr=$(xfs_db -r -c "sb 0" -c "p agcount" "$1" | sed 's/.* //')
	for ((i = 0; i < nr && bs >= 4096; i++)); do
		listed=$((listed + bs * $(xfs_db -r -c "agf $i" -c "p flcount" "$1" | sed 's/.* //')))
	done
	xfs_db -r -c "freesp -d" "$1" | awk -v bs="$bs" -v ag="$ag" '$1 == "from" { is_past = 1 }
		!is_past && NF == 3 && $1 ~ /^[0-9]+$/ { print ($1 * ag + $2) * bs, $3 * bs, $2 }' | sort -n | awk -v listed="$listed" '
		{ x = int(($1 + 4095) / 4096) * 4096; y = int(($1 + $2) / 4096) * 4096; if (y > x) sum += y - x } END { printf "%.0f\n", sum - listed }'
}

make_tree() {
	local i
	[ ! -d "$WORK/tree" ] || return 0
	mkdir "$WORK/tree"
	for ((i = 0; i < 60; i++)); do
		dd if="$WORK/noise" of="$WORK/tree/f$i" bs=1000 skip="$i" count=$((1 + (i * 7919 + SEED) % 300)) status=none
	done
	{
		printf '/none\n1 1\nd--755 0 0\n'
		for ((i = 0; i < 60; i++)); do
			echo "f$i ---644 0 0 $WORK/tree/f$i"
		done
		echo '$'
	} >"$WORK/proto"
}

# shape NAME OPTIONS OF mkfs.xfs...
shape() {
	local name=$1
	shift
	echo "- $name: mkfs.xfs $*"
	new_image "$name" "$MIB"
	if [ -n "$HAS_KERNEL" ]; then
		mkfs.xfs -q -f -K "$@" "$IMAGE"
		mount_image "$IMAGE" nouuid
		fill 36
		umount_image "$IMAGE"
	else
		make_tree
		mkfs.xfs -q -f -K -p "$WORK/proto" "$@" "$IMAGE"
	fi
	prove
	rm -f "$IMAGE"
}

prove() {
	local want
	[ -z "$HAS_KERNEL" ] || manifest "$IMAGE" ro,norecovery,nouuid "$WORK/before"
	want=$(free_bytes "$IMAGE")
	map_of "$IMAGE"
	[ "$MAP_BYTES" = "$want" ] || fail "$IMAGE: $MAP_BYTES bytes in the map, xfs_db lists $want"
	[ "$MAP_BYTES" -gt 1000000 ] || fail "$IMAGE: hardly anything is free, that proves nothing"
	"$FREEMAP_TOOL" junk "$IMAGE" >"$WORK/list"
	xfs_repair -n "$IMAGE" >"$WORK/repair.log" 2>&1 || fail "$IMAGE: xfs_repair finds errors"
	[ -z "$HAS_KERNEL" ] || { manifest "$IMAGE" ro,norecovery,nouuid "$WORK/after" && cmp "$WORK/before" "$WORK/after"; } ||
		fail "$IMAGE: a file has changed"
}

shape plain
shape one_k -b size=1024
shape two_k -b size=2048 -d agcount=7 -l size=20m --unsupported
shape many_ags -d agcount=16 -l size=12m --unsupported
shape rmapbt -m rmapbt=1,reflink=1
shape no_finobt -m finobt=0,reflink=0
shape sparse -i sparse=1,size=1024 -m inobtcount=1
shape no_sparse -i sparse=0
shape bigtime -m bigtime=1,inobtcount=1,rmapbt=1 -i nrext64=1
shape sectors -s size=4096
shape log_unit -l su=65536,size=32m -d su=65536,sw=2 --unsupported
shape small_log -l size=16m -d agcount=5 --unsupported

if [ -n "$HAS_KERNEL" ]; then
	echo "- shared extents, and grown"
	new_image shared 330
	mkfs.xfs -q -f -K -m rmapbt=1,reflink=1 -d size=305m "$IMAGE"
	mount_image "$IMAGE" nouuid
	fill 24
	cp --reflink=always "$MNT/big" "$MNT/big2"
	dd if="$WORK/noise" of="$MNT/big2" bs=4k seek=7 count=3 conv=notrunc status=none
	xfs_growfs "$MNT" >"$WORK/grow.log" 2>&1
	umount_image "$IMAGE"
	prove
	map_of "$IMAGE"
fi

new_image doubt "$MIB"
mkfs.xfs -q -f -K -d agcount=4 "$IMAGE"
if [ -n "$HAS_KERNEL" ]; then
	mount_image "$IMAGE" nouuid
	fill 12
	umount_image "$IMAGE"
fi
good=$WORK/good
cp --sparse=always "$IMAGE" "$good"
map_of "$good"
block_bytes=4096
ag_bytes=$(($(xfs_db -r -c "sb 0" -c "p agblocks" "$good" | sed 's/.* //') * block_bytes))
bno_at=$(($(xfs_db -r -c "agf 1" -c "p bnoroot" "$good" | sed 's/.* //') * block_bytes + ag_bytes))

# spoil REASON WHAT...: a copy of the good image, on which WHAT is done
spoil() {
	local reason=$1
	shift
	cp --sparse=always "$good" "$IMAGE"
	"$@" >"$WORK/spoil.log" 2>&1 || fail "cannot spoil: $*"
	no_map "$IMAGE" "$reason"
}
poke() { # OFFSET BYTES: in hexadecimal
	printf '%b' "$(sed 's/../\\x&/g' <<<"$2")" | dd of="$IMAGE" bs=1 seek="$1" conv=notrunc status=none
}
set_field() { # COMMANDS OF xfs_db...: with the checksum made good
	local c=()
	for word in "$@"; do
		c+=(-c "$word")
	done
	xfs_db -x "${c[@]}" "$IMAGE"
}

echo "- in doubt there is none"
spoil "checksum of its superblock\|no file system" poke 200 5a
spoil "checksum of the AGF of group 2" poke $((2 * ag_bytes + 512 + 52)) 5a
spoil "checksum of the AGI of group 1" poke $((ag_bytes + 1024 + 16)) 5a
spoil "checksum of the AGFL of group 3" poke $((3 * ag_bytes + 1536 + 200)) 5a
spoil "checksum of block" poke $((bno_at + 60)) 5a
spoil "counts of group 1" set_field "agf 1" "write -d freeblks 7"
spoil "counts of group 0" set_field "agf 0" "write -d longest 7"
spoil "superblock counts" set_field "sb 0" "write -d fdblocks 7"
spoil "trees of group 1 differ" set_field "agf 1" "addr cntroot" "write -d recs[1].blockcount 3"
spoil "group 1 says that" set_field "agf 1" "addr bnoroot" "write -d recs[1].startblock 0"
spoil "free list of group 0" set_field "agf 0" "write -d flcount 300"
spoil "what it should be" set_field "agf 1" "addr bnoroot" "write -d owner 3"
spoil "leads to block" set_field "agf 1" "write -d bnoroot 999999999"
spoil "levels" set_field "agf 1" "write -d bnolevel 77"
spoil "not known here" set_field "sb 0" "write -d features_incompat 0x4001"
spoil "needs repair" set_field "sb 0" "write -d features_incompat 0x1b"
spoil "elsewhere" set_field "sb 0" "write -d logstart 0"
spoil "realtime" set_field "sb 0" "write -d rblocks 100"
spoil "larger than the volume" truncate -s 200M "$IMAGE"
spoil "no file system\|partitioned\|more than one" set_field "sb 0" "write -d magicnum 0"
# The log: not ended by an unmount; torn
log_at=$(($(xfs_db -r -c "sb 0" -c "p logstart" "$good" | sed 's/.* //')))
log_at=$(((log_at >> $(xfs_db -r -c "sb 0" -c "p agblklog" "$good" | sed 's/.* //')) * ag_bytes + (log_at & ((1 << $(xfs_db -r -c "sb 0" -c "p agblklog" "$good" | sed 's/.* //')) - 1)) * block_bytes))
head=$(xfs_logprint -t "$good" | sed -n 's/.*head: \([0-9]*\) .*/\1/p')
spoil "does not end with an unmount" poke $((log_at + (head - 1) * 512 + 9)) 00
spoil "torn\|does not end" poke $((log_at + (head + 5) * 512)) 00000001
spoil "torn\|does not end" poke $((log_at + head * 512)) 00000001
for options in "-m crc=0" "-r rtdev=$WORK/rt"; do
	truncate -s 64M "$WORK/rt"
	# shellcheck disable=SC2086 # several words
	spoil "xfs:\|no file system" mkfs.xfs -q -f -K $options "$IMAGE"
done

if [ -n "$HAS_KERNEL" ]; then
	echo "- one that is mounted, or was when the host died, has none"
	cp --sparse=always "$good" "$IMAGE"
	mount_image "$IMAGE" nouuid
	no_map "$IMAGE" "in use"
	rm "$MNT/big"
	sync -f "$MNT"
	cp --sparse=always "$IMAGE" "$WORK/snapshot"
	umount_image "$IMAGE"
	no_map "$WORK/snapshot" "does not end with an unmount"
	map_of "$IMAGE"
fi
echo "ok"
