#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The kedge command against a daemon that answers from files: what it sends, what it prints, where, and its exit codes.
set -euo pipefail
KEDGE=$1
FAKE=$2
dir=$(mktemp -d)
fake_pid=
cleanup() {
	if [ -n "$fake_pid" ]; then
		kill "$fake_pid" 2>/dev/null || true
	fi
	rm -rf "$dir"
}
trap cleanup EXIT
nr=0

fake_start() {
	"$FAKE" "$dir" &
	fake_pid=$!
	for ((i = 0; i < 100; i++)); do
		[ ! -S "$dir/sock" ] || return 0
		sleep 0.05
	done
	echo "FAILED: the fake daemon does not listen"
	exit 1
}

fake_stop() {
	kill "$fake_pid"
	wait "$fake_pid" || true
	fake_pid=
	rm -f "$dir/sock"
}

answer() { # KEY STATUS JSON
	printf '%s\n%s\n' "$2" "$3" >"$dir/$1"
}

forget() {
	find "$dir" -maxdepth 1 -type f -delete
	fake_stop
	fake_start
}

failed() {
	echo "FAILED: $*"
	echo "-- stdout"; cat "$dir/out"
	echo "-- stderr"; cat "$dir/err"
	echo "-- requests"; cat "$dir/requests" 2>/dev/null || true
	exit 1
}

# run EXIT-CODE ARG... : kedge with these arguments, off a terminal
run() {
	local want=$1 status=0
	shift
	KEDGE_SOCKET=$dir/sock timeout 60 "$KEDGE" "$@" >"$dir/out" 2>"$dir/err" || status=$?
	[ "$status" = "$want" ] || failed "kedge $*: exit code $status, expected $want"
	# every error ends with the next command
	if [ "$status" != 0 ] && grep -q '^kedge: ' "$dir/err"; then
		tail -n 1 "$dir/err" | grep -q '^next: .' || failed "kedge $*: the error does not end with the next command"
	fi
	nr=$((nr + 1))
}

out_has() { grep -qF -- "$1" "$dir/out" || failed "stdout lacks: $1"; }
err_has() { grep -qF -- "$1" "$dir/err" || failed "stderr lacks: $1"; }
sent() { grep -qxF -- "$1" "$dir/requests" || failed "was not sent: $1"; }
sent_nothing() { [ ! -e "$dir/requests" ] || failed "something was sent"; }

migration() { # ID STEP STATE DURABLE
	printf '{"id":"%s","drain":"d1","volume":"db","workload":"web","from":"a","to":"b","epoch":1,"step":"%s","state":"%s","phase_text":"%s","attempts":1,"last_error":null,"size_bytes":1048576,"durable_bytes":%s,"exposed_bytes":0,"rate_bps":1000,"eta_ms":null,"eta_max_ms":null,"downtime_ms":812}' "$1" "$2" "$3" "$2" "$4"
}

drain() { # STATE MIGRATION...
	printf '{"v":1,"id":"d1","host":"a","to":"b","state":"%s","max_parallel":1,"migrations":[%s]}' "$1" "$2"
}

# ---- usage: nothing is sent, exit code 2 ----
fake_start
run 2
run 2 nonsense
run 2 host
run 2 drain
run 2 drain a b
run 2 drain a --max-parallel 0
run 2 drain a --max-parallel 2x
run 2 drain a --rate fast
run 2 drain a --floor much
err_has "--floor: \"much\" is not bytes a second"
run 2 drain a --latency-factor 1
err_has "--latency-factor: \"1\" is not a factor from 1.01 to 100, or 0"
run 2 drain a --latency-factor 100.01
run 2 drain a --transit lz4
err_has "--transit is auto, plain, checked or zstd, not \"lz4\""
run 2 plan a --transit zstd
run 2 drain a --release burn
run 2 drain a --hold 5
run 2 drain a --max 2
err_has "options are spelled out: --max-parallel"
run 2 drain a --nonsense
run 2 drain "a/../b"
run 2 drain a --to "../b"
run 2 move web
run 2 volume create v --host a
run 2 volume create v --host a --size many
run 2 volume import v --host a --path relative
run 2 workload add w
run 2 workload add w --volume v
run 2 workload add w --volume v --grace 5 -- /bin/true
run 2 workload add w --volume v --env =x -- /bin/true
run 2 workload add w --volume v --stop true -- /bin/true
run 2 workload add w --volume v --stop '["a",1]' -- /bin/true
run 2 workload add w --volume v --start '["/bin/true"]' -- /bin/true
run 2 workload add w --volume v --spec "$dir/none.json"
run 2 events --since x
run 2 events --since -1
sent_nothing
run 0 --help
out_has "drain HOST"
run 0 drain --help
out_has "--max-parallel N"
run 0 workload --help
out_has "workload add"
run 0 --version
sent_nothing

