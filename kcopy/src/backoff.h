/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_BACKOFF_H
#define KCOPY_BACKOFF_H

/* Pure. 0.1 s, doubling, at most 30 s, each with jitter of a quarter down, so that many clients of one host that came back do
 * not knock together. */

#include <stdint.h>

#define KCOPY_BACKOFF_MIN_MS 100u
#define KCOPY_BACKOFF_MAX_MS 30000u

struct kcopy_backoff {
	uint32_t step_ms; /* 0: fresh */
	uint32_t min_ms, max_ms;
	uint64_t seed;    /* xorshift state; never 0 after init */
};

/* 0 for either: the default. */
void kcopy_backoff_init(struct kcopy_backoff *b, uint64_t seed, uint32_t min_ms, uint32_t max_ms);
/* How long to wait before the next try. */
uint32_t kcopy_backoff_next_ms(struct kcopy_backoff *b);
void kcopy_backoff_reset(struct kcopy_backoff *b);

#endif
