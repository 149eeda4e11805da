/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The dm-linear above a clone of the user engine: made, led to the destination, taken away.
 *
 * Owns. META.top while it is open.
 *
 * Locks. META.top, so that a driver that outlived its holder and the next one do not meet.
 *
 * Crash. Onto the destination: 1. HYDRATED is durable: from here on a new start leads there by itself. 2. Suspended: I/O waits, what was
 * under way has ended in the engine; a crash leaves it waiting for the next start, and nobody sees an error. 3. The file is flushed: the
 * destination has everything, and no page cache above it has more. 4. The new table is loaded, not yet in place: as 2. 5. Resumed: the
 * device needs none of us. META.top is there before the device and goes after it; it says "alone" from before step 2.
 */
#include "dm_top.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/loop.h"
#include "kedge/loopdev.h"

#define LOCK_MS 15000
#define DETACH_MS 5000
#define LOAD_TRIES 50
#define LOAD_NAP_NS 20000000

void dm_top_failpoint(const char *step)
{
	const char *wanted = getenv("KEDGE_FAILPOINT"), *file = getenv("KEDGE_FAILPOINT_FILE");
	int fd;

	if (!wanted || !file || strncmp(wanted, "top.", 4) != 0 || strcmp(wanted + 4, step) != 0)
		return;
	fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	kedge_close(fd);
	raise(SIGSTOP);
}

/* ---- META.top ---- */

void dm_top_record_path(const char *meta, char out[UCLONE_PATH_MAX + 8])
{
	snprintf(out, UCLONE_PATH_MAX + 8, "%s.top", meta);
}

