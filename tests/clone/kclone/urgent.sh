#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The first error of the source lifts the limit of hydration: a read that it could not carry out, and with --urgent a lost connection. An
# operator's word ends that. usage: urgent.sh KCLONE KTARGET
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq losetup qemu-io
kclone=$1 mib=$((1 << 20)) bytes=$((64 << 20))
head -c "$bytes" /dev/urandom >"$work/source"
fresh() {
	rm -f "$work"/meta* "$work/dest"
	truncate -s "$bytes" "$work/dest"
	"$kclone" create --source "$1" --dest "$work/dest" --meta "$work/meta"
}
is_up() { is_field .source.state up; }

echo "# a read of the workload that the source cannot carry out"
device=$(losetup -f --show --direct-io=on "$work/source")
fresh "$device"
serve --rate 64K # a quarter of an hour
wait_for 20 "the source is up" is_up
[ "$(field .hydration.urgent)" = false ] || die "urgent from the start"
truncate -s $((60 * mib)) "$work/source"
! qemu-io -f raw -c "read $((bytes - 4096)) 4k" "nbd+unix:///?socket=$work/nbd" >/dev/null 2>&1 || die "the source can be read"
is_copied() { [ "$(field .durable_bytes)" -ge $((60 * mib)) ]; }
wait_for 60 "all that can be read is here" is_copied
[ "$(field '"\(.hydration.urgent) \(.hydration.limit_bps)"')" = "true 65536" ] || die "the status says $(field .hydration)"
[ "$(grep -c "event hydration-urgent" "$work/serve.log")" = 1 ] || die "said $(grep -c "event hydration-urgent" "$work/serve.log") times"
stop_serve

start_target() { # again on the port of the first
	"$1" --portal "$portal" --iqn iqn.2026-01.test.kclone:volume --lun "$work/source" --read-only \
		--serial 0f8fad5b-d9cb-469f-a165-70867728950e.7 >"$work/ktarget.log" 2>&1 &
	target_pid=$!
	pids+=("$target_pid")
}
truncate -s "$bytes" "$work/source"
start_ktarget "$2" "$work/source"
portal=${target_url#iscsi://}
portal=${portal%%/*}
lose_source() {
	local before
	before=$(field .source.reconnects)
	kill -KILL "$target_pid"
	wait "$target_pid" 2>/dev/null || true
	is_lost() { is_field .source.state away; }
	wait_for 20 "the source is lost" is_lost
	start_target "$1"
	is_back() { [ "$(field .source.reconnects)" -gt "$before" ] && is_up; }
	wait_for 40 "the source is back" is_back
}
echo "# a lost connection alone does not"
fresh "$target_url"
serve --rate 64K
wait_for 20 "the source is up" is_up
lose_source "$2"
[ "$(field .hydration.urgent)" = false ] || die "urgent without --urgent"
stop_serve
echo "# with --urgent it does, until an operator says otherwise"
serve --rate 64K --urgent
wait_for 20 "the source is up" is_up
ask pause
lose_source "$2"
[ "$(field .hydration.urgent)" = true ] || die "not urgent"
ask rate --rate 64K
lose_source "$2"
[ "$(field .hydration.urgent)" = false ] || die "urgent against the operator's word"
stop_serve
serve --rate 64K --urgent
wait_for 20 "the source is up" is_up
lose_source "$2"
is_here() { [ "$(field .durable_bytes)" = "$bytes" ]; }
wait_for 60 "every block is here" is_here
stop_serve
echo "ok: urgent"
