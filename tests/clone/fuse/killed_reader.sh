#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Who waits for a source that is away can be killed, also when it waits for ever; a signal that does not kill changes nothing. usage:
# killed_reader.sh KCLONE
set -euo pipefail
. "$(dirname "$0")/../kclone/lib.sh"
need jq dd cmp
kclone=$1 bytes=$((8 << 20))
head -c "$bytes" /dev/urandom >"$work/source"
truncate -s "$bytes" "$work/dest"
"$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta"
: >"$work/disk"
serve --fuse "$work/disk" --no-attach --no-hydrate --io-timeout 0
waits() { is_field .waiting_ios "$1"; }
is_gone() { [ ! -d "/proc/$1" ]; }
is_asleep() { grep -q '^State:.D' "/proc/$1/status"; }

dd if="$work/disk" of="$work/got" bs=4k count=1 iflag=direct status=none 2>/dev/null &
reader=$!
wait_for 10 "the read waits for the source" waits 1
wait_for 10 "the reader sleeps" is_asleep "$reader"
kill -USR1 "$reader"
for _ in $(seq 10); do # one that was answered would have asked again
	is_asleep "$reader" && waits 1 || die "a signal that does not kill reached the reader"
	sleep 0.05
done
dd if="$work/source" of="$work/disk" bs=512 seek=9 count=1 oflag=direct conv=notrunc status=none 2>/dev/null &
writer=$!
wait_for 10 "the write of a part waits for the source" waits 2
disown "$writer"
kill -KILL "$writer"
wait_for 10 "the killed writer is gone" is_gone "$writer"
dd if="$work/disk" of=/dev/null bs=4k skip=4 count=1 iflag=direct status=none 2>/dev/null &
killed=$!
wait_for 10 "the next read waits for the source" waits 3
disown "$killed"
kill -KILL "$killed"
wait_for 10 "the killed reader is gone" is_gone "$killed"
ask attach
wait "$reader" || die "the read that was not killed failed"
cmp -n 4096 "$work/got" "$work/source" || die "it read something else"
wait_for 10 "nothing waits" waits 0
dd if="$work/disk" bs=1M iflag=direct status=none >"$work/whole"
cp "$work/source" "$work/want"
dd if="$work/source" of="$work/want" bs=512 seek=9 count=1 conv=notrunc status=none
cmp -s "$work/whole" "$work/source" || cmp "$work/whole" "$work/want" || die "the killed write left something else behind"
stop_serve
echo "ok: who waits can be killed"
