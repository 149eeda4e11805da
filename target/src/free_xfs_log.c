/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Was this XFS unmounted? Its log says so.
 *
 * Owns. Nothing after it returns. Locks. None.
 *
 * Every sector of the log begins with the number of the lap (cycle) it was written in, or is a record's header, which says it in its second
 * word. The head is where the lap changes; a log is clean when the record that ends at the head is that of an unmount. Around the head more
 * than can ever be in flight is looked at: an older lap before it or a newer one behind it means writes that were torn, so doubt.
 */
#include <errno.h>
#include <stdlib.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"
#include "xfs_disk.h"

#define SECTOR_BYTES 512u
#define RECORD_MAGIC 0xfeedbabeu
#define CYCLE_BYTES 32768u      /* of a record that one header sector tells the cycles of */
#define RECORD_MAX_BYTES (256u << 10)
#define IN_FLIGHT_SECTORS ((8u * RECORD_MAX_BYTES + CYCLE_BYTES) / SECTOR_BYTES * 2)
#define OP_UNMOUNT 0x20u
#define HEADER_CRC_BYTES 328u
#define EXTENSION_CRC_BYTES 260u

enum { H_CYCLE = 4, H_VERSION = 8, H_LEN = 12, H_CRC = 32, H_NUM_LOGOPS = 40, H_FMT = 300, H_UUID = 304, H_SIZE = 320 };
enum { OP_FLAGS = 9 };

struct log {
	const struct tgt_xfs *x;
	uint64_t at_bytes;
	uint32_t nr_sectors;
	struct kedge_err *err;
};

static uint32_t wrap(const struct log *l, uint64_t sector)
{
	return (uint32_t)(sector % l->nr_sectors);
}

static int read_sectors(const struct log *l, uint32_t sector, uint32_t nr, uint8_t *buf)
{
	uint32_t first = (uint32_t)kedge_min_u64(nr, l->nr_sectors - sector);
	int r = tgt_free_pread(l->x->v, buf, (size_t)first * SECTOR_BYTES, l->at_bytes + (uint64_t)sector * SECTOR_BYTES, l->err);

	if (r == 0 && nr > first)
		r = tgt_free_pread(l->x->v, buf + (size_t)first * SECTOR_BYTES, (size_t)(nr - first) * SECTOR_BYTES, l->at_bytes, l->err);
	return r;
}

static uint32_t cycle_of(const uint8_t *sector)
{
	return kedge_get_be32(sector + (kedge_get_be32(sector) == RECORD_MAGIC ? H_CYCLE : 0));
}

static int read_cycle(const struct log *l, uint32_t sector, uint32_t *ret_cycle)
{
	uint8_t buf[SECTOR_BYTES];
	int r = read_sectors(l, sector, 1, buf);

	if (r == 0)
		*ret_cycle = cycle_of(buf);
	return r;
}

/* The first sector of the older lap; 0: the lap has just ended. */
static int find_head(const struct log *l, uint32_t *ret_head, uint32_t *ret_cycle)
{
	uint32_t first = 0, last = 0, cycle, low = 0, high = l->nr_sectors - 1;
	int r = read_cycle(l, low, &first);

	if (r == 0)
		r = read_cycle(l, high, &last);
	if (r < 0)
		return r;
	*ret_cycle = first;
	*ret_head = 0;
	if (first == last)
		return 0;
	while (high - low > 1) { /* low is of the newer lap, high of the older one */
		uint32_t middle = low + (high - low) / 2;
		r = read_cycle(l, middle, &cycle);
		if (r < 0)
			return r;
		if (cycle == first)
			low = middle;
		else
			high = middle;
	}
	*ret_head = high;
	return 0;
}

/* Before the head the newer lap, behind it the older one; where the log ends and begins again, one more and one less. */
static int check_laps(const struct log *l, uint32_t head, uint32_t cycle, uint8_t *window)
{
	uint32_t span = (uint32_t)kedge_min_u64(IN_FLIGHT_SECTORS, l->nr_sectors / 2), begin = wrap(l, (uint64_t)head + l->nr_sectors - span);
	int r = read_sectors(l, begin, 2 * span, window);

	for (uint32_t i = 0; i < 2 * span && r == 0; i++) {
		uint32_t at = wrap(l, (uint64_t)begin + i), want = head == 0 || at < head ? cycle : cycle - 1;
		if (cycle_of(window + (size_t)i * SECTOR_BYTES) != want)
			r = tgt_xfs_doubt(l->err, "its log is torn at sector %u", at);
	}
	return r;
}

