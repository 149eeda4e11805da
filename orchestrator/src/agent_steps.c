/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. POST /v1/step: a step of a migration from the wire to the verdict of the core, the durable record before, the
 * action, the durable result, the answer (agent_core.h has the order).
 *
 * Owns. Requests that wait for the end of a step.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. Before the first commit nothing has happened. Between it and the action: the step is asked again and goes on from
 * the record. After the action, before the result: asked again, the action finds itself done. After that: the stored result.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "agent_files.h"
#include "agent_int.h"
#include "agent_spec.h"
#include "kedge/log.h"

struct step_wait {
	struct waiter w;
	struct agent_request q;
	char to[KEDGE_NAME_MAX + 1];
	char request[REQUEST_ID_MAX];
	char volume[KEDGE_NAME_MAX + 1];
	struct kedge_uuid uuid;
	const json_t *args; /* of the request's body */
};

/* ---- answers ---- */

json_t *agent_error_json(const struct kedge_err *err)
{
	return json_pack("{s:s, s:s, s:s}", "code", kedge_err_name(err->code), "class",
			 kedge_err_class_name(kedge_err_class_of(err->code)), "message",
			 err->msg[0] ? err->msg : kedge_err_text(err->code));
}

static void answer_failed(struct http_request *req, const struct kedge_err *err)
{
	http_respond(req, 200, json_pack("{s:i, s:s, s:o}", "v", 1, "state", "failed", "error", agent_error_json(err)));
}

static void answer_done(struct http_request *req, const char *result)
{
	http_respond(req, 200, json_pack("{s:i, s:s, s:o?}", "v", 1, "state", "done", "result", json_loads(result, 0, NULL)));
}

static void answer_stale(struct http_request *req, const struct agent_request *q, uint64_t highest)
{
	struct kedge_err err = {0};

	kedge_err_set(&err, KEDGE_E_STALE_EPOCH, KEDGE_SIDE_CONTROL, "epoch %" PRIu64 " is stale: %" PRIu64 " is recorded here",
		      q->epoch, highest);
	http_respond(req, 409, json_pack("{s:i, s:o, s:I}", "v", 1, "error", agent_error_json(&err), "highest", (json_int_t)highest));
}

static void answer_running(struct http_request *req, struct unit *u, const struct agent_request *q)
{
	bool is_clone_step = q->step == AGENT_HYDRATE || q->step == AGENT_FINISH;
	json_t *progress = is_clone_step && u->clone_status ? json_incref(u->clone_status) : json_object();

	http_respond(req, 200, json_pack("{s:i, s:s, s:o}", "v", 1, "state", "running", "progress", progress));
}

static bool is_same_step(const struct agent_request *a, const struct agent_request *b)
{
	return a->step == b->step && a->epoch == b->epoch && kedge_uuid_is_equal(&a->migration, &b->migration);
}

/* ---- arguments, by step ---- */

static int bad_arg(struct kedge_err *err, const char *what)
{
	return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "args: %s", what);
}

static const char *text_arg(const json_t *args, const char *key, size_t max)
{
	const char *text = json_string_value(json_object_get(args, key));

	return text && *text && strlen(text) < max ? text : NULL;
}

static int copy_text(const json_t *from, const char *key, char *out, size_t out_max, struct kedge_err *err)
{
	const char *text = text_arg(from, key, out_max);

	if (!text)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "args: \"%s\" is missing or too long", key);
	strcpy(out, text);
	return 0;
}

static int read_chap(const json_t *args, struct kedge_chap *ret_chap, struct kedge_err *err)
{
	const json_t *chap = json_object_get(args, "chap");
	int res = fields_check(chap, "user secret mutual_user mutual_secret", err);

	if (!res)
		res = copy_text(chap, "user", ret_chap->user, sizeof ret_chap->user, err);
	if (!res)
		res = copy_text(chap, "secret", ret_chap->secret, sizeof ret_chap->secret, err);
	if (!res)
		res = copy_text(chap, "mutual_user", ret_chap->mutual_user, sizeof ret_chap->mutual_user, err);
	if (!res)
		res = copy_text(chap, "mutual_secret", ret_chap->mutual_secret, sizeof ret_chap->mutual_secret, err);
	return res;
}

static int read_iqn(const json_t *args, const char *key, char out[KEDGE_IQN_MAX + 1], struct kedge_err *err)
{
	int res = copy_text(args, key, out, KEDGE_IQN_MAX + 1, err);

	if (!res && !kedge_iqn_is_valid(out))
		res = kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "args: \"%s\" is no IQN", key);
	return res;
}

