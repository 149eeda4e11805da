/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The tool: one copy from start to end. Connect, find out the size, open the destination and the map, hydrate with
 * commits in between, compare when asked to, say "done" only when everything is durable.
 *
 * Owns. The loop, the source, the destination, the sink, the hydrator, in that order.
 *
 * Locks. None. Signals only set a flag and wake the loop.
 *
 * Crash. See sink.c; the size of a destination file is cut to the byte only after the last commit.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "destination.h"
#include "kcopy/kcopy.h"
#include "kcopy/url.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/size.h"
#include "options.h"
#include "progress.h"
#include "sink.h"
#include "timeouts.h"

/* Between commits: short at first, so that a copy that is ended young has something to go on from. */
#define COMMIT_FIRST_NS 100000000ull
#define COMMIT_PERIOD_NS 1000000000ull
#define ROUND_MS 100

static volatile sig_atomic_t got_signal;
static struct kedge_loop *signal_loop; /* a signal handler has no argument */

struct copy {
	struct kcopy_options options;
	struct kedge_chap chap;
	struct kedge_loop *loop;
	struct kedge_source *src;
	bool is_iscsi, is_destination_open;
	uint64_t exact_bytes; /* a file's size may be no multiple of 512 */
	struct kcopy_destination dest;
	struct kcopy_sink *sink;
	struct kcopy_hydrator *hydrator;
	struct kcopy_progress progress;
	struct kcopy_result result;
	uint64_t committed_ns, commit_period_ns;
	bool is_run_over, is_source_closed;
	int run_code, commit_code;
	struct kedge_err err;
};

static void signal_handler(int sig)
{
	got_signal = sig;
	kedge_loop_wake(signal_loop);
}

