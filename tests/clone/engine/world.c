/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Drives a clone in the simulation and hands every answer to the judge.
 *
 * Owns. The disks, the operations and copies under way.
 *
 * Locks. None: one thread.
 */
#include "world.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"
#include "sim_alloc.h"

#define MAX_EVENTS 200000u

struct world_op {
	struct uclone_io io;
	struct world *w;
	uint64_t submitted, first, nr;
	bool is_write, is_done;
	bool is_waited; /* somebody else frees it */
	int res;
	struct world_op *next;
};

struct world_copy {
	struct world *w;
	struct kedge_claim *claim;
	struct kedge_source_io sio;
	void *buf;
	struct kedge_seg *segs;
	struct world_copy *next;
};

static void event_cb(void *arg, const char *name, const char *text)
{
	struct world *w = arg;

	w->nr_events_seen++;
	if (strcmp(name, "bad-range") == 0)
		w->nr_bad_events++;
}

void world_init(struct world *w, uint64_t seed, uint64_t size_bytes)
{
	/* worlds come and go by the thousand: keep their memory instead of mapping it anew */
	mallopt(M_MMAP_THRESHOLD, 64 << 20);
	mallopt(M_TRIM_THRESHOLD, 512 << 20);
	memset(w, 0, sizeof *w);
	sim_init(&w->sim, seed);
	w->size_bytes = size_bytes;
	w->nr_sectors = size_bytes / SIM_SECTOR;
	w->fill_lock_bytes = seed % 2 ? 4096 : 0; /* fills in parts of a block, or as one */
	sim_disk_init(&w->dest, &w->sim, "dest", true, kedge_round_up(size_bytes, 4096));
	sim_disk_init(&w->meta, &w->sim, "meta", false, uclone_meta_bytes(size_bytes));
	sim_disk_init(&w->seen, &w->sim, "seen", false, 4096);
	w->opts.source.size_bytes = size_bytes;
	w->opts.source.lbs_bytes = 512;
	w->opts.migration.b[0] = (uint8_t)seed;
	strcpy(w->opts.source_url, "iscsi://192.0.2.1:3260/iqn.2026-01.example:v/1");
	w->marks = calloc(1, uclone_marks_bytes(size_bytes));
	sim_source_init(&w->source, &w->sim, &w->opts.source);
	model_init(&w->model, w->nr_sectors, sim_source_id);
}

void world_copy(struct world *to, const struct world *from)
{
	world_init(to, 1, from->size_bytes);
	to->opts = from->opts;
	to->fill_lock_bytes = from->fill_lock_bytes;
	sim_disk_copy(&to->dest, &from->dest);
	sim_disk_copy(&to->meta, &from->meta);
	sim_disk_copy(&to->seen, &from->seen);
	memcpy(to->marks, from->marks, uclone_marks_bytes(from->size_bytes));
	model_copy(&to->model, &from->model);
	to->is_never_dropped = from->is_never_dropped;
	to->is_finished = from->is_finished;
	to->is_abort_begun = from->is_abort_begun;
	to->is_aborted = from->is_aborted;
	to->nr_changed = from->nr_changed;
}

static void free_copy(struct world_copy *c)
{
	free(c->buf);
	free(c->segs);
	free(c);
}

static void drop_all(struct world *w)
{
	while (w->ops) {
		struct world_op *op = w->ops;
		w->ops = op->next;
		free(op->io.buf);
		free(op);
	}
	while (w->copies) {
		struct world_copy *c = w->copies;
		w->copies = c->next;
		free_copy(c);
	}
	w->nr_ops = w->nr_copies = 0;
}

void world_fini(struct world *w)
{
	struct sim_disk *disks[] = {&w->dest, &w->meta, &w->seen};

	sim_crash(&w->sim, SIM_CRASH_DROP, disks, 3);
	sim_alloc_reset();
	drop_all(w);
	for (unsigned i = 0; i < 3; i++)
		sim_disk_fini(disks[i]);
	free(w->marks);
	model_fini(&w->model);
}

bool world_is_bad(const struct world *w)
{
	return w->sim.problem[0] != 0;
}

bool world_step(struct world *w)
{
	return sim_step(&w->sim);
}

bool world_settle(struct world *w)
{
	for (unsigned i = 0; i < MAX_EVENTS; i++)
		if (!world_step(w))
			return true;
	sim_problem(&w->sim, "it never settles");
	return false;
}

struct simple {
	bool is_done;
	int res;
	struct kedge_err err;
};

