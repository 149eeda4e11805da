#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Each deliberate fault in the cores must be found by the simulation. usage: mutants.sh COORD_SIM_MUTANTS [SEEDS]
set -euo pipefail
sim=$1 seeds=${2:-5000}
mutants="abort_after_intent take_late_answers lazy_intent no_intent_at_source fence_without_stop
	undone_is_forgotten accept_stale overtake start_while_held overtake_release
	abort_after_intent,unfence_after_intent abort_after_intent,revoke_after_boot"
# The last two are second lines of defence: seen only when the first is down too.
COORD_MUTANT=none "$sim" 200 1 >/dev/null && {
	echo "FAILED: without a fault something was found"
	exit 1
}
nr=0
for mutant in $mutants; do
	status=0
	out=$(COORD_MUTANT=$mutant "$sim" "$seeds" 1) || status=$?
	if [ "$status" != 0 ]; then
		echo "FAILED: $mutant survives $seeds seeds: $out"
		exit 1
	fi
	echo "ok: $mutant: $(head -n 1 <<<"$out")"
	nr=$((nr + 1))
done
echo "$nr faults, all found"
