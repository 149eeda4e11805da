#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A clone hydrates with extents in transit over a line that flips bits: nothing of that arrives in the destination, and text travels packed.
# What a workload reads itself is read plainly. usage: transit.sh KCLONE KTARGET FLIPPER
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq qemu-io cmp
kclone=$1 mib=$((1 << 20)) bytes=$((24 << 20))
head -c $((4 * mib)) /dev/urandom >"$work/source"
seq -f "line %09.0f of a text that can be packed" 1 600000 | head -c $((16 * mib)) >>"$work/source" || true
truncate -s "$bytes" "$work/source"
start_ktarget "$2" "$work/source"
port=${target_url#iscsi://127.0.0.1:}

# through_flipper NR: sets line_url
through_flipper() {
	"$flipper" "${port%%/*}" "$1" >"$work/flipper.port" &
	flipper_pid=$!
	pids+=("$flipper_pid")
	wait_for 10 "the flipper listens" test -s "$work/flipper.port"
	line_url=iscsi://127.0.0.1:$(cat "$work/flipper.port")/${port#*/}
}
flipper=$3
fresh() {
	rm -f "$work"/meta* "$work/dest"
	head -c "$bytes" /dev/zero | tr '\0' U >"$work/dest"
	"$kclone" create --source "$target_url" --dest "$work/dest" --meta "$work/meta"
}
is_here() { [ "$(field .durable_bytes)" = "$bytes" ]; }
is_up() { is_field .source.state up; }

echo "# a workload's read is plain"
fresh
serve --transit zstd --no-hydrate
wait_for 20 "the source is up" is_up
qemu-io -f raw -c "read $((8 * mib)) 64k" "nbd+unix:///?socket=$work/nbd" >/dev/null
[ "$(field .source.wire_bytes)" = "$(field .source.read_bytes)" ] || die "wire $(field .source.wire_bytes), read $(field .source.read_bytes)"
[ "$(field .source.read_bytes)" -ge 65536 ] || die "nothing was read"

echo "# hydration travels packed, and what is damaged on the way is read again"
stop_serve
through_flipper 6
fresh
serve --transit zstd --no-attach
ask attach --url "$line_url"
wait_for 60 "every block is here" is_here
[ "$(field .source.damaged)" -ge 1 ] || die "6 flipped bits, nothing was noticed"
[ "$(field .source.wire_bytes)" -lt $((12 * mib)) ] || die "$(field .source.wire_bytes) bytes travelled"
[ "$(field .source.read_bytes)" -ge $((20 * mib)) ] || die "only $(field .source.read_bytes) bytes were read"
ask verify
is_verified() { is_field .verify.state passed; }
wait_for 60 "the comparison passes" is_verified
stop_serve
cmp "$work/source" "$work/dest"
kill "$flipper_pid"

echo "# a line that always damages: said, and nothing is written"
rm "$work/flipper.port"
through_flipper -1
fresh
serve --transit checked --no-attach
ask attach --url "$line_url"
is_told() { grep -q "is not what the source's checksum says" "$work/serve.log"; }
wait_for 60 "the damage is told" is_told
[ "$(field .here_bytes)" -le $((4 * mib)) ] || die "$(field .here_bytes) bytes are said to be here" # the hole at the end
ask stop
wait "$serve_pid" || die "kclone serve ended with $?"
head -c $((20 * mib)) /dev/zero | tr '\0' U | cmp -n $((20 * mib)) - "$work/dest" || die "damaged bytes were written"
echo "ok: transit"
