/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. SPEC from JSON. Pure.
 */
#include "agent_spec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ARGS_MAX 256
#define GRACE_MS_DEFAULT 30000
#define GRACE_MS_MAX 3600000

static int bad(struct kedge_err *err, const char *field, const char *why)
{
	return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "spec: \"%s\" %s", field, why);
}

static void free_list(char **list)
{
	for (char **p = list; p && *p; p++)
		free(*p);
	free(list);
}

void agent_spec_fini(struct agent_spec *spec)
{
	free_list(spec->start);
	free_list(spec->stop);
	free_list(spec->health);
	free_list(spec->env);
	free(spec->cwd);
	memset(spec, 0, sizeof *spec);
}

static int parse_argv(const json_t *spec, const char *field, bool is_needed, char ***ret_argv, struct kedge_err *err)
{
	const json_t *a = json_object_get(spec, field);
	size_t n = json_array_size(a);

	if (a && !json_is_array(a) && !json_is_null(a))
		return bad(err, field, "is not an array of strings");
	if (is_needed && n == 0)
		return bad(err, field, "is missing or empty");
	if (n > ARGS_MAX)
		return bad(err, field, "has more than 256 parts");
	*ret_argv = calloc(n + 1, sizeof **ret_argv);
	if (!*ret_argv)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a spec");
	for (size_t i = 0; i < n; i++) {
		const char *text = json_string_value(json_array_get(a, i));
		/* jansson keeps "\u0000" out unless asked to allow it */
		if (!text || (i == 0 && !*text))
			return bad(err, field, "is not an array of strings that begins with a program");
		(*ret_argv)[i] = strdup(text);
		if (!(*ret_argv)[i])
			return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a spec");
	}
	return 0;
}

/* A variable's name: letters, digits, '_'; KEDGE_ is ours. */
static bool is_env_name(const char *name)
{
	size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");

	return n && !name[n] && !(name[0] >= '0' && name[0] <= '9') && strncmp(name, "KEDGE_", 6) != 0;
}

static int parse_env(const json_t *spec, struct agent_spec *out, struct kedge_err *err)
{
	json_t *env = json_object_get(spec, "env"), *value;
	const char *name;
	size_t i = 0;

	if (env && !json_is_object(env) && !json_is_null(env))
		return bad(err, "env", "is not an object of strings");
	out->env = calloc(json_object_size(env) + 1, sizeof *out->env);
	if (!out->env)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a spec");
	json_object_foreach(env, name, value) {
		const char *text = json_string_value(value);
		if (!text || !is_env_name(name))
			return bad(err, "env", "takes names of letters, digits and _, not beginning with KEDGE_, and strings");
		out->env[i] = malloc(strlen(name) + strlen(text) + 2);
		if (!out->env[i])
			return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a spec");
		strcpy(out->env[i], name);
		strcat(out->env[i], "=");
		strcat(out->env[i++], text);
	}
	return 0;
}

static int parse_rest(const json_t *spec, struct agent_spec *out, struct kedge_err *err)
{
	const json_t *grace = json_object_get(spec, "grace_ms"), *cwd = json_object_get(spec, "cwd");

	out->grace_ms = GRACE_MS_DEFAULT;
	if (grace && (!json_is_integer(grace) || json_integer_value(grace) < 0 || json_integer_value(grace) > GRACE_MS_MAX))
		return bad(err, "grace_ms", "is not a number of milliseconds up to one hour");
	if (grace)
		out->grace_ms = (unsigned)json_integer_value(grace);
	if (cwd && (!json_is_string(cwd) || json_string_value(cwd)[0] != '/'))
		return bad(err, "cwd", "is not an absolute path");
	out->cwd = strdup(cwd ? json_string_value(cwd) : "/");
	return out->cwd ? 0 : kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a spec");
}

static int check_fields(const json_t *spec, struct kedge_err *err)
{
	static const char *const known[] = {"start", "stop", "health", "grace_ms", "env", "cwd"};
	const char *name;
	json_t *value;

	if (!json_is_object(spec))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "spec: not an object");
	json_object_foreach((json_t *)spec, name, value) {
		bool is_known = false;
		for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
			is_known |= strcmp(name, known[i]) == 0;
		if (!is_known)
			return bad(err, name, "is not a field of it");
	}
	return 0;
}

int agent_spec_parse(const json_t *json, struct agent_spec *ret_spec, struct kedge_err *err)
{
	struct agent_spec s = {0};
	int res = check_fields(json, err);

	if (!res)
		res = parse_argv(json, "start", true, &s.start, err);
	if (!res)
		res = parse_argv(json, "stop", false, &s.stop, err);
	if (!res)
		res = parse_argv(json, "health", false, &s.health, err);
	if (!res)
		res = parse_env(json, &s, err);
	if (!res)
		res = parse_rest(json, &s, err);
	if (res) {
		agent_spec_fini(&s);
		return res;
	}
	*ret_spec = s;
	return 0;
}
