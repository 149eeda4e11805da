/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Watch a drain: a live view on a terminal, one line per event elsewhere. Leaving it, or losing the daemon, never
 * touches the drain.
 *
 * Owns. The view of one drain while it is watched.
 *
 * Locks. None: one thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "cli_view.h"

#define LIVE_MS 500
#define LINES_MS 1000
/* How long a daemon may be away (a restart) before we leave. */
#define AWAY_MS 120000

struct watch {
	struct cli *c;
	const char *id;
	bool is_live, has_colour;
	struct view_memory memory;
	uint64_t since_seq;
	unsigned nr_drawn; /* lines of the live view on the screen */
	uint64_t away_since_ms;
	json_t *drain;
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void terminal_size(unsigned *ret_width, unsigned *ret_height)
{
	struct winsize w = {0};
	bool is_known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0;

	*ret_width = is_known && w.ws_col > 20 ? w.ws_col - 1u : 79;
	*ret_height = is_known && w.ws_row > 0 ? w.ws_row : 24;
}

static void put_line(struct watch *w, const char *line)
{
	printf("%s\033[K\n", line);
	w->nr_drawn++;
}

static void draw_migrations(struct watch *w, const json_t *migrations, unsigned width, size_t nr_max)
{
	bool *is_shown = calloc(json_array_size(migrations) + 1, sizeof *is_shown);
	char line[VIEW_LINE_MAX];
	size_t i, nr;
	json_t *migration;

	if (!is_shown)
		return;
	nr = view_pick(migrations, nr_max, is_shown);
	json_array_foreach(migrations, i, migration) {
		view_migration_line(&w->memory, migration, width, w->has_colour, line, sizeof line);
		if (!is_shown[i])
			continue;
		put_line(w, line);
	}
	if (nr < json_array_size(migrations)) {
		view_rest_line(migrations, is_shown, line, sizeof line);
		if (strlen(line) > width)
			line[width] = 0;
		put_line(w, line);
	}
	free(is_shown);
}

/* The cursor stays below the view; a redraw goes up and writes over it. So the view is never higher than the screen: no way leads up to
 * what has scrolled out of it. Each line ends by clearing what was right of it, and the whole is never cleared at once: that flickers, and some
 * terminals keep a cleared screen in their history. */
static void draw(struct watch *w)
{
	char line[VIEW_LINE_MAX];
	unsigned width, height;

	terminal_size(&width, &height);
	if (w->nr_drawn)
		printf("\033[%uA", w->nr_drawn < height ? w->nr_drawn : height - 1);
	w->nr_drawn = 0;
	view_drain_line(w->drain, width, line, sizeof line);
	put_line(w, line);
	draw_migrations(w, json_object_get(w->drain, "migrations"), width, height > 2 ? height - 2 : 0);
	fputs("\033[J", stdout);
	fflush(stdout);
}

static void print_progress(struct watch *w)
{
	char line[VIEW_LINE_MAX];
	size_t i;
	json_t *migration;

	json_array_foreach(json_object_get(w->drain, "migrations"), i, migration) {
		if (view_progress_due(&w->memory, migration, now_ms(), line, sizeof line))
			puts(line);
	}
	fflush(stdout);
}

static void take_events(struct watch *w, const json_t *answer)
{
	char line[VIEW_LINE_MAX];
	size_t i;
	json_t *event;

	json_array_foreach(json_object_get(answer, "events"), i, event) {
		uint64_t seq = view_u64(event, "seq");
		if (seq > w->since_seq)
			w->since_seq = seq;
		if (w->is_live)
			continue;
		view_event_line(event, line, sizeof line);
		puts(line);
	}
	fflush(stdout);
}

/* Another try after a pause, an exit code when it is enough. */
static int on_no_answer(struct watch *w, int res, const struct kedge_err *err)
{
	char next[128];

	if (res == -EINTR)
		return 0;
	if (res != KEDGE_E_UNREACHABLE)
		return cli_no_answer(w->c, res, err);
	if (!w->away_since_ms) {
		w->away_since_ms = now_ms();
		fprintf(stderr, "kedge: %s; what runs goes on, waiting for it to come back\n", err->msg);
		w->nr_drawn = 0;
	}
	if (now_ms() - w->away_since_ms > AWAY_MS) {
		snprintf(next, sizeof next, "kedge status %s --watch", w->id);
		return cli_error(KEDGE_EXIT_UNREACHABLE, next, "%s", err->msg);
	}
	cli_sleep(500);
	return 0;
}

/* The drain as it is now. 0: go on, also when nobody answers for a while. */
static int get_drain(struct watch *w)
{
	struct kedge_err err = {0};
	char path[256];
	unsigned status;
	json_t *answer;
	int res;

	snprintf(path, sizeof path, "/v1/drains/%s", w->id);
	res = cli_http_call(w->c->http, "GET", path, NULL, 30000, &status, &answer, &err);
	if (res)
		return on_no_answer(w, res, &err);
	w->away_since_ms = 0;
	if (status != 200) {
		res = cli_answer_error(status, answer);
		json_decref(answer);
		return res;
	}
	json_decref(w->drain);
	w->drain = answer;
	return 0;
}

/* One round. 0: go on. */
static int watch_round(struct watch *w)
{
	struct kedge_err err = {0};
	char path[256];
	unsigned status;
	json_t *answer;
	int res;

	snprintf(path, sizeof path, "/v1/events?since=%llu&wait_ms=%d&drain=%s", (unsigned long long)w->since_seq,
		 w->drain ? (w->is_live ? LIVE_MS : LINES_MS) : 0, w->id);
	res = cli_http_call(w->c->http, "GET", path, NULL, 30000, &status, &answer, &err);
	if (res)
		return on_no_answer(w, res, &err);
	if (status == 200)
		take_events(w, answer);
	else
		res = cli_answer_error(status, answer);
	json_decref(answer);
	if (res)
		return res;
	res = get_drain(w);
	if (res || w->away_since_ms)
		return res;
	if (w->is_live)
		draw(w);
	else
		print_progress(w);
	return 0;
}

/* Events may have come between the last look at them and the end of the drain. */
static void print_last_events(struct watch *w)
{
	struct kedge_err err = {0};
	char path[256];
	unsigned status;
	json_t *answer;

	snprintf(path, sizeof path, "/v1/events?since=%llu&wait_ms=0&drain=%s", (unsigned long long)w->since_seq, w->id);
	if (cli_http_call(w->c->http, "GET", path, NULL, 5000, &status, &answer, &err))
		return;
	if (status == 200)
		take_events(w, answer);
	json_decref(answer);
}

static bool has_ended(const json_t *drain)
{
	return drain && strcmp(view_text(drain, "state", "running"), "running") != 0;
}

void cli_print_outcome(const json_t *drain)
{
	char line[VIEW_LINE_MAX];
	size_t i;
	json_t *migration;

	json_array_foreach(json_object_get(drain, "migrations"), i, migration) {
		view_outcome_line(migration, line, sizeof line);
		puts(line);
	}
}

int cli_exit_of_state(const json_t *object)
{
	const char *state = view_text(object, "state", "");

	if (strcmp(state, "done") == 0)
		return KEDGE_EXIT_OK;
	if (strcmp(state, "failed") == 0 || strcmp(state, "aborted") == 0)
		return KEDGE_EXIT_FAILED;
	return KEDGE_EXIT_PARTLY; /* partly, held, or still under way */
}

static int detach(const char *id)
{
	fprintf(stderr, "kedge: detached; the drain goes on\nnext: kedge status %s --watch\n", id);
	return KEDGE_EXIT_DETACHED;
}

int cli_wait_drain(struct cli *c, const char *id, json_t **ret_drain)
{
	struct watch w = {.c = c, .id = id};
	int res = 0;

	cli_interrupt_init();
	while (!res && !has_ended(w.drain) && !cli_is_interrupted()) {
		if (w.drain && !w.away_since_ms)
			cli_sleep(LINES_MS / 2);
		if (!cli_is_interrupted())
			res = get_drain(&w);
	}
	if (!res && has_ended(w.drain))
		*ret_drain = json_incref(w.drain);
	else if (!res)
		res = detach(id);
	json_decref(w.drain);
	return res;
}

int cli_watch_drain(struct cli *c, const char *id)
{
	const char *no_colour = getenv("NO_COLOR");
	struct watch w = {.c = c, .id = id, .is_live = isatty(STDOUT_FILENO)};
	char next[128];
	int res = 0;

	w.has_colour = w.is_live && !(no_colour && no_colour[0]);
	cli_interrupt_init();
	while (!res && !has_ended(w.drain) && !cli_is_interrupted())
		res = watch_round(&w);
	if (!res && cli_is_interrupted() && !has_ended(w.drain)) {
		res = detach(id);
	} else if (!res) {
		print_last_events(&w);
		cli_print_outcome(w.drain);
		res = cli_exit_of_state(w.drain);
		if (json_is_true(json_object_get(w.drain, "is_host_cordoned")))
			fprintf(stderr, "kedge: host %s stays cordoned, until: kedge host uncordon %s\n", view_text(w.drain, "host", "?"),
				view_text(w.drain, "host", "?"));
		if (res) {
			const char *workload = view_text(w.drain, "workload", "");
			snprintf(next, sizeof next, "kedge why %s", id);
			cli_error(res, next, "the %s of %s is %s", workload[0] ? "move" : "drain",
				  workload[0] ? workload : view_text(w.drain, "host", "?"), view_text(w.drain, "state", "?"));
		}
	}
	json_decref(w.drain);
	view_memory_fini(&w.memory);
	return res;
}
