/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The story of drains, one line an event; GET /v1/events, which may wait for the next.
 *
 * Owns. Requests that wait.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. Events are recorded lazily: a power cut may take the last ones. Nothing is decided by them.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coord_int.h"
#include "kedge/log.h"
#include "kedge/size.h"

#define PAGE_EVENTS 200
#define WAIT_MAX_MS 30000

struct waiter {
	struct waiter *next;
	struct coord_service *s;
	struct http_request *req;
	uv_timer_t timer;
	uint64_t since;
	char drain[KEDGE_UUID_TEXT_MAX];
};

static bool answer(struct coord_service *s, struct http_request *req, uint64_t since, const char *drain, bool is_over)
{
	json_t *events = coord_store_events(s->store, since, drain[0] ? drain : NULL, PAGE_EVENTS);
	size_t nr = json_array_size(events);
	json_int_t last = nr ? json_integer_value(json_object_get(json_array_get(events, nr - 1), "seq")) : (json_int_t)since;

	if (nr == 0 && !is_over) {
		json_decref(events);
		return false;
	}
	http_respond(req, 200, json_pack("{s:i, s:o, s:I}", "v", 1, "events", events, "last", last));
	return true;
}

static void on_waiter_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void waiter_end(struct waiter *w)
{
	struct waiter **at = &w->s->waiters;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	uv_close((uv_handle_t *)&w->timer, on_waiter_closed);
}

static void on_wait_over(uv_timer_t *timer)
{
	struct waiter *w = timer->data;

	answer(w->s, w->req, w->since, w->drain, true);
	waiter_end(w);
}

static void wake(struct coord_service *s)
{
	struct waiter *next;

	for (struct waiter *w = s->waiters; w; w = next) {
		next = w->next;
		if (answer(s, w->req, w->since, w->drain, false))
			waiter_end(w);
	}
}

void event_add(struct coord_service *s, const struct kedge_uuid *drain, const struct coord_migration *m, const char *kind,
	       const char *fmt, ...)
{
	struct coord_event e = {.time_ms = coord_now_ms(), .volume = m ? m->volume : "", .kind = kind};
	struct kedge_err err = {0};
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	e.text = line;
	if (drain)
		e.drain = *drain;
	if (m)
		e.migration = m->id;
	kedge_info("%s%s%s", e.volume, e.volume[0] ? ": " : "", line);
	if (coord_store_add_event(s->store, &e, &err)) {
		kedge_warn("an event was not recorded: %s", err.msg);
		return;
	}
	s->last_seq = e.seq;
	wake(s);
}

static uint64_t query_number(const struct http_request *req, const char *key)
{
	const char *value = http_query(req, key);

	return value ? strtoull(value, NULL, 10) : 0;
}

void on_get_events(void *arg, struct http_request *req)
{
	struct coord_service *s = arg;
	const char *drain = http_query(req, "drain");
	uint64_t since = query_number(req, "since"), wait_ms = query_number(req, "wait_ms");
	struct kedge_err err = {0};
	struct waiter *w;

	if (drain && !drain_by_id(s, drain)) {
		kedge_err_set(&err, -ENOENT, KEDGE_SIDE_CONTROL, "there is no drain %s", drain);
		http_respond_err(req, &err, "kedge status");
		return;
	}
	if (answer(s, req, since, drain ? drain : "", wait_ms == 0))
		return;
	w = calloc(1, sizeof *w);
	kedge_assert(w);
	w->s = s;
	w->req = req;
	w->since = since;
	snprintf(w->drain, sizeof w->drain, "%s", drain ? drain : "");
	w->next = s->waiters;
	s->waiters = w;
	uv_timer_init(s->loop, &w->timer);
	w->timer.data = w;
	uv_timer_start(&w->timer, on_wait_over, wait_ms < WAIT_MAX_MS ? wait_ms : WAIT_MAX_MS, 0);
}

void events_fini(struct coord_service *s)
{
	while (s->waiters) {
		struct waiter *w = s->waiters;
		answer(s, w->req, w->since, w->drain, true);
		waiter_end(w);
	}
}

/* ---- the steps in words ---- */

