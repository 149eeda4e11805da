/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_COORD_MUTANTS_H
#define ORCH_COORD_MUTANTS_H

/* Deliberate faults by which the simulation shows that it can find faults (tests/orchestrator/coord). In the daemon there are none:
 * the call is a constant there. */

#include <stdbool.h>

#ifdef COORD_WITH_MUTANTS
bool coord_mutant(const char *name);
#else
#define coord_mutant(name) false
#endif

#endif
