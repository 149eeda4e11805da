/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. How volumes are copied: the daemons know the ways to travel that kclone knows, and no other.
 */
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pace_knows_every_way_to_travel_of_kclone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
