#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What nobody gets from a kernel clone while it needs it itself: its head start's source, its destination. In a guest.
# usage: refusals.sh BIN
bin=$1 engine=dm
. "$(dirname "$0")/guest.sh"
. "$(dirname "$0")/guest_names.sh"
make_source 12
size=$(size_bytes)
start_target() { # SERIAL
	"$bin/ktarget" --portal 127.0.0.1:33212 --iqn $iqn --lun "$work/source" --serial "$1" --read-only >kt.out 2>&1 &
	target=$!
	wait_for 10 "the target listens" grep -q listening kt.out
}
end_target() {
	kill -9 "$target"
	wait "$target" 2>/dev/null || true
}

say "the source becomes another volume in the middle of a head start: no other one is attached while copies from it are still being written"
loop=$(loop_of dest)
dm slow "0 $((size / 512)) linear $loop 0"
start_target $volume.7
DEST=/dev/mapper/slow SOURCE_URL=iscsi://127.0.0.1:33212/$iqn/1 create_clone --size "$size" --serial $volume.7
"$bin/kclone" serve --meta "$work/meta" --block --control "$work/control" --no-hydrate --head-start 1G --rate 2M >serve.out 2>>serve.err &
serve_pid=$!
wait_for 20 "kclone answers" field .state
wait_for 20 "it copies" is_field '.kernel.head_start.copied_bytes > 0' true
dmsetup suspend --noudevsync --noflush --nolockfs slow
wait_for 20 "something was read that cannot be written" is_field '.source.read_bytes > .kernel.head_start.copied_bytes' true
end_target
start_target $volume.8
wait_for 30 "the source is refused" is_field .source.state refused
must_fail 1 "head start from the refused source is still ending" ask attach
is_field .kernel.head_start.state copying || fail "the head start is $(field .kernel.head_start.state)"
end_target
start_target $volume.7
must_fail 1 "head start from the refused source is still ending" ask attach
dmsetup resume --noudevsync slow
wait_for 20 "attached anew" ask attach
wait_for 30 "the device comes" grep -q serving serve.out
device=$(sed -n 's/.* block=\([^ ]*\).*/\1/p' serve.out)
[ "$(field .kernel.head_start.marked_bytes)" -lt "$size" ] || fail "the head start was not cut short: nothing is proven"
dd if="$device" bs=1M iflag=direct status=none | cmp - source || fail "it reads other than the source"
stop_serve
end_target
dmsetup remove --noudevsync slow
losetup -d "$loop"
rm -f meta meta.*

say "no second clone on its destination: a file is locked while kclone runs, and in use for as long as the kernel's devices are there"
unset DEST SOURCE_URL
is_locked() { ! flock -n dest true; }
second() { "$bin/kclone" create --source "$work/source" --dest "${1:-$work/dest}" --meta "$work/other" "${@:2}"; }
create_clone
second "" --engine user # before anybody serves it, nobody knows
third() { "$bin/kclone" "$@" --meta "$work/third"; }
third create --source "$work/source" --dest "$work/dest" --engine dm
cp other fourth
cp other.seen fourth.seen
must_not_serve() { # WORDS META
	must_fail 27 "$1" timeout 30 "$bin/kclone" serve --meta "$work/$2" --block --control "$work/control2" --no-hydrate
}
serve --no-hydrate
is_locked || fail "no lock on the destination"
must_not_serve "in use" other
must_not_serve "in use: kedge-.*clone is over it" third
rm -f other other.*
must_fail 27 "in use" second "" --engine user
[ ! -e other ] && [ ! -e other.seen ] || fail "a refused create left its metadata"
crash "$(field .worker_pid)"
is_locked || fail "the worker's death let go of the destination"
wait_for 20 "the next worker" field .state
kill -9 "$(pgrep -f '^kclone driver')"
must_fail 27 "in use" second "" --engine dm
wait_for 20 "the next driver has the lock" is_locked
must_fail 27 "in use" second ""
say "… when all of kclone was killed, and again served"
kill -9 $serve_pid $(pgrep -f '^kclone (worker|driver)') 2>/dev/null || true
wait $serve_pid 2>/dev/null || true
wait_for 10 "all are gone" bash -c "! pgrep -f '^kclone (worker|driver)'"
must_fail 27 "in use: /dev/loop" second ""
must_not_serve "in use: /dev/loop" fourth
must_not_serve "in use: kedge-.*clone is over it" third
serve
is_locked || fail "no lock on the destination of a clone that is served again"
finish_clone
is_locked || fail "no lock after finish"
must_fail 27 "in use" second ""
cmp "$device" source || fail "it differs"
say "… when it has finished, and kclone is gone"
kill -9 $serve_pid $(pgrep -f '^kclone (worker|driver)') 2>/dev/null || true
wait $serve_pid 2>/dev/null || true
wait_for 10 "all are gone" bash -c "! pgrep -f '^kclone (worker|driver)'"
must_not_serve "in use: /dev/loop" fourth
must_not_serve "in use: kedge-.* is over it" third
serve
cmp "$device" source || fail "served again it differs"
stop_serve
! is_locked || fail "the destination is still locked after stop"
second "" || fail "refused after the end: $(cat "$work/err")"
rm -f meta meta.* other other.* third third.* fourth fourth.*

say "… nor on a destination that is a device: the kernel's clone claims it"
loop=$(loop_of dest)
DEST=$loop create_clone
third create --source "$work/source" --dest "$loop" --engine dm
serve --no-hydrate
must_fail 1 "busy" second "$loop"
kill -9 $serve_pid $(pgrep -f '^kclone (worker|driver)') 2>/dev/null || true
wait $serve_pid 2>/dev/null || true
must_fail 1 "busy" second "$loop"
wait_for 10 "all are gone" bash -c "! pgrep -f '^kclone (worker|driver)'"
must_not_serve "in use: kedge-.*clone is over it" third
serve --no-hydrate
stop_serve
second "$loop" || fail "refused after the end"
losetup -d "$loop"
[ -z "$(dmsetup ls 2>/dev/null | grep kedge)" ] || fail "devices are left: $(dmsetup ls)"
[ -z "$(losetup -a)" ] || fail "loop devices are left: $(losetup)"
echo "ok: refused"
