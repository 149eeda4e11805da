/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Start, ask, stop and find the data-plane processes.
 *
 * Owns. Directories: RUN/vol/NAME (FUSE file, control socket, pid file), RUN/export (pid, output and CHAP files), RUN/chap,
 * STATE/clones (metadata), STATE/log.
 *
 * Locks. None. Of one volume only one job runs at a time.
 *
 * Crash. Pid files are written before a process runs (agent_spawn.c). A CHAP file may be left behind by a crash; it is
 * overwritten at the next start and removed at the end of the export or clone.
 */
#include "agent_plane.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent_spawn.h"
#include "kedge/ctl.h"
#include "kedge/file.h"
#include "kedge/identity.h"
#include "kedge/log.h"
#include "kedge/loop.h"
#include "kedge/loopdev.h"

#define CREATE_TIMEOUT_MS 60000
#define SERVE_TIMEOUT_MS 20000
#define STATUS_TIMEOUT_MS 2000
#define ATTACH_TIMEOUT_MS 10000
#define STOP_TIMEOUT_MS 10000
#define ABORT_TIMEOUT_MS 140000 /* the end of the kernel's initiator takes up to 130 s, login under way and logouts */
#define LISTEN_TIMEOUT_MS 10000
#define LISTEN_AGAIN_TIMEOUT_MS 130000 /* with its free map read again: that has 120 s (ktarget(8)) */
#define POLL_MS 5

typedef char path_text[AGENT_PATH_MAX + 160];

static char *const plane_env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "LANG=C", NULL};

static void vol_path(const struct kedged_config *c, const char *name, const char *what, path_text out)
{
	snprintf(out, sizeof(path_text), "%s/vol/%s/%s", c->run_dir, name, what);
}

static void id_path(const struct kedged_config *c, const char *dir, const struct agent_volume *v, const char *suffix, path_text out)
{
	char uuid[KEDGE_UUID_TEXT_MAX];

	kedge_uuid_format(&v->uuid, uuid);
	snprintf(out, sizeof(path_text), "%s/%s/%s.%" PRIu64 ".%s", c->run_dir, dir, uuid, v->record.epoch, suffix);
}

static void log_path(const struct kedged_config *c, const char *what, const char *name, path_text out)
{
	snprintf(out, sizeof(path_text), "%s/log/%s-%s.log", c->state_dir, what, name);
}

static void program_path(const struct kedged_config *c, const char *program, path_text out)
{
	snprintf(out, sizeof(path_text), "%s/%s", c->bin_dir, program);
}

static void serial_text(const struct agent_volume *v, char out[KEDGE_SERIAL_MAX])
{
	struct kedge_identity id = {.volume = v->uuid, .epoch = v->record.epoch};

	kedge_serial_format(&id, out);
}

int plane_make_dirs(const struct kedged_config *c, struct kedge_err *err)
{
	static const struct {
		bool is_run;
		const char *name;
	} dirs[] = {{true, "vol"}, {true, "export"}, {true, "chap"}, {true, "work"}, {false, "clones"}, {false, "log"}, {false, "work"}};

	for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++) {
		path_text path;
		snprintf(path, sizeof path, "%s/%s", dirs[i].is_run ? c->run_dir : c->state_dir, dirs[i].name);
		int res = kedge_mkdir_p(path, 0700, err);
		if (res)
			return res;
	}
	return 0;
}

/* The last line of a log, for messages: what a program said before it ended. */
static void last_line(const char *path, char *out, size_t out_max)
{
	char *text = NULL, *p;
	size_t nr_bytes;

	out[0] = 0;
	if (kedge_file_read(path, 1024 * 1024, &text, &nr_bytes, NULL))
		return;
	while (nr_bytes && text[nr_bytes - 1] == '\n')
		text[--nr_bytes] = 0;
	p = strrchr(text, '\n');
	snprintf(out, out_max, "%s", p ? p + 1 : text);
	free(text);
}