# ---- no daemon ----
run 8 --socket "$dir/none" status
err_has "no daemon answers at $dir/none"
err_has "next: "
run 8 status --socket "$dir/none"
[ ! -s "$dir/out" ] || failed "talk on stdout"

# ---- inventory ----
answer GET_v1_hosts 200 '{"hosts":[{"name":"a","state":"up","cordon":{"owner":"eve","reason":"disk","expires":null},"free_bytes":1073741824,"nr_volumes":1,"nr_workloads":2,"exposed_bytes":0}]}'
run 0 host list
out_has "a     up     1        2          1.00 GiB  0 B      by eve: disk"
run 0 host list --json
out_has '"free_bytes": 1073741824'
answer POST_v1_volumes 200 '{"name":"v","size_bytes":8192}'
run 0 volume create v --host a --size 8K
sent 'POST /v1/volumes {"host":"a","name":"v","size_bytes":8192,"verb":"create"}'
[ ! -s "$dir/out" ] || failed "talk on stdout"
run 0 volume import v --host a --path /dev/x
sent 'POST /v1/volumes {"host":"a","name":"v","path":"/dev/x","verb":"import"}'
answer POST_v1_volumes 400 '{"v":1,"error":{"code":"EINVAL","class":"operator","message":"5000 is no multiple of 4096; the next possible size is 8192","hint":"kedge volume create v --size 8192"}}'
run 2 volume create v --host a --size 5000
err_has "the next possible size is 8192"
err_has "next: kedge volume create v --size 8192"
answer POST_v1_workloads 200 '{"name":"w"}'
run 0 workload add w --volume v --grace 5s --env A=1 --env B=x=y --stop '["/bin/stop"]' -- /bin/run --flag -x
sent 'POST /v1/workloads {"name":"w","spec":{"cwd":"/","env":{"A":"1","B":"x=y"},"grace_ms":5000,"health":[],"start":["/bin/run","--flag","-x"],"stop":["/bin/stop"]},"volume":"v"}'
echo '{"start":["/bin/run"],"grace_ms":7}' >"$dir/spec.json"
run 0 workload add w --volume v --spec "$dir/spec.json"
sent 'POST /v1/workloads {"name":"w","spec":{"grace_ms":7,"start":["/bin/run"]},"volume":"v"}'
answer POST_v1_workloads_w_stop 200 '{"name":"w","state":"stopped","host":"a"}'
run 0 workload stop w
err_has "workload w is stopped on a"
answer POST_v1_workloads_w_stop 200 '{"name":"w","state":"stopping","host":"a"}'
answer GET_v1_workloads 200 '{"workloads":[{"name":"ww","state":"stopped","host":"a"},{"name":"w","state":"stopped","host":"b"}]}'
answer GET_v1_workloads.1 200 '{"workloads":[{"name":"ww","state":"stopped","host":"a"},{"name":"w","state":"stopping","host":"a"}]}'
run 0 workload stop w
err_has "workload w is stopped on b"
answer GET_v1_workloads 200 '{"workloads":[{"name":"w","state":"failed","reason":"still open by pid 7 (dd)","host":"a"}]}'
run 1 workload stop w
err_has "workload w is failed on a: still open by pid 7 (dd)"
err_has "next: kedge why w"
answer POST_v1_workloads_w_start 200 '{"name":"w","state":"failed","reason":"cannot run /x","host":"a"}'
run 1 workload start w --json
err_has "workload w is failed on a: cannot run /x"
[ "$(jq -r .state "$dir/out")" = failed ] || failed "stdout is not the workload"
run 3 volume show nosuch
err_has "next: "

