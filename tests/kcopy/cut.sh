#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# S6, reduced: resets at chosen offsets of a session with a 64 KiB read. CUTS, STALLS, ALL_BELOW and SEED by environment.
. "$(dirname "$0")/lib.sh"
need openssl
: "${TEST_CUT:?path of test_cut}"
PORT=$(free_port)
random_image "$WORK/src" 2
openssl rand 1048576 | dd of="$WORK/src" conv=notrunc status=none
target_start "$PORT" "$WORK/src" vol-a
"$TEST_CUT" "$PORT" "$IQN" 1 "$WORK/src" "$SEED" "${CUTS:-400}" "${STALLS:-40}" "${ALL_BELOW:-0}"