static void describe(const struct coord_migration *m, char *out, size_t out_max)
{
	const char *what = m->workload[0] ? m->workload : m->volume;
	char a[32], b[32], holes[32], sums[32];
	uint64_t downtime_ms = 0;

	switch (m->step) {
	case COORD_CHECKED:
		snprintf(out, out_max, "moves from %s to %s, epoch %" PRIu64, m->from, m->to, m->epoch);
		break;
	case COORD_DEST_RESERVED:
		snprintf(out, out_max, "%s is reserved on %s, the clone is ready", kedge_size_format(m->size_bytes, a, sizeof a), m->to);
		break;
	case COORD_SRC_STOPPING:
		snprintf(out, out_max, "stopping %s on %s", what, m->from);
		break;
	case COORD_SRC_STOPPED:
		snprintf(out, out_max, "stopped on %s: the process is gone, nothing has the device open, all is flushed", m->from);
		break;
	case COORD_SRC_FENCED:
		snprintf(out, out_max, "fenced on %s", m->from);
		break;
	case COORD_EXPORTED:
		if (m->left_out_bytes)
			snprintf(out, out_max, "exported read-only at %s, without %s of free space", m->portal,
				 kedge_size_format(m->left_out_bytes, a, sizeof a));
		else
			snprintf(out, out_max, "exported read-only at %s", m->portal);
		break;
	case COORD_ATTACHED:
		snprintf(out, out_max, "attached on %s, identity verified", m->to);
		break;
	case COORD_BOOT_INTENT:
		snprintf(out, out_max, "the point of no return: from here on it goes forward to %s", m->to);
		break;
	case COORD_SRC_RELINQUISHED:
		snprintf(out, out_max, "%s has given it up for good", m->from);
		break;
	case COORD_DEST_RUNNING:
		if (coord_core_downtime(m, &downtime_ms))
			snprintf(out, out_max, "runs on %s, downtime %s", m->to, kedge_duration_format(downtime_ms, a, sizeof a));
		else
			snprintf(out, out_max, "is on %s, not started", m->to);
		break;
	case COORD_HYDRATED:
		snprintf(out, out_max, "hydrated: every block is on %s, durably", m->to);
		break;
	case COORD_DETACHED:
		if (!coord_core_is_told(m)) {
			snprintf(out, out_max, "verified against the source, 0 differ; how much in which way is not told: the clone has lost it; %s written since the boot; the source session is closed",
				 kedge_size_format(m->written_bytes, b, sizeof b));
			break;
		}
		kedge_size_format(m->checksum_bytes, sums, sizeof sums);
		kedge_size_format(m->hole_bytes, holes, sizeof holes);
		snprintf(out, out_max, "%s verified against the source%s%s%s, 0 differ%s%s%s; %s written since the boot; the source session is closed",
			 kedge_size_format(m->verified_bytes, a, sizeof a), m->checksum_bytes ? ", " : " byte by byte", m->checksum_bytes ? sums : "",
			 m->checksum_bytes ? " of it by 128-bit checksums made there" : "", m->hole_bytes ? ", " : "", m->hole_bytes ? holes : "",
			 m->hole_bytes ? " agreed as holes by status" : "", kedge_size_format(m->written_bytes, b, sizeof b));
		break;
	case COORD_UNEXPORTED:
		snprintf(out, out_max, "the export on %s is gone, its credentials are dropped", m->from);
		break;
	case COORD_RETAINED:
		if (m->hold_ms)
			snprintf(out, out_max, "stands alone on %s; the copy on %s is kept for %s", m->to, m->from,
				 kedge_duration_format(m->hold_ms, a, sizeof a));
		else
			snprintf(out, out_max, "stands alone on %s", m->to);
		break;
	case COORD_RELEASED:
		snprintf(out, out_max, m->is_released ? "the copy on %s is deleted" : "the copy on %s is kept, by policy", m->from);
		break;
	case COORD_DONE:
		snprintf(out, out_max, "done");
		break;
	case COORD_ABORTING:
		snprintf(out, out_max, "undoing the move: %s", m->reason);
		break;
	case COORD_REVOKED:
		snprintf(out, out_max, "revoked on %s: it was never started there and never will be in this epoch", m->to);
		break;
	case COORD_UNFENCING:
		snprintf(out, out_max, "%s does not answer; the volume goes back to %s first", m->to, m->from);
		break;
	case COORD_UNFENCED:
		snprintf(out, out_max, "given back to %s", m->from);
		break;
	case COORD_ABORTED:
		snprintf(out, out_max, "%s: stays on %s (%s)", m->is_failed ? "failed" : "aborted", m->from, m->reason);
		break;
	default:
		snprintf(out, out_max, "%s", coord_row_of(m->step)->text);
	}
}

void event_of_step(struct run *r)
{
	char line[480];

	describe(&r->f.m, line, sizeof line);
	event_add(r->s, &r->f.m.drain, &r->f.m, coord_row_of(r->f.m.step)->name, "%s", line);
}
