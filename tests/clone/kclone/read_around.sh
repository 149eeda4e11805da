#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Read-around: a workload that reads in order asks the source a few times and finds the rest here; random reads fetch nothing beyond what they
# ask for; what is fetched is right, while the workload writes and workers die. usage: read_around.sh KCLONE KTARGET
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq qemu-io cmp
kclone=$1 mib=$((1 << 20)) bytes=$(((96 << 20) + 1536))
head -c "$bytes" /dev/urandom >"$work/source"
start_ktarget "$2" "$work/source"
dest=$(mktemp /dev/shm/kclone-test.XXXXXX) # a busy disk is slower than a reader
trap 'code=$?; rm -f "$dest"; clean_up $code' EXIT
fresh() {
	rm -f "$work"/meta* "$dest"
	truncate -s "$bytes" "$dest"
	"$kclone" create --source "$target_url" --dest "$dest" --meta "$work/meta"
	# the sweep from start to end must not get where the reads are
	serve --rate 4K "$@"
	wait_for 20 "the source is up" is_field .source.state up
	wait_for 20 "the first copy is here" is_first_here
}
is_first_here() { [ "$(field .here_bytes)" -ge $((mib / 4)) ]; } # one copy
nbd() { qemu-io -f raw "$@" "nbd+unix:///?socket=$work/nbd" >"$work/qemu.out" 2>&1 || die "qemu-io: $(cat "$work/qemu.out")"; }
# in_order OP FIRST NR BYTES: commands of qemu-io, one after the other
in_order() {
	local i
	commands=()
	for ((i = 0; i < $3; i++)); do commands+=(-c "$1 $(($2 + i * $4)) $4"); done
}
# sets reads, source, joined, fetched
figures() { read -r reads source joined fetched < <(field '.access | "\(.reads) \(.source_reads) \(.joined_reads) \(.fetched_bytes)"'); }

echo "# random reads: each asks the source once, nothing more comes"
fresh
commands=()
for ((i = 0; i < 300; i++)); do commands+=(-c "read $(((i * 7919 % 12000 + 8000) * 4096)) 4096"); done
nbd "${commands[@]}"
figures
[ "$reads $source $joined $fetched" = "300 300 0 0" ] ||
	die "300 random reads: $reads reads, $source at the source, $joined joined, $fetched bytes fetched"
before=$source

echo "# 16 MiB in order, 4 KiB at a time: the source is asked until the stream is known"
in_order read $((64 * mib)) 4096 4096
read_before=$(field .source.read_bytes)
nbd "${commands[@]}"
still_fetching() { local at=$fetched; sleep 0.1; figures; [ "$fetched" != "$at" ]; }
figures
while still_fetching; do [ $SECONDS -le 120 ] || die "it fetches for ever"; done
asked=$((source - joined - before))
# as a rule 4; when the destination is slower than the reader, pieces run out, and the reader goes on without waiting for one
[ $asked -le 2048 ] || die "$asked of 4096 reads in order asked the source"
[ "$fetched" -ge $((8 * mib)) ] && [ "$fetched" -le $((19 * mib)) ] || die "$fetched bytes were fetched for 16 MiB"
read_bytes=$(($(field .source.read_bytes) - read_before))
[ $read_bytes -le $((19 * mib)) ] || die "$read_bytes bytes crossed the link for 16 MiB"
echo "  4096 reads: $asked asked the source, $joined waited for a fetch, $fetched bytes fetched, $read_bytes over the link"

echo "# while it is paused, nothing is laid down"
ask pause
sleep_until_window() { is_field .access.window_bytes "$1"; }
wait_for 10 "read-around is off" sleep_until_window 0
before=$(field .here_bytes)
in_order read $((32 * mib)) 64 4096
nbd "${commands[@]}"
[ "$(field .here_bytes)" = "$before" ] || die "something was laid down while hydration is paused"
ask resume
stop_serve

echo "# on a destination that is full, too"
small=$work/small
mkdir "$small"
mount -t tmpfs -o size=48m none "$small"
rm -f "$work"/meta*
truncate -s "$bytes" "$small/dest"
"$kclone" create --source "$target_url" --dest "$small/dest" --meta "$work/meta"
serve
wait_for 60 "hydration pauses" is_field .hydration.state paused
wait_for 10 "read-around is off" sleep_until_window 0
before=$(field .source.read_bytes)
in_order read $((80 * mib)) 64 4096
nbd "${commands[@]}"
read_bytes=$(($(field .source.read_bytes) - before))
[ $read_bytes = $((64 * 4096)) ] || die "$read_bytes bytes were asked for beside 64 reads of 4096, for a destination that is full"
stop_serve

echo "# off by option"
fresh --read-around 0
in_order read $((64 * mib)) 64 4096
nbd "${commands[@]}"
figures
[ "$reads $source $fetched" = "64 64 0" ] || die "--read-around 0: $reads reads, $source at the source, $fetched bytes fetched"
stop_serve

echo "# a reader in order, writes into what is fetched, workers that are killed: every byte is right"
fresh
cp "$work/source" "$work/expected"
for round in 1 2 3; do
	in_order read $(((20 * round) * mib)) 128 $((64 * 1024))
	for ((i = 0; i < 128; i += 7)); do
		at=$(((20 * round) * mib + i * 65536 + 12288))
		commands=("${commands[@]:0:$((i * 2))}" -c "write -P $((64 + i)) $at 6144" "${commands[@]:$((i * 2))}")
		head -c 6144 /dev/zero | tr '\0' "\\$(printf %o $((64 + i)))" | dd of="$work/expected" bs=1 seek="$at" conv=notrunc status=none iflag=fullblock
	done
	nbd "${commands[@]}" -c flush
	kill -KILL "$(field .worker_pid)"
	is_replaced() { is_field .workers $((round + 1)) && is_field .source.state up; }
	wait_for 20 "the next worker serves" is_replaced
done
ask rate --rate 0
is_here() { [ "$(field .here_bytes)" = "$bytes" ]; }
wait_for 60 "every block is here" is_here
ask verify
wait_for 60 "the comparison has passed" is_field .verify.state passed
stop_serve
cmp "$work/expected" "$dest" || die "the destination differs"
echo "ok: read-around"
