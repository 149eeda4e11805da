#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What each leg of a clone may do to it, on both engines: source, destination and metadata behind dm-flakey (errors), dm-dust (bad sectors) and
# dm-delay (slowness). One row of the table a pair; the rule is of design engine.md: never old or wrong data, never success after a failure, an end
# where one is due, and going on where that is due. In a guest. usage: [ONLY=LEG_TARGET] legs.sh BIN [ENGINE...]
bin=$1
shift
[ $# != 0 ] || set -- user dm
. "$(dirname "$0")/guest.sh"
kmod dm-flakey
kmod dm-delay
kmod dm-dust
mib=8
nr_4k=$((mib * 256))
delay_ms=150
head -c 1M /dev/urandom >fresh
head -c 1M /dev/urandom >fresh2

# ---- a clone over three devices that can be made to fail ----

lead() { # LEG TARGET-AND-OPTIONS, %D is the device below
	local leg=$1 table=$2
	swap_dm "leg-$leg" "0 ${leg_sectors[$leg]} ${table//%D/${leg_loop[$leg]}}"
}
heal() { lead "$1" "linear %D 0"; }

declare -A leg_loop leg_sectors
begin() { # SERVE-OPTIONS
	local leg
	rm -f meta meta.* dest want
	truncate -s ${mib}M dest
	head -c ${mib}M /dev/zero | tr '\0' '\333' >dest # another owner's
	cp source want
	leg_loop=() leg_sectors=()
	for leg in source dest; do leg_loop[$leg]=$(loop_of $leg); done
	for leg in source dest; do
		leg_sectors[$leg]=$(sectors "${leg_loop[$leg]}")
		dm leg-$leg "0 ${leg_sectors[$leg]} linear ${leg_loop[$leg]} 0"
	done
	"$bin/kclone" create --source /dev/mapper/leg-source --dest /dev/mapper/leg-dest --meta "$work/meta" --engine "$engine"
	# what holds the bitmap: META of the user engine, the kernel's META.dm
	meta_file=meta
	[ "$engine" = user ] || meta_file=meta.dm
	mv $meta_file meta.below
	leg_loop[meta]=$(loop_of meta.below)
	leg_sectors[meta]=$(sectors "${leg_loop[meta]}")
	dm leg-meta "0 ${leg_sectors[meta]} linear ${leg_loop[meta]} 0"
	ln -s /dev/mapper/leg-meta $meta_file
	serve --io-timeout 1000 "$@"
}
end() {
	local leg
	for leg in source dest meta; do
		dmsetup remove --noudevsync --retry leg-$leg
		losetup -d "${leg_loop[$leg]}"
	done
	rm -f meta meta.*
}

# ---- what is asked of it ----

write_once() { # FILE AT COUNT: one write, and a flush
	timeout 60 dd if="$1" of="$device" bs=$(($3 * 4096)) count=1 seek=$(($2 * 4096)) oflag=direct,seek_bytes conv=notrunc,fsync status=none
}
# keep FILE AT COUNT: written and flushed, and from now on owed
keep() {
	write_once "$@" || fail "a write failed that should not"
	dd if="$1" of=want bs=4k seek="$2" count="$3" conv=notrunc status=none
}
try_put() { write_once "$@" 2>/dev/null; }
is_want() { # AT COUNT: reads, and right
	cmp -s <(get "$device" "$1" "$2") <(dd if=want bs=4k skip="$1" count="$2" status=none)
}
must_read() { is_want "$1" "$2" || fail "blocks $1 to $(($1 + $2)) read wrong or not at all"; }
# never_wrong AT COUNT: each block is right or an error
never_wrong() {
	local b
	nr_errors=0
	if get "$device" "$1" "$2" >many 2>/dev/null; then
		cmp -s many <(dd if=want bs=4k skip="$1" count="$2" status=none) || fail "blocks $1 to $(($1 + $2)) read as something else"
		return
	fi
	for ((b = $1; b < $1 + $2; b++)); do
		if timeout 60 dd if="$device" bs=4k skip=$b count=1 iflag=direct status=none of=one 2>/dev/null; then
			cmp -s one <(dd if=want bs=4k skip=$b count=1 status=none) || fail "block $b reads as something else"
		else
			nr_errors=$((nr_errors + 1))
		fi
	done
}
must_err() { ! timeout 60 dd if="$device" bs=4k skip="$1" count=1 iflag=direct of=/dev/null status=none 2>/dev/null || fail "block $1 is read"; }
all_right() { dd if="$device" bs=1M iflag=direct status=none | cmp - want || fail "it differs"; }
all_of_it() { # to the end: hydrated, verified, alone
	ask hydrate
	finish_clone
	all_right
	stop_serve
	cmp dest want || fail "the destination differs"
	"$bin/kclone" check --meta "$work/meta" >/dev/null || fail "check"
}
fails_stop() { # WHY: state failed, nothing succeeds any more, what is read is right or an error
	wait_for 5 "the failure is noticed ($1)" is_field .state failed
	! try_put fresh2 1500 1 || fail "success after a failure ($1)"
	never_wrong 0 15
	never_wrong 1024 8
}
comes_back() { # served again over legs that are well: everything that was flushed is there
	ask stop 2>/dev/null || true
	wait "$serve_pid" || true # it says that it failed
	serve --io-timeout 1000 --no-hydrate
	never_wrong 0 15
	[ $nr_errors = 0 ] || fail "$nr_errors blocks are lost"
}

# ---- the rows ----

# The source's errors reach reads of blocks that are not here, and nothing else.
source_flakey() {
	begin --no-hydrate
	keep fresh 0 16
	lead source "flakey %D 0 0 600"
	must_err 1000
	must_read 0 16
	keep fresh2 32 16 # a whole region needs no source
	! try_put fresh2 100 1 || { [ "$engine" = user ] && dd if=fresh2 of=want bs=4k seek=100 count=1 conv=notrunc status=none; } || fail "half a region from nowhere"
	ask hydrate
	never_wrong 40 12
	heal source
	if [ "$engine" = user ]; then # a device that answers with errors is no source that is away: its blocks are bad until kclone is started again
		stop_serve
		serve
	fi
	wait_for 60 "it goes on" is_here
	all_of_it
}
source_dust() {
	begin --no-hydrate
	lead source "dust %D 0 4096"
	dmsetup message leg-source 0 addbadblock 777
	dmsetup message leg-source 0 enable
	keep fresh 0 16
	must_err 777
	must_read 720 8
	ask hydrate
	wait_for 60 "the rest is here" bash -c "[ \$('$bin/kclone' status --control '$work/control' --json | jq .here_bytes) -ge $(((nr_4k - 32) * 4096)) ]"
	! is_here || fail "a block that cannot be read counts as here"
	must_fail 9 "not here" "$bin/kclone" finish --control "$work/control"
	must_err 777
	# Written over, it needs no source any more. A write that meets one of dm-clone's tries to copy that region fails with it.
	wait_for 60 "the region can be written over" write_once fresh2 768 16
	keep fresh2 768 16
	wait_for 90 "healed" is_here
	dmsetup message leg-source 0 removebadblock 777 # the comparison reads everything that was not written
	all_of_it
}
source_delay() {
	begin --no-hydrate
	lead source "delay %D 0 $delay_ms"
	must_read 500 1
	keep fresh 512 1
	must_read 512 8
	ask hydrate
	keep fresh2 900 20
	must_read 896 32
	heal source
	all_of_it
}
# A destination that cannot be written: no write and no flush succeeds. The user engine ends there. dm-clone gives the error to whoever wrote, as a
# disk does, and goes on when the destination does: what was acknowledged is there, what failed is either.
dest_flakey() {
	begin --no-hydrate
	keep fresh 0 16
	ask commit
	lead dest "flakey %D 0 0 600 1 error_writes"
	! try_put fresh2 64 16 || fail "success on a destination that takes nothing"
	! try_put fresh2 1500 1 || fail "success on a destination that takes nothing: part of a region"
	! try_put fresh 15 1 || fail "success on a destination that takes nothing: blocks that are here"
	if [ "$engine" = user ]; then
		fails_stop "the destination's flush failed"
		heal dest
		fails_stop "well again, but not trusted"
		comes_back
	else
		never_wrong 0 15
		[ $nr_errors = 0 ] || fail "what is here is not read"
		heal dest
	fi
	all_of_it_after_unsure 64 16
}
# A write that failed leaves either.
all_of_it_after_unsure() { # AT COUNT
	dd if="$device" of=want bs=4k skip="$1" seek="$1" count="$2" conv=notrunc iflag=direct status=none
	for ((b = $1; b < $1 + $2; b++)); do
		cmp -s <(dd if=want bs=4k skip=$b count=1 status=none) <(dd if=source bs=4k skip=$b count=1 status=none) ||
			cmp -s <(dd if=want bs=4k skip=$b count=1 status=none) <(dd if=fresh2 bs=4k skip=$((b - $1)) count=1 status=none) ||
			fail "block $b is neither the old nor the new"
	done
	dd if="$device" of=one bs=4k skip=15 count=1 iflag=direct status=none
	cmp -s one <(dd if=fresh bs=4k skip=15 count=1 status=none) || cmp -s one <(dd if=fresh bs=4k count=1 status=none) || fail "block 15"
	dd if=one of=want bs=4k seek=15 conv=notrunc status=none
	dd if="$device" of=one bs=4k skip=1500 count=1 iflag=direct status=none
	dd if=one of=want bs=4k seek=1500 conv=notrunc status=none
	cmp -s one <(dd if=source bs=4k skip=1500 count=1 status=none) || cmp -s one <(dd if=fresh2 bs=4k count=1 status=none) || fail "block 1500"
	all_of_it
}
dest_dust() {
	begin --no-hydrate
	keep fresh 0 16
	lead dest "dust %D 0 4096"
	dmsetup message leg-dest 0 addbadblock 5
	dmsetup message leg-dest 0 enable
	must_err 5
	must_read 6 10
	ask hydrate
	wait_for 60 "the rest is here" is_here
	ask verify
	wait_for 60 "the comparison ends" bash -c "'$bin/kclone' status --control '$work/control' --json | jq -e '.verify.state != \"running\"' >/dev/null"
	if [ "$engine" = dm ]; then # everything is compared
		is_field .verify.state failed || fail "verified: $(field .verify)"
		must_fail 35 "" "$bin/kclone" finish --control "$work/control"
	fi
	must_err 5
	keep fresh2 5 1 # a disk gives a sector that is written another place
	must_read 0 16
	all_of_it
}
dest_delay() {
	begin --no-hydrate
	lead dest "delay %D 0 $delay_ms"
	keep fresh 500 1
	must_read 496 16
	ask hydrate
	keep fresh2 900 20
	must_read 896 32
	heal dest
	all_of_it
}
# K4
meta_flakey() {
	begin --no-hydrate
	keep fresh 0 16
	ask commit
	lead meta "flakey %D 0 0 600 1 error_writes"
	! try_put fresh2 64 16 || fail "flushed, although the metadata cannot be"
	fails_stop "the metadata cannot be written"
	heal meta
	fails_stop "well again, but not trusted"
	comes_back
	all_of_it_after_unsure 64 16
}
# Metadata that cannot be read: nothing is served from it as empty or as here.
meta_dust() {
	begin --no-hydrate
	keep fresh 0 16
	stop_serve
	lead meta "dust %D 0 4096"
	for b in 0 1 2 16 32; do dmsetup message leg-meta 0 addbadblock $b; done # superblocks and bitmaps
	dmsetup message leg-meta 0 enable
	code=0
	"$bin/kclone" serve --meta "$work/meta" --block --control "$work/control" --no-hydrate >out 2>err || code=$?
	[ $code != 0 ] || fail "served without metadata"
	grep -qi "meta" err || fail "it did not say what is wrong: $(cat err)"
	heal meta
	if [ "$engine" = user ]; then # one page of the map: its blocks are unknown, the rest goes on
		lead meta "dust %D 0 4096"
		dmsetup message leg-meta 0 addbadblock 32
		dmsetup message leg-meta 0 enable
		code=0
		timeout 20 "$bin/kclone" check --meta "$work/meta" >out 2>&1 || code=$?
		[ $code != 0 ] || fail "check finds nothing wrong with a page that cannot be read"
		heal meta
	fi
	serve --io-timeout 1000 --no-hydrate
	must_read 0 16
	all_of_it
}
# A flush is answered when the metadata has it, not before.
meta_delay() {
	local before now
	begin --no-hydrate
	lead meta "delay %D 0 $delay_ms"
	before=$(date +%s%N)
	keep fresh 500 1
	now=$(date +%s%N)
	[ $((now - before)) -ge $((delay_ms * 1000000)) ] || fail "flushed before the metadata was"
	must_read 496 16
	ask hydrate
	keep fresh2 900 20
	heal meta
	all_of_it
}

trap 'echo "ended at line $LINENO: $BASH_COMMAND" >&2' ERR
set -E
make_source $mib
for engine; do
	for leg in source dest meta; do
		for target in flakey dust delay; do
			[[ "${leg}_$target" == ${ONLY:-*} ]] || continue
			say "engine $engine, $leg under dm-$target ($SECONDS s)"
			: >serve.err
			"${leg}_$target"
			end
		done
	done
done
[ -z "$(dmsetup ls 2>/dev/null | grep -v 'No devices')" ] || fail "devices are left: $(dmsetup ls)"
[ -z "$(losetup -a)" ] || fail "loop devices are left: $(losetup -a)"
echo "ok: source, destination and metadata under dm-flakey, dm-dust and dm-delay, engines: $*"
