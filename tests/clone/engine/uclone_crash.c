/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. E1 and E12: random workloads on the simulated disks, crashed at a random event again and again; after each crash the
 * clone is checked offline, opened, partly read, and the workload goes on. Prints counts and the seed of a failure.
 *
 * Usage: uclone_crash [CRASHES [SEED]]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "world.h"

static const uint64_t sizes[] = {
	4 * 4096, 512, 9 * 4096 + 3 * 512, 241 * 4096, 243 * 4096 + 512, 1921 * 4096, 1922 * 4096 + 7 * 512,
	15362 * 4096,
};

/* One life: from open (or close) to the crash. */
static void live(struct world *w)
{
	unsigned long until = sim_below(&w->sim, 4) ? sim_below(&w->sim, 250) : sim_below(&w->sim, 25);
	bool is_small = w->nr_sectors <= 100;

	world_open_begin(w);
	for (unsigned long i = 0; i < until && !world_is_bad(w); i++) {
		if (w->u && !w->is_closing && !w->is_finishing) {
			if (w->nr_ops + w->nr_copies < 8 && sim_below(&w->sim, 3))
				world_random_op(w);
			if (is_small && sim_below(&w->sim, 40) == 0)
				world_finish_begin(w);
			else if (sim_below(&w->sim, 120) == 0)
				world_close_begin(w);
		} else if (w->u && w->is_finishing && w->nr_ops < 4 && sim_below(&w->sim, 2)) {
			world_random_op(w);
		} else if (!w->u && !w->is_opening) {
			world_open_begin(w);
		}
		world_step(w);
	}
}

static void check_after(struct world *w)
{
	world_check_offline(w);
	if (world_is_bad(w) || world_open(w) < 0)
		return;
	world_check_copied(w);
	world_read_known(w, false);
	world_settle(w);
	/* two ways on: die again with what was read pinned, or close cleanly */
	if (sim_below(&w->sim, 2))
		world_crash(w, (enum sim_crash)sim_below(&w->sim, SIM_NR_CRASHES));
	else if (!world_is_bad(w))
		world_close(w);
}

/* To those above nothing happened: all that was answered is there. */
static void check_worker(struct world *w)
{
	world_check_copied(w);
	world_read_known(w, sim_below(&w->sim, 4) == 0);
	world_settle(w);
	if (world_is_bad(w))
		return;
	if (sim_below(&w->sim, 2))
		world_process_death(w);
	else
		world_close(w);
}

int main(int argc, char **argv)
{
	uint64_t nr_crashes = argc > 1 ? strtoull(argv[1], NULL, 0) : 10000;
	uint64_t seed0 = argc > 2 ? strtoull(argv[2], NULL, 0) : 1, seed = seed0;
	uint64_t n = 0, nr_ops = 0, nr_reads = 0, nr_events = 0, nr_hydrated = 0, nr_deaths = 0;

	for (; n < nr_crashes; seed++) {
		struct world w;
		world_init(&w, seed, sizes[seed % (sizeof sizes / sizeof sizes[0])]);
		world_create(&w);
		for (unsigned i = 0; i < 12 && !world_is_bad(&w); i++, n++) {
			live(&w);
			while (!world_is_bad(&w) && sim_below(&w.sim, 3) == 0) {
				world_process_death(&w);
				nr_deaths++;
				if (sim_below(&w.sim, 2) && world_open(&w) >= 0)
					check_worker(&w);
				if (!world_is_bad(&w))
					live(&w);
			}
			world_crash(&w, (enum sim_crash)sim_below(&w.sim, SIM_NR_CRASHES));
			if (!world_is_bad(&w))
				check_after(&w);
		}
		nr_ops += w.nr_done;
		nr_reads += w.nr_reads;
		nr_events += w.sim.nr_events;
		nr_hydrated += w.is_finished;
		if (world_is_bad(&w)) {
			printf("E1: FAILED: %s\nreplay: uclone_crash 1 %" PRIu64 "\n", w.sim.problem, seed);
			world_fini(&w);
			return 1;
		}
		world_fini(&w);
	}
	printf("E1: %" PRIu64 " crash points, %" PRIu64 " deaths of a worker, %" PRIu64 " requests, %" PRIu64 " reads judged, %" PRIu64 " events, %" PRIu64
	       " clones hydrated, seeds %" PRIu64 " to %" PRIu64 ", 0 lost\n",
	       n, nr_deaths, nr_ops, nr_reads, nr_events, nr_hydrated, seed0, seed - 1);
	return 0;
}
