/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The FUSE front end: one file that is the volume, over the raw /dev/fuse protocol (<linux/fuse.h>, 7.31 and later).
 *
 * Owns. The request slots in memory shared with the holder and with later workers. The descriptor is the holder's.
 *
 * Locks. None: one thread.
 *
 * Crash. A request is read straight into a slot; it is in hand while the length in its header is not 0, and the header is cleared
 * right after its reply was written. A worker that takes over finishes all requests in hand before it reads a new one. Replaying a
 * write whose reply had been sent is harmless: reply and clearing follow each other with nothing in between, so no request that
 * the kernel sent after that reply can have been read, let alone answered, before the replay has ended; its own second reply gets
 * ENOENT, which is ignored.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "front.h"
#include "fuse_share.h"
#include "kedge/bytes.h"
#include "kedge/log.h"

#define READS_A_ROUND 64

struct fuse_front;

struct slot_work {
	struct fuse_front *f;
	struct uclone_io io;
	uint8_t *bounce;     /* for ranges that are not whole sectors */
	uint64_t skip_bytes; /* bytes of the bounce before the request's first */
	bool is_active, is_merging;
	struct slot_work *next;
};

struct fuse_front {
	struct front front;
	struct kedge_loop *loop;
	struct uclone *u;
	int fd;
	struct holder_share *share;
	uint8_t *slots;
	struct slot_work work[FUSE_SHARE_SLOTS];
	struct kedge_op poll;
	bool is_stopping, is_replaying;
	unsigned nr_inflight, nr_writes;
	/* writes of part of a sector run alone among writes */
	struct slot_work *held_head, **held_tail;
	bool is_alone;
	void (*stop_fn)(void *arg);
	void *stop_arg;
	struct kedge_defer stop_defer;
};

static struct fuse_in_header *header_of(struct fuse_front *f, unsigned i)
{
	return (struct fuse_in_header *)(f->slots + (size_t)i * FUSE_SLOT_BYTES + FUSE_SLOT_REQUEST);
}

static uint8_t *data_of(struct fuse_front *f, unsigned i)
{
	return f->slots + (size_t)i * FUSE_SLOT_BYTES + FUSE_SLOT_DATA;
}

static unsigned index_of(const struct slot_work *w)
{
	return (unsigned)(w - w->f->work);
}

static void arm(struct fuse_front *f);
static void check_stopped(struct fuse_front *f);

/* ---- replies ---- */

static void release(struct fuse_front *f, unsigned i)
{
	header_of(f, i)->len = 0;
}

static void reply(struct fuse_front *f, unsigned i, int error, const void *data, size_t nr_bytes)
{
	struct fuse_in_header *in = header_of(f, i);
	struct fuse_out_header out = {
		.len = (uint32_t)(sizeof out + (error ? 0 : nr_bytes)), .error = error, .unique = in->unique};
	struct iovec iov[2] = {{&out, sizeof out}, {(void *)(uintptr_t)data, nr_bytes}};
	ssize_t n = writev(f->fd, iov, error || nr_bytes == 0 ? 1 : 2);

	/* ENOENT: answered before, or the caller was interrupted and gave up */
	if (n < 0 && errno != ENOENT && errno != ENODEV)
		kedge_warn("fuse: reply to request %llu failed: %s", (unsigned long long)in->unique, strerror(errno));
	release(f, i);
}

/* ---- attributes ---- */

static void fill_attr(struct fuse_front *f, struct fuse_attr *a)
{
	*a = (struct fuse_attr){
		.ino = 1,
		.size = f->share->size_bytes,
		.blocks = f->share->size_bytes / 512,
		.mode = S_IFREG | 0600,
		.nlink = 1,
		.blksize = 4096,
	};
}

static void do_attr(struct fuse_front *f, unsigned i)
{
	struct fuse_attr_out out = {.attr_valid = 3600};

	/* Also for SETATTR: like a block device, the volume has no mode, times or length of its own to change; an open with O_TRUNC
	 * leaves it as it is. */
	fill_attr(f, &out.attr);
	reply(f, i, 0, &out, sizeof out);
}

