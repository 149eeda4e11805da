#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A recorded access history: what is recorded, that another clone of the volume copies it first, and that a history which is damaged, of another
# volume or not there changes nothing but the order. usage: prefetch.sh KCLONE KTARGET
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq qemu-io cmp
kclone=$1 mib=$((1 << 20)) bytes=$(((64 << 20) + 1536))
head -c "$bytes" /dev/urandom >"$work/source"
start_ktarget "$2" "$work/source"
fresh() {
	rm -f "$work"/meta* "$work/dest"
	truncate -s "$bytes" "$work/dest"
	"$kclone" create --source "$target_url" --dest "$work/dest" --meta "$work/meta"
}
nbd() { qemu-io -f raw "$@" "nbd+unix:///?socket=$work/nbd" >"$work/qemu.out" 2>&1 || die "qemu-io: $(cat "$work/qemu.out")"; }
is_up() { is_field .source.state up; }

echo "# recorded from the first I/O on, and again from a command on"
fresh
serve --no-hydrate --trace
wait_for 20 "the source is up" is_up
# 40 places, backwards, each 12 KiB; and a block that is written and then read
places=()
for ((i = 40; i > 0; i--)); do places+=($((i * 997 % 60 * mib + 65536))); done
workload=()
for at in "${places[@]}"; do workload+=(-c "read $at 12k"); done
nbd "${workload[@]}" -c "write $((63 * mib)) 4k" -c "read $((63 * mib)) 4k"
[ "$(field '"\(.trace.recording) \(.trace.records)"')" = "true 41" ] || die "the status says $(field .trace)"
ask trace --output "$work/history"
[ "$(stat -c '%s %a' "$work/history")" = "$((64 + 41 * 12)) 600" ] || die "the file has $(stat -c '%s %a' "$work/history")"
"$kclone" trace --show "$work/history" >"$work/shown"
{
	for at in "${places[@]}"; do echo "$at $((at + 12288)) read"; done
	echo "$((63 * mib)) $((63 * mib + 4096)) written"
} >"$work/want"
tail -n +2 "$work/shown" | cut -d ' ' -f 2- | cmp - "$work/want" || die "recorded: $(cat "$work/shown")"
grep -q "^# volume 0f8fad5b-d9cb-469f-a165-70867728950e, $bytes bytes, 41 grains" "$work/shown" || die "$(head -1 "$work/shown")"
ask trace --start
nbd -c "read 4096 4096"
ask trace --stop --output "$work/second"
[ "$("$kclone" trace --show "$work/second" | wc -l)" = 2 ] || die "the second recording: $("$kclone" trace --show "$work/second")"
must_fail 9 "nothing is being recorded" ask trace --output "$work/third"
[ ! -e "$work/third" ] || die "a file for nothing"
must_fail 2 "one thing" "$kclone" trace --start --stop --control "$work/control"
stop_serve

echo "# copied first, and nothing else before it is here"
fresh
serve --rate 256K --read-around 0 --prefetch "$work/history"
history_bytes=$((40 * 12288))
is_past() { [ "$(field .here_bytes)" -ge $1 ]; }
not_of_history() { # bytes that are here and not in the history
	ask map | awk -v places="${places[*]}" 'BEGIN { n = split(places, p, " ") }
		$3 == "here" { for (b = $1; b < $2; b += 4096) { is = 0; for (i = 1; i <= n; i++) is += b >= p[i] && b < p[i] + 12288; other += !is } }
		END { print other * 4096 }'
}
is_first_over() { is_field .prefetch.state done; }
is_in_order() { # whenever one looks: what is not of the history is no more than what is here beyond it
	local other here
	other=$(not_of_history)
	here=$(field .here_bytes)
	if [ "$other" != 0 ] && [ "$other" -gt $((here - history_bytes)) ]; then
		problem="$other bytes that are not of the history are here before it ($here bytes are)"
		return 0
	fi
	is_first_over
}
problem=
wait_for 60 "the order is over, or was not kept" is_in_order
[ -z "$problem" ] || die "$problem"
wait_for 30 "the history is here" is_past $history_bytes
[ "$(field '"\(.prefetch.ranges) \(.prefetch.bytes)"')" = "40 $history_bytes" ] || die "the status says $(field .prefetch)"
before=$(field .access.source_reads)
nbd "${workload[@]}"
[ "$(field .access.source_reads)" = "$before" ] || die "the recorded workload asked the source $(($(field .access.source_reads) - before)) times"

echo "# a worker that is killed in the middle, and the rest of the volume"
stop_serve
fresh
serve --rate 256K --prefetch "$work/history"
wait_for 30 "some of it is here" is_past 65536
kill -KILL "$(field .worker_pid)"
is_replaced() { is_field .workers 2 && is_up; }
wait_for 20 "the next worker serves" is_replaced
wait_for 30 "the order is over" is_first_over
ask rate --rate 0
is_here() { is_field .here_bytes "$bytes"; }
wait_for 60 "every block is here" is_here
ask verify
wait_for 60 "the comparison has passed" is_field .verify.state passed
ask finish
stop_serve
cmp "$work/source" "$work/dest" || die "the destination differs"

echo "# a history that cannot be used: one warning, and the clone is served"
refused() { # WORDS FILE
	fresh
	: >"$work/serve.log"
	serve --no-hydrate --prefetch "$2"
	[ "$(grep -c "copying without it" "$work/serve.log")" = 1 ] || die "$2: said $(cat "$work/serve.log")"
	grep "copying without it" "$work/serve.log" | grep -q "$1" || die "$2: said $(grep "copying without" "$work/serve.log")"
	[ "$(field .prefetch.state)" = refused ] || die "$2: $(field .prefetch)"
	stop_serve
}
refused "No such file" "$work/none"
cp "$work/history" "$work/damaged"
printf '\377' | dd of="$work/damaged" bs=1 seek=100 conv=notrunc status=none
refused "checksum" "$work/damaged"
must_fail 2 "checksum" "$kclone" trace --show "$work/damaged"
head -c 500 "$work/history" >"$work/short"
refused "checksum" "$work/short"
head -c 500 "$work/source" >"$work/other"
refused "does not begin like one" "$work/other"
kill "$target_pid"
wait "$target_pid" 2>/dev/null || true
start_ktarget "$2" "$work/source" 11111111-d9cb-469f-a165-70867728950e.7
refused "of another volume: 0f8fad5b" "$work/history"
kill "$target_pid"
wait "$target_pid" 2>/dev/null || true
truncate -s $((32 * mib)) "$work/source"
bytes=$((32 * mib))
start_ktarget "$2" "$work/source"
refused "of a volume of" "$work/history"
echo "ok: prefetch"
