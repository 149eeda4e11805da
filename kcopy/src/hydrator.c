/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Moves blocks from a source into claims: the copies in flight, the rate limit, pause and stop, what follows an error.
 *
 * Owns. A pool of copies with their buffers for the length of a run, two timers. The claims and the source belong to others.
 *
 * Locks. None: loop thread only. Everything that looks for work goes through one deferred call, so that no callback of the
 * user's runs inside a call of the user's.
 */
#include "hydrator.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "kedge/bytes.h"
#include "kedge/disk.h"
#include "kedge/name.h"

#define TICK_FIRST_MS 20
#define TICK_MS 250
#define TICK_AWAY_MS 500

const char *kcopy_state_name(enum kcopy_state s)
{
	static const char *const names[] = { "idle", "running", "paused", "degraded", "done", "failed" };

	return (unsigned)s < KEDGE_ARRAY_LEN(names) ? names[s] : "?";
}

static const char *const holes_names[] = { [KCOPY_HOLES_BY_STATUS] = "status", [KCOPY_HOLES_READ] = "read" };

const char *kcopy_holes_name(enum kcopy_holes holes)
{
	return (unsigned)holes < KEDGE_ARRAY_LEN(holes_names) ? holes_names[holes] : "?";
}

bool kcopy_holes_parse(const char *text, enum kcopy_holes *ret_holes)
{
	int i = kedge_word_find(holes_names, KEDGE_ARRAY_LEN(holes_names), text);

	if (i < 0)
		return false;
	*ret_holes = (enum kcopy_holes)i;
	return true;
}

void kcopy_hydrator_event(struct kcopy_hydrator *h, const char *name, const char *text)
{
	if (h->event_fn)
		h->event_fn(h->event_arg, name, text);
}

void kcopy_hydrator_pump(struct kcopy_hydrator *h)
{
	if (h->is_running && !h->pump.is_queued)
		kedge_loop_defer(h->loop, &h->pump);
}

static void cancel_reads(struct kcopy_hydrator *h)
{
	for (uint32_t i = 0; h->copies && i < h->nr_copies; i++)
		if (h->copies[i].is_reading)
			h->src->ops->cancel(h->src, &h->copies[i].io);
	if (h->is_asking)
		h->src->ops->cancel(h->src, &h->extents_io);
}

void kcopy_hydrator_fail(struct kcopy_hydrator *h, int code, const struct kedge_err *err, const char *what)
{
	if (h->fail_code != 0)
		return;
	h->fail_code = code;
	h->err = (struct kedge_err){ 0 };
	if (err && err->code != 0)
		h->err = *err;
	else
		kedge_err_set(&h->err, code, KEDGE_SIDE_NONE, "%s", kedge_err_text(code));
	kedge_err_prefix(&h->err, "%s", what);
	h->last_err = h->err;
	cancel_reads(h);
	kcopy_hydrator_pump(h);
}

/* ---- one copy ---- */

static struct kcopy_copy *idle_copy(struct kcopy_hydrator *h)
{
	for (uint32_t i = 0; i < h->nr_copies; i++)
		if (!h->copies[i].is_busy)
			return &h->copies[i];
	return NULL;
}

void kcopy_copy_ask(struct kcopy_copy *c, void (*ask)(struct kedge_source *src, struct kedge_source_io *io), kedge_source_fn fn)
{
	struct kcopy_hydrator *h = c->h;

	kcopy_bucket_take(&h->bucket, c->nr_bytes);
	h->issued_bytes += c->nr_bytes;
	c->is_reading = true;
	c->io = (struct kedge_source_io){
		.start_bytes = c->start_bytes,
		.nr_bytes = c->nr_bytes,
		.buf = c->buf,
		.prio = KEDGE_PRIO_BACKGROUND,
		.fn = fn,
		.arg = c,
	};
	ask(h->src, &c->io);
}

static void put_copy(struct kcopy_copy *c)
{
	c->is_busy = false;
	c->claim = NULL;
	c->h->nr_busy--;
	kcopy_copy_ended(c);
	kcopy_hydrator_pump(c->h);
}