static void set_signals(struct kedge_loop *l)
{
	/* the second one ends the program at once */
	struct sigaction sa = { .sa_handler = signal_handler, .sa_flags = (int)SA_RESETHAND };

	signal_loop = l;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* ---- the source ---- */

/* Until the first session is up. A source that never answered is given up; one that goes away later is waited for. */
static int wait_for_source(struct copy *c)
{
	struct kcopy_timeouts t;
	struct kedge_source_status st;
	uint64_t start_ns = kedge_clock_ns();
	int rc = kcopy_timeouts_parse(getenv("KEDGE_SOURCE_TIMEOUTS"), &t, &c->err);

	if (rc < 0)
		return rc;
	c->src->ops->start(c->src);
	for (;;) {
		rc = kedge_loop_run_once(c->loop, ROUND_MS);
		if (rc < 0)
			return kedge_err_set(&c->err, rc, KEDGE_SIDE_NONE, "the event loop: %s", strerror(-rc));
		c->src->ops->status(c->src, &st);
		if (st.state == KEDGE_SOURCE_UP)
			return 0;
		if (st.state == KEDGE_SOURCE_REFUSED) {
			c->err = st.last_err;
			return st.last_err.code;
		}
		if (got_signal)
			return kedge_err_set(&c->err, -ECANCELED, KEDGE_SIDE_NONE, "interrupted before anything was copied");
		if (kedge_clock_ns() - start_ns > 2 * 1000000ull * t.login_ms)
			return kedge_err_set(&c->err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "the source does not answer: %s",
					     st.last_err.msg);
	}
}

static int open_source(struct copy *c)
{
	const struct kcopy_options *o = &c->options;
	struct kcopy_source_opts so = {
		.url = o->source,
		.initiator_iqn = o->initiator_iqn,
		.nr_sessions = o->nr_connections,
		.transit = o->transit,
		.serial = o->serial,
	};
	struct stat st;
	int rc;

	c->is_iscsi = kcopy_url_is_iscsi(o->source);
	if (o->chap_path) {
		rc = kedge_chap_read(o->chap_path, &c->chap, &c->err);
		if (rc < 0)
			return rc;
		so.chap = &c->chap;
	}
	if (o->serial && kedge_serial_parse(o->serial, &so.identity.volume, &so.identity.epoch) == 0)
		so.serial = NULL; /* one of ours: compared as volume and epoch */
	rc = kcopy_source_create(c->loop, &so, &c->src, &c->err);
	if (rc == 0)
		rc = wait_for_source(c);
	if (rc < 0)
		return rc;
	c->exact_bytes = c->src->identity.size_bytes;
	if (!c->is_iscsi && stat(o->source, &st) == 0 && S_ISREG(st.st_mode))
		c->exact_bytes = (uint64_t)st.st_size;
	return 0;
}

static int source_id(struct copy *c, char out[KCOPY_MAP_ID_MAX])
{
	char serial[KEDGE_SERIAL_MAX];

	if (!c->is_iscsi)
		return kcopy_file_id(c->options.source, true, out, &c->err);
	/* A volume of ours is known by its serial number wherever it is served from; another target's unit by its names as
	 * well. */
	kedge_serial_format(&c->src->identity, serial);
	if (serial[0])
		snprintf(out, KCOPY_MAP_ID_MAX, "volume:%s", serial);
	else
		snprintf(out, KCOPY_MAP_ID_MAX, "unit:%.230s serial:%.250s", strchr(c->options.source + strlen("iscsi://"), '/') + 1,
			 kcopy_source_serial(c->src));
	return 0;
}

/* ---- the copy ---- */

static void event_cb(void *arg, const char *name, const char *text)
{
	struct copy *c = arg;

	kcopy_progress_event(&c->progress, name, text);
	if (strcmp(name, "HYDRATION_PAUSED") == 0)
		kcopy_hydrator_stop(c->hydrator); /* nobody will make room and say so: end, and go on by the map later */
}

static int open_destination(struct copy *c)
{
	const struct kcopy_options *o = &c->options;
	struct kcopy_sink_status st;
	char id[KCOPY_MAP_ID_MAX];
	int rc = source_id(c, id);

	if (rc == 0)
		rc = kcopy_destination_open(c->loop, o->destination, c->is_iscsi ? NULL : o->source, c->src->identity.size_bytes,
					    c->exact_bytes, o->can_create, &c->dest, &c->err);
	if (rc < 0)
		return rc;
	c->is_destination_open = true;
	struct kcopy_sink_opts so = {
		.disk = c->dest.disk,
		.size_bytes = c->src->identity.size_bytes,
		.punch_fd = c->dest.is_regular ? c->dest.fd : -1,
		.map_path = o->map_path,
		.source_id = id,
		.destination_id = c->dest.id,
	};
	rc = kcopy_sink_create(c->loop, &so, &c->sink, &c->err);
	if (rc < 0)
		return rc;
	struct kcopy_hydrator_opts ho = { .rate_bps = o->rate_bps, .holes = o->holes, .data = o->data, .event_fn = event_cb, .event_arg = c };
	rc = kcopy_hydrator_create(c->loop, c->src, kcopy_sink_claims(c->sink), &ho, &c->hydrator, &c->err);
	if (rc < 0)
		return rc;
	kcopy_sink_status(c->sink, &st);
	kcopy_progress_init(&c->progress, o->is_json, o->progress_fd, c->src->identity.size_bytes, st.resumed_bytes);
	c->result.resumed_bytes = st.resumed_bytes;
	if (st.nr_damaged_pages > 0)
		kedge_warn("%s: %" PRIu64 " damaged pages; their blocks are copied again", o->map_path, st.nr_damaged_pages);
	return 0;
}

static void run_done_cb(void *arg, int res, const struct kedge_err *err)
{
	struct copy *c = arg;

	c->is_run_over = true;
	c->run_code = res;
	if (res < 0 && res != -ECANCELED && c->err.code == 0)
		c->err = *err;
}

static void committed_cb(void *arg, int res)
{
	struct copy *c = arg;

	c->commit_code = res;
	if (res < 0) {
		kedge_err_set(&c->err, res, KEDGE_SIDE_DESTINATION, "%s: making it durable: %s", c->options.destination,
			      strerror(-res));
		kcopy_hydrator_stop(c->hydrator);
	}
}

static void say(struct copy *c, bool is_verify)
{
	struct kcopy_status st;
	struct kcopy_sink_status sink;

	kcopy_hydrator_status(c->hydrator, &st);
	kcopy_sink_status(c->sink, &sink);
	kcopy_progress_say(&c->progress, &(struct kcopy_progress_now){
		.phase = is_verify ? "verify" : "copy",
		.state = kcopy_state_name(st.state),
		.done_bytes = is_verify ? st.verified_bytes + st.hole_bytes : sink.durable_bytes,
		.rate_bps = st.rate_bps_2min,
		.source_error = st.state == KCOPY_DEGRADED ? st.last_err.msg : NULL,
	});
}

/* Run the loop until the hydrator is through and no commit is under way. 0, or the loop's error. */
static int run(struct copy *c, bool is_verify)
{
	while (!c->is_run_over || kcopy_sink_is_committing(c->sink)) {
		int rc = kedge_loop_run_once(c->loop, ROUND_MS);
		if (rc < 0)
			return kedge_err_set(&c->err, rc, KEDGE_SIDE_NONE, "the event loop: %s", strerror(-rc));
		if (got_signal && !c->is_run_over)
			kcopy_hydrator_stop(c->hydrator);
		uint64_t now_ns = kedge_clock_ns();
		if (c->commit_code == 0 && !c->is_run_over && !kcopy_sink_is_committing(c->sink) &&
		    now_ns - c->committed_ns >= c->commit_period_ns && kcopy_sink_is_dirty(c->sink)) {
			c->committed_ns = now_ns;
			c->commit_period_ns = kedge_min_u64(2 * c->commit_period_ns, COMMIT_PERIOD_NS);
			kcopy_sink_commit(c->sink, committed_cb, c);
		}
		say(c, is_verify);
	}
	return 0;
}

static int commit_and_wait(struct copy *c)
{
	if (c->commit_code < 0)
		return c->commit_code;
	kcopy_sink_commit(c->sink, committed_cb, c);
	while (kcopy_sink_is_committing(c->sink)) {
		int rc = kedge_loop_run_once(c->loop, ROUND_MS);
		if (rc < 0)
			return kedge_err_set(&c->err, rc, KEDGE_SIDE_NONE, "the event loop: %s", strerror(-rc));
	}
	return c->commit_code;
}

/* What ended a run early, in one line that says how to go on. */
static int interrupted(struct copy *c)
{
	struct kcopy_sink_status st;
	struct kcopy_status hs;
	char durable[32];

	kcopy_sink_status(c->sink, &st);
	kcopy_hydrator_status(c->hydrator, &hs);
	kedge_size_format(st.durable_bytes, durable, sizeof durable);
	int code = got_signal || hs.last_err.code == 0 ? -ECANCELED : hs.last_err.code;
	return kedge_err_set(&c->err, code, KEDGE_SIDE_NONE, "%s: %s are durable; %s",
			     got_signal ? "interrupted" : hs.last_err.code ? hs.last_err.msg : "stopped", durable,
			     c->options.map_path ? "run the same command again to go on from there"
						 : "without --map the copy begins anew");
}

static int say_bad_ranges(struct copy *c)
{
	uint64_t at_bytes = 0, nr_bytes;

	while (kcopy_sink_next_bad(c->sink, at_bytes, &at_bytes, &nr_bytes) == 0) {
		kedge_error("%s: bytes %" PRIu64 " to %" PRIu64 " cannot be read and were not copied", c->options.source, at_bytes,
			    at_bytes + nr_bytes);
		at_bytes += nr_bytes;
	}
	return at_bytes > 0 ? kedge_err_set(&c->err, KEDGE_E_SOURCE_MEDIUM, KEDGE_SIDE_SOURCE,
					    "all but the ranges named above was copied; the same command tries them again")
			    : 0;
}

static int copy_all(struct copy *c)
{
	int rc;

	c->committed_ns = kedge_clock_ns();
	c->commit_period_ns = COMMIT_FIRST_NS;
	kcopy_hydrator_start(c->hydrator, run_done_cb, c);
	rc = run(c, false);
	if (rc < 0)
		return rc;
	/* whatever ended the run: what was copied stays copied */
	rc = commit_and_wait(c);
	if (rc < 0)
		return rc;
	if (c->run_code == -ECANCELED)
		return interrupted(c);
	return c->run_code;
}

static int verify_all(struct copy *c)
{
	int rc;

	c->is_run_over = false;
	c->progress.start_ns = kedge_clock_ns();
	c->progress.resumed_bytes = 0;
	c->progress.said_percent = 0;
	kcopy_verify_start(c->hydrator, run_done_cb, c);
	rc = run(c, true);
	if (rc == 0 && c->run_code == -ECANCELED)
		rc = kedge_err_set(&c->err, -ECANCELED, KEDGE_SIDE_NONE, "interrupted: the copy is complete, it was not compared");
	return rc < 0 ? rc : c->run_code;
}

/*
 * A file whose source is no multiple of 512 bytes long gets its size, durably. Whoever gave the file the rounded-up one: this run,
 * one that was killed before it came here, or the user.
 */
static int cut_to_size(struct copy *c)
{
	if (!c->dest.is_regular || c->exact_bytes == c->src->identity.size_bytes || c->dest.disk->size_bytes != c->src->identity.size_bytes)
		return 0;
	if (ftruncate(c->dest.fd, (off_t)c->exact_bytes) < 0 || fsync(c->dest.fd) < 0)
		return kedge_err_set(&c->err, -errno, KEDGE_SIDE_DESTINATION, "%s: %s", c->options.destination, strerror(errno));
	return 0;
}

static int copy_and_verify(struct copy *c)
{
	int rc = open_source(c);

	if (rc == 0)
		rc = open_destination(c);
	if (rc == 0)
		rc = copy_all(c);
	if (rc == 0 && c->options.must_verify) {
		rc = verify_all(c);
		c->result.was_verified = rc == 0;
	}
	if (rc == 0)
		rc = cut_to_size(c);
	if (rc == 0)
		rc = say_bad_ranges(c);
	return rc;
}

static void collect_result(struct copy *c, int code)
{
	struct kcopy_status st = { 0 };
	struct kedge_source_status source = { 0 };

	if (c->hydrator)
		kcopy_hydrator_status(c->hydrator, &st);
	if (c->src)
		c->src->ops->status(c->src, &source);
	c->result.code = code;
	c->result.message = code ? c->err.msg : "";
	c->result.copied_bytes = st.copied_bytes;
	c->result.zero_bytes = st.zero_bytes;
	c->result.bad_bytes = st.bad_bytes;
	c->result.verified_bytes = st.verified_bytes;
	c->result.hole_bytes = st.hole_bytes;
	c->result.sampled_bytes = st.sampled_bytes;
	c->result.holes = st.holes;
	c->result.checksum_bytes = st.checksum_bytes;
	c->result.data = st.data;
	c->result.sample_seed = st.sample_seed;
	c->result.nr_reconnects = source.nr_reconnects;
	c->result.wire_bytes = source.wire_bytes;
	c->result.nr_damaged = source.nr_damaged;
}

static void source_closed_cb(void *arg)
{
	*(bool *)arg = true;
}

static void close_all(struct copy *c)
{
	kcopy_hydrator_destroy(c->hydrator);
	if (c->src) {
		c->src->ops->close(c->src, source_closed_cb, &c->is_source_closed);
		while (!c->is_source_closed && kedge_loop_run_once(c->loop, ROUND_MS) == 0)
			;
		c->src->ops->destroy(c->src);
	}
	kcopy_sink_destroy(c->sink);
	if (c->is_destination_open)
		kcopy_destination_close(&c->dest);
	kedge_loop_destroy(c->loop);
	kedge_chap_fini(&c->chap);
}

int main(int argc, char **argv)
{
	struct copy c = { .dest.fd = -1 };
	int exit_code = 0;

	kedge_log_init("kcopy", KEDGE_LOG_INFO);
	if (kcopy_options_parse(argc, argv, &c.options, &exit_code) < 0)
		return exit_code;
	int rc = kedge_loop_create(256, &c.loop, &c.err);
	if (rc < 0) {
		kedge_error("%s", c.err.msg);
		return kedge_exit_of(rc);
	}
	set_signals(c.loop);
	kcopy_progress_init(&c.progress, c.options.is_json, c.options.progress_fd, 0, 0);
	rc = copy_and_verify(&c);
	collect_result(&c, rc);
	kcopy_progress_result(&c.progress, &c.result);
	if (rc < 0)
		kedge_error("%s", c.err.msg);
	bool has_begun = c.hydrator != NULL;
	close_all(&c);
	/* before anything was copied a plain -EINVAL comes from what was asked for: the url, a name, source and destination the same */
	if (rc == -EINVAL && !has_begun)
		return KEDGE_EXIT_USAGE;
	return rc == KEDGE_E_SOURCE_MEDIUM ? KEDGE_EXIT_PARTLY : (int)kedge_exit_of(rc);
}
