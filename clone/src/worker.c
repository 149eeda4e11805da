/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The worker of `kclone serve`: engine, source, hydrator and front ends on one loop, and the commands of the control
 * socket.
 *
 * Owns. All of them. The descriptors come from the holder. META.source remembers where the source was attached (and the path of
 * its CHAP file, never a secret), so that the next worker attaches by itself.
 *
 * Locks. None: one thread.
 *
 * Crash. Nothing of its own is durable but META.source, which is replaced whole; identity is verified at each login, so a stale
 * one cannot give wrong data.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "kclone.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"

#define TICK_MS 100
#define ATTACH_TIMEOUT_MS 10000
#define RETRY_MS 2000

enum verify_state { VERIFY_IDLE, VERIFY_RUNNING, VERIFY_PASSED, VERIFY_FAILED };

struct worker {
	struct kedge_loop *loop;
	const struct kclone_args *args;
	struct clone_files files;
	struct uclone *u;
	struct holder_share *share;
	struct front *fronts[2];
	unsigned nr_fronts, nr_fronts_stopping;
	struct control *control;
	struct kedge_timer tick;
	int sig_fd;
	struct kedge_op sig_op;
	struct signalfd_siginfo sig_info;

	struct kedge_source *source;
	char url[UCLONE_URL_MAX], chap_file[UCLONE_PATH_MAX];
	bool is_source_closing;
	struct kedge_source *absent; /* while stopping */
	struct control_call *attach_call;
	struct kedge_timer attach_timer;

	struct kcopy_hydrator *hydrator; /* copies, then compares */
	bool is_comparing;
	/* of hydrators that are gone */
	uint64_t copied_bytes, zero_bytes, verified_bytes, mismatch_bytes;
	bool is_hydrating, is_hydrated, is_hydrate_wanted, is_paused;
	uint64_t rate_bps;
	struct kedge_timer retry;
	enum verify_state verify;
	struct kedge_err verify_err;

	struct control_call *finish_call;
	bool is_finishing, is_stopping;
	int exit_code;
};

struct kedge_loop *worker_loop(struct worker *w)
{
	return w->loop;
}

static void event_cb(void *arg, const char *name, const char *text)
{
	kedge_info("event %s: %s", name, text);
}

static uint64_t now_cb(void *arg)
{
	return kedge_clock_ns();
}

/* ---- hydration ---- */

static void hydrate(struct worker *w);

/* The hydrator goes, its figures stay. */
static void retire_hydrator(struct worker *w)
{
	struct kcopy_status ks = {0};

	if (!w->hydrator)
		return;
	kcopy_hydrator_status(w->hydrator, &ks);
	if (w->is_comparing) {
		w->verified_bytes = ks.verified_bytes;
		w->mismatch_bytes = ks.mismatch_bytes;
	} else {
		w->copied_bytes += ks.copied_bytes;
		w->zero_bytes += ks.zero_bytes;
	}
	kcopy_hydrator_destroy(w->hydrator);
	w->hydrator = NULL;
}

static void commit_cb(void *arg, int res, const struct kedge_err *err)
{
	if (res < 0)
		kedge_error("commit: %s", err->msg);
}

static void hydrated_cb(void *arg, int res, const struct kedge_err *err)
{
	struct worker *w = arg;
	struct uclone_status s;

	w->is_hydrating = false;
	uclone_status(w->u, &s);
	if (res == 0) {
		w->is_hydrated = s.here_bytes == s.size_bytes;
		kedge_info(w->is_hydrated ? "every block is here" : "hydration ended, %llu bytes could not be read from the source",
			   (unsigned long long)(s.size_bytes - s.here_bytes));
		uclone_commit(w->u, commit_cb, w);
	} else if (res != -ECANCELED && !w->is_stopping) {
		kedge_warn("hydration: %s; trying again", err ? err->msg : kedge_err_text(res));
		if (s.state == UCLONE_LIVE)
			kedge_timer_start(w->loop, &w->retry, RETRY_MS);
	}
}

