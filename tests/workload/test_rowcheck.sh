#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The judge must be able to say no: rowcheck accepts what rowwriter did, and refuses each kind of damage.
set -euo pipefail
writer=$1
check=$2
dir=$(mktemp -d)
writer_pid=
: >"$dir/record"
cleanup() {
	if [ -n "$writer_pid" ]; then
		kill -KILL "$writer_pid" 2>/dev/null || true
	fi
	rm -rf "$dir"
}
trap cleanup EXIT

acks() {
	grep -c '^ack ' "$dir/record" 2>/dev/null || true
}

# run_writer HOST EPOCH SIGNAL JOURNAL: until 50 more rows are acknowledged
run_writer() {
	local want i
	want=$(($(acks) + 50))
	KEDGE_HOST=$1 KEDGE_EPOCH=$2 "$writer" --dir "$dir" --record "$dir/record" --journal "$4" &
	writer_pid=$!
	for ((i = 0; i < 600; i++)); do
		[ "$(acks)" -lt "$want" ] || break
		sleep 0.05
	done
	kill "-$3" "$writer_pid"
	wait "$writer_pid" 2>/dev/null || true
	writer_pid=
	[ "$(acks)" -ge "$want" ] || { echo "the writer made too few rows"; exit 1; }
}

refused() {
	local what=$1
	shift
	if "$check" "$@" >"$dir/out"; then
		echo "FAILED: rowcheck accepted: $what"
		cat "$dir/out"
		exit 1
	fi
	grep -q '^FAILED' "$dir/out"
	echo "ok: refused: $what ($(grep -m1 '^FAILED' "$dir/out"))"
}

sql() {
	sqlite3 "$dir/x.db" "$1"
}

damaged() {
	cp "$dir/rows.db" "$dir/x.db"
	cp "$dir/record" "$dir/x"
}

run_writer a 1 TERM wal
run_writer a 1 KILL delete
run_writer b 2 TERM wal
"$check" --db "$dir/rows.db" --record "$dir/record" --expect-last-host b
echo "ok: accepted"

damaged; sql 'DELETE FROM rows WHERE n = 20'
refused "a lost row" --db "$dir/x.db" --record "$dir/x"
damaged; sql 'DELETE FROM rows WHERE n > (SELECT max(n) - 3 FROM rows)'
refused "lost rows at the end" --db "$dir/x.db" --record "$dir/x"
damaged; sql "UPDATE rows SET payload = zeroblob(200) WHERE n = 7"
refused "a changed row" --db "$dir/x.db" --record "$dir/x"
damaged; sql "UPDATE rows SET epoch = 1 WHERE n = (SELECT max(n) FROM rows)"
refused "an old writer's row" --db "$dir/x.db" --record "$dir/x"
damaged; sed '0,/^stopped a 1 \([0-9]*\) /s//stopped a 1 \1 9/' "$dir/record" >"$dir/x"
refused "runs that overlap" --db "$dir/x.db" --record "$dir/x"
damaged; echo "overlap b 2 1 5" >>"$dir/x"
refused "two writers" --db "$dir/x.db" --record "$dir/x"
damaged; grep -m1 '^ack ' "$dir/record" >>"$dir/x"
refused "a number used twice" --db "$dir/x.db" --record "$dir/x"
damaged; grep -v '^ack' "$dir/record" >"$dir/x"
refused "an empty record" --db "$dir/x.db" --record "$dir/x"
damaged
refused "the wrong last host" --db "$dir/x.db" --record "$dir/x" --expect-last-host a
damaged; head -c 20000 "$dir/rows.db" >"$dir/x.db"
refused "a torn database" --db "$dir/x.db" --record "$dir/x"
