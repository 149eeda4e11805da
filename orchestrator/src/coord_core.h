/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_COORD_CORE_H
#define ORCH_COORD_CORE_H

/*
 * Pure. One migration as the coordinator sees it: a table of steps, and functions from an event to what is to be done next. No
 * I/O, no clock, no randomness: the daemon (coord_run.c) and the seeded simulation run this same code. Source of the
 * steps and of the point of no return: design, coordination.md.
 *
 * How it is driven:
 *   1. coord_core_begin() after a migration was loaded or is let go; each call hands out one todo.
 *   2. COORD_WRITE: make flow->next durable (or, when is_lazy, at least visible to a restarted daemon), then call
 *      coord_core_written(). Nothing is sent before that.
 *   3. COORD_ASK: send flow's agent step to that side; its answer goes to coord_core_on_answer() with the ask_nr of the todo.
 *   4. COORD_WAIT: call coord_core_on_time() at until_ms.
 *   5. COORD_END: nothing is left to do, for ever.
 */

#include <stdbool.h>
#include <stdint.h>

#include "agent_core.h"
#include "kedge/err.h"
#include "kedge/name.h"
#include "kedge/uuid.h"
#include "pace.h"

#define COORD_PORTAL_MAX 64

enum coord_side { COORD_NOBODY, COORD_SOURCE, COORD_DEST };

#define COORD_NO_ASK AGENT_NR_STEPS

/* What holds in a step. */
enum {
	COORD_LAZY = 1,	     /* may be forgotten by a power cut: asking the agents again gives the same answers */
	COORD_DOWN = 2,	     /* the workload is stopped and waits for us: short pauses between tries */
	COORD_COMMITTED = 4, /* past the point of no return: forward only */
	COORD_UNDOING = 8,   /* an abort is under way */
	COORD_ENDED = 16,
	COORD_HASTY = 32, /* nothing is stopped yet: a failure that waiting does not heal ends it at once */
};

/*
 * X(step, next, ask, side, patience_ms, flags, text)
 * In `step`, `ask` is asked of `side`; when it is done, `next` is recorded. patience_ms: how long failures are tried again before the
 * migration is undone; 0: for ever.
 */
