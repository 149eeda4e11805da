/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_PACE_H
#define ORCH_PACE_H

/* Pure. How a volume is copied to where it moves: what kclone serve calls --floor, --latency-factor and --transit. */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "kedge/err.h"

#define PACE_TRANSITS "auto, plain, checked or zstd"

/* As an operator wants it for one drain; all zeroes: nothing is wanted, the host that receives decides. */
struct pace {
	uint64_t floor_bps;       /* up to INT64_MAX */
	uint32_t latency_percent; /* 0, or 101 to 10000 */
	bool has_floor, has_latency;
	char transit[10]; /* empty: not given */
};
_Static_assert(sizeof(struct pace) == 24, "no padding: records that hold one are compared as a whole");

/* Is it a way to travel that kclone has? */
bool pace_is_transit(const char *text);

/* The fields that PACE_FIELDS names, each absent or null when not given. ret_pace is written on success only. -EINVAL. */
#define PACE_FIELDS "floor_bps latency_percent transit"
int pace_read(const json_t *o, struct pace *ret_pace, struct kedge_err *err);
/* Sets those that are given, and leaves the others of o alone. */
void pace_write(const struct pace *p, json_t *o);

#endif
