/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_RANGES_H
#define TGT_RANGES_H

/* Pure. An ascending list of byte ranges that do not touch each other. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* So many at most: 16 MiB. */
#define TGT_RANGES_MAX (1u << 20)

struct tgt_range {
	uint64_t start_bytes, end_bytes;
};

/* All zero: empty. */
struct tgt_ranges {
	struct tgt_range *r;
	size_t nr, max;
	uint64_t min_bytes; /* shorter ones were dropped to make room; 0: none was */
};

/* Adds a range that begins at or behind the end of the last; one that touches the last becomes part of it. When there is no room the
 * short ones go, always the same. 0, -EINVAL for a range out of order, -ENOMEM. */
int tgt_ranges_add(struct tgt_ranges *s, uint64_t start_bytes, uint64_t end_bytes);
/* What is left of each is whole blocks; of some nothing. block_bytes: a power of two. */
void tgt_ranges_shrink(struct tgt_ranges *s, uint64_t block_bytes);
/* Is at_bytes in one of them? Where that answer ends, at most at end_bytes. */
bool tgt_ranges_at(const struct tgt_ranges *s, uint64_t at_bytes, uint64_t end_bytes, uint64_t *ret_stop_bytes);
/* Do they have a byte of [start, end)? */
bool tgt_ranges_overlap(const struct tgt_ranges *s, uint64_t start_bytes, uint64_t end_bytes);
uint64_t tgt_ranges_total_bytes(const struct tgt_ranges *s);
/* Ascending, apart from each other, whole blocks, and none beyond size_bytes? */
bool tgt_ranges_are_valid(const struct tgt_ranges *s, uint64_t block_bytes, uint64_t size_bytes);
void tgt_ranges_fini(struct tgt_ranges *s);

#endif
