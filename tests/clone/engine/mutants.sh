#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# E13: each deliberate fault of uclone_mutants.h must be found by the simulation. usage: mutants.sh DIR-OF-PROGRAMS
set -euo pipefail
dir=$1
# faults whose place is another test than the random crashes
declare -A by=([16]=uclone_fail [17]=uclone_rules [18]=uclone_rules [19]=uclone_rules)
names=$(sed -n 's/^\tUC_MUT_\([A-Z_]*\),.*/\1/p' "$(dirname "$0")/../../../clone/src/uclone_mutants.h" | grep -v '^NONE$')
nr=0
for name in $names; do
	nr=$((nr + 1))
	program=${by[$nr]:-uclone_crash}
	status=0
	out=$(UCLONE_MUTANT=$nr timeout 60 "$dir/${program}_mutants" 2>&1) || status=$?
	if [ "$status" = 0 ] || [ "$status" = 124 ]; then
		echo "FAILED: $name survives $program: $(tail -n 1 <<<"$out")"
		exit 1
	fi
	echo "ok: $name: $(grep -m1 -E 'FAILED|ERROR|rror' <<<"$out" | cut -c1-120)"
done
[ "$nr" -ge 20 ] || {
	echo "FAILED: only $nr faults were found in uclone_mutants.h"
	exit 1
}
echo "$nr faults, all found"
