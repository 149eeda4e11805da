/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The coordinator role: opens its records, goes on with what was under way, answers operators (docs/api.md).
 *
 * Owns. The store, hosts, drains and runs.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. See coord_store.c and coord_run.c. A drain is recorded before it is answered.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coord_int.h"
#include "fields.h"
#include "kedge/log.h"

#define VERB_TIMEOUT_MS 120000
#define MAX_PARALLEL 1024

/* An operator's question that waits for the hosts' facts, or for a host's answer. */
struct question {
	struct coord_service *s;
	struct http_request *req;
	void (*look)(struct question *q);
	struct host *h;
};

static const char *text(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));

	return t ? t : "";
}

static void refuse(struct http_request *req, int code, const char *hint, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
static void refuse(struct http_request *req, int code, const char *hint, const char *fmt, ...)
{
	struct kedge_err err = {0};
	char line[KEDGE_ERR_MSG_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	kedge_err_set(&err, code, KEDGE_SIDE_CONTROL, "%s", line);
	http_respond_err(req, &err, hint);
}

static void on_facts_are_new(void *arg)
{
	struct question *q = arg;

	q->look(q);
}

static void ask_hosts_first(struct coord_service *s, struct http_request *req, void (*look)(struct question *q))
{
	struct question *q = calloc(1, sizeof *q);

	kedge_assert(q);
	*q = (struct question){.s = s, .req = req, .look = look};
	hosts_refresh(s, on_facts_are_new, q);
}

/* ---- hosts ---- */

static json_t *all_hosts(struct coord_service *s)
{
	json_t *hosts = json_array();

	for (unsigned i = 0; i < s->nr_hosts; i++)
		json_array_append_new(hosts, host_json(s, &s->hosts[i]));
	return hosts;
}

static void tell_hosts(struct question *q)
{
	http_respond(q->req, 200, json_pack("{s:i, s:o}", "v", 1, "hosts", all_hosts(q->s)));
	free(q);
}

static void on_get_hosts(void *arg, struct http_request *req)
{
	ask_hosts_first(arg, req, tell_hosts);
}

static struct host *named_host(struct coord_service *s, struct http_request *req, const char *name)
{
	struct host *h = host_by_name(s, name);

	if (!h)
		refuse(req, -ENOENT, "kedge host list", "no host is called %s", name);
	return h;
}

static void on_cordon(void *arg, struct http_request *req)
{
	struct coord_service *s = arg;
	struct host *h = named_host(s, req, req->param[0]);
	struct coord_cordon c = {0};
	struct kedge_err err = {0};
	json_int_t expires = json_integer_value(json_object_get(req->body, "expires"));

	if (!h)
		return;
	snprintf(c.host, sizeof c.host, "%s", h->name);
	snprintf(c.owner, sizeof c.owner, "%s", *text(req->body, "owner") ? text(req->body, "owner") : "an operator");
	snprintf(c.reason, sizeof c.reason, "%s", text(req->body, "reason"));
	c.expires_ms = expires > 0 ? (uint64_t)expires : 0;
	if (fields_check(req->body, "v owner reason expires", &err) || cordon_set(s, &c, &err)) {
		http_respond_err(req, &err, NULL);
		return;
	}
	event_add(s, NULL, NULL, "cordon", "host %s is cordoned by %s%s%s", h->name, c.owner, c.reason[0] ? ": " : "", c.reason);
	http_respond(req, 200, host_json(s, h));
}

static void on_uncordon(void *arg, struct http_request *req)
{
	struct coord_service *s = arg;
	struct host *h = named_host(s, req, req->param[0]);
	struct kedge_err err = {0};

	if (!h)
		return;
	if (cordon_remove(s, h->name, &err)) {
		http_respond_err(req, &err, NULL);
		return;
	}
	event_add(s, NULL, NULL, "cordon", "host %s is uncordoned", h->name);
	http_respond(req, 200, host_json(s, h));
}

/* ---- volumes and workloads: facts ---- */

static void tell_volumes(struct question *q)
{
	const char *name = q->req->param[0];
	json_t *volumes = volumes_json(q->s, name);

	if (name && json_array_size(volumes) == 0) {
		json_decref(volumes);
		refuse(q->req, -ENOENT, "kedge volume list", "no volume is called %s", name);
	} else {
		http_respond(q->req, 200, json_pack("{s:i, s:o}", "v", 1, "volumes", volumes));
	}
	free(q);
}

static void on_get_volumes(void *arg, struct http_request *req)
{
	ask_hosts_first(arg, req, tell_volumes);
}

static void tell_workloads(struct question *q)
{
	http_respond(q->req, 200, json_pack("{s:i, s:o}", "v", 1, "workloads", workloads_json(q->s)));
	free(q);
}

static void on_get_workloads(void *arg, struct http_request *req)
{
	ask_hosts_first(arg, req, tell_workloads);
}

/* ---- verbs that an agent carries out ---- */

static void on_agent_answer(void *arg, int res, unsigned status, const json_t *body, const struct kedge_err *err)
{
	struct question *q = arg;
	json_t *copy;

	if (res) {
		http_respond_err(q->req, err, "kedge host list");
	} else {
		copy = json_deep_copy(body);
		if (status == 200)
			json_object_set_new(copy, "host", json_string(q->h->name));
		http_respond(q->req, status, copy);
	}
	free(q);
}

/* body is taken over. */
static void pass_on(struct question *q, struct host *h, const char *path, json_t *body)
{
	struct kedge_uuid request;
	char id[KEDGE_UUID_TEXT_MAX];

	kedge_uuid_create(&request);
	kedge_uuid_format(&request, id);
	json_object_set_new(body, "v", json_integer(1));
	json_object_set_new(body, "request", json_string(id));
	q->h = h;
	http_call(q->s->client, h->name, h->address, "POST", path, body, VERB_TIMEOUT_MS, on_agent_answer, q);
	json_decref(body);
}

/* Names are unique in the cluster, not on a host: a drain must not find its name taken. Nor may a host that is being emptied get a
 * volume that the drain's plan does not know. */
static void make_volume(struct question *q)
{
	struct http_request *req = q->req;
	struct host *h = host_by_name(q->s, text(req->body, "host"));
	struct host *owner = owner_of_volume(q->s, text(req->body, "name"));
	const struct coord_cordon *cordon = h ? cordon_of(q->s, h->name) : NULL;
	char uncordon[KEDGE_NAME_MAX + 32];
	json_t *body;

	if (!h) {
		refuse(req, -ENOENT, "kedge host list", "no host is called %s", text(req->body, "host"));
	} else if (owner) {
		refuse(req, -EEXIST, "kedge volume list", "a volume named %s is on host %s", text(req->body, "name"), owner->name);
	} else if (cordon) {
		snprintf(uncordon, sizeof uncordon, "kedge host uncordon %s", h->name);
		refuse(req, KEDGE_E_STATE, uncordon, "host %s is cordoned by %s%s%s", h->name, cordon->owner, cordon->reason[0] ? ": " : "",
		       cordon->reason);
	} else {
		body = json_copy((json_t *)req->body);
		json_object_del(body, "host");
		pass_on(q, h, "/v1/volume", body);
		return;
	}
	free(q);
}

static void on_post_volume(void *arg, struct http_request *req)
{
	ask_hosts_first(arg, req, make_volume);
}

static void add_workload(struct question *q)
{
	struct http_request *req = q->req;
	struct host *h = owner_of_volume(q->s, text(req->body, "volume"));
	struct host *other = owner_of_workload(q->s, text(req->body, "name"));
	json_t *body;

	if (!h) {
		refuse(req, -ENOENT, "kedge volume list", "no volume is called %s", text(req->body, "volume"));
	} else if (other) {
		refuse(req, -EEXIST, "kedge workload list", "a workload named %s is on host %s", text(req->body, "name"), other->name);
	} else {
		body = json_copy((json_t *)req->body);
		json_object_set_new(body, "verb", json_string("add"));
		pass_on(q, h, "/v1/workload", body);
		return;
	}
	free(q);
}

static void on_post_workload(void *arg, struct http_request *req)
{
	ask_hosts_first(arg, req, add_workload);
}

static void tell_workload_to(struct question *q, const char *verb)
{
	const char *name = q->req->param[0];
	struct host *h = owner_of_workload(q->s, name);

	if (h) {
		pass_on(q, h, "/v1/workload", json_pack("{s:s, s:s}", "verb", verb, "name", name));
		return;
	}
	refuse(q->req, -ENOENT, "kedge workload list", "no workload is called %s", name);
	free(q);
}

static void start_workload(struct question *q)
{
	tell_workload_to(q, "start");
}

static void stop_workload(struct question *q)
{
	tell_workload_to(q, "stop");
}

static void on_start_workload(void *arg, struct http_request *req)
{
	ask_hosts_first(arg, req, start_workload);
}

static void on_stop_workload(void *arg, struct http_request *req)
{
	ask_hosts_first(arg, req, stop_workload);
}

/* ---- drains ---- */

static int read_number(const json_t *body, const char *key, uint64_t max, uint64_t otherwise, uint64_t *ret_v, struct kedge_err *err)
{
	const json_t *v = json_object_get(body, key);

	*ret_v = otherwise;
	if (!v || json_is_null(v))
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is not a number from 0 to %" PRIu64, key, max);
	*ret_v = (uint64_t)json_integer_value(v);
	return 0;
}

static int read_name(const json_t *body, const char *key, char out[KEDGE_NAME_MAX + 1], struct kedge_err *err)
{
	const json_t *v = json_object_get(body, key);

	if (!v || json_is_null(v))
		return 0;
	if (!json_is_string(v) || !kedge_name_is_valid(json_string_value(v)))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL,
				     "\"%s\": a name has 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit", key);
	strcpy(out, json_string_value(v));
	return 0;
}

static int read_drain(const struct coord_service *s, const json_t *body, struct coord_drain *d, struct kedge_err *err)
{
	const char *release = text(body, "release"), *engine = text(body, "engine");
	uint64_t parallel;
	int res = fields_check(body, "v host to max_parallel dry_run workload rate_bps release hold_ms engine " PACE_FIELDS, err);

	if (!res)
		res = read_name(body, "host", d->host, err);
	if (!res)
		res = read_name(body, "to", d->to, err);
	if (!res)
		res = read_name(body, "workload", d->workload, err);
	if (!res)
		res = read_number(body, "max_parallel", MAX_PARALLEL, 1, &parallel, err);
	if (!res)
		res = read_number(body, "rate_bps", INT64_MAX, 0, &d->rate_bps, err);
	if (!res)
		res = pace_read(body, &d->pace, err);
	if (!res)
		res = read_number(body, "hold_ms", INT64_MAX / 2, s->config->hold_ms, &d->hold_ms, err);
	if (res)
		return res;
	if (*release && strcmp(release, "delete") != 0 && strcmp(release, "keep") != 0)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"release\" is \"delete\" or \"keep\"");
	d->is_release_delete = *release ? strcmp(release, "delete") == 0 : s->config->is_release_delete;
	if (*engine && strcmp(engine, "auto") != 0 && strcmp(engine, "user") != 0 && strcmp(engine, "dm") != 0)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"engine\" is \"auto\", \"user\" or \"dm\"");
	strcpy(d->engine, *engine ? engine : "auto");
	d->max_parallel = parallel ? (unsigned)parallel : 1;
	if (!d->host[0])
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"host\" is missing");
	return 0;
}