static void pause_for(struct kcopy_hydrator *h, int code)
{
	if (h->is_paused)
		return;
	h->is_paused = true;
	h->last_err = (struct kedge_err){ 0 };
	kedge_err_set(&h->last_err, code, KEDGE_SIDE_DESTINATION, "the destination is full: hydration is paused until it is resumed");
	kcopy_hydrator_event(h, "HYDRATION_PAUSED", h->last_err.msg);
}

static void filled_cb(void *arg, int res)
{
	struct kcopy_copy *c = arg;
	struct kcopy_hydrator *h = c->h;

	if (res == 0) {
		if (c->begin_ns)
			kcopy_plan_hole_filled(h, c->nr_bytes, kedge_clock_ns() - c->begin_ns);
		h->copied_bytes += c->nr_bytes - c->zero_bytes;
		h->zero_bytes += c->zero_bytes;
		h->has_progress = true;
		kcopy_meter_add(&h->meter, c->nr_bytes - c->zero_bytes, kedge_loop_now_ns(h->loop));
	} else if (res == -ENOSPC || res == -EDQUOT) {
		pause_for(h, res);
	} else if (res != -ECANCELED) {
		kcopy_hydrator_fail(h, res, NULL, "writing a copy");
	}
	put_copy(c);
}

static void read_cb(struct kedge_source_io *io, int res)
{
	struct kcopy_copy *c = io->arg;
	struct kcopy_hydrator *h = c->h;
	struct kedge_claim *claim = c->claim;

	c->is_reading = false;
	h->issued_bytes -= c->nr_bytes;
	if (res == 0) {
		uint32_t nr_segs = kcopy_segments(c->buf, c->nr_bytes, c->segs, &c->zero_bytes);
		bool is_all_zero = c->zero_bytes == c->nr_bytes;
		h->claims->ops->fill(h->claims, claim, is_all_zero ? NULL : c->buf, c->segs, nr_segs, filled_cb, c);
		return;
	}
	if (res != -ECANCELED) {
		h->last_err = io->err;
		if (h->last_err.code == 0)
			kedge_err_set(&h->last_err, res, KEDGE_SIDE_SOURCE, "%s", kedge_err_text(res));
	}
	if (res == KEDGE_E_SOURCE_MEDIUM) {
		kcopy_plan_medium_error(h, claim);
	} else {
		h->claims->ops->drop(h->claims, claim, 0);
		if (res != -ECANCELED && kedge_err_class_of(res) != KEDGE_CLASS_TRANSIENT)
			kcopy_hydrator_fail(h, res, &io->err, "reading the source");
	}
	put_copy(c);
}

static void begin_copy(struct kcopy_hydrator *h, struct kcopy_copy *c, struct kedge_claim *claim, bool is_hole)
{
	c->is_busy = true;
	h->nr_busy++;
	c->claim = claim;
	c->start_bytes = claim->start_bytes;
	c->nr_bytes = claim->nr_bytes;
	c->begin_ns = is_hole ? kedge_clock_ns() : 0;
	kcopy_copy_begun(c, is_hole ? 0 : c->nr_bytes); /* a hole costs next to nothing */
	if (is_hole) {
		c->zero_bytes = c->nr_bytes;
		c->segs[0] = (struct kedge_seg){ .nr_bytes = c->nr_bytes, .is_zero = true };
		h->claims->ops->fill(h->claims, claim, NULL, c->segs, 1, filled_cb, c);
		return;
	}
	kcopy_copy_ask(c, h->src->ops->read, read_cb);
}

/* ---- the run ---- */

static void free_copies(struct kcopy_hydrator *h)
{
	for (uint32_t i = 0; h->copies && i < h->nr_copies; i++) {
		kedge_buf_free(h->copies[i].buf);
		kedge_buf_free(h->copies[i].own_buf);
		free(h->copies[i].segs);
	}
	free(h->copies);
	h->copies = NULL;
}

