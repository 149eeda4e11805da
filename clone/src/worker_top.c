/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The end of a clone of the user engine under a dm-linear: once HYDRATED is durable, the driver is told to lead the device to the
 * destination. By the state and not by the command, so that the next worker goes on where one died.
 *
 * Owns. The order under way, in the holder's memory.
 *
 * Locks. None: one thread; the driver answers there.
 *
 * Crash. Nothing durable: a device that was not led there yet is led there at the next start.
 */
#include "worker.h"

#include <string.h>
#include <sys/file.h>

#include "dm_top.h"
#include "kedge/bytes.h"
#include "kedge/disk.h"
#include "kedge/log.h"

/* finish answers by then, whatever holds up the device: that the clone is HYDRATED does not depend on it */
#define ALONE_MS 5000
#define POLL_MS 5
#define LATE_POLL_MS 100

static enum dm_phase phase_of(const struct worker *w)
{
	return (enum dm_phase)__atomic_load_n(&w->share->dm.phase, __ATOMIC_ACQUIRE);
}

bool worker_is_alone(const struct worker *w)
{
	return w->share && w->share->is_top && phase_of(w) == DM_PHASE_ALONE;
}

static void answer(struct worker *w)
{
	void (*fn)(struct worker *w) = w->alone_fn;

	w->alone_fn = NULL;
	if (fn)
		fn(w);
}

/* Our claim goes, our lock stays: the next worker must not begin while a write of ours is on its way. False: not yet, what is in flight under
 * the old descriptor has that lock. */
static bool has_unclaimed(struct worker *w)
{
	if (!w->is_unclaimed) {
		int r = kedge_disk_unclaim(w->files.dest);
		if (r < 0)
			kedge_warn("the destination stays claimed by kclone: %s", kedge_err_text(r));
		w->is_unclaimed = true;
	}
	return flock(kedge_disk_fd(w->files.dest), LOCK_EX | LOCK_NB) == 0;
}

static void give_order(struct worker *w)
{
	struct dm_share *m = &w->share->dm;

	dm_top_failpoint("ordering");
	if (!has_unclaimed(w))
		return;
	w->is_alone_ordered = true;
	m->order = DM_ORDER_FINISH;
	__atomic_store_n(&m->order_nr, m->order_nr + 1, __ATOMIC_RELEASE);
}

static void poll_cb(struct kedge_timer *t)
{
	struct worker *w = kedge_container_of(t, struct worker, alone_timer);
	struct dm_share *m = &w->share->dm;
	bool is_late = kedge_clock_ns() > w->alone_deadline_ns;

	if (is_late)
		answer(w);
	if (phase_of(w) != DM_PHASE_LIVE && phase_of(w) != DM_PHASE_ALONE) { /* its driver is not there yet, or going */
		kedge_timer_start(w->loop, t, is_late ? LATE_POLL_MS : POLL_MS);
	} else if (!w->is_alone_ordered && phase_of(w) == DM_PHASE_LIVE) {
		give_order(w);
		kedge_timer_start(w->loop, t, POLL_MS);
	} else if (w->is_alone_ordered && __atomic_load_n(&m->answer_nr, __ATOMIC_ACQUIRE) != m->order_nr) {
		kedge_timer_start(w->loop, t, is_late ? LATE_POLL_MS : POLL_MS);
	} else {
		if (w->is_alone_ordered && m->answer_code)
			worker_event(w, "clone-not-alone", m->answer_text);
		else
			worker_event(w, "clone-alone", m->top_path);
		answer(w);
	}
}

void worker_stand_alone(struct worker *w, void (*fn)(struct worker *w))
{
	w->alone_fn = fn;
	if (!w->share || !w->share->is_top || worker_is_alone(w)) {
		answer(w);
		return;
	}
	w->alone_deadline_ns = kedge_clock_ns() + ALONE_MS * 1000000ull;
	w->alone_timer.fn = poll_cb;
	kedge_timer_start(w->loop, &w->alone_timer, 0);
}