static void simple_cb(void *arg, int res, const struct kedge_err *err)
{
	struct simple *s = arg;

	s->is_done = true;
	s->res = res;
	if (res < 0 && err)
		s->err = *err;
}

int world_create(struct world *w)
{
	struct simple s = {0};

	uclone_create(&w->meta.disk, &w->dest.disk, &w->seen.disk, &w->sim.defer, &w->opts, simple_cb, &s);
	world_settle(w);
	if (!s.is_done)
		sim_problem(&w->sim, "create never ended");
	if (s.res < 0 && !w->is_error_ok)
		sim_problem(&w->sim, "create failed: %s", s.err.msg);
	w->err = s.err;
	return s.res;
}

bool world_create_until(struct world *w, unsigned nr_events)
{
	static struct simple s; /* a creation that is cut short never comes back to it */

	s = (struct simple){0};
	uclone_create(&w->meta.disk, &w->dest.disk, &w->seen.disk, &w->sim.defer, &w->opts, simple_cb, &s);
	while (nr_events-- > 0 && world_step(w))
		;
	return s.is_done && s.res == 0;
}

static void opened_cb(void *arg, struct uclone *u, int res, const struct kedge_err *err)
{
	struct world *w = arg;
	struct uclone_status s;

	w->is_opening = false;
	w->open_res = res;
	w->u = u;
	if (res == KEDGE_E_STATE && w->is_abort_begun) {
		w->err = *err;
		if (w->nr_changed)
			sim_problem(&w->sim, "given up, and %llu changes with it", (unsigned long long)w->nr_changed);
		return;
	}
	if (res < 0) {
		w->err = *err;
		if (!w->is_error_ok)
			sim_problem(&w->sim, "open failed: %s", err->msg);
		return;
	}
	uclone_status(u, &s);
	if (w->is_finished && s.state != UCLONE_HYDRATED)
		sim_problem(&w->sim, "HYDRATED was durable, now it is %s", uclone_state_name(s.state));
	if (w->is_aborted)
		sim_problem(&w->sim, "opened after a durable abort");
	uclone_set_source(u, &w->source.source, NULL);
}

static void io_cb(void *arg, enum uclone_io_kind kind, uint64_t took_ns)
{
	struct world *w = arg;

	(void)took_ns;
	w->nr_told[kind]++;
}

void world_open_begin(struct world *w)
{
	struct uclone_env env = {.meta = &w->meta.disk, .dest = &w->dest.disk, .seen = &w->seen.disk, .defer = &w->sim.defer,
				 .now_ns = sim_now, .now_arg = &w->sim, .event_fn = event_cb, .event_arg = w, .marks = w->marks,
				 .io_fn = io_cb, .io_arg = w, .fill_lock_bytes = w->fill_lock_bytes};

	w->u = NULL;
	w->is_opening = true;
	w->is_closing = w->is_finishing = w->is_committing = false;
	uclone_open(&env, opened_cb, w);
}

int world_open(struct world *w)
{
	world_open_begin(w);
	while (w->is_opening)
		if (!world_step(w)) {
			sim_problem(&w->sim, "open never ended");
			return -EIO;
		}
	return w->open_res;
}

void world_crash(struct world *w, enum sim_crash mode)
{
	struct sim_disk *disks[] = {&w->dest, &w->meta, &w->seen};

	sim_crash(&w->sim, mode, disks, 3);
	sim_alloc_reset();
	drop_all(w);
	model_crash(&w->model);
	memset(w->marks, 0, uclone_marks_bytes(w->size_bytes));
	w->u = NULL;
	w->is_opening = w->is_closing = w->is_finishing = w->is_committing = false;
	w->sim.has_failed_commit = false;
}

void world_process_death(struct world *w)
{
	struct sim_disk *disks[] = {&w->dest, &w->meta, &w->seen};

	sim_process_death(&w->sim, disks, 3);
	sim_alloc_reset();
	drop_all(w);
	model_process_death(&w->model);
	w->u = NULL;
	w->is_opening = w->is_closing = w->is_finishing = w->is_committing = false;
}

static void closed_cb(void *arg, int res, const struct kedge_err *err)
{
	struct world *w = arg;

	w->is_closing = false;
	w->close_res = res;
	w->u = NULL;
	if (res < 0 && !w->is_error_ok)
		sim_problem(&w->sim, "close failed: %s", err->msg);
	if (w->nr_ops)
		sim_problem(&w->sim, "closed with %u requests not answered", w->nr_ops);
	if (res == 0) /* a clean close committed everything */
		model_flush_done(&w->model, w->model.now);
}

