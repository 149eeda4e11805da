/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A file or block device as a kedge_disk over the loop: whole ranges or an error, O_DIRECT where the file system
 * allows it, bounced where the caller's memory does not fit.
 *
 * Owns. The descriptor; for a bounced operation its aligned copy. On disks with blocks of 4 KiB a second descriptor without O_DIRECT,
 * for ranges that are finer than that; the kernel keeps the page cache and direct I/O of whole pages coherent, and a flush covers both.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. Nothing is durable before a flush: FLUSH is fdatasync(2), which also covers the block allocation of writes into
 * holes. An error of fdatasync is passed on as it is and never retried (the page cache may have dropped the pages).
 */
#include "kedge/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/file.h"

#define ZERO_STEP_BYTES (1u << 20)
/* One fallocate(2) keeps everybody else off the file as long as it runs. */
#define ZERO_CALL_BYTES (64ull << 20)
/* No disk has larger logical blocks than this, so direct I/O of whole ones is never refused. */
#define FINE_BYTES 4096u
/* In memory: so much is moved at once, in hundredths of a millisecond. More is a worker's: several of them copy side by side, and the loop goes
 * on. A read is small or somebody waits for it; a write may be a copy of a hydrator's, whose data are still in this core's cache. */
#define READ_AT_ONCE_BYTES (64u << 10)
#define WRITE_AT_ONCE_BYTES (256u << 10)

/* How a ZERO is being done (kedge_disk_io.way): tried in this order. */
enum zero_way { ZERO_BY_RANGE, ZERO_BY_PUNCH, ZERO_BY_WRITING };

struct file_disk {
	struct kedge_disk disk;
	struct kedge_loop *loop;
	int fd;
	int fine_fd; /* without O_DIRECT; -1: not needed so far */
	bool is_direct, is_file;
	bool is_in_memory; /* a read or write waits for no device, but for swap */
	bool knows_holes; /* a file on a file system whose word on them is good */
	enum zero_way zero_way; /* the best one that the file system has not refused */
	void *zeroes; /* ZERO_STEP_BYTES, made when first needed */
};

void *kedge_buf_alloc(size_t nr_bytes)
{
	void *p = NULL;

	if (posix_memalign(&p, 4096, kedge_round_up(nr_bytes ? nr_bytes : 1, 4096)) != 0)
		return NULL;
	return p;
}

void kedge_buf_free(void *buf)
{
	free(buf);
}

void kedge_disk_close(struct kedge_disk *d)
{
	if (d)
		d->ops->close(d);
}

uint64_t kedge_disk_hole_end(struct kedge_disk *d, uint64_t start_bytes, uint64_t end_bytes)
{
	uint64_t end = d->ops->hole_end ? d->ops->hole_end(d, start_bytes, end_bytes) : start_bytes;

	return end == end_bytes ? end : kedge_max_u64(start_bytes, kedge_round_down(end, 4096));
}

static void step(struct file_disk *f, struct kedge_disk_io *io);

/* A device takes whole logical blocks only. A read of parts of some is widened, in the bounce buffer: so many bytes come before it. */
static uint64_t skip_bytes(const struct file_disk *f, const struct kedge_disk_io *io)
{
	return f->is_direct && io->op == KEDGE_DISK_READ ? io->start_bytes % f->disk.lbs_bytes : 0;
}

/* What the kernel is asked for, all in all. */
static uint64_t whole_bytes(const struct file_disk *f, const struct kedge_disk_io *io)
{
	uint64_t n = skip_bytes(f, io) + io->nr_bytes;

	return f->is_direct && io->op == KEDGE_DISK_READ ? kedge_round_up(n, f->disk.lbs_bytes) : n;
}

static void finish(struct file_disk *f, struct kedge_disk_io *io, int res)
{
	char *bounce = io->priv;

	if (bounce) {
		if (io->op == KEDGE_DISK_READ && res == 0)
			memcpy(io->buf, bounce + skip_bytes(f, io), io->nr_bytes);
		io->priv = NULL;
		kedge_buf_free(bounce);
	}
	io->fn(io, res);
}