static bool crc_holds(const uint8_t *record, uint32_t nr_headers, uint32_t len_bytes)
{
	uint32_t want = kedge_get_le32(record + H_CRC), crc;
	static const uint8_t zero[4];

	if (want == 0) /* of xfsprogs */
		return true;
	crc = kedge_crc32c(0, record, H_CRC);
	crc = kedge_crc32c(crc, zero, sizeof zero);
	crc = kedge_crc32c(crc, record + H_CRC + 4, HEADER_CRC_BYTES - H_CRC - 4);
	for (uint32_t i = 1; i < nr_headers; i++)
		crc = kedge_crc32c(crc, record + i * SECTOR_BYTES, EXTENSION_CRC_BYTES);
	return kedge_crc32c(crc, record + nr_headers * SECTOR_BYTES, len_bytes) == want;
}

/* Is the record that begins here, with so many sectors up to the head, the one that an unmount writes last? */
static bool is_unmount(const struct tgt_xfs *x, const uint8_t *record, uint32_t nr_sectors)
{
	uint32_t len = kedge_get_be32(record + H_LEN), size = kedge_get_be32(record + H_SIZE), nr_headers = 1;

	if (kedge_get_be32(record + H_VERSION) == 2 && size > CYCLE_BYTES && size <= RECORD_MAX_BYTES)
		nr_headers = (size + CYCLE_BYTES - 1) / CYCLE_BYTES;
	if (len == 0 || len > RECORD_MAX_BYTES || nr_headers + (len + SECTOR_BYTES - 1) / SECTOR_BYTES != nr_sectors)
		return false;
	return kedge_get_be32(record + H_NUM_LOGOPS) == 1 && kedge_get_be32(record + H_FMT) == 1 &&
	       memcmp(record + H_UUID, x->uuid, 16) == 0 && (record[nr_headers * SECTOR_BYTES + OP_FLAGS] & OP_UNMOUNT) &&
	       crc_holds(record, nr_headers, len);
}

/* The last header before the head, in the window that ends there. */
static int check_last_record(const struct log *l, uint32_t head, uint8_t *window)
{
	uint32_t span = (uint32_t)kedge_min_u64((RECORD_MAX_BYTES + CYCLE_BYTES) / SECTOR_BYTES, l->nr_sectors - 1);
	int r = read_sectors(l, wrap(l, (uint64_t)head + l->nr_sectors - span), span, window);

	if (r < 0)
		return r;
	for (uint32_t i = span; i-- > 0;) {
		const uint8_t *record = window + (size_t)i * SECTOR_BYTES;
		if (kedge_get_be32(record) != RECORD_MAGIC)
			continue;
		if (i + 1 < span && is_unmount(l->x, record, span - i))
			return 0;
		break;
	}
	return tgt_xfs_doubt(l->err, "mounted, or not cleanly unmounted: its log does not end with an unmount");
}

int tgt_xfs_log_is_clean(const struct tgt_xfs *x, struct kedge_err *err)
{
	struct log l = {.x = x, .err = err};
	uint64_t nr_sectors = (uint64_t)x->log_blocks * x->block_bytes / SECTOR_BYTES;
	uint32_t head = 0, cycle = 0;
	uint8_t *window;
	int r;

	if (nr_sectors > UINT32_MAX / 2 || nr_sectors < 64)
		return tgt_xfs_doubt(err, "its log has %llu sectors", (unsigned long long)nr_sectors);
	l.nr_sectors = (uint32_t)nr_sectors;
	l.at_bytes = tgt_xfs_at_bytes(x, (uint32_t)(x->log_start >> 32), (uint32_t)x->log_start);
	window = malloc((size_t)2 * IN_FLIGHT_SECTORS * SECTOR_BYTES);
	if (!window)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory");
	r = find_head(&l, &head, &cycle);
	if (r == 0)
		r = check_laps(&l, head, cycle, window);
	if (r == 0)
		r = check_last_record(&l, head, window);
	free(window);
	return r;
}
