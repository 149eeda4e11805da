/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The kernel devices of a clone: made, taken over, swapped, taken away.
 *
 * Owns. Nothing in memory: the devices are the kernel's, found by name.
 *
 * Locks. The caller holds the clone's files, so there is one of us a clone.
 *
 * Crash. Each step leaves devices that the next start recognises: one that is missing is made, one that is suspended is resumed,
 * one with another table below is led to the right one. The order down is top first, so that nothing is ever used whose parts go.
 */
#include "dm_stack.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/loopdev.h"

#define REMOVE_TRIES 50
#define DETACH_MS 5000
#define DOSE_WAIT_MS 500 /* a read of a source that is away does not end: nothing else is to wait for it */
#define DOSE_LOOKS 20
#define FIRST_THRESHOLD 1
#define FIRST_BATCH 1

void dm_stack_names(const struct kedge_uuid *migration, char top[DMDEV_NAME_MAX], char clone[DMDEV_NAME_MAX], char source[DMDEV_NAME_MAX])
{
	char uuid[KEDGE_UUID_TEXT_MAX];

	kedge_uuid_format(migration, uuid);
	snprintf(top, DMDEV_NAME_MAX, "kedge-%s", uuid);
	snprintf(clone, DMDEV_NAME_MAX, "kedge-%s.clone", uuid);
	snprintf(source, DMDEV_NAME_MAX, "kedge-%s.source", uuid);
}

static void device_uuid(const char *name, char out[DMDEV_NAME_MAX])
{
	/* a prefix in capitals is how device-mapper's users tell theirs apart */
	snprintf(out, DMDEV_NAME_MAX, "KEDGE-%s", name + strlen("kedge-"));
}

int dm_probe(struct kedge_err *err)
{
	struct kedge_err why = {0};
	struct utsname u;
	unsigned major = 0, minor = 0;
	uint32_t version[3];

	if (dmdev_target_version("clone", version, &why) < 0 || dmdev_target_version("linear", version, &why) < 0)
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_NONE, "%s", why.msg);
	if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &major, &minor) != 2 || major < 5 || (major == 5 && minor < 5))
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_NONE,
				     "the dm-clone of this kernel (%s) may lose data in a crash: 5.5 is the first that does not", u.release);
	return 0;
}

int dm_top_probe(struct kedge_err *err)
{
	uint32_t version[3];

	return dmdev_target_version("linear", version, err);
}

/* ---- what lies below: block devices, loop devices over files ---- */

/* The block device for a file or device; a loop device is found or attached. */
static int block_of(const char *path, uint32_t lbs_bytes, char ret_path[UCLONE_PATH_MAX], char ret_number[32], struct kedge_err *err)
{
	char loop[KEDGE_LOOPDEV_MAX];
	struct stat st;
	int r = 0;

	if (stat(path, &st) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_DESTINATION, "%s: %s", path, strerror(errno));
	if (S_ISBLK(st.st_mode)) {
		snprintf(ret_path, UCLONE_PATH_MAX, "%s", path);
	} else {
		if (kedge_loopdev_find(path, loop) < 0)
			r = kedge_loopdev_attach(path, lbs_bytes, loop, err);
		if (r < 0)
			return r;
		snprintf(ret_path, UCLONE_PATH_MAX, "%s", loop);
		if (stat(loop, &st) < 0)
			return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "%s: %s", loop, strerror(errno));
	}
	snprintf(ret_number, 32, "%u:%u", major(st.st_rdev), minor(st.st_rdev));
	return 0;
}

static void let_go(const char *path)
{
	struct kedge_err err = {0};
	struct stat st;

	if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && kedge_loopdev_detach(path, DETACH_MS, &err) < 0)
		kedge_warn("%s", err.msg);
}

/* ---- queue settings and counters, in sysfs ---- */

static int sysfs_path(const char *name, const char *file, char out[128])
{
	char number[32];

	if (dmdev_number(name, number, NULL) < 0)
		return -ENODEV;
	snprintf(out, 128, "/sys/dev/block/%s/%s", number, file);
	return 0;
}

