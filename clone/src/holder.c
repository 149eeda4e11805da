/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The holder: keeps the /dev/fuse descriptor, the mount, the loop device, the listening sockets and the shared request
 * memory (holder_setup.c) while workers come and go (holder_child.c).
 *
 * Owns. All of those, and the processes.
 *
 * Locks. None: one thread, poll(2) over a signalfd and the ready pipe.
 *
 * Crash. The holder writes nothing durable. If it dies, the worker gets SIGTERM (parent-death signal), commits and ends; the dead
 * mount and the loop device are cleaned up by the next holder of the same file.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "holder_int.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/loopdev.h"

#define YOUNG_MS 250 /* a worker that dies earlier than this is slowed down: those above it wait meanwhile */
#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 5000
#define LOOK_MS 1000 /* how long a loop device may be gone before it is noticed */

/* Its device is where it needs no loop device of ours. */
static bool is_alone(const struct holder *h)
{
	return __atomic_load_n(&h->share->dm.phase, __ATOMIC_ACQUIRE) == DM_PHASE_ALONE;
}

static void tell_ready(struct holder *h)
{
	if (h->is_ready_told)
		return;
	h->is_ready_told = true;
	printf("kclone: serving");
	if (h->fds[0] >= 0)
		printf(" fuse=%s", h->fuse_path);
	if (holder_has_driver(h))
		printf(" block=%s", h->share->dm.top_path);
	else if (h->share->loop_path[0])
		printf(" block=%s", h->share->loop_path);
	if (h->o->nbd_path)
		printf(" nbd=%s", h->o->nbd_path);
	printf("\n");
	fflush(stdout);
}

static void worker_ready(struct holder *h)
{
	char c;
	ssize_t n = read(h->ready_fd, &c, 1);

	kedge_close(h->ready_fd);
	h->ready_fd = -1;
	if (n != 1)
		return; /* it died: SIGCHLD says more */
	h->backoff_ms = 0;
	if (h->o->is_block && !h->share->loop_path[0] && !h->is_stopping && h->helper <= 0 && !is_alone(h))
		holder_start_attach(h);
	else if (!holder_has_driver(h))
		tell_ready(h);
	else if (!h->is_driver_wanted && !h->is_stopping && h->helper <= 0)
		holder_start_driver(h);
}

static void driver_ready(struct holder *h)
{
	char c;
	ssize_t n = read(h->driver_ready_fd, &c, 1);

	kedge_close(h->driver_ready_fd);
	h->driver_ready_fd = -1;
	if (n != 1)
		return;
	h->driver_backoff_ms = 0;
	if (h->is_stopping)
		kill(h->driver, SIGTERM);
	else
		tell_ready(h);
}

/* An operator's losetup -D and the like: our device is free, or already another file's. Its next user is to find a new one. */
static void look_at_device(struct holder *h)
{
	if (!h->share->loop_path[0] || h->is_stopping || h->is_unmounted || h->helper > 0 || h->worker <= 0 ||
	    kedge_loopdev_is_of(h->share->loop_path, h->fuse_path))
		return;
	kedge_warn("%s was detached from %s by somebody else: attaching a new one", h->share->loop_path, h->fuse_path);
	h->share->loop_path[0] = 0;
	holder_start_attach(h);
}

static void begin_stop(struct holder *h)
{
	if (h->is_stopping)
		return;
	h->is_stopping = true;
	if (h->is_driver_wanted && !h->is_driver_done) { /* the devices above go first, and only it knows them */
		if (h->driver <= 0)
			holder_start_driver(h);
		else
			kill(h->driver, SIGTERM);
		return;
	}
	if (h->helper <= 0)
		holder_start_detach(h);
}

static void stop_worker(struct holder *h)
{
	h->is_unmounted = true;
	if (h->worker > 0) {
		kill(h->worker, SIGTERM);
	} else {
		h->is_over = true;
	}
}

/* A stop took the device above away and could not go on, for somebody has the file open: the device comes back. */
static void serve_again(struct holder *h)
{
	if (!h->o->is_top || !h->is_driver_done)
		return;
	h->is_driver_wanted = h->is_driver_done = false;
	if (h->o->is_block && !h->share->loop_path[0])
		holder_start_attach(h);
	else
		holder_start_driver(h);
}

static void helper_ended(struct holder *h, int status)
{
	bool is_good = WIFEXITED(status) && WEXITSTATUS(status) == 0;

	h->helper = 0;
	if (h->is_helper_detach) {
		if (is_good || h->exit_code) { /* one that cannot serve ends, whoever holds on */
			stop_worker(h);
		} else {
			h->is_stopping = false; /* it goes on serving; ask again when nobody holds the device */
			serve_again(h);
		}
		return;
	}
	if (h->is_stopping) {
		holder_start_detach(h);
	} else if (is_good && holder_has_driver(h)) {
		if (!h->is_driver_wanted)
			holder_start_driver(h);
	} else if (is_good) {
		tell_ready(h);
	} else {
		h->exit_code = KEDGE_EXIT_FAILED;
		begin_stop(h);
	}
}

/* Exit codes of a worker that no restart can mend. */
static bool is_final(int code)
{
	return code == KEDGE_EXIT_USAGE || code == KEDGE_EXIT_REFUSED ||
	       (code >= KEDGE_EXIT_META_MISSING && code <= KEDGE_EXIT_VERIFY);
}

