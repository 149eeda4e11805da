#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ktarget started wrongly: one line on stderr that says what and where, nothing on stdout, the exit code of docs/formats.md.
. "$(dirname "$0")/lib.sh"
need timeout truncate

truncate -s 1M "$WORK/disk"
truncate -s 4097 "$WORK/odd"
truncate -s 0 "$WORK/empty"
printf 'user = joe\nsecret = correct-horse-1\n' >"$WORK/open"
chmod 644 "$WORK/open"
(umask 077 && printf 'user = joe\nsecret = short\n' >"$WORK/short" &&
	printf 'user = joe\nsecret = correct-horse-1\nmutual-user = t\nmutual-secret = correct-horse-1\n' >"$WORK/same")
nr_cases=0

# refused STATUS PATTERN OPTIONS...
refused() {
	local wanted=$1 pattern=$2 status=0
	shift 2
	timeout 10 "$KTARGET" "$@" >"$WORK/out" 2>"$WORK/err" || status=$?
	[ "$status" -eq "$wanted" ] || fail "$*: status $status, not $wanted: $(cat "$WORK/err")"
	[ "$(wc -l <"$WORK/err")" -eq 1 ] || fail "$*: not one line: $(cat "$WORK/err")"
	[ ! -s "$WORK/out" ] || fail "$*: says on stdout: $(cat "$WORK/out")"
	grep -qF -- "$pattern" "$WORK/err" || fail "$*: no \"$pattern\" in: $(cat "$WORK/err")"
	nr_cases=$((nr_cases + 1))
}
P=(--portal 127.0.0.1:0)
I=(--iqn "$IQN")
L=(--lun "$WORK/disk")

refused 1 "$WORK/nothing: No such file" "${P[@]}" "${I[@]}" --lun "$WORK/nothing"
refused 1 "neither a regular file nor a block device" "${P[@]}" "${I[@]}" --lun "$WORK"
refused 1 "neither a regular file nor a block device" "${P[@]}" "${I[@]}" --lun /dev/null
refused 2 "4097 bytes" "${P[@]}" "${I[@]}" --lun "$WORK/odd"
refused 2 "0 bytes" "${P[@]}" "${I[@]}" --lun "$WORK/empty"
refused 9 "not a private address" --portal 0.0.0.0:0 "${I[@]}" "${L[@]}"
refused 9 "not a private address" --portal 8.8.8.8:3260 "${I[@]}" "${L[@]}"
refused 9 "not a private address" --portal "[::]:0" "${I[@]}" "${L[@]}"
refused 9 "not a private address" --portal 172.32.0.1:0 "${I[@]}" "${L[@]}"
refused 2 "not a numeric address" --portal localhost:3260 "${I[@]}" "${L[@]}"
refused 2 "not a port" --portal 127.0.0.1:65536 "${I[@]}" "${L[@]}"
refused 2 "expected ADDR:PORT" --portal 127.0.0.1 "${I[@]}" "${L[@]}"
refused 2 "not an iSCSI name" "${P[@]}" --iqn "Not A Name" "${L[@]}"
refused 2 "not an iSCSI name" "${P[@]}" "${I[@]}" "${L[@]}" --initiator me
refused 2 "are needed" "${P[@]}" "${I[@]}"
refused 2 "are needed" "${P[@]}" "${L[@]}"
refused 2 "--help" "${P[@]}" "${I[@]}" "${L[@]}" --nonsense
refused 2 "--help" "${P[@]}" "${I[@]}" "${L[@]}" more
refused 2 "--max-sessions" "${P[@]}" "${I[@]}" "${L[@]}" --max-sessions 0
refused 2 "--max-sessions" "${P[@]}" "${I[@]}" "${L[@]}" --max-sessions 16abc
refused 2 "--serial" "${P[@]}" "${I[@]}" "${L[@]}" --serial ""
refused 2 "--serial" "${P[@]}" "${I[@]}" "${L[@]}" --serial $'a\nb'
refused 2 "--serial" "${P[@]}" "${I[@]}" "${L[@]}" --serial "$(printf '%0128d' 1)"
cp "$WORK/disk" "$WORK/disk2"
refused 2 "given to" "${P[@]}" "${I[@]}" "${L[@]}" --serial one --lun "$WORK/disk2" --serial one
refused 1 "chmod 600" "${P[@]}" "${I[@]}" "${L[@]}" --chap-file "$WORK/open"
refused 1 "$WORK/nothing" "${P[@]}" "${I[@]}" "${L[@]}" --chap-file "$WORK/nothing"
refused 2 "12 bytes" "${P[@]}" "${I[@]}" "${L[@]}" --chap-file "$WORK/short"
refused 2 "$WORK/same" "${P[@]}" "${I[@]}" "${L[@]}" --chap-file "$WORK/same"

start_target holder "${L[@]}"
refused 1 "$PORTAL" --portal "$PORTAL" "${I[@]}" "${L[@]}"
stop_target
echo "$nr_cases wrong starts, $nr_cases clear answers"
