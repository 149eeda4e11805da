/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How the dm-linear above a clone of the user engine goes to the destination: dm_top.c as it ships, over a device-mapper that only writes down
 * what is asked; files are real ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dm_top.h"
#include "kedge/loopdev.h"
#include "trace.h"

#define LOOP "/dev/test-loop"

static char dir[] = "/tmp/kclone-top.XXXXXX", file[64], meta[64], record[UCLONE_PATH_MAX + 8];
static int fsync_res, load_res;
static unsigned nr_busy; /* loads that are refused for a claim first */
static bool is_suspended;

/* ---- what it stands on ---- */

int stat(const char *restrict path, struct stat *restrict st)
{
	if (strcmp(path, LOOP) == 0) {
		*st = (struct stat){.st_mode = S_IFBLK, .st_rdev = makedev(7, 9)};
		return 0;
	}
	return fstatat(AT_FDCWD, path, st, 0);
}

int fsync(int fd)
{
	(void)fd;
	trace_add("flush file");
	errno = -fsync_res;
	return fsync_res < 0 ? -1 : 0;
}

int kedge_loopdev_find(const char *path, char out[KEDGE_LOOPDEV_MAX])
{
	(void)path;
	(void)out;
	return -ENOENT;
}

int kedge_loopdev_attach(const char *path, uint32_t lbs, char out[KEDGE_LOOPDEV_MAX], struct kedge_err *err)
{
	(void)path;
	(void)lbs;
	(void)err;
	strcpy(out, LOOP);
	return 0;
}

int kedge_loopdev_detach(const char *path, unsigned ms, struct kedge_err *err)
{
	(void)path;
	(void)ms;
	(void)err;
	return 0;
}

static bool is_alone_recorded(void)
{
	char text[256] = "";
	int fd = open(record, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
	close(fd);
	return strstr(text, "\nalone\n") != NULL;
}

int dm_top_probe(struct kedge_err *err)
{
	(void)err;
	return 0;
}

int dmdev_info(const char *name, struct dmdev_info *i, struct kedge_err *err)
{
	(void)name;
	(void)err;
	*i = (struct dmdev_info){.exists = true, .has_live_table = true, .is_suspended = is_suspended};
	return 0;
}

int dmdev_table(const char *name, char target[32], char params[DMDEV_PARAMS_MAX], struct kedge_err *err)
{
	(void)name;
	(void)err;
	strcpy(target, "linear");
	strcpy(params, "7:1 0");
	return 0;
}

int dmdev_suspend(const char *name, unsigned flags, struct kedge_err *err)
{
	(void)err;
	trace_add("suspend %s%s%s", short_name(name), flags & DMDEV_NOFLUSH ? " noflush" : "", is_alone_recorded() ? " (alone)" : "");
	return 0;
}

int dmdev_load(const char *name, uint64_t nr, const char *target, const char *params, struct kedge_err *err)
{
	(void)nr;
	if (nr_busy) {
		nr_busy--;
		return kedge_err_set(err, -EBUSY, KEDGE_SIDE_NONE, "claimed");
	}
	trace_add("load %s %s %s", short_name(name), target, params);
	return load_res < 0 ? kedge_err_set(err, load_res, KEDGE_SIDE_NONE, "refused") : 0;
}

int dmdev_resume(const char *name, struct kedge_err *err)
{
	(void)err;
	trace_add("resume %s", short_name(name));
	return 0;
}

/* not on this way */
#define NEVER(call) int call { (void)n; assert_true(!"not asked for here"); return -1; }
NEVER(dmdev_create(const char *n, const char *u, uint64_t s, const char *t, const char *p, struct kedge_err *e))
NEVER(dmdev_replace(const char *n, unsigned f, uint64_t s, const char *t, const char *p, struct kedge_err *e))
NEVER(dmdev_remove_later(const char *n, struct kedge_err *e))
NEVER(dmdev_rename(const char *n, const char *o, struct kedge_err *e))
NEVER(dm_stack_lead(const char *n, const char *d, uint64_t s, struct kedge_err *e))
NEVER(dm_stack_remove_one(const char *n, struct kedge_err *e))

void dm_stack_names(const struct kedge_uuid *migration, char top[DMDEV_NAME_MAX], char clone[DMDEV_NAME_MAX], char source[DMDEV_NAME_MAX])
{
	(void)migration;
	strcpy(top, "kedge-x");
	strcpy(clone, "kedge-x.clone");
	strcpy(source, "kedge-x.source");
}

/* ---- tests ---- */

static void step_cb(const char *name)
{
	trace_add("[%s]", name);
}

static int lead(const char *loop_file, struct kedge_err *err)
{
	struct uc_super super = {.state = UCLONE_HYDRATED, .opts = {.source = {.size_bytes = 65536, .lbs_bytes = 512}}};
	struct dm_top t;

	*err = (struct kedge_err){0};
	trace[0] = 0;
	strcpy(super.opts.dest_path, file);
	assert_int_equal(dm_top_open(meta, &super, &t, err), 0);
	int r = dm_top_over_dest(&t, loop_file, step_cb, err);
	dm_top_close(&t);
	return r;
}

static int set_up(void **state)
{
	(void)state;
	fsync_res = load_res = 0;
	nr_busy = 0;
	is_suspended = false;
	unlink(record);
	return 0;
}

/* What was written through the file is on the destination before the device leads there, and while nobody can write. */
static void test_swap_in_its_order(void **state)
{
	struct kedge_err err;

	(void)state;
	nr_busy = 2; /* the worker's claim of the destination ends with its last operation */
	assert_int_equal(lead(file, &err), 0);
	assert_string_equal(trace, "suspend top (alone), [suspended], flush file, load top linear 7:9 0, [loaded], resume top");
	assert_true(is_alone_recorded());
}

static void test_without_the_file_there_is_nothing_to_flush(void **state)
{
	struct kedge_err err;

	(void)state;
	is_suspended = true; /* by one that was lost */
	assert_int_equal(lead(NULL, &err), 0);
	assert_string_equal(trace, "suspend top (alone), [suspended], load top linear 7:9 0, [loaded], resume top");
}

/* Then the device goes on over the clone, and kclone is needed. */
static void test_a_failure_leaves_it_where_it_was(void **state)
{
	struct kedge_err err;

	(void)state;
	fsync_res = -EIO;
	assert_int_equal(lead(file, &err), -EIO);
	assert_string_equal(trace, "suspend top (alone), [suspended], flush file, resume top");
	assert_false(is_alone_recorded());
	set_up(NULL);
	load_res = -EINVAL;
	assert_int_equal(lead(file, &err), -EINVAL);
	assert_string_equal(trace, "suspend top (alone), [suspended], flush file, load top linear 7:9 0, resume top");
	assert_false(is_alone_recorded());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_swap_in_its_order, set_up),
		cmocka_unit_test_setup(test_without_the_file_there_is_nothing_to_flush, set_up),
		cmocka_unit_test_setup(test_a_failure_leaves_it_where_it_was, set_up),
	};
	int fd, r;

	if (!mkdtemp(dir))
		return 2;
	snprintf(file, sizeof file, "%s/dest", dir);
	snprintf(meta, sizeof meta, "%s/meta", dir);
	dm_top_record_path(meta, record);
	fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	r = fd < 0 || ftruncate(fd, 65536) < 0 ? 2 : cmocka_run_group_tests(tests, NULL, NULL);
	close(fd);
	unlink(record);
	unlink(file);
	rmdir(dir);
	return r;
}