/* K1: a discard that reaches a region in flight lets the late copy land on newer data. */
int dm_stack_withhold_discards(const char *name, struct kedge_err *err)
{
	char path[128], now[32] = "";
	int fd = -1, r = sysfs_path(name, "queue/discard_max_bytes", path);

	if (r == 0) {
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0 || kedge_write_full(fd, "0", 1) < 0 || pread(fd, now, sizeof now - 1, 0) <= 0 || strcmp(now, "0\n") != 0)
			r = -EIO;
		kedge_close(fd);
	}
	return r < 0 ? kedge_err_set(err, r, KEDGE_SIDE_NONE, "cannot withhold discards from %s (%s): not serving", name, path) : 0;
}

static bool read_number(const char *name, const char *file, uint64_t *ret)
{
	char path[128], text[32] = "";
	int fd = sysfs_path(name, file, path) < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;

	kedge_close(fd);
	return n > 0 && sscanf(text, "%" SCNu64, ret) == 1;
}

/* Again as much as the device below takes. */
void dm_stack_allow_discards(const char *name)
{
	char path[128], text[32];
	uint64_t max, granularity;
	int fd = -1;

	if (!read_number(name, "queue/discard_max_hw_bytes", &max) || !read_number(name, "queue/discard_granularity", &granularity) ||
	    sysfs_path(name, "queue/discard_max_bytes", path) < 0)
		return;
	snprintf(text, sizeof text, "%" PRIu64, granularity ? max - max % granularity : max);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || kedge_write_full(fd, text, strlen(text)) < 0)
		kedge_warn("discards stay withheld from %s", name);
	kedge_close(fd);
}

void dm_stack_ios(const struct dm_stack *st, struct dm_ios *ret_ios)
{
	char path[128], text[512] = "";
	int fd;

	*ret_ios = (struct dm_ios){0};
	if (sysfs_path(st->top, "stat", path) < 0)
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, text, sizeof text - 1) > 0)
		sscanf(text, "%" SCNu64 " %*u %*u %*u %" SCNu64 " %*u %*u %*u %*u %" SCNu64, &ret_ios->nr_reads, &ret_ios->nr_writes, &ret_ios->busy_ms);
	kedge_close(fd);
}

bool dm_stack_has_writes(const struct dm_stack *st)
{
	struct dm_ios ios;

	dm_stack_ios(st, &ios);
	return ios.nr_writes > 0;
}

/* ---- single devices ---- */

/* A linear device of ours over another one: made, or led there, running in the end. */
static int lead_linear(const char *name, const char *number, uint64_t nr_sectors, unsigned suspend_flags, struct kedge_err *err)
{
	char params[DM_PARAMS_MAX], target[32], now[DMDEV_PARAMS_MAX], uuid[DMDEV_NAME_MAX];
	struct dmdev_info i;
	int r = dmdev_info(name, &i, err);

	if (r < 0)
		return r;
	dm_linear_params(number, 0, params);
	if (i.exists && !i.has_live_table) { /* a crash between create and load */
		r = dmdev_remove(name, err);
		i.exists = false;
	}
	if (r < 0)
		return r;
	if (!i.exists) {
		device_uuid(name, uuid);
		return dmdev_create(name, uuid, nr_sectors, "linear", params, err);
	}
	r = dmdev_table(name, target, now, err);
	if (r < 0)
		return r;
	if (strcmp(target, "linear") == 0 && strcmp(now, params) == 0)
		return i.is_suspended ? dmdev_resume(name, err) : 0;
	return dmdev_replace(name, suspend_flags, nr_sectors, "linear", params, err);
}

