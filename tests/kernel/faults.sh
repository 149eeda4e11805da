#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The faults of kernel dm-clone (K1 to K5, design/engine.md): each one reproduced on plain dm-clone in this very kernel, and absent or contained
# in ours. In a guest. usage: faults.sh BIN
bin=$1 engine=dm
. "$(dirname "$0")/guest.sh"
kmod dm-delay
kmod dm-flakey
mib=32
make_source $mib
head -c 4096 /dev/zero | tr '\0' 'N' >new
head -c 65536 /dev/zero | tr '\0' 'S' >secret
S=$(loop_of source)
nr=$(sectors "$S")

# plain [OPTIONS]: a clone as dmsetup makes it, of 64 KiB regions, over $source_dev
plain_begin() {
	rm -f pd pm
	truncate -s ${mib}M pd
	truncate -s 4M pm
	PD=$(loop_of pd) PM=$(loop_of pm)
	dm plain "0 $nr clone ${2:-$PM} $PD $1 128 1 no_hydration"
}
plain_end() {
	dmsetup remove --noudevsync plain
	losetup -d "$PD" "$PM"
}
ours_begin() { # OPTIONS of serve
	rm -f meta meta.* dest
	truncate -s ${mib}M dest
	create_clone
	serve "$@"
}
is_new() { get "$1" "$2" 1 | cmp -s - new; }
is_source() { cmp -s <(get "$1" "$2" 1) <(dd if=source bs=4k skip="$2" count=1 status=none); }

say "K1: a discard during a copy, then a write that is flushed: the late copy lands on it"
dm slow "0 $nr delay $S 0 700"
plain_begin /dev/mapper/slow
dd if=new of=/dev/mapper/plain bs=4k seek=32 oflag=direct conv=notrunc status=none & # region 2: begins to copy it
writer=$!
sleep 0.25
blkdiscard -f -o $((2 * 65536)) -l 65536 /dev/mapper/plain
dd if=new of=/dev/mapper/plain bs=4k seek=40 oflag=direct conv=notrunc,fsync status=none
is_new /dev/mapper/plain 40 || fail "K1: the write is not even there at first"
wait $writer
sleep 1
if is_new /dev/mapper/plain 40; then fail "K1 is not reproduced: mended in this kernel?"; fi
is_source /dev/mapper/plain 40 || fail "K1: neither old nor new"
echo "plain: reproduced: a write that was flushed was overwritten by the source's data"
plain_end
dmsetup remove --noudevsync slow
ours_begin --no-hydrate
for name in "${device##*/}" "${device##*/}.clone"; do
	sys=/sys/dev/block/$(dmsetup info -c --noheadings -o major,minor --separator : "$name" | tr -d ' ')
	[ "$(cat "$sys/queue/discard_max_bytes")" = 0 ] || fail "K1: $name takes discards"
done
! blkdiscard -f -o $((2 * 65536)) -l 65536 "$device" 2>/dev/null || fail "K1: a discard went through"
is_source "$device" 40 || fail "K1: a refused discard changed something"
echo "ours: discards are withheld until the clone stands alone"
ask hydrate
finish_clone
blkdiscard -f -o $((2 * 65536)) -l 65536 "$device" || fail "K1: discards stay withheld from the clone that stands alone"
stop_serve

say "K2: a discard of a region that was never copied shows what lay on the destination"
plain_begin "$S"
dmsetup remove --noudevsync plain
dd if=secret of="$PD" bs=64k seek=5 conv=notrunc,fsync oflag=direct status=none
dm plain "0 $nr clone $PM $PD $S 128 1 no_hydration"
blkdiscard -f -o $((5 * 65536)) -l 65536 /dev/mapper/plain
if get /dev/mapper/plain 80 16 | cmp -s - secret || ! get /dev/mapper/plain 80 16 | cmp -s - /dev/zero -n 65536; then
	got=$(get /dev/mapper/plain 80 16 | tr -d '\0' | head -c 8)
else
	got=zeroes
fi
# the discard is passed down here, to a loop device that zeroes: only without passdown are the old bytes seen
plain_end
rm -f pd pm
truncate -s ${mib}M pd && truncate -s 4M pm
PD=$(loop_of pd) PM=$(loop_of pm)
dd if=secret of="$PD" bs=64k seek=5 conv=notrunc,fsync oflag=direct status=none
dm plain "0 $nr clone $PM $PD $S 128 2 no_hydration no_discard_passdown"
blkdiscard -f -o $((5 * 65536)) -l 65536 /dev/mapper/plain
get /dev/mapper/plain 80 16 | cmp -s - secret || fail "K2 is not reproduced"
echo "plain: reproduced: the old bytes of the destination are read (with passdown to this destination: ${got:-other})"
plain_end
rm -f meta meta.*
truncate -s 0 dest && truncate -s ${mib}M dest
dd if=secret of=dest bs=64k seek=5 conv=notrunc status=none
create_clone
serve --no-hydrate
! blkdiscard -f -o $((5 * 65536)) -l 65536 "$device" 2>/dev/null || fail "K2: a discard went through"
is_source "$device" 80 || fail "K2: the destination's old bytes are read"
echo "ours: the discard is refused, the source's data is read"
stop_serve

