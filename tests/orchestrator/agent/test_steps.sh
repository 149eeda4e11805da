#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The steps of migrations, by hand, between two agents with the real data plane: the way there, the way back out of it, repeats,
# stale epochs, lost processes, a killed agent.
# usage: KEDGED=PATH BIN_DIR=DIR test_steps.sh
. "$(dirname "$0")/lib.sh"

agent_config a
agent_config b
agent_start a
agent_start b

SIZE=16777216
cat >"$T/work.sh" <<-'END'
	#!/bin/bash
	# writes a numbered block at 4 MiB + 4096 * n, and says so when it is durable
	exec 3<>"$KEDGE_DEVICE"
	echo "$KEDGE_EPOCH $KEDGE_DEVICE" >>"$KEDGE_STATE_DIR/starts"
	n=$(wc -l <"$KEDGE_STATE_DIR/starts")
	yes "host $KEDGE_HOST epoch $KEDGE_EPOCH start $n" | head -c 4096 |
		dd of="$KEDGE_DEVICE" bs=4096 seek=$((1024 + n)) iflag=fullblock conv=fsync,notrunc status=none || exit 1 # said in the log
	touch "$KEDGE_STATE_DIR/wrote-$n"
	while :; do sleep 0.1; done
END
chmod 755 "$T/work.sh"
spec="{\"start\":[\"$T/work.sh\"],\"grace_ms\":2000}"

prepare() { # VOLUME: a local volume with a running workload on host a; sets U, PATH_A
	volume_create a "$1" $SIZE
	[ "$POST_STATUS" = 200 ] || die "create: $POST_BODY"
	U=$(jq -r .uuid <<<"$POST_BODY")
	PATH_A=$(jq -r .path <<<"$POST_BODY")
	head -c $((SIZE / 2)) /dev/urandom | dd of="$PATH_A" conv=notrunc bs=1M status=none
	workload a add "w-$1" "$1" "$spec"
	[ "$POST_STATUS" = 200 ] || die "add: $POST_BODY"
	workload a start "w-$1"
	wait_until "w-$1 runs" is_workload a "w-$1" running
	wait_until "w-$1 wrote" test -e "$T/a/state/work/w-$1/wrote-1"
}

chap='{"user":"in","secret":"0123456789abcdef0123","mutual_user":"out","mutual_secret":"fedcba98765432109876"}'
iqn() { echo "iqn.2026-01.test.kedge:$1"; }

reserve() { step_done b "$1" "$2" "$3" "$4" RESERVE "{\"size_bytes\":$SIZE,\"lbs_bytes\":512,\"source_host\":\"a\",\"workload\":\"w-$1\",\"spec\":$spec,\"initiator_iqn\":\"$(iqn b)\"${PACE:-}}"; }
export_it() { step_done a "$1" "$2" "$3" "$4" EXPORT "{\"iqn\":\"$(iqn "$1")\",\"initiator_iqn\":\"$(iqn b)\",\"chap\":$chap}"; PORTAL=$(jq -r .result.portal <<<"$STEP_BODY"); }
url() { [ -n "${FILE_SOURCE:-}" ] && echo "$PATH_A" || echo "iscsi://$PORTAL/$(iqn "$1")/1"; }
attach() { step_done b "$1" "$2" "$3" "$4" ATTACH "{\"url\":\"$(url "$1")\",\"initiator_iqn\":\"$(iqn b)\",\"chap\":$chap}"; }

has_clone() { [ "$(volume_field b "$1" 'clone.state')" = "$2" ]; }
clone_pid() { cut -d' ' -f1 "$T/b/run/vol/$1/kclone.pid"; }
is_hydrated() { step b "$1" "$2" "$3" "$4" HYDRATE '{"rate_bps":0}'; [ "$STEP_STATE" = done ] || die "HYDRATE: $STEP_BODY"; }

