/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What user space does to a clone while nobody else can: the marks of a head start (dm_mark.c) and quiesce windows (dm_windows.c), as they
 * ship, over a kernel that only writes down what is asked. Each order that keeps data is here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dm_block.h"
#include "dm_mark.h"
#include "dm_windows.h"
#include "suspends.h"

#define NR_REGIONS 33u /* the last one is short */
#define REGION 65536u

static struct {
	bool has_top, is_hydration_on;
	uint64_t nr_hydrating;
	enum dm_mode mode;
	int flush_res, discard_res, withhold_res, write_res, lock_res;
	uint64_t bits;       /* regions that are here, and on disk so */
	uint64_t extra;      /* … after a discard: one too many */
	uint64_t late;       /* the workload's last write, which ends in the suspend */
} k;

/* ---- the kernel ---- */

static void last_write(void)
{
	k.bits |= k.late;
}

int dmdev_info(const char *name, struct dmdev_info *i, struct kedge_err *err)
{
	(void)name;
	(void)err;
	*i = (struct dmdev_info){.exists = k.has_top};
	return 0;
}

int dm_stack_status(const struct dm_stack *st, bool is_commit, struct dm_clone_status *s, struct kedge_err *err)
{
	(void)st;
	(void)err;
	if (is_commit)
		trace_add("commit");
	*s = (struct dm_clone_status){.mode = k.mode, .nr_regions = NR_REGIONS, .nr_hydrating = k.nr_hydrating, .is_hydration_on = k.is_hydration_on,
				      .nr_hydrated = (uint64_t)__builtin_popcountll(k.bits)};
	return 0;
}

int dm_stack_hydrate(const struct dm_stack *st, bool is_on, uint32_t threshold, uint32_t batch, struct kedge_err *err)
{
	(void)st;
	(void)threshold;
	(void)batch;
	(void)err;
	trace_add("hydration %s", is_on ? "on" : "off");
	k.is_hydration_on = is_on;
	return 0;
}

void dm_stack_ios(const struct dm_stack *st, struct dm_ios *ret_ios)
{
	(void)st;
	*ret_ios = (struct dm_ios){0};
}

int dm_stack_withhold_discards(const char *name, struct kedge_err *err)
{
	trace_add("withhold %s", short_name(name));
	return k.withhold_res < 0 ? kedge_err_set(err, k.withhold_res, KEDGE_SIDE_NONE, "no") : 0;
}

void dm_stack_allow_discards(const char *name)
{
	trace_add("allow %s", short_name(name));
}

int dm_block_open(const char *name, bool is_alone, int *ret_fd, struct kedge_err *err)
{
	(void)err;
	trace_add("open %s%s", short_name(name), is_alone ? " alone" : "");
	*ret_fd = -1;
	return 0;
}

int dm_block_discard(int fd, const char *name, uint64_t start_bytes, uint64_t nr_bytes, struct kedge_err *err)
{
	(void)fd;
	(void)name;
	trace_add("discard %u+%u", (unsigned)(start_bytes / REGION), (unsigned)(nr_bytes / REGION));
	if (k.discard_res < 0)
		return kedge_err_set(err, k.discard_res, KEDGE_SIDE_NONE, "no");
	for (uint64_t r = start_bytes / REGION; r < (start_bytes + nr_bytes) / REGION; r++)
		k.bits |= 1ull << r;
	k.bits |= k.extra;
	return 0;
}

int dm_block_write(int fd, const char *name, const void *buf, uint64_t start_bytes, uint64_t nr_bytes, struct kedge_err *err)
{
	(void)fd;
	trace_add("write %s %u+%u of %u", short_name(name), (unsigned)(start_bytes / REGION), (unsigned)(nr_bytes / REGION), *(const uint8_t *)buf);
	if (k.write_res < 0)
		return kedge_err_set(err, k.write_res, KEDGE_SIDE_DESTINATION, "no");
	for (uint64_t r = start_bytes / REGION; r < (start_bytes + nr_bytes) / REGION; r++)
		k.bits |= 1ull << r;
	return 0;
}

