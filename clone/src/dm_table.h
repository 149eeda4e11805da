/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DM_TABLE_H
#define KCLONE_DM_TABLE_H

/* Pure. What is said to kernel dm-clone and what it says: table lines, status lines, its metadata on disk. Source of the formats:
 * design/dm-clone.md, "Interface", and what 6.1 writes. All sizes of tables and regions are in 512-byte sectors where named so. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kedge/err.h"

#define DM_PARAMS_MAX 512
#define DM_REGION_MIN_BYTES 4096u
#define DM_REGION_MAX_BYTES (1u << 30)
#define DM_REGION_DEFAULT_BYTES (64u << 10)
#define DM_NR_REGIONS_MAX (1ull << 31)

/* What the workload may not be given: ioctl devices by "major:minor". */
struct dm_clone_table {
	const char *meta_dev, *dest_dev, *source_dev;
	uint32_t region_bytes;
	uint32_t threshold, batch; /* regions */
};
/* Parameters of a clone that does not hydrate by itself yet and keeps discards from the destination. 0, -ENAMETOOLONG. */
int dm_clone_params(const struct dm_clone_table *t, char out[DM_PARAMS_MAX]);
int dm_linear_params(const char *dev, uint64_t start_sectors, char out[DM_PARAMS_MAX]);
/* Is that what a running clone's table line says (devices and region size; cores and features do not count)? */
bool dm_clone_params_are_of(const char *params, const struct dm_clone_table *t);

enum dm_mode { DM_MODE_RW, DM_MODE_RO, DM_MODE_FAIL };
struct dm_clone_status {
	enum dm_mode mode;
	uint64_t meta_used, meta_total; /* metadata blocks of 4 KiB */
	uint32_t region_bytes;
	uint64_t nr_hydrated, nr_regions, nr_hydrating;
	bool is_hydration_on;
	uint32_t threshold, batch;
};
/* 0; KEDGE_E_PROTO: a line that is none of dm-clone's */
int dm_clone_status_parse(const char *line, struct dm_clone_status *ret_status);

/* How large the metadata device of a volume must be (the rule of dm-clone.md: twice what it takes, and 1 MiB). */
uint64_t dm_clone_meta_bytes(uint64_t size_bytes, uint32_t region_bytes);
uint64_t dm_clone_nr_regions(uint64_t size_bytes, uint32_t region_bytes);
/* Is this a region size that the kernel takes for this volume? One line in err when not. */
int dm_clone_check_region(uint64_t size_bytes, uint32_t lbs_bytes, uint32_t region_bytes, struct kedge_err *err);

/* ---- the kernel's metadata ---- */

/* Reads block nr (4 KiB) into buf; 0 or -errno. */
typedef int (*dm_read_fn)(void *arg, uint64_t nr, uint8_t buf[4096]);

/* The superblock alone: 0; KEDGE_E_META_ZEROED, _CORRUPT (checksum), _VERSION, _FOREIGN (another geometry). */
int dm_clone_super_check(const uint8_t block[4096], uint64_t size_bytes, uint32_t region_bytes);
/* Walk the bitmap as it is on disk. fn gets each word of 64 regions, in order; bits past the last region are 0. As last committed: a set
 * bit is true for ever, a clear one may be stale on a live clone. 0, _META_CORRUPT, or the error of reading. */
int dm_clone_bitmap_read(dm_read_fn read_fn, void *read_arg, uint64_t size_bytes, uint32_t region_bytes,
			 void (*fn)(void *arg, uint64_t first_region, uint64_t bits), void *arg);
/* Of it the words with regions from_region to end_region (half-open), and no more blocks than that takes. */
int dm_clone_bitmap_read_range(dm_read_fn read_fn, void *read_arg, uint64_t size_bytes, uint32_t region_bytes, uint64_t from_region,
			       uint64_t end_region, void (*fn)(void *arg, uint64_t first_region, uint64_t bits), void *arg);
/* How many regions are hydrated there. */
int dm_clone_bitmap_count(dm_read_fn read_fn, void *read_arg, uint64_t size_bytes, uint32_t region_bytes, uint64_t *ret_nr);

#endif
