/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The driver's own discards, writes and flushes.
 *
 * Owns. Nothing beyond each call; descriptors are the caller's.
 *
 * Locks. The destination's (dm_block.h).
 *
 * Crash. Plain pread(2) and pwrite(2) on purpose: a process that is killed inside them is gone only when its I/O is, while writes of
 * io_uring may land after the death of who submitted them.
 */
#include "dm_block.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kedge/file.h"

int dm_block_open(const char *name, bool is_alone, int *ret_fd, struct kedge_err *err)
{
	char path[192];
	int fd;

	snprintf(path, sizeof path, "/dev/mapper/%s", name);
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC | (is_alone ? O_EXCL : 0));
	if (fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot open %s: %s", path, strerror(errno));
	*ret_fd = fd;
	return 0;
}

int dm_block_discard(int fd, const char *name, uint64_t start_bytes, uint64_t nr_bytes, struct kedge_err *err)
{
	uint64_t range[2] = {start_bytes, nr_bytes};

	if (ioctl(fd, BLKDISCARD, range) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot mark %" PRIu64 " bytes at %" PRIu64 " of %s: %s", nr_bytes,
				     start_bytes, name, strerror(errno));
	return 0;
}

int dm_block_write(int fd, const char *name, const void *buf, uint64_t start_bytes, uint64_t nr_bytes, struct kedge_err *err)
{
	for (uint64_t done = 0; done < nr_bytes;) {
		ssize_t k = pwrite(fd, (const char *)buf + done, nr_bytes - done, (off_t)(start_bytes + done));
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return kedge_err_set(err, k < 0 ? -errno : -ENOSPC, KEDGE_SIDE_DESTINATION,
					     "cannot write %" PRIu64 " bytes at %" PRIu64 " of %s: %s", nr_bytes, start_bytes, name,
					     k < 0 ? strerror(errno) : "short");
		done += (uint64_t)k;
	}
	return 0;
}

int dm_block_lock(const char *dest_path, unsigned wait_ms, int *ret_fd, struct kedge_err *err)
{
	int fd = open(dest_path, O_RDWR | O_CLOEXEC), r;

	if (fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_DESTINATION, "cannot open %s: %s", dest_path, strerror(errno));
	r = kedge_lock(fd, wait_ms);
	if (r < 0) {
		kedge_close(fd);
		return kedge_err_set(err, r, KEDGE_SIDE_DESTINATION, "somebody is still writing %s: not serving", dest_path);
	}
	*ret_fd = fd;
	return 0;
}

int dm_block_flush(int fd, const char *dest_path, struct kedge_err *err)
{
	if (fdatasync(fd) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_DESTINATION, "cannot flush %s: %s", dest_path, strerror(errno));
	return 0;
}