static void worker_ended(struct holder *h, int status)
{
	uint64_t age_ms = (kedge_clock_ns() - h->started_ns) / 1000000;

	h->worker = 0;
	if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || is_final(WEXITSTATUS(status)))) {
		if (h->exit_code == 0)
			h->exit_code = WEXITSTATUS(status);
		h->is_over = true;
		return;
	}
	if (h->is_unmounted) {
		/* It died while it drained: nobody waits for it any more, but its commit is owed. The next open finds an unclean stop. */
		h->exit_code = KEDGE_EXIT_FAILED;
		h->is_over = true;
		return;
	}
	if (WIFSIGNALED(status))
		kedge_warn("worker %u was ended by signal %d after %llu ms: starting the next", h->share->nr_workers, WTERMSIG(status),
			   (unsigned long long)age_ms);
	else
		kedge_warn("worker %u ended with code %d after %llu ms: starting the next", h->share->nr_workers,
			   WEXITSTATUS(status), (unsigned long long)age_ms);
	if (age_ms >= YOUNG_MS)
		h->backoff_ms = 0;
	h->restart_ns = kedge_clock_ns() + h->backoff_ms * 1000000ull;
	h->backoff_ms = (unsigned)kedge_min_u64(h->backoff_ms ? h->backoff_ms * 2 : BACKOFF_MIN_MS, BACKOFF_MAX_MS);
}

static void driver_ended(struct holder *h, int status)
{
	bool is_good = WIFEXITED(status) && WEXITSTATUS(status) == 0;

	h->driver = 0;
	if (h->is_stopping && is_good) {
		h->is_driver_done = true;
		if (h->helper <= 0)
			holder_start_detach(h);
		return;
	}
	if (WIFEXITED(status) && !is_good && (!h->is_ready_told || is_final(WEXITSTATUS(status)))) {
		/* it could not begin, and said why */
		h->exit_code = WEXITSTATUS(status);
		h->is_driver_done = true;
		h->is_stopping = false;
		begin_stop(h);
		return;
	}
	if (WIFSIGNALED(status))
		kedge_warn("the driver was ended by signal %d: starting the next", WTERMSIG(status));
	else
		h->is_stopping = false; /* refused: the workload has its device open; ask again later */
	h->driver_restart_ns = kedge_clock_ns() + h->driver_backoff_ms * 1000000ull;
	h->driver_backoff_ms = (unsigned)kedge_min_u64(h->driver_backoff_ms ? h->driver_backoff_ms * 2 : BACKOFF_MIN_MS, BACKOFF_MAX_MS);
}

static bool is_driver_due(const struct holder *h)
{
	return h->is_driver_wanted && !h->is_driver_done && h->driver <= 0 && !h->is_unmounted;
}

static void reap(struct holder *h)
{
	int status;
	pid_t pid = waitpid(-1, &status, WNOHANG);

	while (pid > 0) {
		if (pid == h->worker)
			worker_ended(h, status);
		else if (pid == h->helper)
			helper_ended(h, status);
		else if (pid == h->driver)
			driver_ended(h, status);
		pid = waitpid(-1, &status, WNOHANG);
	}
}

static void take_signals(struct holder *h)
{
	struct signalfd_siginfo si;

	while (read(h->sig_fd, &si, sizeof si) == (ssize_t)sizeof si) {
		if (si.ssi_signo == SIGCHLD)
			reap(h);
		else
			begin_stop(h);
	}
}

static int wait_ms(const struct holder *h)
{
	uint64_t now = kedge_clock_ns();

	if (!h->is_over && is_driver_due(h))
		return now >= h->driver_restart_ns ? 0 : (int)((h->driver_restart_ns - now) / 1000000 + 1);
	if (h->worker > 0 || h->is_over)
		return h->share->loop_path[0] && !h->is_over ? LOOK_MS : -1;
	return now >= h->restart_ns ? 0 : (int)((h->restart_ns - now) / 1000000 + 1);
}

static void serve(struct holder *h)
{
	while (!h->is_over) {
		struct pollfd p[3] = {{.fd = h->sig_fd, .events = POLLIN}, {.fd = h->ready_fd, .events = POLLIN},
				      {.fd = h->driver_ready_fd, .events = POLLIN}};

		if (poll(p, 3, wait_ms(h)) < 0 && errno != EINTR)
			break;
		if (p[0].revents)
			take_signals(h);
		if (h->ready_fd >= 0 && p[1].revents)
			worker_ready(h);
		if (h->driver_ready_fd >= 0 && p[2].revents)
			driver_ready(h);
		if (!h->is_over && is_driver_due(h) && kedge_clock_ns() >= h->driver_restart_ns)
			holder_start_driver(h);
		if (!h->is_over && h->worker <= 0 && kedge_clock_ns() >= h->restart_ns)
			holder_start_worker(h);
		if (!h->is_over)
			look_at_device(h);
	}
}

static void protect(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	/* Inherited by the workers: a SIGKILL in the middle of a reply costs an I/O error. Not allowed for all: then so be it. */
	if (fd >= 0) {
		ssize_t n = write(fd, "-1000", 5);
		(void)n;
	}
	kedge_close(fd);
}

int holder_run(const struct holder_opts *opts)
{
	struct holder h = {.o = opts, .fds = {-1, -1, -1, -1, -1}, .ready_fd = -1, .sig_fd = -1, .driver_ready_fd = -1};
	struct kedge_err err = {0};

	protect();
	if (holder_set_up(&h, &err) < 0) {
		kedge_error("%s", err.msg);
		holder_tear_down(&h);
		return kedge_exit_of(err.code) == KEDGE_EXIT_USAGE ? KEDGE_EXIT_FAILED : kedge_exit_of(err.code);
	}
	serve(&h);
	holder_tear_down(&h);
	return h.exit_code;
}
