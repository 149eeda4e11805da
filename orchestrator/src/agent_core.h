/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_AGENT_CORE_H
#define ORCH_AGENT_CORE_H

/*
 * Pure. What an agent may do with a volume: the durable record, a step of a migration, and the verdict on it. The daemon
 * (agent_steps.c) and the seeded simulation run this same code.
 *
 * How a step runs:
 *   1. agent_core_decide() looks at the record and at whether a result is stored.
 *   2. On AGENT_ACT, when has_before: the record `before` is made durable.
 *   3. The action is done (it may fail; then nothing more is written and the step may be tried again).
 *   4. agent_core_finish() makes the record of the end from the record as it then is; it is made durable in one
 *      transaction with the result of (migration, epoch, step).
 *   5. The result is answered.
 * Steps of one volume run one at a time.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/err.h"
#include "kedge/name.h"
#include "kedge/uuid.h"

#define AGENT_STEP_TABLE(X)                                                                              \
	X(CHECK) X(RESERVE) X(STOP) X(FENCE) X(EXPORT) X(ATTACH) X(INTENT) X(BOOT) X(HYDRATE) X(FINISH) \
	X(UNEXPORT) X(RELEASE) X(REVOKE) X(UNFENCE)

enum agent_step {
#define X(name) AGENT_##name,
	AGENT_STEP_TABLE(X)
#undef X
	AGENT_NR_STEPS,
};

/* "CHECK". Never NULL. */
const char *agent_step_name(enum agent_step step);
/* 0, or -EINVAL for a name that is no step. */
int agent_step_by_name(const char *name, enum agent_step *ret_step);

#define AGENT_STATE_TABLE(X)                                                              \
	X(UNKNOWN, "unknown")   /* no record: this host never heard of the volume */      \
	X(LOCAL, "local")       /* the only copy is here, whole */                        \
	X(RESERVED, "reserved") /* destination of a migration, not booted */              \
	X(CLONING, "cloning")   /* booted here, not finished */                           \
	X(FENCED, "fenced")     /* moving or moved away: never started here */            \
	X(RETAINED, "retained") /* source copy kept after a move, or gone when released */ \
	X(REVOKED, "revoked")   /* was a destination, never booted, will not */

enum agent_state {
#define X(name, text) AGENT_STATE_##name,
	AGENT_STATE_TABLE(X)
#undef X
	AGENT_NR_STATES,
};

const char *agent_state_name(enum agent_state state);
/* 0 or -EINVAL. */
int agent_state_by_name(const char *name, enum agent_state *ret_state);

/* The durable record of one volume on one host. All zero: UNKNOWN. Epoch 0 means "none": epochs of migrations begin at 1. */
struct agent_record {
	enum agent_state state;
	uint64_t epoch;               /* the highest seen */
	struct kedge_uuid migration;  /* whose epoch that is; null for a volume that never moved */
	/* as a source */
	uint64_t held_epoch;          /* STOP began: not started here but by UNFENCE */
	uint64_t stopped_epoch;       /* STOP ended well */
	uint64_t fence_epoch;
	char fence_to[KEDGE_NAME_MAX + 1];
	bool has_intent;              /* of the fence's epoch: never unfenced */
	uint64_t export_epoch;        /* an export is recorded and not ended */
	uint64_t unexported_epoch;    /* ended for good: no late EXPORT of this epoch */
	uint64_t aborted_epoch;       /* UNFENCE began: no STOP, FENCE, EXPORT, INTENT of this epoch any more */
	bool is_released;             /* the copy here is deleted or forgotten */
	/* as a destination */
	uint64_t reserved_epoch;      /* RESERVE began */
	uint64_t attached_epoch;      /* ATTACH ended well */
	uint64_t booted_epoch;        /* BOOT began: never revoked */
	uint64_t revoked_epoch;       /* REVOKE began: BOOT of this epoch and below never succeeds */
};

struct agent_request {
	struct kedge_uuid migration;
	uint64_t epoch;
	enum agent_step step;
	const char *to;         /* FENCE: the destination's name */
	bool is_release_delete; /* RELEASE: policy */
};

enum agent_verdict_kind {
	AGENT_ACT,    /* do the action of the step */
	AGENT_STORED, /* answer the stored result */
	AGENT_STALE,  /* 409 with the highest epoch; nothing changes */
	AGENT_REFUSE, /* code and reason; nothing changes */
};

struct agent_verdict {
	enum agent_verdict_kind kind;
	int code;            /* REFUSE, STALE */
	const char *reason;  /* static text; NULL otherwise */
	bool has_before;
	struct agent_record before;
};

/* is_stored: a result of exactly (migration, epoch, step) is durable. */
void agent_core_decide(const struct agent_record *r, bool is_stored, const struct agent_request *q,
		       struct agent_verdict *ret_verdict);
/* The record that goes with the result of a step that ended well. r: the record as it is now (before was written). */
void agent_core_finish(const struct agent_record *r, const struct agent_request *q, struct agent_record *ret_record);

/* May a workload be started on the volume's device? 0, or KEDGE_E_FENCED, KEDGE_E_BUSY_VOLUME, -ENOENT with a reason. */
int agent_core_may_start(const struct agent_record *r, const char **ret_reason);
/* May the volume be handed to a migration, or changed by an operator's verb: is no migration under way here? */
bool agent_core_is_engaged(const struct agent_record *r);
/* The host came up anew: a STOP that was not followed by a FENCE is void, the workload starts again here. True when the record
 * changed; a stored result of STOP for that epoch is to be forgotten in the same transaction. */
bool agent_core_reboot(struct agent_record *r);
/* What a volume takes of a destination's room: itself, and its clone's metadata (bitmaps in checksummed sectors, twice, and the
 * rest). */
static inline uint64_t agent_room_needed(uint64_t size_bytes)
{
	return size_bytes + size_bytes / 4096 + (4u << 20);
}
/* NULL, or which invariant the record breaks. */
const char *agent_core_broken_invariant(const struct agent_record *r);

#endif
