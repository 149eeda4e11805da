#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# While a volume hydrates, every process is killed with -9 in turn and comes back: coordinator, the agents of both hosts, the
# worker of kclone, all of kclone (to the workload a power cut), ktarget. Nothing acknowledged is lost.
COORDINATOR=c
# shellcheck source=start.sh
. "$(dirname "$0")/start.sh" "$@"
cluster_init
cluster_start
workload_create k a 384M 192 --pause-ms 10
kedge workload start k
wait_for 30 has_acks k a 100 || die "the workload commits nothing"
drain_start a --rate 8M
wait_for 60 has_step k DEST_RUNNING || die "not running on b"
more_acks k b 20 || die "no rows on b"

still_hydrating() {
	has_step k DEST_RUNNING || die "hydration was over before $1 was killed: this proves nothing"
}

# kill_daemon HOST: and start it again at once
kill_daemon() {
	still_hydrating "kedged on $1"
	daemon_stop "$1" KILL
	daemon_start "$1"
	wait_for 20 hosts_are_up || die "kedged on $1 did not come back"
	more_acks k b 20 || die "no rows on b after kedged on $1 was killed"
	say "ok: kedged on $1 was killed and came back"
}
kill_daemon c
kill_daemon b
kill_daemon a

still_hydrating "the worker of kclone"
restarts=$(workload_column k RESTARTS)
worker=$(kedge volume show k --json | jq -r '.volumes[] | select(.host == "b") | .clone.worker_pid')
[ "$worker" -gt 1 ] || die "no worker of kclone is known"
kill -KILL "$worker"
more_acks k b 20 || die "no rows after the worker of kclone was killed"
[ "$(workload_column k RESTARTS)" = "$restarts" ] || die "the workload was restarted: a worker's death must not be seen"
say "ok: the worker of kclone was killed and replaced, the workload saw nothing"

still_hydrating "kclone"
pids=$(program_pids b kclone)
[ -n "$pids" ] || die "no kclone runs on b"
# shellcheck disable=SC2086 # a list of pids
kill -KILL $pids
restarted() {
	[ "$(workload_column k RESTARTS)" -gt "$restarts" ]
}
wait_for 60 restarted || die "the workload was not restarted after kclone was lost"
more_acks k b 20 60 || die "no rows after kclone was lost"
say "ok: all of kclone was killed, served again, the workload restarted"

still_hydrating "ktarget"
pids=$(program_pids a ktarget)
[ -n "$pids" ] || die "no ktarget runs on a"
# shellcheck disable=SC2086
kill -KILL $pids
target_is_back() {
	[ -n "$(program_pids a ktarget)" ]
}
wait_for 60 target_is_back || die "ktarget did not come back"
say "ok: ktarget was killed and came back"

drain_wait 240
proof "nothing is left on a" check_not_in_host a
prove_moved k a b "$(migration_of k)"
proofs_end
