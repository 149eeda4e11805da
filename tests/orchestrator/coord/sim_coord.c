/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A coordinator around the machine that ships (coord_core.c), as coord_run.c drives it: records before messages, one question at a
 * time, timers. It may die before a record, after it, and after what the record announces was sent.
 */
#include <string.h>

#include "sim.h"

static void run_todo(struct world *w, unsigned coord, unsigned flow);

static uint64_t clock_of(const struct world *w, unsigned coord)
{
	return (uint64_t)((int64_t)w->now_ms + w->coords[coord].clock_ms);
}

static void send_ask(struct world *w, unsigned coord, unsigned flow)
{
	struct coord *c = &w->coords[coord];
	struct flow *f = &c->flows[flow];
	const struct coord_migration *m = &f->f.m;
	struct event e = {.kind = EVENT_REQUEST, .coord = coord, .flow = flow, .life = c->life, .volume = f->volume};
	struct event timeout;

	if (!f->todo.is_same_request)
		f->request = ++w->next_id;
	e.host = (unsigned)host_by_name(f->todo.side == COORD_SOURCE ? m->from : m->to);
	e.ask_nr = f->todo.ask_nr;
	e.request = f->request;
	e.q = (struct agent_request){
		.migration = m->id, .epoch = m->epoch, .step = f->todo.ask, .is_release_delete = m->is_release_delete};
	/* FENCE is told where to, ATTACH where from */
	strcpy(e.to, f->todo.ask == AGENT_ATTACH ? m->from : m->to);
	e.is_start = m->wants_start;
	if (world_trace)
		printf("%8lu c%u: %s v%u %s -> %s (%s)\n", (unsigned long)w->now_ms, coord, coord_row_of(m->step)->name, f->volume,
		       agent_step_name(f->todo.ask), host_names[e.host], f->todo.is_same_request ? "again" : "new");
	timeout = e;
	timeout.kind = EVENT_TIMEOUT;
	world_post(w, &timeout, 15000);
	if (world_is_cut(w, e.host, NR_HOSTS + coord))
		return;
	if (w->is_calm || !world_chance(w, 4))
		world_post(w, &e, 1 + world_below(w, 5) + (!w->is_calm && world_chance(w, 3) ? world_below(w, 30000) : 0));
	/* repeated, and perhaps much later: after an abort, after another migration */
	if (!w->is_calm && world_chance(w, 6))
		world_post(w, &e, world_below(w, world_chance(w, 50) ? 1000 : 300000));
}

static bool write_record(struct world *w, unsigned coord, unsigned flow)
{
	struct coord *c = &w->coords[coord];
	struct flow *f = &c->flows[flow];
	const char *broken = coord_core_broken_invariant(&f->f.next);

	if (broken)
		world_fail(w, "a migration's record breaks an invariant: %s", broken);
	if (!w->is_calm && world_chance(w, 1)) {
		coord_die(w, coord, world_chance(w, 50));
		return false;
	}
	f->visible = f->f.next;
	if (!f->todo.is_lazy)
		for (unsigned i = 0; i < c->nr_flows; i++)
			c->flows[i].durable = c->flows[i].visible; /* one log: what came before is durable too */
	if (!w->is_calm && world_chance(w, 1)) {
		coord_die(w, coord, world_chance(w, 50));
		return false;
	}
	coord_core_written(&f->f, clock_of(w, coord), &f->todo);
	if (f->f.m.step == COORD_DONE)
		w->nr_done++;
	if (f->f.m.step == COORD_ABORTED)
		w->nr_aborted++;
	return true;
}

static void run_todo(struct world *w, unsigned coord, unsigned flow)
{
	struct flow *f = &w->coords[coord].flows[flow];

	w->nr_steps++;
	while (f->todo.kind == COORD_WRITE)
		if (!write_record(w, coord, flow))
			return;
	if (f->todo.kind == COORD_ASK) {
		send_ask(w, coord, flow);
	} else if (f->todo.kind == COORD_WAIT) {
		struct event e = {.kind = EVENT_TIMER, .coord = coord, .flow = flow, .life = w->coords[coord].life};
		uint64_t now = clock_of(w, coord);
		world_post(w, &e, f->todo.until_ms > now ? f->todo.until_ms - now : 0);
	}
}

static void take(struct world *w, unsigned coord, unsigned flow, const struct coord_todo *todo)
{
	if (todo->kind == COORD_NOTHING)
		return;
	w->coords[coord].flows[flow].todo = *todo;
	run_todo(w, coord, flow);
}

static bool is_mine(const struct world *w, const struct event *e)
{
	return w->coords[e->coord].is_alive && w->coords[e->coord].life == e->life;
}

