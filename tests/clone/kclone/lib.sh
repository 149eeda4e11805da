# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the tests of kclone: a work directory that is cleaned up, processes that are ended, waiting with a bound.
# shellcheck shell=bash

. "$(dirname "${BASH_SOURCE[0]}")/../../lib/loop.sh"

work=$(mktemp -d /tmp/kclone-test.XXXXXX)
pids=()

clean_up() {
	local code=${1:-$?} pid dir
	trap - EXIT
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	for pid in "${pids[@]}"; do
		wait "$pid" 2>/dev/null || true
	done
	loop_drop_all "$work/"
	for dir in $(awk -v t="$work/" 'index($2, t) == 1 {print $2}' /proc/mounts); do umount -l "$dir" || true; done
	[ "$code" = 0 ] || { [ -f "$work/serve.log" ] && tail -30 "$work/serve.log" >&2; }
	rm -rf "$work"
	exit "$code"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

die() {
	echo "FAILED: $*" >&2
	exit 1
}

need() {
	local tool
	for tool; do
		command -v "$tool" >/dev/null || die "$tool is not installed: this test needs it"
	done
}

# own_mounts "$@": this script again, in a mount namespace of its own. Another test that makes a namespace takes a copy of all mounts that it
# sees along, and a copy holds its device after our umount. What came along here, of other tests, is let go for the same reason.
own_mounts() {
	local dir
	if [ "$(readlink /proc/self/ns/mnt)" = "$(readlink "/proc/$PPID/ns/mnt")" ]; then
		rmdir "$work"
		exec unshare --mount --propagation private "$0" "$@"
	fi
	for dir in $(awk '$2 ~ "^/(tmp|dev/shm)/(kedge[.-]|kclone-test[.])" {print $2}' /proc/self/mounts); do umount -l "$dir" 2>/dev/null || true; done
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds
wait_for() {
	local deadline=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -le $deadline ] || die "waited in vain: $what"
		sleep 0.05
	done
}

# must_fail CODE WORDS COMMAND...: exits with exactly that code and says these words on stderr, in one line
must_fail() {
	local want=$1 words=$2 code=0
	shift 2
	"$@" >"$work/out" 2>"$work/err" || code=$?
	[ "$code" = "$want" ] || die "$* ended with $code, not $want: $(cat "$work/err")"
	grep -qi -- "$words" "$work/err" || die "$* did not say \"$words\": $(cat "$work/err")"
	[ "$(wc -l <"$work/err")" = 1 ] || die "$* said more than one line: $(cat "$work/err")"
}

# start_ktarget PROGRAM FILE [SERIAL]: sets target_url, target_pid
start_ktarget() {
	local try port
	for try in 1 2 3 4 5; do
		port=$((20000 + RANDOM % 12000))
		"$1" --portal "127.0.0.1:$port" --iqn iqn.2026-01.test.kclone:volume --lun "$2" --read-only \
			--serial "${3:-0f8fad5b-d9cb-469f-a165-70867728950e.7}" >"$work/ktarget.log" 2>&1 &
		target_pid=$!
		for _ in $(seq 100); do
			if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
				pids+=("$target_pid")
				target_url=iscsi://127.0.0.1:$port/iqn.2026-01.test.kclone:volume/1
				return 0
			fi
			kill -0 "$target_pid" 2>/dev/null || break
			sleep 0.05
		done
		kill "$target_pid" 2>/dev/null || true
	done
	die "ktarget does not start: $(cat "$work/ktarget.log")"
}

# serve OPTIONS...: a kclone serve of $work/meta with NBD and control sockets; sets serve_pid
serve() {
	: >"$work/serve.out"
	"$kclone" serve --meta "$work/meta" --nbd "$work/nbd" --control "$work/control" "$@" >"$work/serve.out" 2>>"$work/serve.log" &
	serve_pid=$!
	pids+=("$serve_pid")
	wait_for 20 "kclone serve is ready" grep -q serving "$work/serve.out"
}

ask() { "$kclone" "$@" --control "$work/control"; }
# field .a.b of the status
field() { ask status --json | jq -r "$1"; }
is_field() { [ "$(field "$1")" = "$2" ]; }

# who_holds DEVICE: open descriptors, holders in the kernel, mounts of any namespace (a copy of ours goes on when we unmount)
who_holds() {
	local dev pid
	dev=$(cat "/sys/block/${1##*/}/dev") || return 0
	fuser -v "$1" 2>&1 | grep -v '^Cannot stat' || true
	ls "/sys/block/${1##*/}/holders"
	for pid in $(grep -l " $dev " /proc/[0-9]*/mountinfo 2>/dev/null | cut -d/ -f3); do
		echo "mounted for $pid, $(tr '\0' ' ' <"/proc/$pid/cmdline"), namespace $(readlink "/proc/$pid/ns/mnt") (ours: $(readlink /proc/self/ns/mnt))"
	done
}

# stop_serve: a kclone that refuses, as somebody has its device open, goes on serving: then this says who
stop_serve() {
	local code=0 device deadline=$((SECONDS + 40))
	device=$(field .device.block)
	ask stop
	while kill -0 "$serve_pid" 2>/dev/null; do
		[ $SECONDS -le $deadline ] || {
			[ ! -b "$device" ] || who_holds "$device" >&2
			die "kclone serve does not end: $(tail -1 "$work/serve.log")"
		}
		sleep 0.05
	done
	wait "$serve_pid" || code=$?
	[ "$code" = 0 ] || die "kclone serve ended with $code"
	"$kclone" check --meta "$work/meta" >"$work/check.out" || die "kclone check: $(cat "$work/check.out")"
}
