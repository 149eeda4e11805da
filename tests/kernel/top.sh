#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The user engine under a dm-linear, in a guest whose kernel has device-mapper and no dm-clone: how it ends as a plain linear on the destination,
# with every process killed at every step on the way there, beside a workload that is to notice nothing. usage: top.sh BIN
bin=$1 engine=auto way=top modules=dm-mod
. "$(dirname "$0")/guest.sh"
mib=8
make_source $mib
mapped() { dmsetup table "${device##*/}"; }
is_on() { # DEVICE: is the top a linear on it?
	[ "$(mapped)" = "0 $(sectors "$device") linear $((16#$(stat -c %t "$1"))):$((16#$(stat -c %T "$1"))) 0" ]
}
loop_over() { losetup --noheadings -O NAME -j "$1" | head -n 1; }
processes() { pgrep -f '^kclone (worker|driver)'; }
kill_all() {
	kill -9 $serve_pid $(processes) 2>/dev/null || true
	wait $serve_pid 2>/dev/null || true
	wait_for 10 "all are gone" bash -c "! pgrep -f '^kclone (worker|driver)'"
}
is_alone() { is_field .device.alone true; }
no_other_loop() { ! losetup -a | grep -v "($work/dest)"; }
ready_to_finish() {
	wait_for 60 "every block is here" is_here
	ask verify
	wait_for 60 "verified" is_field .verify.state passed
}
begin() { # OPTIONS of serve
	rm -f meta meta.* dest
	truncate -s ${mib}M dest
	create_clone ${lbs:+--lbs "$lbs"}
	serve "$@"
}
end() { # nothing of ours is left, the destination is whole
	stop_serve
	[ -z "$(dmsetup ls 2>/dev/null | grep kedge)" ] || fail "devices are left: $(dmsetup ls)"
	[ "$(losetup -a | wc -l)" = "${1:-0}" ] || fail "loop devices are left: $(losetup)"
	[ ! -e meta.top ] || fail "META.top is left"
	"$bin/kclone" check --meta "$work/meta" >check.out || fail "check: $(cat check.out)"
}
workload() { # its writes go to the second half, and are read back and compared, until enough; no error, whatever happens below it
	rm -f enough
	echo 0 >rounds
	(
		until [ -e enough ]; do
			fio --name=v --filename="$device" --direct=1 --ioengine=libaio --rw=randwrite --bs=4k-32k --size=1M --offset=$((mib / 2))M \
				--iodepth=4 --verify=crc32c --verify_state_save=0 --do_verify=1 --verify_fatal=1 --loops=2 --fsync=16 --eta=never \
				--output=fio.out || exit 1
			echo $(($(cat rounds) + 1)) >rounds
		done
	) &
	fio=$!
}
has_rounds() { [ "$(cat rounds)" -ge "$1" ] || ! kill -0 $fio; }
workload_ends() { # after a round that began after this
	wait_for 60 "the workload goes on" has_rounds $(($(cat rounds) + 2))
	touch enough
	wait $fio || fail "the workload noticed: $(tail -n 5 fio.out)"
	# what it wrote has been compared; what it did not write is what it was
	cmp -n $((mib * 524288)) dest source || fail "the first half of the destination differs"
}

say "the host has device-mapper and no dm-clone: the user engine, under a linear"
"$bin/kclone" doctor
"$bin/kclone" doctor --json | jq -e '.engine == "user" and .top and (.why | test("no device-mapper target clone"))' >/dev/null || fail "doctor says otherwise"
begin --no-hydrate
is_field .engine user || fail "engine $(field .engine)"
grep -q "^$device$" meta.top || fail "META.top does not name $device"
loop=$(loop_over "$(field .device.fuse)")
is_on "$loop" || fail "not above its loop device: $(mapped)"
is_alone && fail "alone before it is hydrated"

say "a crash while it is open: errors for who has it open, a new device under the name"
dd if=/dev/urandom of=fresh bs=4k count=4 status=none
put fresh 3 "$device"
tail -f /dev/null <>"$device" & # no descriptor of ours, which kclone would inherit
user=$!
old=$(stat -Lc %t:%T "$device")
kill_all
serve --no-hydrate
[ "$(stat -Lc %t:%T "$device")" != "$old" ] || fail "the device of a kclone that was lost goes on as if nothing were"
dmsetup table | grep -q 'lost.* error' || fail "the old device is not an error: $(dmsetup table)"
! dd if=/proc/$user/fd/0 of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null || fail "the old device answers"
get "$device" 3 4 | cmp - fresh || fail "what was flushed is not there"
kill $user
wait_for 10 "the old device is gone" bash -c "! dmsetup table | grep -q lost"

