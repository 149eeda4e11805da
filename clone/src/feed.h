/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_FEED_H
#define KCLONE_FEED_H

/*
 * The source of a kernel clone, served by us: reads of the immutable source, with read-ahead in large pieces for the kernel's hydration,
 * which asks region by region in order, and straight through for everything else. A read waits for as long as the source is away, and
 * never fails for that reason. One thread.
 */

#include "kedge/loop.h"
#include "kedge/source.h"
#include "uclone/uclone.h"

struct feed;

#define FEED_PIECE_BYTES (1u << 20)
#define FEED_NR_PIECES 24u
#define FEED_AHEAD 6u /* pieces asked for beyond the one that is read */

struct feed *feed_create(uint64_t size_bytes, struct kedge_defer_queue *defer);
/* Reads wait until there is one. A source that replaces another takes over what waits; what the old one has in hand, it ends. */
void feed_set_source(struct feed *f, struct kedge_source *s);
/* io->op is UCLONE_READ, inside the size; another operation ends with -EROFS, a flush with 0. */
void feed_submit(struct feed *f, struct uclone_io *io);

struct feed_status {
	uint64_t nr_reads, nr_hits; /* a hit had at least been asked for */
	uint64_t fetched_bytes;
	unsigned nr_waiting;
};
void feed_status(const struct feed *f, struct feed_status *ret_status);
unsigned feed_nr_inflight(const struct feed *f);
/* Nothing may be in flight. */
void feed_destroy(struct feed *f);

#endif