void plane_doctor(const struct kedged_config *c, bool *ret_has_dm, char ret_why[256])
{
	path_text program, out;
	char line[2048], *argv[] = {program, "doctor", "--json", NULL};
	struct kedge_err err = {0};
	json_t *o;
	int code;

	*ret_has_dm = false;
	program_path(c, "kclone", program);
	snprintf(out, sizeof out, "%s/doctor", c->run_dir);
	unlink(out);
	if (agent_run(&(struct agent_spawn_opts){.argv = argv, .envp = plane_env, .cwd = "/", .log_path = out}, CREATE_TIMEOUT_MS, &code,
		      &err)) {
		snprintf(ret_why, 256, "%.250s", err.msg);
		return;
	}
	last_line(out, line, sizeof line);
	unlink(out);
	o = json_loads(line, 0, NULL);
	const char *engine = json_string_value(json_object_get(o, "engine")), *why = json_string_value(json_object_get(o, "why"));
	*ret_has_dm = engine && strcmp(engine, "dm") == 0;
	snprintf(ret_why, 256, "%.250s", why ? why : "kclone doctor does not answer");
	json_decref(o);
}

/* ---- kclone ---- */

void plane_clone_meta_path(const struct kedged_config *c, const struct agent_volume *v, uint64_t epoch, char out[AGENT_PATH_MAX])
{
	char uuid[KEDGE_UUID_TEXT_MAX];

	kedge_uuid_format(&v->uuid, uuid);
	/* state_dir and name are bounded well below: KEDGED_PATH_MAX is checked against this when the agent starts */
	if (snprintf(out, AGENT_PATH_MAX, "%s/clones/%s.%.8s.%" PRIu64 ".meta", c->state_dir, v->name, uuid, epoch) >= AGENT_PATH_MAX)
		out[0] = 0;
}

static int remove_meta(const struct agent_unit *u, struct kedge_err *err)
{
	static const char *const suffixes[] = {"", ".seen", ".dm", ".disk", ".source", ".bad", ".run", ".top", ".compared"};

	for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
		path_text path;
		snprintf(path, sizeof path, "%s%s", u->clone.meta, suffixes[i]);
		if (unlink(path) < 0 && errno != ENOENT)
			return kedge_err_set(err, -errno, KEDGE_SIDE_METADATA, "%s: %s", path, strerror(errno));
	}
	return kedge_file_sync_dir_of(u->clone.meta, err);
}

bool plane_clone_is_kernel(const struct agent_unit *u)
{
	path_text kernel;

	snprintf(kernel, sizeof kernel, "%s.dm", u->clone.meta);
	return u->clone.meta[0] && access(kernel, F_OK) == 0;
}

/* "PATH\n", and "alone\n" once it needs no kclone any more */
static bool has_top(const struct agent_unit *u, bool is_alone)
{
	char path[AGENT_PATH_MAX + 8], *text = NULL;
	bool is_so;

	snprintf(path, sizeof path, "%s.top", u->clone.meta);
	if (!u->clone.meta[0] || kedge_file_read(path, 4096, &text, NULL, NULL))
		return false;
	is_so = !is_alone || strstr(text, "\nalone\n");
	free(text);
	return is_so;
}

bool plane_clone_has_device(const struct agent_unit *u)
{
	return plane_clone_is_kernel(u) || has_top(u, false);
}

bool plane_clone_is_alone(const struct agent_unit *u)
{
	return plane_clone_is_kernel(u) || has_top(u, true);
}

