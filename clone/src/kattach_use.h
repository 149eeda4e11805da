/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_KATTACH_USE_H
#define KCLONE_KATTACH_USE_H

/* What a driver does with the kernel's initiator: the device below the clone follows the session's disk. With is_used false (the feed has the
 * source) everything is well and nothing to do. */

#include "dm_stack.h"
#include "front.h"
#include "kattach.h"

struct kattach_use {
	bool is_used, is_proven, is_recalled, is_ending;
	bool is_settled; /* is_ending: as it was when the end began */
	bool is_left;    /* taken over, and not led there anew: the source may be suspended */
	struct kattach a;
	struct dm_record *rec; /* the caller's */
	struct dm_stack *st; /* likewise */
	struct dm_share *m;  /* likewise */
	uint64_t seen_nr;    /* of m->attach_nr */
};

/* Before there are devices. */
int kattach_use_init(struct kattach_use *u, struct dm_record *rec, struct dm_stack *st, struct dm_share *m, struct kedge_err *err);
/* After dm_stack_open without a source device. A session that an earlier driver left is taken over. */
void kattach_use_start(struct kattach_use *u);
/* Each round. true: the disk in use became another volume (u->a.err). */
bool kattach_use_step(struct kattach_use *u, uint64_t now_ms);
static inline bool kattach_use_is_up(const struct kattach_use *u)
{
	return !u->is_used || u->a.state == KATTACH_UP;
}
/* Everything is here: what was read so far is the volume's when the disk is still the one that was checked. */
void kattach_use_prove(struct kattach_use *u);
/* 0, or KEDGE_E_SOURCE_AWAY: what was read last is not yet known to be the volume's. */
int kattach_use_is_proven(const struct kattach_use *u, struct kedge_err *err);
/* Log out; the device below the clone is gone, or its reads are to fail. Waits so long; kattach_use_step goes on with it. */
void kattach_use_end(struct kattach_use *u, unsigned wait_ms);
/* After kattach_use_end, and the devices are gone: is there nothing for the next driver to ask? Then the record does not say so any more; the
 * caller writes it. */
void kattach_use_forget(struct kattach_use *u);

/* The feed is to have the source that an earlier driver let the kernel's initiator have: afterwards the device below the clone can be led
 * elsewhere without waiting for a session that is dead. No devices are open. KEDGE_E_SOURCE_IDENTITY: the clone was deceived. Errors too when
 * the session is wedged. */
int kattach_use_leave(struct dm_record *rec, struct kedge_err *err);

/* KEDGE_E_SOURCE_IDENTITY: this clone was deceived. Whoever recorded that may have come no further: its device answers with errors from now on. */
int kattach_use_refuse(const struct uclone_create_opts *o, struct kedge_err *err);

#endif
