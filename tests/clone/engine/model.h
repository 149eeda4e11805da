/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef MODEL_H
#define MODEL_H

/*
 * Pure. The judge: which value may a sector have? Contract (design engine.md, "Device contract"): after a crash its value at the
 * last completed FLUSH or any later written one; a read after restart pins it; otherwise what a disk does.
 *
 * A value dies when a write that was submitted after the value's own end is acknowledged. A read may return each value that was
 * alive at some time since the read's submission; a crash leaves each that was alive at some time since the submission of the last
 * acknowledged flush.
 */

#include <stdbool.h>
#include <stdint.h>

struct model_value {
	uint64_t id, submitted, done, died; /* times; 0: not yet */
	bool is_from_crash;
	bool is_superseded; /* a durable write came after its death: no crash brings it back */
};
struct model_sector {
	struct model_value *values;
	unsigned nr, max;
};
struct model {
	struct model_sector *sectors;
	uint64_t nr_sectors;
	uint64_t now, flushed; /* times */
	uint64_t seq;          /* of writes */
	uint64_t (*initial_id)(uint64_t sector);
};

void model_init(struct model *m, uint64_t nr_sectors, uint64_t (*initial_id)(uint64_t sector));
void model_fini(struct model *m);
/* Into one that was made with the same size and has judged nothing yet. */
void model_copy(struct model *to, const struct model *from);
/* Returns the time of submission. id_seq 0: zeroes. */
uint64_t model_write_submitted(struct model *m, uint64_t first, uint64_t nr, uint64_t id_seq);
void model_write_done(struct model *m, uint64_t first, uint64_t nr, uint64_t submitted, bool is_ok, bool is_fua);
void model_flush_done(struct model *m, uint64_t submitted);
/* Was id possible for a read of that submission? Pins it when nothing else is under way. */
bool model_read(struct model *m, uint64_t sector, uint64_t id, uint64_t submitted);
/* Can a crash now leave that value? */
bool model_outlives_crash(const struct model *m, const struct model_value *v);
void model_crash(struct model *m);
/* The process died, no power was cut: what was acknowledged stays, what was not may have happened. */
void model_process_death(struct model *m);
/* For messages. */
void model_describe(const struct model *m, uint64_t sector, char *out, unsigned out_max);
#endif
