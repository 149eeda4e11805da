/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The driver of a kernel clone: a process beside the worker that makes the kernel's devices, governs hydration, watches for
 * what goes wrong, and carries out what the worker orders. It may sleep in the kernel on I/O that the worker serves.
 *
 * Owns. META and META.seen (their lock too), the destination's lock, and the kernel's devices while it runs.
 *
 * Locks. META, then the destination (of one that was not handed out yet only when it is: a head start has it before).
 *
 * Crash. The devices stay and go on; the next driver takes them over. HYDRATED is recorded after the kernel's bitmap was read back
 * full and before the top leaves the clone, so a crash in between is mended by the next start.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "dm_block.h"
#include "driver.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"

#define LOCK_MS 15000
#define RECORD_MS 1000
#define ALONE_LOOK_MS 50
#define HEAD_LOOK_MS 2 /* the workload waits for its device */
#define SLEEP_MAX_MS 50 /* an order waits no longer */
#define COPIES_END_MS 5000

static volatile sig_atomic_t is_asked_to_end;

static void term_cb(int sig)
{
	(void)sig;
	is_asked_to_end = 1;
}

static uint64_t now_ms(void)
{
	return kedge_clock_ns() / 1000000;
}

void driver_set_phase(struct driver *d, enum dm_phase p)
{
	__atomic_store_n(&d->m->phase, p, __ATOMIC_RELEASE);
}

/* ---- begin ---- */

static int map_bits(struct driver *d, struct kedge_err *err)
{
	uint64_t nr = dm_mark_nr_regions(&d->st);
	void *p = mmap(NULL, nr / 64 * 8 + 8, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, HOLDER_FD_SHARE,
		       (off_t)d->share->marks_start_bytes);

	if (p == MAP_FAILED)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot map the marks: %s", strerror(errno));
	d->bits = (struct uc_bits){.w = p, .nr_bits = nr};
	return 0;
}

/*
 * Hand the clone out.
 * 1. Of the first time: what a head start copied is marked; without one, at least nobody is writing the destination (dm_mark.h).
 * 2. The top. 3. META says live: from now on the workload may have written.
 */
int driver_go_live(struct driver *d, struct kedge_err *err)
{
	struct uc_super *s = &d->rec.super;
	uint64_t nr_marked = 0;
	int r = 0;

	driver_set_phase(d, DM_PHASE_MARKING);
	if (s->state == UCLONE_CREATED)
		r = dm_mark_run(&d->st, d->bits.w ? &d->bits : NULL, &d->dest_fd, &nr_marked, err);
	if (r < 0) { /* nobody has had it: nothing is to be left */
		dm_stack_remove(&s->opts.migration, d->rec.meta, s->opts.dest_path, NULL);
		return r;
	}
	r = dm_stack_open_top(&d->st, err);
	if (r < 0)
		return r;
	if (nr_marked) {
		s->dm_nr_seen = nr_marked;
		d->m->marked_bytes = nr_marked * s->dm_region_bytes;
		kedge_info("head start: %" PRIu64 " regions are here", nr_marked);
	}
	/* not closed cleanly: whether the workload wrote is not known, so it did */
	if (s->state == UCLONE_LIVE && !s->is_clean)
		s->dm_was_written = true;
	s->state = UCLONE_LIVE;
	s->has_started = true;
	s->is_clean = false;
	s->open_count++;
	r = dm_record_write(&d->rec, err);
	d->m->was_written = s->dm_was_written;
	if (r < 0)
		return r;
	__atomic_store_n(&d->m->nr_durable, s->dm_nr_seen, __ATOMIC_RELEASE);
	if (d->a->window_bytes && dm_windows_init(&d->win, &d->st, d->share, d->a->window_bytes, err) < 0)
		return err->code;
	driver_set_phase(d, DM_PHASE_LIVE);
	return 0;
}

