#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# E3: kill -9 of the worker and of all of `kclone serve` under a block oracle.
# usage: e3.sh KCLONE ORACLE CYCLES [SEED] [KTARGET [history]]; with KTARGET the source is read over iSCSI; with "history" blocks are copied in the
# order of a recorded one, all over the volume.
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
options=()
if [ "${6:-}" = history ]; then
	need jq qemu-io
	truncate -s "$bytes" "$work/dest"
	"$kclone" create --source "$url" --dest "$work/dest" --meta "$work/meta"
	serve --no-hydrate --trace
	wait_for 20 "the source is up" is_field .source.state up
	reads=()
	for ((i = 0; i < 600; i++)); do reads+=(-c "read $(((i * 7919 + seed) % 10000 * 4096)) 8k"); done
	qemu-io -f raw "${reads[@]}" "nbd+unix:///?socket=$work/nbd" >/dev/null
	ask trace --output "$work/history"
	stop_serve
	options=(--prefetch "$work/history")
fi
mkdir "$work/oracle"
# so slow that most kills fall into the hydration of a clone; the oracle counts them
if ! "$oracle" run "$kclone" "$work/oracle" "$url" "$bytes" "$cycles" "$seed" --rate 2M "${options[@]}"; then
	tail -50 "$work/oracle/log" >&2
	exit 1
fi
if [ ${#options[@]} != 0 ] && ! grep -q "ranges, .* bytes are copied first" "$work/oracle/log"; then
	die "the history was not used"
fi
