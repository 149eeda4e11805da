#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Bad input is answered with one clear line and its own exit code, and nothing is stopped.
# shellcheck source=start.sh
. "$(dirname "$0")/start.sh" "$@"
cluster_init
cluster_start
workload_create w a 128M 32 --pause-ms 10
kedge workload start w
wait_for 30 has_acks w a 20 || die "the workload commits nothing"

# refused EXIT-CODE PATTERN ARG... : kedge with these arguments fails so, says so, names the next command
refused() {
	local want=$1 pattern=$2 status=0
	shift 2
	timeout 60 "$BIN/kedge" --socket "$CLUSTER_DIR/b/run/api.sock" "$@" >"$CLUSTER_DIR/out" 2>&1 || status=$?
	[ "$status" = "$want" ] || die "kedge $*: exit code $status, expected $want: $(cat "$CLUSTER_DIR/out")"
	grep -qiE -- "$pattern" "$CLUSTER_DIR/out" || die "kedge $*: does not say $pattern: $(cat "$CLUSTER_DIR/out")"
	grep -q "^next: ." "$CLUSTER_DIR/out" || die "kedge $*: does not name the next command: $(cat "$CLUSTER_DIR/out")"
	say "ok: kedge $* ($status): $(grep -m1 '^kedge: ' "$CLUSTER_DIR/out")"
}
untouched() {
	check_runs_on w a >/dev/null || die "the workload does not run on a any more after: $1"
}

refused 3 "no host|no such host|not know" drain nosuch
refused 3 "no host|no such host|not know" drain a --to nosuch
# never a prefix
refused 3 "no workload" move ww --to b
refused 3 "" volume show nosuch
refused 3 "" workload start nosuch
refused 3 "no drain" events --drain 0f8fad5b-d9cb-469f-a165-70867728950e
refused 2 "a name has" drain A
refused 3 "host a: /nosuch: No such file" volume import nosuch --host a --path /nosuch
refused 3 "" status 0f8fad5b-d9cb-469f-a165-70867728950e
refused 2 "" volume create "Bad/Name" --host a --size 16M
refused 2 "4096|multiple" volume create odd --host a --size 5000
grep -q 8192 "$CLUSTER_DIR/out" || die "the next possible size is not named"
[ "$(kedge volume list | grep -c '^odd')" = 0 ] || die "a volume of 5000 bytes was made"
untouched "wrong names"

# nothing new on a host that is being emptied
kedge host cordon b --reason repair
refused 9 "cordoned by .*: repair" volume create more --host b --size 16M
grep -qx "next: kedge host uncordon b" "$CLUSTER_DIR/out" || die "the way out is not named: $(cat "$CLUSTER_DIR/out")"
truncate -s 16M "$CLUSTER_DIR/more"
refused 9 "cordoned" volume import more --host b --path "$CLUSTER_DIR/more"
refused 4 "cordoned" move w --to b
kedge host uncordon b

# a destination without room: more than the file system has free, as a sparse file on a
free_bytes=$(df --output=avail -B1 "$CLUSTER_DIR" | tail -n 1)
truncate -s $(((free_bytes / 4096 + 1024 * 1024) * 4096)) "$CLUSTER_DIR/huge"
kedge volume import huge --host a --path "$CLUSTER_DIR/huge"
kedge workload add huge --volume huge -- /bin/sleep 1000
kedge why huge | grep -qx "next: kedge workload start huge" || die "why does not say how a stopped workload is started: $(kedge why huge)"
refused 4 "room|blocked" drain a
untouched "a drain without room"
refused 4 "room|blocked" drain a --dry-run
refused 4 "room|blocked" move huge --to b

# a destination on which the workload's program is missing: seen before it is stopped
cp /bin/sleep "$CLUSTER_DIR/only-on-a"
kedge volume create alone --host a --size 16M
kedge workload add alone --volume alone -- "$CLUSTER_DIR/only-on-a" 1000
kedge workload start alone
pid=$(workload_column alone PID)
rm "$CLUSTER_DIR/only-on-a"
refused 1 "failed" move alone --to b
grep -q "host b: workload alone cannot run here: its program $CLUSTER_DIR/only-on-a: No such file" "$CLUSTER_DIR/out" ||
	die "the missing program is not named: $(cat "$CLUSTER_DIR/out")"
[ "$(workload_column alone PID)" = "$pid" ] && kill -0 "$pid" || die "the workload was stopped for a move that cannot end well"
say "ok: a workload whose program is missing on the destination goes on where it is"

