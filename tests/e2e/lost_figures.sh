#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The destination's daemon dies when the clone stands alone and nobody has recorded how that was compared; then the clone dies too, and its own
# record of it is gone. The move ends all the same, and the receipt makes nothing up.
COORDINATOR=c
# shellcheck source=start.sh
. "$(dirname "$0")/start.sh" "$@"
cluster_init
cluster_start
workload_create l a 64M 8 --pause-ms 5
kedge workload start l
wait_for 30 has_acks l a 20 || die "the workload commits nothing"
daemon_stop b
daemon_start b agent.after_act.FINISH
wait_for 20 hosts_are_up || die "the hosts did not come up"
DRAIN=$(kedge move l --to b --detach 2>/dev/null)
wait_for 60 daemon_is_gone b || die "the daemon did not die"
read -r clone _ <"$CLUSTER_DIR/b/run/vol/l/kclone.pid"
rm "$(state_dir b)"/clones/l.*.meta.compared
kill -9 -- "-$clone"
daemon_start b
wait_for 20 hosts_are_up || die "the daemon did not come back"
is_done() { [ "$(kedge status "$DRAIN" --json 2>/dev/null | jq -r .state)" = "done" ]; }
wait_for 60 is_done || die "the move does not end: $(kedge status "$DRAIN")"
check_untold() {
	kedge receipt "$(migration_of l)" --verify "$CLUSTER_DIR/cluster.secret" --json | jq -e '.mismatch_bytes == 0 and .written_bytes > 0 and
		(has("verified_bytes") or has("checksum_bytes") or has("hole_bytes") or has("sampled_bytes") | not)' >/dev/null &&
		kedge receipt "$(migration_of l)" | grep "not told"
}
proof "the receipt does not say what nobody knows" check_untold
check_goes_on() { more_acks l b 5; }
proof "the workload goes on" check_goes_on
proofs_end