static void retry_cb(struct kedge_timer *t)
{
	hydrate(kedge_container_of(t, struct worker, retry));
}

static void hydrate(struct worker *w)
{
	struct kcopy_hydrator_opts o = {.rate_bps = w->rate_bps, .event_fn = event_cb};
	struct uclone_status s;
	struct kedge_err err = {0};

	uclone_status(w->u, &s);
	if (w->is_hydrating || w->is_stopping || s.state != UCLONE_LIVE || !w->source || w->is_source_closing ||
	    w->verify == VERIFY_RUNNING)
		return;
	retire_hydrator(w);
	if (kcopy_hydrator_create(w->loop, w->source, uclone_claims(w->u), &o, &w->hydrator, &err) < 0) {
		kedge_error("cannot hydrate: %s", err.msg);
		kedge_timer_start(w->loop, &w->retry, RETRY_MS);
		return;
	}
	w->is_hydrating = true;
	w->is_comparing = false;
	kcopy_hydrator_start(w->hydrator, hydrated_cb, w);
	if (w->is_paused)
		kcopy_hydrator_pause(w->hydrator);
}

static void verified_cb(void *arg, int res, const struct kedge_err *err)
{
	struct worker *w = arg;

	w->verify = res == 0 ? VERIFY_PASSED : res == -ECANCELED ? VERIFY_IDLE : VERIFY_FAILED;
	if (err)
		w->verify_err = *err;
	if (w->verify == VERIFY_FAILED)
		kedge_error("verification: %s", w->verify_err.msg);
}

/* ---- the source ---- */

static void remember_source(struct worker *w)
{
	char path[UCLONE_PATH_MAX + 16], text[UCLONE_URL_MAX + UCLONE_PATH_MAX + 4];
	struct kedge_err err = {0};

	snprintf(path, sizeof path, "%s.source", w->args->meta);
	snprintf(text, sizeof text, "%s\n%s\n", w->url, w->chap_file);
	if (kedge_file_replace(path, text, strlen(text), 0600, &err) < 0)
		kedge_warn("the next worker will not attach by itself: %s", err.msg);
}

/* Where an earlier worker attached; false when none did. */
static bool recall_source(struct worker *w)
{
	char path[UCLONE_PATH_MAX + 16], *text, *nl, *nl2 = NULL;
	bool is_good = false;

	snprintf(path, sizeof path, "%s.source", w->args->meta);
	if (kedge_file_read(path, UCLONE_URL_MAX + UCLONE_PATH_MAX, &text, NULL, NULL) < 0)
		return false;
	nl = strchr(text, '\n');
	if (nl)
		nl2 = strchr(nl + 1, '\n');
	if (nl2 && (size_t)(nl - text) < sizeof w->url && (size_t)(nl2 - nl - 1) < sizeof w->chap_file) {
		*nl = *nl2 = 0;
		strcpy(w->url, text);
		strcpy(w->chap_file, nl + 1);
		is_good = w->url[0] != 0;
	}
	free(text);
	return is_good;
}

static void answer_attach(struct worker *w, const struct kedge_err *err)
{
	struct control_call *call = w->attach_call;

	kedge_timer_stop(w->loop, &w->attach_timer);
	w->attach_call = NULL;
	if (!call)
		return;
	if (err)
		control_refuse(call, err);
	else
		control_answer(call, NULL);
}

static void source_state_cb(struct kedge_source *s, void *arg)
{
	struct worker *w = arg;
	struct kedge_source_status st;

	if (s != w->source)
		return;
	s->ops->status(s, &st);
	kedge_info("source %s%s%s", kedge_source_state_name(st.state), st.last_err.code ? ": " : "",
		   st.state == KEDGE_SOURCE_UP ? "" : st.last_err.msg);
	if (st.state == KEDGE_SOURCE_UP) {
		remember_source(w);
		answer_attach(w, NULL);
		if (w->is_hydrate_wanted)
			hydrate(w);
	} else if (st.state == KEDGE_SOURCE_REFUSED) {
		answer_attach(w, &st.last_err);
	}
}

