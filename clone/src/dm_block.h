/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DM_BLOCK_H
#define KCLONE_DM_BLOCK_H

/*
 * What the driver itself does to block devices while nobody else can: discard and write regions of a clone, wait for a destination that others
 * wrote. Everything blocks until it is done, and the process cannot be killed out of it: when the driver is gone, so is its I/O.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/err.h"

/* /dev/mapper/NAME, direct. is_alone: refused (-EBUSY) while a device above it, a mount or the like holds it. */
int dm_block_open(const char *name, bool is_alone, int *ret_fd, struct kedge_err *err);
int dm_block_discard(int fd, const char *name, uint64_t start_bytes, uint64_t nr_bytes, struct kedge_err *err);
/* buf and range are aligned to 4 KiB. */
int dm_block_write(int fd, const char *name, const void *buf, uint64_t start_bytes, uint64_t nr_bytes, struct kedge_err *err);

/*
 * The lock of a destination (flock(2) of the file or node): whoever writes it below the clone, by io_uring, has it on the very descriptor that
 * it writes through. The kernel lets go of that lock when the last of those writes has ended, even of a process that was killed: so who gets
 * the lock knows that none is on its way. Of a clone that was handed out its driver has it, so that nobody takes a file for another clone's
 * destination; a device the kernel's clone claims.
 */
#define DM_BLOCK_LOCK_MS 15000
int dm_block_lock(const char *dest_path, unsigned wait_ms, int *ret_fd, struct kedge_err *err);
/* What had been written there is durable. */
int dm_block_flush(int fd, const char *dest_path, struct kedge_err *err);

#endif
