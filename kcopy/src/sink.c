/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The destination of a plain copy: claims over a bitmap, filled part by part.
 *
 * Owns. The bitmaps and the claims under way; the map file is sink_map.c's business.
 *
 * Locks. None: loop thread only.
 *
 * Crash. See sink_map.c: what is in memory here says "written", what is in the map says "durable".
 */
#include "sink_map.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdlib.h>

#include "kedge/bytes.h"
#include "kedge/file.h"

struct sink_claim {
	struct kedge_claim claim;
	struct kcopy_sink *sink;
	struct kedge_disk_io io;
	struct kedge_op punch;
	struct kedge_defer later;
	const char *buf;
	const struct kedge_seg *segs;
	uint32_t nr_segs, seg;
	uint64_t done_bytes;
	kedge_claim_fn fn;
	void *arg;
	struct sink_claim *next;
};

struct audit {
	struct kedge_disk_io io;
	kedge_claim_fn fn;
	void *arg;
};

static struct kcopy_sink *sink_of(struct kedge_claims *c)
{
	return kedge_container_of(c, struct kcopy_sink, claims);
}

static uint64_t blocks_of(uint64_t bytes)
{
	return (bytes + KEDGE_BLOCK_BYTES - 1) / KEDGE_BLOCK_BYTES;
}

/* ---- claims ---- */

static void wake_cb(void *arg)
{
	struct kcopy_sink *s = arg;

	if (s->claims.wake_fn)
		s->claims.wake_fn(s->claims.wake_arg);
}

static void end_claim(struct sink_claim *c)
{
	struct kcopy_sink *s = c->sink;
	struct sink_claim **at = &s->used;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	c->next = s->unused;
	s->unused = c;
	if (s->must_wake && !s->wake.is_queued) {
		s->must_wake = false;
		kedge_loop_defer(s->loop, &s->wake);
	}
}

static struct sink_claim *new_claim(struct kcopy_sink *s, uint64_t start_bytes, uint64_t end_bytes)
{
	struct sink_claim *c = s->unused;

	if (c)
		s->unused = c->next;
	else
		c = malloc(sizeof *c);
	if (!c)
		return NULL;
	*c = (struct sink_claim){
		.claim = { .start_bytes = start_bytes, .nr_bytes = end_bytes - start_bytes },
		.sink = s,
		.next = s->used,
	};
	s->used = c;
	return c;
}

/* Cut [*at, *end) down to what no claim owns, from the front. False: a claim owns *at; *at is behind it now. */
static bool avoid_claims(const struct kcopy_sink *s, uint64_t *at_bytes, uint64_t *end_bytes)
{
	for (const struct sink_claim *c = s->used; c; c = c->next) {
		uint64_t start = c->claim.start_bytes, end = start + c->claim.nr_bytes;

		if (start <= *at_bytes && *at_bytes < end) {
			*at_bytes = end;
			return false;
		}
		if (start > *at_bytes && start < *end_bytes)
			*end_bytes = start;
	}
	return true;
}

static int sink_take(struct kedge_claims *claims, uint64_t from_bytes, uint64_t end_bytes, uint64_t max_bytes,
		     struct kedge_claim **ret_claim)
{
	struct kcopy_sink *s = sink_of(claims);
	uint64_t at = from_bytes;
	bool is_owned = false;

	if (s->fail_code)
		return s->fail_code;
	end_bytes = kedge_min_u64(end_bytes, claims->size_bytes);
	while (at < end_bytes) {
		uint64_t last = blocks_of(end_bytes);
		uint64_t first = kcopy_bitmap_next(&s->here, at / KEDGE_BLOCK_BYTES, last, false);
		if (first == last)
			break;
		if (kcopy_bitmap_get(&s->bad, first)) {
			at = kcopy_bitmap_next(&s->bad, first, last, false) * KEDGE_BLOCK_BYTES;
			continue;
		}
		uint64_t limit = kedge_min_u64(last, first + blocks_of(max_bytes));
		uint64_t run_end = kcopy_bitmap_next(&s->here, first, limit, true);
		run_end = kcopy_bitmap_next(&s->bad, first, run_end, true);
		uint64_t run_end_bytes = kedge_min_u64(run_end * KEDGE_BLOCK_BYTES, end_bytes);
		at = first * KEDGE_BLOCK_BYTES;
		if (!avoid_claims(s, &at, &run_end_bytes)) {
			is_owned = true;
			continue;
		}
		struct sink_claim *c = new_claim(s, at, run_end_bytes);
		if (!c)
			return -ENOMEM;
		*ret_claim = &c->claim;
		return 0;
	}
	if (is_owned)
		s->must_wake = true;
	return is_owned ? -EAGAIN : -ENODATA;
}