# ---- drain: the plan ----
answer POST_v1_drains 200 '{"plan":{"host":"a","moves":[{"workload":"w","volume":"v","to":"b","engine":"dm","size_bytes":8192,"need_bytes":8192,"free_bytes":4096,"blockers":[]}],"blockers":[]}}'
run 0 drain a --dry-run --to b --max-parallel 4 --rate 1M --release keep --hold 1h --engine dm
sent 'POST /v1/drains {"dry_run":true,"engine":"dm","hold_ms":3600000,"host":"a","max_parallel":4,"rate_bps":1048576,"release":"keep","to":"b"}'
out_has "VOLUME  WORKLOAD  TO  ENGINE  SIZE      NEEDS     ROOM THERE"
out_has "v       w         b   dm      8.00 KiB  8.00 KiB  4.00 KiB"
cp "$dir/out" "$dir/dry-run"
run 0 drain a --dry-run --floor 20M --latency-factor 2.5 --transit checked
sent 'POST /v1/drains {"dry_run":true,"floor_bps":20971520,"host":"a","latency_percent":250,"max_parallel":1,"to":null,"transit":"checked"}'
run 0 drain a --dry-run --floor 0 --latency-factor 0
sent 'POST /v1/drains {"dry_run":true,"floor_bps":0,"host":"a","latency_percent":0,"max_parallel":1,"to":null}'
run 0 plan a --to b --engine dm
sent 'POST /v1/drains {"dry_run":true,"engine":"dm","host":"a","max_parallel":1,"to":"b"}'
cmp "$dir/out" "$dir/dry-run" || failed "plan and drain --dry-run differ"
run 0 plan a --json
[ "$(jq -r '.plan.moves[0].engine' "$dir/out")" = dm ] || failed "stdout is not the plan"
run 2 plan
run 2 plan a --max-parallel 2
answer POST_v1_drains 200 '{"plan":{"host":"a","moves":[],"blockers":[]}}'
run 0 plan a
[ ! -s "$dir/out" ] || failed "a table of nothing"
err_has "there is nothing to move on a"
run 2 drain a --engine btrfs
err_has "auto, user or dm"
answer POST_v1_drains 412 '{"v":1,"error":{"code":"NO_ROOM","class":"operator","message":"m"},"plan":{"host":"a","moves":[{"workload":"w","volume":"v","to":"b","size_bytes":8192,"need_bytes":8192,"free_bytes":4096,"blockers":["b has 4096 bytes, 8192 are needed"]}],"blockers":["b is cordoned"]}}'
run 4 plan a
out_has "blocked: v: b has 4096 bytes"
run 4 drain a
out_has "v       w         b   -       8.00 KiB"
out_has "blocked: v: b has 4096 bytes"
out_has "blocked: b is cordoned"
err_has "2 blockers; nothing was stopped"
err_has "next: "
answer POST_v1_drains 404 '{"v":1,"error":{"code":"ENOENT","class":"operator","message":"no host is called ab","hint":"kedge host list"}}'
run 3 drain ab
err_has "next: kedge host list"
answer POST_v1_drains 409 '{"v":1,"error":{"code":"BUSY_VOLUME","class":"operator","message":"v is in migration m1","hint":"kedge status m1"}}'
run 9 drain a

