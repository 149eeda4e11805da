/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Access histories: recording, file, order.
 *
 * Pure.
 */
#include "history.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"

#define GRAIN_BLOCKS (HISTORY_GRAIN_BYTES / KEDGE_BLOCK_BYTES)
#define VOLUME_MAX_BYTES (16ull << 40)
/* Twice the records, so that a look-up ends soon. */
#define TABLE_BITS 17u
#define TABLE_NR (1u << TABLE_BITS)
/* So many records of an order are sorted by place: far enough to join what lies together, near enough to stay in order. */
#define BATCH_RECORDS 128u
/* So much between two reads is read with them: a round trip costs more. */
#define GAP_BYTES (32u * 1024)

_Static_assert(GRAIN_BLOCKS == 16, "a bit of 16 for each block of a grain");
_Static_assert(TABLE_NR >= 2 * HISTORY_MAX, "look-ups end at an empty place");

static const char magic[8] = {'K', 'E', 'D', 'G', 'E', 'A', 'H', '1'};

/* ---- recording ---- */

struct recorder {
	struct history h;
	uint64_t begin_ns;
	uint32_t last; /* the record of the last touch: most touches are near it */
	uint32_t *table; /* 1 + number of a record, by grain; 0: empty */
};

struct recorder *recorder_create(const struct kedge_uuid *volume, uint64_t size_bytes, uint64_t now_ns)
{
	struct recorder *r = calloc(1, sizeof *r);

	if (!r)
		return NULL;
	r->h = (struct history){.volume = *volume, .size_bytes = size_bytes};
	r->begin_ns = now_ns;
	r->h.records = calloc(HISTORY_MAX, sizeof *r->h.records);
	r->table = calloc(TABLE_NR, sizeof *r->table);
	if (!r->h.records || !r->table) {
		recorder_destroy(r);
		return NULL;
	}
	return r;
}

void recorder_destroy(struct recorder *r)
{
	if (!r)
		return;
	free(r->h.records);
	free(r->table);
	free(r);
}

static uint64_t elapsed_ms(const struct recorder *r, uint64_t now_ns)
{
	return now_ns > r->begin_ns ? (now_ns - r->begin_ns) / 1000000 : 0;
}

/* The record of a grain, made when there is none and room; else NULL. */
static struct history_record *record_of(struct recorder *r, uint32_t grain, uint64_t now_ns)
{
	struct history *h = &r->h;

	if (h->nr && h->records[r->last].grain == grain)
		return &h->records[r->last];
	uint32_t at = (grain * 2654435769u) >> (32 - TABLE_BITS);
	for (; r->table[at]; at = (at + 1) % TABLE_NR)
		if (h->records[r->table[at] - 1].grain == grain) {
			r->last = r->table[at] - 1;
			return &h->records[r->last];
		}
	if (h->nr == HISTORY_MAX) {
		h->is_full = true;
		return NULL;
	}
	r->last = h->nr++;
	r->table[at] = h->nr;
	h->records[r->last] = (struct history_record){.grain = grain, .at_ms = (uint32_t)kedge_min_u64(elapsed_ms(r, now_ns), UINT32_MAX)};
	return &h->records[r->last];
}

/* Bits of the blocks [first, end) of a grain. */
static uint16_t mask_of(unsigned first, unsigned end)
{
	return (uint16_t)((1u << end) - (1u << first));
}

void recorder_note(struct recorder *r, uint64_t start_bytes, uint64_t nr_bytes, bool is_change, uint64_t now_ns)
{
	uint64_t end_bytes = start_bytes + nr_bytes;

	while (start_bytes < end_bytes && !r->h.is_full) {
		uint64_t grain_bytes = kedge_round_down(start_bytes, HISTORY_GRAIN_BYTES);
		uint64_t stop_bytes = kedge_min_u64(end_bytes, grain_bytes + HISTORY_GRAIN_BYTES);
		struct history_record *h = record_of(r, (uint32_t)(grain_bytes / HISTORY_GRAIN_BYTES), now_ns);
		unsigned first = (unsigned)((start_bytes - grain_bytes) / KEDGE_BLOCK_BYTES);
		unsigned end = (unsigned)((stop_bytes - grain_bytes + KEDGE_BLOCK_BYTES - 1) / KEDGE_BLOCK_BYTES);
		if (!h)
			return;
		uint16_t touched = mask_of(first, end) & (uint16_t) ~(h->read | h->written), whole = 0;
		if (is_change) { /* a part of a block needs the rest of it */
			unsigned a = first + (start_bytes % KEDGE_BLOCK_BYTES != 0);
			unsigned z = stop_bytes == r->h.size_bytes ? end : (unsigned)((stop_bytes - grain_bytes) / KEDGE_BLOCK_BYTES);
			whole = a < z ? mask_of(a, z) & touched : 0;
		}
		h->written |= whole;
		h->read |= touched & (uint16_t)~whole;
		start_bytes = stop_bytes;
	}
}

