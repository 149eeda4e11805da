#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Extents in transit: the copy is the source in every mode, compressed where that makes it smaller, plain where the target has no such command;
# what a line damages is read again, and never written.
. "$(dirname "$0")/lib.sh"
need openssl cmp jq tgtd
: "${FLIPPER:?path of flipper}"

MIB=1048576
# 32 MiB: noise, text, holes, zeroes that are data
make_source() {
	truncate -s 32M "$1"
	openssl enc -aes-128-ctr -K "$(printf '%032x' "$SEED")" -iv 0 -in /dev/zero 2>/dev/null | head -c $((8 * MIB)) |
		dd of="$1" bs=1M conv=notrunc iflag=fullblock status=none || :
	seq -f "line %09.0f of a text that can be packed" 1 300000 | head -c $((12 * MIB)) | dd of="$1" bs=1M seek=8 conv=notrunc iflag=fullblock status=none || :
	head -c $((4 * MIB)) /dev/zero | dd of="$1" bs=1M seek=26 conv=notrunc iflag=fullblock status=none
}

value() {
	jq -s -r "map(select(.event == \"result\")) | .[0].$1" "$WORK/json"
}

# copy MODE [ARGUMENT...]: into $WORK/dst
copy() {
	local mode=$1
	shift
	rm -f "$WORK/dst"
	"$KCOPY" "$URL" "$WORK/dst" --transit "$mode" --json "$@" >"$WORK/json" 2>"$WORK/kcopy.log"
}

# flipper_start NR: URL leads through it
flipper_start() {
	"$FLIPPER" "$PORT" "$1" >"$WORK/flipper.port" 2>"$WORK/flipper.log" &
	FLIPPER_PID=$!
	PIDS+=("$FLIPPER_PID")
	wait_until 10 test -s "$WORK/flipper.port" || fail "the flipper does not start"
	URL=iscsi://127.0.0.1:$(cat "$WORK/flipper.port")/$IQN/1
}

flipper_end() {
	kill -KILL "$FLIPPER_PID"
	wait "$FLIPPER_PID" 2>/dev/null || :
	reaped "$FLIPPER_PID"
	rm "$WORK/flipper.port"
}

make_source "$WORK/src"
TARGET_KIND=ktarget
PORT=$(free_port)
target_start "$PORT" "$WORK/src" vol-a
DIRECT=$URL

echo "- every mode copies the same bytes; what travels gets less"
for mode in plain checked zstd; do
	copy "$mode" --verify-data bytes --verify-holes read
	cmp "$WORK/src" "$WORK/dst"
	[ "$(value damaged)" = 0 ] || fail "$mode: damage on a line that does none"
	declare "wire_$mode=$(value wire_bytes)"
done
# 8 MiB of noise, 12 of text, 4 of zeroes, and once more for the comparison, which reads holes too
[ "$wire_plain" = $((24 * MIB + 32 * MIB)) ] || fail "plain: $wire_plain bytes"
[ "$wire_checked" -lt $((2 * 20 * MIB + 100000)) ] || fail "checked: zeroes travelled: $wire_checked bytes"
[ "$wire_checked" -ge $((2 * 20 * MIB)) ] || fail "checked: $wire_checked bytes are too few"
[ "$wire_zstd" -lt $((2 * 11 * MIB)) ] || fail "zstd: text was not packed: $wire_zstd bytes"
[ "$wire_zstd" -ge $((2 * 8 * MIB)) ] || fail "zstd: $wire_zstd bytes are too few"

echo "- compared by checksums nothing of it travels again; that is said, and so is what was asked for"
copy plain --verify-holes read
[ "$(value data)" = checksum ] && [ "$(value checksum_bytes)" = $((32 * MIB)) ] || fail "$(cat "$WORK/json")"
[ "$(value verified_bytes)" = $((32 * MIB)) ] || fail "$(cat "$WORK/json")"
[ "$(value wire_bytes)" = $((24 * MIB + 128 * 48)) ] || fail "plain and sums: $(value wire_bytes) bytes"
grep -q "32.0 MiB compared with the source, 32.0 MiB of them by 128-bit checksums made there" "$WORK/kcopy.log" || fail "$(cat "$WORK/kcopy.log")"
copy plain --verify-data bytes
[ "$(value data)" = bytes ] && [ "$(value checksum_bytes)" = 0 ] || fail "$(cat "$WORK/json")"
grep -q "compared byte by byte" "$WORK/kcopy.log" || fail "$(cat "$WORK/kcopy.log")"
expect_exit 2 "$KCOPY" "$URL" "$WORK/dst" --verify-data crc 2>"$WORK/kcopy.log"

