# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# Two kedge hosts on one machine: network namespaces joined by a veth, a kedged in each, their directories under one. For
# quickstart and the end-to-end tests: set BIN (programs) and TESTBIN (rowwriter, rowcheck), source this, cluster_init.
#
# Everything that was started lives in our namespaces, so `ip netns pids` names exactly our processes and no others.
# nsenter, not `ip netns exec`: the latter makes a mount namespace of its own, in which FUSE mounts would be invisible.

# shellcheck source=loop.sh
. "$(dirname "${BASH_SOURCE[0]}")/loop.sh"

CLUSTER_DIR=
declare -A HOST_IP=([a]=10.83.0.1 [b]=10.83.0.2 [c]=10.83.0.3)
declare -A HOST_ROLES=([a]=agent [b]="agent, coordinator" [c]=coordinator)
declare -A DAEMON_PID=()
# Where the coordinator is: in b's daemon, or (set before cluster_init) c, a process of its own beside b.
COORDINATOR=${COORDINATOR:-b}

say() {
	printf '%s\n' "$*"
}

die() {
	printf 'FAILED: %s\n' "$*" >&2
	exit 1
}

# wait_for SECONDS COMMAND... : until it succeeds; 1 when it never does
wait_for() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

daemons() {
	if [ "$COORDINATOR" = c ]; then echo a b c; else echo a b; fi
}

netns() {
	echo "kedge-$$-${1/c/b}"
}

state_dir() {
	echo "$CLUSTER_DIR/$1/state"
}

volume_dir() {
	echo "$CLUSTER_DIR/$1/volumes"
}

in_host() {
	local host=$1
	shift
	nsenter --net="/run/netns/$(netns "$host")" -- "$@"
}

# kedge ARG... : as an operator on the coordinator's host
kedge() {
	KEDGE_SOCKET="$CLUSTER_DIR/$COORDINATOR/run/api.sock" "$BIN/kedge" "$@"
}

write_config() {
	local host=$1 roles=${HOST_ROLES[$1]}
	[ "$COORDINATOR" = b ] || roles=${roles%, coordinator}
	cat >"$CLUSTER_DIR/$host/kedged.conf" <<-CONF
		[daemon]
		host = $host
		roles = $roles
		listen = ${HOST_IP[$host]}:7420
		socket = $CLUSTER_DIR/$host/run/api.sock
		state_dir = $(state_dir "$host")
		run_dir = $CLUSTER_DIR/$host/run
		cluster_secret_file = $CLUSTER_DIR/cluster.secret
		coordinator = ${HOST_IP[$COORDINATOR]}:7420

		[agent]
		volume_dir = $(volume_dir "$host")
		bin_dir = $BIN

		[coordinator]
		hold = 0s
		release = delete

		[host a]
		address = ${HOST_IP[a]}:7420
		[host b]
		address = ${HOST_IP[b]}:7420
	CONF
}

cluster_init() {
	local host base=${KEDGE_TEST_DIR:-/var/tmp}
	[ "$(id -u)" = 0 ] || die "this needs root: namespaces, loop devices, mounts"
	CLUSTER_DIR=$(mktemp -d "$base/kedge.XXXXXX")
	trap 'cluster_on_exit $?' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	trap 'exit 141' PIPE
	(umask 077 && head -c 48 /dev/urandom | base64 -w0 >"$CLUSTER_DIR/cluster.secret")
	for host in $(daemons); do
		mkdir -p "$CLUSTER_DIR/$host"
		write_config "$host"
	done
	for host in a b; do
		ip netns add "$(netns "$host")"
		ip -n "$(netns "$host")" link set lo up
	done
	ip link add "kv$$a" type veth peer name "kv$$b"
	for host in a b; do
		ip link set "kv$$$host" netns "$(netns "$host")"
		ip -n "$(netns "$host")" link set "kv$$$host" up
	done
	for host in $(daemons); do
		ip -n "$(netns "$host")" addr add "${HOST_IP[$host]}/24" dev "kv$$${host/c/b}"
	done
}

link_set() { # up|down
	ip -n "$(netns a)" link set "kv$$a" "$1"
}

