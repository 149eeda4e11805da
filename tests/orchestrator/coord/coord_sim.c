/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Runs seeds of the simulated world and says what it saw.
 *
 * Usage: coord_sim [SEEDS [FIRST]]; coord_sim --trace SEED. With COORD_MUTANT=NAME,... (programs built with mutants) ends with 0 when
 * the fault was found, with 3 when it was not.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#ifdef COORD_WITH_MUTANTS
#include "coord_mutants.h"
bool coord_mutant(const char *name)
{
	static const char *wanted;
	const char *at;

	if (!wanted)
		wanted = getenv("COORD_MUTANT") ? getenv("COORD_MUTANT") : "";
	for (at = strstr(wanted, name); at; at = strstr(at + 1, name))
		if ((at == wanted || at[-1] == ',') && (at[strlen(name)] == 0 || at[strlen(name)] == ','))
			return true;
	return false;
}
#endif

int main(int argc, char **argv)
{
	bool is_trace = argc == 3 && strcmp(argv[1], "--trace") == 0, is_mutant = getenv("COORD_MUTANT") != NULL;
	uint64_t nr = is_trace ? 1 : argc > 1 ? strtoull(argv[1], NULL, 0) : 10000;
	uint64_t first = is_trace ? strtoull(argv[2], NULL, 0) : argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	struct world *w = calloc(1, sizeof *w), sum = {0};

	if (!w)
		return 1;
	for (uint64_t seed = first; seed < first + nr; seed++) {
		world_run(w, seed, is_trace);
		sum.nr_steps += w->nr_steps;
		sum.nr_deaths += w->nr_deaths;
		sum.nr_cuts += w->nr_cuts;
		sum.nr_aborts += w->nr_aborts;
		sum.nr_done += w->nr_done;
		sum.nr_aborted += w->nr_aborted;
		sum.nr_writes += w->nr_writes;
		sum.nr_starts += w->nr_starts;
		if (w->failure[0]) {
			printf("seed %" PRIu64 ": %s\n", seed, w->failure);
			if (is_mutant)
				printf("the fault was found after %" PRIu64 " seeds\n", seed - first + 1);
			free(w->events);
			free(w);
			return is_mutant ? 0 : 1;
		}
	}
	printf("%" PRIu64 " seeds from %" PRIu64 ": %" PRIu64 " steps, %" PRIu64 " moves done, %" PRIu64 " undone, %" PRIu64
	       " aborts asked, %" PRIu64 " deaths, %" PRIu64 " cuts, %" PRIu64 " starts, %" PRIu64 " writes; 0 violations of I1 to I8\n",
	       nr, first, sum.nr_steps, sum.nr_done, sum.nr_aborted, sum.nr_aborts, sum.nr_deaths, sum.nr_cuts, sum.nr_starts,
	       sum.nr_writes);
	free(w->events);
	free(w);
	return is_mutant ? 3 : 0;
}
