/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_FUSE_INT_H
#define KCLONE_FUSE_INT_H

/* Inside of the FUSE front end: fuse.c has the descriptor, the slots and the life of the front end; fuse_meta.c answers what
 * concerns the file; fuse_data.c what concerns its content. */

#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "front.h"
#include "fuse_share.h"

struct fuse_front;

/* One a slot, this process's side of it. */
struct fuse_work {
	struct fuse_front *f;
	struct uclone_io io;
	uint8_t *bounce;     /* for ranges that are not whole sectors */
	uint64_t next_bytes; /* FALLOCATE: where the next step begins */
	uint64_t skip_bytes; /* bytes of the bounce before the request's first */
	bool is_active;      /* the engine has it, or it waits in the queue of changes */
	bool is_merging;     /* first half of a partial write: the sectors around it are being read */
	unsigned nr_looks;   /* how often it was found waiting */
	bool is_let_go;      /* its caller was killed, and is answered; the slot stays in use until the engine has ended */
	struct fuse_work *next;
};

struct fuse_front {
	struct front front;
	struct kedge_loop *loop;
	struct engine *e;
	int fd;
	struct holder_share *share;
	uint8_t *slots;
	struct fuse_work work[FUSE_SHARE_SLOTS];
	struct kedge_op poll;
	struct kedge_timer look;
	bool is_stopping, is_replaying;
	unsigned nr_active;
	/* Changes, in order of arrival. One of part of a sector reads, merges and writes back: it runs alone among changes. */
	struct fuse_work *queue_head, **queue_tail;
	unsigned nr_changes;
	bool is_alone;
	void (*stop_fn)(void *arg);
	void *stop_arg;
	struct kedge_defer stop_defer;
};

static inline struct fuse_in_header *fuse_header(const struct fuse_work *w)
{
	return (struct fuse_in_header *)(w->f->slots + (size_t)(w - w->f->work) * FUSE_SLOT_BYTES + FUSE_SLOT_REQUEST);
}
/* What follows the header. */
static inline const void *fuse_args(const struct fuse_work *w)
{
	return fuse_header(w) + 1;
}
static inline uint8_t *fuse_data(const struct fuse_work *w)
{
	return w->f->slots + (size_t)(w - w->f->work) * FUSE_SLOT_BYTES + FUSE_SLOT_DATA;
}

/* fuse.c: answer and let go of the slot. error: 0 or -errno. */
void fuse_reply(struct fuse_work *w, int error, const void *data, size_t nr_bytes);
/* fuse.c: a work has become active. */
void fuse_work_begun(struct fuse_work *w);
/* fuse.c: an active work has been answered. */
void fuse_work_ended(struct fuse_front *f);

/* fuse_meta.c: true when the request was one of its. Answers at once. */
bool fuse_handle_meta(struct fuse_work *w);
/* fuse_data.c: likewise; answers at once or later. */
bool fuse_handle_data(struct fuse_work *w);

#endif
