#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Clients that break the NBD protocol: the server goes on with the same worker, in bounded memory, and no byte changes. usage: rude.sh
# KCLONE RUDE [SEED]
set -euo pipefail
. "$(dirname "$0")/../kclone/lib.sh"
need nbdcopy jq
kclone=$1 rude=$2 seed=${3:-$RANDOM} bytes=$((16 * 1024 * 1024))
head -c "$bytes" /dev/urandom >"$work/source"
truncate -s "$bytes" "$work/dest"
"$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta"
serve
worker=$(field .worker_pid)
"$rude" "$work/nbd" "$seed" || die "see above"
[ "$(field .worker_pid)" = "$worker" ] || die "the worker did not survive it"
[ "$(field .written_bytes)" = 0 ] || die "something was written: $(field .written_bytes) bytes"
nbdcopy "nbd+unix:///?socket=$work/nbd" "$work/copy"
cmp "$work/copy" "$work/source" || die "the content changed"
peak=$(awk '/VmHWM/ { print $2 }' "/proc/$worker/status")
# 4 that hoard, each up to 32 MiB and what the engine needs for it; a sanitizer has its own
if ! grep -q __asan_init "$kclone"; then
	[ "$peak" -lt $((400 * 1024)) ] || die "the worker used $peak KiB"
fi
stop_serve
echo "ok: seed $seed, peak memory of the worker $peak KiB"