const struct history *recorder_history(struct recorder *r, uint64_t now_ns)
{
	r->h.length_ms = elapsed_ms(r, now_ns);
	return &r->h;
}

/* ---- the file ---- */

size_t history_encode(const struct history *h, uint8_t *out)
{
	size_t nr_bytes = HISTORY_HEAD_BYTES + (size_t)h->nr * HISTORY_RECORD_BYTES;
	uint8_t *p = out + HISTORY_HEAD_BYTES;

	memset(out, 0, HISTORY_HEAD_BYTES);
	memcpy(out, magic, sizeof magic);
	kedge_put_le32(out + 12, 1);
	memcpy(out + 16, h->volume.b, 16);
	kedge_put_le64(out + 32, h->size_bytes);
	kedge_put_le32(out + 40, KEDGE_BLOCK_BYTES);
	kedge_put_le32(out + 44, HISTORY_GRAIN_BYTES);
	kedge_put_le32(out + 48, h->nr);
	kedge_put_le32(out + 52, h->is_full);
	kedge_put_le64(out + 56, h->length_ms);
	for (uint32_t i = 0; i < h->nr; i++, p += HISTORY_RECORD_BYTES) {
		kedge_put_le32(p, h->records[i].grain);
		kedge_put_le32(p + 4, h->records[i].at_ms);
		kedge_put_le16(p + 8, h->records[i].read);
		kedge_put_le16(p + 10, h->records[i].written);
	}
	kedge_put_le32(out + 8, kedge_crc32c(0, out + 12, nr_bytes - 12));
	return nr_bytes;
}

static int damaged(struct kedge_err *err, const char *what)
{
	return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "not a usable access history: %s", what);
}

static int check_head(const uint8_t *file, size_t nr_bytes, struct kedge_err *err)
{
	if (nr_bytes < HISTORY_HEAD_BYTES || memcmp(file, magic, sizeof magic) != 0)
		return damaged(err, "it does not begin like one");
	if (kedge_get_le32(file + 12) != 1)
		return damaged(err, "its version is not known here");
	if (kedge_crc32c(0, file + 12, nr_bytes - 12) != kedge_get_le32(file + 8))
		return damaged(err, "its checksum is wrong");
	uint32_t nr = kedge_get_le32(file + 48);
	uint64_t size_bytes = kedge_get_le64(file + 32);
	if (nr > HISTORY_MAX || nr_bytes != HISTORY_HEAD_BYTES + (size_t)nr * HISTORY_RECORD_BYTES)
		return damaged(err, "its length is wrong");
	if (kedge_get_le32(file + 40) != KEDGE_BLOCK_BYTES || kedge_get_le32(file + 44) != HISTORY_GRAIN_BYTES || kedge_get_le32(file + 52) > 1 ||
	    size_bytes == 0 || size_bytes > VOLUME_MAX_BYTES)
		return damaged(err, "its geometry is not known here");
	return 0;
}

/* Blocks of a grain that lie in the volume. */
static uint16_t mask_in_volume(uint64_t size_bytes, uint32_t grain)
{
	uint64_t left_bytes = size_bytes - (uint64_t)grain * HISTORY_GRAIN_BYTES;
	uint64_t nr = (kedge_min_u64(left_bytes, HISTORY_GRAIN_BYTES) + KEDGE_BLOCK_BYTES - 1) / KEDGE_BLOCK_BYTES;

	return mask_of(0, (unsigned)nr);
}

static bool is_sane(const struct history *h, uint32_t i)
{
	const struct history_record *r = &h->records[i];

	return (uint64_t)r->grain * HISTORY_GRAIN_BYTES < h->size_bytes && (r->read | r->written) && !(r->read & r->written) &&
	       !((r->read | r->written) & ~mask_in_volume(h->size_bytes, r->grain)) && (i == 0 || r->at_ms >= r[-1].at_ms);
}

