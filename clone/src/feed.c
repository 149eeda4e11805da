/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Reads of the source for the kernel: read-ahead, waiting for a source that is away.
 *
 * Owns. The pieces and their memory (FEED_NR_PIECES of 1 MiB), and reads between submit and callback.
 *
 * Locks. None: one thread.
 *
 * Crash. Nothing is written, ever: the source is immutable, so what is cached cannot be stale.
 */
#include "feed.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/disk.h"
#include "kedge/log.h"

enum piece_state { PIECE_EMPTY, PIECE_FETCHING, PIECE_READY };

struct piece {
	struct feed *feed;
	enum piece_state state;
	uint64_t nr; /* start_bytes / FEED_PIECE_BYTES */
	uint64_t used; /* clock of the last use */
	uint8_t *buf;
	struct uclone_io *waiting;
	struct kedge_source_io io;
};

/* A read straight through. */
struct direct {
	struct feed *feed;
	struct uclone_io *io;
	struct kedge_source_io source_io;
};

struct feed {
	uint64_t size_bytes;
	struct kedge_defer_queue *queue;
	struct kedge_source *source;
	struct piece pieces[FEED_NR_PIECES];
	struct uclone_io *parked, **parked_tail; /* no source yet */
	struct uclone_io *done;                  /* to be answered in the next round */
	struct kedge_defer defer;
	uint64_t clock, last_end_bytes;
	uint64_t told_bytes; /* the failed read that was told last */
	unsigned nr_inflight;
	struct feed_status status;
};

static void answer_cb(void *arg)
{
	struct feed *f = arg;
	struct uclone_io *list = f->done;

	f->done = NULL;
	while (list) {
		struct uclone_io *next = list->next;
		int res = (int)(intptr_t)list->priv;
		list->fn(list, res);
		list = next;
	}
}

/* Later, never inside submit. */
static void answer(struct feed *f, struct uclone_io *io, int res)
{
	io->priv = (void *)(intptr_t)res;
	io->next = f->done;
	f->done = io;
	if (f->defer.is_queued)
		return;
	f->defer.fn = answer_cb;
	f->defer.arg = f;
	kedge_defer_add(f->queue, &f->defer);
}

static struct piece *find(struct feed *f, uint64_t nr)
{
	for (unsigned i = 0; i < FEED_NR_PIECES; i++)
		if (f->pieces[i].state != PIECE_EMPTY && f->pieces[i].nr == nr)
			return &f->pieces[i];
	return NULL;
}

static void copy_out(struct feed *f, struct piece *p, struct uclone_io *io)
{
	p->used = ++f->clock;
	memcpy(io->buf, p->buf + (io->start_bytes - p->nr * FEED_PIECE_BYTES), io->nr_bytes);
	answer(f, io, 0);
}

static void direct_cb(struct kedge_source_io *sio, int res)
{
	struct direct *d = kedge_container_of(sio, struct direct, source_io);
	struct feed *f = d->feed;

	f->nr_inflight--;
	if (res < 0 && sio->start_bytes != f->told_bytes) { /* the kernel asks for it again and again */
		f->told_bytes = sio->start_bytes;
		kedge_warn("feed: read of %llu bytes at %llu failed: %s", (unsigned long long)sio->nr_bytes, (unsigned long long)sio->start_bytes,
			   sio->err.msg);
	}
	answer(f, d->io, res < 0 ? -EIO : 0);
	free(d);
}

static void read_direct(struct feed *f, struct uclone_io *io)
{
	struct direct *d = malloc(sizeof *d);

	if (!d) {
		answer(f, io, -EIO);
		return;
	}
	*d = (struct direct){.feed = f, .io = io};
	d->source_io = (struct kedge_source_io){.start_bytes = io->start_bytes,
						.nr_bytes = io->nr_bytes,
						.buf = io->buf,
						.prio = KEDGE_PRIO_FOREGROUND,
						.fn = direct_cb};
	f->nr_inflight++;
	f->status.fetched_bytes += io->nr_bytes;
	f->source->ops->read(f->source, &d->source_io);
}

static void piece_cb(struct kedge_source_io *sio, int res)
{
	struct piece *p = kedge_container_of(sio, struct piece, io);
	struct feed *f = p->feed;
	struct uclone_io *list = p->waiting;

	f->nr_inflight--;
	p->waiting = NULL;
	p->state = res < 0 ? PIECE_EMPTY : PIECE_READY;
	while (list) {
		struct uclone_io *next = list->next;
		if (res == 0)
			copy_out(f, p, list);
		else if (f->source) /* a bad sector elsewhere in the piece is not this read's: ask for it alone */
			read_direct(f, list);
		else
			answer(f, list, -EIO);
		list = next;
	}
}

