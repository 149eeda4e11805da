/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Purpose. The judge of the crash tests (model.h). Pure. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

void model_init(struct model *m, uint64_t nr_sectors, uint64_t (*initial_id)(uint64_t sector))
{
	*m = (struct model){.nr_sectors = nr_sectors, .now = 1, .initial_id = initial_id};
	m->sectors = calloc(nr_sectors, sizeof *m->sectors);
}

void model_fini(struct model *m)
{
	for (uint64_t i = 0; i < m->nr_sectors; i++)
		free(m->sectors[i].values);
	free(m->sectors);
}

static struct model_value *add(struct model_sector *s, struct model_value v)
{
	if (s->nr == s->max) {
		s->max = s->max ? 2 * s->max : 4;
		s->values = realloc(s->values, s->max * sizeof *s->values);
		if (!s->values)
			abort();
	}
	s->values[s->nr] = v;
	return &s->values[s->nr++];
}

void model_copy(struct model *to, const struct model *from)
{
	to->now = from->now;
	to->flushed = from->flushed;
	to->seq = from->seq;
	for (uint64_t i = 0; i < from->nr_sectors; i++)
		for (unsigned k = 0; k < from->sectors[i].nr; k++)
			add(&to->sectors[i], from->sectors[i].values[k]);
}

static struct model_sector *get(struct model *m, uint64_t sector)
{
	struct model_sector *s = &m->sectors[sector];

	if (s->nr == 0)
		add(s, (struct model_value){.id = m->initial_id(sector), .done = 1});
	return s;
}

uint64_t model_write_submitted(struct model *m, uint64_t first, uint64_t nr, uint64_t id_seq)
{
	uint64_t t = ++m->now;

	for (uint64_t i = first; i < first + nr; i++)
		add(get(m, i), (struct model_value){.id = id_seq ? sim_id(SIM_KIND_WRITE, id_seq, i) : 0, .submitted = t});
	return t;
}

void model_write_done(struct model *m, uint64_t first, uint64_t nr, uint64_t submitted, bool is_ok, bool is_fua)
{
	uint64_t t = ++m->now;

	for (uint64_t i = first; i < first + nr; i++) {
		struct model_sector *s = get(m, i);
		for (unsigned k = 0; k < s->nr; k++) {
			struct model_value *v = &s->values[k];
			if (v->submitted == submitted)
				v->done = t;
			else if (is_ok && v->done && v->done < submitted && !v->died)
				v->died = t;
			if (is_ok && is_fua && v->done && v->done < submitted)
				v->is_superseded = true; /* older than a durable write */
		}
	}
}

void model_flush_done(struct model *m, uint64_t submitted)
{
	m->now++;
	if (submitted > m->flushed)
		m->flushed = submitted;
}

bool model_read(struct model *m, uint64_t sector, uint64_t id, uint64_t submitted)
{
	struct model_sector *s = get(m, sector);
	bool is_possible = false, is_busy = false, is_new = false;

	for (unsigned k = 0; k < s->nr; k++) {
		const struct model_value *v = &s->values[k];
		if (v->id == id && (!v->died || v->died > submitted)) {
			is_possible = true;
			is_new |= !v->is_from_crash;
		}
		if (!v->done || v->done > submitted)
			is_busy = true;
	}
	if (!is_possible || is_busy)
		return is_possible;
	unsigned n = 0;
	for (unsigned k = 0; k < s->nr; k++) {
		struct model_value *v = &s->values[k];
		/* A crash left one of several, and this is it: the others are gone. One written since only covers them; zeroes may be
		 * of either kind. */
		if (v->id != id && v->is_from_crash && !v->died && !is_new)
			continue;
		if (v->id != id && !v->died)
			v->died = submitted;
		s->values[n++] = *v;
	}
	s->nr = n;
	return true;
}

bool model_outlives_crash(const struct model *m, const struct model_value *v)
{
	return !v->died || (v->died > m->flushed && !v->is_superseded);
}

void model_crash(struct model *m)
{
	for (uint64_t i = 0; i < m->nr_sectors; i++) {
		struct model_sector *s = &m->sectors[i];
		unsigned n = 0;
		for (unsigned k = 0; k < s->nr; k++) {
			struct model_value v = s->values[k];
			if (!model_outlives_crash(m, &v))
				continue;
			s->values[n++] = (struct model_value){.id = v.id, .done = 1, .is_from_crash = true};
		}
		s->nr = n;
	}
	m->now++;
	m->flushed = 0;
}

void model_process_death(struct model *m)
{
	uint64_t t = ++m->now;

	for (uint64_t i = 0; i < m->nr_sectors; i++)
		for (unsigned k = 0; k < m->sectors[i].nr; k++)
			if (!m->sectors[i].values[k].done)
				m->sectors[i].values[k].done = t;
}

void model_describe(const struct model *m, uint64_t sector, char *out, unsigned out_max)
{
	const struct model_sector *s = &m->sectors[sector];
	int at = snprintf(out, out_max, "flushed %llu, values", (unsigned long long)m->flushed);

	for (unsigned k = 0; k < s->nr && at < (int)out_max; k++)
		at += snprintf(out + at, out_max - (unsigned)at, " %llx(%llu-%llu,%llu)", (unsigned long long)s->values[k].id,
			       (unsigned long long)s->values[k].submitted, (unsigned long long)s->values[k].done,
			       (unsigned long long)s->values[k].died);
}
