/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. E2: on a volume of four blocks, all histories of a few operations, from several states to begin with; of each history
 * all orders of events that differ from the plain one in at most so many places; in each of those, after every event, all the
 * states that a power cut or the death of the worker could leave. Each state that was not met before is judged: checked offline,
 * opened, read as a whole, crashed once more, read, and hydrated to the end.
 *
 * Owns. The tree of choices of the present history, the set of states seen.
 *
 * Locks. None: one thread.
 *
 * What a power cut leaves of unflushed writes: to the destination each survives or not, as a whole, in all combinations. A torn one adds
 * nothing: nobody but the judge looks at the content of the destination, sector by sector, and for each sector all combinations of
 * those that cover it are there. To the metadata each sector of each survives or not, in all combinations.
 *
 * Usage: uclone_exhaustive [OPERATIONS [DEVIATIONS]]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"
#include "sim_alloc.h"
#include "states.h"
#include "uclone_layout.h"
#include "world.h"

#define VOLUME_SECTORS 28u /* three blocks and a half */
#define OPERATIONS_MAX 6u
#define STEPS_MAX 400u
#define UNITS_MAX 16u

enum letter_kind { IO, COPY, COMMIT, CLOSE, FINISH, ABORT };

/* What may be done; each touches what others touch. Sectors from the first of the four blocks. */
static const struct letter {
	const char *name;
	enum letter_kind kind;
	enum uclone_op op;
	uint8_t first, nr;
	bool is_fua;
} alphabet[] = {
	{"write 0", IO, UCLONE_WRITE, 0, 8, false},
	{"write 0 and 1 in part", IO, UCLONE_WRITE, 4, 8, false},
	{"write 1 FUA", IO, UCLONE_WRITE, 8, 8, true},
	{"write the short last one", IO, UCLONE_WRITE, 24, 4, false},
	{"zero 0", IO, UCLONE_WRITE_ZEROES, 0, 8, false},
	{"discard 0 to 2", IO, UCLONE_DISCARD, 0, 24, false},
	{"read all", IO, UCLONE_READ, 0, 28, false},
	{"flush", IO, UCLONE_FLUSH, 0, 0, false},
	{"copy 0", COPY, UCLONE_READ, 0, 8, false},
	{"copy all", COPY, UCLONE_READ, 0, 28, false},
	{"commit", COMMIT, UCLONE_FLUSH, 0, 0, false},
	{"close", CLOSE, UCLONE_FLUSH, 0, 0, false},
	{"finish", FINISH, UCLONE_FLUSH, 0, 0, false},
	{"abort", ABORT, UCLONE_FLUSH, 0, 0, false},
};
#define NR_LETTERS KEDGE_ARRAY_LEN(alphabet)

/* The states to begin with. */
enum start { FRESH, COPIED, MIXED, EDGE, NR_STARTS };
static const char *const start_names[] = {"fresh", "copied", "mixed, not closed cleanly", "fresh, over two metadata sectors"};

/* A part of an unflushed write that survives or not. */
struct unit {
	struct sim_disk *disk;
	const struct sim_write *write;
	uint64_t at, nr;
};

/* All of a state that the engine and the judge look at. */
struct image {
	uint64_t dest[VOLUME_SECTORS];
	uint8_t super[2][512], map[2][512], seen[512];
};

static struct {
	unsigned nr_letters, max_deviations;
	unsigned letters[OPERATIONS_MAX];
	enum start start;
	bool is_eager;         /* the plain order: operations begin as early as they can; else each when all is quiet */
	struct world *base;
	uint64_t base_sector;  /* of the four blocks */
	unsigned choice[STEPS_MAX], nr_choices[STEPS_MAX], nr_steps, nr_given;
	unsigned nr_next;      /* letters begun */
	unsigned explore_from; /* what comes before was explored with an earlier order */
	uint64_t seen_changes, seen_now;
	struct states states;
	uint64_t nr_histories, nr_orders, nr_events, nr_cuts, nr_deaths, nr_judged;
	unsigned max_units;
	char problem[600];
} e2;

/* ---- states ---- */

static struct image image_of(const struct world *w, bool is_cache)
{
	struct image i = {0};
	const uint8_t *meta = is_cache ? w->meta.cache : w->meta.durable, *dest = is_cache ? w->dest.cache : w->dest.durable;

