#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A clone whose source became another volume, and whose processes died: it never serves again, and abort takes down what is left of it in the
# kernel. In a guest. usage: deceived.sh BIN
bin=$1 engine=dm
. "$(dirname "$0")/guest.sh"
. "$(dirname "$0")/guest_iscsi.sh"
make_source 32
start_iscsid

say "deceived, and all of kclone is killed: devices and session are left"
create_kernel_clone
start_target
serve --rate 1M
wait_for 30 "attached" is_attached
kill_target
wait_for 20 "the session is missed" is_field .kernel.source.state away
cp source other
start_target $volume.8 other
wait_for 60 "failed" is_field .state failed
kill -9 $serve_pid $(pgrep -f '^kclone (worker|driver)') 2>/dev/null || true # a task of the driver may end just now
wait $serve_pid 2>/dev/null || true
wait_for 10 "all are gone" bash -c "! pgrep -f '^kclone (worker|driver)'"
[ -n "$(sids)" ] && [ -n "$(dmsetup ls | grep clone)" ] || fail "nothing is left: nothing is proven"
must_fail 30 "kclone abort takes it down" "$bin/kclone" serve --meta "$work/meta" --control "$work/control"

say "abort is refused while the device is open, and then nothing has changed"
exec 9<"$device"
must_fail 4 "close it first" "$bin/kclone" abort --meta "$work/meta"
exec 9<&-
[ -n "$(sids)" ] && [ -n "$(dmsetup ls | grep clone)" ] || fail "a refused abort took something away"

say "it goes though a read waits for a target that says nothing"
kill -STOP $target
dd if="$device.clone" of=/dev/null bs=4k count=1 skip=8000 iflag=direct status=none 2>/dev/null &
reader=$!
is_waiting() { [ "$(awk '{print $1}' "/sys/block/$(basename "$(readlink -f "$device.clone")")/inflight")" != 0 ]; }
wait_for 10 "the read waits" is_waiting
abort() { "$bin/kclone" abort --meta "$work/meta" 2>err || fail "abort ended with $?: $(cat err)"; }
abort
grep -q "$work/dest is not to be trusted" err || fail "it does not say that the data cannot be trusted: $(cat err)"
! wait $reader || fail "the read ended well"
kill_target
nothing_left
[ "$("$bin/kclone" status --meta "$work/meta" --json | jq -r .state)" = aborted ] || fail "it is $("$bin/kclone" status --meta "$work/meta")"
abort # once more is as good
must_fail 9 "aborted" "$bin/kclone" serve --meta "$work/meta" --control "$work/control"
kill $iscsid
echo "ok: deceived, and taken down"
