/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The order of the finish: dm_finish.c and dm_stack.c as they ship, over a device-mapper and a record that only write down what is asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "dm_finish.h"
#include "kedge/loopdev.h"
#include "suspends.h"

static const char *status_line;
static uint64_t nr_on_disk;
static int record_res, load_res;
static bool is_top_on_clone, is_suspended;

/* ---- device-mapper ---- */

int dmdev_target_version(const char *target, uint32_t v[3], struct kedge_err *err)
{
	(void)target;
	(void)err;
	v[0] = v[1] = v[2] = 1;
	return 0;
}

int dmdev_info(const char *name, struct dmdev_info *i, struct kedge_err *err)
{
	(void)name;
	(void)err;
	*i = (struct dmdev_info){.exists = true, .has_live_table = true, .is_suspended = is_suspended};
	return 0;
}

int dmdev_number(const char *name, char out[32], struct kedge_err *err)
{
	(void)name;
	strcpy(out, "0:0"); /* no such device: nothing in sysfs */
	return err ? 0 : 0;
}

int dmdev_create(const char *name, const char *uuid, uint64_t nr, const char *target, const char *params, struct kedge_err *err)
{
	(void)uuid;
	(void)nr;
	(void)err;
	trace_add("create %s %s %s", short_name(name), target, params);
	return 0;
}

int dmdev_create_read_only(const char *name, const char *uuid, uint64_t nr, const char *target, const char *params, struct kedge_err *err)
{
	return dmdev_create(name, uuid, nr, target, params, err);
}

int dmdev_replace(const char *name, unsigned flags, uint64_t nr, const char *target, const char *params, struct kedge_err *err)
{
	(void)nr;
	dmdev_suspend(name, flags, err);
	trace_add("load %s %s %s", short_name(name), target, params);
	dmdev_resume(name, err);
	if (load_res < 0)
		return kedge_err_set(err, load_res, KEDGE_SIDE_NONE, "refused");
	is_top_on_clone = false;
	return 0;
}

int dmdev_load_read_only(const char *name, uint64_t nr, const char *target, const char *params, struct kedge_err *err)
{
	(void)nr;
	trace_add("load %s %s %s", short_name(name), target, params);
	return load_res < 0 ? kedge_err_set(err, load_res, KEDGE_SIDE_NONE, "refused") : 0;
}

int dmdev_remove(const char *name, struct kedge_err *err)
{
	(void)err;
	trace_add("remove %s", short_name(name));
	return 0;
}

int dmdev_status(const char *name, bool is_noflush, char target[32], char params[DMDEV_PARAMS_MAX], struct kedge_err *err)
{
	(void)err;
	trace_add("status %s%s", short_name(name), is_noflush ? "" : " commit");
	strcpy(target, "clone");
	strcpy(params, status_line);
	return 0;
}

int dmdev_table(const char *name, char target[32], char params[DMDEV_PARAMS_MAX], struct kedge_err *err)
{
	(void)name;
	(void)err;
	strcpy(target, "linear");
	strcpy(params, is_top_on_clone ? "254:1 0" : "7:1 0");
	return 0;
}

int dmdev_message(const char *name, const char *message, struct kedge_err *err)
{
	(void)err;
	trace_add("message %s %s", short_name(name), message);
	return 0;
}

/* ---- record and loop devices ---- */

void dm_record_kernel_path(const char *meta, char out[UCLONE_PATH_MAX + 8])
{
	snprintf(out, UCLONE_PATH_MAX + 8, "%s.dm", meta);
}

int dm_record_count(const struct dm_record *rec, uint64_t *ret_nr, struct kedge_err *err)
{
	(void)rec;
	(void)err;
	trace_add("count META.dm");
	*ret_nr = nr_on_disk;
	return 0;
}

int dm_record_guard(const struct dm_record *rec, uint64_t *ret_nr, struct kedge_err *err)
{
	(void)rec;
	(void)ret_nr;
	(void)err;
	return 0;
}

int dm_record_write(struct dm_record *rec, struct kedge_err *err)
{
	rec->super.generation++;
	trace_add("record %s", uclone_state_name(rec->super.state));
	return record_res < 0 ? kedge_err_set(err, record_res, KEDGE_SIDE_METADATA, "no") : 0;
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
	(void)out;
	(void)err;
	return -ENOENT;
}

int kedge_loopdev_detach(const char *path, unsigned ms, struct kedge_err *err)
{
	(void)path;
	(void)ms;
	(void)err;
	return 0;
}

/* ---- tests ---- */

#define DONE "8 6/272 128 1024/1024 0 2 no_hydration no_discard_passdown 4 hydration_threshold 1 hydration_batch_size 1 rw"

