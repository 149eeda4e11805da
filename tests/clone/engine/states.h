/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef STATES_H
#define STATES_H

/* Pure. A set of states that were seen already, by 128-bit fingerprints: two different ones are taken for one with a chance of
 * less than 1 in 10^24 for some millions of them. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fingerprint {
	uint64_t a, b;
};
void fingerprint_init(struct fingerprint *f);
/* nr_bytes: a multiple of 8 */
void fingerprint_add(struct fingerprint *f, const void *bytes, size_t nr_bytes);
static inline void fingerprint_add_u64(struct fingerprint *f, uint64_t v)
{
	fingerprint_add(f, &v, 8);
}

struct states {
	struct fingerprint *slots;
	size_t nr, max; /* max: a power of two */
};
/* true: it was not there before. */
bool states_add(struct states *s, const struct fingerprint *f);
void states_fini(struct states *s);
#endif