static void old_closed_cb(void *arg)
{
	struct kedge_source *s = arg;

	s->ops->destroy(s);
}

static int open_source(struct worker *w, struct kedge_err *err)
{
	const struct uclone_create_opts *o = uclone_stored(w->u);
	struct kcopy_source_opts so = {.url = w->url, .identity = o->source, .nr_sessions = w->args->nr_sessions};
	struct kedge_source *old = w->source, *s;
	struct kedge_chap chap;
	int r;

	so.initiator_iqn = o->initiator_iqn[0] ? o->initiator_iqn : NULL;
	if (strncmp(w->url, "iscsi://", 8) != 0)
		memset(&so.identity.volume, 0, sizeof so.identity.volume); /* a file has no serial number: geometry only */
	if (w->chap_file[0]) {
		r = kedge_chap_read(w->chap_file, &chap, err);
		if (r < 0)
			return r;
		so.chap = &chap;
	}
	r = kcopy_source_create(w->loop, &so, &s, err);
	if (so.chap)
		kedge_chap_fini(&chap);
	if (r < 0)
		return r;
	s->state_fn = source_state_cb;
	s->state_arg = w;
	w->source = s;
	uclone_set_source(w->u, s, NULL);
	s->ops->start(s);
	if (old) /* refused: it answers nothing any more */
		old->ops->close(old, old_closed_cb, old);
	return 0;
}

static void attach_timeout_cb(struct kedge_timer *t)
{
	struct worker *w = kedge_container_of(t, struct worker, attach_timer);
	struct kedge_source_status st = {0};
	struct kedge_err err = {0};

	if (w->source)
		w->source->ops->status(w->source, &st);
	kedge_err_set(&err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "the source does not answer yet: %s; going on trying",
		      st.last_err.code ? st.last_err.msg : w->url);
	answer_attach(w, &err);
}

static int take_text(const json_t *args, const char *key, char *out, size_t out_max, struct kedge_err *err)
{
	const char *t = json_string_value(json_object_get(args, key));

	if (!t)
		return 0;
	if (strlen(t) >= out_max)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "%s is too long", key);
	strcpy(out, t);
	return 0;
}

static int attach(struct worker *w, const json_t *args, struct kedge_err *err)
{
	char url[UCLONE_URL_MAX], chap_file[UCLONE_PATH_MAX];
	struct kedge_source_status st = {0};
	struct uclone_status us;

	uclone_status(w->u, &us);
	if (us.state == UCLONE_HYDRATED)
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_SOURCE, "the clone is hydrated and needs no source");
	strcpy(url, w->url);
	strcpy(chap_file, w->chap_file);
	if (take_text(args, "url", url, sizeof url, err) < 0 || take_text(args, "chap_file", chap_file, sizeof chap_file, err) < 0)
		return err->code;
	if (w->source)
		w->source->ops->status(w->source, &st);
	if (w->source && st.state != KEDGE_SOURCE_REFUSED) {
		if (strcmp(url, w->url) != 0)
			return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_SOURCE, "already attached to %s", w->url);
		return 0;
	}
	if (w->is_hydrating || w->verify == VERIFY_RUNNING) {
		kcopy_hydrator_stop(w->hydrator);
		return kedge_err_set(err, -EBUSY, KEDGE_SIDE_SOURCE, "copies of the refused source are still ending: try again");
	}
	retire_hydrator(w);
	strcpy(w->url, url);
	strcpy(w->chap_file, chap_file);
	return open_source(w, err);
}

static void cmd_attach(struct worker *w, const json_t *args, struct control_call *call)
{
	struct kedge_source_status st;
	struct kedge_err err = {0};
	json_int_t ms = json_integer_value(json_object_get(args, "timeout_ms"));

	if (w->attach_call)
		kedge_err_set(&err, -EBUSY, KEDGE_SIDE_SOURCE, "another attach is under way");
	else
		attach(w, args, &err);
	if (err.code) {
		control_refuse(call, &err);
		return;
	}
	if (!w->args->is_no_hydrate)
		w->is_hydrate_wanted = true;
	w->source->ops->status(w->source, &st);
	if (st.state == KEDGE_SOURCE_UP) {
		if (w->is_hydrate_wanted)
			hydrate(w);
		control_answer(call, NULL);
		return;
	}
	w->attach_call = call;
	kedge_timer_start(w->loop, &w->attach_timer, ms > 0 ? (uint64_t)ms : ATTACH_TIMEOUT_MS);
}

