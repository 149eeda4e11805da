#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What an operator says of hydration's pace: options of serve, and set while it is served. usage: pace.sh KCLONE
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need jq python3
kclone=$1 bytes=$((64 << 20))
head -c "$bytes" /dev/urandom >"$work/source"
truncate -s "$bytes" "$work/dest"
"$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta"
pace() { field '"\(.hydration.limit_bps) \(.hydration.governor.floor_bps) \(.hydration.governor.latency_percent)"'; }
is() { [ "$(pace)" = "$1" ] || die "limit, floor and percent are $(pace) and not $1"; }
set_pace() { "$kclone" set --control "$work/control" "$@"; }

echo "# what no pace is"
for args in "--latency-factor 1" "--latency-factor 0.5" "--latency-factor 1.555" "--latency-factor 1." "--latency-factor x" "--latency-factor -2" \
	"--latency-factor 101" "--floor x"; do
	r=0
	# shellcheck disable=SC2086
	"$kclone" serve --meta "$work/meta" $args 2>/dev/null || r=$?
	[ "$r" = 2 ] || die "serve $args ended with $r"
done
echo "# as serve was told"
serve --rate 64K --floor 1M --latency-factor 2.5
is "65536 1048576 250"
is_bound() { is_field .hydration.governor.bound "$1"; }
wait_for 20 "the ceiling is what binds" is_bound ceiling
echo "# as set says, now; what it does not name stays"
set_pace --floor 3M
is "65536 3145728 250"
set_pace --latency-factor 1.05
is "65536 3145728 105"
echo "# nothing, or something that is no pace: all stays as it is"
! set_pace 2>/dev/null || die "set of nothing was taken"
for args in '"bps":131072,"latency_percent":100' '"floor_bps":-1' '"bps":"1M"' '"latency_percent":10001,"floor_bps":5'; do
	python3 - "$work/control" "$args" <<'EOF' || die "set {$args} was not refused"
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect(sys.argv[1])
s.sendall(b'{"v":1,"cmd":"set","args":{%s}}\n' % sys.argv[2].encode())
sys.exit(json.loads(s.makefile().readline())["ok"])
EOF
	is "65536 3145728 105"
done
[ "$(field '.durable_bytes < 60000000')" = true ] || die "hydration did not keep to its ceiling"
echo "# and it is carried out"
set_pace --rate 0 --latency-factor 0
is "0 3145728 0"
wait_for 60 "all is here" is_field .hydration.state done
stop_serve
cmp "$work/source" "$work/dest"
echo "# without options: the defaults"
rm "$work"/meta*
"$kclone" create --source "$work/source" --dest "$work/dest" --meta "$work/meta"
serve --no-hydrate
is "0 67108864 150"
stop_serve
echo "ok: pace"