static void do_init(struct fuse_front *f, unsigned i)
{
	struct fuse_in_header *in = header_of(f, i);
	const struct fuse_init_in *ii = (const void *)(in + 1);
	struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};

	if (ii->major != FUSE_KERNEL_VERSION || ii->minor < 28) {
		kedge_error("fuse: the kernel speaks %u.%u, at least 7.28 is needed", ii->major, ii->minor);
		reply(f, i, -EPROTO, NULL, 0);
		return;
	}
	out.minor = (uint32_t)kedge_min_u64(ii->minor, FUSE_KERNEL_MINOR_VERSION);
	out.max_readahead = ii->max_readahead;
	out.flags = ii->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES);
	out.max_background = FUSE_SHARE_SLOTS * 2;
	out.congestion_threshold = FUSE_SHARE_SLOTS * 2;
	out.max_write = FUSE_MAX_IO_BYTES;
	out.time_gran = 1;
	out.max_pages = FUSE_MAX_IO_BYTES / 4096;
	f->share->fuse_minor = out.minor;
	f->share->fuse_flags = out.flags;
	f->share->fuse_max_write = out.max_write;
	f->share->is_fuse_inited = 1;
	reply(f, i, 0, &out, sizeof out);
}

static void do_open(struct fuse_front *f, unsigned i)
{
	struct fuse_open_out out = {.fh = 1, .open_flags = FOPEN_KEEP_CACHE};

	reply(f, i, 0, &out, sizeof out);
}

static void do_statfs(struct fuse_front *f, unsigned i)
{
	struct fuse_statfs_out out = {.st = {.bsize = 4096, .frsize = 4096, .namelen = 255}};

	out.st.blocks = f->share->size_bytes / 4096;
	reply(f, i, 0, &out, sizeof out);
}

/* ---- data ---- */

static void work_end(struct slot_work *w)
{
	struct fuse_front *f = w->f;

	kedge_buf_free(w->bounce);
	w->bounce = NULL;
	w->is_active = false;
	f->nr_inflight--;
}

static void submit_next_held(struct fuse_front *f);

static void write_ended(struct fuse_front *f)
{
	f->nr_writes--;
	f->is_alone = false;
	submit_next_held(f);
}

static void io_cb(struct uclone_io *io, int res)
{
	struct slot_work *w = kedge_container_of(io, struct slot_work, io);
	struct fuse_front *f = w->f;
	unsigned i = index_of(w);
	struct fuse_in_header *in = header_of(f, i);

	if (w->is_merging && res == 0) {
		/* the sectors around a partial write are here: lay it over them and write them back */
		const struct fuse_write_in *wi = (const void *)(in + 1);
		memcpy(w->bounce + w->skip_bytes, data_of(f, i), wi->size);
		w->is_merging = false;
		w->io.op = UCLONE_WRITE;
		uclone_submit(f->u, &w->io);
		return;
	}
	if (in->opcode == FUSE_READ) {
		const struct fuse_read_in *ri = (const void *)(in + 1);
		uint64_t left = f->share->size_bytes - ri->offset;
		const uint8_t *data = w->bounce ? w->bounce + w->skip_bytes : data_of(f, i);
		reply(f, i, res, data, kedge_min_u64(ri->size, left));
	} else if (in->opcode == FUSE_WRITE) {
		struct fuse_write_out out = {.size = ((const struct fuse_write_in *)(const void *)(in + 1))->size};
		reply(f, i, res, &out, sizeof out);
	} else {
		reply(f, i, res, NULL, 0);
	}
	bool is_write = in->opcode == FUSE_WRITE;
	work_end(w);
	if (is_write)
		write_ended(f);
	check_stopped(f);
	arm(f);
}

static void start_io(struct slot_work *w, enum uclone_op op, uint64_t start, uint64_t n, void *buf)
{
	w->io = (struct uclone_io){.op = op, .start_bytes = start, .nr_bytes = n, .buf = buf, .fn = io_cb};
	uclone_submit(w->f->u, &w->io);
}

