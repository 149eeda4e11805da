/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Loop devices: attach with direct I/O, find by file, detach for sure.
 *
 * Owns. Nothing beyond each call; the devices are found again by their backing file.
 *
 * Locks. None of ours. An open descriptor of a loop device keeps its binding: with two openers the kernel's LOOP_CLR_FD only marks
 * the device to be freed at the last close. So: open, look whose it is, let go, all through one descriptor.
 *
 * Crash. A device attached just before a death is found by kedge_loopdev_find and used or detached.
 */
#include "kedge/loopdev.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "kedge/file.h"
#include "kedge/loop.h"

#define ATTACH_TRIES 64
#define LOOP_MAJOR 7
#define NAP_NS 5000000

/* ---- whose is it ---- */

/* As far as the kernel knows it already: a FUSE file's server is not asked, it may be dead or be the one that waits for us. */
static bool is_same_file(const char *path, const char *other)
{
	struct statx a, b;

	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_INO, &a) < 0 || statx(AT_FDCWD, other, AT_STATX_DONT_SYNC, STATX_INO, &b) < 0)
		return false;
	return a.stx_ino == b.stx_ino && a.stx_dev_major == b.stx_dev_major && a.stx_dev_minor == b.stx_dev_minor;
}

/* By /sys, so that no device is opened: an open would disturb a detach under way. */
static bool is_backed_by(const char *name, const char *path)
{
	char file[96], *text;
	bool is_so;

	snprintf(file, sizeof file, "/sys/block/%.40s/loop/backing_file", name);
	if (kedge_file_read(file, 8192, &text, NULL, NULL) < 0)
		return false;
	text[strcspn(text, "\n")] = 0;
	is_so = text[0] == '/' && (strcmp(text, path) == 0 || is_same_file(text, path));
	free(text);
	return is_so;
}

bool kedge_loopdev_is_of(const char *device, const char *path)
{
	return strncmp(device, "/dev/loop", 9) == 0 && is_backed_by(device + 5, path);
}

bool kedge_loopdev_next(const char *path, unsigned long *after, char ret_device[KEDGE_LOOPDEV_MAX])
{
	unsigned long best = 0, nr;
	struct dirent *e;
	bool is_found = false;
	DIR *dir = opendir("/sys/block");

	while (dir && (e = readdir(dir))) {
		if (sscanf(e->d_name, "loop%lu", &nr) != 1 || nr + 1 <= *after || (is_found && nr >= best))
			continue;
		if (is_backed_by(e->d_name, path)) {
			is_found = true;
			best = nr;
		}
	}
	if (dir)
		closedir(dir);
	if (is_found) {
		*after = best + 1;
		snprintf(ret_device, KEDGE_LOOPDEV_MAX, "/dev/loop%lu", best);
	}
	return is_found;
}

int kedge_loopdev_find(const char *path, char ret_device[KEDGE_LOOPDEV_MAX])
{
	unsigned long after = 0;

	return kedge_loopdev_next(path, &after, ret_device) ? 0 : -ENOENT;
}

/* ---- attach ---- */

