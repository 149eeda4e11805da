#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Stop commands that do not stop. A workload that ignores SIGTERM is killed after its grace period and moves; one whose device stays
# open elsewhere is never taken for stopped: STILL_OPEN, it stays on its host, and moves once the opener is gone.
# shellcheck source=start.sh
. "$(dirname "$0")/start.sh" "$@"
cluster_init
cluster_start
stubborn=$CLUSTER_ROOT/tests/e2e/stubborn

kedge volume create deaf --host a --size 16M
kedge workload add deaf --volume deaf --grace 2s -- "$stubborn" deaf "$CLUSTER_DIR/deaf.record"
kedge workload start deaf
wait_for 10 test -s "$CLUSTER_DIR/deaf.record" || die "deaf did not start"
begin=$SECONDS
kedge move deaf --to b >"$CLUSTER_DIR/out" 2>&1 || die "deaf did not move: $(cat "$CLUSTER_DIR/out")"
[ $((SECONDS - begin)) -ge 2 ] || die "the grace period was not kept"
grep -q "deaf to TERM" "$CLUSTER_DIR/deaf.record" || die "SIGTERM was not tried first"
[ "$(workload_column deaf HOST)" = b ] || die "deaf is not on b"
[ "$(grep -c '^started' "$CLUSTER_DIR/deaf.record")" = 2 ] || die "deaf was not started once on each host"
say "ok: a workload that ignores SIGTERM is killed after its grace period, and moves"

kedge volume create leaky --host a --size 16M
kedge workload add leaky --volume leaky --grace 2s -- "$stubborn" leaky "$CLUSTER_DIR/leaky.record"
kedge workload start leaky
wait_for 10 test -s "$CLUSTER_DIR/leaky.record.leaked" || die "leaky did not start"
leaked=$(cat "$CLUSTER_DIR/leaky.record.leaked")
DRAIN=$(kedge move leaky --to b --detach 2>/dev/null)
has_error() {
	[ "$(migration_field leaky last_error.code)" = STILL_OPEN ]
}
wait_for 60 has_error || die "no STILL_OPEN: $(kedge status "$DRAIN")"
[ ! -e "$(volume_dir b)/leaky" ] || [ "$(grep -c '^started b' "$CLUSTER_DIR/leaky.record" || true)" = 0 ] ||
	die "it was started on b while its device was open on a"
kedge why leaky | tee "$CLUSTER_DIR/why"
grep -q "$leaked" "$CLUSTER_DIR/why" || die "why does not name process $leaked"
say "ok: an open device is STILL_OPEN, and named"
kedge abort "$DRAIN"
runs_on_a() {
	[ "$(workload_column leaky HOST)" = a ] && [ "$(workload_column leaky STATE)" = running ]
}
wait_for 60 runs_on_a || die "after the abort it does not run on a: $(kedge workload list)"
say "ok: after an abort it runs on a again"
kill "$leaked"
kedge move leaky --to b >"$CLUSTER_DIR/out" 2>&1 || die "leaky does not move once the opener is gone: $(cat "$CLUSTER_DIR/out")"
[ "$(workload_column leaky HOST)" = b ] || die "leaky is not on b"
say "ok: without the opener it moves"
