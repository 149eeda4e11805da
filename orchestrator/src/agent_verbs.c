/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Operators' verbs: volumes created and imported, workloads added, started, stopped, removed.
 *
 * Owns. Requests that wait.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. A new volume is recorded as UNKNOWN with its path before its file is made, and as LOCAL after the file is whole: a
 * file that a crash left half made is known and removed (agent_reconcile.c). A verb repeated with its request id is answered
 * with what it did.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent_files.h"
#include "agent_int.h"
#include "agent_spec.h"
#include "kedge/log.h"
#include "kedge/size.h"

static int read_name(const json_t *body, const char *key, const char **ret_name, struct kedge_err *err)
{
	const char *name = json_string_value(json_object_get(body, key));

	if (!name || !kedge_name_is_valid(name))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL,
				     "\"%s\": a name has 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit", key);
	*ret_name = name;
	return 0;
}

static int read_request_id(const json_t *body, struct kedge_uuid *ret_id, struct kedge_err *err)
{
	const char *text = json_string_value(json_object_get(body, "request"));

	if (!text || kedge_uuid_parse(text, ret_id))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"request\" is no uuid");
	return 0;
}

/* ---- volumes ---- */

/* The same request again: what it made, as it is now. */
static bool answer_repeated(struct agent_service *s, const struct kedge_uuid *id, struct http_request *req)
{
	char *name = agent_store_get_result(s->store, id, 0, "volume", NULL);
	struct unit *u = name ? unit_by_name(s, name) : NULL;

	free(name);
	if (u)
		http_respond(req, 200, agent_volume_json(u));
	return u != NULL;
}

static bool is_path_taken(const struct unit *u, const char *path, const char **ret_by)
{
	struct stat a, b;

	for (const struct unit *o = u->s->units; o; o = o->next) {
		if (o == u || !o->d.vol.path[0])
			continue;
		*ret_by = o->d.vol.name;
		if (strcmp(o->d.vol.path, path) == 0)
			return true;
		if (stat(path, &a) || stat(o->d.vol.path, &b))
			continue;
		if (S_ISBLK(a.st_mode) ? S_ISBLK(b.st_mode) && a.st_rdev == b.st_rdev : a.st_dev == b.st_dev && a.st_ino == b.st_ino)
			return true;
	}
	return false;
}

static void act_create(struct job *j)
{
	j->res = agent_file_create(j->d.vol.path, j->d.vol.size_bytes, &j->err);
}

static void act_import(struct job *j)
{
	j->res = agent_import_check(j->import_path, &j->d.vol, &j->err);
	if (j->res)
		kedge_err_prefix(&j->err, "host %s", j->config->host);
}

/* The volume exists from here on. */
static int make_local(struct unit *u, struct job *j)
{
	struct agent_request q = {.migration = j->q.migration};
	struct agent_unit next;
	const char *by;
	int res;

	if (is_path_taken(u, j->d.vol.path, &by))
		return kedge_err_set(&j->err, -EEXIST, KEDGE_SIDE_CONTROL, "%s is volume %s already", j->d.vol.path, by);
	if (agent_unit_copy(&u->d, &next))
		return kedge_err_set(&j->err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a volume");
	next.vol = j->d.vol;
	next.vol.record.state = AGENT_STATE_LOCAL;
	res = unit_commit(u, &next, NULL, NULL, &j->err);
	/* Only for the answer to a repeated request; without it that one is told that the volume exists. */
	if (!res)
		agent_store_put_result(u->s->store, &q.migration, 0, "volume", u->d.vol.name, NULL);
	return res;
}

static void drop_half_made(struct unit *u)
{
	struct agent_unit next;

	if (u->is_stored && !agent_unit_copy(&u->d, &next)) {
		next.vol.path[0] = 0;
		unit_commit(u, &next, NULL, NULL, NULL);
	}
	if (!u->is_stored)
		u->d.vol.path[0] = 0;
}

static void on_volume_made(struct unit *u, struct job *j)
{
	if (!j->res)
		j->res = make_local(u, j);
	if (j->res) {
		drop_half_made(u);
		http_respond_err(j->req, &j->err, NULL);
		return;
	}
	kedge_info("volume %s: %s", u->d.vol.name, u->d.vol.path);
	http_respond(j->req, 200, agent_volume_json(u));
}

static int begin_create(struct unit *u, const json_t *body, struct kedge_err *err)
{
	const json_t *size = json_object_get(body, "size_bytes");
	uint64_t free_bytes = agent_free_bytes(u->s);
	struct agent_unit next;
	char free_text[32];
	int res;

	if (!json_is_integer(size) || json_integer_value(size) < 0)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"size_bytes\" is no number");
	res = agent_size_check((uint64_t)json_integer_value(size), err);
	if (!res && (uint64_t)json_integer_value(size) > free_bytes)
		res = kedge_err_set(err, KEDGE_E_NO_ROOM, KEDGE_SIDE_CONTROL, "host %s has %s free for new volumes", u->s->config->host,
				    kedge_size_format(free_bytes, free_text, sizeof free_text));
	if (!res && agent_unit_copy(&u->d, &next))
		res = kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a volume");
	if (res)
		return res;
	next.vol.size_bytes = (uint64_t)json_integer_value(size);
	next.vol.lbs_bytes = 512;
	res = agent_file_path(u->s->config->volume_dir, next.vol.name, &next.vol.uuid, 0, next.vol.path, err);
	if (res)
		agent_unit_fini(&next);
	else
		res = unit_commit(u, &next, NULL, NULL, err);
	if (!res)
		u->promised_bytes = u->d.vol.size_bytes;
	return res;
}