int plane_clone_create(const struct kedged_config *c, const struct agent_unit *u, const char *engine, struct kedge_err *err)
{
	bool is_kernel = *engine ? strcmp(engine, "dm") == 0 : plane_clone_is_kernel(u);
	char size[24], lbs[12], serial[KEDGE_SERIAL_MAX], migration[KEDGE_UUID_TEXT_MAX], said[200];
	path_text program, log;
	int code, res = remove_meta(u, err);

	if (res)
		return res;
	program_path(c, "kclone", program);
	log_path(c, "kclone", u->vol.name, log);
	snprintf(size, sizeof size, "%" PRIu64, u->vol.size_bytes);
	snprintf(lbs, sizeof lbs, "%" PRIu32, u->vol.lbs_bytes);
	serial_text(&u->vol, serial);
	kedge_uuid_format(&u->vol.record.migration, migration);
	/* Before the export exists: a place that no attach without an url of its own can mean. */
	const char *url = u->clone.url[0] ? u->clone.url : "iscsi://127.0.0.1:1/iqn.2026-01.kedge:reserved/1";
	char *argv[] = {program, "create", "--source", (char *)url, "--dest", (char *)u->vol.path, "--meta", (char *)u->clone.meta,
			"--size", size, "--lbs", lbs, "--serial", serial, "--migration", migration,
			"--engine", (char *)(uintptr_t)(is_kernel ? "dm" : "user"),
			u->clone.initiator[0] ? "--initiator" : NULL, (char *)u->clone.initiator, NULL};
	res = agent_run(&(struct agent_spawn_opts){.argv = argv, .envp = plane_env, .cwd = "/", .log_path = log}, CREATE_TIMEOUT_MS,
			&code, err);
	if (!res && code) {
		last_line(log, said, sizeof said);
		res = kedge_err_set(err, -EIO, KEDGE_SIDE_METADATA, "kclone create ended with %d: %s", code, said);
	}
	return res;
}

bool plane_clone_find(const struct kedged_config *c, const char *name, struct kedge_proc *ret_proc)
{
	path_text pid;

	vol_path(c, name, "kclone.pid", pid);
	return agent_pid_read(pid, ret_proc) == 0 && kedge_proc_is_alive(ret_proc);
}

unsigned plane_clone_pids(const struct kedged_config *c, const char *name, pid_t *out, unsigned max)
{
	struct kedge_proc proc;
	path_text pid;

	vol_path(c, name, "kclone.pid", pid);
	return agent_pid_read(pid, &proc) ? 0 : agent_session_list(&proc, out, max);
}

int plane_clone_call(const struct kedged_config *c, const char *name, const char *cmd, json_t *args, unsigned timeout_ms,
		     json_t **ret_result, struct kedge_err *err)
{
	path_text socket;

	vol_path(c, name, "ctl.sock", socket);
	return kedge_ctl_call(socket, cmd, args, timeout_ms, ret_result, err);
}

/* What a kclone that was killed leaves: a loop device over its FUSE file, and the mount. */
static void clean_after_clone(const struct kedged_config *c, const char *name)
{
	path_text disk;

	vol_path(c, name, "disk", disk);
	kedge_loopdev_abandon(disk);
	while (umount2(disk, MNT_DETACH) == 0)
		;
}

/* Wait for {"device":{"block":...}} in its status. */
static int wait_device(const struct kedged_config *c, const struct agent_unit *u, const struct kedge_proc *proc, const char *log,
		       char ret_device[AGENT_DEVICE_MAX], struct kedge_err *err)
{
	uint64_t end_ns = kedge_clock_ns() + (uint64_t)SERVE_TIMEOUT_MS * 1000000;
	char said[200];

	while (kedge_clock_ns() < end_ns) {
		json_t *status = NULL;
		const char *block = NULL;
		bool is_alive = kedge_proc_is_alive(proc);
		if (plane_clone_call(c, u->vol.name, "status", NULL, STATUS_TIMEOUT_MS, &status, NULL) == 0)
			block = json_string_value(json_object_get(json_object_get(status, "device"), "block"));
		if (block && *block && strlen(block) < AGENT_DEVICE_MAX) {
			strcpy(ret_device, block);
			json_decref(status);
			return 0;
		}
		json_decref(status);
		if (!is_alive) {
			last_line(log, said, sizeof said);
			return kedge_err_set(err, -EIO, KEDGE_SIDE_DESTINATION, "kclone serve ended: %s", said);
		}
		agent_nap(POLL_MS);
	}
	return kedge_err_set(err, -ETIMEDOUT, KEDGE_SIDE_DESTINATION, "kclone serve gave no device within %d s",
			     SERVE_TIMEOUT_MS / 1000);
}

static void argv_add(char **argv, int *n, char *option, char *value)
{
	argv[(*n)++] = option;
	argv[(*n)++] = value;
}

struct pace_texts {
	char floor[24], latency_factor[12], transit[10]; /* empty: kclone's own */
};