# daemon_start HOST [FAILPOINT]
daemon_start() {
	local host=$1 extra=()
	[ -z "${2:-}" ] || extra=("KEDGE_FAILPOINT=$2")
	env "${extra[@]}" setsid nsenter --net="/run/netns/$(netns "$host")" -- \
		"$BIN/kedged" --config "$CLUSTER_DIR/$host/kedged.conf" \
		>>"$CLUSTER_DIR/$host/kedged.log" 2>&1 </dev/null &
	DAEMON_PID[$host]=$!
	disown "$!"
}

daemon_is_alive() {
	local line # read at once: a zombie may be reaped between two looks
	[ -n "${DAEMON_PID[$1]:-}" ] || return 1
	line=$(grep '^State:' "/proc/${DAEMON_PID[$1]}/status" 2>/dev/null) || return 1
	[[ $line != *[[:space:]]Z* ]]
}

daemon_is_gone() {
	! daemon_is_alive "$1"
}

# daemon_stop HOST [SIGNAL]
daemon_stop() {
	local host=$1
	daemon_is_alive "$host" || return 0
	kill "-${2:-TERM}" "${DAEMON_PID[$host]}" 2>/dev/null || true
	if ! wait_for 10 daemon_is_gone "$host"; then
		say "kedged on $host did not stop within 10 s"
		kill -KILL "${DAEMON_PID[$host]}" 2>/dev/null || true
		wait_for 10 daemon_is_gone "$host"
	fi
}

hosts_are_up() {
	local list
	list=$(kedge host list 2>/dev/null) || return 1
	[ "$(grep -cE '^(a|b) +up ' <<<"$list")" = 2 ]
}

cluster_start() {
	local host
	for host in $(daemons); do
		daemon_start "$host"
	done
	wait_for 20 hosts_are_up || die "the daemons did not come up within 20 s"
}

# ---- workloads ----

# The file of the copy that counts: a host that gave a volume away keeps a record of it.
volume_path() {
	kedge volume show "$1" | awk '
		function flush() { if (state == "local" || state == "cloning") print path; state = path = "" }
		NF == 0 { flush() }
		$1 == "path" { path = $2 }
		$1 == "state" { state = $2 }
		END { flush() }'
}

# workload_create NAME HOST SIZE BALLAST_MIB [rowwriter options...]: an ext4 volume with a file of random bytes, and a
# rowwriter on it, added and not started
workload_create() {
	local name=$1 host=$2 size=$3 ballast_mib=$4 tree=$CLUSTER_DIR/tree
	shift 4
	kedge volume create "$name" --host "$host" --size "$size"
	mkdir -p "$tree"
	head -c "${ballast_mib}M" /dev/urandom >"$tree/ballast"
	sha256sum <"$tree/ballast" >"$CLUSTER_DIR/$name.ballast"
	mkfs.ext4 -q -F -d "$tree" "$(volume_path "$name")"
	rm -rf "$tree"
	kedge workload add "$name" --volume "$name" --grace 20s -- \
		"$CLUSTER_ROOT/tests/workload/mounted" "$TESTBIN/rowwriter" --record "$CLUSTER_DIR/$name.record" "$@"
}

# acks NAME [HOST]
acks() {
	local nr
	nr=$(awk -v host="${2:-}" '$1 == "ack" && (host == "" || $4 == host) { n++ } END { print n + 0 }' \
		"$CLUSTER_DIR/$1.record" 2>/dev/null) || nr=0
	echo "${nr:-0}"
}

has_acks() { # NAME HOST COUNT
	[ "$(acks "$1" "$2")" -ge "$3" ]
}

# more_acks NAME HOST COUNT [SECONDS]: it commits rows there now
more_acks() {
	local want=$(($(acks "$1" "$2") + $3))
	wait_for "${4:-30}" has_acks "$1" "$2" "$want"
}

workload_column() { # NAME COLUMN
	kedge workload list | awk -v name="$1" -v column="$2" \
		'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i } $1 == name { print $at[column] }'
}

# ---- drains (these helpers need jq) ----

DRAIN=
drain_start() { # ARG... of kedge drain
	DRAIN=$(kedge drain "$@" --detach 2>/dev/null)
	[ -n "$DRAIN" ] || die "kedge drain $* gave no id"
}

# drain_wait SECONDS: until it is done
drain_wait() {
	local status=0
	timeout "$1" "$BIN/kedge" --socket "$CLUSTER_DIR/$COORDINATOR/run/api.sock" status "$DRAIN" --watch || status=$?
	[ "$status" = 0 ] || die "drain $DRAIN: exit code $status (124: not done within $1 s)"
}

