/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. E2: on a volume of two and a half blocks, every history of a few operations, and in each a crash of every kind at every
 * event; after it the clone is checked offline, opened, read as a whole, and flushed, crashed and read once more.
 *
 * Usage: uclone_exhaustive [OPERATIONS]: how many operations a history has; 3 when not given.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "world.h"

#define VOLUME_BYTES (2 * 4096 + 4 * 512)
#define DEATH SIM_NR_CRASHES /* of the worker: no power is cut */
#define EVENTS_MAX 400u

/* What may be done; each touches what another one touches too. */
static const struct {
	enum uclone_op op;
	uint64_t first, nr;
	bool is_fua, is_copy, is_commit;
} alphabet[] = {
	{UCLONE_WRITE, 0, 8, false, false, false},  {UCLONE_WRITE, 4, 8, false, false, false}, /* halves of two blocks */
	{UCLONE_WRITE, 8, 8, true, false, false},   {UCLONE_WRITE, 16, 4, false, false, false}, /* the short last block */
	{UCLONE_WRITE_ZEROES, 0, 8, false, false, false}, {UCLONE_DISCARD, 0, 16, false, false, false},
	{UCLONE_FLUSH, 0, 0, false, false, false},  {UCLONE_READ, 0, 20, false, true, false}, /* a copy of all */
	{UCLONE_READ, 0, 8, false, true, false},    {UCLONE_READ, 0, 0, false, false, true},
};
#define NR_LETTERS (sizeof alphabet / sizeof alphabet[0])

enum order { ONE_BY_ONE, ALL_AT_ONCE, SHUFFLED, NR_ORDERS };

struct run {
	struct world w;
	uint64_t nr_events;
	bool is_cut;
};

static void submit(struct world *w, unsigned letter)
{
	if (alphabet[letter].is_copy)
		world_hydrate(w, alphabet[letter].first / 8, (alphabet[letter].first + alphabet[letter].nr + 7) / 8, 8);
	else if (alphabet[letter].is_commit)
		world_commit(w);
	else
		world_submit(w, alphabet[letter].op, alphabet[letter].first, alphabet[letter].nr, alphabet[letter].is_fua);
}

/* One event, unless the time has come. */
static bool step(struct run *r, uint64_t cut_at)
{
	if (r->nr_events == cut_at) {
		r->is_cut = true;
		return false;
	}
	if (!world_step(&r->w))
		return false;
	r->nr_events++;
	return true;
}

static void play(struct run *r, const unsigned *letters, unsigned nr, enum order order, uint64_t cut_at)
{
	struct world *w = &r->w;

	world_init(w, order == SHUFFLED ? 7 : 1, VOLUME_BYTES);
	w->sim.is_fifo = order != SHUFFLED;
	world_create(w);
	world_open_begin(w);
	while (w->is_opening && step(r, cut_at))
		;
	for (unsigned i = 0; i < nr && !r->is_cut; i++) {
		submit(w, letters[i]);
		while (order == ONE_BY_ONE && step(r, cut_at))
			;
	}
	while (!r->is_cut && step(r, cut_at))
		;
}

static void judge(struct run *r, unsigned kind)
{
	struct world *w = &r->w;

	if (kind == DEATH)
		world_process_death(w);
	else
		world_crash(w, (enum sim_crash)kind);
	w->sim.is_fifo = true;
	world_check_offline(w);
	if (world_is_bad(w) || world_open(w) < 0)
		return;
	world_check_copied(w);
	world_read_known(w, true);
	world_settle(w);
	if (world_is_bad(w))
		return;
	/* what was read is pinned; once flushed it outlives the next crash too */
	world_do(w, UCLONE_FLUSH, 0, 0, false);
	world_crash(w, SIM_CRASH_DROP);
	if (world_open(w) < 0)
		return;
	world_read_known(w, true);
	world_settle(w);
}

static bool next_history(unsigned *letters, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		if (++letters[i] < NR_LETTERS)
			return true;
		letters[i] = 0;
	}
	return false;
}

int main(int argc, char **argv)
{
	unsigned nr = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 3;
	unsigned letters[8] = {0};
	uint64_t nr_histories = 0, nr_crashes = 0;

	if (nr < 1 || nr > 8)
		return 2;
	do {
		for (unsigned order = 0; order < NR_ORDERS; order++) {
			bool is_over = false;
			for (uint64_t cut_at = 0; !is_over && cut_at < EVENTS_MAX; cut_at++) {
				for (unsigned kind = 0; kind <= DEATH; kind++) {
					struct run r = {0};
					play(&r, letters, nr, (enum order)order, cut_at);
					is_over = !r.is_cut;
					if (!world_is_bad(&r.w))
						judge(&r, kind);
					nr_crashes++;
					if (world_is_bad(&r.w)) {
						printf("E2: FAILED: history");
						for (unsigned i = 0; i < nr; i++)
							printf(" %u", letters[i]);
						printf(" order %u, crash of kind %u at event %" PRIu64 ": %s\n", order, kind, cut_at, r.w.sim.problem);
						return 1;
					}
					world_fini(&r.w);
				}
			}
		}
		nr_histories++;
	} while (next_history(letters, nr));
	printf("E2: %" PRIu64 " histories of %u operations in %d orders, %" PRIu64 " crashes at every event, 0 lost\n", nr_histories, nr,
	       NR_ORDERS, nr_crashes);
	return 0;
}