static int remove_one(const char *name, struct kedge_err *err)
{
	const struct timespec nap = {.tv_nsec = 20000000};
	struct kedge_err last = {0};
	struct dmdev_info i;
	int r = dmdev_info(name, &i, err);

	if (r < 0 || !i.exists)
		return r;
	if (i.is_suspended)
		dmdev_resume(name, NULL);
	/* whoever looks at new devices (udev, blkid) has it open for a moment */
	for (unsigned n = 0; n < REMOVE_TRIES; n++) {
		last = (struct kedge_err){0};
		r = dmdev_remove(name, &last);
		if (r != -EBUSY)
			break;
		nanosleep(&nap, NULL);
	}
	if (r == -EBUSY)
		return kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "/dev/mapper/%s is open or mounted: close it first", name);
	return r < 0 ? kedge_err_set(err, r, last.side, "%s", last.msg) : 0;
}

/* ---- the whole ---- */

static int begin(struct dm_stack *st, struct dm_record *rec, struct kedge_err *err)
{
	const struct uclone_create_opts *o = &rec->super.opts;

	*st = (struct dm_stack){.rec = rec, .nr_sectors = o->source.size_bytes / 512};
	dm_stack_names(&o->migration, st->top, st->clone, st->source);
	return block_of(o->dest_path, o->source.lbs_bytes, st->dest_path, st->dest_dev, err);
}

static int make_clone(struct dm_stack *st, const struct dm_clone_table *t, struct kedge_err *err)
{
	char params[DM_PARAMS_MAX], uuid[DMDEV_NAME_MAX];
	uint64_t nr_hydrated;
	int r = dm_record_guard(st->rec, &nr_hydrated, err);

	if (r == 0)
		r = dm_clone_params(t, params);
	if (r < 0)
		return kedge_err_set(err, r, KEDGE_SIDE_NONE, "cannot start the clone: %s", kedge_err_text(r));
	device_uuid(st->clone, uuid);
	st->was_made = true;
	return dmdev_create(st->clone, uuid, st->nr_sectors, "clone", params, err);
}

static int take_clone(struct dm_stack *st, const struct dm_clone_table *t, struct kedge_err *err)
{
	char target[32], params[DMDEV_PARAMS_MAX];
	int r = dmdev_table(st->clone, target, params, err);

	if (r < 0)
		return r;
	if (strcmp(target, "clone") != 0 || !dm_clone_params_are_of(params, t))
		return kedge_err_set(err, KEDGE_E_META_FOREIGN, KEDGE_SIDE_NONE,
				     "/dev/mapper/%s exists with another table (%s %s): not touched", st->clone, target, params);
	st->was_there = true;
	return 0;
}

/* Give the source another table. Until that is in place its reads wait: the one before may be of a disk that is not the volume any more. */
static int swap_source(const struct dm_stack *st, const char *target, const char *params, struct kedge_err *err)
{
	int r = dm_stack_hold_source(st, err);

	if (r == 0)
		r = dmdev_load_read_only(st->source, st->nr_sectors, target, params, err);
	return r < 0 ? r : dmdev_resume(st->source, err);
}

static int make_source(const struct dm_stack *st, const char *target, const char *params, struct kedge_err *err)
{
	char uuid[DMDEV_NAME_MAX];

	device_uuid(st->source, uuid);
	return dmdev_create_read_only(st->source, uuid, st->nr_sectors, target, params, err);
}

/* ret_is_there: with a table; one without, of a crash between create and load, is gone then. */
static int look_at_source(const struct dm_stack *st, bool *ret_is_there, struct dmdev_info *ret_info, struct kedge_err *err)
{
	int r = dmdev_info(st->source, ret_info, err);

	*ret_is_there = r == 0 && ret_info->exists && ret_info->has_live_table;
	return r == 0 && ret_info->exists && !ret_info->has_live_table ? dmdev_remove(st->source, err) : r;
}

int dm_stack_lead_source(const struct dm_stack *st, const char *number, struct kedge_err *err)
{
	char params[DM_PARAMS_MAX];
	struct dmdev_info i;
	bool is_there;
	int r = look_at_source(st, &is_there, &i, err);

	dm_linear_params(number, 0, params);
	if (r < 0)
		return r;
	if (!is_there)
		return make_source(st, "linear", params, err);
	if (!i.is_suspended && dm_stack_is_source(st, number))
		return 0;
	/* suspended, it gets its table anew: a resume would put in place whatever was loaded last */
	return swap_source(st, "linear", params, err);
}

