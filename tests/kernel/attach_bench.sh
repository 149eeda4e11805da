#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Both ways to attach the source of a kernel clone, beside each other: reads through the clone at queue depth 1 and 8, sequential ones, hydration,
# and what CPU each takes. The target runs on the host, the clone in a guest of one CPU, a tap device between them.
# usage: attach_bench.sh BIN [MIB [SECONDS]]
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")

in_guest() {
	bin=$1 mib=$2 seconds=$3 dir=$4 engine=dm
	. "$here/guest.sh"
	. "$here/guest_iscsi.sh"
	cp "$dir/chap" chap
	truncate -s "${mib}M" source # its size is asked; the data is the target's
	SOURCE_URL=iscsi://10.85.0.1:33210/$iqn/1
	start_iscsid
	busy() { awk '/^cpu /{print $2 + $3 + $4 + $7 + $8}' /proc/stat; }
	# measure OPTIONS: IOPS, CPU µs of the whole guest for each
	measure() {
		local b0 b1 n
		b0=$(busy)
		n=$(fio --name=r --filename="$device" --direct=1 --ioengine=libaio --runtime="$seconds" --time_based --norandommap --output-format=json "$@" |
			jq '.jobs[0].read.total_ios')
		b1=$(busy)
		echo "$((n / seconds)) $(((b1 - b0) * 10000 / n))"
	}
	printf '%-7s  %20s  %20s  %20s  %24s\n' attach "4K QD1: IOPS, µs CPU" "4K QD8: IOPS, µs CPU" "1M QD1: MiB/s, µs CPU" "hydration: MiB/s, µs/MiB"
	for ((round = 0; round < 3; round++)); do
		for how in feed kernel; do
			rm -f meta meta.*
			"$bin/kclone" create --source "$SOURCE_URL" --dest /dev/ubda --meta meta --engine dm --size "$(size_bytes)" --serial $volume.7 \
				--initiator $initiator --chap-file chap --source-attach $how
			serve --no-hydrate
			[ $how = feed ] && wait_for 20 attached is_field .source.state up || wait_for 20 attached is_attached
			one=$(measure --rw=randread --bs=4k --iodepth=1)
			eight=$(measure --rw=randread --bs=4k --iodepth=8)
			big=$(measure --rw=read --bs=1M --iodepth=1)
			b0=$(busy) t0=$(date +%s%N)
			ask hydrate
			wait_for 300 "every block is here" is_field .kernel.hydrated "$(field .kernel.regions)"
			t1=$(date +%s%N) b1=$(busy)
			printf '%-7s  %20s  %20s  %20s  %24s\n' $how "$one" "$eight" "$big" "$((mib * 1000 / ((t1 - t0) / 1000000))) $(((b1 - b0) * 10000 / mib))"
			stop_serve
		done
	done
	kill "$iscsid"
}
if [ "$1" = --guest ]; then
	in_guest "${@:2}"
	exit
fi

bin=$1 mib=${2:-512} seconds=${3:-5}
. "$here/guest_names.sh"
dir=$(mktemp -d /var/tmp/kedge-attach.XXXXXX) disks=$(mktemp -d /dev/shm/kedge-attach.XXXXXX)
ns=kedge-attach-$$ target=
# shellcheck disable=SC2329 # called by trap
finish() {
	[ -z "$target" ] || kill "$target" 2>/dev/null || true
	ip netns del $ns 2>/dev/null || true
	rm -rf "$dir" "$disks"
}
trap finish EXIT
trap 'exit 130' INT TERM
write_chap "$dir"
head -c "${mib}M" /dev/urandom >"$disks/source"
truncate -s "${mib}M" "$disks/dest"
ip netns add $ns
in_ns() { nsenter --net=/run/netns/$ns -- "$@"; }
in_ns ip link set lo up
in_ns ip tuntap add t0 mode tap
in_ns ip addr add 10.85.0.1/24 dev t0
in_ns ip link set t0 up
in_ns "$bin/ktarget" --portal 10.85.0.1:33210 --iqn $iqn --lun "$disks/source" --serial $volume.7 --read-only --initiator $initiator --chap-file "$dir/chap" \
	>"$dir/kt.out" 2>&1 &
target=$!
for ((i = 0; i < 100; i++)); do
	grep -q listening "$dir/kt.out" && break
	sleep 0.1
done
in_ns "$here/kuml" --mem 512M --timeout 560 --net t0=10.85.0.2/24 --ubd "$disks/dest" -- "$(readlink -f "$0")" --guest "$bin" "$mib" "$seconds" "$dir"
