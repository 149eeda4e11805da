#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Sessions of the kernel's own initiator that a killed kclone left, or that it leaves for the feed, and disks that a clone cannot have. In a
# guest. usage: attach_left.sh BIN
bin=$1 engine=dm
. "$(dirname "$0")/guest.sh"
. "$(dirname "$0")/guest_iscsi.sh"
make_source 32
head -c "$(size_bytes)" /dev/urandom >other
start_iscsid

block() { dd if="$1" bs=4k skip="$2" count=1 status=none; }
flags() { # of the newest superblock
	local a b
	a=$(od -An -tu8 -j24 -N8 meta) b=$(od -An -tu8 -j$((65536 + 24)) -N8 meta)
	echo $(($(od -An -tu4 -j$(((b > a ? 65536 : 0) + 132)) -N4 meta)))
}
kill_kclone() {
	# shellcheck disable=SC2046
	kill -9 "$serve_pid" $(pgrep -f '^kclone (worker|driver)') 2>/dev/null || true
	wait "$serve_pid" 2>/dev/null || true
	wait_for 10 "all are gone" bash -c "! pgrep -f '^kclone (worker|driver)'"
}
is_connected_again() { is_session state LOGGED_IN && [ "$(connection local_port)" != "$1" ]; }
# swap_target [SERIAL FILE]: another process in its place, and the kernel's session is up again
swap_target() {
	local port
	port=$(connection local_port)
	kill_target
	start_target "$@"
	wait_for 60 "the kernel has connected again" is_connected_again "$port"
}
begin() { # OPTIONS: a clone that is attached
	create_kernel_clone
	start_target
	serve "$@"
	wait_for 30 "attached" is_attached
}
no_device() { ! dd if="$device" bs=4k count=1 skip=7000 iflag=direct of=got status=none 2>/dev/null; }
is_deceived() {
	wait_for 60 "failed" is_field .state failed
	field .kernel.source.error | grep -q "$volume.8" || fail "it does not say whom it found: $(field .kernel.source.error)"
	[ $(($(flags) & 64)) = 64 ] || fail "the record says $(flags)"
	no_device || fail "it still serves"
}

is_led() { [ $(($(flags) & 128)) = 128 ]; }

say "a stop while the session is away: it may connect until it is logged out, and so the next driver asks; a stop while it is up leaves nothing to ask"
begin --no-hydrate
kill_target
wait_for 30 "the session is missed" is_field .kernel.source.state away
stop_serve
no_sessions || fail "sessions are left: $(sids)"
is_led || fail "the record says $(flags): nobody would ask"
start_target
serve --no-hydrate
wait_for 30 "attached" is_attached
grep -q "event SOURCE_UNWATCHED" serve.err || fail "nobody was told: $(cat serve.err)"
cmp "$device" source || fail "it differs"
stop_serve
! is_led || fail "the record says $(flags)"
stop_target
nothing_left

say "the driver dies, the kernel finds another volume, the next driver looks: never trusted again"
begin --no-hydrate
kill -STOP "$serve_pid" # who would start the next one at once
kill -9 "$(pgrep -f '^kclone driver')"
swap_target $volume.8 other
get "$device" 5000 1 | cmp - <(block other 5000) || fail "the kernel does not read what this test is about"
kill -CONT "$serve_pid"
is_deceived
stop_serve || true
wait_for 10 "logged out" no_sessions
must_fail 30 "not to be trusted" "$bin/kclone" serve --meta "$work/meta" --control "$work/control"
stop_target
nothing_left

say "likewise when all of kclone dies"
begin --no-hydrate
kill_kclone
swap_target $volume.8 other
serve --no-hydrate
is_deceived

say "a driver that dies between its record and the device: the next start ends what still serves"
kill_kclone
swap_dm "${device##*/}" "0 $(($(size_bytes) / 512)) linear /dev/loop0 0" # as if it had not been ended
! no_device || fail "there is nothing to end"
must_fail 30 "not to be trusted" "$bin/kclone" serve --meta "$work/meta" --control "$work/control"
no_device || fail "it still serves"
"$bin/kclone" abort --meta "$work/meta"
stop_target
nothing_left

say "the devices and the session are gone, the record is not: another volume at the first login is one that may have been read"
begin --no-hydrate
kill_kclone
for name in "${device##*/}" "${device##*/}.clone" "${device##*/}.source"; do dmsetup remove --noudevsync "$name"; done
losetup -D
iscsiadm -m session -r "$(sids)" --logout >/dev/null
stop_target
serve --no-hydrate
dd if="$device" bs=4k count=1 skip=6000 iflag=direct of=got status=none 2>/dev/null & # waits, and holds nobody up
reader=$!
start_target $volume.8 other
is_deceived
! wait $reader || fail "the read that waited got something"
stop_serve || true
stop_target
nothing_left

