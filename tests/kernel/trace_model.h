/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TEST_TRACE_MODEL_H
#define TEST_TRACE_MODEL_H

/* Pure. What a disk with a volatile cache may hold (design engine.md, "Device contract"), sector by sector: after a crash the value at the
 * last completed FLUSH or any later written one; a read pins it. */

#include <stdbool.h>
#include <stdint.h>

#define TR_SECTOR 512u
#define TR_MAX_VALUES 24u

enum { TR_SOURCE = 0, TR_ZERO = 1, TR_FIRST_WRITE = 2 };

struct tr_sector {
	uint32_t v[TR_MAX_VALUES]; /* v[0] at the last flush, then what was written since, the newest last */
	uint8_t nr;
	bool is_unsure; /* crashed since, and neither read nor written */
	bool is_apart;  /* engines may differ here: a difference that is allowed happened */
};

struct tr_model {
	uint64_t seed, nr_sectors;
	struct tr_sector *s;
};

/* ---- content ---- */

void tr_fill(uint64_t seed, uint64_t sector, uint32_t value, uint8_t out[TR_SECTOR]);
/* Which value is it? False: none of this seed's, or one for another sector. */
bool tr_value_of(uint64_t seed, uint64_t sector, const uint8_t in[TR_SECTOR], uint32_t *ret_value);

/* ---- rules ---- */

void tr_init(struct tr_model *m, uint64_t seed, uint64_t nr_sectors);
void tr_fini(struct tr_model *m);
/* acknowledged */
void tr_write(struct tr_model *m, uint64_t first, uint64_t nr, uint32_t value);
void tr_flush(struct tr_model *m);
void tr_crash(struct tr_model *m);
void tr_apart(struct tr_model *m, uint64_t first, uint64_t nr);
/* No room for another write before a flush. */
bool tr_is_full(const struct tr_model *m);
/* NULL: right, and pinned; else what is wrong. */
const char *tr_judge(struct tr_model *m, uint64_t sector, const uint8_t in[TR_SECTOR]);

#endif
