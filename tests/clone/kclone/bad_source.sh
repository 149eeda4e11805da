#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A source that cannot be read everywhere: the rest goes on, the ranges are named exactly, an overwrite heals, and a source that was mended is
# read again. usage: bad_source.sh KCLONE
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq losetup qemu-io cmp
kclone=$1 mib=$((1 << 20)) bytes=$((16 << 20))
good=$((12 * mib + 5 * 4096)) # the end of what can be read: in the middle of a copy
head -c "$bytes" /dev/urandom >"$work/want"
cp "$work/want" "$work/backing"
truncate -s "$bytes" "$work/dest"
device=$(losetup -f --show --direct-io=on "$work/backing")
uri="nbd+unix:///?socket=$work/nbd"
lines() { printf '%s\n' "$@"; }
map_is() { [ "$("$kclone" map --meta "$work/meta")" = "$(lines "$@")" ]; }
bad_is() { [ "$(cat "$work/meta.bad")" = "$(lines "$@")" ]; }
is_over() { [ "$(field .hydration.state)" != running ] && [ "$(field .bad_bytes)" = $((bytes - good)) ]; }

"$kclone" create --source "$device" --dest "$work/dest" --meta "$work/meta"
serve --no-hydrate
map_is "0 $bytes source" || die "the map of a new clone: $("$kclone" map --meta "$work/meta")"
truncate -s $good "$work/backing" # from here on the device cannot read the rest
ask hydrate
wait_for 60 "hydration without the bad range" is_over
map_is "0 $good here" "$good $bytes bad" || die "the map: $("$kclone" map --meta "$work/meta")"
wait_for 10 "the list of bad ranges" bad_is "$good $bytes"
[ "$(grep -c "event .*cannot read" "$work/serve.log")" = 1 ] || die "one bad stretch is said as $(grep -c "event .*cannot read" "$work/serve.log") events"
[ "$(grep -c "cannot read" "$work/serve.log")" -le 20 ] || die "one bad stretch is said $(grep -c "cannot read" "$work/serve.log") times"
! qemu-io -f raw -c "read $((13 * mib)) 4k" "$uri" >"$work/out" 2>&1 || die "a bad block can be read"
grep -qi "input/output error" "$work/out" || die "a bad block: $(cat "$work/out")"
qemu-io -f raw -c "read $((11 * mib)) 1M" "$uri" >/dev/null || die "a good block cannot be read"

echo "# an overwrite heals"
qemu-io -f raw -c "write -P 7 $((13 * mib)) 4k" -c flush "$uri" >/dev/null
wait_for 10 "the list without the healed block" bad_is "$good $((13 * mib))" "$((13 * mib + 4096)) $bytes"
map_is "0 $good here" "$good $((13 * mib)) bad" "$((13 * mib)) $((13 * mib + 4096)) written" "$((13 * mib + 4096)) $bytes bad" ||
	die "the map: $("$kclone" map --meta "$work/meta")"
must_fail 9 "not here yet" "$kclone" finish --control "$work/control"

echo "# the source is lost: what is missing is known without it"
stop_serve
map_is "0 $good here" "$good $((13 * mib)) source" "$((13 * mib)) $((13 * mib + 4096)) written" \
	"$((13 * mib + 4096)) $bytes source" || die "the map of a clone that is not served: $("$kclone" map --meta "$work/meta")"
[ "$("$kclone" map --meta "$work/meta" --json | jq -s '[.[] | select(.kind == "source") | .end_bytes - .start_bytes] | add')" = $((bytes - good - 4096)) ] ||
	die "the map as JSON: $("$kclone" map --meta "$work/meta" --json)"

echo "# a source that was mended is read again, without a restart"
serve
is_bad_again() { [ "$(field .hydration.state)" != running ] && [ "$(field .bad_bytes)" = $((bytes - good - 4096)) ]; }
wait_for 60 "hydration without the bad range" is_bad_again
dd if="$work/want" of="$work/backing" bs=1M seek=12 skip=12 conv=notrunc status=none
ask hydrate
is_here() { [ "$(field .durable_bytes)" = "$bytes" ]; }
wait_for 20 "every block is here" is_here
is_gone() { [ ! -e "$work/meta.bad" ]; }
wait_for 10 "the list is gone" is_gone
ask verify
is_verified() { is_field .verify.state passed; }
wait_for 20 "verified" is_verified
stop_serve
qemu-io -f raw -c "write -P 7 $((13 * mib)) 4k" "$work/want" >/dev/null
cmp "$work/want" "$work/dest" || die "the destination is wrong"
echo "ok: bad ranges"
