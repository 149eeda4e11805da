/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_LOOPDEV_H
#define KCLONE_LOOPDEV_H

/* Loop devices with direct I/O on a file. Everything here blocks, and on a FUSE file it needs a live worker: the holder calls it
 * in a process of its own. */

#include <stdint.h>

#include "kedge/err.h"

/* A free loop device on path; its own path goes to ret_path ("/dev/loop7"). */
int loopdev_attach(const char *path, uint32_t lbs_bytes, char ret_path[32], struct kedge_err *err);
/* Detach and wait until it is really free, at most timeout_ms. -EBUSY: somebody has it open. 0 also when it was free. */
int loopdev_detach(const char *loop_path, unsigned timeout_ms, struct kedge_err *err);
/* Detach every loop device whose backing file is path (left over from a holder that died). Returns how many. */
int loopdev_detach_stale(const char *path);

#endif
