/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The free blocks of an ext4 file system. The one file that knows libext2fs.
 *
 * Owns. The open file system, until it returns. Locks. None.
 *
 * Believed is only a file system that was unmounted, has no feature that is unknown here, and whose superblock, group descriptors and
 * bitmaps carry checksums (metadata_csum) that hold. Then three questions are asked twice: the descriptors' and the superblock's counts
 * of free blocks against the bitmaps; whether what the library knows to be metadata is marked as used; whether the journal is empty.
 */
#include <errno.h>
#include <ext2fs/ext2_fs.h>
#include <ext2fs/ext2fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "free_fs.h"
#include "kedge/bytes.h"

#define SUPER_AT 1024u
#define JOURNAL_MAGIC 0xc03b3998u
#define JOURNAL_START_AT 28u
#define GROUPS_MAX (1u << 22)

/* Of the features below it is known that blocks marked free hold nothing. Not here: bigalloc (bitmaps of clusters), mmp (a host elsewhere may
 * have it mounted), snapshots, shared blocks, and what is older or newer than this list. */
#define COMPAT_KNOWN                                                                                                              \
	(EXT2_FEATURE_COMPAT_DIR_PREALLOC | EXT3_FEATURE_COMPAT_HAS_JOURNAL | EXT2_FEATURE_COMPAT_EXT_ATTR |                      \
	 EXT2_FEATURE_COMPAT_RESIZE_INODE | EXT2_FEATURE_COMPAT_DIR_INDEX | EXT4_FEATURE_COMPAT_SPARSE_SUPER2 |                   \
	 EXT4_FEATURE_COMPAT_FAST_COMMIT | EXT4_FEATURE_COMPAT_STABLE_INODES | EXT4_FEATURE_COMPAT_ORPHAN_FILE)
#define INCOMPAT_KNOWN                                                                                                            \
	(EXT2_FEATURE_INCOMPAT_FILETYPE | EXT2_FEATURE_INCOMPAT_META_BG | EXT3_FEATURE_INCOMPAT_EXTENTS |                         \
	 EXT4_FEATURE_INCOMPAT_64BIT | EXT4_FEATURE_INCOMPAT_FLEX_BG | EXT4_FEATURE_INCOMPAT_EA_INODE |                           \
	 EXT4_FEATURE_INCOMPAT_CSUM_SEED | EXT4_FEATURE_INCOMPAT_LARGEDIR | EXT4_FEATURE_INCOMPAT_INLINE_DATA |                   \
	 EXT4_FEATURE_INCOMPAT_ENCRYPT | EXT4_FEATURE_INCOMPAT_CASEFOLD)
#define RO_COMPAT_KNOWN                                                                                                           \
	(EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE | EXT4_FEATURE_RO_COMPAT_HUGE_FILE |             \
	 EXT4_FEATURE_RO_COMPAT_DIR_NLINK | EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE | EXT4_FEATURE_RO_COMPAT_QUOTA |                   \
	 EXT4_FEATURE_RO_COMPAT_METADATA_CSUM | EXT4_FEATURE_RO_COMPAT_PROJECT | EXT4_FEATURE_RO_COMPAT_VERITY)

static int doubt(struct kedge_err *err, const char *what)
{
	return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "ext4: %s", what);
}

static int failed(struct kedge_err *err, const char *what, errcode_t e)
{
	return kedge_err_set(err, e == EXT2_ET_NO_MEMORY || e == ENOMEM ? -ENOMEM : -EINVAL, KEDGE_SIDE_SOURCE, "ext4: %s (%s)", what,
			     error_message(e));
}

/* ---- the library reads through our descriptor ---- */

static errcode_t io_set_blksize(io_channel ch, int blksize)
{
	ch->block_size = blksize;
	return 0;
}

static errcode_t io_close(io_channel ch)
{
	if (--ch->refcount > 0)
		return 0;
	free(ch->private_data);
	free(ch->name);
	free(ch);
	return 0;
}