static int make_copies(struct kcopy_hydrator *h)
{
	h->copies = calloc(h->nr_copies, sizeof *h->copies);
	for (uint32_t i = 0; h->copies && i < h->nr_copies; i++) {
		struct kcopy_copy *c = &h->copies[i];
		c->h = h;
		c->buf = kedge_buf_alloc(h->copy_bytes);
		c->own_buf = h->is_comparing ? kedge_buf_alloc(h->copy_bytes) : NULL;
		c->segs = calloc(h->copy_bytes / KEDGE_BLOCK_BYTES + 1, sizeof *c->segs);
		if (!c->buf || !c->segs || (h->is_comparing && !c->own_buf)) {
			free_copies(h);
			return -ENOMEM;
		}
	}
	return h->copies ? 0 : -ENOMEM;
}

static void finish(struct kcopy_hydrator *h, int res)
{
	struct kedge_err err = h->err;

	kcopy_plan_tell_bad(h);
	h->is_running = false;
	h->is_paused = h->is_degraded = false;
	h->rest = res == 0 ? KCOPY_DONE : res == -ECANCELED ? KCOPY_IDLE : KCOPY_FAILED;
	kedge_timer_stop(h->loop, &h->tick);
	kedge_timer_stop(h->loop, &h->refill);
	h->claims->wake_fn = NULL;
	free_copies(h);
	if (res == -ECANCELED)
		kedge_err_set(&err, res, KEDGE_SIDE_NONE, "stopped");
	/* the last thing: the callback may destroy the hydrator */
	h->done_fn(h->done_arg, res, &err);
}

/* May something be asked of the source now? */
static bool is_source_up(struct kcopy_hydrator *h)
{
	struct kedge_source_status st;

	h->src->ops->status(h->src, &st);
	if (st.state == KEDGE_SOURCE_REFUSED)
		kcopy_hydrator_fail(h, st.last_err.code, &st.last_err, "the source");
	bool is_away = st.state == KEDGE_SOURCE_AWAY;
	if (is_away && !h->is_degraded) {
		h->is_degraded = true;
		h->last_err = st.last_err;
		/* give the claims back: nobody shall wait for a source that is away because of us */
		cancel_reads(h);
		kcopy_hydrator_event(h, "HYDRATION_DEGRADED", st.last_err.msg[0] ? st.last_err.msg : "the source does not answer");
	} else if (!is_away && h->is_degraded && st.state == KEDGE_SOURCE_UP) {
		h->is_degraded = false;
		h->tick_ms = TICK_MS;
		kcopy_hydrator_event(h, "HYDRATION_RUNNING", "the source answers again");
	}
	return st.state == KEDGE_SOURCE_UP;
}

bool kcopy_hydrator_may_begin(struct kcopy_hydrator *h)
{
	uint64_t now_ns = kedge_loop_now_ns(h->loop), ms = kcopy_bucket_wait_ms(&h->bucket, now_ns);

	h->is_at_limit = ms > 0;
	h->next_bytes = h->copy_bytes;
	if (kcopy_plan_is_at_first(h))
		h->next_bytes = (uint32_t)kedge_min_u64(h->copy_bytes, KCOPY_FIRST_BYTES / 4);
	else if (ms == 0 && h->governor)
		ms = kcopy_governor_ask(h->governor, h->nr_inflight, h->copy_bytes, now_ns, &h->next_bytes);
	if (ms > 0)
		kedge_timer_start(h->loop, &h->refill, ms); /* the end of a copy comes back here too */
	return ms == 0;
}

void kcopy_copy_begun(struct kcopy_copy *c, uint64_t nr_bytes)
{
	if (!c->h->governor)
		return;
	c->governed_bytes = nr_bytes;
	c->governed_ns = kedge_loop_now_ns(c->h->loop);
	kcopy_governor_begun(c->h->governor, nr_bytes, c->governed_ns);
}

void kcopy_copy_ended(struct kcopy_copy *c)
{
	uint64_t now_ns = kedge_loop_now_ns(c->h->loop);

	if (c->h->governor)
		kcopy_governor_ended(c->h->governor, c->governed_bytes, now_ns - c->governed_ns, now_ns);
}

