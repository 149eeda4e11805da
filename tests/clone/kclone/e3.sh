#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# E3: kill -9 of the worker and of all of `kclone serve` under a block oracle.
# usage: e3.sh KCLONE ORACLE CYCLES [SEED] [KTARGET]; with KTARGET the source is read over iSCSI.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

kclone=$1 oracle=$2 cycles=$3 seed=${4:-$RANDOM$RANDOM} ktarget=${5:-}
bytes=$((40 * 1024 * 1024 + 1536)) # no multiple of 4 KiB

"$oracle" stamp "$work/source" "$bytes" 1
url=$work/source
if [ -n "$ktarget" ]; then
	start_ktarget "$ktarget" "$work/source"
	url=$target_url
fi
mkdir "$work/oracle"
# so slow that most kills fall into the hydration of a clone; the oracle counts them
if ! "$oracle" run "$kclone" "$work/oracle" "$url" "$bytes" "$cycles" "$seed" --rate 2M; then
	tail -50 "$work/oracle/log" >&2
	exit 1
fi
