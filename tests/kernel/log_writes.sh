#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# dm-log-writes under destination and metadata (catalogue E5), in a guest: while a writer works, both record what a flush or FUA made durable; then
# the moments of the record are played back, the clone is opened as of each, and everything that was acknowledged before must be there.
#
# Two logs, for a flush of one leg must not count as one of the other: what a leg holds at a moment is what it was told to flush. Marks tell which
# moments of the two belong together. A mark is put into the metadata's log first, so the destination is never older than the metadata. Marks come after
# each acknowledged flush, and at moments in between. Between two marks the destination goes ahead flush by flush, then the metadata.
#
# MOMENTS 0: every moment. PLANT=skip: one write that was flushed is left out of the playback; that must be found.
# usage: log_writes.sh BIN TESTBIN MOMENTS [SEED [ENGINE...]]
bin=$1 tests=$2 nr_moments=$3 seed=${4:-$((RANDOM * 32768 + RANDOM))}
shift $(($# < 4 ? $# : 4))
[ $# != 0 ] || set -- user dm
. "$(dirname "$0")/guest.sh"
kmod dm-log-writes
RANDOM=$((seed % 32768))
mib=8 nr_writes=60 nr_files=12

# ---- the legs: stable names over whatever lies below ----

# meta, meta.seen and meta.dm are slices of one device
slices() { [ "$engine" = user ] && echo "meta meta.seen" || echo "meta meta.seen meta.dm"; }
legs_up() { # DEST-DEVICE META-DEVICE
	local at=0 name n
	dm leg-dest "0 $(sectors "$1") linear $1 0"
	for name in $(slices); do
		n=$(cat "$name.sectors")
		dm "leg-$name" "0 $n linear $2 $at"
		at=$((at + n))
	done
}
legs_down() {
	local name
	for name in $(slices); do dmsetup remove --noudevsync --retry "leg-$name"; done
	dmsetup remove --noudevsync --retry leg-dest
}
make_clone() {
	local name at=0 n
	rm -f meta meta.* d.* m.*
	head -c ${mib}M /dev/zero | tr '\0' '\333' >d.img
	D=$(loop_of d.img)
	dm leg-dest "0 $(sectors "$D") linear $D 0"
	"$bin/kclone" create --source "$work/source" --dest /dev/mapper/leg-dest --meta "$work/meta" --engine "$engine"
	dmsetup remove --noudevsync --retry leg-dest
	losetup -d "$D"
	for name in $(slices); do
		n=$((($(stat -c %s "$name") + 4095) / 4096 * 8))
		echo $n >"$name.sectors"
		truncate -s $((n * 512)) "$name"
		dd if="$name" of=m.img bs=4096 seek=$((at / 8)) conv=notrunc status=none
		at=$((at + n))
		rm "$name"
		ln -s "/dev/mapper/leg-$name" "$name"
	done
	cp d.img d.now # what the playback has come to
	cp m.img m.now
}

# ---- the record ----

record() {
	D=$(loop_of d.img) M=$(loop_of m.img)
	truncate -s 256M d.log m.log
	DL=$(loop_of d.log) ML=$(loop_of m.log)
	dm lw-dest "0 $(sectors "$D") log-writes $D $DL"
	dm lw-meta "0 $(sectors "$M") log-writes $M $ML"
	legs_up /dev/mapper/lw-dest /dev/mapper/lw-meta
	serve --rate 2M
	: >running
	(n=0; while [ -e running ]; do ./mark between $n; n=$((n + 1)); done) &
	marker=$!
	"$1" || fail "the workload"
	rm running
	wait $marker
	stop_serve
	legs_down
	dmsetup remove --noudevsync --retry lw-dest
	dmsetup remove --noudevsync --retry lw-meta
	losetup -d "$D" "$M" "$DL" "$ML"
	"$tests/logreplay" d.log list >d.list
	"$tests/logreplay" m.log list >m.list
}
cat >mark <<'E2'
#!/bin/bash
dmsetup message lw-meta 0 mark "$1:$2" && dmsetup message lw-dest 0 mark "$1:$2"
E2
chmod +x mark
write_blocks() { "$tests/ackblocks" write "$device" "$seed" 1 $nr_writes acks "./mark acked"; }
write_files() {
	local i
	mkdir -p mnt
	mount "$device" mnt
	for ((i = 1; i <= nr_files; i++)); do
		head -c $((RANDOM % 60000 + 1)) /dev/urandom >"want.$i"
		cp "want.$i" "mnt/f.$i"
		sync "mnt/f.$i" mnt
		./mark acked $i
	done
	umount mnt
}

# Moments, one a line: how much of the destination's log, of the metadata's, what was acknowledged before. In order.
moments() {
	awk '
		function number(s) { return s + 0 }
		FILENAME == "m.list" && $2 == "mark" { m_at[$5] = $1; order[nr++] = $5 }
		FILENAME == "d.list" && $2 == "mark" { d_at[$5] = $1 }
		$2 ~ /flush|fua/ && FILENAME == "m.list" { mf[nmf++] = $1 + 1 }
		$2 ~ /flush|fua/ && FILENAME == "d.list" { df[ndf++] = $1 + 1 }
		END {
			d = m = acked = i = j = 0
			for (k = 0; k < nr; k++) {
				name = order[k]
				if (!(name in d_at)) continue
				for (; i < ndf && df[i] <= d_at[name]; i++) if (df[i] > d) print df[i], m, acked, "flush"
				d = d_at[name]
				for (; j < nmf && mf[j] <= m_at[name]; j++) if (mf[j] > m) print d, mf[j], acked, "flush"
				m = m_at[name]
				if (split(name, part, ":") == 2 && part[1] == "acked") acked = number(part[2])
				print d, m, acked, name
			}
		}' m.list d.list >moments.all
	if [ "$nr_moments" = 0 ]; then
		cat moments.all
	else # the last, and some of the others
		{ head -n -1 moments.all | shuf -n $((nr_moments - 1)) --random-source=<(yes "$seed" | head -c 1M); tail -n 1 moments.all; } | sort -n -k1,1 -k2,2
	fi >moments
}

# ---- the playback ----

play_to() { # DEST-ENTRIES META-ENTRIES
	local skip=
	if [ "${PLANT:-}" = skip ] && [ -z "${planted:-}" ] && [ "$1" -gt $((d_done + 1)) ]; then
		skip=$(awk -v a=$d_done -v b="$1" '$1 >= a && $1 < b && $2 == "write" && $4 > 0 {print $1; exit}' d.list)
	fi
	if [ -n "$skip" ]; then
		planted=1
		"$tests/logreplay" d.log apply d.now $d_done "$skip"
		d_done=$((skip + 1))
	fi
	"$tests/logreplay" d.log apply d.now $d_done "$1"
	"$tests/logreplay" m.log apply m.now $m_done "$2"
	d_done=$1 m_done=$2
}
open_at() {
	cp d.now d.try
	cp m.now m.try
	D=$(loop_of d.try) M=$(loop_of m.try)
	legs_up "$D" "$M"
	"$bin/kclone" check --meta "$work/meta" >check.out 2>&1 || fail "moment $*: check: $(cat check.out)"
	serve --no-hydrate
}
close_it() {
	stop_serve
	legs_down
	losetup -d "$D" "$M"
}
judge_blocks() { # ACKED
	rm -f state
	"$tests/ackblocks" check "$device" "$seed" 1 "$1" source state >check.out 2>&1
}
judge_files() {
	local i
	mount "$device" mnt && umount mnt || return 1 # its journal first
	e2fsck -fn "$device" >check.out 2>&1 || return 1
	mount -o ro "$device" mnt
	for ((i = 1; i <= $1; i++)); do
		cmp "mnt/f.$i" "want.$i" >check.out 2>&1 || { umount mnt; return 1; }
	done
	umount mnt
}
play() { # JUDGE
	local d m acked name
	d_done=0 m_done=0 planted=
	while read -r d m acked name; do
		play_to "$d" "$m"
		open_at "$d $m $name"
		"$1" "$acked" || fail "seed $seed, engine $engine, moment $name (entries $d, $m; acknowledged: $acked): $(tail -n 6 check.out)"
		close_it
	done <moments
	[ -z "${PLANT:-}" ] || fail "the planted fault was not noticed"
	echo "engine $engine, ${1#judge_}: $(wc -l <moments) of $(wc -l <moments.all) moments, of $(grep -c "acked:" m.list) acknowledged flushes; logs of $(wc -l <d.list) and $(wc -l <m.list) entries"
}

for engine; do
	make_source $mib
	make_clone
	record write_blocks
	moments
	play judge_blocks
done
for engine; do
	truncate -s 0 source
	truncate -s ${mib}M source
	mkfs.ext4 -q -F source
	make_clone
	record write_files
	moments
	play judge_files
done
[ -z "$(dmsetup ls 2>/dev/null | grep -v 'No devices')" ] || fail "devices are left: $(dmsetup ls)"
[ -z "$(losetup -a)" ] || fail "loop devices are left: $(losetup -a)"
echo "ok: engines $*, seed $seed: at every moment played back what was acknowledged is there"
