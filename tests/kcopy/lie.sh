#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A source that calls data a hole: nothing is copied there, and a comparison must find it. KCOPY, KTARGET, LIAR (a library) by environment.
TARGET_KIND=ktarget
. "$(dirname "$0")/lib.sh"
need jq openssl cmp
: "${LIAR:?path of the library}"
mib=1048576

figure() { jq -e -s "map(select(.event == \"result\"))[0].$1" "$WORK/json"; }

head -c $((32 * mib)) /dev/urandom >"$WORK/src"
truncate -s $((64 * mib)) "$WORK/src"
PORT=$(free_port)
LD_PRELOAD=$LIAR LIE=$((16 * mib)),$((64 * mib)) target_start "$PORT" "$WORK/src" liar

echo "- without a comparison nobody notices"
"$KCOPY" "$URL" "$WORK/dst" 2>"$WORK/kcopy.log"
! cmp -s "$WORK/src" "$WORK/dst" || fail "the source did not lie"
cmp -n $((16 * mib)) "$WORK/src" "$WORK/dst"

echo "- a lie about a part of a hole is found by reading"
expect_exit 35 "$KCOPY" "$URL" "$WORK/dst" --verify-holes read --json >"$WORK/json" 2>"$WORK/kcopy.log"
grep -q "differ from the source, the first at byte $((16 * mib))" "$WORK/kcopy.log" || fail "$(cat "$WORK/kcopy.log")"

echo "- an honest one: what was compared is said as it was"
PORT=$(free_port)
target_start "$PORT" "$WORK/src" honest
rm "$WORK/dst"
"$KCOPY" "$URL" "$WORK/dst" --verify --json >"$WORK/json" 2>"$WORK/kcopy.log"
cmp "$WORK/src" "$WORK/dst"
[ "$(figure holes)" = '"status"' ] && [ "$(figure sampled_bytes)" = 65536 ] || fail "$(cat "$WORK/json")"
[ "$(figure verified_bytes)" = $((32 * mib + 65536)) ] && [ "$(figure hole_bytes)" = $((32 * mib - 65536)) ] || fail "$(cat "$WORK/json")"
"$KCOPY" "$URL" "$WORK/dst" --verify-holes read --json >"$WORK/json" 2>"$WORK/kcopy.log"
[ "$(figure verified_bytes)" = $((64 * mib)) ] && [ "$(figure hole_bytes)" = 0 ] && [ "$(figure holes)" = '"read"' ] || fail "$(cat "$WORK/json")"

echo "- a lie about a whole hole is found by its sample, ten times of ten"
truncate -s $((32 * mib)) "$WORK/src"
PORT=$(free_port)
LD_PRELOAD=$LIAR LIE=$((16 * mib)),$((32 * mib)) target_start "$PORT" "$WORK/src" liar-2
for _ in 1 2 3 4 5 6 7 8 9 10; do
	rm -f "$WORK/dst"
	expect_exit 35 "$KCOPY" "$URL" "$WORK/dst" --verify --json >"$WORK/json" 2>"$WORK/kcopy.log"
done