/* A count below zero is bytes. */
static errcode_t io_read64(io_channel ch, unsigned long long block, int count, void *data)
{
	const struct tgt_free_volume *v = ch->private_data;
	uint64_t nr_bytes = count < 0 ? (uint64_t) - (int64_t)count : (uint64_t)count * (uint64_t)ch->block_size;

	if (block > v->size_bytes / (uint64_t)ch->block_size)
		return EXT2_ET_SHORT_READ;
	return tgt_free_pread(v, data, nr_bytes, block * (uint64_t)ch->block_size, NULL) < 0 ? EXT2_ET_SHORT_READ : 0;
}

static errcode_t io_read(io_channel ch, unsigned long block, int count, void *data)
{
	return io_read64(ch, block, count, data);
}

static errcode_t io_write64(io_channel ch, unsigned long long block, int count, const void *data)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t io_write(io_channel ch, unsigned long block, int count, const void *data)
{
	return EXT2_ET_RO_FILSYS;
}

static errcode_t io_flush(io_channel ch)
{
	return 0;
}

static errcode_t io_open(const char *name, int flags, io_channel *ret_ch);

static struct struct_io_manager manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER, .name = "kedge", .open = io_open, .close = io_close, .set_blksize = io_set_blksize,
	.read_blk = io_read, .write_blk = io_write, .flush = io_flush, .read_blk64 = io_read64, .write_blk64 = io_write64,
};

/* The name carries the descriptor and the size: the library has no other way to hand something over. */
static errcode_t io_open(const char *name, int flags, io_channel *ret_ch)
{
	struct tgt_free_volume *v = malloc(sizeof *v);
	io_channel ch = calloc(1, sizeof *ch);
	char *copy = strdup(name);
	unsigned long long size;

	if (!v || !ch || !copy || sscanf(name, "%d:%llu", &v->fd, &size) != 2) {
		free(v);
		free(ch);
		free(copy);
		return EXT2_ET_NO_MEMORY;
	}
	v->size_bytes = size;
	*ch = (struct struct_io_channel){.magic = EXT2_ET_MAGIC_IO_CHANNEL, .manager = &manager, .name = copy, .block_size = 1024,
					 .refcount = 1, .private_data = v};
	*ret_ch = ch;
	return 0;
}

/* ---- may it be believed? ---- */

/* Before the library allocates by what stands there. */
static int check_super(const struct tgt_free_volume *v, struct kedge_err *err)
{
	struct ext2_super_block sb;
	uint64_t nr_blocks, nr_groups;
	uint32_t compat, incompat, ro_compat, per_group;
	int r = tgt_free_pread(v, &sb, sizeof sb, SUPER_AT, err);

	if (r < 0)
		return r;
	compat = le32toh(sb.s_feature_compat);
	incompat = le32toh(sb.s_feature_incompat);
	ro_compat = le32toh(sb.s_feature_ro_compat);
	per_group = le32toh(sb.s_blocks_per_group);
	if (le16toh(sb.s_magic) != EXT2_SUPER_MAGIC || le32toh(sb.s_rev_level) != EXT2_DYNAMIC_REV)
		return doubt(err, "no superblock of revision 1");
	if (incompat & EXT3_FEATURE_INCOMPAT_RECOVER)
		return doubt(err, "mounted, or its journal has to be replayed");
	if (le16toh(sb.s_state) != EXT2_VALID_FS || le32toh(sb.s_error_count))
		return doubt(err, "mounted, not cleanly unmounted, or with errors on record");
	if (sb.s_last_orphan || (ro_compat & EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT))
		return doubt(err, "files that were deleted while open are still to be cleaned up");
	if ((compat & ~(uint32_t)COMPAT_KNOWN) || (incompat & ~(uint32_t)INCOMPAT_KNOWN) || (ro_compat & ~(uint32_t)RO_COMPAT_KNOWN))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "ext4: features that are not known here (%x, %x, %x)",
				     compat & ~(uint32_t)COMPAT_KNOWN, incompat & ~(uint32_t)INCOMPAT_KNOWN,
				     ro_compat & ~(uint32_t)RO_COMPAT_KNOWN);
	if (!(ro_compat & EXT4_FEATURE_RO_COMPAT_METADATA_CSUM))
		return doubt(err, "its bitmaps have no checksums (metadata_csum)");
	if ((compat & EXT3_FEATURE_COMPAT_HAS_JOURNAL) && (sb.s_journal_dev || le32toh(sb.s_journal_inum) != EXT2_JOURNAL_INO))
		return doubt(err, "its journal is elsewhere");
	nr_blocks = le32toh(sb.s_blocks_count) | (incompat & EXT4_FEATURE_INCOMPAT_64BIT ? (uint64_t)le32toh(sb.s_blocks_count_hi) << 32 : 0);
	if (le32toh(sb.s_log_block_size) > 6 || nr_blocks > v->size_bytes >> (10 + le32toh(sb.s_log_block_size)))
		return doubt(err, "it is larger than the volume");
	nr_groups = per_group ? nr_blocks / per_group : UINT64_MAX;
	if (nr_groups > GROUPS_MAX)
		return doubt(err, "its groups make no sense");
	return 0;
}

