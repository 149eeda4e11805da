/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_AHEAD_H
#define KCLONE_AHEAD_H

/*
 * Reads ahead of a workload that reads in order: blocks that are not here are claimed, read from the source and laid into the destination, as
 * hydration does, so that the reads that follow find them there. It stands between the engine and its source: a read that comes for
 * what is on its way waits for that instead of asking once more. One thread.
 */

#include "kedge/claim.h"
#include "kedge/loop.h"
#include "kedge/source.h"

struct ahead;

#define AHEAD_PIECE_BYTES (256u * 1024)
#define AHEAD_NR 16u /* pieces under way: 4 MiB */
#define AHEAD_WINDOW_DEFAULT_BYTES (2u * 1024 * 1024)
#define AHEAD_WINDOW_MAX_BYTES (AHEAD_NR / 2 * AHEAD_PIECE_BYTES)

struct ahead *ahead_create(struct kedge_claims *claims, struct kedge_defer_queue *queue);
/* What the engine gets as its source for as long as ahead lives, whatever it leads to; it is good for reads and nothing else, and they are not
 * cancelled. */
struct kedge_source *ahead_front(struct ahead *a);
/* The real one; NULL: none, and the engine must not ask. Of the one before, reads under way still come in. */
void ahead_set_source(struct ahead *a, struct kedge_source *s);
/* At most so much ahead of each stream; 0: nothing (what is under way ends as it may). */
void ahead_set_window(struct ahead *a, uint32_t window_bytes);
/* A read of the workload, wherever its blocks are; before the engine gets it. */
void ahead_note(struct ahead *a, uint64_t start_bytes, uint64_t nr_bytes);
/* Each 100 ms: gives up what a source that is away has in hand, gives back memory that is not needed. */
void ahead_tick(struct ahead *a);

struct ahead_status {
	uint32_t window_bytes;
	uint64_t nr_fetches, fetched_bytes; /* asked of the source; came in and was laid into the destination */
	uint64_t nr_joined;                 /* reads of the workload that waited for a fetch instead of asking themselves */
	unsigned nr_inflight;
};
void ahead_status(const struct ahead *a, struct ahead_status *ret_status);
/* Nothing is in flight: no claim, no read. destroy(NULL) is a no-op. */
void ahead_destroy(struct ahead *a);

#endif
