/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The free blocks of an XFS file system, from its free space B+trees.
 *
 * Owns. Nothing after it returns. Locks. None.
 *
 * Believed is only version 5 (everything has a checksum and says where it belongs), with a clean log and no feature that is unknown here.
 * Of each group: the tree by block and the tree by size hold the same extents; their number of blocks and the longest are what the header
 * says; free list, the trees' own blocks, inodes and log are not among them. Over all groups the superblock's count has to come out.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"
#include "xfs_disk.h"

#define SB_MAGIC 0x58465342u   /* XFSB */
#define AGF_MAGIC 0x58414746u  /* XAGF */
#define AGI_MAGIC 0x58414749u  /* XAGI */
#define AGFL_MAGIC 0x5841464cu /* XAFL */
#define BNO_MAGIC 0x41423342u  /* AB3B */
#define CNT_MAGIC 0x41423343u  /* AB3C */
#define INO_MAGIC 0x49414233u  /* IAB3 */
#define SB_VERSION 5u
#define NONE 0xffffffffu
#define INODES_PER_RECORD 64u
#define HOLEMASK_INODES 4u

enum { /* superblock */
	SB_BLOCKSIZE = 4, SB_DBLOCKS = 8, SB_RBLOCKS = 16, SB_UUID = 32, SB_LOGSTART = 48, SB_AGBLOCKS = 84, SB_AGCOUNT = 88,
	SB_LOGBLOCKS = 96, SB_VERSIONNUM = 100, SB_SECTSIZE = 102, SB_BLOCKLOG = 120, SB_INOPBLOG = 123, SB_AGBLKLOG = 124,
	SB_INPROGRESS = 126, SB_FDBLOCKS = 144, SB_LOGSUNIT = 196, SB_RO_COMPAT = 212, SB_INCOMPAT = 216, SB_LOG_INCOMPAT = 220,
	SB_CRC = 224, SB_META_UUID = 248,
};
enum { RO_FINOBT = 1, RO_RMAPBT = 2, RO_REFLINK = 4, RO_INOBTCNT = 8 };
#define RO_COMPAT_KNOWN (RO_FINOBT | RO_RMAPBT | RO_REFLINK | RO_INOBTCNT)
enum { IN_FTYPE = 1, IN_SPINODES = 2, IN_META_UUID = 4, IN_BIGTIME = 8, IN_NEEDSREPAIR = 16, IN_NREXT64 = 32, IN_EXCHRANGE = 64,
       IN_PARENT = 128 };
#define INCOMPAT_KNOWN (IN_FTYPE | IN_SPINODES | IN_META_UUID | IN_BIGTIME | IN_NREXT64 | IN_EXCHRANGE | IN_PARENT)
enum { /* AGF, AGFL, AGI */
	AG_VERSION = 4, AG_SEQNO = 8, AG_LENGTH = 12, AGF_BNO_ROOT = 16, AGF_CNT_ROOT = 20, AGF_BNO_LEVEL = 28, AGF_CNT_LEVEL = 32,
	AGF_FLFIRST = 40, AGF_FLLAST = 44, AGF_FLCOUNT = 48, AGF_FREEBLKS = 52, AGF_LONGEST = 56, AGF_BTREEBLKS = 60, AGF_UUID = 64,
	AGF_RMAP_BLOCKS = 80, AGF_CRC = 216,
	AGFL_SEQNO = 4, AGFL_UUID = 8, AGFL_CRC = 32, AGFL_BNO = 36,
	AGI_ROOT = 20, AGI_LEVEL = 24, AGI_UUID = 296, AGI_CRC = 312,
};

/* One group while it is read. */
struct group {
	const struct tgt_xfs *x;
	uint32_t ag, length, first_block;
	uint8_t *agf, *agi, *agfl;   /* a sector each, in one piece of memory */
	struct tgt_ranges free;      /* by bytes of the volume */
	uint32_t nr_free, longest;
	uint64_t bno_mix, cnt_mix;   /* of their records, whatever the order */
	uint32_t nr_bno, nr_cnt;     /* records */
	uint32_t nr_tree_blocks;     /* of the two trees */
};

int tgt_xfs_doubt(struct kedge_err *err, const char *fmt, ...)
{
	char text[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "xfs: %s", text);
}