/* ---- finish ---- */

static void finish_done(struct worker *w, const struct kedge_err *err)
{
	struct control_call *call = w->finish_call;

	w->finish_call = NULL;
	w->is_finishing = false;
	if (err)
		control_refuse(call, err);
	else
		control_answer(call, json_pack("{s:b}", "hydrated", 1));
}

static void finish_closed_cb(void *arg)
{
	struct worker *w = arg;
	char path[UCLONE_PATH_MAX + 16];

	w->source->ops->destroy(w->source);
	w->source = NULL;
	w->is_source_closing = false;
	snprintf(path, sizeof path, "%s.source", w->args->meta);
	unlink(path);
	kedge_info("hydrated: the clone stands alone");
	finish_done(w, NULL);
}

static void finished_cb(void *arg, int res, const struct kedge_err *err)
{
	struct worker *w = arg;

	if (res < 0) {
		finish_done(w, err);
		return;
	}
	if (w->is_stopping) { /* which closes the source */
		finish_done(w, NULL);
		return;
	}
	/* HYDRATED is durable: only now the source may go */
	retire_hydrator(w);
	uclone_set_source(w->u, NULL, NULL);
	if (!w->source) {
		finish_done(w, NULL);
		return;
	}
	w->is_source_closing = true;
	w->source->ops->close(w->source, finish_closed_cb, w);
}

static void cmd_finish(struct worker *w, struct control_call *call)
{
	struct kedge_err err = {0};
	struct uclone_status s;

	uclone_status(w->u, &s);
	if (s.state == UCLONE_HYDRATED) {
		if (!w->is_finishing) {
			control_answer(call, json_pack("{s:b}", "hydrated", 1));
			return;
		}
		kedge_err_set(&err, -EBUSY, KEDGE_SIDE_CONTROL, "finish is under way");
	} else if (w->is_finishing) {
		kedge_err_set(&err, -EBUSY, KEDGE_SIDE_CONTROL, "finish is under way");
	} else if (s.here_bytes != s.size_bytes || w->is_hydrating) {
		kedge_err_set(&err, KEDGE_E_NOT_HYDRATED, KEDGE_SIDE_CONTROL, "%llu bytes are not here yet",
			      (unsigned long long)(s.size_bytes - s.here_bytes));
	} else if (w->verify != VERIFY_PASSED) {
		kedge_err_set(&err, KEDGE_E_VERIFY, KEDGE_SIDE_CONTROL, "the comparison with the source has not passed: %s",
			      w->verify == VERIFY_FAILED ? w->verify_err.msg : "run verify first");
	}
	if (err.code) {
		control_refuse(call, &err);
		return;
	}
	w->finish_call = call;
	w->is_finishing = true;
	uclone_finish(w->u, finished_cb, w);
}

/* ---- other commands ---- */

struct deferred {
	struct worker *w;
	struct control_call *call;
};

static void simple_cb(void *arg, int res, const struct kedge_err *err)
{
	struct control_call *call = arg;

	if (res < 0)
		control_refuse(call, err);
	else
		control_answer(call, NULL);
}

static void ask_holder_to_stop(struct worker *w)
{
	if (w->share)
		kill(w->share->holder_pid, SIGTERM);
}

static void aborted_cb(void *arg, int res, const struct kedge_err *err)
{
	struct deferred *d = arg;

	simple_cb(d->call, res, err);
	if (res == 0)
		ask_holder_to_stop(d->w);
	free(d);
}

