/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What the hosts say of themselves: asked each second, and before an operator's question is answered. Cordons.
 *
 * Owns. The last facts of each host; those who wait for new ones.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. Facts are not kept: agents are asked anew. A cordon is recorded before it is answered.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coord_int.h"
#include "kedge/log.h"

#define POLL_MS 1000
#define FACTS_TIMEOUT_MS 3000

struct refresh {
	struct refresh *next;
	struct coord_service *s;
	uint64_t waits_for; /* bit i: host i */
	void (*fn)(void *arg);
	void *arg;
};

static const char *text(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));

	return t ? t : "";
}

struct host *host_by_name(struct coord_service *s, const char *name)
{
	for (unsigned i = 0; i < s->nr_hosts; i++)
		if (strcmp(s->hosts[i].name, name) == 0)
			return &s->hosts[i];
	return NULL;
}

/* ---- asking ---- */

static void end_waits(struct coord_service *s, unsigned host)
{
	struct refresh **at = &s->refreshes, *over = NULL;

	while (*at) {
		struct refresh *r = *at;
		r->waits_for &= ~(1ull << host);
		if (r->waits_for) {
			at = &r->next;
			continue;
		}
		*at = r->next;
		r->next = over;
		over = r;
	}
	while (over) {
		struct refresh *r = over;
		over = r->next;
		r->fn(r->arg); /* may ask anew */
		free(r);
	}
}

static void set_up(struct host *h, bool is_up, const char *trouble)
{
	if (h->is_up != is_up || !h->is_known)
		kedge_info("host %s is %s%s%s", h->name, is_up ? "up" : "out of reach", trouble[0] ? ": " : "", trouble);
	h->is_known = true;
	h->is_up = is_up;
	snprintf(h->trouble, sizeof h->trouble, "%s", trouble);
}

static void on_facts(void *arg, int res, unsigned status, const json_t *body, const struct kedge_err *err)
{
	struct host *h = arg;
	char trouble[KEDGE_ERR_MSG_MAX];

	h->is_asked = false;
	if (res) {
		set_up(h, false, err->msg);
	} else if (status != 200) {
		snprintf(trouble, sizeof trouble, "it answers with status %u", status);
		set_up(h, false, trouble);
	} else if (strcmp(text(body, "host"), h->name) != 0) {
		snprintf(trouble, sizeof trouble, "the daemon at %s calls itself %s: correct [host %s]", h->address, text(body, "host"),
			 h->name);
		set_up(h, false, trouble);
	} else {
		json_decref(h->facts);
		h->facts = json_incref((json_t *)body);
		set_up(h, true, "");
	}
	end_waits(h->s, (unsigned)(h - h->s->hosts));
}

static void ask(struct host *h)
{
	if (h->is_asked)
		return;
	h->is_asked = true;
	http_call(h->s->client, h->name, h->address, "GET", "/v1/host", NULL, FACTS_TIMEOUT_MS, on_facts, h);
}

static void on_poll(uv_timer_t *timer)
{
	struct coord_service *s = timer->data;

	for (unsigned i = 0; i < s->nr_hosts; i++)
		ask(&s->hosts[i]);
}

static void on_nothing_to_wait_for(uv_timer_t *timer)
{
	struct refresh *r = timer->data;

	r->fn(r->arg);
	free(r);
	uv_close((uv_handle_t *)timer, (uv_close_cb)free);
}

void hosts_refresh(struct coord_service *s, void (*fn)(void *arg), void *arg)
{
	struct refresh *r = calloc(1, sizeof *r);

	kedge_assert(r);
	r->s = s;
	r->fn = fn;
	r->arg = arg;
	for (unsigned i = 0; i < s->nr_hosts; i++) {
		struct host *h = &s->hosts[i];
		/* A host known to be away is asked but not waited for. An answer that is on its way counts: it is newer than the question
		 * by at most its own travel. */
		if (h->is_up || !h->is_known)
			r->waits_for |= 1ull << i;
		ask(h);
	}
	if (r->waits_for) {
		r->next = s->refreshes;
		s->refreshes = r;
		return;
	}
	uv_timer_t *timer = calloc(1, sizeof *timer);
	kedge_assert(timer);
	uv_timer_init(s->loop, timer);
	timer->data = r;
	uv_timer_start(timer, on_nothing_to_wait_for, 0, 0);
}

static int on_cordon_loaded(void *arg, const struct coord_cordon *c)
{
	struct coord_service *s = arg;
	struct coord_cordon *more = realloc(s->cordons, (s->nr_cordons + 1) * sizeof *more);

	if (!more)
		return -ENOMEM;
	s->cordons = more;
	s->cordons[s->nr_cordons++] = *c;
	return 0;
}

