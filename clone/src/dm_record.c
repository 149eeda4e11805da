/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The record of a clone of the kernel engine, and the guard of the kernel's metadata.
 *
 * Owns. META and META.seen while open.
 *
 * Locks. The caller's (kclone.h, "the files of a clone").
 *
 * Crash. A superblock is written into the older slot and synced, then META.seen: one of both slots is always whole, and META.seen is never
 * ahead of what META holds.
 */
#include "dm_record.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dm_table.h"
#include "kedge/bytes.h"
#include "kedge/file.h"

void dm_record_kernel_path(const char *meta, char out[UCLONE_PATH_MAX + 8])
{
	snprintf(out, UCLONE_PATH_MAX + 8, "%s.dm", meta);
}

static int transfer(int fd, bool is_write, void *buf, size_t n, uint64_t at)
{
	for (size_t done = 0; done < n;) {
		ssize_t k = is_write ? pwrite(fd, (char *)buf + done, n - done, (off_t)(at + done))
				     : pread(fd, (char *)buf + done, n - done, (off_t)(at + done));
		if (k < 0 && errno != EINTR)
			return -errno;
		if (k == 0)
			return -ENODATA;
		done += k > 0 ? (size_t)k : 0;
	}
	return 0;
}

static int write_super(struct dm_record *rec, struct kedge_err *err)
{
	uint8_t b[UC_SUPER_BYTES];
	int r;

	uc_super_encode(&rec->super, b);
	r = transfer(rec->meta_fd, true, b, sizeof b, rec->super.generation % 2 ? UC_SUPER_A_BYTES : UC_SUPER_B_BYTES);
	if (r == 0 && fdatasync(rec->meta_fd) < 0)
		r = -errno;
	if (r == 0) {
		uc_seen_encode(&rec->super, b);
		r = transfer(rec->seen_fd, true, b, UC_BLOCK, 0);
	}
	if (r == 0 && fdatasync(rec->seen_fd) < 0)
		r = -errno;
	return r < 0 ? kedge_err_set(err, r, KEDGE_SIDE_METADATA, "cannot write %s: %s", rec->meta, strerror(-r)) : 0;
}

static int open_files(const char *meta, bool is_change, struct dm_record *rec, struct kedge_err *err)
{
	char seen[UCLONE_PATH_MAX + 8];
	int flags = (is_change ? O_RDWR : O_RDONLY) | O_CLOEXEC;

	*rec = (struct dm_record){.meta_fd = -1, .seen_fd = -1};
	snprintf(rec->meta, sizeof rec->meta, "%s", meta);
	clone_seen_path(meta, seen);
	rec->meta_fd = open(meta, flags);
	rec->seen_fd = open(seen, flags);
	if (rec->meta_fd < 0 || rec->seen_fd < 0) {
		kedge_err_set(err, errno == ENOENT ? KEDGE_E_META_MISSING : -errno, KEDGE_SIDE_METADATA, "cannot open %s: %s",
			      rec->meta_fd < 0 ? meta : seen, strerror(errno));
		dm_record_close(rec);
		return err ? err->code : -EIO;
	}
	return 0;
}

int dm_record_create(const char *meta, const struct uc_super *super, struct kedge_err *err)
{
	struct dm_record rec;
	int r = open_files(meta, true, &rec, err);

	if (r < 0)
		return r;
	rec.super = *super;
	rec.super.generation = 1;
	r = write_super(&rec, err);
	dm_record_close(&rec);
	return r;
}

