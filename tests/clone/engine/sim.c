/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The simulated disks and source of the engine's tests.
 *
 * Owns. Images, the log of unflushed writes, the operations under way.
 *
 * Locks. None: one thread.
 */
#include "sim.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"

void sim_fill(void *buf, uint64_t id)
{
	for (unsigned i = 0; i < SIM_SECTOR / 8; i++)
		memcpy((char *)buf + i * 8, &id, 8);
}

bool sim_is_uniform(const void *buf, uint64_t *ret_id)
{
	memcpy(ret_id, buf, 8);
	return memcmp(buf, (const char *)buf + 8, SIM_SECTOR - 8) == 0;
}

void sim_problem(struct sim *s, const char *fmt, ...)
{
	va_list ap;

	if (s->problem[0])
		return;
	va_start(ap, fmt);
	vsnprintf(s->problem, sizeof s->problem, fmt, ap);
	va_end(ap);
}

void sim_init(struct sim *s, uint64_t seed)
{
	*s = (struct sim){.rng = seed * 0x9e3779b97f4a7c15ull + 0x1234567, .now_ns = 1000000000};
	kedge_defer_queue_init(&s->defer);
}

uint64_t sim_rand(struct sim *s)
{
	/* splitmix64 */
	uint64_t z = s->rng += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

uint64_t sim_now(void *arg)
{
	return ((struct sim *)arg)->now_ns;
}

/* ---- disks ---- */

static size_t unit(const struct sim_disk *d)
{
	return d->is_data ? 8 : SIM_SECTOR;
}

static void push(struct sim *s, struct sim_op *op)
{
	struct sim_op **p = &s->pending;

	while (*p)
		p = &(*p)->next;
	op->seq = ++s->op_seq;
	*p = op;
	s->nr_pending++;
}

static struct sim_write *capture(struct sim_disk *d, const struct kedge_disk_io *io)
{
	struct sim_write *w = calloc(1, sizeof *w);

	w->first = io->start_bytes / SIM_SECTOR;
	w->nr = io->nr_bytes / SIM_SECTOR;
	w->is_zero = io->op == KEDGE_DISK_ZERO;
	if (w->is_zero)
		return w;
	w->data = malloc(w->nr * unit(d));
	if (!d->is_data) {
		memcpy(w->data, io->buf, io->nr_bytes);
		return w;
	}
	for (uint64_t i = 0; i < w->nr; i++) {
		uint64_t id;
		if (!sim_is_uniform((char *)io->buf + i * SIM_SECTOR, &id))
			sim_problem(d->sim, "a mixed sector is written at sector %llu", (unsigned long long)(w->first + i));
		if (id && (id & 0xffffff) != w->first + i)
			sim_problem(d->sim, "sector %llx is written to sector %llu", (unsigned long long)id,
				    (unsigned long long)(w->first + i));
		memcpy(w->data + i * 8, &id, 8);
	}
	return w;
}

static bool is_failing(struct sim *s, const struct sim_disk *d, const struct kedge_disk_io *io)
{
	s->nr_ops++;
	return s->fail_at && (s->nr_ops == s->fail_at || (s->is_fail_persistent && s->nr_ops > s->fail_at));
}

static void disk_submit(struct kedge_disk *disk, struct kedge_disk_io *io)
{
	struct sim_disk *d = kedge_container_of(disk, struct sim_disk, disk);
	struct sim_op *op = calloc(1, sizeof *op);

	if (io->start_bytes % SIM_SECTOR || io->nr_bytes % SIM_SECTOR || io->start_bytes > disk->size_bytes ||
	    io->nr_bytes > disk->size_bytes - io->start_bytes || (io->op != KEDGE_DISK_FLUSH && io->nr_bytes == 0)) {
		sim_problem(d->sim, "%s: a request outside the disk: op %d start %llu length %llu", d->name, io->op,
			    (unsigned long long)io->start_bytes, (unsigned long long)io->nr_bytes);
		io->nr_bytes = 0;
	}
	d->nr_ops++;
	op->disk = d;
	op->io = io;
	op->flush_seq = d->done_seq;
	if (is_failing(d->sim, d, io))
		op->res = d->sim->fail_res;
	else if (io->op == KEDGE_DISK_READ && io->start_bytes < d->bad_end * SIM_SECTOR && d->bad_first * SIM_SECTOR < io->start_bytes + io->nr_bytes)
		op->res = -EIO;
	if (io->op == KEDGE_DISK_WRITE || io->op == KEDGE_DISK_ZERO)
		op->write = capture(d, io);
	d->sim->nr_changes += op->write != NULL;
	push(d->sim, op);
}

void sim_put_sector(const struct sim_disk *d, uint8_t *image, const struct sim_write *w, uint64_t at)
{
	size_t n = unit(d);

	if (w->is_zero)
		memset(image + (w->first + at) * n, 0, n);
	else
		memcpy(image + (w->first + at) * n, w->data + at * n, n);
}

static void free_write(struct sim_write *w)
{
	free(w->data);
	free(w);
}

static void flush_done(struct sim_disk *d, uint64_t seq)
{
	while (d->log && d->log->done_seq <= seq) {
		struct sim_write *w = d->log;
		for (uint64_t i = 0; i < w->nr; i++)
			sim_put_sector(d, d->durable, w, i);
		d->log = w->next;
		if (!d->log)
			d->log_tail = &d->log;
		free_write(w);
	}
}

static void read_done(struct sim_disk *d, struct kedge_disk_io *io)
{
	uint64_t first = io->start_bytes / SIM_SECTOR;

	if (!d->is_data) {
		memcpy(io->buf, d->cache + io->start_bytes, io->nr_bytes);
		return;
	}
	for (uint64_t i = 0; i < io->nr_bytes / SIM_SECTOR; i++)
		sim_fill((char *)io->buf + i * SIM_SECTOR, sim_disk_id(d, first + i));
}

/* The buffer belongs to the disk until the end: it holds what it held at the submission. */
static void check_buffer(const struct sim_disk *d, const struct sim_write *w, const struct kedge_disk_io *io)
{
	uint64_t id;

	for (uint64_t i = 0; !w->is_zero && i < w->nr; i++) {
		const char *now = (const char *)io->buf + i * SIM_SECTOR;
		bool is_same = d->is_data ? sim_is_uniform(now, &id) && memcmp(&id, w->data + i * 8, 8) == 0
					  : memcmp(now, w->data + i * SIM_SECTOR, SIM_SECTOR) == 0;
		if (!is_same)
			sim_problem(d->sim, "%s: the buffer of a write under way was changed", d->name);
	}
}

/* A file system at its worst: what was written whole and is not flushed yet it calls a hole. What is zeroed only where it is none stays as it
 * is then. */
static bool is_left(const struct sim_disk *d, const struct kedge_disk_io *io, uint64_t sector)
{
	for (const struct sim_write *w = d->log; w && io->may_stay_hole; w = w->next)
		if (w->is_whole && w->first <= sector && sector < w->first + w->nr)
			return true;
	return false;
}

static void disk_end(struct sim_op *op)
{
	struct sim_disk *d = op->disk;
	struct kedge_disk_io *io = op->io;
	bool is_whole = op->res == 0;
	int res = op->res;

	d->sim->nr_changes += io->op != KEDGE_DISK_READ;
	if (op->write) {
		struct sim_write *w = op->write;
		check_buffer(d, w, io);
		/* a failed write leaves some of its sectors */
		for (uint64_t i = 0; i < w->nr; i++)
			if (is_left(d, io, w->first + i))
				is_whole = false;
			else if (res == 0 || sim_below(d->sim, 2))
				sim_put_sector(d, d->cache, w, i);
			else if (!w->is_zero)
				memcpy(w->data + i * unit(d), d->cache + (w->first + i) * unit(d), unit(d));
		if (!is_whole && w->is_zero) { /* what is there now is what may become durable */
			w->is_zero = false;
			w->data = malloc(w->nr * unit(d));
			memcpy(w->data, d->cache + w->first * unit(d), w->nr * unit(d));
		}
		w->is_whole = is_whole;
		w->done_seq = ++d->done_seq;
		w->next = NULL;
		*d->log_tail = w;
		d->log_tail = &w->next;
	} else if (io->op == KEDGE_DISK_FLUSH && res == 0) {
		flush_done(d, op->flush_seq);
	} else if (io->op == KEDGE_DISK_READ && res == 0) {
		read_done(d, io);
	}
	if (res < 0) {
		d->sim->has_failed = true;
		if (io->op == KEDGE_DISK_FLUSH || (op->write && strcmp(d->name, "meta") == 0))
			d->sim->has_failed_commit = true;
	}
	io->fn(io, res);
}

static const struct kedge_disk_ops disk_ops = {.submit = disk_submit};

void sim_disk_init(struct sim_disk *d, struct sim *s, const char *name, bool is_data, uint64_t size_bytes)
{
	*d = (struct sim_disk){.disk = {.ops = &disk_ops, .size_bytes = size_bytes, .lbs_bytes = 512}, .sim = s, .name = name,
			       .is_data = is_data, .nr_sectors = size_bytes / SIM_SECTOR};
	d->log_tail = &d->log;
	d->durable = calloc(d->nr_sectors, unit(d));
	d->cache = calloc(d->nr_sectors, unit(d));
	for (uint64_t i = 0; is_data && i < d->nr_sectors; i++) {
		uint64_t id = sim_id(SIM_KIND_CANARY, 0, i);
		memcpy(d->durable + i * 8, &id, 8);
		memcpy(d->cache + i * 8, &id, 8);
	}
}

void sim_disk_fini(struct sim_disk *d)
{
	while (d->log) {
		struct sim_write *w = d->log;
		d->log = w->next;
		free_write(w);
	}
	free(d->durable);
	free(d->cache);
}

uint64_t sim_disk_id(const struct sim_disk *d, uint64_t sector)
{
	uint64_t id;

	memcpy(&id, d->cache + sector * 8, 8);
	return id;
}

static bool survives(struct sim *s, enum sim_crash mode, const struct sim_disk *d, bool *whole)
{
	switch (mode) {
	case SIM_CRASH_DROP:
		return false;
	case SIM_CRASH_KEEP:
		return true;
	case SIM_CRASH_WHOLE:
		return *whole;
	case SIM_CRASH_DEST:
		return d->is_data;
	case SIM_CRASH_META:
		return !d->is_data;
	default:
		return sim_below(s, 2);
	}
}

static void crash_write(struct sim *s, enum sim_crash mode, struct sim_disk *d, const struct sim_write *w)
{
	bool whole = sim_below(s, 2);

	for (uint64_t i = 0; i < w->nr; i++)
		if (survives(s, mode, d, &whole))
			sim_put_sector(d, d->durable, w, i);
		else
			memcpy(d->cache + (w->first + i) * unit(d), d->durable + (w->first + i) * unit(d), unit(d));
}

void sim_crash(struct sim *s, enum sim_crash mode, struct sim_disk *const *disks, unsigned nr_disks)
{
	for (unsigned i = 0; i < nr_disks; i++) {
		struct sim_disk *d = disks[i];
		for (struct sim_write *w = d->log; w; w = w->next)
			crash_write(s, mode, d, w);
		for (struct sim_op *op = s->pending; op; op = op->next)
			if (op->disk == d && op->write)
				crash_write(s, mode, d, op->write);
		/* all that was written since the last flush is in the log or in flight: the rest of the cache is durable already */
		for (struct sim_write *w = d->log; w; w = w->next)
			memcpy(d->cache + w->first * unit(d), d->durable + w->first * unit(d), w->nr * unit(d));
		for (struct sim_op *op = s->pending; op; op = op->next)
			if (op->disk == d && op->write)
				memcpy(d->cache + op->write->first * unit(d), d->durable + op->write->first * unit(d),
				       op->write->nr * unit(d));
		while (d->log) {
			struct sim_write *w = d->log;
			d->log = w->next;
			free_write(w);
		}
		d->log_tail = &d->log;
	}
	while (s->pending) {
		struct sim_op *op = s->pending;
		s->pending = op->next;
		if (op->write)
			free_write(op->write);
		free(op);
	}
	s->nr_pending = 0;
	kedge_defer_queue_init(&s->defer);
}

void sim_disk_leave(struct sim_disk *d, uint64_t first, uint64_t nr)
{
	struct sim_write *w = calloc(1, sizeof *w);

	w->first = first;
	w->nr = nr;
	w->data = malloc(nr * unit(d));
	memcpy(w->data, d->cache + first * unit(d), nr * unit(d));
	w->done_seq = ++d->done_seq;
	*d->log_tail = w;
	d->log_tail = &w->next;
}

void sim_disk_copy(struct sim_disk *to, const struct sim_disk *from)
{
	memcpy(to->durable, from->durable, from->nr_sectors * unit(from));
	memcpy(to->cache, from->cache, from->nr_sectors * unit(from));
}

/* Some sectors of it reach the cache; what the cache then holds is what may become durable. */
static void leave_write(struct sim *s, struct sim_disk *d, struct sim_write *w)
{
	uint64_t dice = sim_below(s, 3);

	for (uint64_t i = 0; i < w->nr; i++)
		if (dice == 0 || (dice == 1 && sim_below(s, 2)))
			sim_put_sector(d, d->cache, w, i);
	sim_disk_leave(d, w->first, w->nr);
	free_write(w);
}

void sim_process_death(struct sim *s, struct sim_disk *const *disks, unsigned nr_disks)
{
	while (s->pending) {
		struct sim_op *op = s->pending;
		s->pending = op->next;
		for (unsigned i = 0; op->write && i < nr_disks; i++)
			if (disks[i] == op->disk)
				leave_write(s, op->disk, op->write);
		free(op);
	}
	s->nr_pending = 0;
	kedge_defer_queue_init(&s->defer);
}

/* ---- source ---- */

static void source_end(struct sim_op *op)
{
	struct kedge_source_io *io = op->sio;
	struct sim_source *src = io->priv;
	uint64_t first = io->start_bytes / SIM_SECTOR, nr = io->nr_bytes / SIM_SECTOR;
	int res = op->res;

	if (res == 0 && first < src->bad_end && src->bad_first < first + nr)
		res = KEDGE_E_SOURCE_MEDIUM;
	for (uint64_t i = 0; res == 0 && i < nr; i++)
		sim_fill((char *)io->buf + i * SIM_SECTOR, sim_source_id(first + i));
	if (res < 0)
		kedge_err_set(&io->err, res, KEDGE_SIDE_SOURCE, "simulated");
	io->fn(io, res);
}

static void source_read(struct kedge_source *s, struct kedge_source_io *io)
{
	struct sim_source *src = kedge_container_of(s, struct sim_source, source);
	struct sim_op *op = calloc(1, sizeof *op);

	if (io->start_bytes % s->identity.lbs_bytes || io->nr_bytes % s->identity.lbs_bytes || io->nr_bytes == 0 ||
	    io->start_bytes + io->nr_bytes > s->identity.size_bytes || ((uintptr_t)io->buf & 4095))
		sim_problem(src->sim, "a bad source read: start %llu length %llu buf %p", (unsigned long long)io->start_bytes,
			    (unsigned long long)io->nr_bytes, io->buf);
	src->nr_reads++;
	io->priv = src;
	op->sio = io;
	push(src->sim, op);
}

static void source_cancel(struct kedge_source *s, struct kedge_source_io *io)
{
	struct sim_source *src = kedge_container_of(s, struct sim_source, source);

	for (struct sim_op *op = src->sim->pending; op; op = op->next)
		if (op->sio == io)
			op->res = -ECANCELED;
}

static void source_start(struct kedge_source *s)
{
}

static const struct kedge_source_ops source_ops = {.start = source_start, .read = source_read, .cancel = source_cancel};

void sim_source_init(struct sim_source *s, struct sim *sim, const struct kedge_identity *id)
{
	*s = (struct sim_source){.source = {.ops = &source_ops, .identity = *id}, .sim = sim};
}

/* ---- events ---- */

static bool is_ready(const struct sim *s, const struct sim_op *op)
{
	if (op->sio)
		return op->res < 0 || !((struct sim_source *)op->sio->priv)->is_away;
	return !s->stall || strcmp(s->stall, op->disk->name) != 0;
}

static unsigned nr_ready(const struct sim *s)
{
	unsigned n = 0;

	for (const struct sim_op *op = s->pending; op; op = op->next)
		n += is_ready(s, op);
	return n;
}

/* The operation that is number nr of those that can end ends. */
static void end_ready(struct sim *s, uint64_t nr)
{
	struct sim_op **p = &s->pending;

	while (!is_ready(s, *p) || nr-- > 0)
		p = &(*p)->next;
	struct sim_op *op = *p;
	*p = op->next;
	s->nr_pending--;
	if (op->sio)
		source_end(op);
	else
		disk_end(op);
	free(op);
}

bool sim_step(struct sim *s)
{
	unsigned n = nr_ready(s);

	s->nr_events++;
	if (!kedge_defer_is_empty(&s->defer) && (s->is_fifo || n == 0 || sim_below(s, 2))) {
		kedge_defer_run(&s->defer);
		return true;
	}
	if (n == 0)
		return false;
	end_ready(s, s->is_fifo ? 0 : sim_below(s, n));
	return true;
}

unsigned sim_nr_choices(const struct sim *s)
{
	return nr_ready(s) + !kedge_defer_is_empty(&s->defer);
}

void sim_choose(struct sim *s, unsigned nr)
{
	bool has_deferred = !kedge_defer_is_empty(&s->defer);

	s->nr_events++;
	if (has_deferred && nr == 0)
		kedge_defer_run(&s->defer);
	else
		end_ready(s, nr - has_deferred);
}