void hosts_init(struct coord_service *s)
{
	struct kedge_err err = {0};

	for (unsigned i = 0; i < s->config->nr_hosts; i++)
		s->hosts[s->nr_hosts++] = (struct host){.s = s, .name = s->config->hosts[i].name, .address = s->config->hosts[i].address};
	if (coord_store_load_cordons(s->store, on_cordon_loaded, s, &err))
		kedge_warn("cordons: %s", err.msg);
	uv_timer_init(s->loop, &s->poll);
	s->poll.data = s;
	uv_timer_start(&s->poll, on_poll, 0, POLL_MS);
}

void hosts_fini(struct coord_service *s)
{
	while (s->refreshes) {
		struct refresh *r = s->refreshes;
		s->refreshes = r->next;
		free(r);
	}
	for (unsigned i = 0; i < s->nr_hosts; i++)
		json_decref(s->hosts[i].facts);
	free(s->cordons);
}

/* ---- cordons ---- */

static struct coord_cordon *find_cordon(struct coord_service *s, const char *host)
{
	for (unsigned i = 0; i < s->nr_cordons; i++)
		if (strcmp(s->cordons[i].host, host) == 0)
			return &s->cordons[i];
	return NULL;
}

const struct coord_cordon *cordon_of(struct coord_service *s, const char *host)
{
	const struct coord_cordon *c = find_cordon(s, host);

	return c && c->expires_ms && c->expires_ms <= coord_now_ms() ? NULL : c;
}

int cordon_set(struct coord_service *s, const struct coord_cordon *c, struct kedge_err *err)
{
	struct coord_cordon *old = find_cordon(s, c->host);
	int res = coord_store_put_cordon(s->store, c, err);

	if (res)
		return res;
	if (!old)
		return on_cordon_loaded(s, c) ? kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a cordon") : 0;
	*old = *c;
	return 0;
}

int cordon_remove(struct coord_service *s, const char *host, struct kedge_err *err)
{
	struct coord_cordon *c = find_cordon(s, host);
	int res = coord_store_delete_cordon(s->store, host, err);

	if (!res && c)
		*c = s->cordons[--s->nr_cordons];
	return res;
}

/* ---- what is where ---- */

static json_t *record_of(const struct host *h, const char *volume)
{
	size_t i;
	json_t *v;

	json_array_foreach(json_object_get(h->facts, "volumes"), i, v)
		if (strcmp(text(v, "name"), volume) == 0)
			return v;
	return NULL;
}

/* Facts of a host that is away may be old: the epoch says which record is the newer. */
struct host *owner_of_volume(struct coord_service *s, const char *name)
{
	struct host *best = NULL;
	json_int_t best_epoch = -1;
	unsigned best_rank = 0;

	for (unsigned i = 0; i < s->nr_hosts; i++) {
		const json_t *v = record_of(&s->hosts[i], name);
		json_int_t epoch = json_integer_value(json_object_get(v, "epoch"));
		unsigned rank = v ? coord_state_rank(text(v, "state")) : 0;
		if (rank && (epoch > best_epoch || (epoch == best_epoch && rank > best_rank))) {
			best = &s->hosts[i];
			best_epoch = epoch;
			best_rank = rank;
		}
	}
	return best;
}

static json_t *workload_on(const struct host *h, const char *name)
{
	size_t i;
	json_t *w;

	json_array_foreach(json_object_get(h->facts, "workloads"), i, w)
		if (strcmp(text(w, "name"), name) == 0)
			return w;
	return NULL;
}

struct host *owner_of_workload(struct coord_service *s, const char *name)
{
	for (unsigned i = 0; i < s->nr_hosts; i++) {
		const json_t *w = workload_on(&s->hosts[i], name);
		struct host *owner = w ? owner_of_volume(s, text(w, "volume")) : NULL;
		if (owner && workload_on(owner, name))
			return owner;
		if (w && !owner)
			return &s->hosts[i];
	}
	return NULL;
}

static json_t *with_host(const json_t *record, const struct host *h)
{
	json_t *copy = json_copy((json_t *)record);

	json_object_set_new(copy, "host", json_string(h->name));
	return copy;
}

json_t *volumes_json(struct coord_service *s, const char *name)
{
	json_t *volumes = json_array(), *v;
	size_t k;

	for (unsigned i = 0; i < s->nr_hosts; i++)
		json_array_foreach(json_object_get(s->hosts[i].facts, "volumes"), k, v)
			if (!name || strcmp(text(v, "name"), name) == 0)
				json_array_append_new(volumes, with_host(v, &s->hosts[i]));
	return volumes;
}

