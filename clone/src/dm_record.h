/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DM_RECORD_H
#define KCLONE_DM_RECORD_H

/*
 * What kedge itself records of a clone that the kernel runs (engine=dm): META holds the same two superblocks as a clone of the user
 * engine (an incompat flag and the region size in them) and no bitmaps, META.seen the newest generation, META.dm is the kernel's own
 * metadata device. The guard of fault K3 (engine.md) is here: META.dm is looked at before the kernel gets it, and never formatted
 * after create. Everything blocks.
 */

#include <string.h>

#include "kclone.h"
#include "uclone_layout.h"

#define DM_RECORD_BYTES UC_MAP_START_BYTES

struct dm_record {
	char meta[UCLONE_PATH_MAX];
	struct uc_super super;
	int meta_fd, seen_fd;
};

#define DM_RECORD_DECEIVED \
	"the source's disk became another volume while this clone used it: what was copied is not to be trusted; it never serves again. kclone abort takes it down"

/* Is its source the kernel's initiator's? how: "feed", "kernel", or NULL: as recorded. */
static inline bool dm_record_is_kernel_attach(const struct uc_super *s, const char *how)
{
	return how ? strcmp(how, "kernel") == 0 : s->dm_is_kernel_attach;
}

/* "META.dm" */
void dm_record_kernel_path(const char *meta, char out[UCLONE_PATH_MAX + 8]);

/* Write the first superblock into empty files of the right size. META.dm stays zeroes: the kernel formats it at the first start. */
int dm_record_create(const char *meta, const struct uc_super *super, struct kedge_err *err);
/* Read and check. KEDGE_E_META_* as the user engine. is_change: may be updated; the caller has the locks. */
int dm_record_open(const char *meta, bool is_change, struct dm_record *ret_record, struct kedge_err *err);
/* Make super durable as the next generation: the older slot, then META.seen. */
int dm_record_write(struct dm_record *rec, struct kedge_err *err);
void dm_record_close(struct dm_record *rec);

/* Before the kernel gets META.dm: 0 when it holds at least what was seen last, or when it was never started (then it must be all
 * zeroes at the front: *ret_nr_hydrated is 0). KEDGE_E_META_MISSING, _ZEROED, _CORRUPT, _FOREIGN, _OLD. Reads the whole bitmap. */
int dm_record_guard(const struct dm_record *rec, uint64_t *ret_nr_hydrated, struct kedge_err *err);
/* Regions that are hydrated by what META.dm says now, read past the page cache. */
int dm_record_count(const struct dm_record *rec, uint64_t *ret_nr_hydrated, struct kedge_err *err);
/* Likewise which: the bits of regions from_region to end_region (half-open) are added to words; words[0] begins with region
 * from_region rounded down to 64, and words cover all of the range. */
int dm_record_bits(const struct dm_record *rec, uint64_t from_region, uint64_t end_region, uint64_t *words, struct kedge_err *err);

#endif
