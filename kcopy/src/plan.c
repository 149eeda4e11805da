/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Decides which run of blocks a hydrator takes next: what its owner wants first, then passes over the volume from start to end,
 * holes in large claims that are not read, data in copies, ranges with read errors in ever smaller pieces, until the claims say that nothing is left.
 *
 * Owns. The cursor, the window of known extents and the one question to the source that is under way.
 *
 * Locks. None: loop thread only.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "hydrator.h"
#include "kedge/bytes.h"

/* A claim of a hole is as large as it can be without a write inside it waiting long: how long zeroing takes, the last ones say. Not larger than this,
 * for where holes of the destination end what it holds has to be zeroed. */
#define HOLE_BYTES_MIN (64ull << 20)
#define HOLE_BYTES_MAX (4ull << 30)
#define HOLE_QUICK_NS 10000000u
#define HOLE_SLOW_NS 50000000u
/* When less than this is known ahead, the source is asked for more of its extents, for as many as an answer holds. */
#define AHEAD_BYTES (512ull * 1024 * 1024)

void kcopy_plan_start(struct kcopy_hydrator *h)
{
	h->cursor_bytes = 0;
	h->has_progress = false;
	h->nr_suspects = 0;
	if (h->hole_bytes == 0)
		h->hole_bytes = HOLE_BYTES_MIN;
	kcopy_extents_init(&h->extents, h->claims->size_bytes);
}

static void extents_cb(struct kedge_source_io *io, int res)
{
	struct kcopy_hydrator *h = io->arg;

	h->is_asking = false;
	if (res == 0)
		kcopy_extents_add(&h->extents, io->start_bytes, io->extents, io->ret_nr_extents);
	else if (kedge_err_class_of(res) != KEDGE_CLASS_TRANSIENT && res != -ECANCELED)
		kcopy_hydrator_fail(h, res, &io->err, "asking the source for its extents");
	kcopy_hydrator_pump(h);
}

void kcopy_plan_ask(struct kcopy_hydrator *h, uint64_t from_bytes)
{
	if (h->is_asking || from_bytes >= h->claims->size_bytes)
		return;
	h->is_asking = true;
	h->extents_io = (struct kedge_source_io){
		.start_bytes = from_bytes,
		.nr_bytes = h->claims->size_bytes - from_bytes,
		.extents = h->answer,
		.nr_extents_max = KEDGE_ARRAY_LEN(h->answer),
		.prio = KEDGE_PRIO_BACKGROUND,
		.fn = extents_cb,
		.arg = h,
	};
	h->src->ops->extents(h->src, &h->extents_io);
}

bool kcopy_plan_extent_at(struct kcopy_hydrator *h, uint64_t at_bytes, bool *ret_is_hole, uint64_t *ret_end_bytes)
{
	kcopy_extents_trim(&h->extents, at_bytes);
	if (!kcopy_extents_at(&h->extents, at_bytes, ret_is_hole, ret_end_bytes))
		return false;
	if (h->extents.end_bytes < at_bytes + AHEAD_BYTES && h->extents.nr < KCOPY_EXTENTS_MAX / 2)
		kcopy_plan_ask(h, h->extents.end_bytes);
	return true;
}

static int take(struct kcopy_hydrator *h, uint64_t from, uint64_t end, uint64_t max, struct kedge_claim **ret_claim)
{
	return h->claims->ops->take(h->claims, from, end, max, ret_claim);
}

/* Nothing is known at the cursor: skip what is here already, then ask. 0, or take's code. */
static int skip_and_ask(struct kcopy_hydrator *h)
{
	struct kedge_claim *claim;
	int rc = take(h, h->cursor_bytes, h->claims->size_bytes, KEDGE_BLOCK_BYTES, &claim);

	if (rc == 0) {
		h->cursor_bytes = claim->start_bytes;
		h->claims->ops->drop(h->claims, claim, 0);
		kcopy_plan_ask(h, h->cursor_bytes);
	} else if (rc == -EAGAIN || rc == -ENODATA) {
		h->cursor_bytes = h->claims->size_bytes;
		rc = 0;
	}
	return rc;
}

