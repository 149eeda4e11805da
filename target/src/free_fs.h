/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_FREE_FS_H
#define TGT_FREE_FS_H

/*
 * What the file systems know about their free space. All of it reads a frozen volume and believes nothing that has no checksum; anything
 * unknown, damaged or under way is an error whose message says why, and then there is no free map. Called in the reader's process
 * (freemap.c): they block, and a hostile volume may make them end badly.
 */

#include "kedge/err.h"
#include "ranges.h"

struct tgt_free_volume {
	int fd;
	uint64_t size_bytes;
};

enum tgt_free_kind { TGT_FREE_EXT4, TGT_FREE_XFS };

/* Reads all of it. 0, or -errno with a message; -EIO also beyond the end. */
int tgt_free_pread(const struct tgt_free_volume *v, void *buf, size_t nr_bytes, uint64_t at_bytes, struct kedge_err *err);
/* Which file system lies directly on the volume, when it is one of the above and there is no sign of anything else. */
int tgt_free_probe(const struct tgt_free_volume *v, enum tgt_free_kind *ret_kind, struct kedge_err *err);
/* Its free space into an empty list. Not aligned to anything but its own blocks. */
int tgt_free_ext4(const struct tgt_free_volume *v, struct tgt_ranges *ret_free, struct kedge_err *err);
int tgt_free_xfs(const struct tgt_free_volume *v, struct tgt_ranges *ret_free, struct kedge_err *err);

#endif
