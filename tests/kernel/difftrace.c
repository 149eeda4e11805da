/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The differential test (catalogue E19): the same seeded random trace of reads, writes, flushes, FUA, discards, zeroes, hydration,
 * ends, restarts and kill -9 of every process, played on the user engine, on the kernel engine and on plain dm-clone. Every read is compared
 * with a model of a disk with a volatile cache, and with what the others read.
 *
 *   difftrace KCLONE DIR [--seed N] [--traces N] [--seconds S] [--no-plain] [--plant skip-write|skip-flush]
 *
 * Traces are played in rounds of TRACES_A_ROUND, each on a part of its own of one clone; round i has seed N + i, and --seed of a round plays it
 * again. --plant: a fault of the user engine's leg, which must be found.
 *
 * The differences that are accepted, and no others:
 *   1. After a crash, sectors that were written and not flushed: each engine may hold another one of the values since the last flush, the
 *      source's data among them where that was the value then. (The user engine loses what it had not committed; dm-clone's state lives in the
 *      kernel and loses nothing when processes die.)
 *   2. A discard of a live kernel clone is refused (K1, K2): the old data stays. The user engine zeroes the range, exactly.
 *   3. A discard on plain dm-clone takes whole regions only; the rest of its range stays as it is.
 * A difference lasts until the sector is written again.
 *
 * Owns. The clones of a round. Locks. None.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/disk.h"
#include "kedge/err.h"
#include "trace_leg.h"

#define TRACES_A_ROUND 16u
#define PART_SECTORS 384u /* three regions of 64 KiB */
#define IO_MAX_SECTORS 320u
#define OPS_MIN 20u
#define OPS_SPREAD 30u
#define LEGS_MAX 3u

enum op {
	OP_READ, OP_WRITE_SMALL, OP_WRITE_BLOCKS, OP_WRITE_REGION, OP_WRITE_CROSSING, OP_FLUSH, OP_FUA, OP_DISCARD, OP_ZEROES, OP_HYDRATE,
	OP_COMMIT, OP_KILL_WORKER, OP_STOP, OP_CRASH, NR_OPS,
};
static const char *const op_names[NR_OPS] = {
	"read", "small write", "write of blocks", "write of regions", "write across regions", "flush", "write with FUA", "discard", "zeroes",
	"hydrate or pause", "commit", "death of a worker", "stop and serve", "crash",
};
static const unsigned op_weights[NR_OPS] = {200, 130, 100, 50, 70, 80, 50, 50, 40, 30, 10, 8, 6, 12};

static struct {
	const char *kclone, *dir, *plant;
	uint64_t seed, round_seed, rng, nr_traces, seconds;
	uint64_t region_bytes, nr_sectors;
	struct leg legs[LEGS_MAX];
	unsigned nr_legs;
	uint32_t next_value;
	uint64_t part_first;
	/* where it is */
	uint64_t trace;
	unsigned op_nr;
	enum op op;
	bool is_planted;
	/* counted */
	uint64_t nr_ops[NR_OPS], nr_sectors_compared, nr_sectors_apart, nr_discards_refused, nr_rounds, nr_finished, nr_done;
	uint8_t *buf[LEGS_MAX], *out;
} t;

static void die(const char *leg, const char *what)
{
	char cmd[700];

	fprintf(stderr, "FAILED: seed %" PRIu64 ", trace %" PRIu64 " of the round, step %u (%s), %s: %s\n", t.round_seed, t.trace, t.op_nr,
		op_names[t.op], leg, what);
	fprintf(stderr, "  again: --seed %" PRIu64 " --traces %u\n", t.round_seed, TRACES_A_ROUND);
	snprintf(cmd, sizeof cmd, "tail -n 12 '%s'/*/log >&2; dmsetup table >&2", t.dir);
	if (system(cmd) != 0)
		fprintf(stderr, "  no logs\n");
	exit(1);
}

static uint64_t draw(uint64_t n)
{
	t.rng ^= t.rng << 13;
	t.rng ^= t.rng >> 7;
	t.rng ^= t.rng << 17;
	return (t.rng >> 11) % n;
}

/* ---- one step on all legs ---- */

