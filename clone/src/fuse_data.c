/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. FUSE requests about the content: READ, WRITE, FALLOCATE, FSYNC, turned into engine I/O.
 *
 * Owns. Bounce buffers of ranges that are not whole sectors; the queue of changes.
 *
 * Locks. None: one thread. A change of part of a sector (an ordinary program through the page cache) reads, merges and writes back;
 * it runs alone among this front end's changes. A VMM or a loop device sends whole sectors and never waits here.
 *
 * Crash. A merge that is done again gives the same bytes: nothing else changed the sector in between.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <string.h>

#include "fuse_int.h"
#include "kedge/bytes.h"
#include "kedge/disk.h"

#define SECTOR 512u
/* Zeroing goes to the engine in such steps: it may need a buffer for the range of one. */
#define ZERO_STEP_BYTES (16u << 20)

static bool is_whole_sectors(uint64_t start, uint64_t n)
{
	return start % SECTOR == 0 && n % SECTOR == 0;
}

static void activate(struct fuse_work *w)
{
	w->is_active = true;
	w->f->nr_active++;
	fuse_work_begun(w);
}

static void deactivate(struct fuse_work *w)
{
	kedge_buf_free(w->bounce);
	w->bounce = NULL;
	w->is_active = false;
	w->f->nr_active--;
}

static bool is_change(const struct fuse_work *w)
{
	uint32_t opcode = fuse_header(w)->opcode;

	return opcode == FUSE_WRITE || opcode == FUSE_FALLOCATE;
}

static void start_next_changes(struct fuse_front *f);

static void change_ended(struct fuse_front *f)
{
	f->nr_changes--;
	f->is_alone = false;
	start_next_changes(f);
}

static uint64_t read_bytes(const struct fuse_work *w)
{
	const struct fuse_read_in *in = fuse_args(w);

	return kedge_min_u64(in->size, w->f->share->size_bytes - in->offset);
}

static void io_cb(struct uclone_io *io, int res);

static void submit(struct fuse_work *w, enum uclone_op op, uint64_t start, uint64_t n, void *buf)
{
	w->io = (struct uclone_io){.op = op, .start_bytes = start, .nr_bytes = n, .buf = buf, .fn = io_cb};
	w->f->e->ops->submit(w->f->e, &w->io);
}

/* A hole must read as zeroes, at its edges too: discard would leave partial blocks as they are. False: all is done. */
static bool zero_step(struct fuse_work *w)
{
	const struct fuse_fallocate_in *in = fuse_args(w);
	uint64_t start = w->next_bytes, end = in->offset + in->length;

	if (start >= end)
		return false;
	w->next_bytes = kedge_min_u64(end, kedge_round_down(start, ZERO_STEP_BYTES) + ZERO_STEP_BYTES);
	submit(w, UCLONE_WRITE_ZEROES, start, w->next_bytes - start, NULL);
	return true;
}

static void io_cb(struct uclone_io *io, int res)
{
	struct fuse_work *w = kedge_container_of(io, struct fuse_work, io);
	struct fuse_front *f = w->f;
	bool was_change = is_change(w);

	if (w->is_merging && res == 0) {
		const struct fuse_write_in *in = fuse_args(w);
		memcpy(w->bounce + w->skip_bytes, fuse_data(w), in->size);
		w->is_merging = false;
		w->io.op = UCLONE_WRITE;
		f->e->ops->submit(f->e, &w->io);
		return;
	}
	if (fuse_header(w)->opcode == FUSE_FALLOCATE && res == 0 && zero_step(w))
		return;
	if (fuse_header(w)->opcode == FUSE_READ) {
		fuse_reply(w, res, w->bounce ? w->bounce + w->skip_bytes : fuse_data(w), read_bytes(w));
	} else if (fuse_header(w)->opcode == FUSE_WRITE) {
		struct fuse_write_out out = {.size = ((const struct fuse_write_in *)fuse_args(w))->size};
		fuse_reply(w, res, &out, sizeof out);
	} else {
		fuse_reply(w, res, NULL, 0);
	}
	deactivate(w);
	if (was_change)
		change_ended(f);
	fuse_work_ended(f);
}

/* Through a bounce buffer of the sectors that the range touches. */
static int submit_bounced_read(struct fuse_work *w, uint64_t start, uint64_t n)
{
	uint64_t first = kedge_round_down(start, SECTOR), end = kedge_round_up(start + n, SECTOR);

	w->skip_bytes = start - first;
	w->bounce = kedge_buf_alloc(end - first);
	if (!w->bounce)
		return -ENOMEM;
	submit(w, UCLONE_READ, first, end - first, w->bounce);
	return 0;
}

