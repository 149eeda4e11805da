/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Units of the list of ranges.
 * Owns. Nothing. Locks. None.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ranges.h"

static void test_ranges_that_touch_become_one(void **state)
{
	struct tgt_ranges s = {0};

	assert_int_equal(tgt_ranges_add(&s, 1024, 2048), 0);
	assert_int_equal(tgt_ranges_add(&s, 2048, 9000), 0);
	assert_int_equal(tgt_ranges_add(&s, 9001, 9002), 0);
	assert_int_equal(tgt_ranges_add(&s, 9001, 9003), -EINVAL);
	assert_int_equal(tgt_ranges_add(&s, 9004, 9004), -EINVAL);
	assert_int_equal(s.nr, 2);
	assert_int_equal(tgt_ranges_total_bytes(&s), 9000 - 1024 + 1);
	tgt_ranges_fini(&s);
}

static void test_only_whole_blocks_are_left(void **state)
{
	struct tgt_ranges s = {0};

	tgt_ranges_add(&s, 1, 4096);
	tgt_ranges_add(&s, 4097, 12287);
	tgt_ranges_add(&s, 12288, 16384);
	tgt_ranges_add(&s, 20479, 28673);
	assert_false(tgt_ranges_are_valid(&s, 4096, 1 << 20));
	tgt_ranges_shrink(&s, 4096);
	assert_int_equal(s.nr, 2);
	assert_int_equal(s.r[0].start_bytes, 12288);
	assert_int_equal(s.r[0].end_bytes, 16384);
	assert_int_equal(s.r[1].start_bytes, 20480);
	assert_int_equal(s.r[1].end_bytes, 28672);
	assert_true(tgt_ranges_are_valid(&s, 4096, 28672));
	assert_false(tgt_ranges_are_valid(&s, 4096, 28671));
	s.r[1].start_bytes = 16384; /* touches */
	assert_false(tgt_ranges_are_valid(&s, 4096, 28672));
	tgt_ranges_fini(&s);
}

static void test_each_byte_is_where_it_belongs(void **state)
{
	struct tgt_ranges s = {0};

	for (uint64_t i = 0; i < 50; i++)
		tgt_ranges_add(&s, 10 * i + 3, 10 * i + 7);
	for (uint64_t at = 0; at < 520; at++) {
		uint64_t stop;
		bool is_in = at < 500 && at % 10 >= 3 && at % 10 < 7;
		assert_int_equal(tgt_ranges_at(&s, at, 515, &stop), is_in);
		if (at < 515)
			assert_int_equal(stop, is_in ? at / 10 * 10 + 7 : at % 10 < 3 && at < 500 ? at / 10 * 10 + 3 : at < 490 ? at / 10 * 10 + 13 : 515);
		assert_int_equal(tgt_ranges_overlap(&s, at, at + 1), is_in);
	}
	assert_true(tgt_ranges_overlap(&s, 7, 14));
	assert_false(tgt_ranges_overlap(&s, 7, 13));
	tgt_ranges_fini(&s);
}

static void test_short_ranges_make_room(void **state)
{
	struct tgt_ranges s = {0};
	uint64_t at = 0;

	for (uint32_t i = 0; i < 2 * TGT_RANGES_MAX; i++) {
		uint64_t n = i % 4 == 0 ? 1 << 20 : 4096;
		assert_int_equal(tgt_ranges_add(&s, at, at + n), 0);
		at += n + 4096;
	}
	assert_in_range(s.nr, TGT_RANGES_MAX / 4, TGT_RANGES_MAX);
	assert_true(s.min_bytes > 4096);
	assert_true(tgt_ranges_are_valid(&s, 4096, at));
	for (size_t i = 0, nr_long = 0; i < s.nr; i++) {
		nr_long += s.r[i].end_bytes - s.r[i].start_bytes == 1 << 20;
		if (i + 1 == s.nr)
			assert_int_equal(nr_long, TGT_RANGES_MAX / 2); /* none of those was dropped */
	}
	tgt_ranges_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges_that_touch_become_one), cmocka_unit_test(test_only_whole_blocks_are_left),
		cmocka_unit_test(test_each_byte_is_where_it_belongs), cmocka_unit_test(test_short_ranges_make_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
