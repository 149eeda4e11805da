#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The source host is away for 20 s in the middle of hydration: no I/O error, no restart, nothing lost, and it ends.
# shellcheck source=start.sh
. "$(dirname "$0")/start.sh" "$@"
cluster_init
cluster_start
workload_create s a 512M 256 --pause-ms 10
kedge workload start s
wait_for 30 has_acks s a 100 || die "the workload commits nothing"
drain_start a --rate 12M
wait_for 60 has_step s DEST_RUNNING || die "not running on b"
wait_for 60 has_durable s 50000000 || die "nothing is copied"
link_set down
away_since=$SECONDS
source_is_seen_away() {
	[ "$(kedge volume show s --json | jq -r '.volumes[] | select(.host == "b") | .clone.source.state')" = away ]
}
wait_for 20 source_is_seen_away || die "kclone does not say that its source is away"
before=$(migration_field s durable_bytes)
while [ $((SECONDS - away_since)) -lt 20 ]; do
	kedge why s >"$CLUSTER_DIR/why" 2>&1 || true
	sleep 1
done
say "why, meanwhile: $(head -n 1 "$CLUSTER_DIR/why")"
has_step s DEST_RUNNING || die "the step changed while the source was away"
link_set up
wait_for 60 has_durable s $((before + 20000000)) || die "hydration does not go on"
drain_wait 180
[ "$(workload_column s RESTARTS)" = 0 ] || die "the workload was restarted"
proof "nothing is left on a" check_not_in_host a
prove_moved s a b "$(migration_of s)"
proofs_end
