/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_POOL_H
#define TGT_POOL_H

/* A few threads for work that would hold up the loop: hashing and compressing extents. */

#include <stdbool.h>

#include "kedge/loop.h"
#include "kedge/transit.h"

#define TGT_SCRATCH_BYTES (2 * KEDGE_TRANSIT_EXTENT_MAX_BYTES)

struct tgt_pool;

/* Embedded in its owner's object; stays until done_fn. */
struct tgt_job {
	/* On a worker. coder and scratch (TGT_SCRATCH_BYTES) are that worker's. */
	void (*work_fn)(struct tgt_job *job, struct kedge_transit_coder *coder, void *scratch);
	void (*done_fn)(struct tgt_job *job); /* on the loop, later */
	bool is_inflight;                     /* loop only; false again when done_fn begins */
	struct tgt_job *next;                 /* private */
};

/* How many threads a pool has here: the CPUs that this process may use, 1 to 4. */
unsigned tgt_pool_nr_workers(void);
/* Starts its threads. Errors: -ENOMEM, errno of eventfd(2), of pthread_create(3). */
int tgt_pool_create(struct kedge_loop *l, struct tgt_pool **ret_pool);
void tgt_pool_submit(struct tgt_pool *p, struct tgt_job *job);
/* Once no job is in flight: fn, later, when nothing of it is left on the loop. Then it may be destroyed. */
void tgt_pool_stop(struct tgt_pool *p, void (*fn)(void *arg), void *arg);
/* destroy(NULL) is a no-op. */
void tgt_pool_destroy(struct tgt_pool *p);

#endif
