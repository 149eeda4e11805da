/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Foreground I/O: reads from where a block is, writes to the destination only, discards and zeroes, flushes.
 *
 * Owns. One work item for each I/O under way, its bounce buffer and its children.
 *
 * Locks. Every change holds the range lock of its blocks from before its first read to after its bits are set; reads take none.
 *
 * Crash. A change is data first, then bits in memory; the bits reach the disk by a commit only (uclone_commit.c), after a flush of
 * the data. The one thing that must be durable before the data is the write intent of a group that holds copied blocks: else a
 * crash could leave valid = 1, written = 0 and content that is not the source's.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "uclone_int.h"

struct uc_work;

/* A read of a part, from the destination or the source. */
struct uc_child {
	struct uc_work *work;
	union {
		struct kedge_disk_io disk;
		struct kedge_source_io source;
	} io;
	uint64_t start_bytes, nr_bytes;
	uint8_t *target;       /* where the caller wants it */
	uint8_t *bounce;       /* NULL: straight into target */
	uint64_t bounce_skip;  /* bytes of the bounce before target's first */
	bool is_source;
	uint64_t deadline_ns;  /* while waiting for a source; 0: for ever */
	struct uc_child *next;
};

struct uc_work {
	struct uclone *u;
	struct uclone_io *io;
	uint64_t first, end;       /* blocks */
	struct uc_lock lock;
	struct uc_waiter waiter;
	struct kedge_defer defer;
	struct kedge_disk_io disk_io;
	uint8_t *bounce;           /* whole blocks [first, end) for changes with partial edges */
	unsigned nr_children;
	bool is_change, is_from_source;
	int res;
	uint64_t begin_ns; /* 0: nobody wants to know */
};

void uc_event(struct uclone *u, const char *name, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	if (!u->env.event_fn)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	u->env.event_fn(u->env.event_arg, name, text);
}

bool uc_is_unknown(const struct uclone *u, uint64_t first, uint64_t end)
{
	if (u->nr_unknown_sectors == 0 || first >= end)
		return false;
	uint64_t a = first / UC_SECTOR_BLOCKS, b = (end - 1) / UC_SECTOR_BLOCKS + 1;
	return uc_bits_find(&u->unknown, a, b, true) < b;
}

const struct uc_bad *uc_find_bad(const struct uclone *u, uint64_t first, uint64_t end)
{
	const struct uc_bad *b;

	for (b = u->bad; b; b = b->next)
		if (b->first < end && first < b->end)
			return b;
	return NULL;
}

/* Blocks that are here again are bad no more: cut them out of the list. */
void uc_heal_bad(struct uclone *u, uint64_t first, uint64_t end)
{
	struct uc_bad **p = &u->bad;

	while (*p) {
		struct uc_bad *b = *p;
		if (b->first >= end || first >= b->end) {
			p = &b->next;
			continue;
		}
		u->counters.nr_bad_changes++;
		if (b->first < first && end < b->end) {
			struct uc_bad *tail = malloc(sizeof *tail);
			kedge_assert(tail != NULL);
			*tail = (struct uc_bad){.first = end, .end = b->end, .next = b->next};
			b->end = first;
			b->next = tail;
			p = &tail->next;
		} else if (b->first < first) {
			b->end = first;
			p = &b->next;
		} else if (end < b->end) {
			b->first = end;
			p = &b->next;
		} else {
			*p = b->next;
			free(b);
		}
	}
}

_Static_assert(UC_PAGE_BLOCKS % 64 == 0, "a word of a bitmap belongs to one page of the map");

/* The bits of [b, end) that are in b's word. */
static uint64_t word_mask(uint64_t b, uint64_t end)
{
	uint64_t nr = kedge_min_u64(64 - b % 64, end - b);

	return (nr == 64 ? ~0ull : (1ull << nr) - 1) << (b % 64);
}

