#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Free maps of ext4 in many shapes: of the right size, and without one block that somebody needs: with all of them overwritten e2fsck finds
# nothing and every file is as before. In doubt there is none.
# A mount namespace of its own: one that another test makes meanwhile would keep our mounts when we let them go.
[ -n "${IN_NAMESPACE:-}" ] || IN_NAMESPACE=1 exec unshare -m bash "$0"
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/free_lib.sh"
need mkfs.ext4 e2fsck debugfs dumpe2fs tune2fs resize2fs losetup openssl

noise 160

# free_bytes: as dumpe2fs lists it, whole 4 KiB blocks
free_bytes() { # IMAGE
	dumpe2fs "$1" 2>/dev/null | awk '/^Block size:/ { bs = $3 }
		/^  Free blocks: / { sub(/^  Free blocks: /, ""); n = split($0, part, ", "); for (i = 1; i <= n; i++) {
			if (part[i] == "") continue
			m = split(part[i], ends, "-"); a = ends[1] * bs; b = (ends[m] + 1) * bs
			if (a == last) last = b; else { flush_it(); first = a; last = b } } }
		function flush_it(  x, y) { x = int((first + 4095) / 4096) * 4096; y = int(last / 4096) * 4096; if (y > x) sum += y - x }
		END { flush_it(); printf "%.0f\n", sum }'
}

# shape NAME MIB OPTIONS OF mkfs.ext4...
shape() {
	local name=$1 mib=$2
	shift 2
	echo "- $name: mkfs.ext4 $*"
	new_image "$name" "$mib"
	mkfs.ext4 -q -F -E nodiscard "$@" "$IMAGE"
	mount_image "$IMAGE" rw
	fill $((mib / 3))
	umount_image "$IMAGE"
	prove
	rm -f "$IMAGE"
}

# dumped IMAGE FILE: as manifest, without the kernel's help
dumped() {
	mkdir "$WORK/dump"
	debugfs -R "rdump / $WORK/dump" "$1" >"$WORK/debugfs.log" 2>&1
	(cd "$WORK/dump" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) >"$2"
	rm -rf "$WORK/dump"
	[ "$(wc -l <"$2")" -gt 3 ] || fail "$1: nothing was dumped"
}

# unmounted NAME MIB OPTIONS: features that not every kernel mounts, filled by mkfs
unmounted() {
	local name=$1 mib=$2 i
	shift 2
	echo "- $name: mkfs.ext4 $*"
	new_image "$name" "$mib"
	if [ ! -d "$WORK/tree" ]; then
		mkdir "$WORK/tree"
		for ((i = 0; i < 60; i++)); do
			dd if="$WORK/noise" of="$WORK/tree/f$i" bs=1000 skip="$i" count=$((1 + (i * 7919 + SEED) % 300)) status=none
		done
		echo small >"$WORK/tree/small"
	fi
	mkfs.ext4 -q -F -E nodiscard "$@" -d "$WORK/tree" "$IMAGE"
	for ((i = 0; i < 60; i += 2)); do
		echo "rm f$i"
	done | debugfs -w -f - "$IMAGE" >"$WORK/debugfs.log" 2>&1
	e2fsck -fp "$IMAGE" >"$WORK/e2fsck.log" 2>&1 || [ $? = 1 ] || fail "$IMAGE: e2fsck"
	prove dumped
	rm -f "$IMAGE"
}

mounted() { # IMAGE FILE
	manifest "$1" noload "$2"
}

prove() { # COMPARE: mounted or dumped
	local want see=${1:-mounted}
	"$see" "$IMAGE" "$WORK/before"
	want=$(free_bytes "$IMAGE")
	map_of "$IMAGE"
	[ "$MAP_BYTES" = "$want" ] || fail "$IMAGE: $MAP_BYTES bytes in the map, dumpe2fs lists $want"
	[ "$MAP_BYTES" -gt 1000000 ] || fail "$IMAGE: hardly anything is free, that proves nothing"
	"$FREEMAP_TOOL" junk "$IMAGE" >"$WORK/list"
	e2fsck -fn "$IMAGE" >"$WORK/e2fsck.log" 2>&1 || fail "$IMAGE: e2fsck finds errors"
	"$see" "$IMAGE" "$WORK/after"
	cmp "$WORK/before" "$WORK/after" || fail "$IMAGE: a file has changed"
}

shape plain 96 -b 4096
shape one_k 96 -b 1024
shape two_k 96 -b 2048
shape no_64bit 96 -O ^64bit
shape no_flex_bg 160 -O ^flex_bg -g 8192
shape meta_bg 160 -O meta_bg,^resize_inode -g 8192
shape meta_bg_1k 96 -b 1024 -O meta_bg,^resize_inode
shape small_groups 96 -g 1024 -b 1024 -G 4
shape sparse_super2 160 -O sparse_super2,^resize_inode -g 4096
shape no_journal 96 -O ^has_journal
unmounted quota 96 -O quota,project -I 256
unmounted inline_data 96 -O inline_data,ea_inode,large_dir
unmounted csum_seed 96 -O metadata_csum_seed,orphan_file,fast_commit
unmounted encrypt 96 -O encrypt,casefold,verity,stable_inodes
shape whole_tables 96 -E lazy_itable_init=0,lazy_journal_init=0

echo "- a tail behind the file system belongs to nobody and is kept"
new_image tail 96
mkfs.ext4 -q -F -E nodiscard "$IMAGE" 60000k
map_of "$IMAGE"
awk 'NR > 1 && $2 > 60000 * 1024 { exit 1 }' "$WORK/list" || fail "the map reaches beyond the file system"

