/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_LOOPDEV_H
#define KEDGE_LOOPDEV_H

/*
 * Loop devices over a file, found and let go by that file and never by their number: a number that was let go is another
 * process's a moment later. All of it blocks; attaching to a FUSE file needs its live server, nothing else does.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/err.h"

#define KEDGE_LOOPDEV_MAX 32 /* "/dev/loop7" and its NUL */

/* A free loop device on path, with direct I/O where the file system can. */
int kedge_loopdev_attach(const char *path, uint32_t lbs_bytes, char ret_device[KEDGE_LOOPDEV_MAX], struct kedge_err *err);
/* One that is bound to path now. 0, or -ENOENT when there is none. */
int kedge_loopdev_find(const char *path, char ret_device[KEDGE_LOOPDEV_MAX]);
/* The next one, from number *after on, which is 0 at first; false at the end. */
bool kedge_loopdev_next(const char *path, unsigned long *after, char ret_device[KEDGE_LOOPDEV_MAX]);
/* Is this device bound to path now? By the file's name as the kernel knows it, or by device and inode. */
bool kedge_loopdev_is_of(const char *device, const char *path);
/* Let go every device of path and wait until all are free, at most timeout_ms. KEDGE_E_STILL_OPEN: somebody has one open, and
 * it stays bound as it was. 0 also when there was none. */
int kedge_loopdev_detach(const char *path, unsigned timeout_ms, struct kedge_err *err);
/* Let go every device of path whose server is dead: at once, or where it is still open or mounted when its last user goes.
 * Returns how many there were. */
unsigned kedge_loopdev_abandon(const char *path);

#endif