static int choose(struct dm_record *rec, struct kedge_err *err)
{
	uint8_t b[UC_SUPER_BYTES];
	struct uc_super a, s;
	int ra = transfer(rec->meta_fd, false, b, sizeof b, UC_SUPER_A_BYTES), rb;

	ra = ra == 0 ? uc_super_decode(b, &a) : ra == -ENODATA ? KEDGE_E_META_CORRUPT : ra;
	rb = transfer(rec->meta_fd, false, b, sizeof b, UC_SUPER_B_BYTES);
	rb = rb == 0 ? uc_super_decode(b, &s) : rb == -ENODATA ? KEDGE_E_META_CORRUPT : rb;
	if (ra < 0 && rb < 0) {
		int code = ra == KEDGE_E_META_VERSION || rb == KEDGE_E_META_VERSION ? KEDGE_E_META_VERSION : ra == KEDGE_E_META_ZEROED ? rb : ra;
		return kedge_err_set(err, code, KEDGE_SIDE_METADATA, "%s: no superblock is valid: %s", rec->meta, kedge_err_text(code));
	}
	if (ra == KEDGE_E_META_VERSION || rb == KEDGE_E_META_VERSION)
		return kedge_err_set(err, KEDGE_E_META_VERSION, KEDGE_SIDE_METADATA, "%s: a superblock of another version", rec->meta);
	if (ra == 0 && rb == 0 && memcmp(a.id.b, s.id.b, 16) != 0)
		return kedge_err_set(err, KEDGE_E_META_FOREIGN, KEDGE_SIDE_METADATA, "%s: superblocks of two clones", rec->meta);
	rec->super = rb < 0 || (ra == 0 && a.generation >= s.generation) ? a : s;
	if (!rec->super.dm_region_bytes)
		return kedge_err_set(err, KEDGE_E_META_VERSION, KEDGE_SIDE_METADATA, "%s belongs to the user engine", rec->meta);
	return 0;
}

static int check_seen(struct dm_record *rec, struct kedge_err *err)
{
	uint64_t generation, open_count;
	uint8_t b[UC_BLOCK];
	int r = transfer(rec->seen_fd, false, b, sizeof b, 0);

	if (r == -ENODATA)
		r = KEDGE_E_META_CORRUPT;
	if (r == 0)
		r = uc_seen_decode(b, &rec->super, &generation, &open_count);
	if (r < 0)
		return kedge_err_set(err, r, KEDGE_SIDE_METADATA, "%s.seen: %s", rec->meta, kedge_err_text(r));
	if (rec->super.generation < generation || rec->super.open_count < open_count)
		return kedge_err_set(err, KEDGE_E_META_OLD, KEDGE_SIDE_METADATA,
				     "%s is an older copy: generation %" PRIu64 ", but %" PRIu64 " was written once", rec->meta,
				     rec->super.generation, generation);
	return 0;
}

int dm_record_open(const char *meta, bool is_change, struct dm_record *ret_record, struct kedge_err *err)
{
	int r = open_files(meta, is_change, ret_record, err);

	if (r < 0)
		return r;
	r = choose(ret_record, err);
	if (r == 0)
		r = check_seen(ret_record, err);
	if (r < 0)
		dm_record_close(ret_record);
	return r;
}

int dm_record_write(struct dm_record *rec, struct kedge_err *err)
{
	rec->super.generation++;
	return write_super(rec, err);
}

void dm_record_close(struct dm_record *rec)
{
	kedge_close(rec->meta_fd);
	kedge_close(rec->seen_fd);
	rec->meta_fd = rec->seen_fd = -1;
}

/* ---- META.dm ---- */

struct reader {
	int fd;
	uint8_t *bounce; /* for O_DIRECT */
};

static int read_cb(void *arg, uint64_t nr, uint8_t buf[4096])
{
	struct reader *rd = arg;
	int r;

	if (nr > INT64_MAX / 4096)
		return KEDGE_E_META_CORRUPT;
	r = transfer(rd->fd, false, rd->bounce, 4096, nr * 4096);
	memcpy(buf, rd->bounce, 4096);
	return r == -ENODATA ? KEDGE_E_META_CORRUPT : r;
}

static int open_kernel_meta(const struct dm_record *rec, struct reader *rd, struct kedge_err *err)
{
	char path[UCLONE_PATH_MAX + 8];

	dm_record_kernel_path(rec->meta, path);
	rd->bounce = kedge_buf_alloc(4096);
	rd->fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
	if (rd->fd < 0 && errno == EINVAL)
		rd->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (rd->fd < 0 || !rd->bounce)
		return kedge_err_set(err, errno == ENOENT ? KEDGE_E_META_MISSING : -errno, KEDGE_SIDE_METADATA, "cannot open %s: %s", path,
				     strerror(errno));
	return 0;
}

