/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Purpose. Chooses the deliberate fault of a mutant build: UCLONE_MUTANT in the environment, a number; none: 0. */
#include "uclone_mutants.h"

#include <stdlib.h>

extern enum uc_mutant uc_mutant;
enum uc_mutant uc_mutant;

__attribute__((constructor)) static void choose(void)
{
	const char *text = getenv("UCLONE_MUTANT");

	uc_mutant = text ? (enum uc_mutant)atoi(text) : UC_MUT_NONE;
}
