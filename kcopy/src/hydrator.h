/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_HYDRATOR_H
#define KCOPY_HYDRATOR_H

/* Inside of the hydrator: the run and its copies (hydrator.c), what is copied next (plan.c), the final comparison (verify.c). */

#include "kcopy/kcopy.h"

#include "bucket.h"
#include "extents.h"
#include "meter.h"

/* One command of the iSCSI source, so that it is written while it is still in the cache of the core that received it; and as many as fill the sessions. */
#define KCOPY_COPY_BYTES_DEFAULT (256u * 1024)
#define KCOPY_COPY_BYTES_MAX (4096u * 1024)
#define KCOPY_INFLIGHT_DEFAULT 32
#define KCOPY_INFLIGHT_MAX 64
#define KCOPY_SUSPECTS_MAX 128
/* Of what is wanted first: small pieces, each of which waits a round trip. Beside a workload no more bytes than that. */
#define KCOPY_FIRST_INFLIGHT 32
#define KCOPY_FIRST_BYTES (1024u * 1024)

/* What is to be compared next, and how. */
enum kcopy_check {
	KCOPY_CHECK_BOTH,   /* both sides are read */
	KCOPY_CHECK_SAMPLE, /* likewise, of a hole */
	KCOPY_CHECK_SUM,    /* both sides are read, of the source a checksum travels */
	KCOPY_CHECK_SOURCE, /* that said nothing: own_buf is read already, the source's bytes are to come */
	KCOPY_CHECK_OWN,    /* a hole: the destination alone is read */
	KCOPY_CHECK_WAIT,   /* the source has been asked where its holes are */
	KCOPY_CHECK_END,
};

/* A part of a hole of the source, being agreed on from at_bytes to its end. */
struct kcopy_piece {
	uint64_t at_bytes, end_bytes;
	uint64_t sample_start_bytes, sample_end_bytes;
	uint64_t extent_end_bytes; /* of the hole that it is a part of */
};

/* One copy in flight, with its buffers: made when a run starts, none are made while it goes on. */
struct kcopy_copy {
	struct kcopy_hydrator *h;
	bool is_busy;
	bool is_reading; /* the source has it and can be asked to cancel it */
	struct kedge_source_io io;
	struct kedge_claim *claim;
	uint64_t start_bytes, nr_bytes, zero_bytes;
	uint64_t begin_ns; /* of a hole; 0: data */
	uint64_t governed_bytes, governed_ns; /* as the governor knows it */
	void *buf;
	struct kedge_seg *segs;
	/* comparison */
	enum kcopy_check check;
	void *own_buf;
	unsigned nr_pending;
	int source_res, own_res;
	bool must_repeat;
};

/* A range in which a bad block hides: copied again in smaller pieces. */
struct kcopy_suspect {
	uint64_t start_bytes, end_bytes, grain_bytes;
};

struct kcopy_hydrator {
	struct kedge_loop *loop;
	struct kedge_source *src;
	struct kedge_claims *claims;
	uint32_t copy_bytes, nr_inflight, nr_copies; /* the pool: more than nr_inflight for what is wanted first */
	struct kcopy_governor *governor;
	uint32_t next_bytes; /* of the next copy, at most */
	bool is_at_limit;
	void (*event_fn)(void *arg, const char *name, const char *text);
	void *event_arg;

	bool is_verify; /* what start does */
	bool is_running, is_comparing, is_paused, is_stopping, is_degraded;
	enum kcopy_state rest; /* the state when not running */
	int fail_code;
	struct kedge_err err;  /* of this run; the first one */
	struct kedge_err last_err;
	kcopy_done_fn done_fn;
	void *done_arg;

	struct kcopy_copy *copies;
	unsigned nr_busy;
	struct kedge_defer pump;   /* queued: look for work */
	struct kedge_timer tick;   /* the source's state, and waits that nothing wakes */
	uint32_t tick_ms;
	struct kedge_timer refill; /* the bucket */
	struct kcopy_bucket bucket;
	struct kcopy_meter meter;

	/* plan */
	const struct kcopy_range *first;
	uint32_t nr_first, next_first;
	uint64_t first_at_bytes; /* in the next of them; never before its start */
	uint64_t cursor_bytes;
	bool has_progress; /* since the pass began: the next one may find more */
	struct kcopy_extents extents;
	struct kedge_extent answer[256];
	struct kedge_source_io extents_io;
	bool is_asking;
	uint64_t hole_bytes; /* a claim of a hole, at most */
	struct kcopy_suspect suspects[KCOPY_SUSPECTS_MAX];
	unsigned nr_suspects;
	/* bad ranges that no event has told of yet: so many bytes, all of them between these two */
	uint64_t untold_bytes, untold_start_bytes, untold_end_bytes;

