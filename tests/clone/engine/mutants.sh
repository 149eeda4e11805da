#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# E13: each deliberate fault of uclone_mutants.h must be found, by each of the tests named here for it. usage: mutants.sh DIR-OF-PROGRAMS
set -euo pipefail
dir=$1
header=$(dirname "$0")/../../../clone/src/uclone_mutants.h

# How each test is run, and what it prints when it has found something.
declare -A args=([crash]="12000 1" [exhaustive]="2 1" [fail]="4 1" [rules]="" [meta]="")
declare -A verdict=([crash]="E1: FAILED: " [exhaustive]="E2: FAILED: " [fail]="E6: FAILED: " [rules]="[  FAILED  ] test_" [meta]="[  FAILED  ] test_")

# FAULT: the tests that must find it; for rules and meta the one that must fail.
declare -A finders=(
	[NO_DEST_FLUSH]="crash exhaustive"
	[NO_META_FLUSH]="crash exhaustive"
	[NO_TOKEN]="crash exhaustive rules:discard_during_copy_keeps_later_write rules:late_source_data_changes_nothing"
	[EARLY_BIT]="crash exhaustive"
	[EARLY_ACK]="crash exhaustive"
	[NO_INTENT]="crash exhaustive rules:abort_after_a_crash_knows_of_writes_under_way"
	[ZERO_SKIP]="crash exhaustive"
	[LATE_ENCODE]="crash exhaustive"
	[DISCARD_NO_ZERO]="crash exhaustive"
	[DISCARD_BY_HOLES]="crash exhaustive"
	[FILL_NO_LOCK]="crash exhaustive"
	[FLUSH_JOINS]="crash exhaustive"
	[MERGE_DEST]="crash exhaustive"
	[IGNORE_INTENT]="crash exhaustive rules:abort_after_a_crash_knows_of_writes_under_way"
	[FLUSH_NO_META]="crash exhaustive"
	[SEEN_FIRST]="crash exhaustive"
	[NOT_STICKY]="fail rules:failed_commit_stops_everything_but_committed_reads"
	[SHOW_UNCOMMITTED]="rules:failed_commit_stops_everything_but_committed_reads"
	[UNKNOWN_IS_EMPTY]="meta:every_byte_of_a_map_sector_counts"
	[NO_AGE_CHECK]="meta:metadata_zeroed_foreign_or_old_is_refused"
	[WRITE_NO_LOCK]="crash exhaustive"
	[NO_MARKS]="crash exhaustive"
	[UNKNOWN_HEALS]="meta:damaged_sector_stays_unknown_after_commits"
	[FAILURE_FORGOTTEN]="rules:a_failure_outlives_the_worker"
	[BAD_STAYS]="rules:bad_source_range_fails_reads_until_overwritten"
	[BAD_NOT_FORGOTTEN]="rules:a_bad_range_is_offered_again_when_it_is_forgotten"
	[BAD_IS_OFFERED]="rules:a_bad_range_is_offered_again_when_it_is_forgotten"
	[MAP_PAST_BAD]="rules:bad_source_range_fails_reads_until_overwritten"
	[FINISH_ABORTED]="exhaustive rules:abort_never_loses_a_write"
)

names=$(sed -n 's/^\tUC_MUT_\([A-Z_]*\),.*/\1/p' "$header")
[ "$(head -n 1 <<<"$names")" = NONE ] || {
	echo "FAILED: $header is not what this script expects"
	exit 1
}

for test in "${!args[@]}"; do
	# shellcheck disable=SC2086
	out=$(UCLONE_MUTANT=0 timeout 100 "$dir/uclone_${test}_mutants" ${args[$test]} 2>&1) || {
		echo "FAILED: uclone_$test finds something without any fault: $(tail -n 3 <<<"$out")"
		exit 1
	}
done

nr=-1 nr_found=0
for name in $names; do
	nr=$((nr + 1))
	[ "$name" != NONE ] || continue
	[ -n "${finders[$name]:-}" ] || {
		echo "FAILED: no test is named for $name"
		exit 1
	}
	for finder in ${finders[$name]}; do
		test=${finder%%:*} arg=${args[${finder%%:*}]}
		expected=${verdict[$test]}
		if [ "$test" != "$finder" ]; then
			expected+=${finder#*:} arg=test_${finder#*:}
		fi
		status=0
		# shellcheck disable=SC2086
		out=$(UCLONE_MUTANT=$nr timeout 100 "$dir/uclone_${test}_mutants" $arg 2>&1) || status=$?
		# a program that is missing, hangs or is killed has found nothing
		if [ "$status" = 0 ] || [ "$status" -ge 124 ] || ! grep -qF "$expected" <<<"$out"; then
			echo "FAILED: $name survives $finder (status $status): $(tail -n 1 <<<"$out")"
			exit 1
		fi
		echo "ok: $name: $(grep -m 1 -F "$expected" <<<"$out" | cut -c1-150)"
		nr_found=$((nr_found + 1))
	done
	unset "finders[$name]"
done
[ ${#finders[@]} = 0 ] || {
	echo "FAILED: no such fault: ${!finders[*]}"
	exit 1
}
echo "$nr faults, all found, $nr_found times in all"
