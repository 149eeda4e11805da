/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The holder: keeps the /dev/fuse descriptor, the mount, the loop device, the listening sockets and the shared request
 * memory while workers come and go.
 *
 * Owns. All of those, the worker process, and short-lived helper processes: whatever opens the FUSE file must not run here, for it
 * would wait for a worker that only the holder can start.
 *
 * Locks. None: one thread, poll(2) over a signalfd and the ready pipe.
 *
 * Crash. The holder writes nothing durable. If it dies, the worker gets SIGTERM (parent-death signal), commits and ends; the dead
 * mount and the loop device are cleaned up by the next holder of the same file.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "front.h"
#include "fuse_share.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/loopdev.h"

#define HIGH_FD 64          /* originals live above the numbers that workers get */
#define YOUNG_MS 250        /* a worker that dies earlier than this is slowed down: those above it wait meanwhile */
#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 5000
#define DETACH_MS 10000
#define LOOK_MS 1000 /* how long a loop device may be gone before it is noticed */
#define SOCKET_TRIES 100

struct holder {
	const struct holder_opts *o;
	char fuse_path[512];
	bool is_private_file;
	int fds[HOLDER_NR_FDS]; /* in the order of enum holder_fd; -1: none */
	int ready_fd, sig_fd;
	struct holder_share *share;
	pid_t worker, helper, driver;
	int driver_ready_fd;
	uint64_t driver_restart_ns;
	unsigned driver_backoff_ms;
	bool is_driver_wanted, is_driver_done; /* its devices are gone, or it never made any */
	bool is_helper_detach, is_ready_told, is_stopping, is_detached, is_unmounted;
	uint64_t started_ns, restart_ns;
	unsigned backoff_ms;
	int exit_code;
	bool is_over;
};

/* Does a driver stand beside the worker? */
static bool has_driver(const struct holder *h)
{
	return h->o->is_dm || h->o->is_top;
}

/* Its device is where it needs no loop device of ours. */
static bool is_alone(const struct holder *h)
{
	return __atomic_load_n(&h->share->dm.phase, __ATOMIC_ACQUIRE) == DM_PHASE_ALONE;
}

/* ---- set-up ---- */

static int raise_fd(int fd)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_FD);

	kedge_close(fd);
	return high;
}

