/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The rate limit of a copy.
 *
 * Pure.
 */
#include "bucket.h"

#include "kedge/bytes.h"

#define NS_PER_S 1000000000ull
#define SIZE_MIN_BYTES 65536u

static int64_t size_bytes(const struct kcopy_bucket *b)
{
	return (int64_t)kedge_max_u64(b->rate_bps / 5, SIZE_MIN_BYTES);
}

static void fill(struct kcopy_bucket *b, uint64_t now_ns)
{
	uint64_t passed_ns = now_ns > b->last_ns ? now_ns - b->last_ns : 0;
	uint64_t cap_ns = 100 * NS_PER_S; /* more than fills any bucket; keeps the product inside 128 bits and the sum sane */

	b->last_ns = kedge_max_u64(now_ns, b->last_ns);
	passed_ns = kedge_min_u64(passed_ns, cap_ns) + b->rest_ns;
	if (b->rate_bps == 0)
		return;
	unsigned __int128 product = (unsigned __int128)passed_ns * b->rate_bps;
	b->rest_ns = 0;
	if (product / NS_PER_S == 0) {
		b->rest_ns = passed_ns;
		return;
	}
	/* what the whole bytes did not use up, in time */
	b->rest_ns = (uint64_t)((product % NS_PER_S) / b->rate_bps);
	unsigned __int128 level = product / NS_PER_S;
	int64_t room = size_bytes(b) - b->level_bytes;
	if (level >= (unsigned __int128)(room > 0 ? room : 0)) {
		b->level_bytes = size_bytes(b);
		b->rest_ns = 0;
	} else {
		b->level_bytes += (int64_t)level;
	}
}

void kcopy_bucket_init(struct kcopy_bucket *b, uint64_t rate_bps, uint64_t now_ns)
{
	*b = (struct kcopy_bucket){ .rate_bps = rate_bps, .last_ns = now_ns };
	b->level_bytes = size_bytes(b);
}

void kcopy_bucket_set_rate(struct kcopy_bucket *b, uint64_t rate_bps, uint64_t now_ns)
{
	fill(b, now_ns);
	b->rate_bps = rate_bps;
	b->rest_ns = 0;
	if (b->level_bytes > size_bytes(b))
		b->level_bytes = size_bytes(b);
	/* a debt made at a high rate must not stop a low one for long */
	if (b->level_bytes < -size_bytes(b))
		b->level_bytes = -size_bytes(b);
}

uint64_t kcopy_bucket_wait_ms(struct kcopy_bucket *b, uint64_t now_ns)
{
	fill(b, now_ns);
	if (b->rate_bps == 0 || b->level_bytes > 0)
		return 0;
	unsigned __int128 missing = (unsigned __int128)(1 - b->level_bytes);
	return (uint64_t)(missing * 1000 / b->rate_bps) + 1;
}

void kcopy_bucket_take(struct kcopy_bucket *b, uint64_t nr_bytes)
{
	if (b->rate_bps != 0)
		b->level_bytes -= (int64_t)nr_bytes;
}

void kcopy_bucket_give(struct kcopy_bucket *b, uint64_t nr_bytes)
{
	if (b->rate_bps == 0)
		return;
	b->level_bytes += (int64_t)nr_bytes;
	if (b->level_bytes > size_bytes(b))
		b->level_bytes = size_bytes(b);
}