/* The move's word first, then the host's. */
static void pace_texts(const struct kedged_config *c, const struct pace *p, struct pace_texts *out)
{
	strcpy(out->floor, c->hydrate_floor);
	strcpy(out->latency_factor, c->latency_factor);
	strcpy(out->transit, p->transit[0] ? p->transit : c->transit);
	if (p->has_floor)
		snprintf(out->floor, sizeof out->floor, "%" PRIu64, p->floor_bps);
	if (p->has_latency)
		snprintf(out->latency_factor, sizeof out->latency_factor, "%u.%02u", p->latency_percent / 100 % 1000, p->latency_percent % 100);
}

int plane_clone_serve(const struct kedged_config *c, const struct agent_unit *u, char ret_device[AGENT_DEVICE_MAX],
		      struct kedge_err *err)
{
	path_text program, dir, disk, socket, pid, log;
	struct kedge_proc proc;
	int res;

	vol_path(c, u->vol.name, "", dir);
	vol_path(c, u->vol.name, "disk", disk);
	vol_path(c, u->vol.name, "ctl.sock", socket);
	vol_path(c, u->vol.name, "kclone.pid", pid);
	log_path(c, "kclone", u->vol.name, log);
	program_path(c, "kclone", program);
	if (plane_clone_find(c, u->vol.name, &proc))
		return wait_device(c, u, &proc, log, ret_device, err);
	if (agent_pid_read(pid, &proc) == 0) {
		/* The holder is dead; no worker of it may go on beside the new one. */
		if (agent_session_stop(&proc, 0))
			return kedge_err_set(err, -ETIMEDOUT, KEDGE_SIDE_DESTINATION, "the old kclone of %s does not end", u->vol.name);
		clean_after_clone(c, u->vol.name);
	}
	dir[strlen(dir) - 1] = 0;
	res = kedge_mkdir_p(dir, 0700, err);
	if (res)
		return res;
	bool is_kernel = plane_clone_is_kernel(u); /* a device of the kernel's, no file */
	char *argv[20] = {program, "serve", "--meta", (char *)u->clone.meta, "--block", "--control", socket, "--no-attach", "--no-hydrate"};
	int n = 9;
	if (!is_kernel)
		argv_add(argv, &n, "--fuse", disk);
	struct pace_texts texts;
	pace_texts(c, &u->clone.pace, &texts);
	if (texts.floor[0])
		argv_add(argv, &n, "--floor", texts.floor);
	if (texts.latency_factor[0])
		argv_add(argv, &n, "--latency-factor", texts.latency_factor);
	if (texts.transit[0])
		argv_add(argv, &n, "--transit", texts.transit);
	res = agent_spawn(&(struct agent_spawn_opts){.argv = argv, .envp = plane_env, .cwd = "/", .log_path = log, .pid_path = pid},
			  &proc, err);
	return res ? res : wait_device(c, u, &proc, log, ret_device, err);
}

int plane_clone_attach(const struct kedged_config *c, const struct agent_unit *u, struct kedge_err *err)
{
	path_text chap;
	json_t *args;
	int res;

	id_path(c, "chap", &u->vol, "clone", chap);
	res = kedge_chap_write(chap, &u->clone.chap, err);
	if (res)
		return res;
	args = json_pack("{s:s, s:s, s:i}", "url", u->clone.url, "chap_file", chap, "timeout_ms",
			 ATTACH_TIMEOUT_MS);
	res = plane_clone_call(c, u->vol.name, "attach", args, ATTACH_TIMEOUT_MS + 2000, NULL, err);
	json_decref(args);
	return res;
}

/* Of a clone that nobody serves: its devices go, for good. Refused where that would lose something. */
static bool give_up(const struct kedged_config *c, const struct agent_unit *u)
{
	path_text program, log;
	struct kedge_err err = {0};
	int code;

	program_path(c, "kclone", program);
	log_path(c, "kclone", u->vol.name, log);
	char *argv[] = {program, "abort", "--meta", (char *)u->clone.meta, NULL};
	return agent_run(&(struct agent_spawn_opts){.argv = argv, .envp = plane_env, .cwd = "/", .log_path = log}, ABORT_TIMEOUT_MS, &code,
			 &err) == 0 && code == 0;
}

