/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The agent's facts as JSON: GET /v1/host, GET /v1/status of a daemon that is an agent only.
 *
 * Owns. Nothing. Locks. None: the loop's thread. The status of clones is the last one seen; each call asks for a newer one.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent_files.h"
#include "agent_int.h"

uint64_t agent_promised_bytes(const struct agent_service *s)
{
	uint64_t sum = 0;

	for (const struct unit *u = s->units; u; u = u->next)
		sum += u->promised_bytes;
	return sum;
}

uint64_t agent_free_bytes(const struct agent_service *s)
{
	uint64_t free_bytes = 0, promised = agent_promised_bytes(s);

	if (agent_room(s->config->volume_dir, &free_bytes, NULL))
		return 0;
	return free_bytes > promised ? free_bytes - promised : 0;
}

static json_t *fence_json(const struct agent_record *r)
{
	char migration[KEDGE_UUID_TEXT_MAX];

	if (!r->fence_epoch || r->state == AGENT_STATE_LOCAL)
		return json_null();
	kedge_uuid_format(&r->migration, migration);
	return json_pack("{s:I, s:s, s:s, s:b}", "epoch", (json_int_t)r->fence_epoch, "migration", migration, "to", r->fence_to,
			 "has_intent", r->has_intent);
}

json_t *agent_volume_json(const struct unit *u)
{
	const struct agent_volume *v = &u->d.vol;
	char uuid[KEDGE_UUID_TEXT_MAX], migration[KEDGE_UUID_TEXT_MAX] = "";
	bool is_cloned = u->d.clone.mode != AGENT_CLONE_NONE;

	kedge_uuid_format(&v->uuid, uuid);
	if (agent_core_is_engaged(&v->record))
		kedge_uuid_format(&v->record.migration, migration);
	return json_pack("{s:s, s:s, s:I, s:I, s:s, s:s, s:I, s:s, s:o, s:O?, s:s?, s:s?}", "name", v->name, "uuid", uuid,
			 "size_bytes", (json_int_t)v->size_bytes, "lbs_bytes", (json_int_t)v->lbs_bytes, "kind",
			 v->is_block ? "block" : "file", "path", v->path, "epoch", (json_int_t)v->record.epoch, "state",
			 agent_state_name(v->record.state), "fence", fence_json(&v->record), "clone", is_cloned ? u->clone_status : NULL,
			 "device", u->device[0] ? u->device : NULL, "migration", migration[0] ? migration : NULL);
}

json_t *agent_workload_json(const struct unit *u)
{
	static const char *const states[] = {"stopped", "starting", "running", "stopping", "failed"};
	const struct watch *w = &u->watches[WATCH_WORKLOAD];
	bool is_running = unit_is_running(u, WATCH_WORKLOAD);
	json_t *pid = is_running ? json_integer(w->proc.pid) : json_null();

	return json_pack("{s:s, s:s, s:o?, s:s, s:o, s:s, s:I, s:I}", "name", u->d.work.name, "volume", u->d.vol.name, "spec",
			 json_loads(u->d.work.spec, 0, NULL), "state", states[u->work_state], "pid", pid, "reason", u->reason, "restarts",
			 (json_int_t)u->d.work.nr_restarts, "epoch", (json_int_t)u->d.work.epoch);
}

static json_t *export_json(const struct unit *u)
{
	const struct kedged_config *c = u->s->config;
	char migration[KEDGE_UUID_TEXT_MAX], portal[KEDGED_ADDR_MAX + 8];
	const struct watch *w = &u->watches[WATCH_EXPORT];

	kedge_uuid_format(&u->d.vol.record.migration, migration);
	snprintf(portal, sizeof portal, "%s:%u", c->portal_address, (unsigned)u->d.export.port);
	return json_pack("{s:s, s:I, s:s, s:s, s:s, s:I, s:o}", "migration", migration, "epoch", (json_int_t)u->d.vol.record.export_epoch,
			 "volume", u->d.vol.name, "iqn", u->d.export.iqn, "portal", portal, "left_out_bytes",
			 (json_int_t)u->d.export.left_out_bytes, "pid",
			 w->proc.pid ? json_integer(w->proc.pid) : json_null());
}

static json_t *host_json(struct agent_service *s)
{
	json_t *volumes = json_array(), *workloads = json_array(), *exports = json_array();
	const struct kedged_config *c = s->config;

	for (struct unit *u = s->units; u; u = u->next) {
		unit_refresh_status(u);
		if (unit_is_visible(u))
			json_array_append_new(volumes, agent_volume_json(u));
		if (u->d.work.is_defined)
			json_array_append_new(workloads, agent_workload_json(u));
		if (u->d.export.is_recorded)
			json_array_append_new(exports, export_json(u));
	}
	return json_pack("{s:i, s:s, s:s, s:s, s:o, s:s, s:s, s:I, s:I, s:o, s:o, s:o}", "v", 1, "host", c->host, "boot_id", s->boot_id,
			 "version", KEDGE_VERSION, "engines", s->has_dm ? json_pack("[s,s]", "dm", "user") : json_pack("[s]", "user"),
			 "engine_why", s->engine_why, "portal_address", c->portal_address, "free_bytes",
			 (json_int_t)agent_free_bytes(s), "reserved_bytes", (json_int_t)agent_promised_bytes(s), "volumes", volumes,
			 "workloads", workloads, "exports", exports);
}

void agent_on_host(void *arg, struct http_request *req)
{
	http_respond(req, 200, host_json(arg));
}

void agent_on_status(void *arg, struct http_request *req)
{
	json_t *host = host_json(arg);

	json_object_set_new(host, "role", json_string("agent"));
	http_respond(req, 200, host);
}