/* The workload that comes with the volume, if one does. */
static int read_workload(struct unit *u, const json_t *args, struct agent_unit *next, struct kedge_err *err)
{
	const json_t *name = json_object_get(args, "workload"), *spec = json_object_get(args, "spec");
	struct agent_spec parsed;
	struct unit *other;
	int res;

	free(next->work.spec);
	next->work = (struct agent_workload){0};
	if (!name || json_is_null(name))
		return 0;
	if (!json_is_string(name) || !kedge_name_is_valid(json_string_value(name)))
		return bad_arg(err, "\"workload\" is no name");
	other = unit_by_workload(u->s, json_string_value(name));
	if (other && other != u)
		return kedge_err_set(err, -EEXIST, KEDGE_SIDE_CONTROL, "a workload %s is here already, on volume %s",
				     json_string_value(name), other->d.vol.name);
	res = agent_spec_parse(spec, &parsed, err);
	if (res)
		return res;
	agent_spec_fini(&parsed);
	next->work.is_defined = true;
	strcpy(next->work.name, json_string_value(name));
	next->work.spec = json_dumps(spec, JSON_COMPACT);
	return next->work.spec ? 0 : kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a spec");
}

static int check_room(struct unit *u, uint64_t size_bytes, struct kedge_err *err)
{
	uint64_t free_bytes = agent_free_bytes(u->s), need_bytes = agent_room_needed(size_bytes);

	if (need_bytes <= free_bytes)
		return 0;
	return kedge_err_set(err, KEDGE_E_NO_ROOM, KEDGE_SIDE_DESTINATION,
			     "%s has %" PRIu64 " bytes free for new volumes, volume %s needs %" PRIu64, u->s->config->host, free_bytes,
			     u->d.vol.name, need_bytes);
}

static int prepare_reserve(struct unit *u, const struct step_wait *w, struct agent_unit *next, struct job *j, struct kedge_err *err)
{
	const struct kedged_config *c = u->s->config;
	const char *engine = json_string_value(json_object_get(w->args, "engine"));
	const json_t *start = json_object_get(w->args, "start");
	json_int_t size, lbs = json_integer_value(json_object_get(w->args, "lbs_bytes"));
	bool is_again = u->d.vol.record.state == AGENT_STATE_RESERVED && u->d.vol.record.epoch == w->q.epoch;
	bool is_kept = u->d.vol.record.state == AGENT_STATE_RETAINED && u->d.vol.path[0];
	struct unit *other = unit_by_name(u->s, u->d.vol.name);
	int res = fields_check(w->args, "size_bytes lbs_bytes source_host workload spec start initiator_iqn engine " PACE_FIELDS, err);

	if (res)
		return res;
	if (other && other != u)
		return kedge_err_set(err, -EEXIST, KEDGE_SIDE_DESTINATION, "another volume named %s is on host %s", u->d.vol.name, c->host);
	size = json_integer_value(json_object_get(w->args, "size_bytes"));
	if (size <= 0 || (lbs != 512 && lbs != 4096))
		return bad_arg(err, "\"size_bytes\" or \"lbs_bytes\" is wrong");
	if (engine && strcmp(engine, "user") != 0 && strcmp(engine, "dm") != 0)
		return bad_arg(err, "\"engine\" is \"user\" or \"dm\"");
	if (start && !json_is_boolean(start))
		return bad_arg(err, "\"start\" is not a boolean");
	j->is_start = !start || json_is_true(start);
	strcpy(j->engine, engine ? engine : "user");
	res = agent_size_check((uint64_t)size, err);
	if (!res)
		res = read_workload(u, w->args, next, err);
	if (!res && !is_again)
		res = check_room(u, (uint64_t)size, err);
	if (!res)
		/* with the epoch: never the name of a copy that an earlier move left here */
		res = agent_file_path(c->volume_dir, u->d.vol.name, &u->d.vol.uuid, w->q.epoch, next->vol.path, err);
	if (!res && is_kept)
		res = agent_store_put_kept(u->s->store, &u->d.vol, err);
	if (res)
		return res;
	next->vol.size_bytes = (uint64_t)size;
	next->vol.lbs_bytes = (uint32_t)lbs;
	next->vol.is_block = false;
	kedge_chap_fini(&next->clone.chap);
	memset(&next->clone, 0, sizeof next->clone);
	next->clone.mode = AGENT_CLONE_MAKING;
	res = pace_read(w->args, &next->clone.pace, err);
	if (!res && json_object_get(w->args, "initiator_iqn"))
		res = read_iqn(w->args, "initiator_iqn", next->clone.initiator, err);
	if (res)
		return res;
	plane_clone_meta_path(c, &next->vol, w->q.epoch, next->clone.meta);
	if (!next->clone.meta[0])
		return kedge_err_set(err, -ENAMETOOLONG, KEDGE_SIDE_METADATA, "state_dir is too long a path");
	u->promised_bytes = is_again ? 0 : agent_room_needed((uint64_t)size);
	return 0;
}

