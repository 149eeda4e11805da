#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Writes of ours that are still on their way when who made them is dead. In a guest. usage: late.sh BIN
bin=$1 engine=dm
. "$(dirname "$0")/guest.sh"
make_source 8
size=$(size_bytes)

say "a worker killed with copies of a head start on their way: the clone is not handed out before they have landed"
loop=$(loop_of dest)
dm slow "0 $((size / 512)) linear $loop 0"
DEST=/dev/mapper/slow create_clone
: >serve.out
strace -f -o strace -e trace=flock "$bin/kclone" serve --meta "$work/meta" --block --control "$work/control" --no-hydrate --no-attach --head-start 1G \
	>serve.out 2>serve.err &
serve_pid=$!
wait_for 20 "the head start waits" is_field .kernel.head_start.state waiting
dmsetup suspend --noudevsync --noflush --nolockfs slow
ask attach
wait_for 20 "copies are on their way" is_field '.source.read_bytes >= 1048576' true
[ "$(field .kernel.head_start.copied_bytes)" = 0 ] || fail "it was written: $(field .kernel.head_start.copied_bytes)"
kill -9 "$(field .worker_pid)"
driver=$(pgrep -f '^kclone driver')
wait_for 20 "the driver waits for the dead worker's lock" grep -q "^$driver  *flock(.*EAGAIN" strace
is_field .workers 2 || fail "workers: $(field .workers)"
! grep -q serving serve.out || fail "handed out while copies are on their way"
dmsetup resume --noudevsync slow
wait_for 20 "the device comes" grep -q serving serve.out
device=$(sed -n 's/.* block=\([^ ]*\).*/\1/p' serve.out)
[ "$(field .kernel.head_start.marked_bytes)" = 0 ] || fail "marked $(field .kernel.head_start.marked_bytes) of what nobody saw written"
head -c 65536 /dev/urandom >fresh
put fresh 0 "$device"
get "$device" 0 16 | cmp - fresh || fail "a late copy landed on a write"
cmp <(get "$device" 16 $((size / 4096 - 16))) <(tail -c +65537 source) || fail "it reads other than the source"
stop_serve
dmsetup remove --noudevsync slow
losetup -d "$loop"
rm -f meta meta.* dest
echo "ok: late writes"
