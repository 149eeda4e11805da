/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Opens or creates what a copy goes to, and says which file or device it is, so that a map is never used with another
 * one that has its name by now.
 *
 * Owns. The disk.
 *
 * Locks. flock on a regular file, O_EXCL on a device: one copy at a time.
 *
 * Crash. A created file and its size are durable (file and directory synced) before a map can speak of it.
 */
#include "destination.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kedge/file.h"

/* The first of the kernel's names of a block device that is there: a uuid of a mapping, a serial number, a loop's file. */
static void device_name(dev_t rdev, char *out, size_t out_max)
{
	static const char *const names[] = { "dm/uuid", "wwid", "serial", "device/wwid", "device/serial", "loop/backing_file" };
	char path[96];

	snprintf(out, out_max, "-");
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		char *text;
		size_t nr_bytes;

		snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s", major(rdev), minor(rdev), names[i]);
		if (kedge_file_read(path, 4096, &text, &nr_bytes, NULL) < 0)
			continue;
		text[strcspn(text, "\n")] = 0;
		if (text[0]) {
			snprintf(out, out_max, "%s=%.200s", names[i], text);
			free(text);
			return;
		}
		free(text);
	}
}

int kcopy_file_id(const char *path, bool is_source, char ret_id[KCOPY_MAP_ID_MAX], struct kedge_err *err)
{
	struct statx st;
	char name[256];

	if (statx(AT_FDCWD, path, 0, STATX_BASIC_STATS | STATX_BTIME, &st) < 0) {
		int rc = -errno;
		return kedge_err_set(err, rc, KEDGE_SIDE_NONE, "%s: %s", path, strerror(-rc));
	}
	if (S_ISBLK(st.stx_mode)) {
		dev_t rdev = makedev(st.stx_rdev_major, st.stx_rdev_minor);
		device_name(rdev, name, sizeof name);
		snprintf(ret_id, KCOPY_MAP_ID_MAX, "device:%u:%u %s", major(rdev), minor(rdev), name);
		return 0;
	}
	/* inode numbers are used again; the time of birth is not */
	int64_t birth_ns = st.stx_mask & STATX_BTIME ? st.stx_btime.tv_sec * 1000000000ll + st.stx_btime.tv_nsec : 0;
	int n = snprintf(ret_id, KCOPY_MAP_ID_MAX, "file:ino=%" PRIu64 " born=%" PRId64, (uint64_t)st.stx_ino, birth_ns);
	if (is_source)
		snprintf(ret_id + n, KCOPY_MAP_ID_MAX - (size_t)n, " size=%" PRIu64 " changed=%" PRId64 ".%09u",
			 (uint64_t)st.stx_size, (int64_t)st.stx_mtime.tv_sec, st.stx_mtime.tv_nsec);
	return 0;
}

static int fail(struct kedge_err *err, int code, const char *path, const char *what)
{
	return kedge_err_set(err, code, KEDGE_SIDE_DESTINATION, "%s: %s", path, what);
}

/* Make the file, or give its size to one that is empty or that a copy of exact_bytes has been cut to. */
static int prepare_file(const char *path, uint64_t size_bytes, uint64_t exact_bytes, bool can_create, struct kedge_err *err)
{
	struct stat st;
	bool was_created = false;
	int fd = -1, rc = 0;

	if (stat(path, &st) < 0) {
		if (errno != ENOENT || !can_create)
			return fail(err, -errno, path, strerror(errno));
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0)
			return fail(err, -errno, path, strerror(errno));
		was_created = true;
		st.st_size = 0;
		st.st_mode = S_IFREG;
	}
	if (S_ISREG(st.st_mode) && (st.st_size == 0 || (uint64_t)st.st_size == exact_bytes) && (uint64_t)st.st_size < size_bytes) {
		if (fd < 0)
			fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0 || ftruncate(fd, (off_t)size_bytes) < 0 || fsync(fd) < 0)
			rc = fail(err, -errno, path, strerror(errno));
		if (rc == 0 && was_created)
			rc = kedge_file_sync_dir_of(path, err);
	}
	if (rc < 0 && was_created)
		unlink(path);
	kedge_close(fd);
	return rc;
}

int kcopy_destination_open(struct kedge_loop *l, const char *path, const char *source_path, uint64_t size_bytes,
			   uint64_t exact_bytes, bool can_create, struct kcopy_destination *ret_dest, struct kedge_err *err)
{
	struct kcopy_destination d = { .fd = -1 };
	struct stat st, source_st;
	int rc = prepare_file(path, size_bytes, exact_bytes, can_create, err);

	if (rc < 0)
		return rc;
	if (stat(path, &st) < 0)
		return fail(err, -errno, path, strerror(errno));
	if (source_path && stat(source_path, &source_st) == 0 &&
	    (S_ISBLK(st.st_mode) ? S_ISBLK(source_st.st_mode) && st.st_rdev == source_st.st_rdev
				 : st.st_dev == source_st.st_dev && st.st_ino == source_st.st_ino))
		return fail(err, -EINVAL, path, "source and destination are the same");
	rc = kedge_disk_open(l, path, KEDGE_DISK_EXCL, &d.disk, err);
	if (rc < 0)
		return rc;
	d.fd = kedge_disk_fd(d.disk);
	d.is_regular = S_ISREG(st.st_mode);
	if (d.is_regular && kedge_lock(d.fd, 1000) < 0)
		rc = fail(err, -EBUSY, path, "another process holds a lock on it");
	if (rc == 0 && d.disk->size_bytes < size_bytes)
		rc = kedge_err_set(err, KEDGE_E_DEST_SIZE, KEDGE_SIDE_DESTINATION,
				   "%s: has %" PRIu64 " bytes, the source has %" PRIu64, path, d.disk->size_bytes, size_bytes);
	if (rc == 0)
		rc = kcopy_file_id(path, false, d.id, err);
	if (rc < 0) {
		kedge_disk_close(d.disk);
		return rc;
	}
	*ret_dest = d;
	return 0;
}

void kcopy_destination_close(struct kcopy_destination *d)
{
	kedge_disk_close(d->disk);
	*d = (struct kcopy_destination){ .fd = -1 };
}