static void do_read(struct fuse_work *w)
{
	const struct fuse_read_in *in = fuse_args(w);

	if (in->offset >= w->f->share->size_bytes || in->size == 0) {
		fuse_reply(w, 0, NULL, 0);
		return;
	}
	uint64_t n = read_bytes(w);
	if (n > FUSE_MAX_IO_BYTES) {
		fuse_reply(w, -EINVAL, NULL, 0);
		return;
	}
	activate(w);
	w->is_merging = false;
	if (is_whole_sectors(in->offset, n)) {
		submit(w, UCLONE_READ, in->offset, n, fuse_data(w));
	} else if (submit_bounced_read(w, in->offset, n) < 0) {
		deactivate(w);
		fuse_reply(w, -ENOMEM, NULL, 0);
	}
}

static bool is_partial(const struct fuse_work *w)
{
	const struct fuse_write_in *in = fuse_args(w);

	return fuse_header(w)->opcode == FUSE_WRITE && !is_whole_sectors(in->offset, in->size);
}

static void start_change(struct fuse_work *w)
{
	struct fuse_front *f = w->f;

	f->nr_changes++;
	if (fuse_header(w)->opcode == FUSE_FALLOCATE) {
		w->next_bytes = ((const struct fuse_fallocate_in *)fuse_args(w))->offset;
		zero_step(w);
		return;
	}
	const struct fuse_write_in *in = fuse_args(w);
	if (!is_partial(w)) {
		submit(w, UCLONE_WRITE, in->offset, in->size, fuse_data(w));
		return;
	}
	f->is_alone = true;
	w->is_merging = true;
	if (submit_bounced_read(w, in->offset, in->size) < 0) {
		deactivate(w);
		fuse_reply(w, -ENOMEM, NULL, 0);
		f->nr_changes--;
		f->is_alone = false;
	}
}

static void start_next_changes(struct fuse_front *f)
{
	while (f->queue_head && !f->is_alone && (f->nr_changes == 0 || !is_partial(f->queue_head))) {
		struct fuse_work *w = f->queue_head;
		f->queue_head = w->next;
		if (!f->queue_head)
			f->queue_tail = &f->queue_head;
		start_change(w);
	}
}

static void queue_change(struct fuse_work *w)
{
	struct fuse_front *f = w->f;

	activate(w);
	w->is_merging = false;
	w->next = NULL;
	*f->queue_tail = w;
	f->queue_tail = &w->next;
	start_next_changes(f);
}

static void do_write(struct fuse_work *w)
{
	const struct fuse_write_in *in = fuse_args(w);
	uint64_t size = w->f->share->size_bytes;

	if (in->size > FUSE_MAX_IO_BYTES || fuse_header(w)->len != sizeof(struct fuse_in_header) + sizeof *in + in->size)
		fuse_reply(w, -EINVAL, NULL, 0);
	else if (in->offset > size || in->size > size - in->offset)
		fuse_reply(w, -ENOSPC, NULL, 0); /* a volume does not grow */
	else
		queue_change(w);
}

static void do_fallocate(struct fuse_work *w)
{
	const struct fuse_fallocate_in *in = fuse_args(w);
	uint64_t size = w->f->share->size_bytes;
	bool is_zeroing = in->mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);

	if (in->mode & ~(uint32_t)(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		fuse_reply(w, -EOPNOTSUPP, NULL, 0);
	else if (in->offset > size || in->length > size - in->offset)
		fuse_reply(w, in->mode & FALLOC_FL_KEEP_SIZE ? -EINVAL : -ENOSPC, NULL, 0);
	else if (!is_zeroing || in->length == 0)
		fuse_reply(w, 0, NULL, 0); /* every byte has its place already */
	else if (!is_whole_sectors(in->offset, in->length))
		fuse_reply(w, -EOPNOTSUPP, NULL, 0); /* programs write zeroes then */
	else
		queue_change(w);
}

static void do_fsync(struct fuse_work *w)
{
	activate(w);
	w->is_merging = false;
	submit(w, UCLONE_FLUSH, 0, 0, NULL);
}

bool fuse_handle_data(struct fuse_work *w)
{
	switch (fuse_header(w)->opcode) {
	case FUSE_READ:
		do_read(w);
		return true;
	case FUSE_WRITE:
		do_write(w);
		return true;
	case FUSE_FALLOCATE:
		do_fallocate(w);
		return true;
	case FUSE_FSYNC:
		do_fsync(w);
		return true;
	default:
		return false;
	}
}
