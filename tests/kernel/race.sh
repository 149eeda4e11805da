#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The racing writer (decision 0001): it writes and flushes numbered blocks and remembers what was acknowledged, while every way of hydrating
# runs beside it. The obvious one, a user-space program that writes the source's blocks back through a live plain dm-clone, loses
# acknowledged writes here; ours lose none. In a guest. usage: race.sh BIN TESTBIN [SEED]
bin=$1 engine=dm racer=$2/racer seed=${3:-$((RANDOM * 32768 + RANDOM))}
. "$(dirname "$0")/guest.sh"
mib=48
max=400000 # writes: a bound, nothing is measured by it
kmod dm-delay
make_source $mib
S=$(loop_of source)
nr=$(sectors "$S")
echo "seed $seed"

writer_begin() { # DEVICE
	rm -f record
	"$racer" write "$1" "$work/record" "$seed" "$max" >writer.out 2>&1 &
	writer=$!
}
writer_end() {
	kill "$writer" 2>/dev/null || true
	wait "$writer" || fail "the writer: $(cat writer.out)"
	cat writer.out
}
lost() { # DEVICE: prints how many acknowledged blocks are not what they were acknowledged as
	local code=0
	"$racer" check "$1" "$work/record" "$work/source" >check.out || code=$?
	cat check.out >&2
	[ "$code" = 0 ] || [ "$code" = 3 ] || fail "the check ended with $code"
	sed -n 's/^lost \([0-9]*\) .*/\1/p' check.out
}
nothing_lost() { # WHAT DEVICE
	local code=0
	grep -q ' 0 lost when read back' writer.out || fail "$1: $(cat writer.out)"
	"$racer" check "$2" "$work/record" "$work/source" >check.out || code=$?
	[ "$code" = 0 ] || fail "$1: $(cat check.out)"
	echo "$1: $(cat check.out)"
}
ours_begin() { # OPTIONS of serve
	rm -f meta meta.*
	head -c $((mib * 1048576)) /dev/zero | tr '\0' 'D' >dest # what lay there before: never to be read (K2)
	create_clone --region 4096 # as the blocks are: a write copies nothing, and whoever comes second wins
	serve "$@"
}
# ours_end WHAT: hydrated under the writer, then finished; nothing is lost, live and alone
ours_end() {
	wait_for 90 "$1: every block is here" is_here
	writer_end
	nothing_lost "$1, live" "$device"
	windows_bytes=$(field .kernel.windows.bytes)
	[ "$windows_bytes" = 0 ] || field '"\(.kernel.windows.nr) windows, \(.kernel.windows.bytes / 1048576) MiB, the longest \(.kernel.windows.max_us / 1000) ms"'
	finish_clone
	nothing_lost "$1, alone" "$device"
	stop_serve
}

say "a hydrator that writes back through a live plain dm-clone"
truncate -s 0 pd pm
truncate -s ${mib}M pd
truncate -s 4M pm
PD=$(loop_of pd) PM=$(loop_of pm)
dm plain "0 $nr clone $PM $PD $S 8 1 no_hydration"
writer_begin /dev/mapper/plain
"$racer" naive "$S" /dev/mapper/plain 1048576 20
writer_end
lost=$(lost /dev/mapper/plain)
[ "$lost" -gt 0 ] || fail "the obvious hydrator lost nothing: the writer does not race"
echo "naive: lost $lost acknowledged blocks"
dmsetup remove --noudevsync plain
losetup -d "$PD" "$PM"

say "the governor"
ours_begin --no-hydrate
writer_begin "$device"
ask hydrate
ours_end "governor"

say "a head start, then boot"
ours_begin --no-hydrate --head-start 20M
marked=$(field .kernel.head_start.marked_bytes)
[ "$marked" = $((20 * 1048576)) ] || fail "a head start of 20 MiB marked $marked bytes"
cmp "$device" source || fail "after a head start it reads other than the source"
writer_begin "$device"
ask hydrate
ours_end "head start of $((marked / 1048576)) MiB, then the governor"

say "quiesce windows, whose worker and driver die now and then"
ours_begin --windows 512K --rate 1M
writer_begin "$device"
deaths=0
more_windows() { [ "$(field .kernel.windows.nr)" -gt $((n + 1)) ] || is_field .kernel.windows.on false; }
for who in driver worker driver driver; do
	n=$(field .kernel.windows.nr)
	wait_for 20 "windows go on" more_windows
	is_field .kernel.windows.on true || break
	crash "$(pgrep -f "^kclone $who")"
	deaths=$((deaths + 1))
done
[ $deaths -ge 2 ] || fail "only $deaths died in the time of windows: nothing is proven"
ask rate --rate 0
ours_end "windows"
[ "$windows_bytes" -gt 1048576 ] || fail "only $windows_bytes bytes were written in windows: they were not tried"
[ "$(grep -c 'was ended by signal' serve.err)" -ge $deaths ] || fail "not all $deaths deaths were seen"
say "large windows, and metadata that is slow to read: what the bitmap says is old by then, unless nobody writes meanwhile"
rm -f meta meta.*
create_clone --region 4096
mv meta.dm kernel.img
M=$(loop_of kernel.img)
dm slow "0 $(sectors "$M") delay $M 0 40 $M 0 0"
ln -s /dev/mapper/slow meta.dm
serve --no-hydrate --windows 4M
writer_begin "$device"
ask hydrate
ours_end "windows over slow metadata"
dmsetup remove --noudevsync slow
losetup -d "$M"

losetup -d "$S"
[ -z "$(dmsetup ls 2>/dev/null | grep -v 'No devices')" ] || fail "devices are left: $(dmsetup ls)"
echo "ok: seed $seed: the obvious hydrator lost $lost acknowledged blocks, ours none"
