#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Bad input and damaged metadata: one line on stderr, an exit code of its own, and nothing changed. usage: bad_input.sh KCLONE KTARGET
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq cmp qemu-io
kclone=$1
bytes=$((8 * 1024 * 1024))
head -c "$bytes" /dev/urandom >"$work/source"
fresh() {
	rm -f "$work"/meta* "$work/dest"
	truncate -s "$bytes" "$work/dest"
	"$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta"
}
# another clone on the sockets of the first
serve_other() {
	truncate -s "$bytes" "$work/dest2"
	"$kclone" create --source "$work/source" --dest "$work/dest2" --meta "$work/meta2" &&
		"$kclone" serve --meta "$work/meta2" --nbd "$work/nbd"
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
truncate -s "$bytes" "$work/dest"
create() { "$kclone" create --dest "$work/dest" --meta "$work/meta" "$@"; }
must_fail 2 "multiple of the logical block size 512.*1024" create --source "$work/source" --size 1000
must_fail 2 "multiple of the logical block size 4096" create --source "$work/source" --size 1536 --lbs 4096
must_fail 2 "cannot understand" create --source "$work/source" --size 17T
must_fail 30 "has $bytes bytes, expected" create --source "$work/source" --size $((bytes * 2))
must_fail 1 "no such file" create --source "$work/nothing"
must_fail 31 "refused\|answer" create --source iscsi://127.0.0.1:1/iqn.2026-01.test:x/1 --timeout 1000
must_fail 2 "uuid" create --source "$work/source" --migration nonsense
must_fail 2 "same" create --source "$work/dest"
must_fail 2 "same file" "$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/dest"
must_fail 1 "directory of" "$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/nowhere/meta"
must_fail 1 "destination.*no such file" "$kclone" create --source "$work/source" --dest "$work/nothing" --meta "$work/meta"
[ -z "$(ls "$work" | grep meta)" ] || die "a refused create left $(ls "$work" | grep meta)"
echo "# a socket or a FUSE file in the place of somebody's file"
fresh
before=$(same)
must_fail 1 "no socket" "$kclone" serve --meta "$work/meta" --nbd "$work/source"
must_fail 1 "no socket" "$kclone" serve --meta "$work/meta" --control "$work/dest"
must_fail 1 "not an empty file" "$kclone" serve --meta "$work/meta" --fuse "$work/dest"
must_fail 1 "not an empty file" "$kclone" serve --meta "$work/meta" --fuse "$work/source"
[ "$(same)" = "$before" ] || die "serve changed a file that it refused to replace"
echo "# another destination in the place of this clone's"
truncate -s $((bytes * 2)) "$work/dest"
serve_fails 33 "at create it had"
truncate -s "$bytes" "$work/dest"
[ "$(same)" = "$before" ] || die "open wrote to what it refused"
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
must_fail 27 "in use" "$kclone" check --meta "$work/meta"
must_fail 27 "in use" "$kclone" abort --meta "$work/meta"
must_fail 1 "serves .* already" serve_other
must_fail 27 "in use" "$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta3"
[ ! -e "$work/meta3" ] || die "a refused create left metadata"
stop_serve
echo "# a destination that somebody holds still, as the kernel does for a worker that was killed while it wrote"
exec 9<"$work/dest"
flock 9
"$kclone" serve --meta "$work/meta" --nbd "$work/nbd" --control "$work/control" --no-hydrate >"$work/serve.out" 2>>"$work/serve.log" 9<&- &
pids+=("$!")
serve_pid=$!
is_locked() { ! flock -n "$work/meta" true; }
wait_for 10 "kclone has the metadata" is_locked
for _ in $(seq 10); do
	! grep -q serving "$work/serve.out" || die "served while somebody holds the destination"
	sleep 0.05
done
exec 9<&-
wait_for 20 "kclone is ready" grep -q serving "$work/serve.out"
stop_serve
serve --no-hydrate
echo "# finish and abort in the wrong state"
must_fail 8 "cannot connect" "$kclone" stop --control "$work/nobody"
must_fail 9 "not here yet" "$kclone" finish --control "$work/control"
ask hydrate
wait_for 20 "hydrated" wait_here
must_fail 35 "verify" "$kclone" finish --control "$work/control"
qemu-io -f raw -c 'write -P 7 0 4k' "nbd+unix:///?socket=$work/nbd" >/dev/null
must_fail 9 "written" "$kclone" abort --control "$work/control"
stop_serve
must_fail 9 "written" "$kclone" abort --meta "$work/meta"
must_fail 8 "known" "$kclone" finish --meta "$work/meta"
echo "# aborted"
fresh
"$kclone" abort --meta "$work/meta"
serve_fails 9 "aborted"
"$kclone" abort --meta "$work/meta" || die "abort of what is aborted has another answer"
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