/* A source that is not there yet, whose reads wait. One that exists stays as it is. */
static int make_held_source(const struct dm_stack *st, struct kedge_err *err)
{
	struct dmdev_info i;
	bool is_there;
	int r = look_at_source(st, &is_there, &i, err);

	if (r < 0 || is_there)
		return r;
	/* were it resumed by mistake, reads would fail: never another device's data */
	r = make_source(st, "error", "", err);
	return r < 0 ? r : dm_stack_hold_source(st, err);
}

bool dm_stack_is_source(const struct dm_stack *st, const char *number)
{
	char target[32], now[DMDEV_PARAMS_MAX], params[DM_PARAMS_MAX];

	dm_linear_params(number, 0, params);
	return dmdev_table(st->source, target, now, NULL) == 0 && strcmp(target, "linear") == 0 && strcmp(now, params) == 0;
}

static int open_below(struct dm_stack *st, struct dm_record *rec, const char *source_device, struct kedge_err *err)
{
	struct dm_clone_table t = {.region_bytes = rec->super.dm_region_bytes, .threshold = FIRST_THRESHOLD, .batch = FIRST_BATCH};
	char meta_file[UCLONE_PATH_MAX + 8], meta_path[UCLONE_PATH_MAX], source_path[UCLONE_PATH_MAX], number[32];
	struct dmdev_info i;
	int r = dm_probe(err);

	if (r == 0)
		r = begin(st, rec, err);
	dm_record_kernel_path(rec->meta, meta_file);
	if (r == 0)
		r = block_of(meta_file, 512, meta_path, st->meta_dev, err);
	if (r == 0 && source_device)
		r = block_of(source_device, rec->super.opts.source.lbs_bytes, source_path, number, err);
	if (r == 0)
		r = source_device ? dm_stack_lead_source(st, number, err) : make_held_source(st, err);
	if (r == 0)
		r = dmdev_number(st->source, st->source_dev, err);
	if (r == 0)
		r = dmdev_info(st->clone, &i, err);
	if (r < 0)
		return r;
	snprintf(st->feed_dev, sizeof st->feed_dev, "%s", source_device ? number : "");
	t.meta_dev = st->meta_dev;
	t.dest_dev = st->dest_dev;
	t.source_dev = st->source_dev;
	if (i.exists && !i.has_live_table) {
		r = dmdev_remove(st->clone, err);
		i.exists = false;
	}
	if (r == 0)
		r = i.exists ? take_clone(st, &t, err) : make_clone(st, &t, err);
	if (r == 0 && i.is_suspended)
		r = dmdev_resume(st->clone, err);
	return r < 0 ? r : dm_stack_withhold_discards(st->clone, err);
}

/* Nobody got anything yet: what was made goes. A clone that was there before stays as it is. */
static void undo(struct dm_stack *st)
{
	const struct uclone_create_opts *o = &st->rec->super.opts;
	struct dmdev_info i = {0};

	if (st->clone[0] && dmdev_info(st->clone, &i, NULL) == 0 && (!i.exists || st->was_made))
		dm_stack_remove(&o->migration, st->rec->meta, o->dest_path, NULL);
}

int dm_stack_open(struct dm_stack *st, struct dm_record *rec, const char *source_device, struct kedge_err *err)
{
	int r = open_below(st, rec, source_device, err);

	if (r < 0) {
		st->rec = rec;
		undo(st);
	}
	return r;
}

int dm_stack_open_top(struct dm_stack *st, struct kedge_err *err)
{
	char number[32];
	int r = dmdev_number(st->clone, number, err);

	if (r == 0)
		r = lead_linear(st->top, number, st->nr_sectors, DMDEV_NOFLUSH | DMDEV_SKIP_LOCKFS, err);
	if (r == 0)
		r = dm_stack_withhold_discards(st->top, err);
	if (r < 0)
		undo(st);
	return r;
}