static void sink_drop(struct kedge_claims *claims, struct kedge_claim *claim, int res)
{
	struct kcopy_sink *s = sink_of(claims);
	struct sink_claim *c = kedge_container_of(claim, struct sink_claim, claim);

	if (res == KEDGE_E_SOURCE_MEDIUM)
		kcopy_bitmap_set(&s->bad, claim->start_bytes / KEDGE_BLOCK_BYTES, blocks_of(claim->start_bytes + claim->nr_bytes));
	end_claim(c);
}

/* ---- filling: the parts of a claim one after the other ---- */

static void fill_step(struct sink_claim *c);

static void fill_end(struct sink_claim *c, int res)
{
	struct kcopy_sink *s = c->sink;
	kedge_claim_fn fn = c->fn;
	void *arg = c->arg;

	if (res == 0)
		res = kcopy_bitmap_set(&s->here, c->claim.start_bytes / KEDGE_BLOCK_BYTES,
				       blocks_of(c->claim.start_bytes + c->claim.nr_bytes));
	end_claim(c);
	fn(arg, res);
}

static void seg_done(struct sink_claim *c, int res)
{
	if (res < 0) {
		fill_end(c, res);
		return;
	}
	c->done_bytes += c->segs[c->seg].nr_bytes;
	if (++c->seg == c->nr_segs)
		fill_end(c, 0);
	else
		fill_step(c);
}

static void disk_cb(struct kedge_disk_io *io, int res)
{
	seg_done(kedge_container_of(io, struct sink_claim, io), res);
}

static void disk_step(struct sink_claim *c, enum kedge_disk_op op)
{
	c->io = (struct kedge_disk_io){
		.op = op,
		.start_bytes = c->claim.start_bytes + c->done_bytes,
		.nr_bytes = c->segs[c->seg].nr_bytes,
		.buf = op == KEDGE_DISK_WRITE ? (void *)(uintptr_t)(c->buf + c->done_bytes) : NULL,
		.fn = disk_cb,
		.may_stay_hole = op == KEDGE_DISK_ZERO,
	};
	kedge_disk_submit(c->sink->disk, &c->io);
}

static void punch_cb(struct kedge_op *op, int res)
{
	struct sink_claim *c = kedge_container_of(op, struct sink_claim, punch);

	if (res == -EOPNOTSUPP || res == -ENOSYS || res == -EINVAL) {
		c->sink->punch_fd = -1; /* this file system has no holes to make */
		disk_step(c, KEDGE_DISK_ZERO);
	} else if (res == -EINTR || res == -EAGAIN) {
		fill_step(c);
	} else {
		seg_done(c, res);
	}
}

static void is_hole_cb(void *arg)
{
	seg_done(arg, 0);
}

static void fill_step(struct sink_claim *c)
{
	const struct kedge_seg *seg = &c->segs[c->seg];
	uint64_t start_bytes = c->claim.start_bytes + c->done_bytes;

	if (seg->is_zero && c->sink->punch_fd >= 0 &&
	    kedge_disk_hole_end(c->sink->disk, start_bytes, start_bytes + seg->nr_bytes) == start_bytes + seg->nr_bytes) {
		c->later = (struct kedge_defer){ .fn = is_hole_cb, .arg = c }; /* nothing to punch */
		kedge_loop_defer(c->sink->loop, &c->later);
	} else if (!seg->is_zero) {
		disk_step(c, KEDGE_DISK_WRITE);
	} else if (c->sink->punch_fd >= 0) {
		c->punch.fn = punch_cb;
		kedge_op_fallocate(c->sink->loop, &c->punch, c->sink->punch_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   start_bytes, seg->nr_bytes);
	} else {
		disk_step(c, KEDGE_DISK_ZERO);
	}
}

static void sink_fill(struct kedge_claims *claims, struct kedge_claim *claim, const void *buf, const struct kedge_seg *segs,
		      uint32_t nr_segs, kedge_claim_fn fn, void *arg)
{
	struct sink_claim *c = kedge_container_of(claim, struct sink_claim, claim);

	c->buf = buf;
	c->segs = segs;
	c->nr_segs = nr_segs;
	c->seg = 0;
	c->done_bytes = 0;
	c->fn = fn;
	c->arg = arg;
	fill_step(c);
}

/* ---- comparison ---- */

static int sink_audit_next(struct kedge_claims *claims, uint64_t from_bytes, uint64_t max_bytes, uint64_t *ret_start_bytes,
			   uint64_t *ret_nr_bytes)
{
	struct kcopy_sink *s = sink_of(claims);
	uint64_t last = blocks_of(claims->size_bytes);
	uint64_t first = kcopy_bitmap_next(&s->here, blocks_of(from_bytes), last, true);

	if (first >= last)
		return -ENODATA;
	uint64_t end = kcopy_bitmap_next(&s->here, first, kedge_min_u64(last, first + blocks_of(max_bytes)), false);
	*ret_start_bytes = first * KEDGE_BLOCK_BYTES;
	*ret_nr_bytes = kedge_min_u64(end * KEDGE_BLOCK_BYTES, claims->size_bytes) - *ret_start_bytes;
	return 0;
}

