/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Time, chance, faults, operators and the judge (I1 to I8 of coordination.md) of the simulated world.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define STORM_MS 240000		/* faults and operators */
#define END_MS 3600000		/* by then everything has ended (I8): longer than any patience */
#define EVENTS_LIMIT 400000u

const char *const host_names[NR_HOSTS] = {"a", "b", "c"};
bool world_trace;

uint64_t world_random(struct world *w)
{
	/* splitmix64 */
	uint64_t z = (w->state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

unsigned world_below(struct world *w, unsigned n)
{
	return n ? (unsigned)(world_random(w) % n) : 0;
}

bool world_chance(struct world *w, unsigned percent)
{
	return world_below(w, 100) < percent;
}

int host_by_name(const char *name)
{
	for (int i = 0; i < NR_HOSTS; i++)
		if (strcmp(host_names[i], name) == 0)
			return i;
	return 0;
}

void world_fail(struct world *w, const char *fmt, ...)
{
	va_list ap;

	if (w->failure[0])
		return;
	va_start(ap, fmt);
	vsnprintf(w->failure, sizeof w->failure, fmt, ap);
	va_end(ap);
}

bool world_is_cut(const struct world *w, unsigned a, unsigned b)
{
	if (a < NR_HOSTS && w->hosts[a].cut_until_ms[b] > w->now_ms)
		return true;
	return b < NR_HOSTS && w->hosts[b].cut_until_ms[a] > w->now_ms;
}

/* ---- the queue ---- */

static bool is_before(const struct event *a, const struct event *b)
{
	return a->at_ms < b->at_ms || (a->at_ms == b->at_ms && a->order < b->order);
}

void world_post(struct world *w, struct event *e, uint64_t delay_ms)
{
	size_t i = w->nr_events++;

	if (w->nr_events > w->max_events) {
		w->max_events = w->max_events ? w->max_events * 2 : 256;
		w->events = realloc(w->events, w->max_events * sizeof *w->events);
		if (!w->events)
			abort();
	}
	e->at_ms = w->now_ms + delay_ms;
	e->order = w->order++;
	while (i > 0 && is_before(e, &w->events[(i - 1) / 2])) {
		w->events[i] = w->events[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	w->events[i] = *e;
}

static struct event take_first(struct world *w)
{
	struct event first = w->events[0], last = w->events[--w->nr_events];
	size_t i = 0;

	for (size_t child = 1; child < w->nr_events; child = 2 * i + 1) {
		if (child + 1 < w->nr_events && is_before(&w->events[child + 1], &w->events[child]))
			child++;
		if (!is_before(&w->events[child], &last))
			break;
		w->events[i] = w->events[child];
		i = child;
	}
	if (w->nr_events)
		w->events[i] = last;
	return first;
}

/* ---- the judge ---- */

static void judge(struct world *w)
{
	for (unsigned v = 0; v < NR_VOLUMES; v++) {
		unsigned nr_running = 0, nr_safe = 0;
		for (unsigned h = 0; h < NR_HOSTS; h++) {
			const struct unit *u = &w->hosts[h].units[v];
			nr_running += u->is_running;
			if (!u->has_copy || u->version != w->acked[v])
				continue;
			/* whole, or the rest of it is still at its source */
			const struct unit *source = &w->hosts[u->clone_of].units[v];
			nr_safe += u->is_whole || (u->r.attached_epoch == u->r.epoch && u->clone_of != h && source->has_copy);
		}
		if (nr_running > 1)
			world_fail(w, "I1: volume %u runs on %u hosts", v, nr_running);
		if (nr_safe == 0)
			world_fail(w, "I2: no complete copy of volume %u is left", v);
	}
}

/* After the calm: everything has come to its end. */
static void judge_end(struct world *w)
{
	for (unsigned c = 0; c < NR_COORDS; c++)
		for (unsigned i = 0; i < w->coords[c].nr_flows; i++) {
			const struct coord_migration *m = &w->coords[c].flows[i].f.m;
			if (!(coord_row_of(m->step)->flags & COORD_ENDED))
				world_fail(w, "I8: migration of %s from %s to %s is still at %s (%s)", m->volume, m->from, m->to,
					   coord_row_of(m->step)->name, w->coords[c].flows[i].f.last_error);
		}
	for (unsigned v = 0; v < NR_VOLUMES; v++) {
		unsigned nr_running = 0, nr_copies = 0;
		for (unsigned h = 0; h < NR_HOSTS; h++) {
			const struct unit *u = &w->hosts[h].units[v];
			nr_running += u->is_running;
			nr_copies += u->has_copy;
			if (u->is_exported)
				world_fail(w, "I6: volume %u is still exported on %s", v, host_names[h]);
			if (agent_core_is_engaged(&u->r))
				world_fail(w, "I6: volume %u on %s is still %s", v, host_names[h], agent_state_name(u->r.state));
		}
		if (nr_running != (w->wants_run[v] ? 1 : 0))
			world_fail(w, "I5: volume %u runs on %u hosts at the end", v, nr_running);
		if (nr_copies != 1)
			world_fail(w, "I6: volume %u has %u copies at the end", v, nr_copies);
	}
}

/* I7: whatever comes late, of a lower epoch or of one that has ended, changes nothing. */
static void judge_late_messages(struct world *w)
{
	for (unsigned h = 0; h < NR_HOSTS; h++)
		for (unsigned v = 0; v < NR_VOLUMES; v++)
			for (unsigned step = 0; step < AGENT_NR_STEPS; step++) {
				struct unit *u = &w->hosts[h].units[v];
				struct agent_request q = {.epoch = u->r.epoch - 1, .step = (enum agent_step)step, .to = "b"};
				struct agent_verdict verdict;
				if (u->r.epoch < 2)
					continue;
				agent_core_decide(&u->r, world_chance(w, 50), &q, &verdict);
				if (verdict.kind != AGENT_STALE && verdict.kind != AGENT_STORED)
					world_fail(w, "I7: %s of a lower epoch is not stale", agent_step_name(q.step));
			}
}

/* ---- faults and operators ---- */

static void wake_all(struct world *w)
{
	for (unsigned h = 0; h < NR_HOSTS; h++)
		w->hosts[h].is_alive = true;
	for (unsigned c = 0; c < NR_COORDS; c++)
		if (!w->coords[c].is_alive)
			coord_restart(w, c);
}

static void calm_down(struct world *w)
{
	w->is_calm = true;
	for (unsigned h = 0; h < NR_HOSTS; h++)
		memset(w->hosts[h].cut_until_ms, 0, sizeof w->hosts[h].cut_until_ms);
	wake_all(w);
}

static void on_fault(struct world *w, struct event *e)
{
	unsigned h = world_below(w, NR_HOSTS), c = world_below(w, NR_COORDS);

	if (w->now_ms >= STORM_MS) {
		if (!w->is_calm)
			calm_down(w);
		return;
	}
	switch (world_below(w, 8)) {
	case 0:
		agent_die(w, h, false);
		break;
	case 1:
		agent_die(w, h, true);
		break;
	case 2:
		if (w->coords[c].is_alive)
			coord_die(w, c, world_chance(w, 50));
		break;
	case 3:
		w->nr_cuts++;
		w->hosts[h].cut_until_ms[world_below(w, NR_HOSTS + NR_COORDS)] = w->now_ms + world_below(w, 60000);
		break;
	case 4:
		w->nr_cuts++;
		for (unsigned i = 0; i < NR_HOSTS + NR_COORDS; i++)
			w->hosts[h].cut_until_ms[i] = w->now_ms + world_below(w, 40000);
		break;
	case 5:
		w->coords[c].clock_ms = (int64_t)world_below(w, 7200000) - 3600000;
		break;
	default:
		wake_all(w);
	}
	world_post(w, e, 100 + world_below(w, world_chance(w, 30) ? 500 : 15000));
}

/* Where the volume is, as an operator sees it. */
static int home_of(const struct world *w, unsigned volume)
{
	for (int h = 0; h < NR_HOSTS; h++) {
		const struct agent_record *r = &w->hosts[h].units[volume].r;
		if (r->state == AGENT_STATE_LOCAL)
			return h;
	}
	return -1;
}

static void on_operator(struct world *w, struct event *e)
{
	unsigned v = world_below(w, NR_VOLUMES), c = world_chance(w, 85) ? 0 : 1;
	int from = home_of(w, v);

	if (w->now_ms >= STORM_MS)
		return;
	if (world_chance(w, 25) && w->coords[c].nr_flows)
		coord_abort(w, c, world_below(w, w->coords[c].nr_flows));
	else if (from >= 0 && !coord_has_open_flow(w, c, v))
		coord_start_migration(w, c, v, (unsigned)from, ((unsigned)from + 1 + world_below(w, NR_HOSTS - 1)) % NR_HOSTS);
	world_post(w, e, 50 + world_below(w, 12000));
}

static void dispatch(struct world *w, struct event *e)
{
	switch (e->kind) {
	case EVENT_REQUEST:
		agent_on_request(w, e);
		break;
	case EVENT_REPLY:
		coord_on_reply(w, e);
		break;
	case EVENT_JOB:
		agent_on_job(w, e);
		break;
	case EVENT_PATIENCE:
		agent_on_patience(w, e);
		break;
	case EVENT_TIMEOUT:
		coord_on_timeout(w, e);
		break;
	case EVENT_TIMER:
		coord_on_timer(w, e);
		break;
	case EVENT_WORK:
		for (unsigned h = 0; h < NR_HOSTS; h++)
			agent_work(w, h);
		if (w->now_ms < END_MS)
			world_post(w, e, 20 + world_below(w, w->is_calm ? 20000 : 400));
		break;
	case EVENT_FAULT:
		on_fault(w, e);
		break;
	case EVENT_OPERATOR:
		on_operator(w, e);
		break;
	}
}

static void set_up(struct world *w)
{
	for (unsigned h = 0; h < NR_HOSTS; h++)
		w->hosts[h].is_alive = true;
	for (unsigned c = 0; c < NR_COORDS; c++)
		w->coords[c].is_alive = true;
	for (unsigned v = 0; v < NR_VOLUMES; v++) {
		struct unit *u = &w->hosts[v % NR_HOSTS].units[v];
		u->r.state = AGENT_STATE_LOCAL;
		u->has_copy = u->is_whole = true;
		u->is_wanted = w->wants_run[v] = !world_chance(w, 15);
		for (unsigned h = 0; h < NR_HOSTS; h++)
			w->hosts[h].units[v].clone_of = h;
	}
}

void world_run(struct world *w, uint64_t seed, bool trace)
{
	struct event work = {.kind = EVENT_WORK}, fault = {.kind = EVENT_FAULT}, operator = {.kind = EVENT_OPERATOR};
	struct event *events = w->events;
	size_t max_events = w->max_events;
	unsigned nr = 0;

	memset(w, 0, sizeof *w);
	w->events = events;
	w->max_events = max_events;
	w->seed = w->state = seed;
	world_trace = trace;
	set_up(w);
	world_post(w, &work, 0);
	world_post(w, &fault, 2000);
	world_post(w, &operator, 100);
	while (w->nr_events && !w->failure[0] && nr++ < EVENTS_LIMIT) {
		struct event e = take_first(w);
		if (e.at_ms > END_MS)
			break;
		w->now_ms = e.at_ms;
		dispatch(w, &e);
		judge(w);
	}
	for (unsigned h = 0; h < NR_HOSTS && !w->failure[0]; h++)
		agent_work(w, h);
	if (nr >= EVENTS_LIMIT)
		world_fail(w, "I8: no end after %u events", nr);
	judge(w);
	if (!w->failure[0])
		judge_end(w);
	if (!w->failure[0])
		judge_late_messages(w);
}
