/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What the worker orders of the driver (struct dm_share), carried out and answered.
 *
 * Owns. Nothing.
 *
 * Locks. META, held by the driver.
 *
 * Crash. An order that was not answered is carried out by the next driver: each may be repeated.
 */
#include <errno.h>
#include <stdio.h>

#include "driver.h"
#include "dm_finish.h"

#define FINISH_LOGOUT_MS 5000 /* whoever asked for the finish waits for it; the rest goes on behind */

static int order_finish(struct driver *d, struct kedge_err *err)
{
	dm_windows_fini(&d->win); /* what is left, if anything, is the governor's */
	int r = kattach_use_is_proven(&d->use, err);

	if (r == 0)
		r = dm_finish(&d->st, err);
	if (r < 0)
		return r;
	driver_set_phase(d, DM_PHASE_ALONE);
	kattach_use_end(&d->use, FINISH_LOGOUT_MS); /* it stands alone, whatever becomes of the session */
	return 0;
}

static int order_mark(struct driver *d, struct kedge_err *err)
{
	int r = d->m->phase == DM_PHASE_HEAD_START ? driver_go_live(d, err) : 0;

	if (r < 0)
		d->end_code = r;
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
	driver_set_phase(d, DM_PHASE_ABORTED);
	return dm_stack_stop_serving(&d->st, err);
}

static int carry_out_order(struct driver *d, enum dm_order o, struct kedge_err *err)
{
	struct dm_clone_status s;
	enum dm_phase phase = (enum dm_phase)d->m->phase;

	if (o == DM_ORDER_MARK)
		return order_mark(d, err);
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

void driver_look_at_orders(struct driver *d)
{
	uint64_t nr = __atomic_load_n(&d->m->order_nr, __ATOMIC_ACQUIRE);
	struct kedge_err err = {0};

	if (nr == d->m->answer_nr)
		return;
	d->m->answer_code = carry_out_order(d, (enum dm_order)d->m->order, &err);
	snprintf(d->m->answer_text, sizeof d->m->answer_text, "%s", err.msg);
	__atomic_store_n(&d->m->answer_nr, nr, __ATOMIC_RELEASE);
}
