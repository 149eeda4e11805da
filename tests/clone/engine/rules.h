/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef RULES_H
#define RULES_H

/* What the cmocka tests of the engine share. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "kedge/bytes.h"
#include "uclone_layout.h"
#include "world.h"

static inline void expect_good(const struct world *w)
{
	if (world_is_bad(w))
		fail_msg("%s", w->sim.problem);
}

/* A world with a fresh clone, open; events in order of submission. */
static inline struct world *start(uint64_t seed, uint64_t size_bytes)
{
	struct world *w = malloc(sizeof *w);

	world_init(w, seed, size_bytes);
	w->sim.is_fifo = true;
	assert_int_equal(world_create(w), 0);
	assert_int_equal(world_open(w), 0);
	return w;
}

/* Close it when it is open; nothing may be left. */
static inline void stop(struct world *w)
{
	expect_good(w);
	if (w->u)
		world_close(w);
	expect_good(w);
	world_fini(w);
	free(w);
}

/* PATTERN on the command line: only the tests of that name. */
#define RUN_RULES(tests, argc, argv) \
	((argc) > 1 ? cmocka_set_test_filter((argv)[1]) : (void)0, cmocka_run_group_tests(tests, NULL, NULL))
#endif
