/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The clones of the differential test: made, served, killed, finished.
 *
 * Owns. The kclone processes, loop and device-mapper devices that it makes. Locks. None.
 */
#include "trace_leg.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/ctl.h"
#include "kedge/err.h"

#define ANSWER_MS 20000u
#define WAIT_MS 60000u
#define FOREIGN 0xdb
#define RATE "2M"

extern char **environ;
void (*leg_die_fn)(const char *leg, const char *what);

void leg_die(const struct leg *l, const char *fmt, ...)
{
	char what[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	leg_die_fn(l->name, what);
	abort();
}

static void nap_ms(unsigned ms)
{
	const struct timespec t = {.tv_nsec = (long)ms * 1000000};

	nanosleep(&t, NULL);
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- programs ---- */

/* out_fd: -1: into the log */
static pid_t spawn(struct leg *l, char *const *argv, int out_fd)
{
	posix_spawn_file_actions_t fa;
	pid_t pid;

	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&fa, 2, l->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	posix_spawn_file_actions_adddup2(&fa, out_fd >= 0 ? out_fd : 2, 1);
	int r = posix_spawnp(&pid, argv[0], &fa, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	if (r != 0)
		leg_die(l, "cannot start %s: %s", argv[0], strerror(r));
	return pid;
}

static void run(struct leg *l, ...)
{
	char *argv[24];
	va_list ap;
	unsigned n = 0;
	int status;

	va_start(ap, l);
	do
		argv[n] = va_arg(ap, char *);
	while (argv[n++] && n < 24);
	va_end(ap);
	pid_t pid = spawn(l, argv, -1);
	if (waitpid(pid, &status, 0) != pid || status != 0)
		leg_die(l, "%s %s ended with status 0x%x", argv[0], argv[1], status);
}

/* The first line that a program says; it goes on. */
static pid_t first_line(struct leg *l, char *const *argv, char line[512])
{
	int p[2];
	size_t n = 0;

	if (pipe2(p, O_CLOEXEC) < 0)
		leg_die(l, "pipe: %s", strerror(errno));
	pid_t pid = spawn(l, argv, p[1]);
	close(p[1]);
	while (n < 511 && read(p[0], line + n, 1) == 1 && line[n] != '\n')
		n++;
	line[n] = 0;
	close(p[0]);
	if (n == 0)
		leg_die(l, "%s %s ended before it said anything", argv[0], argv[1]);
	return pid;
}

#define ARG(text) ((char *)(uintptr_t)(text))

static void attach_loop(struct leg *l, const char *file, char out[32])
{
	char line[512];
	char *argv[] = {ARG("losetup"), ARG("-f"), ARG("--show"), ARG(file), NULL};
	pid_t pid = first_line(l, argv, line);

	waitpid(pid, NULL, 0);
	snprintf(out, 32, "%.31s", line);
}

/* ---- files ---- */

static void make_file(struct leg *l, const char *path, uint64_t nr_bytes, int fill)
{
	static uint8_t buf[65536];
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	memset(buf, fill, sizeof buf);
	for (uint64_t at = 0; at < nr_bytes; at += sizeof buf)
		if (pwrite(fd, buf, kedge_min_u64(sizeof buf, nr_bytes - at), (off_t)at) < 0)
			leg_die(l, "cannot write %s: %s", path, strerror(errno));
	close(fd);
}

/* ---- ours ---- */

/* A worker that is killed takes the question along, and one that commits by itself has no time: it is asked again. */
static json_t *call(struct leg *l, const char *cmd)
{
	uint64_t end = now_ms() + ANSWER_MS;
	json_t *result = NULL;

	for (;;) {
		struct kedge_err err = {0};
		int r = kedge_ctl_call(l->control, cmd, NULL, ANSWER_MS, &result, &err);
		if (r == 0)
			return result;
		if ((r != KEDGE_E_UNREACHABLE && r != -EBUSY) || now_ms() > end)
			leg_die(l, "%s: %s", cmd, err.msg);
		nap_ms(20);
	}
}

static void serve_ours(struct leg *l)
{
	char line[512], *at;
	char *argv[] = {ARG(l->kclone), ARG("serve"), ARG("--meta"), l->meta, ARG("--block"), ARG("--control"), l->control, ARG("--no-hydrate"),
			ARG("--rate"), ARG(RATE), NULL};

	l->holder = first_line(l, argv, line);
	at = strstr(line, "block=");
	if (!at)
		leg_die(l, "kclone said: %s", line);
	snprintf(l->device, sizeof l->device, "%.*s", (int)strcspn(at + 6, " "), at + 6);
}

static bool wait_exit(struct leg *l, int *ret_status)
{
	for (uint64_t end = now_ms() + WAIT_MS; now_ms() < end; nap_ms(2))
		if (waitpid(l->holder, ret_status, WNOHANG) == l->holder)
			return true;
	return false;
}

/* Processes whose parent is the holder: worker and driver. */
static unsigned children(const struct leg *l, pid_t out[8])
{
	unsigned nr = 0;
	DIR *d = opendir("/proc");
	struct dirent *e;

	while (d && (e = readdir(d)) && nr < 8) {
		char path[300], text[512] = "", *at;
		int ppid = 0;
		if (e->d_name[0] < '1' || e->d_name[0] > '9')
			continue;
		snprintf(path, sizeof path, "/proc/%s/stat", e->d_name);
		FILE *f = fopen(path, "re");
		if (!f)
			continue;
		if (fgets(text, sizeof text, f) && (at = strrchr(text, ')')) && sscanf(at, ") %*c %d", &ppid) == 1 && ppid == l->holder)
			out[nr++] = atoi(e->d_name);
		fclose(f);
	}
	if (d)
		closedir(d);
	return nr;
}

static void wait_gone(struct leg *l, pid_t pid)
{
	for (uint64_t end = now_ms() + WAIT_MS; kill(pid, 0) == 0; nap_ms(2))
		if (now_ms() > end)
			leg_die(l, "process %d does not end", pid);
}

static void crash_ours(struct leg *l)
{
	pid_t pid[8];

	/* none sees the others die */
	kill(l->holder, SIGSTOP);
	unsigned nr = children(l, pid);
	for (unsigned i = 0; i < nr; i++)
		kill(pid[i], SIGSTOP);
	for (unsigned i = 0; i < nr; i++)
		kill(pid[i], SIGKILL);
	kill(l->holder, SIGKILL);
	waitpid(l->holder, NULL, 0);
	for (unsigned i = 0; i < nr; i++)
		wait_gone(l, pid[i]);
}

void leg_kill_worker(struct leg *l, bool is_driver)
{
	pid_t pid[8];
	int victim = 0;
	json_t *s = call(l, "status");

	victim = (int)json_integer_value(json_object_get(s, "worker_pid"));
	json_decref(s);
	for (unsigned nr = is_driver ? children(l, pid) : 0; nr > 0; nr--)
		if (pid[nr - 1] != victim) {
			victim = pid[nr - 1];
			break;
		}
	if (victim <= 0 || kill(victim, SIGKILL) < 0)
		leg_die(l, "no process to kill");
}

void leg_ask(struct leg *l, const char *cmd)
{
	if (l->kind != LEG_PLAIN)
		json_decref(call(l, cmd));
}

/* ---- plain dm-clone ---- */

static void serve_plain(struct leg *l)
{
	char table[300];

	snprintf(table, sizeof table, "0 %" PRIu64 " clone %s %s %s %" PRIu64 " 1 no_hydration", l->size_bytes / 512, l->loops[0], l->loops[1],
		 l->loops[2], l->region_bytes / 512);
	run(l, "dmsetup", "create", "trace-plain", "--noudevsync", "--noudevrules", "--table", table, NULL);
	run(l, "dmsetup", "mknodes", "trace-plain", NULL);
	snprintf(l->device, sizeof l->device, "/dev/mapper/trace-plain");
}

static void create_plain(struct leg *l)
{
	make_file(l, l->meta, 4 << 20, 0);
	attach_loop(l, l->meta, l->loops[0]);
	attach_loop(l, l->dest, l->loops[1]);
	attach_loop(l, l->source, l->loops[2]);
}

/* ---- all ---- */

static void open_device(struct leg *l)
{
	l->fd = open(l->device, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (l->fd < 0)
		leg_die(l, "cannot open %s: %s", l->device, strerror(errno));
}

void leg_serve(struct leg *l)
{
	(l->kind == LEG_PLAIN ? serve_plain : serve_ours)(l);
	open_device(l);
}

void leg_create(struct leg *l, uint64_t seed)
{
	char region[32], cmd[600];

	snprintf(cmd, sizeof cmd, "rm -rf '%s' && mkdir -p '%s'", l->dir, l->dir);
	if (system(cmd) != 0)
		leg_die(l, "cannot make %s", l->dir);
	snprintf(l->meta, sizeof l->meta, "%s/meta", l->dir);
	snprintf(l->dest, sizeof l->dest, "%s/dest", l->dir);
	snprintf(l->control, sizeof l->control, "%s/control", l->dir);
	snprintf(l->log, sizeof l->log, "%s/log", l->dir);
	snprintf(region, sizeof region, "%" PRIu64, l->region_bytes);
	l->fd = -1;
	l->is_alone = false;
	tr_init(&l->m, seed, l->size_bytes / TR_SECTOR);
	make_file(l, l->dest, l->size_bytes, FOREIGN);
	if (l->kind == LEG_USER)
		run(l, l->kclone, "create", "--source", l->source, "--dest", l->dest, "--meta", l->meta, "--engine", "user", NULL);
	else if (l->kind == LEG_DM)
		run(l, l->kclone, "create", "--source", l->source, "--dest", l->dest, "--meta", l->meta, "--engine", "dm", "--region", region, NULL);
	else
		create_plain(l);
	leg_serve(l);
}

void leg_stop(struct leg *l)
{
	int status = 0;

	close(l->fd);
	l->fd = -1;
	if (l->kind == LEG_PLAIN) {
		run(l, "dmsetup", "remove", "--noudevsync", "--retry", "trace-plain", NULL);
		return;
	}
	json_decref(call(l, "stop"));
	if (!wait_exit(l, &status))
		leg_die(l, "kclone serve does not end");
	if (status != 0)
		leg_die(l, "kclone serve ended with status 0x%x", status);
}

void leg_crash(struct leg *l)
{
	if (l->kind == LEG_PLAIN) { /* nothing of it is a process */
		leg_stop(l);
		return;
	}
	close(l->fd);
	l->fd = -1;
	crash_ours(l);
}

static bool is_status(struct leg *l, const char *object, const char *key, const char *text, uint64_t number)
{
	json_t *s = call(l, "status"), *at = object ? json_object_get(s, object) : s, *v = json_object_get(at, key);
	bool is = text ? json_is_string(v) && strcmp(json_string_value(v), text) == 0 : (uint64_t)json_integer_value(v) == number;

	json_decref(s);
	return is;
}

static void wait_status(struct leg *l, const char *object, const char *key, const char *text, uint64_t number)
{
	for (uint64_t end = now_ms() + WAIT_MS; !is_status(l, object, key, text, number); nap_ms(10))
		if (now_ms() > end)
			leg_die(l, "waited in vain for %s %s", key, text ? text : "to be all");
}

void leg_finish(struct leg *l)
{
	if (l->kind == LEG_PLAIN)
		return;
	leg_ask(l, "hydrate");
	leg_ask(l, "resume"); /* it may have been paused, and stays so until then */
	wait_status(l, NULL, "durable_bytes", NULL, l->size_bytes);
	leg_ask(l, "verify");
	wait_status(l, "verify", "state", "passed", 0);
	leg_ask(l, "finish");
	l->is_alone = true;
}

static void judge_dest(struct leg *l)
{
	static uint8_t buf[TR_SECTOR];
	int fd = open(l->dest, O_RDONLY | O_CLOEXEC);

	for (uint64_t i = 0; i < l->m.nr_sectors; i++) {
		const char *why = pread(fd, buf, sizeof buf, (off_t)(i * TR_SECTOR)) == (ssize_t)sizeof buf ? tr_judge(&l->m, i, buf) : "short";
		if (why)
			leg_die(l, "the destination's sector %" PRIu64 ": %s", i, why);
	}
	close(fd);
}

void leg_end(struct leg *l)
{
	leg_stop(l);
	if (l->kind == LEG_PLAIN) {
		for (unsigned i = 0; i < 3; i++)
			run(l, "losetup", "-d", l->loops[i], NULL);
	} else {
		run(l, l->kclone, "check", "--meta", l->meta, NULL);
	}
	if (l->is_alone)
		judge_dest(l);
	tr_fini(&l->m);
}
