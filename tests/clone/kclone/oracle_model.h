/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TEST_ORACLE_MODEL_H
#define TEST_ORACLE_MODEL_H

/*
 * Pure. What a volume with a volatile write cache may show. Every sector carries (magic, volume, number, writer, seq, filler, crc32c);
 * so stale, foreign, misdirected and torn content are told apart. Writer 0 with seq 0 is the source, writer 1 the workload, whose
 * seqs only grow. Zeroing leaves no stamp: it counts as a write of which the model remembers the seq.
 */

#include <stdbool.h>
#include <stdint.h>

#define SECTOR 512u

struct sector {
	uint64_t durable;   /* no older value may come back */
	uint64_t acked;     /* what a read shows while nothing is in flight */
	uint64_t submitted; /* the newest that may be there */
	uint64_t zeroed;    /* seq of the last zeroing; 0: none */
	bool is_busy;       /* a write of it is in flight */
};

struct model {
	uint64_t volume;
	uint64_t nr_sectors;
	struct sector *sectors;
};

void model_init(struct model *m, uint64_t volume, uint64_t nr_sectors);
void model_reset(struct model *m);
void model_fini(struct model *m);

void stamp(uint8_t *out, uint64_t volume, uint64_t sector, uint64_t writer, uint64_t seq);

enum model_when {
	MODEL_LIVE,         /* exactly what was acknowledged last */
	MODEL_AFTER_WORKER, /* a worker died: what was acknowledged, flushed or not, or anything sent since */
	MODEL_AFTER_ALL,    /* all of kclone was lost: what was flushed, or anything sent since */
};
/* Is this content allowed for the sector? NULL when it is, with its seq; else what is wrong with it. */
const char *model_judge(const struct model *m, uint64_t sector, const uint8_t *in, enum model_when when, uint64_t *ret_seq);

#endif