static int open_number(int nr, char ret_device[KEDGE_LOOPDEV_MAX])
{
	snprintf(ret_device, KEDGE_LOOPDEV_MAX, "/dev/loop%d", nr);
	int fd = open(ret_device, O_RDWR | O_CLOEXEC);
	/* where no udev runs the node of a fresh number may be missing */
	if (fd < 0 && errno == ENOENT && (mknod(ret_device, S_IFBLK | 0600, makedev(LOOP_MAJOR, (unsigned)nr)) == 0 || errno == EEXIST))
		fd = open(ret_device, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int configure(int loop_fd, int file_fd, const char *path, uint32_t lbs_bytes)
{
	struct loop_config c = {.fd = (uint32_t)file_fd, .block_size = lbs_bytes};

	c.info.lo_flags = LO_FLAGS_DIRECT_IO;
	snprintf((char *)c.info.lo_file_name, LO_NAME_SIZE, "%s", path);
	if (ioctl(loop_fd, LOOP_CONFIGURE, &c) == 0)
		return 0;
	if (errno != EINVAL && errno != EOPNOTSUPP)
		return -errno;
	c.info.lo_flags = 0; /* tmpfs and the like */
	return ioctl(loop_fd, LOOP_CONFIGURE, &c) < 0 ? -errno : 0;
}

int kedge_loopdev_attach(const char *path, uint32_t lbs_bytes, char ret_device[KEDGE_LOOPDEV_MAX], struct kedge_err *err)
{
	int file_fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	int res = file_fd < 0 ? -errno : -EBUSY, ctl_fd;

	if (file_fd < 0)
		return kedge_err_set(err, res, KEDGE_SIDE_NONE, "cannot open %s: %s", path, strerror(-res));
	ctl_fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (ctl_fd < 0) {
		res = kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot open /dev/loop-control: %s (modprobe loop?)", strerror(errno));
		kedge_close(file_fd);
		return res;
	}
	/* Between the question for a free one and its configuration another process may take it: ask again. */
	for (int i = 0; i < ATTACH_TRIES && res == -EBUSY; i++) {
		int nr = ioctl(ctl_fd, LOOP_CTL_GET_FREE);
		if (nr < 0) {
			res = -errno;
			break;
		}
		int loop_fd = open_number(nr, ret_device);
		res = loop_fd < 0 ? loop_fd : configure(loop_fd, file_fd, path, lbs_bytes);
		kedge_close(loop_fd);
	}
	kedge_close(file_fd);
	kedge_close(ctl_fd);
	return res ? kedge_err_set(err, res, KEDGE_SIDE_NONE, "no loop device for %s: %s", path, strerror(-res)) : 0;
}

/* ---- let go ---- */

/* A descriptor of the device that keeps it bound to path, or -ENXIO when it is not bound to path (any more). */
static int pin(const char *device, const char *path)
{
	struct loop_info64 info;
	int fd = open(device, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? -ENXIO : -errno;
	if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0 || !kedge_loopdev_is_of(device, path)) {
		kedge_close(fd);
		return -ENXIO;
	}
	return fd;
}

/* 0: it is free of path. -EBUSY: marked, but somebody has it open; or not even marked, as it is mounted. */
static int let_go(const char *device, const char *path)
{
	int fd = pin(device, path), res = 0;

	if (fd < 0)
		return fd == -ENXIO ? 0 : fd;
	/* fails while somebody holds it exclusively (a mount): that one is not to lose it at its umount */
	int exclusive_fd = open(device, O_RDONLY | O_CLOEXEC | O_EXCL);
	if (exclusive_fd < 0)
		res = -errno;
	else if (ioctl(exclusive_fd, LOOP_CLR_FD) < 0 && errno != ENXIO)
		res = -errno;
	kedge_close(exclusive_fd);
	kedge_close(fd);
	if (res)
		return res;
	return kedge_loopdev_is_of(device, path) ? -EBUSY : 0;
}

/* It was marked to go at its last close, and it has not gone: unmark it, its user is to find it again. */
static void keep(const char *device, const char *path)
{
	struct loop_info64 info;
	int fd = pin(device, path);

	if (fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) == 0 && (info.lo_flags & LO_FLAGS_AUTOCLEAR)) {
		info.lo_flags &= ~(uint32_t)LO_FLAGS_AUTOCLEAR;
		ioctl(fd, LOOP_SET_STATUS64, &info);
	}
	if (fd >= 0)
		kedge_close(fd);
}

int kedge_loopdev_detach(const char *path, unsigned timeout_ms, struct kedge_err *err)
{
	uint64_t deadline = kedge_clock_ns() + timeout_ms * 1000000ull;
	struct timespec nap = {.tv_nsec = NAP_NS};
	char device[KEDGE_LOOPDEV_MAX];
	unsigned long after = 0;

	while (kedge_loopdev_next(path, &after, device)) {
		int res = let_go(device, path);
		while (res == -EBUSY && kedge_clock_ns() < deadline) {
			nanosleep(&nap, NULL);
			res = let_go(device, path);
		}
		if (res == -EBUSY) {
			keep(device, path);
			return kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "cannot detach %s from %s: somebody has it open", device, path);
		}
		if (res)
			return kedge_err_set(err, res, KEDGE_SIDE_NONE, "cannot detach %s from %s: %s", device, path, strerror(-res));
	}
	return 0;
}

unsigned kedge_loopdev_abandon(const char *path)
{
	char device[KEDGE_LOOPDEV_MAX];
	unsigned long after = 0;
	unsigned n = 0;

	while (kedge_loopdev_next(path, &after, device)) {
		int fd = pin(device, path);
		if (fd >= 0 && ioctl(fd, LOOP_CLR_FD) == 0)
			n++;
		if (fd >= 0)
			kedge_close(fd);
	}
	return n;
}