say "K3: the metadata device is zeroed between two starts"
plain_begin "$S"
put new 48 /dev/mapper/plain
is_new /dev/mapper/plain 48 || fail "K3: the write is not there"
dmsetup remove --noudevsync plain
dd if=/dev/zero of="$PM" bs=4k count=1 conv=fsync oflag=direct status=none
dm plain "0 $nr clone $PM $PD $S 128 1 no_hydration" || fail "K3 is not reproduced: the kernel refused"
is_source /dev/mapper/plain 48 || fail "K3 is not reproduced"
echo "plain: reproduced: formatted anew without a word, and acknowledged data reads back as the source's"
plain_end
ours_begin
ask pause
dd if=new of="$device" bs=4k seek=48 conv=notrunc,fsync oflag=direct status=none
ask commit
sleep 1.3 # the record of progress
stop_serve
cp meta.dm meta.dm.good
for how in zeroed older cut damaged; do
	case $how in
	zeroed) dd if=/dev/zero of=meta.dm bs=4k count=1 conv=notrunc status=none && want=21 ;;
	older) # a formatted one, of the same geometry, with less in it
		rm -f x.meta x.meta.* x.dest && truncate -s ${mib}M x.dest
		"$bin/kclone" create --source "$work/source" --dest "$work/x.dest" --meta "$work/x.meta" --engine dm
		"$bin/kclone" serve --meta "$work/x.meta" --control "$work/x.c" --no-hydrate >x.out 2>&1 &
		wait_for 10 "the other clone" grep -q serving x.out
		"$bin/kclone" stop --control "$work/x.c" && wait $!
		cp x.meta.dm meta.dm && want=23 ;;
	cut) truncate -s 8192 meta.dm && want=24 ;;
	damaged) dd if=/dev/urandom of=meta.dm bs=4k count=1 seek=2 conv=notrunc status=none && dd if=/dev/urandom of=meta.dm bs=4k count=6 seek=3 conv=notrunc status=none && want=24 ;;
	esac
	must_fail $want "meta" "$bin/kclone" serve --meta "$work/meta" --control "$work/control" --no-hydrate
	must_fail $want "meta" "$bin/kclone" check --meta "$work/meta"
	cp meta.dm.good meta.dm
	echo "ours: metadata $how: refused with $want, nothing formatted"
done
serve --no-hydrate
is_new "$device" 48 || fail "K3: the good metadata is refused"
stop_serve

say "K4: the metadata device fails while the clone is live"
rm -f pm2 && truncate -s 4M pm2 && PM2=$(loop_of pm2)
dm fm "0 $(sectors "$PM2") linear $PM2 0"
plain_begin "$S" /dev/mapper/fm
swap_dm fm "0 $(sectors "$PM2") flakey $PM2 0 0 600 1 error_writes"
dd if=new of=/dev/mapper/plain bs=4k seek=64 oflag=direct conv=notrunc status=none # acknowledged
is_new /dev/mapper/plain 64 || fail "K4: the write is not there"
dd if=new of=/dev/mapper/plain bs=4k seek=96 oflag=direct conv=notrunc,fsync status=none 2>/dev/null || true
sleep 1.5
mode=$(dmsetup status plain | awk '{print $NF}')
[ "$mode" = ro ] || [ "$mode" = Fail ] || fail "K4: the mode is $mode"
if is_source /dev/mapper/plain 64; then
	echo "plain: reproduced: mode $mode, and acknowledged data reads back as the source's"
else
	fail "K4 is not reproduced: mode $mode, not the source's data"
