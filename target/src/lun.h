/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_LUN_H
#define TGT_LUN_H

/* A file or block device behind a LUN, opened read-only. */

#include "freemap.h"
#include "kedge/err.h"
#include "scsi.h"
#include "tgt/tgt.h"

struct tgt_lun {
	int fd;
	struct tgt_unit unit;
	char path[512];
	bool is_file;
	/* Zeroes for every reader, whatever stands there; none: no free map. They are read from zero_fd. */
	struct tgt_freemap free;
	int zero_fd;
	/* The whole of it, mapped to be asked what the page cache has; NULL: it cannot be asked. Never read through. */
	void *map;
	uint64_t map_bytes;
	bool is_ring_slow; /* the file system has no reads that do not wait (tmpfs): io_uring hands each to a thread */
};

/* serial NULL: made from the path, the same each time. Errors: of open(2), -ENOTBLK, -EINVAL for a bad size or serial. */
int tgt_lun_open(struct tgt_lun *ret_lun, const char *path, const char *serial, struct kedge_err *err);
void tgt_lun_close(struct tgt_lun *l);
/* Takes the free map of its file system, or says once why there is none; with TGT_FREE_MUST that is the error. Blocks: freemap.h. */
int tgt_lun_take_free(struct tgt_lun *l, enum tgt_free_space how, struct kedge_err *err);
/* What to read the bytes at start_bytes from, and how many of them are had there. */
int tgt_lun_read_from(const struct tgt_lun *l, uint64_t start_bytes, uint64_t *nr_bytes);
/* GET LBA STATUS data (SBC-3 5.4.2) from the free map, SEEK_DATA and SEEK_HOLE into out; a bounded number of descriptors. Does not read data;
 * on a local file system it does not block for long. Bytes in out. */
uint32_t tgt_lun_status(const struct tgt_lun *l, uint64_t lba, uint32_t allocation, uint8_t *out);
/* Can all of that range be had out of the file's page cache? False also when that cannot be known, and when a byte of it is free space that is
 * left out: whoever does not ask here reads from what tgt_lun_read_from says. Does not block. */
bool tgt_lun_is_cached(const struct tgt_lun *l, uint64_t start_bytes, uint64_t nr_bytes);
/* Reads that range if it can be had so. False: it is to be read some other way, which also says what is wrong with it. */
bool tgt_lun_read_cached(const struct tgt_lun *l, void *buf, uint64_t start_bytes, uint64_t nr_bytes);
/* What was said to be cached could not be had: never say so again. */
void tgt_lun_distrust_cache(struct tgt_lun *l);

#endif