	/* comparison */
	enum kcopy_holes holes;
	enum kcopy_data data;
	bool has_no_sums; /* none that can be used, as this comparison has found */
	uint64_t seed_given, seed, nr_samples;
	struct kcopy_piece piece;
	uint64_t own_hole_start_bytes, own_hole_end_bytes; /* the destination reads as zeroes there */
	uint64_t first_mismatch_bytes;

	/* since creation */
	uint64_t copied_bytes, zero_bytes, issued_bytes, bad_bytes;
	/* of the last comparison */
	uint64_t verified_bytes, mismatch_bytes, agreed_bytes, sampled_bytes, checksum_bytes;
};

/* What there is to do now. */
enum kcopy_next {
	KCOPY_NEXT_DATA, /* *ret_claim has data to read */
	KCOPY_NEXT_HOLE, /* *ret_claim is a hole */
	KCOPY_NEXT_WAIT, /* for something in flight, or for the timer */
	KCOPY_NEXT_END,  /* all of the volume is here */
	KCOPY_NEXT_FAIL, /* the claims have failed: *ret_res */
};

/* plan.c */
/* Ask the source for its extents from here on, as many as an answer holds, unless it is being asked. */
void kcopy_plan_ask(struct kcopy_hydrator *h, uint64_t from_bytes);
/* The kind of the block at at_bytes and where that ends; asks ahead. False: not known. What lies before is forgotten. */
bool kcopy_plan_extent_at(struct kcopy_hydrator *h, uint64_t at_bytes, bool *ret_is_hole, uint64_t *ret_end_bytes);
void kcopy_plan_start(struct kcopy_hydrator *h);
/* Is there still something that is wanted first? */
bool kcopy_plan_is_at_first(const struct kcopy_hydrator *h);
/* May another copy begin, as far as their number goes? */
bool kcopy_plan_has_room(struct kcopy_hydrator *h);
enum kcopy_next kcopy_plan_next(struct kcopy_hydrator *h, struct kedge_claim **ret_claim, int *ret_res);
/* So long it took to fill a claim of a hole. */
void kcopy_plan_hole_filled(struct kcopy_hydrator *h, uint64_t nr_bytes, uint64_t took_ns);
/* A claim could not be read: give it back, and mark it bad when it is a single block. */
void kcopy_plan_medium_error(struct kcopy_hydrator *h, struct kedge_claim *claim);
/* One event for all that was marked since the last: a disk that dies has millions of bad blocks. */
void kcopy_plan_tell_bad(struct kcopy_hydrator *h);

/* hydrator.c */
/* May a copy begin now? Sets h->next_bytes; false: refill is armed. */
bool kcopy_hydrator_may_begin(struct kcopy_hydrator *h);
/* Around each copy: what the governor knows of it. */
void kcopy_copy_begun(struct kcopy_copy *c, uint64_t nr_bytes);
void kcopy_copy_ended(struct kcopy_copy *c);
/* Ask the source for its range, into its buffer: the bytes (ops->read) or their checksums (ops->sums), for which the source has to read them all the
 * same. fn takes it out of issued_bytes. */
void kcopy_copy_ask(struct kcopy_copy *c, void (*ask)(struct kedge_source *src, struct kedge_source_io *io), kedge_source_fn fn);
void kcopy_hydrator_pump(struct kcopy_hydrator *h);
void kcopy_hydrator_fail(struct kcopy_hydrator *h, int code, const struct kedge_err *err, const char *what);
void kcopy_hydrator_event(struct kcopy_hydrator *h, const char *name, const char *text);

/* verify.c */
void kcopy_verify_begin(struct kcopy_hydrator *h);
/* True when everything has been compared and is the same. */
bool kcopy_verify_pump(struct kcopy_hydrator *h);
/* Give up what waits to be compared again. */
void kcopy_verify_forget(struct kcopy_hydrator *h);

/* verify_sum.c */
/* Can what would be read on both sides be compared by the source's checksum? */
bool kcopy_verify_can_sum(const struct kcopy_hydrator *h);
/* False: they differ from those of own_buf. Nothing is counted then: the bytes say where, and whether it is a difference at all. */
bool kcopy_verify_sum_compare(struct kcopy_copy *c);

/* verify_next.c */
void kcopy_verify_next_begin(struct kcopy_hydrator *h);
/* The next range to compare, at most max_bytes of it, and how. Holes that both sides agree on without being read are passed and counted. */
enum kcopy_check kcopy_verify_next(struct kcopy_hydrator *h, uint64_t max_bytes, uint64_t *ret_start_bytes, uint64_t *ret_nr_bytes);

#endif