migration_of() { # VOLUME
	kedge status "$DRAIN" --json | jq -r --arg v "$1" '.migrations[] | select(.volume == $v) | .id'
}

migration_field() { # VOLUME FIELD
	kedge status "$DRAIN" --json 2>/dev/null | jq -r --arg v "$1" ".migrations[] | select(.volume == \$v) | .$2"
}

has_step() { # VOLUME STEP
	[ "$(migration_field "$1" step)" = "$2" ]
}

has_durable() { # VOLUME BYTES
	local nr
	nr=$(migration_field "$1" durable_bytes)
	[ "${nr:-0}" -ge "$2" ]
}

# ---- proofs: each prints "ok: ..." or "FAILED: ..." and counts ----

PROOFS_FAILED=0
proof() { # TEXT COMMAND... : the command's last line of output goes into the line
	local text=$1 out
	shift
	if out=$("$@" 2>&1); then
		say "ok: $text${out:+ ($(tail -n1 <<<"$out"))}"
	else
		say "FAILED: $text"
		printf '%s\n' "$out" | sed 's/^/    /' | head -40
		PROOFS_FAILED=$((PROOFS_FAILED + 1))
	fi
}

proofs_end() {
	[ "$PROOFS_FAILED" = 0 ] || die "$PROOFS_FAILED proofs failed"
}

check_runs_on() { # NAME HOST
	local host state
	host=$(workload_column "$1" HOST)
	state=$(workload_column "$1" STATE)
	if [ "$host" != "$2" ] || [ "$state" != running ]; then
		echo "it is $state on $host"
		return 1
	fi
	local before
	before=$(acks "$1" "$2")
	more_acks "$1" "$2" 20 || {
		echo "no new rows on $2"
		return 1
	}
	echo "$(acks "$1" "$2") rows on $2 so far, $before a moment ago"
}

check_not_in_host() { # HOST: nothing but the daemon runs there
	local pid
	for pid in $(ip netns pids "$(netns "$1")"); do
		[ "$pid" = "${DAEMON_PID[$1]:-}" ] && continue
		[ "$pid" = "${DAEMON_PID[c]:-}" ] && continue
		[ -d "/proc/$pid" ] || continue
		grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null && continue
		echo "still there: $pid $(tr '\0' ' ' <"/proc/$pid/cmdline")"
		return 1
	done
}

# The workload is stopped and the file on HOST itself is looked at, not what kclone makes of it.
check_fsck() { # PATH
	e2fsck -fn "$1" 2>&1 | tail -n1
	return "${PIPESTATUS[0]}"
}

dump_database() { # NAME PATH
	local out=$CLUSTER_DIR/$1.out
	rm -rf "$out"
	mkdir -p "$out"
	debugfs -R "dump /rows.db $out/rows.db" "$2" 2>/dev/null
	debugfs -R "dump /rows.db-wal $out/rows.db-wal" "$2" 2>/dev/null
	# debugfs makes an empty file when there is no such file
	[ -s "$out/rows.db-wal" ] || rm -f "$out/rows.db-wal"
	[ -s "$out/rows.db" ]
}

check_rows() { # NAME PATH LAST_HOST
	local out
	dump_database "$1" "$2" || {
		echo "there is no database in $2"
		return 1
	}
	out=$("$TESTBIN/rowcheck" --db "$CLUSTER_DIR/$1.out/rows.db" --record "$CLUSTER_DIR/$1.record" \
		--expect-last-host "$3") || {
		grep -E '^FAILED|^run|^acknowledged|^present' <<<"$out"
		return 1
	}
	awk '{ v[$1] = $2 } END { printf "%d acknowledged, %d present, longest pause %d ms\n", v["acknowledged"], v["present"], v["longest_gap_ms"] }' <<<"$out"
}

check_never_twice() { # NAME PATH LAST_HOST; after check_rows
	local out
	out=$("$TESTBIN/rowcheck" --db "$CLUSTER_DIR/$1.out/rows.db" --record "$CLUSTER_DIR/$1.record") || true
	if grep -E '^FAILED (the run|two writers)' <<<"$out"; then
		return 1
	fi
	grep -q '^overlaps 0$' <<<"$out" || return 1
	awk '$1 == "run" { printf "%s%s epoch %d for %.1f s", sep, $2, $4, $10; sep = ", then " } END { print "" }' <<<"$out"
}

