#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Moves a volume of each SIZE from host a to host b, in turns, on the two hosts of tests/lib/cluster.sh, with a workload that stops at once
# (bench_writer). Prints a line of JSON a move: the migration as `kedge status` shows it, and the acknowledged writes next to the gap.
# KEDGE_TEST_DIR: where the hosts live; must hold twice each volume, which may be sparse. usage: drains.sh BUILD ROUNDS SIZE...
set -euo pipefail
BUILD=$1 ROUNDS=$2
shift 2
CLUSTER_ROOT=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
# shellcheck disable=SC2034 # used by cluster.sh
BIN=$BUILD/bin TESTBIN=$BUILD/tests
# shellcheck source=../tests/lib/cluster.sh
. "$CLUSTER_ROOT/tests/lib/cluster.sh"
exec 3>&1 1>&2 # the results alone go to standard output

nr_acks() { # RECORD HOST COUNT: has it so many?
	[ "$(awk -v h="$2" '$1 == h { n++ } END { print n + 0 }' "$1" 2>/dev/null)" -ge "$3" ]
}

# The last of host a and the first of host b.
gap() { # RECORD
	awk '$1 == "a" { last = $2 " " $3 } $1 == "b" && first == "" { first = $2 " " $3 }
		END { split(last, l, " "); split(first, f, " ")
		printf "{\"last_mono_ns\":%s,\"last_real_ns\":%s,\"first_mono_ns\":%s,\"first_real_ns\":%s}", l[1], l[2], f[1], f[2] }' "$1"
}

is_on_b() { # NAME RECORD
	nr_acks "$2" b 1 && [ "$(migration_field "$1" downtime_ms)" != null ]
}

# What follows (copying, comparing) is not waited for: of 16 TiB it takes its time, and nobody is down.
move_one() { # NAME SIZE ROUND
	local name=$1 record=$CLUSTER_DIR/$1.record
	kedge volume create "$name" --host a --size "$2"
	kedge workload add "$name" --volume "$name" --grace 5s -- "$BUILD/bench/bench_writer" "$record"
	kedge workload start "$name"
	wait_for 30 nr_acks "$record" a 200 || die "the workload writes nothing"
	drain_start a
	wait_for 120 is_on_b "$name" "$record" || die "the workload does not run on b"
	printf '{"size":"%s","round":%d,"acks":%s,"migration":%s}\n' "$2" "$3" "$(gap "$record")" \
		"$(kedge status "$DRAIN" --json | jq -c --arg v "$name" '.migrations[] | select(.volume == $v)')" >&3
}

# Two hosts of their own for each move: what the last one left to do does not run beside the next.
# Every second round backwards: none always comes after the same other.
for ((round = 0; round < ROUNDS; round++)); do
	sizes=()
	for size; do
		if ((round % 2)); then sizes=("$size" "${sizes[@]}"); else sizes+=("$size"); fi
	done
	for size in "${sizes[@]}"; do
		cluster_init
		cluster_start
		move_one bench "$size" "$round"
		cluster_end
	done
done
