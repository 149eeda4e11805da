#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# One suite for both engines, in a guest: what a clone promises, whoever keeps it. usage: conform.sh BIN user|top|dm (top: the user engine under
# a dm-linear)
bin=$1 way=$2 engine=${2/top/user}
. "$(dirname "$0")/guest.sh"
make_source 32
cp source want

say "create: metadata and nothing else; never twice; geometry"
must_fail 26 "exists already" bash -c "touch meta; '$bin/kclone' create --source '$work/source' --dest '$work/dest' --meta '$work/meta' --engine $engine"
rm -f meta
truncate -s 1M small
must_fail 34 "make it larger" "$bin/kclone" create --source "$work/source" --dest "$work/small" --meta "$work/meta" --engine "$engine"
[ ! -e meta ] && [ ! -e meta.seen ] && [ ! -e meta.dm ] || fail "a create that failed left files"
create_clone
"$bin/kclone" check --meta "$work/meta" >/dev/null

say "reads go through; small, large, unaligned writes keep what is around them"
serve --no-hydrate
[ "$([ "$way" = user ] && echo /dev || echo /dev/mapper)" = "${device%/*}" ] || fail "the device is $device"
cmp "$device" source || fail "it reads other than the source"
head -c 1M /dev/urandom >fresh
for at in 0 3 4095 5000 8191; do
	n=$((at % 7 + 1))
	[ $((at + n)) -le 8192 ] || n=1
	for f in "$device" want; do dd if=fresh of="$f" bs=4k seek=$at count=$n conv=notrunc,fsync status=none; done
done
for f in "$device" want; do dd if=fresh of="$f" bs=512 seek=37777 count=3 conv=notrunc,fsync status=none; done
for f in "$device" want; do dd if=fresh of="$f" bs=1M seek=20 count=1 conv=notrunc,fsync status=none; done
cmp "$device" want || fail "a write changed what was around it"
blockdev --flushbufs "$device"
dd if="$device" bs=1M iflag=direct status=none | cmp - want || fail "past the page cache it differs"
must_fail 27 "in use" "$bin/kclone" serve --meta "$work/meta"
must_fail 27 "in use" "$bin/kclone" abort --meta "$work/meta"
must_fail 9 "wr" "$bin/kclone" abort --control "$work/control"
must_fail 9 "not here" "$bin/kclone" finish --control "$work/control"
here=$(field .durable_bytes)
sleep 0.5
[ "$(field .durable_bytes)" = "$here" ] || fail "it hydrates though it was told not to"

say "its processes die under I/O: no error above"
( # until enough have died
	until [ -e enough ]; do
		fio --name=v --filename="$device" --direct=1 --ioengine=libaio --rw=randwrite --bs=4k-64k --size=8M --offset=12M --iodepth=8 \
			--verify=crc32c --verify_state_save=0 --do_verify=1 --verify_fatal=1 --loops=4 --fsync=32 --eta=never --output=fio.out || exit 1
	done
) &
fio=$!
n=0
while kill -0 $fio 2>/dev/null && [ $n -lt 6 ]; do
	victim=$(field .worker_pid)
	[ "$way" = user ] || [ $((n % 2)) = 0 ] || victim=$(pgrep -f '^kclone driver')
	crash "$victim" 2>/dev/null || true
	n=$((n + 1))
	wait_for 20 "kclone answers" field .state
	sleep 0.1
done
touch enough
wait $fio || fail "fio: $(tail -5 fio.out)"
[ $n = 6 ] || fail "only $n died: nothing is proven"
dd if="$device" of=want bs=1M skip=12 seek=12 count=8 conv=notrunc iflag=direct status=none
cmp "$device" want || fail "after $n deaths it differs"

say "hydration: rate, pause, resume"
ask rate --rate 1M # not over before it is looked at, on a busy machine too
ask hydrate
wait_for 10 "hydration goes" bash -c "[ \$('$bin/kclone' status --control '$work/control' --json | jq .here_bytes) -gt $((here + 1048576)) ]"
ask pause
sleep 0.7
here=$(field .here_bytes)
sleep 0.7
[ "$(field .here_bytes)" = "$here" ] || fail "it hydrates though it is paused"
[ "$here" -lt "$(size_bytes)" ] || fail "it was over at once: nothing is proven"

say "stop while open is refused; stop, serve again: nothing is lost"
exec {hold}<"$device"
ask stop
sleep 1
is_field .state live || fail "it stopped under an open device"
exec {hold}<&-
ask stop 2>/dev/null || true # the first one may still be waiting for that, and go through now
wait $serve_pid || fail "kclone serve ended with $?"
"$bin/kclone" check --meta "$work/meta" >check.out || fail "check: $(cat check.out)"
serve --no-hydrate
cmp "$device" want || fail "after a stop it differs"

say "every process dies at once: served again, what was flushed is there"
kill -9 $serve_pid $(pgrep -f '^kclone (worker|driver)') 2>/dev/null || true
wait $serve_pid 2>/dev/null || true
wait_for 10 "all are gone" bash -c "! pgrep -f '^kclone (worker|driver)'"
serve
cmp "$device" want || fail "after a crash it differs"

say "the end: verified, HYDRATED, alone; writes go on"
dd if=fresh of="$device" bs=4k seek=100 conv=notrunc,fsync status=none
dd if=fresh of=want bs=4k seek=100 conv=notrunc status=none
wait_for 60 "every block is here" is_here
stop_serve
serve --no-hydrate # what was recorded as here counts at the next start
finish_clone
is_field .state hydrated || fail "state $(field .state)"
cmp "$device" want || fail "after finish it differs"
dd if=fresh of="$device" bs=4k seek=7000 count=9 conv=notrunc,fsync status=none
dd if=fresh of=want bs=4k seek=7000 count=9 conv=notrunc,fsync status=none
stop_serve
cmp dest want || fail "the destination differs"
"$bin/kclone" check --meta "$work/meta" >/dev/null
serve
cmp "$device" want || fail "served again it differs"
mv source source.gone
stop_serve
mv source.gone source

say "abort: before anything was written; then never again"
rm -f meta meta.*
truncate -s 0 dest
truncate -s "$(size_bytes)" dest
create_clone
serve
ask abort
wait $serve_pid || fail "kclone serve ended with $?"
must_fail 9 "abort" "$bin/kclone" serve --meta "$work/meta"
"$bin/kclone" abort --meta "$work/meta"
rm -f meta meta.*
create_clone
serve --no-hydrate
dd if=fresh bs=4k count=1 status=none | dd conv=fsync bs=4k seek=1 status=none of="$device"
stop_serve
must_fail 9 "wr" "$bin/kclone" abort --meta "$work/meta"
[ -z "$(dmsetup ls 2>/dev/null | grep kedge)" ] || fail "devices are left: $(dmsetup ls)"
[ -z "$(losetup -a)" ] || fail "loop devices are left: $(losetup)"
echo "ok: conformance, engine $engine ($way), $n processes killed under fio"