check_integrity() { # NAME
	local out
	out=$(sqlite3 "$CLUSTER_DIR/$1.out/rows.db" 'PRAGMA integrity_check')
	echo "$out"
	[ "$out" = ok ]
}

check_ballast() { # NAME PATH
	debugfs -R "cat /ballast" "$2" 2>/dev/null | sha256sum | cmp - "$CLUSTER_DIR/$1.ballast"
}

check_receipt() { # MIGRATION
	local text
	text=$(kedge receipt "$1" --verify "$CLUSTER_DIR/cluster.secret" --json) || return 1
	grep -q '"mismatch_bytes":0[,}]' <<<"$text" || {
		echo "blocks differ: $text"
		return 1
	}
	local verified sums holes size written
	verified=$(sed -n 's/.*"verified_bytes":\([0-9]*\).*/\1/p' <<<"$text")
	sums=$(sed -n 's/.*"checksum_bytes":\([0-9]*\).*/\1/p' <<<"$text")
	holes=$(sed -n 's/.*"hole_bytes":\([0-9]*\).*/\1/p' <<<"$text")
	size=$(sed -n 's/.*"size_bytes":\([0-9]*\).*/\1/p' <<<"$text")
	written=$(sed -n 's/.*"written_bytes":\([0-9]*\).*/\1/p' <<<"$text")
	# a receipt that leaves sums out would pass for one of bytes
	[[ $sums =~ ^[0-9]+$ ]] || {
		echo "it does not say how much was compared by checksums: $text"
		return 1
	}
	if [ "$verified" -le 0 ] || [ "$sums" -gt "$verified" ] || [ $((verified + holes + written)) -lt "$size" ]; then
		echo "$verified bytes verified, $holes agreed as holes and $written written, of $size"
		return 1
	fi
	grep -q '"released":true' <<<"$text" || {
		echo "the source was not released: $text"
		return 1
	}
	echo "seal right, $verified bytes verified, $sums of them by checksums, 0 differ, $holes agreed as holes, $written written since"
}

# What ended moves must not leave behind: exports and credentials, in files and records. No other move is under way.
credentials() {
	local host
	sqlite3 -readonly "$(state_dir "$COORDINATOR")/coordinator.db" "SELECT 'credentials of migration ' || migration FROM secrets"
	for host in a b; do
		find "$CLUSTER_DIR/$host/run/chap" "$CLUSTER_DIR/$host/run/export" -type f
		sqlite3 -readonly "$(state_dir "$host")/agent.db" "SELECT 'export on $host' FROM exports;
			SELECT 'credentials on $host of clone ' || meta FROM clones WHERE secret <> '' OR mutual_secret <> ''"
	done
}

# The clone of a volume whose workload is stopped, and its devices.
clones() { # NAME
	local host
	for host in a b; do
		find "$CLUSTER_DIR/$host/run/vol" "$(state_dir "$host")/clones" -mindepth 1 -maxdepth 1 '(' -name "$1" -o -name "$1.*" ')'
		losetup -n --raw -O NAME,BACK-FILE | grep -F -e "$CLUSTER_DIR/$host/run/vol/$1/" -e "$(volume_dir "$host")/$1." || true
		sqlite3 -readonly "$(state_dir "$host")/agent.db" "SELECT 'clone on $host of ' || v.name FROM volumes v JOIN clones c USING (uuid)
			WHERE v.name = '$1' AND c.mode <> 0"
	done
}

check_nothing_of() { # FUNCTION [ARG...]
	local left
	left=$("$@") || left="it cannot be looked for: $left"
	[ -z "$left" ] || printf '%s\n' "$left"
	[ -z "$left" ]
}

# All of it for one workload that was moved; stops it.
prove_moved() { # NAME FROM TO MIGRATION
	local path
	proof "$1 runs on $3" check_runs_on "$1" "$3"
	proof "$1: no export or credential is left" check_nothing_of credentials
	kedge workload stop "$1" || die "workload $1 does not stop"
	path=$(volume_path "$1")
	proof "$1: every acknowledged row is there" check_rows "$1" "$path" "$3"
	proof "$1: never ran twice" check_never_twice "$1"
	proof "$1: PRAGMA integrity_check" check_integrity "$1"
	proof "$1: e2fsck -fn" check_fsck "$path"
	proof "$1: the other $(awk '{print substr($1, 1, 8)}' "$CLUSTER_DIR/$1.ballast")... bytes are the same" \
		check_ballast "$1" "$path"
	proof "$1: the receipt verifies" check_receipt "$4"
	proof "$1: no clone or device is left" check_nothing_of clones "$1"
	proof "$1: no copy is left on $2" test ! -e "$(volume_dir "$2")/$1"
}

