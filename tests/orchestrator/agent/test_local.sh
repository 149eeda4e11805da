#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# One agent alone, over its socket: volumes, workloads, what it does when things end, and when it ends itself.
# usage: KEDGED=PATH BIN_DIR=DIR test_local.sh
. "$(dirname "$0")/lib.sh"

agent_config a
agent_start a

echo "# volumes: created, imported, refused"
volume_create a v1 8388608
[ "$POST_STATUS" = 200 ] || die "create: $POST_BODY"
[ "$(jq -r .state <<<"$POST_BODY")" = local ]
path=$(jq -r .path <<<"$POST_BODY")
[ "$(stat -c %s "$path")" = 8388608 ]
[ "$(($(stat -c %b "$path") * 512))" -ge 8388608 ] || die "$path is not allocated"
volume_create a v1 8388608
[ "$POST_STATUS" = 409 ] || die "a second v1: $POST_STATUS"
volume_create a odd 8388609
[ "$POST_STATUS" = 400 ] && grep -q 8388608 <<<"$POST_BODY" && grep -q 8392704 <<<"$POST_BODY" || die "odd size: $POST_BODY"
volume_create a big 900000000000000
[ "$POST_STATUS" = 412 ] && grep -q NO_ROOM <<<"$POST_BODY" || die "no room: $POST_BODY"
volume_create a ../x 4096
[ "$POST_STATUS" = 400 ] || die "a bad name: $POST_BODY"
post a /v1/volume '{"v":1,"request":"'"$(new_uuid)"'","verb":"create","name":"x","size_bytes":4096,"colour":"red"}'
[ "$POST_STATUS" = 400 ] && grep -q colour <<<"$POST_BODY" || die "an unknown field: $POST_BODY"

# the same request twice makes one volume
r="{\"v\":1,\"request\":\"$(new_uuid)\",\"verb\":\"create\",\"name\":\"once\",\"size_bytes\":4096}"
post a /v1/volume "$r"; first=$(jq -r .uuid <<<"$POST_BODY")
post a /v1/volume "$r"; [ "$POST_STATUS" = 200 ] && [ "$(jq -r .uuid <<<"$POST_BODY")" = "$first" ] || die "repeated: $POST_BODY"

truncate -s 1000000 "$T/odd.img"
volume_import a odd "$T/odd.img"
[ "$POST_STATUS" = 400 ] && grep -q 999424 <<<"$POST_BODY" && grep -q 1003520 <<<"$POST_BODY" || die "odd import: $POST_BODY"
truncate -s 1048576 "$T/raw.img"
exec 9<"$T/raw.img"
volume_import a raw "$T/raw.img"
[ "$POST_STATUS" = 412 ] && grep -q "pid $$" <<<"$POST_BODY" || die "import of an open file: $POST_BODY"
exec 9<&-
volume_import a raw "$T/raw.img"
[ "$POST_STATUS" = 200 ] || die "import: $POST_BODY"
ln "$T/raw.img" "$T/raw2.img"
volume_import a raw2 "$T/raw2.img"
[ "$POST_STATUS" = 409 ] && grep -q "volume raw already" <<<"$POST_BODY" || die "import of a volume's file: $POST_BODY"
truncate -s 1048576 "$T/loop.img"
dev=$(losetup -f --show "$T/loop.img")
volume_import a blk "$dev"
[ "$POST_STATUS" = 200 ] && [ "$(jq -r .kind <<<"$POST_BODY")" = block ] || die "import of a device: $POST_BODY"
volume_import a under "$T/loop.img"
[ "$POST_STATUS" = 412 ] || die "import of a file under a loop device: $POST_BODY"

echo "# a workload gets its environment, runs in a session of its own, survives the agent"
cat >"$T/work.sh" <<-'END'
	#!/bin/sh
	env | grep -E '^(KEDGE_|PATH|HOME|LANG|MINE)' | sort >"$KEDGE_STATE_DIR/env"
	exec 3<>"$KEDGE_DEVICE"
	echo begun >>"$KEDGE_STATE_DIR/begun"
	while :; do sleep 0.1; done
END
chmod 755 "$T/work.sh"
spec="{\"start\":[\"$T/work.sh\"],\"grace_ms\":3000,\"env\":{\"MINE\":\"a b\"}}"
workload a add w1 v1 "$spec"; [ "$POST_STATUS" = 200 ] || die "add: $POST_BODY"
workload a add w2 v1 "$spec"; [ "$POST_STATUS" = 409 ] || die "a second workload of v1: $POST_BODY"
workload a add w2 nope "$spec"; [ "$POST_STATUS" = 404 ] || die "no such volume: $POST_BODY"
workload a add w2 raw '{"start":["x"],"colour":1}'; [ "$POST_STATUS" = 400 ] || die "an unknown field: $POST_BODY"
workload a start nope; [ "$POST_STATUS" = 404 ] || die "no such workload: $POST_BODY"
workload a start w1; [ "$(jq -r .state <<<"$POST_BODY")" = running ] || die "start: $POST_BODY"
pid=$(jq -r .pid <<<"$POST_BODY")
env_file="$T/a/state/work/w1/env"
wait_until "the workload wrote its environment" test -s "$T/a/state/work/w1/begun"
grep -q "^KEDGE_VOLUME=v1$" "$env_file" && grep -q "^KEDGE_WORKLOAD=w1$" "$env_file" && grep -q "^KEDGE_HOST=a$" "$env_file" &&
	grep -q "^KEDGE_EPOCH=0$" "$env_file" && grep -q "^MINE=a b$" "$env_file" && grep -q "^KEDGE_DEVICE=/dev/loop" "$env_file" ||
	die "its environment: $(cat "$env_file")"
