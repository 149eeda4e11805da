/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The block oracle (tests catalogue E3): load on a real `kclone serve` over NBD, kill -9 of the worker or of all of it at
 * a random moment, serve again, and judge every sector. What was acknowledged and flushed is recorded here, outside.
 *
 *   oracle stamp FILE BYTES VOLUME            fill a file with the source's (or a stranger's) stamps
 *   oracle run KCLONE DIR URL BYTES CYCLES SEED [SERVE-OPTION...]
 *
 * Owns. The kclone processes that it starts. Locks. None.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/ctl.h"
#include "kedge/err.h"
#include "kedge/loop.h"
#include "nbdc.h"
#include "oracle_model.h"

#define VOLUME 1u
#define STRANGER 2u
#define NR_CONNS 2u
#define NR_SLOTS 24u
#define IO_MAX_SECTORS 128u
#define CYCLES_A_CLONE 5u
#define STATUS_MS 5000u
#define VERIFY_BYTES (1u << 20)

enum { CMD_READ = 0, CMD_WRITE = 1, CMD_FLUSH = 3, CMD_TRIM = 4, CMD_ZEROES = 6 };

struct slot {
	bool is_used;
	uint16_t cmd, flags;
	unsigned conn;
	uint64_t first, nr, seq, horizon;
};

/* An acknowledged write that no flush has covered yet. */
struct pending {
	uint64_t ack, first, nr, seq;
};

struct oracle {
	const char *kclone, *dir, *url;
	char *const *serve_options;
	char nbd[200], control[200], meta[200], dest[200];
	uint64_t bytes, seed, rng;
	struct model m;
	struct nbdc conns[NR_CONNS];
	struct slot slots[NR_SLOTS];
	struct pending *pendings;
	size_t nr_pendings, room;
	uint64_t next_seq, next_ack;
	pid_t holder;
	unsigned cycle, nr_worker_kills, nr_whole_kills, nr_clones, nr_mid_hydration;
	uint64_t nr_writes, nr_zeroes, nr_reads, nr_flushes, nr_fuas, nr_judged, nr_unacked;
};

static _Noreturn void die(struct oracle *o, const char *what)
{
	fprintf(stderr, "oracle: cycle %u, seed %" PRIu64 ": %s\n", o->cycle, o->seed, what);
	if (o->holder > 0)
		kill(o->holder, SIGTERM);
	exit(1);
}

static uint64_t draw(struct oracle *o, uint64_t below)
{
	o->rng ^= o->rng << 13;
	o->rng ^= o->rng >> 7;
	o->rng ^= o->rng << 17;
	return o->rng % below;
}

static void nap(unsigned ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000l};

	nanosleep(&t, NULL);
}

/* ---- kclone ---- */

static int run_kclone(struct oracle *o, char *const argv[], const char *out)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		int fd = open(out, O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(fd, 1);
		dup2(fd, 2);
		execv(o->kclone, argv);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return 128;
	return WEXITSTATUS(status);
}

#define ARG(s) ((char *)(uintptr_t)(s))

static void log_path(const struct oracle *o, char out[256])
{
	snprintf(out, 256, "%s/log", o->dir);
}

static void stamp_file(const char *path, uint64_t bytes, uint64_t volume)
{
	FILE *f = fopen(path, "w");
	uint8_t buf[SECTOR];

	kedge_assert(f != NULL);
	for (uint64_t i = 0; i < bytes / SECTOR; i++) {
		stamp(buf, volume, i, 0, 0);
		kedge_assert(fwrite(buf, SECTOR, 1, f) == 1);
	}
	kedge_assert(fclose(f) == 0);
}

static void create(struct oracle *o)
{
	char seen[220], log[256];
	char *argv[] = {ARG("kclone"), ARG("create"), ARG("--source"), ARG(o->url), ARG("--dest"), o->dest, ARG("--meta"), o->meta, NULL};

	o->nr_pendings = 0;
	snprintf(seen, sizeof seen, "%s.seen", o->meta);
	unlink(o->meta);
	unlink(seen);
	snprintf(seen, sizeof seen, "%s.source", o->meta);
	unlink(seen);
	/* a stranger's data at the destination: none of it may ever be read */
	stamp_file(o->dest, o->bytes, STRANGER);
	log_path(o, log);
	if (run_kclone(o, argv, log) != 0)
		die(o, "create failed; see the log");
	model_reset(&o->m);
	o->nr_clones++;
}