say "served without it: what was left is taken away, unless somebody has it open"
kill_all
exec {hold}<"$device"
must_fail 4 "open or mounted" "$bin/kclone" serve --meta "$work/meta" --block --top never
exec {hold}<&-
way=user
serve --no-hydrate
way=top
[ "${device%loop*}" = /dev/ ] || fail "device $device"
[ -z "$(dmsetup ls 2>/dev/null | grep kedge)" ] && [ ! -e meta.top ] || fail "the old device is left"
get "$device" 3 4 | cmp - fresh || fail "what was flushed is not there"
stop_serve
serve --no-hydrate
end

nr=0
for victims in driver "driver and worker" all; do
	for step in hydrated suspended loaded resumed alone; do
		# the driver alone shows the others
		case $victims/$step in *worker/hydrated | *worker/resumed) continue ;; esac
		nr=$((nr + 1))
		say "$victims killed at: $step"
		rm -f stopped
		KEDGE_FAILPOINT=top.$step KEDGE_FAILPOINT_FILE=$work/stopped begin
		ready_to_finish
		quiet=
		[ "$victims/$step" != all/hydrated ] || quiet=yes # its device dies with kclone, as ever: a power cut
		[ -n "$quiet" ] || workload
		ask finish >finish.out 2>&1 &
		asker=$!
		wait_for 20 "the step $step" test -e stopped
		driver=$(pgrep -f '^kclone driver')
		wait_for 5 "the driver stands" grep -q '^State:.T' "/proc/$driver/status"
		suspended=$(dmsetup info -c --noheadings -o suspended "${device##*/}")
		case $step in
		suspended | loaded) [ "$suspended" = Suspended ] || fail "it is $suspended" ;;
		*) [ "$suspended" = Active ] || fail "it is $suspended" ;;
		esac
		[ -n "$quiet" ] || kill -0 $fio || fail "the workload ended: $(tail -n 5 fio.out)"
		case $victims in
		driver) kill -9 "$driver" ;;
		"driver and worker") kill -9 "$driver" && crash "$(field .worker_pid)" ;;
		all)
			kill_all
			case $step in
			resumed | alone) workload_ends ;; # nobody is there, and nobody is missed
			suspended | loaded) kill -0 $fio || fail "the workload noticed: $(tail -n 5 fio.out)" ;;
			esac
			serve
			;;
		esac
		wait $asker || true # the next worker knows nothing of it
		wait_for 20 "it stands alone" is_alone
		[ -n "$quiet" ] || case $victims/$step in all/resumed | all/alone) ;; *) workload_ends ;; esac
		is_field .state hydrated || fail "state $(field .state)"
		is_on "$(loop_over dest)" || fail "not on the destination: $(mapped)"
		cmp "$device" dest || fail "device and destination differ"
		wait_for 10 "no loop device of ours is left" no_other_loop
		! grep -q fuse.kclone /proc/self/mounts || fail "the file is still mounted"
		end
	done
done

say "the worker killed before it gives the order: the next one gives it"
rm -f stopped
KEDGE_FAILPOINT=top.ordering KEDGE_FAILPOINT_FILE=$work/stopped begin
ready_to_finish
workload
worker=$(field .worker_pid)
ask finish >finish.out 2>&1 &
asker=$!
wait_for 20 "the worker stands" test -e stopped
kill -9 "$worker" # it is stopped
wait $asker || true
wait_for 20 "it stands alone" is_alone
workload_ends
wait_for 10 "no loop device of ours is left" no_other_loop
for n in 3 4; do # one that comes later needs no loop device either
	crash "$(field .worker_pid)"
	wait_for 20 "the next worker" is_field .workers $n
done
no_other_loop || fail "a loop device nobody needs: $(losetup -a)"
end

say "sectors of 4096 bytes stay so; a destination that is a device; one with other sectors keeps kclone"
lbs=4096 begin
[ "$(blockdev --getss "$device")" = 4096 ] || fail "sectors of $(blockdev --getss "$device") before"
finish_clone
is_alone && is_on "$(loop_over dest)" || fail "not on the destination: $(mapped)"
[ "$(blockdev --getss "$device")" = 4096 ] || fail "sectors of $(blockdev --getss "$device") after"
cmp "$device" source || fail "it differs"
end
truncate -s ${mib}M disk
DEST=$(losetup -f --show disk)
begin
finish_clone
is_alone && is_on "$DEST" || fail "not on the destination: $(mapped)"
kill_all
cmp "$device" source || fail "alone it differs"
serve
is_on "$DEST" || fail "served again it is elsewhere: $(mapped)"
end 1
truncate -s 0 disk
truncate -s ${mib}M disk
lbs=4096 begin
finish_clone
grep -q "clone-not-alone.*sectors" serve.err || fail "it does not say why: $(cat serve.err)"
is_alone && fail "alone, with other sectors"
[ "$(blockdev --getss "$device")" = 4096 ] || fail "sectors of $(blockdev --getss "$device") after"
cmp "$device" source || fail "it differs"
stop_serve
serve
is_alone && fail "alone, with other sectors"
cmp "$device" source || fail "served again it differs"
end 1
losetup -d "$DEST"
echo "ok: $((nr + 1)) deaths on the way to the destination, none noticed"
