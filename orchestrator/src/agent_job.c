/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Jobs: work that blocks, one at a time for each unit, in libuv's worker threads; and the status poll of clones.
 *
 * Owns. Jobs from job_create to their end.
 *
 * Locks. None: a job's inputs are copies, its outputs are looked at after it ended.
 *
 * Crash. A job that the daemon's death cut off is done again: by the coordinator's next try or by reconcile.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent_int.h"
#include "kedge/log.h"
#include "kedge/loop.h"

#define STATUS_MIN_NS 500000000ull
#define STATUS_TIMEOUT_MS 1000

struct job *job_create(struct unit *u, const char *name, void (*run)(struct job *j), void (*end)(struct unit *u, struct job *j),
		       struct kedge_err *err)
{
	struct job *j = calloc(1, sizeof *j);

	if (!j || agent_unit_copy(&u->d, &j->d)) {
		free(j);
		kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a job");
		return NULL;
	}
	j->u = u;
	j->name = name;
	j->config = u->s->config;
	strcpy(j->device, u->device);
	j->run = run;
	j->end = end;
	j->grace_ms = -1;
	return j;
}

void job_destroy(struct job *j)
{
	if (!j)
		return;
	agent_unit_fini(&j->d);
	json_decref(j->result);
	json_decref(j->clone_status);
	free(j);
}

static void on_work(uv_work_t *w)
{
	struct job *j = w->data;

	j->run(j);
}

static void take_outputs(struct unit *u, struct job *j)
{
	if (j->clone_status) {
		json_decref(u->clone_status);
		u->clone_status = json_incref(j->clone_status);
		u->clone_status_ns = kedge_clock_ns();
	}
	if (j->is_device_gone)
		u->device[0] = 0;
	if (j->ret_device[0])
		strcpy(u->device, j->ret_device);
}

static void on_work_ended(uv_work_t *w, int status)
{
	struct job *j = w->data;
	struct unit *u = j->u;
	struct agent_service *s = u->s;

	s->nr_jobs--;
	u->job = NULL;
	u->promised_bytes = 0;
	if (s->is_stopping) {
		job_destroy(j);
		return;
	}
	take_outputs(u, j);
	if (j->res && !j->is_more)
		kedge_warn("volume %s: %s: %s", u->d.vol.name, j->name, j->err.msg);
	if (j->end)
		j->end(u, j);
	job_destroy(j);
	/* Reconcile first: steps that are asked for without pause must not keep a lost process from being replaced. */
	agent_reconcile(u);
	unit_look_again(u);
}

void job_start(struct job *j)
{
	struct unit *u = j->u;

	kedge_assert(!u->job);
	u->job = j;
	u->s->nr_jobs++;
	j->work.data = j;
	kedge_assert(uv_queue_work(u->s->loop, &j->work, on_work, on_work_ended) == 0);
}

/* ---- status of a clone, outside of the one-job rule: it changes nothing ---- */

struct status_work {
	uv_work_t work;
	struct unit *u;
	char name[KEDGE_NAME_MAX + 1];
	const struct kedged_config *config;
	json_t *status;
};

static void on_status_work(uv_work_t *w)
{
	struct status_work *q = w->data;

	if (plane_clone_call(q->config, q->name, "status", NULL, STATUS_TIMEOUT_MS, &q->status, NULL))
		q->status = NULL;
}

static void on_status_ended(uv_work_t *w, int status)
{
	struct status_work *q = w->data;
	struct unit *u = q->u;

	u->s->nr_jobs--;
	u->is_status_asked = false;
	if (!u->s->is_stopping && q->status) {
		json_decref(u->clone_status);
		u->clone_status = json_incref(q->status);
		u->clone_status_ns = kedge_clock_ns();
	}
	json_decref(q->status);
	free(q);
}

void unit_refresh_status(struct unit *u)
{
	struct status_work *q;

	if (u->d.clone.mode == AGENT_CLONE_NONE || u->is_status_asked || kedge_clock_ns() - u->clone_status_ns < STATUS_MIN_NS)
		return;
	q = calloc(1, sizeof *q);
	if (!q)
		return;
	q->u = u;
	q->config = u->s->config;
	strcpy(q->name, u->d.vol.name);
	q->work.data = q;
	u->is_status_asked = true;
	u->s->nr_jobs++;
	kedge_assert(uv_queue_work(u->s->loop, &q->work, on_status_work, on_status_ended) == 0);
}
