/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Drains and migrations as JSON for operators (docs/api.md); receipts; the one reason that decides.
 *
 * Owns. Nothing. Locks. None: the loop's thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coord_int.h"

static uint64_t number(const json_t *o, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(o, key));

	return v > 0 ? (uint64_t)v : 0;
}

static bool is_undone(const struct coord_migration *m)
{
	return (coord_row_of(m->step)->flags & COORD_UNDOING) != 0;
}

static uint64_t durable_bytes(const struct run *r)
{
	const struct coord_migration *m = &r->f.m;

	if (is_undone(m))
		return 0;
	return m->step >= COORD_HYDRATED ? m->size_bytes : number(r->progress, "durable_bytes");
}

/* A figure of the comparison with the source: so far, or as recorded. */
static json_t *compared_json(const struct run *r, const char *name, uint64_t recorded_bytes)
{
	uint64_t n = r->f.m.step == COORD_HYDRATED ? number(json_object_get(r->progress, "verify"), name) : recorded_bytes;

	return json_integer((json_int_t)n);
}

/* What lives only on the source while the workload is, or is about to be, elsewhere. */
static uint64_t exposed_bytes(const struct run *r)
{
	const struct coord_migration *m = &r->f.m;
	uint64_t durable = durable_bytes(r);

	if (is_undone(m) || m->step < COORD_BOOT_INTENT || durable >= m->size_bytes)
		return 0;
	return m->size_bytes - durable;
}

/* A range from two rates: that of now and that since the boot. */
static void add_eta(const struct run *r, json_t *out)
{
	const struct coord_migration *m = &r->f.m;
	uint64_t now = coord_now_ms(), since = m->times_ms[COORD_DEST_RUNNING], durable = durable_bytes(r), a, b;
	const json_t *hydration = json_object_get(r->progress, "hydration");
	uint64_t rate_now = number(hydration, "rate_bps");

	json_object_set_new(out, "rate_bps", json_integer((json_int_t)rate_now));
	json_object_set_new(out, "eta_ms", json_null());
	json_object_set_new(out, "eta_max_ms", json_null());
	if (m->step != COORD_DEST_RUNNING || !rate_now || now <= since || !durable)
		return;
	uint64_t rate_all = durable * 1000 / (now - since), left = m->size_bytes - durable;
	a = (uint64_t)((double)left * 1000 / (double)rate_now);
	b = rate_all ? (uint64_t)((double)left * 1000 / (double)rate_all) : a;
	json_object_set_new(out, "eta_ms", json_integer((json_int_t)(a < b ? a : b)));
	json_object_set_new(out, "eta_max_ms", json_integer((json_int_t)(a < b ? b : a)));
}

static json_t *times_json(const struct coord_migration *m)
{
	json_t *times = json_object();

	for (unsigned i = 0; i < COORD_NR_STEPS; i++)
		if (m->times_ms[i])
			json_object_set_new(times, coord_row_of((enum coord_step)i)->name, json_integer((json_int_t)m->times_ms[i]));
	return times;
}

static json_t *error_json(const struct run *r)
{
	if (r->f.last_code)
		return json_pack("{s:s, s:s}", "code", kedge_err_name(r->f.last_code), "message", r->f.last_error);
	if (is_undone(&r->f.m) && r->f.m.reason_code)
		return json_pack("{s:s, s:s}", "code", kedge_err_name(r->f.m.reason_code), "message", r->f.m.reason);
	return json_null();
}

json_t *migration_json(const struct run *r)
{
	const struct coord_migration *m = &r->f.m;
	char id[KEDGE_UUID_TEXT_MAX], drain[KEDGE_UUID_TEXT_MAX], uuid[KEDGE_UUID_TEXT_MAX];
	uint64_t downtime_ms;
	json_t *out;

	kedge_uuid_format(&m->id, id);
	kedge_uuid_format(&m->drain, drain);
	kedge_uuid_format(&m->volume_uuid, uuid);
	out = json_pack("{s:s, s:s, s:s, s:s, s:s?, s:s, s:s, s:I, s:s, s:s, s:s, s:i, s:o, s:I}", "id", id, "drain", drain, "volume",
			m->volume, "volume_uuid", uuid, "workload", m->workload[0] ? m->workload : NULL, "from", m->from, "to", m->to,
			"epoch", (json_int_t)m->epoch, "step", coord_row_of(m->step)->name, "state", coord_core_state_name(&r->f),
			"phase_text", coord_row_of(m->step)->text, "attempts", (int)r->f.nr_tries, "last_error", error_json(r),
			"next_try_ms", (json_int_t)r->f.next_try_ms);
	json_object_set_new(out, "engine", json_string(m->engine[0] ? m->engine : "user"));
	json_object_set_new(out, "size_bytes", json_integer((json_int_t)m->size_bytes));
	json_object_set_new(out, "durable_bytes", json_integer((json_int_t)durable_bytes(r)));
	json_object_set_new(out, "written_bytes",
			    json_integer((json_int_t)(m->written_bytes ? m->written_bytes : number(r->progress, "written_bytes"))));
	json_object_set_new(out, "verified_bytes", compared_json(r, "verified_bytes", m->verified_bytes));
	json_object_set_new(out, "checksum_bytes", compared_json(r, "checksum_bytes", m->checksum_bytes));
	json_object_set_new(out, "hole_bytes", compared_json(r, "hole_bytes", m->hole_bytes));
	json_object_set_new(out, "sampled_bytes", compared_json(r, "sampled_bytes", m->sampled_bytes));
	json_object_set_new(out, "left_out_bytes", json_integer((json_int_t)m->left_out_bytes));
	json_object_set_new(out, "exposed_bytes", json_integer((json_int_t)exposed_bytes(r)));
	add_eta(r, out);
	json_object_set_new(out, "downtime_ms",
			    coord_core_downtime(m, &downtime_ms) ? json_integer((json_int_t)downtime_ms) : json_null());
	json_object_set_new(out, "times", times_json(m));
	return out;
}

