#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# fio writes and verifies (crc32c) over NBD while the clone hydrates; then the destination alone is compared. usage: fio.sh KCLONE KTARGET
set -euo pipefail
. "$(dirname "$0")/../kclone/lib.sh"
need fio nbdcopy jq
kclone=$1 bytes=$((128 * 1024 * 1024))
head -c "$bytes" /dev/urandom >"$work/source"
truncate -s "$bytes" "$work/dest"
start_ktarget "$2" "$work/source"
"$kclone" create --source "$target_url" --dest "$work/dest" --meta "$work/meta"
serve --rate 8M
fio --name=verify --ioengine=nbd "--uri=nbd+unix:///?socket=$work/nbd" --rw=randrw --rwmixread=40 --bs=4k --bsrange=4k-64k --size=64M \
	--iodepth=16 --verify=crc32c --verify_state_save=0 --verify_backlog=256 --verify_fatal=1 --do_verify=1 --fsync=64 --randseed=42 --time_based=0 \
	--output="$work/fio.out" || die "fio: $(tail -20 "$work/fio.out")"
state=$(field .hydration.state)
durable=$(field .durable_bytes)
[ "$durable" -lt "$bytes" ] || die "hydration was over before fio was: nothing is proven"
echo "ok: fio verified its writes while $durable of $bytes bytes were here (hydration $state)"
ask rate --rate 0 >/dev/null
is_here() { [ "$(field .durable_bytes)" = "$bytes" ]; }
wait_for 30 "every block is here" is_here
nbdcopy "nbd+unix:///?socket=$work/nbd" "$work/copy"
written=$(field .written_bytes)
[ "$written" -gt 1000000 ] || die "only $written bytes count as written"
ask verify >/dev/null
is_verified() { is_field .verify.state passed; }
wait_for 60 "every block that fio did not write equals the source" is_verified
ask finish >/dev/null
stop_serve
cmp "$work/copy" "$work/dest" || die "the destination alone is not what was served"
echo "ok: the destination alone holds what was served; $written bytes written, the rest verified against the source"
