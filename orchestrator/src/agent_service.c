/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The agent role: opens its records, recovers what was under way, adds its routes.
 *
 * Owns. The store and all units.
 *
 * Locks. None: the loop's thread; blocking work is in jobs (agent_job.c).
 *
 * Crash. Nothing of its own; see agent_store.c and agent_reconcile.c. Data-plane processes and workloads live on when the
 * service ends in any way.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent_int.h"
#include "kedge/log.h"

#define NR_WORKERS "128" /* threads for jobs that block: one each for as many volumes at a time */

static int on_unit_loaded(void *arg, struct agent_unit *d)
{
	struct agent_service *s = arg;
	struct unit *u = unit_create(s, &d->vol.uuid, d->vol.name);

	if (!u) {
		agent_unit_fini(d);
		return -ENOMEM;
	}
	u->d = *d;
	u->is_stored = true;
	return 0;
}

static int open_store(struct agent_service *s, struct kedge_err *err)
{
	char path[KEDGED_PATH_MAX + 16];
	struct kedge_proc self;
	int res;

	snprintf(path, sizeof path, "%s/agent.db", s->config->state_dir);
	res = agent_store_open(path, &s->store, err);
	if (!res)
		res = agent_store_load(s->store, on_unit_loaded, s, err);
	if (!res && kedge_proc_identify(getpid(), &self) == 0)
		strcpy(s->boot_id, self.boot_id);
	return res;
}

static void on_not_here(void *arg, struct http_request *req)
{
	struct agent_service *s = arg;
	struct kedge_err err = {0};

	kedge_err_set(&err, KEDGE_E_UNREACHABLE, KEDGE_SIDE_CONTROL, "host %s is an agent only; the coordinator is %s", s->config->host,
		      s->config->coordinator[0] ? s->config->coordinator : "not configured here");
	http_respond_err(req, &err, "ask on the coordinator's host");
}

static void add_routes(struct agent_service *s, struct http_server *server)
{
	static const char *const elsewhere[][2] = {
		{"GET", "/v1/hosts"},	     {"POST", "/v1/hosts/:name/cordon"},     {"POST", "/v1/hosts/:name/uncordon"},
		{"GET", "/v1/volumes"},	     {"GET", "/v1/volumes/:name"},	      {"POST", "/v1/volumes"},
		{"GET", "/v1/workloads"},    {"POST", "/v1/workloads"},		      {"POST", "/v1/workloads/:name/start"},
		{"POST", "/v1/workloads/:name/stop"}, {"POST", "/v1/drains"},	      {"GET", "/v1/drains"},
		{"GET", "/v1/drains/:id"},   {"POST", "/v1/drains/:id/abort"},	      {"POST", "/v1/migrations/:id/abort"},
		{"GET", "/v1/migrations/:id"}, {"GET", "/v1/why/:id"},		      {"GET", "/v1/events"},
		{"GET", "/v1/receipts/:id"},
	};

	http_server_route(server, "GET", "/v1/host", HTTP_LOCAL | HTTP_PEER, agent_on_host, s);
	http_server_route(server, "POST", "/v1/volume", HTTP_LOCAL | HTTP_PEER, agent_on_volume, s);
	http_server_route(server, "POST", "/v1/workload", HTTP_LOCAL | HTTP_PEER, agent_on_workload, s);
	http_server_route(server, "POST", "/v1/step", HTTP_LOCAL | HTTP_PEER, agent_on_step, s);
	if (s->config->is_coordinator)
		return;
	http_server_route(server, "GET", "/v1/status", HTTP_LOCAL | HTTP_PEER, agent_on_status, s);
	for (size_t i = 0; i < sizeof elsewhere / sizeof elsewhere[0]; i++)
		http_server_route(server, elsewhere[i][0], elsewhere[i][1], HTTP_LOCAL, on_not_here, s);
}

int agent_service_create(uv_loop_t *loop, const struct kedged_config *config, struct http_server *server,
			 struct agent_service **ret_s, struct kedge_err *err)
{
	struct agent_service *s = calloc(1, sizeof *s);
	int res;

	if (!s)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for the agent");
	s->loop = loop;
	s->config = config;
	/* Read by libuv when the first job is queued. */
	setenv("UV_THREADPOOL_SIZE", NR_WORKERS, 0);
	res = plane_make_dirs(config, err);
	if (!res)
		plane_doctor(config, &s->has_dm, s->engine_why);
	if (!res)
		res = open_store(s, err);
	if (res) {
		kedge_err_prefix(err, "agent");
		agent_service_destroy(s);
		return res;
	}
	for (struct unit *u = s->units; u; u = u->next)
		agent_recover(u);
	/* Only after the old one has told which units saw a reboot. */
	res = agent_store_put_boot_id(s->store, s->boot_id, err);
	if (res) {
		agent_service_destroy(s);
		return res;
	}
	add_routes(s, server);
	*ret_s = s;
	return 0;
}

void agent_service_destroy(struct agent_service *s)
{
	if (!s)
		return;
	s->is_stopping = true;
	agent_store_close(s->store);
	s->store = NULL;
	/* Jobs that still run hold on to their unit and the service: both then stay until the process ends, soon. */
	if (s->nr_jobs) {
		for (struct unit *u = s->units; u; u = u->next) {
			uv_timer_stop(&u->retry);
			uv_unref((uv_handle_t *)&u->retry);
			for (struct waiter *w = u->waiters; w; w = w->next)
				uv_timer_stop(&w->timer); /* the store is gone */
		}
		return;
	}
	while (s->units)
		unit_destroy(s->units);
	free(s);
}
