/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Drives migrations: does what the pure machine hands out (records, requests to agents, timers) and feeds it what
 * comes back.
 *
 * Owns. The runs.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. The machine's order: a record is written before what it announces is sent. After a restart a run goes on from its
 * record; requests are asked again and answered from the agents' records.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "coord_int.h"
#include "kedge/log.h"

#define ASK_TIMEOUT_MS 15000
#define WRITE_RETRY_MS 1000

/* One request on its way. Lives on its own: a run may have turned to something else meanwhile. */
struct ask {
	struct run *r;
	uint64_t ask_nr;
	enum agent_step step;
};

static void run_todo(struct run *r);

uint64_t coord_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void coord_failpoint(const char *where, enum coord_step step)
{
	const char *wanted = getenv("KEDGE_FAILPOINT");
	char name[64];

	if (!wanted)
		return;
	snprintf(name, sizeof name, "coord.%s.%s", where, coord_row_of(step)->name);
	if (strcmp(name, wanted) == 0)
		raise(SIGKILL);
}

/* ---- names on the wire: one target a migration ---- */

const char *coord_iqn(const struct coord_migration *m, char out[KEDGE_IQN_MAX + 1])
{
	char id[KEDGE_UUID_TEXT_MAX];

	kedge_uuid_format(&m->id, id);
	snprintf(out, KEDGE_IQN_MAX + 1, "iqn.2026-11.local.kedge:%s", id);
	return out;
}

const char *coord_initiator_iqn(const struct coord_migration *m, char out[KEDGE_IQN_MAX + 1])
{
	char id[KEDGE_UUID_TEXT_MAX];

	kedge_uuid_format(&m->id, id);
	snprintf(out, KEDGE_IQN_MAX + 1, "iqn.2026-11.local.kedge:clone.%s", id);
	return out;
}

/* ---- what is asked ---- */

static json_t *chap_json(const struct kedge_chap *c)
{
	return json_pack("{s:s, s:s, s:s, s:s}", "user", c->user, "secret", c->secret, "mutual_user", c->mutual_user, "mutual_secret",
			 c->mutual_secret);
}

static json_t *reserve_args(const struct run *r)
{
	const struct coord_migration *m = &r->f.m;
	char *spec = coord_store_get_spec(r->s->store, &m->id), iqn[KEDGE_IQN_MAX + 1];
	json_t *parsed = spec ? json_loads(spec, 0, NULL) : NULL, *args;

	free(spec);
	args = json_pack("{s:I, s:i, s:s, s:s?, s:o?, s:b, s:s, s:s}", "size_bytes", (json_int_t)m->size_bytes, "lbs_bytes", (int)m->lbs_bytes,
			 "source_host", m->from, "workload", m->workload[0] ? m->workload : NULL, "spec", parsed, "start", m->wants_start,
			 "initiator_iqn", coord_initiator_iqn(m, iqn), "engine", m->engine[0] ? m->engine : "user");
	/* only what was asked for: an agent that does not know of it does without it as long as nobody wants it, and refuses then, before
	 * anything is stopped */
	if (args)
		pace_write(&m->pace, args);
	return args;
}

/* EXPORT and ATTACH: the two ends of one session. NULL when the credentials are gone. */
static json_t *session_args(const struct run *r, enum agent_step step, struct kedge_err *err)
{
	const struct coord_migration *m = &r->f.m;
	char iqn[KEDGE_IQN_MAX + 1], initiator[KEDGE_IQN_MAX + 1], url[KEDGE_IQN_MAX + COORD_PORTAL_MAX + 32];
	struct kedge_chap chap = {0};
	json_t *args;

	if (coord_store_get_chap(r->s->store, &m->id, &chap, err))
		return NULL;
	args = json_pack("{s:s, s:o}", "initiator_iqn", coord_initiator_iqn(m, initiator), "chap", chap_json(&chap));
	kedge_chap_fini(&chap);
	coord_iqn(m, iqn);
	if (step == AGENT_EXPORT) {
		json_object_set_new(args, "iqn", json_string(iqn));
	} else {
		snprintf(url, sizeof url, "iscsi://%s/%s/1", m->portal, iqn);
		json_object_set_new(args, "url", json_string(url));
	}
	return args;
}

