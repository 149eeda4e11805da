/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The blocks of a copy that are here.
 *
 * Pure.
 */
#include "bitmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"

int kcopy_bitmap_init(struct kcopy_bitmap *b, uint64_t nr_bits)
{
	*b = (struct kcopy_bitmap){ .nr_bits = nr_bits };
	b->nr_leaves = (nr_bits + KCOPY_LEAF_BITS - 1) / KCOPY_LEAF_BITS;
	b->leaves = calloc(b->nr_leaves ? b->nr_leaves : 1, sizeof *b->leaves);
	if (!b->leaves)
		return -ENOMEM;
	for (uint64_t i = 0; i < b->nr_leaves; i++)
		b->leaves[i].nr_bits = (uint32_t)kedge_min_u64(KCOPY_LEAF_BITS, nr_bits - i * KCOPY_LEAF_BITS);
	return 0;
}

void kcopy_bitmap_fini(struct kcopy_bitmap *b)
{
	for (uint64_t i = 0; b->leaves && i < b->nr_leaves; i++)
		free(b->leaves[i].bits);
	free(b->leaves);
	*b = (struct kcopy_bitmap){ 0 };
}

static bool leaf_get(const struct kcopy_leaf *l, uint32_t bit)
{
	if (!l->bits)
		return l->nr_set == l->nr_bits;
	return l->bits[bit / 8] >> (bit % 8) & 1;
}

/* Set bits [from, to) of a leaf; returns how many were clear, or -1 without memory. */
static int64_t leaf_set(struct kcopy_leaf *l, uint32_t from, uint32_t to)
{
	uint32_t nr_new = 0;

	if (!l->bits) {
		if (l->nr_set == l->nr_bits)
			return 0;
		if (from == 0 && to == l->nr_bits) {
			l->nr_set = l->nr_bits;
			return l->nr_bits;
		}
		l->bits = calloc(1, KCOPY_LEAF_BYTES);
		if (!l->bits)
			return -1;
	}
	for (uint32_t bit = from; bit < to;) {
		if (bit % 8 == 0 && to - bit >= 8) {
			nr_new += 8 - (uint32_t)__builtin_popcount(l->bits[bit / 8]);
			l->bits[bit / 8] = 0xff;
			bit += 8;
			continue;
		}
		uint8_t mask = (uint8_t)(1u << (bit % 8));
		nr_new += !(l->bits[bit / 8] & mask);
		l->bits[bit / 8] |= mask;
		bit++;
	}
	l->nr_set += nr_new;
	if (l->nr_set == l->nr_bits) {
		free(l->bits);
		l->bits = NULL;
	}
	return nr_new;
}

int kcopy_bitmap_set(struct kcopy_bitmap *b, uint64_t start, uint64_t end)
{
	while (start < end) {
		struct kcopy_leaf *l = &b->leaves[start / KCOPY_LEAF_BITS];
		uint32_t from = (uint32_t)(start % KCOPY_LEAF_BITS);
		uint32_t to = (uint32_t)kedge_min_u64(l->nr_bits, from + (end - start));
		int64_t nr_new = leaf_set(l, from, to);

		if (nr_new < 0)
			return -ENOMEM;
		if (nr_new > 0)
			l->is_dirty = true;
		b->nr_set += (uint64_t)nr_new;
		start += to - from;
	}
	return 0;
}

bool kcopy_bitmap_get(const struct kcopy_bitmap *b, uint64_t bit)
{
	return leaf_get(&b->leaves[bit / KCOPY_LEAF_BITS], (uint32_t)(bit % KCOPY_LEAF_BITS));
}

uint64_t kcopy_bitmap_next(const struct kcopy_bitmap *b, uint64_t start, uint64_t end, bool is_set)
{
	const uint8_t none = is_set ? 0x00 : 0xff; /* a byte without such a bit */

	while (start < end) {
		const struct kcopy_leaf *l = &b->leaves[start / KCOPY_LEAF_BITS];
		uint32_t bit = (uint32_t)(start % KCOPY_LEAF_BITS);
		uint64_t leaf_start = start - bit;

		if (!l->bits) {
			if ((l->nr_set == l->nr_bits) == is_set)
				return start;
			start = leaf_start + l->nr_bits;
			continue;
		}
		while (bit < l->nr_bits && leaf_start + bit < end) {
			if (bit % 8 == 0 && l->bits[bit / 8] == none) {
				bit += 8;
			} else if ((l->bits[bit / 8] >> (bit % 8) & 1) == is_set) {
				return leaf_start + bit;
			} else {
				bit++;
			}
		}
		start = leaf_start + kedge_min_u64(bit, l->nr_bits);
	}
	return end;
}

void kcopy_bitmap_store(const struct kcopy_bitmap *b, uint64_t leaf, uint8_t out[KCOPY_LEAF_BYTES])
{
	const struct kcopy_leaf *l = &b->leaves[leaf];

	memset(out, 0, KCOPY_LEAF_BYTES);
	if (l->bits) {
		memcpy(out, l->bits, KCOPY_LEAF_BYTES);
		return;
	}
	if (l->nr_set == 0)
		return;
	memset(out, 0xff, l->nr_bits / 8);
	if (l->nr_bits % 8)
		out[l->nr_bits / 8] = (uint8_t)((1u << (l->nr_bits % 8)) - 1);
}

int kcopy_bitmap_load(struct kcopy_bitmap *b, uint64_t leaf, const uint8_t in[KCOPY_LEAF_BYTES])
{
	uint64_t start = leaf * KCOPY_LEAF_BITS;
	uint32_t nr_bits = b->leaves[leaf].nr_bits;

	for (uint32_t bit = 0; bit < nr_bits;) {
		uint32_t run = bit;
		while (run < nr_bits && (in[run / 8] >> (run % 8) & 1))
			run++;
		if (run > bit) {
			int rc = kcopy_bitmap_set(b, start + bit, start + run);
			if (rc < 0)
				return rc;
		}
		bit = run + 1;
	}
	b->leaves[leaf].is_dirty = false;
	b->leaves[leaf].nr_durable = b->leaves[leaf].nr_set;
	return 0;
}
