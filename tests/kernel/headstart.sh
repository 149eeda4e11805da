#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The head start of a kernel clone, and what dies in the middle of it. The destination is full of a canary: a region that is marked and was not
# copied would show it (K2). In a guest. usage: headstart.sh BIN TESTBIN [SEED]
bin=$1 engine=dm racer=$2/racer seed=${3:-$((RANDOM * 32768 + RANDOM))}
. "$(dirname "$0")/guest.sh"
RANDOM=$((seed % 32768))
echo "seed $seed"
mib=12
make_source $mib
head -c 20480 /dev/urandom >>source # the last region is short
dd if=/dev/zero of=source bs=1M seek=5 count=2 conv=notrunc status=none
size=$(size_bytes)
whole=$((size / 65536 * 65536))

begin() { # OPTIONS of create
	rm -f meta meta.*
	head -c "$size" /dev/zero | tr '\0' 'D' >dest
	create_clone "$@"
}
# serve in the background: there is no device yet
serve_early() {
	: >serve.out
	: >serve.err
	"$bin/kclone" serve --meta "$work/meta" --block --control "$work/control" --no-hydrate "$@" >serve.out 2>>serve.err &
	serve_pid=$!
	wait_for 20 "kclone answers" field .state
}
has_device() {
	grep -q serving serve.out || return 1
	device=$(sed -n 's/.* block=\([^ ]*\).*/\1/p' serve.out)
}
marked() { field .kernel.head_start.marked_bytes; }
is_the_source() { blockdev --flushbufs "$device" && dd if="$device" bs=1M iflag=direct status=none | cmp - source; }
no_discards() {
	local name sys
	for name in "${device##*/}" "${device##*/}.clone"; do
		sys=/sys/dev/block/$(dmsetup info -c --noheadings -o major,minor --separator : "$name" | tr -d ' ')
		[ "$(cat "$sys/queue/discard_max_bytes")" = 0 ] || fail "K1: $name takes discards"
	done
}
victims() { pgrep -f "^kclone $1" || true; }

say "all of it: every whole region is marked, the source is read for the last one only"
begin
serve --no-hydrate --head-start 1G
[ "$(marked)" = $whole ] || fail "marked $(marked) of $whole"
no_discards
is_the_source || fail "it reads other than the source"
is_field .kernel.head_start.state over || fail "state $(field .kernel.head_start.state)"
say "nothing was written by the workload: an abort is still free"
ask abort
wait $serve_pid || fail "kclone serve ended with $?"

say "bounds: bytes, time; --no-attach waits for the source"
begin
serve --no-hydrate --head-start 3M
[ "$(marked)" = $((3 << 20)) ] || fail "marked $(marked) of 3 MiB"
is_the_source || fail "it reads other than the source"
stop_serve
say "a second serve has no head start: the workload had the device"
serve --no-hydrate --head-start 1G
[ "$(marked)" = 0 ] || fail "marked $(marked) of a clone that was handed out"
is_the_source || fail "served again it reads other than the source"
stop_serve
begin
serve_early --no-attach --head-start 400ms --rate 8M
sleep 0.5
! has_device || fail "the device is there before the source was attached"
is_field .kernel.head_start.state waiting || fail "state $(field .kernel.head_start.state)"
[ -z "$(dmsetup ls | grep -v '\.clone\|\.source')" ] || fail "there is a device above the clone: $(dmsetup ls)"
ask attach
wait_for 20 "the device comes after 400 ms" has_device
n=$(marked)
[ "$n" -lt $whole ] && [ $((n % 65536)) = 0 ] || fail "marked $n"
is_the_source || fail "it reads other than the source"
echo "in 400 ms at 8 MiB/s: $((n / 1024)) KiB"
stop_serve

