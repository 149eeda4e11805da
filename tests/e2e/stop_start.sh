#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# An operator stops a workload while its volume hydrates, and starts it again: the clone stays, hydration goes on, nothing is lost. And an
# agent that is restarted as an upgrade does it (SIGTERM) disturbs neither the workload nor the move.
# shellcheck source=start.sh
. "$(dirname "$0")/start.sh" "$@"
cluster_init
cluster_start
workload_create h a 384M 192 --pause-ms 10
kedge workload start h
wait_for 30 has_acks h a 50 || die "the workload commits nothing"
drain_start a --rate 12M
wait_for 60 has_step h DEST_RUNNING || die "not running on b"
more_acks h b 30 || die "no rows on b"
kedge workload stop h || die "the workload does not stop"
[ "$(workload_column h STATE)" = stopped ] || die "it is $(workload_column h STATE)"
has_step h DEST_RUNNING || die "hydration was over before the stop: this proves nothing"
before=$(migration_field h durable_bytes)
wait_for 30 has_durable h $((before + 10000000)) || die "hydration does not go on without the workload: $(kedge why h)"
kedge workload start h || die "the workload does not start again"
more_acks h b 30 || die "no rows after the start"
say "ok: stopped and started while it hydrates"
for host in a b; do
	restarts=$(workload_column h RESTARTS)
	has_step h DEST_RUNNING || die "hydration was over before kedged on $host was restarted"
	daemon_stop "$host"
	daemon_start "$host"
	wait_for 20 hosts_are_up || die "kedged on $host did not come back"
	more_acks h b 20 || die "no rows on b after kedged on $host was restarted"
	[ "$(workload_column h RESTARTS)" = "$restarts" ] || die "the workload was restarted with kedged on $host"
	[ "$(migration_field h state)" = running ] || die "the move is $(migration_field h state) after kedged on $host was restarted"
	say "ok: kedged on $host restarted, nothing was disturbed"
done
drain_wait 240
proof "nothing is left on a" check_not_in_host a
prove_moved h a b "$(migration_of h)"
proofs_end
