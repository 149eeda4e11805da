/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The verbs about workloads: described, listed, started, stopped.
 *
 * Owns. Nothing beyond one call.
 *
 * Locks. None: one thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "cli_view.h"
#include "duration.h"
#include "kedge/file.h"

#define POLL_MS 200
#define UNWANTED_MS 30000

static bool is_argv(const json_t *json)
{
	const json_t *word;
	size_t i;

	if (!json_is_array(json))
		return false;
	json_array_foreach(json, i, word)
		if (!json_is_string(word))
			return false;
	return true;
}

static int set_argv_opt(struct cli *c, json_t *spec, const char *name)
{
	const char *text = cli_opt(c, name);
	json_error_t at;
	json_t *argv;

	if (!text)
		return 0;
	argv = json_loads(text, 0, &at);
	if (!is_argv(argv)) {
		json_decref(argv);
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--%s: not a JSON array of strings (e.g. --%s '[\"/bin/true\",\"-x\"]')", name,
				 name);
	}
	json_object_set_new(spec, name, argv);
	return 0;
}

static int set_env_opts(struct cli *c, json_t *spec)
{
	json_t *env = json_object();
	const char *text;

	json_object_set_new(spec, "env", env);
	for (unsigned i = 0; (text = cli_opt_nth(c, "env", i)); i++) {
		const char *equals = strchr(text, '=');
		if (!equals || equals == text)
			return cli_error(KEDGE_EXIT_USAGE, NULL, "--env: \"%s\" is not NAME=VALUE", text);
		if (json_object_setn_new(env, text, (size_t)(equals - text), json_string(equals + 1)))
			return cli_error(KEDGE_EXIT_USAGE, NULL, "--env: \"%.*s\" is not UTF-8", (int)(equals - text), text);
	}
	return 0;
}

static int spec_from_file(const char *path, json_t **ret_spec)
{
	struct kedge_err err = {0};
	json_error_t at;
	char *text;
	size_t n;

	if (kedge_file_read(path, 1 << 20, &text, &n, &err))
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--spec: %s", err.msg);
	json_t *spec = json_loadb(text, n, JSON_REJECT_DUPLICATES, &at);
	free(text);
	if (!json_is_object(spec)) {
		json_decref(spec);
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--spec: %s:%d: %s", path, at.line,
				 spec ? "not a JSON object" : at.text);
	}
	*ret_spec = spec;
	return 0;
}

static int spec_from_options(struct cli *c, json_t **ret_spec)
{
	const char *grace = cli_opt(c, "grace"), *cwd = cli_opt(c, "cwd");
	json_t *spec = json_pack("{s:[], s:[], s:[]}", "start", "stop", "health"), *start;
	uint64_t grace_ms = 30000;
	int res = 0;

	if (grace && duration_parse(grace, &grace_ms))
		res = cli_error(KEDGE_EXIT_USAGE, NULL, "--grace: \"%s\" is not a duration (500ms, 30s, 5m)", grace);
	json_object_set_new(spec, "grace_ms", json_integer((json_int_t)grace_ms));
	json_object_set_new(spec, "cwd", json_string(cwd ? cwd : "/"));
	if (!res)
		res = set_env_opts(c, spec);
	if (!res)
		res = set_argv_opt(c, spec, "start");
	if (!res)
		res = set_argv_opt(c, spec, "stop");
	if (!res)
		res = set_argv_opt(c, spec, "health");
	start = json_object_get(spec, "start");
	if (!res && c->nr_argv && json_array_size(start))
		res = cli_error(KEDGE_EXIT_USAGE, NULL, "give the command once: after --, or as --start");
	for (unsigned i = 0; !res && i < c->nr_argv; i++)
		if (json_array_append_new(start, json_string(c->argv[i])))
			res = cli_error(KEDGE_EXIT_USAGE, NULL, "argument %u of the command is not UTF-8", i + 1);
	if (!res && json_array_size(start) == 0)
		res = cli_error(KEDGE_EXIT_USAGE, NULL, "no command: end the line with -- COMMAND ARG..., or give --start or --spec");
	if (res) {
		json_decref(spec);
		return res;
	}
	*ret_spec = spec;
	return 0;
}

int cli_workload_add(struct cli *c)
{
	const char *volume = cli_opt(c, "volume"), *file = cli_opt(c, "spec");
	json_t *spec = NULL, *answer, *body;
	char text[256];
	int res;

	if (!volume)
		return cli_error(KEDGE_EXIT_USAGE, "kedge workload add --help", "--volume is needed");
	if (file && (cli_opt(c, "start") || cli_opt(c, "stop") || cli_opt(c, "health") || cli_opt(c, "grace") ||
		     cli_opt(c, "env") || cli_opt(c, "cwd") || c->nr_argv))
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--spec says it all: leave the other options out");
	res = file ? spec_from_file(file, &spec) : spec_from_options(c, &spec);
	if (res)
		return res;
	body = json_pack("{s:s, s:s, s:o}", "name", c->args[0], "volume", volume, "spec", spec);
	if (!body)
		return cli_error(KEDGE_EXIT_USAGE, NULL, "names must be UTF-8");
	res = cli_post(c, "/v1/workloads", body, &answer);
	if (res)
		return res;
	snprintf(text, sizeof text, "workload %s added; start it with: kedge workload start %s", c->args[0], c->args[0]);
	return cli_print_done(c, answer, text);
}

