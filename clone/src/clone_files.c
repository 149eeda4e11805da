/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The files of a clone: found, locked, opened; and the waiting that verbs without a loop of their own need.
 *
 * Owns. The disks and the locks, in a struct clone_files.
 *
 * Locks. META.seen first, META second, the destination third (kclone.h).
 *
 * Crash. Nothing is written here; flock(2) ends with the process.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "kclone.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "uclone_layout.h"

/* A reader that is at it, a worker that drains after its holder was killed. */
#define LOCK_SERVICE_MS 2000u
#define LOCK_META_MS 15000u
#define LOCK_POLL_MS 20u

void clone_seen_path(const char *meta, char out[UCLONE_PATH_MAX + 8])
{
	snprintf(out, UCLONE_PATH_MAX + 8, "%s.seen", meta);
}

void clone_run_path(const char *meta, char out[UCLONE_PATH_MAX + 8])
{
	snprintf(out, UCLONE_PATH_MAX + 8, "%s.run", meta);
}

bool clone_recall_source(const char *meta, char url[UCLONE_URL_MAX], char chap_file[UCLONE_PATH_MAX])
{
	char path[UCLONE_PATH_MAX + 16], *text, *nl, *nl2 = NULL;
	bool is_good = false;

	snprintf(path, sizeof path, "%s.source", meta);
	if (kedge_file_read(path, UCLONE_URL_MAX + UCLONE_PATH_MAX, &text, NULL, NULL) < 0)
		return false;
	nl = strchr(text, '\n');
	if (nl)
		nl2 = strchr(nl + 1, '\n');
	if (nl2 && nl > text && nl - text < UCLONE_URL_MAX && nl2 - nl - 1 < UCLONE_PATH_MAX) {
		*nl = *nl2 = 0;
		strcpy(url, text);
		strcpy(chap_file, nl + 1);
		is_good = true;
	}
	free(text);
	return is_good;
}

int kclone_fail(const struct kedge_err *err)
{
	kedge_error("%s", err->msg[0] ? err->msg : kedge_err_text(err->code));
	return (int)kedge_exit_of(err->code);
}

/* ---- waiting ---- */

void kclone_wait_cb(void *arg, int res, const struct kedge_err *err)
{
	struct kclone_wait *w = arg;

	w->is_done = true;
	w->res = res;
	if (err)
		w->err = *err;
}

void kclone_wait_open_cb(void *arg, struct uclone *u, int res, const struct kedge_err *err)
{
	((struct kclone_wait *)arg)->u = u;
	kclone_wait_cb(arg, res, err);
}

int kclone_wait_for(struct kedge_loop *l, struct kclone_wait *w, struct kedge_err *err)
{
	while (!w->is_done) {
		int r = kedge_loop_run_once(l, 1000);
		if (r < 0)
			return kedge_err_set(err, r, KEDGE_SIDE_NONE, "the event loop failed: %s", strerror(-r));
	}
	if (w->res < 0 && err && !err->code)
		*err = w->err;
	return w->res;
}

/* ---- locks ---- */

static int lock(int fd, int how, unsigned wait_ms)
{
	uint64_t deadline_ns = kedge_clock_ns() + wait_ms * 1000000ull;
	const struct timespec pause = {.tv_nsec = LOCK_POLL_MS * 1000000};

	while (flock(fd, how | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -errno;
		if (kedge_clock_ns() >= deadline_ns)
			return -EWOULDBLOCK;
		nanosleep(&pause, NULL);
	}
	return 0;
}

static int busy(struct kedge_err *err, int r, const char *meta)
{
	if (r != -EWOULDBLOCK)
		return kedge_err_set(err, r, KEDGE_SIDE_METADATA, "cannot lock %s: %s", meta, strerror(-r));
	return kedge_err_set(err, KEDGE_E_META_BUSY, KEDGE_SIDE_METADATA,
			     "%s is in use by another kclone: ask that one through its control socket", meta);
}

/* A worker's predecessor is dead, and nobody else may come between: what is still held is the kernel's, however long a sick disk takes. So
 * this is no verdict, and the holder tries again. */
static int busy_for(enum clone_open how, struct kedge_err *err, int r, const char *path)
{
	if (how == CLONE_OPEN_WORKER && r == -EWOULDBLOCK)
		return kedge_err_set(err, -EBUSY, KEDGE_SIDE_NONE, "operations of the worker before on %s have not ended yet", path);
	return busy(err, r, path);
}

static int lock_service(struct clone_files *f, const char *meta, const char *seen, enum clone_open how, struct kedge_err *err)
{
	int r;

	f->service_fd = open(seen, O_RDONLY | O_CLOEXEC);
	if (f->service_fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_METADATA, "cannot open %s: %s", seen, strerror(errno));
	r = lock(f->service_fd, how == CLONE_OPEN_READ ? LOCK_SH : LOCK_EX, how == CLONE_OPEN_READ ? 0 : LOCK_SERVICE_MS);
	return r < 0 ? busy(err, r, meta) : 0;
}

static int find_files(const char *meta, char seen[UCLONE_PATH_MAX + 8], struct kedge_err *err)
{
	if (strlen(meta) >= UCLONE_PATH_MAX)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_METADATA, "--meta is too long (at most %u bytes)", UCLONE_PATH_MAX - 1);
	clone_seen_path(meta, seen);
	if (access(meta, F_OK) < 0)
		return kedge_err_set(err, KEDGE_E_META_MISSING, KEDGE_SIDE_METADATA, "there is no metadata at %s: %s", meta,
				     strerror(errno));
	if (access(seen, F_OK) < 0)
		return kedge_err_set(err, KEDGE_E_META_MISSING, KEDGE_SIDE_METADATA,
				     "the generation record %s is missing: the metadata cannot be told from an older copy", seen);
	return 0;
}

