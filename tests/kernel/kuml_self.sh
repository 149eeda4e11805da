#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The test bed's own promises: output and exit codes come back, a kernel warning, a dead guest, a guest without end and a power cut are told
# apart, and nothing is left on the host.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
work=$(mktemp -d /var/tmp/kedge-kuml.XXXXXX)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }
run() { # CODE ARGS...
	local want=$1 code=0
	shift
	"$here/kuml" "$@" >"$work/out" 2>"$work/err" || code=$?
	[ "$code" = "$want" ] || fail "kuml $* ended with $code, not $want: $(cat "$work/out" "$work/err")"
}
run 0 -- bash -c 'uname -r; echo second >&2'
[ "$(grep -c . "$work/out")" = 2 ] || fail "output: $(cat "$work/out")"
grep -q '^6\.' "$work/out" || fail "no kernel of its own: $(cat "$work/out")"
run 7 -- bash -c 'exit 7'
run 0 -- bash -c 'for m in dm-clone dm-delay dm-flakey dm-dust dm-log-writes loop fuse; do kmod $m || exit 1; done; dmsetup --noudevsync targets | grep -q ^clone'
run 123 -- bash -c 'echo "<4>WARNING: CPU: 0 PID: 1 at nowhere" >/dev/kmsg'
grep -q nowhere "$work/err" || fail "the warning is not shown"
run 124 --timeout 3 -- sleep 60
run 125 -- bash -c 'echo c >/proc/sysrq-trigger; sleep 5'
run 99 --cut "$work/cut" --timeout 30 -- bash -c "sync; touch $work/cut; sleep 60"
truncate -s 1M "$work/disk"
run 0 --ubd "$work/disk" -- dd if=/dev/urandom of=/dev/ubda bs=4k count=1 conv=fsync status=none
[ "$(head -c 4096 "$work/disk" | tr -d '\0' | wc -c)" -gt 3000 ] || fail "ubd: nothing arrived"
run 2 --frob
echo "ok: the test bed keeps its promises"