/* Word by word: a hole of the source has millions of blocks. */
void uc_mark_here(struct uclone *u, uint64_t first, uint64_t end, bool is_written)
{
	for (uint64_t b = first, next; b < end; b = next) {
		uint64_t i = b / 64, mask = word_mask(b, end);
		uint64_t fresh = mask & ~u->valid.w[i], changed = fresh;

		next = (i + 1) * 64;
		if (fresh) {
			uint64_t nr = fresh == ~0ull ? 64 : (unsigned)__builtin_popcountll(fresh);

			u->valid.w[i] |= fresh;
			u->nr_valid += nr;
			u->nr_unc_valid += nr;
		}
		if (is_written && (mask & ~u->written.w[i])) {
			changed |= mask & ~u->written.w[i];
			u->nr_written += (unsigned)__builtin_popcountll(mask & ~u->written.w[i]);
			u->written.w[i] |= mask;
		}
		u->unc_now.w[i] |= mask;
		uc_bit_set(&u->unc_pages_now, uc_page_of(b));
		if (!changed)
			continue;
		uc_mark_dirty(u, b);
		for (; is_written && changed; changed &= changed - 1)
			uc_marks_set(u, i * 64 + (unsigned)__builtin_ctzll(changed));
	}
	if (u->bad && !UC_MUTANT(BAD_STAYS))
		uc_heal_bad(u, first, end);
}

/* The destination's content changed (or may have) and no flush covers that yet. */
static void mark_uncommitted(struct uclone *u, uint64_t first, uint64_t end)
{
	for (uint64_t b = first; b < end; b = (b / 64 + 1) * 64) {
		u->unc_now.w[b / 64] |= word_mask(b, end);
		uc_bit_set(&u->unc_pages_now, uc_page_of(b));
	}
}

/* A write that failed leaves anything behind. Empty blocks stay empty; one that was here is the source's no more. */
static void mark_damaged(struct uclone *u, uint64_t first, uint64_t end)
{
	mark_uncommitted(u, first, end);
	for (uint64_t b = first; !u->is_passthrough && b < end; b++)
		if (uc_bit(&u->valid, b))
			uc_mark_here(u, b, b + 1, true);
}

/* ---- ends ---- */

static void tell_how_long(const struct uc_work *w)
{
	const struct uclone *u = w->u;
	enum uclone_io_kind kind = w->io->op == UCLONE_FLUSH || w->io->is_fua ? UCLONE_IO_FLUSH
				   : w->is_change				      ? UCLONE_IO_CHANGE
				   : w->is_from_source			      ? UCLONE_IO_READ_SOURCE
									      : UCLONE_IO_READ;

	/* a change that had to read the source first is no measure for others */
	if (w->begin_ns && w->res == 0 && !(w->is_change && w->is_from_source))
		u->env.io_fn(u->env.io_arg, kind, uc_now_ns(u) - w->begin_ns);
}

static void work_end(struct uc_work *w)
{
	struct uclone *u = w->u;
	struct uclone_io *io = w->io;
	int res = w->res;

	tell_how_long(w);
	if (w->is_change)
		u->nr_changes--;
	kedge_buf_free(w->bounce);
	free(w);
	if (res < 0 && res != -EINVAL && res != -ENOSPC && res != -EIO)
		res = -EIO;
	io->fn(io, res);
	uc_io_done(u);
}

static void end_later_cb(void *arg)
{
	work_end(arg);
}

static void end_later(struct uc_work *w, int res)
{
	w->res = res;
	w->defer = (struct kedge_defer){.fn = end_later_cb, .arg = w};
	kedge_defer_add(w->u->env.defer, &w->defer);
}

/* ---- reads ---- */

static void child_done(struct uc_child *c, int res)
{
	struct uc_work *w = c->work;

	if (res == 0 && c->bounce)
		memcpy(c->target, c->bounce + c->bounce_skip, c->nr_bytes);
	if (res < 0 && w->res == 0)
		w->res = res;
	kedge_buf_free(c->bounce);
	free(c);
	if (--w->nr_children == 0)
		w->waiter.fn(&w->waiter, w->res);
}

static void child_disk_cb(struct kedge_disk_io *io, int res)
{
	child_done(kedge_container_of(io, struct uc_child, io.disk), res);
}