int plane_clone_stop(const struct kedged_config *c, const struct agent_unit *u, struct kedge_err *err)
{
	struct kedge_proc proc;
	path_text pid, path;

	vol_path(c, u->vol.name, "kclone.pid", pid);
	if (agent_pid_read(pid, &proc) == 0 && !kedge_proc_is_alive(&proc) && plane_clone_has_device(u)) {
		/* the kernel's devices outlived it: whoever serves them again takes them down; or that one never serves again */
		char device[AGENT_DEVICE_MAX];
		if (plane_clone_serve(c, u, device, err)) {
			if (!give_up(c, u))
				return err->code;
			*err = (struct kedge_err){0};
		}
		agent_pid_read(pid, &proc);
	}
	if (agent_pid_read(pid, &proc) == 0) {
		if (kedge_proc_is_alive(&proc) &&
		    plane_clone_call(c, u->vol.name, "stop", NULL, STOP_TIMEOUT_MS, NULL, NULL) == 0)
			agent_session_wait(&proc, STOP_TIMEOUT_MS);
		if (agent_session_count(&proc) && agent_session_stop(&proc, STOP_TIMEOUT_MS))
			return kedge_err_set(err, -ETIMEDOUT, KEDGE_SIDE_DESTINATION, "kclone of %s does not end", u->vol.name);
	}
	clean_after_clone(c, u->vol.name);
	unlink(pid);
	vol_path(c, u->vol.name, "ctl.sock", path);
	unlink(path);
	return 0;
}

static void remove_secret(const char *path)
{
	if (unlink(path) < 0 && errno != ENOENT)
		kedge_warn("%s: %s", path, strerror(errno));
}

void plane_clone_drop_secret(const struct kedged_config *c, const struct agent_unit *u)
{
	path_text path;

	id_path(c, "chap", &u->vol, "clone", path);
	remove_secret(path);
}

int plane_clone_remove(const struct kedged_config *c, const struct agent_unit *u, struct kedge_err *err)
{
	path_text path;

	plane_clone_drop_secret(c, u);
	vol_path(c, u->vol.name, "disk", path);
	unlink(path);
	vol_path(c, u->vol.name, "", path);
	path[strlen(path) - 1] = 0;
	rmdir(path);
	return u->clone.meta[0] ? remove_meta(u, err) : 0;
}

/* ---- ktarget ---- */

bool plane_export_find(const struct kedged_config *c, const struct agent_unit *u, struct kedge_proc *ret_proc)
{
	path_text pid;

	id_path(c, "export", &u->vol, "pid", pid);
	return agent_pid_read(pid, ret_proc) == 0 && kedge_proc_is_alive(ret_proc);
}

/* "ktarget: listening on ADDR:PORT" in its output, and behind it perhaps "ktarget: N bytes of free space are left out". */
static bool read_port(const char *out_path, uint16_t *ret_port, uint64_t *ret_left_out_bytes)
{
	static const char mark[] = "ktarget: listening on ", free_mark[] = "\nktarget: ";
	char *text = NULL, *p, *end;
	size_t nr_bytes;
	bool is_there = false;

	if (kedge_file_read(out_path, 64 * 1024, &text, &nr_bytes, NULL))
		return false;
	for (p = strstr(text, mark); p && p != text && p[-1] != '\n'; p = strstr(p + 1, mark)) /* a line of its own, not words in one */
		;
	end = p ? strchr(p, '\n') : NULL;
	if (end) {
		unsigned long long left_out = 0;
		if (strncmp(end, free_mark, strlen(free_mark)) == 0)
			sscanf(end + strlen(free_mark), "%llu bytes of free space are left out\n", &left_out);
		*ret_left_out_bytes = left_out;
		*end = 0;
		p = strrchr(p, ':');
		unsigned long port = p ? strtoul(p + 1, NULL, 10) : 0;
		is_there = port > 0 && port <= 65535;
		*ret_port = (uint16_t)port;
	}
	free(text);
	return is_there;
}

static int wait_port(const char *out, const struct kedge_proc *proc, unsigned limit_ms, uint16_t *ret_port, uint64_t *ret_left_out_bytes,
		     struct kedge_err *err)
{
	uint64_t end_ns = kedge_clock_ns() + (uint64_t)limit_ms * 1000000;
	char said[200];

