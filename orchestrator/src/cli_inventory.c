/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The verbs about what there is: hosts and volumes.
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
#include "kedge/size.h"

int cli_print_answer(struct cli *c, json_t *answer, struct view_table *t)
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

int cli_print_done(struct cli *c, json_t *answer, const char *text)
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
	return cli_print_answer(c, answer, t);
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
	return cli_print_answer(c, answer, t);
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
	return cli_print_done(c, answer, text);
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
	return cli_print_done(c, answer, text);
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
	return cli_print_done(c, answer, text);
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
	return cli_print_answer(c, answer, t);
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
	return cli_print_answer(c, answer, t);
}