# ---- drain: watching ----
forget
answer POST_v1_drains 201 "$(drain running "$(migration m1 PLANNED running 0)")"
answer GET_v1_events '200' '{"events":[],"last":3}'
answer GET_v1_events.1 '200' '{"events":[{"seq":1,"time_ms":3600000,"drain":"d1","migration":"m1","volume":"db","kind":"step","text":"stopped on a"}],"last":1}'
answer GET_v1_events.3 '200' '{"events":[{"seq":3,"time_ms":3601000,"drain":"d1","migration":"m1","volume":"db","kind":"step","text":"runs on b"}],"last":3}'
answer GET_v1_drains_d1 200 "$(drain "done" "$(migration m1 DONE "done" 1048576)")"
answer GET_v1_drains_d1.1 200 "$(drain running "$(migration m1 SRC_STOPPED running 0)")"
answer GET_v1_drains_d1.2 200 "$(drain running "$(migration m1 DEST_RUNNING running 100)")"
run 0 drain a
out_has "01:00:00  db: stopped on a"
out_has "01:00:01  db: runs on b"
out_has "db (web): moved from a to b, 1.00 MiB, downtime 812 ms, receipt m1"
sent 'GET /v1/events since=1 drain=d1 '
grep -q $'\033' "$dir/out" && failed "escape sequences off a terminal"
run 0 drain a --json
[ "$(jq -r .state "$dir/out")" = "done" ] || failed "stdout is not the drain"
answer GET_v1_drains_d1 200 "$(drain "done" "$(migration m1 DONE "done" 1048576)" | sed 's/}$/,"is_host_cordoned":true}/')"
run 0 drain a
err_has "host a stays cordoned, until: kedge host uncordon a"
run 0 drain a --detach
[ "$(cat "$dir/out")" = d1 ] || failed "stdout is not the id"
err_has "next: kedge status d1 --watch"
answer GET_v1_drains_d1 200 "$(drain partly "$(migration m1 SRC_STOPPING held 0)")"
run 7 drain a
err_has "next: kedge why d1"
run 7 status d1 --exit-code
run 0 status d1
answer GET_v1_drains_d1 200 "$(drain failed "$(migration m1 SRC_STOPPING failed 0)")"
run 1 status d1 --watch
answer GET_v1_drains_d1 200 "$(drain running "$(migration m1 DEST_RUNNING running 5)")"
run 7 status d1 --exit-code

# ---- the daemon goes away in the middle and comes back ----
forget
answer POST_v1_drains 201 "$(drain running "$(migration m1 PLANNED running 0)")"
answer GET_v1_events 200 '{"events":[],"last":0}'
answer GET_v1_drains_d1 200 "$(drain running "$(migration m1 DEST_RUNNING running 5)")"
KEDGE_SOCKET=$dir/sock "$KEDGE" drain a >"$dir/out" 2>"$dir/err" &
watcher=$!
for ((i = 0; i < 200; i++)); do
	! grep -q 'GET /v1/drains/d1' "$dir/requests" 2>/dev/null || break
	sleep 0.05
done
fake_stop
for ((i = 0; i < 200; i++)); do
	! grep -q "waiting for it to come back" "$dir/err" || break
	sleep 0.05
done
err_has "waiting for it to come back"
answer GET_v1_drains_d1 200 "$(drain "done" "$(migration m1 DONE "done" 1048576)")"
fake_start
status=0
wait "$watcher" || status=$?
[ "$status" = 0 ] || failed "the watcher ended with $status"
nr=$((nr + 1))

# the same for a script that waits for the one object
answer GET_v1_drains_d1 200 "$(drain running "$(migration m1 DEST_RUNNING running 5)")"
KEDGE_SOCKET=$dir/sock "$KEDGE" drain a --json >"$dir/out" 2>"$dir/err" &
watcher=$!
nr_before=$(wc -l <"$dir/requests")
for ((i = 0; i < 200; i++)); do
	[ "$(wc -l <"$dir/requests")" -lt $((nr_before + 2)) ] || break
	sleep 0.05
done
fake_stop
for ((i = 0; i < 200; i++)); do
	! grep -q "waiting for it to come back" "$dir/err" || break
	sleep 0.05
