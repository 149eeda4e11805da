/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The agent's half of the fencing protocol: which step may act on which record, and what must be durable
 * before and after (design: coordination.md). Pure.
 *
 * Two rules carry the rest. BOOT and REVOKE each write their mark before they act, and each refuses when the other's mark is
 * there, so exactly one wins. INTENT and UNFENCE do the same at the source.
 */
#include "agent_core.h"

#include <errno.h>
#include <string.h>

#include "coord_mutants.h"

static const char *const step_names[AGENT_NR_STEPS] = {
#define X(name) [AGENT_##name] = #name,
	AGENT_STEP_TABLE(X)
#undef X
};

static const char *const state_names[AGENT_NR_STATES] = {
#define X(name, text) [AGENT_STATE_##name] = text,
	AGENT_STATE_TABLE(X)
#undef X
};

const char *agent_step_name(enum agent_step step)
{
	return (unsigned)step < AGENT_NR_STEPS ? step_names[step] : "?";
}

int agent_step_by_name(const char *name, enum agent_step *ret_step)
{
	for (unsigned i = 0; i < AGENT_NR_STEPS; i++) {
		if (strcmp(name, step_names[i]) == 0) {
			*ret_step = (enum agent_step)i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *agent_state_name(enum agent_state state)
{
	return (unsigned)state < AGENT_NR_STATES ? state_names[state] : "?";
}

int agent_state_by_name(const char *name, enum agent_state *ret_state)
{
	for (unsigned i = 0; i < AGENT_NR_STATES; i++) {
		if (strcmp(name, state_names[i]) == 0) {
			*ret_state = (enum agent_state)i;
			return 0;
		}
	}
	return -EINVAL;
}

static void refuse(struct agent_verdict *v, int code, const char *reason)
{
	v->kind = AGENT_REFUSE;
	v->code = code;
	v->reason = reason;
}

/* The record to write before the action; takes over the epoch. */
static struct agent_record *before(struct agent_verdict *v, const struct agent_record *r, const struct agent_request *q)
{
	v->has_before = true;
	v->before = *r;
	v->before.epoch = q->epoch;
	v->before.migration = q->migration;
	return &v->before;
}

bool agent_core_is_engaged(const struct agent_record *r)
{
	switch (r->state) {
	case AGENT_STATE_RESERVED:
	case AGENT_STATE_CLONING:
	case AGENT_STATE_FENCED:
		return true;
	case AGENT_STATE_RETAINED: /* its release has begun and not ended */
		return r->held_epoch != 0 && !coord_mutant("overtake_release");
	case AGENT_STATE_LOCAL:
		return r->held_epoch != 0;
	default:
		return false;
	}
}

/* ---- as a source ---- */

static void decide_check(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	switch (r->state) {
	case AGENT_STATE_LOCAL:
		if (r->held_epoch && r->held_epoch != q->epoch)
			refuse(v, KEDGE_E_BUSY_VOLUME, "the volume is stopped for another migration");
		else
			before(v, r, q);
		break;
	case AGENT_STATE_FENCED:
	case AGENT_STATE_RETAINED:
		refuse(v, KEDGE_E_FENCED, "the volume has moved away from this host");
		break;
	case AGENT_STATE_RESERVED:
	case AGENT_STATE_CLONING:
		refuse(v, KEDGE_E_BUSY_VOLUME, "the volume is still arriving on this host");
		break;
	default:
		refuse(v, -ENOENT, "the volume is not on this host");
	}
}

static void decide_stop(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	decide_check(r, q, v);
	if (v->kind == AGENT_ACT)
		v->before.held_epoch = q->epoch;
}

static void decide_fence(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	decide_check(r, q, v);
	if (v->kind == AGENT_ACT && (r->held_epoch != q->epoch || r->stopped_epoch != q->epoch) && !coord_mutant("fence_without_stop"))
		refuse(v, KEDGE_E_STATE, "the workload has not been stopped for this migration");
	/* The fence is the action's outcome: it is written once more than nobody has the volume open. */
	v->has_before = false;
}

static bool has_fence_of(const struct agent_record *r, const struct agent_request *q)
{
	return r->state == AGENT_STATE_FENCED && r->fence_epoch == q->epoch;
}

static void decide_export(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	if (!has_fence_of(r, q))
		refuse(v, KEDGE_E_STATE, "the volume is not fenced for this epoch");
	else if (r->unexported_epoch == q->epoch)
		refuse(v, KEDGE_E_STATE, "the export of this epoch has ended");
	else
		before(v, r, q)->export_epoch = q->epoch;
}

static void decide_intent(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	if (!has_fence_of(r, q))
		refuse(v, KEDGE_E_STATE, "the volume is not fenced for this epoch");
}

static void decide_unexport(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	if (!has_fence_of(r, q))
		refuse(v, KEDGE_E_STATE, "the volume is not fenced for this epoch");
	else
		/* export_epoch stays until the target is gone: a restarted agent ends what this one began */
		before(v, r, q)->unexported_epoch = q->epoch;
}

static void decide_release(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	if (r->state == AGENT_STATE_RETAINED && r->fence_epoch == q->epoch)
		return; /* began before, ends now */
	if ((!has_fence_of(r, q) || !r->has_intent) && !coord_mutant("release_without_intent"))
		refuse(v, KEDGE_E_STATE, "the volume has not been given away for good in this epoch");
	else if (r->export_epoch)
		refuse(v, KEDGE_E_STATE, "the export has not ended");
	else
		before(v, r, q)->state = AGENT_STATE_RETAINED;
}

static void decide_unfence(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	if (r->state == AGENT_STATE_LOCAL || has_fence_of(r, q)) {
		if (r->state == AGENT_STATE_FENCED && r->has_intent && !coord_mutant("unfence_after_intent"))
			refuse(v, KEDGE_E_STATE, "the volume was given away for good in this epoch; move it back instead");
		else
			before(v, r, q)->aborted_epoch = q->epoch;
	} else if (r->state == AGENT_STATE_UNKNOWN) {
		refuse(v, -ENOENT, "the volume is not on this host");
	} else {
		refuse(v, KEDGE_E_STATE, "the volume is not fenced for this epoch");
	}
}

/* ---- as a destination ---- */

static void decide_reserve(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	struct agent_record *b;

	if (r->state == AGENT_STATE_LOCAL || r->state == AGENT_STATE_FENCED || r->state == AGENT_STATE_CLONING) {
		refuse(v, KEDGE_E_STATE, "the volume is on this host already");
	} else {
		b = before(v, r, q);
		/* A new arrival: what this host did with the volume in earlier epochs is over. */
		*b = (struct agent_record){.state = AGENT_STATE_RESERVED,
					   .epoch = q->epoch,
					   .migration = q->migration,
					   .reserved_epoch = q->epoch,
					   .revoked_epoch = r->revoked_epoch,
					   .aborted_epoch = r->aborted_epoch};
	}
}

static bool is_arriving(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	if (r->reserved_epoch != q->epoch)
		refuse(v, KEDGE_E_STATE, "the volume is not reserved here for this epoch");
	return v->kind == AGENT_ACT;
}

static void decide_boot(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	struct agent_record *b;

	if (!is_arriving(r, q, v))
		return;
	if (r->attached_epoch != q->epoch) {
		refuse(v, KEDGE_E_STATE, "the clone is not attached to its source");
		return;
	}
	if (r->booted_epoch == q->epoch)
		return; /* a retry */
	b = before(v, r, q);
	b->booted_epoch = q->epoch;
	b->state = AGENT_STATE_CLONING;
}

static void decide_running_clone(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	if (is_arriving(r, q, v) && r->booted_epoch != q->epoch)
		refuse(v, KEDGE_E_STATE, "the volume has not been booted here in this epoch");
}

static void decide_revoke(const struct agent_record *r, const struct agent_request *q, struct agent_verdict *v)
{
	struct agent_record *b;

	if (r->booted_epoch == q->epoch && !coord_mutant("revoke_after_boot")) {
		refuse(v, KEDGE_E_STATE, "the volume has been booted here in this epoch");
		return;
	}
	if (r->state == AGENT_STATE_LOCAL || r->state == AGENT_STATE_FENCED || r->state == AGENT_STATE_CLONING) {
		refuse(v, KEDGE_E_STATE, "the volume on this host does not come from this migration");
		return;
	}
	b = before(v, r, q);
	b->revoked_epoch = q->epoch;
	/* A copy kept from an earlier move stays what it is. */
	if (r->state != AGENT_STATE_RETAINED)
		b->state = AGENT_STATE_REVOKED;
}

/* A result that an abort has undone is no answer any more: who asks must not take the step for done. */
static const char *undone(const struct agent_record *r, const struct agent_request *q)
{
	if (coord_mutant("undone_is_forgotten"))
		return NULL;
	switch (q->step) {
	case AGENT_CHECK:
	case AGENT_STOP:
	case AGENT_FENCE:
	case AGENT_EXPORT:
	case AGENT_INTENT:
		return r->aborted_epoch >= q->epoch ? "this epoch was aborted here" : NULL;
	case AGENT_RESERVE:
	case AGENT_ATTACH:
	case AGENT_BOOT:
		return r->revoked_epoch >= q->epoch ? "this epoch was revoked here" : NULL;
	default:
		return NULL;
	}
}

void agent_core_decide(const struct agent_record *r, bool is_stored, const struct agent_request *q,
		       struct agent_verdict *ret_verdict)
{
	struct agent_verdict *v = ret_verdict;
	static void (*const decide[AGENT_NR_STEPS])(const struct agent_record *, const struct agent_request *,
						    struct agent_verdict *) = {
		[AGENT_CHECK] = decide_check,	   [AGENT_RESERVE] = decide_reserve,
		[AGENT_STOP] = decide_stop,	   [AGENT_FENCE] = decide_fence,
		[AGENT_EXPORT] = decide_export,	   [AGENT_ATTACH] = NULL,
		[AGENT_INTENT] = decide_intent,	   [AGENT_BOOT] = decide_boot,
		[AGENT_HYDRATE] = decide_running_clone, [AGENT_FINISH] = decide_running_clone,
		[AGENT_UNEXPORT] = decide_unexport, [AGENT_RELEASE] = decide_release,
		[AGENT_REVOKE] = decide_revoke,	   [AGENT_UNFENCE] = decide_unfence,
	};

	memset(v, 0, sizeof *v);
	v->kind = AGENT_ACT;
	if (q->epoch == 0) {
		refuse(v, -EINVAL, "epochs begin at 1");
	} else if (q->epoch < r->epoch && is_stored && !undone(r, q)) {
		/* What was done was done; telling it again changes nothing. */
		v->kind = AGENT_STORED;
	} else if (q->epoch < r->epoch && !coord_mutant("accept_stale")) {
		v->kind = AGENT_STALE;
		v->code = KEDGE_E_STALE_EPOCH;
		v->reason = "a later epoch of this volume is recorded here";
	} else if (q->epoch == r->epoch && !kedge_uuid_is_null(&r->migration) &&
		   !kedge_uuid_is_equal(&q->migration, &r->migration)) {
		refuse(v, KEDGE_E_BUSY_VOLUME, "this epoch belongs to another migration");
	} else if (q->epoch > r->epoch && agent_core_is_engaged(r) && !coord_mutant("overtake")) {
		/* Its epoch is not taken over: the migration under way must not become stale. */
		refuse(v, KEDGE_E_BUSY_VOLUME, "the volume is in another migration");
	} else if (undone(r, q)) {
		refuse(v, KEDGE_E_STATE, undone(r, q));
	} else if (is_stored) {
		v->kind = AGENT_STORED;
	} else if (decide[q->step]) {
		decide[q->step](r, q, v);
	} else {
		is_arriving(r, q, v);
	}
}

void agent_core_finish(const struct agent_record *r, const struct agent_request *q, struct agent_record *ret_record)
{
	struct agent_record n = *r;

	switch (q->step) {
	case AGENT_STOP:
		n.stopped_epoch = q->epoch;
		break;
	case AGENT_FENCE:
		n.state = AGENT_STATE_FENCED;
		n.fence_epoch = q->epoch;
		n.has_intent = false;
		memset(n.fence_to, 0, sizeof n.fence_to);
		if (q->to)
			strncpy(n.fence_to, q->to, sizeof n.fence_to - 1);
		break;
	case AGENT_INTENT:
		n.has_intent = true;
		break;
	case AGENT_UNEXPORT:
		n.export_epoch = 0;
		break;
	case AGENT_RELEASE:
		n.held_epoch = n.stopped_epoch = 0;
		n.is_released = q->is_release_delete;
		break;
	case AGENT_UNFENCE:
		n.state = AGENT_STATE_LOCAL;
		n.export_epoch = 0;
		n.fence_epoch = n.held_epoch = n.stopped_epoch = 0;
		memset(n.fence_to, 0, sizeof n.fence_to);
		break;
	case AGENT_ATTACH:
		n.attached_epoch = q->epoch;
		break;
	case AGENT_FINISH:
		n.state = AGENT_STATE_LOCAL;
		break;
	case AGENT_REVOKE:
		n.reserved_epoch = n.attached_epoch = 0;
		break;
	default:
		break;
	}
	*ret_record = n;
}

int agent_core_may_start(const struct agent_record *r, const char **ret_reason)
{
	*ret_reason = NULL;
	switch (r->state) {
	case AGENT_STATE_LOCAL:
		if (!r->held_epoch || coord_mutant("start_while_held"))
			return 0;
		*ret_reason = "the volume is stopped for a migration";
		return KEDGE_E_BUSY_VOLUME;
	case AGENT_STATE_CLONING:
		return 0;
	case AGENT_STATE_RESERVED:
		*ret_reason = "the volume is reserved here and has not been booted";
		return KEDGE_E_FENCED;
	case AGENT_STATE_FENCED:
	case AGENT_STATE_RETAINED:
		*ret_reason = "the volume has moved away from this host";
		return KEDGE_E_FENCED;
	case AGENT_STATE_REVOKED:
		*ret_reason = "the move of the volume to this host was revoked";
		return KEDGE_E_FENCED;
	default:
		*ret_reason = "the volume is not on this host";
		return -ENOENT;
	}
}

bool agent_core_reboot(struct agent_record *r)
{
	if (r->state != AGENT_STATE_LOCAL || !r->held_epoch)
		return false;
	r->held_epoch = r->stopped_epoch = 0;
	return true;
}

const char *agent_core_broken_invariant(const struct agent_record *r)
{
	if ((unsigned)r->state >= AGENT_NR_STATES)
		return "the state is none of the known ones";
	if (r->booted_epoch && r->booted_epoch == r->revoked_epoch)
		return "booted and revoked in one epoch";
	if (r->has_intent && !r->fence_epoch)
		return "an intent without a fence";
	if (r->has_intent && r->aborted_epoch == r->fence_epoch)
		return "given away and aborted in one epoch";
	if (r->state == AGENT_STATE_FENCED && (r->fence_epoch != r->epoch || r->booted_epoch == r->epoch))
		return "fenced, but not for the highest epoch";
	if (r->state == AGENT_STATE_CLONING && r->booted_epoch != r->epoch)
		return "cloning, but not booted in the highest epoch";
	if (r->state == AGENT_STATE_RESERVED && r->reserved_epoch != r->epoch)
		return "reserved, but not for the highest epoch";
	if (r->state == AGENT_STATE_LOCAL && (r->fence_epoch || r->export_epoch))
		return "local, but fenced or exported";
	if (r->export_epoch && r->export_epoch != r->fence_epoch)
		return "exported without the fence of the epoch";
	if (r->held_epoch > r->epoch || r->fence_epoch > r->epoch || r->booted_epoch > r->epoch || r->revoked_epoch > r->epoch ||
	    r->reserved_epoch > r->epoch || r->aborted_epoch > r->epoch)
		return "an epoch above the highest";
	return NULL;
}