static json_t *args_of(const struct run *r, enum agent_step step, struct kedge_err *err)
{
	const struct coord_migration *m = &r->f.m;

	switch (step) {
	case AGENT_RESERVE:
		return reserve_args(r);
	case AGENT_FENCE:
		return json_pack("{s:s}", "to", m->to);
	case AGENT_EXPORT:
	case AGENT_ATTACH:
		return session_args(r, step, err);
	case AGENT_BOOT:
	case AGENT_UNFENCE:
		return json_pack("{s:b}", "start", m->wants_start);
	case AGENT_HYDRATE:
		return json_pack("{s:I}", "rate_bps", (json_int_t)m->rate_bps);
	case AGENT_RELEASE:
		return json_pack("{s:s}", "policy", m->is_release_delete ? "delete" : "keep");
	default:
		return json_object();
	}
}

static json_t *request_json(struct run *r, enum agent_step step, struct kedge_err *err)
{
	const struct coord_migration *m = &r->f.m;
	char id[KEDGE_UUID_TEXT_MAX], uuid[KEDGE_UUID_TEXT_MAX];
	json_t *args = args_of(r, step, err);

	if (!args)
		return NULL;
	kedge_uuid_format(&m->id, id);
	kedge_uuid_format(&m->volume_uuid, uuid);
	return json_pack("{s:i, s:s, s:s, s:s, s:I, s:s, s:s, s:o}", "v", 1, "migration", id, "volume", m->volume, "volume_uuid", uuid,
			 "epoch", (json_int_t)m->epoch, "step", agent_step_name(step), "request", r->request, "args", args);
}

/* ---- what is answered ---- */

static uint64_t number(const json_t *o, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(o, key));

	return v > 0 ? (uint64_t)v : 0;
}

static const char *text(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));

	return t ? t : "";
}

static void read_failure(unsigned status, const json_t *body, struct coord_answer *a)
{
	const json_t *error = json_object_get(body, "error");

	a->kind = COORD_ANSWER_FAILED;
	/* a daemon that is being stopped answers what waits there with a bare 503: the next one will know */
	a->code = *text(error, "code") ? kedge_err_by_name(text(error, "code")) : status >= 500 ? KEDGE_E_UNREACHABLE : KEDGE_E_PROTO;
	a->message = status >= 500 && !*text(error, "message") ? "its daemon is being stopped" : text(error, "message");
	if (a->code == KEDGE_E_STALE_EPOCH)
		a->kind = COORD_ANSWER_STALE;
}

static void read_done(const json_t *result, struct coord_answer *a)
{
	a->kind = COORD_ANSWER_DONE;
	a->size_bytes = number(result, "size_bytes");
	a->lbs_bytes = (uint32_t)number(result, "lbs_bytes");
	a->is_running = json_is_true(json_object_get(result, "running"));
	snprintf(a->portal, sizeof a->portal, "%s", text(result, "portal"));
	a->left_out_bytes = number(result, "left_out_bytes");
	a->verified_bytes = number(result, "verified_bytes");
	a->checksum_bytes = number(result, "checksum_bytes");
	a->hole_bytes = number(result, "hole_bytes");
	a->sampled_bytes = number(result, "sampled_bytes");
	a->sample_seed = number(result, "sample_seed");
	a->written_bytes = number(result, "written_bytes");
	a->mismatch_bytes = number(result, "mismatch_bytes");
	a->is_untold = !json_object_get(result, "verified_bytes") && !json_object_get(result, "hole_bytes") &&
		       json_object_get(result, "written_bytes");
	a->is_released = json_is_true(json_object_get(result, "released"));
}

/* An EXPORT that names no portal, a FINISH that counts too little: not what was agreed. One that does not count, because that was lost, is. */
static bool is_whole(enum agent_step step, const struct coord_answer *a)
{
	if (a->kind != COORD_ANSWER_DONE)
		return true;
	if (step == AGENT_EXPORT)
		return a->portal[0] != 0;
	if (step == AGENT_CHECK)
		return a->size_bytes && a->lbs_bytes;
	if (step == AGENT_FINISH)
		return (a->is_untold || a->verified_bytes + a->hole_bytes + a->written_bytes >= a->size_bytes) && a->size_bytes;
	return true;
}

static void keep_progress(struct run *r, const json_t *progress)
{
	if (!json_is_object(progress) || json_object_size(progress) == 0)
		return;
	json_decref(r->progress);
	r->progress = json_incref((json_t *)progress);
}

static void read_answer(struct run *r, enum agent_step step, int res, unsigned status, const json_t *body, const struct kedge_err *err,
			struct coord_answer *a)
{
	const char *state = text(body, "state");