static int prepare_export(const struct step_wait *w, struct agent_unit *next, struct kedge_err *err)
{
	int res = fields_check(w->args, "iqn initiator_iqn chap", err);

	if (!res)
		res = read_iqn(w->args, "iqn", next->export.iqn, err);
	if (!res)
		res = read_iqn(w->args, "initiator_iqn", next->export.initiator, err);
	if (!res)
		res = read_chap(w->args, &next->export.chap, err);
	next->export.is_recorded = true;
	return res;
}

static int prepare_attach(const struct step_wait *w, struct agent_unit *next, struct kedge_err *err)
{
	char initiator[KEDGE_IQN_MAX + 1];
	int res = fields_check(w->args, "url initiator_iqn chap", err);

	if (!res)
		res = copy_text(w->args, "url", next->clone.url, sizeof next->clone.url, err);
	if (!res)
		res = read_iqn(w->args, "initiator_iqn", initiator, err);
	if (!res)
		res = read_chap(w->args, &next->clone.chap, err);
	if (res)
		return res;
	/* The name is part of the metadata. Nothing was ever written to this clone: it may be made anew, which costs time while
	 * the workload is down; so RESERVE should have been told the name. */
	if (strcmp(initiator, next->clone.initiator) != 0) {
		strcpy(next->clone.initiator, initiator);
		next->clone.mode = AGENT_CLONE_MAKING;
	}
	return 0;
}

static int prepare_boot(struct unit *u, const struct step_wait *w, struct agent_unit *next, struct job *j, struct kedge_err *err)
{
	const json_t *start = json_object_get(w->args, "start");
	int res = fields_check(w->args, "start", err);

	if (!res && start && !json_is_boolean(start))
		res = bad_arg(err, "\"start\" is not a boolean");
	j->is_start = !start || json_is_true(start);
	next->work.is_wanted = j->is_start && next->work.is_defined;
	next->work.epoch = w->q.epoch;
	agent_clear_backoff(u);
	if (next->work.is_wanted)
		unit_set_reason(u, WORK_STARTING, "");
	return res;
}

static int prepare_numbers(const struct step_wait *w, struct job *j, struct kedge_err *err)
{
	const json_t *grace = json_object_get(w->args, "grace_ms"), *rate = json_object_get(w->args, "rate_bps");

	if (grace && !json_is_null(grace)) {
		if (!json_is_integer(grace) || json_integer_value(grace) < 0 || json_integer_value(grace) > 3600000)
			return bad_arg(err, "\"grace_ms\" is not a number of milliseconds up to one hour");
		j->grace_ms = (int)json_integer_value(grace);
	}
	if (rate && !json_is_null(rate)) {
		if (!json_is_integer(rate) || json_integer_value(rate) < 0)
			return bad_arg(err, "\"rate_bps\" is not a rate");
		j->rate_bps = (uint64_t)json_integer_value(rate);
	}
	return 0;
}

/* What the record says beyond the core's part, and the job's inputs. */
static int prepare(struct unit *u, const struct step_wait *w, struct agent_unit *next, struct job *j, struct kedge_err *err)
{
	int res;

	switch (w->q.step) {
	case AGENT_RESERVE:
		return prepare_reserve(u, w, next, j, err);
	case AGENT_EXPORT:
		return prepare_export(w, next, err);
	case AGENT_ATTACH:
		return prepare_attach(w, next, err);
	case AGENT_BOOT:
		return prepare_boot(u, w, next, j, err);
	case AGENT_STOP:
		res = fields_check(w->args, "grace_ms", err);
		unit_set_reason(u, WORK_STOPPING, "");
		return res ? res : prepare_numbers(w, j, err);
	case AGENT_HYDRATE:
		res = fields_check(w->args, "rate_bps", err);
		if (!res)
			res = prepare_numbers(w, j, err);
		next->clone.is_hydrating = true;
		next->clone.rate_bps = j->rate_bps;
		return res;
	case AGENT_FENCE:
		return fields_check(w->args, "to", err);
	case AGENT_RELEASE:
		return fields_check(w->args, "policy", err);
	case AGENT_UNFENCE:
		j->is_start = json_is_true(json_object_get(w->args, "start"));
		return fields_check(w->args, "start", err);
	default:
		return fields_check(w->args, "", err);
	}
}