int dm_stack_open_alone(struct dm_stack *st, struct dm_record *rec, struct kedge_err *err)
{
	int r = begin(st, rec, err);

	return r < 0 ? r : dm_stack_stand_alone(st, err);
}

int dm_stack_status(const struct dm_stack *st, bool is_commit, struct dm_clone_status *ret_status, struct kedge_err *err)
{
	char target[32], params[DMDEV_PARAMS_MAX];
	int r = dmdev_status(st->clone, !is_commit, target, params, err);

	if (r == 0 && (strcmp(target, "clone") != 0 || dm_clone_status_parse(params, ret_status) < 0))
		r = kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_NONE, "%s says what dm-clone does not: %s %s", st->clone, target, params);
	return r;
}

int dm_stack_hydrate(const struct dm_stack *st, bool is_on, uint32_t threshold, uint32_t batch, struct kedge_err *err)
{
	char text[64];
	int r;

	if (!is_on)
		return dmdev_message(st->clone, "disable_hydration", err);
	snprintf(text, sizeof text, "hydration_batch_size %u", batch);
	r = dmdev_message(st->clone, text, err);
	snprintf(text, sizeof text, "hydration_threshold %u", threshold);
	if (r == 0)
		r = dmdev_message(st->clone, text, err);
	return r < 0 ? r : dmdev_message(st->clone, "enable_hydration", err);
}

void dm_stack_keep_apart(const struct dm_stack *st, bool is_apart)
{
	char path[128];
	int fd;

	if (!st->feed_dev[0])
		return; /* a disk of the kernel's initiator: its own business */
	snprintf(path, sizeof path, "/sys/dev/block/%s/queue/nomerges", st->feed_dev);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || kedge_write_full(fd, is_apart ? "2" : "0", 1) < 0)
		kedge_warn("cannot set %s: one bad sector may hold back its neighbours", path);
	kedge_close(fd);
}

/* The kernel's worker starts copies when it gets to run. */
static int wait_until_started(const struct dm_stack *st, uint64_t nr_hydrated_before, struct kedge_err *err)
{
	const struct timespec moment = {.tv_nsec = 100000};
	struct dm_clone_status s;
	int r = 0;

	for (unsigned i = 0; i < DOSE_LOOKS && r == 0; i++) {
		r = dm_stack_status(st, false, &s, err);
		if (r == 0 && (s.mode != DM_MODE_RW || s.nr_hydrating || s.nr_hydrated != nr_hydrated_before))
			break;
		nanosleep(&moment, NULL);
	}
	return r;
}

int dm_stack_dose(const struct dm_stack *st, uint32_t threshold, uint32_t batch, struct kedge_err *err)
{
	struct dm_clone_status s;
	int r = dm_stack_status(st, false, &s, err), resumed, off;

	/* new I/O waits above, what is below ends: a moment with nothing in flight */
	if (r == 0)
		r = dmdev_suspend_within(st->top, DMDEV_NOFLUSH | DMDEV_SKIP_LOCKFS, DOSE_WAIT_MS, err);
	if (r < 0)
		return r;
	r = dm_stack_hydrate(st, true, threshold, batch, err);
	if (r == 0)
		r = wait_until_started(st, s.nr_hydrated, err);
	/* what has been started ends; the kernel adds nothing by itself in the next quiet moment */
	off = dm_stack_hydrate(st, false, 0, 0, err);
	resumed = dmdev_resume(st->top, err);
	return r < 0 ? r : off < 0 ? off : resumed;
}

int dm_stack_prove(const struct dm_stack *st, struct kedge_err *err)
{
	struct dm_clone_status s;
	uint64_t nr;
	int r = dm_stack_status(st, true, &s, err); /* commits: destination first, then the bitmap */

	if (r == 0 && s.mode != DM_MODE_RW)
		r = kedge_err_set(err, KEDGE_E_FAILED, KEDGE_SIDE_METADATA, "%s has failed", st->clone);
	if (r == 0 && (s.nr_hydrated != s.nr_regions || s.nr_hydrating))
		r = kedge_err_set(err, KEDGE_E_NOT_HYDRATED, KEDGE_SIDE_NONE, "%" PRIu64 " of %" PRIu64 " regions are here", s.nr_hydrated,
				  s.nr_regions);
	if (r == 0)
		r = dm_record_count(st->rec, &nr, err);
	if (r == 0 && nr != s.nr_regions)
		r = kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA,
				  "%s.dm says that %" PRIu64 " of %" PRIu64 " regions are here, the kernel that all are", st->rec->meta, nr,
				  s.nr_regions);
	return r;
}

