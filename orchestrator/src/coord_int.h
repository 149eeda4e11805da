/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_COORD_INT_H
#define ORCH_COORD_INT_H

/*
 * The coordinator service's own. All of it runs on the loop's thread.
 *
 * A run is one migration in motion: the pure machine (coord_core.h) and what drives it. Runs of ended migrations stay, for those who
 * ask about them. A host is what the last answer of its agent said.
 */

#include <jansson.h>
#include <uv.h>

#include "coord_core.h"
#include "coord_plan.h"
#include "coord_store.h"
#include "orch/http.h"
#include "orch/kedged.h"

struct coord_service;

struct host {
	struct coord_service *s;
	const char *name, *address;
	bool is_known; /* was asked once, with or without an answer */
	bool is_up;
	bool is_asked;
	json_t *facts; /* of the last good answer; may be NULL */
	char trouble[KEDGE_ERR_MSG_MAX]; /* why it is not up */
};

struct run {
	struct coord_service *s;
	struct run *next; /* in the order of their making */
	struct coord_flow f;
	struct coord_todo todo; /* the one in hand */
	bool is_begun;
	uv_timer_t timer;
	char request[KEDGE_UUID_TEXT_MAX];
	json_t *progress; /* the clone's status, last seen; may be NULL */
	int told_code;	  /* the trouble that an event told of last */
	bool is_write_failing;
};

struct drain {
	struct drain *next;
	struct coord_drain d;
};

struct waiter;
struct refresh;

struct coord_service {
	uv_loop_t *loop;
	const struct kedged_config *config;
	struct coord_store *store;
	struct http_client *client;
	struct host hosts[KEDGED_HOSTS_MAX];
	unsigned nr_hosts;
	uv_timer_t poll;
	struct refresh *refreshes;
	struct run *runs, **runs_end;
	struct drain *drains, **drains_end;
	struct coord_cordon *cordons;
	unsigned nr_cordons;
	struct waiter *waiters;
	uint64_t last_seq;
	unsigned nr_handles; /* runs' timers */
};

uint64_t coord_now_ms(void);

/* ---- coord_hosts.c ---- */
void hosts_init(struct coord_service *s);
void hosts_fini(struct coord_service *s);
struct host *host_by_name(struct coord_service *s, const char *name);
/* Ask all hosts for their facts, then fn: at once when each that is up has answered or failed. */
void hosts_refresh(struct coord_service *s, void (*fn)(void *arg), void *arg);
/* NULL: not cordoned. An expired cordon is none. */
const struct coord_cordon *cordon_of(struct coord_service *s, const char *host);
int cordon_set(struct coord_service *s, const struct coord_cordon *c, struct kedge_err *err);
int cordon_remove(struct coord_service *s, const char *host, struct kedge_err *err);
json_t *host_json(struct coord_service *s, const struct host *h);
/* Every volume record of every host, with "host". name: only that one's; NULL: all. */
json_t *volumes_json(struct coord_service *s, const char *name);
/* Each workload once, where its volume is. */
json_t *workloads_json(struct coord_service *s);
/* The host that a volume's, or workload's, one live copy is on; NULL: none is known. */
struct host *owner_of_volume(struct coord_service *s, const char *name);
struct host *owner_of_workload(struct coord_service *s, const char *name);
/* What coord_plan() looks at. A new reference. */
json_t *hosts_snapshot(struct coord_service *s);

/* ---- coord_run.c ---- */
/* nr_handles and the list are seen to; NULL without memory. */
struct run *run_create(struct coord_service *s, const struct coord_migration *m);
void run_destroy(struct run *r);
/* Let it go. */
void run_begin(struct run *r);
int run_abort(struct run *r, struct kedge_err *err);
struct run *run_by_id(struct coord_service *s, const char *id);
/* The newest run of the volume that is not over; NULL: none. */
struct run *run_of_volume(struct coord_service *s, const char *volume);
/* KEDGE_FAILPOINT=coord.WHERE.STEP: kills this process with SIGKILL at that place. */
void coord_failpoint(const char *where, enum coord_step step);
const char *coord_iqn(const struct coord_migration *m, char out[KEDGE_IQN_MAX + 1]);
const char *coord_initiator_iqn(const struct coord_migration *m, char out[KEDGE_IQN_MAX + 1]);

/* ---- coord_drains.c ---- */
int drains_load(struct coord_service *s, struct kedge_err *err);
/* Takes the plan's moves over into runs and lets the first go. */
int drain_create(struct coord_service *s, const struct coord_drain *d, const struct coord_plan *plan, struct drain **ret_d,
		 struct kedge_err *err);
struct drain *drain_by_id(struct coord_service *s, const char *id);
bool drain_has(const struct drain *d, const struct run *r);
/* Start what has room, end what is over. After each change of a run. */
void drains_look(struct coord_service *s);
enum coord_drain_state drain_state(struct coord_service *s, const struct drain *d);

/* ---- coord_view.c ---- */
json_t *migration_json(const struct run *r);
json_t *drain_json(struct coord_service *s, const struct drain *d);
/* The sealed receipt as text; the caller frees. */
char *receipt_text(const struct run *r);
/* NULL: nobody of that name. */
json_t *why_json(struct coord_service *s, const char *id);

/* ---- coord_events.c ---- */
void event_add(struct coord_service *s, const struct kedge_uuid *drain, const struct coord_migration *m, const char *kind,
	       const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* The event that goes with a step that was recorded. */
void event_of_step(struct run *r);
void on_get_events(void *arg, struct http_request *req);
void events_fini(struct coord_service *s);

#endif
