/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Comparing by checksums: the source reads and says what 128 bits its bytes make, the destination is read and hashed here. A
 * checksum only ever says "the same": what it does not say that of is read and compared byte by byte, so that a difference is told by its blocks and a
 * wrong answer costs time, nothing else.
 *
 * Owns. Nothing beyond the hydrator's copies.
 *
 * Locks. None: loop thread only.
 */
#include <assert.h>
#include <string.h>

#include "hydrator.h"
#include "kedge/bytes.h"
#include "kedge/name.h"
#include "kedge/transit.h"

static_assert((KCOPY_COPY_BYTES_MAX / KEDGE_TRANSIT_EXTENT_MAX_BYTES) * KEDGE_TRANSIT_SUM_BYTES <= KEDGE_BLOCK_BYTES,
	      "the sums of a copy fit its buffer");

static const char *const names[] = { [KCOPY_DATA_BYTES] = "bytes", [KCOPY_DATA_BY_CHECKSUM] = "checksum" };

const char *kcopy_data_name(enum kcopy_data data)
{
	return (unsigned)data < KEDGE_ARRAY_LEN(names) ? names[data] : "?";
}

bool kcopy_data_parse(const char *text, enum kcopy_data *ret_data)
{
	int i = kedge_word_find(names, KEDGE_ARRAY_LEN(names), text);

	if (i < 0)
		return false;
	*ret_data = (enum kcopy_data)i;
	return true;
}

bool kcopy_verify_can_sum(const struct kcopy_hydrator *h)
{
	return h->data == KCOPY_DATA_BY_CHECKSUM && h->src->ops->sums && !h->has_no_sums;
}

bool kcopy_verify_sum_compare(struct kcopy_copy *c)
{
	const uint8_t *theirs = c->buf, *own = c->own_buf;
	uint8_t sum[KEDGE_TRANSIT_SUM_BYTES];

	for (uint64_t at = 0; at < c->nr_bytes; at += KEDGE_TRANSIT_EXTENT_MAX_BYTES, theirs += sizeof sum) {
		uint64_t nr_bytes = kedge_min_u64(KEDGE_TRANSIT_EXTENT_MAX_BYTES, c->nr_bytes - at);
		kedge_transit_sum(own + at, c->start_bytes + at, (uint32_t)nr_bytes, sum);
		if (memcmp(sum, theirs, sizeof sum) != 0)
			return false;
	}
	c->h->verified_bytes += c->nr_bytes;
	c->h->checksum_bytes += c->nr_bytes;
	return true;
}