/* Which hosts there are is known without asking them. */
static bool has_hosts(struct coord_service *s, struct http_request *req, const struct coord_drain *d)
{
	return named_host(s, req, d->host) && (!d->to[0] || named_host(s, req, d->to));
}

static void answer_plan(struct http_request *req, unsigned status, const struct coord_plan *plan)
{
	http_respond(req, status, json_pack("{s:i, s:o}", "v", 1, "plan", coord_plan_json(plan)));
}

/* A host that is being emptied takes nothing in, until an operator says so. */
static void cordon_drained(struct coord_service *s, const struct coord_drain *d)
{
	struct coord_cordon c = {0};
	struct kedge_err err = {0};
	char id[KEDGE_UUID_TEXT_MAX];

	if (d->workload[0] || cordon_of(s, d->host))
		return;
	kedge_uuid_format(&d->id, id);
	snprintf(c.host, sizeof c.host, "%s", d->host);
	snprintf(c.owner, sizeof c.owner, "drain");
	snprintf(c.reason, sizeof c.reason, "drain %s", id);
	if (cordon_set(s, &c, &err))
		kedge_warn("host %s is not cordoned: %s", d->host, err.msg);
}

static void start_drain(struct coord_service *s, struct http_request *req, struct coord_drain *d, const struct coord_plan *plan)
{
	struct kedge_err err = {0};
	struct drain *drain;

	kedge_uuid_create(&d->id);
	d->started_ms = coord_now_ms();
	if (drain_create(s, d, plan, &drain, &err)) {
		http_respond_err(req, &err, NULL);
		return;
	}
	cordon_drained(s, d);
	http_respond(req, 201, drain_json(s, drain));
}

