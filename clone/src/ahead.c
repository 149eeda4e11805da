/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Read-around: fetches ahead of streams, reads of the workload that wait for one.
 *
 * Owns. The fetches with their claims and buffers; of joined reads, the time between read and callback.
 *
 * Locks. None: one thread. A fetch takes the range lock of its blocks as hydration does, when it is laid down, never while it is on its way.
 *
 * Crash. As hydration: data, then bits in memory (uclone_claims.c). What a joined read gets is what the source would have answered: its blocks
 * were not here when it was submitted.
 */
#include "ahead.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/disk.h"
#include "streams.h"

#define HOLD_TICKS 50u  /* after an error nothing is fetched for so long: hydration will find out */
#define IDLE_TICKS 100u /* buffers go after so long without a fetch */

enum fetch_state { FETCH_IDLE, FETCH_READING, FETCH_FILLING };

struct fetch {
	struct ahead *a;
	enum fetch_state state;
	bool is_urged, is_failed; /* cancelled, or read with an error: nobody joins it any more */
	struct kedge_claim *claim;
	uint64_t start_bytes, nr_bytes;
	struct kedge_source *source; /* that has the read */
	struct kedge_source_io io;
	uint8_t *buf;
	struct kedge_source_io *joined;
	struct kedge_seg segs[AHEAD_PIECE_BYTES / KEDGE_BLOCK_BYTES];
};

struct ahead {
	struct kedge_source front, *source;
	struct kedge_claims *claims;
	struct kedge_defer_queue *queue;
	uint32_t window_bytes;
	struct streams streams;
	struct fetch fetches[AHEAD_NR];
	unsigned nr_hold_ticks, nr_idle_ticks;
	struct kedge_source_io *done; /* reads to be answered in the next round, with the result in priv_u64[1] */
	struct kedge_defer defer;
	struct ahead_status status;
};

static struct ahead *of(struct kedge_source *s)
{
	return kedge_container_of(s, struct ahead, front);
}

/* ---- reads of the workload ---- */

static void done_cb(void *arg)
{
	struct ahead *a = arg;
	struct kedge_source_io *list = a->done;

	a->done = NULL;
	while (list) {
		struct kedge_source_io *next = list->next;
		list->fn(list, (int)(int64_t)list->priv_u64[1]);
		list = next;
	}
}

/* Later, never inside read. */
static void answer(struct ahead *a, struct kedge_source_io *io, int res)
{
	io->priv_u64[1] = (uint64_t)(int64_t)res;
	io->next = a->done;
	a->done = io;
	if (!a->defer.is_queued)
		kedge_defer_add(a->queue, &a->defer);
}

static void read_straight(struct ahead *a, struct kedge_source_io *io)
{
	if (a->source)
		a->source->ops->read(a->source, io);
	else
		answer(a, io, kedge_err_set(&io->err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "the source was closed"));
}

/* The fetch that brings, or has brought, the first byte of this; else NULL, and *ret_end_bytes is where one begins that is of use, or the end. */
static struct fetch *find_fetch(struct ahead *a, const struct kedge_source_io *io, uint64_t *ret_end_bytes)
{
	uint64_t end_bytes = io->start_bytes + io->nr_bytes;

	for (unsigned i = 0; a->status.nr_inflight && i < AHEAD_NR; i++) {
		struct fetch *f = &a->fetches[i];
		if (f->state == FETCH_IDLE || f->is_failed || f->start_bytes + f->nr_bytes <= io->start_bytes || f->start_bytes >= end_bytes)
			continue;
		if (f->start_bytes <= io->start_bytes) {
			*ret_end_bytes = kedge_min_u64(io->start_bytes + io->nr_bytes, f->start_bytes + f->nr_bytes);
			return f;
		}
		end_bytes = f->start_bytes;
	}
	*ret_end_bytes = end_bytes;
	return NULL;
}

