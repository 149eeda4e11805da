/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What a holder holds: /dev/fuse and its mount, the shared request memory, the listening sockets, its signals; made, and taken away.
 *
 * Owns. The descriptors in struct holder.
 *
 * Locks. None: one thread, before and after the events.
 *
 * Crash. A holder that was killed leaves a dead mount, a loop device and sockets; the next holder of the same file cleans them up here.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "fuse_share.h"
#include "holder_int.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/loopdev.h"

#define HIGH_FD 64 /* originals live above the numbers that workers get */
#define SOCKET_TRIES 100

int holder_raise_fd(int fd)
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
	fd = holder_raise_fd(fd);
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
	h->fds[1] = holder_raise_fd(fd);
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
	*ret_fd = holder_raise_fd(fd);
	return 0;
}

void holder_tear_down(struct holder *h)
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

int holder_set_up(struct holder *h, struct kedge_err *err)
{
	sigset_t set;
	int r = 0;

	if (h->o->fuse_path || h->o->is_block)
		r = find_fuse_path(h, err);
	else if (holder_has_driver(h))
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
