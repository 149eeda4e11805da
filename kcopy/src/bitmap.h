/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_BITMAP_H
#define KCOPY_BITMAP_H

/*
 * Pure. One bit a block, in leaves of one map page's worth. A leaf that is all clear or all set takes no memory, so that the
 * map of a volume being copied from front to back stays small whatever its size.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of bitmap in a leaf, as in a page of a map file (mapfile.h). */
#define KCOPY_LEAF_BYTES 4064u
#define KCOPY_LEAF_BITS (KCOPY_LEAF_BYTES * 8)

struct kcopy_leaf {
	uint8_t *bits; /* NULL while all clear or all set */
	uint32_t nr_set, nr_bits;
	bool is_dirty;           /* for the owner */
	uint32_t nr_durable;     /* for the owner */
};

struct kcopy_bitmap {
	uint64_t nr_bits, nr_set;
	uint64_t nr_leaves;
	struct kcopy_leaf *leaves;
};

/* 0 or -ENOMEM. */
int kcopy_bitmap_init(struct kcopy_bitmap *b, uint64_t nr_bits);
void kcopy_bitmap_fini(struct kcopy_bitmap *b);
/* Set [start, end). 0 or -ENOMEM (then a part may be set). Leaves that change become dirty. */
int kcopy_bitmap_set(struct kcopy_bitmap *b, uint64_t start, uint64_t end);
bool kcopy_bitmap_get(const struct kcopy_bitmap *b, uint64_t bit);
/* The first bit of that value at or after start, or end when there is none before it. */
uint64_t kcopy_bitmap_next(const struct kcopy_bitmap *b, uint64_t start, uint64_t end, bool is_set);
/* A leaf as the bytes of a page, least significant bit first, and back. Bits past the end stay clear. */
void kcopy_bitmap_store(const struct kcopy_bitmap *b, uint64_t leaf, uint8_t out[KCOPY_LEAF_BYTES]);
int kcopy_bitmap_load(struct kcopy_bitmap *b, uint64_t leaf, const uint8_t in[KCOPY_LEAF_BYTES]);

#endif