static void child_source_cb(struct kedge_source_io *io, int res)
{
	struct uc_child *c = kedge_container_of(io, struct uc_child, io.source);

	c->work->u->counters.nr_waiting--;
	c->work->u->counters.nr_source_errors += res == KEDGE_E_SOURCE_MEDIUM;
	child_done(c, res);
}

static void send_to_source(struct uclone *u, struct uc_child *c)
{
	struct kedge_source_io *s = &c->io.source;
	uint64_t start = kedge_round_down(c->start_bytes, UC_BLOCK);
	uint64_t end = kedge_min_u64(kedge_round_up(c->start_bytes + c->nr_bytes, UC_BLOCK), u->size_bytes);

	*s = (struct kedge_source_io){.prio = KEDGE_PRIO_FOREGROUND, .timeout_ms = u->io_timeout_ms, .fn = child_source_cb};
	s->start_bytes = start;
	s->nr_bytes = end - start;
	s->buf = c->bounce ? c->bounce : c->target;
	u->source->ops->read(u->source, s);
}

/* Read [start, start + n) of kind known to be uniform. Completion through child_done, later. */
static int read_part(struct uc_work *w, uint64_t start, uint64_t n, uint8_t *target, bool is_source)
{
	struct uclone *u = w->u;
	struct uc_child *c = calloc(1, sizeof *c);

	if (!c)
		return -ENOMEM;
	c->work = w;
	c->start_bytes = start;
	c->nr_bytes = n;
	c->target = target;
	c->is_source = is_source;
	if (!is_source) {
		w->nr_children++;
		c->io.disk = (struct kedge_disk_io){
			.op = KEDGE_DISK_READ, .start_bytes = start, .nr_bytes = n, .buf = target, .fn = child_disk_cb};
		kedge_disk_submit(u->env.dest, &c->io.disk);
		return 0;
	}
	bool is_whole = start % UC_BLOCK == 0 && ((start + n) % UC_BLOCK == 0 || start + n == u->size_bytes);
	if (!is_whole || ((uintptr_t)target & (UC_BLOCK - 1))) {
		c->bounce_skip = start % UC_BLOCK;
		c->bounce = kedge_buf_alloc(kedge_round_up(c->bounce_skip + n, UC_BLOCK));
		if (!c->bounce) {
			free(c);
			return -ENOMEM;
		}
	}
	w->nr_children++;
	w->is_from_source = true;
	u->counters.foreground_source_reads++;
	u->counters.nr_waiting++;
	if (u->source) {
		send_to_source(u, c);
	} else {
		c->deadline_ns = u->io_timeout_ms ? uc_now_ns(u) + u->io_timeout_ms * 1000000ull : 0;
		c->next = u->waiting;
		u->waiting = c;
	}
	return 0;
}

void uc_source_arrived(struct uclone *u)
{
	struct uc_child *list = u->waiting;

	u->waiting = NULL;
	while (list) {
		struct uc_child *next = list->next;
		send_to_source(u, list);
		list = next;
	}
}

void uc_waiting_tick(struct uclone *u)
{
	uint64_t now = u->waiting ? uc_now_ns(u) : 0;
	struct uc_child **p = &u->waiting, *late = NULL;

	while (*p) {
		struct uc_child *c = *p;
		if ((c->deadline_ns && c->deadline_ns <= now) || u->is_closing) {
			*p = c->next;
			c->next = late;
			late = c;
		} else {
			p = &c->next;
		}
	}
	while (late) {
		struct uc_child *next = late->next;
		u->counters.nr_waiting--;
		child_done(late, -EIO);
		late = next;
	}
}

enum uclone_block_kind uclone_map(const struct uclone *u, uint64_t start_bytes, uint64_t max_bytes, uint64_t *ret_nr_bytes)
{
	uint64_t end_bytes = kedge_min_u64(u->size_bytes, start_bytes + max_bytes);
	uint64_t b = start_bytes / UC_BLOCK, end = (end_bytes + UC_BLOCK - 1) / UC_BLOCK;
	enum uclone_block_kind kind;
	uint64_t stop;

