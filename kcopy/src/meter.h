/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_METER_H
#define KCOPY_METER_H

/* Pure. Moving average of a byte rate over the last two minutes, with an injected clock. */

#include <stdint.h>

#define KCOPY_METER_SLOTS 24
#define KCOPY_METER_SLOT_NS 5000000000ull

struct kcopy_meter {
	uint64_t slots[KCOPY_METER_SLOTS]; /* bytes in each 5 s; a ring */
	uint64_t slot_nr;                  /* number of the present slot since the clock's zero */
	uint64_t start_ns;
	int is_started;
};

void kcopy_meter_add(struct kcopy_meter *m, uint64_t nr_bytes, uint64_t now_ns);
/* Bytes a second over at most the last two minutes, less when it began later. */
uint64_t kcopy_meter_bps(const struct kcopy_meter *m, uint64_t now_ns);

#endif
