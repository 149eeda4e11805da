/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Waiting times between tries to reach a source.
 *
 * Pure.
 */
#include "backoff.h"

void kcopy_backoff_init(struct kcopy_backoff *b, uint64_t seed, uint32_t min_ms, uint32_t max_ms)
{
	*b = (struct kcopy_backoff){
		.seed = seed ? seed : 1,
		.min_ms = min_ms ? min_ms : KCOPY_BACKOFF_MIN_MS,
		.max_ms = max_ms ? max_ms : KCOPY_BACKOFF_MAX_MS,
	};
}

uint32_t kcopy_backoff_next_ms(struct kcopy_backoff *b)
{
	uint32_t step_ms = b->step_ms ? b->step_ms : b->min_ms;

	if (step_ms > b->max_ms)
		step_ms = b->max_ms;
	b->step_ms = step_ms > b->max_ms / 2 ? b->max_ms : step_ms * 2;
	b->seed ^= b->seed << 13;
	b->seed ^= b->seed >> 7;
	b->seed ^= b->seed << 17;
	return step_ms - (uint32_t)(b->seed % (step_ms / 4 + 1));
}

void kcopy_backoff_reset(struct kcopy_backoff *b)
{
	b->step_ms = 0;
}
