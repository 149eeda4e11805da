/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Start processes that outlive the daemon, run short ones to their end, stop whole sessions.
 *
 * Owns. Nothing: what runs belongs to init, and is found again by its pid file.
 *
 * Locks. None; callable from several worker threads.
 *
 * Crash. The new process waits at a gate until its pid file is written, and leaves when the daemon dies before it opened
 * the gate. So a program that runs has a pid file, at every point where the daemon may be killed.
 */
#include "agent_spawn.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kedge/file.h"
#include "kedge/loop.h"

#define KILL_WAIT_MS 5000

void agent_nap(unsigned ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&t, NULL);
}

/* ---- the child's side: async-signal-safe calls only ---- */

static void reset_signals(void)
{
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int redirect(const char *log_path)
{
	int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int out = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		return -errno;
	return 0;
}

/* Becomes the program; on failure the errno goes to report_fd. */
static _Noreturn void become(const struct agent_spawn_opts *o, int report_fd)
{
	int res;

	reset_signals();
	umask(022);
	res = redirect(o->log_path);
	if (!res && chdir(o->cwd) < 0)
		res = -errno;
	if (!res) {
		syscall(SYS_close_range, 3, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */);
		environ = (char **)o->envp;
		execvp(o->argv[0], o->argv);
		res = -errno;
	}
	if (write(report_fd, &res, sizeof res) != sizeof res)
		_exit(126);
	_exit(127);
}

struct spawn_pipes {
	int report[2]; /* child to parent: pid, then the errno of a failed exec */
	int gate[2];   /* parent to child: go */
};

static _Noreturn void spawn_child(const struct agent_spawn_opts *o, struct spawn_pipes *p)
{
	pid_t pid = fork();
	char go;

	if (pid) {
		if (write(p->report[1], &pid, sizeof pid) != sizeof pid)
			_exit(1);
		_exit(0);
	}
	/* The parent's end must go, or the gate would never read as closed when the parent dies. */
	close(p->gate[1]);
	setsid();
	if (read(p->gate[0], &go, 1) != 1)
		_exit(1);
	become(o, p->report[1]);
}

/* ---- the parent's side ---- */

static int pid_write(const char *path, const struct kedge_proc *p, struct kedge_err *err)
{
	char text[128];
	int n = snprintf(text, sizeof text, "%d %llu %s\n", (int)p->pid, (unsigned long long)p->start_ticks, p->boot_id);

	return kedge_file_replace(path, text, (size_t)n, 0600, err);
}

int agent_pid_read(const char *pid_path, struct kedge_proc *ret_proc)
{
	struct kedge_proc p = {0};
	unsigned long long start;
	char *text;
	size_t nr_bytes;
	int pid, n, res = kedge_file_read(pid_path, 128, &text, &nr_bytes, NULL);

	if (res)
		return res;
	n = sscanf(text, "%d %llu %39s", &pid, &start, p.boot_id);
	free(text);
	if (n != 3 || pid <= 0)
		return -EINVAL;
	p.pid = pid;
	p.start_ticks = start;
	*ret_proc = p;
	return 0;
}

static void close_pair(int fds[2])
{
	kedge_close(fds[0]);
	kedge_close(fds[1]);
}

/* The child waits at the gate: learn who it is, write it down, let it go, learn whether exec worked. */
static int spawn_parent(const struct agent_spawn_opts *o, struct spawn_pipes *p, struct kedge_proc *ret_proc,
			struct kedge_err *err)
{
	struct kedge_proc proc;
	pid_t pid;
	int res, exec_res;

	if (read(p->report[0], &pid, sizeof pid) != sizeof pid || pid <= 0)
		return kedge_err_set(err, -EAGAIN, KEDGE_SIDE_NONE, "%s: no new process", o->argv[0]);
	res = kedge_proc_identify(pid, &proc);
	if (res)
		return kedge_err_set(err, res, KEDGE_SIDE_NONE, "%s: the new process is gone", o->argv[0]);
	if (o->pid_path)
		res = pid_write(o->pid_path, &proc, err);
	if (res)
		return res;
	if (write(p->gate[1], "g", 1) != 1)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "%s: %s", o->argv[0], strerror(errno));
	close(p->report[1]);
	p->report[1] = -1;
	if (read(p->report[0], &exec_res, sizeof exec_res) == sizeof exec_res) {
		if (o->pid_path)
			unlink(o->pid_path);
		return kedge_err_set(err, exec_res, KEDGE_SIDE_NONE, "cannot run %s: %s", o->argv[0], strerror(-exec_res));
	}
	*ret_proc = proc;
	return 0;
}

int agent_spawn(const struct agent_spawn_opts *o, struct kedge_proc *ret_proc, struct kedge_err *err)
{
	struct spawn_pipes p = {{-1, -1}, {-1, -1}};
	pid_t child;
	int res;

	if (pipe2(p.report, O_CLOEXEC) < 0 || pipe2(p.gate, O_CLOEXEC) < 0) {
		res = kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "no pipe: %s", strerror(errno));
		goto out;
	}
	child = fork();
	if (child < 0) {
		res = kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "no new process: %s", strerror(errno));
		goto out;
	}
	if (child == 0)
		spawn_child(o, &p);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	res = spawn_parent(o, &p, ret_proc, err);
out:
	/* Closing the gate unopened makes a child that waits there leave. */
	close_pair(p.report);
	close_pair(p.gate);
	return res;
}

