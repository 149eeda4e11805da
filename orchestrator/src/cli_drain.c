/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The verbs that move things, or say how they would: plan, drain, move, abort.
 *
 * Owns. Nothing beyond one call.
 *
 * Locks. None: one thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "cli_view.h"
#include "duration.h"
#include "kedge/size.h"
#include "pace.h"

/* Long enough for a plan that asks all hosts. */
#define PLAN_TIMEOUT_MS 120000

static int parse_count(const char *text, unsigned max, unsigned *ret_count)
{
	char *end;
	unsigned long v;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	v = strtoul(text, &end, 10);
	if (*end || v == 0 || v > max)
		return -EINVAL;
	*ret_count = (unsigned)v;
	return 0;
}

/* How it is copied; what is not said is what the destinations' kedged.conf says. */
static int pace_options(struct cli *c, json_t *body)
{
	const char *floor = cli_opt(c, "floor"), *factor = cli_opt(c, "latency-factor"), *transit = cli_opt(c, "transit");
	struct pace p = {.has_floor = floor != NULL, .has_latency = factor != NULL};

	if (floor && (kedge_size_parse(floor, &p.floor_bps) || p.floor_bps > INT64_MAX))
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--floor: \"%s\" is not bytes a second (e.g. 20M, 0)", floor);
	if (factor && (kedge_factor_parse(factor, &p.latency_percent) || (p.latency_percent && (p.latency_percent < 101 || p.latency_percent > 10000))))
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--latency-factor: \"%s\" is not a factor from 1.01 to 100, or 0", factor);
	if (transit && !pace_is_transit(transit))
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--transit is " PACE_TRANSITS ", not \"%s\"", transit);
	if (transit)
		strcpy(p.transit, transit);
	pace_write(&p, body);
	return 0;
}

/* What plan, drain and move have in common. */
static int common_options(struct cli *c, bool is_dry_run, json_t *body)
{
	const char *rate = cli_opt(c, "rate"), *release = cli_opt(c, "release"), *hold = cli_opt(c, "hold");
	const char *engine = cli_opt(c, "engine");
	uint64_t v;

	if (rate) {
		if (kedge_size_parse(rate, &v) || v == 0 || v > INT64_MAX)
			return cli_error(KEDGE_EXIT_USAGE, NULL, "--rate: \"%s\" is not bytes a second (e.g. 100M)", rate);
		json_object_set_new(body, "rate_bps", json_integer((json_int_t)v));
	}
	if (release) {
		if (strcmp(release, "delete") != 0 && strcmp(release, "keep") != 0)
			return cli_error(KEDGE_EXIT_USAGE, NULL, "--release is delete or keep, not \"%s\"", release);
		json_object_set_new(body, "release", json_string(release));
	}
	if (engine) {
		if (strcmp(engine, "auto") != 0 && strcmp(engine, "user") != 0 && strcmp(engine, "dm") != 0)
			return cli_error(KEDGE_EXIT_USAGE, NULL, "--engine is auto, user or dm, not \"%s\"", engine);
		json_object_set_new(body, "engine", json_string(engine));
	}
	if (hold) {
		if (duration_parse(hold, &v) || v > INT64_MAX)
			return cli_error(KEDGE_EXIT_USAGE, NULL, "--hold: \"%s\" is not a duration (0, 30m, 1d)", hold);
		json_object_set_new(body, "hold_ms", json_integer((json_int_t)v));
	}
	json_object_set_new(body, "dry_run", json_boolean(is_dry_run));
	return pace_options(c, body);
}

static size_t nr_blockers(const json_t *plan)
{
	size_t i, nr = json_array_size(json_object_get(plan, "blockers"));
	json_t *move;

	json_array_foreach(json_object_get(plan, "moves"), i, move)
		nr += json_array_size(json_object_get(move, "blockers"));
	return nr;
}

