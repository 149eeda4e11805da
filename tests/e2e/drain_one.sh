#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# One drain of one workload, with all proofs; then the host that was drained has nothing left, and events and JSON hold.
# shellcheck source=start.sh
. "$(dirname "$0")/start.sh" "$@"
cluster_init
cluster_start
workload_create one a 256M 64 --journal delete
kedge workload start one
wait_for 30 has_acks one a 100 || die "the workload commits nothing"
drain_start a --rate 32M --floor 3M --latency-factor 4 --transit checked
# from the command to the program that copies: before what b's configuration says
has_pace() { cat "$CLUSTER_DIR"/b/run/vol/one/kclone.pid 2>/dev/null | { read -r pid _ && tr '\0' ' ' <"/proc/$pid/cmdline"; } | grep -q -- "--floor 3145728 --latency-factor 4.00 --transit checked "; }
wait_for 30 has_pace || die "kclone was not told how to copy"
check_pace() { kedge status "$DRAIN" | grep -F "floor 3.00 MiB/s, latency factor 4.00, transit checked"; }
proof "status says how the drain copies" check_pace
drain_wait 120
migration=$(migration_of one)
proof "nothing of the workload is left on a" check_not_in_host a
prove_moved one a b "$migration"
# clone, agent, coordinator and receipt: each hands it on, and the workload has not written all that was there
check_sums() { kedge receipt "$migration" --json | jq -er '.checksum_bytes | if . > 0 then "\(.) bytes" else error("none") end'; }
proof "the receipt says that checksums were compared" check_sums

check_events_in_order() {
	kedge events --json | jq -rs 'map(.seq) | if . == (sort | unique) then "\(length) events" else error("not in order") end'
}
proof "events are totally ordered" check_events_in_order
check_status_done() {
	kedge status "$DRAIN" --exit-code --json | jq -e '.state == "done" and (.migrations | length == 1)' >/dev/null
}
proof "status says done" check_status_done
check_again() {
	local status=0
	kedge drain a --dry-run >/dev/null 2>&1 || status=$?
	[ "$status" = 0 ] && [ -z "$(kedge volume list --json | jq -r '.volumes[] | select(.host == "a" and .state == "local") | .name')" ]
}
proof "host a has no volume left" check_again
proofs_end
