/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A file or block device as a source: the same interface as iSCSI, without anything that could go away.
 *
 * Owns. The descriptors and the requests under way. Reads go through the page cache; it fails in pieces of its own, of many blocks around a bad
 * one, so what failed is read again past it.
 *
 * Locks. None: loop thread only.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/file.h"
#include "source.h"

#define TRIES 5

struct fsource;

struct frequest {
	struct kedge_op op;
	struct kedge_source_io *io;
	struct fsource *src;
	uint64_t done_bytes;
	unsigned nr_tries;
	bool is_cancelled, is_direct;
	int res;
	struct frequest *next; /* free, or waiting to be answered */
};

struct fsource {
	struct kedge_source base;
	struct kedge_loop *loop;
	int fd, direct_fd; /* direct_fd -1: not to be had */
	bool is_regular;
	uint64_t file_bytes; /* as fstat says; the identity's size is rounded up */
	enum kedge_source_state state;
	uint64_t since_ns, read_bytes;
	unsigned nr_requests;
	struct kedge_err refusal;
	struct frequest *free_requests;
	struct frequest *done_head, **done_tail;
	struct kedge_defer done, tell;
	void (*closed_fn)(void *arg);
	void *closed_arg;
};

static struct fsource *fsource_of(const struct kedge_source *s)
{
	return kedge_container_of(s, struct fsource, base);
}

static void tell_cb(void *arg)
{
	struct fsource *src = arg;

	if (src->base.state_fn)
		src->base.state_fn(&src->base, src->base.state_arg);
}

static void done_cb(void *arg)
{
	struct fsource *src = arg;
	struct frequest *r;

	while ((r = src->done_head)) {
		struct kedge_source_io *io = r->io;
		int res = r->res;

		src->done_head = r->next;
		if (!src->done_head)
			src->done_tail = &src->done_head;
		r->next = src->free_requests;
		src->free_requests = r;
		src->nr_requests--;
		io->priv = NULL;
		io->fn(io, res);
	}
	if (src->closed_fn && src->nr_requests == 0) {
		void (*closed_fn)(void *) = src->closed_fn;
		src->closed_fn = NULL;
		src->state = KEDGE_SOURCE_CLOSED;
		kedge_defer_remove(kedge_loop_defer_queue(src->loop), &src->tell);
		closed_fn(src->closed_arg);
	}
}

static void finish(struct frequest *r, int res)
{
	struct fsource *src = r->src;

	r->res = res;
	r->next = NULL;
	*src->done_tail = r;
	src->done_tail = &r->next;
	if (!src->done.is_queued)
		kedge_loop_defer(src->loop, &src->done);
}

static void read_more(struct frequest *r)
{
	struct kedge_source_io *io = r->io;
	bool is_aligned = (io->start_bytes + r->done_bytes) % KEDGE_BLOCK_BYTES == 0;

	kedge_op_read(r->src->loop, &r->op, r->is_direct && is_aligned ? r->src->direct_fd : r->src->fd, (char *)io->buf + r->done_bytes, io->nr_bytes - r->done_bytes,
		      io->start_bytes + r->done_bytes);
}

static void read_cb(struct kedge_op *op, int res)
{
	struct frequest *r = kedge_container_of(op, struct frequest, op);
	struct kedge_source_io *io = r->io;
	struct fsource *src = r->src;

	if (res > 0) {
		r->done_bytes += (unsigned)res;
		src->read_bytes += (unsigned)res;
		r->nr_tries = 0;
	}
	uint64_t at = io->start_bytes + r->done_bytes;
	if (r->done_bytes == io->nr_bytes) {
		finish(r, 0);
	} else if (r->is_cancelled) {
		finish(r, -ECANCELED);
	} else if (res == 0 && at >= src->file_bytes) {
		/* the rounded-up end */
		memset((char *)io->buf + r->done_bytes, 0, io->nr_bytes - r->done_bytes);
		finish(r, 0);
	} else if (res > 0 || res == -EINTR || res == -EAGAIN) {
		read_more(r);
	} else if (++r->nr_tries < TRIES) {
		r->is_direct = res == -EIO && r->src->direct_fd >= 0;
		read_more(r);
	} else {
		kedge_err_set(&io->err, KEDGE_E_SOURCE_MEDIUM, KEDGE_SIDE_SOURCE, "cannot read at byte %" PRIu64 ": %s, %u tries", at,
			      res == 0 ? "the file has become shorter" : strerror(-res), r->nr_tries);
		finish(r, KEDGE_E_SOURCE_MEDIUM);
	}
}