#define COORD_STEP_TABLE(X)                                                                                               \
	X(PLANNED, CHECKED, AGENT_CHECK, COORD_SOURCE, 60000, COORD_HASTY, "planned")                                     \
	X(CHECKED, DEST_RESERVED, AGENT_RESERVE, COORD_DEST, 60000, COORD_HASTY, "reserving room")                        \
	X(DEST_RESERVED, SRC_STOPPING, COORD_NO_ASK, COORD_NOBODY, 0, 0, "room is reserved")                              \
	X(SRC_STOPPING, SRC_STOPPED, AGENT_STOP, COORD_SOURCE, 600000, COORD_DOWN, "stopping the workload")              \
	X(SRC_STOPPED, SRC_FENCED, AGENT_FENCE, COORD_SOURCE, 120000, COORD_LAZY | COORD_DOWN, "fencing the source")     \
	X(SRC_FENCED, EXPORTED, AGENT_EXPORT, COORD_SOURCE, 120000, COORD_LAZY | COORD_DOWN, "exporting")                \
	X(EXPORTED, ATTACHED, AGENT_ATTACH, COORD_DEST, 120000, COORD_LAZY | COORD_DOWN, "attaching")                    \
	X(ATTACHED, BOOT_INTENT, COORD_NO_ASK, COORD_NOBODY, 0, COORD_LAZY | COORD_DOWN, "attached")                      \
	X(BOOT_INTENT, SRC_RELINQUISHED, AGENT_INTENT, COORD_SOURCE, 0, COORD_COMMITTED | COORD_DOWN, "handing over")     \
	X(SRC_RELINQUISHED, DEST_RUNNING, AGENT_BOOT, COORD_DEST, 0, COORD_LAZY | COORD_COMMITTED | COORD_DOWN, "booting") \
	X(DEST_RUNNING, HYDRATED, AGENT_HYDRATE, COORD_DEST, 0, COORD_COMMITTED, "hydrating")                             \
	X(HYDRATED, DETACHED, AGENT_FINISH, COORD_DEST, 0, COORD_COMMITTED, "verifying")                                  \
	X(DETACHED, UNEXPORTED, AGENT_UNEXPORT, COORD_SOURCE, 0, COORD_COMMITTED, "ending the export")                    \
	X(UNEXPORTED, RETAINED, COORD_NO_ASK, COORD_NOBODY, 0, COORD_COMMITTED, "stands alone")                           \
	X(RETAINED, RELEASED, AGENT_RELEASE, COORD_SOURCE, 0, COORD_COMMITTED, "releasing the source")                    \
	X(RELEASED, DONE, COORD_NO_ASK, COORD_NOBODY, 0, COORD_COMMITTED, "released")                                     \
	X(DONE, DONE, COORD_NO_ASK, COORD_NOBODY, 0, COORD_COMMITTED | COORD_ENDED, "done")                               \
	X(ABORTING, REVOKED, AGENT_REVOKE, COORD_DEST, 0, COORD_UNDOING, "revoking")                                      \
	X(REVOKED, ABORTED, AGENT_UNFENCE, COORD_SOURCE, 0, COORD_UNDOING, "giving back to the source")                   \
	X(UNFENCING, UNFENCED, AGENT_UNFENCE, COORD_SOURCE, 0, COORD_UNDOING, "giving back to the source")                \
	X(UNFENCED, ABORTED, AGENT_REVOKE, COORD_DEST, 0, COORD_UNDOING, "revoking")                                      \
	X(ABORTED, ABORTED, COORD_NO_ASK, COORD_NOBODY, 0, COORD_UNDOING | COORD_ENDED, "aborted")

enum coord_step {
#define X(name, ...) COORD_##name,
	COORD_STEP_TABLE(X)
#undef X
	COORD_NR_STEPS,
};

struct coord_row {
	const char *name;
	enum coord_step next;
	enum agent_step ask; /* COORD_NO_ASK: none */
	enum coord_side side;
	unsigned patience_ms;
	unsigned flags;
	const char *text;
};

/* Never NULL. */
const struct coord_row *coord_row_of(enum coord_step step);
/* 0 or -EINVAL. */
int coord_step_by_name(const char *name, enum coord_step *ret_step);

#define COORD_ENGINE_MAX 8

/* A migration as it is recorded. */
struct coord_migration {
	struct kedge_uuid id, drain, volume_uuid;
	char volume[KEDGE_NAME_MAX + 1];
	char workload[KEDGE_NAME_MAX + 1]; /* empty: a volume alone */
	char from[KEDGE_NAME_MAX + 1];
	char to[KEDGE_NAME_MAX + 1];
	uint64_t epoch;
	uint64_t size_bytes;
	uint32_t lbs_bytes;
	uint64_t rate_bps;
	struct pace pace;
	uint64_t hold_ms;
	bool is_release_delete;
	char engine[COORD_ENGINE_MAX]; /* of the clone: "user" or "dm" */
	bool wants_start; /* the workload was to run when this began */
	enum coord_step step;
	enum coord_step aborted_at; /* UNDOING: where it was */
	bool is_failed;		    /* UNDOING: kedge gave up, nobody asked */
	int reason_code;	    /* why it was undone */
	char reason[KEDGE_ERR_MSG_MAX];
	char portal[COORD_PORTAL_MAX]; /* from EXPORTED on */
	uint64_t left_out_bytes;       /* free space that does not travel; likewise */
	/* From DETACHED on. verified: read on both sides; checksum: of those, compared by the source's checksums; hole: agreed as holes by what the source says; sampled: how much of verified lies in holes. Not told: all 0 (coord_core_is_told). */
	uint64_t verified_bytes, checksum_bytes, hole_bytes, sampled_bytes, sample_seed, written_bytes, mismatch_bytes;
	bool is_released;					/* the source copy is gone */
	uint64_t hold_until_ms;					/* RETAINED */
	uint64_t times_ms[COORD_NR_STEPS];			/* when each step was recorded; 0: not */
};

