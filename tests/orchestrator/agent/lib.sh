# SPDX-License-Identifier: LGPL-2.1-or-later
# Agents for tests: daemons of their own in a scratch directory, asked over their Unix sockets. Sourced.
# Needs: KEDGED, BIN_DIR (ktarget, kclone).

set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../lib/loop.sh"

die() { echo "FAILED: $*" >&2; exit 1; }

for tool in curl jq losetup blkid; do
	command -v "$tool" >/dev/null || die "$tool is missing"
done
[ "$(id -u)" = 0 ] || die "needs root: loop devices, FUSE mounts"

T=$(mktemp -d /tmp/kedge-agent-XXXXXX)
declare -A AGENT_PID=()

# pids named in the pid files under $T, that are alive and what the file says
data_plane_pids() {
	local f pid start
	for f in "$T"/*/run/*/*.pid "$T"/*/run/vol/*/*.pid; do
		[ -f "$f" ] || continue
		read -r pid start _ <"$f"
		[ "$(awk '{sub(/.*\) /, ""); print $20}' "/proc/$pid/stat" 2>/dev/null)" = "$start" ] && echo "$pid"
	done
	return 0
}

cleanup() {
	local status=$? pid h
	set +e
	for h in "${!AGENT_PID[@]}"; do kill -9 "${AGENT_PID[$h]}" 2>/dev/null; done
	for pid in $(data_plane_pids); do kill -9 -- "-$pid" 2>/dev/null; kill -9 "$pid" 2>/dev/null; done
	for pid in ${EXTRA_PIDS:-}; do kill -9 "$pid" 2>/dev/null; done
	loop_drop_all "$T/"
	for h in $(awk -v t="$T/" 'index($2, t) == 1 {print $2}' /proc/mounts); do umount -l "$h"; done
	if [ $status -ne 0 ]; then
		for h in "$T"/*.log "$T"/*/state/log/*.log; do
			[ -f "$h" ] && { echo "--- $h"; tail -n 25 "$h"; } >&2
		done
	fi
	[ -n "${KEEP:-}" ] || rm -rf "$T"
	exit $status
}
trap cleanup EXIT

free_port() {
	local p
	for p in $(shuf -i 20000-29999 -n 50); do
		ss -ltnH "sport = :$p" | grep -q . || { echo "$p"; return; }
	done
	die "no free port"
}

agent_config() { # HOST
	mkdir -p "$T/$1/state" "$T/$1/run"
	[ -f "$T/secret" ] || { (umask 077; head -c 32 /dev/urandom | base64 >"$T/secret"); }
	cat >"$T/$1.conf" <<-END
		[daemon]
		host = $1
		roles = agent
		listen = 127.0.0.1:$(free_port)
		socket = $T/$1/api.sock
		state_dir = $T/$1/state
		run_dir = $T/$1/run
		cluster_secret_file = $T/secret
		[agent]
		portal_address = 127.0.0.1
		bin_dir = $BIN_DIR
		hydrate_floor = 7M
		latency_factor = 2.5
		transit = checked
	END
}

agent_start() { # HOST [ENV=VALUE...]
	local h=$1 i
	shift
	env "$@" "$KEDGED" --config "$T/$h.conf" >>"$T/$h.log" 2>&1 &
	AGENT_PID[$h]=$!
	disown
	for ((i = 0; i < 200; i++)); do
		get "$h" /v1/host >/dev/null 2>&1 && return
		kill -0 "${AGENT_PID[$h]}" 2>/dev/null || die "the agent of $h ended at its start"
		sleep 0.05
	done
	die "the agent of $h does not answer"
}

agent_kill() { # HOST
	kill -9 "${AGENT_PID[$1]}"
	wait_until "the agent of $1 is gone" not_alive "${AGENT_PID[$1]}"
}

not_alive() { [ ! -d "/proc/$1" ] || grep -qs "^State:.*Z" "/proc/$1/status" || [ ! -d "/proc/$1" ]; }

get() { curl -sS -f --max-time 20 --unix-socket "$T/$1/api.sock" "http://kedge$2"; }

# HTTP status on the first line, body after it
post_raw() { curl -sS --max-time 60 --unix-socket "$T/$1/api.sock" -d "$3" -w '\n%{http_code}' "http://kedge$2"; }

POST_STATUS= POST_BODY=
post() { # HOST PATH BODY: sets POST_STATUS, POST_BODY
	local out
	out=$(post_raw "$@") || die "no answer from $1 to $2"
	POST_STATUS=${out##*$'\n'}
	POST_BODY=${out%$'\n'*}
}

new_uuid() { cat /proc/sys/kernel/random/uuid; }

wait_until() { # WHAT COMMAND...: at most 20 s
	local what=$1 i
	shift
	for ((i = 0; i < 400; i++)); do
		"$@" && return
		sleep 0.05
	done
	die "never: $what"
}

volume_create() { # HOST NAME SIZE
	post "$1" /v1/volume "{\"v\":1,\"request\":\"$(new_uuid)\",\"verb\":\"create\",\"name\":\"$2\",\"size_bytes\":$3}"
}

volume_import() { # HOST NAME PATH
	post "$1" /v1/volume "{\"v\":1,\"request\":\"$(new_uuid)\",\"verb\":\"import\",\"name\":\"$2\",\"path\":\"$3\"}"
}

workload() { # HOST VERB NAME [VOLUME SPEC]
	local rest=
	[ $# -lt 5 ] || rest=",\"volume\":\"$4\",\"spec\":$5"
	post "$1" /v1/workload "{\"v\":1,\"request\":\"$(new_uuid)\",\"verb\":\"$2\",\"name\":\"$3\"$rest}"
}

# STEP_STATE is done, failed or stale; STEP_BODY the answer
STEP_STATE= STEP_BODY=
step() { # HOST VOLUME UUID MIGRATION EPOCH STEP [ARGS]: asks until it has ended
	local i request
	request=$(new_uuid)
	for ((i = 0; i < 60; i++)); do
		post "$1" /v1/step "{\"v\":1,\"migration\":\"$4\",\"volume\":\"$2\",\"volume_uuid\":\"$3\",\"epoch\":$5,\"step\":\"$6\",\"request\":\"$request\",\"args\":${7:-{\}}}"
		STEP_BODY=$POST_BODY
		if [ "$POST_STATUS" = 409 ]; then
			STEP_STATE=stale
			return
		fi
		[ "$POST_STATUS" = 200 ] || die "$6 at $1: status $POST_STATUS: $POST_BODY"
		STEP_STATE=$(jq -r .state <<<"$POST_BODY")
		[ "$STEP_STATE" = running ] || return 0
	done
	die "$6 at $1 does not end"
}

step_done() { # as step; must be done
	step "$@"
	[ "$STEP_STATE" = done ] || die "$6 at $1: $STEP_STATE: $STEP_BODY"
}

step_fails() { # CODE, then as step
	local code=$1
	shift
	step "$@"
	[ "$STEP_STATE" = failed ] || die "$6 at $1 should fail with $code: $STEP_BODY"
	[ "$(jq -r .error.code <<<"$STEP_BODY")" = "$code" ] || die "$6 at $1 should fail with $code: $STEP_BODY"
}

is_workload() { # HOST NAME STATE
	[ "$(get "$1" /v1/host | jq -r --arg n "$2" '.workloads[] | select(.name == $n) | .state')" = "$3" ]
}

workload_pid() { get "$1" /v1/host | jq -r --arg n "$2" '.workloads[] | select(.name == $n) | .pid'; }

volume_field() { get "$1" /v1/host | jq -r --arg n "$2" ".volumes[] | select(.name == \$n) | .$3"; }
