/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The FUSE front end: one file that is the volume, over the raw /dev/fuse protocol (<linux/fuse.h>, 7.28 and later). This file
 * reads requests and writes replies; what they mean is in fuse_meta.c and fuse_data.c.
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
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fuse_int.h"
#include "kedge/bytes.h"
#include "kedge/log.h"

#define READS_A_ROUND 64
#define LOOK_MS 500

static void arm(struct fuse_front *f);
static void check_stopped(struct fuse_front *f);

/* ---- replies ---- */

void fuse_reply(struct fuse_work *w, int error, const void *data, size_t nr_bytes)
{
	struct fuse_in_header *in = fuse_header(w);
	struct fuse_out_header out = {
		.len = (uint32_t)(sizeof out + (error ? 0 : nr_bytes)), .error = error, .unique = in->unique};
	struct iovec iov[2] = {{&out, sizeof out}, {(void *)(uintptr_t)data, nr_bytes}};
	ssize_t n = writev(w->f->fd, iov, error || nr_bytes == 0 ? 1 : 2);

	/* ENOENT: answered before, or the caller was interrupted and gave up */
	if (n < 0 && errno != ENOENT && errno != ENODEV)
		kedge_warn("fuse: reply to request %llu failed: %s", (unsigned long long)in->unique, strerror(errno));
	in->len = 0;
}

/* Has that thread been killed? */
static bool is_dying(uint32_t pid)
{
	char path[40], line[128];
	unsigned long long mask, all = 0;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%u/status", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "SigPnd: %llx", &mask) == 1 || sscanf(line, "ShdPnd: %llx", &mask) == 1)
			all |= mask;
	if (f)
		fclose(f);
	return all >> (SIGKILL - 1) & 1;
}

/* Once a request is in our hands the kernel waits for our answer, whatever happens to its caller; with O_DIRECT it does not even tell. One
 * that was killed while it waits, perhaps for ever, is let go: what the engine answers later finds nobody. */
static void let_go(struct fuse_work *w)
{
	const struct fuse_out_header out = {.len = sizeof out, .error = -EINTR, .unique = fuse_header(w)->unique};

	w->is_let_go = true;
	if (write(w->f->fd, &out, sizeof out) < 0 && errno != ENOENT)
		kedge_warn("fuse: cannot let go of request %llu: %s", (unsigned long long)out.unique, strerror(errno));
}

static void look_cb(struct kedge_timer *t)
{
	struct fuse_front *f = kedge_container_of(t, struct fuse_front, look);

	for (unsigned i = 0; i < FUSE_SHARE_SLOTS; i++) {
		struct fuse_work *w = &f->work[i];
		/* asked only of what waits for longer than disks let wait */
		if (w->is_active && ++w->nr_looks > 1 && !w->is_let_go && fuse_header(w)->pid && is_dying(fuse_header(w)->pid))
			let_go(w);
	}
	if (f->nr_active)
		kedge_timer_start(f->loop, &f->look, LOOK_MS);
}

void fuse_work_begun(struct fuse_work *w)
{
	w->nr_looks = 0;
	w->is_let_go = false;
	if (!kedge_timer_is_armed(&w->f->look))
		kedge_timer_start(w->f->loop, &w->f->look, LOOK_MS);
}

void fuse_work_ended(struct fuse_front *f)
{
	check_stopped(f);
	arm(f);
}

static void handle(struct fuse_work *w)
{
	if (!fuse_handle_data(w) && !fuse_handle_meta(w))
		fuse_reply(w, -ENOSYS, NULL, 0);
}

/* ---- reading requests ---- */

static struct fuse_work *find_free_slot(struct fuse_front *f)
{
	for (unsigned i = 0; i < FUSE_SHARE_SLOTS; i++)
		if (!f->work[i].is_active && fuse_header(&f->work[i])->len == 0)
			return &f->work[i];
	return NULL;
}

/* One request into a free slot. False: there is no more to read now. */
static bool read_request(struct fuse_front *f, struct fuse_work *w)
{
	struct fuse_in_header *in = fuse_header(w);
	ssize_t n = read(f->fd, in, FUSE_REQUEST_MAX_BYTES);

	if (n < 0) {
		in->len = 0;
		switch (errno) {
		case EINTR:
		case ENOENT: /* its caller was interrupted before we had it */
			return true;
		case ENODEV:
			kedge_debug("fuse: unmounted");
			f->is_stopping = true;
			return false;
		case EAGAIN:
			return false;
		default:
			kedge_warn("fuse: cannot read a request: %s", strerror(errno));
			return false;
		}
	}
	if ((size_t)n < sizeof *in || in->len != (uint32_t)n) {
		kedge_warn("fuse: a request of %zd bytes says that it has %u", n, in->len);
		in->len = 0;
		return true;
	}
	handle(w);
	return true;
}

static void read_requests(struct fuse_front *f)
{
	struct fuse_work *w = find_free_slot(f);

	for (unsigned i = 0; w && i < READS_A_ROUND && read_request(f, w); i++)
		w = find_free_slot(f);
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
	if (f->is_replaying && f->nr_active > 0)
		return;
	f->is_replaying = false;
	if (f->is_stopping || f->poll.is_inflight || !find_free_slot(f))
		return;
	kedge_op_poll(f->loop, &f->poll, f->fd, POLLIN);
}

/* ---- the interface ---- */

static int fuse_start(struct front *front, struct engine *e, struct kedge_err *err)
{
	struct fuse_front *f = (struct fuse_front *)front;
	unsigned nr_replayed = 0;

	f->e = e;
	f->is_replaying = true;
	for (unsigned i = 0; i < FUSE_SHARE_SLOTS; i++) {
		struct fuse_in_header *in = fuse_header(&f->work[i]);
		if (in->len < sizeof *in || in->len > FUSE_REQUEST_MAX_BYTES) {
			in->len = 0;
			continue;
		}
		nr_replayed++;
		handle(&f->work[i]);
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
	if (!f->is_stopping || f->nr_active || !f->stop_fn || f->stop_defer.is_queued)
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

	kedge_timer_stop(f->loop, &f->look);
	munmap(f->share, FUSE_SHARE_BYTES);
	free(f);
}

static unsigned fuse_nr_inflight(const struct front *front)
{
	return ((const struct fuse_front *)front)->nr_active;
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
	f->queue_tail = &f->queue_head;
	f->poll.fn = poll_cb;
	f->look.fn = look_cb;
	for (unsigned i = 0; i < FUSE_SHARE_SLOTS; i++)
		f->work[i].f = f;
	*ret_front = &f->front;
	return 0;
}
