/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Start and stop a workload by its SPEC: argv arrays without a shell, a clean environment, a session of its own.
 *
 * Owns. RUN/work/NAME.pid, STATE/work/NAME (the workload's own directory), STATE/log/workload-NAME.log.
 *
 * Locks. None. Of one volume only one job runs at a time.
 *
 * Crash. The pid file is written before the program runs (agent_spawn.c), so a restarted agent finds the workload
 * and never starts it twice.
 */
#include "agent_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent_spawn.h"
#include "agent_spec.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/loop.h"

#define HEALTH_DEADLINE_MS 30000
#define HEALTH_RUN_MS 10000
#define HEALTH_NAP_MS 100
#define NR_OWN_ENV 10
#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

typedef char path_text[AGENT_PATH_MAX + 96];

static void pid_path(const struct kedged_config *c, const char *workload, path_text out)
{
	snprintf(out, sizeof(path_text), "%s/work/%s.pid", c->run_dir, workload);
}

static void log_path(const struct kedged_config *c, const char *workload, path_text out)
{
	snprintf(out, sizeof(path_text), "%s/log/workload-%s.log", c->state_dir, workload);
}

static void state_path(const struct kedged_config *c, const char *workload, path_text out)
{
	snprintf(out, sizeof(path_text), "%s/work/%s", c->state_dir, workload);
}

/* ---- environment ---- */

struct env {
	char **list;
	unsigned nr;
	bool has_failed;
};

static void env_add(struct env *e, const char *name, const char *value)
{
	char *text = NULL;

	if (asprintf(&text, "%s=%s", name, value) < 0) {
		e->has_failed = true;
		return;
	}
	e->list[e->nr++] = text;
}

static void env_fini(struct env *e)
{
	for (unsigned i = 0; e->list && i < e->nr; i++)
		free(e->list[i]);
	free(e->list);
}

/* pid 0: not known yet. */
static int env_init(struct env *e, const struct kedged_config *c, const struct agent_unit *u, const struct agent_spec *spec,
		    const char *device, pid_t pid)
{
	char number[24];
	path_text dir;
	unsigned nr_own = 0;

	while (spec->env[nr_own])
		nr_own++;
	*e = (struct env){.list = calloc(nr_own + NR_OWN_ENV + 1, sizeof *e->list)};
	if (!e->list)
		return -ENOMEM;
	env_add(e, "PATH", PATH_DEFAULT);
	env_add(e, "HOME", "/");
	env_add(e, "LANG", "C");
	for (unsigned i = 0; i < nr_own; i++) {
		/* the spec's PATH, HOME, LANG come instead of ours */
		size_t name_bytes = (size_t)(strchr(spec->env[i], '=') - spec->env[i]) + 1;
		for (unsigned j = 0; j < e->nr; j++) {
			if (strncmp(e->list[j], spec->env[i], name_bytes) == 0) {
				free(e->list[j]);
				e->list[j] = e->list[--e->nr];
				break;
			}
		}
		e->list[e->nr] = strdup(spec->env[i]);
		if (e->list[e->nr])
			e->nr++;
		else
			e->has_failed = true;
	}
	env_add(e, "KEDGE_DEVICE", device);
	env_add(e, "KEDGE_VOLUME", u->vol.name);
	snprintf(number, sizeof number, "%" PRIu64, u->work.epoch);
	env_add(e, "KEDGE_EPOCH", number);
	env_add(e, "KEDGE_WORKLOAD", u->work.name);
	env_add(e, "KEDGE_HOST", c->host);
	state_path(c, u->work.name, dir);
	env_add(e, "KEDGE_STATE_DIR", dir);
	if (pid) {
		snprintf(number, sizeof number, "%d", (int)pid);
		env_add(e, "KEDGE_PID", number);
	}
	if (e->has_failed)
		env_fini(e);
	return e->has_failed ? -ENOMEM : 0;
}

static int load_spec(const struct agent_unit *u, struct agent_spec *ret_spec, struct kedge_err *err)
{
	json_t *json = json_loads(u->work.spec, 0, NULL);
	int res = json ? agent_spec_parse(json, ret_spec, err)
		       : kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_CONTROL, "the spec of workload %s is damaged", u->work.name);

	json_decref(json);
	return res;
}

