/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Plans drains: destinations, room, blockers. Pure.
 */
#include "coord_plan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent_core.h"
#include "kedge/size.h"

static const char *text(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));

	return t ? t : "";
}

static uint64_t number(const json_t *o, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(o, key));

	return v > 0 ? (uint64_t)v : 0;
}

static void block(json_t *blockers, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void block(json_t *blockers, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	json_array_append_new(blockers, json_string(line));
}

static const json_t *host_of(const json_t *snapshot, const char *name)
{
	size_t i;
	json_t *host;

	json_array_foreach(json_object_get(snapshot, "hosts"), i, host)
		if (strcmp(text(host, "name"), name) == 0)
			return host;
	return NULL;
}

/* The record of a volume on a host, by its name or (when uuid is not NULL) by its uuid. */
static const json_t *volume_on(const json_t *host, const char *name, const char *uuid)
{
	size_t i;
	json_t *v;

	json_array_foreach(json_object_get(json_object_get(host, "facts"), "volumes"), i, v)
		if (strcmp(text(v, uuid ? "uuid" : "name"), uuid ? uuid : name) == 0)
			return v;
	return NULL;
}

static const json_t *workload_on(const json_t *host, const char *key, const char *value)
{
	size_t i;
	json_t *w;

	json_array_foreach(json_object_get(json_object_get(host, "facts"), "workloads"), i, w)
		if (strcmp(text(w, key), value) == 0)
			return w;
	return NULL;
}

unsigned coord_state_rank(const char *state)
{
	if (strcmp(state, "local") == 0 || strcmp(state, "cloning") == 0)
		return 3;
	if (strcmp(state, "fenced") == 0)
		return 2;
	return strcmp(state, "reserved") == 0 ? 1 : 0;
}

/* ---- one move ---- */

/* What a host lacks as a destination, as a reason; NULL: nothing. */
static const char *unfit(const json_t *host, char *out, size_t out_max)
{
	const char *cordon = json_string_value(json_object_get(host, "cordon"));

	if (!json_is_true(json_object_get(host, "is_up")))
		snprintf(out, out_max, "host %s does not answer", text(host, "name"));
	else if (cordon)
		snprintf(out, out_max, "host %s is cordoned (%s); kedge host uncordon %s", text(host, "name"), cordon, text(host, "name"));
	else if (json_is_true(json_object_get(host, "is_draining")))
		snprintf(out, out_max, "host %s is being drained itself", text(host, "name"));
	else
		return NULL;
	return out;
}

/* Room there, less what this plan has given away already. */
static uint64_t room_on(const struct coord_plan *p, const json_t *host)
{
	uint64_t free_bytes = number(json_object_get(host, "facts"), "free_bytes"), planned = 0;

	for (size_t i = 0; i < p->nr_moves; i++)
		if (strcmp(p->moves[i].to, text(host, "name")) == 0)
			planned += p->moves[i].need_bytes;
	return free_bytes > planned ? free_bytes - planned : 0;
}

/* What is on the destination that does not go together with the volume. */
static void check_destination(struct coord_move *m, const json_t *host, const char *uuid)
{
	const json_t *same = volume_on(host, NULL, uuid), *namesake = volume_on(host, m->volume, NULL);
	const json_t *workload = m->workload[0] ? workload_on(host, "name", m->workload) : NULL;
	const char *state = same ? text(same, "state") : "";

	if (strcmp(state, "fenced") == 0)
		block(m->blockers, "host %s still holds the copy of an earlier move, until that is released", m->to);
	else if (same && coord_state_rank(state))
		block(m->blockers, "host %s has this volume already (%s)", m->to, state);
	if (namesake && !same)
		block(m->blockers, "host %s has another volume named %s", m->to, m->volume);
	if (workload && strcmp(text(workload, "volume"), m->volume) != 0)
		block(m->blockers, "host %s has another workload named %s", m->to, m->workload);
}

static void choose_destination(const json_t *snapshot, const struct coord_plan *p, struct coord_move *m)
{
	const char *best = NULL;
	char why[256];
	size_t i;
	json_t *host;

	json_array_foreach(json_object_get(snapshot, "hosts"), i, host) {
		uint64_t room = room_on(p, host);
		if (strcmp(text(host, "name"), p->host) == 0 || unfit(host, why, sizeof why))
			continue;
		if (!best || room > m->free_bytes) {
			best = text(host, "name");
			m->free_bytes = room;
		}
	}
	if (best)
		snprintf(m->to, sizeof m->to, "%s", best);
	else
		block(m->blockers, "no host is there to take it: none is up, not cordoned and not being drained");
}

/* dm where the host has it, unless an operator said otherwise. A host that does not tell has the user engine. */
static void choose_engine(const json_t *snapshot, const json_t *host, struct coord_move *m)
{
	const char *asked = text(snapshot, "engine"), *why = text(json_object_get(host, "facts"), "engine_why");
	bool has_dm = false;
	size_t i;
	json_t *engine;

	json_array_foreach(json_object_get(json_object_get(host, "facts"), "engines"), i, engine)
		if (json_is_string(engine) && strcmp(json_string_value(engine), "dm") == 0)
			has_dm = true;
	strcpy(m->engine, strcmp(asked, "user") != 0 && (has_dm || strcmp(asked, "dm") == 0) ? "dm" : "user");
	if (strcmp(m->engine, "dm") == 0 && !has_dm && json_is_true(json_object_get(host, "is_up")))
		block(m->blockers, "host %s has no engine dm%s%s; leave out --engine", m->to, *why ? ": " : "", why);
}

static void place(const json_t *snapshot, const struct coord_plan *p, const char *to, struct coord_move *m, const char *uuid)
{
	char need[32], room[32];
	const json_t *host;

	if (to) {
		snprintf(m->to, sizeof m->to, "%s", to);
		m->free_bytes = room_on(p, host_of(snapshot, to));
	} else {
		choose_destination(snapshot, p, m);
	}
	if (!m->to[0])
		return;
	host = host_of(snapshot, m->to);
	check_destination(m, host, uuid);
	choose_engine(snapshot, host, m);
	if (json_is_true(json_object_get(host, "is_up")) && m->need_bytes > m->free_bytes)
		block(m->blockers, "not enough room on %s: %s are needed, %s are free", m->to,
		      kedge_size_format(m->need_bytes, need, sizeof need), kedge_size_format(m->free_bytes, room, sizeof room));
}

static uint64_t highest_epoch(const json_t *snapshot, const char *uuid)
{
	uint64_t highest = 0;
	size_t i;
	json_t *host;

	json_array_foreach(json_object_get(snapshot, "hosts"), i, host) {
		const json_t *v = volume_on(host, NULL, uuid);
		if (v && number(v, "epoch") > highest)
			highest = number(v, "epoch");
	}
	return highest;
}

static void plan_move(const json_t *snapshot, const struct coord_plan *p, const char *to, const json_t *volume,
		      const json_t *workload, struct coord_move *m)
{
	const char *busy = json_string_value(json_object_get(json_object_get(snapshot, "busy"), text(volume, "name")));
	const char *state = text(volume, "state"), *uuid = text(volume, "uuid");

	m->blockers = json_array();
	snprintf(m->volume, sizeof m->volume, "%s", text(volume, "name"));
	if (kedge_uuid_parse(uuid, &m->volume_uuid))
		block(m->blockers, "its uuid is unreadable");
	m->size_bytes = number(volume, "size_bytes");
	m->lbs_bytes = (uint32_t)number(volume, "lbs_bytes");
	m->need_bytes = agent_room_needed(m->size_bytes);
	m->epoch = highest_epoch(snapshot, uuid);
	if (workload) {
		snprintf(m->workload, sizeof m->workload, "%s", text(workload, "name"));
		m->spec = json_deep_copy(json_object_get(workload, "spec"));
		m->wants_start = strcmp(text(workload, "state"), "stopped") != 0;
	}
	if (m->size_bytes == 0 || m->size_bytes % 4096 != 0)
		block(m->blockers, "its size of %" PRIu64 " bytes is no multiple of 4096", m->size_bytes);
	if (busy)
		block(m->blockers, "%s", busy);
	else if (strcmp(state, "cloning") == 0)
		block(m->blockers, "it is still arriving on host %s", p->host);
	else if (strcmp(state, "local") != 0)
		block(m->blockers, "it is %s on host %s", state, p->host);
	place(snapshot, p, to, m, uuid);
}

/* ---- the whole ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(text(*(json_t *const *)a, "name"), text(*(json_t *const *)b, "name"));
}

/* The volumes of a host by name: agents tell them in no order that a person would know. NULL: no memory. Borrowed references. */
static json_t **volumes_by_name(const json_t *host, size_t *ret_nr)
{
	const json_t *volumes = json_object_get(json_object_get(host, "facts"), "volumes");
	size_t nr = json_array_size(volumes);
	json_t **sorted = calloc(nr + 1, sizeof *sorted);

	for (size_t i = 0; sorted && i < nr; i++)
		sorted[i] = json_array_get(volumes, i);
	if (sorted)
		qsort(sorted, nr, sizeof *sorted, by_name);
	*ret_nr = nr;
	return sorted;
}

static bool check_host(const json_t *snapshot, const char *name, const char *role, json_t *blockers)
{
	const json_t *host = host_of(snapshot, name);

	if (!host)
		block(blockers, "no host is called %s", name);
	else if (!json_is_true(json_object_get(host, "is_up")))
		block(blockers, "%s %s does not answer", role, name);
	return host != NULL;
}

int coord_plan(const json_t *snapshot, const char *host, const char *to, const char *workload, struct coord_plan *ret_plan)
{
	struct coord_plan *p = ret_plan;
	const json_t *source = host_of(snapshot, host), *w;
	char why[256];
	size_t nr;
	json_t **volumes;

	memset(p, 0, sizeof *p);
	snprintf(p->host, sizeof p->host, "%s", host);
	p->blockers = json_array();
	if (!p->blockers)
		return -ENOMEM;
	if (!check_host(snapshot, host, "the source", p->blockers) || (to && !host_of(snapshot, to))) {
		if (to && source)
			check_host(snapshot, to, "the destination", p->blockers);
		return 0;
	}
	if (to && strcmp(to, host) == 0)
		block(p->blockers, "host %s is where it is already", to);
	else if (to && unfit(host_of(snapshot, to), why, sizeof why))
		block(p->blockers, "%s", why);
	volumes = volumes_by_name(source, &nr);
	p->moves = calloc(nr + 1, sizeof *p->moves);
	if (!p->moves || !volumes) {
		free(volumes);
		return -ENOMEM;
	}
	for (size_t i = 0; i < nr; i++) {
		const json_t *volume = volumes[i];
		const char *state = text(volume, "state");
		w = workload_on(source, "volume", text(volume, "name"));
		if (workload && (!w || strcmp(text(w, "name"), workload) != 0))
			continue;
		/* What has left or was never here: not this host's to give. A volume in motion to here is, and blocks. */
		if (strcmp(state, "retained") == 0 || strcmp(state, "revoked") == 0 || strcmp(state, "unknown") == 0 ||
		    (strcmp(state, "fenced") == 0 && !workload))
			continue;
		plan_move(snapshot, p, to, volume, w, &p->moves[p->nr_moves]);
		p->nr_moves++;
	}
	free(volumes);
	if (workload && p->nr_moves == 0)
		block(p->blockers, "no workload %s is on host %s", workload, host);
	return 0;
}

void coord_plan_fini(struct coord_plan *p)
{
	for (size_t i = 0; i < p->nr_moves; i++) {
		json_decref(p->moves[i].spec);
		json_decref(p->moves[i].blockers);
	}
	free(p->moves);
	json_decref(p->blockers);
	memset(p, 0, sizeof *p);
}

bool coord_plan_is_blocked(const struct coord_plan *p)
{
	if (json_array_size(p->blockers))
		return true;
	for (size_t i = 0; i < p->nr_moves; i++)
		if (json_array_size(p->moves[i].blockers))
			return true;
	return false;
}

json_t *coord_plan_json(const struct coord_plan *p)
{
	json_t *moves = json_array();

	for (size_t i = 0; i < p->nr_moves; i++) {
		const struct coord_move *m = &p->moves[i];
		json_array_append_new(moves, json_pack("{s:s?, s:s, s:s?, s:s?, s:I, s:I, s:I, s:O}", "workload",
						       m->workload[0] ? m->workload : NULL, "volume", m->volume, "to",
						       m->to[0] ? m->to : NULL, "engine", m->engine[0] ? m->engine : NULL, "size_bytes",
						       (json_int_t)m->size_bytes, "need_bytes", (json_int_t)m->need_bytes, "free_bytes",
						       (json_int_t)m->free_bytes, "blockers", m->blockers));
	}
	return json_pack("{s:s, s:o, s:O}", "host", p->host, "moves", moves, "blockers", p->blockers);
}