static struct frequest *begin(struct fsource *src, struct kedge_source_io *io)
{
	struct frequest *r = src->free_requests;

	if (r)
		src->free_requests = r->next;
	else
		r = malloc(sizeof *r);
	kedge_assert(r != NULL);
	*r = (struct frequest){ .io = io, .src = src };
	r->op.fn = read_cb;
	io->err = (struct kedge_err){ 0 };
	io->priv = r;
	src->nr_requests++;
	if (src->refusal.code) {
		io->err = src->refusal;
		finish(r, src->refusal.code);
		return NULL;
	}
	if (src->closed_fn || src->state == KEDGE_SOURCE_CLOSED) {
		finish(r, -ECANCELED);
		return NULL;
	}
	if (io->nr_bytes == 0 || io->start_bytes > src->base.identity.size_bytes ||
	    io->nr_bytes > src->base.identity.size_bytes - io->start_bytes) {
		finish(r, kedge_err_set(&io->err, -EINVAL, KEDGE_SIDE_SOURCE,
					"bytes %" PRIu64 " + %" PRIu64 " are not a range of the source", io->start_bytes, io->nr_bytes));
		return NULL;
	}
	return r;
}

static void fsource_read(struct kedge_source *base, struct kedge_source_io *io)
{
	struct frequest *r = begin(fsource_of(base), io);

	if (r)
		read_more(r);
}

/* What was cut off the file since it was opened is no hole: it is data that can no longer be read. */
static bool is_cut_short(const struct fsource *src)
{
	struct stat st;

	return fstat(src->fd, &st) < 0 || (uint64_t)st.st_size < src->file_bytes;
}

/* The kind of the run at at_bytes, and its end. A file system that cannot tell has data everywhere. */
static bool is_hole_at(struct fsource *src, uint64_t at_bytes, uint64_t end_bytes, uint64_t *ret_end_bytes)
{
	off_t data = lseek(src->fd, (off_t)at_bytes, SEEK_DATA), hole;

	*ret_end_bytes = end_bytes;
	if (data < 0)
		return errno == ENXIO && !is_cut_short(src); /* nothing but a hole up to the end of the file */
	if ((uint64_t)data > at_bytes) {
		*ret_end_bytes = kedge_min_u64((uint64_t)data, end_bytes);
		return true;
	}
	hole = lseek(src->fd, (off_t)at_bytes, SEEK_HOLE);
	if (hole > (off_t)at_bytes)
		*ret_end_bytes = kedge_min_u64((uint64_t)hole, end_bytes);
	return false;
}

static void fsource_extents(struct kedge_source *base, struct kedge_source_io *io)
{
	struct fsource *src = fsource_of(base);
	struct frequest *r = begin(src, io);
	uint64_t at = io->start_bytes, end = io->start_bytes + io->nr_bytes;

	if (!r)
		return;
	io->ret_nr_extents = 0;
	while (at < end && io->ret_nr_extents < io->nr_extents_max) {
		uint64_t run_end = end;
		bool is_hole = src->is_regular && is_hole_at(src, at, end, &run_end);
		io->extents[io->ret_nr_extents++] = (struct kedge_extent){ .nr_bytes = run_end - at, .is_hole = is_hole };
		at = run_end;
	}
	finish(r, 0);
}

static void fsource_cancel(struct kedge_source *base, struct kedge_source_io *io)
{
	struct frequest *r = io->priv;

	if (!r)
		return;
	r->is_cancelled = true;
	kedge_op_cancel(fsource_of(base)->loop, &r->op);
}

