/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. An agent around the core that ships (agent_core.c), as agent_steps.c drives it: decide, record, act, record with the result,
 * answer. Actions take time, may fail, and are cut off when the agent dies.
 */
#include <errno.h>
#include <string.h>

#include "sim.h"

static const struct result *find_result(const struct unit *u, const struct agent_request *q)
{
	for (unsigned i = 0; i < u->nr_results; i++)
		if (u->results[i].epoch == q->epoch && u->results[i].step == q->step &&
		    kedge_uuid_is_equal(&u->results[i].migration, &q->migration))
			return &u->results[i];
	return NULL;
}

static void put_result(struct world *w, struct unit *u, const struct agent_request *q, bool is_running)
{
	if (find_result(u, q))
		return;
	if (u->nr_results == RESULTS_MAX) {
		memmove(u->results, u->results + 1, sizeof u->results - sizeof u->results[0]);
		u->nr_results--;
	}
	u->results[u->nr_results++] =
		(struct result){.migration = q->migration, .epoch = q->epoch, .step = q->step, .is_running = is_running};
}

static void forget_result(struct unit *u, const struct kedge_uuid *migration, uint64_t epoch, enum agent_step step)
{
	struct agent_request q = {.migration = *migration, .epoch = epoch, .step = step};
	const struct result *r = find_result(u, &q);

	if (!r)
		return;
	size_t i = (size_t)(r - u->results);
	memmove(&u->results[i], &u->results[i + 1], (u->nr_results - i - 1) * sizeof u->results[0]);
	u->nr_results--;
}

static void check_record(struct world *w, const struct unit *u, const char *when)
{
	const char *broken = agent_core_broken_invariant(&u->r);

	if (broken)
		world_fail(w, "an agent's record breaks an invariant %s: %s", when, broken);
}

/* ---- answers ---- */

static void reply(struct world *w, const struct event *to, const struct coord_answer *a)
{
	struct event e = *to;

	e.kind = EVENT_REPLY;
	e.answer = *a;
	if (!w->is_calm && world_chance(w, 4))
		return; /* lost */
	if (world_is_cut(w, to->host, NR_HOSTS + to->coord))
		return;
	world_post(w, &e, 1 + world_below(w, 5) + (!w->is_calm && world_chance(w, 3) ? world_below(w, 20000) : 0));
	if (!w->is_calm && world_chance(w, 3))
		world_post(w, &e, world_below(w, 60000));
}

static void reply_kind(struct world *w, const struct event *to, enum coord_answer_kind kind, int code)
{
	struct coord_answer a = {.kind = kind, .code = code};

	reply(w, to, &a);
}

static void reply_done(struct world *w, const struct event *to)
{
	struct coord_answer a = {.kind = COORD_ANSWER_DONE, .size_bytes = 1 << 20, .lbs_bytes = 512, .verified_bytes = 1 << 20};
	const struct result *r = find_result(&w->hosts[to->host].units[to->volume], &to->q);

	a.is_running = r && r->is_running;
	a.is_released = to->q.step == AGENT_RELEASE;
	strcpy(a.portal, "10.0.0.1:1");
	reply(w, to, &a);
}

/* ---- what a step does to the world; 0 or a code ---- */

static bool source_answers(const struct world *w, unsigned host, const struct unit *u, unsigned volume)
{
	const struct unit *source = &w->hosts[u->clone_of].units[volume];

	return source->is_exported && !world_is_cut(w, host, u->clone_of);
}

static void start_workload(struct world *w, unsigned host, unsigned volume)
{
	struct unit *u = &w->hosts[host].units[volume];
	const char *reason;

	if (u->is_running)
		return;
	if (agent_core_may_start(&u->r, &reason))
		world_fail(w, "host %s starts a workload that may not: %s", host_names[host], reason);
	if (u->r.has_intent && u->r.state != AGENT_STATE_LOCAL && u->r.state != AGENT_STATE_CLONING)
		world_fail(w, "I3: a source starts after it gave the volume away");
	if (!u->has_copy)
		world_fail(w, "host %s starts a workload without data", host_names[host]);
	u->is_running = true;
	w->nr_starts++;
}