static void close_kernel_meta(struct reader *rd)
{
	kedge_close(rd->fd);
	kedge_buf_free(rd->bounce);
}

int dm_record_count(const struct dm_record *rec, uint64_t *ret_nr_hydrated, struct kedge_err *err)
{
	struct reader rd = {.fd = -1};
	int r = open_kernel_meta(rec, &rd, err);

	if (r == 0) {
		r = dm_clone_bitmap_count(read_cb, &rd, rec->super.opts.source.size_bytes, rec->super.dm_region_bytes, ret_nr_hydrated);
		if (r < 0)
			kedge_err_set(err, r, KEDGE_SIDE_METADATA, "%s.dm: %s", rec->meta, kedge_err_text(r));
	}
	close_kernel_meta(&rd);
	return r;
}

struct collect {
	uint64_t *words, first_word;
};

static void collect_cb(void *arg, uint64_t first_region, uint64_t bits)
{
	struct collect *c = arg;

	c->words[first_region / 64 - c->first_word] |= bits;
}

int dm_record_bits(const struct dm_record *rec, uint64_t from_region, uint64_t end_region, uint64_t *words, struct kedge_err *err)
{
	struct collect c = {.words = words, .first_word = from_region / 64};
	struct reader rd = {.fd = -1};
	int r = open_kernel_meta(rec, &rd, err);

	if (r == 0) {
		r = dm_clone_bitmap_read_range(read_cb, &rd, rec->super.opts.source.size_bytes, rec->super.dm_region_bytes, from_region,
					       end_region, collect_cb, &c);
		if (r < 0)
			kedge_err_set(err, r, KEDGE_SIDE_METADATA, "%s.dm: %s", rec->meta, kedge_err_text(r));
	}
	close_kernel_meta(&rd);
	return r;
}

int dm_record_guard(const struct dm_record *rec, uint64_t *ret_nr_hydrated, struct kedge_err *err)
{
	uint64_t need = dm_clone_meta_bytes(rec->super.opts.source.size_bytes, rec->super.dm_region_bytes);
	struct reader rd = {.fd = -1};
	uint64_t size_bytes;
	uint32_t lbs_bytes;
	uint8_t first[4096];
	int r = open_kernel_meta(rec, &rd, err);

	*ret_nr_hydrated = 0;
	if (r == 0)
		r = kedge_file_geometry(rd.fd, &size_bytes, &lbs_bytes, err);
	if (r == 0 && size_bytes < need)
		r = kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA, "%s.dm is shorter than its volume needs", rec->meta);
	if (r == 0) {
		r = read_cb(&rd, 0, first);
		if (r < 0)
			kedge_err_set(err, r, KEDGE_SIDE_METADATA, "cannot read %s.dm: %s", rec->meta, kedge_err_text(r));
	}
	close_kernel_meta(&rd);
	if (r < 0)
		return err ? err->code : r;
	if (rec->super.state == UCLONE_CREATED) {
		/* The kernel formats what begins with zeroes and opens anything else. Formatted and empty: a start that was cut short
		 * before anybody got the device. Marked: a head start that was; each of its marks covers what had been flushed. */
		if (kedge_is_zero(first, sizeof first))
			return 0;
		if (dm_record_count(rec, ret_nr_hydrated, NULL) < 0 || (*ret_nr_hydrated && !rec->super.dm_is_marked))
			return kedge_err_set(err, KEDGE_E_META_FOREIGN, KEDGE_SIDE_METADATA,
					     "%s.dm holds something, although this clone was never started", rec->meta);
		return 0;
	}
	r = dm_record_count(rec, ret_nr_hydrated, err);
	if (r < 0)
		return r;
	if (*ret_nr_hydrated < rec->super.dm_nr_seen)
		return kedge_err_set(err, KEDGE_E_META_OLD, KEDGE_SIDE_METADATA,
				     "%s.dm is an older copy: %" PRIu64 " regions are hydrated, but %" PRIu64 " were once", rec->meta,
				     *ret_nr_hydrated, rec->super.dm_nr_seen);
	return 0;
}