echo "# the whole way"
prepare v1
M=$(new_uuid)
step_done a v1 "$U" "$M" 1 CHECK
[ "$(jq -r '.result | "\(.size_bytes) \(.workload) \(.running)"' <<<"$STEP_BODY")" = "$SIZE w-v1 true" ] || die "CHECK: $STEP_BODY"
step_fails STATE a v1 "$U" "$M" 1 FENCE '{"to":"b"}'
reserve v1 "$U" "$M" 1
device=$(jq -r .result.device <<<"$STEP_BODY")
[ -b "$device" ] || die "no device: $STEP_BODY"
tr '\0' ' ' <"/proc/$(clone_pid v1)/cmdline" | grep -q -- "--floor 7M --latency-factor 2.5 --transit checked " || die "kclone does not know of the agent's pace"
reserve v1 "$U" "$M" 1 # again: the stored answer
[ "$(jq -r .result.device <<<"$STEP_BODY")" = "$device" ]
workload b start w-v1
[ "$POST_STATUS" = 412 ] && grep -q FENCED <<<"$POST_BODY" || die "start of an unbooted clone: $POST_BODY"
step_fails STATE b v1 "$U" "$M" 1 BOOT '{"start":true}'
M2=$(new_uuid)
step_fails BUSY_VOLUME b v1 "$U" "$M2" 2 RESERVE "{\"size_bytes\":$SIZE,\"lbs_bytes\":512}"
step_done a v1 "$U" "$M" 1 STOP
[ "$(jq -r .result.was_running <<<"$STEP_BODY")" = true ]
[ -z "$(losetup -j "$PATH_A")" ] || die "the source's loop device stayed"
workload a start w-v1
[ "$POST_STATUS" = 409 ] || die "start of a held workload: $POST_BODY"
step_fails BUSY_VOLUME a v1 "$U" "$M2" 2 CHECK
step_done a v1 "$U" "$M" 1 FENCE '{"to":"b"}'
workload a start w-v1
[ "$POST_STATUS" = 412 ] && grep -q FENCED <<<"$POST_BODY" || die "start of a fenced workload: $POST_BODY"
agent_kill a # fenced stays fenced
agent_start a
[ "$(volume_field a v1 state)" = fenced ] && [ "$(volume_field a v1 fence.to)" = b ]
is_workload a w-v1 running && die "a fenced workload was started"
export_it v1 "$U" "$M" 1
sum=$(sha256sum "$PATH_A")
attach v1 "$U" "$M" 1
step_done a v1 "$U" "$M" 1 INTENT
step_fails STATE a v1 "$U" "$M" 1 UNFENCE '{"start":true}'
step_done b v1 "$U" "$M" 1 BOOT '{"start":true}'
pid=$(jq -r .result.pid <<<"$STEP_BODY")
kill -0 "$pid"
step_fails STATE b v1 "$U" "$M" 1 REVOKE
wait_until "the workload wrote at b" test -e "$T/b/state/work/w-v1/wrote-1"
grep -q "^1 $device$" "$T/b/state/work/w-v1/starts" || die "epoch or device: $(cat "$T/b/state/work/w-v1/starts")"
[ "$(workload_pid b w-v1)" = "$pid" ]
is_hydrated v1 "$U" "$M" 1
step_done b v1 "$U" "$M" 1 FINISH
jq -e --argjson s $SIZE '.result | .mismatch_bytes == 0 and .size_bytes == $s and .verified_bytes + .hole_bytes + .written_bytes >= $s and .sampled_bytes <= .verified_bytes and .checksum_bytes > 0 and .checksum_bytes <= .verified_bytes and .written_bytes >= 4096' <<<"$STEP_BODY" >/dev/null ||
	die "FINISH: $STEP_BODY"