static void fail_later_cb(void *arg)
{
	struct kedge_disk_io *io = arg;

	finish((struct file_disk *)io->disk, io, -ENOMEM);
}

/* A range that direct I/O refuses as too fine is asked for once more, through the page cache. */
static bool must_go_fine(struct file_disk *f, struct kedge_disk_io *io)
{
	char path[40];

	if ((io->op != KEDGE_DISK_READ && io->op != KEDGE_DISK_WRITE) || !f->is_direct || !f->is_file || io->is_fine ||
	    ((io->start_bytes + io->done_bytes) | io->nr_bytes) % FINE_BYTES == 0)
		return false;
	if (f->fine_fd < 0) {
		snprintf(path, sizeof path, "/proc/self/fd/%d", f->fd);
		f->fine_fd = open(path, (fcntl(f->fd, F_GETFL) & O_ACCMODE) | O_CLOEXEC);
	}
	return f->fine_fd >= 0;
}

static uint64_t zero_call_bytes(const struct kedge_disk_io *io)
{
	return kedge_min_u64(io->nr_bytes - io->done_bytes, ZERO_CALL_BYTES);
}

static void op_cb(struct kedge_op *op, int res)
{
	struct kedge_disk_io *io = kedge_container_of(op, struct kedge_disk_io, ring);
	struct file_disk *f = (struct file_disk *)io->disk;

	if (res == -EINTR || res == -EAGAIN) {
		step(f, io);
		return;
	}
	if (res == -EINVAL && must_go_fine(f, io)) {
		io->is_fine = true;
		step(f, io);
		return;
	}
	if (io->op == KEDGE_DISK_ZERO && (res == -EOPNOTSUPP || res == -EINVAL || res == -ENOSYS)) {
		if (io->way == ZERO_BY_WRITING) {
			finish(f, io, res);
			return;
		}
		/* this way is closed, for this operation and for later ones */
		if (f->zero_way == (enum zero_way)io->way)
			f->zero_way++;
		step(f, io);
		return;
	}
	if (res < 0) {
		finish(f, io, res);
		return;
	}
	switch (io->op) {
	case KEDGE_DISK_FLUSH:
		finish(f, io, 0);
		return;
	case KEDGE_DISK_ZERO:
		/* fallocate answers 0 for all that it was asked for, a write of zeroes its count */
		io->done_bytes += res == 0 ? zero_call_bytes(io) : (uint64_t)res;
		break;
	default:
		if (res == 0) {
			/* nothing moved: a read past the end, which the caller's bounds exclude, or a device that shrank */
			finish(f, io, io->op == KEDGE_DISK_READ ? -EIO : -ENOSPC);
			return;
		}
		io->done_bytes += (uint64_t)res;
	}
	if (io->done_bytes >= whole_bytes(f, io))
		finish(f, io, 0);
	else
		step(f, io);
}

static void zero_done_cb(void *arg)
{
	struct kedge_disk_io *io = arg;

	finish((struct file_disk *)io->disk, io, 0);
}

/*
 * What nobody has written and reads as zeroes already may stay as it is, hole or reservation: a sparse volume costs what it holds, not what it
 * could. Like a hole that is punched, one that is found is durable with the next flush.
 */