say "the same volume, in another connection: taken over, and said"
begin --no-hydrate
kill_kclone
swap_target
sid=$(sids)
serve --no-hydrate
wait_for 30 "attached" is_attached
[ "$(sids)" = "$sid" ] || fail "another session: $(sids)"
grep -q "event SOURCE_UNWATCHED" serve.err || fail "nobody was told: $(cat serve.err)"
cmp "$device" source || fail "it differs"

say "in its old connection, and its reads wait, as a hand-over to the feed leaves it that comes no further: they go on"
kill_kclone
dmsetup suspend --noudevsync --noflush --nolockfs "${device##*/}.source"
serve --no-hydrate
is_running() { [ "$(dmsetup info -c --noheadings -o suspended "${device##*/}.source")" = Active ]; }
wait_for 30 "reads go on" is_running
cmp "$device" source || fail "it differs"

say "the disk is somebody else's: reads wait, status says why, and nothing fails; then the clone has it"
kill_kclone
for name in "${device##*/}" "${device##*/}.clone" "${device##*/}.source"; do dmsetup remove --noudevsync "$name"; done
disk=/dev/$(ls /sys/block | grep ^sd)
perl -MFcntl -e 'sysopen(F, shift, O_RDONLY | O_EXCL) or die; $| = 1; print "has it\n"; sleep' "$disk" >holder.out &
holder=$!
wait_for 10 "somebody has the disk" grep -q "has it" holder.out
serve --no-hydrate
wait_for 30 "it says why" bash -c "'$bin/kclone' status --control '$work/control' --json | jq -r .kernel.source.error | grep -q 'cannot have it'"
is_field .kernel.source.state logging-in || fail "status: $(field .kernel.source)"
dd if="$device" bs=4k count=1 skip=77 iflag=direct of=got status=none &
reader=$!
[ "$(dmsetup info -c --noheadings -o suspended "${device##*/}.source")" = Suspended ] || fail "reads do not wait: $(dmsetup info "${device##*/}.source")"
kill -0 $reader || fail "a read of a source that is not there ended"
kill $holder
wait $holder 2>/dev/null || true
wait $reader || fail "the read that waited failed"
cmp got <(block source 77) || fail "the read that waited got something else"
wait_for 30 "attached" is_attached
! grep "event SOURCE_UNWATCHED" serve.err || fail "the connection is the one that was asked"

say "to the feed from a session that is dead: what it has in flight fails, and nobody waits for it"
kill_target
wait_for 30 "the session is missed" is_field .kernel.source.state away
dd if="$device" bs=4k count=1 skip=6000 iflag=direct of=got status=none 2>/dev/null &
reader=$!
wait_for 10 "the read is under way" bash -c "[ \$(awk '{print \$9}' '/sys/block/$(dmsetup info -c --noheadings -o blkdevname "${device##*/}")/stat') -gt 0 ]"
kill_kclone
serve --source-attach feed --no-hydrate
! wait $reader || fail "the read ended well without a source"
no_sessions || fail "sessions are left: $(sids)"
start_target
wait_for 30 "the feed is up" is_field .source.state up
cmp "$device" source || fail "over the feed it differs"
stop_serve
nothing_left

say "to the feed from a session that became another volume"
stop_target
begin --no-hydrate
kill_kclone
swap_target $volume.8 other
must_fail 30 "not to be trusted" "$bin/kclone" serve --meta "$work/meta" --control "$work/control" --block --source-attach feed
[ $(($(flags) & 64)) = 64 ] || fail "the record says $(flags)"
no_device || fail "it still serves"
"$bin/kclone" abort --meta "$work/meta"
stop_target
nothing_left

say "a stop while a login is under way leaves no session behind"
begin --no-hydrate
kill -STOP "$target"
iscsiadm -m session -r "$(sids)" --logout >/dev/null
wait_for 30 "a login is under way" pgrep -f '^iscsiadm -m node .*--login'
ask stop &
stop=$!
wait_for 20 "it ends" is_field .kernel.source.state ending
wait $stop || fail "stop failed"
wait "$serve_pid" || fail "kclone serve ended with $?" # when iscsid has given up
nothing_left
! grep SOURCE_WEDGED serve.err || fail "a login that ended was taken for a session that does not end"
kill -CONT "$target"
stop_target
kill $iscsid
echo "ok: what is left of the kernel's initiator"