static void audit_cb(struct kedge_disk_io *io, int res)
{
	struct audit *a = kedge_container_of(io, struct audit, io);
	kedge_claim_fn fn = a->fn;
	void *arg = a->arg;

	free(a);
	fn(arg, res);
}

static void sink_audit_read(struct kedge_claims *claims, uint64_t start_bytes, uint64_t nr_bytes, void *buf, kedge_claim_fn fn,
			    void *arg)
{
	struct audit *a = calloc(1, sizeof *a);

	kedge_assert(a != NULL);
	a->fn = fn;
	a->arg = arg;
	a->io = (struct kedge_disk_io){
		.op = KEDGE_DISK_READ, .start_bytes = start_bytes, .nr_bytes = nr_bytes, .buf = buf, .fn = audit_cb
	};
	kedge_disk_submit(sink_of(claims)->disk, &a->io);
}

static uint64_t sink_audit_hole_end(struct kedge_claims *claims, uint64_t start_bytes, uint64_t end_bytes)
{
	return kedge_disk_hole_end(sink_of(claims)->disk, start_bytes, end_bytes);
}

static const struct kedge_claims_ops sink_ops = {
	.take = sink_take,
	.fill = sink_fill,
	.drop = sink_drop,
	.audit_next = sink_audit_next,
	.audit_read = sink_audit_read,
	.audit_hole_end = sink_audit_hole_end,
};

int kcopy_sink_create(struct kedge_loop *l, const struct kcopy_sink_opts *o, struct kcopy_sink **ret_sink,
		      struct kedge_err *err)
{
	struct kcopy_sink *s = calloc(1, sizeof *s);
	int rc = 0;

	if (!s)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for a copy");
	s->loop = l;
	s->disk = o->disk;
	s->punch_fd = o->punch_fd;
	s->map_fd = -1;
	s->claims.ops = &sink_ops;
	s->claims.size_bytes = o->size_bytes;
	s->wake.fn = wake_cb;
	s->wake.arg = s;
	s->pages = malloc((size_t)KCOPY_COMMIT_PAGES * KCOPY_MAP_PAGE_BYTES);
	if (!s->pages || kcopy_bitmap_init(&s->here, blocks_of(o->size_bytes)) < 0 ||
	    kcopy_bitmap_init(&s->bad, blocks_of(o->size_bytes)) < 0)
		rc = kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for a map of %" PRIu64 " bytes", o->size_bytes);
	if (rc == 0 && o->map_path) {
		rc = kcopy_sink_open_map(s, o, err);
		if (rc < 0)
			kedge_err_prefix(err, "%s", o->map_path);
	}
	if (rc < 0) {
		kcopy_sink_destroy(s);
		return rc;
	}
	*ret_sink = s;
	return 0;
}

struct kedge_claims *kcopy_sink_claims(struct kcopy_sink *s)
{
	return &s->claims;
}

void kcopy_sink_status(const struct kcopy_sink *s, struct kcopy_sink_status *ret_status)
{
	uint64_t size_bytes = s->claims.size_bytes;

	*ret_status = (struct kcopy_sink_status){
		.filled_bytes = kedge_min_u64(s->here.nr_set * KEDGE_BLOCK_BYTES, size_bytes),
		.durable_bytes = kedge_min_u64(s->durable_blocks * KEDGE_BLOCK_BYTES, size_bytes),
		.bad_bytes = s->bad.nr_set * KEDGE_BLOCK_BYTES,
		.resumed_bytes = kedge_min_u64(s->resumed_blocks * KEDGE_BLOCK_BYTES, size_bytes),
		.nr_damaged_pages = s->nr_damaged_pages,
	};
}

int kcopy_sink_next_bad(const struct kcopy_sink *s, uint64_t from_bytes, uint64_t *ret_start_bytes, uint64_t *ret_nr_bytes)
{
	uint64_t last = s->bad.nr_bits;
	uint64_t first = kcopy_bitmap_next(&s->bad, from_bytes / KEDGE_BLOCK_BYTES, last, true);

	if (first >= last)
		return -ENODATA;
	*ret_start_bytes = first * KEDGE_BLOCK_BYTES;
	*ret_nr_bytes = kcopy_bitmap_next(&s->bad, first, last, false) * KEDGE_BLOCK_BYTES - *ret_start_bytes;
	return 0;
}

void kcopy_sink_destroy(struct kcopy_sink *s)
{
	struct sink_claim *next;

	if (!s)
		return;
	kedge_defer_remove(kedge_loop_defer_queue(s->loop), &s->wake);
	for (struct sink_claim *c = s->unused; c; c = next) {
		next = c->next;
		free(c);
	}
	kcopy_bitmap_fini(&s->here);
	kcopy_bitmap_fini(&s->bad);
	free(s->pages);
	kedge_close(s->map_fd);
	free(s);
}
