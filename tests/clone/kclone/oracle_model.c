/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The block oracle's stamps and rules.
 *
 * Pure.
 */
#include "oracle_model.h"

#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"
#include "kedge/err.h"

#define MAGIC UINT64_C(0x656c6361726f656b)
#define FILLER_BYTES (SECTOR - 44)

void model_init(struct model *m, uint64_t volume, uint64_t nr_sectors)
{
	*m = (struct model){.volume = volume, .nr_sectors = nr_sectors, .sectors = calloc(nr_sectors, sizeof *m->sectors)};
	kedge_assert(m->sectors != NULL);
}

void model_reset(struct model *m)
{
	memset(m->sectors, 0, m->nr_sectors * sizeof *m->sectors);
}

void model_fini(struct model *m)
{
	free(m->sectors);
}

void stamp(uint8_t *out, uint64_t volume, uint64_t sector, uint64_t writer, uint64_t seq)
{
	uint64_t x = (sector + 1) * 0x9e3779b97f4a7c15u + seq;

	kedge_put_le64(out, MAGIC);
	kedge_put_le64(out + 8, volume);
	kedge_put_le64(out + 16, sector);
	kedge_put_le64(out + 24, writer);
	kedge_put_le64(out + 32, seq);
	/* content that depends on the write, so that a sector put together from two writes has a wrong sum */
	for (unsigned i = 0; i < FILLER_BYTES; i += 4) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		kedge_put_le32(out + 40 + i, (uint32_t)(x >> 32));
	}
	kedge_put_le32(out + SECTOR - 4, kedge_crc32c(0, out, SECTOR - 4));
}

const char *model_judge(const struct model *m, uint64_t nr, const uint8_t *in, enum model_when when, uint64_t *ret_seq)
{
	const struct sector *s = &m->sectors[nr];
	uint64_t floor = when == MODEL_AFTER_ALL ? s->durable : s->acked, top = when == MODEL_LIVE ? s->acked : s->submitted;
	uint64_t seq, writer;

	if (kedge_is_zero(in, SECTOR)) {
		if (!s->zeroed)
			return "zeroes that nobody wrote";
		if (s->zeroed < floor)
			return "stale: zeroes that were overwritten";
		*ret_seq = s->zeroed;
		return NULL;
	}
	if (kedge_get_le64(in) != MAGIC || kedge_get_le32(in + SECTOR - 4) != kedge_crc32c(0, in, SECTOR - 4))
		return "torn";
	if (kedge_get_le64(in + 8) != m->volume)
		return "foreign: of another volume";
	if (kedge_get_le64(in + 16) != nr)
		return "misdirected: of another sector";
	writer = kedge_get_le64(in + 24);
	seq = kedge_get_le64(in + 32);
	if (writer > 1 || (writer == 0) != (seq == 0))
		return "of a writer that does not exist";
	if (seq < floor)
		return when == MODEL_LIVE ? "stale: older than what was acknowledged"
		       : when == MODEL_AFTER_WORKER ? "lost: older than what was acknowledged"
						    : "lost: older than what was acknowledged and flushed";
	if (seq > top)
		return "newer than what was written";
	if (seq == s->zeroed && seq)
		return "a stamp with the number of a zeroing";
	*ret_seq = seq;
	return NULL;
}