/* ---- the end of a step ---- */

static void end_source(struct unit *u, struct job *j, struct agent_unit *next)
{
	switch (j->q.step) {
	case AGENT_STOP:
		unit_set_reason(u, WORK_STOPPED, "stopped for a move");
		unit_unwatch(u, WATCH_WORKLOAD);
		break;
	case AGENT_EXPORT:
		next->export.port = j->port;
		next->export.left_out_bytes = j->left_out_bytes;
		break;
	case AGENT_UNEXPORT:
	case AGENT_UNFENCE:
		unit_unwatch(u, WATCH_EXPORT);
		kedge_chap_fini(&next->export.chap);
		memset(&next->export, 0, sizeof next->export);
		if (j->q.step == AGENT_UNFENCE) {
			next->work.is_wanted = j->is_start && next->work.is_defined;
			unit_set_reason(u, unit_is_running(u, WATCH_WORKLOAD) ? WORK_RUNNING : WORK_STOPPED,
					j->is_start ? "" : "the move was aborted");
			agent_clear_backoff(u);
		}
		break;
	case AGENT_RELEASE:
		free(next->work.spec);
		next->work = (struct agent_workload){0};
		if (j->q.is_release_delete)
			next->vol.path[0] = 0;
		break;
	default:
		break;
	}
}

static void end_destination(struct unit *u, struct job *j, struct agent_unit *next)
{
	switch (j->q.step) {
	case AGENT_RESERVE:
		next->clone.mode = AGENT_CLONE_RESERVED;
		u->is_clone_ready = true;
		break;
	case AGENT_ATTACH:
		next->clone.mode = AGENT_CLONE_ATTACHED;
		u->is_clone_ready = true;
		break;
	case AGENT_BOOT:
		next->work.proc = j->proc;
		break;
	case AGENT_FINISH:
		next->clone.mode = AGENT_CLONE_PASSTHROUGH;
		kedge_chap_fini(&next->clone.chap);
		break;
	case AGENT_REVOKE:
		unit_unwatch(u, WATCH_CLONE);
		free(next->work.spec);
		next->work = (struct agent_workload){0};
		memset(&next->clone, 0, sizeof next->clone);
		if (next->vol.record.state == AGENT_STATE_REVOKED)
			next->vol.path[0] = 0;
		break;
	default:
		break;
	}
}

/* Processes that the step brought to life. */
static void watch_after(struct unit *u, const struct job *j)
{
	struct kedge_proc proc;

	if (j->proc.pid) {
		unit_watch(u, WATCH_WORKLOAD, &j->proc);
		unit_set_reason(u, WORK_RUNNING, "");
	}
	if (u->d.clone.mode != AGENT_CLONE_NONE && plane_clone_find(u->s->config, u->d.vol.name, &proc))
		unit_watch(u, WATCH_CLONE, &proc);
	if (u->d.export.is_recorded && plane_export_find(u->s->config, &u->d, &proc))
		unit_watch(u, WATCH_EXPORT, &proc);
}

static void remember_failure(struct unit *u, const struct job *j)
{
	u->failed_q = j->q;
	u->failed_q.to = NULL;
	strcpy(u->failed_request, j->request);
	u->failed_err = j->err;
	if (!u->failed_err.code)
		kedge_err_set(&u->failed_err, j->res, KEDGE_SIDE_CONTROL, "%s failed", agent_step_name(j->q.step));
}

