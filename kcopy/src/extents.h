/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_EXTENTS_H
#define KCOPY_EXTENTS_H

/* Pure. What is known of holes and data ahead of a cursor: a window of runs that follow each other. Answers are in whole 4 KiB
 * blocks: a block with any data in it is data. */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/claim.h"
#include "kedge/source.h"

#define KCOPY_EXTENTS_MAX 512

struct kcopy_extents {
	uint64_t size_bytes; /* of the source */
	uint64_t start_bytes;
	uint64_t end_bytes;  /* known: [start, end) */
	uint32_t nr;
	struct kedge_extent runs[KCOPY_EXTENTS_MAX];
};

void kcopy_extents_init(struct kcopy_extents *x, uint64_t size_bytes);
/* Runs from start_bytes on. When they follow what is known they are appended, else they replace it. Runs that find no room
 * are left out. */
void kcopy_extents_add(struct kcopy_extents *x, uint64_t start_bytes, const struct kedge_extent *runs, uint32_t nr);
/* Forget what lies before at_bytes. */
void kcopy_extents_trim(struct kcopy_extents *x, uint64_t at_bytes);
/* The kind of the 4 KiB block at at_bytes (a multiple of 4 KiB, below size) and where that kind ends. False: not known. */
bool kcopy_extents_at(const struct kcopy_extents *x, uint64_t at_bytes, bool *ret_is_hole, uint64_t *ret_end_bytes);

/* Cut a buffer into parts of data and of 4 KiB blocks that are all zeroes. segs has room for one part a block. Returns how
 * many parts; *ret_zero_bytes is how much of it is zero. */
uint32_t kcopy_segments(const void *buf, uint64_t nr_bytes, struct kedge_seg *segs, uint64_t *ret_zero_bytes);

#endif
