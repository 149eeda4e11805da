# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Sourced after lib.sh. Images with file systems whose free space is full of other bytes, and what is compared of them.
# FREEMAP_TOOL: path of freemap_tool.

: "${FREEMAP_TOOL:?path of freemap_tool}"
. "$(dirname "$0")/../lib/loop.sh"
[ "$(id -u)" = 0 ] || fail "needs root: it mounts"
free_cleanup() {
	local status=$?
	set +e
	loop_drop_all "$WORK/"
	(exit "$status")
	cleanup
}
trap free_cleanup EXIT
MNT=$WORK/mnt
mkdir "$MNT"

# noise MIB: once; what every image has everywhere before a file system is made on it
noise() {
	openssl enc -aes-128-ctr -pbkdf2 -pass "pass:$SEED" </dev/zero 2>/dev/null | head -c "${1}M" >"$WORK/noise" || true
}

# new_image NAME MIB: sets IMAGE
new_image() {
	IMAGE=$WORK/$1
	head -c "${2}M" "$WORK/noise" >"$IMAGE"
}

mount_image() { # IMAGE OPTIONS
	mount -o "loop,$2" "$1" "$MNT"
}

# Until the loop device has let the file go: it holds it a moment longer than umount says.
umount_image() {
	local tries=1000
	umount "$MNT"
	until [ -z "$(losetup -n -j "$1")" ]; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || fail "a loop device keeps $1"
		sleep 0.02
	done
}

# Files of many sizes, half of them deleted, some cut, some with holes: free space in many pieces.
fill() { # MIB, about
	local i n=$(($1 * 3))
	mkdir "$MNT/d"
	for ((i = 0; i < n; i++)); do
		dd if="$WORK/noise" of="$MNT/d/f$i" bs=1000 skip="$i" count=$((1 + (i * 7919 + SEED) % 600)) status=none
	done
	sync -f "$MNT"
	for ((i = 0; i < n; i += 2)); do
		rm "$MNT/d/f$i"
	done
	for ((i = 1; i < n; i += 14)); do
		truncate -s 5000 "$MNT/d/f$i"
		fallocate -p -o 8192 -l 16384 "$MNT/d/f$((i + 2))" 2>/dev/null || true
	done
	dd if="$WORK/noise" of="$MNT/big" bs=1M count=$(($1 / 4)) status=none
	dd if="$WORK/noise" of="$MNT/sparse" bs=64k seek=300 count=3 status=none
	ln -s big "$MNT/link"
	setfattr -n user.kedge -v "$(head -c 900 "$WORK/noise" | base64 -w 0)" "$MNT/big" 2>/dev/null || true
}

# manifest IMAGE OPTIONS FILE: every name, size, mode, time, link and byte
manifest() {
	mount_image "$1" "ro,$2"
	(cd "$MNT" && find . -printf '%P %y %s %m %T@ %l\n' | LC_ALL=C sort && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum) >"$3"
	umount_image "$1"
	[ "$(wc -l <"$3")" -gt 3 ] || fail "an empty manifest of $1"
}

# map_of IMAGE: sets MAP_BYTES, fails when there is none
map_of() {
	"$FREEMAP_TOOL" list "$1" >"$WORK/list" || fail "no free map of $1: $(cat "$WORK/list")"
	MAP_BYTES=$(sed -n '1s/.* //p' "$WORK/list")
}

# no_map IMAGE REASON
no_map() {
	local status=0
	"$FREEMAP_TOOL" list "$1" >"$WORK/list" || status=$?
	[ "$status" = 3 ] || fail "there is a free map of $1 ($status), though: $2"
	grep -q -- "$2" "$WORK/list" || fail "the reason is not \"$2\" but: $(cat "$WORK/list")"
}
