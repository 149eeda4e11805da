/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DM_MARK_H
#define KCLONE_DM_MARK_H

/*
 * The driver's part of a head start: what the worker copied straight to the destination before anybody had the device (dm_headstart.h) becomes
 * hydrated, by discards on a clone that keeps discards from the destination. K1: done while nothing hydrates and nobody else can use
 * the clone, and discards are withheld again afterwards. K2: only regions that are in bits, and that is looked at afterwards. Everything blocks.
 */

#include "dm_stack.h"
#include "uclone_int.h"

/* Regions that a discard can mark: a short last one it cannot. */
uint64_t dm_mark_nr_regions(const struct dm_stack *st);
/* May a head start begin: the clone was never handed out, has no device above it, does not hydrate, is well? */
bool dm_mark_is_possible(const struct dm_stack *st);
/* Set the bits of what an earlier head start marked. */
int dm_mark_recall(const struct dm_stack *st, struct uc_bits *bits, struct kedge_err *err);
/*
 * Before the clone is handed out for the first time; bits may be empty.
 * 1. The destination's lock: no copy is on its way any more, whoever was killed.
 * 2. Flush the destination. 3. META says that marks may be there. 4. Discards are let through, made, withheld.
 * 5. Commit, and read the bitmap back: nothing else is marked.
 * The lock is the caller's then, who keeps it for as long as it drives the clone.
 */
int dm_mark_run(struct dm_stack *st, const struct uc_bits *bits, int *ret_lock_fd, uint64_t *ret_nr_marked, struct kedge_err *err);

#endif