static void record_deceived(struct driver *d)
{
	struct kedge_err err = {0};

	d->rec.super.dm_was_deceived = true;
	if (dm_record_write(&d->rec, &err) < 0)
		kedge_error("%s", err.msg);
}

/* The source was the kernel's initiator's, and is to be the feed's. */
static int leave_kernel(struct driver *d, struct kedge_err *err)
{
	struct kedge_err why = {0};
	int r = kattach_use_leave(&d->rec, &why);

	if (r == KEDGE_E_SOURCE_IDENTITY) {
		kedge_error("%s", why.msg);
		record_deceived(d);
		return kattach_use_refuse(&d->rec.super.opts, err);
	}
	return r < 0 ? kedge_err_set(err, r, why.side, "%s", why.msg) : 0;
}

static int start_live(struct driver *d, struct kedge_err *err)
{
	struct uc_super *s = &d->rec.super;
	bool is_kernel = dm_record_is_kernel_attach(s, d->a->source_attach);
	int r = is_kernel ? kattach_use_init(&d->use, &d->rec, &d->st, d->m, err) : s->dm_is_kernel_attach ? leave_kernel(d, err) : 0;

	if (r == 0)
		r = dm_stack_open(&d->st, &d->rec, is_kernel ? NULL : d->share->loop_path, err);
	if (r < 0)
		return r;
	kattach_use_start(&d->use);
	if (!is_kernel && s->dm_is_kernel_attach) /* the feed has taken over from a disk that nobody needs now */
		kattach_end_left(d->rec.meta, &s->opts, false);
	s->dm_is_kernel_attach = is_kernel;
	if (!(d->a->head_start_bytes || d->a->head_start_ms) || !dm_mark_is_possible(&d->st))
		return driver_go_live(d, err);
	r = map_bits(d, err);
	if (r == 0)
		r = dm_mark_recall(&d->st, &d->bits, err);
	if (r == 0)
		driver_set_phase(d, DM_PHASE_HEAD_START);
	return r;
}

static int start(struct driver *d, struct kedge_err *err)
{
	const char *meta = d->a->meta;
	int r = dm_record_open(meta, true, &d->rec, err);

	if (r == 0 && kedge_lock(d->rec.meta_fd, LOCK_MS) < 0)
		r = kedge_err_set(err, KEDGE_E_META_BUSY, KEDGE_SIDE_METADATA, "%s is in use by another kclone", meta);
	if (r == 0) { /* as it is under the lock */
		dm_record_close(&d->rec);
		r = dm_record_open(meta, true, &d->rec, err);
		if (r == 0)
			r = kedge_lock(d->rec.meta_fd, LOCK_MS);
	}
	if (r < 0)
		return r;
	if (d->rec.super.state == UCLONE_ABORTED)
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_METADATA, "this clone was aborted and never serves again");
	if (d->rec.super.dm_was_deceived)
		return kattach_use_refuse(&d->rec.super.opts, err);
	if (d->rec.super.state != UCLONE_CREATED)
		r = dm_block_lock(d->rec.super.opts.dest_path, DM_BLOCK_LOCK_MS, &d->dest_fd, err);
	if (r < 0)
		return r;
	if (d->rec.super.state == UCLONE_HYDRATED) {
		r = dm_stack_open_alone(&d->st, &d->rec, err);
		if (r == 0)
			driver_set_phase(d, DM_PHASE_ALONE);
		/* one that died before it had logged out */
		if (r == 0 && d->rec.super.dm_is_kernel_attach && kattach_use_init(&d->use, &d->rec, &d->st, d->m, NULL) == 0)
			kattach_use_end(&d->use, 0);
	} else {
		r = start_live(d, err);
	}
	snprintf(d->m->top_path, sizeof d->m->top_path, "/dev/mapper/%s", d->st.top);
	gov_init(&d->g, &(struct gov_opts){.region_bytes = d->rec.super.dm_region_bytes});
	return r;
}

/* ---- live ---- */