static int cmd_verify(struct worker *w, struct kedge_err *err)
{
	struct kcopy_hydrator_opts o = {.rate_bps = w->rate_bps, .is_verify = true, .event_fn = event_cb};
	struct uclone_status s;

	uclone_status(w->u, &s);
	if (w->verify == VERIFY_RUNNING || w->verify == VERIFY_PASSED)
		return 0;
	if (s.state != UCLONE_LIVE || !w->source || w->is_source_closing)
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL, "there is no source to compare with");
	if (w->is_hydrating || s.here_bytes != s.size_bytes)
		return kedge_err_set(err, KEDGE_E_NOT_HYDRATED, KEDGE_SIDE_CONTROL, "%llu bytes are not here yet",
				     (unsigned long long)(s.size_bytes - s.here_bytes));
	retire_hydrator(w);
	int r = kcopy_hydrator_create(w->loop, w->source, uclone_claims(w->u), &o, &w->hydrator, err);
	if (r < 0)
		return r;
	w->is_comparing = true;
	w->verify = VERIFY_RUNNING;
	w->verify_err = (struct kedge_err){0};
	kcopy_verify_start(w->hydrator, verified_cb, w);
	return 0;
}

static int set_rate(struct worker *w, const json_t *args, struct kedge_err *err)
{
	const json_t *bps = json_object_get(args, "bps");

	if (!json_is_integer(bps) || json_integer_value(bps) < 0)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "rate needs bps: bytes a second, 0 for no limit");
	w->rate_bps = (uint64_t)json_integer_value(bps);
	if (w->hydrator)
		kcopy_hydrator_set_rate(w->hydrator, w->rate_bps);
	return 0;
}

static void set_paused(struct worker *w, bool is_paused)
{
	w->is_paused = is_paused;
	if (w->hydrator && is_paused)
		kcopy_hydrator_pause(w->hydrator);
	else if (w->hydrator)
		kcopy_hydrator_resume(w->hydrator);
}

void worker_command(struct worker *w, const char *cmd, json_t *args, struct control_call *call)
{
	struct kedge_err err = {0};

	if (w->is_stopping) {
		kedge_err_set(&err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL, "kclone is stopping");
		control_refuse(call, &err);
		return;
	}
	if (strcmp(cmd, "status") == 0) {
		control_answer(call, worker_status(w));
		return;
	}
	if (strcmp(cmd, "attach") == 0) {
		cmd_attach(w, args, call);
		return;
	}
	if (strcmp(cmd, "finish") == 0) {
		cmd_finish(w, call);
		return;
	}
	if (strcmp(cmd, "commit") == 0) {
		uclone_commit(w->u, simple_cb, call);
		return;
	}
	if (strcmp(cmd, "abort") == 0) {
		struct deferred *d = malloc(sizeof *d);
		kedge_assert(d != NULL);
		*d = (struct deferred){w, call};
		uclone_abort(w->u, aborted_cb, d);
		return;
	}
	if (strcmp(cmd, "verify") == 0) {
		cmd_verify(w, &err);
	} else if (strcmp(cmd, "rate") == 0) {
		set_rate(w, args, &err);
	} else if (strcmp(cmd, "pause") == 0 || strcmp(cmd, "resume") == 0) {
		set_paused(w, cmd[0] == 'p');
	} else if (strcmp(cmd, "hydrate") == 0) {
		w->is_hydrate_wanted = true;
		hydrate(w);
	} else if (strcmp(cmd, "stop") == 0) {
		ask_holder_to_stop(w);
	} else {
		kedge_err_set(&err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "unknown command");
	}
	if (err.code)
		control_refuse(call, &err);
	else
		control_answer(call, NULL);
}

/* ---- status ---- */

static json_t *text_or_null(const char *t)
{
	return t && t[0] ? json_string(t) : json_null();
}

