/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_MAPFILE_H
#define KCOPY_MAPFILE_H

/* Pure. The bytes of a kcopy map file (docs/formats.md, "kcopy map"). */

#include <stdint.h>

#include "bitmap.h"
#include "kedge/err.h"
#include "kedge/uuid.h"

#define KCOPY_MAP_PAGE_BYTES 4096u
#define KCOPY_MAP_ID_MAX 512

struct kcopy_map_header {
	struct kedge_uuid uuid;
	uint64_t size_bytes;
	char source_id[KCOPY_MAP_ID_MAX];
	char destination_id[KCOPY_MAP_ID_MAX];
};

void kcopy_map_encode_header(const struct kcopy_map_header *h, uint8_t out[KCOPY_MAP_PAGE_BYTES]);
/* 0; KEDGE_E_META_ZEROED, KEDGE_E_META_VERSION, KEDGE_E_META_CORRUPT, with a message. */
int kcopy_map_decode_header(const uint8_t in[KCOPY_MAP_PAGE_BYTES], struct kcopy_map_header *ret_header,
			    struct kedge_err *err);

void kcopy_map_encode_page(const struct kedge_uuid *uuid, uint64_t page, uint64_t generation,
			   const uint8_t bits[KCOPY_LEAF_BYTES], uint8_t out[KCOPY_MAP_PAGE_BYTES]);
enum kcopy_map_page {
	KCOPY_MAP_PAGE_GOOD,
	KCOPY_MAP_PAGE_EMPTY,   /* never written */
	KCOPY_MAP_PAGE_DAMAGED, /* torn, rotten or of another map: its blocks are copied again */
};
enum kcopy_map_page kcopy_map_decode_page(const struct kedge_uuid *uuid, uint64_t page,
					  const uint8_t in[KCOPY_MAP_PAGE_BYTES], uint8_t ret_bits[KCOPY_LEAF_BYTES]);

#endif
