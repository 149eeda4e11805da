/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DEST_USE_H
#define KCLONE_DEST_USE_H

#include "dm_stack.h"

/* Does another clone's device lie over this one's destination? Locks end with their processes, the kernel's devices do not. Asked before anything
 * writes there; of a clone that stands alone it is not asked, for its destination is the workload's own. KEDGE_E_META_BUSY. */
int dest_use_check(const struct uc_super *s, struct kedge_err *err);

#endif
