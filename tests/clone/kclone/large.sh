#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A volume of 16 TiB, the largest there is, opens, and takes memory for what is in use only. usage: large.sh KCLONE
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq qemu-io fallocate
kclone=$1 bytes=$((16 << 40)) limit_kib=$((64 * 1024))
shm=$work/shm # ext4 has no files that large
mkdir "$shm"
mount -t tmpfs -o size=64m none "$shm"
truncate -s "$bytes" "$shm/source" "$shm/dest"
"$kclone" create --source "$shm/source" --dest "$shm/dest" --meta "$work/meta"
: >"$work/disk"
serve --no-hydrate --fuse "$work/disk"
uri="nbd+unix:///?socket=$work/nbd"
last=$((bytes - 4096))
memory() { awk '/^VmRSS/ {print $2}' "/proc/$(field .worker_pid)/status"; }
[ "$(memory)" -lt "$limit_kib" ] || die "a worker of an untouched volume takes $(memory) KiB, more than $limit_kib"
qemu-io -f raw -c "read -P 0 $last 4k" -c "write -P 7 $last 4k" -c "write -P 8 0 512" -c flush "$uri" >/dev/null
kill -KILL "$(field .worker_pid)"
answers() { [ "$(field .worker_pid 2>/dev/null)" -gt 0 ]; }
wait_for 30 "the next worker answers" answers
qemu-io -f raw -c "read -P 7 $last 4k" -c "read -P 8 0 512" -c "read -P 0 512 3584" "$uri" >"$work/out" || die "reads fail"
! grep -qi "fail\|error" "$work/out" || die "$(cat "$work/out")"
[ "$(field .written_bytes)" = 8192 ] || die "$(field .written_bytes) bytes are written"
[ "$(memory)" -lt "$limit_kib" ] || die "the next worker takes $(memory) KiB, more than $limit_kib"
fallocate --punch-hole --keep-size -o $((1 << 40 | 512)) -l $((4 << 30)) "$work/disk"
[ "$(field .written_bytes)" = $((8192 + (4 << 30) + 4096)) ] || die "a hole of 4 GiB is $(field .written_bytes) bytes"
peak() { awk '/^VmHWM/ {print $2}' "/proc/$(field .worker_pid)/status"; }
[ "$(peak)" -lt "$((2 * limit_kib))" ] || die "a hole of 4 GiB that begins within a block took $(peak) KiB"
echo "ok: 16 TiB, $(memory) KiB of memory with two blocks written"
stop_serve