static bool is_dead_mount(const char *path)
{
	struct statfs st;

	/* stat(2) would be answered from the kernel's cache, whoever is dead. Of a connection that is just being torn down, this waits
	 * for the end. */
	return statfs(path, &st) < 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

/* A holder that was killed leaves its mount dead and its loop device behind. */
static int clean_stale(const char *path, struct kedge_err *err)
{
	char line[2048];
	bool is_ours = false, is_mounted = false;
	FILE *f = fopen("/proc/self/mounts", "re");

	while (f && fgets(line, sizeof line, f)) {
		char dev[256], dir[1024], type[256];
		if (sscanf(line, "%255s %1023s %255s", dev, dir, type) == 3 && strcmp(dir, path) == 0) {
			is_mounted = true;
			is_ours = strcmp(type, "fuse.kclone") == 0;
		}
	}
	if (f)
		fclose(f);
	if (!is_mounted)
		return 0;
	if (!is_ours || !is_dead_mount(path))
		return kedge_err_set(err, -EBUSY, KEDGE_SIDE_NONE, "%s is mounted already%s", path,
				     is_ours ? ": another kclone serves there" : "");
	unsigned n = kedge_loopdev_abandon(path);
	if (umount2(path, MNT_DETACH) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot unmount the dead mount %s: %s", path, strerror(errno));
	kedge_info("cleaned up after an earlier holder: dead mount %s, %u loop devices", path, n);
	return 0;
}

static int mount_fuse(struct holder *h, struct kedge_err *err)
{
	char opts[128];
	int fd;

	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot open /dev/fuse: %s (modprobe fuse?)", strerror(errno));
	fd = raise_fd(fd);
	/* Others than root may use it once its owner or mode says so (a jailed VMM): the kernel checks, for we do not. */
	snprintf(opts, sizeof opts, "fd=%d,rootmode=100600,user_id=%u,group_id=%u,allow_other,default_permissions", fd, geteuid(), getegid());
	if (mount("kclone", h->fuse_path, "fuse.kclone", MS_NOSUID | MS_NODEV, opts) < 0) {
		int r = kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot mount %s: %s", h->fuse_path, strerror(errno));
		kedge_close(fd);
		return r;
	}
	h->fds[0] = fd;
	return 0;
}

static int make_share(struct holder *h, struct kedge_err *err)
{
	int fd = memfd_create("kclone-requests", MFD_CLOEXEC);
	uint64_t marks_bytes = uclone_marks_bytes(h->o->size_bytes), slots_start = FUSE_SHARE_BYTES + kedge_round_up(marks_bytes, 4096);
	uint64_t slots_bytes = h->o->is_dm ? (uint64_t)DM_NR_SLOTS * DM_SLOT_BYTES : 0;

	if (fd < 0 || ftruncate(fd, (off_t)(slots_start + slots_bytes)) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot make shared memory: %s", strerror(errno));
	h->fds[1] = raise_fd(fd);
	h->share = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, h->fds[1], 0);
	if (h->share == MAP_FAILED)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot map shared memory: %s", strerror(errno));
	h->share->magic = HOLDER_SHARE_MAGIC;
	h->share->version = 1;
	h->share->size_bytes = h->o->size_bytes;
	h->share->holder_pid = getpid();
	h->share->is_top = h->o->is_top;
	h->share->mode = 0600;
	h->share->uid = geteuid();
	h->share->gid = getegid();
	h->share->marks_start_bytes = FUSE_SHARE_BYTES;
	h->share->marks_bytes = marks_bytes;
	h->share->slots_start_bytes = slots_start;
	snprintf(h->share->fuse_path, sizeof h->share->fuse_path, "%s", h->fuse_path);
	return 0;
}

/* Does somebody answer there? One that was killed just now may still seem to: the kernel lets go of its sockets only when its last
 * operations on them have ended. So ask for a while. */
static bool is_answered(const struct sockaddr_un *sa)
{
	const struct timespec nap = {.tv_nsec = 20000000};
	bool is_answered = true;

	for (unsigned i = 0; i < SOCKET_TRIES && is_answered; i++) {
		if (i)
			nanosleep(&nap, NULL);
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		/* EAGAIN: its queue is full */
		is_answered = connect(fd, (const struct sockaddr *)sa, sizeof *sa) == 0 || errno == EAGAIN;
		kedge_close(fd);
	}
	return is_answered;
}

static int listen_unix(const char *path, int *ret_fd, struct kedge_err *err)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct stat st;
	int fd;

	if (strlen(path) >= sizeof sa.sun_path)
		return kedge_err_set(err, -ENAMETOOLONG, KEDGE_SIDE_NONE, "socket path too long (at most %zu bytes): %s",
				     sizeof sa.sun_path - 1, path);
	strcpy(sa.sun_path, path);
	if (lstat(path, &st) == 0) {
		if (!S_ISSOCK(st.st_mode))
			return kedge_err_set(err, -EEXIST, KEDGE_SIDE_NONE, "%s exists and is no socket: give another path", path);
		if (is_answered(&sa))
			return kedge_err_set(err, -EADDRINUSE, KEDGE_SIDE_NONE, "somebody serves %s already", path);
		unlink(path);
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot make a socket: %s", strerror(errno));
	mode_t old = umask(0177);
	int r = bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 || listen(fd, 64) < 0 ? -errno : 0;
	umask(old);
	if (r < 0) {
		kedge_close(fd);
		return kedge_err_set(err, r, KEDGE_SIDE_NONE, "cannot listen on %s: %s", path, strerror(-r));
	}
	*ret_fd = raise_fd(fd);
	return 0;
}

/* ---- processes ---- */

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
	p[0] = raise_fd(p[0]);
	p[1] = raise_fd(p[1]);
	*ret_pid = fork();
	if (*ret_pid == 0)
		exec_child(h, verb, p[1]);
	kedge_close(p[1]);
	kedge_close(*ready_fd);
	*ready_fd = p[0];
	return *ret_pid < 0 ? -errno : 0;
}

static int start_worker(struct holder *h)
{
	h->share->nr_workers++;
	h->started_ns = kedge_clock_ns();
	return start_child(h, "worker", &h->worker, &h->ready_fd);
}

static void start_driver(struct holder *h)
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

/* ---- events ---- */

static void tell_ready(struct holder *h)
{
	if (h->is_ready_told)
		return;
	h->is_ready_told = true;
	printf("kclone: serving");
	if (h->fds[0] >= 0)
		printf(" fuse=%s", h->fuse_path);
	if (has_driver(h))
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
		start_helper(h, run_attach, false);
	else if (!has_driver(h))
		tell_ready(h);
	else if (!h->is_driver_wanted && !h->is_stopping && h->helper <= 0)
		start_driver(h);
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
	start_helper(h, run_attach, false);
}

static void begin_stop(struct holder *h)
{
	if (h->is_stopping)
		return;
	h->is_stopping = true;
	if (h->is_driver_wanted && !h->is_driver_done) { /* the devices above go first, and only it knows them */
		if (h->driver <= 0)
			start_driver(h);
		else
			kill(h->driver, SIGTERM);
		return;
	}
	if (h->helper <= 0)
		start_helper(h, run_detach, true);
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
		start_helper(h, run_attach, false);
	else
		start_driver(h);
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
		start_helper(h, run_detach, true);
	} else if (is_good && has_driver(h)) {
		if (!h->is_driver_wanted)
			start_driver(h);
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
			start_helper(h, run_detach, true);
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
			start_driver(h);
		if (!h->is_over && h->worker <= 0 && kedge_clock_ns() >= h->restart_ns)
			start_worker(h);
		if (!h->is_over)
			look_at_device(h);
	}
}

