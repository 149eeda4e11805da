#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The differential test in a guest (difftrace.c). As many traces as fit into so many seconds, or as many as the options say.
# usage: difftrace.sh BIN TESTBIN SECONDS [OPTIONS of difftrace]; with SECONDS 0 the options say how many
bin=$1 tests=$2 seconds=$3
shift 3
# shellcheck disable=SC2034
engine=user
. "$(dirname "$0")/guest.sh"
mkdir d
play() { "$tests/difftrace" "$bin/kclone" "$work/d" "$@"; }

if [ "$seconds" != 0 ]; then
	set -- --seed "${SEED:-$((RANDOM * 32768 + RANDOM))}" --traces 1000000 --seconds "$seconds" "$@"
fi
play "$@"
[ -z "$(dmsetup ls 2>/dev/null | grep -v 'No devices')" ] || fail "devices are left: $(dmsetup ls)"
[ -z "$(losetup -a)" ] || fail "loop devices are left: $(losetup -a)"