static bool is_used(ext2_filsys fs, blk64_t start, uint64_t nr)
{
	blk64_t out;

	if (nr == 0)
		return true;
	if (start < fs->super->s_first_data_block || start >= ext2fs_blocks_count(fs->super) || nr > ext2fs_blocks_count(fs->super) - start)
		return false;
	return ext2fs_find_first_zero_block_bitmap2(fs->block_map, start, start + nr - 1, &out) == ENOENT;
}

static int check_group(ext2_filsys fs, dgrp_t g, struct kedge_err *err)
{
	blk64_t sb, old_desc, new_desc;
	uint64_t nr_old = fs->desc_blocks;

	if (ext2fs_has_feature_meta_bg(fs->super))
		nr_old = fs->super->s_first_meta_bg;
	nr_old += fs->super->s_reserved_gdt_blocks;
	if (ext2fs_super_and_bgd_loc2(fs, g, &sb, &old_desc, &new_desc, NULL))
		return doubt(err, "the library does not know where its groups begin");
	if ((sb && !is_used(fs, sb, 1)) || (old_desc && !is_used(fs, old_desc, nr_old)) || (new_desc && !is_used(fs, new_desc, 1)) ||
	    !is_used(fs, ext2fs_block_bitmap_loc(fs, g), 1) || !is_used(fs, ext2fs_inode_bitmap_loc(fs, g), 1) ||
	    !is_used(fs, ext2fs_inode_table_loc(fs, g), fs->inode_blocks_per_group))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "ext4: metadata of group %u is marked as free", g);
	return 0;
}

/* ---- files of its own ---- */

static int see_block(ext2_filsys fs, blk64_t *block, e2_blkcnt_t at, blk64_t ref_block, int ref_offset, void *arg)
{
	bool *is_bad = arg;

	if (is_used(fs, *block, 1))
		return 0;
	*is_bad = true;
	return BLOCK_ABORT;
}

static int check_file(ext2_filsys fs, ext2_ino_t ino, struct kedge_err *err)
{
	struct ext2_inode inode;
	bool is_bad = false;
	errcode_t e;

	if (ino == 0)
		return 0;
	e = ext2fs_read_inode(fs, ino, &inode);
	if (e == 0 && ext2fs_inode_has_valid_blocks2(fs, &inode))
		e = ext2fs_block_iterate3(fs, ino, BLOCK_FLAG_READ_ONLY, NULL, see_block, &is_bad);
	if (e)
		return failed(err, "one of its own files cannot be read", e);
	return is_bad ? kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "ext4: a block of its own file %u is marked as free", ino) : 0;
}

static int check_files(ext2_filsys fs, struct kedge_err *err)
{
	const struct ext2_super_block *sb = fs->super;
	const ext2_ino_t more[] = {sb->s_usr_quota_inum, sb->s_grp_quota_inum, sb->s_prj_quota_inum, sb->s_orphan_file_inum};
	int r = 0;

	for (ext2_ino_t ino = 1; ino < EXT2_FIRST_INODE(sb) && ino <= 11 && r == 0; ino++)
		r = check_file(fs, ino, err);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(more) && r == 0; i++)
		r = check_file(fs, more[i], err);
	return r;
}

