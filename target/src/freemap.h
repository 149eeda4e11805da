/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_FREEMAP_H
#define TGT_FREEMAP_H

/* The free space of the file system that lies directly on a volume: what need not travel. */

#include "kedge/err.h"
#include "ranges.h"

struct tgt_freemap {
	struct tgt_ranges ranges; /* whole kedge blocks */
	char fs[8];               /* "ext4", "xfs" */
};

/*
 * Reads it, in a process of its own that ends with it. Blocks, for 5 s at most. fd: the volume, open for reading; path: where it is, to see
 * whether somebody has it in use; NULL: that is not asked. 0, or negative with the reason why there is none; the volume is copied whole then.
 */
int tgt_freemap_read(int fd, const char *path, uint64_t size_bytes, struct tgt_freemap *ret_map, struct kedge_err *err);

#endif
