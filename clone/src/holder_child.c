/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The processes of a holder: worker, driver, and short-lived helpers. Whatever opens the FUSE file must not run in the holder, for it
 * would wait for a worker that only the holder can start.
 *
 * Owns. Nothing: pids and pipes are in struct holder.
 *
 * Locks. None: one thread.
 *
 * Crash. Each ends when the holder dies: worker and driver by SIGTERM (parent-death signal), a helper by SIGKILL.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "holder_int.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/loopdev.h"

#define DETACH_MS 10000

static void child_signals(void)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void exec_child(struct holder *h, const char *verb, int ready_w)
{
	char *argv[64];
	int n = 0;

	sigset_t term;

	/* a stop may come at any moment: a driver lets it in once it can take it, and would die of it before */
	sigemptyset(&term);
	if (strcmp(verb, "driver") == 0)
		sigaddset(&term, SIGTERM);
	sigprocmask(SIG_SETMASK, &term, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != h->share->holder_pid)
		_exit(1); /* the holder died in between */
	for (int i = 0; i < HOLDER_NR_FDS; i++) {
		int fd = i == HOLDER_NR_FDS - 1 ? ready_w : h->fds[i];
		if (fd >= 0)
			dup2(fd, HOLDER_FD_FUSE + i); /* without close-on-exec */
		else
			close(HOLDER_FD_FUSE + i);
	}
	/* nothing else goes on to a process that lives as long as the volume is served */
	close_range(3, HOLDER_FD_FUSE - 1, CLOSE_RANGE_CLOEXEC);
	close_range(HOLDER_FD_FUSE + HOLDER_NR_FDS, ~0u, CLOSE_RANGE_CLOEXEC);
	argv[n++] = (char *)(uintptr_t)"kclone";
	argv[n++] = (char *)(uintptr_t)verb;
	for (char *const *a = h->o->worker_argv; *a && n < 63; a++)
		argv[n++] = *a;
	argv[n] = NULL;
	execv("/proc/self/exe", argv);
	kedge_error("cannot start the %s: %s", verb, strerror(errno));
	_exit(127);
}

/* A worker or driver, and the pipe on which it says that it is ready. */
static int start_child(struct holder *h, const char *verb, pid_t *ret_pid, int *ready_fd)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	p[0] = holder_raise_fd(p[0]);
	p[1] = holder_raise_fd(p[1]);
	*ret_pid = fork();
	if (*ret_pid == 0)
		exec_child(h, verb, p[1]);
	kedge_close(p[1]);
	kedge_close(*ready_fd);
	*ready_fd = p[0];
	return *ret_pid < 0 ? -errno : 0;
}

int holder_start_worker(struct holder *h)
{
	h->share->nr_workers++;
	h->started_ns = kedge_clock_ns();
	return start_child(h, "worker", &h->worker, &h->ready_fd);
}

void holder_start_driver(struct holder *h)
{
	h->is_driver_wanted = true;
	start_child(h, "driver", &h->driver, &h->driver_ready_fd);
}

/* In a process of its own: attach a loop device to the FUSE file and say so in the shared page. */
static void run_attach(struct holder *h)
{
	struct kedge_err err = {0};
	char path[KEDGE_LOOPDEV_MAX];

	child_signals();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (kedge_loopdev_attach(h->fuse_path, h->o->lbs_bytes, path, &err) < 0) {
		kedge_error("%s", err.msg);
		_exit(1);
	}
	memcpy(h->share->loop_path, path, sizeof h->share->loop_path);
	_exit(0);
}

/* Likewise: detach and unmount, while the worker still serves. Exit 0: both done; 1: somebody holds on. */
static void run_detach(struct holder *h)
{
	struct kedge_err err = {0};
	uint64_t deadline = kedge_clock_ns() + DETACH_MS * 1000000ull;

	child_signals();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (h->share->loop_path[0] || (h->o->is_top && h->fuse_path[0])) {
		if (kedge_loopdev_detach(h->fuse_path, DETACH_MS, &err) < 0) {
			kedge_error("not stopping: %s", err.msg);
			_exit(1);
		}
		h->share->loop_path[0] = 0;
	}
	while (h->fds[0] >= 0 && umount2(h->fuse_path, UMOUNT_NOFOLLOW) < 0 && errno != EINVAL) {
		if (errno != EBUSY || kedge_clock_ns() > deadline) {
			kedge_error("not stopping: cannot unmount %s: %s", h->fuse_path, strerror(errno));
			_exit(1);
		}
		usleep(5000);
	}
	_exit(0);
}

static void start_helper(struct holder *h, void (*run)(struct holder *h), bool is_detach)
{
	h->is_helper_detach = is_detach;
	h->helper = fork();
	if (h->helper == 0)
		run(h);
}

void holder_start_attach(struct holder *h)
{
	start_helper(h, run_attach, false);
}

void holder_start_detach(struct holder *h)
{
	start_helper(h, run_detach, true);
}
