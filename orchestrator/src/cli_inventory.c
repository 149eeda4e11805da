/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The verbs about what there is: hosts, volumes, workloads.
 *
 * Owns. Nothing beyond one call.
 *
 * Locks. None: one thread.
 */
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "cli_view.h"
#include "duration.h"
#include "kedge/file.h"
#include "kedge/size.h"

/* Print one table or, with --json, the answer itself. Takes both over. */
static int print_answer(struct cli *c, json_t *answer, struct view_table *t)
{
	char *text = view_table_text(t);
	int res = KEDGE_EXIT_OK;

	if (cli_opt(c, "json"))
		res = cli_print_json(answer, true);
	else if (text)
		fputs(text, stdout);
	else
		res = cli_error(KEDGE_EXIT_FAILED, NULL, "out of memory");
	free(text);
	view_table_destroy(t);
	json_decref(answer);
	return res;
}

/* Say what was done on stderr; the object itself with --json. */
static int print_done(struct cli *c, json_t *answer, const char *text)
{
	int res = KEDGE_EXIT_OK;

	if (cli_opt(c, "json"))
		res = cli_print_json(answer, true);
	else
		fprintf(stderr, "%s\n", text);
	json_decref(answer);
	return res;
}

int cli_host_list(struct cli *c)
{
	json_t *answer, *host;
	struct view_table *t;
	char free_text[32], exposed[32];
	size_t i;
	int res = cli_get(c, "/v1/hosts", &answer);

	if (res)
		return res;
	t = view_table_create(7);
	static const char *const titles[] = {"HOST", "STATE", "VOLUMES", "WORKLOADS", "FREE", "EXPOSED", "CORDON"};
	for (i = 0; i < 7; i++)
		view_table_cell(t, "%s", titles[i]);
	json_array_foreach(json_object_get(answer, "hosts"), i, host) {
		const json_t *cordon = json_object_get(host, "cordon");
		view_table_cell(t, "%s", view_text(host, "name", "?"));
		view_table_cell(t, "%s", view_text(host, "state", "?"));
		view_table_cell(t, "%" PRIu64, view_u64(host, "nr_volumes"));
		view_table_cell(t, "%" PRIu64, view_u64(host, "nr_workloads"));
		view_table_cell(t, "%s", kedge_size_format(view_u64(host, "free_bytes"), free_text, sizeof free_text));
		view_table_cell(t, "%s", kedge_size_format(view_u64(host, "exposed_bytes"), exposed, sizeof exposed));
		if (json_is_object(cordon))
			view_table_cell(t, "by %s%s%s", view_text(cordon, "owner", "?"),
					view_text(cordon, "reason", "")[0] ? ": " : "", view_text(cordon, "reason", ""));
		else
			view_table_cell(t, "-");
	}
	return print_answer(c, answer, t);
}

/* Which engine clones get on each host, and why. */
int cli_doctor(struct cli *c)
{
	json_t *answer, *host;
	struct view_table *t;
	size_t i;
	int res = cli_get(c, "/v1/hosts", &answer);

	if (res)
		return res;
	t = view_table_create(4);
	view_table_cell(t, "HOST");
	view_table_cell(t, "STATE");
	view_table_cell(t, "ENGINE");
	view_table_cell(t, "WHY");
	json_array_foreach(json_object_get(answer, "hosts"), i, host) {
		view_table_cell(t, "%s", view_text(host, "name", "?"));
		view_table_cell(t, "%s", view_text(host, "state", "?"));
		view_table_cell(t, "%s", view_text(host, "engine", "-"));
		view_table_cell(t, "%s", view_text(host, "engine_why", view_text(host, "trouble", "-")));
	}
	return print_answer(c, answer, t);
}

int cli_host_cordon(struct cli *c)
{
	const struct passwd *user = getpwuid(getuid());
	const char *expires = cli_opt(c, "expires"), *reason = cli_opt(c, "reason");
	json_t *body, *answer;
	uint64_t ms = 0;
	char path[128], text[128];
	int res = cli_check_id("host", c->args[0]);

	if (res)
		return res;
	if (expires && (duration_parse(expires, &ms) || ms == 0))
		return cli_error(KEDGE_EXIT_USAGE, NULL, "\"%s\" is not a duration (30m, 2h, 1d)", expires);
	body = json_pack("{s:s, s:s}", "owner", user ? user->pw_name : "unknown", "reason", reason ? reason : "");
	if (!body)
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--reason: not UTF-8");
	json_object_set_new(body, "expires", expires ? json_integer((json_int_t)time(NULL) * 1000 + (json_int_t)ms) : json_null());
	snprintf(path, sizeof path, "/v1/hosts/%s/cordon", c->args[0]);
	res = cli_post(c, path, body, &answer);
	if (res)
		return res;
	snprintf(text, sizeof text, "host %s is cordoned; undo with: kedge host uncordon %s", c->args[0], c->args[0]);
	return print_done(c, answer, text);
}