static void read_all(uint64_t first, uint64_t nr)
{
	for (unsigned i = 0; i < t.nr_legs; i++) {
		struct leg *l = &t.legs[i];
		if (pread(l->fd, t.buf[i], nr * TR_SECTOR, (off_t)(first * TR_SECTOR)) != (ssize_t)(nr * TR_SECTOR))
			leg_die(l, "read of %" PRIu64 " sectors at %" PRIu64 ": %s", nr, first, strerror(errno));
		for (uint64_t s = 0; s < nr; s++) {
			const char *why = tr_judge(&l->m, first + s, t.buf[i] + s * TR_SECTOR);
			if (why)
				leg_die(l, "sector %" PRIu64 " reads as %s", first + s, why);
		}
	}
	for (unsigned i = 1; i < t.nr_legs; i++)
		for (uint64_t s = 0; s < nr; s++) {
			bool is_same = memcmp(t.buf[0] + s * TR_SECTOR, t.buf[i] + s * TR_SECTOR, TR_SECTOR) == 0;
			bool is_apart = t.legs[0].m.s[first + s].is_apart || t.legs[i].m.s[first + s].is_apart;
			if (!is_same && !is_apart)
				leg_die(&t.legs[i], "sector %" PRIu64 " differs from the %s's, and no difference is allowed there", first + s,
					t.legs[0].name);
			t.nr_sectors_compared++;
			t.nr_sectors_apart += !is_same;
		}
}

static bool is_planted(const char *fault, const struct leg *l)
{
	bool is = t.plant && strcmp(t.plant, fault) == 0 && l->kind == LEG_USER && !t.is_planted;

	t.is_planted |= is;
	return is;
}

static void flush_all(void)
{
	for (unsigned i = 0; i < t.nr_legs; i++) {
		struct leg *l = &t.legs[i];
		if (!is_planted("skip-flush", l) && fdatasync(l->fd) < 0)
			leg_die(l, "flush: %s", strerror(errno));
		tr_flush(&l->m);
	}
}

static void write_all(uint64_t first, uint64_t nr, bool is_fua)
{
	struct iovec v = {.iov_base = t.out, .iov_len = nr * TR_SECTOR};
	uint32_t value = t.next_value++;

	for (uint64_t s = 0; s < nr; s++)
		tr_fill(t.round_seed, first + s, value, t.out + s * TR_SECTOR);
	for (unsigned i = 0; i < t.nr_legs; i++) {
		struct leg *l = &t.legs[i];
		if (!(value % 40 == 39 && is_planted("skip-write", l)) &&
		    pwritev2(l->fd, &v, 1, (off_t)(first * TR_SECTOR), is_fua ? RWF_DSYNC : 0) != (ssize_t)(nr * TR_SECTOR))
			leg_die(l, "write of %" PRIu64 " sectors at %" PRIu64 ": %s", nr, first, strerror(errno));
		tr_write(&l->m, first, nr, value);
		if (is_fua) /* the kernel has a flush follow */
			tr_flush(&l->m);
	}
}

static void zero_all(uint64_t first, uint64_t nr)
{
	uint64_t range[2] = {first * TR_SECTOR, nr * TR_SECTOR};

	for (unsigned i = 0; i < t.nr_legs; i++) {
		if (ioctl(t.legs[i].fd, BLKZEROOUT, range) < 0)
			leg_die(&t.legs[i], "zeroes: %s", strerror(errno));
		tr_write(&t.legs[i].m, first, nr, TR_ZERO);
	}
}

static void discard_one(struct leg *l, uint64_t first, uint64_t nr)
{
	uint64_t range[2] = {first * TR_SECTOR, nr * TR_SECTOR}, region = t.region_bytes / TR_SECTOR;
	uint64_t in = kedge_round_up(first, region), end = first + nr == t.nr_sectors ? first + nr : kedge_round_down(first + nr, region);
	bool is_done = ioctl(l->fd, BLKDISCARD, range) == 0;

	if (!is_done && errno != EOPNOTSUPP)
		leg_die(l, "discard: %s", strerror(errno));
	if (is_done != (l->kind != LEG_DM || l->is_alone))
		leg_die(l, is_done ? "it takes a discard, although it does not stand alone" : "it takes no discard");
	t.nr_discards_refused += !is_done;
	if (l->kind == LEG_USER || l->is_alone) {
		tr_write(&l->m, first, nr, TR_ZERO);
	} else if (l->kind == LEG_PLAIN) {
		tr_apart(&l->m, first, nr);
		if (in < end)
			tr_write(&l->m, in, end - in, TR_ZERO);
	} else {
		tr_apart(&l->m, first, nr);
	}
}

static void discard_all(uint64_t first, uint64_t nr)
{
	for (unsigned i = 0; i < t.nr_legs; i++)
		discard_one(&t.legs[i], first, nr);
	for (unsigned i = 0; i < t.nr_legs; i++)
		if (!t.legs[i].is_alone) /* differences 2 and 3 */
			tr_apart(&t.legs[i].m, first, nr);
}

static void restart_all(bool is_crash)
{
	for (unsigned i = 0; i < t.nr_legs; i++) {
		struct leg *l = &t.legs[i];
		(is_crash ? leg_crash : leg_stop)(l);
		leg_serve(l);
		if (is_crash && l->kind != LEG_PLAIN)
			tr_crash(&l->m);
		else
			tr_flush(&l->m);
	}
}