/* The next piece of a range with read errors. -ENODATA when there is none. */
static int take_suspect(struct kcopy_hydrator *h, struct kedge_claim **ret_claim)
{
	while (h->nr_suspects > 0) {
		struct kcopy_suspect *s = &h->suspects[h->nr_suspects - 1];
		int rc = take(h, s->start_bytes, s->end_bytes, kedge_min_u64(s->grain_bytes, h->next_bytes), ret_claim);

		if (rc == 0)
			s->start_bytes = (*ret_claim)->start_bytes + (*ret_claim)->nr_bytes;
		if (rc != 0 || s->start_bytes >= s->end_bytes)
			h->nr_suspects--;
		if (rc != -ENODATA && rc != -EAGAIN)
			return rc;
	}
	return -ENODATA;
}

bool kcopy_plan_is_at_first(const struct kcopy_hydrator *h)
{
	return !h->is_comparing && h->next_first < h->nr_first;
}

/* What is wanted first is wanted by the workload and comes in small pieces: as many may be under way as hold up a read of it no longer than
 * copies of the sweep would. */
bool kcopy_plan_has_room(struct kcopy_hydrator *h)
{
	if (!kcopy_plan_is_at_first(h))
		return h->nr_busy < h->nr_inflight;
	bool is_beside = h->governor && kcopy_governor_has_workload(h->governor, kedge_loop_now_ns(h->loop));
	return h->nr_busy == 0 || h->issued_bytes < (is_beside ? KCOPY_FIRST_BYTES : (uint64_t)h->nr_inflight * h->copy_bytes);
}

/* The next piece of what is wanted first; once, for the sweep finds what was passed over. -ENODATA when there is none. */
static int take_first(struct kcopy_hydrator *h, struct kedge_claim **ret_claim)
{
	while (h->next_first < h->nr_first) {
		const struct kcopy_range *r = &h->first[h->next_first];
		int rc = take(h, kedge_max_u64(r->start_bytes, h->first_at_bytes), r->end_bytes, h->next_bytes, ret_claim);

		if (rc == 0)
			h->first_at_bytes = (*ret_claim)->start_bytes + (*ret_claim)->nr_bytes;
		if (rc != 0 || h->first_at_bytes >= kedge_min_u64(r->end_bytes, h->claims->size_bytes)) {
			h->next_first++;
			h->first_at_bytes = 0;
		}
		if (rc != -ENODATA && rc != -EAGAIN)
			return rc;
	}
	return -ENODATA;
}

/* The cursor is at the end and nothing is in flight. */
static enum kcopy_next end_of_pass(struct kcopy_hydrator *h, int *ret_res)
{
	struct kedge_claim *claim;
	int rc = h->claims->ops->take(h->claims, 0, h->claims->size_bytes, KEDGE_BLOCK_BYTES, &claim);

	if (rc == -ENODATA)
		return KCOPY_NEXT_END;
	if (rc == 0)
		h->claims->ops->drop(h->claims, claim, 0);
	else if (rc != -EAGAIN) {
		*ret_res = rc;
		return KCOPY_NEXT_FAIL;
	}
	/* A pass that moved nothing would only be repeated: the next one waits for a wake or the timer, which set has_progress. */
	if (rc == 0 && h->has_progress) {
		kcopy_plan_start(h);
		kcopy_hydrator_pump(h);
	}
	return KCOPY_NEXT_WAIT;
}

enum kcopy_next kcopy_plan_next(struct kcopy_hydrator *h, struct kedge_claim **ret_claim, int *ret_res)
{
	uint64_t size_bytes = h->claims->size_bytes, end;
	bool is_hole;
	int rc = take_suspect(h, ret_claim);