static bool is_whole_sectors(uint64_t start, uint64_t n)
{
	return start % 512 == 0 && n % 512 == 0;
}

static int make_bounce(struct slot_work *w, uint64_t start, uint64_t n, uint64_t *ret_start, uint64_t *ret_bytes)
{
	*ret_start = kedge_round_down(start, 512);
	*ret_bytes = kedge_min_u64(kedge_round_up(start + n, 512), w->f->share->size_bytes) - *ret_start;
	w->skip_bytes = start - *ret_start;
	w->bounce = kedge_buf_alloc(*ret_bytes);
	return w->bounce ? 0 : -ENOMEM;
}

static void do_read(struct fuse_front *f, unsigned i)
{
	struct fuse_in_header *in = header_of(f, i);
	const struct fuse_read_in *ri = (const void *)(in + 1);
	struct slot_work *w = &f->work[i];
	uint64_t size = f->share->size_bytes, start, n;

	if (ri->offset >= size || ri->size == 0) {
		reply(f, i, 0, NULL, 0);
		return;
	}
	n = kedge_min_u64(ri->size, size - ri->offset);
	if (n > FUSE_MAX_IO_BYTES) {
		reply(f, i, -EINVAL, NULL, 0);
		return;
	}
	w->is_active = true;
	f->nr_inflight++;
	if (is_whole_sectors(ri->offset, n)) {
		start_io(w, UCLONE_READ, ri->offset, n, data_of(f, i));
	} else if (make_bounce(w, ri->offset, n, &start, &n) < 0) {
		work_end(w);
		reply(f, i, -ENOMEM, NULL, 0);
	} else {
		start_io(w, UCLONE_READ, start, n, w->bounce);
	}
}

static void start_write(struct slot_work *w)
{
	struct fuse_front *f = w->f;
	unsigned i = index_of(w);
	struct fuse_in_header *in = header_of(f, i);
	const struct fuse_write_in *wi = (const void *)(in + 1);
	uint64_t start, n;

	f->nr_writes++;
	if (is_whole_sectors(wi->offset, wi->size)) {
		start_io(w, UCLONE_WRITE, wi->offset, wi->size, data_of(f, i));
		return;
	}
	f->is_alone = true;
	if (make_bounce(w, wi->offset, wi->size, &start, &n) < 0) {
		work_end(w);
		reply(f, i, -ENOMEM, NULL, 0);
		write_ended(f);
		return;
	}
	w->is_merging = true;
	start_io(w, UCLONE_READ, start, n, w->bounce);
}

static bool is_partial_write(struct slot_work *w)
{
	const struct fuse_write_in *wi = (const void *)(header_of(w->f, index_of(w)) + 1);

	return !is_whole_sectors(wi->offset, wi->size);
}

static void submit_next_held(struct fuse_front *f)
{
	while (f->held_head && !f->is_alone && (f->nr_writes == 0 || !is_partial_write(f->held_head))) {
		struct slot_work *w = f->held_head;
		f->held_head = w->next;
		if (!f->held_head)
			f->held_tail = &f->held_head;
		start_write(w);
	}
}

static void do_write(struct fuse_front *f, unsigned i, uint32_t len)
{
	struct fuse_in_header *in = header_of(f, i);
	const struct fuse_write_in *wi = (const void *)(in + 1);
	struct slot_work *w = &f->work[i];
	uint64_t size = f->share->size_bytes;

	if (wi->size > FUSE_MAX_IO_BYTES || len != sizeof *in + sizeof *wi + wi->size) {
		reply(f, i, -EINVAL, NULL, 0);
		return;
	}
	if (wi->offset > size || wi->size > size - wi->offset) {
		reply(f, i, -ENOSPC, NULL, 0); /* a volume does not grow */
		return;
	}
	w->is_active = true;
	w->next = NULL;
	f->nr_inflight++;
	*f->held_tail = w;
	f->held_tail = &w->next;
	submit_next_held(f);
}