	if (u->is_passthrough) {
		*ret_nr_bytes = end_bytes - start_bytes;
		return UCLONE_HERE;
	}
	if (uc_is_unknown(u, b, b + 1)) {
		uint64_t s = b / UC_SECTOR_BLOCKS;
		stop = uc_bits_find(&u->unknown, s, (end + UC_SECTOR_BLOCKS - 1) / UC_SECTOR_BLOCKS, false) * UC_SECTOR_BLOCKS;
		kind = UCLONE_UNKNOWN;
	} else if (uc_bit(&u->valid, b)) {
		bool is_written = uc_bit(&u->written, b);
		stop = uc_bits_find(&u->valid, b, end, false);
		stop = uc_bits_find(&u->written, b, stop, !is_written);
		kind = is_written ? UCLONE_WRITTEN : UCLONE_HERE;
	} else {
		const struct uc_bad *bad = uc_find_bad(u, b, b + 1);
		stop = uc_bits_find(&u->valid, b, end, true);
		kind = bad ? UCLONE_BAD : UCLONE_AT_SOURCE;
		if (bad)
			stop = UC_MUTANT(MAP_PAST_BAD) ? stop : kedge_min_u64(stop, bad->end);
		else
			for (bad = u->bad; bad; bad = bad->next)
				if (bad->first > b && bad->first < stop)
					stop = bad->first;
		if (u->nr_unknown_sectors) {
			uint64_t s = uc_bits_find(&u->unknown, b / UC_SECTOR_BLOCKS, u->unknown.nr_bits, true);
			stop = kedge_min_u64(stop, s * UC_SECTOR_BLOCKS);
		}
	}
	*ret_nr_bytes = kedge_min_u64(stop * UC_BLOCK, end_bytes) - start_bytes;
	return kind;
}

/* Start reads of [start, end) into target. Each part's end goes through child_done. */
static int read_range(struct uc_work *w, uint64_t start, uint64_t end, uint8_t *target)
{
	struct uclone *u = w->u;

	if (u->is_failed_before && u->is_passthrough)
		return -EIO; /* any of it may be what the failed flush lost */
	while (start < end) {
		uint64_t n;
		enum uclone_block_kind kind = uclone_map(u, start, end - start, &n);
		int r;

		if (kind == UCLONE_UNKNOWN || kind == UCLONE_BAD)
			return -EIO;
		/* here and written are both at the destination: one read */
		while (kind != UCLONE_AT_SOURCE && start + n < end) {
			uint64_t more;
			enum uclone_block_kind k = uclone_map(u, start + n, end - start - n, &more);
			if (k != UCLONE_HERE && k != UCLONE_WRITTEN)
				break;
			n += more;
		}
		if (u->is_failed && kind != UCLONE_AT_SOURCE && !UC_MUTANT(SHOW_UNCOMMITTED)) {
			uint64_t a = start / UC_BLOCK, b = (start + n - 1) / UC_BLOCK + 1;
			/* what no commit covers may be gone after the failure: it must not be shown now and lost later */
			if (uc_bits_find(&u->unc_now, a, b, true) < b || uc_bits_find(&u->unc_old, a, b, true) < b)
				return -EIO;
		}
		r = read_part(w, start, n, target, kind == UCLONE_AT_SOURCE && !(UC_MUTANT(MERGE_DEST) && w->bounce));
		if (r < 0)
			return r;
		start += n;
		target += n;
	}
	return 0;
}

static void read_done(struct uc_waiter *waiter, int res)
{
	work_end(kedge_container_of(waiter, struct uc_work, waiter));
}

static void begin_read(struct uc_work *w)
{
	struct uclone_io *io = w->io;
	int r;

	w->u->counters.foreground_reads++;
	w->waiter.fn = read_done;
	w->nr_children = 1; /* held by us, so that parts that end cannot end the whole too early */
	r = read_range(w, io->start_bytes, io->start_bytes + io->nr_bytes, io->buf);
	if (r < 0 && w->res == 0)
		w->res = r;
	if (--w->nr_children == 0)
		end_later(w, w->res);
}

/* ---- changes ---- */

static void change_end(struct uc_work *w, int res)
{
	if (w->res == 0)
		w->res = res;
	uc_unlock(&w->u->locks, &w->lock);
	uc_claims_wake(w->u);
	work_end(w);
}

