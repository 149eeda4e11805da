#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Eight workloads at four at a time. Never more than four volumes are under way at once.
# shellcheck source=start.sh
. "$(dirname "$0")/start.sh" "$@"
cluster_init
cluster_start
names="w1 w2 w3 w4 w5 w6 w7 w8"
for name in $names; do
	workload_create "$name" a 128M 32 --pause-ms 10
	kedge workload start "$name"
done
for name in $names; do
	wait_for 30 has_acks "$name" a 20 || die "$name commits nothing"
done
drain_start a --max-parallel 4
most=0
end=$((SECONDS + 240))
while [ $SECONDS -lt $end ]; do
	status=$(kedge status "$DRAIN" --json) || die "no status"
	now=$(jq '[.migrations[] | select(.state == "running" and .step != "PLANNED")] | length' <<<"$status")
	[ "$now" -le "$most" ] || most=$now
	[ "$(jq -r .state <<<"$status")" = running ] || break
	sleep 0.2
done
drain_wait 10
check_parallel() {
	echo "at most $most at once"
	[ "$most" -ge 2 ] && [ "$most" -le 4 ]
}
proof "four at a time" check_parallel
proof "nothing is left on a" check_not_in_host a
for name in $names; do
	prove_moved "$name" a b "$(migration_of "$name")"
done
proofs_end
