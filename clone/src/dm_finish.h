/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DM_FINISH_H
#define KCLONE_DM_FINISH_H

#include "dm_stack.h"

/*
 * The last steps of a kernel clone; the comparison with the source has passed. Blocks.
 * 1. Commit: destination, then bitmap. Every region is there, none is under way.
 * 2. META.dm, read back from disk, says the same.
 * 3. META says HYDRATED, durably.
 * 4. The top: suspend, load the linear on the destination, resume. 5. Clone and source device go; discards are let through again.
 * The worker closes the source when this has been answered, and not before.
 */
int dm_finish(struct dm_stack *st, struct kedge_err *err);

#endif