json_t *worker_status(struct worker *w)
{
	static const char *const verify_names[] = {"idle", "running", "passed", "failed"};
	struct kedge_source_status ss = {0};
	struct kcopy_status ks = {0};
	struct uclone_status us;
	uint64_t left, now = kedge_clock_ns();
	json_t *o;

	uclone_status(w->u, &us);
	if (w->source)
		w->source->ops->status(w->source, &ss);
	if (w->hydrator)
		kcopy_hydrator_status(w->hydrator, &ks);
	bool is_copying = w->is_hydrating;
	left = us.size_bytes - us.durable_bytes;
	o = status_json(uclone_stored(w->u), &us);
	json_object_set_new(o, "source",
			    json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:s}", "url", w->url, "state",
				      w->source ? kedge_source_state_name(ss.state) : us.state == UCLONE_HYDRATED ? "closed" : "stopped",
				      "since_ms", (json_int_t)(ss.since_ns ? (now - ss.since_ns) / 1000000 : 0), "sessions",
				      (json_int_t)ss.nr_sessions, "reconnects", (json_int_t)ss.nr_reconnects, "read_bytes",
				      (json_int_t)ss.read_bytes, "error",
				      ss.state == KEDGE_SOURCE_UP ? "" : ss.last_err.msg));
	const char *hstate = us.state == UCLONE_HYDRATED || (w->is_hydrated && !is_copying) ? "done"
			     : is_copying						       ? kcopy_state_name(ks.state)
											       : "idle";
	json_object_set_new(o, "hydration",
			    json_pack("{s:s,s:I,s:I,s:I,s:I,s:o}", "state", hstate, "rate_bps",
				      (json_int_t)(is_copying ? ks.rate_bps_2min : 0), "limit_bps", (json_int_t)w->rate_bps,
				      "copied_bytes", (json_int_t)(w->copied_bytes + (w->is_comparing ? 0 : ks.copied_bytes)), "zero_bytes",
				      (json_int_t)(w->zero_bytes + (w->is_comparing ? 0 : ks.zero_bytes)), "eta_ms",
				      is_copying && ks.rate_bps_2min ? json_integer((json_int_t)(left * 1000.0 / ks.rate_bps_2min))
								     : json_null()));
	json_object_set_new(o, "verify",
			    json_pack("{s:s,s:I,s:I,s:s}", "state", verify_names[w->verify], "verified_bytes",
				      (json_int_t)(w->is_comparing && w->hydrator ? ks.verified_bytes : w->verified_bytes),
				      "mismatch_bytes",
				      (json_int_t)(w->is_comparing && w->hydrator ? ks.mismatch_bytes : w->mismatch_bytes), "error",
				      w->verify_err.msg));
	json_object_set_new(o, "device",
			    json_pack("{s:o,s:o,s:o}", "fuse", text_or_null(w->share ? w->share->fuse_path : NULL), "block",
				      text_or_null(w->share ? w->share->loop_path : NULL), "nbd", text_or_null(w->args->nbd)));
	json_object_set_new(o, "workers", json_integer(w->share ? w->share->nr_workers : 1));
	json_object_set_new(o, "worker_pid", json_integer(getpid()));
	json_object_set_new(o, "holder_pid", json_integer(w->share ? w->share->holder_pid : 0));
	return o;
}

/* ---- stop: front ends drain, hydration ends, the engine commits ---- */

static void engine_closed_cb(void *arg, int res, const struct kedge_err *err)
{
	struct worker *w = arg;

	w->u = NULL;
	if (res < 0) {
		kedge_error("%s", err->msg);
		w->exit_code = KEDGE_EXIT_FAILED;
	}
	kedge_loop_stop(w->loop);
}

static void close_engine(struct worker *w)
{
	if (w->nr_fronts_stopping || w->is_hydrating || w->verify == VERIFY_RUNNING || w->is_source_closing)
		return;
	retire_hydrator(w);
	uclone_close(w->u, engine_closed_cb, w);
}

static void stop_tick_cb(struct kedge_timer *t)
{
	struct worker *w = kedge_container_of(t, struct worker, tick);

	uclone_tick(w->u);
	if (w->is_hydrating || w->verify == VERIFY_RUNNING || w->nr_fronts_stopping || w->is_source_closing)
		kedge_timer_start(w->loop, &w->tick, 5);
	else
		close_engine(w);
}

static void front_stopped_cb(void *arg)
{
	((struct worker *)arg)->nr_fronts_stopping--;
}