json_t *drain_json(struct coord_service *s, const struct drain *d)
{
	static const char *const states[] = {"running", "done", "failed", "partly", "aborted"};
	char id[KEDGE_UUID_TEXT_MAX];
	json_t *migrations = json_array(), *out;

	kedge_uuid_format(&d->d.id, id);
	for (const struct run *r = s->runs; r; r = r->next)
		if (drain_has(d, r))
			json_array_append_new(migrations, migration_json(r));
	out = json_pack("{s:s, s:s, s:s?, s:s?, s:s, s:i, s:I, s:o, s:o, s:s, s:I, s:b, s:n, s:n, s:n}", "id", id, "host", d->d.host, "to",
			 d->d.to[0] ? d->d.to : NULL, "workload", d->d.workload[0] ? d->d.workload : NULL, "state",
			 states[drain_state(s, d)], "max_parallel", (int)d->d.max_parallel, "started_ms", (json_int_t)d->d.started_ms,
			 "ended_ms", d->d.ended_ms ? json_integer((json_int_t)d->d.ended_ms) : json_null(), "migrations", migrations,
			 "release", d->d.is_release_delete ? "delete" : "keep", "hold_ms", (json_int_t)d->d.hold_ms, "is_host_cordoned",
			 !d->d.workload[0] && cordon_of(s, d->d.host), "floor_bps", "latency_percent", "transit");
	pace_write(&d->d.pace, out);
	return out;
}