int dm_block_lock(const char *dest_path, unsigned wait_ms, int *ret_fd, struct kedge_err *err)
{
	(void)dest_path;
	(void)wait_ms;
	trace_add("lock destination");
	*ret_fd = -1;
	return k.lock_res < 0 ? kedge_err_set(err, k.lock_res, KEDGE_SIDE_DESTINATION, "no") : 0;
}

int dm_block_flush(int fd, const char *dest_path, struct kedge_err *err)
{
	(void)fd;
	(void)dest_path;
	trace_add("flush destination");
	return k.flush_res < 0 ? kedge_err_set(err, k.flush_res, KEDGE_SIDE_DESTINATION, "no") : 0;
}

int dm_record_write(struct dm_record *rec, struct kedge_err *err)
{
	(void)err;
	trace_add("record %s%s", uclone_state_name(rec->super.state), rec->super.dm_is_marked ? " marked" : "");
	return 0;
}

int dm_record_bits(const struct dm_record *rec, uint64_t from_region, uint64_t end_region, uint64_t *words, struct kedge_err *err)
{
	(void)rec;
	(void)err;
	assert_true(from_region < 64 && end_region <= 64);
	words[0] |= k.bits;
	return 0;
}

/* ---- marks ---- */

static struct dm_record rec;
static struct dm_stack st;
static uint64_t word;
static const struct uc_bits bits = {.w = &word, .nr_bits = NR_REGIONS - 1};
static struct holder_share share;
static int lock_fd;

static int set_up(void **state)
{
	(void)state;
	memset(&k, 0, sizeof k);
	in_suspend = last_write;
	rec = (struct dm_record){.super = {.state = UCLONE_CREATED, .dm_region_bytes = REGION}};
	st = (struct dm_stack){.rec = &rec, .top = "kedge-x", .clone = "kedge-x.clone", .nr_sectors = (NR_REGIONS - 1) * 128 + 8};
	trace[0] = 0;
	word = 0;
	memset(&share, 0, sizeof share);
	return 0;
}

static void test_flush_precedes_marks(void **state)
{
	uint64_t nr;

	(void)state;
	assert_int_equal(dm_mark_nr_regions(&st), NR_REGIONS - 1);
	word = 0x8000000fu; /* runs 0 to 3 and 31 */
	assert_true(dm_mark_is_possible(&st));
	assert_int_equal(dm_mark_run(&st, &bits, &lock_fd, &nr, NULL), 0);
	assert_string_equal(trace, "lock destination, flush destination, record created marked, allow clone, open clone alone, discard 0+4, "
				   "discard 31+1, withhold clone, commit");
	assert_int_equal(nr, 5);
	assert_int_equal(k.bits, word);
}

/* Nothing copied: still nobody may be writing the destination when the clone is handed out. */
static void test_no_copies_no_marks(void **state)
{
	uint64_t nr;

	(void)state;
	assert_int_equal(dm_mark_run(&st, &bits, &lock_fd, &nr, NULL), 0);
	assert_string_equal(trace, "lock destination");
	trace[0] = 0;
	assert_int_equal(dm_mark_run(&st, NULL, &lock_fd, &nr, NULL), 0);
	assert_string_equal(trace, "lock destination");
	k.lock_res = -EWOULDBLOCK;
	assert_true(dm_mark_run(&st, NULL, &lock_fd, &nr, NULL) < 0);
}

static void test_no_marks_when_it_is_in_use(void **state)
{
	uint64_t nr;

	(void)state;
	word = 1;
	for (int i = 0; i < 4; i++) {
		set_up(NULL);
		word = 1;
		k.has_top = i == 0;
		k.is_hydration_on = i == 1;
		k.nr_hydrating = i == 2;
		k.mode = i == 3 ? DM_MODE_RO : DM_MODE_RW;
		assert_false(dm_mark_is_possible(&st));
		assert_true(dm_mark_run(&st, &bits, &lock_fd, &nr, NULL) < 0);
		assert_string_equal(trace, "lock destination");
	}
	set_up(NULL);
	rec.super.state = UCLONE_LIVE; /* it was handed out once */
	assert_false(dm_mark_is_possible(&st));
}

