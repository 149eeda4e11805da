#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What HYDRATED rests on: a comparison asked for while finish is under way does not disturb it, and a later
# worker knows it. usage: finish.sh KCLONE KTARGET
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq python3 prlimit
kclone=$1 ktarget=$2 bytes=$((16 << 20))
head -c $((8 << 20)) /dev/urandom >"$work/source"
truncate -s "$bytes" "$work/source" "$work/dest"
start_ktarget "$ktarget" "$work/source"
is_here() { [ "$(field .durable_bytes)" = "$bytes" ]; }
is_passed() { is_field .verify.state passed; }
fresh() {
	rm -f "$work"/meta*
	"$kclone" create --source "$target_url" --dest "$work/dest" --meta "$work/meta"
	serve
	wait_for 60 "every block is here" is_here
	ask verify
	wait_for 60 "compared" is_passed
}

# together PID COMMAND...: these commands, each on a connection of its own, reach the worker at once; a line of answer each
together() {
	python3 - "$work/control" "$@" <<-'END'
	import os, signal, socket, sys
	path, pid, *commands = sys.argv[1:]
	sockets = []
	for _ in commands:
	    s = socket.socket(socket.AF_UNIX)
	    s.settimeout(20)
	    s.connect(path)
	    s.sendall(b'{"v":1,"cmd":"status","args":{}}\n') # and it is taken
	    s.recv(65536)
	    sockets.append(s)
	os.kill(int(pid), signal.SIGSTOP)
	try:
	    for s, c in zip(sockets, commands):
	        s.sendall(c.encode() + b"\n")
	finally:
	    os.kill(int(pid), signal.SIGCONT)
	for s in sockets:
	    print(s.makefile().readline().strip())
	END
}

echo "# a comparison asked for while finish is under way is refused, and HYDRATED rests on the one that passed"
fresh
compared=$(cat "$work/meta.compared") workers=$(field .workers)
[ "$(field .verify.checksum_bytes)" = $((8 << 20)) ] || die "$(field .verify)"
together "$(field .worker_pid)" '{"v":1,"cmd":"finish","args":{}}' '{"v":1,"cmd":"verify","args":{"holes":"status","data":"bytes"}}' \
	'{"v":1,"cmd":"hydrate","args":{}}' >"$work/answers"
[ "$(sed -n 1p "$work/answers" | jq .result.hydrated)" = true ] || die "finish: $(cat "$work/answers")"
sed -n 2p "$work/answers" | grep -q "finish is under way" || die "verify: $(cat "$work/answers")"
[ "$(field '"\(.state) \(.workers)"')" = "hydrated $workers" ] || die "$(field '.state, .workers')"
[ "$(cat "$work/meta.compared")" = "$compared" ] || die "$(cat "$work/meta.compared") is not $compared"

echo "# a later worker knows that it was by checksums"
compared=$(field '.verify | del(.error)')
stop_serve
serve
[ "$(field '.verify | "\(.state) \(.data) \(.checksum_bytes)"')" = "passed checksum $((8 << 20))" ] || die "$(field .verify)"
[ "$(field '.verify | del(.error)')" = "$compared" ] || die "$(field .verify) is not $compared"
stop_serve

echo "# bytes that could not be asked for are not asked for: a finish that fails is not told to compare first"
truncate -s 0 "$work/dest"
truncate -s "$bytes" "$work/dest"
trap '' XFSZ # inherited
fresh
trap - XFSZ
prlimit --fsize=0 --pid "$(field .worker_pid)" # the metadata cannot be written
together "$(field .worker_pid)" '{"v":1,"cmd":"finish","args":{}}' '{"v":1,"cmd":"verify","args":{"holes":"read","data":"bytes"}}' >"$work/answers"
sed -n 1p "$work/answers" | grep -q "cannot write the superblock" || die "finish: $(cat "$work/answers")"
sed -n 2p "$work/answers" | grep -q "finish is under way" || die "verify: $(cat "$work/answers")"
is_passed || die "$(field .verify)"
"$kclone" finish --control "$work/control" 2>"$work/err" && die "it finished"
grep -q "superblock" "$work/err" || die "finish: $(cat "$work/err")"
ask stop
wait "$serve_pid" || true
echo "ok: finish"