int clone_files_lock(const char *meta, enum clone_open how, struct clone_files *f, struct kedge_err *err)
{
	char seen[UCLONE_PATH_MAX + 8];
	int r = find_files(meta, seen, err);

	*f = (struct clone_files){.service_fd = -1};
	return r < 0 ? r : lock_service(f, meta, seen, how, err);
}

int clone_files_open(struct kedge_loop *l, const char *meta, enum clone_open how, struct clone_files *f, struct kedge_err *err)
{
	char seen[UCLONE_PATH_MAX + 8];
	unsigned flags = how == CLONE_OPEN_READ ? KEDGE_DISK_RDONLY : 0;
	int r = find_files(meta, seen, err);

	*f = (struct clone_files){.loop = l, .service_fd = -1};
	if (r < 0)
		return r;
	if (how != CLONE_OPEN_WORKER)
		r = lock_service(f, meta, seen, how, err);
	if (r == 0)
		r = kedge_disk_open(l, meta, flags, &f->meta, err);
	if (r == 0) {
		/* Whoever holds it although nobody serves is on its way out: a worker that drains, or a killed one whose last
		 * operations the kernel has not let go of yet. */
		r = lock(kedge_disk_fd(f->meta), how == CLONE_OPEN_READ ? LOCK_SH : LOCK_EX, LOCK_META_MS);
		if (r < 0)
			busy_for(how, err, r, meta);
	}
	if (r == 0)
		r = kedge_disk_open(l, seen, flags, &f->seen, err);
	if (r < 0) {
		clone_files_close(f);
		return err ? err->code : r;
	}
	return 0;
}

void clone_files_close_disks(struct clone_files *f)
{
	kedge_disk_close(f->dest);
	kedge_disk_close(f->seen);
	kedge_disk_close(f->meta);
	f->dest = f->seen = f->meta = NULL;
}

void clone_files_close(struct clone_files *f)
{
	clone_files_close_disks(f);
	kedge_close(f->service_fd);
	f->service_fd = -1;
}

/* ---- the superblock ---- */

struct peek {
	struct kedge_disk_io io;
	struct kclone_wait wait;
};

static void peek_cb(struct kedge_disk_io *io, int res)
{
	kclone_wait_cb(&kedge_container_of(io, struct peek, io)->wait, res, NULL);
}

static int choose(const uint8_t *buf, struct uc_super *ret_super)
{
	struct uc_super a, b;
	int ra = uc_super_decode(buf + UC_SUPER_A_BYTES, &a), rb = uc_super_decode(buf + UC_SUPER_B_BYTES, &b);

	if (ra < 0 && rb < 0) {
		/* one that is there and wrong says more than one that is empty */
		if (ra == KEDGE_E_META_VERSION || rb == KEDGE_E_META_VERSION)
			return KEDGE_E_META_VERSION;
		return ra == KEDGE_E_META_ZEROED ? rb : ra;
	}
	*ret_super = ra == 0 && (rb < 0 || a.generation >= b.generation) ? a : b;
	return 0;
}

