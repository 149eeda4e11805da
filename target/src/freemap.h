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

#define TGT_FREEMAP_FIRST_MS 5000u   /* a workload is down meanwhile */
#define TGT_FREEMAP_AGAIN_MS 120000u /* a workload reads what only this map can serve, perhaps with many others on a host that comes up cold */

/*
 * Reads it, in a process of its own that ends with it. Blocks, for limit_ms at most (more than 200), which is its limit of CPU time too. fd: the
 * volume, open for reading; path: where it is, to see whether somebody has it in use; NULL: that is not asked. 0, or negative with the reason why
 * there is none; the volume is copied whole then.
 */
int tgt_freemap_read(int fd, const char *path, uint64_t size_bytes, unsigned limit_ms, struct tgt_freemap *ret_map, struct kedge_err *err);

#endif
