/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_AGENT_INT_H
#define ORCH_AGENT_INT_H

/*
 * The agent service's own: units, jobs, watches. Everything on the loop's thread but job.run, which is a worker's and sees
 * its job only.
 *
 * A unit is a volume with its workload, clone and export. One job runs on a unit at a time. After each job the waiting
 * requests are looked at again, then agent_reconcile() starts what the records ask for and the processes lack.
 */

#include <jansson.h>
#include <uv.h>

#include "agent_core.h"
#include "agent_plane.h"
#include "agent_store.h"
#include "agent_types.h"
#include "fields.h"
#include "orch/http.h"
#include "orch/kedged.h"

#define REQUEST_ID_MAX KEDGE_UUID_TEXT_MAX

struct unit;
struct job;

enum work_state { WORK_STOPPED, WORK_STARTING, WORK_RUNNING, WORK_STOPPING, WORK_FAILED };

enum watch_kind { WATCH_WORKLOAD, WATCH_CLONE, WATCH_EXPORT, NR_WATCHES };

/* A process whose end matters. */
struct watch {
	struct unit *u;
	enum watch_kind kind;
	struct kedge_proc proc; /* pid 0: none */
	struct watch_poll *poll;
};

/* A request that waits for the unit's job. */
struct waiter {
	struct unit *u;
	struct waiter *next;
	struct http_request *req;
	uv_timer_t timer;
	bool is_over; /* the wait is */
	/* Look again; true when it has answered. */
	bool (*look)(struct waiter *w);
};

struct unit {
	struct agent_service *s;
	struct unit *next;
	struct agent_unit d; /* as it is in the store */
	bool is_stored;      /* has a row */
	struct job *job;
	struct waiter *waiters;
	struct watch watches[NR_WATCHES];
	char device[AGENT_DEVICE_MAX]; /* what a workload is given; empty: not attached */
	enum work_state work_state;
	char reason[KEDGE_ERR_MSG_MAX]; /* why it does not run, or the last trouble */
	uint64_t promised_bytes;        /* room that a job is about to take */
	json_t *clone_status;           /* the last one seen; may be NULL */
	uint64_t clone_status_ns;
	bool is_status_asked;
	bool is_clone_ready; /* kclone serves, and is attached where it should be */
	uv_timer_t retry;
	uint64_t not_before_ns; /* backoff of reconcile */
	unsigned backoff_ms;
	/* the last failed step, answered again to the same request id */
	struct agent_request failed_q;
	char failed_request[REQUEST_ID_MAX];
	struct kedge_err failed_err;
};

struct agent_service {
	bool has_dm; /* as the agent started */
	char engine_why[256];
	uv_loop_t *loop;
	const struct kedged_config *config;
	struct agent_store *store;
	struct unit *units;
	char boot_id[KEDGE_BOOT_ID_MAX];
	unsigned nr_jobs;
	unsigned nr_handles; /* of units, to be closed */
	bool is_stopping;
};

/* Work for a worker thread. Fields up to the line are inputs: copies. */
struct job {
	uv_work_t work;
	struct unit *u;
	const char *name;
	const struct kedged_config *config;
	struct agent_unit d;
	char device[AGENT_DEVICE_MAX];
	void (*run)(struct job *j);              /* worker thread: sets res and outputs */
	void (*end)(struct unit *u, struct job *j); /* loop; NULL allowed */
	/* a step's */
	bool is_step;
	struct agent_request q;
	char to[KEDGE_NAME_MAX + 1];
	char request[REQUEST_ID_MAX];
	int grace_ms; /* < 0: the spec's */
	uint64_t rate_bps;
	char engine[8]; /* RESERVE: of the clone; empty: as it was */
	bool is_start;
	/* a verb's */
	struct http_request *req;
	char import_path[AGENT_PATH_MAX];
	/* ---- outputs ---- */
	int res;
	struct kedge_err err;
	bool is_more;      /* a step that goes on: ask again */
	json_t *result;    /* of a step; when is_more: progress */
	json_t *clone_status;
	char ret_device[AGENT_DEVICE_MAX];
	struct kedge_proc proc; /* of the workload */
	uint16_t port;
	uint64_t left_out_bytes;
	bool was_running;
	bool is_clone_gone; /* the clone was retired: the raw file is the volume */
	bool is_device_gone;
};