void world_close_begin(struct world *w)
{
	w->is_closing = true;
	uclone_close(w->u, closed_cb, w);
}

int world_close(struct world *w)
{
	world_close_begin(w);
	world_settle(w);
	if (w->is_closing)
		sim_problem(&w->sim, "close never ended");
	else if (sim_alloc_nr())
		sim_problem(&w->sim, "%lu allocations are left after close", sim_alloc_nr());
	return w->close_res;
}

/* ---- foreground ---- */

static void judge_read(struct world *w, struct world_op *op)
{
	for (uint64_t i = 0; i < op->nr; i++) {
		uint64_t id;
		char text[160];
		if (sim_is_uniform((char *)op->io.buf + i * SIM_SECTOR, &id) &&
		    model_read(&w->model, op->first + i, id, op->submitted))
			continue;
		model_describe(&w->model, op->first + i, text, sizeof text);
		sim_problem(&w->sim, "sector %llu reads as %llx: %s", (unsigned long long)(op->first + i), (unsigned long long)id, text);
		return;
	}
}

static void op_done(struct uclone_io *io, int res)
{
	struct world_op *op = kedge_container_of(io, struct world_op, io);
	struct world *w = op->w;
	struct world_op **p = &w->ops;

	while (*p != op)
		p = &(*p)->next;
	*p = op->next;
	w->nr_ops--;
	w->nr_done++;
	w->nr_failed += res < 0;
	if (op->is_done)
		sim_problem(&w->sim, "a request is answered twice");
	op->is_done = true;
	op->res = res;
	if (res < 0 && !w->is_error_ok)
		sim_problem(&w->sim, "op %d at sector %llu failed: %d", io->op, (unsigned long long)op->first, res);
	if (res == 0 && io->op != UCLONE_READ && w->sim.has_failed_commit && op->nr)
		sim_problem(&w->sim, "op %d succeeded after a flush or metadata write had failed", io->op);
	if (op->is_write && res == 0)
		w->nr_changed++;
	if (op->is_write)
		model_write_done(&w->model, op->first, op->nr, op->submitted, res == 0, io->is_fua);
	else if (io->op == UCLONE_FLUSH && res == 0)
		model_flush_done(&w->model, op->submitted);
	else if (io->op == UCLONE_READ && res == 0) {
		w->nr_reads++;
		judge_read(w, op);
	}
	free(io->buf);
	io->buf = NULL;
	if (!op->is_waited)
		free(op);
}

struct world_op *world_submit(struct world *w, enum uclone_op kind, uint64_t first, uint64_t nr, bool is_fua)
{
	struct world_op *op = calloc(1, sizeof *op);
	struct model *m = &w->model;

	op->w = w;
	op->first = first;
	op->nr = nr;
	op->io = (struct uclone_io){.op = kind, .is_fua = is_fua, .start_bytes = first * SIM_SECTOR, .nr_bytes = nr * SIM_SECTOR, .fn = op_done};
	if (kind == UCLONE_READ || kind == UCLONE_WRITE)
		op->io.buf = aligned_alloc(4096, kedge_round_up(nr * SIM_SECTOR, 4096));
	if (kind == UCLONE_WRITE) {
		uint64_t seq = ++m->seq;
		for (uint64_t i = 0; i < nr; i++)
			sim_fill((char *)op->io.buf + i * SIM_SECTOR, sim_id(SIM_KIND_WRITE, seq, first + i));
		op->is_write = true;
		op->submitted = model_write_submitted(m, first, nr, seq);
	} else if (kind == UCLONE_WRITE_ZEROES) {
		op->is_write = true;
		op->submitted = model_write_submitted(m, first, nr, 0);
	} else if (kind == UCLONE_DISCARD) {
		/* whole blocks become zeroes, the edges stay */
		uint64_t a = kedge_round_up(first, SIM_BLOCK_SECTORS);
		uint64_t z = first + nr == w->nr_sectors ? w->nr_sectors : kedge_round_down(first + nr, SIM_BLOCK_SECTORS);
		op->is_write = a < z;
		op->first = a;
		op->nr = a < z ? z - a : 0;
		if (op->is_write)
			op->submitted = model_write_submitted(m, a, z - a, 0);
	} else {
		if (kind == UCLONE_FLUSH)
			op->nr = 1;
		op->submitted = ++m->now;
	}
	op->next = w->ops;
	w->ops = op;
	w->nr_ops++;
	uclone_submit(w->u, &op->io);
	return op;
}