/* The superblock says that nothing is to be replayed; the journal has to say so too. */
static int check_journal(ext2_filsys fs, struct kedge_err *err)
{
	uint8_t *block;
	blk64_t at;
	errcode_t e;
	bool is_empty = false;

	if (!ext2fs_has_feature_journal(fs->super))
		return 0;
	block = malloc(fs->blocksize);
	if (!block)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory");
	e = ext2fs_bmap2(fs, EXT2_JOURNAL_INO, NULL, NULL, 0, 0, NULL, &at);
	if (e == 0)
		e = io_channel_read_blk64(fs->io, at, 1, block);
	if (e == 0)
		is_empty = kedge_get_be32(block) == JOURNAL_MAGIC && kedge_get_be32(block + JOURNAL_START_AT) == 0;
	free(block);
	if (e)
		return failed(err, "its journal cannot be read", e);
	return is_empty ? 0 : doubt(err, "its journal is not empty");
}

/* ---- the map ---- */

/* Free blocks of one group, and how many there are. */
static int take_group(ext2_filsys fs, dgrp_t g, struct tgt_ranges *ret_free, uint64_t *ret_nr, struct kedge_err *err)
{
	blk64_t at = ext2fs_group_first_block2(fs, g), last = ext2fs_group_last_block2(fs, g), start, end;

	*ret_nr = 0;
	while (at <= last) {
		errcode_t e = ext2fs_find_first_zero_block_bitmap2(fs->block_map, at, last, &start);
		if (e == ENOENT)
			return 0;
		if (e)
			return failed(err, "its bitmap cannot be searched", e);
		e = ext2fs_find_first_set_block_bitmap2(fs->block_map, start, last, &end);
		if (e == ENOENT)
			end = last + 1;
		else if (e)
			return failed(err, "its bitmap cannot be searched", e);
		if (tgt_ranges_add(ret_free, start * fs->blocksize, end * fs->blocksize) < 0)
			return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory");
		*ret_nr += end - start;
		at = end;
	}
	return 0;
}

static int take_map(ext2_filsys fs, struct tgt_ranges *ret_free, struct kedge_err *err)
{
	uint64_t total = 0;
	int r = 0;

	for (dgrp_t g = 0; g < fs->group_desc_count && r == 0; g++) {
		uint64_t nr;
		r = take_group(fs, g, ret_free, &nr, err);
		if (r == 0)
			r = check_group(fs, g, err);
		if (r == 0 && nr != ext2fs_bg_free_blocks_count(fs, g))
			r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "ext4: group %u counts %u free blocks, its bitmap has %llu", g,
					  ext2fs_bg_free_blocks_count(fs, g), (unsigned long long)nr);
		total += r == 0 ? nr : 0;
	}
	if (r == 0 && total != ext2fs_free_blocks_count(fs->super))
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "ext4: the superblock counts %llu free blocks, the bitmaps have %llu",
				  (unsigned long long)ext2fs_free_blocks_count(fs->super), (unsigned long long)total);
	return r;
}

static int read_map(ext2_filsys fs, struct tgt_ranges *ret_free, struct kedge_err *err)
{
	errcode_t e;
	int r;

	for (dgrp_t g = 0; g < fs->group_desc_count; g++)
		if (!ext2fs_group_desc_csum_verify(fs, g))
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "ext4: the checksum of group descriptor %u is wrong", g);
	e = ext2fs_read_block_bitmap(fs); /* verifies each one's checksum */
	if (e)
		return failed(err, "its block bitmaps cannot be read", e);
	r = take_map(fs, ret_free, err);
	if (r == 0)
		r = check_files(fs, err);
	return r == 0 ? check_journal(fs, err) : r;
}

int tgt_free_ext4(const struct tgt_free_volume *v, struct tgt_ranges *ret_free, struct kedge_err *err)
{
	ext2_filsys fs = NULL;
	char name[40];
	errcode_t e;
	int r = check_super(v, err);

	if (r < 0)
		return r;
	initialize_ext2_error_table();
	snprintf(name, sizeof name, "%d:%llu", v->fd, (unsigned long long)v->size_bytes);
	e = ext2fs_open2(name, NULL, EXT2_FLAG_64BITS, 0, 0, &manager, &fs);
	if (e)
		return failed(err, "it cannot be opened", e);
	r = read_map(fs, ret_free, err);
	ext2fs_free(fs);
	return r;
}