	memcpy(i.dest, dest + e2.base_sector * 8, sizeof i.dest);
	memcpy(i.super[0], meta + UC_SUPER_A_BYTES, 512);
	memcpy(i.super[1], meta + UC_SUPER_B_BYTES, 512);
	memcpy(i.map, meta + UC_MAP_START_BYTES, sizeof i.map);
	memcpy(i.seen, is_cache ? w->seen.cache : w->seen.durable, 512);
	return i;
}

static void apply_to_image(struct image *i, const struct world *w, const struct unit *u)
{
	uint64_t sector = u->write->first + u->at;
	const uint8_t *data = u->write->data ? u->write->data + u->at * 512 : NULL;

	if (u->disk == &w->dest) {
		for (uint64_t k = 0; k < u->nr; k++)
			if (u->write->is_zero)
				i->dest[sector + k - e2.base_sector] = 0;
			else
				memcpy(&i->dest[sector + k - e2.base_sector], u->write->data + k * 8, 8);
	} else if (u->disk == &w->seen) {
		memcpy(i->seen, data, 512);
	} else if (sector * 512 < UC_MAP_START_BYTES) {
		memcpy(i->super[sector * 512 == UC_SUPER_B_BYTES], data, 512);
	} else {
		memcpy(i->map[sector - UC_MAP_START_BYTES / 512], data, 512);
	}
}

/* Sectors of the metadata of which the image knows; all others never change or speak of no block. */
static bool is_in_image(const struct world *w, const struct sim_disk *d, uint64_t sector)
{
	if (d == &w->seen)
		return sector == 0;
	if (sector * 512 >= UC_MAP_START_BYTES)
		return (sector - UC_MAP_START_BYTES / 512) * UC_SECTOR_BLOCKS < uc_nr_blocks(w->size_bytes);
	return sector * 512 == UC_SUPER_A_BYTES || sector * 512 == UC_SUPER_B_BYTES;
}

static unsigned add_units(struct world *w, struct sim_disk *d, const struct sim_write *write, struct unit *units, unsigned nr)
{
	if (d->is_data) {
		if (write->first < e2.base_sector || write->first + write->nr > e2.base_sector + VOLUME_SECTORS + 4 || nr == UNITS_MAX)
			sim_problem(&w->sim, "a write outside the four blocks, or too much in flight");
		else
			units[nr++] = (struct unit){d, write, 0, kedge_min_u64(write->nr, e2.base_sector + VOLUME_SECTORS - write->first)};
		return nr;
	}
	for (uint64_t i = 0; i < write->nr; i++) {
		uint64_t sector = write->first + i;
		if (is_in_image(w, d, sector) && nr < UNITS_MAX)
			units[nr++] = (struct unit){d, write, i, 1};
		else if (is_in_image(w, d, sector) ||
			 (sector * 512 < UC_MAP_START_BYTES && memcmp(write->data + i * 512, d->durable + sector * 512, 512) != 0))
			sim_problem(&w->sim, "%s: sector %" PRIu64 " changes, which should never change, or too much in flight", d->name, sector);
	}
	return nr;
}

static unsigned find_units(struct world *w, bool is_pending_only, struct unit *units)
{
	struct sim_disk *disks[] = {&w->dest, &w->meta, &w->seen};
	unsigned nr = 0;

	for (unsigned i = 0; i < 3; i++) {
		for (const struct sim_write *l = is_pending_only ? NULL : disks[i]->log; l; l = l->next)
			nr = add_units(w, disks[i], l, units, nr);
		for (const struct sim_op *op = w->sim.pending; op; op = op->next)
			if (op->disk == disks[i] && op->write)
				nr = add_units(w, disks[i], op->write, units, nr);
	}
	return nr;
}

static void add_judge(struct fingerprint *f, const struct world *w, bool is_death)
{
	const struct model *m = &w->model;

	for (uint64_t s = e2.base_sector; s < e2.base_sector + VOLUME_SECTORS; s++) {
		const struct model_sector *ms = &m->sectors[s];
		for (unsigned k = 0; k < ms->nr; k++) {
			const struct model_value *v = &ms->values[k];
			if (!model_outlives_crash(m, v) && !is_death)
				continue;
			fingerprint_add_u64(f, v->id);
			if (is_death)
				fingerprint_add_u64(f, (v->died ? 1u : 0) | (model_outlives_crash(m, v) ? 2u : 0) | (v->is_superseded ? 4u : 0) |
							       (v->is_from_crash ? 8u : 0));
		}
		fingerprint_add_u64(f, ms->nr ? ~1ull : ~2ull);
	}
	fingerprint_add_u64(f, (w->is_finished ? 1u : 0) | (w->is_abort_begun ? 2u : 0) | (w->is_aborted ? 4u : 0) | (w->nr_changed ? 8u : 0) |
				       (is_death ? 16u : 0));
}