static void finish_step(struct unit *u, struct job *j)
{
	char *result = NULL;
	struct agent_unit next;

	agent_failpoint("after_act", j->q.step);
	result = j->result ? json_dumps(j->result, JSON_COMPACT) : NULL;
	if (!result || agent_unit_copy(&u->d, &next)) {
		j->res = kedge_err_set(&j->err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a result");
	} else {
		agent_core_finish(&u->d.vol.record, &j->q, &next.vol.record);
		if (j->is_clone_gone)
			memset(&next.clone, 0, sizeof next.clone);
		end_source(u, j, &next);
		end_destination(u, j, &next);
		j->res = unit_commit(u, &next, &j->q, result, &j->err);
		if (!j->res && (j->q.step == AGENT_UNEXPORT || j->q.step == AGENT_UNFENCE || j->q.step == AGENT_FINISH || j->q.step == AGENT_REVOKE))
			agent_store_scrub(u->s->store);
	}
	free(result);
}

static void on_step_ended(struct unit *u, struct job *j)
{
	if (!j->res && j->is_more)
		return;
	if (!j->res)
		finish_step(u, j);
	watch_after(u, j);
	if (j->res) {
		remember_failure(u, j);
		if (j->q.step == AGENT_BOOT || j->q.step == AGENT_STOP)
			unit_set_reason(u, WORK_FAILED, j->err.msg);
		return;
	}
	kedge_info("volume %s: %s done (migration epoch %" PRIu64 ")", u->d.vol.name, agent_step_name(j->q.step), j->q.epoch);
}

/* ---- the beginning of a step ---- */

static void (*const acts[AGENT_NR_STEPS])(struct job *j) = {
	[AGENT_RESERVE] = act_reserve,	 [AGENT_STOP] = act_stop,	  [AGENT_FENCE] = act_fence,
	[AGENT_EXPORT] = act_export,	 [AGENT_ATTACH] = act_attach,	  [AGENT_BOOT] = act_boot,
	[AGENT_HYDRATE] = act_hydrate,	 [AGENT_FINISH] = act_finish,	  [AGENT_UNEXPORT] = act_unexport,
	[AGENT_RELEASE] = act_release,	 [AGENT_REVOKE] = act_revoke,	  [AGENT_UNFENCE] = act_unexport,
};

/* CHECK and INTENT have no action. */
static json_t *immediate_result(struct unit *u, enum agent_step step)
{
	json_t *spec = NULL;

	if (step == AGENT_INTENT)
		return json_object();
	if (u->d.work.is_defined)
		spec = json_loads(u->d.work.spec, 0, NULL);
	return json_pack("{s:I, s:I, s:s, s:s?, s:o?, s:b}", "size_bytes", (json_int_t)u->d.vol.size_bytes, "lbs_bytes",
			 (json_int_t)u->d.vol.lbs_bytes, "portal_address", u->s->config->portal_address, "workload",
			 u->d.work.is_defined ? u->d.work.name : NULL, "spec", spec, "running", unit_is_running(u, WATCH_WORKLOAD));
}

static int begin_step(struct unit *u, const struct step_wait *w, const struct agent_verdict *v, struct kedge_err *err)
{
	struct job *j = job_create(u, agent_step_name(w->q.step), acts[w->q.step], on_step_ended, err);
	struct agent_unit next;
	int res = j ? 0 : -ENOMEM;

	if (res)
		return res;
	j->is_step = true;
	j->q = w->q;
	strcpy(j->to, w->to);
	j->q.to = j->to;
	strcpy(j->request, w->request);
	if (agent_unit_copy(&u->d, &next)) {
		job_destroy(j);
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a step");
	}
	if (v->has_before)
		next.vol.record = v->before;
	res = prepare(u, w, &next, j, err);
	if (res) {
		agent_unit_fini(&next);
		u->promised_bytes = 0;
	} else {
		agent_failpoint("before_write", w->q.step);
		res = unit_commit(u, &next, NULL, NULL, err);
	}
	if (!res) {
		agent_failpoint("after_write", w->q.step);
		agent_unit_fini(&j->d);
		res = agent_unit_copy(&u->d, &j->d);
	}
	if (res) {
		u->promised_bytes = 0;
		job_destroy(j);
		return res;
	}
	if (acts[w->q.step]) {
		job_start(j);
		return 0;
	}
	j->result = immediate_result(u, w->q.step);
	on_step_ended(u, j);
	res = j->res;
	if (res)
		*err = j->err;
	job_destroy(j);
	return res;
}

/* Decide now. True when the request is answered. */
static bool look_at_step(struct waiter *waiter)
{
	struct step_wait *w = (struct step_wait *)waiter;
	struct unit *u = waiter->u;
	struct kedge_err err = {0};
	struct agent_verdict v;
	char *stored = agent_store_get_result(u->s->store, &w->q.migration, w->q.epoch, agent_step_name(w->q.step), &err);

	if (!err.code)
		agent_core_decide(&u->d.vol.record, stored != NULL, &w->q, &v);
	if (err.code) {
		http_respond_err(waiter->req, &err, NULL);
	} else if (v.kind == AGENT_STORED) {
		answer_done(waiter->req, stored);
	} else if (v.kind == AGENT_STALE) {
		answer_stale(waiter->req, &w->q, u->d.vol.record.epoch);
	} else if (v.kind == AGENT_REFUSE) {
		kedge_err_set(&err, v.code, KEDGE_SIDE_CONTROL, "volume %s, %s: %s", u->d.vol.name, agent_step_name(w->q.step), v.reason);
		answer_failed(waiter->req, &err);
	} else if (w->request[0] && is_same_step(&u->failed_q, &w->q) && strcmp(u->failed_request, w->request) == 0) {
		answer_failed(waiter->req, &u->failed_err);
	} else if (waiter->is_over) {
		answer_running(waiter->req, u, &w->q);
	} else {
		if (!u->job && begin_step(u, w, &v, &err)) {
			answer_failed(waiter->req, &err);
			free(stored);
			return true;
		}
		free(stored);
		/* done at once: the result is there now */
		return !u->job ? look_at_step(waiter) : false;
	}
	free(stored);
	return true;
}

/* ---- from the wire ---- */

static int read_step_args(struct step_wait *w, struct kedge_err *err)
{
	const char *policy, *to;

	if (w->q.step == AGENT_FENCE) {
		to = text_arg(w->args, "to", sizeof w->to);
		if (!to || !kedge_name_is_valid(to))
			return bad_arg(err, "\"to\" is no host's name");
		strcpy(w->to, to);
		w->q.to = w->to;
	}
	if (w->q.step == AGENT_RELEASE) {
		policy = text_arg(w->args, "policy", 16);
		if (!policy || (strcmp(policy, "keep") != 0 && strcmp(policy, "delete") != 0))
			return bad_arg(err, "\"policy\" is \"keep\" or \"delete\"");
		w->q.is_release_delete = strcmp(policy, "delete") == 0;
	}
	return 0;
}

static int read_step(const json_t *body, struct step_wait *w, struct kedge_err *err)
{
	int res = fields_check(body, "v migration volume volume_uuid epoch step request args", err);
	const char *migration = text_arg(body, "migration", 64), *uuid = text_arg(body, "volume_uuid", 64);
	const char *step = text_arg(body, "step", 32), *volume = text_arg(body, "volume", KEDGE_NAME_MAX + 1);
	const json_t *epoch = json_object_get(body, "epoch");
	const char *request = text_arg(body, "request", REQUEST_ID_MAX);

	if (res)
		return res;
	if (!json_object_get(body, "v"))
		return kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "\"v\" is missing");
	if (!migration || kedge_uuid_parse(migration, &w->q.migration) || !uuid || kedge_uuid_parse(uuid, &w->uuid))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"migration\" or \"volume_uuid\" is no uuid");
	if (!volume || !kedge_name_is_valid(volume))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"volume\" is no name");
	if (!json_is_integer(epoch) || json_integer_value(epoch) < 1)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"epoch\" is no number from 1 on");
	if (!step || agent_step_by_name(step, &w->q.step))
		return kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "no such step: %s", step ? step : "");
	if (!request)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"request\" is missing");
	strcpy(w->volume, volume);
	strcpy(w->request, request);
	w->q.epoch = (uint64_t)json_integer_value(epoch);
	w->args = json_object_get(body, "args");
	return read_step_args(w, err);
}

void agent_on_step(void *arg, struct http_request *req)
{
	struct agent_service *s = arg;
	struct step_wait *w = calloc(1, sizeof *w);
	struct kedge_err err = {0};
	struct unit *u = NULL;
	int res = w ? read_step(req->body, w, &err) : kedge_err_set(&err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a request");

	if (!res) {
		u = unit_by_uuid(s, &w->uuid);
		if (u && strcmp(u->d.vol.name, w->volume) != 0)
			res = kedge_err_set(&err, -EINVAL, KEDGE_SIDE_CONTROL, "the volume of that uuid is named %s here, not %s",
					    u->d.vol.name, w->volume);
		else if (!u)
			u = unit_create(s, &w->uuid, w->volume);
		if (!u && !res)
			res = kedge_err_set(&err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a volume");
	}
	if (res) {
		http_respond_err(req, &err, NULL);
		free(w);
		return;
	}
	unit_wait(u, req, &w->w, look_at_step);
	unit_look_again(u);
	/* A refused step about a volume that this host does not know leaves nothing behind. */
	if (!u->is_stored && !u->job && !u->waiters)
		unit_destroy(u);
}