static void ask_all(const char *cmd)
{
	for (unsigned i = 0; i < t.nr_legs; i++)
		leg_ask(&t.legs[i], cmd);
}

/* ---- the trace ---- */

static enum op draw_op(void)
{
	unsigned sum = 0, at;

	for (unsigned i = 0; i < NR_OPS; i++)
		sum += op_weights[i];
	at = (unsigned)draw(sum);
	for (unsigned i = 0; i < NR_OPS; i++) {
		if (at < op_weights[i])
			return (enum op)i;
		at -= op_weights[i];
	}
	return OP_READ;
}

/* A range of the trace's part: nr sectors at most, first and length multiples of step. */
static void draw_range(uint64_t step, uint64_t max, uint64_t *ret_first, uint64_t *ret_nr)
{
	uint64_t end = kedge_min_u64(t.part_first + PART_SECTORS, t.nr_sectors), slots = (end - t.part_first) / step;

	if (slots == 0) {
		*ret_first = t.part_first;
		*ret_nr = end - t.part_first;
		return;
	}
	uint64_t at = draw(slots), nr = 1 + draw(kedge_max_u64(kedge_min_u64(max / step, slots - at), 1));
	*ret_first = t.part_first + at * step;
	*ret_nr = nr * step;
}

static void step(enum op op)
{
	uint64_t first, nr, region = t.region_bytes / TR_SECTOR;

	t.op = op;
	t.nr_ops[op]++;
	if (tr_is_full(&t.legs[0].m))
		flush_all();
	switch (op) {
	case OP_READ:
		draw_range(1 + 7 * draw(2), draw(4) ? 32 : IO_MAX_SECTORS, &first, &nr);
		read_all(first, nr);
		break;
	case OP_WRITE_SMALL:
		draw_range(1, 7, &first, &nr);
		write_all(first, nr, false);
		break;
	case OP_WRITE_BLOCKS:
		draw_range(8, 64, &first, &nr);
		write_all(first, nr, false);
		break;
	case OP_WRITE_REGION:
		draw_range(region, 2 * region, &first, &nr);
		write_all(first, kedge_min_u64(nr, IO_MAX_SECTORS), false);
		break;
	case OP_WRITE_CROSSING:
		draw_range(1, IO_MAX_SECTORS, &first, &nr);
		write_all(first, nr, false);
		break;
	case OP_FLUSH:
		if (t.plant && strcmp(t.plant, "skip-flush") == 0) { /* where a commit by itself does not hide it: nothing here yet, no time */
			t.part_first = PART_SECTORS * (TRACES_A_ROUND - 1);
			write_all(t.part_first, 8, false);
			flush_all();
			restart_all(true);
			read_all(t.part_first, 8);
		}
		flush_all();
		break;
	case OP_FUA:
		draw_range(1 + 7 * draw(2), 16, &first, &nr);
		write_all(first, nr, true);
		break;
	case OP_DISCARD:
		draw_range(draw(2) ? 8 : region, IO_MAX_SECTORS, &first, &nr);
		discard_all(first, nr);
		break;
	case OP_ZEROES:
		draw_range(8, 128, &first, &nr);
		zero_all(first, nr);
		break;
	case OP_HYDRATE:
		ask_all(draw(2) ? "hydrate" : "pause");
		break;
	case OP_COMMIT:
		ask_all("commit");
		break;
	case OP_KILL_WORKER:
		for (unsigned i = 0; i < t.nr_legs; i++)
			if (t.legs[i].kind != LEG_PLAIN)
				leg_kill_worker(&t.legs[i], draw(2));
		break;
	case OP_STOP:
	case OP_CRASH:
		restart_all(op == OP_CRASH);
		break;
	case NR_OPS:
		break;
	}
}

static void read_part(void)
{
	uint64_t end = kedge_min_u64(t.part_first + PART_SECTORS, t.nr_sectors);

	t.op = OP_READ;
	for (uint64_t at = t.part_first; at < end; at += IO_MAX_SECTORS)
		read_all(at, kedge_min_u64(IO_MAX_SECTORS, end - at));
}

static void read_everything(void)
{
	for (t.part_first = 0; t.part_first < t.nr_sectors; t.part_first += PART_SECTORS)
		read_part();
}

/* ---- the round ---- */

static void make_source(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	for (uint64_t s = 0; s < t.nr_sectors; s++) {
		tr_fill(t.round_seed, s, TR_SOURCE, t.out);
		if (pwrite(fd, t.out, TR_SECTOR, (off_t)(s * TR_SECTOR)) != (ssize_t)TR_SECTOR)
			die("source", strerror(errno));
	}
	close(fd);
}

