#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A worker dies, the file system above goes on; a moment later all of kclone dies, which is a power cut to it. Rows that were acknowledged
# in between rest on blocks that were written before the first death and never flushed by that worker. usage: worker_then_all.sh
# KCLONE ROWWRITER ROWCHECK [ROUNDS]
set -euo pipefail
. "$(dirname "$0")/../kclone/lib.sh"
. "$(dirname "$0")/../../lib/loop.sh"
need mkfs.ext4 debugfs jq losetup setsid
kclone=$1 rowwriter=$2 rowcheck=$3 rounds=${4:-6}
mounted=$(cd "$(dirname "$0")/../../workload" && pwd)/mounted
mkdir "$work/tree"
head -c 128M /dev/urandom >"$work/tree/ballast"
truncate -s 256M "$work/source"
mkfs.ext4 -q -F -d "$work/tree" "$work/source"
rm -r "$work/tree"

session_pids() { ps -o pid= -s "$1" 2>/dev/null || true; }
start_all() {
	: >"$work/disk" 2>/dev/null || true
	: >"$work/serve.out"
	setsid "$kclone" serve --meta "$work/meta" --fuse "$work/disk" --block --control "$work/control" --rate 8M \
		>"$work/serve.out" 2>>"$work/serve.log" &
	serve_pid=$!
	pids+=("$serve_pid")
	wait_for 20 "kclone serve is ready" grep -q serving "$work/serve.out"
	device=$(field .device.block)
	setsid env KEDGE_DEVICE="$device" KEDGE_STATE_DIR="$work/state" KEDGE_WORKLOAD=w KEDGE_VOLUME=v KEDGE_EPOCH=1 KEDGE_HOST=b \
		"$mounted" "$rowwriter" --record "$work/record" --pause-ms 5 >>"$work/work.log" 2>&1 &
	work_pid=$!
	pids+=("$work_pid")
}
acks() { grep -c '^ack' "$work/record" 2>/dev/null || true; }
has_acks() { [ "$(acks)" -ge "$1" ]; }
kill_session() { # SIGNAL LEADER
	local list
	list=$(session_pids "$2")
	# shellcheck disable=SC2086 # a list of pids
	[ -z "$list" ] || kill "-$1" $list 2>/dev/null || true
}
is_gone() { [ -z "$(session_pids "$1" | grep -v '^$')" ]; }
drop_devices() {
	loop_drop_all "$work/"
	umount -l "$work/disk" 2>/dev/null || true
}
trap 'code=$?; kill_session KILL "${work_pid:-0}"; kill_session KILL "${serve_pid:-0}"; drop_devices; clean_up $code' EXIT

for ((round = 1; round <= rounds; round++)); do
	rm -rf "$work/meta" "$work/meta.seen" "$work/dest" "$work/record" "$work/state"
	mkdir "$work/state"
	truncate -s 256M "$work/dest"
	"$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta"
	start_all
	wait_for 20 "rows" has_acks 30
	kill -KILL "$(field .worker_pid)"
	wait_for 20 "rows after the worker's death" has_acks $(($(acks) + 5 + RANDOM % 10))
	kill_session KILL "$serve_pid"
	kill_session KILL "$work_pid"
	wait_for 10 "all of it is gone" is_gone "$serve_pid"
	wait_for 10 "the workload is gone" is_gone "$work_pid"
	drop_devices
	start_all
	wait_for 20 "rows after all was lost" has_acks $(($(acks) + 10))
	kill_session TERM "$work_pid"
	wait_for 20 "the workload ends" is_gone "$work_pid"
	rm -f "$work/rows.db" "$work/rows.db-wal"
	debugfs -R "dump /rows.db $work/rows.db" "$device" 2>/dev/null
	debugfs -R "dump /rows.db-wal $work/rows.db-wal" "$device" 2>/dev/null
	[ -s "$work/rows.db-wal" ] || rm -f "$work/rows.db-wal"
	"$rowcheck" --db "$work/rows.db" --record "$work/record" >"$work/judged" || die "round $round: $(grep FAILED "$work/judged" | head -3)"
	kclone_ok=0
	ask stop >/dev/null || kclone_ok=$?
	[ "$kclone_ok" = 0 ] || die "kclone does not stop"
	wait_for 10 "kclone ends" is_gone "$serve_pid"
done
echo "ok: $rounds times a worker's death and then the loss of all: every acknowledged row is there"
