#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# A volume moves without its free space: deleted files do not travel, all else does. While it hydrates the source's daemon starts again with another
# configuration and its ktarget dies: what the move began with it ends with. Then it moves back, from the clone that it was.
# shellcheck source=start.sh
. "$(dirname "$0")/start.sh" "$@"
DELETED_MIB=150

set_free_space() { # HOST copy|skip
	sed -i '/^free_space = /d; s/^\[agent\]$/&\nfree_space = '"$2"'/' "$CLUSTER_DIR/$1/kedged.conf"
}

# Files that were deleted: their bytes are still there. In a mount namespace of its own: others would keep the mount.
leave_deleted() { # NAME
	mkdir -p "$CLUSTER_DIR/mnt"
	# shellcheck disable=SC2016 # expanded there
	unshare -m sh -ec 'mount -o loop "$1" "$2"; yes "these bytes were deleted" | head -c "$3M" >"$2/deleted"; sync -f "$2"; rm "$2/deleted"; umount "$2"' \
		sh "$(volume_path "$1")" "$CLUSTER_DIR/mnt" "$DELETED_MIB"
	wait_for 30 has_no_loop "$(volume_path "$1")" || die "a loop device keeps $1"
}

has_no_loop() { # FILE
	[ -z "$(losetup -n -j "$1")" ]
}

deleted_lines() { # FILE
	grep -a -c "these bytes were deleted" "$1" || true
}

left_out() { # MIGRATION
	kedge receipt "$1" --json | jq -r .left_out_bytes
}

check_left_out() { # MIGRATION PATH
	local bytes
	bytes=$(left_out "$1")
	[ "$bytes" -gt $((DELETED_MIB << 20)) ] || {
		echo "$bytes bytes were left out"
		return 1
	}
	[ "$(deleted_lines "$2")" = 0 ] || {
		echo "deleted bytes travelled"
		return 1
	}
	echo "$bytes bytes"
}

cluster_init
set_free_space a skip
set_free_space b skip
cluster_start
workload_create one a 512M 48 --journal delete
leave_deleted one
[ "$(deleted_lines "$(volume_path one)")" -gt 1000 ] || die "nothing was deleted"
kedge workload start one
wait_for 30 has_acks one a 100 || die "the workload commits nothing"
drain_start a --rate 10M
wait_for 60 has_step one DEST_RUNNING || die "it does not run on b"
# every other configuration from now on
daemon_stop a
set_free_space a copy
pids=$(program_pids a ktarget)
[ -n "$pids" ] || die "there is no ktarget"
# shellcheck disable=SC2086 # pids
kill -KILL $pids
daemon_start a
served_again() {
	local now
	now=$(program_pids a ktarget)
	[ -n "$now" ] && [ "$now" != "$pids" ]
}
wait_for 30 served_again || die "the export is not served again"
has_step one DEST_RUNNING || die "it was over before the ktarget died"
drain_wait 120
migration=$(migration_of one)
proof "free space was left out, and deleted bytes with it" check_left_out "$migration" "$(volume_path one)"
prove_moved one a b "$migration"

say "and back"
kedge host uncordon a
kedge workload start one
more_acks one b 50 || die "the workload commits nothing on b"
drain_start b
drain_wait 120
migration=$(migration_of one)
check_some_left_out() {
	local bytes
	bytes=$(left_out "$migration")
	echo "$bytes bytes"
	[ "$bytes" -gt $((100 << 20)) ]
}
proof "free space of what was a clone was left out" check_some_left_out
prove_moved one b a "$migration"
proofs_end