static void plan_drain(struct question *q)
{
	struct coord_service *s = q->s;
	struct http_request *req = q->req;
	struct coord_drain d = {0};
	struct kedge_err err = {0};
	struct coord_plan plan = {0};
	struct run *busy = NULL;
	json_t *snapshot;

	if (read_drain(s, req->body, &d, &err)) {
		http_respond_err(req, &err, NULL);
		free(q);
		return;
	}
	snapshot = hosts_snapshot(s);
	json_object_set_new(snapshot, "engine", json_string(d.engine));
	if (coord_plan(snapshot, d.host, d.to[0] ? d.to : NULL, d.workload[0] ? d.workload : NULL, &plan)) {
		refuse(req, -ENOMEM, NULL, "no memory for a plan");
	} else {
		if (d.workload[0] && plan.nr_moves == 1)
			busy = run_of_volume(s, plan.moves[0].volume);
		if (json_is_true(json_object_get(req->body, "dry_run")))
			answer_plan(req, 200, &plan);
		else if (busy)
			refuse(req, KEDGE_E_BUSY_VOLUME, "kedge status", "volume %s has a migration under way, from %s to %s", busy->f.m.volume,
			       busy->f.m.from, busy->f.m.to);
		else if (coord_plan_is_blocked(&plan))
			answer_plan(req, 412, &plan);
		else
			start_drain(s, req, &d, &plan);
	}
	coord_plan_fini(&plan);
	json_decref(snapshot);
	free(q);
}

