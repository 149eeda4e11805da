/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Hydration and the final comparison of a worker: when they begin, what comes of them.
 *
 * Owns. The hydrator, one at a time: it copies, then it compares.
 *
 * Locks. None: one thread.
 */
#include "worker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/log.h"

#define RETRY_MS 2000

/* The hydrator goes, its figures stay. */
void worker_retire_hydrator(struct worker *w)
{
	struct kcopy_status ks = {0};

	if (!w->hydrator)
		return;
	kcopy_hydrator_status(w->hydrator, &ks);
	if (w->is_comparing) {
		w->compared = ks;
	} else {
		w->copied_bytes += ks.copied_bytes;
		w->zero_bytes += ks.zero_bytes;
	}
	kcopy_hydrator_destroy(w->hydrator);
	w->hydrator = NULL;
}

static void commit_cb(void *arg, int res, const struct kedge_err *err)
{
	if (res < 0)
		kedge_error("commit: %s", err->msg);
}

static void hydrated_cb(void *arg, int res, const struct kedge_err *err)
{
	struct worker *w = arg;
	struct uclone_status s;

	w->is_hydrating = false;
	w->e->ops->status(w->e, &s);
	if (res == 0 || (res == -ECANCELED && w->is_verify_wanted)) {
		w->is_hydrated = s.here_bytes == s.size_bytes;
		kedge_info(w->is_hydrated ? "every block is here" : "hydration ended, %llu bytes could not be read from the source",
			   (unsigned long long)(s.size_bytes - s.here_bytes));
		w->e->ops->commit(w->e, commit_cb, w);
	} else if (res != -ECANCELED && !w->is_stopping) {
		kedge_warn("hydration: %s; trying again", err ? err->msg : kedge_err_text(res));
		if (s.state == UCLONE_LIVE)
			kedge_timer_start(w->loop, &w->retry, RETRY_MS);
	}
}

void worker_retry_cb(struct kedge_timer *t)
{
	worker_hydrate(kedge_container_of(t, struct worker, retry));
}

uint64_t worker_rate(const struct worker *w)
{
	return w->is_urgent ? 0 : w->rate_bps;
}

void worker_make_urgent(struct worker *w, const char *why)
{
	char text[160];

	if (w->is_urgent || w->is_urgent_off || (w->rate_bps == 0 && w->latency_percent == 0) || w->is_hydrated)
		return;
	w->is_urgent = true;
	worker_pace_changed(w);
	if (w->rate_bps)
		snprintf(text, sizeof text, "%s: the limit of %llu bytes a second is lifted", why, (unsigned long long)w->rate_bps);
	else
		snprintf(text, sizeof text, "%s: hydration goes before the workload", why);
	worker_event(w, "hydration-urgent", text);
}

static void hydrator_event(void *arg, const char *name, const char *text)
{
	/* said by the engine, the first of them; META.bad has them all */
	if (strcmp(name, "SOURCE_BAD_RANGE") != 0)
		worker_event(arg, name, text);
}

void worker_hydrate(struct worker *w)
{
	struct kcopy_hydrator_opts o = {.rate_bps = worker_rate(w), .event_fn = hydrator_event, .governor = w->governor};
	struct uclone_status s;
	struct kedge_err err = {0};

	o.first = w->e->first;
	o.nr_first = w->e->nr_first;
	w->e->ops->status(w->e, &s);
	if (w->e->ops->steer)
		return; /* by itself, told at each tick */
	if (w->is_hydrating || w->is_stopping || s.state != UCLONE_LIVE || !w->source || w->is_source_closing ||
	    w->verify == VERIFY_RUNNING || w->is_finishing)
		return;
	worker_retire_hydrator(w);
	if (kcopy_hydrator_create(w->loop, w->source, w->e->ops->claims(w->e), &o, &w->hydrator, &err) < 0) {
		kedge_error("cannot hydrate: %s", err.msg);
		kedge_timer_start(w->loop, &w->retry, RETRY_MS);
		return;
	}
	w->is_hydrating = true;
	w->is_comparing = false;
	kcopy_hydrator_start(w->hydrator, hydrated_cb, w);
	if (w->is_paused)
		kcopy_hydrator_pause(w->hydrator);
}

void worker_steer(struct worker *w)
{
	struct kedge_source_status ss = {0};
	struct engine_pace pace = worker_pace(w);
	struct uclone_status s;
	uint64_t now = kedge_clock_ns();

	if (!w->e->ops->steer)
		return;
	w->e->ops->status(w->e, &s);
	if (w->source)
		w->source->ops->status(w->source, &ss);
	w->e->ops->steer(w->e, w->is_hydrate_wanted && !w->is_paused && s.state == UCLONE_LIVE && ss.state == KEDGE_SOURCE_UP, &pace);
	if (w->kernel_tick_ns && now > w->kernel_tick_ns && s.here_bytes >= w->kernel_here_bytes) {
		double bps = (double)(s.here_bytes - w->kernel_here_bytes) * 1e9 / (double)(now - w->kernel_tick_ns);
		w->kernel_rate_bps += (bps - w->kernel_rate_bps) * 0.05;
	}
	w->kernel_tick_ns = now;
	w->kernel_here_bytes = s.here_bytes;
	if (!w->is_hydrated && s.here_bytes == s.size_bytes) {
		w->is_hydrated = true;
		kedge_info("every block is here");
	}
}

