#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A move is aborted while its source is stopped, and in each round one daemon dies at one place of the undoing (as by kill -9) and is
# started again. Every failpoint must fire, and each time the workload runs on its own host again and nothing is left on the other.
# usage: undo.sh BIN TESTBIN [FAILPOINT...]
COORDINATOR=c
# shellcheck source=start.sh
. "$(dirname "$0")/start.sh" "$@"
shift 2
failpoints() {
	local where
	for where in before_write after_write after_act; do
		echo "coord.$where.ABORTING coord.$where.REVOKED coord.$where.ABORTED agent.$where.REVOKE agent.$where.UNFENCE"
	done
}
daemon_of() {
	case "$1" in
	coord.*) echo c ;;
	*.REVOKE) echo b ;;
	*) echo a ;;
	esac
}

cluster_init
cluster_start
# its device stays open elsewhere, so the move stands still at SRC_STOPPING until it is aborted
kedge volume create leaky --host a --size 16M
kedge workload add leaky --volume leaky --grace 1s -- "$CLUSTER_ROOT/tests/e2e/stubborn" leaky "$CLUSTER_DIR/leaky.record"
kedge workload start leaky
wait_for 10 test -s "$CLUSTER_DIR/leaky.record.leaked" || die "leaky did not start"

still_open() { [ "$(migration_field leaky last_error.code)" = STILL_OPEN ]; }
runs_on_a() { [ "$(workload_column leaky HOST)" = a ] && [ "$(workload_column leaky STATE)" = running ]; }
is_undone() { [ "$(kedge status "$DRAIN" --json 2>/dev/null | jq -r .state)" = aborted ]; }
nothing_on_b() { [ -z "$(program_pids b kclone)" ] && ! compgen -G "$(volume_dir b)/leaky*" >/dev/null; }

undo_once() { # FAILPOINT
	daemon=$(daemon_of "$1")
	wait_for 20 runs_on_a || die "$1: leaky does not run on a"
	daemon_stop "$daemon"
	daemon_start "$daemon" "$1"
	wait_for 20 hosts_are_up || die "$1: the hosts did not come up"
	DRAIN=$(kedge move leaky --to b --detach 2>/dev/null) || die "$1: no move"
	wait_for 40 still_open || die "$1: no STILL_OPEN: $(kedge status "$DRAIN")"
	kedge abort "$DRAIN" >/dev/null 2>&1 || true # the daemon may die before it answers
	wait_for 30 daemon_is_gone "$daemon" || die "$1 did not fire"
	daemon_start "$daemon"
	wait_for 20 hosts_are_up || die "$1: the daemon did not come back"
	is_undone || kedge abort "$DRAIN" >/dev/null 2>&1 || true # one that died before it took the abort forgot it
	wait_for 60 is_undone || die "$1: not undone: $(kedge status "$DRAIN")"
	wait_for 30 runs_on_a || die "$1: it does not run on a again: $(kedge workload list)"
	wait_for 10 nothing_on_b || die "$1: something is left on b: $(ls "$(volume_dir b)")"
}

nr=0
list=("$@")
[ "${#list[@]}" != 0 ] || mapfile -t list < <(failpoints | tr ' ' '\n')
for failpoint in "${list[@]}"; do
	undo_once "$failpoint"
	say "ok: $failpoint on $daemon: undone, runs on a"
	nr=$((nr + 1))
done
! grep -q '^started b' "$CLUSTER_DIR/leaky.record" || die "it was started on b"
kill "$(cat "$CLUSTER_DIR/leaky.record.leaked")" 2>/dev/null || true
say "$nr failpoints fired"