static void test_no_marks_without_the_flush(void **state)
{
	uint64_t nr;

	(void)state;
	word = 1;
	k.flush_res = -EIO;
	assert_int_equal(dm_mark_run(&st, &bits, &lock_fd, &nr, NULL), -EIO);
	assert_string_equal(trace, "lock destination, flush destination");
}

/* K1: whatever became of the discards. */
static void test_discards_are_withheld_again(void **state)
{
	uint64_t nr;

	(void)state;
	word = 3;
	k.discard_res = -EOPNOTSUPP;
	assert_int_equal(dm_mark_run(&st, &bits, &lock_fd, &nr, NULL), 0); /* it serves without */
	assert_int_equal(nr, 0);
	assert_non_null(strstr(trace, "discard 0+2, withhold clone, commit"));
	set_up(NULL);
	word = 3;
	k.withhold_res = -EIO;
	assert_int_equal(dm_mark_run(&st, &bits, &lock_fd, &nr, NULL), -EIO);
}

/* K2: a region more than was copied is never handed out. */
static void test_one_mark_too_many_is_found(void **state)
{
	struct kedge_err err = {0};
	uint64_t nr;

	(void)state;
	for (unsigned extra = 7; extra < NR_REGIONS; extra += 25) {
		set_up(NULL);
		word = 1;
		k.extra = 1ull << extra;
		err = (struct kedge_err){0};
		assert_int_equal(dm_mark_run(&st, &bits, &lock_fd, &nr, &err), KEDGE_E_META_CORRUPT);
		assert_non_null(strstr(err.msg, "was not copied"));
	}
}

/* ---- windows ---- */

static struct dm_windows w;
static uint8_t *slots;

/* Each slot's memory begins with its number, so that the trace says whose data was written. */
static void windows_begin(uint32_t window_bytes)
{
	struct dm_clone_status s;
	int fd = memfd_create("test", 0);

	assert_true(fd >= 0 && ftruncate(fd, (off_t)DM_NR_SLOTS * DM_SLOT_BYTES) == 0);
	assert_int_equal(dup2(fd, HOLDER_FD_SHARE), HOLDER_FD_SHARE);
	close(fd);
	slots = mmap(NULL, (size_t)DM_NR_SLOTS * DM_SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, HOLDER_FD_SHARE, 0);
	assert_true(slots != MAP_FAILED);
	for (unsigned i = 0; i < DM_NR_SLOTS; i++)
		memset(slots + (size_t)i * DM_SLOT_BYTES, (int)i + 1, DM_SLOT_BYTES);
	rec.super.state = UCLONE_LIVE;
	assert_int_equal(dm_windows_init(&w, &st, &share, window_bytes, NULL), 0);
	dm_stack_status(&st, false, &s, NULL);
	dm_windows_step(&w, &s, true, 0); /* asks */
	trace[0] = 0;
}

static void windows_end(void)
{
	dm_windows_fini(&w);
	munmap(slots, (size_t)DM_NR_SLOTS * DM_SLOT_BYTES);
	close(HOLDER_FD_SHARE);
}

static void answer(unsigned i)
{
	share.dm.slots[i].done_nr = share.dm.slots[i].ask_nr;
}

static unsigned step(void)
{
	struct dm_clone_status s;
	unsigned ms;

	dm_stack_status(&st, false, &s, NULL);
	trace[0] = 0;
	w.due_ns = 0;
	ms = dm_windows_step(&w, &s, true, 0);
	return ms;
}

