#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The iSCSI source's own test program against a target.
. "$(dirname "$0")/lib.sh"
need openssl
: "${TEST_SOURCE:?path of test_source}"
PORT=$(free_port)
random_image "$WORK/src" 40
target_start "$PORT" "$WORK/src" vol-a
"$TEST_SOURCE" "$URL" "$WORK/src" "$TARGET_PID"