int history_decode(const uint8_t *file, size_t nr_bytes, struct history *ret_h, struct kedge_err *err)
{
	struct history h = {0};
	int r = check_head(file, nr_bytes, err);

	if (r < 0)
		return r;
	memcpy(h.volume.b, file + 16, 16);
	h.size_bytes = kedge_get_le64(file + 32);
	h.nr = kedge_get_le32(file + 48);
	h.is_full = kedge_get_le32(file + 52);
	h.length_ms = kedge_get_le64(file + 56);
	h.records = calloc(h.nr ? h.nr : 1, sizeof *h.records);
	if (!h.records)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for an access history");
	for (uint32_t i = 0; i < h.nr; i++) {
		const uint8_t *p = file + HISTORY_HEAD_BYTES + (size_t)i * HISTORY_RECORD_BYTES;
		h.records[i] = (struct history_record){kedge_get_le32(p), kedge_get_le32(p + 4), kedge_get_le16(p + 8), kedge_get_le16(p + 10)};
		if (!is_sane(&h, i)) {
			history_fini(&h);
			return damaged(err, "a record lies outside the volume, or out of order");
		}
	}
	*ret_h = h;
	return 0;
}

void history_fini(struct history *h)
{
	free(h->records);
	h->records = NULL;
	h->nr = 0;
}

int history_check(const struct history *h, const struct kedge_uuid *volume, uint64_t size_bytes, struct kedge_err *err)
{
	char of[KEDGE_UUID_TEXT_MAX];

	if (h->size_bytes != size_bytes)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE,
				     "the access history is of a volume of %" PRIu64 " bytes, this one has %" PRIu64, h->size_bytes, size_bytes);
	if (kedge_uuid_is_null(volume) || kedge_uuid_is_null(&h->volume) || kedge_uuid_is_equal(volume, &h->volume))
		return 0;
	kedge_uuid_format(&h->volume, of);
	return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "the access history is of another volume: %s", of);
}

/* ---- the order ---- */

struct order {
	struct kcopy_range *ranges;
	uint32_t nr, nr_max, batch; /* where this batch began */
};

static int put_range(struct order *o, uint64_t start_bytes, uint64_t end_bytes)
{
	struct kcopy_range *last = o->nr > o->batch ? &o->ranges[o->nr - 1] : NULL;

	if (last && start_bytes <= last->end_bytes + GAP_BYTES) {
		last->end_bytes = kedge_max_u64(last->end_bytes, end_bytes);
		return 0;
	}
	if (o->nr == o->nr_max) {
		uint32_t nr_max = o->nr_max ? o->nr_max * 2 : 256;
		struct kcopy_range *more = realloc(o->ranges, nr_max * sizeof *more);
		if (!more)
			return -ENOMEM;
		o->ranges = more;
		o->nr_max = nr_max;
	}
	o->ranges[o->nr++] = (struct kcopy_range){start_bytes, end_bytes};
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct history_record *x = a, *y = b;

	return (x->grain > y->grain) - (x->grain < y->grain);
}

static int put_record(struct order *o, const struct history_record *r)
{
	uint64_t start_bytes = (uint64_t)r->grain * HISTORY_GRAIN_BYTES;
	int res = 0;

	for (unsigned b = 0; b < GRAIN_BLOCKS && res == 0; b++)
		if (r->read >> b & 1)
			res = put_range(o, start_bytes + (uint64_t)b * KEDGE_BLOCK_BYTES, start_bytes + (b + 1ull) * KEDGE_BLOCK_BYTES);
	return res;
}

int history_order(const struct history *h, struct kcopy_range **ret_ranges, uint32_t *ret_nr, uint64_t *ret_nr_bytes)
{
	struct history_record batch[BATCH_RECORDS];
	struct order o = {0};
	uint64_t nr_bytes = 0;
	int r = 0;

	for (uint32_t at = 0; at < h->nr && r == 0; at += BATCH_RECORDS) {
		uint32_t nr = (uint32_t)kedge_min_u64(BATCH_RECORDS, h->nr - at);
		memcpy(batch, h->records + at, nr * sizeof *batch);
		qsort(batch, nr, sizeof *batch, by_place);
		o.batch = o.nr;
		for (uint32_t i = 0; i < nr && r == 0; i++)
			r = put_record(&o, &batch[i]);
	}
	if (r < 0) {
		free(o.ranges);
		return r;
	}
	for (uint32_t i = 0; i < o.nr; i++)
		nr_bytes += kedge_min_u64(o.ranges[i].end_bytes, h->size_bytes) - o.ranges[i].start_bytes;
	*ret_ranges = o.ranges;
	*ret_nr = o.nr;
	*ret_nr_bytes = nr_bytes;
	return 0;
}
