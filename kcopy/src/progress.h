/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_PROGRESS_H
#define KCOPY_PROGRESS_H

/* What the tool says while it works: a live line on a terminal, a line now and then elsewhere, JSON lines, "N/100" lines.
 * Percentages are of durable bytes. */

#include <stdbool.h>
#include <stdint.h>

#include "kcopy/kcopy.h"

struct kcopy_progress {
	bool is_json, is_tty;
	int fd;
	uint64_t size_bytes;
	uint64_t begin_ns; /* of all */
	uint64_t start_ns; /* of this phase */
	uint64_t resumed_bytes;
	/* what was said last */
	uint64_t said_ns;
	unsigned said_percent;
	int fd_percent;
	bool has_line;
};

struct kcopy_progress_now {
	const char *phase; /* "copy", "verify" */
	const char *state; /* kcopy_state_name */
	uint64_t done_bytes, rate_bps;
	const char *source_error; /* NULL: none */
};

void kcopy_progress_init(struct kcopy_progress *p, bool is_json, int fd, uint64_t size_bytes, uint64_t resumed_bytes);
/* Call often; it says something when it is time to. */
void kcopy_progress_say(struct kcopy_progress *p, const struct kcopy_progress_now *now);
/* A line of its own: an event. */
void kcopy_progress_event(struct kcopy_progress *p, const char *name, const char *text);

struct kcopy_result {
	int code;
	const char *message;
	uint64_t copied_bytes, zero_bytes, bad_bytes, resumed_bytes, verified_bytes;
	uint64_t hole_bytes, sampled_bytes, checksum_bytes, sample_seed;
	enum kcopy_holes holes;
	enum kcopy_data data;
	uint64_t nr_reconnects;
	uint64_t wire_bytes, nr_damaged; /* see kedge/source.h */
	bool was_verified;
};
void kcopy_progress_result(struct kcopy_progress *p, const struct kcopy_result *r);

#endif
