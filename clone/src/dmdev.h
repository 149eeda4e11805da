/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DMDEV_H
#define KCLONE_DMDEV_H

/*
 * Device-mapper devices. dmdev.c is the only file that knows libdevmapper. Every call blocks; suspend, status with flush and remove for as
 * long as I/O below them does, so none of it may run in a process that serves that I/O. Nodes come by udev where it runs, else
 * libdevmapper makes them. Errors: -errno of the ioctl, with one line in err.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/err.h"

#define DMDEV_NAME_MAX 128
#define DMDEV_PARAMS_MAX 512

/* Version of a target that the kernel has loaded or can load; -ENODEV: no device-mapper (or not allowed), -ENOENT: no such target. */
int dmdev_target_version(const char *target, uint32_t ret_version[3], struct kedge_err *err);

struct dmdev_info {
	bool exists, is_suspended, has_live_table, is_read_only;
	uint32_t nr_open, event_nr, major, minor;
};
int dmdev_info(const char *name, struct dmdev_info *ret_info, struct kedge_err *err);
/* "major:minor" of a device that exists. */
int dmdev_number(const char *name, char out[32], struct kedge_err *err);

/* Make a device with its first table, running. */
int dmdev_create(const char *name, const char *uuid, uint64_t nr_sectors, const char *target, const char *params, struct kedge_err *err);
/* … that nobody can write: over one that is read-only itself there is no other. */
int dmdev_create_read_only(const char *name, const char *uuid, uint64_t nr_sectors, const char *target, const char *params,
			   struct kedge_err *err);
enum dmdev_suspend { DMDEV_FLUSH = 0, DMDEV_NOFLUSH = 1, DMDEV_SKIP_LOCKFS = 2 };
int dmdev_suspend(const char *name, unsigned flags, struct kedge_err *err);
/* Gives up after max_ms: -ETIMEDOUT, and the device goes on as before. Uses SIGALRM. */
int dmdev_suspend_within(const char *name, unsigned flags, unsigned max_ms, struct kedge_err *err);
int dmdev_resume(const char *name, struct kedge_err *err);
/* suspend, load, resume: in this order, for a clone's bitmap is read at load. When the load fails the old table goes on. */
int dmdev_replace(const char *name, unsigned flags, uint64_t nr_sectors, const char *target, const char *params, struct kedge_err *err);
/* The second step alone, of a device that is suspended: its resume puts the table in place. */
int dmdev_load(const char *name, uint64_t nr_sectors, const char *target, const char *params, struct kedge_err *err);
int dmdev_load_read_only(const char *name, uint64_t nr_sectors, const char *target, const char *params, struct kedge_err *err);
int dmdev_remove(const char *name, struct kedge_err *err);
/* Once nobody has it open any more: now, or when its last user goes. */
int dmdev_remove_later(const char *name, struct kedge_err *err);
int dmdev_rename(const char *name, const char *new_name, struct kedge_err *err);

/* The first target of a device. is_noflush: without the commit that a clone's status makes. */
int dmdev_status(const char *name, bool is_noflush, char target[32], char params[DMDEV_PARAMS_MAX], struct kedge_err *err);
int dmdev_table(const char *name, char target[32], char params[DMDEV_PARAMS_MAX], struct kedge_err *err);
int dmdev_message(const char *name, const char *message, struct kedge_err *err);
/* Sleep until the device's event number is no longer event_nr. */
int dmdev_wait(const char *name, uint32_t event_nr, struct kedge_err *err);

/* Every device whose name begins with prefix. */
int dmdev_list(const char *prefix, void (*fn)(void *arg, const char *name), void *arg, struct kedge_err *err);

#endif
