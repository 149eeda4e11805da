/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The orderly end of a worker.
 *
 * Owns. The source that takes the place of the real one meanwhile.
 *
 * Locks. None: one thread.
 *
 * Crash. Whenever it is cut short, the next open finds an unclean stop; nothing is durable here but through the engine.
 */
#include "worker.h"

#include "kedge/bytes.h"
#include "kedge/log.h"

/* A stop waits so long for a source that answers, so that what front ends have in hand ends well. */
#define STOP_SOURCE_MS 3000

static void engine_closed_cb(void *arg, int res, const struct kedge_err *err)
{
	struct worker *w = arg;

	w->e = NULL;
	if (res < 0) {
		kedge_error("%s", err->msg);
		w->exit_code = KEDGE_EXIT_FAILED;
	}
	kedge_loop_stop(w->loop);
}

static void close_engine(struct worker *w)
{
	worker_retire_hydrator(w);
	w->e->ops->close(w->e, engine_closed_cb, w);
}

static void stop_source_closed_cb(void *arg)
{
	((struct worker *)arg)->is_source_closing = false;
}

/* Reads that wait for the source end now, whatever their deadline was; so do those that writes in hand still need. */
static void let_go_of_source(struct worker *w)
{
	w->absent = source_absent_create(kedge_loop_defer_queue(w->loop));
	w->e->ops->set_source(w->e, w->absent);
	if (w->source && !w->is_source_closing) {
		w->is_source_closing = true;
		w->source->ops->close(w->source, stop_source_closed_cb, w);
	}
}

static bool is_source_worth_waiting(struct worker *w)
{
	struct kedge_source_status st;

	if (!w->source || w->is_source_closing || kedge_clock_ns() >= w->stop_deadline_ns)
		return false;
	w->source->ops->status(w->source, &st);
	return st.state == KEDGE_SOURCE_UP;
}

static void stop_tick_cb(struct kedge_timer *t)
{
	struct worker *w = kedge_container_of(t, struct worker, tick);

	w->e->ops->tick(w->e);
	if (!w->absent && (w->nr_fronts_stopping == 0 || !is_source_worth_waiting(w)))
		let_go_of_source(w);
	if (!w->absent || w->is_hydrating || w->verify == VERIFY_RUNNING || w->nr_fronts_stopping || w->is_source_closing)
		kedge_timer_start(w->loop, &w->tick, 5);
	else
		close_engine(w);
}

static void front_stopped_cb(void *arg)
{
	((struct worker *)arg)->nr_fronts_stopping--;
}

void worker_stop(struct worker *w)
{
	struct kedge_err err = {0};

	if (w->is_stopping)
		return;
	w->is_stopping = true;
	w->stop_deadline_ns = kedge_clock_ns() + STOP_SOURCE_MS * 1000000ull;
	kedge_timer_stop(w->loop, &w->retry);
	kedge_timer_stop(w->loop, &w->alone_timer);
	if (w->alone_fn)
		w->alone_fn(w);
	w->alone_fn = NULL;
	kedge_err_set(&err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL, "kclone is stopping");
	worker_answer_attach(w, &err);
	control_stop(w->control);
	if (w->is_hydrating || w->verify == VERIFY_RUNNING)
		kcopy_hydrator_stop(w->hydrator);
	for (unsigned i = 0; i < w->nr_fronts; i++) {
		w->nr_fronts_stopping++;
		w->fronts[i]->ops->stop(w->fronts[i], front_stopped_cb, w);
	}
	w->tick.fn = stop_tick_cb;
	kedge_timer_start(w->loop, &w->tick, 0);
}
