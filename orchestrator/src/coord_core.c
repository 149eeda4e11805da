/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The coordinator's machine for one migration. Pure.
 *
 * Why it is safe. The source's agent decides: INTENT and UNFENCE exclude each other there, for ever and by its own durable
 * record. BOOT is sent only after INTENT was acknowledged, so whoever got an acknowledged UNFENCE knows that no BOOT of this epoch
 * was or will be sent. That is why an abort may give the volume back to the source while the destination is out of reach
 * (UNFENCING), and revoke there later: otherwise a dead destination would keep a healthy source's workload down.
 */
#include "coord_core.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "coord_mutants.h"

#define TRY_MIN_MS 100
#define TRY_MAX_MS 5000
#define TRY_DOWN_MAX_MS 500
#define TRY_HELD_MS 30000
#define REVOKE_PATIENCE_MS 10000 /* then the source gets its volume back first */

static const struct coord_row rows[COORD_NR_STEPS] = {
#define X(name, next, ask, side, patience_ms, flags, text) \
	[COORD_##name] = {#name, COORD_##next, ask, side, patience_ms, flags, text},
	COORD_STEP_TABLE(X)
#undef X
};

const struct coord_row *coord_row_of(enum coord_step step)
{
	kedge_assert((unsigned)step < COORD_NR_STEPS);
	return &rows[step];
}

int coord_step_by_name(const char *name, enum coord_step *ret_step)
{
	for (unsigned i = 0; i < COORD_NR_STEPS; i++) {
		if (strcmp(name, rows[i].name) == 0) {
			*ret_step = (enum coord_step)i;
			return 0;
		}
	}
	return -EINVAL;
}

static bool has(const struct coord_migration *m, unsigned flag)
{
	return (rows[m->step].flags & flag) != 0;
}

static void forget_failure(struct coord_flow *f)
{
	f->failing_since_ms = 0;
	f->next_try_ms = 0;
	f->last_code = 0;
	f->last_error[0] = 0;
	f->is_held = false;
}

static void todo_write(struct coord_flow *f, struct coord_todo *t)
{
	f->is_writing = true;
	f->is_asked = false;
	t->kind = COORD_WRITE;
	t->is_lazy = (rows[f->next.step].flags & COORD_LAZY) != 0 || coord_mutant("lazy_intent");
}

/* Hand out the record of the step after this one. */
static void move_to(struct coord_flow *f, enum coord_step step, uint64_t now_ms, struct coord_todo *t)
{
	f->next.step = step;
	f->next.times_ms[step] = now_ms;
	todo_write(f, t);
}

static void todo_ask(struct coord_flow *f, bool is_same_request, struct coord_todo *t)
{
	const struct coord_row *r = &rows[f->m.step];

	if (!is_same_request)
		f->nr_tries++;
	f->is_asked = true;
	f->ask_nr++;
	t->kind = COORD_ASK;
	t->ask = r->ask;
	t->side = r->side;
	t->ask_nr = f->ask_nr;
	t->is_same_request = is_same_request;
}

/* The source was never told to stop: there is nothing to give back. */
static bool is_source_untouched(const struct coord_migration *m)
{
	return m->step == COORD_REVOKED && m->aborted_at < COORD_SRC_STOPPING;
}

/* What is to be done in the recorded step. */
static void go(struct coord_flow *f, uint64_t now_ms, struct coord_todo *t)
{
	const struct coord_row *r = &rows[f->m.step];

	if (r->flags & COORD_ENDED) {
		t->kind = COORD_END;
	} else if (f->m.step == COORD_RETAINED && f->m.hold_ms && now_ms < f->m.hold_until_ms) {
		/* a clock that was set back keeps the copy longer, never shorter */
		t->kind = COORD_WAIT;
		t->until_ms = f->m.hold_until_ms;
	} else if (r->ask == COORD_NO_ASK || is_source_untouched(&f->m) ||
		   (f->m.step == COORD_BOOT_INTENT && coord_mutant("no_intent_at_source"))) {
		f->next = f->m;
		if (r->next == COORD_RETAINED)
			f->next.hold_until_ms = now_ms + f->m.hold_ms;
		move_to(f, r->next, now_ms, t);
	} else {
		todo_ask(f, false, t);
	}
}

void coord_core_begin(struct coord_flow *f, uint64_t now_ms, struct coord_todo *ret_todo)
{
	memset(ret_todo, 0, sizeof *ret_todo);
	f->is_writing = f->is_asked = false;
	f->nr_tries = 0;
	forget_failure(f);
	go(f, now_ms, ret_todo);
}

void coord_core_written(struct coord_flow *f, uint64_t now_ms, struct coord_todo *ret_todo)
{
	memset(ret_todo, 0, sizeof *ret_todo);
	kedge_assert(f->is_writing);
	f->m = f->next;
	f->is_writing = false;
	f->nr_tries = 0;
	forget_failure(f);
	go(f, now_ms, ret_todo);
}

/* ---- undoing ---- */

static void undo(struct coord_flow *f, bool is_failed, int code, const char *reason, uint64_t now_ms, struct coord_todo *t)
{
	f->next = f->m;
	f->next.aborted_at = f->m.step;
	f->next.is_failed = is_failed;
	f->next.reason_code = code;
	snprintf(f->next.reason, sizeof f->next.reason, "%s", reason);
	forget_failure(f);
	/* In PLANNED nothing was asked but CHECK, which changes nothing. */
	move_to(f, f->m.step == COORD_PLANNED ? COORD_ABORTED : COORD_ABORTING, now_ms, t);
}

int coord_core_abort(struct coord_flow *f, uint64_t now_ms, struct coord_todo *ret_todo, struct kedge_err *err)
{
	/* A record that is being written may be on the disk already. */
	const struct coord_migration *m = f->is_writing ? &f->next : &f->m;

	memset(ret_todo, 0, sizeof *ret_todo);
	if (has(m, COORD_COMMITTED) && !coord_mutant("abort_after_intent"))
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL,
				     "volume %s is past the point of no return (%s): it goes on to %s; the way back is another move", m->volume,
				     rows[m->step].name, m->to);
	if (m->step == COORD_ABORTED)
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL, "the move of volume %s has ended", m->volume);
	if (has(m, COORD_UNDOING))
		return 0;
	if (f->is_writing) {
		f->m = f->next; /* it may be there: undo from there */
		f->is_writing = false;
	}
	undo(f, false, -ECANCELED, "aborted by an operator", now_ms, ret_todo);
	return 0;
}