static void on_post_drain(void *arg, struct http_request *req)
{
	struct coord_service *s = arg;
	struct coord_drain d = {0};
	struct kedge_err err = {0};

	if (read_drain(s, req->body, &d, &err))
		http_respond_err(req, &err, NULL);
	else if (has_hosts(s, req, &d))
		ask_hosts_first(s, req, plan_drain);
}

static void on_get_drains(void *arg, struct http_request *req)
{
	struct coord_service *s = arg;
	json_t *drains = json_array();

	for (const struct drain *d = s->drains; d; d = d->next)
		json_array_append_new(drains, drain_json(s, d));
	http_respond(req, 200, json_pack("{s:i, s:o}", "v", 1, "drains", drains));
}

static struct drain *named_drain(struct coord_service *s, struct http_request *req)
{
	struct drain *d = drain_by_id(s, req->param[0]);

	if (!d)
		refuse(req, -ENOENT, "kedge status", "there is no drain %s", req->param[0]);
	return d;
}

static struct run *named_run(struct coord_service *s, struct http_request *req)
{
	struct run *r = run_by_id(s, req->param[0]);

	if (!r)
		refuse(req, -ENOENT, "kedge status", "there is no migration %s", req->param[0]);
	return r;
}

static void on_get_drain(void *arg, struct http_request *req)
{
	struct drain *d = named_drain(arg, req);

	if (d)
		http_respond(req, 200, drain_json(arg, d));
}

static void on_get_migration(void *arg, struct http_request *req)
{
	struct run *r = named_run(arg, req);

	if (r)
		http_respond(req, 200, migration_json(r));
}

static void on_abort_drain(void *arg, struct http_request *req)
{
	struct coord_service *s = arg;
	struct drain *d = named_drain(s, req);
	json_t *aborted = json_array(), *going_on = json_array();

	if (!d) {
		json_decref(aborted);
		json_decref(going_on);
		return;
	}
	event_add(s, &d->d.id, NULL, "abort", "an operator aborts the %s of %s", d->d.workload[0] ? "move" : "drain",
		  d->d.workload[0] ? d->d.workload : d->d.host);
	for (struct run *r = s->runs; r; r = r->next) {
		if (!drain_has(d, r) || coord_core_is_over(&r->f))
			continue;
		json_array_append_new(run_abort(r, NULL) ? going_on : aborted, json_string(r->f.m.volume));
	}
	drains_look(s);
	http_respond(req, 200, json_pack("{s:i, s:o, s:o}", "v", 1, "aborted", aborted, "going_on", going_on));
}

static void on_abort_migration(void *arg, struct http_request *req)
{
	struct coord_service *s = arg;
	struct run *r = named_run(s, req);
	struct kedge_err err = {0};

	if (!r)
		return;
	if (run_abort(r, &err)) {
		http_respond_err(req, &err, "kedge status");
		return;
	}
	drains_look(s);
	http_respond(req, 200, json_pack("{s:i, s:[s], s:[]}", "v", 1, "aborted", r->f.m.volume, "going_on"));
}

/* ---- the rest ---- */

static void tell_status(struct question *q)
{
	struct coord_service *s = q->s;
	json_t *drains = json_array(), *migrations = json_array();

	for (const struct drain *d = s->drains; d; d = d->next)
		if (d->d.state == COORD_DRAIN_RUNNING)
			json_array_append_new(drains, drain_json(s, d));
	for (const struct run *r = s->runs; r; r = r->next)
		if (!coord_core_is_over(&r->f))
			json_array_append_new(migrations, migration_json(r));
	http_respond(q->req, 200, json_pack("{s:i, s:s, s:s, s:o, s:o, s:o}", "v", 1, "role", "coordinator", "host", s->config->host,
					    "hosts", all_hosts(s), "drains", drains, "migrations", migrations));
	free(q);
}

