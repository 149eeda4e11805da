/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_XFS_DISK_H
#define TGT_XFS_DISK_H

/* What free_xfs.c, free_xfs_tree.c and free_xfs_log.c share: a version 5 XFS as its documented on-disk format has it ("XFS Algorithms & Data
 * Structures"). Offsets are in the structures; numbers are big-endian, checksums little-endian. */

#include "free_fs.h"

struct tgt_xfs {
	const struct tgt_free_volume *v;
	uint32_t block_bytes, sector_bytes;
	uint64_t nr_blocks, nr_free;      /* nr_free: as the superblock counts */
	uint32_t ag_blocks, nr_ags;
	uint8_t ag_blocks_log, block_inodes_log;
	uint64_t log_start;               /* AG number << 32 | block in it */
	uint32_t log_blocks;
	uint32_t log_unit_bytes;
	uint32_t ro_compat, incompat;
	uint8_t uuid[16], meta_uuid[16];  /* meta_uuid: the one in all metadata */
};

int tgt_xfs_doubt(struct kedge_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* CRC32C of all of it, the four bytes at crc_at taken as zero, against those. */
bool tgt_xfs_crc_holds(const uint8_t *buf, size_t nr_bytes, size_t crc_at);
/* Where a group's block begins on the volume. */
uint64_t tgt_xfs_at_bytes(const struct tgt_xfs *x, uint32_t ag, uint32_t block);

/* ---- free_xfs_tree.c: one B+tree of an AG, with short pointers ---- */

#define TGT_XFS_LEVELS_MAX 9u

struct tgt_xfs_tree {
	/* set by the caller */
	const struct tgt_xfs *x;
	const char *name;
	uint32_t ag, ag_length, first_block;  /* first_block: behind the AG's headers */
	uint32_t magic, key_bytes, rec_bytes;
	int (*take)(struct tgt_xfs_tree *t, const uint8_t *rec, struct kedge_err *err);
	void *arg;
	/* of the walk */
	uint32_t *blocks;                     /* it consists of */
	uint32_t nr_blocks, blocks_max;
	uint8_t *bufs[TGT_XFS_LEVELS_MAX];
};

/* All records in their order to take. Every block is checked. */
int tgt_xfs_tree_walk(struct tgt_xfs_tree *t, uint32_t root, uint32_t nr_levels, struct kedge_err *err);
void tgt_xfs_tree_fini(struct tgt_xfs_tree *t);

/* ---- free_xfs_log.c ---- */
/* Does the log end with the record of an unmount, and nothing after it? */
int tgt_xfs_log_is_clean(const struct tgt_xfs *x, struct kedge_err *err);

#endif