static void fail(struct driver *d, const char *why)
{
	struct kedge_err err = {0};

	snprintf(d->m->failure, sizeof d->m->failure, "%s", why);
	kedge_error("%s: %s; its device answers with errors from now on, never with old data", d->st.clone, why);
	if (dm_stack_stop_serving(&d->st, &err) < 0)
		kedge_error("%s", err.msg);
	driver_set_phase(d, DM_PHASE_FAILED);
}

static void tell_phase(struct driver *d, uint64_t nr_hydrated)
{
	if (d->g.phase == d->phase_told)
		return;
	if (d->g.phase == GOV_PHASE_BACKOFF)
		kedge_warn("event HYDRATION_DEGRADED: no progress at region %" PRIu64 ": the source or the destination fails; trying again in %u ms",
			   nr_hydrated, d->g.backoff_ms);
	else if (d->phase_told == GOV_PHASE_BACKOFF)
		kedge_info("event HYDRATION_RUNNING: trying again");
	d->phase_told = d->g.phase;
}

static int carry_out(struct driver *d, const struct gov_order *o, struct kedge_err *err)
{
	bool is_copying = o->act == GOV_DOSE || (o->act == GOV_FREE && !d->is_free);

	if (is_copying && d->is_apart != (o->batch == 1)) {
		d->is_apart = o->batch == 1;
		dm_stack_keep_apart(&d->st, d->is_apart);
	}
	switch (o->act) {
	case GOV_NOTHING:
		return 0;
	case GOV_HOLD:
		d->is_free = false;
		return dm_stack_hydrate(&d->st, false, 0, 0, err);
	case GOV_FREE:
		if (d->is_free)
			return 0;
		d->is_free = true;
		return dm_stack_hydrate(&d->st, true, o->threshold, o->batch, err);
	case GOV_DOSE:
		break;
	}
	uint64_t began_ms = now_ms();
	int r = dm_stack_dose(&d->st, o->threshold, o->batch, err);
	d->is_free = false;
	d->pause_ms = (uint32_t)(now_ms() - began_ms);
	return r;
}

/* What the kernel had hydrated before a commit is durable after it. */
static void record_progress(struct driver *d, uint64_t nr_before)
{
	struct dm_clone_status s;
	struct kedge_err err = {0};

	d->recorded_ms = now_ms();
	if (nr_before <= d->rec.super.dm_nr_seen)
		return;
	if (dm_stack_status(&d->st, true, &s, &err) < 0 || s.mode != DM_MODE_RW)
		return; /* the next look says why */
	d->rec.super.dm_nr_seen = nr_before;
	if (dm_record_write(&d->rec, &err) < 0) {
		fail(d, err.msg);
		return;
	}
	d->m->generation = d->rec.super.generation;
	d->m->nr_commits++;
	__atomic_store_n(&d->m->nr_durable, nr_before, __ATOMIC_RELEASE);
}

/* What was read since the session came back may be another volume's: never again, and now. */
static void deceived(struct driver *d)
{
	struct kedge_err err = {0};

	record_deceived(d);
	if (dm_stack_fail_waiting(&d->st, &err) < 0)
		kedge_error("%s", err.msg);
	fail(d, d->use.a.err.msg);
}