/* ---- answers ---- */

static void take_results(struct coord_migration *n, const struct coord_answer *a)
{
	switch (n->step) {
	case COORD_PLANNED:
		if (a->size_bytes)
			n->size_bytes = a->size_bytes;
		if (a->lbs_bytes)
			n->lbs_bytes = a->lbs_bytes;
		n->wants_start = n->wants_start || a->is_running;
		break;
	case COORD_SRC_FENCED:
		snprintf(n->portal, sizeof n->portal, "%s", a->portal);
		n->left_out_bytes = a->left_out_bytes;
		break;
	case COORD_HYDRATED:
		n->verified_bytes = a->verified_bytes;
		n->checksum_bytes = a->checksum_bytes;
		n->hole_bytes = a->hole_bytes;
		n->sampled_bytes = a->sampled_bytes;
		n->sample_seed = a->sample_seed;
		n->written_bytes = a->written_bytes;
		n->mismatch_bytes = a->mismatch_bytes;
		break;
	case COORD_RETAINED:
		n->is_released = a->is_released;
		break;
	default:
		break;
	}
}

static uint64_t pause_ms(const struct coord_flow *f)
{
	unsigned shift = f->nr_tries > 8 ? 8 : f->nr_tries ? f->nr_tries - 1 : 0;
	uint64_t ms = (uint64_t)TRY_MIN_MS << shift;
	uint64_t max_ms = has(&f->m, COORD_DOWN) ? TRY_DOWN_MAX_MS : TRY_MAX_MS;

	if (f->is_held)
		return TRY_HELD_MS;
	return ms > max_ms ? max_ms : ms;
}

static bool is_lasting(int code)
{
	enum kedge_err_class class = kedge_err_class_of(code);

	return class == KEDGE_CLASS_PERMANENT || class == KEDGE_CLASS_BUG;
}

static bool is_given_up(const struct coord_flow *f, int code, uint64_t now_ms)
{
	const struct coord_row *r = &rows[f->m.step];

	if (!r->patience_ms)
		return false;
	if (is_lasting(code))
		return true;
	if ((r->flags & COORD_HASTY) && kedge_err_class_of(code) != KEDGE_CLASS_TRANSIENT)
		return true;
	return now_ms >= f->failing_since_ms + r->patience_ms;
}

static void on_failure(struct coord_flow *f, int code, const char *message, uint64_t now_ms, struct coord_todo *t)
{
	f->is_asked = false;
	if (!f->failing_since_ms || now_ms < f->failing_since_ms) /* a clock that was set back begins anew */
		f->failing_since_ms = now_ms;
	f->last_code = code;
	snprintf(f->last_error, sizeof f->last_error, "%s", message && *message ? message : kedge_err_text(code));
	if (is_given_up(f, code, now_ms)) {
		char reason[KEDGE_ERR_MSG_MAX];
		snprintf(reason, sizeof reason, "%s", f->last_error);
		undo(f, true, code, reason, now_ms, t);
		return;
	}
	if (f->m.step == COORD_ABORTING && (f->m.aborted_at >= COORD_SRC_STOPPING) && !coord_mutant("wait_for_dead_destination") &&
	    now_ms >= f->failing_since_ms + REVOKE_PATIENCE_MS) {
		f->next = f->m;
		move_to(f, COORD_UNFENCING, now_ms, t);
		return;
	}
	f->is_held = is_lasting(code);
	f->next_try_ms = now_ms + pause_ms(f);
	t->kind = COORD_WAIT;
	t->until_ms = f->next_try_ms;
}

