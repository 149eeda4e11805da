#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A kernel clone whose source is a disk of the kernel's own initiator (--source-attach kernel), in a guest. usage: attach.sh BIN
bin=$1 engine=dm
. "$(dirname "$0")/guest.sh"
. "$(dirname "$0")/guest_iscsi.sh"
make_source 32
options=(--source "$SOURCE_URL" --dest "$work/dest" --meta "$work/meta" --engine dm --size "$(size_bytes)" --serial $volume.7 --initiator $initiator)
create() { "$bin/kclone" create "${options[@]}" --source-attach kernel "$@"; }
# what iscsiadm is given, and the real one behind it
cp /usr/sbin/iscsiadm real-iscsiadm
cat >spy <<-SPY
	#!/bin/bash
	{ echo "\$0 \$*"; env; stat -c '%a %n' /etc/iscsi /etc/iscsi/nodes/*/* 2>/dev/null; } >>$work/spied
	exec $work/real-iscsiadm "\$@"
SPY
chmod +x spy

say "without open-iscsi, without iscsid: one line, and nothing made"
mount --bind /dev/null /usr/sbin/iscsiadm
must_fail 9 "open-iscsi, which is not installed" create --chap-file "$work/chap"
[ "$(wc -l <err)" = 1 ] || fail "not one line: $(cat err)"
"$bin/kclone" doctor | grep -q 'open-iscsi no: .*not installed' || fail "doctor: $("$bin/kclone" doctor)"
umount /usr/sbin/iscsiadm
mount --bind spy /usr/sbin/iscsiadm
must_fail 9 "iscsid does not run" create --chap-file "$work/chap"
[ ! -e meta ] && [ ! -e meta.dm ] || fail "a create that failed left files"
start_iscsid
"$bin/kclone" doctor | grep -q 'open-iscsi the kernel' || fail "doctor: $("$bin/kclone" doctor)"

say "what it cannot have: a target that proves nothing, a source without identity, the user engine, a file"
truncate -s "$(size_bytes)" dest
must_fail 2 "mutual-secret" create --chap-file "$work/chap.one-way"
must_fail 2 "kernel engine" "$bin/kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta" --source-attach kernel
must_fail 2 "iscsi://" "$bin/kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta" --engine dm --source-attach kernel
[ ! -e meta ] && [ ! -e meta.dm ] || fail "a create that failed left files"

say "before the source is there the device is, and reads wait; then mutual CHAP, digests, one unit, hydration, a plain linear"
create_kernel_clone
serve --no-attach
[ "$(field .kernel.source.attach)" = kernel ] || fail "status: $(field .kernel)"
dd if="$device" bs=4k count=1 skip=77 iflag=direct of=got status=none &
reader=$!
start_target
ask attach
wait_for 30 "attached" is_attached
wait $reader || fail "the read that waited failed"
cmp got <(dd if=source bs=4k skip=77 count=1 status=none) || fail "the read that waited got something else"
[ "$(session targetname) $(session initiatorname)" = "$iqn $initiator" ] || fail "another session: $(session targetname)"
[ "$(session username_in)" = volume ] || fail "no mutual CHAP"
[ "$(connection header_digest)$(connection data_digest)" = 11 ] || fail "no digests"
[ "$(session recovery_tmo)" = 86400 ] || fail "replacement timeout $(session recovery_tmo)"
[ "$(connection ping_tmo)$(connection recv_tmo)" = 55 ] || fail "noop timers"
[ "$(cat /sys/block/sd*/ro)" = 1 ] || fail "the source's disk can be written"
[ ! -e /etc/iscsi/nodes ] || fail "the host's records were touched"
[ ! -e /run/lock/iscsi ] || fail "the host's lock was touched"
grep -q -- "-m node -T $iqn -p 127.0.0.1:33210 --login" spied || fail "iscsiadm was called otherwise: $(cat spied)"
grep -q "^700 /etc/iscsi$" spied && grep -q "^600 /etc/iscsi/nodes/$iqn/127.0.0.1,33210$" spied || fail "the record: $(cat spied)"
! grep -e "$secret" -e "$mutual_secret" spied serve.err serve.out iscsid.log meta || fail "a secret is where it should not be"
! dmesg | grep -e "$secret" -e "$mutual_secret" || fail "a secret is in the kernel's log"
[ ! -e meta.disk ] && [ "$(losetup -a | grep -c disk)" = 0 ] || fail "there is a feed: $(losetup -a)"
cmp "$device" source || fail "it reads other than the source"
dd if=source of="$device" bs=4k seek=900 skip=1 count=1 conv=notrunc,fsync oflag=direct status=none
cp source want
dd if=source of=want bs=4k seek=900 skip=1 count=1 conv=notrunc status=none
finish_clone
no_sessions || fail "finish did not log out"
[ ! -e meta.source ] || fail "META.source is left"
[ "$(dmsetup table "${device##*/}" | awk '{print $3}')" = linear ] || fail "no plain linear: $(dmsetup table)"
[ "$(dmsetup ls | grep -c kedge)" = 1 ] || fail "devices are left: $(dmsetup ls)"
is_field .kernel.source.state ended || fail "status: $(field .kernel)"
stop_target
cmp "$device" want || fail "after finish it differs"
stop_serve
nothing_left

say "the target goes in the middle: I/O waits and nothing fails; it comes back: goes on, in the same session"
start_target
create_kernel_clone
serve --rate 4M
wait_for 30 "attached" is_attached
sid=$(sids)
fio --name=v --filename="$device" --direct=1 --ioengine=libaio --rw=randrw --bs=4k --size=32M --iodepth=4 --runtime=600 --time_based --loops=100 \
	--continue_on_error=none --eta=never --output=fio.out --thinktime=20000 &
fio=$!
wait_for 20 "hydration goes" bash -c "[ \$('$bin/kclone' status --control '$work/control' --json | jq .here_bytes) -gt 2000000 ]"
kill_target
wait_for 20 "the session is missed" is_field .kernel.source.state away
errors=$(dmesg | grep -c -e 'I/O error' -e 'hydration failed' || true)
dd if="$device" bs=4k skip=8191 count=1 iflag=direct of=got status=none &
reader=$!
sleep 3
kill -0 $reader 2>/dev/null || fail "a read of a source that is away ended"
kill -0 $fio 2>/dev/null || fail "the workload ended: $(cat fio.out)"
start_target
wait $reader || fail "the read that waited failed"
wait_for 60 "attached again" is_attached
[ "$(sids)" = "$sid" ] || fail "another session: $(sids)"
[ "$(dmesg | grep -c -e 'I/O error' -e 'hydration failed' || true)" = "$errors" ] || fail "something failed: $(dmesg | tail -5)"
kill -0 $fio 2>/dev/null || fail "the workload ended: $(cat fio.out)"
kill -INT $fio
wait $fio || true # it was asked to end
grep -q 'err= 0' fio.out || fail "fio: $(cat fio.out)"

say "the session is ended by hand: a new one, a new disk below the clone"
ask pause
wait_for 10 "no copy is under way" is_field .kernel.hydrating 0
exec {disk}<"/dev/$(ls /sys/block | grep ^sd)" # its name stays taken
./real-iscsiadm -m session -r "$sid" --logout >/dev/null
wait_for 60 "attached anew" bash -c "[ \"\$('$bin/kclone' status --control '$work/control' --json | jq -r .kernel.source.state)\" = up ] && [ ! -e /sys/class/iscsi_session/session$sid ]"
[ "$(sids)" != "$sid" ] || fail "still session $sid"
[ "$(field .kernel.source.disk)" = /dev/sdb ] || fail "the disk is $(field .kernel.source.disk)"
grep -q "ended by somebody" serve.err || fail "nobody was told"
exec {disk}<&-
sid=$(sids)
dd if="$device" bs=1M iflag=direct of=got status=none || fail "a read failed"

say "driver and holder die: the session is taken over"
kill -9 "$(pgrep -f '^kclone driver')"
wait_for 20 "attached" is_attached
[ "$(sids)" = "$sid" ] || fail "another session: $(sids)"
kill -9 $serve_pid $(pgrep -f '^kclone (worker|driver)') 2>/dev/null || true
wait $serve_pid 2>/dev/null || true
wait_for 10 "all are gone" bash -c "! pgrep -f '^kclone (worker|driver)'"
cmp "$device" got || fail "with nobody there it differs" # the kernel goes on alone
serve --no-hydrate
wait_for 20 "attached" is_attached
[ "$(sids)" = "$sid" ] || fail "another session: $(sids)"
cmp "$device" got || fail "taken over it differs"

stop_serve
stop_target
umount /usr/sbin/iscsiadm
kill $iscsid
nothing_left
echo "ok: the kernel's initiator as a clone's source"