done
answer GET_v1_drains_d1 200 "$(drain "done" "$(migration m1 DONE "done" 1048576)")"
fake_start
status=0
wait "$watcher" || status=$?
[ "$status" = 0 ] || failed "drain --json ended with $status"
[ "$(jq -r .state "$dir/out")" = "done" ] || failed "stdout is not the drain as it ended"
nr=$((nr + 1))

# ---- Ctrl-C detaches, at once and with the command to come back ----
answer GET_v1_drains_d1 200 "$(drain running "$(migration m1 DEST_RUNNING running 5)")"
# a background job of a script ignores SIGINT: monitor mode gives it the default again
set -m
KEDGE_SOCKET=$dir/sock "$KEDGE" drain a >"$dir/out" 2>"$dir/err" &
watcher=$!
set +m
nr_before=$(wc -l <"$dir/requests")
for ((i = 0; i < 200; i++)); do
	[ "$(wc -l <"$dir/requests")" -lt $((nr_before + 3)) ] || break
	sleep 0.05
done
kill -INT "$watcher"
status=0
wait "$watcher" || status=$?
[ "$status" = 130 ] || failed "Ctrl-C: exit code $status, expected 130"
err_has "detached; the drain goes on"
err_has "next: kedge status d1 --watch"
grep -q abort "$dir/requests" && failed "Ctrl-C aborted something"
nr=$((nr + 1))

# ---- a terminal: one view that is redrawn, without colour under NO_COLOR ----
forget
answer POST_v1_drains 201 "$(drain running "$(migration m1 PLANNED running 0)")"
answer GET_v1_events 200 '{"events":[],"last":0}'
answer GET_v1_drains_d1 200 "$(drain "done" "$(migration m1 DONE "done" 1048576)")"
answer GET_v1_drains_d1.1 200 "$(drain running "$(migration m1 DEST_RUNNING running 524288)")"
answer GET_v1_drains_d1.2 200 "$(drain running "$(migration m1 DEST_RUNNING running 400000)")"
NO_COLOR=1 KEDGE_SOCKET=$dir/sock script -qec "stty cols 120; '$KEDGE' drain a" /dev/null >"$dir/out" 2>"$dir/err" </dev/null ||
	failed "on a terminal: exit code $?"
out_has "[##########..........]  50%"
grep -qF ' 38%' "$dir/out" && failed "the bar ran backwards"
grep -q $'\033\[2A' "$dir/out" || failed "the view is not redrawn"
grep -q $'\033\[3[0-9]m' "$dir/out" && failed "colour under NO_COLOR"
nr=$((nr + 1))

# a view that is never higher than the screen: 30 volumes in 10 lines
forget
many=$(for ((i = 0; i < 30; i++)); do migration "n$i" PLANNED running 0; echo; done | paste -sd,)
answer POST_v1_drains 201 "$(drain running "$many")"
answer GET_v1_events 200 '{"events":[],"last":0}'
answer GET_v1_drains_d1 200 "$(drain "done" "$(migration m1 DONE "done" 1048576)")"
answer GET_v1_drains_d1.1 200 "$(drain running "$many,$(migration m1 DEST_RUNNING running 524288)")"
answer GET_v1_drains_d1.2 200 "$(drain running "$many,$(migration m1 DEST_RUNNING running 600000)")"
KEDGE_SOCKET=$dir/sock script -qec "stty cols 120 rows 10; '$KEDGE' drain a" /dev/null >"$dir/out" 2>"$dir/err" </dev/null ||
	failed "on a low terminal: exit code $?"
out_has " 50%"
out_has "and 24 more: 24 waiting"
grep -q $'\033\[9A' "$dir/out" || failed "the view does not fill the screen"
grep -qE $'\033\[[1-9][0-9]+A' "$dir/out" && failed "the view is higher than the screen"
nr=$((nr + 1))