static int act(struct world *w, struct event *e)
{
	struct host *h = &w->hosts[e->host];
	struct unit *u = &h->units[e->volume];
	unsigned other = (unsigned)host_by_name(e->to);
	unsigned failing = w->is_calm ? 0 : 6;

	if (world_chance(w, failing))
		return world_chance(w, 30) ? KEDGE_E_STILL_OPEN : world_chance(w, 30) ? -EIO : KEDGE_E_SOURCE_AWAY;
	switch (e->q.step) {
	case AGENT_RESERVE:
		u->has_copy = true;
		u->is_whole = false;
		u->version = 0;
		break;
	case AGENT_STOP:
		u->is_running = false;
		break;
	case AGENT_FENCE:
		if (u->is_running)
			return KEDGE_E_STATE;
		break;
	case AGENT_EXPORT:
		u->is_exported = true;
		break;
	case AGENT_ATTACH:
		u->clone_of = other;
		if (!source_answers(w, e->host, u, e->volume))
			return KEDGE_E_SOURCE_AWAY;
		u->version = w->hosts[other].units[e->volume].version;
		break;
	case AGENT_BOOT:
		if (e->is_start)
			start_workload(w, e->host, e->volume);
		u->is_wanted = e->is_start;
		break;
	case AGENT_HYDRATE:
		if (!u->is_whole && !source_answers(w, e->host, u, e->volume))
			return KEDGE_E_SOURCE_AWAY;
		if (!u->is_whole && !w->hosts[u->clone_of].units[e->volume].has_copy)
			world_fail(w, "I2: the source of a clone that is not whole is gone");
		u->is_whole = true;
		break;
	case AGENT_FINISH:
		if (!u->is_whole)
			return KEDGE_E_NOT_HYDRATED;
		break;
	case AGENT_UNEXPORT:
		u->is_exported = false;
		break;
	case AGENT_RELEASE:
		u->has_copy = u->is_whole = false;
		u->is_wanted = false;
		break;
	case AGENT_REVOKE:
		if (u->is_running)
			world_fail(w, "a revoked destination runs");
		if (u->r.state == AGENT_STATE_REVOKED)
			u->has_copy = u->is_whole = false;
		break;
	case AGENT_UNFENCE:
		u->is_exported = false;
		break;
	default:
		break;
	}
	return 0;
}

/* ---- jobs ---- */

static void look(struct world *w, struct event *e);

static void look_again(struct world *w, struct unit *u)
{
	struct event waiter = u->waiter;

	if (!u->is_waiting)
		return;
	u->is_waiting = false;
	look(w, &waiter);
}

void agent_on_job(struct world *w, struct event *e)
{
	struct host *h = &w->hosts[e->host];
	struct unit *u = &h->units[e->volume];
	int res;

	if (!h->is_alive || e->life != h->life || !u->has_job)
		return;
	u->has_job = false;
	res = act(w, e);
	/* the agent may die between the act and its record: nothing of it is known then */
	if (!w->is_calm && world_chance(w, 2)) {
		agent_die(w, e->host, false);
		return;
	}
	if (res) {
		if (u->is_waiting) {
			u->is_waiting = false;
			reply_kind(w, &u->waiter, COORD_ANSWER_FAILED, res);
		}
		return;
	}
	agent_core_finish(&u->r, &e->q, &u->r);
	if (e->q.step == AGENT_UNFENCE)
		u->is_wanted = e->is_start;
	put_result(w, u, &e->q, e->q.step == AGENT_CHECK && u->is_running);
	check_record(w, u, "after a step");
	look_again(w, u);
}

void agent_on_patience(struct world *w, struct event *e)
{
	struct host *h = &w->hosts[e->host];
	struct unit *u = &h->units[e->volume];

	if (!h->is_alive || e->life != h->life || !u->is_waiting || u->waiter.request != e->request || u->waiter.ask_nr != e->ask_nr)
		return;
	u->is_waiting = false;
	reply_kind(w, &u->waiter, COORD_ANSWER_RUNNING, 0);
}

