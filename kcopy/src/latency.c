/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What latencies were like, in little memory.
 *
 * Pure.
 */
#include "latency.h"

#define STEPS 32u       /* an octave */
#define STEP_BITS 5u
#define FIRST_OCTAVE 10u /* 1,024 ns */

static unsigned bucket_of(uint64_t ns)
{
	if (ns < 1u << FIRST_OCTAVE)
		return 0;
	unsigned octave = 63u - (unsigned)__builtin_clzll(ns);
	unsigned b = (octave - FIRST_OCTAVE) * STEPS + (unsigned)(ns >> (octave - STEP_BITS) & (STEPS - 1));

	return b < KCOPY_LATENCY_BUCKETS ? b : KCOPY_LATENCY_BUCKETS - 1;
}

static uint64_t end_of(unsigned b)
{
	unsigned octave = b / STEPS + FIRST_OCTAVE;

	return (1ull << octave) + ((uint64_t)(b % STEPS + 1) << (octave - STEP_BITS));
}

void kcopy_latency_fade(struct kcopy_latency *h)
{
	h->nr = 0;
	for (unsigned i = 0; i < KCOPY_LATENCY_BUCKETS; i++) {
		h->buckets[i] /= 2;
		h->nr += h->buckets[i];
	}
}

void kcopy_latency_add(struct kcopy_latency *h, uint64_t ns)
{
	if (h->nr >= KCOPY_LATENCY_NR)
		kcopy_latency_fade(h);
	h->buckets[bucket_of(ns)]++;
	h->nr++;
}

uint64_t kcopy_latency_ns(const struct kcopy_latency *h, unsigned per_mille_above)
{
	uint64_t above = 0, may = (uint64_t)h->nr * per_mille_above / 1000;

	for (unsigned i = KCOPY_LATENCY_BUCKETS; i-- > 0;) {
		above += h->buckets[i];
		if (above > may)
			return end_of(i);
	}
	return 0;
}
