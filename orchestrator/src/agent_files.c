/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The raw files and devices behind volumes.
 *
 * Owns. Nothing. Locks. None.
 *
 * Crash. A volume's record is durable before its file is made, so a half-made file belongs to a known volume; making it
 * again completes it. Allocation, not only the size, is synced before the volume is told to exist.
 */
#include "agent_files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "agent_openers.h"
#include "kedge/bytes.h"
#include "kedge/file.h"

int agent_room(const char *dir, uint64_t *ret_free_bytes, struct kedge_err *err)
{
	struct statvfs v;

	if (statvfs(dir, &v) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "%s: %s", dir, strerror(errno));
	*ret_free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
	return 0;
}

int agent_size_check(uint64_t size_bytes, struct kedge_err *err)
{
	uint64_t below = kedge_round_down(size_bytes, KEDGE_BLOCK_BYTES);

	if (size_bytes && size_bytes == below && size_bytes <= INT64_MAX)
		return 0;
	if (size_bytes > INT64_MAX)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "a size of %" PRIu64 " bytes is too large", size_bytes);
	if (!below)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE,
				     "a size of %" PRIu64 " bytes is no multiple of 4096; the next possible size is 4096", size_bytes);
	return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE,
			     "a size of %" PRIu64 " bytes is no multiple of 4096; the next possible sizes are %" PRIu64 " and %" PRIu64,
			     size_bytes, below, below + KEDGE_BLOCK_BYTES);
}

int agent_file_path(const char *dir, const char *name, const struct kedge_uuid *uuid, uint64_t epoch, char out[AGENT_PATH_MAX],
		    struct kedge_err *err)
{
	char text[KEDGE_UUID_TEXT_MAX], suffix[24] = "";
	int n;

	kedge_uuid_format(uuid, text);
	if (epoch)
		snprintf(suffix, sizeof suffix, ".%" PRIu64, epoch);
	n = snprintf(out, AGENT_PATH_MAX, "%s/%s.%.8s%s.img", dir, name, text, suffix);
	if (n >= AGENT_PATH_MAX)
		return kedge_err_set(err, -ENAMETOOLONG, KEDGE_SIDE_NONE, "%s is too long a path for volume files", dir);
	return 0;
}

/* The directory of path, opened, and the last component. */
static int open_dir_of(const char *path, const char **ret_name, struct kedge_err *err)
{
	char dir[AGENT_PATH_MAX];
	const char *slash = strrchr(path, '/');
	int fd;

	if (!slash || slash == path || (size_t)(slash - path) >= sizeof dir)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "%s is no path of a volume file", path);
	memcpy(dir, path, (size_t)(slash - path));
	dir[slash - path] = 0;
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "%s: %s", dir, strerror(errno));
	*ret_name = slash + 1;
	return fd;
}

static int allocate(int fd, const char *path, uint64_t size_bytes, struct kedge_err *err)
{
	struct stat st;
	int res;

	if (fstat(fd, &st) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || ((uint64_t)st.st_size != size_bytes && st.st_size != 0))
		return kedge_err_set(err, -EEXIST, KEDGE_SIDE_NONE, "%s exists and is not the file of this volume", path);
	while (fallocate(fd, 0, 0, (off_t)size_bytes) < 0) {
		if (errno == EINTR)
			continue;
		res = errno == ENOSPC || errno == EDQUOT || errno == EFBIG ? KEDGE_E_NO_ROOM : -errno;
		return kedge_err_set(err, res, KEDGE_SIDE_DESTINATION, "%s: %" PRIu64 " bytes cannot be allocated: %s", path,
				     size_bytes, strerror(errno));
	}
	if (fsync(fd) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_DESTINATION, "%s: %s", path, strerror(errno));
	return 0;
}

int agent_file_create(const char *path, uint64_t size_bytes, struct kedge_err *err)
{
	const char *name;
	int fd, res, dir = open_dir_of(path, &name, err);

	if (dir < 0)
		return dir;
	fd = openat(dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0) {
		res = kedge_err_set(err, errno == ENOSPC ? KEDGE_E_NO_ROOM : -errno, KEDGE_SIDE_DESTINATION, "%s: %s", path,
				    strerror(errno));
	} else {
		res = allocate(fd, path, size_bytes, err);
		/* A part of the file would keep room that the next volume needs. */
		if (res == KEDGE_E_NO_ROOM)
			unlinkat(dir, name, 0);
	}
	if (!res && fsync(dir) < 0)
		res = kedge_err_set(err, -errno, KEDGE_SIDE_DESTINATION, "%s: %s", path, strerror(errno));
	kedge_close(fd);
	kedge_close(dir);
	return res;
}

int agent_file_remove(const char *path, struct kedge_err *err)
{
	const char *name;
	int res = 0, dir = open_dir_of(path, &name, err);

	if (dir < 0)
		return dir;
	if ((unlinkat(dir, name, 0) < 0 && errno != ENOENT) || fsync(dir) < 0)
		res = kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "%s: %s", path, strerror(errno));
	kedge_close(dir);
	return res;
}

int agent_flush(const char *path, struct kedge_err *err)
{
	int res = 0, fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		res = kedge_err_set(err, -errno, KEDGE_SIDE_SOURCE, "flush of %s: %s", path, strerror(errno));
	kedge_close(fd);
	return res;
}

static int check_unused(const char *path, bool is_block, struct kedge_err *err)
{
	struct agent_target t = {0};
	int res = agent_target_add(&t, path, err);

	if (!res)
		res = agent_openers_check(&t, NULL, 0, err);
	if (!res && is_block) {
		/* The kernel's own view: partitions, mounts, stacked devices. */
		int fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
		if (fd < 0)
			res = kedge_err_set(err, errno == EBUSY ? KEDGE_E_STILL_OPEN : -errno, KEDGE_SIDE_NONE, "in use: %s",
					    strerror(errno));
		kedge_close(fd);
	}
	if (res)
		kedge_err_prefix(err, "%s", path);
	return res;
}

int agent_import_check(const char *path, struct agent_volume *v, struct kedge_err *err)
{
	char resolved[PATH_MAX];
	struct stat st;
	uint64_t size_bytes = 0;
	uint32_t lbs_bytes = 512;
	int fd, res;

	if (path[0] != '/' || !realpath(path, resolved) || strlen(resolved) >= sizeof v->path)
		return kedge_err_set(err, path[0] == '/' ? -errno : -EINVAL, KEDGE_SIDE_NONE, "%s: %s", path,
				     path[0] == '/' ? strerror(errno) : "an absolute path is needed");
	/* O_NOFOLLOW, O_NONBLOCK: what realpath saw, and a FIFO put in its place does not hold us. */
	fd = open(resolved, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		res = kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "%s: %s", path, strerror(errno));
	} else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		res = kedge_err_set(err, -ENOTBLK, KEDGE_SIDE_NONE, "%s is neither a regular file nor a block device", path);
	} else {
		res = kedge_file_geometry(fd, &size_bytes, &lbs_bytes, err);
		if (!res)
			res = agent_size_check(size_bytes, err);
		if (res)
			kedge_err_prefix(err, "%s", path);
	}
	kedge_close(fd);
	if (!res)
		res = check_unused(resolved, S_ISBLK(st.st_mode), err);
	if (res)
		return res;
	strcpy(v->path, resolved);
	v->size_bytes = size_bytes;
	v->lbs_bytes = lbs_bytes;
	v->is_block = S_ISBLK(st.st_mode);
	return 0;
}
