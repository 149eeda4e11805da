/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef UCLONE_LAYOUT_H
#define UCLONE_LAYOUT_H

/* Pure. The metadata on disk (docs/formats.md, "Clone metadata"): geometry, superblock and sector codecs. */

#include <stdbool.h>
#include <stdint.h>

#include "uclone/uclone.h"

#define UC_BLOCK 4096u
#define UC_SUPER_BYTES 4096u
#define UC_SUPER_A_BYTES 0u
#define UC_SUPER_B_BYTES 65536u
#define UC_MAP_START_BYTES 131072u
#define UC_SECTOR 512u
#define UC_SECTOR_BLOCKS 1920u            /* blocks a sector speaks of */
#define UC_GROUP_BLOCKS 240u              /* blocks an intent bit covers */
#define UC_PAGE 4096u
#define UC_PAGE_SECTORS (UC_PAGE / UC_SECTOR)
#define UC_PAGE_BLOCKS (UC_SECTOR_BLOCKS * UC_PAGE_SECTORS)

struct uc_super {
	struct uclone_create_opts opts;
	struct kedge_uuid id; /* of this clone */
	uint64_t generation;
	uint64_t open_count;
	enum uclone_state state;
	bool is_clean;     /* closed after a last commit */
	bool had_unclean;  /* some blocks count as written because of an unclean stop */
	bool has_started;  /* was LIVE at least once */
	uint64_t dest_size_bytes;
	/* engine=dm; 0: the user engine. Such a superblock carries an incompat flag. */
	uint32_t dm_region_bytes;
	bool dm_was_written;     /* the workload wrote, or may have */
	bool dm_is_marked;       /* a head start marked regions, or began to, before the workload had the device */
	bool dm_is_kernel_attach; /* the source is a disk of the kernel's initiator, not the feed */
	bool dm_was_deceived;    /* that disk became another volume once: what was copied is not to be trusted */
	bool dm_is_led;          /* to that disk, or was about to be: what its session connects to while no driver looks is read, too */
	uint32_t dm_led_sid, dm_led_port; /* then: the session, and the local port of the last of its connections that was the volume's */
	uint64_t dm_nr_seen; /* so many regions were hydrated and committed at the last look: fewer means an older copy */
};

static inline uint64_t uc_nr_blocks(uint64_t size_bytes)
{
	return (size_bytes + UC_BLOCK - 1) / UC_BLOCK;
}
static inline uint64_t uc_nr_pages(uint64_t size_bytes)
{
	return (uc_nr_blocks(size_bytes) + UC_PAGE_BLOCKS - 1) / UC_PAGE_BLOCKS;
}

void uc_super_encode(const struct uc_super *s, uint8_t out[UC_SUPER_BYTES]);
/* 0; KEDGE_E_META_ZEROED, _CORRUPT, _VERSION */
int uc_super_decode(const uint8_t in[UC_SUPER_BYTES], struct uc_super *ret_super);

struct uc_sector {
	uint64_t generation;
	uint8_t valid[240], written[240];
	uint8_t intent;
};
void uc_sector_encode(const struct uc_sector *s, uint64_t clone_id, uint32_t sector_nr, uint8_t out[UC_SECTOR]);
/* 0 or KEDGE_E_META_CORRUPT */
int uc_sector_decode(const uint8_t in[UC_SECTOR], uint64_t clone_id, uint32_t sector_nr, struct uc_sector *ret_sector);

void uc_seen_encode(const struct uc_super *s, uint8_t out[UC_BLOCK]);
/* 0; KEDGE_E_META_ZEROED, _CORRUPT, _FOREIGN */
int uc_seen_decode(const uint8_t in[UC_BLOCK], const struct uc_super *s, uint64_t *ret_generation, uint64_t *ret_open_count);
#endif