bool tgt_xfs_crc_holds(const uint8_t *buf, size_t nr_bytes, size_t crc_at)
{
	static const uint8_t zero[4];
	uint32_t crc = kedge_crc32c(0, buf, crc_at);

	crc = kedge_crc32c(crc, zero, sizeof zero);
	crc = kedge_crc32c(crc, buf + crc_at + 4, nr_bytes - crc_at - 4);
	return crc == kedge_get_le32(buf + crc_at);
}

uint64_t tgt_xfs_at_bytes(const struct tgt_xfs *x, uint32_t ag, uint32_t block)
{
	return ((uint64_t)ag * x->ag_blocks + block) * x->block_bytes;
}

/* ---- the superblock ---- */

static bool is_power_of_2(uint32_t v, uint32_t min, uint32_t max)
{
	return v >= min && v <= max && (v & (v - 1)) == 0;
}

static int check_features(const uint8_t *sb, struct kedge_err *err)
{
	uint32_t ro_compat = kedge_get_be32(sb + SB_RO_COMPAT), incompat = kedge_get_be32(sb + SB_INCOMPAT);

	if (incompat & IN_NEEDSREPAIR)
		return tgt_xfs_doubt(err, "it says that it needs repair");
	if ((ro_compat & ~(uint32_t)RO_COMPAT_KNOWN) || (incompat & ~(uint32_t)INCOMPAT_KNOWN) || kedge_get_be32(sb + SB_LOG_INCOMPAT))
		return tgt_xfs_doubt(err, "features that are not known here (%x, %x, %x)", ro_compat & ~(uint32_t)RO_COMPAT_KNOWN,
				     incompat & ~(uint32_t)INCOMPAT_KNOWN, kedge_get_be32(sb + SB_LOG_INCOMPAT));
	if (sb[SB_INPROGRESS])
		return tgt_xfs_doubt(err, "it is being made or repaired");
	if (kedge_get_be64(sb + SB_RBLOCKS))
		return tgt_xfs_doubt(err, "it has a realtime part");
	if (kedge_get_be64(sb + SB_LOGSTART) == 0)
		return tgt_xfs_doubt(err, "its log is elsewhere");
	return 0;
}

static int check_geometry(const struct tgt_xfs *x, const uint8_t *sb, struct kedge_err *err)
{
	uint32_t log_ag = (uint32_t)(x->log_start >> 32), log_block = (uint32_t)x->log_start;

	if (x->nr_blocks > x->v->size_bytes / x->block_bytes)
		return tgt_xfs_doubt(err, "it is larger than the volume");
	if (1u << sb[SB_BLOCKLOG] != x->block_bytes || x->ag_blocks < 64 || x->block_inodes_log > 16 || x->ag_blocks > 1u << x->ag_blocks_log ||
	    x->nr_ags == 0 || x->nr_ags != (x->nr_blocks + x->ag_blocks - 1) / x->ag_blocks || x->sector_bytes > x->block_bytes ||
	    log_ag >= x->nr_ags || x->log_blocks == 0 || log_block >= x->ag_blocks || x->log_blocks > x->ag_blocks - log_block ||
	    x->log_unit_bytes > 256u << 10 || x->log_unit_bytes % 512 > 1)
		return tgt_xfs_doubt(err, "its geometry makes no sense");
	return 0;
}