static void copy_pump(struct kcopy_hydrator *h)
{
	struct kcopy_copy *c;

	while (h->fail_code == 0 && (c = idle_copy(h))) {
		if (!kcopy_plan_has_room(h))
			return; /* the end of one of them comes back here */
		struct kedge_claim *claim = NULL;
		int res = 0;

		if (!kcopy_hydrator_may_begin(h))
			return;
		enum kcopy_next next = kcopy_plan_next(h, &claim, &res);
		if (next == KCOPY_NEXT_END)
			finish(h, 0);
		else if (next == KCOPY_NEXT_FAIL)
			kcopy_hydrator_fail(h, res, NULL, "taking the next run of blocks");
		if (next != KCOPY_NEXT_DATA && next != KCOPY_NEXT_HOLE)
			return;
		begin_copy(h, c, claim, next == KCOPY_NEXT_HOLE);
	}
}

static void pump_cb(void *arg)
{
	struct kcopy_hydrator *h = arg;

	if (!h->is_running)
		return;
	if (h->fail_code != 0 || h->is_stopping) {
		kcopy_verify_forget(h);
		if (h->nr_busy == 0 && !h->is_asking)
			finish(h, h->fail_code != 0 ? h->fail_code : -ECANCELED);
		return;
	}
	if (h->is_paused || !is_source_up(h) || h->fail_code != 0)
		return;
	if (!h->is_comparing)
		copy_pump(h);
	else if (kcopy_verify_pump(h))
		finish(h, 0);
}

static void tick_cb(struct kedge_timer *t)
{
	struct kcopy_hydrator *h = kedge_container_of(t, struct kcopy_hydrator, tick);

	is_source_up(h);
	kcopy_plan_tell_bad(h);
	h->has_progress = true;
	kcopy_hydrator_pump(h);
	/* short at first, so that a source that is up in no time is not waited for */
	uint32_t max_ms = h->is_degraded ? TICK_AWAY_MS : TICK_MS;
	h->tick_ms = h->tick_ms * 2 < max_ms ? h->tick_ms * 2 : max_ms;
	kedge_timer_start(h->loop, &h->tick, h->tick_ms);
}

static void refill_cb(struct kedge_timer *t)
{
	kcopy_hydrator_pump(kedge_container_of(t, struct kcopy_hydrator, refill));
}

static void wake_cb(void *arg)
{
	struct kcopy_hydrator *h = arg;

	h->has_progress = true;
	kcopy_hydrator_pump(h);
}

static void start_run(struct kcopy_hydrator *h, bool is_comparing, kcopy_done_fn fn, void *arg)
{
	kedge_assert(!h->is_running);
	h->is_running = true;
	h->is_comparing = is_comparing;
	h->is_paused = h->is_stopping = h->is_degraded = false;
	h->fail_code = 0;
	h->err = h->last_err = (struct kedge_err){ 0 };
	h->done_fn = fn;
	h->done_arg = arg;
	h->tick_ms = TICK_FIRST_MS;
	h->claims->wake_fn = wake_cb;
	h->claims->wake_arg = h;
	if (make_copies(h) < 0)
		kcopy_hydrator_fail(h, -ENOMEM, NULL, "making buffers");
	else if (is_comparing)
		kcopy_verify_begin(h);
	else
		kcopy_plan_start(h);
	kedge_timer_start(h->loop, &h->tick, h->tick_ms);
	kcopy_hydrator_pump(h);
}

void kcopy_hydrator_start(struct kcopy_hydrator *h, kcopy_done_fn fn, void *arg)
{
	start_run(h, h->is_verify, fn, arg);
}

void kcopy_verify_start(struct kcopy_hydrator *h, kcopy_done_fn fn, void *arg)
{
	start_run(h, true, fn, arg);
}

void kcopy_hydrator_pause(struct kcopy_hydrator *h)
{
	h->is_paused = true;
}

void kcopy_hydrator_resume(struct kcopy_hydrator *h)
{
	h->is_paused = false;
	kcopy_hydrator_pump(h);
}

void kcopy_hydrator_set_rate(struct kcopy_hydrator *h, uint64_t rate_bps)
{
	kcopy_bucket_set_rate(&h->bucket, rate_bps, kedge_loop_now_ns(h->loop));
	kcopy_hydrator_pump(h);
}