int world_do(struct world *w, enum uclone_op kind, uint64_t first, uint64_t nr, bool is_fua)
{
	struct world_op *op = world_submit(w, kind, first, nr, is_fua);
	int res;

	op->is_waited = true;
	while (!op->is_done)
		if (!world_step(w)) {
			sim_problem(&w->sim, "op %d at sector %llu is never answered", kind, (unsigned long long)first);
			return -EIO;
		}
	res = op->res;
	free(op);
	return res;
}

/* ---- copies ---- */

static void forget_copy(struct world_copy *c)
{
	struct world_copy **p = &c->w->copies;

	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	c->w->nr_copies--;
	free_copy(c);
}

static void filled_cb(void *arg, int res)
{
	struct world_copy *c = arg;

	if (res < 0 && !c->w->is_error_ok)
		sim_problem(&c->w->sim, "fill failed: %d", res);
	forget_copy(c);
}

static void copied_cb(struct kedge_source_io *io, int res)
{
	struct world_copy *c = io->arg;
	struct world *w = c->w;
	struct kedge_claims *k = uclone_claims(w->u);
	uint64_t nr_blocks = (c->claim->nr_bytes + 4095) / 4096;
	uint32_t nr_segs = 0;

	if (res < 0 || w->is_never_filled || (!w->is_never_dropped && sim_below(&w->sim, 16) == 0)) {
		k->ops->drop(k, c->claim, res == 0 ? -ECANCELED : res);
		forget_copy(c);
		return;
	}
	c->segs = calloc(nr_blocks, sizeof *c->segs);
	for (uint64_t i = 0; i < nr_blocks; i++) {
		uint64_t n = kedge_min_u64(4096, c->claim->nr_bytes - i * 4096);
		bool is_zero = kedge_is_zero((char *)c->buf + i * 4096, n);
		/* runs as a hydrator makes them, and now and then more parts than need be */
		if (nr_segs && c->segs[nr_segs - 1].is_zero == is_zero && (w->is_never_dropped || sim_below(&w->sim, 8)))
			c->segs[nr_segs - 1].nr_bytes += n;
		else
			c->segs[nr_segs++] = (struct kedge_seg){.nr_bytes = n, .is_zero = is_zero};
	}
	k->ops->fill(k, c->claim, c->buf, c->segs, nr_segs, filled_cb, c);
}

bool world_hydrate(struct world *w, uint64_t first_block, uint64_t end_block, uint64_t max_blocks)
{
	struct kedge_claims *k = uclone_claims(w->u);
	struct kedge_claim *claim;

	if (k->ops->take(k, first_block * 4096, end_block * 4096, max_blocks * 4096, &claim) < 0)
		return false;
	struct world_copy *c = calloc(1, sizeof *c);
	c->w = w;
	c->claim = claim;
	c->buf = aligned_alloc(4096, kedge_round_up(claim->nr_bytes, 4096));
	c->sio = (struct kedge_source_io){.start_bytes = claim->start_bytes, .nr_bytes = claim->nr_bytes, .buf = c->buf,
					  .prio = KEDGE_PRIO_BACKGROUND, .fn = copied_cb, .arg = c};
	c->next = w->copies;
	w->copies = c;
	w->nr_copies++;
	w->source.source.ops->read(&w->source.source, &c->sio);
	return true;
}

void world_hydrate_all(struct world *w)
{
	while (!world_is_bad(w) && world_hydrate(w, 0, (w->nr_sectors + 7) / 8, 256))
		world_settle(w);
}

static void finished_cb(void *arg, int res, const struct kedge_err *err)
{
	struct world *w = arg;

	w->is_finishing = false;
	w->finish_res = res;
	if (res == 0)
		w->is_finished = true;
	else
		w->err = *err;
}

void world_finish_begin(struct world *w)
{
	w->is_finishing = true;
	uclone_finish(w->u, finished_cb, w);
}

static void committed_cb(void *arg, int res, const struct kedge_err *err)
{
	((struct world *)arg)->is_committing = false;
}

void world_commit(struct world *w)
{
	w->is_committing = true;
	uclone_commit(w->u, committed_cb, w);
}

static void aborted_cb(void *arg, int res, const struct kedge_err *err)
{
	struct world *w = arg;

	if (res == 0) {
		w->is_aborted = true;
		if (w->nr_changed)
			sim_problem(&w->sim, "an abort gave up %llu changes", (unsigned long long)w->nr_changed);
	}
}

void world_abort_begin(struct world *w)
{
	w->is_abort_begun = w->is_error_ok = true;
	uclone_abort(w->u, aborted_cb, w);
}

void world_tick(struct world *w, uint64_t ms)
{
	w->sim.now_ns += ms * 1000000;
	uclone_tick(w->u);
}