static void join(struct ahead *a, struct fetch *f, struct kedge_source_io *io)
{
	io->err = (struct kedge_err){0};
	if (f->state == FETCH_FILLING) {
		memcpy(io->buf, f->buf + (io->start_bytes - f->start_bytes), io->nr_bytes);
		answer(a, io, 0);
		return;
	}
	io->priv_u64[0] = io->timeout_ms ? kedge_clock_ns() + io->timeout_ms * 1000000ull : 0;
	io->next = f->joined;
	f->joined = io;
	if (!f->is_urged && f->source->ops->urge)
		f->source->ops->urge(f->source, &f->io);
	f->is_urged = true;
}

/* A read that several fetches bring parts of, or one a part of it. */
struct split {
	struct kedge_source_io *io;
	unsigned nr_left;
	int res;
	struct kedge_err err;
};

struct part {
	struct kedge_source_io io;
	struct split *split;
};

static void end_part(struct split *s, int res, const struct kedge_err *err)
{
	if (res < 0 && s->res == 0) {
		s->res = res;
		s->err = *err;
	}
	if (--s->nr_left)
		return;
	struct kedge_source_io *io = s->io;
	res = s->res;
	io->err = s->err;
	free(s);
	io->fn(io, res);
}

static void part_cb(struct kedge_source_io *io, int res)
{
	struct part *p = kedge_container_of(io, struct part, io);
	struct split *s = p->split;
	struct kedge_err err = io->err;

	free(p);
	end_part(s, res, &err);
}

/* From one edge of a fetch to the next. */
static void read_split(struct ahead *a, struct kedge_source_io *io)
{
	struct split *s = calloc(1, sizeof *s);
	uint64_t end_bytes = io->start_bytes + io->nr_bytes, stop_bytes;

	kedge_assert(s != NULL);
	s->io = io;
	s->nr_left = 1;
	for (uint64_t at = io->start_bytes; at < end_bytes; at = stop_bytes) {
		struct part *p = calloc(1, sizeof *p);
		kedge_assert(p != NULL);
		p->split = s;
		p->io = (struct kedge_source_io){.start_bytes = at, .nr_bytes = end_bytes - at, .buf = (uint8_t *)io->buf + (at - io->start_bytes),
						 .prio = io->prio, .timeout_ms = io->timeout_ms, .fn = part_cb};
		struct fetch *f = find_fetch(a, &p->io, &stop_bytes);
		p->io.nr_bytes = stop_bytes - at;
		s->nr_left++;
		if (f)
			join(a, f, &p->io);
		else
			read_straight(a, &p->io);
	}
	s->nr_left--; /* ours: none has ended yet */
}

static void front_read(struct kedge_source *front, struct kedge_source_io *io)
{
	struct ahead *a = of(front);
	uint64_t stop_bytes;
	struct fetch *f = find_fetch(a, io, &stop_bytes);
	bool is_whole = stop_bytes == io->start_bytes + io->nr_bytes;

	a->status.nr_joined += f != NULL;
	if (!is_whole)
		read_split(a, io);
	else if (f)
		join(a, f, io);
	else
		read_straight(a, io);
}

/* Joined reads whose time is over; they may wait no longer than others do. */
static void end_late(struct fetch *f)
{
	uint64_t now = kedge_clock_ns();
	struct kedge_source_io *late = NULL;

	for (struct kedge_source_io **p = &f->joined; *p;) {
		struct kedge_source_io *io = *p;
		if (!io->priv_u64[0] || io->priv_u64[0] > now) {
			p = &io->next;
			continue;
		}
		*p = io->next;
		io->next = late;
		late = io;
	}
	while (late) {
		struct kedge_source_io *next = late->next;
		late->fn(late, kedge_err_set(&late->err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "no answer in %u ms", late->timeout_ms));
		late = next;
	}
}

