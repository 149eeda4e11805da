/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef WORLD_H
#define WORLD_H

/* A clone in the simulation: its disks, its source, its workload and its judge. */

#include "model.h"
#include "sim.h"
#include "uclone/uclone.h"

struct world_op;
struct world_copy;

struct world {
	uint64_t nr_told[UCLONE_NR_IO_KINDS]; /* uclone_env.io_fn */
	struct sim sim;
	struct sim_disk dest, meta, seen;
	struct sim_source source;
	struct model model;
	struct uclone_create_opts opts;
	void *marks;           /* what the holder keeps: gone with the power only */
	uint64_t size_bytes, nr_sectors;
	struct uclone *u;
	struct world_op *ops;
	struct world_copy *copies;
	unsigned nr_ops, nr_copies;
	uint64_t fill_lock_bytes; /* uclone_env */
	bool is_error_ok;      /* faults are injected: I/O may fail */
	bool is_never_filled;  /* copies are read, but never filled */
	bool is_never_dropped; /* every copy that was read is filled */
	bool is_opening, is_closing, is_finishing, is_finished, is_committing;
	bool is_abort_begun, is_aborted;
	int open_res, close_res, finish_res;
	struct kedge_err err;
	uint64_t nr_changed;   /* changes that were answered with success */
	uint64_t nr_done, nr_failed, nr_reads, nr_events_seen, nr_bad_events;
	bool is_check_bad;
	char check_line[400];
};

void world_init(struct world *w, uint64_t seed, uint64_t size_bytes);
void world_fini(struct world *w);
/* A world of its own from one that stands still: disks, marks and judge; what is in flight or not flushed is not taken over. */
void world_copy(struct world *to, const struct world *from);
/* Format; must succeed unless is_error_ok. Returns the result. */
int world_create(struct world *w);
/* The same, but no more than so many events. true: it was answered, with success. */
bool world_create_until(struct world *w, unsigned nr_events);
/* Begin to open; world_step until !is_opening. On success the source is attached. */
void world_open_begin(struct world *w);
int world_open(struct world *w);
bool world_step(struct world *w);
/* Until nothing moves any more. false: it never stops. */
bool world_settle(struct world *w);
void world_crash(struct world *w, enum sim_crash mode);
/* A worker dies; open it again with the marks. */
void world_process_death(struct world *w);
void world_close_begin(struct world *w);
/* Close and wait; memory must be all free afterwards. */
int world_close(struct world *w);

/* Sectors. Completion is judged. */
struct world_op *world_submit(struct world *w, enum uclone_op op, uint64_t first, uint64_t nr, bool is_fua);
/* Submit and wait; the result of the engine. */
int world_do(struct world *w, enum uclone_op op, uint64_t first, uint64_t nr, bool is_fua);
/* Begin a copy of up to max blocks at or after a block; false when there was nothing to take. */
bool world_hydrate(struct world *w, uint64_t first_block, uint64_t end_block, uint64_t max_blocks);
/* Hydrate everything that can be; settles. */
void world_hydrate_all(struct world *w);
void world_finish_begin(struct world *w);
void world_commit(struct world *w);
/* From here on changes may fail. */
void world_abort_begin(struct world *w);
void world_tick(struct world *w, uint64_t ms);

/* Blocks that are here and not written equal the source: what the final comparison will see. */
void world_check_copied(struct world *w);
/* The offline check; any finding is a problem. Only while closed. */
void world_check_offline(struct world *w);
/* A random operation of a random workload in the neighbourhood of group, sector and volume edges. */
void world_random_op(struct world *w);
/* Read and judge all sectors that the model knows, or a random half of them. */
void world_read_known(struct world *w, bool is_all);
bool world_is_bad(const struct world *w);
#endif