/* Is the name free, also of one that is being made? */
static int check_name_free(struct agent_service *s, const char *name, struct kedge_err *err)
{
	for (struct unit *u = s->units; u; u = u->next)
		if (strcmp(u->d.vol.name, name) == 0 && (unit_is_visible(u) || u->job))
			return kedge_err_set(err, -EEXIST, KEDGE_SIDE_CONTROL, "a volume %s is on host %s already", name, s->config->host);
	return 0;
}

static int begin_volume(struct agent_service *s, struct http_request *req, const struct kedge_uuid *request_id, struct kedge_err *err)
{
	const char *verb = json_string_value(json_object_get(req->body, "verb")), *name, *path = NULL;
	bool is_create = verb && strcmp(verb, "create") == 0, is_import = verb && strcmp(verb, "import") == 0;
	struct kedge_uuid uuid;
	struct unit *u;
	struct job *j;
	int res;

	if (!is_create && !is_import)
		return kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "\"verb\" is \"create\" or \"import\"");
	res = fields_check(req->body, is_create ? "v request verb name size_bytes" : "v request verb name path", err);
	if (!res)
		res = read_name(req->body, "name", &name, err);
	if (!res)
		res = check_name_free(s, name, err);
	if (res)
		return res;
	if (is_import) {
		path = json_string_value(json_object_get(req->body, "path"));
		if (!path || !*path || strlen(path) >= AGENT_PATH_MAX)
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"path\" is missing or too long");
	}
	kedge_uuid_create(&uuid);
	u = unit_create(s, &uuid, name);
	if (!u)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a volume");
	res = is_create ? begin_create(u, req->body, err) : 0;
	j = res ? NULL : job_create(u, is_create ? "create" : "import", is_create ? act_create : act_import, on_volume_made, err);
	if (!j) {
		if (!u->is_stored)
			unit_destroy(u);
		return res ? res : -ENOMEM;
	}
	j->req = req;
	j->q.migration = *request_id;
	if (path)
		strcpy(j->import_path, path);
	job_start(j);
	return 0;
}

void agent_on_volume(void *arg, struct http_request *req)
{
	struct agent_service *s = arg;
	struct kedge_err err = {0};
	struct kedge_uuid id;
	int res = read_request_id(req->body, &id, &err);

	if (!res && answer_repeated(s, &id, req))
		return;
	if (!res)
		res = begin_volume(s, req, &id, &err);
	if (res)
		http_respond_err(req, &err, NULL);
}

/* ---- workloads ---- */

static int add_workload(struct agent_service *s, const json_t *body, const char *name, struct unit **ret_u, struct kedge_err *err)
{
	const json_t *spec = json_object_get(body, "spec");
	struct unit *u, *same = unit_by_workload(s, name);
	const char *volume, *reason;
	struct agent_spec parsed;
	struct agent_unit next;
	int res = fields_check(body, "v request verb name volume spec", err);

	if (!res)
		res = read_name(body, "volume", &volume, err);
	if (!res)
		res = agent_spec_parse(spec, &parsed, err);
	if (res)
		return res;
	agent_spec_fini(&parsed);
	u = unit_by_name(s, volume);
	if (!u)
		return kedge_err_set(err, -ENOENT, KEDGE_SIDE_CONTROL, "no volume %s on host %s", volume, s->config->host);
	if (same || u->d.work.is_defined) {
		/* The same once more is no error. */
		json_t *old = same == u ? json_loads(u->d.work.spec, 0, NULL) : NULL;
		bool is_same = old && json_equal(old, (json_t *)spec);
		json_decref(old);
		*ret_u = u;
		if (is_same)
			return 0;
		return kedge_err_set(err, -EEXIST, KEDGE_SIDE_CONTROL, "%s %s exists already", same ? "workload" : "a workload on volume",
				     same ? name : volume);
	}
	res = agent_core_may_start(&u->d.vol.record, &reason);
	if (res)
		return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "volume %s: %s", volume, reason);
	if (agent_unit_copy(&u->d, &next))
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a workload");
	next.work = (struct agent_workload){.is_defined = true, .spec = json_dumps(spec, JSON_COMPACT)};
	strcpy(next.work.name, name);
	*ret_u = u;
	unit_set_reason(u, WORK_STOPPED, "");
	return next.work.spec ? unit_commit(u, &next, NULL, NULL, err) : -ENOMEM;
}