static void step_zero(struct file_disk *f, struct kedge_disk_io *io)
{
	uint64_t end = io->start_bytes + io->nr_bytes;

	if (io->may_stay_hole && f->knows_holes)
		io->done_bytes = kedge_file_hole_end(f->fd, io->start_bytes + io->done_bytes, end) - io->start_bytes;
	if (io->done_bytes >= io->nr_bytes) {
		io->defer = (struct kedge_defer){.fn = zero_done_cb, .arg = io};
		kedge_loop_defer(f->loop, &io->defer);
		return;
	}
	uint64_t start = io->start_bytes + io->done_bytes, left = zero_call_bytes(io);
	io->way = f->zero_way;
	if (io->way == ZERO_BY_RANGE) {
		/* keeps the space: a reservation made before the drain stays */
		kedge_op_fallocate(f->loop, &io->ring, f->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, start, left);
	} else if (io->way == ZERO_BY_PUNCH) {
		kedge_op_fallocate(f->loop, &io->ring, f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, left);
	} else {
		if (!f->zeroes) {
			f->zeroes = kedge_buf_alloc(ZERO_STEP_BYTES);
			if (!f->zeroes) {
				finish(f, io, -ENOMEM);
				return;
			}
			memset(f->zeroes, 0, ZERO_STEP_BYTES);
		}
		kedge_op_write(f->loop, &io->ring, f->fd, f->zeroes, kedge_min_u64(left, ZERO_STEP_BYTES), start);
	}
}

static void moved_cb(void *arg)
{
	struct kedge_disk_io *io = arg;

	op_cb(&io->ring, io->moved);
}

/*
 * tmpfs has no reads and writes that do not wait, so io_uring wakes a thread for each, on another core, away from the cache that holds the data:
 * a third of the time of a copy. Done here instead; the answer comes later, as ever.
 */
static bool move_at_once(struct file_disk *f, struct kedge_disk_io *io, int fd, char *buf, uint64_t nr_bytes, uint64_t start_bytes)
{
	if (!f->is_in_memory || nr_bytes > (io->op == KEDGE_DISK_READ ? READ_AT_ONCE_BYTES : WRITE_AT_ONCE_BYTES))
		return false;
	ssize_t n = io->op == KEDGE_DISK_READ ? pread(fd, buf, nr_bytes, (off_t)start_bytes) : pwrite(fd, buf, nr_bytes, (off_t)start_bytes);
	io->moved = n < 0 ? -errno : (int)n;
	io->defer = (struct kedge_defer){.fn = moved_cb, .arg = io};
	kedge_loop_defer(f->loop, &io->defer);
	return true;
}

/* Submit what is left of an operation. */
static void step(struct file_disk *f, struct kedge_disk_io *io)
{
	uint64_t start = io->start_bytes - skip_bytes(f, io) + io->done_bytes, left = whole_bytes(f, io) - io->done_bytes;
	char *buf = io->priv ? io->priv : io->buf;
	int fd = io->is_fine ? f->fine_fd : f->fd;

	switch (io->op) {
	case KEDGE_DISK_READ:
		if (!move_at_once(f, io, fd, buf + io->done_bytes, left, start))
			kedge_op_read(f->loop, &io->ring, fd, buf + io->done_bytes, left, start);
		return;
	case KEDGE_DISK_WRITE:
		if (!move_at_once(f, io, fd, buf + io->done_bytes, left, start))
			kedge_op_write(f->loop, &io->ring, fd, buf + io->done_bytes, left, start);
		return;
	case KEDGE_DISK_ZERO:
		step_zero(f, io);
		return;
	case KEDGE_DISK_FLUSH:
		kedge_op_fsync(f->loop, &io->ring, f->fd, true);
		return;
	}
}

static void file_submit(struct kedge_disk *d, struct kedge_disk_io *io)
{
	struct file_disk *f = (struct file_disk *)d;
	bool has_data = io->op == KEDGE_DISK_READ || io->op == KEDGE_DISK_WRITE;

	io->disk = d;
	io->done_bytes = 0;
	io->is_fine = false;
	io->priv = NULL;
	io->ring.fn = op_cb;
	if (has_data && f->is_direct && (((uintptr_t)io->buf & (d->lbs_bytes - 1)) || whole_bytes(f, io) != io->nr_bytes)) {
		io->priv = kedge_buf_alloc(whole_bytes(f, io));
		if (!io->priv) {
			io->defer = (struct kedge_defer){.fn = fail_later_cb, .arg = io};
			kedge_loop_defer(f->loop, &io->defer);
			return;
		}
		if (io->op == KEDGE_DISK_WRITE)
			memcpy(io->priv, io->buf, io->nr_bytes);
	}
	step(f, io);
}

