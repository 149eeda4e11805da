/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The status object of a clone that is being served (docs/formats.md, "Control socket").
 *
 * Owns. Nothing.
 *
 * Locks. None: one thread.
 */
#include "dm_governor.h"
#include "kattach.h"
#include "kedge/loopdev.h"
#include "worker.h"

#include <unistd.h>

static json_t *text_or_null(const char *t)
{
	return t && t[0] ? json_string(t) : json_null();
}

static const char *head_start_name(const struct dm_share *m)
{
	if (m->phase == DM_PHASE_HEAD_START)
		return m->is_head_begun ? "copying" : "waiting";
	if (m->phase == DM_PHASE_MARKING)
		return "marking";
	return m->is_head_begun ? "over" : "none";
}

static json_t *kernel_status(const struct dm_share *m)
{
	json_t *source = m->is_kernel_attach
				 ? json_pack("{s:s,s:s,s:o,s:s}", "attach", "kernel", "state", kattach_state_name((enum kattach_state)m->attach_state),
					     "disk", text_or_null(m->attach_disk), "error", m->attach_text)
				 : json_pack("{s:s}", "attach", "feed");

	return json_pack("{s:I,s:I,s:I,s:s,s:I,s:I,s:{s:s,s:I,s:I},s:{s:b,s:I,s:I,s:I},s:o}", "regions", (json_int_t)m->nr_regions, "hydrated", (json_int_t)m->nr_hydrated,
			 "hydrating", (json_int_t)m->nr_hydrating, "governor", gov_phase_name((enum gov_phase)m->gov_phase), "dose_bps",
			 (json_int_t)m->dose_bps, "foreground_percent", (json_int_t)m->speed_percent, "head_start", "state",
			 head_start_name(m), "copied_bytes", (json_int_t)m->head_bytes, "marked_bytes", (json_int_t)m->marked_bytes, "windows",
			 "on", (int)m->is_windows, "nr", (json_int_t)m->nr_windows, "bytes", (json_int_t)m->windows_bytes, "max_us",
			 (json_int_t)m->window_max_us, "source", source);
}

json_t *worker_status(struct worker *w)
{
	static const char *const verify_names[] = {"idle", "running", "passed", "failed"};
	struct kedge_source_status ss = {0};
	struct kcopy_status ks = {0};
	struct uclone_status us;
	uint64_t left, now = kedge_clock_ns();
	json_t *o;

	w->e->ops->status(w->e, &us);
	if (w->source)
		w->source->ops->status(w->source, &ss);
	if (w->hydrator)
		kcopy_hydrator_status(w->hydrator, &ks);
	bool is_kernel = w->e->ops->steer != NULL;
	bool is_copying = w->is_hydrating;
	uint64_t rate = is_copying ? ks.rate_bps_2min : 0;
	if (is_kernel && us.state == UCLONE_LIVE && !w->is_hydrated) {
		is_copying = w->is_hydrate_wanted && ss.state != KEDGE_SOURCE_STOPPED && w->source;
		ks.state = w->is_paused ? KCOPY_PAUSED : ss.state == KEDGE_SOURCE_UP ? KCOPY_RUNNING : KCOPY_DEGRADED;
		rate = is_copying ? (uint64_t)w->kernel_rate_bps : 0;
	}
	left = us.size_bytes - us.durable_bytes;
	o = status_json(w->e->stored, &us);
	json_object_set_new(o, "source",
			    json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:s}", "url", w->url, "state",
				      w->source ? kedge_source_state_name(ss.state) : us.state == UCLONE_HYDRATED ? "closed" : "stopped",
				      "since_ms", (json_int_t)(ss.since_ns ? (now - ss.since_ns) / 1000000 : 0), "sessions",
				      (json_int_t)ss.nr_sessions, "reconnects", (json_int_t)ss.nr_reconnects, "read_bytes",
				      (json_int_t)ss.read_bytes, "wire_bytes", (json_int_t)ss.wire_bytes, "damaged",
				      (json_int_t)ss.nr_damaged, "transit", kcopy_transit_mode_name(w->args->transit), "error",
				      ss.state == KEDGE_SOURCE_UP ? "" : ss.last_err.msg));
	const char *hstate = us.state == UCLONE_HYDRATED || (w->is_hydrated && !is_copying) ? "done"
			     : is_copying						       ? kcopy_state_name(ks.state)
											       : "idle";
	json_object_set_new(o, "hydration",
			    json_pack("{s:s,s:b,s:I,s:I,s:I,s:I,s:o}", "state", hstate, "urgent", w->is_urgent, "rate_bps",
				      (json_int_t)rate, "limit_bps", (json_int_t)w->rate_bps,
				      "copied_bytes", (json_int_t)(is_kernel ? us.here_bytes : w->copied_bytes + (w->is_comparing ? 0 : ks.copied_bytes)), "zero_bytes",
				      (json_int_t)(w->zero_bytes + (w->is_comparing ? 0 : ks.zero_bytes)), "eta_ms",
				      rate ? json_integer((json_int_t)((double)left * 1000.0 / (double)rate)) : json_null()));
	if (!is_kernel)
		json_object_set_new(json_object_get(o, "hydration"), "governor", worker_pace_status(w, is_copying && ks.state == KCOPY_RUNNING, ks.is_at_limit));
	json_object_set_new(o, "engine", json_string(w->e->ops->name));
	if (is_kernel)
		json_object_set_new(o, "kernel", kernel_status(&w->share->dm));
	json_t *verify = worker_compared_json(w->is_comparing && w->hydrator ? &ks : &w->compared);
	json_object_set_new(verify, "state", json_string(verify_names[w->is_verify_wanted ? VERIFY_RUNNING : w->verify]));
	json_object_set_new(verify, "error", json_string(w->verify_err.msg));
	json_object_set_new(o, "verify", verify);
	if (!is_kernel)
		json_object_set_new(o, "access", worker_access_status(w));
	json_object_set_new(o, "prefetch", worker_order_status(w));
	json_object_set_new(o, "trace", worker_record_status(w));
	bool is_top = w->share && w->share->is_top;
	const char *block = is_kernel || is_top ? w->share->dm.top_path
			    : w->share && w->share->loop_path[0] && kedge_loopdev_is_of(w->share->loop_path, w->share->fuse_path)
				    ? w->share->loop_path
				    : NULL;
	json_object_set_new(o, "device",
			    json_pack("{s:o,s:o,s:o,s:b}", "fuse", text_or_null(w->share ? w->share->fuse_path : NULL), "block",
				      text_or_null(block), "nbd", text_or_null(w->args->nbd), "alone",
				      is_kernel ? us.state == UCLONE_HYDRATED : worker_is_alone(w)));
	json_object_set_new(o, "workers", json_integer(w->share ? w->share->nr_workers : 1));
	json_object_set_new(o, "worker_pid", json_integer(getpid()));
	json_object_set_new(o, "holder_pid", json_integer(w->share ? w->share->holder_pid : 0));
	return o;
}