	memset(a, 0, sizeof *a);
	if (res) {
		a->kind = COORD_ANSWER_FAILED;
		a->code = res;
		a->message = err->msg;
	} else if (status != 200 || strcmp(state, "failed") == 0) {
		read_failure(status, body, a);
	} else if (strcmp(state, "running") == 0) {
		a->kind = COORD_ANSWER_RUNNING;
		keep_progress(r, json_object_get(body, "progress"));
	} else if (strcmp(state, "done") == 0) {
		read_done(json_object_get(body, "result"), a);
	} else {
		a->kind = COORD_ANSWER_FAILED;
		a->code = KEDGE_E_PROTO;
		a->message = "the agent's answer has no state";
	}
	if (!is_whole(step, a)) {
		a->kind = COORD_ANSWER_FAILED;
		a->code = KEDGE_E_PROTO;
		a->message = "the agent's result is not whole";
	}
}

static void tell_trouble(struct run *r)
{
	const struct coord_row *row = coord_row_of(r->f.m.step);

	if (r->f.last_code == r->told_code)
		return;
	r->told_code = r->f.last_code;
	if (r->f.last_code)
		event_add(r->s, &r->f.m.drain, &r->f.m, "trouble", "%s on %s: %s; %s", agent_step_name(row->ask),
			  row->side == COORD_SOURCE ? r->f.m.from : r->f.m.to, r->f.last_error,
			  r->f.is_held ? "held: a person must look at this" : "trying again");
}

static void on_answer(void *arg, int res, unsigned status, const json_t *body, const struct kedge_err *err)
{
	struct ask *ask = arg;
	struct run *r = ask->r;
	struct coord_answer a;
	struct coord_todo todo;

	read_answer(r, ask->step, res, status, body, err, &a);
	coord_core_on_answer(&r->f, ask->ask_nr, &a, coord_now_ms(), &todo);
	free(ask);
	if (todo.kind == COORD_NOTHING)
		return; /* too late: the run has turned to something else, which r->todo still holds */
	r->todo = todo;
	if (!r->f.is_writing)
		tell_trouble(r);
	run_todo(r);
}

/* A message that could not be made is an answer too; it comes later, as all do. */
static void on_unsendable(uv_timer_t *timer)
{
	struct run *r = timer->data;
	struct coord_answer a = {.kind = COORD_ANSWER_FAILED, .code = KEDGE_E_BUG, .message = "the request could not be made"};

	coord_core_on_answer(&r->f, r->f.ask_nr, &a, coord_now_ms(), &r->todo);
	tell_trouble(r);
	run_todo(r);
}

static void send_ask(struct run *r)
{
	const char *to = r->todo.side == COORD_SOURCE ? r->f.m.from : r->f.m.to;
	struct host *h = host_by_name(r->s, to);
	struct kedge_uuid request;
	struct kedge_err err = {0};
	struct ask *ask;
	json_t *body;

	if (!r->todo.is_same_request) {
		kedge_uuid_create(&request);
		kedge_uuid_format(&request, r->request);
	}
	body = h ? request_json(r, r->todo.ask, &err) : NULL;
	if (!body) {
		kedge_error("volume %s: %s cannot be asked of %s: %s", r->f.m.volume, agent_step_name(r->todo.ask), to,
			    err.code ? err.msg : "no such host is configured");
		uv_timer_start(&r->timer, on_unsendable, 0, 0);
		return;
	}
	ask = calloc(1, sizeof *ask);
	kedge_assert(ask);
	*ask = (struct ask){.r = r, .ask_nr = r->todo.ask_nr, .step = r->todo.ask};
	http_call(r->s->client, h->name, h->address, "POST", "/v1/step", body, ASK_TIMEOUT_MS, on_answer, ask);
	json_decref(body);
}

/* ---- records ---- */

static void on_timer(uv_timer_t *timer)
{
	struct run *r = timer->data;

	if (r->f.is_writing)
		run_todo(r); /* a record that could not be written */
	else {
		coord_core_on_time(&r->f, coord_now_ms(), &r->todo);
		run_todo(r);
	}
}

static int seal_receipt(struct run *r, struct kedge_err *err)
{
	char *receipt = receipt_text(r);
	int res = receipt ? coord_store_put_receipt(r->s->store, &r->f.m.id, receipt, err) : -ENOMEM;

	free(receipt);
	return res;
}