static void tear_down(struct holder *h)
{
	struct kedge_err err = {0};

	/* A worker that ended for good takes nothing more: who still holds the device gets errors, and the mount goes at last. */
	if (h->share && h->share != MAP_FAILED && h->share->loop_path[0] && kedge_loopdev_detach(h->fuse_path, 1000, &err) < 0)
		kedge_warn("%s", err.msg);
	if (h->fds[0] >= 0 && !h->is_unmounted)
		umount2(h->fuse_path, MNT_DETACH);
	if (h->is_private_file)
		unlink(h->fuse_path);
	if (h->fds[2] >= 0)
		unlink(h->o->nbd_path);
	if (h->fds[3] >= 0)
		unlink(h->o->control_path);
	for (int i = 0; i < HOLDER_NR_FDS; i++)
		kedge_close(h->fds[i]);
}

/* Where the FUSE file goes: fuse_path becomes as /proc/self/mounts and the loop driver say it. */
static int find_fuse_path(struct holder *h, struct kedge_err *err)
{
	struct stat st;
	char *real;
	int fd, r;

	if (h->o->fuse_path) {
		snprintf(h->fuse_path, sizeof h->fuse_path, "%s", h->o->fuse_path);
	} else {
		/* the same for every holder of this clone, so that the next one finds what a killed one left */
		snprintf(h->fuse_path, sizeof h->fuse_path, "%s", h->o->private_path);
		h->is_private_file = true;
	}
	real = realpath(h->fuse_path, NULL); /* finds a dead mount, while open does not */
	r = clean_stale(real ? real : h->fuse_path, err);
	free(real);
	if (r < 0)
		return r;
	fd = open(h->fuse_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &st) < 0) {
		kedge_close(fd);
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot create %s: %s", h->fuse_path, strerror(errno));
	}
	kedge_close(fd);
	/* A file with content is somebody's: of all things perhaps the destination, which the mount would hide from the worker. */
	if (!S_ISREG(st.st_mode) || st.st_size)
		return kedge_err_set(err, -EEXIST, KEDGE_SIDE_NONE, "%s is not an empty file: the volume would hide what is there",
				     h->fuse_path);
	real = realpath(h->fuse_path, NULL);
	if (!real)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot find %s: %s", h->fuse_path, strerror(errno));
	snprintf(h->fuse_path, sizeof h->fuse_path, "%s", real);
	free(real);
	return 0;
}

/* Nobody needs a file any more; what a killed holder left of it goes. */
static int clean_private(struct holder *h, struct kedge_err *err)
{
	char *real = realpath(h->o->private_path, NULL);
	int r = real ? clean_stale(real, err) : 0;
	struct stat st;

	free(real);
	if (r == 0 && stat(h->o->private_path, &st) == 0 && st.st_size == 0)
		unlink(h->o->private_path);
	return r;
}

static int set_up(struct holder *h, struct kedge_err *err)
{
	sigset_t set;
	int r = 0;

	if (h->o->fuse_path || h->o->is_block)
		r = find_fuse_path(h, err);
	else if (has_driver(h))
		r = clean_private(h, err);
	if (r == 0)
		r = make_share(h, err);
	if (r == 0 && h->fuse_path[0])
		r = mount_fuse(h, err);
	if (r == 0 && h->o->nbd_path)
		r = listen_unix(h->o->nbd_path, &h->fds[2], err);
	if (r == 0 && h->o->control_path)
		r = listen_unix(h->o->control_path, &h->fds[3], err);
	if (r < 0)
		return r;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	h->sig_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return h->sig_fd < 0 ? kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot make a signalfd: %s", strerror(errno)) : 0;
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
	if (set_up(&h, &err) < 0) {
		kedge_error("%s", err.msg);
		tear_down(&h);
		return kedge_exit_of(err.code) == KEDGE_EXIT_USAGE ? KEDGE_EXIT_FAILED : kedge_exit_of(err.code);
	}
	serve(&h);
	tear_down(&h);
	return h.exit_code;
}