static int read_super(struct tgt_xfs *x, struct kedge_err *err)
{
	uint8_t sb[32768];
	uint64_t log_start;
	int r = tgt_free_pread(x->v, sb, 512, 0, err);

	if (r < 0)
		return r;
	x->block_bytes = kedge_get_be32(sb + SB_BLOCKSIZE);
	x->sector_bytes = kedge_get_be16(sb + SB_SECTSIZE);
	if (kedge_get_be32(sb) != SB_MAGIC || !is_power_of_2(x->block_bytes, 1024, 65536) || !is_power_of_2(x->sector_bytes, 512, 32768) ||
	    sb[SB_BLOCKLOG] > 16)
		return tgt_xfs_doubt(err, "no superblock");
	if ((kedge_get_be16(sb + SB_VERSIONNUM) & 0xf) != SB_VERSION)
		return tgt_xfs_doubt(err, "a format before version 5, without checksums");
	r = tgt_free_pread(x->v, sb, x->sector_bytes, 0, err);
	if (r < 0)
		return r;
	if (!tgt_xfs_crc_holds(sb, x->sector_bytes, SB_CRC))
		return tgt_xfs_doubt(err, "the checksum of its superblock is wrong");
	x->nr_blocks = kedge_get_be64(sb + SB_DBLOCKS);
	x->nr_free = kedge_get_be64(sb + SB_FDBLOCKS);
	x->ag_blocks = kedge_get_be32(sb + SB_AGBLOCKS);
	x->nr_ags = kedge_get_be32(sb + SB_AGCOUNT);
	x->ag_blocks_log = sb[SB_AGBLKLOG];
	x->block_inodes_log = sb[SB_INOPBLOG];
	x->log_blocks = kedge_get_be32(sb + SB_LOGBLOCKS);
	x->log_unit_bytes = kedge_get_be32(sb + SB_LOGSUNIT);
	x->ro_compat = kedge_get_be32(sb + SB_RO_COMPAT);
	x->incompat = kedge_get_be32(sb + SB_INCOMPAT);
	memcpy(x->uuid, sb + SB_UUID, 16);
	memcpy(x->meta_uuid, sb + (x->incompat & IN_META_UUID ? SB_META_UUID : SB_UUID), 16);
	log_start = kedge_get_be64(sb + SB_LOGSTART);
	r = check_features(sb, err);
	if (r < 0)
		return r;
	if (x->ag_blocks_log > 31 || log_start >> x->ag_blocks_log > UINT32_MAX)
		return tgt_xfs_doubt(err, "its geometry makes no sense");
	x->log_start = log_start >> x->ag_blocks_log << 32 | (log_start & ((1u << x->ag_blocks_log) - 1));
	return check_geometry(x, sb, err);
}

/* ---- a group's headers ---- */

static int check_header(const struct group *g, const uint8_t *h, uint32_t magic, size_t uuid_at, size_t crc_at, const char *name,
			struct kedge_err *err)
{
	bool is_agfl = magic == AGFL_MAGIC;

	if (!tgt_xfs_crc_holds(h, g->x->sector_bytes, crc_at))
		return tgt_xfs_doubt(err, "the checksum of the %s of group %u is wrong", name, g->ag);
	if (kedge_get_be32(h) != magic || memcmp(h + uuid_at, g->x->meta_uuid, 16) != 0 ||
	    kedge_get_be32(h + (is_agfl ? AGFL_SEQNO : AG_SEQNO)) != g->ag ||
	    (!is_agfl && (kedge_get_be32(h + AG_VERSION) != 1 || kedge_get_be32(h + AG_LENGTH) != g->length)))
		return tgt_xfs_doubt(err, "the %s of group %u is not what it should be", name, g->ag);
	return 0;
}

static int read_headers(struct group *g, struct kedge_err *err)
{
	uint32_t sector = g->x->sector_bytes;
	int r;

	g->agf = malloc(3 * (size_t)sector);
	if (!g->agf)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory");
	g->agi = g->agf + sector;
	g->agfl = g->agi + sector;
	/* sector 0 is a copy of the superblock */
	r = tgt_free_pread(g->x->v, g->agf, 3 * (size_t)sector, tgt_xfs_at_bytes(g->x, g->ag, 0) + sector, err);
	if (r == 0)
		r = check_header(g, g->agf, AGF_MAGIC, AGF_UUID, AGF_CRC, "AGF", err);
	if (r == 0)
		r = check_header(g, g->agi, AGI_MAGIC, AGI_UUID, AGI_CRC, "AGI", err);
	if (r == 0)
		r = check_header(g, g->agfl, AGFL_MAGIC, AGFL_UUID, AGFL_CRC, "AGFL", err);
	return r;
}

/* ---- the trees ---- */

