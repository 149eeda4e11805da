/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Decoders for the four answers an iSCSI source needs (SPC-4, SBC-4).
 *
 * Pure.
 */
#include "kcopy/scsi_reply.h"

#include <errno.h>

#include "kedge/bytes.h"

int kcopy_parse_usn(const uint8_t *data, size_t nr_bytes, char ret_usn[KCOPY_USN_MAX])
{
	if (nr_bytes < 4 || data[1] != 0x80)
		return -EPROTO;
	size_t nr_text = kedge_get_be16(data + 2);
	if (nr_text > nr_bytes - 4)
		nr_text = nr_bytes - 4;
	const uint8_t *text = data + 4;
	while (nr_text > 0 && (text[nr_text - 1] == ' ' || text[nr_text - 1] == 0))
		nr_text--;
	while (nr_text > 0 && *text == ' ') {
		text++;
		nr_text--;
	}
	if (nr_text >= KCOPY_USN_MAX)
		return -EPROTO;
	for (size_t i = 0; i < nr_text; i++)
		if (text[i] < 0x20 || text[i] > 0x7e)
			return -EPROTO;
	memcpy(ret_usn, text, nr_text);
	ret_usn[nr_text] = 0;
	return 0;
}

int kcopy_parse_capacity(const uint8_t *data, size_t nr_bytes, struct kcopy_capacity *ret_capacity)
{
	if (nr_bytes < 16)
		return -EPROTO;
	uint64_t last_block = kedge_get_be64(data);
	uint32_t block_bytes = kedge_get_be32(data + 8);
	if (block_bytes != 512 && block_bytes != 4096)
		return -EPROTO;
	if (last_block >= (uint64_t)INT64_MAX / block_bytes)
		return -EPROTO;
	*ret_capacity = (struct kcopy_capacity){
		.nr_blocks = last_block + 1,
		.block_bytes = block_bytes,
		.is_thin_zeroed = (data[14] & 0xc0) == 0xc0,
	};
	return 0;
}

int kcopy_parse_block_limits(const uint8_t *data, size_t nr_bytes, uint32_t *ret_max_transfer_blocks)
{
	if (nr_bytes < 12 || data[1] != 0xb0)
		return -EPROTO;
	*ret_max_transfer_blocks = kedge_get_be32(data + 8);
	return 0;
}

int kcopy_parse_lba_status(const uint8_t *data, size_t nr_bytes, uint64_t start_block, uint64_t nr_blocks,
			   uint32_t block_bytes, struct kedge_extent *extents, uint32_t nr_extents_max)
{
	uint64_t at = start_block, end = start_block + nr_blocks;
	uint32_t nr = 0;

	if (nr_bytes < 8 || nr_extents_max == 0 || nr_blocks == 0 || end < start_block)
		return -EPROTO;
	/* the parameter data length does not count its own four bytes; targets disagree about it, the received length rules */
	for (size_t off = 8; off + 16 <= nr_bytes && at < end; off += 16) {
		uint64_t lba = kedge_get_be64(data + off);
		uint64_t nr_here = kedge_get_be32(data + off + 8);
		bool is_hole = (data[off + 12] & 0x0f) == 1; /* deallocated; anchored ones count as data */

		/* The first may begin before the block asked for; later ones must follow without a gap. */
		if (lba > at || nr_here == 0 || lba + nr_here < lba || lba + nr_here <= at)
			break;
		uint64_t here = kedge_min_u64(lba + nr_here, end) - at;
		if (nr > 0 && extents[nr - 1].is_hole == is_hole) {
			extents[nr - 1].nr_bytes += here * block_bytes;
		} else {
			if (nr == nr_extents_max)
				break;
			extents[nr++] = (struct kedge_extent){ .nr_bytes = here * block_bytes, .is_hole = is_hole };
		}
		at += here;
	}
	return nr > 0 ? (int)nr : -EPROTO;
}
