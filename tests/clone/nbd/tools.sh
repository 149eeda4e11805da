#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The NBD tools that people use, unchanged, against kclone: nbdinfo, nbdcopy, qemu-img, qemu-io. usage: tools.sh KCLONE
set -euo pipefail
. "$(dirname "$0")/../kclone/lib.sh"
need nbdinfo nbdcopy qemu-img qemu-io jq
kclone=$1 bytes=$((32 * 1024 * 1024))
uri="nbd+unix:///?socket=$work/nbd"

# data, a hole, data
truncate -s "$bytes" "$work/source"
head -c 8M /dev/urandom | dd of="$work/source" conv=notrunc bs=1M status=none
head -c 4M /dev/urandom | dd of="$work/source" conv=notrunc bs=1M seek=20 status=none
truncate -s "$bytes" "$work/dest"
"$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta"
serve --no-hydrate

echo "# nbdinfo: size, features, the hydration map"
nbdinfo "$uri" >"$work/info"
grep -q "export-size: $bytes" "$work/info" || die "size: $(cat "$work/info")"
for can in can_flush can_fua can_trim can_zero can_multi_conn; do
	grep -q "$can: true" "$work/info" || die "no $can: $(cat "$work/info")"
done
grep -q "is_read_only: false" "$work/info" || die "it is read-only"
nbdinfo --list "$uri" >/dev/null || die "nbdinfo --list"
context=$(nbdinfo --json "$uri" | jq -r '.exports[0].contexts[]' | grep kedge) || die "no context of ours: $(nbdinfo --json "$uri")"
nbdinfo --map="$context" "$uri" >"$work/map.before"
[ "$(awk '{ n += $2 } END { print n }' "$work/map.before")" = "$bytes" ] || die "the map does not cover the volume: $(cat "$work/map.before")"
[ "$(awk '{ print $3 }' "$work/map.before" | sort -u | wc -l)" = 1 ] || die "an untouched clone has one kind of blocks: $(cat "$work/map.before")"
qemu-io -f raw -c 'write -P 0x5a 1M 64k' -c flush "$uri" >/dev/null
nbdinfo --map="$context" "$uri" >"$work/map.written"
grep -q "^ *1048576 *65536 " "$work/map.written" || die "the written range is not in the map: $(cat "$work/map.written")"
nbdinfo --map "$uri" >/dev/null || die "base:allocation"

echo "# writes of all kinds are read back; the rest is the source's"
cp "$work/source" "$work/want"
qemu-io -f raw -c 'write -P 0x11 3001344 5000' -c 'write -f -P 0x22 9M 1M' -c 'write -z 21M 1M' -c 'discard 22M 1M' -c flush "$uri" >"$work/io" ||
	die "qemu-io: $(cat "$work/io")"
put() { # OFFSET BYTES OCTAL
	head -c "$2" /dev/zero | tr '\0' "\\$3" | dd of="$work/want" oflag=seek_bytes seek="$1" conv=notrunc status=none
}
put 1048576 65536 132
put 3001344 5000 021
put $((9 << 20)) $((1 << 20)) 042
put $((21 << 20)) $((1 << 20)) 000
put $((22 << 20)) $((1 << 20)) 000
nbdcopy --connections=4 --requests=16 "$uri" "$work/copy"
cmp "$work/copy" "$work/want" || die "nbdcopy read something else"
qemu-img compare -f raw -F raw "$uri" "$work/want" >/dev/null || die "qemu-img compare"
qemu-img info "$uri" | grep -q "32 MiB" || die "qemu-img info"
qemu-img convert -f raw -O qcow2 "$uri" "$work/copy.qcow2"
qemu-img compare -f qcow2 -F raw "$work/copy.qcow2" "$work/want" >/dev/null || die "qemu-img convert"

echo "# nbdcopy the other way, over several connections, while it hydrates"
ask hydrate >/dev/null
head -c "$bytes" /dev/urandom >"$work/new"
nbdcopy --connections=4 --flush "$work/new" "$uri"
nbdcopy "$uri" "$work/copy"
cmp "$work/copy" "$work/new" || die "what nbdcopy wrote is not there"
is_here() { [ "$(field .durable_bytes)" = "$bytes" ]; }
wait_for 30 "every block is here" is_here
stop_serve
cmp "$work/dest" "$work/new" || die "the destination differs from what was written"
echo "ok: nbdinfo, nbdcopy, qemu-img and qemu-io, unchanged"
