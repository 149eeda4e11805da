#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# One boot of power_cut.sh's guest: destination and the file system with the metadata are files on ubda, behind loop devices. What the last cycle acknowledged is judged;
# then the next cycle writes until the cut, or the clone is brought to its end.
# usage: power_cut_guest.sh BIN TESTBIN ENGINE DIR SEED write|end CYCLE
bin=$1 tests=$2 engine=$3 dir=$4 seed=$5 mode=$6 cycle=$7
. "$(dirname "$0")/guest.sh"
mkdir below disk
mount /dev/ubda below || fail "the disk does not mount"
D=$(loop_of below/dest) M=$(loop_of below/meta) S=$(loop_of "$dir/source")
mount "$M" disk || fail "the file system of the metadata does not mount"
[ -e disk/meta ] || { [ "$cycle" = 1 ] && "$bin/kclone" create --source "$S" --dest "$D" --meta "$work/disk/meta" --engine "$engine"; } ||
	fail "the metadata is gone"
sync
"$bin/kclone" check --meta "$work/disk/meta" || fail "check"
ln -s disk/meta meta # serve() says meta
"$bin/kclone" serve --meta "$work/disk/meta" --block --control "$work/control" --rate 2M >serve.out 2>serve.err &
serve_pid=$!
wait_for 30 "kclone serves" grep -q serving serve.out
device=$(sed -n 's/.* block=\([^ ]*\).*/\1/p' serve.out)
if [ "$cycle" != 1 ]; then
	# a boot that was cut before the first acknowledgement has none
	last=$(tail -n 1 "$dir/acks-$((cycle - 1))")
	"$tests/ackblocks" check "$device" "$seed" $((cycle - 1)) "${last:-0}" "$S" "$dir/state" || fail "cycle $((cycle - 1))"
fi
if [ "$mode" = write ]; then
	[ $((cycle % 2)) = 0 ] || "$tests/ackblocks" leak "$seed" "$cycle" 30 below/dest below/meta &
	exec "$tests/ackblocks" write "$device" "$seed" "$cycle" 1000000 "$dir/acks-$cycle"
fi
ask rate --rate 0
size_bytes() { blockdev --getsize64 "$device"; }
finish_clone
"$tests/ackblocks" check "$device" "$seed" "$cycle" 0 "$S" "$dir/state" || fail "alone"
wait_state=$(field .state)
[ "$wait_state" = hydrated ] || fail "state $wait_state"
written=$(field .written_bytes)
stop_serve
"$tests/ackblocks" check "$D" "$seed" "$cycle" 0 "$S" "$dir/state" || fail "destination"
"$bin/kclone" check --meta "$work/disk/meta" >/dev/null || fail "check"
umount disk
losetup -d "$D" "$M" "$S"
umount below
echo "brought to its end, $written bytes written by then"
