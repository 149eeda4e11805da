/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_LATENCY_H
#define KCOPY_LATENCY_H

/* Pure. A histogram of latencies, 32 buckets an octave (2 to 3 %), that forgets: when it holds KCOPY_LATENCY_NR, all are halved. */

#include <stdint.h>

#define KCOPY_LATENCY_BUCKETS 832
#define KCOPY_LATENCY_NR 32768u

struct kcopy_latency {
	uint32_t buckets[KCOPY_LATENCY_BUCKETS]; /* from 1 us to 68 s; what is outside counts in the outermost */
	uint32_t nr;
};

void kcopy_latency_add(struct kcopy_latency *h, uint64_t ns);
/* Halve all. */
void kcopy_latency_fade(struct kcopy_latency *h);
/* The upper end of the bucket that at most so many per mille lie above; 0: it is empty. */
uint64_t kcopy_latency_ns(const struct kcopy_latency *h, unsigned per_mille_above);

#endif