static void on_done(struct coord_flow *f, const struct coord_answer *a, uint64_t now_ms, struct coord_todo *t)
{
	if (f->m.step == COORD_HYDRATED && a->mismatch_bytes && !coord_mutant("ignore_mismatch")) {
		on_failure(f, KEDGE_E_VERIFY, "blocks differ from the source", now_ms, t);
		return;
	}
	f->next = f->m;
	take_results(&f->next, a);
	move_to(f, rows[f->m.step].next, now_ms, t);
}

/* The agent is in a later epoch of this volume. */
static void on_stale(struct coord_flow *f, const struct coord_answer *a, uint64_t now_ms, struct coord_todo *t)
{
	/* What was to be undone can no longer happen there: a stale BOOT is refused, and a volume in a later epoch is not ours to give back. */
	if (has(&f->m, COORD_UNDOING)) {
		f->next = f->m;
		move_to(f, rows[f->m.step].next, now_ms, t);
		return;
	}
	on_failure(f, KEDGE_E_STALE_EPOCH, a->message, now_ms, t);
}

void coord_core_on_answer(struct coord_flow *f, uint64_t ask_nr, const struct coord_answer *a, uint64_t now_ms,
			  struct coord_todo *ret_todo)
{
	memset(ret_todo, 0, sizeof *ret_todo);
	if (!f->is_asked || f->is_writing || (ask_nr != f->ask_nr && !coord_mutant("take_late_answers")))
		return;
	switch (a->kind) {
	case COORD_ANSWER_DONE:
		on_done(f, a, now_ms, ret_todo);
		break;
	case COORD_ANSWER_RUNNING:
		forget_failure(f);
		todo_ask(f, true, ret_todo);
		break;
	case COORD_ANSWER_STALE:
		on_stale(f, a, now_ms, ret_todo);
		break;
	case COORD_ANSWER_FAILED:
		on_failure(f, a->code, a->message, now_ms, ret_todo);
		break;
	}
}

void coord_core_on_time(struct coord_flow *f, uint64_t now_ms, struct coord_todo *ret_todo)
{
	memset(ret_todo, 0, sizeof *ret_todo);
	if (f->is_asked || f->is_writing)
		return;
	if (f->next_try_ms > now_ms && f->next_try_ms - now_ms <= TRY_HELD_MS) {
		ret_todo->kind = COORD_WAIT;
		ret_todo->until_ms = f->next_try_ms;
		return;
	}
	go(f, now_ms, ret_todo);
}

/* ---- what it looks like ---- */

bool coord_core_is_over(const struct coord_flow *f)
{
	return has(&f->m, COORD_ENDED) || (f->m.step == COORD_RETAINED && f->m.hold_ms > 0);
}

const char *coord_core_state_name(const struct coord_flow *f)
{
	if (f->m.step == COORD_ABORTED)
		return f->m.is_failed ? "failed" : "aborted";
	if (coord_core_is_over(f))
		return "done";
	if (f->is_held)
		return "held";
	return has(&f->m, COORD_UNDOING) ? "aborting" : "running";
}

bool coord_core_downtime(const struct coord_migration *m, uint64_t *ret_ms)
{
	uint64_t from_ms = m->times_ms[COORD_SRC_STOPPING], to_ms = m->times_ms[COORD_DEST_RUNNING];

	if (!m->wants_start || !from_ms || to_ms < from_ms)
		return false;
	*ret_ms = to_ms - from_ms;
	return true;
}

bool coord_core_is_told(const struct coord_migration *m)
{
	return m->verified_bytes || m->hole_bytes || m->written_bytes >= m->size_bytes;
}

const char *coord_core_broken_invariant(const struct coord_migration *m)
{
	if ((unsigned)m->step >= COORD_NR_STEPS)
		return "the step is none of the known ones";
	if (!m->epoch)
		return "no epoch";
	if (strcmp(m->from, m->to) == 0)
		return "source and destination are one host";
	if (has(m, COORD_UNDOING) && m->aborted_at >= COORD_BOOT_INTENT && !coord_mutant("abort_after_intent"))
		return "undone past the point of no return";
	if (has(m, COORD_UNDOING) && m->step != COORD_ABORTED && m->aborted_at == COORD_PLANNED)
		return "undoing what had not begun";
	if (m->step >= COORD_EXPORTED && m->step <= COORD_DONE && !m->portal[0])
		return "exported without a portal";
	if (m->step >= COORD_DETACHED && m->step <= COORD_DONE && m->mismatch_bytes && !coord_mutant("ignore_mismatch"))
		return "detached with blocks that differ";
	if (m->is_released && m->step < COORD_RELEASED)
		return "released before its step";
	return NULL;
}
