/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DM_HEADSTART_H
#define KCLONE_DM_HEADSTART_H

/*
 * The worker's part of a head start: kcopy copies regions from the source straight to the destination while the clone has no device above it,
 * and their bits are set, in memory that the driver sees, when they are whole. The driver flushes and marks (dm_mark.h). One thread.
 */

#include "kcopy/kcopy.h"
#include "kedge/loop.h"
#include "uclone_int.h"

struct headstart;

struct headstart_opts {
	struct kedge_loop *loop;
	struct kedge_source *source; /* is up */
	const char *dest_path;
	uint64_t size_bytes;
	uint32_t region_bytes;
	struct uc_bits bits;  /* of regions, shared with the driver: those that are set are left alone */
	const struct kcopy_range *first; /* of kcopy_hydrator_opts; stays until the end */
	uint32_t nr_first;
	uint64_t limit_bytes; /* 0: none */
	unsigned limit_ms;    /* 0: none, but it ends when nothing moves */
	uint64_t rate_bps;
	void (*event_fn)(void *arg, const char *name, const char *text);
	void (*done_fn)(void *arg); /* once, later: no copy is on its way, the destination is closed */
	void *arg;
};

/* Opens and locks the destination; blocks a moment. */
int headstart_start(const struct headstart_opts *o, struct headstart **ret_h, struct kedge_err *err);
void headstart_set_rate(struct headstart *h, uint64_t rate_bps);
/* A request: done_fn follows. */
void headstart_stop(struct headstart *h);
uint64_t headstart_bytes(const struct headstart *h);
/* After done_fn. destroy(NULL) is a no-op. */
void headstart_destroy(struct headstart *h);

#endif
