/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. How volumes are copied: the daemons know the ways to travel that kclone knows, and no other; what an operator wants of it as JSON.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kcopy/kcopy.h"
#include "pace.h"

static void test_pace_knows_every_way_to_travel_of_kclone(void **state)
{
	int nr = 0;

	(void)state;
	for (; nr < 100 && strcmp(kcopy_transit_mode_name((enum kcopy_transit_mode)nr), "?") != 0; nr++) {
		assert_true(pace_is_transit(kcopy_transit_mode_name((enum kcopy_transit_mode)nr)));
		assert_non_null(strstr(PACE_TRANSITS, kcopy_transit_mode_name((enum kcopy_transit_mode)nr)));
	}
	assert_in_range(nr, 4, 99);
	assert_false(pace_is_transit(""));
	assert_false(pace_is_transit("ZSTD"));
	assert_false(pace_is_transit("lz4"));
}

static int read_text(const char *text, struct pace *p, struct kedge_err *err)
{
	json_t *o = json_loads(text, 0, NULL);
	int res;

	assert_non_null(o);
	memset(err, 0, sizeof *err);
	res = pace_read(o, p, err);
	json_decref(o);
	return res;
}

static void test_pace_is_read_as_it_was_written(void **state)
{
	const struct pace full = {.has_floor = true, .has_latency = true, .floor_bps = INT64_MAX, .latency_percent = 10000, .transit = "checked"};
	const struct pace zeroes = {.has_floor = true, .has_latency = true}, none = {0};
	const struct pace *const paces[] = {&full, &zeroes, &none};
	static const size_t sizes[] = {3, 2, 0};
	struct kedge_err err;

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct pace back;
		json_t *o = json_object();
		pace_write(paces[i], o);
		assert_int_equal(json_object_size(o), sizes[i]);
		assert_int_equal(pace_read(o, &back, &err), 0);
		assert_memory_equal(&back, paces[i], sizeof back);
		json_decref(o);
	}
	struct pace p = full;
	assert_int_equal(read_text("{\"floor_bps\":null,\"latency_percent\":null,\"transit\":null}", &p, &err), 0);
	assert_true(!p.has_floor && !p.has_latency && !p.transit[0]);
}

static void test_pace_that_is_none_is_refused(void **state)
{
	static const char *const bad[][2] = {
		{"{\"floor_bps\":-1}", "\"floor_bps\""},	      {"{\"floor_bps\":\"8M\"}", "\"floor_bps\""},
		{"{\"latency_percent\":100}", "101 to 10000"},    {"{\"latency_percent\":10001}", "\"latency_percent\""},
		{"{\"latency_percent\":1.5}", "\"latency_percent\""}, {"{\"transit\":\"lz4\"}", PACE_TRANSITS},
		{"{\"transit\":\"\"}", PACE_TRANSITS},	      {"{\"transit\":1}", PACE_TRANSITS},
	};
	struct kedge_err err;
	struct pace p;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		p = (struct pace){.floor_bps = 77};
		assert_int_equal(read_text(bad[i][0], &p, &err), -EINVAL);
		assert_non_null(strstr(err.msg, bad[i][1]));
		assert_int_equal(p.floor_bps, 77);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pace_knows_every_way_to_travel_of_kclone),
		cmocka_unit_test(test_pace_is_read_as_it_was_written),
		cmocka_unit_test(test_pace_that_is_none_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
