#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Bad input and damaged metadata: one line on stderr, an exit code of its own, and nothing changed. usage: bad_input.sh KCLONE KTARGET
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq cmp
kclone=$1
bytes=$((8 * 1024 * 1024))
head -c "$bytes" /dev/urandom >"$work/source"
fresh() {
	rm -f "$work"/meta* "$work/dest"
	truncate -s "$bytes" "$work/dest"
	"$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta"
}
same() { sha256sum "$work/meta" "$work/meta.seen" "$work/dest" "$work/source"; }
serve_fails() { must_fail "$1" "$2" timeout 20 "$kclone" serve --meta "$work/meta" --nbd "$work/nbd" --control "$work/control"; }

echo "# options"
must_fail 2 "unknown\|unrecognized\|not an option\|no such" "$kclone" serve --frobnicate
must_fail 2 "meta" "$kclone" serve
must_fail 2 "verb\|command\|frob" "$kclone" frob
echo "# create"
fresh
before=$(same)
must_fail 26 "exists" "$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta"
[ "$(same)" = "$before" ] || die "a refused create changed something"
rm -f "$work"/meta*
truncate -s $((bytes - 4096)) "$work/dest"
must_fail 34 "small\|bytes" "$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta"
[ ! -e "$work/meta" ] || [ ! -s "$work/meta" ] || die "a refused create left metadata"
echo "# open never formats"
rm -f "$work"/meta*
truncate -s "$bytes" "$work/dest"
serve_fails 20 "missing\|no such"
truncate -s 1M "$work/meta" "$work/meta.seen"
before=$(same)
serve_fails 21 "zero"
[ "$(same)" = "$before" ] || die "open wrote to what it refused"
echo "# damage: both superblocks, one, a sector of the map"
fresh
printf 'X' | dd of="$work/meta" bs=1 seek=100 conv=notrunc status=none
"$kclone" check --meta "$work/meta" >"$work/out" 2>&1 || die "one good superblock is enough: $(cat "$work/out")"
printf 'X' | dd of="$work/meta" bs=1 seek=$((65536 + 100)) conv=notrunc status=none
before=$(same)
serve_fails 24 "superblock"
must_fail 24 "superblock" "$kclone" check --meta "$work/meta"
[ "$(same)" = "$before" ] || die "open wrote to what it refused"
fresh
serve --no-hydrate
stop_serve
printf 'X' | dd of="$work/meta" bs=1 seek=$((131072 + 40)) conv=notrunc status=none
code=0
"$kclone" check --meta "$work/meta" >"$work/out" 2>&1 || code=$?
[ "$code" = 24 ] && grep -q "sector 0 is damaged" "$work/out" || die "check of a damaged sector: $code $(cat "$work/out")"
echo "# an older copy of the metadata"
fresh
serve --no-hydrate
stop_serve
cp "$work/meta" "$work/older"
serve
wait_here() { [ "$(field .durable_bytes)" = "$bytes" ]; }
wait_for 20 "hydrated" wait_here
stop_serve
cp "$work/older" "$work/meta"
serve_fails 23 "older"
echo "# metadata of another clone"
fresh
cp "$work/meta" "$work/other"
fresh
cp "$work/other" "$work/meta"
serve_fails 22 "another\|belongs"
echo "# in use"
fresh
serve --no-hydrate
must_fail 27 "in use" "$kclone" serve --meta "$work/meta" --nbd "$work/nbd2"
kill -0 "$serve_pid" || die "the first serve was disturbed"
echo "# finish and abort in the wrong state"
must_fail 9 "not here yet" "$kclone" finish --control "$work/control"
stop_serve
echo "# the wrong source"
start_ktarget "$2" "$work/source" "11111111-2222-4333-8444-555555555555.3"
rm -f "$work"/meta*
"$kclone" create --source "$target_url" --dest "$work/dest" --meta "$work/meta" --size "$bytes" --lbs 512 \
	--serial 0f8fad5b-d9cb-469f-a165-70867728950e.7
serve --no-attach
must_fail 30 "expected\|volume" "$kclone" attach --control "$work/control"
[ "$(field .here_bytes)" = 0 ] || die "blocks of a foreign volume were taken"
stop_serve
echo "ok: bad input is answered, nothing is changed by it"
