#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Can quickstart's proofs say no? Builds kedge with one fault at a time and runs quickstart with it: it must fail, and print which
# proof did. The unchanged tree goes first and must pass. Takes some minutes; not part of ./check.
# usage: prove-proofs.sh [FAULT...]
# shellcheck disable=SC2317 # the faults are called by name
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
work=$(mktemp -d /var/tmp/kedge-faults.XXXXXX)
trap 'rm -rf "$work"' EXIT
log=$work/log
flags=
bad=0

# edit FILE SED-EXPRESSION: a fault whose place has moved is no fault
edit() {
	cp "$work/src/$1" "$work/before"
	sed -i -E "$2" "$work/src/$1"
	if cmp -s "$work/before" "$work/src/$1"; then
		echo "FAILED: $fault: nothing to change in $1"
		exit 1
	fi
}

# ---- the faults ----

fault_none() { :; }

# The engine answers some of the workload's writes without writing them.
fault_lost_writes() {
	edit clone/src/uclone_io.c 's/^\tkedge_disk_submit\(u->env.dest, &w->disk_io\);/\tif (w->first % 3 == 1)\n\t\tw->disk_io.op = KEDGE_DISK_FLUSH;\n&/'
}

# A byte of each copied run is wrong. The engine's own comparison with the source must hold the drain.
fault_wrong_copy() {
	edit clone/src/uclone_claims.c 's/^\t\tkedge_disk_submit\(u->env.dest, &c->io\);/\t\tif (c->io.buf)\n\t\t\t((unsigned char *)c->io.buf)[9] ^= 1;\n&/'
}

# The same, and that comparison sees nothing: the proofs must.
fault_wrong_copy_unverified() {
	fault_wrong_copy
	edit kcopy/src/verify.c 's/^\t\th->mismatch_bytes \+= here;/\t\th->verified_bytes += here;/'
	edit kcopy/src/verify.c 's/^\t\th->first_mismatch_bytes = .*$/\t\t(void)block;/'
}

# The source's agent says "stopped" and stops nothing: two writers.
fault_no_stop() {
	edit orchestrator/src/agent_acts.c 's/^\tstop_and_prove\(j\);/\tj->was_running = true;/'
	edit orchestrator/src/agent_acts.c 's/^\tif \(driver_find\(j->config, &j->d, &proc\)\)$/\tif (driver_find(j->config, \&j->d, \&proc) \&\& j->is_more)/'
	edit orchestrator/src/agent_acts.c 's/^\tuint64_t end_ns = kedge_clock_ns\(\) \+ \(uint64_t\)OPENERS_PATIENCE_MS \* 1000000;/\tif (j) return 0;\n&/'
}

FAULTS=(none lost_writes wrong_copy wrong_copy_unverified no_stop)

# ---- the run ----

run() { # FAULT
	fault=$1
	flags=
	rm -rf "$work/src"
	mkdir "$work/src"
	(cd "$root" && tar cf - --exclude=./build --exclude=./.git .) | tar xf - -C "$work/src"
	"fault_$fault"
	if ! { cmake -S "$work/src" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DKEDGE_WERROR=OFF \
		-DCMAKE_C_FLAGS="$flags" &&
		cmake --build "$work/build" --target kedged kedge ktarget kclone rowwriter rowcheck; } >"$log" 2>&1; then
		tail -n 40 "$log"
		exit 1
	fi
	"$work/src/quickstart" --no-install --build "$work/build" >"$log" 2>&1
}

[ $# = 0 ] || FAULTS=("$@")
for name in "${FAULTS[@]}"; do
	status=0
	run "$name" || status=$?
	if [ "$name" = none ]; then
		if [ "$status" = 0 ]; then
			echo "ok: without a fault all $(grep -c '^ok: ' "$log") proofs hold"
		else
			echo "FAILED: without a fault quickstart ends with $status"
			tail -n 40 "$log"
			exit 1
		fi
	elif [ "$status" = 0 ]; then
		echo "FAILED: $name was not noticed"
		bad=1
	else
		echo "ok: $name was noticed:"
		grep '^FAILED' "$log" | sed 's/^/    /' || tail -n 5 "$log"
	fi
done
exit "$bad"