static struct dm_record rec;

static int finish(struct kedge_err *err)
{
	struct dm_stack st = {.rec = &rec, .dest_dev = "7:1", .nr_sectors = 131072};

	rec = (struct dm_record){.meta = "/nowhere/meta"};
	rec.super.state = UCLONE_LIVE;
	rec.super.opts.source.size_bytes = 64 << 20;
	rec.super.dm_region_bytes = 65536;
	dm_stack_names(&rec.super.opts.migration, st.top, st.clone, st.source);
	trace[0] = 0;
	is_top_on_clone = true;
	*err = (struct kedge_err){0};
	return dm_finish(&st, err);
}

static int set_up(void **state)
{
	(void)state;
	status_line = DONE;
	nr_on_disk = 1024;
	record_res = load_res = 0;
	is_suspended = false;
	return 0;
}

static void test_finish_in_its_order(void **state)
{
	struct kedge_err err;

	(void)state;
	assert_int_equal(finish(&err), 0);
	assert_string_equal(trace, "status clone commit, count META.dm, record hydrated, suspend top skip_lockfs, load top linear 7:1 0, resume top, "
				   "remove clone, remove source");
	assert_int_equal(rec.super.dm_nr_seen, 1024);
}

/* Whatever is not as it must be stops before anything is recorded or led elsewhere. */
static void test_finish_refused(void **state)
{
	static const char *const lines[] = {
		"8 6/272 128 1023/1024 0 2 no_hydration no_discard_passdown 4 hydration_threshold 1 hydration_batch_size 1 rw",
		"8 6/272 128 1024/1024 1 2 no_hydration no_discard_passdown 4 hydration_threshold 1 hydration_batch_size 1 rw",
		"8 6/272 128 1024/1024 0 2 no_hydration no_discard_passdown 4 hydration_threshold 1 hydration_batch_size 1 ro",
		"Fail",
	};
	struct kedge_err err;

	(void)state;
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		status_line = lines[i];
		assert_true(finish(&err) < 0);
		assert_string_equal(trace, "status clone commit");
		assert_int_equal(rec.super.state, UCLONE_LIVE);
	}
	status_line = DONE;
	nr_on_disk = 1023;
	assert_int_equal(finish(&err), KEDGE_E_META_CORRUPT);
	assert_string_equal(trace, "status clone commit, count META.dm");
	nr_on_disk = 1024;
	record_res = -EIO;
	assert_int_equal(finish(&err), -EIO);
	assert_string_equal(trace, "status clone commit, count META.dm, record hydrated");
	assert_int_equal(rec.super.state, UCLONE_LIVE);
}

/* The old table goes on, and what lies below it stays. */
static void test_finish_load_refused(void **state)
{
	struct kedge_err err;

	(void)state;
	load_res = -EINVAL;
	assert_int_equal(finish(&err), -EINVAL);
	assert_string_equal(trace, "status clone commit, count META.dm, record hydrated, suspend top skip_lockfs, load top linear 7:1 0, resume top");
}

/* The source: reads wait while it is led elsewhere, and go on waiting when it cannot be. One that waits gets its table anew, for a resume alone
 * would put in place whatever was loaded and refused before. */
static void test_lead_source_in_its_order(void **state)
{
	struct dm_stack st = {.source = "kedge-x.source", .nr_sectors = 131072};

	(void)state;
	is_top_on_clone = false; /* its table: 7:1 */
	trace[0] = 0;
	assert_int_equal(dm_stack_lead_source(&st, "7:1", NULL), 0);
	assert_string_equal(trace, "");
	assert_int_equal(dm_stack_lead_source(&st, "8:0", NULL), 0);
	assert_string_equal(trace, "suspend source noflush skip_lockfs, load source linear 8:0 0, resume source");
	trace[0] = 0;
	load_res = -EBUSY;
	assert_int_equal(dm_stack_lead_source(&st, "8:0", NULL), -EBUSY);
	assert_string_equal(trace, "suspend source noflush skip_lockfs, load source linear 8:0 0");
	trace[0] = 0;
	load_res = 0;
	is_suspended = true;
	assert_int_equal(dm_stack_lead_source(&st, "7:1", NULL), 0);
	assert_string_equal(trace, "suspend source noflush skip_lockfs, load source linear 7:1 0, resume source");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_finish_in_its_order, set_up),
		cmocka_unit_test_setup(test_finish_refused, set_up),
		cmocka_unit_test_setup(test_finish_load_refused, set_up),
		cmocka_unit_test_setup(test_lead_source_in_its_order, set_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
