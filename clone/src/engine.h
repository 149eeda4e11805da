/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_ENGINE_H
#define KCLONE_ENGINE_H

/*
 * The one interface behind which both clone engines sit: the user engine (uclone.h), which keeps blocks and bitmaps itself, and the kernel
 * engine (dm_stack.h), which feeds and governs dm-clone. Workers and front ends know this and nothing else.
 * Contract of callbacks as uclone.h: exactly once, later.
 */

#include "uclone/uclone.h"

struct engine;
struct ahead_status;
struct kcopy_range;

/* What an operator has said of hydration. */
struct engine_pace {
	uint64_t limit_bps;       /* 0: none */
	uint64_t floor_bps;
	uint32_t latency_percent; /* of what an I/O takes without hydration it may take beside it; 0: hydration goes first */
	bool is_floor_given, is_latency_given; /* else they are the user engine's defaults, and another has its own */
};

struct engine_ops {
	const char *name; /* "user", "dm" */
	/* What a front end asks. For dm the front end is the clone's source: reads only. */
	void (*submit)(struct engine *e, struct uclone_io *io);
	enum uclone_block_kind (*map)(const struct engine *e, uint64_t start_bytes, uint64_t max_bytes, uint64_t *ret_nr_bytes);
	void (*set_source)(struct engine *e, struct kedge_source *s);
	/* Copies of the engine's own from the source are under way: it must stay until they have ended. NULL: there are none. */
	bool (*needs_source)(const struct engine *e);
	/* The source is up there, and it is the volume; NULL: nothing to do. */
	void (*source_up)(struct engine *e, const char *url, const char *chap_file);
	void (*tick)(struct engine *e);
	void (*status)(const struct engine *e, struct uclone_status *ret_status);
	/* What is copied to (user) and compared with the source (both). */
	struct kedge_claims *(*claims)(struct engine *e);
	/* The engine moves the bytes itself: go on or hold, at that pace. NULL: kcopy does, over claims. */
	void (*steer)(struct engine *e, bool is_wanted, const struct engine_pace *pace);
	/* Read at most so much ahead of a workload that reads in order; 0: nothing. NULL: the kernel does, or does not. */
	void (*set_ahead)(struct engine *e, uint32_t window_bytes);
	void (*ahead_status)(const struct engine *e, struct ahead_status *ret_status);
	void (*commit)(struct engine *e, uclone_fn fn, void *arg);
	void (*finish)(struct engine *e, uclone_fn fn, void *arg);
	void (*abort)(struct engine *e, uclone_fn fn, void *arg);
	/* uclone_next_bad, uclone_forget_bad; NULL: the engine knows no such ranges */
	int (*next_bad)(const struct engine *e, uint64_t from_bytes, uint64_t *ret_start_bytes, uint64_t *ret_nr_bytes);
	void (*forget_bad)(struct engine *e);
	/* Drain and go; the engine is gone afterwards. */
	void (*close)(struct engine *e, uclone_fn fn, void *arg);
};

struct engine {
	const struct engine_ops *ops;
	const struct uclone_create_opts *stored;
	/* Sees each I/O of the workload when it comes; may be NULL. Never called by an engine whose workload's I/O does not come here. */
	void (*note_fn)(void *arg, const struct uclone_io *io);
	void *note_arg;
	/* What is copied first, where kedge copies; may be NULL. Set before a source comes, stays. */
	const struct kcopy_range *first;
	uint32_t nr_first;
};

static inline uint64_t engine_size_bytes(const struct engine *e)
{
	return e->stored->source.size_bytes;
}

/* engine_user.c: u is taken over */
struct engine *engine_user_create(struct uclone *u, struct kedge_defer_queue *queue);

/* engine_dm.c: dest belongs to the caller, share (the memory of descriptor share_fd) to the holder */
struct uc_super;
struct holder_share;
struct kclone_args;
struct engine *engine_dm_create(struct kedge_loop *l, const struct uc_super *super, struct kedge_disk *dest, struct holder_share *share,
				int share_fd, const struct kclone_args *args,
				void (*event_fn)(void *arg, const char *name, const char *text), void *event_arg);

#endif
