/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Content and rules of the differential test's model disk.
 *
 * Pure.
 */
#include "trace_model.h"

#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"
#include "kedge/err.h"

#define MAGIC UINT64_C(0x6563617274656467)

void tr_fill(uint64_t seed, uint64_t sector, uint32_t value, uint8_t out[TR_SECTOR])
{
	uint64_t x = (seed ^ (sector << 32) ^ value) | 1;

	if (value == TR_ZERO) {
		memset(out, 0, TR_SECTOR);
		return;
	}
	kedge_put_le64(out, MAGIC);
	kedge_put_le64(out + 8, seed);
	kedge_put_le64(out + 16, sector);
	kedge_put_le32(out + 24, value);
	for (unsigned i = 28; i < TR_SECTOR - 4; i += 8) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		kedge_put_le64(out + i, x);
	}
	kedge_put_le32(out + TR_SECTOR - 4, kedge_crc32c(0, out, TR_SECTOR - 4));
}

bool tr_value_of(uint64_t seed, uint64_t sector, const uint8_t in[TR_SECTOR], uint32_t *ret_value)
{
	*ret_value = TR_ZERO;
	if (kedge_is_zero(in, TR_SECTOR))
		return true;
	*ret_value = kedge_get_le32(in + 24);
	return kedge_get_le64(in) == MAGIC && kedge_get_le64(in + 8) == seed && kedge_get_le64(in + 16) == sector &&
	       kedge_get_le32(in + TR_SECTOR - 4) == kedge_crc32c(0, in, TR_SECTOR - 4);
}

void tr_init(struct tr_model *m, uint64_t seed, uint64_t nr_sectors)
{
	*m = (struct tr_model){.seed = seed, .nr_sectors = nr_sectors, .s = calloc(nr_sectors, sizeof *m->s)};
	kedge_assert(m->s != NULL);
	for (uint64_t i = 0; i < nr_sectors; i++)
		m->s[i].nr = 1; /* TR_SOURCE */
}

void tr_fini(struct tr_model *m)
{
	free(m->s);
	m->s = NULL;
}

void tr_write(struct tr_model *m, uint64_t first, uint64_t nr, uint32_t value)
{
	for (uint64_t i = first; i < first + nr; i++) {
		struct tr_sector *s = &m->s[i];
		kedge_assert(s->nr < TR_MAX_VALUES);
		s->v[s->nr++] = value;
		s->is_unsure = s->is_apart = false;
	}
}

void tr_flush(struct tr_model *m)
{
	for (uint64_t i = 0; i < m->nr_sectors; i++) {
		struct tr_sector *s = &m->s[i];
		if (s->is_unsure)
			continue; /* it is one of them, and stays that one: which is not known before a read */
		s->v[0] = s->v[s->nr - 1];
		s->nr = 1;
	}
}

void tr_crash(struct tr_model *m)
{
	for (uint64_t i = 0; i < m->nr_sectors; i++)
		if (m->s[i].nr > 1)
			m->s[i].is_unsure = m->s[i].is_apart = true;
}

void tr_apart(struct tr_model *m, uint64_t first, uint64_t nr)
{
	for (uint64_t i = first; i < first + nr; i++)
		m->s[i].is_apart = true;
}

bool tr_is_full(const struct tr_model *m)
{
	for (uint64_t i = 0; i < m->nr_sectors; i++)
		if (m->s[i].nr >= TR_MAX_VALUES - 1)
			return true;
	return false;
}

const char *tr_judge(struct tr_model *m, uint64_t sector, const uint8_t in[TR_SECTOR])
{
	struct tr_sector *s = &m->s[sector];
	uint32_t value;

	if (!tr_value_of(m->seed, sector, in, &value))
		return "not a sector of this volume: torn, another sector's or another owner's";
	if (!s->is_unsure)
		return value == s->v[s->nr - 1] ? NULL : value == TR_SOURCE ? "the source's old data" : "an older value";
	for (unsigned i = 0; i < s->nr; i++)
		if (s->v[i] == value) {
			s->v[0] = value;
			s->nr = 1;
			s->is_unsure = false;
			return NULL;
		}
	return value == TR_SOURCE ? "the source's old data, although a newer one was flushed" : "older than what was flushed";
}
