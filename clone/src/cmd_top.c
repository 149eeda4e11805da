/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The driver of a clone of the user engine under a dm-linear (dm_top.h): a process beside the worker that makes the device, leads it
 * to the destination when the worker says that the clone is HYDRATED, and takes it away. It may sleep in the kernel on I/O that the
 * worker serves.
 *
 * Owns. META.top and the device while it runs.
 *
 * Locks. META.top. META is the worker's: only its superblock is read.
 *
 * Crash. The device stays and goes on; the next driver takes it over (dm_top.c has the points between).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "dm_top.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/loopdev.h"

#define LOOK_MS 50
#define DETACH_MS 5000

struct top_driver {
	struct holder_share *share;
	struct dm_share *m;
	const struct kclone_args *args;
	struct dm_top top;
	char led_to[32]; /* the loop device below */
};

static volatile sig_atomic_t is_asked_to_end;

static void term_cb(int sig)
{
	(void)sig;
	is_asked_to_end = 1;
}

static void set_phase(struct top_driver *d, enum dm_phase p)
{
	__atomic_store_n(&d->m->phase, p, __ATOMIC_RELEASE);
}

/* ---- the two places of the device ---- */

/* The loop device, and a file that only it needed, have no user any more. */
static void let_go_of_file(struct top_driver *d)
{
	char path[sizeof d->share->fuse_path];
	struct kedge_err err = {0};

	memcpy(path, d->share->fuse_path, sizeof path);
	if (!path[0])
		return;
	d->share->loop_path[0] = 0; /* the holder is not to miss it */
	if (kedge_loopdev_detach(path, DETACH_MS, &err) < 0)
		kedge_warn("%s", err.msg);
	else if (!d->args->fuse && umount2(path, UMOUNT_NOFOLLOW) < 0 && errno != EINVAL)
		kedge_warn("cannot unmount %s: %s", path, strerror(errno));
}

static int go_alone(struct top_driver *d, struct kedge_err *err)
{
	int r = dm_top_over_dest(&d->top, d->share->loop_path[0] ? d->share->fuse_path : NULL, dm_top_failpoint, err);

	if (r < 0)
		return r;
	dm_top_failpoint("resumed");
	set_phase(d, DM_PHASE_ALONE);
	let_go_of_file(d);
	dm_top_failpoint("alone");
	return 0;
}

static int go_live(struct top_driver *d, struct kedge_err *err)
{
	char loop[sizeof d->led_to];
	int r;

	memcpy(loop, d->share->loop_path, sizeof loop);
	loop[sizeof loop - 1] = 0;
	/* while the holder's helper changes it, half of it may be another's */
	if (!kedge_loopdev_is_of(loop, d->share->fuse_path))
		return kedge_err_set(err, -EAGAIN, KEDGE_SIDE_NONE, "there is no loop device over %s", d->share->fuse_path);
	r = dm_top_over_clone(&d->top, loop, d->m->is_led, d->top.super.state == UCLONE_HYDRATED, err);
	if (r < 0)
		return r;
	memcpy(d->led_to, loop, sizeof loop);
	d->m->is_led = 1;
	set_phase(d, DM_PHASE_LIVE);
	return 0;
}

static int start(struct top_driver *d, struct kedge_err *err)
{
	struct uc_super super;
	int r = clone_super_read(d->args->meta, &super, err);

	if (r == 0)
		r = dm_top_open(d->args->meta, &super, &d->top, err);
	if (r == 0) /* as it is now that we have the lock */
		r = clone_super_read(d->args->meta, &d->top.super, err);
	if (r < 0)
		return r;
	r = -EAGAIN;
	if (d->top.super.state == UCLONE_HYDRATED)
		r = go_alone(d, err);
	if (r < 0 && d->share->loop_path[0]) {
		*err = (struct kedge_err){0};
		r = go_live(d, err);
	}
	if (r == 0)
		snprintf(d->m->top_path, sizeof d->m->top_path, "/dev/mapper/%s", d->top.name);
	return r;
}

/* ---- orders ---- */

static int carry_out(struct top_driver *d, struct kedge_err *err)
{
	int r;

	if (d->m->phase == DM_PHASE_ALONE)
		return 0;
	dm_top_failpoint("hydrated");
	r = clone_super_read(d->args->meta, &d->top.super, err);
	if (r == 0 && d->top.super.state != UCLONE_HYDRATED)
		r = kedge_err_set(err, KEDGE_E_NOT_HYDRATED, KEDGE_SIDE_METADATA, "%s does not say that the clone is hydrated", d->args->meta);
	return r < 0 ? r : go_alone(d, err);
}

static void look_at_orders(struct top_driver *d)
{
	uint64_t nr = __atomic_load_n(&d->m->order_nr, __ATOMIC_ACQUIRE);
	struct kedge_err err = {0};

	if (nr == d->m->answer_nr)
		return;
	d->m->answer_code = carry_out(d, &err);
	snprintf(d->m->answer_text, sizeof d->m->answer_text, "%s", err.msg);
	__atomic_store_n(&d->m->answer_nr, nr, __ATOMIC_RELEASE);
}

/* An operator took the loop device away, and the holder attached another one. */
static void follow_loop(struct top_driver *d)
{
	struct kedge_err err = {0};

	if (d->m->phase != DM_PHASE_LIVE || !d->share->loop_path[0] || strcmp(d->share->loop_path, d->led_to) == 0)
		return;
	if (go_live(d, &err) < 0 && err.code != -EAGAIN)
		kedge_warn("%s", err.msg);
}

/* ---- end ---- */

/* The holder stops us. Refused while the workload has the device open, and then nothing has changed. */
static int end_cleanly(struct top_driver *d, struct kedge_err *err)
{
	struct dmdev_info i;
	int r = dmdev_info(d->top.name, &i, err);

	if (r == 0 && i.nr_open)
		r = kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "%s is open or mounted: close it first", d->top.path);
	if (r == 0)
		r = dm_top_remove(&d->top, err);
	if (r < 0)
		return r;
	d->m->top_path[0] = 0;
	d->m->is_led = 0;
	set_phase(d, DM_PHASE_NONE);
	return 0;
}

static int run(struct top_driver *d, struct kedge_err *err)
{
	const struct timespec nap = {.tv_nsec = LOOK_MS * 1000000};

	while (!is_asked_to_end && getppid() == d->share->holder_pid) {
		look_at_orders(d);
		follow_loop(d);
		nanosleep(&nap, NULL);
	}
	return getppid() == d->share->holder_pid ? end_cleanly(d, err) : 0;
}

int cmd_top(const struct kclone_args *a)
{
	struct top_driver d = {.args = a, .top = {.lock_fd = -1}};
	struct kedge_err err = {0};

	d.share = driver_begin(term_cb);
	if (!d.share)
		return KEDGE_EXIT_USAGE;
	d.m = &d.share->dm;
	if (start(&d, &err) < 0) {
		kedge_error("%s", err.msg);
		dm_top_close(&d.top);
		return KEDGE_EXIT_FAILED;
	}
	if (fcntl(HOLDER_FD_READY, F_GETFD) >= 0) {
		if (write(HOLDER_FD_READY, "r", 1) != 1)
			kedge_warn("the holder does not listen");
		close(HOLDER_FD_READY);
	}
	int r = run(&d, &err);
	if (r < 0)
		kedge_error("not stopping: %s", err.msg);
	dm_top_close(&d.top);
	return r < 0 ? KEDGE_EXIT_FAILED : KEDGE_EXIT_OK;
}