static void do_fallocate(struct fuse_front *f, unsigned i)
{
	const struct fuse_fallocate_in *fi = (const void *)(header_of(f, i) + 1);
	struct slot_work *w = &f->work[i];
	uint64_t size = f->share->size_bytes;
	bool is_zeroing = fi->mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE);

	if (fi->mode & ~(uint32_t)(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
		reply(f, i, -EOPNOTSUPP, NULL, 0);
	} else if (fi->offset > size || fi->length > size - fi->offset) {
		reply(f, i, fi->mode & FALLOC_FL_KEEP_SIZE ? -EINVAL : -ENOSPC, NULL, 0);
	} else if (!is_zeroing || fi->length == 0) {
		reply(f, i, 0, NULL, 0); /* every byte has its place already */
	} else if (!is_whole_sectors(fi->offset, fi->length)) {
		reply(f, i, -EOPNOTSUPP, NULL, 0);
	} else {
		/* A hole must read as zeroes, at its edges too: discard alone would leave partial blocks as they are. */
		w->is_active = true;
		f->nr_inflight++;
		start_io(w, UCLONE_WRITE_ZEROES, fi->offset, fi->length, NULL);
	}
}

static void do_flush(struct fuse_front *f, unsigned i)
{
	f->work[i].is_active = true;
	f->nr_inflight++;
	start_io(&f->work[i], UCLONE_FLUSH, 0, 0, NULL);
}

static void handle(struct fuse_front *f, unsigned i)
{
	struct fuse_in_header *in = header_of(f, i);

	switch (in->opcode) {
	case FUSE_INIT:
		do_init(f, i);
		return;
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		do_attr(f, i);
		return;
	case FUSE_OPEN:
		do_open(f, i);
		return;
	case FUSE_READ:
		do_read(f, i);
		return;
	case FUSE_WRITE:
		do_write(f, i, in->len);
		return;
	case FUSE_FSYNC:
		do_flush(f, i);
		return;
	case FUSE_FALLOCATE:
		do_fallocate(f, i);
		return;
	case FUSE_STATFS:
		do_statfs(f, i);
		return;
	case FUSE_FLUSH: /* close(2): no promise of durability */
	case FUSE_RELEASE:
	case FUSE_ACCESS:
	case FUSE_DESTROY:
		reply(f, i, 0, NULL, 0);
		return;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		release(f, i); /* no reply; what is interrupted is answered when it ends */
		return;
	default:
		reply(f, i, -ENOSYS, NULL, 0);
	}
}

/* ---- reading requests ---- */

static int find_free_slot(struct fuse_front *f)
{
	for (unsigned i = 0; i < FUSE_SHARE_SLOTS; i++)
		if (!f->work[i].is_active && header_of(f, i)->len == 0)
			return (int)i;
	return -1;
}

static void read_requests(struct fuse_front *f)
{
	for (unsigned round = 0; round < READS_A_ROUND; round++) {
		int i = find_free_slot(f);
		if (i < 0)
			return;
		ssize_t n = read(f->fd, header_of(f, (unsigned)i), FUSE_SLOT_DATA - FUSE_SLOT_REQUEST + FUSE_MAX_IO_BYTES);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == ENODEV) {
			kedge_debug("fuse: unmounted");
			f->is_stopping = true;
			check_stopped(f);
			return;
		}
		if (n < 0) {
			header_of(f, (unsigned)i)->len = 0;
			if (errno != EAGAIN && errno != ENOENT)
				kedge_warn("fuse: cannot read a request: %s", strerror(errno));
			if (errno != ENOENT)
				return;
			continue;
		}
		if ((size_t)n < sizeof(struct fuse_in_header) || header_of(f, (unsigned)i)->len != (uint32_t)n) {
			kedge_warn("fuse: a request of %zd bytes says that it has %u", n, header_of(f, (unsigned)i)->len);
			header_of(f, (unsigned)i)->len = 0;
			continue;
		}
		handle(f, (unsigned)i);
	}
}

