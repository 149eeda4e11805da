/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_SCSI_REPLY_H
#define KCOPY_SCSI_REPLY_H

/* Pure. What a target says about itself, taken apart with every length checked: the bytes come from the other side. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kedge/source.h"

#define KCOPY_USN_MAX 253

/* Unit serial number (VPD 0x80), printable ASCII, blanks at both ends cut off. 0, or -EPROTO when it is not that page. An empty
 * serial number is fine. */
int kcopy_parse_usn(const uint8_t *data, size_t nr_bytes, char ret_usn[KCOPY_USN_MAX]);

struct kcopy_capacity {
	uint64_t nr_blocks;
	uint32_t block_bytes;
	bool is_thin_zeroed; /* unmapped blocks are reported (LBPME) and read as zeroes (LBPRZ) */
};
/* READ CAPACITY(16). 0, or -EPROTO for a short answer, no blocks, a block size other than 512 or 4096, or a size beyond 2^63. */
int kcopy_parse_capacity(const uint8_t *data, size_t nr_bytes, struct kcopy_capacity *ret_capacity);

/* Block limits (VPD 0xb0): most blocks one READ may ask for; 0 when the target states none. 0 or -EPROTO. */
int kcopy_parse_block_limits(const uint8_t *data, size_t nr_bytes, uint32_t *ret_max_transfer_blocks);

/* GET LBA STATUS: extents from start_block on, at most nr_blocks in all, neighbours of a kind joined. Returns how many (at least
 * 1), or -EPROTO when the answer does not begin at start_block or holds no descriptor. */
int kcopy_parse_lba_status(const uint8_t *data, size_t nr_bytes, uint64_t start_block, uint64_t nr_blocks,
			   uint32_t block_bytes, struct kedge_extent *extents, uint32_t nr_extents_max);

#endif
