/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DM_WINDOWS_H
#define KCLONE_DM_WINDOWS_H

/*
 * Quiesce windows (decision 0008): hydration by the driver, in moments in which the top is suspended, so that nobody else can use the clone.
 * Regions are read from the source before, by the worker; in the window those that are still missing are written through the clone, each
 * as a whole, which makes them hydrated. Blocks, but never on the source.
 */

#include "dm_stack.h"
#include "front.h"

struct dm_windows {
	bool is_on; /* off: nothing is left that windows can do; the governor has the rest */
	const struct dm_stack *st;
	struct dm_share *m;
	const uint8_t *mem;
	uint32_t region_bytes, window_bytes; /* a window is at least one region */
	uint64_t nr_regions;                 /* whole ones */
	int fd;
	uint64_t next_region; /* to be asked for */
	uint64_t pass_bytes;  /* written since the beginning of the volume */
	bool is_pass_over;
	uint64_t slot_nr[DM_NR_SLOTS]; /* what we asked for; 0: the slot is free */
	uint64_t due_ns, nr_ios;
	/* the bitmap as it was last read, for what to ask: a set bit is true, a clear one may be stale */
	uint64_t seen[512], seen_first, seen_end;
};

/* -EINVAL: a region does not fit into a window. */
int dm_windows_init(struct dm_windows *w, const struct dm_stack *st, struct holder_share *share, uint32_t window_bytes,
		    struct kedge_err *err);
/* s: as it is now. limit_bps: the operator's, 0: none. Returns how many ms to sleep. */
unsigned dm_windows_step(struct dm_windows *w, const struct dm_clone_status *s, bool is_wanted, uint64_t limit_bps);
/* Let go of the clone; no-op when it has been. */
void dm_windows_fini(struct dm_windows *w);

#endif