static void poll_cb(struct kedge_op *op, int res)
{
	struct fuse_front *f = kedge_container_of(op, struct fuse_front, poll);

	if (!f->is_stopping && res >= 0)
		read_requests(f);
	check_stopped(f);
	arm(f);
}

static void arm(struct fuse_front *f)
{
	if (f->is_replaying && f->nr_inflight > 0)
		return;
	f->is_replaying = false;
	if (f->is_stopping || f->poll.is_inflight || find_free_slot(f) < 0)
		return;
	kedge_op_poll(f->loop, &f->poll, f->fd, POLLIN);
}

/* ---- the interface ---- */

static int fuse_start(struct front *front, struct uclone *u, struct kedge_err *err)
{
	struct fuse_front *f = (struct fuse_front *)front;
	unsigned nr_replayed = 0;

	f->u = u;
	f->is_replaying = true;
	for (unsigned i = 0; i < FUSE_SHARE_SLOTS; i++) {
		uint32_t len = header_of(f, i)->len;
		if (len == 0)
			continue;
		if (len < sizeof(struct fuse_in_header) || len > FUSE_SLOT_DATA - FUSE_SLOT_REQUEST + FUSE_MAX_IO_BYTES) {
			release(f, i);
			continue;
		}
		nr_replayed++;
		handle(f, i);
	}
	if (nr_replayed)
		kedge_info("fuse: finishing %u requests of the worker before", nr_replayed);
	arm(f);
	return 0;
}

static void stopped_cb(void *arg)
{
	struct fuse_front *f = arg;

	f->stop_fn(f->stop_arg);
}

static void check_stopped(struct fuse_front *f)
{
	if (!f->is_stopping || f->nr_inflight || !f->stop_fn || f->stop_defer.is_queued)
		return;
	if (f->poll.is_inflight) {
		kedge_op_cancel(f->loop, &f->poll);
		return;
	}
	f->stop_defer = (struct kedge_defer){.fn = stopped_cb, .arg = f};
	kedge_loop_defer(f->loop, &f->stop_defer);
}

static void fuse_stop(struct front *front, void (*fn)(void *arg), void *arg)
{
	struct fuse_front *f = (struct fuse_front *)front;

	f->is_stopping = true;
	f->stop_fn = fn;
	f->stop_arg = arg;
	check_stopped(f);
}

static void fuse_destroy(struct front *front)
{
	struct fuse_front *f = (struct fuse_front *)front;

	munmap(f->share, FUSE_SHARE_BYTES);
	free(f);
}

static unsigned fuse_nr_inflight(const struct front *front)
{
	return ((const struct fuse_front *)front)->nr_inflight;
}

static const struct front_ops fuse_ops = {
	.name = "fuse",
	.start = fuse_start,
	.stop = fuse_stop,
	.destroy = fuse_destroy,
	.nr_inflight = fuse_nr_inflight,
};

int fuse_front_create(struct kedge_loop *l, int fuse_fd, int share_fd, struct front **ret_front, struct kedge_err *err)
{
	struct fuse_front *f = calloc(1, sizeof *f);

	if (!f)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for the FUSE front end");
	/* Touched in advance: a fault while the kernel copies a request could fail it. */
	void *p = mmap(NULL, FUSE_SHARE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, share_fd, 0);
	if (p == MAP_FAILED) {
		free(f);
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot map the shared request memory: %s", strerror(errno));
	}
	f->share = p;
	if (f->share->magic != HOLDER_SHARE_MAGIC || f->share->version != 1) {
		munmap(p, FUSE_SHARE_BYTES);
		free(f);
		return kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_NONE, "the shared request memory is of another version of kclone");
	}
	f->front.ops = &fuse_ops;
	f->loop = l;
	f->fd = fuse_fd;
	f->slots = (uint8_t *)p + 4096;
	f->held_tail = &f->held_head;
	f->poll.fn = poll_cb;
	for (unsigned i = 0; i < FUSE_SHARE_SLOTS; i++)
		f->work[i].f = f;
	*ret_front = &f->front;
	return 0;
}
