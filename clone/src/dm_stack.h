/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DM_STACK_H
#define KCLONE_DM_STACK_H

/*
 * The devices of one clone in the kernel, from the workload down (engine=dm):
 *
 *   /dev/mapper/kedge-MIGRATION   linear: what the workload opens; in the end straight on the destination
 *   kedge-MIGRATION.clone         dm-clone; nobody but the line above opens it
 *   kedge-MIGRATION.source        linear: below the clone, so that another device can take the source's place
 *
 * Of the user engine only the first exists, above its loop device (dm_top.h). The destination and META.dm are used through loop
 * devices where they are files. Everything blocks, some of it on I/O that the feed serves: never called in the process that serves
 * it. Whatever exists already is recognised by name and table and taken over.
 */

#include "dm_record.h"
#include "dm_table.h"
#include "dmdev.h"

struct dm_stack {
	struct dm_record *rec; /* the caller's */
	char top[DMDEV_NAME_MAX], clone[DMDEV_NAME_MAX], source[DMDEV_NAME_MAX];
	char dest_path[UCLONE_PATH_MAX]; /* block devices */
	char dest_dev[32], meta_dev[32], source_dev[32]; /* "major:minor" */
	char feed_dev[32];                               /* below source_dev */
	uint64_t nr_sectors;
	bool was_there, was_made; /* the clone existed already and is taken over; it is new */
};

/* Names only. */
void dm_stack_names(const struct kedge_uuid *migration, char top[DMDEV_NAME_MAX], char clone[DMDEV_NAME_MAX], char source[DMDEV_NAME_MAX]);

/* Is there what engine=dm needs? KEDGE_E_STATE with the reason in err: no device-mapper, no dm-clone, a kernel older than 5.5. */
int dm_probe(struct kedge_err *err);

/* Bring up clone and source over the source device, or take over what is there. The first start (state CREATED) lets the kernel format
 * META.dm; any later one passes the guard first (K3). Discards are withheld from the clone (K1). Does not hydrate yet. */
int dm_stack_open(struct dm_stack *st, struct dm_record *rec, const char *source_device, struct kedge_err *err);
/* source_device NULL: there is none yet. Reads that need it wait until it is led to one; a source that is there already stays. When it
 * cannot be led there, its reads wait: it does not go on where it led before. */
int dm_stack_lead_source(const struct dm_stack *st, const char *number, struct kedge_err *err);
/* Does it lead to this device ("major:minor")? */
bool dm_stack_is_source(const struct dm_stack *st, const char *number);
/* The top, on the clone: what the workload opens. Discards are withheld from it. */
int dm_stack_open_top(struct dm_stack *st, struct kedge_err *err);
/* A clone that stands alone: top over the destination. */
int dm_stack_open_alone(struct dm_stack *st, struct dm_record *rec, struct kedge_err *err);

int dm_stack_status(const struct dm_stack *st, bool is_commit, struct dm_clone_status *ret_status, struct kedge_err *err);
/* enable or disable hydration, set how much of it may be under way */
int dm_stack_hydrate(const struct dm_stack *st, bool is_on, uint32_t threshold, uint32_t batch, struct kedge_err *err);
/* Reads of neighbouring regions reach the feed one by one, and do not fail together; or merged, which is faster. */
void dm_stack_keep_apart(const struct dm_stack *st, bool is_apart);
/* Start so many regions at a moment when the foreground has nothing in flight, and no more (dm_governor.h, "dose"). -ETIMEDOUT
 * when that moment does not come. */
int dm_stack_dose(const struct dm_stack *st, uint32_t threshold, uint32_t batch, struct kedge_err *err);
/* I/O of the workload on top since that was made; zeroes when that cannot be read. */
struct dm_ios {
	uint64_t nr_reads, nr_writes; /* completed */
	uint64_t busy_ms;             /* with something in flight; as coarse as the kernel's tick */
};
void dm_stack_ios(const struct dm_stack *st, struct dm_ios *ret_ios);
bool dm_stack_has_writes(const struct dm_stack *st);

/* K1: a discard that reaches a region in flight lets the late copy land on newer data. Withheld, or an error. */
int dm_stack_withhold_discards(const char *name, struct kedge_err *err);
/* Again as much as the device below takes. */
void dm_stack_allow_discards(const char *name);

/* Every region is there, committed, and read back from disk as such; then the top goes straight to the destination. The caller records
 * HYDRATED between dm_stack_prove and dm_stack_stand_alone. */
int dm_stack_prove(const struct dm_stack *st, struct kedge_err *err);
int dm_stack_stand_alone(struct dm_stack *st, struct kedge_err *err);
/* The clone has failed (K4): what the workload gets from now on is an error, never old data. */
int dm_stack_stop_serving(struct dm_stack *st, struct kedge_err *err);
/* The source device is about to go: reads that need it wait for the next dm_stack_open instead of failing. */
int dm_stack_hold_source(const struct dm_stack *st, struct kedge_err *err);
/* 0 too when there is none. -ETIMEDOUT when what is in flight there does not end, and then it goes on. */
int dm_stack_hold_source_within(const struct dm_stack *st, unsigned max_ms, struct kedge_err *err);
/* Reads that wait at a source that is held fail: they keep the devices above from their rest. */
int dm_stack_fail_waiting(const struct dm_stack *st, struct kedge_err *err);
/* The top, where there is one, answers with errors from now on. */
int dm_stack_give_up(const struct kedge_uuid *migration, uint64_t nr_sectors, struct kedge_err *err);

/* Take the devices away, top first; KEDGE_E_STILL_OPEN when the workload has it open, and then all stays. 0 when there was nothing. */
int dm_stack_remove(const struct kedge_uuid *migration, const char *meta, const char *dest_path, struct kedge_err *err);

/* ---- for the user engine's top (dm_top.h) ---- */
/* Has the kernel dm-linear? Errors as dmdev_target_version. */
int dm_top_probe(struct kedge_err *err);
/* Lead a linear device of ours that exists to the device of this number ("major:minor"): nothing to do when it is there. */
int dm_stack_lead(const char *name, const char *number, uint64_t nr_sectors, struct kedge_err *err);
/* Remove one device; KEDGE_E_STILL_OPEN after a second of asking. 0 when there is none. */
int dm_stack_remove_one(const char *name, struct kedge_err *err);

#endif