int cli_host_uncordon(struct cli *c)
{
	json_t *answer;
	char path[128], text[128];
	int res = cli_check_id("host", c->args[0]);

	if (res)
		return res;
	snprintf(path, sizeof path, "/v1/hosts/%s/uncordon", c->args[0]);
	res = cli_post(c, path, NULL, &answer);
	if (res)
		return res;
	snprintf(text, sizeof text, "host %s takes volumes again", c->args[0]);
	return print_done(c, answer, text);
}

static int post_volume(struct cli *c, const char *verb, json_t *body)
{
	json_t *answer;
	char text[256], size[32];
	int res;

	if (!body)
		return cli_error(KEDGE_EXIT_USAGE, NULL, "names and paths must be UTF-8");
	res = cli_post(c, "/v1/volumes", body, &answer);
	if (res)
		return res;
	snprintf(text, sizeof text, "volume %s %s on %s, %s", c->args[0], verb, cli_opt(c, "host"),
		 kedge_size_format(view_u64(answer, "size_bytes"), size, sizeof size));
	return print_done(c, answer, text);
}

int cli_volume_create(struct cli *c)
{
	const char *host = cli_opt(c, "host"), *size = cli_opt(c, "size");
	uint64_t size_bytes;

	if (!host || !size)
		return cli_error(KEDGE_EXIT_USAGE, "kedge volume create --help", "--host and --size are needed");
	if (kedge_size_parse(size, &size_bytes) || size_bytes == 0 || size_bytes > INT64_MAX)
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--size: \"%s\" is not a size (4096, 64K, 2G)", size);
	return post_volume(c, "created",
			   json_pack("{s:s, s:s, s:s, s:I}", "verb", "create", "host", host, "name", c->args[0], "size_bytes",
				     (json_int_t)size_bytes));
}

int cli_volume_import(struct cli *c)
{
	const char *host = cli_opt(c, "host"), *path = cli_opt(c, "path");

	if (!host || !path)
		return cli_error(KEDGE_EXIT_USAGE, "kedge volume import --help", "--host and --path are needed");
	if (path[0] != '/')
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--path: \"%s\" is not an absolute path", path);
	return post_volume(c, "imported",
			   json_pack("{s:s, s:s, s:s, s:s}", "verb", "import", "host", host, "name", c->args[0], "path", path));
}

int cli_volume_list(struct cli *c)
{
	static const char *const titles[] = {"VOLUME", "HOST", "SIZE", "STATE", "EPOCH", "DEVICE"};
	json_t *answer, *volume;
	struct view_table *t;
	char size[32];
	size_t i;
	int res = cli_get(c, "/v1/volumes", &answer);

	if (res)
		return res;
	t = view_table_create(6);
	for (i = 0; i < 6; i++)
		view_table_cell(t, "%s", titles[i]);
	json_array_foreach(json_object_get(answer, "volumes"), i, volume) {
		view_table_cell(t, "%s", view_text(volume, "name", "?"));
		view_table_cell(t, "%s", view_text(volume, "host", "?"));
		view_table_cell(t, "%s", kedge_size_format(view_u64(volume, "size_bytes"), size, sizeof size));
		view_table_cell(t, "%s", view_text(volume, "state", "?"));
		view_table_cell(t, "%" PRIu64, view_u64(volume, "epoch"));
		view_table_cell(t, "%s", view_text(volume, "device", "-"));
	}
	return print_answer(c, answer, t);
}

int cli_volume_show(struct cli *c)
{
	json_t *answer, *volume, *value;
	struct view_table *t;
	const char *key;
	char path[128];
	size_t i;
	int res = cli_check_id("volume", c->args[0]);

	if (res)
		return res;
	snprintf(path, sizeof path, "/v1/volumes/%s", c->args[0]);
	res = cli_get(c, path, &answer);
	if (res)
		return res;
	t = view_table_create(2);
	json_array_foreach(json_object_get(answer, "volumes"), i, volume) {
		if (i > 0) {
			view_table_cell(t, "%s", "");
			view_table_cell(t, "%s", "");
		}
		json_object_foreach(volume, key, value) {
			char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
			view_table_cell(t, "%s", key);
			view_table_cell(t, "%s", text ? text : json_string_value(value));
			free(text);
		}
	}
	return print_answer(c, answer, t);
}

/* ---- workloads ---- */

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
	return print_done(c, answer, text);
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
	return print_answer(c, answer, t);
}

static int workload_verb(struct cli *c, const char *verb)
{
	json_t *answer;
	char path[128], text[256];
	int res = cli_check_id("workload", c->args[0]);

	if (res)
		return res;
	snprintf(path, sizeof path, "/v1/workloads/%s/%s", c->args[0], verb);
	res = cli_post(c, path, NULL, &answer);
	if (res)
		return res;
	snprintf(text, sizeof text, "workload %s is %s on %s", c->args[0], view_text(answer, "state", "?"),
		 view_text(answer, "host", "its host"));
	return print_done(c, answer, text);
}

int cli_workload_start(struct cli *c)
{
	return workload_verb(c, "start");
}

int cli_workload_stop(struct cli *c)
{
	return workload_verb(c, "stop");
}
