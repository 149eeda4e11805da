/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Drains: from a plan to migrations, as many at a time as asked for, to the end of all.
 *
 * Owns. The drains.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. A drain, its migrations, their epochs and secrets are one transaction. Which of them were let go is not recorded: one that is past
 * PLANNED was.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "coord_int.h"
#include "kedge/log.h"

bool drain_has(const struct drain *d, const struct run *r)
{
	return kedge_uuid_is_equal(&r->f.m.drain, &d->d.id);
}

struct drain *drain_by_id(struct coord_service *s, const char *id)
{
	struct kedge_uuid uuid;

	if (kedge_uuid_parse(id, &uuid))
		return NULL;
	for (struct drain *d = s->drains; d; d = d->next)
		if (kedge_uuid_is_equal(&d->d.id, &uuid))
			return d;
	return NULL;
}

/* ---- what becomes of it ---- */

struct tally {
	unsigned nr, nr_over, nr_done, nr_aborted, nr_held, nr_under_way;
};

static struct tally tally(struct coord_service *s, const struct drain *d)
{
	struct tally t = {0};

	for (const struct run *r = s->runs; r; r = r->next) {
		if (!drain_has(d, r))
			continue;
		const char *state = coord_core_state_name(&r->f);
		bool is_over = coord_core_is_over(&r->f);
		t.nr++;
		t.nr_over += is_over;
		t.nr_done += strcmp(state, "done") == 0;
		t.nr_aborted += strcmp(state, "aborted") == 0;
		t.nr_held += strcmp(state, "held") == 0;
		/* one that waits for a person does not keep others waiting */
		t.nr_under_way += r->is_begun && !is_over && strcmp(state, "held") != 0;
	}
	return t;
}

enum coord_drain_state drain_state(struct coord_service *s, const struct drain *d)
{
	struct tally t = tally(s, d);

	if (d->d.state != COORD_DRAIN_RUNNING)
		return d->d.state;
	if (t.nr_over + t.nr_held < t.nr)
		return COORD_DRAIN_RUNNING;
	if (t.nr_done == t.nr)
		return COORD_DRAIN_DONE;
	if (t.nr_aborted == t.nr)
		return COORD_DRAIN_ABORTED;
	return t.nr_done || t.nr_held ? COORD_DRAIN_PARTLY : COORD_DRAIN_FAILED;
}

static void end_drain(struct coord_service *s, struct drain *d)
{
	static const char *const words[] = {"running", "done", "failed", "partly done", "aborted"};
	struct tally t = tally(s, d);
	struct kedge_err err = {0};

	d->d.state = drain_state(s, d);
	d->d.ended_ms = coord_now_ms();
	if (coord_store_put_drain(s->store, &d->d, &err))
		kedge_error("the end of a drain is not recorded: %s", err.msg); /* found again after a restart */
	if (d->d.workload[0])
		event_add(s, &d->d.id, NULL, "drain", "move of %s: %s", d->d.workload, words[d->d.state]);
	else
		event_add(s, &d->d.id, NULL, "drain", "drain of %s: %s, %u of %u volumes moved", d->d.host, words[d->d.state], t.nr_done, t.nr);
}

static void let_go(struct coord_service *s, struct drain *d)
{
	struct run *next;

	for (struct run *r = s->runs; r; r = next) {
		next = r->next;
		if (drain_has(d, r) && !r->is_begun && tally(s, d).nr_under_way < d->d.max_parallel)
			run_begin(r); /* may come back here; what is begun is not begun twice */
	}
}

void drains_look(struct coord_service *s)
{
	for (struct drain *d = s->drains; d; d = d->next) {
		if (d->d.state != COORD_DRAIN_RUNNING)
			continue;
		struct tally t = tally(s, d);
		if (t.nr_over == t.nr)
			end_drain(s, d);
		else
			let_go(s, d);
	}
}

/* ---- a new one ---- */

static void make_secret(char *out)
{
	unsigned char bytes[32];

	kedge_random(bytes, sizeof bytes);
	for (size_t i = 0; i < sizeof bytes; i++) {
		static const char digits[] = "0123456789abcdef";
		out[2 * i] = digits[bytes[i] >> 4];
		out[2 * i + 1] = digits[bytes[i] & 15];
	}
	out[2 * sizeof bytes] = 0;
	explicit_bzero(bytes, sizeof bytes);
}

