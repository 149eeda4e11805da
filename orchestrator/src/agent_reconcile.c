/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What runs is made to be what the records ask for: lost kclones and ktargets come back, workloads that should
 * run are started, others stopped, clones that nobody needs any more are retired. Also the whole recovery of an agent that
 * starts. Failures are tried again with backoff, 0.5 s doubling to 30 s.
 *
 * Owns. Nothing: it gives units jobs.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. Decides from records that are durable and processes that are looked up; runs again after a restart. A workload is
 * only started where agent_core_may_start() allows it.
 */
#include <string.h>

#include "agent_driver.h"
#include "agent_files.h"
#include "agent_int.h"
#include "kedge/log.h"
#include "kedge/loop.h"
#include "kedge/loopdev.h"

#define BACKOFF_MS_MIN 500
#define BACKOFF_MS_MAX 30000
#define CALM_NS 60000000000ull /* a workload that ran that long starts with a short backoff again */

void agent_back_off(struct unit *u)
{
	uint64_t now_ns = kedge_clock_ns();

	if (u->not_before_ns && now_ns > u->not_before_ns + CALM_NS)
		u->backoff_ms = 0;
	u->backoff_ms = !u->backoff_ms ? BACKOFF_MS_MIN : u->backoff_ms < BACKOFF_MS_MAX / 2 ? u->backoff_ms * 2 : BACKOFF_MS_MAX;
	u->not_before_ns = now_ns + (uint64_t)u->backoff_ms * 1000000;
}

void agent_clear_backoff(struct unit *u)
{
	u->backoff_ms = 0;
	u->not_before_ns = 0;
}

static void on_retry(uv_timer_t *t)
{
	agent_reconcile(t->data);
}

/* ---- ends of jobs ---- */

static void save(struct unit *u, struct agent_unit *next)
{
	struct kedge_err err = {0};

	if (unit_commit(u, next, NULL, NULL, &err))
		kedge_error("volume %s: %s", u->d.vol.name, err.msg);
}

static void on_export_ended(struct unit *u, struct job *j)
{
	struct kedge_proc proc;

	if (j->res) {
		agent_back_off(u);
		return;
	}
	if (plane_export_find(u->s->config, &u->d, &proc))
		unit_watch(u, WATCH_EXPORT, &proc);
	kedge_info("volume %s: exported again on port %u", u->d.vol.name, (unsigned)j->port);
}

static void on_recover_ended(struct unit *u, struct job *j)
{
	struct kedge_proc proc;

	if (plane_clone_find(u->s->config, u->d.vol.name, &proc))
		unit_watch(u, WATCH_CLONE, &proc);
	u->is_clone_ready = !j->res;
	if (j->res) {
		unit_set_reason(u, u->work_state, j->err.msg);
		agent_back_off(u);
		return;
	}
	kedge_info("volume %s: kclone serves it on %s", u->d.vol.name, u->device);
}

static void on_retire_ended(struct unit *u, struct job *j)
{
	struct agent_unit next;

	if (j->res) {
		agent_back_off(u);
		return;
	}
	unit_unwatch(u, WATCH_CLONE);
	if (agent_unit_copy(&u->d, &next))
		return;
	memset(&next.clone, 0, sizeof next.clone);
	save(u, &next);
	kedge_info("volume %s is a plain local volume now", u->d.vol.name);
}

static void on_start_ended(struct unit *u, struct job *j)
{
	struct agent_unit next;

	if (j->proc.pid)
		unit_watch(u, WATCH_WORKLOAD, &j->proc);
	unit_set_reason(u, j->res ? WORK_FAILED : WORK_RUNNING, j->err.msg);
	if (j->res) {
		agent_back_off(u);
		return;
	}
	if (agent_unit_copy(&u->d, &next))
		return;
	next.work.proc = j->proc;
	save(u, &next);
	kedge_info("workload %s runs on %s (pid %d)", u->d.work.name, u->device, (int)j->proc.pid);
}

static void on_stop_ended(struct unit *u, struct job *j)
{
	struct agent_unit next;

	if (!unit_is_running(u, WATCH_WORKLOAD))
		unit_unwatch(u, WATCH_WORKLOAD);
	unit_set_reason(u, j->res ? WORK_FAILED : WORK_STOPPED, j->err.msg);
	if (j->res)
		agent_back_off(u);
	if (!j->is_clone_gone || agent_unit_copy(&u->d, &next))
		return;
	unit_unwatch(u, WATCH_CLONE);
	memset(&next.clone, 0, sizeof next.clone);
	save(u, &next);
}

/* ---- decisions ---- */

static bool give(struct unit *u, const char *name, void (*run)(struct job *j), void (*end)(struct unit *u, struct job *j))
{
	struct job *j = job_create(u, name, run, end, NULL);

	if (!j)
		return false;
	job_start(j);
	return true;
}

static bool needs_export(const struct unit *u)
{
	const struct agent_record *r = &u->d.vol.record;

	/* Without a port the step has not ended: the coordinator asks again. */
	return u->d.export.is_recorded && u->d.export.port && r->export_epoch && r->unexported_epoch != r->export_epoch &&
	       r->aborted_epoch != r->export_epoch && !unit_is_running(u, WATCH_EXPORT);
}

static bool needs_clone(const struct unit *u)
{
	enum agent_clone_mode mode = u->d.clone.mode;
	enum agent_state state = u->d.vol.record.state;

	/* a device that stands alone goes on without its kclone, which is only served again to be asked */
	if (mode == AGENT_CLONE_PASSTHROUGH && state == AGENT_STATE_LOCAL && unit_is_running(u, WATCH_WORKLOAD) &&
	    !unit_is_running(u, WATCH_CLONE) && plane_clone_is_alone(&u->d))
		return true;
	return (mode == AGENT_CLONE_RESERVED || mode == AGENT_CLONE_ATTACHED) &&
	       (state == AGENT_STATE_RESERVED || state == AGENT_STATE_CLONING) &&
	       (!u->is_clone_ready || !unit_is_running(u, WATCH_CLONE));
}

