/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_BUCKET_H
#define KCOPY_BUCKET_H

/*
 * Pure. A token bucket with an injected monotonic clock.
 *
 *        rate_bps bytes a second
 *               |
 *           \   v   /   <- full at rate_bps / 5 (0.2 s worth), at least 64 KiB
 *            \     /
 *             \___/      take(): the level may go below zero once, by one copy;
 *               |        nothing more is let out until it is above zero again
 *               v
 *
 * So a copy larger than the bucket still passes, and over any long time the mean is the rate.
 */

#include <stdbool.h>
#include <stdint.h>

struct kcopy_bucket {
	uint64_t rate_bps; /* 0: no limit */
	int64_t level_bytes;
	uint64_t last_ns;
	uint64_t rest_ns; /* time not yet turned into whole bytes */
};

void kcopy_bucket_init(struct kcopy_bucket *b, uint64_t rate_bps, uint64_t now_ns);
/* The level is kept, cut down to the new size. */
void kcopy_bucket_set_rate(struct kcopy_bucket *b, uint64_t rate_bps, uint64_t now_ns);
/* 0: something may be let out now; else how many ms until then (never 0). */
uint64_t kcopy_bucket_wait_ms(struct kcopy_bucket *b, uint64_t now_ns);
/* Let nr_bytes out. Call only when kcopy_bucket_wait_ms said 0. */
void kcopy_bucket_take(struct kcopy_bucket *b, uint64_t nr_bytes);
/* Of what was taken nr_bytes were not let out. */
void kcopy_bucket_give(struct kcopy_bucket *b, uint64_t nr_bytes);

#endif
