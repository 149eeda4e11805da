/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DM_TOP_H
#define KCLONE_DM_TOP_H

/*
 * The user engine under a dm-linear, where the kernel has device-mapper: what the workload opens is /dev/mapper/kedge-MIGRATION, above the
 * loop device while the clone is live, on the destination once it is HYDRATED (a loop device where that is a file). Everything blocks, some
 * of it on I/O that the worker serves: never called in the worker or the holder.
 *
 * META.top names the device from before it is made until it is gone, and says when it outlives kclone; its lock is held by whoever changes
 * the device.
 */

#include "dm_stack.h"

struct dm_top {
	struct uc_super super;
	char name[DMDEV_NAME_MAX], path[UCLONE_PATH_MAX]; /* path: /dev/mapper/NAME */
	char record[UCLONE_PATH_MAX + 8];		  /* META.top */
	uint64_t nr_sectors;
	int lock_fd;
};

/* "META.top" */
void dm_top_record_path(const char *meta, char out[UCLONE_PATH_MAX + 8]);
/* Take META.top, made when it is missing. Waits some seconds for one that ends. KEDGE_E_META_BUSY. */
int dm_top_open(const char *meta, const struct uc_super *super, struct dm_top *ret_top, struct kedge_err *err);
void dm_top_close(struct dm_top *t);

/* Over the loop device of a clone. is_ours: made since our holder began, so it is led there, whoever has it open. Otherwise it is of a kclone
 * that was lost, and with it what was acknowledged and not flushed: who still has it open gets errors from now on, as from a disk that lost
 * power, and a new device takes the name. is_whole: the clone is HYDRATED, nothing was lost. */
int dm_top_over_clone(struct dm_top *t, const char *device, bool is_ours, bool is_whole, struct kedge_err *err);

/* Can the device go onto the destination without a change that its user sees? Not where that has larger or smaller sectors. */
int dm_top_fits_dest(const struct uc_super *super, struct kedge_err *err);
/* Of a HYDRATED clone: onto the destination, from wherever it is. file: what the loop device below it is bound to, or NULL when that is
 * gone. step gets a name at each point at which a crash finds something else. On failure the device goes on as before. */
int dm_top_over_dest(struct dm_top *t, const char *file, void (*step)(const char *name), struct kedge_err *err);

/* The device goes, the destination's loop device, META.top. KEDGE_E_STILL_OPEN: somebody has it open, and all stays. */
int dm_top_remove(struct dm_top *t, struct kedge_err *err);
/* Of a clone that is served without: what an earlier one left, if anything. */
int dm_top_remove_left(const char *meta, const struct uc_super *super, struct kedge_err *err);

/* For tests: KEDGE_FAILPOINT=top.STEP stops the process (SIGSTOP) at that step, once a file KEDGE_FAILPOINT_FILE that is not there yet. */
void dm_top_failpoint(const char *step);

#endif