json_t *workloads_json(struct coord_service *s)
{
	json_t *workloads = json_array(), *w;
	size_t k;

	for (unsigned i = 0; i < s->nr_hosts; i++)
		json_array_foreach(json_object_get(s->hosts[i].facts, "workloads"), k, w)
			if (owner_of_workload(s, text(w, "name")) == &s->hosts[i])
				json_array_append_new(workloads, with_host(w, &s->hosts[i]));
	return workloads;
}

/* Bytes that live only on this host while their workloads run elsewhere. */
static uint64_t exposed_on(struct coord_service *s, const struct host *h)
{
	uint64_t sum = 0;

	for (const struct run *r = s->runs; r; r = r->next) {
		json_t *m;
		if (strcmp(r->f.m.from, h->name) != 0 || coord_core_is_over(&r->f))
			continue;
		m = migration_json(r);
		sum += (uint64_t)json_integer_value(json_object_get(m, "exposed_bytes"));
		json_decref(m);
	}
	return sum;
}

static unsigned nr_volumes_on(const struct host *h)
{
	unsigned nr = 0;
	size_t i;
	json_t *v;

	json_array_foreach(json_object_get(h->facts, "volumes"), i, v)
		nr += coord_state_rank(text(v, "state")) > 0;
	return nr;
}

static unsigned nr_workloads_on(struct coord_service *s, const struct host *h)
{
	unsigned nr = 0;
	size_t i;
	json_t *w;

	json_array_foreach(json_object_get(h->facts, "workloads"), i, w)
		nr += owner_of_workload(s, text(w, "name")) == h;
	return nr;
}

json_t *host_json(struct coord_service *s, const struct host *h)
{
	const struct coord_cordon *c = cordon_of(s, h->name);
	json_t *cordon = !c ? json_null()
			    : json_pack("{s:s, s:s, s:o}", "owner", c->owner, "reason", c->reason, "expires",
					c->expires_ms ? json_integer((json_int_t)c->expires_ms) : json_null());

	const char *engine = json_string_value(json_array_get(json_object_get(h->facts, "engines"), 0));
	return json_pack("{s:s, s:s, s:s, s:s?, s:o, s:I, s:i, s:i, s:I, s:s?, s:s?}", "name", h->name, "address", h->address, "state",
			 h->is_up ? "up" : "unreachable", "trouble", h->trouble[0] ? h->trouble : NULL, "cordon", cordon, "free_bytes",
			 json_integer_value(json_object_get(h->facts, "free_bytes")), "nr_volumes", (int)nr_volumes_on(h),
			 "nr_workloads", (int)nr_workloads_on(s, h), "exposed_bytes", (json_int_t)exposed_on(s, h), "engine", engine,
			 "engine_why", json_string_value(json_object_get(h->facts, "engine_why")));
}

static bool is_draining(struct coord_service *s, const char *host)
{
	for (const struct drain *d = s->drains; d; d = d->next)
		if (d->d.state == COORD_DRAIN_RUNNING && !d->d.workload[0] && strcmp(d->d.host, host) == 0)
			return true;
	return false;
}

json_t *hosts_snapshot(struct coord_service *s)
{
	json_t *hosts = json_array(), *busy = json_object();
	char line[256], drain[KEDGE_UUID_TEXT_MAX];

	for (unsigned i = 0; i < s->nr_hosts; i++) {
		const struct host *h = &s->hosts[i];
		const struct coord_cordon *c = cordon_of(s, h->name);
		if (c)
			snprintf(line, sizeof line, "by %.100s%s%.100s", c->owner, c->reason[0] ? ": " : "", c->reason);
		json_array_append_new(hosts, json_pack("{s:s, s:b, s:s?, s:b, s:O?}", "name", h->name, "is_up", h->is_up, "cordon",
						       c ? line : NULL, "is_draining", is_draining(s, h->name), "facts", h->facts));
	}
	for (const struct run *r = s->runs; r; r = r->next) {
		if (coord_core_is_over(&r->f))
			continue;
		kedge_uuid_format(&r->f.m.drain, drain);
		snprintf(line, sizeof line, "it has a migration under way (from %s to %s, drain %s)", r->f.m.from, r->f.m.to, drain);
		json_object_set_new(busy, r->f.m.volume, json_string(line));
	}
	return json_pack("{s:o, s:o}", "hosts", hosts, "busy", busy);
}