	if (rc == -ENODATA)
		rc = take_first(h, ret_claim);
	if (rc == 0)
		return KCOPY_NEXT_DATA;
	while (rc == -ENODATA || rc == -EAGAIN) {
		if (h->cursor_bytes >= size_bytes)
			return h->nr_busy > 0 || h->is_asking ? KCOPY_NEXT_WAIT : end_of_pass(h, ret_res);
		if (!kcopy_plan_extent_at(h, h->cursor_bytes, &is_hole, &end)) {
			if (h->is_asking)
				return KCOPY_NEXT_WAIT;
			rc = skip_and_ask(h);
			if (rc == 0)
				rc = -ENODATA;
			continue;
		}
		rc = take(h, h->cursor_bytes, end, is_hole ? h->hole_bytes : h->next_bytes, ret_claim);
		if (rc == 0) {
			h->cursor_bytes = (*ret_claim)->start_bytes + (*ret_claim)->nr_bytes;
			return is_hole ? KCOPY_NEXT_HOLE : KCOPY_NEXT_DATA;
		}
		if (rc == -ENODATA || rc == -EAGAIN)
			h->cursor_bytes = end;
	}
	*ret_res = rc;
	return KCOPY_NEXT_FAIL;
}

void kcopy_plan_hole_filled(struct kcopy_hydrator *h, uint64_t nr_bytes, uint64_t took_ns)
{
	if (took_ns > HOLE_SLOW_NS && h->hole_bytes > HOLE_BYTES_MIN)
		h->hole_bytes /= 2;
	else if (took_ns < HOLE_QUICK_NS && nr_bytes == h->hole_bytes && h->hole_bytes < HOLE_BYTES_MAX)
		h->hole_bytes *= 2;
}

void kcopy_plan_tell_bad(struct kcopy_hydrator *h)
{
	char text[128];

	if (h->untold_bytes == 0)
		return;
	if (h->untold_bytes == h->untold_end_bytes - h->untold_start_bytes)
		snprintf(text, sizeof text, "the source cannot read bytes %" PRIu64 " to %" PRIu64, h->untold_start_bytes, h->untold_end_bytes);
	else
		snprintf(text, sizeof text, "the source cannot read %" PRIu64 " of the bytes from %" PRIu64 " to %" PRIu64, h->untold_bytes,
			 h->untold_start_bytes, h->untold_end_bytes);
	h->untold_bytes = 0;
	kcopy_hydrator_event(h, "SOURCE_BAD_RANGE", text);
}

void kcopy_plan_medium_error(struct kcopy_hydrator *h, struct kedge_claim *claim)
{
	uint64_t start_bytes = claim->start_bytes, nr_bytes = claim->nr_bytes;

	if (nr_bytes <= KEDGE_BLOCK_BYTES) {
		h->claims->ops->drop(h->claims, claim, KEDGE_E_SOURCE_MEDIUM);
		h->bad_bytes += nr_bytes;
		h->untold_start_bytes = h->untold_bytes ? kedge_min_u64(h->untold_start_bytes, start_bytes) : start_bytes;
		h->untold_end_bytes = h->untold_bytes ? kedge_max_u64(h->untold_end_bytes, start_bytes + nr_bytes) : start_bytes + nr_bytes;
		h->untold_bytes += nr_bytes;
		return;
	}
	h->claims->ops->drop(h->claims, claim, 0);
	h->has_progress = true; /* the next pass finds it when there is no room here */
	if (h->nr_suspects < KCOPY_SUSPECTS_MAX)
		h->suspects[h->nr_suspects++] = (struct kcopy_suspect){
			.start_bytes = start_bytes,
			.end_bytes = start_bytes + nr_bytes,
			.grain_bytes = kedge_max_u64(KEDGE_BLOCK_BYTES, kedge_round_down(nr_bytes / 8, KEDGE_BLOCK_BYTES)),
		};
}