static void print_plan(const json_t *plan)
{
	struct view_table *t = view_table_create(7);
	static const char *const titles[] = {"VOLUME", "WORKLOAD", "TO", "ENGINE", "SIZE", "NEEDS", "ROOM THERE"};
	char size[32], need[32], room[32], *text;
	size_t i, k;
	json_t *move, *blocker;

	for (i = 0; i < 7; i++)
		view_table_cell(t, "%s", titles[i]);
	json_array_foreach(json_object_get(plan, "moves"), i, move) {
		view_table_cell(t, "%s", view_text(move, "volume", "?"));
		view_table_cell(t, "%s", view_text(move, "workload", "-"));
		view_table_cell(t, "%s", view_text(move, "to", "-"));
		view_table_cell(t, "%s", view_text(move, "engine", "-"));
		view_table_cell(t, "%s", kedge_size_format(view_u64(move, "size_bytes"), size, sizeof size));
		view_table_cell(t, "%s", kedge_size_format(view_u64(move, "need_bytes"), need, sizeof need));
		view_table_cell(t, "%s", kedge_size_format(view_u64(move, "free_bytes"), room, sizeof room));
	}
	text = i ? view_table_text(t) : NULL;
	fputs(text ? text : "", stdout);
	free(text);
	view_table_destroy(t);
	json_array_foreach(json_object_get(plan, "blockers"), i, blocker)
		printf("blocked: %s\n", json_string_value(blocker));
	json_array_foreach(json_object_get(plan, "moves"), i, move) {
		json_array_foreach(json_object_get(move, "blockers"), k, blocker)
			printf("blocked: %s: %s\n", view_text(move, "volume", "?"), json_string_value(blocker));
	}
}

static int show_plan(struct cli *c, const json_t *answer)
{
	const json_t *plan = json_object_get(answer, "plan");
	size_t nr = nr_blockers(plan);

	if (cli_opt(c, "json"))
		cli_print_json(answer, true);
	else
		print_plan(plan);
	if (nr == 0 && json_array_size(json_object_get(plan, "moves")) == 0)
		fprintf(stderr, "kedge: there is nothing to move on %s\n", view_text(plan, "host", "?"));
	if (nr == 0)
		return KEDGE_EXIT_OK;
	return cli_error(KEDGE_EXIT_BLOCKED, "kedge host list", "%zu %s; nothing was stopped", nr, nr == 1 ? "blocker" : "blockers");
}

static int watch_or_detach(struct cli *c, const json_t *drain)
{
	const char *id = view_text(drain, "id", "");
	json_t *final;
	int res;

	if (cli_opt(c, "detach")) {
		if (cli_opt(c, "json"))
			return cli_print_json(drain, true);
		puts(id);
		fprintf(stderr, "kedge: the drain runs\nnext: kedge status %s --watch\n", id);
		return KEDGE_EXIT_OK;
	}
	if (!cli_opt(c, "json"))
		return cli_watch_drain(c, id);
	/* With --json stdout carries the drain as it ended and nothing else. */
	fprintf(stderr, "kedge: drain %s runs; Ctrl-C leaves it running\n", id);
	res = cli_wait_drain(c, id, &final);
	if (res)
		return res;
	cli_print_json(final, true);
	res = cli_exit_of_state(final);
	json_decref(final);
	return res;
}

static int post_drain(struct cli *c, json_t *body)
{
	struct kedge_err err = {0};
	unsigned status;
	json_t *answer;
	int res;

	cli_interrupt_init();
	res = cli_http_call(c->http, "POST", "/v1/drains", body, PLAN_TIMEOUT_MS, &status, &answer, &err);
	if (res)
		return cli_no_answer(c, res, &err);
	if (json_is_object(json_object_get(answer, "plan")) && (status == 200 || status == 412))
		res = show_plan(c, answer);
	else if (status / 100 != 2)
		res = cli_answer_error(status, answer);
	else
		res = watch_or_detach(c, answer);
	json_decref(answer);
	return res;
}

static int bad_body(json_t *body, int res)
{
	json_decref(body);
	return res;
}

static int drain_host(struct cli *c, bool is_dry_run)
{
	const char *to = cli_opt(c, "to"), *parallel = cli_opt(c, "max-parallel");
	unsigned max_parallel = 1;
	json_t *body;
	int res = cli_check_id("host", c->args[0]);

	if (!res && to)
		res = cli_check_id("host", to);
	if (res)
		return res;
	if (parallel && parse_count(parallel, 1024, &max_parallel))
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--max-parallel: \"%s\" is not a number from 1 to 1024", parallel);
	body = json_pack("{s:s, s:s?, s:i}", "host", c->args[0], "to", to, "max_parallel", (int)max_parallel);
	res = common_options(c, is_dry_run, body);
	return res ? bad_body(body, res) : post_drain(c, body);
}

int cli_plan(struct cli *c)
{
	return drain_host(c, true);
}

int cli_drain(struct cli *c)
{
	return drain_host(c, cli_opt(c, "dry-run") != NULL);
}

