/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Where the holes are: those that the source reports, and the zero runs found inside data.
 *
 * Pure.
 */
#include "extents.h"

#include "kedge/bytes.h"

void kcopy_extents_init(struct kcopy_extents *x, uint64_t size_bytes)
{
	x->size_bytes = size_bytes;
	x->start_bytes = x->end_bytes = 0;
	x->nr = 0;
}

void kcopy_extents_add(struct kcopy_extents *x, uint64_t start_bytes, const struct kedge_extent *runs, uint32_t nr)
{
	if (x->nr == 0 || start_bytes != x->end_bytes) {
		x->start_bytes = x->end_bytes = start_bytes;
		x->nr = 0;
	}
	for (uint32_t i = 0; i < nr && x->end_bytes < x->size_bytes; i++) {
		uint64_t nr_bytes = kedge_min_u64(runs[i].nr_bytes, x->size_bytes - x->end_bytes);

		if (x->nr > 0 && x->runs[x->nr - 1].is_hole == runs[i].is_hole) {
			x->runs[x->nr - 1].nr_bytes += nr_bytes;
		} else {
			if (x->nr == KCOPY_EXTENTS_MAX)
				return;
			x->runs[x->nr++] = (struct kedge_extent){ .nr_bytes = nr_bytes, .is_hole = runs[i].is_hole };
		}
		x->end_bytes += nr_bytes;
	}
}

void kcopy_extents_trim(struct kcopy_extents *x, uint64_t at_bytes)
{
	uint32_t nr_gone = 0;

	while (nr_gone < x->nr && x->start_bytes + x->runs[nr_gone].nr_bytes <= at_bytes)
		x->start_bytes += x->runs[nr_gone++].nr_bytes;
	if (nr_gone == 0)
		return;
	x->nr -= nr_gone;
	memmove(x->runs, x->runs + nr_gone, x->nr * sizeof x->runs[0]);
}

bool kcopy_extents_at(const struct kcopy_extents *x, uint64_t at_bytes, bool *ret_is_hole, uint64_t *ret_end_bytes)
{
	uint64_t run_end = x->start_bytes;
	uint32_t i;

	if (at_bytes < x->start_bytes || at_bytes >= x->end_bytes)
		return false;
	for (i = 0; i < x->nr; i++) {
		run_end += x->runs[i].nr_bytes;
		if (at_bytes < run_end)
			break;
	}
	bool is_hole = x->runs[i].is_hole;
	/* A hole ends with its last whole block; the volume's last block may be a short one. */
	uint64_t end = run_end;
	if (end < x->size_bytes)
		end = is_hole ? kedge_round_down(end, KEDGE_BLOCK_BYTES) : kedge_round_up(end, KEDGE_BLOCK_BYTES);
	if (is_hole && end <= at_bytes) { /* the rest of its last block belongs to what follows */
		is_hole = false;
		end = at_bytes + KEDGE_BLOCK_BYTES;
	}
	*ret_is_hole = is_hole;
	*ret_end_bytes = kedge_min_u64(end, x->size_bytes);
	return true;
}

uint32_t kcopy_segments(const void *buf, uint64_t nr_bytes, struct kedge_seg *segs, uint64_t *ret_zero_bytes)
{
	const char *p = buf;
	uint32_t nr = 0;

	*ret_zero_bytes = 0;
	for (uint64_t at = 0; at < nr_bytes;) {
		uint64_t here = kedge_min_u64(KEDGE_BLOCK_BYTES, nr_bytes - at);
		bool is_zero = kedge_is_zero(p + at, here);

		if (is_zero)
			*ret_zero_bytes += here;
		if (nr > 0 && segs[nr - 1].is_zero == is_zero)
			segs[nr - 1].nr_bytes += here;
		else
			segs[nr++] = (struct kedge_seg){ .nr_bytes = here, .is_zero = is_zero };
		at += here;
	}
	return nr;
}
