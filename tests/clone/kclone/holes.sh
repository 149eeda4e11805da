#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A clone of a terabyte that holds some MiB: hydrated and compared at the cost of these, said as it was, also by a later worker; and holes that are
# read when that is asked for. usage: holes.sh KCLONE KTARGET
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq qemu-io cmp python3
kclone=$1 ktarget=$2 bytes=$((1 << 40)) mib=$((1 << 20))
shm=$work/shm # ext4 has no files that large everywhere
mkdir "$shm"
mount -t tmpfs -o size=512m none "$shm"
truncate -s "$bytes" "$shm/source" "$shm/dest"
for at in 0 1000 500000; do head -c $((4 * mib)) /dev/urandom | dd of="$shm/source" bs=1M seek=$at conv=notrunc status=none; done
start_ktarget "$ktarget" "$shm/source"
"$kclone" create --source "$target_url" --dest "$shm/dest" --meta "$work/meta"
serve
is_passed() { is_field .verify.state passed; }
is_here() { [ "$(field .durable_bytes)" = "$bytes" ]; }
wait_for 60 "every block is here" is_here
qemu-io -f raw -c "write -P 7 $((600000 * mib)) 1M" -c flush "nbd+unix:///?socket=$work/nbd" >/dev/null
before=$(field .source.read_bytes)
ask verify
wait_for 60 "compared" is_passed
compared=$(field .verify.verified_bytes) holes=$(field .verify.hole_bytes) sampled=$(field .verify.sampled_bytes)
[ $((compared + holes + mib)) = "$bytes" ] || die "$compared compared and $holes agreed, 1 MiB written, of $bytes"
[ "$compared" = $((12 * mib + sampled)) ] && [ "$sampled" -ge $((256 * 65536)) ] || die "$compared compared, $sampled of them samples"
sums=$(field .verify.checksum_bytes)
[ "$sums" = $((12 * mib)) ] && [ "$(field .verify.data)" = checksum ] || die "$(field .verify)"
[ $(($(field .source.read_bytes) - before)) = $((compared - sums)) ] || die "$(($(field .source.read_bytes) - before)) bytes were read, $((compared - sums)) are said to be"

echo "# bytes that are asked for are compared as bytes, also after a comparison that did not; who is content with less takes nothing back"
must_fail 2 "cannot understand the value" "$kclone" verify --control "$work/control" --verify-data perhaps
before=$(field .source.read_bytes)
"$kclone" verify --control "$work/control" --verify-data bytes
is_by_bytes() { is_passed && is_field .verify.data bytes; }
wait_for 60 "compared by bytes" is_by_bytes
ask verify
[ "$(field '.verify | "\(.state) \(.data) \(.checksum_bytes)"')" = "passed bytes 0" ] || die "$(field .verify)"
[ "$(field .verify.verified_bytes)" -ge "$compared" ] && [ $(($(field .source.read_bytes) - before)) = "$(field .verify.verified_bytes)" ] || die "$(field .verify)"
[ "$(field .verify.holes)" = status ] || die "$(field .verify)"

echo "# a later worker knows what was compared"
ask finish
compared_before=$(field '.verify | del(.error)')
stop_serve
serve
[ "$(field '.verify | del(.error)')" = "$compared_before" ] || die "$(field .verify) is not $compared_before"
"$kclone" status --meta "$work/meta" | grep -q "^verify     passed, .* compared byte by byte" || die "status says: $("$kclone" status --meta "$work/meta")"
stop_serve
rm "$shm"/* "$work"/meta*

echo "# holes that are to be read are, also after a comparison that did not"
truncate -s $((64 * mib)) "$shm/source" "$shm/dest"
"$kclone" create --source "$shm/source" --dest "$shm/dest" --meta "$work/meta"
serve
is_here() { [ "$(field .durable_bytes)" = $((64 * mib)) ]; }
wait_for 60 "every block is here" is_here
ask verify
wait_for 60 "compared" is_passed
[ "$(field .verify.hole_bytes)" = $((64 * mib - 65536)) ] || die "$(field .verify)"
"$kclone" verify --control "$work/control" --verify-data bytes # a file makes no sums: it was by bytes, nothing is done again
[ "$(field '.verify | "\(.state) \(.data) \(.checksum_bytes)"')" = "passed checksum 0" ] || die "$(field .verify)"
must_fail 2 "cannot understand the value" "$kclone" verify --control "$work/control" --verify-holes perhaps
"$kclone" verify --control "$work/control" --verify-holes read
is_read() { is_passed && is_field .verify.holes read; }
wait_for 60 "read" is_read
[ "$(field .verify.verified_bytes)" = $((64 * mib)) ] && [ "$(field .verify.hole_bytes)" = 0 ] || die "$(field .verify)"
stop_serve
rm "$shm"/* "$work"/meta*

echo "# reading, and bytes, asked for while a comparison by status and checksums runs, are what passes; so is what asks for nothing in particular"
truncate -s $((64 * mib)) "$shm/source" "$shm/dest"
head -c $((8 * mib)) /dev/urandom | dd of="$shm/source" conv=notrunc status=none
"$kclone" create --source "$shm/source" --dest "$shm/dest" --meta "$work/meta"
raw_verify() {
	python3 - "$work/control" <<-'END'
	import json, socket, sys
	s = socket.socket(socket.AF_UNIX)
	s.settimeout(20)
	s.connect(sys.argv[1])
	s.sendall(b'{"v":1,"cmd":"verify","args":{}}\n')
	assert json.loads(s.makefile().readline())["ok"]
	END
}
for way in "ask verify --verify-holes read --verify-data bytes" raw_verify; do
	serve
	wait_for 60 "every block is here" is_here
	ask rate --rate 64K
	ask verify
	[ "$(field '.verify | "\(.state) \(.holes)"')" = "running status" ] || die "$(field .verify)"
	$way
	ask verify # who is content with less takes nothing back
	[ "$(field '.verify | "\(.state) \(.holes)"')" = "running status" ] || die "$(field .verify)"
	ask rate --rate 0
	wait_for 60 "compared" is_passed
	[ "$(field '.verify | "\(.holes) \(.data) \(.verified_bytes) \(.hole_bytes)"')" = "read bytes $((64 * mib)) 0" ] || die "$way: $(field .verify)"
	stop_serve
done

echo "# a comparison whose figures cannot be kept has not passed"
serve
rm -f "$work/meta.compared" # of a worker before
mkdir "$work/meta.compared"
ask verify
is_failed() { is_field .verify.state failed; }
wait_for 60 "the comparison has failed" is_failed
[[ $(field .verify.error) == *"cannot be kept"* ]] || die "$(field .verify)"
must_fail 35 "cannot be kept" "$kclone" finish --control "$work/control"
rmdir "$work/meta.compared"
ask verify
wait_for 60 "compared" is_passed
ask finish
stop_serve
echo "ok: $compared bytes compared, $holes agreed as holes, $sampled sampled"
