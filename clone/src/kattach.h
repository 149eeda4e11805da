/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_KATTACH_H
#define KCLONE_KATTACH_H

/*
 * The source of a kernel clone through the kernel's own initiator (--source-attach kernel), as its driver sees it. Nothing here sleeps in the
 * kernel: what may (open-iscsi, the scan of a unit, SCSI commands) runs in a process of its own, a task, with a deadline. One that does not
 * die when it is killed is stuck in the kernel for good, and so is a session that does not end: then nothing more is tried, and that is
 * said: wedged, this host needs a reboot.
 */

#include <sys/types.h>

#include "kclone.h"
#include "kedge/identity.h"
#include "kiscsi.h"

enum kattach_state {
	KATTACH_NONE,       /* nobody has said where the source is */
	KATTACH_LOGGING_IN, /* or about to try again */
	KATTACH_UP,
	KATTACH_AWAY,       /* the session is down; iscsid connects again, I/O waits in the kernel */
	KATTACH_CHECKING,   /* it has connected again: who is there? */
	KATTACH_REFUSED,    /* another volume, or the login was refused: waits to be told another place */
	KATTACH_ENDING,
	KATTACH_ENDED,
	KATTACH_WEDGED,
};
const char *kattach_state_name(enum kattach_state s);

enum kattach_task { KTASK_NONE, KTASK_ATTACH, KTASK_CHECK, KTASK_LOGOUT };

struct kattach_result; /* shared with the task under way */

struct kattach {
	struct kedge_identity identity; /* what the source must be */
	struct kiscsi_target target;
	char chap_file[512];
	enum kattach_state state;
	struct kedge_err err; /* why it is not up */
	/* while there is a session that was found to be right */
	bool has_session;
	struct kiscsi_session session;
	struct kiscsi_disk disk;
	/* The disk in use had a connection that nobody has asked who it was; is_unwatched: while there was no driver. */
	bool is_suspect, is_unwatched;
	/* the task under way; its processes are one group */
	enum kattach_task task;
	pid_t pgid;
	bool is_killed;
	struct kattach_result *result;
	uint64_t deadline_ms, retry_ms, look_ms;
	uint64_t login_end_ms; /* by then iscsid has ended the last login, whether or not anybody waited for it */
	unsigned backoff_ms, nr_logouts;
};

enum kattach_news {
	KATTACH_NOTHING,
	KATTACH_NEW_DISK, /* disk is right: lead the source there */
	KATTACH_LOST,     /* the session and its disk are gone: hold the source */
	KATTACH_DECEIVED, /* the disk in use has become another volume: err says which */
};

/* Can a clone have its source that way here? KEDGE_E_STATE: no open-iscsi. -EINVAL: a source that is no target or does not say who it is, no
 * mutual secret. */
int kattach_check(const struct uclone_create_opts *o, struct kedge_err *err);

/* initiator NULL or "": the default. The caller becomes the reaper of what tasks leave behind. */
int kattach_init(struct kattach *a, const struct kedge_identity *identity, const char *initiator, struct kedge_err *err);
/* Where the source is; nothing begins. */
int kattach_aim(struct kattach *a, const char *url, const char *chap_file, struct kedge_err *err);
/* An earlier driver left this session, and its disk is in use. is_known: it has not connected again since that one asked who it is. */
void kattach_take_over(struct kattach *a, const struct kiscsi_session *s, const struct kiscsi_disk *d, bool is_known);
/* Waits for the answer: KATTACH_DECEIVED, or NOTHING when it is the volume, or when there is nobody to ask (kattach_is_settled). */
enum kattach_news kattach_ask(struct kattach *a);
/* The session that an earlier driver left is not below the clone any more, or is gone: whoever answers now may have answered there. is_known: as
 * above. */
void kattach_suspect(struct kattach *a, bool is_known);
/* The source is there: log in. A session that is up is kept. */
void kattach_go(struct kattach *a);
/* After KATTACH_NEW_DISK: it is used; or it cannot be, although it is the volume: look again after a while. */
void kattach_used(struct kattach *a);
void kattach_fail(struct kattach *a, const struct kedge_err *e, uint64_t now_ms);
/* Each round of the driver. */
enum kattach_news kattach_step(struct kattach *a, uint64_t now_ms);
/* Is the disk in use the volume expected, as far as can be known now? Looks anew. */
bool kattach_is_sure(struct kattach *a);
/* Has every connection that the disk in use had, up to now, been asked and found to be the volume? Looks anew. No while it is down. */
bool kattach_is_settled(struct kattach *a);
/* Begin to end every session of the target, or go on with that, and wait for at most wait_ms; kattach_step does the rest. true: ended. It ends
 * or is wedged within KATTACH_END_MS. A login under way is waited for: iscsid goes on with it, whoever is killed. */
#define KATTACH_END_MS 130000
bool kattach_end(struct kattach *a, unsigned wait_ms);
void kattach_fini(struct kattach *a);

/* The same target as the worker's of last time. -ENOENT: that was none. kattach_fini in any case. */
int kattach_open_left(struct kattach *a, const char *meta, const struct uclone_create_opts *o, struct kedge_err *err);
/* kattach_end for a clone that needs no source: what a driver that was killed left. A session that does not end is said. is_killed: perhaps at a
 * login, and where there is no session yet, iscsid may be about to have one. */
void kattach_end_left(const char *meta, const struct uclone_create_opts *o, bool is_killed);

#endif
