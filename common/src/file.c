/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Small files read whole, replaced durably, and read as secrets; geometry of files and devices.
 * Owns. Nothing beyond each call. Locks. None.
 * Crash. kedge_file_replace: before the rename the old file stands, after it the new one; the fsync before the rename
 * buys that the new name never shows unwritten content, the directory fsync that the rename itself survives.
 */
#include "kedge/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "kedge/bytes.h"

void kedge_close(int fd)
{
	int saved = errno;

	if (fd >= 0)
		close(fd);
	errno = saved;
}

int kedge_write_full(int fd, const void *buf, size_t nr_bytes)
{
	const char *p = buf;

	while (nr_bytes) {
		ssize_t n = write(fd, p, nr_bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		nr_bytes -= (size_t)n;
	}
	return 0;
}

static int read_fd(int fd, const char *path, size_t max_bytes, char **ret_text, size_t *ret_bytes,
		   struct kedge_err *err)
{
	size_t room = 4096, n = 0;
	char *text = malloc(room + 1);

	while (text) {
		if (n == room) {
			char *more = realloc(text, room * 2 + 1);
			if (!more)
				break;
			text = more;
			room *= 2;
		}
		ssize_t got = read(fd, text + n, room - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			int r = -errno;
			free(text);
			return kedge_err_set(err, r, KEDGE_SIDE_NONE, "cannot read %s: %s", path, strerror(-r));
		}
		n += (size_t)got;
		if (n > max_bytes) {
			free(text);
			return kedge_err_set(err, -EFBIG, KEDGE_SIDE_NONE, "%s has more than %zu bytes", path,
					     max_bytes);
		}
		if (got == 0) {
			text[n] = 0;
			*ret_text = text;
			if (ret_bytes)
				*ret_bytes = n;
			return 0;
		}
	}
	free(text);
	return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory to read %s", path);
}

static int open_to_read(const char *path, struct kedge_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot open %s: %s", path, strerror(errno));
	return fd;
}

int kedge_file_read(const char *path, size_t max_bytes, char **ret_text, size_t *ret_bytes, struct kedge_err *err)
{
	int fd = open_to_read(path, err);
	int r;

	if (fd < 0)
		return fd;
	r = read_fd(fd, path, max_bytes, ret_text, ret_bytes, err);
	kedge_close(fd);
	return r;
}

int kedge_file_read_secret(const char *path, size_t max_bytes, char **ret_text, size_t *ret_bytes,
			   struct kedge_err *err)
{
	int fd = open_to_read(path, err);
	struct stat st;
	int r;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		r = kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot stat %s: %s", path, strerror(errno));
	else if (!S_ISREG(st.st_mode) || (st.st_mode & 077))
		r = kedge_err_set(err, -EACCES, KEDGE_SIDE_NONE,
				  "%s holds a secret and others may read it: chmod 600 it", path);
	else if (st.st_uid != geteuid())
		r = kedge_err_set(err, -EACCES, KEDGE_SIDE_NONE, "%s holds a secret and belongs to uid %u, not to us",
				  path, (unsigned)st.st_uid);
	else
		r = read_fd(fd, path, max_bytes, ret_text, ret_bytes, err);
	kedge_close(fd);
	return r;
}

int kedge_file_sync_dir_of(const char *path, struct kedge_err *err)
{
	char dir[4096];
	char *slash;
	int fd, r;

	if (snprintf(dir, sizeof dir, "%s", path) >= (int)sizeof dir)
		return kedge_err_set(err, -ENAMETOOLONG, KEDGE_SIDE_NONE, "path too long: %s", path);
	slash = strrchr(dir, '/');
	if (!slash)
		strcpy(dir, ".");
	else if (slash == dir)
		dir[1] = 0;
	else
		*slash = 0;
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot open %s: %s", dir, strerror(errno));
	r = fsync(fd) < 0 ? kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot sync %s: %s", dir, strerror(errno)) : 0;
	kedge_close(fd);
	return r;
}

int kedge_file_replace(const char *path, const void *data, size_t nr_bytes, mode_t mode, struct kedge_err *err)
{
	char tmp[4096];
	int fd, r;

	if (snprintf(tmp, sizeof tmp, "%s.XXXXXX", path) >= (int)sizeof tmp)
		return kedge_err_set(err, -ENAMETOOLONG, KEDGE_SIDE_NONE, "path too long: %s", path);
	fd = mkostemp(tmp, O_CLOEXEC); /* mode 0600 until fchmod */
	if (fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot create %s: %s", tmp, strerror(errno));
	r = fchmod(fd, mode) < 0 ? -errno : kedge_write_full(fd, data, nr_bytes);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	kedge_close(fd);
	if (r == 0 && rename(tmp, path) < 0)
		r = -errno;
	if (r < 0) {
		unlink(tmp);
		return kedge_err_set(err, r, KEDGE_SIDE_NONE, "cannot write %s: %s", path, strerror(-r));
	}
	return kedge_file_sync_dir_of(path, err);
}

int kedge_mkdir_p(const char *path, mode_t mode, struct kedge_err *err)
{
	char part[4096];

	if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
		return kedge_err_set(err, -ENAMETOOLONG, KEDGE_SIDE_NONE, "path too long: %s", path);
	for (char *p = part + 1;; p++) {
		char c = *p;
		if (c != '/' && c != 0)
			continue;
		*p = 0;
		if (mkdir(part, c == 0 ? mode : 0755) < 0 && errno != EEXIST)
			return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot make directory %s: %s", part,
					     strerror(errno));
		*p = c;
		if (c == 0)
			return 0;
	}
}

int kedge_file_geometry(int fd, uint64_t *ret_size_bytes, uint32_t *ret_lbs_bytes, struct kedge_err *err)
{
	struct stat st;
	uint64_t size = 0;
	int lbs = 512;

	if (fstat(fd, &st) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot stat: %s", strerror(errno));
	if (S_ISREG(st.st_mode)) {
		size = (uint64_t)st.st_size;
	} else if (S_ISBLK(st.st_mode)) {
		if (ioctl(fd, BLKGETSIZE64, &size) < 0 || ioctl(fd, BLKSSZGET, &lbs) < 0)
			return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot ask the device for its size: %s",
					     strerror(errno));
	} else {
		return kedge_err_set(err, -ENOTBLK, KEDGE_SIDE_NONE, "neither a regular file nor a block device");
	}
	*ret_size_bytes = size;
	*ret_lbs_bytes = (uint32_t)lbs;
	return 0;
}

uint64_t kedge_file_hole_end(int fd, uint64_t start_bytes, uint64_t end_bytes)
{
	off_t data = lseek(fd, (off_t)start_bytes, SEEK_DATA);
	struct stat st;

	if (data >= 0)
		return kedge_max_u64(start_bytes, kedge_min_u64((uint64_t)data, end_bytes));
	if (errno != ENXIO || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size < end_bytes)
		return start_bytes;
	return end_bytes;
}

bool kedge_file_knows_holes(int fd)
{
	struct statfs st;

	if (fstatfs(fd, &st) < 0)
		return false;
	switch ((uint32_t)st.f_type) {
	case EXT4_SUPER_MAGIC: /* of ext2 and ext3 too */
	case XFS_SUPER_MAGIC:
	case BTRFS_SUPER_MAGIC:
	case TMPFS_MAGIC:
		return true;
	}
	return false;
}

bool kedge_file_is_in_memory(int fd)
{
	struct statfs st;

	return fstatfs(fd, &st) == 0 && (uint32_t)st.f_type == TMPFS_MAGIC;
}

int kedge_lock(int fd, unsigned wait_ms)
{
	const struct timespec nap = {.tv_nsec = 10000000};

	for (unsigned waited_ms = 0;; waited_ms += 10) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -errno;
		if (waited_ms >= wait_ms)
			return -EWOULDBLOCK;
		nanosleep(&nap, NULL);
	}
}