# flip FILE BYTE: another bit there
flip() {
	local was
	was=$(od -An -tu1 -j"$2" -N1 "$1")
	printf "\\x$(printf %02x $((was ^ 4)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

echo "- one bit at the destination, or at the source, is found and told by its block; all else is compared by checksums"
copy plain --map "$WORK/map"
for file in dst src; do
	flip "$WORK/$file" $((3 * MIB + 12345))
	expect_exit 35 "$KCOPY" "$URL" "$WORK/dst" --map "$WORK/map" --verify --json >"$WORK/json" 2>"$WORK/kcopy.log"
	grep -q "4096 bytes differ from the source, the first at byte $((3 * MIB + 12288))" "$WORK/kcopy.log" || fail "$file: $(cat "$WORK/kcopy.log")"
	[ "$(value checksum_bytes)" -ge $((18 * MIB)) ] || fail "$file: $(cat "$WORK/json")"
	flip "$WORK/$file" $((3 * MIB + 12345))
done
"$KCOPY" "$URL" "$WORK/dst" --map "$WORK/map" --verify 2>"$WORK/kcopy.log"
rm "$WORK/map"

echo "- a mode that there is not"
expect_exit 2 "$KCOPY" "$URL" "$WORK/dst" --transit lz4 2>"$WORK/kcopy.log"

echo "- a line that flips bits: without checksums the copy is wrong and says that it is done"
flipper_start 20
copy plain
cmp -s "$WORK/src" "$WORK/dst" && fail "the flipper does nothing: this test cannot fail"
flipper_end

echo "- with them all of it is read again"
for mode in checked zstd; do
	flipper_start 20
	copy "$mode"
	cmp "$WORK/src" "$WORK/dst"
	nr=$(value damaged)
	[ "$nr" -ge 5 ] && [ "$nr" -le 20 ] || fail "$mode: 20 flipped bits, $nr damaged extents"
	flipper_end
done

echo "- a line that always does: an error that says so, and not a byte of it is written"
flipper_start -1
truncate -s 0 "$WORK/dst2"
head -c 32M /dev/zero | tr '\0' U >"$WORK/dst2"
cp "$WORK/dst2" "$WORK/before"
for mode in checked zstd; do
	status=0
	"$KCOPY" "$URL" "$WORK/dst2" --transit "$mode" --json >"$WORK/json" 2>"$WORK/kcopy.log" || status=$?
	[ "$status" = 1 ] || fail "$mode: exit $status"
	[ "$(value code)" = SOURCE_DAMAGED ] || fail "$mode: $(value code)"
	grep -q "is not what the source's checksum says" "$WORK/kcopy.log" || fail "$mode: the error does not say so"
	# holes may have been made; where the source has data nothing was
	cmp -n $((20 * MIB)) "$WORK/before" "$WORK/dst2" || fail "$mode: damaged bytes were written"
done
flipper_end
target_kill

echo "- a target without the command; its bytes are compared"
TARGET_KIND=tgtd
PORT=$(free_port)
target_start "$PORT" "$WORK/src" vol-a
for mode in checked zstd; do
	copy "$mode" --verify
	cmp "$WORK/src" "$WORK/dst"
	[ "$(value data)" = checksum ] && [ "$(value checksum_bytes)" = 0 ] && [ "$(value verified_bytes)" -ge $((20 * MIB)) ] || fail "$(cat "$WORK/json")"
	[ "$(value wire_bytes)" -ge $((20 * MIB)) ] || fail "tgtd packs?"
done
echo PASS