int dm_stack_stand_alone(struct dm_stack *st, struct kedge_err *err)
{
	char meta_file[UCLONE_PATH_MAX + 8];
	int r = lead_linear(st->top, st->dest_dev, st->nr_sectors, DMDEV_SKIP_LOCKFS, err);

	if (r == 0)
		r = remove_one(st->clone, err);
	if (r == 0)
		r = remove_one(st->source, err);
	if (r < 0)
		return r;
	dm_stack_allow_discards(st->top);
	dm_record_kernel_path(st->rec->meta, meta_file);
	let_go(meta_file);
	return 0;
}

int dm_stack_stop_serving(struct dm_stack *st, struct kedge_err *err)
{
	return dmdev_replace(st->top, DMDEV_NOFLUSH | DMDEV_SKIP_LOCKFS, st->nr_sectors, "error", "", err);
}

int dm_stack_hold_source(const struct dm_stack *st, struct kedge_err *err)
{
	return dmdev_suspend(st->source, DMDEV_NOFLUSH | DMDEV_SKIP_LOCKFS, err);
}

int dm_stack_hold_source_within(const struct dm_stack *st, unsigned max_ms, struct kedge_err *err)
{
	struct dmdev_info i;
	int r = dmdev_info(st->source, &i, err);

	if (r < 0 || !i.exists)
		return r;
	return dmdev_suspend_within(st->source, DMDEV_NOFLUSH | DMDEV_SKIP_LOCKFS, max_ms, err);
}

int dm_stack_fail_waiting(const struct dm_stack *st, struct kedge_err *err)
{
	struct dmdev_info i;
	int r = dmdev_info(st->source, &i, err);

	return r < 0 || !i.exists || !i.is_suspended ? r : swap_source(st, "error", "", err);
}

int dm_stack_give_up(const struct kedge_uuid *migration, uint64_t nr_sectors, struct kedge_err *err)
{
	struct dm_stack st = {.nr_sectors = nr_sectors};
	char target[32], params[DMDEV_PARAMS_MAX];
	struct dmdev_info top;
	int r;

	dm_stack_names(migration, st.top, st.clone, st.source);
	r = dmdev_info(st.top, &top, err);
	if (r < 0 || !top.exists)
		return r;
	if (dmdev_table(st.top, target, params, NULL) == 0 && strcmp(target, "error") == 0)
		return top.is_suspended ? dmdev_resume(st.top, err) : 0;
	r = dm_stack_fail_waiting(&st, err);
	return r < 0 ? r : dm_stack_stop_serving(&st, err);
}

int dm_stack_remove(const struct kedge_uuid *migration, const char *meta, const char *dest_path, struct kedge_err *err)
{
	char top[DMDEV_NAME_MAX], clone[DMDEV_NAME_MAX], source[DMDEV_NAME_MAX], meta_file[UCLONE_PATH_MAX + 8];
	int r;

	dm_stack_names(migration, top, clone, source);
	r = remove_one(top, err);
	if (r == 0)
		r = remove_one(clone, err);
	if (r == 0)
		r = remove_one(source, err);
	if (r < 0)
		return r;
	dm_record_kernel_path(meta, meta_file);
	let_go(meta_file);
	let_go(dest_path);
	return 0;
}

int dm_stack_lead(const char *name, const char *number, uint64_t nr_sectors, struct kedge_err *err)
{
	return lead_linear(name, number, nr_sectors, DMDEV_SKIP_LOCKFS, err);
}

int dm_stack_remove_one(const char *name, struct kedge_err *err)
{
	return remove_one(name, err);
}
