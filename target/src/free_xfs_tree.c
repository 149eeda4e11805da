/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Walk one B+tree of an XFS allocation group: its structure is checked, its records are handed on.
 *
 * Owns. Its buffers. Locks. None.
 *
 * Bounds: a tree has at most as many blocks as its group, levels only go down, so a walk ends whatever stands on the volume.
 */
#include <errno.h>
#include <stdlib.h>

#include "kedge/bytes.h"
#include "xfs_disk.h"

#define HEADER_BYTES 56u
#define PTR_BYTES 4u

enum { B_MAGIC = 0, B_LEVEL = 4, B_NUMRECS = 6, B_BLKNO = 16, B_UUID = 32, B_OWNER = 48, B_CRC = 52 };

static int remember(struct tgt_xfs_tree *t, uint32_t block, struct kedge_err *err)
{
	if (t->nr_blocks == t->blocks_max) {
		uint32_t max = t->blocks_max ? 2 * t->blocks_max : 64;
		uint32_t *blocks = realloc(t->blocks, max * sizeof *blocks);
		if (!blocks)
			return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory");
		t->blocks = blocks;
		t->blocks_max = max;
	}
	t->blocks[t->nr_blocks++] = block;
	return 0;
}

static int read_block(struct tgt_xfs_tree *t, uint32_t block, unsigned level, uint8_t *buf, struct kedge_err *err)
{
	const struct tgt_xfs *x = t->x;
	uint64_t at = tgt_xfs_at_bytes(x, t->ag, block);
	unsigned rec_bytes = level ? t->key_bytes + PTR_BYTES : t->rec_bytes;
	int r;

	if (block < t->first_block || block >= t->ag_length || t->nr_blocks >= t->ag_length)
		return tgt_xfs_doubt(err, "the %s of group %u leads to block %u", t->name, t->ag, block);
	r = remember(t, block, err);
	if (r == 0)
		r = tgt_free_pread(x->v, buf, x->block_bytes, at, err);
	if (r < 0)
		return r;
	if (!tgt_xfs_crc_holds(buf, x->block_bytes, B_CRC))
		return tgt_xfs_doubt(err, "the checksum of block %u in the %s of group %u is wrong", block, t->name, t->ag);
	if (kedge_get_be32(buf + B_MAGIC) != t->magic || kedge_get_be16(buf + B_LEVEL) != level ||
	    kedge_get_be64(buf + B_BLKNO) != at / 512 || kedge_get_be32(buf + B_OWNER) != t->ag ||
	    memcmp(buf + B_UUID, x->meta_uuid, 16) != 0 || kedge_get_be16(buf + B_NUMRECS) > (x->block_bytes - HEADER_BYTES) / rec_bytes)
		return tgt_xfs_doubt(err, "block %u in the %s of group %u is not what it should be", block, t->name, t->ag);
	return 0;
}

static int walk(struct tgt_xfs_tree *t, uint32_t block, unsigned level, struct kedge_err *err)
{
	uint32_t max = (t->x->block_bytes - HEADER_BYTES) / (t->key_bytes + PTR_BYTES);
	uint8_t *buf = t->bufs[level];
	int r = read_block(t, block, level, buf, err);

	if (r < 0)
		return r;
	for (unsigned i = 0, nr = kedge_get_be16(buf + B_NUMRECS); i < nr && r == 0; i++) {
		if (level)
			r = walk(t, kedge_get_be32(buf + HEADER_BYTES + max * t->key_bytes + PTR_BYTES * i), level - 1, err);
		else
			r = t->take(t, buf + HEADER_BYTES + t->rec_bytes * i, err);
	}
	return r;
}

int tgt_xfs_tree_walk(struct tgt_xfs_tree *t, uint32_t root, uint32_t nr_levels, struct kedge_err *err)
{
	if (nr_levels == 0 || nr_levels > TGT_XFS_LEVELS_MAX)
		return tgt_xfs_doubt(err, "the %s of group %u has %u levels", t->name, t->ag, nr_levels);
	for (uint32_t i = 0; i < nr_levels; i++) {
		t->bufs[i] = malloc(t->x->block_bytes);
		if (!t->bufs[i])
			return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory");
	}
	return walk(t, root, nr_levels - 1, err);
}

void tgt_xfs_tree_fini(struct tgt_xfs_tree *t)
{
	for (unsigned i = 0; i < TGT_XFS_LEVELS_MAX; i++)
		free(t->bufs[i]);
	free(t->blocks);
}