int clone_files_peek(struct clone_files *f, struct uc_super *ret_super, struct kedge_err *err)
{
	static const uint64_t slots[] = {UC_SUPER_A_BYTES, UC_SUPER_B_BYTES};
	uint8_t *buf = kedge_buf_alloc(UC_MAP_START_BYTES);
	int r = 0, res = 0;

	if (!buf)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_METADATA, "no memory");
	if (f->meta->size_bytes < UC_MAP_START_BYTES) {
		kedge_buf_free(buf);
		return kedge_err_set(err, f->meta->size_bytes ? KEDGE_E_META_CORRUPT : KEDGE_E_META_ZEROED, KEDGE_SIDE_METADATA,
				     "the metadata file is too short to be one");
	}
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(slots); i++) {
		struct peek p = {.io = {.op = KEDGE_DISK_READ, .start_bytes = slots[i], .nr_bytes = UC_SUPER_BYTES, .buf = buf + slots[i], .fn = peek_cb}};
		kedge_disk_submit(f->meta, &p.io);
		r = kclone_wait_for(f->loop, &p.wait, NULL);
		if (r < 0) { /* one of the two is enough */
			memset(buf + slots[i], 0xff, UC_SUPER_BYTES);
			res = r;
		}
	}
	r = choose(buf, ret_super);
	if (r < 0 && res < 0)
		kedge_err_set(err, res, KEDGE_SIDE_METADATA, "cannot read the metadata: %s", kedge_err_text(res));
	else if (r < 0)
		kedge_err_set(err, r, KEDGE_SIDE_METADATA, "no superblock is valid: %s", kedge_err_text(r));
	kedge_buf_free(buf);
	return r < 0 && res < 0 ? res : r;
}

int clone_super_read(const char *meta, struct uc_super *ret_super, struct kedge_err *err)
{
	uint8_t *buf = kedge_buf_alloc(UC_MAP_START_BYTES);
	int fd = open(meta, O_RDONLY | O_CLOEXEC), r = !buf ? -ENOMEM : fd < 0 ? -errno : 0;

	if (r == 0 && (pread(fd, buf + UC_SUPER_A_BYTES, UC_SUPER_BYTES, UC_SUPER_A_BYTES) != (ssize_t)UC_SUPER_BYTES ||
		       pread(fd, buf + UC_SUPER_B_BYTES, UC_SUPER_BYTES, UC_SUPER_B_BYTES) != (ssize_t)UC_SUPER_BYTES))
		r = KEDGE_E_META_CORRUPT;
	if (r == 0)
		r = choose(buf, ret_super);
	kedge_close(fd);
	kedge_buf_free(buf);
	return r < 0 ? kedge_err_set(err, r, KEDGE_SIDE_METADATA, "%s: %s", meta, kedge_err_text(r)) : 0;
}

bool clone_is_dm(const char *meta)
{
	static const uint64_t slots[] = {UC_SUPER_A_BYTES, UC_SUPER_B_BYTES};
	uint8_t b[UC_SUPER_BYTES];
	struct uc_super s;
	bool is_dm = false;
	int fd = open(meta, O_RDONLY | O_CLOEXEC);

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(slots) && fd >= 0; i++)
		if (pread(fd, b, sizeof b, (off_t)slots[i]) == (ssize_t)sizeof b && uc_super_decode(b, &s) == 0 && s.dm_region_bytes)
			is_dm = true;
	kedge_close(fd);
	return is_dm;
}

/* A device that is opened exclusively belongs to its last user until that one's operations have ended, too. */
static int open_dest(struct clone_files *f, const char *path, unsigned flags, struct kedge_err *err)
{
	uint64_t deadline_ns = kedge_clock_ns() + LOCK_META_MS * 1000000ull;
	const struct timespec pause = {.tv_nsec = LOCK_POLL_MS * 1000000};
	struct kedge_err last;
	int r;

	for (;;) {
		last = (struct kedge_err){0};
		r = kedge_disk_open(f->loop, path, flags, &f->dest, &last);
		if (r != -EBUSY || kedge_clock_ns() >= deadline_ns)
			break;
		nanosleep(&pause, NULL);
	}
	if (r < 0)
		*err = last;
	return r;
}

int clone_files_open_dest(struct clone_files *f, struct kedge_err *err)
{
	struct uc_super s;
	int r = clone_files_peek(f, &s, err);

	if (r < 0)
		return r;
	/* one that stands alone is claimed by the device above it */
	r = open_dest(f, s.opts.dest_path, f->is_top && s.state == UCLONE_HYDRATED ? 0 : KEDGE_DISK_EXCL, err);
	if (r == 0) {
		/* A killed worker's write may be on its way to the disk still, and would land on ours. It holds the file open, and so the
		 * lock, until it has ended. */
		r = lock(kedge_disk_fd(f->dest), LOCK_EX, LOCK_META_MS);
		if (r < 0)
			busy_for(f->service_fd < 0 ? CLONE_OPEN_WORKER : CLONE_OPEN_SERVE, err, r, s.opts.dest_path);
	}
	if (r < 0)
		kedge_err_prefix(err, "destination");
	return r < 0 ? err->code : 0;
}
