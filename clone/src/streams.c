/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Finds reads in order, says what to read ahead of them.
 *
 * Pure.
 */
#include "streams.h"

#include "kedge/bytes.h"

/* The stream that this read goes on with, or may belong to; else NULL. */
static struct stream *find(struct streams *st, uint64_t start_bytes)
{
	struct stream *near = NULL;

	for (unsigned i = 0; i < STREAMS_NR; i++) {
		struct stream *s = &st->s[i];
		if (!s->used)
			continue;
		if (s->next_bytes == start_bytes)
			return s;
		/* of one that has proved itself only: else every random read near another one would be its own kind of stream */
		if (s->nr_proofs >= STREAMS_PROOF && start_bytes + STREAMS_SLACK_BYTES > s->next_bytes &&
		    start_bytes < s->next_bytes + STREAMS_SLACK_BYTES)
			near = s;
	}
	return near;
}

static struct stream *begin(struct streams *st)
{
	struct stream *oldest = &st->s[0];

	for (unsigned i = 1; i < STREAMS_NR; i++)
		if (st->s[i].used < oldest->used)
			oldest = &st->s[i];
	*oldest = (struct stream){0};
	return oldest;
}

bool streams_note(struct streams *st, uint64_t start_bytes, uint64_t nr_bytes, uint64_t size_bytes, uint32_t window_max_bytes,
		  struct stream **ret_stream, uint64_t *ret_start_bytes, uint64_t *ret_end_bytes)
{
	struct stream *s = find(st, start_bytes);
	uint64_t end_bytes = start_bytes + nr_bytes;

	if (!s)
		s = begin(st);
	else if (s->next_bytes == start_bytes && s->nr_proofs < STREAMS_PROOF)
		s->nr_proofs++;
	s->used = ++st->clock;
	s->next_bytes = kedge_max_u64(s->next_bytes, end_bytes);
	if (s->nr_proofs < STREAMS_PROOF || window_max_bytes == 0)
		return false;
	if (s->window_bytes == 0)
		s->window_bytes = (uint32_t)kedge_min_u64(window_max_bytes, kedge_max_u64(STREAMS_WINDOW_MIN_BYTES, 2 * nr_bytes));
	s->window_bytes = (uint32_t)kedge_min_u64(s->window_bytes, window_max_bytes);
	if (s->ahead_bytes >= kedge_min_u64(s->next_bytes + s->window_bytes / 2, size_bytes))
		return false;
	*ret_start_bytes = kedge_round_down(kedge_max_u64(s->ahead_bytes, s->next_bytes), KEDGE_BLOCK_BYTES);
	*ret_end_bytes = kedge_min_u64(kedge_round_up(s->next_bytes + s->window_bytes, KEDGE_BLOCK_BYTES), size_bytes);
	if (*ret_start_bytes >= *ret_end_bytes)
		return false;
	*ret_stream = s;
	return true;
}

void streams_fetched(struct stream *s, uint64_t end_bytes)
{
	if (end_bytes <= s->ahead_bytes)
		return;
	s->ahead_bytes = end_bytes;
	s->window_bytes = (uint32_t)kedge_min_u64((uint64_t)s->window_bytes * 2, UINT32_MAX);
}