/* The record, then all that tells of it. False: it could not be written; tried again later, nothing is sent meanwhile. */
static bool write_record(struct run *r)
{
	struct kedge_err err = {0};
	const char *broken = coord_core_broken_invariant(&r->f.next);
	int res;

	kedge_assert(!broken);
	coord_failpoint("after_act", r->f.m.step);
	coord_failpoint("before_write", r->f.next.step);
	res = coord_store_put_migration(r->s->store, &r->f.next, r->todo.is_lazy, &err);
	if (res) {
		if (!r->is_write_failing)
			kedge_error("volume %s: %s is not recorded and so nothing goes on: %s", r->f.m.volume,
				    coord_row_of(r->f.next.step)->name, err.msg);
		r->is_write_failing = true;
		uv_timer_start(&r->timer, on_timer, WRITE_RETRY_MS, 0);
		return false;
	}
	r->is_write_failing = false;
	coord_failpoint("after_write", r->f.next.step);
	coord_core_written(&r->f, coord_now_ms(), &r->todo);
	r->told_code = 0;
	return true;
}

/* Told after the next request is on its way: nobody's downtime waits for the log. */
static void tell_step(struct run *r, const struct coord_migration *written)
{
	struct coord_migration now = r->f.m;
	struct kedge_err err = {0};

	r->f.m = *written;
	event_of_step(r);
	if (written->step == COORD_DONE || (written->step == COORD_RETAINED && written->hold_ms))
		if (seal_receipt(r, &err))
			kedge_error("volume %s: no receipt: %s", written->volume, err.msg);
	r->f.m = now;
}

static void run_todo(struct run *r)
{
	struct coord_migration told[4];
	unsigned nr_told = 0;

	/* a step without a question is followed by the next at once */
	while (r->todo.kind == COORD_WRITE && nr_told < 4) {
		if (!write_record(r))
			break;
		told[nr_told++] = r->f.m;
	}
	if (r->todo.kind == COORD_WRITE && !r->is_write_failing) {
		uv_timer_start(&r->timer, on_timer, 0, 0);
	} else if (r->todo.kind == COORD_ASK) {
		send_ask(r);
	} else if (r->todo.kind == COORD_WAIT) {
		uint64_t now = coord_now_ms();
		uv_timer_start(&r->timer, on_timer, r->todo.until_ms > now ? r->todo.until_ms - now : 0, 0);
	} else if (r->todo.kind == COORD_END) {
		coord_failpoint("after_act", r->f.m.step);
	}
	for (unsigned i = 0; i < nr_told; i++)
		tell_step(r, &told[i]);
	if (nr_told)
		drains_look(r->s);
}

void run_begin(struct run *r)
{
	r->is_begun = true;
	coord_core_begin(&r->f, coord_now_ms(), &r->todo);
	run_todo(r);
}

int run_abort(struct run *r, struct kedge_err *err)
{
	struct coord_todo todo;
	int res = coord_core_abort(&r->f, coord_now_ms(), &todo, err);

	if (res || todo.kind == COORD_NOTHING)
		return res;
	r->is_begun = true;
	r->is_write_failing = false;
	uv_timer_stop(&r->timer);
	r->todo = todo;
	run_todo(r);
	return 0;
}

/* ---- the list ---- */

struct run *run_create(struct coord_service *s, const struct coord_migration *m)
{
	struct run *r = calloc(1, sizeof *r);

	if (!r)
		return NULL;
	r->s = s;
	r->f.m = *m;
	uv_timer_init(s->loop, &r->timer);
	r->timer.data = r;
	*s->runs_end = r;
	s->runs_end = &r->next;
	return r;
}

static void on_run_closed(uv_handle_t *handle)
{
	struct run *r = handle->data;

	json_decref(r->progress);
	free(r);
}

void run_destroy(struct run *r)
{
	uv_close((uv_handle_t *)&r->timer, on_run_closed);
}

struct run *run_by_id(struct coord_service *s, const char *id)
{
	struct kedge_uuid uuid;

	if (kedge_uuid_parse(id, &uuid))
		return NULL;
	for (struct run *r = s->runs; r; r = r->next)
		if (kedge_uuid_is_equal(&r->f.m.id, &uuid))
			return r;
	return NULL;
}

struct run *run_of_volume(struct coord_service *s, const char *volume)
{
	struct run *newest = NULL;

	for (struct run *r = s->runs; r; r = r->next)
		if (strcmp(r->f.m.volume, volume) == 0 && !coord_core_is_over(&r->f))
			newest = r;
	return newest;
}