/* ---- agent_unit.c ---- */
struct unit *unit_create(struct agent_service *s, const struct kedge_uuid *uuid, const char *name);
void unit_destroy(struct unit *u); /* its handles are closed; freed later */
struct unit *unit_by_uuid(struct agent_service *s, const struct kedge_uuid *uuid);
/* A volume that exists here by that name (tombstones do not count). */
struct unit *unit_by_name(struct agent_service *s, const char *name);
struct unit *unit_by_workload(struct agent_service *s, const char *name);
bool unit_is_visible(const struct unit *u);
/* Make the record durable, then the unit's own; next is consumed, on failure too. result: of the step q, in the same
 * transaction; NULL: none. */
int unit_commit(struct unit *u, struct agent_unit *next, const struct agent_request *q, const char *result, struct kedge_err *err);
bool unit_is_running(const struct unit *u, enum watch_kind kind);
void unit_watch(struct unit *u, enum watch_kind kind, const struct kedge_proc *proc);
void unit_unwatch(struct unit *u, enum watch_kind kind);
/* Let a request wait for the end of the unit's job, at most 1 s: then is_over is set and look must answer. w: heap memory, begun
 * with a struct waiter; taken over. */
void unit_wait(struct unit *u, struct http_request *req, struct waiter *w, bool (*look)(struct waiter *w));
void unit_look_again(struct unit *u);
void unit_set_reason(struct unit *u, enum work_state state, const char *text);

/* ---- agent_job.c ---- */
struct job *job_create(struct unit *u, const char *name, void (*run)(struct job *j), void (*end)(struct unit *u, struct job *j),
		       struct kedge_err *err);
/* Runs it; the job is freed after its end. */
void job_start(struct job *j);
void job_destroy(struct job *j);
/* Ask kclone for its status, beside other jobs; at most one at a time and not more often than each 500 ms. */
void unit_refresh_status(struct unit *u);

/* ---- agent_steps.c, agent_acts.c ---- */
void agent_on_step(void *arg, struct http_request *req);
/* Worker functions of the steps. */
void act_reserve(struct job *j);
void act_stop(struct job *j);
void act_fence(struct job *j);
void act_export(struct job *j);
void act_attach(struct job *j);
void act_boot(struct job *j);
void act_hydrate(struct job *j);
void act_finish(struct job *j);
void act_unexport(struct job *j);
void act_release(struct job *j);
void act_revoke(struct job *j);
/* Worker functions of reconcile. */
void act_recover_clone(struct job *j);
void act_retire_clone(struct job *j);
void act_start_workload(struct job *j);
void act_stop_workload(struct job *j);

/* ---- agent_reconcile.c ---- */
void agent_reconcile(struct unit *u);
/* Put off what reconcile does next. */
void agent_back_off(struct unit *u);
void agent_clear_backoff(struct unit *u);
/* At start: find the processes, then reconcile. */
void agent_recover(struct unit *u);

/* ---- agent_verbs.c, agent_view.c ---- */
void agent_on_volume(void *arg, struct http_request *req);
void agent_on_workload(void *arg, struct http_request *req);
void agent_on_host(void *arg, struct http_request *req);
void agent_on_status(void *arg, struct http_request *req);
json_t *agent_volume_json(const struct unit *u);
json_t *agent_workload_json(const struct unit *u);
json_t *agent_error_json(const struct kedge_err *err);
uint64_t agent_free_bytes(const struct agent_service *s);
uint64_t agent_promised_bytes(const struct agent_service *s);

/* ---- agent_failpoint.c ---- */
/* KEDGE_FAILPOINT=agent.WHERE.STEP: kills this process with SIGKILL at that place. */
void agent_failpoint(const char *where, enum agent_step step);

#endif