static void check(struct oracle *o)
{
	char log[256];
	char *argv[] = {ARG("kclone"), ARG("check"), ARG("--meta"), o->meta, NULL};

	log_path(o, log);
	if (run_kclone(o, argv, log) != 0)
		die(o, "kclone check found something; see the log");
}

static void serve(struct oracle *o)
{
	char log[256];
	char *argv[32] = {ARG("kclone"), ARG("serve"), ARG("--meta"), o->meta, ARG("--nbd"), o->nbd, ARG("--control"), o->control};
	unsigned n = 8;

	for (char *const *a = o->serve_options; *a && n < 31; a++)
		argv[n++] = *a;
	log_path(o, log);
	fflush(NULL);
	o->holder = fork();
	if (o->holder == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(fd, 1);
		dup2(fd, 2);
		execv(o->kclone, argv);
		_exit(127);
	}
}

/* The worker is the holder's only child while no block device is attached. */
static pid_t worker_pid(const struct oracle *o)
{
	char path[64];
	int pid = 0;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)o->holder, (int)o->holder);
	f = fopen(path, "r");
	if (f && fscanf(f, "%d", &pid) != 1)
		pid = 0;
	if (f)
		fclose(f);
	return pid;
}

static void connect_all(struct oracle *o)
{
	uint64_t deadline_ns = kedge_clock_ns() + 20000000000u;

	for (unsigned i = 0; i < NR_CONNS; i++)
		while (nbdc_open(&o->conns[i], o->nbd) < 0) {
			if (waitpid(o->holder, NULL, WNOHANG) == o->holder)
				die(o, "kclone serve ended; see the log");
			if (kedge_clock_ns() > deadline_ns)
				die(o, "nobody answers on the NBD socket");
			nap(10);
		}
	if (o->conns[0].size_bytes != o->bytes)
		die(o, "the export has another size than the volume");
}

/* A worker whose holder is dead is ours to reap (main makes us its next parent), as soon as the kernel has let go of all that it had:
 * how quickly some init would do it is none of the test's business. */
static void wait_gone(struct oracle *o, pid_t pid)
{
	uint64_t deadline_ns = kedge_clock_ns() + 20000000000u;

	while (waitpid(pid, NULL, WNOHANG) != pid) {
		if (kedge_clock_ns() > deadline_ns)
			die(o, "a killed process does not go away");
		nap(1);
	}
}

/* Kills that matter most: some blocks are still at the source only. */
static void count_hydration(struct oracle *o)
{
	struct kedge_err err = {0};
	json_t *s = NULL;

	if (kedge_ctl_call(o->control, "status", NULL, STATUS_MS, &s, &err) < 0)
		die(o, err.msg);
	o->nr_mid_hydration += (uint64_t)json_integer_value(json_object_get(s, "here_bytes")) < o->bytes;
	json_decref(s);
}

static void kill_something(struct oracle *o)
{
	pid_t worker = worker_pid(o);

	if (worker <= 0)
		die(o, "kclone serve has no worker");
	if (draw(o, 2)) {
		o->nr_worker_kills++;
		kill(worker, SIGKILL);
		return;
	}
	o->nr_whole_kills++;
	kill(o->holder, SIGKILL);
	kill(worker, SIGKILL);
	waitpid(o->holder, NULL, 0);
	o->holder = 0;
	wait_gone(o, worker);
}

/* ---- load ---- */

static void take_durable(struct oracle *o, uint64_t first, uint64_t nr, uint64_t seq)
{
	for (uint64_t s = first; s < first + nr; s++)
		o->m.sectors[s].durable = kedge_max_u64(o->m.sectors[s].durable, seq);
}

