#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ktarget with clients that others wrote: libiscsi's tools and QEMU's block driver, unchanged, with and without CHAP.
. "$(dirname "$0")/lib.sh"
need iscsi-ls iscsi-inq iscsi-readcapacity16 iscsi-swp iscsi-perf qemu-img openssl sha256sum timeout

DISK=$WORK/disk
make_disk "$DISK"
truncate -s 1M "$WORK/second"
noise 20 1048576 | dd of="$WORK/second" conv=notrunc status=none
SUM=$(sum_of "$DISK")
SIZE=$(stat -c %s "$DISK")
SERIAL=0f1e2d3c-e5

# expect PATTERN COMMAND...: it must succeed and its output have a line like that
expect() {
	local pattern=$1 out
	shift
	out=$(timeout 60 "$@" 2>&1) || fail "$* failed: $out"
	grep -qE "$pattern" <<<"$out" || fail "$*: no \"$pattern\" in: $out"
}

# expect_refusal COMMAND...
expect_refusal() {
	local status=0
	timeout 60 "$@" >"$WORK/refusal.log" 2>&1 || status=$?
	[ "$status" -ne 0 ] && [ "$status" -ne 124 ] || fail "$*: status $status, not a refusal"
}

libiscsi_tools() { # USER-PART
	local url=iscsi://$1$PORTAL/$IQN/1
	expect "^Target:$IQN Portal:$PORTAL,1" iscsi-ls "iscsi://$1$PORTAL"
	expect "^Lun:1 +Type:DIRECT_ACCESS" iscsi-ls -s "iscsi://$1$PORTAL"
	expect "^Lun:2 +Type:DIRECT_ACCESS" iscsi-ls -s "iscsi://$1$PORTAL"
	expect "^Peripheral Device Type:DIRECT_ACCESS" iscsi-inq "$url"
	expect "^Vendor:KEDGE" iscsi-inq "$url"
	expect "^Unit Serial Number:\[$SERIAL\]" iscsi-inq -e 1 -c 128 "$url"
	expect "^Page:0x83" iscsi-inq -e 1 -c 0 "$url"
	expect "DESIGNATOR|Designator" iscsi-inq -e 1 -c 131 "$url"
	expect "." iscsi-inq -e 1 -c 176 "$url"
	expect "." iscsi-inq -e 1 -c 177 "$url"
	expect "." iscsi-inq -e 1 -c 178 "$url"
	expect "^RETURNED LOGICAL BLOCK ADDRESS:$((SIZE / 512 - 1))" iscsi-readcapacity16 "$url"
	expect "^Total size:$SIZE" iscsi-readcapacity16 "$url"
	expect "^SWP:1" iscsi-swp "$url"
	expect "." timeout --preserve-status -s INT 2 iscsi-perf -b 64 -m 32 -t 1 "$url"
}

qemu() { # USER-PART
	local url=iscsi://$1$PORTAL/$IQN/1 copy=$WORK/copy
	expect "virtual size: .*\($SIZE bytes\)" qemu-img info "$url"
	expect '"zero": true' qemu-img map --output=json -f raw "$url"
	timeout 60 qemu-img convert -f raw -O raw "$url" "$copy" || fail "qemu-img convert"
	[ "$(sum_of "$copy")" = "$SUM" ] || fail "qemu-img convert made other bytes"
	# with big requests in parallel, out of order, and without asking for holes first
	timeout 60 qemu-img convert -W -m 16 -S 0 -f raw -O raw "$url" "$copy" || fail "qemu-img convert -W"
	[ "$(sum_of "$copy")" = "$SUM" ] || fail "qemu-img convert -W made other bytes"
	expect "Images are identical" qemu-img compare -f raw -F raw "$url" "$DISK"
	# that comparison can fail
	printf 'x' | dd of="$copy" bs=1 seek=$((20 * 1024 * 1024)) conv=notrunc status=none
	expect_refusal qemu-img compare -f raw -F raw "$url" "$copy"
	timeout 60 qemu-img convert -f raw -O raw "iscsi://$1$PORTAL/$IQN/2" "$copy" || fail "qemu-img convert of LUN 2"
	[ "$(sum_of "$copy")" = "$(sum_of "$WORK/second")" ] || fail "LUN 2 has other bytes"
}

start_target open --lun "$DISK" --serial "$SERIAL" --lun "$WORK/second" --read-only
libiscsi_tools ""
qemu ""
expect_refusal iscsi-inq "iscsi://$PORTAL/$IQN/9"
expect_refusal iscsi-inq "iscsi://$PORTAL/$IQN-other/1"
# a write by a client that means it
expect_refusal qemu-img convert -n -f raw -O raw "$WORK/second" "iscsi://$PORTAL/$IQN/1"
stop_target

# CHAP; libiscsi takes the secrets from the environment, so that argv does not show them
(umask 077 && printf 'user = joe\nsecret = correct-horse-1\nmutual-user = target\nmutual-secret = battery-staple-2\n' >"$WORK/chap")
start_target chap --lun "$DISK" --serial "$SERIAL" --lun "$WORK/second" --chap-file "$WORK/chap"
export LIBISCSI_CHAP_USERNAME=joe LIBISCSI_CHAP_PASSWORD=correct-horse-1
libiscsi_tools ""
qemu "joe%correct-horse-1@"
export LIBISCSI_CHAP_TARGET_USERNAME=target LIBISCSI_CHAP_TARGET_PASSWORD=battery-staple-2
libiscsi_tools ""
LIBISCSI_CHAP_TARGET_PASSWORD=battery-staple-3 expect_refusal iscsi-inq "iscsi://$PORTAL/$IQN/1"
unset LIBISCSI_CHAP_TARGET_USERNAME LIBISCSI_CHAP_TARGET_PASSWORD
LIBISCSI_CHAP_PASSWORD=correct-horse-2 expect_refusal iscsi-inq "iscsi://$PORTAL/$IQN/1"
LIBISCSI_CHAP_USERNAME=jo expect_refusal iscsi-inq "iscsi://$PORTAL/$IQN/1"
unset LIBISCSI_CHAP_USERNAME LIBISCSI_CHAP_PASSWORD
expect_refusal iscsi-inq "iscsi://$PORTAL/$IQN/1"
expect_refusal iscsi-ls "iscsi://$PORTAL"
expect_refusal qemu-img info "iscsi://$PORTAL/$IQN/1"
stop_target

# one initiator only
start_target acl --lun "$DISK" --initiator iqn.2026-01.test.kedge:me
expect "^Vendor:KEDGE" iscsi-inq -i iqn.2026-01.test.kedge:me "iscsi://$PORTAL/$IQN/1"
expect_refusal iscsi-inq -i iqn.2026-01.test.kedge:you "iscsi://$PORTAL/$IQN/1"
stop_target

[ "$(sum_of "$DISK")" = "$SUM" ] || fail "the disk has changed"
echo "libiscsi's tools and QEMU agree with ktarget"