static void stop_source_closed_cb(void *arg)
{
	((struct worker *)arg)->is_source_closing = false;
}

static void stop(struct worker *w)
{
	struct kedge_err err = {0};

	if (w->is_stopping)
		return;
	w->is_stopping = true;
	kedge_timer_stop(w->loop, &w->retry);
	kedge_err_set(&err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL, "kclone is stopping");
	answer_attach(w, &err);
	control_stop(w->control);
	if (w->is_hydrating || w->verify == VERIFY_RUNNING)
		kcopy_hydrator_stop(w->hydrator);
	for (unsigned i = 0; i < w->nr_fronts; i++) {
		w->nr_fronts_stopping++;
		w->fronts[i]->ops->stop(w->fronts[i], front_stopped_cb, w);
	}
	/* Reads that wait for the source end now, whatever their deadline was; so do those that writes in hand still need. */
	w->absent = source_absent_create(kedge_loop_defer_queue(w->loop));
	uclone_set_source(w->u, w->absent, NULL);
	if (w->source && !w->is_source_closing) {
		w->is_source_closing = true;
		w->source->ops->close(w->source, stop_source_closed_cb, w);
	}
	w->tick.fn = stop_tick_cb;
	kedge_timer_start(w->loop, &w->tick, 0);
}

static void sig_cb(struct kedge_op *op, int res)
{
	struct worker *w = kedge_container_of(op, struct worker, sig_op);

	if (res > 0)
		stop(w);
}

static void tick_cb(struct kedge_timer *t)
{
	struct worker *w = kedge_container_of(t, struct worker, tick);

	uclone_tick(w->u);
	kedge_timer_start(w->loop, t, TICK_MS);
}

/* ---- start ---- */

static void protect(void)
{
#ifdef PR_SET_IO_FLUSHER
	/* we are part of the write-back path of the volume: our allocations must not wait for it */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
#endif
	mlockall(MCL_CURRENT);
}

static bool has_fd(int fd)
{
	struct pollfd p = {.fd = fd};

	return poll(&p, 1, 0) >= 0 && !(p.revents & POLLNVAL);
}

static int start_fronts(struct worker *w, struct kedge_err *err)
{
	int r = 0;

	if (has_fd(HOLDER_FD_FUSE))
		r = fuse_front_create(w->loop, HOLDER_FD_FUSE, HOLDER_FD_SHARE, &w->fronts[w->nr_fronts++], err);
	if (r == 0 && has_fd(HOLDER_FD_NBD))
		r = nbd_front_create(w->loop, HOLDER_FD_NBD, &w->fronts[w->nr_fronts++], err);
	if (r < 0) {
		w->nr_fronts--;
		return r;
	}
	for (unsigned i = 0; i < w->nr_fronts && r == 0; i++)
		r = w->fronts[i]->ops->start(w->fronts[i], w->u, err);
	if (r == 0 && has_fd(HOLDER_FD_CONTROL))
		r = control_start(w, HOLDER_FD_CONTROL, &w->control, err);
	return r;
}

struct opened {
	bool is_done;
	int res;
	struct uclone *u;
	struct kedge_err err;
};

static void opened_cb(void *arg, struct uclone *u, int res, const struct kedge_err *err)
{
	struct opened *o = arg;

	o->is_done = true;
	o->res = res;
	o->u = u;
	if (err)
		o->err = *err;
}

static int open_volume(struct worker *w, struct kedge_err *err)
{
	struct uclone_env env = {.now_ns = now_cb, .event_fn = event_cb, .defer = kedge_loop_defer_queue(w->loop)};
	struct opened o = {0};
	int r = clone_files_open(w->loop, w->args->meta, CLONE_OPEN_WORKER, &w->files, err);

	if (r == 0)
		r = clone_files_open_dest(&w->files, err);
	if (r < 0)
		return r;
	env.meta = w->files.meta;
	env.dest = w->files.dest;
	env.seen = w->files.seen;
	if (w->share) {
		void *p = mmap(NULL, w->share->marks_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, HOLDER_FD_SHARE,
			       (off_t)w->share->marks_start_bytes);
		if (p == MAP_FAILED)
			return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot map the marks: %s", strerror(errno));
		env.marks = p;
	}
	uclone_open(&env, opened_cb, &o);
	while (!o.is_done && r == 0)
		r = kedge_loop_run_once(w->loop, 1000);
	if (o.res < 0)
		*err = o.err;
	w->u = o.u;
	return r < 0 ? r : o.res;
}