void kcopy_hydrator_stop(struct kcopy_hydrator *h)
{
	if (!h->is_running || h->is_stopping)
		return;
	h->is_stopping = true;
	cancel_reads(h);
	kcopy_hydrator_pump(h);
}

static enum kcopy_state state_of(const struct kcopy_hydrator *h)
{
	if (!h->is_running)
		return h->rest;
	if (h->is_paused)
		return KCOPY_PAUSED;
	return h->is_degraded ? KCOPY_DEGRADED : KCOPY_RUNNING;
}

void kcopy_hydrator_status(const struct kcopy_hydrator *h, struct kcopy_status *ret_status)
{
	*ret_status = (struct kcopy_status){
		.state = state_of(h),
		.copied_bytes = h->copied_bytes,
		.zero_bytes = h->zero_bytes,
		.issued_bytes = h->issued_bytes,
		.bad_bytes = h->bad_bytes,
		.rate_bps_2min = kcopy_meter_bps(&h->meter, kedge_loop_now_ns(h->loop)),
		.rate_limit_bps = h->bucket.rate_bps,
		.is_at_limit = h->is_running && h->is_at_limit,
		.verified_bytes = h->verified_bytes,
		.mismatch_bytes = h->mismatch_bytes,
		.hole_bytes = h->agreed_bytes,
		.sampled_bytes = h->sampled_bytes,
		.holes = h->holes,
		.checksum_bytes = h->checksum_bytes,
		.data = h->data,
		.sample_seed = h->seed,
		.nr_first_left = h->nr_first - h->next_first,
		.last_err = h->last_err,
	};
}

int kcopy_hydrator_create(struct kedge_loop *l, struct kedge_source *src, struct kedge_claims *claims,
			  const struct kcopy_hydrator_opts *opts, struct kcopy_hydrator **ret_h, struct kedge_err *err)
{
	uint32_t copy_bytes = opts->copy_bytes ? opts->copy_bytes : KCOPY_COPY_BYTES_DEFAULT;
	uint32_t nr_inflight = opts->nr_inflight ? opts->nr_inflight : KCOPY_INFLIGHT_DEFAULT;

	if (copy_bytes % KEDGE_BLOCK_BYTES || copy_bytes > KCOPY_COPY_BYTES_MAX)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "copies of %u bytes: expected a multiple of 4096 up to %u",
				     copy_bytes, KCOPY_COPY_BYTES_MAX);
	if (nr_inflight > KCOPY_INFLIGHT_MAX)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "%u copies in flight: expected 1 to %d", nr_inflight,
				     KCOPY_INFLIGHT_MAX);
	struct kcopy_hydrator *h = calloc(1, sizeof *h);
	if (!h)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for a hydrator");
	h->loop = l;
	h->src = src;
	h->claims = claims;
	h->copy_bytes = copy_bytes;
	h->nr_inflight = nr_inflight;
	h->is_verify = opts->is_verify;
	h->holes = opts->holes;
	h->data = opts->data;
	h->seed_given = opts->sample_seed;
	h->governor = opts->governor;
	h->event_fn = opts->event_fn;
	h->event_arg = opts->event_arg;
	h->first = opts->first;
	h->nr_first = opts->first ? opts->nr_first : 0;
	h->nr_copies = h->nr_first ? (uint32_t)kedge_max_u64(nr_inflight, KCOPY_FIRST_INFLIGHT) : nr_inflight;
	h->rest = KCOPY_IDLE;
	h->pump.fn = pump_cb;
	h->pump.arg = h;
	h->tick.fn = tick_cb;
	h->refill.fn = refill_cb;
	kcopy_bucket_init(&h->bucket, opts->rate_bps, kedge_loop_now_ns(l));
	*ret_h = h;
	return 0;
}

void kcopy_hydrator_destroy(struct kcopy_hydrator *h)
{
	if (!h)
		return;
	kedge_assert(!h->is_running);
	kedge_defer_remove(kedge_loop_defer_queue(h->loop), &h->pump);
	kedge_timer_stop(h->loop, &h->tick);
	kedge_timer_stop(h->loop, &h->refill);
	free(h);
}
