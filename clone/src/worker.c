/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The worker of `kclone serve`: brings engine, source, hydrator and front ends together on one loop, and takes them apart.
 *
 * Owns. All of them. The descriptors come from the holder.
 *
 * Locks. None: one thread.
 *
 * Crash. A worker may die at any moment: what was answered is in the holder's memory or on disk, and the next worker takes over.
 */
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "dm_record.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"

#define TICK_MS 100

struct kedge_loop *worker_loop(struct worker *w)
{
	return w->loop;
}

void worker_event(void *arg, const char *name, const char *text)
{
	kedge_info("event %s: %s", name, text);
}

static uint64_t now_cb(void *arg)
{
	return kedge_clock_ns();
}

static void sig_cb(struct kedge_op *op, int res)
{
	struct worker *w = kedge_container_of(op, struct worker, sig_op);

	if (res > 0)
		worker_stop(w);
}

static void tick_cb(struct kedge_timer *t)
{
	struct worker *w = kedge_container_of(t, struct worker, tick);
	struct kedge_err err = {0};

	struct uclone_status s;

	w->e->ops->tick(w->e);
	w->e->ops->status(w->e, &s);
	worker_note_bad(w, &s);
	if (s.nr_source_errors)
		worker_make_urgent(w, "the source could not carry out a read");
	worker_steer(w);
	worker_ahead_tick(w);
	if (w->is_verify_wanted && !w->is_hydrating && worker_verify(w, &err) < 0) {
		w->is_verify_wanted = false;
		kedge_warn("verification: %s", err.msg);
	}
	kedge_timer_start(w->loop, t, TICK_MS);
}

static void protect(void)
{
#ifdef PR_SET_IO_FLUSHER
	/* we are part of the write-back path of the volume: our allocations must not wait for it */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
#endif
	/* program and libraries whole, of what comes later what has been touched: the bitmaps of a large volume are mostly holes, and
	 * locked whole they are gigabytes */
	mlockall(MCL_CURRENT);
}

/* Before this process opens anything: what it opens itself may get the number of a descriptor that was not handed over. */
static void see_fds(struct worker *w)
{
	for (unsigned i = 0; i < HOLDER_NR_FDS; i++)
		w->has_fd[i] = fcntl(HOLDER_FD_FUSE + (int)i, F_GETFD) >= 0;
}

static bool has_fd(const struct worker *w, enum holder_fd fd)
{
	return w->has_fd[fd - HOLDER_FD_FUSE];
}

static int start_fronts(struct worker *w, struct kedge_err *err)
{
	int r = 0;

	if (has_fd(w, HOLDER_FD_FUSE))
		r = fuse_front_create(w->loop, HOLDER_FD_FUSE, HOLDER_FD_SHARE, &w->fronts[w->nr_fronts++], err);
	if (r == 0 && has_fd(w, HOLDER_FD_NBD))
		r = nbd_front_create(w->loop, HOLDER_FD_NBD, &w->fronts[w->nr_fronts++], err);
	if (r < 0) {
		w->nr_fronts--;
		return r;
	}
	for (unsigned i = 0; i < w->nr_fronts && r == 0; i++)
		r = w->fronts[i]->ops->start(w->fronts[i], w->e, err);
	if (r == 0 && has_fd(w, HOLDER_FD_CONTROL))
		r = control_start(w, HOLDER_FD_CONTROL, &w->control, err);
	return r;
}

struct opened {
	bool is_done;
	int res;
	struct uclone *u;
	struct kedge_err err;
};

static void opened_cb(void *arg, struct uclone *u, int res, const struct kedge_err *err)
{
	struct opened *o = arg;

	o->is_done = true;
	o->res = res;
	o->u = u;
	if (err)
		o->err = *err;
}

static int open_user(struct worker *w, struct kedge_err *err)
{
	struct uclone_env env = {.now_ns = now_cb, .event_fn = worker_event, .defer = kedge_loop_defer_queue(w->loop), .io_fn = worker_pace_io, .io_arg = w};
	struct opened o = {0};
	int r = clone_files_open(w->loop, w->args->meta, CLONE_OPEN_WORKER, &w->files, err);

	w->files.is_top = w->share && w->share->is_top;
	if (r == 0)
		r = clone_files_open_dest(&w->files, err);
	if (r < 0)
		return r;
	env.meta = w->files.meta;
	env.dest = w->files.dest;
	env.seen = w->files.seen;
	if (w->share) {
		void *p = mmap(NULL, w->share->marks_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, HOLDER_FD_SHARE,
			       (off_t)w->share->marks_start_bytes);
		if (p == MAP_FAILED)
			return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot map the marks: %s", strerror(errno));
		env.marks = p;
	}
	uclone_open(&env, opened_cb, &o);
	while (!o.is_done && r == 0)
		r = kedge_loop_run_once(w->loop, 1000);
	if (o.res < 0)
		*err = o.err;
	if (r < 0 || o.res < 0)
		return r < 0 ? r : o.res;
	if (w->args->has_io_timeout)
		uclone_set_io_timeout(o.u, w->args->io_timeout_ms);
	w->e = engine_user_create(o.u, kedge_loop_defer_queue(w->loop));
	return 0;
}

