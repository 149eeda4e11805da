# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced after guest.sh: a target on this guest's loopback, iscsid, and what sysfs says of the kernel's sessions.
# shellcheck shell=bash
for module in scsi_mod sd_mod iscsi_tcp; do kmod $module; done
mkdir -p /run/lock
. "$(dirname "${BASH_SOURCE[0]}")/guest_names.sh"
write_chap "$work"
SOURCE_URL=iscsi://127.0.0.1:33210/$iqn/1

# start_target [SERIAL [FILE]]: sets target
start_target() {
	: >kt.out
	"$bin/ktarget" --portal 127.0.0.1:33210 --iqn $iqn --lun "$work/${2:-source}" --serial "${1:-$volume.7}" --read-only --initiator $initiator \
		--chap-file "$work/chap" >kt.out 2>&1 &
	target=$!
	wait_for 10 "ktarget" grep -q listening kt.out
}
stop_target() {
	kill "$target"
	wait "$target" || true
}
kill_target() { # a host that is gone: nothing says goodbye
	kill -9 "$target"
	wait "$target" 2>/dev/null || true
}
start_iscsid() {
	setsid iscsid -f -n >iscsid.log 2>&1 & # at its end it signals its whole group
	iscsid=$!
	wait_for 10 "iscsid" grep -q '@ISCSIADM_ABSTRACT_NAMESPACE' /proc/net/unix
}

sids() { for s in /sys/class/iscsi_session/session*; do [ -e "$s" ] && echo "${s##*session}"; done; }
session() { cat "/sys/class/iscsi_session/session$(sids)/$1"; }
connection() { cat "/sys/class/iscsi_connection/connection$(sids):0/$1"; }
is_session() { [ "$(session "$1" 2>/dev/null)" = "$2" ]; }
no_sessions() { [ -z "$(sids)" ]; }
is_attached() { is_field .kernel.source.state up; }
create_kernel_clone() {
	rm -f meta meta.* dest
	truncate -s "$(size_bytes)" dest
	create_clone --size "$(size_bytes)" --serial $volume.7 --initiator $initiator --chap-file "$work/chap" --source-attach kernel "$@"
}
nothing_left() {
	no_sessions || fail "sessions are left: $(sids)"
	! ls /sys/block | grep -q ^sd || fail "disks are left: $(ls /sys/block)"
	[ -z "$(dmsetup ls 2>/dev/null | grep kedge)" ] || fail "devices are left: $(dmsetup ls)"
	[ -z "$(losetup -a)" ] || fail "loop devices are left: $(losetup)"
}