static void fsource_start(struct kedge_source *base)
{
	struct fsource *src = fsource_of(base);

	if (src->state != KEDGE_SOURCE_STOPPED)
		return;
	src->state = src->refusal.code ? KEDGE_SOURCE_REFUSED : KEDGE_SOURCE_UP;
	src->since_ns = kedge_loop_now_ns(src->loop);
	kedge_loop_defer(src->loop, &src->tell);
}

static void fsource_status(const struct kedge_source *base, struct kedge_source_status *ret_status)
{
	const struct fsource *src = fsource_of(base);

	*ret_status = (struct kedge_source_status){
		.state = src->state,
		.since_ns = src->since_ns,
		.read_bytes = src->read_bytes,
		.wire_bytes = src->read_bytes,
		.nr_sessions = src->state == KEDGE_SOURCE_UP,
		.nr_inflight = src->nr_requests,
		.last_err = src->refusal,
	};
}

static void fsource_close(struct kedge_source *base, void (*closed_fn)(void *arg), void *arg)
{
	struct fsource *src = fsource_of(base);

	/* reads of a local file end soon by themselves */
	src->closed_fn = closed_fn;
	src->closed_arg = arg;
	if (!src->done.is_queued)
		kedge_loop_defer(src->loop, &src->done);
}

static void fsource_destroy(struct kedge_source *base)
{
	struct fsource *src = fsource_of(base);
	struct frequest *next;

	kedge_defer_remove(kedge_loop_defer_queue(src->loop), &src->tell);
	for (struct frequest *r = src->free_requests; r; r = next) {
		next = r->next;
		free(r);
	}
	kedge_close(src->fd);
	kedge_close(src->direct_fd);
	free(src);
}

static const struct kedge_source_ops fsource_ops = {
	.start = fsource_start,
	.read = fsource_read,
	.extents = fsource_extents,
	.cancel = fsource_cancel,
	.status = fsource_status,
	.close = fsource_close,
	.destroy = fsource_destroy,
};

static int open_file(struct fsource *src, const char *path, struct kedge_err *err)
{
	struct stat st;
	uint32_t lbs_bytes;

	src->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (src->fd < 0) {
		int rc = -errno;
		return kedge_err_set(err, rc, KEDGE_SIDE_SOURCE, "%s: %s", path, strerror(-rc));
	}
	if (fstat(src->fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
		return kedge_err_set(err, -ENOTBLK, KEDGE_SIDE_SOURCE, "%s: neither a regular file nor a block device", path);
	src->is_regular = S_ISREG(st.st_mode);
	src->direct_fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	return kedge_file_geometry(src->fd, &src->file_bytes, &lbs_bytes, err);
}

int kcopy_fsource_create(struct kedge_loop *l, const struct kcopy_source_opts *opts, struct kedge_source **ret_source,
			 struct kedge_err *err)
{
	struct fsource *src = calloc(1, sizeof *src);
	struct kedge_identity found = { .lbs_bytes = 512 };

	if (!src)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory for a source");
	src->fd = src->direct_fd = -1;
	int rc = open_file(src, opts->url, err);
	if (rc < 0) {
		kedge_close(src->fd);
		kedge_close(src->direct_fd);
		free(src);
		return rc;
	}
	src->loop = l;
	src->base.ops = &fsource_ops;
	src->since_ns = kedge_loop_now_ns(l);
	src->done_tail = &src->done_head;
	src->done.fn = done_cb;
	src->done.arg = src;
	src->tell.fn = tell_cb;
	src->tell.arg = src;
	/* A file says nothing about volume and epoch; what is expected of them is taken over, the size is compared. */
	found.size_bytes = kedge_round_up(src->file_bytes, 512);
	found.volume = opts->identity.volume;
	found.epoch = opts->identity.epoch;
	if (opts->identity.lbs_bytes)
		found.lbs_bytes = opts->identity.lbs_bytes;
	kedge_identity_check(&opts->identity, &found, &src->refusal);
	src->base.identity = found;
	*ret_source = &src->base;
	return 0;
}