fi
dmsetup remove --noudevsync plain
dmsetup remove --noudevsync fm
losetup -d "$PD" "$PM" "$PM2"
rm -f meta meta.* dest && truncate -s ${mib}M dest
create_clone
mv meta.dm kernel-meta
PM2=$(loop_of kernel-meta)
dm fm "0 $(sectors "$PM2") linear $PM2 0"
ln -s /dev/mapper/fm meta.dm
serve --no-hydrate
swap_dm fm "0 $(sectors "$PM2") flakey $PM2 0 0 600 1 error_writes"
dd if=new of="$device" bs=4k seek=64 oflag=direct conv=notrunc status=none
dd if=new of="$device" bs=4k seek=96 oflag=direct conv=notrunc,fsync status=none 2>/dev/null || true
wait_for 3 "the failure is noticed" is_field .state failed
! get "$device" 64 1 >got 2>/dev/null || { cmp -s got new || fail "K4: old data is read"; fail "K4: it still hands out data"; }
grep -q "never with old data" serve.err || fail "K4: nobody was told"
echo "ours: noticed, reported as failed, reads get an error and never old data"
swap_dm fm "0 $(sectors "$PM2") linear $PM2 0"
stop_serve || true
dmsetup remove --noudevsync fm
losetup -d "$PM2"

say "K5: the source is dead"
dm dead "0 $nr error"
plain_begin /dev/mapper/dead
dmsetup message plain 0 hydration_threshold 64
dmsetup message plain 0 hydration_batch_size 16
busy() { awk '/^cpu /{print $2 + $3 + $4 + $7 + $8}' /proc/stat; }
dmsetup message plain 0 enable_hydration
b0=$(busy)
sleep 3
b1=$(busy)
dmsetup message plain 0 disable_hydration
burnt=$((b1 - b0))
lines=$(dmesg | grep -c "hydration failed" || true)
[ "$lines" -gt 0 ] || fail "K5 is not reproduced"
dmsetup status plain | grep -q ' rw$' || fail "K5: the mode changed"
echo "plain: reproduced: $burnt of 300 ticks of the CPU burnt in 3 s, status still rw, nothing but the log tells"
plain_end
dmsetup remove --noudevsync dead
"$bin/ktarget" --portal 127.0.0.1:33210 --iqn iqn.2026-01.k:x --lun "$work/source" --read-only >kt.out 2>&1 &
target=$!
wait_for 10 "ktarget" grep -q listening kt.out
SOURCE_URL=iscsi://127.0.0.1:33210/iqn.2026-01.k:x/1
rm -f meta meta.* dest && truncate -s ${mib}M dest
create_clone
serve --rate 2M
wait_for 10 "hydration goes" bash -c "[ \$('$bin/kclone' status --control '$work/control' --json | jq .here_bytes) -gt 1000000 ]"
# A read that its source does not answer holds up nobody else: no dose waits for it.
worker=$(field .worker_pid)
kill -STOP "$worker"
dd if="$device" bs=4k skip=$((mib * 256 - 2)) count=1 iflag=direct of=got2 status=none &
reader=$!
for ((i = 0; i < 12; i++)); do
	timeout 20 dd if=source of="$device" bs=64k skip=1 seek=1 count=1 oflag=direct conv=notrunc,fsync status=none || fail "K5: a write waits for a read of the source"
	sleep 0.3
done
kill -0 $reader 2>/dev/null || fail "K5: a read of a source that does not answer ended"
kill -CONT "$worker"
wait $reader || fail "K5: the read that waited failed"
cmp got2 <(dd if=source bs=4k skip=$((mib * 256 - 2)) count=1 status=none) || fail "K5: the read that waited got something else"
before=$(dmesg | grep -c "hydration failed" || true)
kill $target
wait $target || true
wait_for 20 "the source is missed" is_field .source.state away
sleep 1
b0=$(busy)
sleep 3
b1=$(busy)
mine=$((b1 - b0))
[ "$(dmesg | grep -c 'hydration failed' || true)" = "$before" ] || fail "K5: hydration failed instead of waiting"
[ $((mine * 5)) -lt "$burnt" ] || fail "K5: $mine ticks with a dead source, plain $burnt"
dd if="$device" bs=4k skip=$((mib * 256 - 1)) count=1 iflag=direct of=got status=none &
reader=$!
sleep 1
kill -0 $reader 2>/dev/null || fail "K5: a read of a dead source ended"
echo "ours: source away is said, $mine of 300 ticks, reads wait, nothing fails"
"$bin/ktarget" --portal 127.0.0.1:33210 --iqn iqn.2026-01.k:x --lun "$work/source" --read-only >kt.out 2>&1 &
target=$!
wait $reader || fail "K5: the read that waited failed"
cmp got <(dd if=source bs=4k skip=$((mib * 256 - 1)) count=1 status=none) || fail "K5: the read that waited got something else"
ask rate --rate 0
finish_clone
cmp "$device" source || fail "K5: after the source came back it differs"
stop_serve
kill $target
losetup -d "$S"
[ -z "$(dmsetup ls 2>/dev/null | grep -v 'No devices')" ] || fail "devices are left: $(dmsetup ls)"
echo "ok: K1 to K5: each reproduced on plain dm-clone and absent or contained in ours"