static void begin_round(void)
{
	static const uint64_t regions[] = {4096, 16384, 65536};

	t.rng = (t.round_seed + 1) * 0x9e3779b97f4a7c15u | 1;
	t.region_bytes = regions[draw(3)];
	t.nr_sectors = TRACES_A_ROUND * PART_SECTORS - draw(2) * draw(100);
	t.next_value = TR_FIRST_WRITE;
	for (unsigned i = 0; i < t.nr_legs; i++) {
		struct leg *l = &t.legs[i];
		l->kclone = t.kclone;
		l->size_bytes = t.nr_sectors * TR_SECTOR;
		l->region_bytes = t.region_bytes;
		snprintf(l->dir, sizeof l->dir, "%s/%s", t.dir, l->name);
		snprintf(l->source, sizeof l->source, "%s/source", t.dir);
	}
	make_source(t.legs[0].source);
	for (unsigned i = 0; i < t.nr_legs; i++)
		leg_create(&t.legs[i], t.round_seed);
}

static void end_round(void)
{
	bool is_finish = draw(2);

	t.op = OP_READ;
	if (draw(2))
		step(draw(2) ? OP_STOP : OP_CRASH);
	read_everything();
	for (unsigned i = 0; i < t.nr_legs && is_finish; i++)
		leg_finish(&t.legs[i]);
	t.nr_finished += is_finish;
	t.part_first = PART_SECTORS * draw(TRACES_A_ROUND);
	for (t.op_nr = 0; is_finish && t.op_nr < 12; t.op_nr++)
		step((enum op)draw(OP_HYDRATE));
	read_everything();
	for (unsigned i = 0; i < t.nr_legs; i++)
		leg_end(&t.legs[i]);
	t.nr_rounds++;
}

static void play_round(uint64_t nr_traces)
{
	begin_round();
	for (t.trace = 0; t.trace < nr_traces; t.trace++) {
		uint64_t nr_ops = OPS_MIN + draw(OPS_SPREAD);
		t.part_first = PART_SECTORS * t.trace;
		for (t.op_nr = 0; t.op_nr < nr_ops; t.op_nr++)
			step(draw_op());
		read_part();
		t.nr_done++;
	}
	end_round();
}

static void summary(void)
{
	printf("ok: %" PRIu64 " traces in %" PRIu64 " rounds, seed %" PRIu64 ": ", t.nr_done, t.nr_rounds, t.seed);
	for (unsigned i = 0; i < NR_OPS; i++)
		printf("%s%" PRIu64 " %s", i ? ", " : "", t.nr_ops[i], op_names[i]);
	printf("; %" PRIu64 " of %" PRIu64 " sectors differed, each as listed; %" PRIu64 " discards refused; %" PRIu64 " rounds finished\n",
	       t.nr_sectors_apart, t.nr_sectors_compared, t.nr_discards_refused, t.nr_finished);
}

static void usage(void)
{
	fprintf(stderr, "usage: difftrace KCLONE DIR [--seed N] [--traces N] [--seconds S] [--no-plain] [--plant skip-write|skip-flush]\n");
	exit(2);
}

static void take_args(int argc, char **argv)
{
	t.nr_traces = TRACES_A_ROUND;
	t.nr_legs = LEGS_MAX;
	if (argc < 3)
		usage();
	t.kclone = argv[1];
	t.dir = argv[2];
	for (int i = 3; i < argc; i++) {
		if (strcmp(argv[i], "--no-plain") == 0)
			t.nr_legs = 2;
		else if (i + 1 == argc)
			usage();
		else if (strcmp(argv[i], "--seed") == 0)
			t.seed = strtoull(argv[++i], NULL, 0);
		else if (strcmp(argv[i], "--traces") == 0)
			t.nr_traces = strtoull(argv[++i], NULL, 0);
		else if (strcmp(argv[i], "--seconds") == 0)
			t.seconds = strtoull(argv[++i], NULL, 0);
		else if (strcmp(argv[i], "--plant") == 0)
			t.plant = argv[++i];
		else
			usage();
	}
}

int main(int argc, char **argv)
{
	time_t begun = time(NULL);

	leg_die_fn = die;
	take_args(argc, argv);
	t.legs[0] = (struct leg){.name = "user", .kind = LEG_USER};
	t.legs[1] = (struct leg){.name = "dm", .kind = LEG_DM};
	t.legs[2] = (struct leg){.name = "plain", .kind = LEG_PLAIN};
	t.out = kedge_buf_alloc(IO_MAX_SECTORS * TR_SECTOR);
	for (unsigned i = 0; i < t.nr_legs; i++)
		t.buf[i] = kedge_buf_alloc(IO_MAX_SECTORS * TR_SECTOR);
	while (t.nr_done < t.nr_traces && (!t.seconds || time(NULL) - begun < (time_t)t.seconds || t.nr_rounds == 0)) {
		t.round_seed = t.seed + t.nr_rounds;
		play_round(kedge_min_u64(TRACES_A_ROUND, t.nr_traces - t.nr_done));
	}
	summary();
	return 0;
}
