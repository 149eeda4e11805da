#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# One workload is moved to and fro, and in each move one daemon dies at one place (as by kill -9) and is started again: the
# coordinator and both agents, before the step is recorded, after it was recorded and before it acts, after it acted and before
# that is recorded. Every failpoint must fire, every move must end, and at the end the one record of all runs must hold.
# usage: failpoints.sh BIN TESTBIN [FAILPOINT...]
COORDINATOR=c
# shellcheck source=start.sh
. "$(dirname "$0")/start.sh" "$@"
shift 2
SOURCE_STEPS="CHECK STOP FENCE EXPORT INTENT UNEXPORT RELEASE"
DEST_STEPS="RESERVE ATTACH BOOT HYDRATE FINISH"
COORD_STEPS="CHECKED DEST_RESERVED SRC_STOPPING SRC_STOPPED SRC_FENCED EXPORTED ATTACHED BOOT_INTENT SRC_RELINQUISHED DEST_RUNNING HYDRATED DETACHED UNEXPORTED RETAINED RELEASED DONE"

failpoints() {
	local where step
	for where in before_write after_write after_act; do
		for step in $COORD_STEPS; do echo "coord.$where.$step"; done
		for step in $SOURCE_STEPS $DEST_STEPS; do echo "agent.$where.$step"; done
	done
}

cluster_init
cluster_start
workload_create f a 192M 8 --pause-ms 5
kedge workload start f
wait_for 30 has_acks f a 20 || die "the workload commits nothing"

from=a
to=b
# Which daemon a failpoint is for, in the present direction.
daemon_of() {
	local step=${1##*.}
	case "$1" in
	coord.*) echo c ;;
	*) case " $SOURCE_STEPS " in
		*" $step "*) echo "$from" ;;
		*) echo "$to" ;;
		esac ;;
	esac
}

is_over() {
	local state
	state=$(kedge status "$DRAIN" --json 2>/dev/null | jq -r .state)
	[ "$state" != running ] && [ -n "$state" ] && [ "$state" != null ]
}

fired_or_over() {
	daemon_is_gone "$daemon" || { [ -n "$DRAIN" ] && is_over; }
}

move_once() { # FAILPOINT
	local tries
	daemon=$(daemon_of "$1")
	daemon_stop "$daemon"
	daemon_start "$daemon" "$1"
	wait_for 20 hosts_are_up || die "$1: the hosts did not come up"
	DRAIN=$(kedge move f --to "$to" --detach 2>/dev/null) || DRAIN=
	wait_for 60 fired_or_over || die "$1: the daemon did not die and the move does not end"
	daemon_is_gone "$daemon" || die "$1 did not fire"
	daemon_start "$daemon"
	wait_for 20 hosts_are_up || die "$1: the daemon did not come back"
	# a coordinator that died before it took the move: ask again
	for ((tries = 0; tries < 20 && ${#DRAIN} == 0; tries++)); do
		DRAIN=$(kedge status --json | jq -r '.drains[0].id // empty')
		[ -n "$DRAIN" ] || DRAIN=$(kedge move f --to "$to" --detach 2>/dev/null) || DRAIN=
		[ -n "$DRAIN" ] || sleep 0.5
	done
	[ -n "$DRAIN" ] || die "$1: no move"
	wait_for 90 is_over || die "$1: the move does not end"
	[ "$(kedge status "$DRAIN" --json | jq -r .state)" = "done" ] || die "$1: $(kedge status "$DRAIN")"
	more_acks f "$to" 5 || die "$1: no rows on $to"
}

nr=0
list=("$@")
[ "${#list[@]}" != 0 ] || mapfile -t list < <(failpoints)
for failpoint in "${list[@]}"; do
	move_once "$failpoint"
	say "ok: $failpoint on $daemon: moved from $from to $to, $(acks f) rows"
	last=$to
	to=$from
	from=$last
	nr=$((nr + 1))
done
say "$nr failpoints fired"
prove_moved f "$to" "$from" "$(migration_of f)"
proofs_end