[ "$(volume_field b v1 state)" = local ]
kill -0 "$pid" || die "the workload did not live through FINISH"
step_fails STATE a v1 "$U" "$M" 1 RELEASE '{"policy":"delete"}'
step_done a v1 "$U" "$M" 1 UNEXPORT
[ -z "$(ls "$T/a/run/export")" ] || die "left of the export: $(ls "$T/a/run/export")"
[ "$(sha256sum "$PATH_A")" = "$sum" ] || die "the source was written to"
step_done a v1 "$U" "$M" 1 RELEASE '{"policy":"delete"}'
[ ! -e "$PATH_A" ] || die "the source file stayed"
[ -z "$(get a /v1/host | jq -r '.volumes[] | select(.name == "v1")')" ] || die "the released volume is still listed"
cat "$T"/[ab]/state/agent.db* | grep -aq "0123456789abcdef0123" && die "the CHAP secret stayed in the records"
grep -rq "0123456789abcdef0123" "$T"/*.log "$T"/[ab]/state/log && die "the CHAP secret is in a log"
ls "$T/b/run/chap" | grep -q . && die "the CHAP file stayed at the destination"

echo "# a lower epoch changes nothing"
M3=$(new_uuid)
step_done b v1 "$U" "$M3" 5 CHECK
for s in CHECK STOP FENCE INTENT UNFENCE REVOKE RELEASE; do
	args='{}'
	[ $s = FENCE ] && args='{"to":"a"}'
	[ $s = RELEASE ] && args='{"policy":"delete"}'
	step b v1 "$U" "$(new_uuid)" 4 $s "$args"
	[ "$STEP_STATE" = stale ] && [ "$(jq .highest <<<"$STEP_BODY")" = 5 ] || die "$s of a stale epoch: $STEP_BODY"
done
[ "$(volume_field b v1 epoch)" = 5 ] && is_workload b w-v1 running

echo "# stopped after its move, the volume is a plain local one; started again it has its data"
workload b stop w-v1; wait_until "stopped" is_workload b w-v1 stopped
[ "$(volume_field b v1 clone)" = null ] || die "the clone stayed"
[ ! -e "$T/b/run/vol/v1" ] || die "left: $(ls "$T/b/run/vol/v1")"
ls "$T/b/state/clones" | grep -q '^v1\.' && die "metadata stayed"
path_b=$(volume_field b v1 path)
cmp <(dd if="$path_b" bs=4096 count=1 skip=1025 status=none) <(yes "host b epoch 1 start 1" | head -c 4096) || die "the block written at b"
workload b start w-v1; wait_until "running" is_workload b w-v1 running
[ "$(losetup -n -O BACK-FILE "$(volume_field b v1 device)")" = "$path_b" ]

echo "# abort: revoke, unfence, the workload runs at the source again"
prepare v2
M=$(new_uuid)
step_done a v2 "$U" "$M" 1 CHECK
reserve v2 "$U" "$M" 1
step_done a v2 "$U" "$M" 1 STOP
step_done a v2 "$U" "$M" 1 FENCE '{"to":"b"}'
export_it v2 "$U" "$M" 1
attach v2 "$U" "$M" 1
step_done b v2 "$U" "$M" 1 REVOKE
step_fails STATE b v2 "$U" "$M" 1 BOOT '{"start":true}'
step_fails STATE b v2 "$U" "$M" 1 RESERVE "{\"size_bytes\":$SIZE,\"lbs_bytes\":512}"
[ -z "$(ls "$T"/b/state/volumes/v2.* 2>/dev/null)" ] || die "the reserved file stayed"
[ ! -e "$T/b/run/vol/v2" ] || die "left: $(ls "$T/b/run/vol/v2")"
step_done a v2 "$U" "$M" 1 UNFENCE '{"start":true}'
wait_until "it runs at a again" is_workload a w-v2 running
step_fails STATE a v2 "$U" "$M" 1 FENCE '{"to":"b"}'
[ "$(get a /v1/host | jq '.exports | length')" = 0 ]
# a destination that never heard of the migration revokes it all the same
M=$(new_uuid)
step_done b v2 "$U" "$M" 2 REVOKE
step_fails STATE b v2 "$U" "$M" 2 RESERVE "{\"size_bytes\":$SIZE,\"lbs_bytes\":512}"

echo "# no room, another volume of that name, wrong arguments"
step_fails NO_ROOM b v9 "$(new_uuid)" "$(new_uuid)" 1 RESERVE '{"size_bytes":900000000000000,"lbs_bytes":512}'
step_fails EEXIST b v1 "$(new_uuid)" "$(new_uuid)" 1 RESERVE '{"size_bytes":4096,"lbs_bytes":512}'
step_fails PROTO b v9 "$(new_uuid)" "$(new_uuid)" 1 RESERVE '{"size_bytes":4096,"lbs_bytes":512,"colour":1}'
post a /v1/step '{"v":1,"migration":"x"}'; [ "$POST_STATUS" = 400 ]
post a /v1/step "{\"v\":1,\"migration\":\"$M\",\"volume\":\"v\",\"volume_uuid\":\"$M\",\"epoch\":1,\"step\":\"JUMP\",\"request\":\"r\",\"args\":{}}"
[ "$POST_STATUS" = 400 ] || die "an unknown step: $POST_BODY"
[ -z "$(get b /v1/host | jq -r '.volumes[] | select(.name == "v9")')" ]

echo "# a leaked descriptor in another session: still open, then the abort starts the workload again"
cat >"$T/leak.sh" <<-'END'
	#!/bin/bash
	exec 3<>"$KEDGE_DEVICE"
	[ -e "$KEDGE_STATE_DIR/leaker" ] || setsid bash -c 'echo $$ >"$KEDGE_STATE_DIR/leaker"; exec sleep 1000' &
	while :; do sleep 0.1; done
END
chmod 755 "$T/leak.sh"
volume_create a v3 4194304; U=$(jq -r .uuid <<<"$POST_BODY")
workload a add w-v3 v3 "{\"start\":[\"$T/leak.sh\"],\"grace_ms\":1000}"
workload a start w-v3
wait_until "the leaker" test -s "$T/a/state/work/w-v3/leaker"
leaker=$(cat "$T/a/state/work/w-v3/leaker")
EXTRA_PIDS=$leaker
M=$(new_uuid)
step_done a v3 "$U" "$M" 1 CHECK
step_fails STILL_OPEN a v3 "$U" "$M" 1 STOP
grep -q "pid $leaker (sleep)" <<<"$STEP_BODY" || die "who: $STEP_BODY"
step_fails STATE a v3 "$U" "$M" 1 FENCE '{"to":"b"}'
step_done a v3 "$U" "$M" 1 UNFENCE '{"start":true}'
wait_until "it runs again" is_workload a w-v3 running
kill -9 "$leaker"
M=$(new_uuid)
step_done a v3 "$U" "$M" 2 STOP
step_done a v3 "$U" "$M" 2 UNFENCE '{"start":false}'
is_workload a w-v3 stopped || die "started although start was false"

echo "# a mount keeps it open, in whatever namespace"
volume_create a v4 8388608; U=$(jq -r .uuid <<<"$POST_BODY")
mkfs.ext4 -q "$(jq -r .path <<<"$POST_BODY")"
cat >"$T/mount.sh" <<-END
	#!/bin/bash
	mkdir -p "$T/mnt"
	setsid unshare -m bash -c 'mount "\$KEDGE_DEVICE" "$T/mnt" && echo \$\$ >"$T/mounter"; exec sleep 1000' &
	while :; do sleep 0.1; done
END
chmod 755 "$T/mount.sh"
workload a add w-v4 v4 "{\"start\":[\"$T/mount.sh\"],\"grace_ms\":1000}"
workload a start w-v4
wait_until "the mount" test -s "$T/mounter"
EXTRA_PIDS=$(cat "$T/mounter")
M=$(new_uuid)
step_fails STILL_OPEN a v4 "$U" "$M" 1 STOP
grep -q "mounted on" <<<"$STEP_BODY" || die "who: $STEP_BODY"
kill -9 $EXTRA_PIDS
step_done a v4 "$U" "$M" 1 STOP
step_done a v4 "$U" "$M" 1 UNFENCE '{"start":false}'

echo "# kclone and ktarget lost while it clones; both agents killed: all come back"
prepare v5
M=$(new_uuid)
step_done a v5 "$U" "$M" 1 CHECK
step_fails EINVAL b v5 "$U" "$M" 1 RESERVE "{\"size_bytes\":$SIZE,\"lbs_bytes\":512,\"transit\":\"lz4\"}"
# what the move asks for comes before the configuration, and is recorded: a clone that is served anew has it too
PACE=',"floor_bps":1000000,"transit":"zstd"'
reserve v5 "$U" "$M" 1
PACE=
has_pace() { tr '\0' ' ' <"/proc/$(clone_pid v5)/cmdline" | grep -q -- "--floor 1000000 --latency-factor 2.5 --transit zstd " || die "not the move's pace"; }
has_pace
step_done a v5 "$U" "$M" 1 STOP
step_done a v5 "$U" "$M" 1 FENCE '{"to":"b"}'
export_it v5 "$U" "$M" 1
attach v5 "$U" "$M" 1
step_done a v5 "$U" "$M" 1 INTENT
step_done b v5 "$U" "$M" 1 BOOT '{"start":true}'
wait_until "it wrote at b" test -e "$T/b/state/work/w-v5/wrote-1"
target=$(cut -d' ' -f1 "$T"/a/run/export/*.pid)
kill -9 "$target"
is_exported() { local p; p=$(get a /v1/host | jq '.exports[0].pid'); [ "$p" != null ] && [ "$p" != "$target" ]; }
wait_until "it is exported again" is_exported
[ "$(get a /v1/host | jq -r '.exports[0].portal')" = "$PORTAL" ] || die "on another port"
old=$(clone_pid v5)
kill -9 -- "-$old"
wait_until "a new workload on a new kclone" test -e "$T/b/state/work/w-v5/wrote-2"
[ "$(clone_pid v5)" != "$old" ]
has_pace
agent_kill a
agent_kill b
kill -9 "$(cut -d' ' -f1 "$T"/a/run/export/*.pid)"
old=$(clone_pid v5)
kill -9 -- "-$old"
agent_start a
agent_start b
wait_until "a third workload" test -e "$T/b/state/work/w-v5/wrote-3"
has_pace
wait_until "reported" is_workload b w-v5 running
is_hydrated v5 "$U" "$M" 1
# a comparison that has passed before the configuration wanted more is done again
verified() { "$BIN_DIR/kclone" status --control "$T/b/run/vol/v5/ctl.sock" --json | jq -e ".verify | $1" >/dev/null; }
"$BIN_DIR/kclone" verify --control "$T/b/run/vol/v5/ctl.sock" --verify-holes status
wait_until "compared" verified '.state == "passed"'
verified '.holes == "status" and .hole_bytes > 0 and .checksum_bytes > 0' || die "no holes by status, or no checksums: nothing to do again"
agent_kill b
echo "verify_holes = read" >>"$T/b.conf"
echo "verify_data = bytes" >>"$T/b.conf"
agent_start b
step_done b v5 "$U" "$M" 1 FINISH
[ "$(jq .result.hole_bytes <<<"$STEP_BODY")" = 0 ] || die "holes were not read: $STEP_BODY"
[ "$(jq .result.checksum_bytes <<<"$STEP_BODY")" = 0 ] || die "bytes were not compared: $STEP_BODY"
step_done a v5 "$U" "$M" 1 UNEXPORT
step_done a v5 "$U" "$M" 1 RELEASE '{"policy":"keep"}'
[ -e "$PATH_A" ] && [ "$(volume_field a v5 state)" = retained ] || die "the kept copy"
# passthrough lost: the volume goes on as a plain local one
old=$(clone_pid v5)
kill -9 -- "-$old"
wait_until "a fourth workload" test -e "$T/b/state/work/w-v5/wrote-4"
wait_until "on the raw file" test "$(volume_field b v5 clone)" = null
for n in 1 2 3 4; do
	[ $n = 4 ] && e=1 || e=1
	cmp <(dd if="$(volume_field b v5 device)" bs=4096 count=1 skip=$((1024 + n)) iflag=direct status=none) \
		<(yes "host b epoch $e start $n" | head -c 4096) || die "block $n was lost"
done

echo "# figures of the comparison that are lost are not made up"
prepare v6
M=$(new_uuid)
step_done a v6 "$U" "$M" 1 CHECK
reserve v6 "$U" "$M" 1
step_done a v6 "$U" "$M" 1 STOP
step_done a v6 "$U" "$M" 1 FENCE '{"to":"b"}'
export_it v6 "$U" "$M" 1
attach v6 "$U" "$M" 1
step_done a v6 "$U" "$M" 1 INTENT
step_done b v6 "$U" "$M" 1 BOOT '{"start":true}'
wait_until "it wrote at b" test -e "$T/b/state/work/w-v6/wrote-1"
is_hydrated v6 "$U" "$M" 1
of_v6() { "$BIN_DIR/kclone" status --control "$T/b/run/vol/v6/ctl.sock" --json | jq -e "$1" >/dev/null; }
"$BIN_DIR/kclone" verify --control "$T/b/run/vol/v6/ctl.sock"
wait_until "compared" of_v6 '.verify.state == "passed"'
"$BIN_DIR/kclone" finish --control "$T/b/run/vol/v6/ctl.sock"
rm "$T"/b/state/clones/v6.*.meta.compared
old=$(clone_pid v6)
kill -9 -- "-$old"
wait_until "served anew" of_v6 ".state == \"hydrated\" and .holder_pid != $old and .verify.state == \"idle\""
step_done b v6 "$U" "$M" 1 FINISH
jq -e --argjson s $SIZE '.result | .size_bytes == $s and .written_bytes >= 4096 and .mismatch_bytes == 0 and
	(has("verified_bytes") or has("checksum_bytes") or has("hole_bytes") | not)' <<<"$STEP_BODY" >/dev/null || die "FINISH: $STEP_BODY"

echo "# where the source makes no checksums a comparison that passed was by bytes, and is not done again"
prepare v9
M=$(new_uuid)
step_done a v9 "$U" "$M" 1 CHECK
reserve v9 "$U" "$M" 1
step_done a v9 "$U" "$M" 1 STOP
step_done a v9 "$U" "$M" 1 FENCE '{"to":"b"}'
export_it v9 "$U" "$M" 1
FILE_SOURCE=1 attach v9 "$U" "$M" 1
step_done a v9 "$U" "$M" 1 INTENT
step_done b v9 "$U" "$M" 1 BOOT '{"start":true}'
is_hydrated v9 "$U" "$M" 1
"$BIN_DIR/kclone" verify --control "$T/b/run/vol/v9/ctl.sock" --verify-holes read
compared() { "$BIN_DIR/kclone" status --control "$T/b/run/vol/v9/ctl.sock" --json | jq -e '.verify | .state == "passed" and .data == "checksum" and .checksum_bytes == 0' >/dev/null; }
wait_until "compared" compared
step_done b v9 "$U" "$M" 1 FINISH
compared || die "compared again"
echo "ok"