say "its processes die in the middle, one or all: served in the end, and nothing but the source is read"
cycles=0 cut=0 resumed=0
for who in worker driver all; do
	begin --region 4096
	serve_early --head-start 1G --rate 1M
	wait_for 20 "it copies" is_field .kernel.head_start.state copying
	sleep 0.$((RANDOM % 5))$((RANDOM % 10))
	if [ $who = all ]; then
		kill -9 $serve_pid $(victims '(worker|driver)') 2>/dev/null || true
		wait $serve_pid 2>/dev/null || true
		wait_for 10 "all are gone" bash -c "! pgrep -f '^kclone (worker|driver)'"
		serve --no-hydrate --head-start 1G
		[ "$(marked)" = $((size / 4096 * 4096)) ] || fail "after the death of all: marked $(marked)"
		resumed=$((resumed + 1))
	else
		kill -9 $(victims $who)
		ask rate --rate 0 || true # what goes on copying may hurry now
		wait_for 30 "the device comes although the $who died" has_device
		cut=$((cut + ($(marked) < whole)))
		echo "the $who died: $(($(marked) / 1024)) KiB are marked"
	fi
	no_discards
	is_the_source || fail "after the death of $who it reads other than the source"
	head -c 65536 /dev/urandom >fresh
	at=$((RANDOM % (size / 4096 - 16)))
	dd if=fresh of="$device" bs=4k seek=$at conv=notrunc,fsync status=none
	cp source want
	dd if=fresh of=want bs=4k seek=$at conv=notrunc status=none
	ask rate --rate 0
	ask hydrate
	wait_for 60 "every block is here" is_here
	dd if="$device" bs=1M iflag=direct status=none | cmp - want || fail "after the death of $who and hydration it differs"
	stop_serve
	cycles=$((cycles + 1))
done
[ $cut -gt 0 ] || fail "no head start was cut short: nothing is proven"

# What a power cut leaves: files, and nothing in the kernel.
power_off() {
	kill -9 "$holder" $(victims '(worker|driver)') 2>/dev/null || true
	wait $serve_pid 2>/dev/null || true
	wait_for 10 "all are gone" bash -c "! pgrep -f '^kclone (worker|driver)'"
	local name
	for name in $(dmsetup ls | sed -n 's/^\(kedge-[^ \t]*\).*/\1/p' | sort -t. -k2,2); do dmsetup remove --noudevsync "$name"; done
	for name in $(losetup -n -O NAME,BACK-FILE | awk '/meta|dest/ {print $1}'); do losetup -d "$name"; done
	umount -l meta.disk 2>/dev/null || true
}

say "a power cut between the marks and their end: META.dm has some, META says so, the next start takes them and goes on"
begin
# the driver's second write of META would say that the clone is live: it stops there, and nothing is written
strace -f -P "$work/meta" -o "$work/strace" -e trace=pwrite64 -e inject=pwrite64:retval=4096:signal=SIGSTOP:when=2 \
	"$bin/kclone" serve --meta "$work/meta" --block --control "$work/control" --no-hydrate --head-start 8M >serve.out 2>>serve.err &
serve_pid=$!
wait_for 60 "the driver stops" grep -q 'stopped by SIGSTOP' strace
holder=$(field .holder_pid)
! grep -q serving serve.out || fail "the device was handed out before META said live"
power_off
"$bin/kclone" status --meta "$work/meta" --json | jq -e '.state == "created"' >/dev/null || fail "META: $("$bin/kclone" status --meta "$work/meta")"
serve --no-hydrate --head-start 1G
[ "$(marked)" = $whole ] || fail "marked $(marked) of $whole"
[ "$(field .kernel.head_start.copied_bytes)" -le $((whole - (8 << 20))) ] || fail "what was marked before was copied again"
no_discards
is_the_source || fail "after a power cut it reads other than the source"
stop_serve

say "marks that META knows nothing of are somebody else's"
"$bin/kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/other" --engine dm
cp meta.dm other.dm
must_fail 22 "holds something" "$bin/kclone" serve --meta "$work/other" --block --control "$work/control" --no-hydrate

say "in strace: flush, marks, withheld; then the device, and the order of the finish"
begin
"$bin/ktarget" --portal 127.0.0.1:33211 --iqn iqn.2026-01.k:h --lun "$work/source" --read-only >kt.out 2>&1 &
target=$!
wait_for 10 "the target listens" grep -q . kt.out
rm -f meta meta.*
SOURCE_URL=iscsi://127.0.0.1:33211/iqn.2026-01.k:h/1 create_clone
: >serve.out
strace -f -yy -s 64 -o "$work/strace" -e trace=ioctl,fdatasync,flock,close,shutdown,sendmsg,writev,write,pwrite64 \
	"$bin/kclone" serve --meta "$work/meta" --block --control "$work/control" --head-start 1G >serve.out 2>>serve.err &