/* ---- judgement ---- */

static void note(const struct world *w, const char *how, const char *problem)
{
	char text[400] = "";

	if (e2.problem[0])
		return;
	for (unsigned i = 0; i < e2.nr_letters; i++)
		snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? ", " : "", alphabet[e2.letters[i]].name);
	snprintf(e2.problem, sizeof e2.problem, "%s: %s%s; event %u, %s: %s", start_names[e2.start], text, e2.is_eager ? " (at once)" : "",
		 e2.nr_steps, how, problem);
}

static void read_all(struct world *w)
{
	if (w->u)
		world_submit(w, UCLONE_READ, e2.base_sector, VOLUME_SECTORS, false);
	world_settle(w);
}

static bool reopen(struct world *w)
{
	if (world_is_bad(w) || world_open(w) < 0)
		return false;
	world_check_copied(w);
	read_all(w);
	return !world_is_bad(w);
}

static void judge(struct world *w, const char *how, bool is_flushed)
{
	world_check_offline(w);
	if (reopen(w)) {
		/* what was read is pinned; once flushed it outlives the next crash too */
		if (is_flushed)
			world_do(w, UCLONE_FLUSH, 0, 0, false);
		world_crash(w, SIM_CRASH_DROP);
		if (reopen(w)) {
			world_hydrate(w, e2.base_sector / 8, uc_nr_blocks(w->size_bytes), 4);
			world_settle(w);
			world_check_copied(w);
			read_all(w);
			world_close(w);
		}
	}
	if (world_is_bad(w))
		note(w, how, w->sim.problem);
	e2.nr_judged++;
}

static void cut_power(struct world *w, const struct unit *units, unsigned nr, unsigned mask)
{
	struct image image = image_of(w, false);
	struct fingerprint f;
	struct world cut;

	e2.nr_cuts++;
	for (unsigned i = 0; i < nr; i++)
		if (mask >> i & 1)
			apply_to_image(&image, w, &units[i]);
	fingerprint_init(&f);
	fingerprint_add(&f, &image, sizeof image);
	add_judge(&f, w, false);
	if (!states_add(&e2.states, &f))
		return;
	sim_alloc_push();
	world_copy(&cut, w);
	for (unsigned i = 0; i < nr; i++)
		for (uint64_t k = 0; mask >> i & 1 && k < units[i].nr; k++) {
			struct sim_disk *d = units[i].disk == &w->dest ? &cut.dest : units[i].disk == &w->meta ? &cut.meta : &cut.seen;
			sim_put_sector(d, d->durable, units[i].write, units[i].at + k);
		}
	memcpy(cut.dest.cache, cut.dest.durable, cut.dest.nr_sectors * 8);
	memcpy(cut.meta.cache, cut.meta.durable, cut.meta.disk.size_bytes);
	memcpy(cut.seen.cache, cut.seen.durable, cut.seen.disk.size_bytes);
	memset(cut.marks, 0, uclone_marks_bytes(cut.size_bytes));
	model_crash(&cut.model);
	cut.sim.is_fifo = true;
	judge(&cut, "power cut", true);
	world_fini(&cut);
	sim_alloc_pop();
}

static void leave_log(struct sim_disk *to, const struct sim_disk *from)
{
	for (const struct sim_write *l = from->log; l; l = l->next)
		sim_disk_leave(to, l->first, l->nr);
}

