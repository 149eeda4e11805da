#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# K6: hydration beside busy readers. Plain dm-clone (threshold 64, batch 16) and the governor, under readers of 4 KiB, one I/O in hand each. The
# destination takes 10, 20 or 30 ms (by MiB): a disk on which readers overlap, though the guest has one CPU. In a guest.
# usage: k6.sh BIN [--at-least N] [--region KIB] [--seconds S] READERS...
#   --at-least N  fail when ours hydrates less than N times what plain does, at the last number of readers
bin=$1 engine=dm seconds=12 region=4 least=0
shift
. "$(dirname "$0")/guest.sh"
while [ $# != 0 ]; do
	case "$1" in
	--at-least) least=$2 && shift 2 ;;
	--region) region=$2 && shift 2 ;;
	--seconds) seconds=$2 && shift 2 ;;
	*) break ;;
	esac
done
[ $# != 0 ] || set -- 0 1 4 8
kmod dm-delay
mib=2048 warm_mib=64
truncate -s ${mib}M disk source
S=$(loop_of source) FAST=$(loop_of disk)
nr=$(sectors "$S")
for ((i = 0; i < mib; i++)); do echo "$((i * 2048)) 2048 delay $FAST $((i * 2048)) $((i * 7 % 3 * 10 + 10))"; done >slow.table
dmsetup create slow --noudevsync --noudevrules slow.table
dmsetup mknodes slow
D=/dev/mapper/slow

# The readers' part is there already (whole regions are written without a copy): both kinds of clone read it at the same speed.
warm() { dd if=/dev/zero of="$1" bs=1M count=$warm_mib oflag=direct conv=notrunc,fsync status=none; }

# readers N DEVICE: prints IOPS
readers() {
	[ "$1" != 0 ] || { sleep "$seconds" && echo 0 && return; }
	fio --name=r --filename="$2" --direct=1 --ioengine=psync --rw=randread --bs=4k --size=${warm_mib}M --numjobs="$1" --group_reporting --thread --runtime="$seconds" \
		--time_based --output-format=json | jq '.jobs[0].read.iops | floor'
}
percent() { echo $(($2 ? $1 * 100 / $2 : 100)); }

echo "regions of $region KiB, $seconds s each; IOPS alone -> beside hydration"
printf '%8s  %9s  %20s  %9s  %20s\n' readers "plain MiB" IOPS "ours MiB" IOPS
for n; do
	truncate -s 0 pm
	truncate -s 8M pm
	M=$(loop_of pm)
	dm plain "0 $nr clone $M $D $S $((region * 2)) 1 no_hydration 4 hydration_threshold 64 hydration_batch_size 16"
	warm /dev/mapper/plain
	alone=$(readers "$n" /dev/mapper/plain)
	dmsetup message plain 0 enable_hydration
	beside=$(readers "$n" /dev/mapper/plain)
	plain=$(dmsetup status plain | awk -v r="$region" -v w=$warm_mib '{split($7, a, "/"); print int(a[1] * r / 1024) - w}')
	dmsetup message plain 0 disable_hydration
	dmsetup remove --noudevsync --retry plain
	losetup -d "$M"
	printf '%8s  %9s  %20s' "$n" "$plain" "$alone -> $beside ($(percent "$beside" "$alone") %)"
	rm -f meta meta.*
	"$bin/kclone" create --source "$S" --dest "$D" --meta meta --engine dm --region $((region * 1024))
	serve --no-hydrate
	warm "$device"
	alone=$(readers "$n" "$device")
	ask hydrate
	beside=$(readers "$n" "$device")
	ours=$(($(field .here_bytes) / 1048576 - warm_mib))
	printf '  %9s  %20s\n' "$ours" "$alone -> $beside ($(percent "$beside" "$alone") %)"
	stop_serve
done
echo "at $n readers ours hydrated $((ours / (plain > 0 ? plain : 1))) times what plain dm-clone did"
[ "$ours" -ge $((plain * least)) ] || fail "K6: less than $least times"