static void make_chap(const struct coord_migration *m, struct kedge_chap *c)
{
	char id[KEDGE_UUID_TEXT_MAX];

	kedge_uuid_format(&m->id, id);
	strcpy(c->user, "in.");
	strcat(c->user, id);
	strcpy(c->mutual_user, "out.");
	strcat(c->mutual_user, id);
	make_secret(c->secret);
	make_secret(c->mutual_secret);
}

static int make_migration(struct coord_service *s, const struct coord_drain *d, const struct coord_move *move, struct coord_migration *m,
			  struct kedge_err *err)
{
	uint64_t given;
	int res = coord_store_get_epoch(s->store, &move->volume_uuid, &given, err);

	if (res)
		return res;
	kedge_uuid_create(&m->id);
	m->drain = d->id;
	m->volume_uuid = move->volume_uuid;
	strcpy(m->volume, move->volume);
	strcpy(m->workload, move->workload);
	strcpy(m->from, d->host);
	strcpy(m->to, move->to);
	m->epoch = (given > move->epoch ? given : move->epoch) + 1;
	m->size_bytes = move->size_bytes;
	m->lbs_bytes = move->lbs_bytes;
	m->rate_bps = d->rate_bps;
	m->pace = d->pace;
	m->hold_ms = d->hold_ms;
	m->is_release_delete = d->is_release_delete;
	strcpy(m->engine, move->engine);
	m->wants_start = move->wants_start;
	m->step = COORD_PLANNED;
	m->times_ms[COORD_PLANNED] = d->started_ms;
	return 0;
}

static struct drain *add_drain(struct coord_service *s, const struct coord_drain *d)
{
	struct drain *new = calloc(1, sizeof *new);

	if (!new)
		return NULL;
	new->d = *d;
	*s->drains_end = new;
	s->drains_end = &new->next;
	return new;
}

int drain_create(struct coord_service *s, const struct coord_drain *d, const struct coord_plan *plan, struct drain **ret_d,
		 struct kedge_err *err)
{
	size_t nr = plan->nr_moves;
	struct coord_migration *ms = calloc(nr + 1, sizeof *ms);
	struct kedge_chap *chaps = calloc(nr + 1, sizeof *chaps);
	char **specs = calloc(nr + 1, sizeof *specs);
	int res = ms && chaps && specs ? 0 : -ENOMEM;

	for (size_t i = 0; !res && i < nr; i++) {
		res = make_migration(s, d, &plan->moves[i], &ms[i], err);
		if (res)
			break;
		make_chap(&ms[i], &chaps[i]);
		specs[i] = plan->moves[i].spec ? json_dumps(plan->moves[i].spec, JSON_COMPACT) : NULL;
		if (plan->moves[i].spec && !specs[i])
			res = -ENOMEM;
	}
	if (res)
		kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "no memory for a drain");
	else
		res = coord_store_add_drain(s->store, d, ms, specs, chaps, nr, err);
	if (!res) {
		*ret_d = add_drain(s, d);
		kedge_assert(*ret_d);
		for (size_t i = 0; i < nr; i++)
			kedge_assert(run_create(s, &ms[i]));
	}
	for (size_t i = 0; i < nr && chaps && specs; i++) {
		kedge_chap_fini(&chaps[i]);
		free(specs[i]);
	}
	free(specs);
	free(chaps);
	free(ms);
	if (!res)
		drains_look(s);
	return res;
}

/* ---- after a restart ---- */

static int on_drain_loaded(void *arg, const struct coord_drain *d)
{
	return add_drain(arg, d) ? 0 : -ENOMEM;
}

static int on_migration_loaded(void *arg, const struct coord_migration *m)
{
	return run_create(arg, m) ? 0 : -ENOMEM;
}

int drains_load(struct coord_service *s, struct kedge_err *err)
{
	int res = coord_store_load_drains(s->store, on_drain_loaded, s, err);
	unsigned nr = 0;

	if (!res)
		res = coord_store_load_migrations(s->store, on_migration_loaded, s, err);
	if (res)
		return res;
	for (struct run *r = s->runs; r; r = r->next) {
		if (r->f.m.step == COORD_PLANNED)
			continue;
		r->is_begun = true;
		if (coord_row_of(r->f.m.step)->flags & COORD_ENDED)
			continue;
		nr++;
		run_begin(r);
	}
	if (nr)
		kedge_info("%u migrations go on", nr);
	drains_look(s);
	return 0;
}
