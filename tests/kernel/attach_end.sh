#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The bad ends of a clone whose source is the kernel's own initiator's: a dead target, another volume, an iscsiadm stuck in the kernel. In a
# guest. usage: attach_end.sh BIN
bin=$1 engine=dm
. "$(dirname "$0")/guest.sh"
. "$(dirname "$0")/guest_iscsi.sh"
make_source 32
start_iscsid

say "a dead target: the workload's read waits, stop is refused; then stop ends all the same, with copies under way"
create_kernel_clone
start_target
serve --no-hydrate
wait_for 30 "attached" is_attached
kill -STOP $target
dd if="$device" of=/dev/null bs=4k count=1 skip=8000 iflag=direct status=none &
reader=$!
wait_for 40 "the session is missed" is_field .kernel.source.state away
kill_target
ask stop
sleep 2
is_field .state live || fail "it stopped under an open device"
iscsiadm -m session -r "$(sids)" --logout >/dev/null # an operator gives the reader up
! wait $reader || fail "the read ended well without a source"
start_target
wait_for 60 "attached anew" is_attached
ask rate --rate 2M
ask hydrate
here=$(field .here_bytes)
wait_for 20 "hydration goes" bash -c "[ \$('$bin/kclone' status --control '$work/control' --json | jq .here_bytes) -gt $here ]"
kill -STOP $target # copies are under way, or about to be
stop_serve
kill_target
nothing_left

say "the kernel finds another volume: at the first login, and after it connected again"
create_kernel_clone
start_target
serve --no-attach
driver=$(pgrep -f '^kclone driver')
kill -STOP "$driver"
ask attach
stop_target
cp source other
start_target $volume.8 other
kill -CONT "$driver"
wait_for 40 "refused" is_field .kernel.source.state refused
field .kernel.source.error | grep -q "$volume.8" || fail "it does not say whom it found: $(field .kernel.source.error)"
wait_for 10 "logged out" no_sessions
stop_target
stop_serve
nothing_left
create_kernel_clone
start_target
serve --rate 1M
wait_for 30 "attached" is_attached
kill_target
wait_for 20 "the session is missed" is_field .kernel.source.state away
start_target $volume.8 other
wait_for 60 "failed" is_field .state failed
! dd if="$device" bs=4k count=1 skip=5000 iflag=direct of=got status=none 2>/dev/null || fail "it still serves"
stop_serve || true
wait_for 10 "logged out" no_sessions
must_fail 30 "not to be trusted" "$bin/kclone" serve --meta "$work/meta" --control "$work/control"
stop_target
nothing_left

say "iscsiadm hangs in the kernel: an end by deadline, and the verdict"
create_kernel_clone
start_target
serve
wait_for 30 "attached" is_attached
wait_for 60 "every block is here" is_here
ask verify
wait_for 60 "verified" is_field .verify.state passed
cat >stuck-iscsiadm <<-STUCK
	#!/bin/bash
	exec dd if=/dev/mapper/stuck of=/dev/null bs=4k count=1 iflag=direct
STUCK
chmod +x stuck-iscsiadm
dm stuck "0 8 error"
dmsetup suspend --noudevsync --nolockfs stuck
mount --bind stuck-iscsiadm /usr/sbin/iscsiadm
ask finish || fail "a wedged session keeps the clone from standing alone"
[ "$(dmsetup table "${device##*/}" | awk '{print $3}')" = linear ] || fail "no plain linear: $(dmsetup table)"
wait_for 80 "the verdict" is_field .kernel.source.state wedged
grep -q "SOURCE_WEDGED.*reboot" serve.err || fail "nobody was told"
[ -e meta.source ] || fail "who starts next does not know where its session is"
umount /usr/sbin/iscsiadm
dmsetup resume --noudevsync stuck # in a guest there is another way out
cmp "$device" source || fail "it differs"
stop_serve
serve # the next one finds the session that was left, and ends it
wait_for 20 "logged out" no_sessions
wait_for 10 "META.source is gone" test ! -e meta.source
stop_serve
dmsetup remove --noudevsync stuck
stop_target
kill $iscsid
nothing_left
echo "ok: the kernel's initiator: it ends, or says that it cannot"