/* ---- checks ---- */

void world_check_copied(struct world *w)
{
	struct kedge_claims *k = uclone_claims(w->u);
	uint64_t at = 0, start, n;

	while (!world_is_bad(w) && k->ops->audit_next(k, at, w->size_bytes, &start, &n) == 0) {
		for (uint64_t s = start / SIM_SECTOR; s < (start + n) / SIM_SECTOR; s++)
			if (sim_disk_id(&w->dest, s) != sim_source_id(s) && !k->ops->audit_is_written(k, s / 8 * 4096))
				sim_problem(&w->sim, "sector %llu counts as copied but holds %llx", (unsigned long long)s,
					    (unsigned long long)sim_disk_id(&w->dest, s));
		at = start + n;
	}
}

static void report_cb(void *arg, bool is_error, const char *line)
{
	struct world *w = arg;

	if (is_error && !w->is_check_bad) {
		w->is_check_bad = true;
		snprintf(w->check_line, sizeof w->check_line, "%s", line);
	}
}

struct check_call {
	struct world *w;
	struct simple s;
};

static void check_report_cb(void *arg, bool is_error, const char *line)
{
	report_cb(((struct check_call *)arg)->w, is_error, line);
}

static void check_done_cb(void *arg, int res, const struct kedge_err *err)
{
	simple_cb(&((struct check_call *)arg)->s, res, err);
}

void world_check_offline(struct world *w)
{
	struct check_call c = {.w = w};

	uclone_check(&w->meta.disk, &w->seen.disk, &w->sim.defer, check_report_cb, check_done_cb, &c);
	world_settle(w);
	if (!c.s.is_done)
		sim_problem(&w->sim, "check never ended");
	else if (c.s.res < 0 || w->is_check_bad)
		sim_problem(&w->sim, "check: %s %s", c.s.err.msg, w->check_line);
}

void world_read_known(struct world *w, bool is_all)
{
	for (uint64_t b = 0; b * SIM_BLOCK_SECTORS < w->nr_sectors; b++) {
		uint64_t first = b * SIM_BLOCK_SECTORS, nr = kedge_min_u64(SIM_BLOCK_SECTORS, w->nr_sectors - first);
		if (w->model.sectors[first].nr == 0 && w->model.sectors[first + nr - 1].nr == 0)
			continue;
		if (is_all || sim_below(&w->sim, 2))
			world_submit(w, UCLONE_READ, first, nr, false);
	}
}

static uint64_t hot_block(struct world *w)
{
	/* of intent groups, metadata sectors, metadata pages */
	static const uint64_t edges[] = {1, 239, 1919, 15359};
	uint64_t nr_blocks = (w->nr_sectors + 7) / 8, edge;

	edge = sim_below(&w->sim, 5);
	edge = edge == 4 ? nr_blocks - 1 : edges[edge];
	if (edge >= nr_blocks)
		edge = nr_blocks - 1;
	edge += sim_below(&w->sim, 4);
	edge = edge > 1 ? edge - 1 : 0;
	return edge < nr_blocks ? edge : nr_blocks - 1;
}

void world_random_op(struct world *w)
{
	struct sim *s = &w->sim;
	uint64_t first = hot_block(w) * SIM_BLOCK_SECTORS, nr = SIM_BLOCK_SECTORS * (1 + sim_below(s, 3));
	uint64_t dice = sim_below(s, 100);
	bool is_fua = sim_below(s, 6) == 0;

	if (sim_below(s, 2) && dice >= 20 && dice < 64) { /* not aligned to blocks */
		first += sim_below(s, 8);
		nr = 1 + sim_below(s, 20);
	}
	if (first >= w->nr_sectors)
		first = w->nr_sectors - 1;
	nr = kedge_min_u64(nr, w->nr_sectors - first);
	if (dice < 32)
		world_submit(w, UCLONE_WRITE, first, nr, is_fua);
	else if (dice < 40)
		world_submit(w, UCLONE_WRITE_ZEROES, first, nr, is_fua);
	else if (dice < 48)
		world_submit(w, UCLONE_DISCARD, first, nr, is_fua);
	else if (dice < 64)
		world_submit(w, UCLONE_READ, first, nr, false);
	else if (dice < 72)
		world_submit(w, UCLONE_FLUSH, 0, 0, false);
	else if (dice < 94)
		world_hydrate(w, first / 8, first / 8 + 4, 1 + sim_below(s, 4));
	else if (dice < 98)
		world_tick(w, 1100);
	else if (!w->is_committing)
		world_commit(w);
}
