# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the scripts that run inside a guest: a work directory, loop and device-mapper devices, a clone of either engine, waiting with a
# bound. Sets: bin (our programs), work, engine. way is dm, user, or top: the user engine under a dm-linear.
# shellcheck shell=bash
set -euo pipefail
work=$(mktemp -d /run/k.XXXXXX)
cd "$work"
kmod loop max_loop=16
kmod fuse
kmod "${modules:-dm-clone}"
way=${way:-${engine:-}}

fail() {
	echo "FAILED: $*" >&2
	[ ! -f "$work/serve.err" ] || sed 's/^/  serve: /' "$work/serve.err" >&2
	dmsetup table >&2 || true
	exit 1
}
say() { echo "# $*"; }
# An ordinary crash of a worker. SIGKILL in the very moment in which a request is copied between the kernel and it costs that request an I/O
# error (README, limits); a crash comes when the copy is done.
crash() { kill -SEGV "$@"; }

# wait_for SECONDS WHAT COMMAND...
wait_for() {
	local deadline=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -le $deadline ] || fail "waited in vain: $what"
		sleep 0.05
	done
}

# must_fail CODE WORDS COMMAND...
must_fail() {
	local want=$1 words=$2 code=0
	shift 2
	"$@" >"$work/out" 2>"$work/err" || code=$?
	[ "$code" = "$want" ] || fail "$* ended with $code, not $want: $(cat "$work/err")"
	grep -qi -- "$words" "$work/err" || fail "$* did not say \"$words\": $(cat "$work/err")"
}

dm() { # NAME TABLE: a device of plain device-mapper
	dmsetup create "$1" --noudevsync --noudevrules --table "$2"
	dmsetup mknodes "$1"
}
swap_dm() { # NAME TABLE
	dmsetup suspend --noudevsync --noflush --nolockfs "$1"
	dmsetup load "$1" --table "$2"
	dmsetup resume --noudevsync "$1"
}
loop_of() { losetup --direct-io=off -f --show "$1"; }
sectors() { blockdev --getsz "$1"; }

# make_source MIB: source (random), dest (empty), the same sizes
make_source() {
	head -c "$(($1 * 1048576))" /dev/urandom >source
	truncate -s "$(($1 * 1048576))" dest
}
# create_clone [OPTIONS]
create_clone() { "$bin/kclone" create --source "${SOURCE_URL:-$work/source}" --dest "${DEST:-$work/dest}" --meta "$work/meta" --engine "$engine" "$@"; }
# serve [OPTIONS]: sets serve_pid, device
serve() {
	: >serve.out
	: >serve.err
	"$bin/kclone" serve --meta "$work/meta" --block --control "$work/control" $([ "$way" = user ] && echo --top never) "$@" >serve.out 2>>serve.err &
	serve_pid=$!
	wait_for 20 "kclone serves" grep -q serving serve.out
	device=$(sed -n 's/.* block=\([^ ]*\).*/\1/p' serve.out)
	[ -b "$device" ] || fail "no block device: $(cat serve.out)"
}
ask() { "$bin/kclone" "$1" --control "$work/control" "${@:2}"; }
field() { "$bin/kclone" status --control "$work/control" --json | jq -r "$1"; }
is_field() { [ "$(field "$1")" = "$2" ]; }
stop_serve() {
	ask stop
	wait "$serve_pid" || fail "kclone serve ended with $?"
}
size_bytes() { stat -c %s source; }
is_here() { is_field .durable_bytes "$(size_bytes)"; }
finish_clone() {
	wait_for 60 "every block is here" is_here
	ask verify
	wait_for 60 "verified" is_field .verify.state passed
	ask finish
}
put() { # FILE AT_4K DEVICE: durable
	dd if="$1" of="$3" bs=4k seek="$2" conv=notrunc,fsync oflag=direct status=none
}
get() { # DEVICE AT_4K COUNT
	dd if="$1" bs=4k skip="$2" count="$3" iflag=direct status=none
}