static void flushed(struct oracle *o, uint64_t horizon)
{
	size_t kept = 0;

	for (size_t i = 0; i < o->nr_pendings; i++) {
		const struct pending *p = &o->pendings[i];
		if (p->ack <= horizon)
			take_durable(o, p->first, p->nr, p->seq);
		else
			o->pendings[kept++] = *p;
	}
	o->nr_pendings = kept;
}

static void acked(struct oracle *o, const struct slot *s)
{
	o->next_ack++;
	for (uint64_t i = s->first; i < s->first + s->nr; i++) {
		o->m.sectors[i].acked = s->seq;
		o->m.sectors[i].is_busy = false;
	}
	if (s->flags & 1) {
		take_durable(o, s->first, s->nr, s->seq);
		return;
	}
	if (o->nr_pendings == o->room) {
		o->room = o->room ? 2 * o->room : 1024;
		o->pendings = realloc(o->pendings, o->room * sizeof *o->pendings);
		kedge_assert(o->pendings != NULL);
	}
	o->pendings[o->nr_pendings++] = (struct pending){o->next_ack, s->first, s->nr, s->seq};
}

static void judge(struct oracle *o, uint64_t first, uint64_t nr, const uint8_t *buf, enum model_when when)
{
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t seq;
		const char *wrong = model_judge(&o->m, first + i, buf + i * SECTOR, when, &seq);
		struct sector *s = &o->m.sectors[first + i];

		o->nr_judged++;
		if (wrong) {
			fprintf(stderr, "oracle: sector %" PRIu64 ": %s (has volume %" PRIu64 " sector %" PRIu64 " writer %" PRIu64
				" seq %" PRIu64 "; durable %" PRIu64 " acked %" PRIu64 " submitted %" PRIu64 " zeroed %" PRIu64 ")\n",
				first + i, wrong, kedge_get_le64(buf + i * SECTOR + 8), kedge_get_le64(buf + i * SECTOR + 16),
				kedge_get_le64(buf + i * SECTOR + 24), kedge_get_le64(buf + i * SECTOR + 32), s->durable, s->acked,
				s->submitted, s->zeroed);
			die(o, "a violation");
		}
		if (when != MODEL_LIVE) {
			/* a read after the restart pins the value; after a worker's death it is not durable by that */
			if (s->zeroed > seq)
				s->zeroed = 0; /* it was lost */
			s->acked = s->submitted = seq;
			if (when == MODEL_AFTER_ALL)
				s->durable = seq;
			s->is_busy = false;
		}
	}
}

static bool is_any_busy(const struct oracle *o, uint64_t first, uint64_t nr)
{
	for (uint64_t i = first; i < first + nr; i++)
		if (o->m.sectors[i].is_busy)
			return true;
	return false;
}

/* A range: mostly small, half of it whole 4 KiB blocks, crowded into a part of the volume so that writes meet. */
static void draw_range(struct oracle *o, uint64_t *ret_first, uint64_t *ret_nr)
{
	uint64_t hot = draw(o, 2) ? o->m.nr_sectors / 16 : o->m.nr_sectors;
	uint64_t nr = 1 + draw(o, draw(o, 8) ? 16 : IO_MAX_SECTORS), first = draw(o, hot - nr);

	if (draw(o, 2)) {
		first = kedge_round_down(first, 8);
		nr = kedge_min_u64(kedge_round_up(nr, 8), o->m.nr_sectors - first);
	}
	*ret_first = first;
	*ret_nr = nr;
}