static void live_step(struct driver *d)
{
	struct dm_clone_status s = {0};
	struct gov_view v = {.now_ms = now_ms()};
	struct gov_order o;
	struct dm_ios ios;
	struct kedge_err err = {0};
	uint64_t limit = __atomic_load_n(&d->m->limit_bps, __ATOMIC_ACQUIRE);

	if (kattach_use_step(&d->use, v.now_ms)) {
		deceived(d);
		return;
	}
	if (dm_stack_status(&d->st, false, &s, &err) < 0) {
		fail(d, err.msg);
		return;
	}
	if (s.mode != DM_MODE_RW) { /* K4 */
		fail(d, s.mode == DM_MODE_RO ? "the kernel made it read-only: its metadata device failed" : "its metadata failed");
		return;
	}
	d->m->nr_regions = s.nr_regions;
	d->m->nr_hydrating = s.nr_hydrating;
	__atomic_store_n(&d->m->nr_hydrated, s.nr_hydrated, __ATOMIC_RELEASE);
	dm_stack_ios(&d->st, &ios);
	d->m->nr_writes = ios.nr_writes;
	if (d->m->nr_writes)
		d->m->was_written = 1;
	bool is_all = s.nr_hydrated == s.nr_regions;
	if (v.now_ms - d->recorded_ms >= RECORD_MS || (is_all && d->rec.super.dm_nr_seen < s.nr_regions))
		record_progress(d, is_all ? s.nr_hydrated : d->hydrated_before);
	d->hydrated_before = s.nr_hydrated;
	if (is_all && s.nr_hydrating == 0)
		kattach_use_prove(&d->use);
	if (v.now_ms < d->next_ms)
		return;
	v.is_wanted = __atomic_load_n(&d->m->is_wanted, __ATOMIC_ACQUIRE) && kattach_use_is_up(&d->use);
	if (d->win.is_on) {
		d->is_free = false;
		d->next_ms = v.now_ms + dm_windows_step(&d->win, &s, v.is_wanted, limit);
		return;
	}
	v.nr_ios = ios.nr_reads + ios.nr_writes;
	v.busy_ms = ios.busy_ms;
	v.pause_ms = d->pause_ms;
	v.nr_hydrated = s.nr_hydrated;
	v.nr_regions = s.nr_regions;
	v.nr_hydrating = s.nr_hydrating;
	if (gov_set(&d->g, limit, __atomic_load_n(&d->m->floor_bps, __ATOMIC_ACQUIRE), __atomic_load_n(&d->m->keep_percent, __ATOMIC_ACQUIRE)))
		d->is_free = false;
	gov_step(&d->g, &v, &o);
	d->m->gov_phase = d->g.phase;
	d->m->dose_bps = d->g.phase == GOV_PHASE_DOSES ? d->g.dose_bps : 0;
	d->m->speed_percent = (uint32_t)(d->g.last_share * 100);
	tell_phase(d, s.nr_hydrated);
	int r = carry_out(d, &o, &err);
	if (r < 0 && r != -ETIMEDOUT) /* that one is tried again later, and rarer */
		kedge_warn("%s", err.msg); /* a clone that failed says so at the next look */
	d->next_ms = now_ms() + o.sleep_ms;
}

/* ---- end ---- */

/* Copies under way end with their source, or without it: they must end, or the devices never go. */
static void let_copies_end(struct driver *d)
{
	const struct timespec t = {.tv_nsec = 50000000};
	struct dm_clone_status s = {0};

	if (!d->use.is_used || d->m->phase == DM_PHASE_ALONE)
		return;
	for (unsigned i = 0; d->m->phase == DM_PHASE_LIVE && i < COPIES_END_MS / 50 && kattach_use_is_up(&d->use); i++) {
		if (dm_stack_status(&d->st, false, &s, NULL) < 0 || s.nr_hydrating == 0)
			return;
		nanosleep(&t, NULL);
	}
	kattach_use_end(&d->use, KATTACH_END_MS); /* which fails them */
}