char *receipt_text(const struct run *r)
{
	const struct coord_migration *m = &r->f.m;
	char id[KEDGE_UUID_TEXT_MAX], uuid[KEDGE_UUID_TEXT_MAX], mac[HTTP_MAC_MAX], *text;
	uint64_t downtime_ms;
	json_t *out;

	kedge_uuid_format(&m->id, id);
	kedge_uuid_format(&m->volume_uuid, uuid);
	out = json_pack("{s:i, s:s, s:s, s:s, s:s?, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:{s:s, s:b}}", "v", 1, "migration", id,
			"volume", m->volume, "volume_uuid", uuid, "workload", m->workload[0] ? m->workload : NULL, "from", m->from, "to",
			m->to, "epoch", (json_int_t)m->epoch, "size_bytes", (json_int_t)m->size_bytes, "written_bytes", (json_int_t)m->written_bytes, "mismatch_bytes",
			(json_int_t)m->mismatch_bytes, "left_out_bytes", (json_int_t)m->left_out_bytes, "downtime_ms",
			coord_core_downtime(m, &downtime_ms) ? json_integer((json_int_t)downtime_ms) : json_null(), "steps",
			times_json(m), "source", "policy", m->is_release_delete ? "delete" : "keep", "released", m->is_released);
	if (coord_core_is_told(m)) {
		json_object_set_new(out, "verified_bytes", json_integer((json_int_t)m->verified_bytes));
		json_object_set_new(out, "checksum_bytes", json_integer((json_int_t)m->checksum_bytes));
		json_object_set_new(out, "hole_bytes", json_integer((json_int_t)m->hole_bytes));
		json_object_set_new(out, "sampled_bytes", json_integer((json_int_t)m->sampled_bytes));
		json_object_set_new(out, "sample_seed", json_integer((json_int_t)m->sample_seed));
	}
	text = out ? json_dumps(out, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	if (text) {
		http_auth_mac(r->s->config->secret, r->s->config->secret_bytes, text, strlen(text), mac);
		free(text);
		json_object_set_new(out, "mac", json_string(mac));
		text = json_dumps(out, JSON_COMPACT | JSON_SORT_KEYS);
	}
	json_decref(out);
	return text;
}

/* ---- why ---- */

static json_t *because(const char *reason, const char *command)
{
	return json_pack("{s:i, s:s, s:s?}", "v", 1, "reason", reason, "command", command && *command ? command : NULL);
}

/* Trouble of the clone itself, while it hydrates. */
static bool why_clone(const struct run *r, char *out, size_t out_max)
{
	const json_t *source = json_object_get(r->progress, "source");
	const char *state = json_string_value(json_object_get(source, "state"));
	const char *error = json_string_value(json_object_get(source, "error"));

	if (r->f.m.step != COORD_DEST_RUNNING || !state || strcmp(state, "up") == 0)
		return false;
	snprintf(out, out_max, "volume %s runs on %s and waits for its source on %s, which is %s%s%s", r->f.m.volume, r->f.m.to, r->f.m.from,
		 state, error && *error ? ": " : "", error ? error : "");
	return true;
}

static json_t *why_run(struct coord_service *s, const struct run *r)
{
	const struct coord_migration *m = &r->f.m;
	const struct coord_row *row = coord_row_of(m->step);
	const struct host *h = host_by_name(s, row->side == COORD_SOURCE ? m->from : m->to);
	char line[640], command[128] = "", id[KEDGE_UUID_TEXT_MAX];

	kedge_uuid_format(&m->id, id);
	if (m->step == COORD_ABORTED) {
		snprintf(line, sizeof line, "the move of %s %s: %s; it is on %s", m->volume, m->is_failed ? "failed" : "was aborted",
			 m->reason, m->from);
	} else if (row->flags & COORD_ENDED) {
		snprintf(line, sizeof line, "%s moved from %s to %s", m->volume, m->from, m->to);
		snprintf(command, sizeof command, "kedge receipt %s", id);
	} else if (r->f.last_code) {
		snprintf(line, sizeof line, "%s is at %s: %s on %s: %s%s", m->volume, row->name, agent_step_name(row->ask),
			 row->side == COORD_SOURCE ? m->from : m->to, r->f.last_error,
			 r->f.is_held ? " (held: a person must look at this)" : "");
		if (!(row->flags & (COORD_COMMITTED | COORD_UNDOING)))
			snprintf(command, sizeof command, "kedge abort %s", id);
		else if (r->f.last_code == KEDGE_E_UNREACHABLE && h)
			snprintf(command, sizeof command, "kedge host list");
	} else if (why_clone(r, line, sizeof line)) {
		snprintf(command, sizeof command, "kedge host list");
	} else if (!r->is_begun) {
		snprintf(line, sizeof line, "%s waits for its turn: the drain moves no more volumes at once", m->volume);
	} else {
		snprintf(line, sizeof line, "%s is under way: %s", m->volume, row->text);
		snprintf(command, sizeof command, "kedge status %s --watch", id);
	}
	return because(line, command);
}

static json_t *why_drain(struct coord_service *s, const struct drain *d)
{
	const struct run *worst = NULL;

	/* what is in trouble before what merely goes on */
	for (const struct run *r = s->runs; r; r = r->next) {
		if (!drain_has(d, r))
			continue;
		bool is_bad = r->f.last_code || (r->f.m.step == COORD_ABORTED);
		if (is_bad)
			return why_run(s, r);
		if (!worst || (coord_core_is_over(&worst->f) && !coord_core_is_over(&r->f)))
			worst = r;
	}
	return worst ? why_run(s, worst) : because("there was nothing to move", NULL);
}

static json_t *why_volume(struct coord_service *s, const char *volume, const char *workload)
{
	struct host *h = owner_of_volume(s, volume);
	char line[640], command[KEDGE_NAME_MAX + 32];
	size_t i;
	json_t *w;

	if (!h)
		return NULL;
	json_array_foreach(json_object_get(h->facts, "workloads"), i, w) {
		const char *name = json_string_value(json_object_get(w, "name"));
		const char *reason = json_string_value(json_object_get(w, "reason"));
		const char *of = json_string_value(json_object_get(w, "volume"));
		if (!of || strcmp(of, volume) != 0 || (workload && strcmp(name, workload) != 0))
			continue;
		const char *state = json_string_value(json_object_get(w, "state"));
		snprintf(line, sizeof line, "workload %s on %s is %s%s%s", name, h->name, state, reason && *reason ? ": " : "",
			 reason ? reason : "");
		snprintf(command, sizeof command, "kedge workload start %s", name);
		return because(line, state && strcmp(state, "stopped") == 0 ? command : NULL);
	}
	snprintf(line, sizeof line, "volume %s is on %s, no workload uses it", volume, h->name);
	return because(line, NULL);
}

json_t *why_json(struct coord_service *s, const char *id)
{
	struct drain *d = drain_by_id(s, id);
	struct run *r = run_by_id(s, id);
	struct host *h = owner_of_workload(s, id);
	size_t i;
	json_t *w;

	if (d)
		return why_drain(s, d);
	if (!r)
		r = run_of_volume(s, id);
	if (!r && h)
		json_array_foreach(json_object_get(h->facts, "workloads"), i, w)
			if (strcmp(json_string_value(json_object_get(w, "name")), id) == 0)
				r = run_of_volume(s, json_string_value(json_object_get(w, "volume")));
	if (r)
		return why_run(s, r);
	if (h)
		json_array_foreach(json_object_get(h->facts, "workloads"), i, w)
			if (strcmp(json_string_value(json_object_get(w, "name")), id) == 0)
				return why_volume(s, json_string_value(json_object_get(w, "volume")), id);
	return why_volume(s, id, NULL);
}