# ---- move, abort, why, receipts ----
forget
answer GET_v1_workloads 200 '{"workloads":[{"name":"webx","host":"c"},{"name":"web","host":"a"}]}'
answer POST_v1_drains 201 "$(drain running "$(migration m1 PLANNED running 0)")"
run 0 move web --to b --detach
sent 'POST /v1/drains {"dry_run":false,"host":"a","max_parallel":1,"to":"b","workload":"web"}'
run 3 move we --to b --detach
answer GET_v1_migrations_m1 200 "$(migration m1 DEST_RUNNING running 5)"
answer POST_v1_migrations_m1_abort 200 '{}'
run 0 abort m1
err_has "past the point of no return: goes on to b"
answer GET_v1_drains_d1 200 "$(drain running "$(migration m1 SRC_STOPPED running 0)")"
answer POST_v1_drains_d1_abort 200 '{}'
run 0 abort d1
err_has "before the point of no return: is undone, and stays on a"
answer POST_v1_drains_d1_abort 200 '{"v":1,"aborted":[],"going_on":["db"]}'
run 9 abort d1
err_has "nothing is undone: all of it is past the point of no return"
answer POST_v1_drains_d1_abort 200 '{"v":1,"aborted":[],"going_on":[]}'
run 9 abort d1 --json
err_has "nothing is undone: it has ended"
answer POST_v1_drains_d1_abort 200 '{"v":1,"aborted":["db"],"going_on":["web"]}'
run 0 abort d1
err_has "the abort is under way"
run 3 abort d2
err_has "there is no drain or migration d2"
answer GET_v1_why_db 200 '{"reason":"b has no room","command":"kedge host list"}'
run 0 why db
out_has "b has no room"
out_has "next: kedge host list"
run 3 receipt d1
(umask 077 && printf '0123456789abcdef0123456789abcdef\n' >"$dir/secret")
bare='{"downtime_ms":812,"hole_bytes":1048576,"migration":"m1","mismatch_bytes":0,"sample_seed":77,"sampled_bytes":1024,"source":{"policy":"delete","released":true},"v":1,"verified_bytes":4096}'
mac=$(printf '%s' "$bare" | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef | awk '{ print $NF }')
answer GET_v1_receipts_m1 200 "${bare%\}},\"mac\":\"$mac\"}"
run 0 receipt m1 --verify "$dir/secret"
err_has "verifies"
run 0 receipt d1
out_has "receipt    m1"
out_has "verified   4.00 KiB byte by byte"
out_has "holes      1.00 MiB by what the source says, not read there; 1.00 KiB of the above are samples of holes, seed 77"
sums='{"checksum_bytes":3072,'${bare#\{}
answer GET_v1_receipts_m1 200 "${sums%\}},\"mac\":\"$(printf '%s' "$sums" | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef | awk '{ print $NF }')\"}"
run 0 receipt m1 --verify "$dir/secret"
run 0 receipt d1
out_has "verified   4.00 KiB, 3.00 KiB of them by 128-bit checksums made there, the rest byte by byte, against the source"
answer GET_v1_receipts_m1 200 '{"downtime_ms":812,"migration":"m1","mismatch_bytes":0,"source":{"policy":"delete","released":true},"v":1,"written_bytes":4096}'
run 0 receipt d1
out_has "verified   against the source, 0 bytes differ; how much in which way is not told; 4.00 KiB written"
out_has "downtime   812 ms"
answer GET_v1_receipts_m1 200 "${bare/4096\}/8192,\"mac\":\"$mac\"\}}"
run 9 receipt m1 --verify "$dir/secret"
err_has "does not verify"

# ---- events ----
forget
answer GET_v1_events 200 '{"events":[],"last":9}'
answer GET_v1_events.1 200 '{"events":[{"seq":8,"time_ms":0,"kind":"x","text":"one"},{"seq":9,"time_ms":0,"kind":"x","text":"two"}],"last":9}'
run 0 events --since 7 --json
[ "$(jq -r .seq "$dir/out" | tr '\n' ' ')" = "8 9 " ] || failed "not one event a line"
sent 'GET /v1/events since=7 '
sent 'GET /v1/events since=9 '

echo "ok: $nr command lines"