static void fua_done(struct uc_waiter *waiter, int res)
{
	struct uc_work *w = kedge_container_of(waiter, struct uc_work, waiter);

	w->res = res;
	work_end(w);
}

static void data_done(struct kedge_disk_io *dio, int res)
{
	struct uc_work *w = kedge_container_of(dio, struct uc_work, disk_io);
	struct uclone *u = w->u;

	if (res < 0 || u->is_failed) {
		mark_damaged(u, w->first, w->end);
		change_end(w, res < 0 ? res : -EIO);
		return;
	}
	if (u->is_passthrough)
		mark_uncommitted(u, w->first, w->end);
	else
		uc_mark_here(u, w->first, w->end, true);
	uc_unlock(&u->locks, &w->lock);
	uc_claims_wake(u);
	if (w->io->is_fua && !UC_MUTANT(EARLY_ACK)) {
		w->waiter.fn = fua_done;
		uc_commit_wait(u, &w->waiter);
	} else {
		work_end(w);
	}
}

static void write_data(struct uc_work *w)
{
	struct uclone *u = w->u;
	struct uclone_io *io = w->io;
	uint64_t start = w->first * UC_BLOCK, end = kedge_min_u64(w->end * UC_BLOCK, u->size_bytes);

	w->disk_io = (struct kedge_disk_io){.start_bytes = start, .nr_bytes = end - start, .fn = data_done};
	if (w->bounce || io->op == UCLONE_WRITE) {
		w->disk_io.op = KEDGE_DISK_WRITE;
		w->disk_io.buf = w->bounce ? w->bounce : io->buf;
	} else {
		w->disk_io.op = KEDGE_DISK_ZERO; /* over what the workload wrote: nothing may stay because it is called a hole */
		w->disk_io.may_stay_hole = UC_MUTANT(DISCARD_BY_HOLES);
		if (UC_MUTANT(DISCARD_NO_ZERO) && io->op == UCLONE_DISCARD)
			w->disk_io.op = KEDGE_DISK_FLUSH;
	}
	if (UC_MUTANT(EARLY_BIT))
		uc_mark_here(u, w->first, w->end, true); /* bits before the data */
	kedge_disk_submit(u->env.dest, &w->disk_io);
}

/* The partial blocks at the edges are in the bounce buffer: lay the new content over them. */
static void merged(struct uc_waiter *waiter, int res)
{
	struct uc_work *w = kedge_container_of(waiter, struct uc_work, waiter);
	struct uclone_io *io = w->io;
	uint8_t *at = w->bounce + (io->start_bytes - w->first * UC_BLOCK);

	if (res < 0) {
		change_end(w, res);
		return;
	}
	if (io->op == UCLONE_WRITE)
		memcpy(at, io->buf, io->nr_bytes);
	else
		memset(at, 0, io->nr_bytes);
	write_data(w);
}

static void read_edges(struct uc_work *w)
{
	struct uclone *u = w->u;
	struct uclone_io *io = w->io;
	uint64_t start = w->first * UC_BLOCK, end = kedge_min_u64(w->end * UC_BLOCK, u->size_bytes);
	uint64_t io_end = io->start_bytes + io->nr_bytes;
	bool has_head = io->start_bytes > start, has_tail = io_end < end;
	int r = 0;

	if (io->op == UCLONE_DISCARD || (!has_head && !has_tail)) {
		write_data(w);
		return;
	}
	w->bounce = kedge_buf_alloc(end - start);
	if (!w->bounce) {
		change_end(w, -ENOMEM);
		return;
	}
	w->waiter.fn = merged;
	w->nr_children = 1;
	if (has_head)
		r = read_range(w, start, start + uc_block_bytes(u, w->first), w->bounce);
	if (r == 0 && has_tail && !(has_head && w->end == w->first + 1)) {
		uint64_t at = (w->end - 1) * UC_BLOCK;
		r = read_range(w, at, at + uc_block_bytes(u, w->end - 1), w->bounce + (at - start));
	}
	if (r < 0 && w->res == 0)
		w->res = r;
	if (--w->nr_children == 0)
		merged(&w->waiter, w->res);
}