static void on_get_status(void *arg, struct http_request *req)
{
	ask_hosts_first(arg, req, tell_status);
}

static void tell_why(struct question *q)
{
	json_t *why = why_json(q->s, q->req->param[0]);

	if (why)
		http_respond(q->req, 200, why);
	else
		refuse(q->req, -ENOENT, "kedge status", "there is no drain, migration, volume or workload %s", q->req->param[0]);
	free(q);
}

static void on_get_why(void *arg, struct http_request *req)
{
	ask_hosts_first(arg, req, tell_why);
}

/* Usually sealed when the migration ended; one that a crash cut off is sealed now. */
static void on_get_receipt(void *arg, struct http_request *req)
{
	struct coord_service *s = arg;
	struct run *r = run_by_id(s, req->param[0]);
	char *receipt = r ? coord_store_get_receipt(s->store, req->param[0]) : NULL;

	if (r && !receipt && r->f.m.step == COORD_DONE)
		receipt = receipt_text(r);
	if (receipt)
		http_respond(req, 200, json_loads(receipt, 0, NULL));
	else
		refuse(req, -ENOENT, "kedge status", "there is no receipt of %s (yet)", req->param[0]);
	free(receipt);
}

static void add_routes(struct coord_service *s, struct http_server *server)
{
	static const struct {
		const char *method, *pattern;
		http_handler_fn fn;
	} routes[] = {
		{"GET", "/v1/status", on_get_status},
		{"GET", "/v1/hosts", on_get_hosts},
		{"POST", "/v1/hosts/:name/cordon", on_cordon},
		{"POST", "/v1/hosts/:name/uncordon", on_uncordon},
		{"GET", "/v1/volumes", on_get_volumes},
		{"GET", "/v1/volumes/:name", on_get_volumes},
		{"POST", "/v1/volumes", on_post_volume},
		{"GET", "/v1/workloads", on_get_workloads},
		{"POST", "/v1/workloads", on_post_workload},
		{"POST", "/v1/workloads/:name/start", on_start_workload},
		{"POST", "/v1/workloads/:name/stop", on_stop_workload},
		{"POST", "/v1/drains", on_post_drain},
		{"GET", "/v1/drains", on_get_drains},
		{"GET", "/v1/drains/:id", on_get_drain},
		{"POST", "/v1/drains/:id/abort", on_abort_drain},
		{"GET", "/v1/migrations/:id", on_get_migration},
		{"POST", "/v1/migrations/:id/abort", on_abort_migration},
		{"GET", "/v1/why/:id", on_get_why},
		{"GET", "/v1/events", on_get_events},
		{"GET", "/v1/receipts/:id", on_get_receipt},
	};

	for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++)
		http_server_route(server, routes[i].method, routes[i].pattern, HTTP_LOCAL, routes[i].fn, s);
}

int coord_service_create(uv_loop_t *loop, const struct kedged_config *config, struct http_server *server,
			 struct http_client *client, struct coord_service **ret_s, struct kedge_err *err)
{
	struct coord_service *s = calloc(1, sizeof *s);
	char path[KEDGED_PATH_MAX + 32];
	int res;

	if (!s)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for the coordinator");
	s->loop = loop;
	s->config = config;
	s->client = client;
	s->runs_end = &s->runs;
	s->drains_end = &s->drains;
	snprintf(path, sizeof path, "%s/coordinator.db", config->state_dir);
	res = coord_store_open(path, &s->store, err);
	if (res) {
		kedge_err_prefix(err, "coordinator");
		free(s);
		return res;
	}
	hosts_init(s);
	s->last_seq = coord_store_last_event(s->store);
	res = drains_load(s, err);
	if (res) {
		kedge_err_prefix(err, "coordinator");
		coord_service_destroy(s);
		return res;
	}
	add_routes(s, server);
	*ret_s = s;
	return 0;
}

static void on_poll_closed(uv_handle_t *handle)
{
	free(handle->data); /* the service, which holds the handle */
}

void coord_service_destroy(struct coord_service *s)
{
	if (!s)
		return;
	events_fini(s);
	hosts_fini(s);
	while (s->runs) {
		struct run *r = s->runs;
		s->runs = r->next;
		run_destroy(r);
	}
	while (s->drains) {
		struct drain *d = s->drains;
		s->drains = d->next;
		free(d);
	}
	coord_store_close(s->store);
	uv_close((uv_handle_t *)&s->poll, on_poll_closed);
}
