#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The agents killed in each step of a migration: before its record is written, after it, and after the action. Each time the
# agent starts anew and the step is asked again; at the end the workload ran once at a time and the data is whole.
# usage: KEDGED=PATH BIN_DIR=DIR test_failpoints.sh
. "$(dirname "$0")/lib.sh"

SIZE=8388608
agent_config a
agent_config b
agent_start a
agent_start b

cat >"$T/work.sh" <<-'END'
	#!/bin/bash
	# a lock that both hosts share: two at a time are seen
	exec 9>>"$LOCK"
	flock -n 9 || { echo "second writer at $KEDGE_HOST" >>"$LOCK.twice"; exit 1; }
	exec 3<>"$KEDGE_DEVICE"
	echo "$KEDGE_HOST" >>"$LOCK.starts"
	while :; do sleep 0.1; done
END
chmod 755 "$T/work.sh"
nr_kills=0

# As step_done, with the agent of HOST killed at each of its failpoints first.
step_killed() { # as step_done
	local where h=$1 s=$6 body
	for where in before_write after_write after_act; do
		kill -9 "${AGENT_PID[$h]}"
		wait_until "the agent is gone" not_alive "${AGENT_PID[$h]}"
		agent_start "$h" "KEDGE_FAILPOINT=agent.$where.$s"
		body="{\"v\":1,\"migration\":\"$4\",\"volume\":\"$2\",\"volume_uuid\":\"$3\",\"epoch\":$5,\"step\":\"$s\",\"request\":\"$(new_uuid)\",\"args\":${7:-{\}}}"
		for _ in $(seq 30); do # a step that goes on is asked again until it gets to its end
			curl -s --max-time 60 --unix-socket "$T/$h/api.sock" -d "$body" http://kedge/v1/step >"$T/out" || break
			[ "$(jq -r .state "$T/out")" = running ] || break
		done
		wait_until "the agent dies at $where of $s ($(cat "$T/out"))" not_alive "${AGENT_PID[$h]}"
		agent_start "$h"
		nr_kills=$((nr_kills + 1))
	done
	step_done "$@"
}

prepare() { # VOLUME
	volume_create a "$1" $SIZE
	U=$(jq -r .uuid <<<"$POST_BODY")
	PATH_A=$(jq -r .path <<<"$POST_BODY")
	dd if=/dev/urandom of="$PATH_A" conv=notrunc bs=1M count=4 status=none
	SUM=$(head -c 4194304 "$PATH_A" | sha256sum)
	SPEC="{\"start\":[\"$T/work.sh\"],\"grace_ms\":2000,\"env\":{\"LOCK\":\"$T/lock-$1\"}}"
	workload a add "w-$1" "$1" "$SPEC"
	workload a start "w-$1"
	wait_until "w-$1 runs" test -s "$T/lock-$1.starts"
	M=$(new_uuid)
}

chap='{"user":"in","secret":"0123456789abcdef0123","mutual_user":"out","mutual_secret":"fedcba98765432109876"}'
I=iqn.2026-01.test.kedge:b

echo "# the way there"
prepare v1
step_killed a v1 "$U" "$M" 1 CHECK
step_killed b v1 "$U" "$M" 1 RESERVE "{\"size_bytes\":$SIZE,\"lbs_bytes\":512,\"source_host\":\"a\",\"workload\":\"w-v1\",\"spec\":$SPEC,\"initiator_iqn\":\"$I\"}"
step_killed a v1 "$U" "$M" 1 STOP
step_killed a v1 "$U" "$M" 1 FENCE '{"to":"b"}'
step_killed a v1 "$U" "$M" 1 EXPORT "{\"iqn\":\"iqn.2026-01.test.kedge:v1\",\"initiator_iqn\":\"$I\",\"chap\":$chap}"
portal=$(jq -r .result.portal <<<"$STEP_BODY")
step_killed b v1 "$U" "$M" 1 ATTACH "{\"url\":\"iscsi://$portal/iqn.2026-01.test.kedge:v1/1\",\"initiator_iqn\":\"$I\",\"chap\":$chap}"
step_killed a v1 "$U" "$M" 1 INTENT
step_killed b v1 "$U" "$M" 1 BOOT '{"start":true}'
step_killed b v1 "$U" "$M" 1 HYDRATE '{"rate_bps":0}'
step_killed b v1 "$U" "$M" 1 FINISH
step_killed a v1 "$U" "$M" 1 UNEXPORT
step_killed a v1 "$U" "$M" 1 RELEASE '{"policy":"delete"}'
wait_until "it runs at b" is_workload b w-v1 running
[ "$(sort "$T/lock-v1.starts" | uniq -c | awk '{print $2 $1}' | xargs)" = "a1 b1" ] || die "starts: $(cat "$T/lock-v1.starts")"
[ ! -e "$T/lock-v1.twice" ] || die "$(cat "$T/lock-v1.twice")"
[ ! -e "$PATH_A" ]
workload b stop w-v1
wait_until "stopped" is_workload b w-v1 stopped
[ "$(head -c 4194304 "$(volume_field b v1 path)" | sha256sum)" = "$SUM" ] || die "the data differs"
[ "$(ls "$T"/a/run/export "$T"/a/run/chap "$T"/b/run/chap "$T"/b/run/vol | grep -cv ':$\|^$')" = 0 ] || die "something was left behind"

echo "# and an abort"
prepare v2
step_done a v2 "$U" "$M" 1 CHECK
step_done b v2 "$U" "$M" 1 RESERVE "{\"size_bytes\":$SIZE,\"lbs_bytes\":512,\"source_host\":\"a\",\"workload\":\"w-v2\",\"spec\":$SPEC,\"initiator_iqn\":\"$I\"}"
step_done a v2 "$U" "$M" 1 STOP
step_done a v2 "$U" "$M" 1 FENCE '{"to":"b"}'
step_done a v2 "$U" "$M" 1 EXPORT "{\"iqn\":\"iqn.2026-01.test.kedge:v2\",\"initiator_iqn\":\"$I\",\"chap\":$chap}"
step_killed b v2 "$U" "$M" 1 REVOKE
step_killed a v2 "$U" "$M" 1 UNFENCE '{"start":true}'
wait_until "it runs at a" is_workload a w-v2 running
[ "$(sort "$T/lock-v2.starts" | uniq -c | awk '{print $2 $1}' | xargs)" = "a2" ] || die "starts: $(cat "$T/lock-v2.starts")"
[ ! -e "$T/lock-v2.twice" ]
[ "$(head -c 4194304 "$PATH_A" | sha256sum)" = "$SUM" ] || die "the data differs"
[ -z "$(ls "$T"/b/state/volumes | grep '^v2')" ] || die "the destination's file stayed"
[ "$(ls "$T"/a/run/export "$T"/b/run/vol | grep -cv ':$\|^$')" = 0 ] || die "something was left behind"
echo "ok: the agents were killed $nr_kills times"
