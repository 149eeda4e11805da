#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The whole drain between two hosts with a kernel each: agents in two guests joined by tap devices in a namespace, the coordinator beside them,
# ext4 with a SQLite workload, the kernel engine (or the user engine under a dm-linear). The quickstart's proofs.
# usage: drain.sh BIN TESTBIN dm|top
set -euo pipefail
BIN=$1 TESTBIN=$2 way=$3
here=$(dirname "$(readlink -f "$0")")
CLUSTER_ROOT=$(cd "$here/../.." && pwd)
# shellcheck source=../lib/cluster.sh
. "$CLUSTER_ROOT/tests/lib/cluster.sh" # its proofs; hosts are made here
HOST_IP=([a]=10.84.0.1 [b]=10.84.0.2 [c]=10.84.0.3)
HOST_ROLES=([a]=agent [b]=agent [c]=coordinator)
COORDINATOR=c
CLUSTER_DIR=$(mktemp -d /var/tmp/kedge-guests.XXXXXX)
DISKS=$(mktemp -d /dev/shm/kedge-guests.XXXXXX) # a guest's flush is an fsync of the host: not what is measured here
NS=kedge-guests-$$
GUEST_PID=() DAEMON=
case "$way" in
dm) modules="dm-clone" engine=dm ;;
top) modules="dm-mod" engine=user ;; # no dm-clone on either host
*) die "usage: drain.sh BIN TESTBIN dm|top" ;;
esac

