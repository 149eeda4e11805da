/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The driver of a kernel clone: a process beside the worker that makes the kernel's devices, governs hydration, watches for
 * what goes wrong, and carries out what the worker orders. It may sleep in the kernel on I/O that the worker serves.
 *
 * Owns. META and META.seen (their lock too) and the kernel's devices while it runs.
 *
 * Locks. META.
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

#include "dm_governor.h"
#include "dm_stack.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"

#define LOCK_MS 15000
#define RECORD_MS 1000
#define ALONE_LOOK_MS 50
#define SLEEP_MAX_MS 50 /* an order waits no longer */

struct driver {
	struct holder_share *share;
	struct dm_share *m;
	struct dm_record rec;
	struct dm_stack st;
	struct governor g;
	uint64_t recorded_ms, next_ms;
	uint32_t pause_ms; /* of the last dose */
	uint64_t hydrated_before; /* by the status before */
	enum gov_phase phase_told;
	bool is_free;
};

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

static void set_phase(struct driver *d, enum dm_phase p)
{
	__atomic_store_n(&d->m->phase, p, __ATOMIC_RELEASE);
}

/* ---- begin ---- */

static int start_live(struct driver *d, struct kedge_err *err)
{
	struct uc_super *s = &d->rec.super;
	int r = dm_stack_open(&d->st, &d->rec, d->share->loop_path, err);

	if (r < 0)
		return r;
	/* not closed cleanly: whether the workload wrote is not known, so it did */
	if (s->state == UCLONE_LIVE && !s->is_clean)
		s->dm_was_written = true;
	s->state = UCLONE_LIVE;
	s->has_started = true;
	s->is_clean = false;
	s->open_count++;
	r = dm_record_write(&d->rec, err);
	d->m->was_written = s->dm_was_written;
	set_phase(d, DM_PHASE_LIVE);
	return r;
}

static int start(struct driver *d, const char *meta, struct kedge_err *err)
{
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
	if (d->rec.super.state == UCLONE_HYDRATED) {
		r = dm_stack_open_alone(&d->st, &d->rec, err);
		if (r == 0)
			set_phase(d, DM_PHASE_ALONE);
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
	set_phase(d, DM_PHASE_FAILED);
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

static void live_step(struct driver *d)
{
	struct dm_clone_status s = {0};
	struct gov_view v = {.now_ms = now_ms()};
	struct gov_order o;
	struct dm_ios ios;
	struct kedge_err err = {0};
	uint64_t limit = __atomic_load_n(&d->m->limit_bps, __ATOMIC_ACQUIRE);

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
	if (v.now_ms < d->next_ms)
		return;
	v.nr_ios = ios.nr_reads + ios.nr_writes;
	v.busy_ms = ios.busy_ms;
	v.pause_ms = d->pause_ms;
	v.nr_hydrated = s.nr_hydrated;
	v.nr_regions = s.nr_regions;
	v.nr_hydrating = s.nr_hydrating;
	v.is_wanted = __atomic_load_n(&d->m->is_wanted, __ATOMIC_ACQUIRE);
	if (limit != d->g.o.limit_bps) {
		gov_set_limit(&d->g, limit);
		d->is_free = false;
	}
	gov_step(&d->g, &v, &o);
	d->m->gov_phase = d->g.phase;
	d->m->dose_bps = d->g.phase == GOV_PHASE_DOSES ? d->g.dose_bps : 0;
	d->m->speed_percent = (uint32_t)(d->g.last_share * 100);
	tell_phase(d, s.nr_hydrated);
	if (carry_out(d, &o, &err) < 0)
		kedge_warn("%s", err.msg); /* a clone that failed says so at the next look */
	d->next_ms = now_ms() + o.sleep_ms;
}

/* ---- orders ---- */

static int order_finish(struct driver *d, struct kedge_err *err)
{
	int r = dm_stack_prove(&d->st, err);

	if (r < 0)
		return r;
	d->rec.super.state = UCLONE_HYDRATED;
	d->rec.super.dm_nr_seen = d->m->nr_regions;
	d->rec.super.is_clean = true;
	r = dm_record_write(&d->rec, err);
	if (r == 0)
		r = dm_stack_stand_alone(&d->st, err);
	if (r == 0)
		set_phase(d, DM_PHASE_ALONE);
	return r;
}

static int order_abort(struct driver *d, struct kedge_err *err)
{
	struct dmdev_info i;
	int r = dmdev_info(d->st.top, &i, err);

	if (r == 0 && i.nr_open)
		r = kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "/dev/mapper/%s is open: close it first", d->st.top);
	if (r == 0)
		r = dmdev_suspend(d->st.top, DMDEV_SKIP_LOCKFS, err); /* what is on its way is counted */
	if (r < 0)
		return r;
	if (d->rec.super.dm_was_written || dm_stack_has_writes(&d->st)) {
		dmdev_resume(d->st.top, NULL);
		return kedge_err_set(err, KEDGE_E_WRITTEN, KEDGE_SIDE_DESTINATION, "the workload has written: an abort would lose it");
	}
	d->rec.super.state = UCLONE_ABORTED;
	r = dm_record_write(&d->rec, err);
	if (r < 0) {
		dmdev_resume(d->st.top, NULL);
		return r;
	}
	set_phase(d, DM_PHASE_ABORTED);
	return dm_stack_stop_serving(&d->st, err);
}

static int carry_out_order(struct driver *d, enum dm_order o, struct kedge_err *err)
{
	struct dm_clone_status s;
	enum dm_phase phase = (enum dm_phase)d->m->phase;

	if (phase == DM_PHASE_ALONE && (o == DM_ORDER_COMMIT || o == DM_ORDER_FINISH))
		return 0;
	if (phase != DM_PHASE_LIVE)
		return kedge_err_set(err, phase == DM_PHASE_FAILED ? KEDGE_E_FAILED : KEDGE_E_STATE, KEDGE_SIDE_NONE,
				     "not possible: the clone %s", phase == DM_PHASE_FAILED ? "has failed" : "is not live");
	if (o == DM_ORDER_FINISH)
		return order_finish(d, err);
	if (o == DM_ORDER_ABORT)
		return order_abort(d, err);
	int r = dm_stack_status(&d->st, true, &s, err);
	if (r == 0 && s.mode != DM_MODE_RW)
		r = kedge_err_set(err, KEDGE_E_FAILED, KEDGE_SIDE_METADATA, "the clone has failed");
	return r;
}

static void look_at_orders(struct driver *d)
{
	uint64_t nr = __atomic_load_n(&d->m->order_nr, __ATOMIC_ACQUIRE);
	struct kedge_err err = {0};

	if (nr == d->m->answer_nr)
		return;
	d->m->answer_code = carry_out_order(d, (enum dm_order)d->m->order, &err);
	snprintf(d->m->answer_text, sizeof d->m->answer_text, "%s", err.msg);
	__atomic_store_n(&d->m->answer_nr, nr, __ATOMIC_RELEASE);
}

/* ---- end ---- */

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
	if (r == 0)
		r = dm_stack_remove(&o->migration, d->rec.meta, o->dest_path, err);
	if (r < 0)
		return r;
	set_phase(d, DM_PHASE_NONE);
	if (!is_live)
		return 0;
	d->rec.super.is_clean = true;
	return dm_record_write(&d->rec, err);
}

