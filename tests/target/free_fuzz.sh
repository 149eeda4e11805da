#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Free maps of images that are damaged, cut, or swapped between file systems: the reader never dies, and never leaves out a block in use.
# ROUNDS: for each image. FREE_FUZZ: path of free_fuzz.
. "$(dirname "$0")/lib.sh"
: "${FREE_FUZZ:?path of free_fuzz}" "${FREEMAP_TOOL:?path of freemap_tool}"
need mkfs.ext4 mkfs.xfs openssl
ROUNDS=${ROUNDS:-300}

mkdir "$WORK/tree"
{
	printf '/none\n1 1\nd--755 0 0\n'
	for i in $(seq 30); do
		printf '%06d\n' $(seq $((i * 50))) >"$WORK/tree/f$i"
		echo "f$i ---644 0 0 $WORK/tree/f$i"
	done
	echo '$'
} >"$WORK/proto"

fuzz() { # IMAGE
	"$FREE_FUZZ" "$1" "$SEED" "$ROUNDS" >"$WORK/fuzz.log" 2>&1 || fail "$(cat "$WORK/fuzz.log")"
	cat "$WORK/fuzz.log"
}

# cut IMAGE: shorter and shorter; none has a map
cut_short() {
	local bytes status
	bytes=$(stat -c %s "$1")
	while [ "$bytes" -gt 1024 ]; do
		bytes=$((bytes * 3 / 5 / 512 * 512))
		truncate -s "$bytes" "$1"
		status=0
		"$FREEMAP_TOOL" list "$1" >"$WORK/list" || status=$?
		[ "$status" = 3 ] || fail "$1 has a free map, though cut to $bytes bytes ($status)"
		! grep -q "its reader" "$WORK/list" || fail "$1 cut to $bytes: $(cat "$WORK/list")"
	done
}

for options in "-b 4096" "-b 1024" "-b 1024 -O ^64bit,^flex_bg -g 1024" "-b 4096 -O meta_bg,^resize_inode"; do
	truncate -s 32M "$WORK/image"
	# shellcheck disable=SC2086 # several words
	mkfs.ext4 -q -F $options -d "$WORK/tree" "$WORK/image"
	fuzz "$WORK/image"
	cut_short "$WORK/image"
	rm "$WORK/image"
done
for options in "" "-m rmapbt=1,reflink=1" "-d agcount=12 -l size=8m --unsupported" "-i sparse=0 -m finobt=0,reflink=0"; do
	truncate -s 320M "$WORK/image"
	# shellcheck disable=SC2086 # several words
	mkfs.xfs -q -f $options -p "$WORK/proto" "$WORK/image" 2>"$WORK/mkfs.log"
	fuzz "$WORK/image"
	cut_short "$WORK/image"
	rm "$WORK/image"
done
