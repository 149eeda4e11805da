#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The device of a clone that has finished, beside a loop device on such a file: both engines, in a guest of one CPU with device-mapper. Rounds in turns;
# the median of the ratios, and the least and the most. usage: kuml --mem 1500M --timeout 580 -- after_bench.sh BIN BENCH [ROUNDS [SECONDS]]
bin=$1 bench=$2 rounds=${3:-7} seconds=${4:-1} way=top engine=user
. "$(dirname "$0")/guest.sh"
mib=128
make_source $mib
cp source raw
raw=$(loop_of raw)
loads=("read 4k QD1:iops:" "read 4k QD16:iops:--depth 16" "write 4k QD1:iops:--write" "read 1M QD4:mib_s:--depth 4 --block 1048576 --sequential")

rate() { # DEVICE LOAD SEED
	local name key more
	IFS=: read -r name key more <<<"$2"
	# shellcheck disable=SC2086 # options
	"$bench/bench_reads" file "$1" --size $((mib << 20)) --seed "$3" --seconds "$seconds" $more | tail -n 1 | jq ".$key"
}

is_alone() { [ "$(dmsetup ls | grep -c kedge)" = 1 ] && dmsetup table "${device##*/}" | grep -q " linear $(dest_loop) 0"; }
dest_loop() { losetup --noheadings -O MAJ:MIN -j "$work/dest" | tr -d ' ' | head -n 1; }

printf '%-6s %-14s %9s %9s   %s\n' engine load raw clone "clone over raw: median (least to most) of $rounds"
for engine in user dm; do
	rm -f meta meta.* dest
	truncate -s ${mib}M dest
	create_clone
	serve
	finish_clone
	wait_for 60 "it stands alone" is_alone
	for load in "${loads[@]}"; do
		: >ratios
		for ((i = 0; i <= rounds; i++)); do
			a=$(rate "$raw" "$load" $((2 * i)))
			b=$(rate "$device" "$load" $((2 * i + 1)))
			[ $i = 0 ] || echo "$a $b" >>ratios # the first one warms up
		done
		awk '{ print $2 / $1 }' ratios | sort -n >sorted
		printf '%-6s %-14s %9.0f %9.0f   %.3f (%.3f to %.3f)\n' $engine "${load%%:*}" "$(awk '{ print $1 }' ratios | sort -n | sed -n $(((rounds + 1) / 2))p)" \
			"$(awk '{ print $2 }' ratios | sort -n | sed -n $(((rounds + 1) / 2))p)" "$(sed -n $(((rounds + 1) / 2))p sorted)" "$(head -n 1 sorted)" "$(tail -n 1 sorted)"
	done
	stop_serve
done
losetup -d "$raw"