static void test_window_in_its_order(void **state)
{
	(void)state;
	k.bits = 0x2; /* region 1 is here */
	windows_begin(4 * REGION);
	assert_int_equal(share.dm.slots[0].start_bytes, 0);
	assert_int_equal(share.dm.slots[0].nr_bytes, 4 * REGION);
	assert_int_equal(share.dm.slots[1].start_bytes, 4 * REGION);
	step(); /* nobody has answered */
	assert_string_equal(trace, "");
	answer(0);
	step();
	assert_string_equal(trace, "suspend top noflush skip_lockfs, commit, write clone 0+1 of 1, write clone 2+2 of 1, resume top");
	assert_int_equal(share.dm.windows_bytes, 3 * REGION);
	windows_end();
}

/* The workload's last write ends in the suspend: its region is not written, though it was missing when the source was read. */
static void test_window_leaves_what_came_last(void **state)
{
	(void)state;
	windows_begin(4 * REGION);
	answer(0);
	k.late = 0x6;
	step();
	assert_string_equal(trace, "suspend top noflush skip_lockfs, commit, write clone 0+1 of 1, write clone 3+1 of 1, resume top");
	windows_end();
}

static void test_window_only_when_quiet(void **state)
{
	(void)state;
	windows_begin(4 * REGION);
	answer(0);
	k.nr_hydrating = 1;
	step();
	assert_string_equal(trace, "suspend top noflush skip_lockfs, commit, resume top");
	k.nr_hydrating = 0;
	k.mode = DM_MODE_RO;
	answer(1);
	step();
	assert_string_equal(trace, "suspend top noflush skip_lockfs, commit, resume top");
	k.mode = DM_MODE_RW;
	k.is_hydration_on = true;
	answer(2);
	step();
	assert_string_equal(trace, "hydration off, suspend top noflush skip_lockfs, commit, write clone 8+4 of 3, resume top");
	windows_end();
}

static void test_window_resumes_after_an_error(void **state)
{
	(void)state;
	windows_begin(4 * REGION);
	answer(0);
	k.write_res = -EIO;
	step();
	assert_string_equal(trace, "suspend top noflush skip_lockfs, commit, write clone 0+4 of 1, resume top");
	windows_end();
}

/* What an earlier driver had asked for may still be answered: not to this one. */
static void test_window_ignores_old_answers(void **state)
{
	(void)state;
	share.dm.slots[0] = (struct dm_slot){.ask_nr = 7, .done_nr = 6, .nr_bytes = REGION};
	windows_begin(4 * REGION);
	assert_int_equal(share.dm.slots[0].ask_nr, 8);
	share.dm.slots[0].done_nr = 7;
	step();
	assert_string_equal(trace, "");
	windows_end();
}

/* All of it, the short last region left to the kernel; then they are off. */
static void test_windows_end(void **state)
{
	unsigned n = 0;

	(void)state;
	windows_begin(4 * REGION);
	for (; w.is_on && n < 100; n++) {
		for (unsigned i = 0; i < DM_NR_SLOTS; i++)
			answer(i);
		step();
	}
	assert_true(n < 100);
	assert_int_equal(k.bits, (1ull << (NR_REGIONS - 1)) - 1);
	assert_int_equal(share.dm.is_windows, 0);
	assert_int_equal(share.dm.nr_windows, 8);
	windows_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_flush_precedes_marks, set_up),
		cmocka_unit_test_setup(test_no_copies_no_marks, set_up),
		cmocka_unit_test_setup(test_no_marks_when_it_is_in_use, set_up),
		cmocka_unit_test_setup(test_no_marks_without_the_flush, set_up),
		cmocka_unit_test_setup(test_discards_are_withheld_again, set_up),
		cmocka_unit_test_setup(test_one_mark_too_many_is_found, set_up),
		cmocka_unit_test_setup(test_window_in_its_order, set_up),
		cmocka_unit_test_setup(test_window_leaves_what_came_last, set_up),
		cmocka_unit_test_setup(test_window_only_when_quiet, set_up),
		cmocka_unit_test_setup(test_window_resumes_after_an_error, set_up),
		cmocka_unit_test_setup(test_window_ignores_old_answers, set_up),
		cmocka_unit_test_setup(test_windows_end, set_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
