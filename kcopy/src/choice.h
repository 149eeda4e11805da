/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_CHOICE_H
#define KCOPY_CHOICE_H

/*
 * Pure. Shall extents be compressed on their way? From what is measured: how fast the volume's bytes arrive while some are under way, how
 * much smaller packing makes them, and what it costs the source. A forecast says whether packing may win; a trial says whether it does;
 * now and then the other way is tried again.
 */

#include <stdbool.h>
#include <stdint.h>

enum kcopy_choice_state {
	KCOPY_CHOICE_RAW,   /* unpacked, but for a sample now and then */
	KCOPY_CHOICE_TRIAL, /* packed: is it really faster? */
	KCOPY_CHOICE_ZSTD,  /* packed */
	KCOPY_CHOICE_CHECK, /* unpacked for a moment: is packed still faster? */
};

struct kcopy_choice {
	enum kcopy_choice_state state;
	unsigned nr_workers; /* of the source */

	/* under way, and since when anything is */
	unsigned nr_inflight;
	uint64_t busy_since_ns;

	/* the measurement that goes on */
	unsigned nr_before; /* answers still to come of what was sent before the last change of way */
	unsigned nr_answers;
	uint64_t bytes, wire_bytes, busy_ns;

	/* results; 0: not yet known */
	double raw_bps, packed_bps; /* bytes of the volume a second */
	double wire_share;          /* of an extent's bytes, what travels of it packed */
	double pack_ns;             /* CPU of one worker, a byte */

	unsigned nr_until_sample, sample_gap; /* extents */
	unsigned nr_epochs;         /* in this state */
	unsigned nr_idle;           /* of those in a TRIAL, without anything to pack */
	unsigned check_gap;         /* of those, between two CHECKs, while packed extents fill the link */
	unsigned nr_promising;      /* RAW epochs in a row after which the forecast was good */
	unsigned nr_failures;       /* trials, in a row */
	uint64_t trial_after_ns, trial_begin_ns;
};

void kcopy_choice_init(struct kcopy_choice *c, unsigned nr_workers);
/* One is sent now: packed (if it can be) or not? */
bool kcopy_choice_send(struct kcopy_choice *c, uint64_t now_ns);
/* One that was sent has come, or will not come: then nr_bytes is 0. payload_bytes: what travelled for it. pack_ns: what packing took the
 * source; 0: it did not try. */
void kcopy_choice_answer(struct kcopy_choice *c, uint32_t nr_bytes, uint32_t payload_bytes, uint64_t pack_ns, uint64_t now_ns);
/* Packed is the rule at present. */
bool kcopy_choice_is_packing(const struct kcopy_choice *c);

#endif
