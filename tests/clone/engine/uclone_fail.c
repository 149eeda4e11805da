/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. E6: the N-th disk operation fails, for every N until none does; once and from then on; with EIO and ENOSPC. No success after
 * a failed commit, no hang, no leak, and after a restart nothing that was flushed is lost.
 *
 * Usage: uclone_fail [WORKLOADS [SEED]]
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "sim_alloc.h"
#include "world.h"

static const uint64_t sizes[] = {1921 * 4096, 4 * 4096, 243 * 4096, 9 * 4096 + 512};

/* true: the failure fired. */
static bool run(struct world *w, uint64_t seed, uint64_t n, bool is_persistent, int res, bool is_at_create)
{
	bool has_fired, is_finishing = seed % 2;

	world_init(w, seed, sizes[seed % 4]);
	if (!is_at_create)
		world_create(w);
	w->is_error_ok = true;
	w->sim.nr_ops = 0;
	w->sim.fail_at = n;
	w->sim.fail_res = res;
	w->sim.is_fail_persistent = is_persistent;
	if (is_at_create) {
		int r = world_create(w);
		has_fired = w->sim.has_failed;
		if (has_fired != (r < 0))
			sim_problem(&w->sim, "create: failed %d, result %d", has_fired, r);
		if (sim_alloc_nr())
			sim_problem(&w->sim, "create leaks");
		return has_fired;
	}
	if (world_open(w) == 0) {
		for (unsigned i = 0; i < 150 && !world_is_bad(w); i++) {
			if (w->nr_ops + w->nr_copies < 6)
				world_random_op(w);
			if (is_finishing && i == 60)
				world_hydrate(w, 0, w->nr_sectors / 8 + 1, 16);
			if (is_finishing && i >= 70 && i % 8 == 0 && !w->is_finishing && !w->is_finished)
				world_finish_begin(w);
			world_step(w);
			world_step(w);
		}
		world_settle(w);
		if (w->nr_ops || w->nr_copies)
			sim_problem(&w->sim, "%u requests and %u copies hang", w->nr_ops, w->nr_copies);
		else
			world_close(w);
	} else if (sim_alloc_nr()) {
		sim_problem(&w->sim, "open leaks");
	}
	has_fired = w->sim.has_failed;
	w->sim.fail_at = 0;
	w->is_error_ok = false;
	if (world_is_bad(w))
		return has_fired;
	world_crash(w, (enum sim_crash)(n % SIM_NR_CRASHES));
	world_check_offline(w);
	if (!world_is_bad(w) && world_open(w) == 0) {
		world_check_copied(w);
		world_read_known(w, true);
		world_settle(w);
		world_close(w);
	}
	return has_fired;
}

int main(int argc, char **argv)
{
	uint64_t nr_workloads = argc > 1 ? strtoull(argv[1], NULL, 0) : 4, seed0 = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	uint64_t nr_runs = 0;

	for (uint64_t seed = seed0; seed < seed0 + nr_workloads; seed++)
		for (unsigned way = 0; way < 8; way++) {
			bool has_fired = true;
			for (uint64_t n = 1; has_fired; n++, nr_runs++) {
				struct world w;
				has_fired = run(&w, seed, n, way & 1, way & 2 ? -ENOSPC : -EIO, way & 4);
				if (world_is_bad(&w)) {
					printf("E6: FAILED: %s\nseed %" PRIu64 " operation %" PRIu64 " way %u\n", w.sim.problem, seed, n, way);
					return 1;
				}
				world_fini(&w);
			}
		}
	printf("E6: %" PRIu64 " workloads from seed %" PRIu64 ", %" PRIu64 " runs, each with its one operation failed, 0 violations\n",
	       nr_workloads, seed0, nr_runs);
	return 0;
}