/* The holder stops us: the devices go. Refused while the workload has its own open, and then nothing has changed. */
static int end_cleanly(struct driver *d, struct kedge_err *err)
{
	const struct uclone_create_opts *o = &d->rec.super.opts;
	bool is_live = d->m->phase == DM_PHASE_LIVE;
	struct dm_clone_status s = {0};
	struct dmdev_info i;
	int r = dmdev_info(d->st.top, &i, err);

	if (r == 0 && i.nr_open)
		r = kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "/dev/mapper/%s is open or mounted: close it first", d->st.top);
	if (r == 0 && is_live) {
		r = dm_stack_hydrate(&d->st, false, 0, 0, err);
		if (r == 0)
			r = dm_stack_status(&d->st, true, &s, err);
		if (r < 0 || s.mode != DM_MODE_RW)
			is_live = false; /* it failed: gone all the same, not as a clean end */
		if (is_live && dm_stack_has_writes(&d->st))
			d->rec.super.dm_was_written = true;
		r = 0;
	}
	dm_windows_fini(&d->win);
	if (r == 0) {
		let_copies_end(d);
		r = dm_stack_remove(&o->migration, d->rec.meta, o->dest_path, err);
	}
	if (r < 0)
		return r;
	kattach_use_end(&d->use, KATTACH_END_MS);
	kattach_use_forget(&d->use);
	driver_set_phase(d, DM_PHASE_NONE);
	if (!is_live)
		return 0;
	d->rec.super.is_clean = true;
	return dm_record_write(&d->rec, err);
}

/* The holder died, and with it the feed: what the workload reads waits for the next one. The kernel's own session goes on. */
static void end_orphaned(struct driver *d)
{
	struct kedge_err err = {0};

	if (d->m->phase == DM_PHASE_LIVE && !d->use.is_used && dm_stack_hold_source(&d->st, &err) < 0)
		kedge_warn("%s", err.msg);
}

static void nap(unsigned ms)
{
	const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&t, NULL);
}

/* Once the workload has its device. */
static void tell_ready(struct driver *d)
{
	enum dm_phase p = (enum dm_phase)d->m->phase;

	if (d->is_ready_told || p == DM_PHASE_HEAD_START || p == DM_PHASE_MARKING)
		return;
	d->is_ready_told = true;
	if (fcntl(HOLDER_FD_READY, F_GETFD) < 0)
		return;
	if (write(HOLDER_FD_READY, "r", 1) != 1)
		kedge_warn("the holder does not listen");
	close(HOLDER_FD_READY);
}

static int run(struct driver *d, struct kedge_err *err)
{
	while (!is_asked_to_end && getppid() == d->share->holder_pid) {
		tell_ready(d);
		if (d->m->phase == DM_PHASE_LIVE)
			live_step(d);
		else
			kattach_use_step(&d->use, now_ms());
		driver_look_at_orders(d);
		if (d->end_code) /* it could not hand out the clone */
			return kedge_err_set(err, d->end_code, KEDGE_SIDE_NONE, "%s", d->m->answer_text);
		uint64_t now = now_ms();
		unsigned ms = d->m->phase == DM_PHASE_HEAD_START ? HEAD_LOOK_MS : d->m->phase != DM_PHASE_LIVE ? ALONE_LOOK_MS : d->next_ms > now ? (unsigned)(d->next_ms - now) : 1;
		nap((unsigned)kedge_min_u64(ms, SLEEP_MAX_MS));
	}
	if (getppid() == d->share->holder_pid)
		return end_cleanly(d, err);
	end_orphaned(d);
	return 0;
}

int cmd_driver(const struct kclone_args *a)
{
	struct driver d = {.a = a, .win = {.fd = -1}, .dest_fd = -1};
	struct kedge_err err = {0};

	d.share = driver_begin(term_cb);
	if (!d.share)
		return KEDGE_EXIT_USAGE;
	d.m = &d.share->dm;
	if (start(&d, &err) < 0) {
		kedge_error("%s", err.msg);
		return kedge_exit_of(err.code) == KEDGE_EXIT_USAGE ? KEDGE_EXIT_FAILED : kedge_exit_of(err.code);
	}
	int r = run(&d, &err);
	if (r < 0)
		kedge_error("%s%s", is_asked_to_end ? "not stopping: " : "", err.msg);
	dm_windows_fini(&d.win);
	dm_record_close(&d.rec);
	kedge_close(d.dest_fd);
	return r == 0 ? KEDGE_EXIT_OK : d.end_code && kedge_exit_of(r) != KEDGE_EXIT_USAGE ? kedge_exit_of(r) : KEDGE_EXIT_FAILED;
}
