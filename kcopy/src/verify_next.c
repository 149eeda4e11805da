/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What the final comparison looks at next. Data is read on both sides. Of a hole the source is asked anew, not believed from memory;
 * where the destination reads as zeroes too the two agree, and a sample of every piece is read at the source all the same, at a place that
 * nobody can know before: a target that calls data a hole is found (decision 0013 says how surely).
 *
 * Owns. The piece of a hole that is being agreed on.
 *
 * Locks. None: loop thread only.
 */
#include <sys/random.h>

#include "hydrator.h"
#include "kedge/bytes.h"

/* A hole is sampled once in each of these, and at least once. */
#define CELL_BYTES (4ull << 30)
/* So much of it, in the first so many pieces; of the ones after those a block. */
#define SAMPLE_BYTES (64u * 1024)
#define LARGE_SAMPLES 4096

void kcopy_verify_next_begin(struct kcopy_hydrator *h)
{
	h->piece = (struct kcopy_piece){ 0 };
	h->own_hole_start_bytes = h->own_hole_end_bytes = 0;
	h->nr_samples = 0;
	h->seed = h->seed_given;
	if (h->seed == 0 && getrandom(&h->seed, sizeof h->seed, 0) != sizeof h->seed)
		h->seed = kedge_clock_ns();
	h->seed &= (1ull << 53) - 1; /* JSON's numbers carry no more */
	kcopy_extents_init(&h->extents, h->claims->size_bytes); /* nothing of what was said before counts */
}

/* splitmix64 */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static void choose_sample(struct kcopy_hydrator *h)
{
	struct kcopy_piece *p = &h->piece;
	uint32_t want_bytes = h->nr_samples++ < LARGE_SAMPLES ? SAMPLE_BYTES : KEDGE_BLOCK_BYTES;
	uint64_t nr_blocks = (p->end_bytes - p->at_bytes + KEDGE_BLOCK_BYTES - 1) / KEDGE_BLOCK_BYTES;
	uint64_t nr = kedge_min_u64(kedge_min_u64(want_bytes, h->copy_bytes) / KEDGE_BLOCK_BYTES, nr_blocks);
	uint64_t first = mix(h->seed ^ mix(p->at_bytes)) % (nr_blocks - nr + 1);

	p->sample_start_bytes = p->at_bytes + first * KEDGE_BLOCK_BYTES;
	p->sample_end_bytes = kedge_min_u64(p->sample_start_bytes + nr * KEDGE_BLOCK_BYTES, p->end_bytes);
}

/* Where the destination's zeroes end, as far as it knows without reading. What it said of a large range is remembered: what is written there later is
 * the workload's. */
static uint64_t own_hole_end(struct kcopy_hydrator *h)
{
	const struct kcopy_piece *p = &h->piece;

	if (!h->claims->ops->audit_hole_end)
		return p->at_bytes;
	if (p->at_bytes < h->own_hole_start_bytes || p->at_bytes >= h->own_hole_end_bytes) {
		h->own_hole_start_bytes = p->at_bytes;
		h->own_hole_end_bytes = h->claims->ops->audit_hole_end(h->claims, p->at_bytes, p->extent_end_bytes);
	}
	return h->own_hole_end_bytes;
}

/* The next part of the piece that has to be read. False: it is through. */
static bool next_of_piece(struct kcopy_hydrator *h, uint64_t max_bytes, enum kcopy_check *ret_check, uint64_t *ret_start_bytes,
			  uint64_t *ret_nr_bytes)
{
	struct kcopy_piece *p = &h->piece;

	while (p->at_bytes < p->end_bytes) {
		uint64_t stop = p->at_bytes < p->sample_start_bytes ? p->sample_start_bytes : p->end_bytes;
		bool is_sample = p->at_bytes == p->sample_start_bytes;
		uint64_t hole_end = is_sample ? p->at_bytes : kedge_min_u64(own_hole_end(h), stop);

		if (hole_end > p->at_bytes) {
			h->agreed_bytes += hole_end - p->at_bytes;
			p->at_bytes = hole_end;
			continue;
		}
		*ret_check = is_sample ? KCOPY_CHECK_SAMPLE : KCOPY_CHECK_OWN;
		*ret_start_bytes = p->at_bytes;
		*ret_nr_bytes = (is_sample ? p->sample_end_bytes : kedge_min_u64(stop, p->at_bytes + max_bytes)) - p->at_bytes;
		p->at_bytes += *ret_nr_bytes;
		return true;
	}
	return false;
}

enum kcopy_check kcopy_verify_next(struct kcopy_hydrator *h, uint64_t max_bytes, uint64_t *ret_start_bytes, uint64_t *ret_nr_bytes)
{
	const struct kedge_claims_ops *ops = h->claims->ops;
	uint64_t start_bytes, nr_bytes, end_bytes = 0, want_bytes;
	enum kcopy_check check;
	bool is_hole = false;

	for (;;) {
		if (next_of_piece(h, max_bytes, &check, ret_start_bytes, ret_nr_bytes))
			return check;
		if (h->cursor_bytes >= h->claims->size_bytes ||
		    ops->audit_next(h->claims, h->cursor_bytes, KEDGE_BLOCK_BYTES, &start_bytes, &nr_bytes) < 0) {
			h->cursor_bytes = h->claims->size_bytes;
			return KCOPY_CHECK_END;
		}
		h->cursor_bytes = start_bytes;
		want_bytes = max_bytes;
		if (h->holes == KCOPY_HOLES_BY_STATUS) {
			if (!kcopy_plan_extent_at(h, start_bytes, &is_hole, &end_bytes)) {
				kcopy_plan_ask(h, start_bytes);
				return KCOPY_CHECK_WAIT;
			}
			uint64_t cell_end = (start_bytes / CELL_BYTES + 1) * CELL_BYTES;
			want_bytes = is_hole ? kedge_min_u64(cell_end, end_bytes) - start_bytes : kedge_min_u64(max_bytes, end_bytes - start_bytes);
		}
		/* the same block again, and those that follow it */
		int rc = ops->audit_next(h->claims, start_bytes, want_bytes, ret_start_bytes, ret_nr_bytes);
		kedge_assert(rc == 0 && *ret_start_bytes == start_bytes);
		h->cursor_bytes = start_bytes + *ret_nr_bytes;
		if (!is_hole)
			return KCOPY_CHECK_BOTH;
		h->piece = (struct kcopy_piece){ .at_bytes = start_bytes, .end_bytes = h->cursor_bytes, .extent_end_bytes = end_bytes };
		choose_sample(h);
	}
}