static void verified_cb(void *arg, int res, const struct kedge_err *err)
{
	struct worker *w = arg;

	w->verify = res == 0 ? VERIFY_PASSED : res == -ECANCELED ? VERIFY_IDLE : VERIFY_FAILED;
	if (err)
		w->verify_err = *err;
	kcopy_hydrator_status(w->hydrator, &w->compared);
	if (w->verify == VERIFY_PASSED && !worker_is_compared(w)) {
		/* More was asked for meanwhile: once more, by the tick. That one reads everything, so no other follows. */
		w->verify = VERIFY_IDLE;
		w->is_verify_wanted = !w->is_stopping;
	}
	/* without its figures nobody could say later what HYDRATED rests on */
	if (w->verify == VERIFY_PASSED && worker_compared_keep(w, &w->verify_err) < 0)
		w->verify = VERIFY_FAILED;
	if (w->verify == VERIFY_FAILED)
		kedge_error("verification: %s", w->verify_err.msg);
}

bool worker_is_compared(const struct worker *w)
{
	return w->verify == VERIFY_PASSED && (w->holes != KCOPY_HOLES_READ || w->compared.holes == KCOPY_HOLES_READ) &&
	       (w->data != KCOPY_DATA_BYTES || w->compared.data == KCOPY_DATA_BYTES ||
		w->compared.checksum_bytes == 0 /* the source makes none: it was by bytes */);
}

int worker_verify(struct worker *w, struct kedge_err *err)
{
	struct kcopy_hydrator_opts o = {.rate_bps = worker_rate(w), .is_verify = true, .holes = w->holes, .data = w->data,
					.event_fn = worker_event, .governor = w->governor};
	struct uclone_status s;

	w->e->ops->status(w->e, &s);
	if (w->verify == VERIFY_RUNNING || worker_is_compared(w))
		return 0;
	if (w->is_finishing) /* by the comparison that has passed; the hydrator and the source go at its end */
		return kedge_err_set(err, -EBUSY, KEDGE_SIDE_CONTROL, "finish is under way");
	if (s.state != UCLONE_LIVE || !w->source || w->is_source_closing)
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL, "there is no source to compare with");
	if (s.here_bytes != s.size_bytes)
		return kedge_err_set(err, KEDGE_E_NOT_HYDRATED, KEDGE_SIDE_CONTROL, "%llu bytes are not here yet",
				     (unsigned long long)(s.size_bytes - s.here_bytes));
	if (w->is_hydrating) {
		/* Nothing is left to copy, but the hydrator is paused, or waits for its rate: the tick goes on when it has ended. */
		w->is_verify_wanted = true;
		kcopy_hydrator_stop(w->hydrator);
		return 0;
	}
	w->is_verify_wanted = false;
	worker_retire_hydrator(w);
	int r = kcopy_hydrator_create(w->loop, w->source, w->e->ops->claims(w->e), &o, &w->hydrator, err);
	if (r < 0)
		return r;
	w->is_comparing = true;
	w->verify = VERIFY_RUNNING;
	w->verify_err = (struct kedge_err){0};
	kcopy_verify_start(w->hydrator, verified_cb, w);
	return 0;
}

int worker_ask_verify(struct worker *w, const json_t *args, struct kedge_err *err)
{
	const json_t *holes = json_object_get(args, "holes"), *data = json_object_get(args, "data");
	enum kcopy_holes wanted = KCOPY_HOLES_READ; /* who knows of no choice means everything */
	enum kcopy_data wanted_data = KCOPY_DATA_BYTES;
	const enum kcopy_holes holes_before = w->holes;
	const enum kcopy_data data_before = w->data;
	bool is_first = w->verify != VERIFY_RUNNING && !w->is_verify_wanted;

	if (holes && (!json_is_string(holes) || !kcopy_holes_parse(json_string_value(holes), &wanted)))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "holes: expected status or read");
	if (data && (!json_is_string(data) || !kcopy_data_parse(json_string_value(data), &wanted_data)))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "data: expected checksum or bytes");
	/* of two who wait for the same comparison the one who wants more gets it, also when it has begun (verified_cb) */
	if (wanted == KCOPY_HOLES_READ || is_first)
		w->holes = wanted;
	if (wanted_data == KCOPY_DATA_BYTES || is_first)
		w->data = wanted_data;
	int r = worker_verify(w, err);
	if (r < 0) { /* nobody waits for it: what has passed is enough, as status says */
		w->holes = holes_before;
		w->data = data_before;
	}
	return r;
}

void worker_set_paused(struct worker *w, bool is_paused)
{
	w->is_paused = is_paused;
	if (w->hydrator && is_paused)
		kcopy_hydrator_pause(w->hydrator);
	else if (w->hydrator)
		kcopy_hydrator_resume(w->hydrator);
}