static void file_cancel(struct kedge_disk *d, struct kedge_disk_io *io)
{
	struct file_disk *f = (struct file_disk *)d;

	kedge_op_cancel(f->loop, &io->ring);
}

static uint64_t file_hole_end(struct kedge_disk *d, uint64_t start_bytes, uint64_t end_bytes)
{
	const struct file_disk *f = (struct file_disk *)d;

	return f->knows_holes ? kedge_file_hole_end(f->fd, start_bytes, end_bytes) : start_bytes;
}

static void file_close(struct kedge_disk *d)
{
	struct file_disk *f = (struct file_disk *)d;

	kedge_close(f->fd);
	kedge_close(f->fine_fd);
	kedge_buf_free(f->zeroes);
	free(f);
}

static const struct kedge_disk_ops file_ops = {
	.submit = file_submit,
	.cancel = file_cancel,
	.hole_end = file_hole_end,
	.close = file_close,
};

static int open_path(const char *path, unsigned flags, bool *ret_is_direct)
{
	int mode = (flags & KEDGE_DISK_RDONLY ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY;
	struct stat st;
	int fd;

	if (flags & KEDGE_DISK_EXCL && stat(path, &st) == 0 && S_ISBLK(st.st_mode))
		mode |= O_EXCL;
	*ret_is_direct = !(flags & KEDGE_DISK_BUFFERED);
	if (*ret_is_direct) {
		fd = open(path, mode | O_DIRECT);
		if (fd >= 0 || errno != EINVAL)
			return fd;
		*ret_is_direct = false;
	}
	return open(path, mode);
}

int kedge_disk_open(struct kedge_loop *l, const char *path, unsigned flags, struct kedge_disk **ret_disk,
		    struct kedge_err *err)
{
	struct file_disk *f = calloc(1, sizeof *f);
	struct stat st;
	int r;

	if (!f)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory to open %s", path);
	f->disk.ops = &file_ops;
	f->loop = l;
	f->fine_fd = -1;
	f->fd = open_path(path, flags, &f->is_direct);
	if (f->fd < 0) {
		r = kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot open %s: %s", path, strerror(errno));
		goto free_disk;
	}
	r = kedge_file_geometry(f->fd, &f->disk.size_bytes, &f->disk.lbs_bytes, err);
	if (r < 0) {
		kedge_err_prefix(err, "%s", path);
		goto close_fd;
	}
	f->is_file = fstat(f->fd, &st) == 0 && S_ISREG(st.st_mode);
	f->is_in_memory = f->is_file && kedge_file_is_in_memory(f->fd);
	f->knows_holes = f->is_file && kedge_file_knows_holes(f->fd);
	*ret_disk = &f->disk;
	return 0;

close_fd:
	kedge_close(f->fd);
free_disk:
	free(f);
	return r;
}

int kedge_disk_fd(const struct kedge_disk *d)
{
	return d->ops == &file_ops ? ((const struct file_disk *)d)->fd : -1;
}

int kedge_disk_unclaim(struct kedge_disk *d)
{
	struct file_disk *f = (struct file_disk *)d;
	char path[40];
	int flags, fd, r = 0;

	if (d->ops != &file_ops || f->is_file)
		return 0; /* of a file nothing was claimed */
	flags = fcntl(f->fd, F_GETFL);
	snprintf(path, sizeof path, "/proc/self/fd/%d", f->fd);
	fd = flags < 0 ? -1 : open(path, (flags & (O_ACCMODE | O_DIRECT)) | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 || dup3(fd, f->fd, O_CLOEXEC) < 0)
		r = -errno;
	kedge_close(fd);
	return r;
}