/* ---- can it be started ---- */

/* 0, or why execve would refuse it. */
static int check_program(int dir, const char *path)
{
	struct stat st;

	if (fstatat(dir, path, &st, 0) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EACCES;
	return faccessat(dir, path, X_OK, AT_EACCESS) < 0 ? -errno : 0;
}

/* As execvp looks for it. */
static int check_in_path(int dir, const char *places, const char *name)
{
	char path[AGENT_PATH_MAX];
	int res = -ENOENT;

	while (res) {
		size_t n = strcspn(places, ":");
		if (snprintf(path, sizeof path, "%.*s%s%s", (int)n, places, n ? "/" : "", name) < (int)sizeof path) {
			int here = check_program(dir, path);
			if (here != -ENOENT && here != -ENOTDIR)
				res = here;
		}
		if (!places[n])
			break;
		places += n + 1;
	}
	return res;
}

int driver_check(const struct agent_unit *u, struct kedge_err *err)
{
	const char *places = PATH_DEFAULT;
	struct agent_spec spec;
	int dir, res = load_spec(u, &spec, err);

	if (res)
		return res;
	for (char **e = spec.env; *e; e++)
		if (strncmp(*e, "PATH=", 5) == 0)
			places = *e + 5;
	dir = open(spec.cwd, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		res = -errno;
		kedge_err_set(err, res, KEDGE_SIDE_NONE, "workload %s cannot run here: its directory %s: %s", u->work.name, spec.cwd,
			      strerror(-res));
	} else {
		bool is_path = strchr(spec.start[0], '/') != NULL;
		res = is_path ? check_program(dir, spec.start[0]) : check_in_path(dir, places, spec.start[0]);
		if (res)
			kedge_err_set(err, res, KEDGE_SIDE_NONE, "workload %s cannot run here: its program %s: %s", u->work.name,
				      spec.start[0], strerror(-res));
	}
	kedge_close(dir);
	agent_spec_fini(&spec);
	return res;
}

/* ---- start ---- */

/* Who was started last, alive or not: by the pid file, or by the record where somebody emptied the run directory. */
static int find_leader(const struct kedged_config *c, const struct agent_unit *u, struct kedge_proc *ret_proc)
{
	path_text path;

	pid_path(c, u->work.name, path);
	if (agent_pid_read(path, ret_proc) == 0)
		return 0;
	*ret_proc = u->work.proc;
	return u->work.proc.pid > 0 ? 0 : -ENOENT;
}

bool driver_find(const struct kedged_config *c, const struct agent_unit *u, struct kedge_proc *ret_proc)
{
	return u->work.is_defined && find_leader(c, u, ret_proc) == 0 && kedge_proc_is_alive(ret_proc);
}

static int wait_healthy(const struct kedged_config *c, const struct agent_unit *u, const struct agent_spec *spec,
			const struct kedge_proc *proc, const char *device, const char *log, struct kedge_err *err)
{
	uint64_t end_ns = kedge_clock_ns() + (uint64_t)HEALTH_DEADLINE_MS * 1000000;
	struct env env;
	int code = 0, res;

	if (!spec->health[0])
		return 0;
	if (env_init(&env, c, u, spec, device, proc->pid))
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for an environment");
	for (;;) {
		struct agent_spawn_opts o = {.argv = spec->health, .envp = env.list, .cwd = spec->cwd, .log_path = log};
		res = agent_run(&o, HEALTH_RUN_MS, &code, err);
		if (res || code == 0)
			break;
		if (!kedge_proc_is_alive(proc)) {
			res = kedge_err_set(err, -ECHILD, KEDGE_SIDE_NONE, "workload %s ended before it was healthy", u->work.name);
			break;
		}
		if (kedge_clock_ns() >= end_ns) {
			res = kedge_err_set(err, -ETIMEDOUT, KEDGE_SIDE_NONE, "workload %s is not healthy after %d s (its health command ends with %d)",
					    u->work.name, HEALTH_DEADLINE_MS / 1000, code);
			break;
		}
		agent_nap(HEALTH_NAP_MS);
	}
	env_fini(&env);
	return res;
}

static int spawn_workload(const struct kedged_config *c, const struct agent_unit *u, const struct agent_spec *spec,
			  const char *device, struct kedge_proc *ret_proc, struct kedge_err *err)
{
	path_text pid, log, dir;
	struct env env;
	int res;

	pid_path(c, u->work.name, pid);
	log_path(c, u->work.name, log);
	state_path(c, u->work.name, dir);
	res = kedge_mkdir_p(dir, 0755, err);
	if (res)
		return res;
	if (env_init(&env, c, u, spec, device, 0))
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for an environment");
	res = agent_spawn(&(struct agent_spawn_opts){.argv = spec->start, .envp = env.list, .cwd = spec->cwd, .log_path = log, .pid_path = pid},
			  ret_proc, err);
	env_fini(&env);
	return res;
}

int driver_start(const struct kedged_config *c, const struct agent_unit *u, const char *device, struct kedge_proc *ret_proc,
		 struct kedge_err *err)
{
	struct agent_spec spec;
	path_text log;
	int res = load_spec(u, &spec, err);

	if (res)
		return res;
	log_path(c, u->work.name, log);
	if (!driver_find(c, u, ret_proc)) {
		res = driver_kill(c, u, err);
		if (!res)
			res = spawn_workload(c, u, &spec, device, ret_proc, err);
	}
	if (!res)
		res = wait_healthy(c, u, &spec, ret_proc, device, log, err);
	agent_spec_fini(&spec);
	return res;
}

/* ---- stop ---- */

int driver_kill(const struct kedged_config *c, const struct agent_unit *u, struct kedge_err *err)
{
	struct kedge_proc proc;
	path_text path;

	if (!u->work.is_defined || find_leader(c, u, &proc))
		return 0;
	if (agent_session_stop(&proc, 0))
		return kedge_err_set(err, -ETIMEDOUT, KEDGE_SIDE_NONE, "workload %s does not end: %u processes of it are left",
				     u->work.name, agent_session_count(&proc));
	pid_path(c, u->work.name, path);
	unlink(path);
	return 0;
}

/* The stop command, bounded by the grace period; a failure is not fatal: signals follow. */
static void run_stop_command(const struct kedged_config *c, const struct agent_unit *u, const struct agent_spec *spec,
			     const struct kedge_proc *proc, const char *device, unsigned grace_ms)
{
	struct kedge_err err = {0};
	struct env env;
	path_text log;
	int code = 0;

	if (env_init(&env, c, u, spec, device, proc->pid))
		return;
	log_path(c, u->work.name, log);
	if (agent_run(&(struct agent_spawn_opts){.argv = spec->stop, .envp = env.list, .cwd = spec->cwd, .log_path = log}, grace_ms,
		      &code, &err))
		kedge_warn("workload %s, stop command: %s", u->work.name, err.msg);
	else if (code)
		kedge_warn("workload %s: the stop command ended with %d", u->work.name, code);
	env_fini(&env);
}

int driver_stop(const struct kedged_config *c, const struct agent_unit *u, const char *device, int grace_ms, bool *ret_was_running,
		struct kedge_err *err)
{
	uint64_t begin_ns = kedge_clock_ns(), used_ms;
	struct kedge_proc proc;
	struct agent_spec spec;
	path_text path;
	unsigned grace;
	int res;

	*ret_was_running = false;
	if (!u->work.is_defined || find_leader(c, u, &proc))
		return 0;
	res = load_spec(u, &spec, err);
	if (res)
		return res;
	*ret_was_running = kedge_proc_is_alive(&proc);
	grace = grace_ms < 0 ? spec.grace_ms : (unsigned)grace_ms;
	if (*ret_was_running && spec.stop[0]) {
		run_stop_command(c, u, &spec, &proc, device, grace ? grace : 1);
		used_ms = (kedge_clock_ns() - begin_ns) / 1000000;
		agent_session_wait(&proc, used_ms < grace ? grace - (unsigned)used_ms : 0);
		grace = 0;
	}
	agent_spec_fini(&spec);
	if (agent_session_count(&proc) && agent_session_stop(&proc, grace))
		return kedge_err_set(err, -ETIMEDOUT, KEDGE_SIDE_SOURCE, "workload %s does not end: %u processes of it are left",
				     u->work.name, agent_session_count(&proc));
	pid_path(c, u->work.name, path);
	unlink(path);
	return 0;
}
