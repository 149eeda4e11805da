/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Loop devices, by ioctl.
 *
 * Owns. Nothing in memory; the devices are found again by their backing file.
 *
 * Locks. None: a number that another process took first is answered with EBUSY, and the next one is tried.
 *
 * Crash. A device attached just before the daemon dies is found by agent_loop_find and used or detached.
 */
#include "agent_loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <dirent.h>
#include <unistd.h>

#include "agent_spawn.h"
#include "kedge/file.h"

#define ATTACH_TRIES 32
#define DETACH_TRIES 100
#define DETACH_NAP_MS 20

static int open_device(const char *name)
{
	char path[AGENT_DEVICE_MAX];
	struct stat st;
	unsigned number;

	snprintf(path, sizeof path, "/dev/%s", name);
	/* Where no udev runs the node of a fresh number may be missing. */
	if (stat(path, &st) < 0 && errno == ENOENT && sscanf(name, "loop%u", &number) == 1)
		if (mknod(path, S_IFBLK | 0600, makedev(7, number)) < 0 && errno != EEXIST)
			return -errno;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* /sys tells who is bound without opening each device (an open would disturb a detach under way). */
static bool is_backed_by(const char *name, const struct stat *file)
{
	char path[320], backing[4096] = "";
	struct stat st;
	FILE *f;

	snprintf(path, sizeof path, "/sys/block/%.64s/loop/backing_file", name);
	f = fopen(path, "re");
	if (!f)
		return false;
	if (fgets(backing, sizeof backing, f))
		backing[strcspn(backing, "\n")] = 0;
	fclose(f);
	return stat(backing, &st) == 0 && st.st_dev == file->st_dev && st.st_ino == file->st_ino;
}

int agent_loop_find(const char *path, char out[AGENT_DEVICE_MAX])
{
	struct stat file;
	struct dirent *e;
	int res = -ENOENT;
	DIR *dir;

	if (stat(path, &file) < 0)
		return -errno;
	dir = opendir("/sys/block");
	if (!dir)
		return -errno;
	while (res && (e = readdir(dir))) {
		if (strncmp(e->d_name, "loop", 4) == 0 && is_backed_by(e->d_name, &file)) {
			snprintf(out, AGENT_DEVICE_MAX, "/dev/%.32s", e->d_name);
			res = 0;
		}
	}
	closedir(dir);
	return res;
}

static int configure(int loop_fd, int file_fd, uint32_t lbs_bytes, const char *path)
{
	struct loop_config c = {.fd = (uint32_t)file_fd, .block_size = lbs_bytes};

	snprintf((char *)c.info.lo_file_name, sizeof c.info.lo_file_name, "%.60s", path);
	c.info.lo_flags = LO_FLAGS_DIRECT_IO;
	if (ioctl(loop_fd, LOOP_CONFIGURE, &c) == 0)
		return 0;
	if (errno != EINVAL && errno != EOPNOTSUPP)
		return -errno;
	/* tmpfs and the like: no direct I/O there. */
	c.info.lo_flags = 0;
	return ioctl(loop_fd, LOOP_CONFIGURE, &c) == 0 ? 0 : -errno;
}

int agent_loop_attach(const char *path, uint32_t lbs_bytes, char out[AGENT_DEVICE_MAX], struct kedge_err *err)
{
	char name[32];
	int res = -EBUSY, control, file = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

	if (file < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "%s: %s", path, strerror(errno));
	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0) {
		res = -errno;
		kedge_close(file);
		return kedge_err_set(err, res, KEDGE_SIDE_NONE, "/dev/loop-control: %s", strerror(-res));
	}
	for (int i = 0; i < ATTACH_TRIES && res == -EBUSY; i++) {
		int fd, number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0) {
			res = -errno;
			break;
		}
		snprintf(name, sizeof name, "loop%d", number);
		fd = open_device(name);
		res = fd < 0 ? fd : configure(fd, file, lbs_bytes, path);
		kedge_close(fd);
	}
	kedge_close(control);
	kedge_close(file);
	if (res)
		return kedge_err_set(err, res, KEDGE_SIDE_NONE, "no loop device for %s: %s", path, strerror(-res));
	snprintf(out, AGENT_DEVICE_MAX, "/dev/%s", name);
	return 0;
}

int agent_loop_detach_device(const char *device, struct kedge_err *err)
{
	int fd = open(device, O_RDONLY | O_CLOEXEC);
	int res = 0;

	if (fd < 0)
		return errno == ENOENT || errno == ENXIO ? 0 : kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "%s: %s", device,
									      strerror(errno));
	if (ioctl(fd, LOOP_CLR_FD, 0) < 0 && errno != ENXIO)
		res = kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "%s: %s", device, strerror(errno));
	kedge_close(fd);
	return res;
}

/* With another opener the kernel only marks the device and detaches it at the last close: look until it is gone. */
int agent_loop_detach(const char *path, struct kedge_err *err)
{
	char device[AGENT_DEVICE_MAX];
	int res;

	for (int i = 0; i < DETACH_TRIES; i++) {
		res = agent_loop_find(path, device);
		if (res)
			return res == -ENOENT ? 0 : kedge_err_set(err, res, KEDGE_SIDE_NONE, "%s: %s", path, strerror(-res));
		res = agent_loop_detach_device(device, err);
		if (res)
			return res;
		if (agent_loop_find(path, device) == -ENOENT)
			return 0;
		agent_nap(DETACH_NAP_MS);
	}
	return kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "%s stays attached to %s: somebody has it open", device, path);
}