/* The record is the driver's to change; we read who the source is, and the destination for the comparison. */
static int open_kernel(struct worker *w, struct kedge_err *err)
{
	struct dm_record rec;
	int r = dm_record_open(w->args->meta, false, &rec, err);

	if (r < 0)
		return r;
	dm_record_close(&rec);
	if (!w->share)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "a kernel clone is served by kclone serve");
	r = kedge_disk_open(w->loop, rec.super.opts.dest_path, KEDGE_DISK_RDONLY, &w->files.dest, err);
	if (r == 0)
		w->e = engine_dm_create(w->loop, &rec.super, w->files.dest, w->share, HOLDER_FD_SHARE, w->args, worker_event, w);
	return r;
}

static int start_signals(struct worker *w)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	w->sig_fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (w->sig_fd < 0)
		return -errno;
	w->sig_op.fn = sig_cb;
	kedge_op_read(w->loop, &w->sig_op, w->sig_fd, &w->sig_info, sizeof w->sig_info, 0);
	return 0;
}

static int start(struct worker *w, struct kedge_err *err)
{
	const struct kclone_args *a = w->args;
	int r;

	protect();
	r = kedge_loop_create(256, &w->loop, err);
	if (r < 0)
		return r;
	if (has_fd(w, HOLDER_FD_SHARE)) {
		void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, HOLDER_FD_SHARE, 0);
		w->share = p == MAP_FAILED ? NULL : p;
	}
	r = worker_pace_init(w, err);
	if (r < 0)
		return r;
	r = clone_is_dm(a->meta) ? open_kernel(w, err) : open_user(w, err);
	if (r < 0)
		return r;
	strcpy(w->url, w->e->stored->source_url);
	strcpy(w->chap_file, w->e->stored->chap_file);
	w->tick.fn = tick_cb;
	w->retry.fn = worker_retry_cb;
	w->attach_timer.fn = worker_attach_timeout_cb;
	kedge_timer_start(w->loop, &w->tick, TICK_MS);
	worker_trace_begin(w);
	r = start_signals(w);
	if (r == 0)
		r = start_fronts(w, err);
	if (r < 0)
		return kedge_err_set(err, r, KEDGE_SIDE_NONE, "cannot start serving: %s", kedge_err_text(r));
	mlockall(MCL_CURRENT | MCL_ONFAULT);
	if (has_fd(w, HOLDER_FD_READY)) {
		if (write(HOLDER_FD_READY, "r", 1) != 1)
			kedge_warn("the holder does not listen");
		close(HOLDER_FD_READY);
	}

	struct uclone_status s;
	w->e->ops->status(w->e, &s);
	w->is_hydrated = s.here_bytes == s.size_bytes;
	if (s.state == UCLONE_HYDRATED) {
		worker_compared_recall(w);
		worker_stand_alone(w, NULL);
	}
	bool is_recalled = worker_recall_source(w);
	/* FAILED: blocks that live on the source are read from there all the same */
	bool needs_source = s.state == UCLONE_LIVE || (s.state == UCLONE_FAILED && !w->is_hydrated);
	if (needs_source && (is_recalled || !a->is_no_attach)) {
		struct kedge_err source_err = {0};
		w->is_hydrate_wanted = !a->is_no_hydrate;
		if (worker_open_source(w, &source_err) < 0)
			kedge_error("cannot attach the source: %s", source_err.msg);
	}
	return 0;
}

/* Connections of the control socket and the signal descriptor: cancelled, but the kernel has to let go of them. */
static void end_operations(struct worker *w)
{
	uint64_t deadline_ns = kedge_clock_ns() + 1000000000ull;

	kedge_op_cancel(w->loop, &w->sig_op);
	while (kedge_loop_nr_inflight(w->loop) && kedge_clock_ns() < deadline_ns && kedge_loop_run_once(w->loop, 10) == 0)
		;
}

int cmd_worker(const struct kclone_args *a)
{
	struct worker w = {.args = a, .sig_fd = -1, .nr_bad_noted = UINT64_MAX, .files = {.service_fd = -1}};
	struct kedge_err err = {0};
	int r;

	see_fds(&w);
	prctl(PR_SET_NAME, "kclone-worker"); /* else it is called after /proc/self/exe */
	r = start(&w, &err);

	if (r < 0) {
		kedge_error("%s", err.msg);
		if (!w.e) { /* nothing is under way */
			clone_files_close(&w.files);
			kcopy_governor_destroy(w.governor);
			kedge_loop_destroy(w.loop);
		}
		return kedge_exit_of(r) == KEDGE_EXIT_USAGE ? KEDGE_EXIT_FAILED : kedge_exit_of(r);
	}
	r = kedge_loop_run(w.loop);
	for (unsigned i = 0; i < w.nr_fronts; i++)
		w.fronts[i]->ops->destroy(w.fronts[i]);
	if (w.source)
		w.source->ops->destroy(w.source);
	if (w.absent)
		w.absent->ops->destroy(w.absent);
	worker_trace_end(&w);
	end_operations(&w);
	kcopy_governor_destroy(w.governor);
	clone_files_close(&w.files);
	kedge_loop_destroy(w.loop);
	kedge_close(w.sig_fd);
	return r < 0 ? KEDGE_EXIT_FAILED : w.exit_code;
}