static void begin(struct world *w, struct event *e, const struct agent_verdict *v)
{
	struct host *h = &w->hosts[e->host];
	struct unit *u = &h->units[e->volume];
	struct event job = *e, patience = *e;

	if (!w->is_calm && world_chance(w, 1)) {
		agent_die(w, e->host, false);
		return;
	}
	if (v->has_before)
		u->r = v->before;
	check_record(w, u, "before a step");
	if (!w->is_calm && world_chance(w, 1)) {
		agent_die(w, e->host, false);
		return;
	}
	u->has_job = true;
	u->job = job;
	u->is_waiting = true;
	u->waiter = *e;
	job.kind = EVENT_JOB;
	job.life = h->life;
	world_post(w, &job, 1 + world_below(w, world_chance(w, 10) ? 5000 : 50));
	patience.kind = EVENT_PATIENCE;
	patience.life = h->life;
	world_post(w, &patience, 1000);
}

static void look(struct world *w, struct event *e)
{
	struct unit *u = &w->hosts[e->host].units[e->volume];
	struct agent_verdict v;

	agent_core_decide(&u->r, find_result(u, &e->q) != NULL, &e->q, &v);
	if (world_trace)
		printf("        %s v%u: %s epoch %lu -> verdict %d %s\n", host_names[e->host], e->volume, agent_step_name(e->q.step),
		       (unsigned long)e->q.epoch, v.kind, v.reason ? v.reason : "");
	switch (v.kind) {
	case AGENT_STORED:
		reply_done(w, e);
		break;
	case AGENT_STALE:
		reply_kind(w, e, COORD_ANSWER_STALE, v.code);
		break;
	case AGENT_REFUSE:
		reply_kind(w, e, COORD_ANSWER_FAILED, v.code);
		break;
	case AGENT_ACT:
		if (!u->has_job) {
			begin(w, e, &v);
		} else if (!u->is_waiting) {
			struct event patience = *e;
			u->is_waiting = true;
			u->waiter = *e;
			patience.kind = EVENT_PATIENCE;
			patience.life = w->hosts[e->host].life;
			world_post(w, &patience, 1000);
		}
		break;
	}
}

void agent_on_request(struct world *w, struct event *e)
{
	struct host *h = &w->hosts[e->host];

	if (!h->is_alive || world_is_cut(w, e->host, NR_HOSTS + e->coord))
		return;
	e->q.to = e->to;
	look(w, e);
}

/* ---- life ---- */

void agent_work(struct world *w, unsigned host)
{
	struct host *h = &w->hosts[host];
	const char *reason;

	for (unsigned v = 0; v < NR_VOLUMES; v++) {
		struct unit *u = &h->units[v];
		if (h->is_alive && !u->has_job && u->is_wanted && !u->is_running && agent_core_may_start(&u->r, &reason) == 0)
			start_workload(w, host, v);
		/* an export that is recorded and not ended comes back */
		if (h->is_alive && !u->has_job && u->r.export_epoch && u->r.unexported_epoch != u->r.export_epoch &&
		    u->r.aborted_epoch != u->r.export_epoch)
			u->is_exported = true;
		if (!u->is_running)
			continue;
		if (u->version != w->acked[v])
			world_fail(w, "I4: volume %u runs on %s with %lu of %lu acknowledged writes", v, host_names[host],
				   (unsigned long)u->version, (unsigned long)w->acked[v]);
		u->version = ++w->acked[v];
		w->nr_writes++;
	}
}

void agent_die(struct world *w, unsigned host, bool is_reboot)
{
	struct host *h = &w->hosts[host];

	w->nr_deaths++;
	h->is_alive = false;
	h->life++;
	for (unsigned v = 0; v < NR_VOLUMES; v++) {
		struct unit *u = &h->units[v];
		u->has_job = u->is_waiting = false;
		if (!is_reboot)
			continue;
		u->is_running = u->is_exported = false;
		struct kedge_uuid migration = u->r.migration;
		uint64_t held = u->r.held_epoch;
		if (agent_core_reboot(&u->r))
			forget_result(u, &migration, held, AGENT_STOP);
	}
}
