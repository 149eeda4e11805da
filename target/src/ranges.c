/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A list of byte ranges. Pure.
 */
#include "ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"

#define MIN_FIRST_BYTES 8192u

/* Short ranges save least: the limit is doubled until half of the room is free. */
static void drop_short(struct tgt_ranges *s)
{
	while (s->nr > TGT_RANGES_MAX / 2) {
		size_t kept = 0;
		s->min_bytes = s->min_bytes ? 2 * s->min_bytes : MIN_FIRST_BYTES;
		for (size_t i = 0; i < s->nr; i++)
			if (s->r[i].end_bytes - s->r[i].start_bytes >= s->min_bytes)
				s->r[kept++] = s->r[i];
		s->nr = kept;
	}
}

static int make_room(struct tgt_ranges *s)
{
	size_t max = s->max ? 2 * s->max : 64;
	struct tgt_range *r;

	if (s->nr < s->max)
		return 0;
	if (s->max >= TGT_RANGES_MAX) {
		drop_short(s);
		return 0;
	}
	r = realloc(s->r, max * sizeof *r);
	if (!r)
		return -ENOMEM;
	s->r = r;
	s->max = max;
	return 0;
}

int tgt_ranges_add(struct tgt_ranges *s, uint64_t start_bytes, uint64_t end_bytes)
{
	struct tgt_range *last = s->nr ? &s->r[s->nr - 1] : NULL;
	int r;

	if (start_bytes >= end_bytes || (last && start_bytes < last->end_bytes))
		return -EINVAL;
	if (last && start_bytes == last->end_bytes) {
		last->end_bytes = end_bytes;
		return 0;
	}
	r = make_room(s);
	if (r == 0)
		s->r[s->nr++] = (struct tgt_range){start_bytes, end_bytes};
	return r;
}

void tgt_ranges_shrink(struct tgt_ranges *s, uint64_t block_bytes)
{
	size_t kept = 0;

	for (size_t i = 0; i < s->nr; i++) {
		uint64_t start = kedge_round_up(s->r[i].start_bytes, block_bytes), end = kedge_round_down(s->r[i].end_bytes, block_bytes);
		if (start < end)
			s->r[kept++] = (struct tgt_range){start, end};
	}
	s->nr = kept;
}

/* The first that ends behind at_bytes; nr: none does. */
static size_t find(const struct tgt_ranges *s, uint64_t at_bytes)
{
	size_t low = 0, high = s->nr;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (s->r[middle].end_bytes > at_bytes)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

bool tgt_ranges_at(const struct tgt_ranges *s, uint64_t at_bytes, uint64_t end_bytes, uint64_t *ret_stop_bytes)
{
	size_t i = find(s, at_bytes);
	bool is_in = i < s->nr && s->r[i].start_bytes <= at_bytes;
	uint64_t stop = i == s->nr ? end_bytes : is_in ? s->r[i].end_bytes : s->r[i].start_bytes;

	*ret_stop_bytes = kedge_min_u64(stop, end_bytes);
	return is_in;
}

bool tgt_ranges_overlap(const struct tgt_ranges *s, uint64_t start_bytes, uint64_t end_bytes)
{
	size_t i = find(s, start_bytes);

	return i < s->nr && s->r[i].start_bytes < end_bytes;
}

uint64_t tgt_ranges_total_bytes(const struct tgt_ranges *s)
{
	uint64_t n = 0;

	for (size_t i = 0; i < s->nr; i++)
		n += s->r[i].end_bytes - s->r[i].start_bytes;
	return n;
}

bool tgt_ranges_are_valid(const struct tgt_ranges *s, uint64_t block_bytes, uint64_t size_bytes)
{
	uint64_t at = 0;

	for (size_t i = 0; i < s->nr; i++) {
		const struct tgt_range *r = &s->r[i];
		if (r->start_bytes >= r->end_bytes || r->end_bytes > size_bytes || (i && r->start_bytes <= at) ||
		    ((r->start_bytes | r->end_bytes) & (block_bytes - 1)))
			return false;
		at = r->end_bytes;
	}
	return true;
}

void tgt_ranges_fini(struct tgt_ranges *s)
{
	free(s->r);
	memset(s, 0, sizeof *s);
}
