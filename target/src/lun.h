/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_LUN_H
#define TGT_LUN_H

/* A file or block device behind a LUN, opened read-only. */

#include "kedge/err.h"
#include "scsi.h"

struct tgt_lun {
	int fd;
	struct tgt_unit unit;
	char path[512];
	/* The whole of it, mapped to be asked what the page cache has; NULL: it cannot be asked. Never read through. */
	void *map;
	uint64_t map_bytes;
	bool is_ring_slow; /* the file system has no reads that do not wait (tmpfs): io_uring hands each to a thread */
};

/* serial NULL: made from the path, the same each time. Errors: of open(2), -ENOTBLK, -EINVAL for a bad size or serial. */
int tgt_lun_open(struct tgt_lun *ret_lun, const char *path, const char *serial, struct kedge_err *err);
void tgt_lun_close(struct tgt_lun *l);
/* GET LBA STATUS data (SBC-3 5.4.2) from SEEK_DATA and SEEK_HOLE into out; a bounded number of descriptors. Does not read data;
 * on a local file system it does not block for long. Bytes in out. */
uint32_t tgt_lun_status(const struct tgt_lun *l, uint64_t lba, uint32_t allocation, uint8_t *out);
/* Is all of that range in the page cache? False also when that cannot be known. Does not block. */
bool tgt_lun_is_cached(const struct tgt_lun *l, uint64_t start_bytes, uint64_t nr_bytes);
/* What was said to be cached could not be had: never say so again. */
void tgt_lun_distrust_cache(struct tgt_lun *l);

#endif