/* The holder died, and with it the feed: what the workload reads waits for the next one. */
static void end_orphaned(struct driver *d)
{
	struct kedge_err err = {0};

	if (d->m->phase == DM_PHASE_LIVE && dm_stack_hold_source(&d->st, &err) < 0)
		kedge_warn("%s", err.msg);
}

static void nap(unsigned ms)
{
	const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&t, NULL);
}

static int run(struct driver *d, struct kedge_err *err)
{
	while (!is_asked_to_end && getppid() == d->share->holder_pid) {
		if (d->m->phase == DM_PHASE_LIVE)
			live_step(d);
		look_at_orders(d);
		uint64_t now = now_ms();
		unsigned ms = d->m->phase != DM_PHASE_LIVE ? ALONE_LOOK_MS : d->next_ms > now ? (unsigned)(d->next_ms - now) : 1;
		nap((unsigned)kedge_min_u64(ms, SLEEP_MAX_MS));
	}
	if (getppid() == d->share->holder_pid)
		return end_cleanly(d, err);
	end_orphaned(d);
	return 0;
}

int cmd_driver(const struct kclone_args *a)
{
	struct driver d = {0};
	struct kedge_err err = {0};
	struct sigaction sa = {.sa_handler = term_cb};

	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_NAME, "kclone-driver");
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, HOLDER_FD_SHARE, 0);
	if (p == MAP_FAILED) {
		kedge_error("kclone driver is started by kclone serve");
		return KEDGE_EXIT_USAGE;
	}
	d.share = p;
	d.m = &d.share->dm;
	if (start(&d, a->meta, &err) < 0) {
		kedge_error("%s", err.msg);
		return kedge_exit_of(err.code) == KEDGE_EXIT_USAGE ? KEDGE_EXIT_FAILED : kedge_exit_of(err.code);
	}
	if (fcntl(HOLDER_FD_READY, F_GETFD) >= 0) {
		if (write(HOLDER_FD_READY, "r", 1) != 1)
			kedge_warn("the holder does not listen");
		close(HOLDER_FD_READY);
	}
	int r = run(&d, &err);
	if (r < 0)
		kedge_error("not stopping: %s", err.msg);
	dm_record_close(&d.rec);
	return r < 0 ? KEDGE_EXIT_FAILED : KEDGE_EXIT_OK;
}