static int submit(struct oracle *o, unsigned i)
{
	struct slot *s = &o->slots[i];
	static uint8_t data[(IO_MAX_SECTORS + 8) * SECTOR];
	uint64_t kind = draw(o, 100);

	*s = (struct slot){.conn = (unsigned)draw(o, NR_CONNS)};
	if (kind < 6) {
		s->cmd = CMD_FLUSH;
		s->horizon = o->next_ack;
		s->is_used = true;
		o->nr_flushes++;
		return nbdc_send(&o->conns[s->conn], s->cmd, 0, i, 0, 0, NULL);
	}
	draw_range(o, &s->first, &s->nr);
	if (is_any_busy(o, s->first, s->nr))
		return 0;
	s->is_used = true;
	if (kind < 30) {
		s->cmd = CMD_READ;
		o->nr_reads++;
	} else if (kind < 36) {
		/* a trim of whole blocks zeroes them; of parts of blocks it does nothing */
		s->cmd = s->first % 8 == 0 && s->nr % 8 == 0 && draw(o, 2) ? CMD_TRIM : CMD_ZEROES;
		o->nr_zeroes++;
	} else {
		s->cmd = CMD_WRITE;
		o->nr_writes++;
	}
	if (s->cmd != CMD_READ) {
		s->seq = ++o->next_seq;
		s->flags = draw(o, 10) == 0;
		o->nr_fuas += s->flags;
	}
	/* a read keeps writes of its range away, so that what it must show is certain */
	for (uint64_t n = s->first; n < s->first + s->nr; n++) {
		struct sector *e = &o->m.sectors[n];
		e->is_busy = true;
		if (s->cmd == CMD_READ)
			continue;
		e->submitted = s->seq;
		if (s->cmd != CMD_WRITE)
			e->zeroed = s->seq;
		else
			stamp(data + (n - s->first) * SECTOR, VOLUME, n, 1, s->seq);
	}
	return nbdc_send(&o->conns[s->conn], s->cmd, s->flags, i, s->first * SECTOR, (uint32_t)(s->nr * SECTOR),
			 s->cmd == CMD_WRITE ? data : NULL);
}

static int take_reply(struct oracle *o, unsigned conn)
{
	static uint8_t data[(IO_MAX_SECTORS + 8) * SECTOR];
	uint64_t i;
	uint32_t error;
	int r = nbdc_reply(&o->conns[conn], &i, &error);

	if (r < 0)
		return r;
	if (i >= NR_SLOTS || !o->slots[i].is_used || o->slots[i].conn != conn)
		die(o, "an answer to nothing");
	struct slot *s = &o->slots[i];
	if (error)
		die(o, "an I/O error");
	if (s->cmd == CMD_READ) {
		r = nbdc_recv(&o->conns[conn], data, (uint32_t)(s->nr * SECTOR));
		if (r < 0)
			return r;
		judge(o, s->first, s->nr, data, MODEL_LIVE);
		for (uint64_t n = s->first; n < s->first + s->nr; n++)
			o->m.sectors[n].is_busy = false;
	} else if (s->cmd == CMD_FLUSH) {
		flushed(o, s->horizon);
	} else {
		acked(o, s);
	}
	s->is_used = false;
	return 0;
}

/* Until the deadline, or until the connection breaks. 0 at the deadline. */
static int load(struct oracle *o, uint64_t deadline_ns)
{
	struct pollfd p[NR_CONNS];
	int r = 0;

	while (r == 0 && kedge_clock_ns() < deadline_ns) {
		for (unsigned i = 0; i < NR_SLOTS && r == 0; i++)
			if (!o->slots[i].is_used)
				r = submit(o, i);
		for (unsigned i = 0; i < NR_CONNS; i++)
			p[i] = (struct pollfd){.fd = o->conns[i].fd, .events = POLLIN};
		if (r == 0 && poll(p, NR_CONNS, 5) < 0)
			r = -errno;
		for (unsigned i = 0; i < NR_CONNS && r == 0; i++)
			if (p[i].revents)
				r = take_reply(o, i);
	}
	return r;
}

/* What had been sent before the kill counts, as far as it arrived. */
static void drain_replies(struct oracle *o)
{
	for (unsigned i = 0; i < NR_CONNS; i++) {
		while (take_reply(o, i) == 0)
			;
		nbdc_close(&o->conns[i]);
	}
	for (unsigned i = 0; i < NR_SLOTS; i++) {
		o->nr_unacked += o->slots[i].is_used;
		o->slots[i].is_used = false;
	}
}

