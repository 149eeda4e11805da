/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Encodes and decodes the pages of a kcopy map.
 *
 * Pure.
 */
#include "mapfile.h"

#include <string.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"

#define MAGIC "KCOPYMAP"
#define VERSION 1u
#define PAGE_MAGIC 0x706d636bu /* "kcmp" */
#define HEADER_CRC_AT (KCOPY_MAP_PAGE_BYTES - 4)

_Static_assert(32 + KCOPY_LEAF_BYTES == KCOPY_MAP_PAGE_BYTES, "a page is its head and a leaf");

void kcopy_map_encode_header(const struct kcopy_map_header *h, uint8_t out[KCOPY_MAP_PAGE_BYTES])
{
	memset(out, 0, KCOPY_MAP_PAGE_BYTES);
	memcpy(out, MAGIC, 8);
	kedge_put_le32(out + 8, VERSION);
	memcpy(out + 16, h->uuid.b, 16);
	kedge_put_le64(out + 32, h->size_bytes);
	kedge_put_le32(out + 40, KEDGE_BLOCK_BYTES);
	memcpy(out + 64, h->source_id, strnlen(h->source_id, KCOPY_MAP_ID_MAX - 1));
	memcpy(out + 576, h->destination_id, strnlen(h->destination_id, KCOPY_MAP_ID_MAX - 1));
	kedge_put_le32(out + HEADER_CRC_AT, kedge_crc32c(0, out, HEADER_CRC_AT));
}

int kcopy_map_decode_header(const uint8_t in[KCOPY_MAP_PAGE_BYTES], struct kcopy_map_header *ret_header,
			    struct kedge_err *err)
{
	struct kcopy_map_header h = { .size_bytes = kedge_get_le64(in + 32) };

	if (kedge_is_zero(in, KCOPY_MAP_PAGE_BYTES))
		return kedge_err_set(err, KEDGE_E_META_ZEROED, KEDGE_SIDE_METADATA, "the map begins with zeroes only");
	if (memcmp(in, MAGIC, 8) != 0)
		return kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA, "not a kcopy map");
	if (kedge_crc32c(0, in, HEADER_CRC_AT) != kedge_get_le32(in + HEADER_CRC_AT))
		return kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA, "the map's header is damaged (checksum)");
	if (kedge_get_le32(in + 8) != VERSION || kedge_get_le32(in + 12) != 0 || kedge_get_le32(in + 40) != KEDGE_BLOCK_BYTES)
		return kedge_err_set(err, KEDGE_E_META_VERSION, KEDGE_SIDE_METADATA,
				     "the map has version %u, flags %#x, block size %u; known here: 1, 0, %u",
				     kedge_get_le32(in + 8), kedge_get_le32(in + 12), kedge_get_le32(in + 40), KEDGE_BLOCK_BYTES);
	memcpy(h.uuid.b, in + 16, 16);
	memcpy(h.source_id, in + 64, KCOPY_MAP_ID_MAX - 1);
	memcpy(h.destination_id, in + 576, KCOPY_MAP_ID_MAX - 1);
	*ret_header = h;
	return 0;
}

static uint32_t page_crc(const uint8_t page[KCOPY_MAP_PAGE_BYTES])
{
	static const uint8_t none[4];
	uint32_t crc = kedge_crc32c(0, page, 4);

	crc = kedge_crc32c(crc, none, 4);
	return kedge_crc32c(crc, page + 8, KCOPY_MAP_PAGE_BYTES - 8);
}

void kcopy_map_encode_page(const struct kedge_uuid *uuid, uint64_t page, uint64_t generation,
			   const uint8_t bits[KCOPY_LEAF_BYTES], uint8_t out[KCOPY_MAP_PAGE_BYTES])
{
	kedge_put_le32(out, PAGE_MAGIC);
	kedge_put_le64(out + 8, page);
	memcpy(out + 16, uuid->b, 8);
	kedge_put_le64(out + 24, generation);
	memcpy(out + 32, bits, KCOPY_LEAF_BYTES);
	kedge_put_le32(out + 4, page_crc(out));
}

enum kcopy_map_page kcopy_map_decode_page(const struct kedge_uuid *uuid, uint64_t page,
					  const uint8_t in[KCOPY_MAP_PAGE_BYTES], uint8_t ret_bits[KCOPY_LEAF_BYTES])
{
	if (kedge_is_zero(in, KCOPY_MAP_PAGE_BYTES))
		return KCOPY_MAP_PAGE_EMPTY;
	if (kedge_get_le32(in) != PAGE_MAGIC || kedge_get_le64(in + 8) != page || memcmp(in + 16, uuid->b, 8) != 0 ||
	    kedge_get_le32(in + 4) != page_crc(in))
		return KCOPY_MAP_PAGE_DAMAGED;
	memcpy(ret_bits, in + 32, KCOPY_LEAF_BYTES);
	return KCOPY_MAP_PAGE_GOOD;
}
