#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Power cuts (catalogue E4): a guest with a clone on disks of its own is killed while a writer in it writes and flushes; the next boot must find
# every write that was acknowledged after a flush, and go on. What was acknowledged is written down on the host.
#
# Its disks (destination and metadata) are loop devices over files of an ext4 of the guest's. What it writes stays in the guest's page cache until it
# flushes: a volatile cache, which a cut drops. In every other cycle a process beside it has parts of it written early, so that what survives of
# the rest is out of order. So the file system below the metadata, the engine, and dm-clone are all cut as by a power failure, except that no page
# of 4 KiB is torn. (A ubd disk or a file of the host's would not do: in User-Mode Linux 6.1 what is written there is there at once, and a flush of a
# ubd disk is answered and never reaches the host.)
# usage: power_cut.sh BIN TESTBIN [CYCLES [SEED [ENGINE...]]]
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
bin=$1 tests=$2 cycles=${3:-4} seed=${4:-$((RANDOM * 32768 + RANDOM))}
shift $(($# < 4 ? $# : 4))
[ $# != 0 ] || set -- user dm
work=$(mktemp -d /var/tmp/kedge-cut.XXXXXX) # where the guest sees it too
guest=
# shellcheck disable=SC2329 # called by trap
finish() {
	[ -z "$guest" ] || { kill "$guest" && wait "$guest"; } 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
fail() {
	echo "FAILED: $* (seed $seed)" >&2
	[ ! -f "$work/out" ] || tail -n 30 "$work/out" >&2
	exit 1
}
RANDOM=$((seed % 32768))
mib=16

boot() { # MODE CYCLE: in the background
	rm -f "$work/cut"
	"$here/kuml" --mem 384M --timeout 150 --ubd "$work/disk" --cut "$work/cut" -- "$here/power_cut_guest.sh" "$bin" "$tests" "$engine" "$work" "$seed" "$1" "$2" \
		>"$work/out" 2>&1 &
	guest=$!
}
acked() { tail -n 1 "$work/acks-$1" 2>/dev/null || true; }

run_engine() {
	local cycle i code want nr_acked=0 nr
	head -c ${mib}M /dev/urandom >"$work/source"
	mkdir -p "$work/tree"
	head -c ${mib}M /dev/zero | tr '\0' '\333' >"$work/tree/dest"
	rm -f "$work/tree/meta" "$work/disk"
	truncate -s 32M "$work/tree/meta"
	mkfs.ext4 -q -F "$work/tree/meta"
	truncate -s 96M "$work/disk"
	mkfs.ext4 -q -F -d "$work/tree" "$work/disk"
	rm -f "$work"/acks-* "$work/state"
	for ((cycle = 1; cycle <= cycles; cycle++)); do
		want=$((1 + RANDOM % 12))
		: >"$work/acks-$cycle"
		boot write "$cycle"
		for ((i = 0; i < 2400; i++)); do
			nr=$(wc -l <"$work/acks-$cycle")
			[ "$nr" -lt "$want" ] || break
			kill -0 "$guest" 2>/dev/null || break
			sleep 0.05
		done
		touch "$work/cut"
		code=0
		wait "$guest" || code=$?
		guest=
		[ $code = 99 ] || fail "engine $engine, cycle $cycle: the guest ended with $code before the cut"
		nr_acked=$((nr_acked + $(wc -l <"$work/acks-$cycle")))
	done
	boot end "$cycle"
	code=0
	wait "$guest" || code=$?
	guest=
	[ $code = 0 ] || fail "engine $engine: the last boot ended with $code"
	echo "engine $engine: $cycles cuts, $nr_acked acknowledged flushes, 0 lost; $(tail -n 1 "$work/out")"
}

for engine; do run_engine; done
echo "ok: $cycles power cuts an engine ($*), seed $seed: nothing that was acknowledged is lost"
