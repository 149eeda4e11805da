/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_SINK_MAP_H
#define KCOPY_SINK_MAP_H

/* Inside of the sink: claims (sink.c) and the map file with its commits (sink_map.c). */

#include "bitmap.h"
#include "sink.h"

/* Pages in one commit; what is dirty beyond that waits for the next. */
#define KCOPY_COMMIT_PAGES 1024

struct sink_claim;

struct kcopy_sink {
	struct kedge_claims claims;
	struct kedge_loop *loop;
	struct kedge_disk *disk;
	int punch_fd;
	struct kcopy_bitmap here, bad;
	struct sink_claim *used, *unused;
	bool must_wake;
	struct kedge_defer wake;
	int fail_code; /* a flush or a map write failed: nothing is durable any more */
	uint64_t durable_blocks, resumed_blocks, nr_damaged_pages;

	int map_fd;
	struct kcopy_map_header header;
	uint64_t generation;
	/* the commit under way */
	bool is_committing;
	void (*commit_fn)(void *arg, int res);
	void *commit_arg;
	uint8_t *pages; /* KCOPY_COMMIT_PAGES snapshots */
	uint64_t page_nr[KCOPY_COMMIT_PAGES];
	uint32_t page_nr_set[KCOPY_COMMIT_PAGES];
	unsigned nr_pages, page;
	uint32_t page_done_bytes;
	struct kedge_disk_io flush_io;
	struct kedge_op map_op;
	bool is_more;      /* dirty pages that found no room, */
	uint64_t at_leaf;  /* from this one on */
};

/* Open or make the map and read it into the bitmap; blocks. As kcopy_sink_create. */
int kcopy_sink_open_map(struct kcopy_sink *s, const struct kcopy_sink_opts *o, struct kedge_err *err);

#endif