static void judge_all(struct oracle *o, enum model_when when)
{
	uint8_t *buf = malloc(VERIFY_BYTES);

	kedge_assert(buf != NULL);
	for (uint64_t at = 0; at < o->bytes; at += VERIFY_BYTES) {
		uint32_t n = (uint32_t)kedge_min_u64(VERIFY_BYTES, o->bytes - at);
		if (nbdc_read(&o->conns[0], at, n, buf) < 0)
			die(o, "a read after the restart failed");
		judge(o, at / SECTOR, n / SECTOR, buf, when);
	}
	free(buf);
}

static void stop(struct oracle *o)
{
	int status;

	for (unsigned i = 0; i < NR_CONNS; i++)
		nbdc_close(&o->conns[i]);
	kill(o->holder, SIGTERM);
	if (waitpid(o->holder, &status, 0) != o->holder || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
		die(o, "kclone serve did not end with 0");
	o->holder = 0;
	check(o);
}

static void one_cycle(struct oracle *o)
{
	int r = load(o, kedge_clock_ns() + draw(o, 280) * 1000000u);

	if (r == 0) {
		count_hydration(o); /* not right before the kill, which is to find requests in flight */
		r = load(o, kedge_clock_ns() + (10 + draw(o, 20)) * 1000000u);
	}
	if (r < 0)
		die(o, "the connection broke before the kill");
	kill_something(o);
	drain_replies(o);
	if (o->holder) {
		connect_all(o);
		judge_all(o, MODEL_AFTER_WORKER);
		return;
	}
	o->nr_pendings = 0;
	check(o);
	serve(o);
	connect_all(o);
	judge_all(o, MODEL_AFTER_ALL);
}

static int run(struct oracle *o, unsigned nr_cycles)
{
	snprintf(o->nbd, sizeof o->nbd, "%s/nbd", o->dir);
	snprintf(o->control, sizeof o->control, "%s/control", o->dir);
	snprintf(o->meta, sizeof o->meta, "%s/meta", o->dir);
	snprintf(o->dest, sizeof o->dest, "%s/dest", o->dir);
	model_init(&o->m, VOLUME, o->bytes / SECTOR);
	o->rng = o->seed * 2654435761u + 88172645463325252u;
	for (o->cycle = 0; o->cycle < nr_cycles; o->cycle++) {
		if (o->cycle % CYCLES_A_CLONE == 0) {
			if (o->holder)
				stop(o);
			create(o);
			serve(o);
			connect_all(o);
		}
		one_cycle(o);
	}
	stop(o);
	if (2 * o->nr_mid_hydration < nr_cycles)
		die(o, "most kills came when hydration was over: nothing is proven");
	printf("oracle: %u cycles (%u kills of the worker, %u of all, %u of them while it hydrated), %u clones, seed %" PRIu64 ": %" PRIu64 " writes (%" PRIu64
	       " FUA), %" PRIu64 " zeroings, %" PRIu64 " flushes, %" PRIu64 " reads, %" PRIu64 " unanswered at a kill, %" PRIu64
	       " sectors judged: 0 lost, 0 stale, 0 foreign, 0 torn\n",
	       o->cycle, o->nr_worker_kills, o->nr_whole_kills, o->nr_mid_hydration, o->nr_clones, o->seed, o->nr_writes, o->nr_fuas, o->nr_zeroes,
	       o->nr_flushes, o->nr_reads, o->nr_unacked, o->nr_judged);
	model_fini(&o->m);
	free(o->pendings);
	return 0;
}

int main(int argc, char **argv)
{
	static struct oracle o;

	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (argc == 5 && strcmp(argv[1], "stamp") == 0) {
		stamp_file(argv[2], strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
		return 0;
	}
	if (argc < 8 || strcmp(argv[1], "run") != 0) {
		fprintf(stderr, "usage: oracle stamp FILE BYTES VOLUME | run KCLONE DIR URL BYTES CYCLES SEED [SERVE-OPTION...]\n");
		return 2;
	}
	o.kclone = argv[2];
	o.dir = argv[3];
	o.url = argv[4];
	o.bytes = strtoull(argv[5], NULL, 10);
	o.seed = strtoull(argv[7], NULL, 10);
	o.serve_options = argv + 8;
	return run(&o, (unsigned)strtoul(argv[6], NULL, 10));
}
