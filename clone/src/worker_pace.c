/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What an operator may say of hydration's pace: ceiling, floor, how much slower the workload may become; and what the governor is shown of
 * the workload.
 *
 * Owns. The governor, which outlives hydrators, and the timer that finds out how late the loop looks.
 *
 * Locks. None: one thread.
 */
#include "worker.h"

#include <errno.h>
#include <sys/prctl.h>

#include "kedge/bytes.h"

#define LAG_MS 2 /* a moment at which an I/O might have come */

_Static_assert((int)UCLONE_IO_READ == KCOPY_IO_READ && (int)UCLONE_IO_READ_SOURCE == KCOPY_IO_READ_SOURCE &&
		       (int)UCLONE_IO_CHANGE == KCOPY_IO_CHANGE && (int)UCLONE_IO_FLUSH == KCOPY_IO_FLUSH && (int)UCLONE_NR_IO_KINDS == KCOPY_NR_IO_KINDS,
	       "the same kinds");

/* Is there something to govern, now or when hydration begins? */
static bool is_governing(const struct worker *w)
{
	return !w->is_hydrated || w->verify == VERIFY_RUNNING;
}

static void lag_cb(struct kedge_timer *t)
{
	struct worker *w = kedge_container_of(t, struct worker, lag);
	uint64_t now_ns = kedge_clock_ns();

	kcopy_governor_lag(w->governor, now_ns - t->due_ns, now_ns);
	if (is_governing(w) && kcopy_governor_has_workload(w->governor, now_ns))
		kedge_timer_start(w->loop, t, LAG_MS);
}

void worker_pace_io(void *arg, enum uclone_io_kind kind, uint64_t took_ns)
{
	struct worker *w = arg;

	if (!is_governing(w))
		return;
	kcopy_governor_io(w->governor, (enum kcopy_io_kind)kind, took_ns, kedge_clock_ns());
	if (!kedge_timer_is_armed(&w->lag))
		kedge_timer_start(w->loop, &w->lag, LAG_MS);
}

static uint32_t governed_percent(const struct worker *w)
{
	return w->is_urgent ? 0 : w->latency_percent; /* what lives on a dying source only is worth more */
}

int worker_pace_init(struct worker *w, struct kedge_err *err)
{
	const struct kclone_args *a = w->args;

	w->rate_bps = a->rate_bps;
	w->floor_bps = a->has_floor ? a->floor_bps : KCOPY_FLOOR_BPS_DEFAULT;
	w->is_floor_given = a->has_floor;
	w->latency_percent = a->has_latency ? a->latency_percent : KCOPY_LATENCY_PERCENT_DEFAULT;
	w->is_latency_given = a->has_latency;
	w->lag.fn = lag_cb;
	prctl(PR_SET_TIMERSLACK, 1000); /* else a lag is mostly that */
	w->governor = kcopy_governor_create(w->latency_percent, w->floor_bps, kedge_clock_ns());
	return w->governor ? 0 : kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for a governor");
}

struct engine_pace worker_pace(const struct worker *w)
{
	uint32_t percent = governed_percent(w);

	return (struct engine_pace){
		.limit_bps = worker_rate(w),
		.floor_bps = w->floor_bps,
		.is_floor_given = w->is_floor_given,
		.latency_percent = percent,
		.is_latency_given = w->is_latency_given || percent == 0,
	};
}

void worker_pace_changed(struct worker *w)
{
	kcopy_governor_set(w->governor, governed_percent(w), w->floor_bps, kedge_clock_ns());
	if (w->hydrator)
		kcopy_hydrator_set_rate(w->hydrator, worker_rate(w)); /* which looks for work */
}

/* An argument that may be missing. */
static int take(const json_t *args, const char *key, int64_t *ret, bool *ret_is_given, struct kedge_err *err)
{
	const json_t *v = json_object_get(args, key);

	*ret_is_given = v != NULL;
	if (v && (!json_is_integer(v) || json_integer_value(v) < 0))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "%s: expected a whole number, 0 or more", key);
	*ret = v ? json_integer_value(v) : 0;
	return 0;
}

int worker_set(struct worker *w, const json_t *args, struct kedge_err *err)
{
	int64_t bps, floor, percent;
	bool has_bps, has_floor, has_percent;
	int r = take(args, "bps", &bps, &has_bps, err);

	if (r == 0)
		r = take(args, "floor_bps", &floor, &has_floor, err);
	if (r == 0)
		r = take(args, "latency_percent", &percent, &has_percent, err);
	if (r == 0 && has_percent && percent != 0 && (percent < KCOPY_LATENCY_PERCENT_MIN || percent > KCOPY_LATENCY_PERCENT_MAX))
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "latency_percent: expected %u to %u, or 0", KCOPY_LATENCY_PERCENT_MIN,
				  KCOPY_LATENCY_PERCENT_MAX);
	if (r == 0 && !has_bps && !has_floor && !has_percent)
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "set needs bps, floor_bps or latency_percent");
	if (r < 0)
		return r;
	w->is_urgent_off |= w->is_urgent;
	w->is_urgent = false;
	if (has_bps)
		w->rate_bps = (uint64_t)bps;
	if (has_floor)
		w->floor_bps = (uint64_t)floor;
	w->is_floor_given |= has_floor;
	if (has_percent)
		w->latency_percent = (uint32_t)percent;
	w->is_latency_given |= has_percent;
	worker_pace_changed(w);
	return 0;
}

json_t *worker_pace_status(const struct worker *w, bool is_copying, bool is_at_limit)
{
	struct kcopy_governor_status s;

	kcopy_governor_status(w->governor, kedge_clock_ns(), &s);
	return json_pack("{s:I,s:I,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "latency_percent", (json_int_t)w->latency_percent, "floor_bps",
			 (json_int_t)w->floor_bps, "bound", !is_copying ? "none" : is_at_limit ? "ceiling" : kcopy_bound_name(s.bound), "baseline_us",
			 (json_int_t)(s.baseline_ns / 1000), "allowed_us", (json_int_t)(s.limit_ns / 1000), "latency_us",
			 (json_int_t)(s.latency_ns / 1000), "copies", (json_int_t)s.nr_copies, "copy_bytes", (json_int_t)s.copy_bytes, "ios",
			 (json_int_t)s.nr_ios, "late_ios", (json_int_t)s.nr_late);
}