static void intent_done(struct uc_waiter *waiter, int res)
{
	struct uc_work *w = kedge_container_of(waiter, struct uc_work, waiter);

	if (res < 0)
		change_end(w, res);
	else
		read_edges(w);
}

/* Groups of the range that hold copied, unwritten blocks and whose intent is not durable yet get it. */
static bool needs_intent(struct uc_work *w)
{
	struct uclone *u = w->u;
	bool is_needed = false;

	if (u->is_passthrough || UC_MUTANT(NO_INTENT))
		return false;
	for (uint64_t b = w->first; b < w->end;) {
		uint64_t g = uc_group_of(b), end = kedge_min_u64((g + 1) * UC_GROUP_BLOCKS, w->end);
		bool has_copied = false;

		for (uint64_t i = b; i < end && !has_copied; i++)
			has_copied = uc_bit(&u->valid, i) && !uc_bit(&u->written, i);
		if (has_copied && !uc_bit(&u->intent_durable, g)) {
			uc_bit_set(&u->intent, g);
			uc_mark_dirty(u, b);
			is_needed = true;
		}
		b = end;
	}
	return is_needed;
}

static void change_locked(struct uc_work *w)
{
	struct uclone *u = w->u;

	if (u->is_failed || u->is_aborted || (!u->is_passthrough && uc_is_unknown(u, w->first, w->end))) {
		change_end(w, -EIO);
	} else if (needs_intent(w)) {
		w->waiter.fn = intent_done;
		uc_commit_wait(u, &w->waiter);
	} else {
		read_edges(w);
	}
}

static void change_granted(struct uc_lock *k)
{
	change_locked(kedge_container_of(k, struct uc_work, lock));
}

static void change_cb(void *arg)
{
	struct uc_work *w = arg;

	w->lock.granted = change_granted;
	if (uc_lock(&w->u->locks, &w->lock, UC_MUTANT(WRITE_NO_LOCK) ? w->end : w->first, w->end))
		change_locked(w);
}

static void begin_change(struct uc_work *w)
{
	struct uclone *u = w->u;
	struct uclone_io *io = w->io;

	u->counters.foreground_writes++;
	w->is_change = true;
	u->nr_changes++;
	if (io->op == UCLONE_DISCARD) {
		/* whole blocks only; the edges stay as they are */
		w->first = (io->start_bytes + UC_BLOCK - 1) / UC_BLOCK;
		w->end = io->start_bytes + io->nr_bytes == u->size_bytes ? u->nr_blocks
									 : (io->start_bytes + io->nr_bytes) / UC_BLOCK;
		if (w->first >= w->end) {
			end_later(w, 0);
			return;
		}
	}
	w->defer = (struct kedge_defer){.fn = change_cb, .arg = w};
	kedge_defer_add(u->env.defer, &w->defer);
}

/* ---- flush and entry ---- */

void uclone_submit(struct uclone *u, struct uclone_io *io)
{
	struct uc_work *w = calloc(1, sizeof *w);

	kedge_assert(w != NULL);
	w->u = u;
	w->io = io;
	w->begin_ns = u->env.io_fn ? uc_now_ns(u) : 0;
	u->nr_ios++;
	if (io->op == UCLONE_FLUSH) {
		w->waiter.fn = fua_done;
		if (u->is_failed)
			end_later(w, -EIO);
		else
			uc_commit_wait(u, &w->waiter);
		return;
	}
	if (io->start_bytes % 512 || io->nr_bytes % 512 || io->start_bytes > u->size_bytes ||
	    io->nr_bytes > u->size_bytes - io->start_bytes) {
		end_later(w, -EINVAL);
		return;
	}
	if (io->nr_bytes == 0 || (u->is_failed && io->op != UCLONE_READ)) {
		end_later(w, io->nr_bytes ? -EIO : 0);
		return;
	}
	w->first = io->start_bytes / UC_BLOCK;
	w->end = (io->start_bytes + io->nr_bytes - 1) / UC_BLOCK + 1;
	if (io->op == UCLONE_READ)
		begin_read(w);
	else
		begin_change(w);
}
