/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_WORKER_H
#define KCLONE_WORKER_H

/*
 * Inside of the worker of `kclone serve`; one thread. worker.c has its life, worker_source.c the source, worker_hydrate.c copying and
 * comparing, worker_ahead.c reads that are still to come, worker_trace.c reads of the past, worker_command.c the control socket's commands,
 * worker_finish.c the last one before the source goes, worker_top.c what makes a dm-linear above us need us no more, worker_status.c what it says
 * of itself, worker_compared.c what was compared, worker_pace.c how fast, worker_map.c what lives where, worker_stop.c the end.
 */

#include <signal.h>
#include <sys/signalfd.h>

#include "kclone.h"
#include "kedge/loop.h"

enum verify_state { VERIFY_IDLE, VERIFY_RUNNING, VERIFY_PASSED, VERIFY_FAILED };

struct worker {
	struct kedge_loop *loop;
	const struct kclone_args *args;
	struct clone_files files;
	struct engine *e;
	struct holder_share *share;
	struct front *fronts[2];
	unsigned nr_fronts, nr_fronts_stopping;
	bool has_fd[HOLDER_NR_FDS]; /* what the holder handed over */
	struct control *control;
	struct kedge_timer tick;
	int sig_fd;
	struct kedge_op sig_op;
	struct signalfd_siginfo sig_info;

	struct kedge_source *source;
	char url[UCLONE_URL_MAX], chap_file[UCLONE_PATH_MAX];
	bool is_source_closing;
	struct kedge_source *absent; /* while stopping, in the place of the source */
	uint64_t stop_deadline_ns;
	struct control_call *attach_call;
	struct kedge_timer attach_timer;

	struct kcopy_hydrator *hydrator; /* copies, then compares */
	bool is_comparing;
	/* worker_trace.c */
	struct recorder *recorder; /* NULL: nothing is recorded */
	uint64_t record_begin_ns;
	struct kcopy_range *first; /* the engine's */
	uint64_t first_bytes;
	bool is_first_refused;
	/* of hydrators that are gone */
	uint64_t copied_bytes, zero_bytes;
	struct kcopy_status compared; /* the last comparison */
	bool is_hydrating, is_hydrated, is_hydrate_wanted, is_paused;
	uint64_t rate_bps, floor_bps;
	uint32_t latency_percent;
	bool is_floor_given, is_latency_given; /* by the operator */
	struct kcopy_governor *governor;
	struct kedge_timer lag;
	bool is_urgent;     /* the source has failed: no limit until an operator sets one */
	bool is_urgent_off; /* one has, after that */
	/* of an engine that hydrates itself: moving average, and where it was at the last tick */
	double kernel_rate_bps;
	uint64_t kernel_here_bytes, kernel_tick_ns;
	struct kedge_timer retry;
	enum verify_state verify;
	enum kcopy_holes holes; /* what the next comparison does with them */
	enum kcopy_data data;   /* and with the rest */
	bool is_verify_wanted; /* everything is here, the copying is being ended */
	struct kedge_err verify_err;

	/* under a dm-linear, once HYDRATED: the order to the driver, and who waits for it */
	bool is_unclaimed, is_alone_ordered;
	uint64_t alone_deadline_ns;
	struct kedge_timer alone_timer;
	void (*alone_fn)(struct worker *w);
	uint64_t nr_bad_noted, bad_noted_ns; /* META.bad */

	struct control_call *finish_call;
	bool is_finishing, is_stopping;
	int exit_code;
};

/* worker.c: one line for an operator (uclone_env.event_fn) */
void worker_event(void *arg, const char *name, const char *text);

/* worker_source.c */
/* Where an earlier worker attached; false when none did. */
bool worker_recall_source(struct worker *w);
/* Begin to connect to w->url in the place of a source that was refused, if there is one. */
int worker_open_source(struct worker *w, struct kedge_err *err);
void worker_attach(struct worker *w, const json_t *args, struct control_call *call);
void worker_attach_timeout_cb(struct kedge_timer *t);
/* The attach under way, if any, has ended; err NULL: well. */
void worker_answer_attach(struct worker *w, const struct kedge_err *err);

/* worker_hydrate.c */
/* Begin or go on, when there is a reason and nothing stands against it. */
void worker_hydrate(struct worker *w);
/* An engine that hydrates itself: say whether and how fast, see how far it is. Each tick; nothing to do for others. */
void worker_steer(struct worker *w);
/* The limit that holds now. */
uint64_t worker_rate(const struct worker *w);
/* The source begins to fail: what lives on it only is worth more than the limit. */
void worker_make_urgent(struct worker *w, const char *why);
void worker_retry_cb(struct kedge_timer *t);
/* The hydrator goes, its figures stay. */
void worker_retire_hydrator(struct worker *w);
/* Compare every unwritten block with the source, holes as w->holes says; the result is in w->verify. */
int worker_verify(struct worker *w, struct kedge_err *err);
/* One has passed, and did all that is asked for now. */
bool worker_is_compared(const struct worker *w);
/* The command: args may hold "holes". */
int worker_ask_verify(struct worker *w, const json_t *args, struct kedge_err *err);
void worker_set_paused(struct worker *w, bool is_paused);

/* worker_pace.c */
int worker_pace_init(struct worker *w, struct kedge_err *err);
struct engine_pace worker_pace(const struct worker *w);
/* Carry out what is said now. */
void worker_pace_changed(struct worker *w);
/* uclone_env.io_fn */
void worker_pace_io(void *arg, enum uclone_io_kind kind, uint64_t took_ns);
int worker_set(struct worker *w, const json_t *args, struct kedge_err *err);
json_t *worker_pace_status(const struct worker *w, bool is_copying, bool is_at_limit);

/* worker_compared.c: META.compared */
/* The figures of a comparison as status tells them. */
json_t *worker_compared_json(const struct kcopy_status *s);
/* The comparison has passed: keep its figures, for as long as the clone. Blocks. */
int worker_compared_keep(const struct worker *w, struct kedge_err *err);
/* Of a HYDRATED clone: the figures of the comparison that this rests on, when they were kept. */
void worker_compared_recall(struct worker *w);

/* worker_ahead.c */
/* Say how far ahead of a workload may be read now; each tick. */
void worker_ahead_tick(struct worker *w);
/* "access" of the status object. */
json_t *worker_access_status(struct worker *w);

/* worker_trace.c */
/* As the options say; before the source, and before the first I/O. */
void worker_trace_begin(struct worker *w);
/* After the engine. */
void worker_trace_end(struct worker *w);
void worker_trace(struct worker *w, const json_t *args, struct control_call *call);
/* "prefetch" and "trace" of the status object. */
json_t *worker_order_status(struct worker *w);
json_t *worker_record_status(struct worker *w);

/* worker_map.c */
void worker_map(struct worker *w, const json_t *args, struct control_call *call);
/* Keep META.bad true; each tick. */
void worker_note_bad(struct worker *w, const struct uclone_status *s);

/* worker_finish.c */
void worker_finish(struct worker *w, struct control_call *call);

/* worker_top.c */
/* Of a HYDRATED clone: see to it that its device goes to the destination; fn once, now or later, when that is so, or cannot be, or is not
 * worth waiting for. At once where there is no such device. */
void worker_stand_alone(struct worker *w, void (*fn)(struct worker *w));
bool worker_is_alone(const struct worker *w);

/* worker_stop.c: front ends drain, hydration ends, the engine commits, the loop stops. */
void worker_stop(struct worker *w);

#endif