echo "- grown, shrunk, grown again"
new_image resized 96
mkfs.ext4 -q -F -E nodiscard,resize=10000000 -b 1024 "$IMAGE" 40000k
mount_image "$IMAGE" rw
fill 16
umount_image "$IMAGE"
for size in 96M 70M 90M; do
	e2fsck -fp "$IMAGE" >"$WORK/e2fsck.log" 2>&1
	resize2fs "$IMAGE" "$size" >"$WORK/resize.log" 2>&1
	prove
done

echo "- after e2fsck has repaired, there is one again"
new_image repaired 96
mkfs.ext4 -q -F -E nodiscard -b 4096 "$IMAGE"
good=$WORK/good
cp "$IMAGE" "$good"
debugfs -w -R "setb 20000 50" "$IMAGE" 2>/dev/null
no_map "$IMAGE" "group 0 counts"
e2fsck -fy "$IMAGE" >"$WORK/e2fsck.log" 2>&1 || true
map_of "$IMAGE"

# spoil REASON WHAT...: a copy of the good image, on which WHAT is done
spoil() {
	local reason=$1
	shift
	cp "$good" "$IMAGE"
	"$@" >"$WORK/spoil.log" 2>&1 || fail "cannot spoil: $*"
	no_map "$IMAGE" "$reason"
}
poke() { # OFFSET BYTES: in hexadecimal
	printf '%b' "$(sed 's/../\\x&/g' <<<"$2")" | dd of="$IMAGE" bs=1 seek="$1" conv=notrunc status=none
}
set_count() {
	printf 'set_bg 0 free_blocks_count 7\nset_bg 0 checksum calc\n' | debugfs -w -f - "$IMAGE"
}
# The first block of the inode table is free, and every count agrees.
free_table() {
	printf 'freeb %s\nset_bg 0 free_blocks_count %s\nset_bg 0 checksum calc\nssv free_blocks_count %s\n' "$table_at" $((free_0 + 1)) \
		$((free_0 + 1)) | debugfs -w -f - "$IMAGE"
}
partition() { # FLAG
	poke 446 "$1"010100830105000100000000010000
	poke 510 55aa
}
# a swap signature beside it, of earlier days
mkfs_beside() {
	printf SWAPSPACE2 | dd of="$IMAGE" bs=1 seek=4086 conv=notrunc status=none
	poke 1024 01000000
}
bitmap_at=$(dumpe2fs "$good" 2>/dev/null | awk '/Block bitmap at/ { print $4; exit }')
table_at=$(dumpe2fs "$good" 2>/dev/null | sed -n 's/^  Inode table at \([0-9]*\)-.*/\1/p' | head -n 1)
free_0=$(dumpe2fs "$good" 2>/dev/null | sed -n 's/^Free blocks: *//p') # there is one group
journal_at=$(debugfs -R "bmap <8> 0" "$good" 2>/dev/null)

echo "- in doubt there is none"
spoil "checksum of group descriptor 0\|cannot be opened\|bitmaps cannot be read" poke $((4096 + 12)) ff
spoil "bitmaps cannot be read" poke $((bitmap_at * 4096 + 100)) 5a
spoil "no file system\|larger than the volume" poke $((1024 + 5)) ff
spoil "replayed" debugfs -w -R "feature needs_recovery" "$IMAGE"
spoil "cleanly unmounted" debugfs -w -R "ssv state 0" "$IMAGE"
spoil "cleanly unmounted" debugfs -w -R "ssv state 3" "$IMAGE"
spoil "cleaned up" debugfs -w -R "ssv last_orphan 12" "$IMAGE"
spoil "superblock counts" debugfs -w -R "ssv free_blocks_count 7" "$IMAGE"
spoil "group 0 counts" set_count
spoil "marked as free" free_table
spoil "journal is not empty" poke $((journal_at * 4096 + 28)) 00000001
spoil "not known here" debugfs -w -R "feature mmp" "$IMAGE"
spoil "partitioned" partition 80
spoil "partitioned" partition 77 # libblkid sees none
spoil "larger than the volume" truncate -s 60M "$IMAGE"
spoil "larger than the volume\|ends at" truncate -s 1500k "$IMAGE"
spoil "ends at" truncate -s 3k "$IMAGE"
spoil "more than one\|no file system\|not known here" mkfs_beside
for options in "-O ^metadata_csum" "-O ^metadata_csum,^uninit_bg" "-O bigalloc" "-O mmp" "-t ext2 -O none" "-O journal_dev"; do
	# shellcheck disable=SC2086 # several words
	spoil "ext4:\|free space of\|no file system" mkfs.ext4 -q -F -E nodiscard $options "$IMAGE"
done
head -c 96M "$WORK/noise" >"$IMAGE"
no_map "$IMAGE" "no file system"

echo "- one that is mounted has none, whatever is on it"
cp "$good" "$IMAGE"
for how in rw ro; do
	mount_image "$IMAGE" "$how"
	no_map "$IMAGE" "in use"
	status=0
	cp "$IMAGE" "$WORK/snapshot"
	"$FREEMAP_TOOL" list "$WORK/snapshot" >"$WORK/list" || status=$?
	[ "$how" = ro ] || [ "$status" = 3 ] || fail "a copy of a mounted file system has a free map"
	umount_image "$IMAGE"
done
map_of "$IMAGE"
echo "ok"
