/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_TRANSIT_H
#define KEDGE_TRANSIT_H

/*
 * Pure. Extents of a source on their way to the destination: a checksum with each, zstd where it was asked for and wins, a token for
 * zeroes. Both ends' part of the vendor-specific command READ EXTENT and of the page that announces it (docs/formats.md, "Transit").
 * The one file that knows zstd and xxHash is transit.c.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEDGE_TRANSIT_OPCODE 0xc1
#define KEDGE_TRANSIT_CDB_BYTES 16u
#define KEDGE_TRANSIT_PAGE 0xc0
#define KEDGE_TRANSIT_PAGE_BYTES 16u /* with the four of every page */
#define KEDGE_TRANSIT_HEAD_BYTES 48u
#define KEDGE_TRANSIT_EXTENT_MAX_BYTES (512u << 10)

enum kedge_transit_codec { KEDGE_TRANSIT_RAW, KEDGE_TRANSIT_ZERO, KEDGE_TRANSIT_ZSTD, KEDGE_TRANSIT_NR_CODECS };
#define KEDGE_TRANSIT_CAN(codec) ((uint8_t)(1u << (codec)))
#define KEDGE_TRANSIT_CAN_ALL ((uint8_t)((1u << KEDGE_TRANSIT_NR_CODECS) - 1))
/* No way to travel: of the extent only its sum is sent. Offered and asked for by the next bit; never together with others. */
#define KEDGE_TRANSIT_SUM KEDGE_TRANSIT_NR_CODECS
#define KEDGE_TRANSIT_CAN_SUM KEDGE_TRANSIT_CAN(KEDGE_TRANSIT_SUM)
#define KEDGE_TRANSIT_SUM_BYTES 16u

/* What a source offers. */
struct kedge_transit_offer {
	uint8_t codecs;     /* KEDGE_TRANSIT_CAN bits; RAW and ZERO always; CAN_SUM from newer sources */
	uint8_t nr_workers; /* threads that pack, at least 1 */
	uint32_t extent_max_bytes;
};
void kedge_transit_page_encode(const struct kedge_transit_offer *offer, uint8_t out[KEDGE_TRANSIT_PAGE_BYTES]);
/* 0, or -EPROTO when it is not that page, or of a version not known here: then there is no transit with this source. */
int kedge_transit_page_decode(const uint8_t *page, size_t nr_bytes, struct kedge_transit_offer *ret_offer);

/* codecs: what the answer may be; RAW and ZERO always may. CAN_SUM alone: the sum and nothing else. */
void kedge_transit_cdb_encode(uint64_t lba, uint32_t nr_blocks, uint8_t codecs, uint8_t out[KEDGE_TRANSIT_CDB_BYTES]);

/* Before the payload of every answer. */
struct kedge_transit_head {
	enum kedge_transit_codec codec;
	uint64_t start_bytes;    /* of the extent, on the unit */
	uint32_t nr_bytes;       /* of the extent */
	uint32_t payload_bytes;  /* what follows */
	uint64_t checksum;       /* of the extent's bytes; 0 for ZERO */
	uint64_t pack_ns;        /* what compressing took the source, also when it did not win; 0: it was not tried */
};
void kedge_transit_head_encode(const struct kedge_transit_head *head, uint8_t out[KEDGE_TRANSIT_HEAD_BYTES]);
/*
 * The head of the answer to a request for these bytes, of which nr_payload_bytes came. 0, or -EBADMSG: not a head, damaged, for other
 * bytes, or what it says does not fit what came. After 0: payload_bytes <= nr_bytes.
 */
int kedge_transit_head_decode(const uint8_t in[KEDGE_TRANSIT_HEAD_BYTES], uint64_t start_bytes, uint32_t nr_bytes,
			      uint64_t nr_payload_bytes, struct kedge_transit_head *ret_head);

/* What two ends compare instead of an extent's bytes: 128 bits of these, of where they are and of how many there are. */
void kedge_transit_sum(const void *data, uint64_t start_bytes, uint32_t nr_bytes, uint8_t ret_sum[KEDGE_TRANSIT_SUM_BYTES]);
/* The answer to CAN_SUM: a head without a payload. */
void kedge_transit_sum_encode(uint64_t start_bytes, uint32_t nr_bytes, const uint8_t sum[KEDGE_TRANSIT_SUM_BYTES],
			      uint8_t out[KEDGE_TRANSIT_HEAD_BYTES]);
/* 0, or -EBADMSG: not such a head, damaged, or for other bytes. */
int kedge_transit_sum_decode(const uint8_t in[KEDGE_TRANSIT_HEAD_BYTES], uint64_t start_bytes, uint32_t nr_bytes,
			     uint8_t ret_sum[KEDGE_TRANSIT_SUM_BYTES]);

/* What compresses and decompresses; one thread at a time. NULL without memory. */
struct kedge_transit_coder;
struct kedge_transit_coder *kedge_transit_coder_create(void);
/* destroy(NULL) is a no-op. */
void kedge_transit_coder_destroy(struct kedge_transit_coder *coder);

/*
 * Choose how an extent of nr_bytes travels, and set codec, nr_bytes, payload_bytes and checksum of *ret_head. ZSTD, when codecs allow it
 * and an eighth is saved at least: the payload is in packed (of KEDGE_TRANSIT_EXTENT_MAX_BYTES). RAW: the payload is data. *ret_has_tried:
 * compressing was tried.
 */
void kedge_transit_pack(struct kedge_transit_coder *coder, const void *data, uint32_t nr_bytes, uint8_t codecs, void *packed,
			bool *ret_has_tried, struct kedge_transit_head *ret_head);
/*
 * The extent of a decoded head into out (nr_bytes). payload (payload_bytes) may be out itself for RAW, nowhere near it for ZSTD. 0, or
 * -EBADMSG: it is not what the checksum says; out holds anything then, but never more than nr_bytes of it.
 */
int kedge_transit_unpack(struct kedge_transit_coder *coder, const struct kedge_transit_head *head, const void *payload, void *out);

#endif