[ "$(ps -o sid= -p "$pid" | tr -d ' ')" = "$pid" ] || die "it is not in a session of its own"
device=$(volume_field a v1 device)
[ "$(losetup -n -O BACK-FILE "$device")" = "$path" ]
workload a remove w1; [ "$POST_STATUS" = 409 ] || die "remove of a running one: $POST_BODY"

agent_kill a
kill -0 "$pid" || die "the workload died with the agent"
agent_start a
[ "$(workload_pid a w1)" = "$pid" ] || die "the workload was not found again"
[ "$(wc -l <"$T/a/state/work/w1/begun")" = 1 ] || die "started twice"

echo "# one that dies is started again; one that is stopped is not"
kill -9 "$pid"
wait_until "it runs again" sh -c "[ \$(wc -l <'$T/a/state/work/w1/begun') = 2 ]"
wait_until "it is reported" is_workload a w1 running
new=$(workload_pid a w1)
[ "$new" != "$pid" ] || die "the same pid"
[ "$(get a /v1/host | jq '.workloads[0].restarts')" = 1 ]
workload a stop w1; wait_until "stopped" is_workload a w1 stopped
not_alive "$new" || die "$new lives"
[ -z "$(losetup -j "$path")" ] || die "the loop device stayed"
# died while the agent was away
workload a start w1; wait_until "running" is_workload a w1 running
pid=$(workload_pid a w1)
agent_kill a
kill -9 "$pid"
agent_start a
wait_until "it runs again after the agent came back" is_workload a w1 running
[ "$(workload_pid a w1)" != "$pid" ]

echo "# the run directory is lost: not started twice"
pid=$(workload_pid a w1)
agent_kill a
rm "$T/a/run/work/w1.pid"
agent_start a
[ "$(workload_pid a w1)" = "$pid" ] || die "started beside the one that runs"
workload a stop w1; wait_until "stopped" is_workload a w1 stopped
not_alive "$pid" || die "$pid lives"

echo "# a workload that ignores SIGTERM is killed after its grace; its children go too"
cat >"$T/stubborn.sh" <<-'END'
	#!/bin/bash
	trap '' TERM
	(trap '' TERM; exec -a stubborn-child sleep 1000) &
	exec 3<>"$KEDGE_DEVICE"
	echo $! >"$KEDGE_STATE_DIR/child"
	while :; do sleep 0.1; done
END
chmod 755 "$T/stubborn.sh"
workload a add w3 raw "{\"start\":[\"$T/stubborn.sh\"],\"grace_ms\":300}"
workload a start w3; wait_until "running" is_workload a w3 running
wait_until "its child" test -s "$T/a/state/work/w3/child"
workload a stop w3; wait_until "stopped" is_workload a w3 stopped
not_alive "$(cat "$T/a/state/work/w3/child")" || die "its child lives"
workload a remove w3; [ "$POST_STATUS" = 200 ] || die "remove: $POST_BODY"

echo "# stop command with KEDGE_PID; health before it is running"
cat >"$T/stop.sh" <<-'END'
	#!/bin/sh
	echo "$KEDGE_PID" >"$KEDGE_STATE_DIR/stop-pid"
	kill "$KEDGE_PID"
END
cat >"$T/health.sh" <<-'END'
	#!/bin/sh
	echo x >>"$KEDGE_STATE_DIR/health"
	[ "$(wc -l <"$KEDGE_STATE_DIR/health")" -ge 3 ]
END
chmod 755 "$T/stop.sh" "$T/health.sh"
workload a add w4 raw "{\"start\":[\"sleep\",\"1000\"],\"stop\":[\"$T/stop.sh\"],\"health\":[\"$T/health.sh\"]}"
workload a start w4; wait_until "running" is_workload a w4 running
[ "$(wc -l <"$T/a/state/work/w4/health")" = 3 ] || die "health ran $(wc -l <"$T/a/state/work/w4/health") times"
pid=$(workload_pid a w4)
workload a stop w4; wait_until "stopped" is_workload a w4 stopped
[ "$(cat "$T/a/state/work/w4/stop-pid")" = "$pid" ]
workload a remove w4

echo "# a program that cannot be run"
workload a add w5 raw '{"start":["/nonexistent/program"]}'
workload a start w5
[ "$(jq -r .state <<<"$POST_BODY")" = failed ] && grep -q "No such file" <<<"$POST_BODY" || die "no program: $POST_BODY"
workload a stop w5; wait_until "stopped" is_workload a w5 stopped
workload a remove w5

echo "# an agent alone sends operators to the coordinator"
post a /v1/drains '{"host":"a"}'; [ "$POST_STATUS" = 503 ] || die "drain: $POST_STATUS"
[ "$(get a /v1/status | jq -r .role)" = agent ]
[ "$(stat -c %a "$T/a/state/agent.db")" = 600 ]
losetup -d "$dev"
echo "ok"
