#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# libiscsi's conformance suite against a read-only LUN: every test passes or stands in test_cu.expected with a reason. Then the
# suite's destructive tests: whatever they try, no byte of the disk changes.
. "$(dirname "$0")/lib.sh"
need iscsi-test-cu openssl sha256sum timeout awk

EXPECTED=$(dirname "$0")/test_cu.expected
DISK=$WORK/disk
make_disk "$DISK"
SUM=$(sum_of "$DISK")
start_target suite --lun "$DISK" --serial conformance-1
URL=iscsi://$PORTAL/$IQN/1

# Its status says whether a test failed; only an end that is none is an error here.
suite() { # OUTPUT OPTIONS...
	local out=$1 status=0
	shift
	timeout 120 iscsi-test-cu "$@" -t ALL "$URL" >"$out" 2>&1 || status=$?
	[ "$status" -le 1 ] && grep -q '^Run Summary' "$out" || fail "iscsi-test-cu $* ended with $status: $(tail -n 3 "$out")"
}

# "pass|fail|skip NAME" a test
results() {
	awk '/^Suite: / { suite = $2 }
		/^  Test: / { test = $2; is_skipped = 0; is_open = 1 }
		/\[SKIPPED\]/ { is_skipped = 1 }
		/passed$|FAILED$/ { if (is_open) print /FAILED$/ ? "fail" : is_skipped ? "skip" : "pass", suite "." test; is_open = 0 }' "$1"
}

suite "$WORK/suite.out" -v
results "$WORK/suite.out" | sort >"$WORK/results"
total=$(wc -l <"$WORK/results")
[ "$total" -ge 230 ] || fail "only $total tests ran, not 230: is this another version of libiscsi-bin?"
grep -v '^pass' "$WORK/results" >"$WORK/have"
grep -v '^#' "$EXPECTED" | cut -d' ' -f1,2 | sort >"$WORK/want"
while read -r kind name reason; do
	[ -n "$reason" ] || fail "$EXPECTED: $kind $name has no reason"
done < <(grep -v '^#' "$EXPECTED")
diff "$WORK/want" "$WORK/have" >&9 || fail "the results differ from $EXPECTED (<: listed, >: found)"
echo "iscsi-test-cu: $total tests, $(grep -c ^pass "$WORK/results") pass, $(grep -c ^skip "$WORK/have") skipped, $(grep -c ^fail "$WORK/have") fail, as listed"

suite "$WORK/destroy.out" -n -d
stop_target
[ "$(sum_of "$DISK")" = "$SUM" ] || fail "the destructive tests changed the disk"
echo "iscsi-test-cu -d: the disk is unchanged"