/* A well-mixed number for an extent (the finaliser of SplitMix64): sums of them are compared. */
static uint64_t mix(uint32_t start, uint32_t nr)
{
	uint64_t z = (uint64_t)start << 32 | nr;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static int take_bno(struct tgt_xfs_tree *t, const uint8_t *rec, struct kedge_err *err)
{
	struct group *g = t->arg;
	uint32_t start = kedge_get_be32(rec), nr = kedge_get_be32(rec + 4);
	uint64_t at = tgt_xfs_at_bytes(g->x, g->ag, start);

	/* neighbours would be one extent: that none touches the one before is part of the format */
	if (start < g->first_block || nr == 0 || start >= g->length || nr > g->length - start ||
	    (g->free.nr && g->free.r[g->free.nr - 1].end_bytes >= at))
		return tgt_xfs_doubt(err, "group %u says that %u blocks from %u are free", g->ag, nr, start);
	if (tgt_ranges_add(&g->free, at, at + (uint64_t)nr * g->x->block_bytes) < 0)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory");
	g->nr_free += nr;
	g->nr_bno++;
	g->longest = nr > g->longest ? nr : g->longest;
	g->bno_mix += mix(start, nr);
	return 0;
}

static int take_cnt(struct tgt_xfs_tree *t, const uint8_t *rec, struct kedge_err *err)
{
	struct group *g = t->arg;

	g->nr_cnt++;
	g->cnt_mix += mix(kedge_get_be32(rec), kedge_get_be32(rec + 4));
	return 0;
}

static bool is_free(const struct group *g, uint32_t start, uint32_t nr)
{
	uint64_t at = tgt_xfs_at_bytes(g->x, g->ag, start);

	return tgt_ranges_overlap(&g->free, at, at + (uint64_t)nr * g->x->block_bytes);
}

/* 64 inodes; those in a hole (sparse inodes) do not exist, whatever their blocks are. */
static int take_inodes(struct tgt_xfs_tree *t, const uint8_t *rec, struct kedge_err *err)
{
	struct group *g = t->arg;
	uint32_t ino = kedge_get_be32(rec), holes = g->x->incompat & IN_SPINODES ? kedge_get_be16(rec + 4) : 0, last = NONE;

	for (uint32_t i = 0; i < INODES_PER_RECORD; i++) {
		uint32_t block = (ino + i) >> g->x->block_inodes_log;
		if (block == last || (holes >> i / HOLEMASK_INODES & 1))
			continue;
		last = block;
		if (block < g->first_block || block >= g->length || is_free(g, block, 1))
			return tgt_xfs_doubt(err, "inodes of group %u lie in block %u, which is free", g->ag, block);
	}
	return 0;
}

/* Walks a tree of the group, and no block of it is free (when the free ones are known: of the tree by block all, at its end). */
static int walk(struct group *g, struct tgt_xfs_tree *t, uint32_t root, uint32_t nr_levels, struct kedge_err *err)
{
	int r;

	t->x = g->x;
	t->ag = g->ag;
	t->ag_length = g->length;
	t->first_block = g->first_block;
	t->arg = g;
	r = tgt_xfs_tree_walk(t, root, nr_levels, err);
	for (uint32_t i = 0; i < t->nr_blocks && r == 0; i++)
		if (is_free(g, t->blocks[i], 1))
			r = tgt_xfs_doubt(err, "block %u of the %s of group %u is free", t->blocks[i], t->name, g->ag);
	tgt_xfs_tree_fini(t);
	return r;
}

static int walk_trees(struct group *g, struct kedge_err *err)
{
	struct tgt_xfs_tree bno = {.name = "tree by block", .magic = BNO_MAGIC, .key_bytes = 8, .rec_bytes = 8, .take = take_bno};
	struct tgt_xfs_tree cnt = {.name = "tree by size", .magic = CNT_MAGIC, .key_bytes = 8, .rec_bytes = 8, .take = take_cnt};
	struct tgt_xfs_tree ino = {.name = "inode tree", .magic = INO_MAGIC, .key_bytes = 4, .rec_bytes = 16, .take = take_inodes};
	int r = walk(g, &bno, kedge_get_be32(g->agf + AGF_BNO_ROOT), kedge_get_be32(g->agf + AGF_BNO_LEVEL), err);

	if (r == 0 && g->free.min_bytes)
		r = tgt_xfs_doubt(err, "the free space of group %u is in too many pieces", g->ag);
	if (r == 0)
		r = walk(g, &cnt, kedge_get_be32(g->agf + AGF_CNT_ROOT), kedge_get_be32(g->agf + AGF_CNT_LEVEL), err);
	if (r == 0)
		r = walk(g, &ino, kedge_get_be32(g->agi + AGI_ROOT), kedge_get_be32(g->agi + AGI_LEVEL), err);
	g->nr_tree_blocks = bno.nr_blocks + cnt.nr_blocks;
	return r;
}

/* ---- a group ---- */

/* Blocks that the allocator keeps for its own trees: neither free nor anybody's. */
static int check_free_list(const struct group *g, struct kedge_err *err)
{
	uint32_t max = (g->x->sector_bytes - AGFL_BNO) / 4, first = kedge_get_be32(g->agf + AGF_FLFIRST);
	uint32_t nr = kedge_get_be32(g->agf + AGF_FLCOUNT), last = kedge_get_be32(g->agf + AGF_FLLAST);

	if (first >= max || last >= max || nr > max || (nr && (first + nr - 1) % max != last))
		return tgt_xfs_doubt(err, "the free list of group %u makes no sense", g->ag);
	for (uint32_t i = 0; i < nr; i++) {
		uint32_t block = kedge_get_be32(g->agfl + AGFL_BNO + 4 * ((first + i) % max));
		if (block < g->first_block || block >= g->length || is_free(g, block, 1))
			return tgt_xfs_doubt(err, "block %u of the free list of group %u is free", block, g->ag);
	}
	return 0;
}

static int check_counts(const struct group *g, struct kedge_err *err)
{
	uint64_t nr_beyond_roots = (uint64_t)g->nr_tree_blocks - 2;

	if (g->x->ro_compat & RO_RMAPBT)
		nr_beyond_roots += kedge_get_be32(g->agf + AGF_RMAP_BLOCKS) - 1;
	if (g->nr_bno != g->nr_cnt || g->bno_mix != g->cnt_mix)
		return tgt_xfs_doubt(err, "the two free space trees of group %u differ", g->ag);
	if (g->nr_free != kedge_get_be32(g->agf + AGF_FREEBLKS) || g->longest != kedge_get_be32(g->agf + AGF_LONGEST) ||
	    nr_beyond_roots != kedge_get_be32(g->agf + AGF_BTREEBLKS))
		return tgt_xfs_doubt(err, "the counts of group %u and its free space trees differ", g->ag);
	if (g->ag == g->x->log_start >> 32 && is_free(g, (uint32_t)g->x->log_start, g->x->log_blocks))
		return tgt_xfs_doubt(err, "its log lies in free space");
	return 0;
}

static int read_group(struct group *g, struct kedge_err *err)
{
	int r = read_headers(g, err);

	if (r == 0)
		r = walk_trees(g, err);
	if (r == 0)
		r = check_free_list(g, err);
	return r == 0 ? check_counts(g, err) : r;
}

/* One group's free ranges to the others. ret_nr: what it counts as free, which is more: the trees' blocks count too. */
static int take_group(const struct tgt_xfs *x, uint32_t ag, struct tgt_ranges *ret_free, uint64_t *ret_nr, struct kedge_err *err)
{
	uint64_t left = x->nr_blocks - (uint64_t)ag * x->ag_blocks;
	struct group g = {.x = x, .ag = ag, .length = (uint32_t)kedge_min_u64(left, x->ag_blocks)};
	int r;

	g.first_block = (4 * x->sector_bytes + x->block_bytes - 1) / x->block_bytes;
	if (g.length <= g.first_block)
		return tgt_xfs_doubt(err, "group %u has %u blocks", ag, g.length);
	r = read_group(&g, err);
	for (size_t i = 0; i < g.free.nr && r == 0; i++)
		if (tgt_ranges_add(ret_free, g.free.r[i].start_bytes, g.free.r[i].end_bytes) < 0)
			r = kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory");
	if (r == 0)
		*ret_nr = (uint64_t)g.nr_free + kedge_get_be32(g.agf + AGF_FLCOUNT) + kedge_get_be32(g.agf + AGF_BTREEBLKS);
	tgt_ranges_fini(&g.free);
	free(g.agf);
	return r;
}

int tgt_free_xfs(const struct tgt_free_volume *v, struct tgt_ranges *ret_free, struct kedge_err *err)
{
	struct tgt_xfs x = {.v = v};
	uint64_t total = 0, nr = 0;
	int r = read_super(&x, err);

	if (r == 0)
		r = tgt_xfs_log_is_clean(&x, err);
	for (uint32_t ag = 0; ag < x.nr_ags && r == 0; ag++) {
		r = take_group(&x, ag, ret_free, &nr, err);
		total += nr;
	}
	if (r == 0 && total != x.nr_free)
		r = tgt_xfs_doubt(err, "the superblock counts %llu free blocks, the groups %llu", (unsigned long long)x.nr_free,
				  (unsigned long long)total);
	return r;
}