/* What is left of a joined read's time. */
static uint32_t left_ms(const struct kedge_source_io *io)
{
	uint64_t now = kedge_clock_ns();

	if (!io->priv_u64[0])
		return 0;
	return io->priv_u64[0] > now + 1000000 ? (uint32_t)((io->priv_u64[0] - now) / 1000000) : 1;
}

/* Those that waited get their part, or ask for themselves. */
static void end_joined(struct fetch *f, int res)
{
	struct kedge_source_io *list = f->joined;

	f->joined = NULL;
	while (list) {
		struct kedge_source_io *next = list->next;
		if (res == 0) {
			memcpy(list->buf, f->buf + (list->start_bytes - f->start_bytes), list->nr_bytes);
			list->fn(list, 0);
		} else {
			list->timeout_ms = left_ms(list);
			read_straight(f->a, list);
		}
		list = next;
	}
}

/* ---- fetches ---- */

static void put_fetch(struct fetch *f)
{
	f->state = FETCH_IDLE;
	f->claim = NULL;
	f->a->status.nr_inflight--;
}

static void hold(struct ahead *a)
{
	a->nr_hold_ticks = HOLD_TICKS;
}

static void filled_cb(void *arg, int res)
{
	struct fetch *f = arg;

	if (res == 0)
		f->a->status.fetched_bytes += f->nr_bytes;
	else
		hold(f->a); /* no room, or the engine has failed */
	put_fetch(f);
}

/* Zero blocks stay holes where the destination has some. */
static uint32_t split(struct fetch *f)
{
	uint32_t nr = 0;

	for (uint64_t at = 0, n; at < f->nr_bytes; at += n) {
		n = kedge_min_u64(KEDGE_BLOCK_BYTES, f->nr_bytes - at);
		bool is_zero = kedge_is_zero(f->buf + at, n);
		if (nr && f->segs[nr - 1].is_zero == is_zero)
			f->segs[nr - 1].nr_bytes += n;
		else
			f->segs[nr++] = (struct kedge_seg){.nr_bytes = n, .is_zero = is_zero};
	}
	return nr;
}

static void read_cb(struct kedge_source_io *io, int res)
{
	struct fetch *f = kedge_container_of(io, struct fetch, io);
	struct ahead *a = f->a;

	if (res < 0) {
		if (!f->is_failed)
			hold(a);
		f->is_failed = true; /* those that waited ask again, and must not find this one */
		a->claims->ops->drop(a->claims, f->claim, 0);
		end_joined(f, res);
		put_fetch(f);
		return;
	}
	f->state = FETCH_FILLING;
	end_joined(f, 0);
	a->claims->ops->fill(a->claims, f->claim, f->buf, f->segs, split(f), filled_cb, f);
}

static struct fetch *idle_fetch(struct ahead *a)
{
	for (unsigned i = 0; i < AHEAD_NR; i++) {
		struct fetch *f = &a->fetches[i];
		if (f->state != FETCH_IDLE)
			continue;
		if (!f->buf)
			f->buf = kedge_buf_alloc(AHEAD_PIECE_BYTES);
		return f->buf ? f : NULL;
	}
	return NULL;
}

static void begin(struct ahead *a, struct fetch *f, struct kedge_claim *claim)
{
	a->status.nr_inflight++;
	a->status.nr_fetches++;
	f->a = a;
	f->state = FETCH_READING;
	f->is_urged = f->is_failed = false;
	f->claim = claim;
	f->start_bytes = claim->start_bytes;
	f->nr_bytes = claim->nr_bytes;
	f->source = a->source;
	/* behind every read of the workload, until one of them waits for it */
	f->io = (struct kedge_source_io){
		.start_bytes = f->start_bytes, .nr_bytes = f->nr_bytes, .buf = f->buf, .prio = KEDGE_PRIO_BACKGROUND, .fn = read_cb};
	a->source->ops->read(a->source, &f->io);
}