void coord_on_reply(struct world *w, struct event *e)
{
	struct coord_todo todo;

	if (!is_mine(w, e) || world_is_cut(w, e->host, NR_HOSTS + e->coord))
		return;
	coord_core_on_answer(&w->coords[e->coord].flows[e->flow].f, e->ask_nr, &e->answer, clock_of(w, e->coord), &todo);
	take(w, e->coord, e->flow, &todo);
}

void coord_on_timeout(struct world *w, struct event *e)
{
	struct coord_answer a = {.kind = COORD_ANSWER_FAILED, .code = KEDGE_E_UNREACHABLE};
	struct coord_todo todo;

	if (!is_mine(w, e))
		return;
	coord_core_on_answer(&w->coords[e->coord].flows[e->flow].f, e->ask_nr, &a, clock_of(w, e->coord), &todo);
	take(w, e->coord, e->flow, &todo);
}

void coord_on_timer(struct world *w, struct event *e)
{
	struct coord_todo todo;

	if (!is_mine(w, e))
		return;
	coord_core_on_time(&w->coords[e->coord].flows[e->flow].f, clock_of(w, e->coord), &todo);
	take(w, e->coord, e->flow, &todo);
}

void coord_abort(struct world *w, unsigned coord, unsigned flow)
{
	struct coord *c = &w->coords[coord];
	struct coord_todo todo;

	if (!c->is_alive || !c->flows[flow].is_used)
		return;
	if (coord_core_abort(&c->flows[flow].f, clock_of(w, coord), &todo, NULL) == 0) {
		w->nr_aborts++;
		take(w, coord, flow, &todo);
	}
}

/* What the host says, as far as it can be asked. */
static uint64_t highest_epoch(const struct world *w, unsigned coord, unsigned volume)
{
	const struct coord *c = &w->coords[coord];
	uint64_t highest = 0;

	for (unsigned i = 0; i < c->nr_flows; i++)
		if (c->flows[i].volume == volume && c->flows[i].visible.epoch > highest)
			highest = c->flows[i].visible.epoch;
	for (unsigned h = 0; h < NR_HOSTS; h++)
		if (w->hosts[h].is_alive && w->hosts[h].units[volume].r.epoch > highest)
			highest = w->hosts[h].units[volume].r.epoch;
	return highest;
}

void coord_start_migration(struct world *w, unsigned coord, unsigned volume, unsigned from, unsigned to)
{
	struct coord *c = &w->coords[coord];
	struct flow *f = &c->flows[c->nr_flows];
	struct coord_migration *m = &f->f.m;
	struct coord_todo todo;

	if (!c->is_alive || c->nr_flows == MIGRATIONS_MAX)
		return;
	memset(f, 0, sizeof *f);
	f->is_used = true;
	f->volume = volume;
	w->next_id++;
	memcpy(m->id.b, &w->next_id, sizeof w->next_id);
	m->volume_uuid.b[0] = (uint8_t)(volume + 1);
	snprintf(m->volume, sizeof m->volume, "v%u", volume);
	snprintf(m->workload, sizeof m->workload, "w%u", volume);
	strcpy(m->from, host_names[from]);
	strcpy(m->to, host_names[to]);
	m->epoch = highest_epoch(w, coord, volume) + 1;
	m->size_bytes = 1 << 20;
	m->lbs_bytes = 512;
	m->is_release_delete = true;
	m->wants_start = w->wants_run[volume];
	f->visible = f->durable = *m;
	c->nr_flows++;
	coord_core_begin(&f->f, clock_of(w, coord), &todo);
	take(w, coord, c->nr_flows - 1, &todo);
}

bool coord_has_open_flow(const struct world *w, unsigned coord, unsigned volume)
{
	const struct coord *c = &w->coords[coord];

	for (unsigned i = 0; i < c->nr_flows; i++)
		if (c->flows[i].volume == volume && !(coord_row_of(c->flows[i].visible.step)->flags & COORD_ENDED))
			return true;
	return false;
}

void coord_die(struct world *w, unsigned coord, bool is_power_cut)
{
	struct coord *c = &w->coords[coord];

	w->nr_deaths++;
	c->is_alive = false;
	c->life++;
	for (unsigned i = 0; is_power_cut && i < c->nr_flows; i++)
		c->flows[i].visible = c->flows[i].durable;
}

void coord_restart(struct world *w, unsigned coord)
{
	struct coord *c = &w->coords[coord];
	struct coord_todo todo;
	uint64_t life = c->life;

	c->is_alive = true;
	for (unsigned i = 0; i < c->nr_flows && c->life == life; i++) {
		struct flow *f = &c->flows[i];
		memset(&f->f, 0, sizeof f->f);
		f->f.m = f->visible;
		f->durable = f->visible; /* what was read is on the disk by then */
		if (coord_row_of(f->f.m.step)->flags & COORD_ENDED)
			continue;
		coord_core_begin(&f->f, clock_of(w, coord), &todo);
		take(w, coord, i, &todo);
	}
}