end() {
	local code=$1 host i
	trap - EXIT
	for host in a b; do touch "$CLUSTER_DIR/END-$host"; done
	for ((i = 0; i < 200; i++)); do
		kill -0 "${GUEST_PID[0]:-0}" 2>/dev/null || kill -0 "${GUEST_PID[1]:-0}" 2>/dev/null || break
		sleep 0.1
	done
	for host in "${GUEST_PID[@]}"; do kill "$host" 2>/dev/null || true; done
	[ -z "$DAEMON" ] || kill "$DAEMON" 2>/dev/null || true
	loop_drop_all "$CLUSTER_DIR/"
	umount "$CLUSTER_DIR/mnt" 2>/dev/null || true
	ip netns del "$NS" 2>/dev/null || true
	if [ "$code" != 0 ]; then
		tail -n 15 "$CLUSTER_DIR"/*.log "$CLUSTER_DIR"/guest-*.out >&2 || true
	fi
	[ -n "${KEDGE_KEEP:-}" ] || rm -rf "$CLUSTER_DIR" "$DISKS"
	exit "$code"
}
trap 'end $?' EXIT
trap 'exit 130' INT TERM

(umask 077 && head -c 48 /dev/urandom | base64 -w0 >"$CLUSTER_DIR/cluster.secret")
ip netns add "$NS"
in_ns() { nsenter --net="/run/netns/$NS" -- "$@"; }
in_ns ip link set lo up
in_ns ip link add br0 type bridge
in_ns ip addr add "${HOST_IP[c]}/24" dev br0
in_ns ip link set br0 up
for host in a b; do
	in_ns ip tuntap add "t$host" mode tap
	in_ns ip link set "t$host" master br0 up
done

conf() { # HOST STATE_DIR
	sed -e "s#__HOST__#$1#; s#__ROLES__#${HOST_ROLES[$1]}#; s#__IP__#${HOST_IP[$1]}#; s#__STATE__#$2#g; s#__COORD__#${HOST_IP[c]}#" <<-CONF >"$CLUSTER_DIR/kedged-$1.conf"
		[daemon]
		host = __HOST__
		roles = __ROLES__
		listen = __IP__:7420
		socket = __STATE__/run/api.sock
		state_dir = __STATE__/state
		run_dir = __STATE__/run
		cluster_secret_file = $CLUSTER_DIR/cluster.secret
		coordinator = __COORD__:7420

		[agent]
		volume_dir = __STATE__/volumes
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
for host in a b; do conf "$host" /run/host; done
mkdir -p "$CLUSTER_DIR/c"
conf c "$CLUSTER_DIR/c"

# a's disk holds the volume: ext4 in a file in ext4
size_mib=192
mkdir "$CLUSTER_DIR/tree" "$CLUSTER_DIR/disk-tree" "$CLUSTER_DIR/mnt"
head -c 48M /dev/urandom >"$CLUSTER_DIR/tree/ballast"
sha256sum <"$CLUSTER_DIR/tree/ballast" >"$CLUSTER_DIR/rows.ballast"
truncate -s "${size_mib}M" "$CLUSTER_DIR/disk-tree/rows.img"
mkfs.ext4 -q -F -d "$CLUSTER_DIR/tree" "$CLUSTER_DIR/disk-tree/rows.img"
for host in a b; do
	truncate -s 1G "$DISKS/disk-$host"
	mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 $([ "$host" = b ] || echo "-d $CLUSTER_DIR/disk-tree") "$DISKS/disk-$host"
done
rm -rf "$CLUSTER_DIR/tree" "$CLUSTER_DIR/disk-tree"

for host in a b; do
	in_ns "$here/kuml" --mem 512M --timeout 400 --net "t$host=${HOST_IP[$host]}/24" --ubd "$DISKS/disk-$host" -- \
		"$here/guest_agent.sh" "$host" "$CLUSTER_DIR" "$BIN" "$modules" >"$CLUSTER_DIR/guest-$host.out" 2>&1 &
	GUEST_PID+=($!)
done
# not by the function: $! would be a shell around it, and that alone would be ended
nsenter --net="/run/netns/$NS" -- "$BIN/kedged" --config "$CLUSTER_DIR/kedged-c.conf" >"$CLUSTER_DIR/kedged-c.log" 2>&1 &
DAEMON=$!
wait_for 40 hosts_are_up || die "the hosts did not come up within 40 s"
kedge doctor
[ "$(kedge doctor --json | jq -r '.hosts[] | select(.name == "b") | .engine')" = "$engine" ] || die "b does not have the engine $engine"
[ "$way" = dm ] || kedge doctor | grep -q '^b .*user.*no device-mapper target clone; with dm-linear' || die "kedge doctor does not say why"

kedge volume import rows --host a --path /run/host/rows.img
kedge workload add rows --volume rows --grace 20s -- "$CLUSTER_ROOT/tests/workload/mounted" "$TESTBIN/rowwriter" --record "$CLUSTER_DIR/rows.record"
kedge workload start rows
wait_for 60 has_acks rows a 30 || die "the workload commits nothing on a"
kedge drain a --dry-run
[ "$(kedge drain a --dry-run --json | jq -r '.plan.moves[0].engine')" = "$engine" ] || die "the plan does not say engine $engine"
drain_start a --rate 16M
wait_for 60 has_acks rows b 10 || die "the workload commits nothing on b"
look() { # what b's kernel has: in $CLUSTER_DIR/seen-b
	rm -f "$CLUSTER_DIR/seen-b"
	touch "$CLUSTER_DIR/LOOK-b"
	wait_for 20 test -s "$CLUSTER_DIR/seen-b"
}
look || die "guest b does not answer"
under_way() { # dm: a clone between two linears; top: one linear, and kclone below it
	case "$way" in
	dm) grep -q ' clone ' "$CLUSTER_DIR/seen-b" ;;
	top) only_linear && grep -q 'processes: 2' "$CLUSTER_DIR/seen-b" && grep -q ' linear 7:.* over .*/vol/rows/disk$' "$CLUSTER_DIR/seen-b" ;;
	esac
}
only_linear() { [ "$(grep -c ' linear ' "$CLUSTER_DIR/seen-b")" = 1 ] && ! grep -q ' clone ' "$CLUSTER_DIR/seen-b"; }
proof "while it hydrates the kernel has: $(grep -o ' clone \| linear ' "$CLUSTER_DIR/seen-b" | sort | uniq -c | xargs)" under_way
drain_wait 300
look || die "guest b does not answer"
cat "$CLUSTER_DIR/seen-b"
on_dest() { only_linear && grep -q "^kedge-.* linear 7:.* over $(volume_path rows)\$" "$CLUSTER_DIR/seen-b"; }
proof "in the end the device is a plain linear on the destination" on_dest
# no process of ours is needed: all of them die, and the workload is not even restarted
workload_pid=$(kedge workload list --json | jq '.. | objects | select(.name? == "rows" and .pid?) | .pid' | head -n 1)
[ -n "$workload_pid" ] || die "the workload has no pid"
touch "$CLUSTER_DIR/KILL-b"
wait_for 20 test -s "$CLUSTER_DIR/killed-b" || die "guest b kills nobody"
goes_on() {
	more_acks rows b 20 && [ "$(kedge workload list --json | jq '.. | objects | select(.name? == "rows" and .pid?) | .pid' | head -n 1)" = "$workload_pid" ]
}
proof "every kclone of b was killed ($(cat "$CLUSTER_DIR/killed-b")), and the workload went on as it was" goes_on
proof "rows runs on b" check_runs_on rows b
migration=$(migration_of rows)
proof "the receipt verifies" check_receipt "$migration"
[ "$(migration_field rows engine)" = "$engine" ] || die "the migration does not say its engine"
kedge receipt "$migration"
path=$(volume_path rows)
kedge workload stop rows || die "the workload does not stop"
for host in a b; do touch "$CLUSTER_DIR/END-$host"; done
for i in 0 1; do
	code=0
	wait "${GUEST_PID[$i]}" || code=$?
	[ "$code" = 0 ] || die "guest $i ended with $code"
done
GUEST_PID=()
for host in a b; do
	proof "nothing is left in the kernel of $host" test "$(grep -vc 'No devices found' "$CLUSTER_DIR/left-$host")" = 0
done
mount -o loop,ro,noload "$DISKS/disk-b" "$CLUSTER_DIR/mnt"
path=$CLUSTER_DIR/mnt/${path#/run/host/}
proof "every acknowledged row is there" check_rows rows "$path" b
# The guests' clocks differ; the record is one file on the host, and its order is the order in which rows were acknowledged.
check_order() {
	awk '$1 == "ack" { if ($4 != last) { nr++; printf "%s%s", sep, $4; sep = ", then "; last = $4 } } END { print ""; exit nr != 2 }' "$CLUSTER_DIR/rows.record"
}
proof "it ran on a and then on b, and never on both" check_order
proof "PRAGMA integrity_check" check_integrity rows
proof "e2fsck -fn" check_fsck "$path"
proof "the ballast is the same" check_ballast rows "$path"
umount "$CLUSTER_DIR/mnt"
proofs_end
echo "ok: drain between two kernels, engine $engine ($way)"
