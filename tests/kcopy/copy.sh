#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Plain copies from an iSCSI target: bytes, holes, options, errors. Source away at the start, wrong serial, CHAP both ways.
. "$(dirname "$0")/lib.sh"
need openssl qemu-img cmp

PORT=$(free_port)
random_image "$WORK/src" 96
target_start "$PORT" "$WORK/src" vol-a

echo "- a copy with a map, compared; holes stay holes"
"$KCOPY" "$URL" "$WORK/dst" --map "$WORK/map" --serial vol-a --verify --json >"$WORK/json" 2>"$WORK/kcopy.log"
cmp "$WORK/src" "$WORK/dst"
qemu-img compare -f raw -F raw "$WORK/src" "$WORK/dst" >/dev/null
grep -q '"event":"result","ok":true' "$WORK/json"
src_blocks=$(stat -c %b "$WORK/src") dst_blocks=$(stat -c %b "$WORK/dst")
[ "$dst_blocks" -le $((src_blocks + 128)) ] || fail "the copy takes $dst_blocks blocks, the source $src_blocks"

echo "- the same again copies nothing"
"$KCOPY" "$URL" "$WORK/dst" --map "$WORK/map" --json >"$WORK/json" 2>"$WORK/kcopy.log"
grep -q '"copied_bytes":0,"zero_bytes":0' "$WORK/json" || fail "a complete copy was copied again"

echo "- over one and over four connections, with a rate that does not bind"
for n in 1 4; do
	rm -f "$WORK/dst"
	"$KCOPY" "$URL" "$WORK/dst" --connections "$n" --rate 10G 2>"$WORK/kcopy.log"
	cmp "$WORK/src" "$WORK/dst"
done

echo "- into a destination full of other bytes"
head -c 96M /dev/urandom >"$WORK/dst"
"$KCOPY" "$URL" "$WORK/dst" 2>"$WORK/kcopy.log"
cmp "$WORK/src" "$WORK/dst"

echo "- another serial number is refused, nothing is made"
rm -f "$WORK/dst"
expect_exit 30 "$KCOPY" "$URL" "$WORK/dst" --serial vol-b 2>"$WORK/kcopy.log"
[ ! -e "$WORK/dst" ] || fail "a destination was made for a refused source"
expect_exit 30 "$KCOPY" "$URL" "$WORK/dst" --serial 0f8fad5b-d9cb-469f-a165-70867728950e.7 2>"$WORK/kcopy.log"

echo "- a destination that is too small"
truncate -s 1M "$WORK/small"
expect_exit 34 "$KCOPY" "$URL" "$WORK/small" 2>"$WORK/kcopy.log"
expect_exit 1 "$KCOPY" "$URL" "$WORK/none" --no-create 2>"$WORK/kcopy.log"

echo "- nobody answers"
expect_exit 31 env KEDGE_SOURCE_TIMEOUTS=login=200,backoff-max=100 \
	"$KCOPY" "iscsi://127.0.0.1:$(free_port)/$IQN/1" "$WORK/none" 2>"$WORK/kcopy.log"

echo "- wrong usage"
expect_exit 2 "$KCOPY" "$URL" 2>"$WORK/kcopy.log"
expect_exit 2 "$KCOPY" "iscsi://user%pw@127.0.0.1:$PORT/$IQN/1" "$WORK/none" 2>"$WORK/kcopy.log"
! grep -q pw@ "$WORK/kcopy.log" || fail "the password was repeated"
expect_exit 2 "$KCOPY" "iscsi://localhost:$PORT/$IQN/1" "$WORK/none" 2>"$WORK/kcopy.log"
expect_exit 2 "$KCOPY" --connections 17 "$URL" "$WORK/none" 2>"$WORK/kcopy.log"

target_kill

# both targets answer a read beyond the end of a (shortened) file with a medium error
echo "- bad blocks: the rest is copied, they are named, and copied once they can be read"
PORT=$(free_port)
cp "$WORK/src" "$WORK/bad"
openssl rand 65536 | dd of="$WORK/bad" bs=64K seek=$((96 * 16 - 1)) conv=notrunc status=none
cp "$WORK/bad" "$WORK/whole"
THIN=0 target_start "$PORT" "$WORK/bad" vol-a # or tgtd calls what is cut off a hole
truncate -s $((96 * 1048576 - 8192)) "$WORK/bad"
rm -f "$WORK/dst" "$WORK/map"
expect_exit 7 "$KCOPY" "$URL" "$WORK/dst" --map "$WORK/map" --json >"$WORK/json" 2>"$WORK/kcopy.log"
grep -q "bytes $((96 * 1048576 - 8192)) to $((96 * 1048576)) cannot be read" "$WORK/kcopy.log"
grep -q '"bad_bytes":8192' "$WORK/json"
cmp -n $((96 * 1048576 - 8192)) "$WORK/whole" "$WORK/dst"
tail -c 8192 "$WORK/whole" >>"$WORK/bad"
"$KCOPY" "$URL" "$WORK/dst" --map "$WORK/map" --verify --json >"$WORK/json" 2>"$WORK/kcopy.log"
grep -q '"copied_bytes":8192,' "$WORK/json"
cmp "$WORK/whole" "$WORK/dst"
target_kill

echo "- CHAP: one way, both ways, wrong secrets"
printf 'user = alice\nsecret = alice-secret-1\n' >"$WORK/chap1"
printf 'user = alice\nsecret = alice-secret-1\nmutual-user = bob\nmutual-secret = bobs-secret-22\n' >"$WORK/chap2"
printf 'user = alice\nsecret = wrong-secret-1\n' >"$WORK/chap-bad"
printf 'user = alice\nsecret = alice-secret-1\nmutual-user = bob\nmutual-secret = wrong-secret-22\n' >"$WORK/chap-bad2"
chmod 600 "$WORK"/chap*
PORT=$(free_port)
target_start "$PORT" "$WORK/src" vol-a "$WORK/chap2"
for chap in chap1 chap2; do
	rm -f "$WORK/dst"
	"$KCOPY" "$URL" "$WORK/dst" --chap-file "$WORK/$chap" 2>"$WORK/kcopy.log"
	cmp "$WORK/src" "$WORK/dst"
done
rm -f "$WORK/dst"
for chap in chap-bad chap-bad2; do
	expect_exit 32 "$KCOPY" "$URL" "$WORK/dst" --chap-file "$WORK/$chap" 2>"$WORK/kcopy.log"
	[ ! -e "$WORK/dst" ] || fail "a destination was made with $chap"
done
echo PASS