int cli_workload_list(struct cli *c)
{
	static const char *const titles[] = {"WORKLOAD", "HOST", "VOLUME", "STATE", "PID", "RESTARTS", "REASON"};
	json_t *answer, *workload;
	struct view_table *t;
	size_t i;
	int res = cli_get(c, "/v1/workloads", &answer);

	if (res)
		return res;
	t = view_table_create(7);
	for (i = 0; i < 7; i++)
		view_table_cell(t, "%s", titles[i]);
	json_array_foreach(json_object_get(answer, "workloads"), i, workload) {
		uint64_t pid = view_u64(workload, "pid");
		view_table_cell(t, "%s", view_text(workload, "name", "?"));
		view_table_cell(t, "%s", view_text(workload, "host", "?"));
		view_table_cell(t, "%s", view_text(workload, "volume", "?"));
		view_table_cell(t, "%s", view_text(workload, "state", "?"));
		if (pid)
			view_table_cell(t, "%" PRIu64, pid);
		else
			view_table_cell(t, "-");
		view_table_cell(t, "%" PRIu64, view_u64(workload, "restarts"));
		view_table_cell(t, "%s", view_text(workload, "reason", ""));
	}
	return cli_print_answer(c, answer, t);
}

/* The workload as it is now, a new reference; NULL in *ret_workload: it is not told of at the moment. */
static int get_workload(struct cli *c, const char *name, json_t **ret_workload)
{
	json_t *answer, *workload;
	size_t i;
	int res = cli_get(c, "/v1/workloads", &answer);

	if (res)
		return res;
	*ret_workload = NULL;
	json_array_foreach(json_object_get(answer, "workloads"), i, workload)
		if (!*ret_workload && strcmp(view_text(workload, "name", ""), name) == 0)
			*ret_workload = json_incref(workload);
	json_decref(answer);
	return 0;
}

/* The daemon answers after a second at most, how far it may be by then: wait for the end. *workload is replaced. */
static int wait_for_state(struct cli *c, const char *wanted, json_t **workload)
{
	unsigned waited_ms = 0;
	const char *state;
	json_t *now;
	int res;

	cli_interrupt_init();
	for (;;) {
		state = view_text(*workload, "state", "?");
		if (strcmp(state, wanted) == 0 || strcmp(state, "failed") == 0 || waited_ms > UNWANTED_MS)
			return 0;
		if (cli_is_interrupted()) {
			cli_error(KEDGE_EXIT_DETACHED, "kedge workload list", "detached; what was asked for goes on");
			return KEDGE_EXIT_DETACHED;
		}
		/* stopping takes as long as the grace period, starting as long as the health command; nothing else may take long */
		waited_ms = strcmp(state, "stopping") == 0 || strcmp(state, "starting") == 0 ? 0 : waited_ms + POLL_MS;
		cli_sleep(POLL_MS);
		if (cli_is_interrupted())
			continue;
		res = get_workload(c, c->args[0], &now);
		if (res)
			return res;
		if (now) {
			json_decref(*workload);
			*workload = now;
		}
	}
}

static int workload_verb(struct cli *c, const char *verb, const char *wanted)
{
	json_t *workload;
	const char *reason;
	char path[128], text[256], next[128];
	int res = cli_check_id("workload", c->args[0]);

	if (res)
		return res;
	snprintf(path, sizeof path, "/v1/workloads/%s/%s", c->args[0], verb);
	res = cli_post(c, path, NULL, &workload);
	if (res)
		return res;
	res = wait_for_state(c, wanted, &workload);
	if (res) {
		json_decref(workload);
		return res;
	}
	snprintf(text, sizeof text, "workload %s is %s on %s", c->args[0], view_text(workload, "state", "?"),
		 view_text(workload, "host", "its host"));
	if (strcmp(view_text(workload, "state", "?"), wanted) == 0)
		return cli_print_done(c, workload, text);
	reason = view_text(workload, "reason", "");
	snprintf(next, sizeof next, "kedge why %s", c->args[0]);
	res = cli_error(KEDGE_EXIT_FAILED, next, "%s%s%s", text, *reason ? ": " : "", reason);
	if (cli_opt(c, "json"))
		cli_print_json(workload, true);
	json_decref(workload);
	return res;
}

int cli_workload_start(struct cli *c)
{
	return workload_verb(c, "start", "running");
}

int cli_workload_stop(struct cli *c)
{
	return workload_verb(c, "stop", "stopped");
}
