/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Loop devices: attach with direct I/O, detach for sure, find left-overs.
 * Owns. Nothing beyond each call; an attached device belongs to its caller. Locks. None.
 */
#include "loopdev.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/loop.h"

#define ATTACH_TRIES 64

static int configure(int loop_fd, int file_fd, const char *path, uint32_t lbs_bytes)
{
	struct loop_config c = {.fd = (uint32_t)file_fd, .block_size = lbs_bytes};

	c.info.lo_flags = LO_FLAGS_DIRECT_IO;
	snprintf((char *)c.info.lo_file_name, LO_NAME_SIZE, "%s", path);
	return ioctl(loop_fd, LOOP_CONFIGURE, &c) < 0 ? -errno : 0;
}

int loopdev_attach(const char *path, uint32_t lbs_bytes, char ret_path[32], struct kedge_err *err)
{
	int file_fd = open(path, O_RDWR | O_CLOEXEC);
	int ctl_fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int r = -EBUSY;

	if (file_fd < 0 || ctl_fd < 0) {
		r = kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot open %s: %s", file_fd < 0 ? path : "/dev/loop-control",
				  strerror(errno));
		goto out;
	}
	/* Between the question for a free one and its configuration another process may take it: ask again. */
	for (int i = 0; i < ATTACH_TRIES && r == -EBUSY; i++) {
		int nr = ioctl(ctl_fd, LOOP_CTL_GET_FREE);
		if (nr < 0) {
			r = -errno;
			break;
		}
		snprintf(ret_path, 32, "/dev/loop%d", nr);
		int loop_fd = open(ret_path, O_RDWR | O_CLOEXEC);
		r = loop_fd < 0 ? -errno : configure(loop_fd, file_fd, path, lbs_bytes);
		kedge_close(loop_fd);
	}
	if (r < 0)
		kedge_err_set(err, r, KEDGE_SIDE_NONE, "cannot attach a loop device to %s: %s", path, strerror(-r));
out:
	kedge_close(file_fd);
	kedge_close(ctl_fd);
	return r;
}

int loopdev_detach(const char *loop_path, unsigned timeout_ms, struct kedge_err *err)
{
	uint64_t deadline = kedge_clock_ns() + timeout_ms * 1000000ull;
	struct timespec nap = {.tv_nsec = 5000000};

	for (;;) {
		struct loop_info64 info;
		int fd = open(loop_path, O_RDWR | O_CLOEXEC | O_EXCL);
		int r = fd < 0 ? -errno : 0;

		/* O_EXCL fails while somebody holds it exclusively (a mount): then LOOP_CLR_FD would only mark it for later */
		if (r == 0 && ioctl(fd, LOOP_GET_STATUS64, &info) < 0 && errno == ENXIO) {
			kedge_close(fd);
			return 0;
		}
		if (r == 0)
			r = ioctl(fd, LOOP_CLR_FD) < 0 ? -errno : 0;
		kedge_close(fd);
		if (r == -ENXIO || r == -ENOENT)
			return 0;
		if (r == 0) {
			fd = open(loop_path, O_RDONLY | O_CLOEXEC);
			bool is_free = fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) < 0 && errno == ENXIO;
			kedge_close(fd);
			if (is_free)
				return 0;
			r = -EBUSY;
		}
		if (kedge_clock_ns() >= deadline)
			return kedge_err_set(err, r, KEDGE_SIDE_NONE, "cannot detach %s: %s", loop_path,
					     r == -EBUSY ? "somebody has it open" : strerror(-r));
		nanosleep(&nap, NULL);
	}
}

int loopdev_detach_stale(const char *path)
{
	DIR *d = opendir("/sys/block");
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d))) {
		char name[300], *text;
		if (strncmp(e->d_name, "loop", 4) != 0)
			continue;
		snprintf(name, sizeof name, "/sys/block/%s/loop/backing_file", e->d_name);
		if (kedge_file_read(name, 4096, &text, NULL, NULL) < 0)
			continue;
		text[strcspn(text, "\n")] = 0;
		if (strcmp(text, path) == 0) {
			snprintf(name, sizeof name, "/dev/%s", e->d_name);
			struct kedge_err err = {0};
			if (loopdev_detach(name, 2000, &err) < 0)
				kedge_warn("a loop device of an earlier holder stays: %s", err.msg);
			else
				n++;
		}
		free(text);
	}
	if (d)
		closedir(d);
	return n;
}