	while (kedge_clock_ns() < end_ns) {
		bool is_alive = kedge_proc_is_alive(proc);
		if (is_alive && read_port(out, ret_port, ret_left_out_bytes))
			return 0;
		if (!is_alive) {
			last_line(out, said, sizeof said);
			return kedge_err_set(err, -EIO, KEDGE_SIDE_SOURCE, "ktarget ended: %s", said);
		}
		agent_nap(POLL_MS);
	}
	return kedge_err_set(err, -ETIMEDOUT, KEDGE_SIDE_SOURCE, "ktarget does not listen within %u s", limit_ms / 1000);
}

/* One export is one volume for all that read it, from its first moment to its last: whatever the configuration says by then. */
static const char *free_space(const struct kedged_config *c, const struct agent_export *e)
{
	if (e->port)
		return e->left_out_bytes ? "must" : "copy";
	return c->is_free_skipped ? "skip" : "copy";
}

int plane_export_start(const struct kedged_config *c, const struct agent_unit *u, uint16_t *ret_port, uint64_t *ret_left_out_bytes,
		       struct kedge_err *err)
{
	char portal[KEDGED_ADDR_MAX + 16], serial[KEDGE_SERIAL_MAX];
	path_text program, chap, out, pid;
	struct kedge_proc proc;
	bool is_v6 = strchr(c->portal_address, ':') && c->portal_address[0] != '[';
	const char *free_how = free_space(c, &u->export);
	unsigned listen_ms = strcmp(free_how, "must") == 0 ? LISTEN_AGAIN_TIMEOUT_MS : LISTEN_TIMEOUT_MS;
	int res;

	id_path(c, "export", &u->vol, "chap", chap);
	id_path(c, "export", &u->vol, "out", out);
	id_path(c, "export", &u->vol, "pid", pid);
	program_path(c, "ktarget", program);
	if (plane_export_find(c, u, &proc) && u->export.port)
		return wait_port(out, &proc, listen_ms, ret_port, ret_left_out_bytes, err);
	/* One whose port nobody recorded, or what a dead one left. */
	if (agent_pid_read(pid, &proc) == 0 && agent_session_stop(&proc, 1000))
		return kedge_err_set(err, -ETIMEDOUT, KEDGE_SIDE_SOURCE, "the old ktarget of %s does not end", u->vol.name);
	res = kedge_chap_write(chap, &u->export.chap, err);
	if (res)
		return res;
	if (unlink(out) < 0 && errno != ENOENT)
		return kedge_err_set(err, -errno, KEDGE_SIDE_SOURCE, "%s: %s", out, strerror(errno));
	snprintf(portal, sizeof portal, is_v6 ? "[%s]:%u" : "%s:%u", c->portal_address, (unsigned)u->export.port);
	serial_text(&u->vol, serial);
	char *argv[] = {program, "--portal", portal, "--iqn", (char *)u->export.iqn, "--lun", (char *)u->vol.path, "--read-only",
			"--initiator", (char *)u->export.initiator, "--chap-file", chap, "--serial", serial,
			"--free-space", (char *)(uintptr_t)free_how, NULL};
	res = agent_spawn(&(struct agent_spawn_opts){.argv = argv, .envp = plane_env, .cwd = "/", .log_path = out, .pid_path = pid},
			  &proc, err);
	if (!res)
		res = wait_port(out, &proc, listen_ms, ret_port, ret_left_out_bytes, err);
	if (res)
		plane_export_stop(c, u, NULL);
	return res;
}

int plane_export_stop(const struct kedged_config *c, const struct agent_unit *u, struct kedge_err *err)
{
	struct kedge_proc proc;
	path_text path;

	id_path(c, "export", &u->vol, "pid", path);
	if (agent_pid_read(path, &proc) == 0 && agent_session_stop(&proc, 2000))
		return kedge_err_set(err, -ETIMEDOUT, KEDGE_SIDE_SOURCE, "ktarget of %s does not end", u->vol.name);
	unlink(path);
	id_path(c, "export", &u->vol, "chap", path);
	remove_secret(path);
	id_path(c, "export", &u->vol, "out", path);
	unlink(path);
	return 0;
}