# a second drain of one volume; it has moved once, so that there is a stale epoch too
kedge move w --to b >/dev/null || die "w does not move"
DRAIN=$(kedge move w --to a --rate 4M --detach 2>/dev/null)
wait_for 60 has_step w DEST_RUNNING || die "w does not move back"
refused 9 "migration|under way" move w --to b
say "ok: a second move of one volume is refused while the first is under way"

# a stale epoch changes nothing
epoch=$(kedge volume show w --json | jq '[.volumes[].epoch] | max')
uuid=$(kedge volume show w --json | jq -r '.volumes[0].uuid')
before=$(kedge volume show w --json | jq -S '[.volumes[] | {host, epoch, state, fence}]')
# agent_step HOST JSON: an authenticated request to that host's agent; prints the status and the body
agent_step() {
	local nonce mac secret path=/v1/step
	secret=$(cat "$CLUSTER_DIR/cluster.secret")
	nonce=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
	mac=$(printf 'req\nPOST\n%s\n%s\n%s\n%s' "$path" "$1" "$nonce" "$2" | openssl dgst -sha256 -hmac "$secret" | awk '{ print $NF }')
	in_host b curl -s -w '\n%{http_code}\n' -H "X-Kedge-Host: b" -H "X-Kedge-Auth: $nonce $mac" \
		-H 'Content-Type: application/json' --data-binary "$2" "http://${HOST_IP[$1]}:7420$path"
}
stale() { # HOST STEP ARGS
	agent_step "$1" "{\"v\":1,\"migration\":\"0f8fad5b-d9cb-469f-a165-70867728950e\",\"volume\":\"w\",\"volume_uuid\":\"$uuid\",\"epoch\":$((epoch - 1)),\"step\":\"$2\",\"request\":\"$(cat /proc/sys/kernel/random/uuid)\",\"args\":$3}" >"$CLUSTER_DIR/out"
	[ "$(tail -n 1 "$CLUSTER_DIR/out")" = 409 ] || die "a stale $2 on $1 was answered: $(cat "$CLUSTER_DIR/out")"
	grep -q STALE_EPOCH "$CLUSTER_DIR/out" || die "no STALE_EPOCH: $(cat "$CLUSTER_DIR/out")"
}
stale b UNFENCE '{"start":true}'
stale b RELEASE '{"policy":"delete"}'
stale a REVOKE '{}'
stale a BOOT '{"start":true}'
after=$(kedge volume show w --json | jq -S '[.volumes[] | {host, epoch, state, fence}]')
[ "$before" = "$after" ] || die "a stale message changed something: $before -> $after"
say "ok: messages of epoch $((epoch - 1)) are answered 409 and change nothing"

# without the secret there is no answer, and none of the parser
status=$(in_host b curl -s -o "$CLUSTER_DIR/out" -w '%{http_code}' "http://${HOST_IP[a]}:7420/v1/host")
[ "$status" = 401 ] || die "without a mac the status is $status"
status=$(in_host b curl -s -o "$CLUSTER_DIR/out" -w '%{http_code}' -H "X-Kedge-Host: b" \
	-H "X-Kedge-Auth: 00112233445566778899aabbccddeeff $(printf '0%.0s' {1..64})" "http://${HOST_IP[a]}:7420/v1/host")
[ "$status" = 401 ] || die "with a wrong mac the status is $status"
say "ok: without the cluster secret every request is answered 401"

drain_wait 180
prove_moved w b a "$(migration_of w)"

# a daemon that would listen on a public address does not start
sed 's/^listen = .*/listen = 192.0.2.1:7420/' "$CLUSTER_DIR/a/kedged.conf" >"$CLUSTER_DIR/public.conf"
status=0
"$BIN/kedged" --config "$CLUSTER_DIR/public.conf" >"$CLUSTER_DIR/out" 2>&1 || status=$?
[ "$status" = 9 ] || die "kedged on a public address: exit code $status"
say "ok: $(cat "$CLUSTER_DIR/out")"
status=0
"$BIN/kedged" --config "$CLUSTER_DIR/a/kedged.conf" >"$CLUSTER_DIR/out" 2>&1 || status=$?
if [ "$status" != 1 ] || ! grep -q "in use by another kedged" "$CLUSTER_DIR/out"; then
	die "a second kedged: $status, $(cat "$CLUSTER_DIR/out")"
fi
say "ok: $(cat "$CLUSTER_DIR/out")"
proofs_end