static bool needs_retirement(const struct unit *u)
{
	return u->d.clone.mode == AGENT_CLONE_PASSTHROUGH && u->d.vol.record.state == AGENT_STATE_LOCAL &&
	       ((!unit_is_running(u, WATCH_CLONE) && !plane_clone_is_alone(&u->d)) || !unit_is_running(u, WATCH_WORKLOAD));
}

static bool start_workload(struct unit *u)
{
	struct agent_unit next;
	struct kedge_err err = {0};

	if (agent_unit_copy(&u->d, &next))
		return false;
	next.work.epoch = u->d.vol.record.epoch;
	/* it had been running, or had tried to */
	next.work.nr_restarts += u->work_state == WORK_FAILED || u->work_state == WORK_RUNNING;
	if (unit_commit(u, &next, NULL, NULL, &err)) {
		kedge_error("volume %s: %s", u->d.vol.name, err.msg);
		return false;
	}
	unit_set_reason(u, WORK_STARTING, "");
	return give(u, "start of the workload", act_start_workload, on_start_ended);
}

static bool fit_workload(struct unit *u)
{
	bool is_running = unit_is_running(u, WATCH_WORKLOAD);
	const char *reason;

	if (!u->d.work.is_defined)
		return true;
	/* A workload that is stopped for a migration is the steps' business. */
	if (agent_core_may_start(&u->d.vol.record, &reason))
		return true;
	if (u->d.work.is_wanted && !is_running)
		return start_workload(u);
	if (!u->d.work.is_wanted && is_running) {
		unit_set_reason(u, WORK_STOPPING, "");
		return give(u, "stop of the workload", act_stop_workload, on_stop_ended);
	}
	return true;
}

void agent_reconcile(struct unit *u)
{
	uint64_t now_ns = kedge_clock_ns();
	bool is_given;

	if (u->s->is_stopping || u->job || !u->is_stored)
		return;
	if (now_ns < u->not_before_ns) {
		uv_timer_start(&u->retry, on_retry, (u->not_before_ns - now_ns) / 1000000 + 1, 0);
		return;
	}
	if (needs_export(u))
		is_given = give(u, "export", act_export, on_export_ended);
	else if (needs_clone(u))
		is_given = give(u, "recovery of its clone", act_recover_clone, on_recover_ended);
	else if (needs_retirement(u))
		is_given = give(u, "retirement of its clone", act_retire_clone, on_retire_ended);
	else
		is_given = fit_workload(u);
	if (!is_given) {
		agent_back_off(u);
		uv_timer_start(&u->retry, on_retry, u->backoff_ms, 0);
	}
}

/* ---- start of the agent ---- */

/* A file that was being created when the agent died. */
static void forget_half_made(struct unit *u)
{
	struct kedge_err err = {0};
	struct agent_unit next;

	if (agent_file_remove(u->d.vol.path, &err) || agent_unit_copy(&u->d, &next)) {
		kedge_warn("volume %s: %s", u->d.vol.name, err.msg);
		return;
	}
	next.vol.path[0] = 0;
	save(u, &next);
}

static void forget_stop_of_dead_host(struct unit *u)
{
	struct kedge_uuid migration = u->d.vol.record.migration;
	uint64_t held_epoch = u->d.vol.record.held_epoch;
	struct kedge_err err = {0};
	struct agent_unit next;

	if (agent_unit_copy(&u->d, &next))
		return;
	if (!agent_core_reboot(&next.vol.record)) {
		agent_unit_fini(&next);
		return;
	}
	/* The result first: without it a repeated STOP acts again, which does no harm. */
	if (agent_store_forget_result(u->s->store, &migration, held_epoch, agent_step_name(AGENT_STOP), &err)) {
		kedge_error("volume %s: %s", u->d.vol.name, err.msg);
		agent_unit_fini(&next);
		return;
	}
	save(u, &next);
	kedge_info("volume %s: the host came up anew before it was fenced; its workload starts here again", u->d.vol.name);
}

void agent_recover(struct unit *u)
{
	const struct kedged_config *c = u->s->config;
	char last_boot_id[KEDGE_BOOT_ID_MAX] = "";
	struct kedge_proc proc;

	if (u->d.vol.record.state == AGENT_STATE_UNKNOWN && u->d.vol.path[0])
		forget_half_made(u);
	if (agent_store_get_boot_id(u->s->store, last_boot_id, NULL) == 0 && last_boot_id[0] && strcmp(last_boot_id, u->s->boot_id) != 0)
		forget_stop_of_dead_host(u);
	if (driver_find(c, &u->d, &proc)) {
		unit_watch(u, WATCH_WORKLOAD, &proc);
		unit_set_reason(u, WORK_RUNNING, "");
	}
	if (u->d.clone.mode != AGENT_CLONE_NONE && plane_clone_find(c, u->d.vol.name, &proc))
		unit_watch(u, WATCH_CLONE, &proc);
	if (u->d.export.is_recorded && plane_export_find(c, &u->d, &proc))
		unit_watch(u, WATCH_EXPORT, &proc);
	if (u->d.clone.mode == AGENT_CLONE_NONE && unit_is_visible(u) && !u->d.vol.is_block)
		if (kedge_loopdev_find(u->d.vol.path, u->device))
			u->device[0] = 0;
	agent_reconcile(u);
}