serve_pid=$!
wait_for 60 "kclone serves" grep -q serving serve.out
device=$(sed -n 's/.* block=\([^ ]*\).*/\1/p' serve.out)
[ "$(marked)" = $whole ] || fail "marked $(marked) of $whole"
finish_clone
at_line() { grep -nE "$1" strace | tail -"${2:-1}" | head -1 | cut -d: -f1; }
flush=$(at_line "fdatasync\([0-9]+<$work/dest>")
mark=$(grep -nE 'BLKDISCARD' strace | head -1 | cut -d: -f1)
top=$(grep -nE "DM_DEV_CREATE.*name=\"${device##*/}\"" strace | head -1 | cut -d: -f1)
[ "${flush:-0}" -gt 0 ] && [ "$flush" -lt "${mark:-0}" ] && [ "$mark" -lt "${top:-0}" ] || fail "flush at $flush, marks at $mark, device at $top"
last_suspend=$(grep -nE "DM_TABLE_LOAD.*name=\"${device##*/}\"" strace | tail -1 | cut -d: -f1)
resume=$(grep -nE "DM_DEV_SUSPEND.*name=\"${device##*/}\"" strace | tail -1 | cut -d: -f1)
hydrated=$(grep -nE "fdatasync\([0-9]+<$work/meta>" strace | tail -1 | cut -d: -f1)
logout=$(grep -nE 'close\([0-9]+<TCP:\[[^]]*->127.0.0.1:33211' strace | tail -1 | cut -d: -f1)
echo "lines of the trace: flush $flush, first mark $mark, device $top; HYDRATED $hydrated, linear loaded $last_suspend, resumed $resume, source closed ${logout:-?}"
[ "$hydrated" -lt "$last_suspend" ] && [ "$last_suspend" -lt "$resume" ] && [ "$resume" -lt "${logout:-0}" ] || fail "the finish is out of order"
cmp "$device" source || fail "after finish it differs"
stop_serve
kill $target
[ -z "$(dmsetup ls 2>/dev/null | grep -v 'No devices')" ] || fail "devices are left: $(dmsetup ls)"
say "in the order of an access history, recorded on a clone of the user engine"
rm -f meta meta.* umeta umeta.* udest
truncate -s "$size" udest
"$bin/kclone" create --source "$work/source" --dest "$work/udest" --meta "$work/umeta" --engine user
"$bin/kclone" serve --meta "$work/umeta" --fuse "$work/udisk" --control "$work/control" --no-hydrate --trace >serve.out 2>>serve.err &
serve_pid=$!
wait_for 20 "kclone serves" grep -q serving serve.out
wait_for 20 "the source is up" is_field .source.state up
for at in 9 3; do dd if=udisk of=/dev/null bs=64K iflag=direct skip=$((at * 16)) count=1 status=none; done
ask trace --output "$work/history"
ask stop
wait $serve_pid || fail "kclone serve ended with $?"
begin
! "$bin/kclone" serve --meta "$work/meta" --block --control "$work/control" --prefetch "$work/history" 2>refused || fail "without a head start there is no order"
grep -q "is the order of its --head-start" refused || fail "it says $(cat refused)"
serve --no-hydrate --head-start 128K --prefetch "$work/history"
[ "$(marked)" = $((128 << 10)) ] || fail "marked $(marked) of 128 KiB"
for at in 9 3; do cmp -n 65536 -i $((at << 20)) dest source || fail "what the history says of MiB $at was not copied first"; done
! cmp -s -n 65536 dest source || fail "the first region was copied, which the history does not name"
is_the_source || fail "it reads other than the source"
stop_serve
say "stopped before it began: a driver that has no device yet is told too"
rm -f meta meta.* dest && truncate -s "$(stat -c %s source)" dest
create_clone
"$bin/kclone" serve --meta "$work/meta" --block --control "$work/control" --no-attach --head-start 1G >serve.out 2>>serve.err &
serve_pid=$!
wait_for 20 "the head start waits" is_field .kernel.head_start.state waiting
ask stop
ended() { ! kill -0 $serve_pid 2>/dev/null; }
wait_for 20 "kclone serve ends" ended
wait $serve_pid || fail "kclone serve ended with $?"

echo "ok: seed $seed: $cycles deaths in the middle of a head start ($cut cut short, $resumed begun again), nothing but the source was read"