static int remove_workload(struct unit *u, struct kedge_err *err)
{
	struct agent_unit next;

	if (u->d.work.is_wanted || unit_is_running(u, WATCH_WORKLOAD))
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL, "workload %s has not been stopped", u->d.work.name);
	if (agent_core_is_engaged(&u->d.vol.record) || u->job)
		return kedge_err_set(err, KEDGE_E_BUSY_VOLUME, KEDGE_SIDE_CONTROL, "volume %s of workload %s is being worked on",
				     u->d.vol.name, u->d.work.name);
	if (agent_unit_copy(&u->d, &next))
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory");
	free(next.work.spec);
	next.work = (struct agent_workload){0};
	return unit_commit(u, &next, NULL, NULL, err);
}

static int want_workload(struct unit *u, bool is_wanted, struct kedge_err *err)
{
	struct agent_unit next;
	const char *reason;
	int res = is_wanted ? agent_core_may_start(&u->d.vol.record, &reason) : 0;

	if (res)
		return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "workload %s, volume %s: %s", u->d.work.name, u->d.vol.name, reason);
	if (agent_unit_copy(&u->d, &next))
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory");
	next.work.is_wanted = is_wanted;
	res = unit_commit(u, &next, NULL, NULL, err);
	if (res)
		return res;
	agent_clear_backoff(u);
	if (is_wanted && !unit_is_running(u, WATCH_WORKLOAD))
		unit_set_reason(u, WORK_STARTING, "");
	else if (!is_wanted && !unit_is_running(u, WATCH_WORKLOAD))
		unit_set_reason(u, WORK_STOPPED, "");
	agent_reconcile(u);
	return 0;
}

/* When the job has ended, or after 1 s as it is then. */
static bool look_at_workload(struct waiter *w)
{
	struct unit *u = w->u;

	if (u->job && !w->is_over)
		return false;
	http_respond(w->req, 200, agent_workload_json(u));
	return true;
}

static void wait_for_workload(struct unit *u, struct http_request *req)
{
	struct waiter *w = calloc(1, sizeof *w);

	if (!w) {
		http_respond(req, 200, agent_workload_json(u));
		return;
	}
	unit_wait(u, req, w, look_at_workload);
	unit_look_again(u);
}

static bool is_done_already(struct agent_service *s, const struct kedge_uuid *id)
{
	char *name = agent_store_get_result(s->store, id, 0, "workload", NULL);

	free(name);
	return name != NULL;
}

static int remember_done(struct agent_service *s, const struct kedge_uuid *id, const char *name, struct kedge_err *err)
{
	return agent_store_put_result(s->store, id, 0, "workload", name, err);
}

void agent_on_workload(void *arg, struct http_request *req)
{
	const char *verb = json_string_value(json_object_get(req->body, "verb")), *name = NULL;
	struct agent_service *s = arg;
	struct kedge_err err = {0};
	struct kedge_uuid id;
	struct unit *u = NULL;
	json_t *removed;
	int res = read_request_id(req->body, &id, &err);

	if (!res)
		res = read_name(req->body, "name", &name, &err);
	/* A request is carried out once: one that was recorded on its way changes nothing any more. */
	if (!res && is_done_already(s, &id)) {
		u = unit_by_workload(s, name);
		http_respond(req, 200, u ? agent_workload_json(u) : json_object());
		return;
	}
	if (!res && verb && strcmp(verb, "add") == 0) {
		res = add_workload(s, req->body, name, &u, &err);
		if (!res)
			res = remember_done(s, &id, name, &err);
		if (!res)
			http_respond(req, 200, agent_workload_json(u));
		else
			http_respond_err(req, &err, NULL);
		return;
	}
	if (!res)
		res = fields_check(req->body, "v request verb name", &err);
	u = res ? NULL : unit_by_workload(s, name);
	if (!res && !u)
		res = kedge_err_set(&err, -ENOENT, KEDGE_SIDE_CONTROL, "no workload %s on host %s", name, s->config->host);
	if (!res && verb && strcmp(verb, "remove") == 0) {
		removed = agent_workload_json(u);
		res = remove_workload(u, &err);
		if (!res)
			res = remember_done(s, &id, name, &err);
		if (!res) {
			http_respond(req, 200, removed);
			return;
		}
		json_decref(removed);
	} else if (!res && verb && (strcmp(verb, "start") == 0 || strcmp(verb, "stop") == 0)) {
		/* before it is done: a crash in between loses a request that nobody was told of */
		res = remember_done(s, &id, name, &err);
		if (!res)
			res = want_workload(u, strcmp(verb, "start") == 0, &err);
		if (!res) {
			wait_for_workload(u, req);
			return;
		}
	} else if (!res) {
		res = kedge_err_set(&err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "\"verb\" is add, start, stop or remove");
	}
	http_respond_err(req, &err, NULL);
}