enum coord_todo_kind { COORD_NOTHING, COORD_WRITE, COORD_ASK, COORD_WAIT, COORD_END };

struct coord_todo {
	enum coord_todo_kind kind;
	bool is_lazy;	      /* WRITE */
	enum agent_step ask;  /* ASK */
	enum coord_side side; /* ASK */
	uint64_t ask_nr;      /* ASK: goes back with the answer */
	bool is_same_request; /* ASK: one that runs; the request id stays */
	uint64_t until_ms;    /* WAIT */
};

/* A migration in motion. What is not in m is forgotten by a restart, and may be. */
struct coord_flow {
	struct coord_migration m;    /* as recorded */
	struct coord_migration next; /* to be recorded, while is_writing */
	bool is_writing;
	bool is_asked;
	uint64_t ask_nr;
	unsigned nr_tries;	  /* of the present ask */
	uint64_t failing_since_ms; /* 0: not failing */
	uint64_t next_try_ms;
	int last_code; /* 0: none */
	char last_error[KEDGE_ERR_MSG_MAX];
	bool is_held; /* only a person can clear what is wrong; tried again slowly */
};

enum coord_answer_kind { COORD_ANSWER_DONE, COORD_ANSWER_RUNNING, COORD_ANSWER_FAILED, COORD_ANSWER_STALE };

struct coord_answer {
	enum coord_answer_kind kind;
	int code;	     /* FAILED; KEDGE_E_UNREACHABLE when none came */
	const char *message; /* FAILED, STALE; may be NULL */
	/* DONE, as the step has it */
	uint64_t size_bytes;
	uint32_t lbs_bytes;
	bool is_running;
	char portal[COORD_PORTAL_MAX];
	uint64_t left_out_bytes;
	uint64_t verified_bytes, checksum_bytes, hole_bytes, sampled_bytes, sample_seed, written_bytes, mismatch_bytes;
	bool is_untold; /* FINISH: the clone has lost what was compared in which way */
	bool is_released;
};

/* now_ms: wall clock; it times retries and holds and decides nothing else. */
void coord_core_begin(struct coord_flow *f, uint64_t now_ms, struct coord_todo *ret_todo);
void coord_core_written(struct coord_flow *f, uint64_t now_ms, struct coord_todo *ret_todo);
void coord_core_on_answer(struct coord_flow *f, uint64_t ask_nr, const struct coord_answer *a, uint64_t now_ms,
			  struct coord_todo *ret_todo);
void coord_core_on_time(struct coord_flow *f, uint64_t now_ms, struct coord_todo *ret_todo);
/* An operator's wish. 0: it is being undone (or was already); KEDGE_E_STATE: past the point of no return, or ended. An answer that
 * is under way is ignored from here on. */
int coord_core_abort(struct coord_flow *f, uint64_t now_ms, struct coord_todo *ret_todo, struct kedge_err *err);

/* Is the volume no longer touched by this migration, but for a copy that is kept for a while? */
bool coord_core_is_over(const struct coord_flow *f);
/* "running", "done", "aborting", "aborted", "failed", "held". */
const char *coord_core_state_name(const struct coord_flow *f);
/* From the stop on the source to the start on the destination; false while that is not known. */
bool coord_core_downtime(const struct coord_migration *m, uint64_t *ret_ms);
/* From DETACHED on: whether the clone told what was compared in which way. What it tells is something, unless all was written. */
bool coord_core_is_told(const struct coord_migration *m);
/* NULL, or which invariant the record breaks. */
const char *coord_core_broken_invariant(const struct coord_migration *m);

#endif