/* The host on which a workload is, as a new reference in *ret_host. */
static int find_workload(struct cli *c, const char *name, json_t **ret_host)
{
	json_t *answer, *workload;
	size_t i;
	int res = cli_get(c, "/v1/workloads", &answer);

	if (res)
		return res;
	*ret_host = NULL;
	json_array_foreach(json_object_get(answer, "workloads"), i, workload) {
		if (strcmp(view_text(workload, "name", ""), name) == 0 && !*ret_host)
			*ret_host = json_incref(json_object_get(workload, "host"));
	}
	json_decref(answer);
	if (!*ret_host)
		return cli_error(KEDGE_EXIT_NOT_FOUND, "kedge workload list", "no workload is called %s", name);
	return 0;
}

int cli_move(struct cli *c)
{
	const char *to = cli_opt(c, "to");
	json_t *body, *host;
	int res = cli_check_id("workload", c->args[0]);

	if (res)
		return res;
	if (!to)
		return cli_error(KEDGE_EXIT_USAGE, "kedge host list", "--to HOST is needed");
	res = cli_check_id("host", to);
	if (!res)
		res = find_workload(c, c->args[0], &host);
	if (res)
		return res;
	body = json_pack("{s:o, s:s, s:i, s:s}", "host", host, "to", to, "max_parallel", 1, "workload", c->args[0]);
	res = common_options(c, cli_opt(c, "dry-run") != NULL, body);
	return res ? bad_body(body, res) : post_drain(c, body);
}

/* ---- abort ---- */

static void say_abort(const json_t *migration)
{
	const char *state = view_text(migration, "state", "");

	if (strcmp(state, "running") != 0 && strcmp(state, "held") != 0)
		return;
	if (view_is_before_intent(migration))
		fprintf(stderr, "%s: before the point of no return: is undone, and stays on %s\n",
			view_text(migration, "volume", "?"), view_text(migration, "from", "?"));
	else
		fprintf(stderr, "%s: past the point of no return: goes on to %s (the way back is another move)\n",
			view_text(migration, "volume", "?"), view_text(migration, "to", "?"));
}

static int say_aborted(const struct cli *c, const json_t *answer)
{
	const json_t *aborted = json_object_get(answer, "aborted");
	char next[128];

	snprintf(next, sizeof next, "kedge status %s", c->args[0]);
	if (json_is_array(aborted) && json_array_size(aborted) == 0)
		return cli_error(KEDGE_EXIT_REFUSED, next, "%s",
				 json_array_size(json_object_get(answer, "going_on")) ? "nothing is undone: all of it is past the point of no return"
										      : "nothing is undone: it has ended");
	if (!cli_opt(c, "json"))
		fprintf(stderr, "kedge: the abort is under way\nnext: %s\n", next);
	return KEDGE_EXIT_OK;
}

int cli_abort(struct cli *c)
{
	static const char *const kinds[] = {"drains", "migrations"};
	struct kedge_err err = {0};
	unsigned status = 0;
	json_t *answer = NULL, *migration;
	const char *kind = NULL;
	char path[160];
	size_t i;
	int res = cli_check_id("drain or migration", c->args[0]);

	for (i = 0; !res && !kind && i < 2; i++) {
		json_decref(answer);
		answer = NULL;
		snprintf(path, sizeof path, "/v1/%s/%s", kinds[i], c->args[0]);
		res = cli_http_call(c->http, "GET", path, NULL, PLAN_TIMEOUT_MS, &status, &answer, &err);
		if (res)
			return cli_no_answer(c, res, &err);
		if (status != 404)
			kind = kinds[i];
	}
	if (res)
		return res;
	if (status != 200) {
		res = status == 404 ? cli_error(KEDGE_EXIT_NOT_FOUND, "kedge status", "there is no drain or migration %s", c->args[0])
				    : cli_answer_error(status, answer);
		json_decref(answer);
		return res;
	}
	if (json_is_array(json_object_get(answer, "migrations"))) {
		json_array_foreach(json_object_get(answer, "migrations"), i, migration)
			say_abort(migration);
	} else {
		say_abort(answer);
	}
	json_decref(answer);
	snprintf(path, sizeof path, "/v1/%s/%s/abort", kind, c->args[0]);
	res = cli_post(c, path, NULL, &answer);
	if (res)
		return res;
	if (cli_opt(c, "json"))
		cli_print_json(answer, true);
	res = say_aborted(c, answer);
	json_decref(answer);
	return res;
}