static int start_signals(struct worker *w)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	w->sig_fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (w->sig_fd < 0)
		return -errno;
	w->sig_op.fn = sig_cb;
	kedge_op_read(w->loop, &w->sig_op, w->sig_fd, &w->sig_info, sizeof w->sig_info, 0);
	return 0;
}

static int start(struct worker *w, struct kedge_err *err)
{
	const struct kclone_args *a = w->args;
	int r = kedge_loop_create(256, &w->loop, err);

	if (r < 0)
		return r;
	if (has_fd(HOLDER_FD_SHARE)) {
		void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, HOLDER_FD_SHARE, 0);
		w->share = p == MAP_FAILED ? NULL : p;
	}
	r = open_volume(w, err);
	if (r < 0)
		return r;
	if (a->has_io_timeout)
		uclone_set_io_timeout(w->u, a->io_timeout_ms);
	strcpy(w->url, uclone_stored(w->u)->source_url);
	strcpy(w->chap_file, uclone_stored(w->u)->chap_file);
	w->tick.fn = tick_cb;
	w->retry.fn = retry_cb;
	w->attach_timer.fn = attach_timeout_cb;
	w->rate_bps = a->rate_bps;
	kedge_timer_start(w->loop, &w->tick, TICK_MS);
	r = start_signals(w);
	if (r == 0)
		r = start_fronts(w, err);
	if (r < 0)
		return kedge_err_set(err, r, KEDGE_SIDE_NONE, "cannot start serving: %s", kedge_err_text(r));
	protect();
	if (has_fd(HOLDER_FD_READY) && write(HOLDER_FD_READY, "r", 1) != 1)
		kedge_warn("the holder does not listen");
	close(HOLDER_FD_READY);

	struct uclone_status s;
	uclone_status(w->u, &s);
	w->is_hydrated = s.here_bytes == s.size_bytes;
	bool is_recalled = recall_source(w);
	if (s.state == UCLONE_LIVE && (is_recalled || !a->is_no_attach)) {
		struct kedge_err source_err = {0};
		w->is_hydrate_wanted = !a->is_no_hydrate;
		if (open_source(w, &source_err) < 0)
			kedge_error("cannot attach the source: %s", source_err.msg);
	}
	return 0;
}

/* Connections of the control socket and the signal descriptor: cancelled, but the kernel has to let go of them. */
static void end_operations(struct worker *w)
{
	uint64_t deadline_ns = kedge_clock_ns() + 1000000000ull;

	kedge_op_cancel(w->loop, &w->sig_op);
	while (kedge_loop_nr_inflight(w->loop) && kedge_clock_ns() < deadline_ns && kedge_loop_run_once(w->loop, 10) == 0)
		;
}

int cmd_worker(const struct kclone_args *a)
{
	struct worker w = {.args = a, .sig_fd = -1};
	struct kedge_err err = {0};
	int r = start(&w, &err);

	if (r < 0) {
		kedge_error("%s", err.msg);
		return kedge_exit_of(r) == KEDGE_EXIT_USAGE ? KEDGE_EXIT_FAILED : kedge_exit_of(r);
	}
	r = kedge_loop_run(w.loop);
	for (unsigned i = 0; i < w.nr_fronts; i++)
		w.fronts[i]->ops->destroy(w.fronts[i]);
	if (w.source)
		w.source->ops->destroy(w.source);
	if (w.absent)
		w.absent->ops->destroy(w.absent);
	end_operations(&w);
	clone_files_close(&w.files);
	kedge_loop_destroy(w.loop);
	kedge_close(w.sig_fd);
	return r < 0 ? KEDGE_EXIT_FAILED : w.exit_code;
}