# ---- the end ----

cluster_pids() {
	local host
	for host in a b; do
		ip netns pids "$(netns "$host")" 2>/dev/null || true
	done
}

# The name of the program that a process runs; a process that executed /proc/self/exe hides it in its own name.
program_of() {
	local exe
	exe=$(readlink "/proc/$1/exe" 2>/dev/null) || return 1
	exe=${exe% (deleted)}
	echo "${exe##*/}"
}

# program_pids HOST PROGRAM
program_pids() {
	local pid
	for pid in $(ip netns pids "$(netns "$1")"); do
		[ "$(program_of "$pid")" != "$2" ] || echo "$pid"
	done
}

is_data_plane() {
	case "$(program_of "$1")" in
	kclone | ktarget) return 0 ;;
	*) return 1 ;;
	esac
}

signal_all() { # SIGNAL [workloads]
	local pid
	for pid in $(cluster_pids); do
		if [ -z "${2:-}" ] || ! is_data_plane "$pid"; then
			kill "-$1" "$pid" 2>/dev/null || true
		fi
	done
}

only_data_plane_left() {
	local pid
	for pid in $(cluster_pids); do
		[ ! -e "/proc/$pid/exe" ] || is_data_plane "$pid" || return 1
	done
}

nothing_left() {
	[ -z "$(cluster_pids)" ]
}

# A sanitizer's report in any log is a failure, whatever the test itself saw.
no_sanitizer_report() {
	local found
	found=$(grep -lrE --include='*.log' 'Sanitizer:|runtime error:' "$CLUSTER_DIR" 2>/dev/null || true)
	[ -n "$found" ] || return 0
	say "FAILED: a sanitizer reported something:"
	grep -hrE --include='*.log' -A 15 'Sanitizer:|runtime error:' "$CLUSTER_DIR" | head -60
	return 1
}

# Stops and removes all that this cluster made; says what it could not. 1: a sanitizer has reported something.
cluster_end() {
	local host path res=0
	[ -n "$CLUSTER_DIR" ] || return 0
	for host in $(daemons); do
		daemon_stop "$host"
	done
	# workloads before the devices under them
	signal_all TERM workloads
	wait_for 10 only_data_plane_left || signal_all KILL workloads
	signal_all TERM
	wait_for 10 nothing_left || signal_all KILL
	wait_for 5 nothing_left || say "processes are left: $(cluster_pids | tr '\n' ' ')"
	# what a killed process could not take down itself; a device whose file is unmounted can no longer be told from others
	loop_drop_all "$CLUSTER_DIR/"
	while read -r path; do
		[ -z "$path" ] || umount -l "$path" 2>/dev/null || true
	done < <(findmnt -rno TARGET | grep -F "$CLUSTER_DIR/" | sort -r)
	loop_drop_all "$CLUSTER_DIR/"
	ip link del "kv$$a" 2>/dev/null || true
	for host in a b; do
		ip netns del "$(netns "$host")" 2>/dev/null || true
	done
	no_sanitizer_report || res=1
	if [ -n "${KEDGE_KEEP:-}" ]; then
		say "kept: $CLUSTER_DIR"
	else
		rm -rf "$CLUSTER_DIR"
	fi
	CLUSTER_DIR=
	return "$res"
}

cluster_show_logs() {
	local host
	for host in $(daemons); do
		say "---- the last lines of kedged on $host"
		tail -n 40 "$CLUSTER_DIR/$host/kedged.log" 2>/dev/null || true
	done
}

cluster_on_exit() {
	local status=$1
	trap - EXIT
	trap '' INT TERM PIPE # whoever read our output may be gone: the clean-up goes on
	set +e
	if [ "$status" != 0 ] && [ "$status" != 130 ] && [ -n "$CLUSTER_DIR" ]; then
		timeout 10 "$BIN/kedge" --socket "$CLUSTER_DIR/$COORDINATOR/run/api.sock" status 2>&1
		timeout 10 "$BIN/kedge" --socket "$CLUSTER_DIR/$COORDINATOR/run/api.sock" events 2>&1 | tail -n 40
		cluster_show_logs
	fi
	cluster_end || status=1
	exit "$status"
}