static int wait_child(pid_t pid, unsigned timeout_ms, int *ret_status)
{
	uint64_t end_ns = kedge_clock_ns() + (uint64_t)timeout_ms * 1000000;
	struct pollfd pfd = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
	int res = -ETIMEDOUT;

	for (;;) {
		pid_t got = waitpid(pid, ret_status, WNOHANG);
		uint64_t now_ns = kedge_clock_ns();
		if (got == pid) {
			res = 0;
			break;
		}
		if (now_ns >= end_ns)
			break;
		if (pfd.fd >= 0)
			poll(&pfd, 1, (int)((end_ns - now_ns) / 1000000 + 1));
		else
			agent_nap(10);
	}
	kedge_close(pfd.fd);
	return res;
}

int agent_run(const struct agent_spawn_opts *o, unsigned timeout_ms, int *ret_exit_code, struct kedge_err *err)
{
	struct kedge_proc proc;
	int report[2], exec_res = 0, status = 0, res;
	pid_t pid;

	if (pipe2(report, O_CLOEXEC) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "no pipe: %s", strerror(errno));
	pid = fork();
	if (pid == 0) {
		setsid();
		become(o, report[1]);
	}
	close(report[1]);
	if (pid < 0 || (read(report[0], &exec_res, sizeof exec_res) == sizeof exec_res)) {
		res = pid < 0 ? -errno : exec_res;
		close(report[0]);
		if (pid > 0)
			waitpid(pid, NULL, 0);
		return kedge_err_set(err, res, KEDGE_SIDE_NONE, "cannot run %s: %s", o->argv[0], strerror(-res));
	}
	close(report[0]);
	/* Not waited for yet: the pid stays taken, so this names the right process even when it has ended. */
	if (kedge_proc_identify(pid, &proc))
		memset(&proc, 0, sizeof proc);
	res = wait_child(pid, timeout_ms, &status);
	if (res) {
		agent_session_stop(&proc, 0);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		return kedge_err_set(err, -ETIMEDOUT, KEDGE_SIDE_NONE, "%s did not end within %u ms and was killed", o->argv[0],
				     timeout_ms);
	}
	*ret_exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	return 0;
}

/* ---- sessions ---- */

struct stat_line {
	char state;
	int session;
	unsigned long long start_ticks;
};

static int read_stat_line(pid_t pid, struct stat_line *ret)
{
	char path[40], text[1024];
	const char *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -ESRCH;
	n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0)
		return -ESRCH;
	text[n] = 0;
	/* The command name may hold anything: the fields start after the last ")". */
	p = strrchr(text, ')');
	if (!p || sscanf(p + 1, " %c %*d %*d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ret->state,
			 &ret->session, &ret->start_ticks) != 3)
		return -ESRCH;
	return 0;
}

/* Signals each member (sig 0: nothing) and lists it (out may be NULL); the count of those that are no zombies. */
static unsigned for_session(const struct kedge_proc *leader, int sig, pid_t *out, unsigned max)
{
	struct kedge_proc now;
	struct stat_line line;
	struct dirent *e;
	unsigned n = 0;
	DIR *dir;

	/* A session's number is not given to a new process while a member lives. So when the number is taken by a process
	 * that is not the leader, no member is left. */
	if (leader->pid <= 0)
		return 0;
	if (read_stat_line(leader->pid, &line) == 0 && line.start_ticks != leader->start_ticks)
		return 0;
	/* Nothing lives on across a boot. */
	if (kedge_proc_identify(getpid(), &now) == 0 && strcmp(now.boot_id, leader->boot_id) != 0)
		return 0;
	dir = opendir("/proc");
	if (!dir)
		return 1; /* cannot tell: not gone */
	while ((e = readdir(dir))) {
		pid_t pid = isdigit((unsigned char)e->d_name[0]) ? atoi(e->d_name) : 0;
		if (pid <= 0 || read_stat_line(pid, &line) || line.session != leader->pid || line.state == 'Z' ||
		    line.state == 'X')
			continue;
		if (out && n < max)
			out[n] = pid;
		n++;
		if (sig)
			kill(pid, sig);
	}
	closedir(dir);
	return n;
}

unsigned agent_session_count(const struct kedge_proc *leader)
{
	return for_session(leader, 0, NULL, 0);
}

unsigned agent_session_list(const struct kedge_proc *leader, pid_t *out, unsigned max)
{
	unsigned n = for_session(leader, 0, out, max);

	return n < max ? n : max;
}

unsigned agent_session_kill(const struct kedge_proc *leader, int sig)
{
	return for_session(leader, sig, NULL, 0);
}

bool agent_session_wait(const struct kedge_proc *leader, unsigned timeout_ms)
{
	uint64_t end_ns = kedge_clock_ns() + (uint64_t)timeout_ms * 1000000;
	unsigned nap_ms = 2;

	while (agent_session_count(leader)) {
		if (kedge_clock_ns() >= end_ns)
			return false;
		agent_nap(nap_ms);
		nap_ms = nap_ms < 50 ? nap_ms * 2 : 50;
	}
	return true;
}

int agent_session_stop(const struct kedge_proc *leader, unsigned grace_ms)
{
	if (grace_ms) {
		agent_session_kill(leader, SIGTERM);
		if (agent_session_wait(leader, grace_ms))
			return 0;
	}
	agent_session_kill(leader, SIGKILL);
	return agent_session_wait(leader, KILL_WAIT_MS) ? 0 : -ETIMEDOUT;
}