/* How far it came: everything before is here, on its way, or somebody else's. */
static uint64_t fetch_range(struct ahead *a, uint64_t start_bytes, uint64_t end_bytes)
{
	while (start_bytes < end_bytes) {
		struct fetch *f = idle_fetch(a);
		struct kedge_claim *claim;
		if (!f)
			return start_bytes;
		int r = a->claims->ops->take(a->claims, start_bytes, end_bytes, AHEAD_PIECE_BYTES, &claim);
		if (r < 0) {
			if (r != -ENODATA && r != -EAGAIN)
				hold(a);
			break;
		}
		start_bytes = claim->start_bytes + claim->nr_bytes;
		begin(a, f, claim);
	}
	return end_bytes;
}

static bool is_source_up(const struct ahead *a)
{
	struct kedge_source_status st;

	if (!a->source)
		return false;
	a->source->ops->status(a->source, &st);
	return st.state == KEDGE_SOURCE_UP;
}

void ahead_note(struct ahead *a, uint64_t start_bytes, uint64_t nr_bytes)
{
	struct stream *s;
	uint64_t start, end;

	if (a->window_bytes == 0)
		return;
	if (!streams_note(&a->streams, start_bytes, nr_bytes, a->claims->size_bytes, a->window_bytes, &s, &start, &end))
		return;
	if (a->nr_hold_ticks == 0 && is_source_up(a)) {
		a->nr_idle_ticks = 0;
		streams_fetched(s, fetch_range(a, start, end));
	}
}

/* ---- life ---- */

static void cancel_all(struct ahead *a)
{
	for (unsigned i = 0; i < AHEAD_NR; i++) {
		struct fetch *f = &a->fetches[i];
		if (f->state != FETCH_READING || f->is_failed)
			continue;
		f->is_failed = true;
		f->source->ops->cancel(f->source, &f->io);
	}
}

void ahead_tick(struct ahead *a)
{
	if (a->nr_hold_ticks)
		a->nr_hold_ticks--;
	if (a->status.nr_inflight) {
		if (!is_source_up(a)) /* nobody shall wait for a source that is away because of us */
			cancel_all(a);
		for (unsigned i = 0; i < AHEAD_NR; i++)
			end_late(&a->fetches[i]);
		return;
	}
	if (++a->nr_idle_ticks < IDLE_TICKS)
		return;
	a->nr_idle_ticks = 0;
	for (unsigned i = 0; i < AHEAD_NR; i++) {
		kedge_buf_free(a->fetches[i].buf);
		a->fetches[i].buf = NULL;
	}
}

void ahead_set_source(struct ahead *a, struct kedge_source *s)
{
	if (a->source && a->source != s)
		cancel_all(a);
	a->source = s;
}

void ahead_set_window(struct ahead *a, uint32_t window_bytes)
{
	a->window_bytes = window_bytes;
}

void ahead_status(const struct ahead *a, struct ahead_status *ret_status)
{
	*ret_status = a->status;
	ret_status->window_bytes = a->window_bytes;
}

static const struct kedge_source_ops front_ops = {.read = front_read};

struct kedge_source *ahead_front(struct ahead *a)
{
	return &a->front;
}

struct ahead *ahead_create(struct kedge_claims *claims, struct kedge_defer_queue *queue)
{
	struct ahead *a = calloc(1, sizeof *a);

	kedge_assert(a != NULL);
	a->front.ops = &front_ops;
	a->claims = claims;
	a->queue = queue;
	a->defer.fn = done_cb;
	a->defer.arg = a;
	return a;
}

void ahead_destroy(struct ahead *a)
{
	if (!a)
		return;
	kedge_assert(a->status.nr_inflight == 0 && !a->done);
	kedge_defer_remove(a->queue, &a->defer);
	for (unsigned i = 0; i < AHEAD_NR; i++)
		kedge_buf_free(a->fetches[i].buf);
	free(a);
}
