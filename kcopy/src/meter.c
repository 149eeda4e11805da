/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The rate that status shows and that an ETA is made from: long enough to be calm, short enough to notice change.
 *
 * Pure.
 */
#include "meter.h"

#include "kedge/bytes.h"

static void advance(struct kcopy_meter *m, uint64_t slot_nr)
{
	if (slot_nr <= m->slot_nr)
		return;
	if (slot_nr - m->slot_nr >= KCOPY_METER_SLOTS) {
		memset(m->slots, 0, sizeof m->slots);
	} else {
		for (uint64_t s = m->slot_nr + 1; s <= slot_nr; s++)
			m->slots[s % KCOPY_METER_SLOTS] = 0;
	}
	m->slot_nr = slot_nr;
}

void kcopy_meter_add(struct kcopy_meter *m, uint64_t nr_bytes, uint64_t now_ns)
{
	if (!m->is_started) {
		m->is_started = 1;
		m->start_ns = now_ns;
		m->slot_nr = now_ns / KCOPY_METER_SLOT_NS;
	}
	advance(m, now_ns / KCOPY_METER_SLOT_NS);
	m->slots[m->slot_nr % KCOPY_METER_SLOTS] += nr_bytes;
}

uint64_t kcopy_meter_bps(const struct kcopy_meter *m, uint64_t now_ns)
{
	struct kcopy_meter now = *m;
	uint64_t sum = 0;

	if (!m->is_started || now_ns <= m->start_ns)
		return 0;
	advance(&now, now_ns / KCOPY_METER_SLOT_NS);
	for (unsigned i = 0; i < KCOPY_METER_SLOTS; i++)
		sum += now.slots[i];
	/* the ring holds the present, partly filled slot and the 23 before it */
	uint64_t ring_start_ns = now.slot_nr >= KCOPY_METER_SLOTS - 1
		? (now.slot_nr - (KCOPY_METER_SLOTS - 1)) * KCOPY_METER_SLOT_NS : 0;
	uint64_t span_ms = (now_ns - kedge_max_u64(ring_start_ns, m->start_ns)) / 1000000;
	if (span_ms < 1000)
		span_ms = 1000; /* the first moments would make wild figures */
	return (uint64_t)((unsigned __int128)sum * 1000 / span_ms);
}