static void kill_worker(struct world *w, const struct unit *units, unsigned nr, unsigned mask, bool is_flushed)
{
	struct image durable = image_of(w, false), cache = image_of(w, true);
	struct fingerprint f;
	struct world next;

	e2.nr_deaths++;
	for (unsigned i = 0; i < nr; i++)
		if (mask >> i & 1)
			apply_to_image(&cache, w, &units[i]);
	fingerprint_init(&f);
	fingerprint_add(&f, &durable, sizeof durable);
	fingerprint_add(&f, &cache, sizeof cache);
	fingerprint_add(&f, w->marks, uclone_marks_bytes(w->size_bytes));
	add_judge(&f, w, true);
	fingerprint_add_u64(&f, is_flushed);
	if (!states_add(&e2.states, &f))
		return;
	sim_alloc_push();
	world_copy(&next, w);
	leave_log(&next.dest, &w->dest);
	leave_log(&next.meta, &w->meta);
	leave_log(&next.seen, &w->seen);
	for (unsigned i = 0; i < nr; i++) {
		struct sim_disk *d = units[i].disk == &w->dest ? &next.dest : units[i].disk == &w->meta ? &next.meta : &next.seen;
		if (!(mask >> i & 1))
			continue;
		for (uint64_t k = 0; k < units[i].nr; k++)
			sim_put_sector(d, d->cache, units[i].write, units[i].at + k);
		sim_disk_leave(d, units[i].write->first + units[i].at, units[i].nr);
	}
	model_process_death(&next.model);
	next.sim.is_fifo = true;
	judge(&next, is_flushed ? "worker dies, flush, power cut" : "worker dies, power cut", is_flushed);
	world_fini(&next);
	sim_alloc_pop();
}

static void explore(struct world *w)
{
	struct unit units[UNITS_MAX];
	unsigned nr;

	e2.nr_events++;
	if (e2.seen_changes == w->sim.nr_changes && e2.seen_now == w->model.now)
		return;
	e2.seen_changes = w->sim.nr_changes;
	e2.seen_now = w->model.now;
	nr = find_units(w, false, units);
	if (nr > e2.max_units)
		e2.max_units = nr;
	for (unsigned mask = 0; mask < 1u << nr && !e2.problem[0]; mask++)
		cut_power(w, units, nr, mask);
	nr = find_units(w, true, units);
	for (unsigned mask = 0; mask < 1u << nr && !e2.problem[0]; mask++) {
		kill_worker(w, units, nr, mask, true);
		kill_worker(w, units, nr, mask, false);
	}
}

/* ---- one order of events ---- */

static bool can_begin(const struct world *w)
{
	return e2.nr_next < e2.nr_letters && !w->is_opening && !w->is_closing;
}

static void begin_next(struct world *w)
{
	const struct letter *l = &alphabet[e2.letters[e2.nr_next]];

	if (!w->u && l->kind != CLOSE) {
		if (w->open_res < 0)
			e2.nr_next = e2.nr_letters; /* given up: nothing can follow */
		else
			world_open_begin(w);
		return;
	}
	e2.nr_next++;
	switch (l->kind) {
	case IO:
		world_submit(w, l->op, l->nr ? e2.base_sector + l->first : 0, l->nr, l->is_fua);
		return;
	case COPY:
		world_hydrate(w, e2.base_sector / 8 + l->first / 8, e2.base_sector / 8 + (l->first + l->nr + 7u) / 8, 4);
		return;
	case COMMIT:
		world_commit(w);
		return;
	case CLOSE:
		if (w->u)
			world_close_begin(w);
		return;
	case FINISH:
		if (!w->is_finishing)
			world_finish_begin(w);
		return;
	case ABORT:
		world_abort_begin(w);
		return;
	}
}

static void play(void)
{
	struct world w;

	world_copy(&w, e2.base);
	w.sim.is_fifo = true;
	w.is_never_dropped = true;
	e2.nr_steps = e2.nr_next = 0;
	e2.seen_changes = UINT64_MAX;
	world_open_begin(&w);
	for (;; e2.nr_steps++) {
		unsigned nr_sim = sim_nr_choices(&w.sim), can = can_begin(&w), n = nr_sim + can, c;
		if (e2.nr_steps >= e2.explore_from)
			explore(&w);
		if (world_is_bad(&w))
			note(&w, "the run itself", w.sim.problem);
		if (n == 0 || e2.problem[0])
			break;
		if (e2.nr_steps == STEPS_MAX) {
			note(&w, "the run itself", "it does not end");
			break;
		}
		c = e2.nr_steps < e2.nr_given ? e2.choice[e2.nr_steps] : 0;
		e2.choice[e2.nr_steps] = c;
		e2.nr_choices[e2.nr_steps] = n;
		if (e2.is_eager ? can && c == 0 : c >= nr_sim)
			begin_next(&w);
		else
			sim_choose(&w.sim, c - (e2.is_eager ? can : 0));
	}
	if (!e2.problem[0] && (w.nr_ops || w.nr_copies || w.is_opening || w.is_closing || w.is_finishing || e2.nr_next < e2.nr_letters))
		note(&w, "the run itself", "something is never answered");
	e2.nr_orders++;
	world_fini(&w);
}