/* Is the file that we have locked still the one of that name? Its last owner may have removed it meanwhile. */
static bool is_current(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static int lock_record(struct dm_top *t, struct kedge_err *err)
{
	int r;

	for (;;) {
		t->lock_fd = open(t->record, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (t->lock_fd < 0)
			return kedge_err_set(err, -errno, KEDGE_SIDE_METADATA, "cannot make %s: %s", t->record, strerror(errno));
		r = kedge_lock(t->lock_fd, LOCK_MS);
		if (r < 0 || is_current(t->lock_fd, t->record))
			break;
		kedge_close(t->lock_fd);
	}
	if (r == 0)
		return 0;
	kedge_close(t->lock_fd);
	t->lock_fd = -1;
	return kedge_err_set(err, r == -EWOULDBLOCK ? KEDGE_E_META_BUSY : r, KEDGE_SIDE_METADATA, "%s is in use by another kclone", t->record);
}

static int write_record(const struct dm_top *t, bool is_alone, struct kedge_err *err)
{
	char text[UCLONE_PATH_MAX + 16];
	int n = snprintf(text, sizeof text, "%s\n%s", t->path, is_alone ? "alone\n" : "");

	if (pwrite(t->lock_fd, text, (size_t)n, 0) != n || ftruncate(t->lock_fd, n) < 0)
		return kedge_err_set(err, -EIO, KEDGE_SIDE_METADATA, "cannot write %s: %s", t->record, strerror(errno));
	return 0;
}

int dm_top_open(const char *meta, const struct uc_super *super, struct dm_top *t, struct kedge_err *err)
{
	char clone[DMDEV_NAME_MAX], source[DMDEV_NAME_MAX];
	struct stat st;
	int r;

	*t = (struct dm_top){.super = *super, .nr_sectors = super->opts.source.size_bytes / 512, .lock_fd = -1};
	dm_stack_names(&super->opts.migration, t->name, clone, source);
	snprintf(t->path, sizeof t->path, "/dev/mapper/%s", t->name);
	dm_top_record_path(meta, t->record);
	r = lock_record(t, err);
	if (r < 0)
		return r;
	r = fstat(t->lock_fd, &st) == 0 && st.st_size ? 0 : write_record(t, false, err);
	if (r < 0)
		dm_top_close(t);
	return r;
}

void dm_top_close(struct dm_top *t)
{
	kedge_close(t->lock_fd);
	t->lock_fd = -1;
}

/* ---- the destination as a block device ---- */

static uint64_t loop_fact(const char *device, const char *fact)
{
	char path[128], *text;
	uint64_t v;

	snprintf(path, sizeof path, "/sys/block/%s/%s", device + strlen("/dev/"), fact);
	if (kedge_file_read(path, 64, &text, NULL, NULL) < 0)
		return UINT64_MAX;
	v = strtoull(text, NULL, 10);
	free(text);
	return v;
}

/* A loop device over the destination file that somebody else made may show a part of it only, or other sectors. */
static bool is_fit(const char *device, uint32_t lbs_bytes)
{
	return loop_fact(device, "queue/logical_block_size") == lbs_bytes && loop_fact(device, "loop/offset") == 0 &&
	       loop_fact(device, "loop/sizelimit") == 0 && loop_fact(device, "ro") == 0;
}

static int number_of(const char *device, char ret_number[32], struct kedge_err *err)
{
	struct stat st;

	if (stat(device, &st) < 0 || !S_ISBLK(st.st_mode))
		return kedge_err_set(err, -ENOTBLK, KEDGE_SIDE_NONE, "%s is no block device", device);
	snprintf(ret_number, 32, "%u:%u", major(st.st_rdev), minor(st.st_rdev));
	return 0;
}

static int dest_number(const struct uc_super *s, char ret_number[32], struct kedge_err *err)
{
	char device[KEDGE_LOOPDEV_MAX];
	struct stat st;
	int r = 0;

	if (stat(s->opts.dest_path, &st) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_DESTINATION, "%s: %s", s->opts.dest_path, strerror(errno));
	if (S_ISBLK(st.st_mode))
		return number_of(s->opts.dest_path, ret_number, err);
	if (kedge_loopdev_find(s->opts.dest_path, device) < 0 || !is_fit(device, s->opts.source.lbs_bytes))
		r = kedge_loopdev_attach(s->opts.dest_path, s->opts.source.lbs_bytes, device, err);
	return r < 0 ? r : number_of(device, ret_number, err);
}

int dm_top_fits_dest(const struct uc_super *s, struct kedge_err *err)
{
	uint64_t size_bytes;
	uint32_t lbs_bytes;
	struct stat st;
	int fd = open(s->opts.dest_path, O_RDONLY | O_CLOEXEC), r = fd < 0 || fstat(fd, &st) < 0 ? -errno : 0;

	if (r < 0)
		kedge_err_set(err, r, KEDGE_SIDE_DESTINATION, "%s: %s", s->opts.dest_path, strerror(-r));
	else
		r = kedge_file_geometry(fd, &size_bytes, &lbs_bytes, err);
	kedge_close(fd);
	if (r < 0 || !S_ISBLK(st.st_mode) || lbs_bytes == s->opts.source.lbs_bytes)
		return r;
	return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_DESTINATION, "%s has sectors of %u bytes, the volume of %u: kclone stays between them",
			     s->opts.dest_path, lbs_bytes, s->opts.source.lbs_bytes);
}

/* ---- the device ---- */

static int create(const struct dm_top *t, const char *number, struct kedge_err *err)
{
	char params[DM_PARAMS_MAX], uuid[DMDEV_NAME_MAX];

	/* unlike the one of a device that was renamed and goes with its last user */
	snprintf(uuid, sizeof uuid, "KEDGE-%s-%" PRIx64, t->name + strlen("kedge-"), kedge_clock_ns());
	dm_linear_params(number, 0, params);
	return dmdev_create(t->name, uuid, t->nr_sectors, "linear", params, err);
}

/* What a lost kclone left, and somebody has open: errors for them from now on, the name for us. It goes when they let go. */
static int retire(const struct dm_top *t, struct kedge_err *err)
{
	char lost[DMDEV_NAME_MAX];
	struct dmdev_info i = {0};
	int r = dmdev_replace(t->name, DMDEV_NOFLUSH | DMDEV_SKIP_LOCKFS, t->nr_sectors, "error", "", err);

	snprintf(lost, sizeof lost, "%.80s.lost-%" PRIx64, t->name, kedge_clock_ns());
	if (r == 0)
		r = dmdev_remove_later(t->name, err);
	if (r == 0 && dmdev_info(t->name, &i, NULL) == 0 && !i.exists)
		return 0; /* they let go just now */
	if (r == 0)
		r = dmdev_rename(t->name, lost, err);
	if (r == 0)
		kedge_warn("%s was open when its kclone was lost: who has it open gets errors from now on; it is open anew under its name", t->path);
	return r;
}

/* The device as it is, after what cannot be used has gone. */
static int look(const struct dm_top *t, struct dmdev_info *ret_info, struct kedge_err *err)
{
	int r = dmdev_info(t->name, ret_info, err);

	if (r == 0 && ret_info->exists && !ret_info->has_live_table) { /* a crash between create and load */
		r = dm_stack_remove_one(t->name, err);
		ret_info->exists = false;
	}
	return r;
}

int dm_top_over_clone(struct dm_top *t, const char *device, bool is_ours, bool is_whole, struct kedge_err *err)
{
	struct dmdev_info i;
	char number[32];
	int r = number_of(device, number, err);

	if (r == 0)
		r = look(t, &i, err);
	if (r < 0)
		return r;
	if (i.exists && !is_ours && !is_whole) {
		r = i.nr_open ? retire(t, err) : dm_stack_remove_one(t->name, err);
		i.exists = false;
	}
	if (r < 0)
		return r;
	return i.exists ? dm_stack_lead(t->name, number, t->nr_sectors, err) : create(t, number, err);
}

/* Everything that was written through the file is on the destination, and the file's page cache (a loop device without direct I/O) is clean. */
static int sync_file(const char *file, struct kedge_err *err)
{
	int fd = open(file, O_RDWR | O_CLOEXEC | O_NOFOLLOW), r = fd < 0 || fsync(fd) < 0 ? -errno : 0;

	kedge_close(fd);
	return r < 0 ? kedge_err_set(err, r, KEDGE_SIDE_DESTINATION, "cannot flush %s: %s", file, strerror(-r)) : 0;
}

/* The worker's own claim of the destination ends with its last operation in hand. */
static int load_dest(const struct dm_top *t, const char *params, struct kedge_err *err)
{
	const struct timespec nap = {.tv_nsec = LOAD_NAP_NS};
	struct kedge_err last = {0};
	int r = 0;

	for (unsigned n = 0; n < LOAD_TRIES; n++) {
		last = (struct kedge_err){0};
		r = dmdev_load(t->name, t->nr_sectors, "linear", params, &last);
		if (r != -EBUSY)
			break;
		nanosleep(&nap, NULL);
	}
	return r < 0 ? kedge_err_set(err, r, KEDGE_SIDE_DESTINATION, "%s", last.msg) : 0;
}

static int swap(struct dm_top *t, const char *file, const char *params, void (*step)(const char *name), struct kedge_err *err)
{
	/* waits for what is under way, whether or not the device was suspended by one that was lost */
	int r = dmdev_suspend(t->name, DMDEV_SKIP_LOCKFS, err), resumed;

	if (r < 0)
		return r;
	step("suspended");
	if (file)
		r = sync_file(file, err);
	if (r == 0)
		r = load_dest(t, params, err);
	if (r == 0)
		step("loaded");
	resumed = dmdev_resume(t->name, err); /* with the old table where there is no new one */
	return r < 0 ? r : resumed;
}

static int lead_to_dest(struct dm_top *t, const char *file, void (*step)(const char *name), struct kedge_err *err)
{
	char number[32], params[DM_PARAMS_MAX], target[32], now[DMDEV_PARAMS_MAX];
	struct dmdev_info i;
	int r = dest_number(&t->super, number, err);

	if (r == 0)
		r = look(t, &i, err);
	if (r < 0)
		return r;
	if (!i.exists)
		return create(t, number, err);
	r = dmdev_table(t->name, target, now, err);
	if (r < 0)
		return r;
	dm_linear_params(number, 0, params);
	if (strcmp(target, "linear") == 0 && strcmp(now, params) == 0)
		return i.is_suspended ? dmdev_resume(t->name, err) : 0;
	return swap(t, file, params, step, err);
}

int dm_top_over_dest(struct dm_top *t, const char *file, void (*step)(const char *name), struct kedge_err *err)
{
	int r = dm_top_fits_dest(&t->super, err);

	/* first, for a device that is suspended waits for the next start and has not failed */
	if (r == 0)
		r = write_record(t, true, err);
	if (r < 0)
		return r;
	r = lead_to_dest(t, file, step, err);
	if (r < 0)
		write_record(t, false, NULL);
	return r;
}

int dm_top_remove(struct dm_top *t, struct kedge_err *err)
{
	struct kedge_err detach_err = {0};
	struct stat st;
	int r = dm_stack_remove_one(t->name, err);

	if (r < 0)
		return r;
	if (stat(t->super.opts.dest_path, &st) == 0 && S_ISREG(st.st_mode) &&
	    kedge_loopdev_detach(t->super.opts.dest_path, DETACH_MS, &detach_err) < 0)
		kedge_warn("%s", detach_err.msg);
	unlink(t->record);
	return 0;
}

int dm_top_remove_left(const char *meta, const struct uc_super *super, struct kedge_err *err)
{
	char record[UCLONE_PATH_MAX + 8];
	struct dm_top t;
	int r;

	dm_top_record_path(meta, record);
	if (access(record, F_OK) < 0)
		return 0;
	r = dm_top_open(meta, super, &t, err);
	if (r < 0)
		return r;
	r = dm_top_probe(NULL) < 0 ? 0 : dm_top_remove(&t, err); /* without device-mapper there is none: the host was started anew */
	if (r == 0)
		unlink(t.record);
	dm_top_close(&t);
	return r;
}