static struct piece *free_piece(struct feed *f)
{
	struct piece *best = NULL;

	for (unsigned i = 0; i < FEED_NR_PIECES; i++) {
		struct piece *p = &f->pieces[i];
		if (p->state == PIECE_EMPTY)
			return p;
		if (p->state == PIECE_READY && (!best || p->used < best->used))
			best = p;
	}
	return best;
}

static struct piece *fetch(struct feed *f, uint64_t nr)
{
	struct piece *p;

	if (nr * FEED_PIECE_BYTES >= f->size_bytes)
		return NULL;
	p = find(f, nr);
	if (p)
		return p;
	p = free_piece(f);
	if (!p)
		return NULL;
	if (!p->buf)
		p->buf = kedge_buf_alloc(FEED_PIECE_BYTES);
	if (!p->buf)
		return NULL;
	p->feed = f;
	p->state = PIECE_FETCHING;
	p->nr = nr;
	p->used = ++f->clock;
	p->io = (struct kedge_source_io){.start_bytes = nr * FEED_PIECE_BYTES,
					 .nr_bytes = kedge_min_u64(FEED_PIECE_BYTES, f->size_bytes - nr * FEED_PIECE_BYTES),
					 .buf = p->buf,
					 .prio = KEDGE_PRIO_BACKGROUND,
					 .fn = piece_cb};
	f->nr_inflight++;
	f->status.fetched_bytes += p->io.nr_bytes;
	f->source->ops->read(f->source, &p->io);
	return p;
}

/* Does this read go on where reads have been? The kernel copies in order, but its copies may pass each other on the way. */
static bool is_in_order(struct feed *f, uint64_t nr, uint64_t start)
{
	bool is_next = start == f->last_end_bytes;

	return is_next || (nr > 0 && find(f, nr - 1)) || find(f, nr);
}

static void dispatch(struct feed *f, struct uclone_io *io)
{
	uint64_t nr = io->start_bytes / FEED_PIECE_BYTES, last = (io->start_bytes + io->nr_bytes - 1) / FEED_PIECE_BYTES;
	bool is_whole = nr == last && is_in_order(f, nr, io->start_bytes);
	struct piece *p = is_whole ? find(f, nr) : NULL;

	f->status.nr_reads++;
	f->status.nr_hits += p != NULL;
	f->last_end_bytes = io->start_bytes + io->nr_bytes;
	if (is_whole && !p)
		p = fetch(f, nr);
	if (!p) {
		read_direct(f, io);
		return;
	}
	/* first this one: what is fetched ahead may take its piece */
	if (p->state == PIECE_READY) {
		copy_out(f, p, io);
	} else {
		io->next = p->waiting;
		p->waiting = io;
	}
	for (unsigned i = 1; i <= FEED_AHEAD; i++)
		fetch(f, nr + i);
}

void feed_submit(struct feed *f, struct uclone_io *io)
{
	if (io->op != UCLONE_READ || io->nr_bytes == 0) {
		answer(f, io, io->op == UCLONE_FLUSH || io->op == UCLONE_READ ? 0 : -EROFS);
		return;
	}
	if (f->source) {
		dispatch(f, io);
		return;
	}
	io->next = NULL;
	*f->parked_tail = io;
	f->parked_tail = &io->next;
}

void feed_set_source(struct feed *f, struct kedge_source *s)
{
	struct uclone_io *list = f->parked;

	f->source = s;
	if (!s)
		return;
	f->parked = NULL;
	f->parked_tail = &f->parked;
	while (list) {
		struct uclone_io *next = list->next;
		dispatch(f, list);
		list = next;
	}
}

void feed_status(const struct feed *f, struct feed_status *ret_status)
{
	*ret_status = f->status;
	ret_status->nr_waiting = f->nr_inflight;
	for (const struct uclone_io *io = f->parked; io; io = io->next)
		ret_status->nr_waiting++;
}

unsigned feed_nr_inflight(const struct feed *f)
{
	return f->nr_inflight;
}

struct feed *feed_create(uint64_t size_bytes, struct kedge_defer_queue *defer)
{
	struct feed *f = calloc(1, sizeof *f);

	kedge_assert(f != NULL);
	f->size_bytes = size_bytes;
	f->queue = defer;
	f->parked_tail = &f->parked;
	f->last_end_bytes = f->told_bytes = UINT64_MAX;
	return f;
}

void feed_destroy(struct feed *f)
{
	if (!f)
		return;
	kedge_assert(f->nr_inflight == 0);
	kedge_defer_remove(f->queue, &f->defer);
	for (unsigned i = 0; i < FEED_NR_PIECES; i++)
		kedge_buf_free(f->pieces[i].buf);
	free(f);
}