/* The next order that has at most so many deviations from the plain one, depth first. */
static bool next_order(void)
{
	unsigned nr_before = 0, at = e2.nr_steps;

	for (unsigned i = 0; i < e2.nr_steps; i++)
		nr_before += e2.choice[i] != 0;
	while (at > 0) {
		at--;
		nr_before -= e2.choice[at] != 0;
		if (nr_before < e2.max_deviations && e2.choice[at] + 1 < e2.nr_choices[at]) {
			e2.choice[at]++;
			e2.nr_given = at + 1;
			e2.explore_from = at + 1;
			return true;
		}
	}
	return false;
}

static void play_all_orders(void)
{
	for (unsigned way = 0; way < 2 && !e2.problem[0]; way++) {
		e2.is_eager = way;
		e2.nr_given = e2.explore_from = 0;
		do
			play();
		while (!e2.problem[0] && next_order());
	}
	e2.nr_histories++;
}

static bool next_history(void)
{
	for (unsigned i = 0; i < e2.nr_letters; i++) {
		if (++e2.letters[i] < NR_LETTERS)
			return true;
		e2.letters[i] = 0;
	}
	return false;
}

/* ---- the states to begin with ---- */

static void make_base(struct world *w, enum start start)
{
	e2.base_sector = start == EDGE ? (UC_SECTOR_BLOCKS - 2) * 8 : 0;
	world_init(w, 1, (e2.base_sector + VOLUME_SECTORS) * 512);
	w->sim.is_fifo = w->is_never_dropped = true;
	world_create(w);
	if (start == COPIED || start == MIXED) {
		world_open(w);
		if (start == COPIED) {
			world_hydrate_all(w);
			world_close(w);
		} else {
			world_hydrate(w, 0, 2, 2);
			world_do(w, UCLONE_WRITE, 16, 8, true);
			world_do(w, UCLONE_WRITE, 8, 8, true); /* over a copied one: an intent */
			world_settle(w);
		}
	}
	world_crash(w, SIM_CRASH_KEEP);
	/* one value is left for each sector; no start may depend on what a crash chose */
	for (uint64_t s = 0; s < w->nr_sectors; s++)
		for (unsigned k = 0; k < w->model.sectors[s].nr; k++)
			if (w->model.sectors[s].nr > 1 && w->model.sectors[s].values[k].id != sim_disk_id(&w->dest, s))
				w->model.sectors[s].values[k--] = w->model.sectors[s].values[--w->model.sectors[s].nr];
	if (world_is_bad(w))
		note(w, "making it", w->sim.problem);
}

int main(int argc, char **argv)
{
	e2.nr_letters = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 2;
	e2.max_deviations = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 1;
	if (e2.nr_letters < 1 || e2.nr_letters > OPERATIONS_MAX) {
		fprintf(stderr, "usage: uclone_exhaustive [OPERATIONS [DEVIATIONS]]: 1 to %u operations\n", OPERATIONS_MAX);
		return 2;
	}
	for (enum start s = 0; s < NR_STARTS && !e2.problem[0]; s++) {
		struct world base;
		e2.start = s;
		make_base(&base, s);
		e2.base = &base;
		memset(e2.letters, 0, sizeof e2.letters);
		if (!e2.problem[0])
			do
				play_all_orders();
			while (!e2.problem[0] && next_history());
		states_fini(&e2.states);
		world_fini(&base);
	}
	if (e2.problem[0]) {
		printf("E2: FAILED: %s\n", e2.problem);
		return 1;
	}
	printf("E2: %" PRIu64 " histories of %u operations, %" PRIu64 " orders of events (at most %u deviations), %" PRIu64 " events, %" PRIu64
	       " power cuts, %" PRIu64 " deaths of a worker, at most %u unflushed parts, %" PRIu64 " states judged, 0 lost\n",
	       e2.nr_histories, e2.nr_letters, e2.nr_orders, e2.max_deviations, e2.nr_events, e2.nr_cuts, e2.nr_deaths, e2.max_units,
	       e2.nr_judged);
	return 0;
}
