/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What the kedge command shows: the bar, the estimate, lines, tables; durations.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli_view.h"
#include "duration.h"

static json_t *migration(const char *id, uint64_t durable_bytes, uint64_t size_bytes, const char *step)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:n, s:n, s:n}", "id", id, "volume", "db", "state", "running",
			 "step", step, "from", "a", "to", "b", "durable_bytes", (json_int_t)durable_bytes, "size_bytes",
			 (json_int_t)size_bytes, "rate_bps", (json_int_t)1000000, "eta_ms", "eta_max_ms", "downtime_ms");
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Whatever the daemon says, in whatever order. */
static void test_view_bar_never_runs_backwards_nor_past_the_end(void **state)
{
	uint64_t seed = 0x9e3779b97f4a7c15u;

	(void)state;
	for (unsigned round = 0; round < 200; round++) {
		struct view_memory memory = {0};
		unsigned last = 0;
		for (unsigned i = 0; i < 50; i++) {
			uint64_t size = 1 + next_random(&seed) % (1ull << 45), durable = next_random(&seed) % (size + size / 4 + 2);
			json_t *m = migration("m1", durable, size, "DEST_RUNNING");
			unsigned permille = view_permille(&memory, m);
			char bar[64];
			assert_true(permille >= last);
			assert_true(permille <= 1000);
			if (durable < size && last < 1000)
				assert_true(permille < 1000);
			view_bar(permille, 20, bar, sizeof bar);
			assert_int_equal(strlen(bar), 22);
			assert_int_equal(bar[0], '[');
			assert_int_equal(bar[21], ']');
			assert_int_equal(strspn(bar + 1, "#"), 20 * permille / 1000);
			last = permille;
			json_decref(m);
		}
		view_memory_fini(&memory);
	}
}

static void test_view_says_all_only_when_every_byte_is_durable(void **state)
{
	struct view_memory memory = {0};
	json_t *m = migration("m1", (1ull << 41) - 4096, 1ull << 41, "DEST_RUNNING");

	(void)state;
	assert_int_equal(view_permille(&memory, m), 999);
	json_decref(m);
	m = migration("m1", 1ull << 41, 1ull << 41, "DEST_RUNNING");
	assert_int_equal(view_permille(&memory, m), 1000);
	json_decref(m);
	/* another migration has a bar of its own */
	m = migration("m2", 0, 1ull << 41, "PLANNED");
	assert_int_equal(view_permille(&memory, m), 0);
	json_decref(m);
	m = migration("m3", 0, 0, "PLANNED");
	assert_int_equal(view_permille(&memory, m), 0);
	json_decref(m);
	view_memory_fini(&memory);
}

static void test_view_bar_fits_small_buffers(void **state)
{
	char bar[6];

	(void)state;
	assert_string_equal(view_bar(500, 20, bar, sizeof bar), "[#..]");
	assert_string_equal(view_bar(5000, 3, bar, sizeof bar), "[###]");
	assert_string_equal(view_bar(0, 3, bar, sizeof bar), "[...]");
}

static void test_view_estimate_is_a_range_or_none(void **state)
{
	json_t *m = migration("m1", 10, 100, "DEST_RUNNING");
	char eta[80];

	(void)state;
	assert_string_equal(view_eta(m, eta, sizeof eta), "no estimate yet");
	json_object_set_new(m, "eta_ms", json_integer(9000));
	json_object_set_new(m, "eta_max_ms", json_integer(80000));
	assert_string_equal(view_eta(m, eta, sizeof eta), "9.0 s to 1 min 20 s left");
	json_object_set_new(m, "eta_max_ms", json_integer(9000));
	assert_string_equal(view_eta(m, eta, sizeof eta), "about 9.0 s left");
	json_object_set_new(m, "step", json_string("SRC_FENCED"));
	assert_string_equal(view_eta(m, eta, sizeof eta), "");
	json_decref(m);
}

static void test_view_lines_fit_the_terminal_and_carry_no_control_characters(void **state)
{
	struct view_memory memory = {0};
	json_t *m = migration("m1", 50, 100, "DEST_RUNNING");
	char line[VIEW_LINE_MAX];

	(void)state;
	json_object_set_new(m, "phase_text", json_string("evil\033[2J\ntext"));
	view_migration_line(&memory, m, 60, false, line, sizeof line);
	assert_int_equal(strlen(line), 60);
	assert_null(strchr(line, '\033'));
	assert_null(strchr(line, '\n'));
	json_object_set_new(m, "state", json_string("failed"));
	view_migration_line(&memory, m, 60, true, line, sizeof line);
	assert_int_equal(strncmp(line, "\033[31m", 5), 0);
	assert_string_equal(line + strlen(line) - 4, "\033[0m");
	view_migration_line(&memory, m, 0, false, line, sizeof line);
	assert_non_null(strstr(line, "failed"));
	assert_non_null(strstr(line, " 50%"));
	json_decref(m);
	view_memory_fini(&memory);
}

static void test_view_progress_lines_come_every_ten_seconds_or_five_percent(void **state)
{
	struct view_memory memory = {0};
	char line[VIEW_LINE_MAX];
	static const struct {
		uint64_t durable_bytes, now_ms;
		bool is_due;
	} steps[] = {
		{100, 1000, false},  /* the first look only begins to count */
		{140, 2000, false},  /* 4 percent in 1 s */
		{150, 3000, true},   /* 5 percent */
		{150, 4000, false},
		{151, 12999, false},
		{151, 13000, true},  /* 10 s */
		{1000, 14000, false} /* all here: the step's event says so */
	};

	(void)state;
	for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
		json_t *m = migration("m1", steps[i].durable_bytes, 1000, "DEST_RUNNING");
		assert_int_equal(view_progress_due(&memory, m, steps[i].now_ms, line, sizeof line), steps[i].is_due);
		json_decref(m);
	}
	assert_int_equal(strncmp(line, "db: 15%", 7), 0);
	view_memory_fini(&memory);
}

static void test_view_tells_how_far_the_comparison_is(void **state)
{
	struct view_memory memory = {0};
	json_t *m = migration("m1", 1000, 1000, "HYDRATED");
	char line[VIEW_LINE_MAX];

	(void)state;
	json_object_set_new(m, "written_bytes", json_integer(200));
	json_object_set_new(m, "verified_bytes", json_integer(150));
	json_object_set_new(m, "hole_bytes", json_integer(50));
	view_migration_line(&memory, m, 0, false, line, sizeof line);
	assert_non_null(strstr(line, "  25% compared"));
	assert_false(view_progress_due(&memory, m, 1000, line, sizeof line));
	assert_false(view_progress_due(&memory, m, 10999, line, sizeof line));
	assert_true(view_progress_due(&memory, m, 11000, line, sizeof line));
	assert_string_equal(line, "db: 25% compared with the source, 200 B of 800 B");
	json_object_set_new(m, "verified_bytes", json_integer(9000));
	view_migration_line(&memory, m, 0, false, line, sizeof line);
	assert_non_null(strstr(line, "  100% compared"));
	json_object_set_new(m, "step", json_string("DETACHED"));
	view_migration_line(&memory, m, 0, false, line, sizeof line);
	assert_null(strstr(line, "compared"));
	json_decref(m);
	view_memory_fini(&memory);
}

static json_t *in_state(const char *state, const char *step)
{
	json_t *m = migration("m", 0, 1, step);

	json_object_set_new(m, "state", json_string(state));
	return m;
}

static void test_view_of_many_shows_what_is_under_way(void **state)
{
	json_t *all = json_array();
	bool is_shown[8];
	char line[VIEW_LINE_MAX];

	(void)state;
	json_array_append_new(all, in_state("done", "DONE"));
	json_array_append_new(all, in_state("running", "PLANNED"));
	json_array_append_new(all, in_state("running", "DEST_RUNNING"));
	json_array_append_new(all, in_state("held", "HYDRATED"));
	json_array_append_new(all, in_state("running", "PLANNED"));
	assert_int_equal(view_pick(all, 5, is_shown), 5);
	/* four lines: three volumes and the rest */
	assert_int_equal(view_pick(all, 4, is_shown), 3);
	assert_true(is_shown[1] && is_shown[2] && is_shown[3] && !is_shown[0] && !is_shown[4]);
	view_rest_line(all, is_shown, line, sizeof line);
	assert_string_equal(line, "  and 2 more: 1 waiting, 1 done");
	assert_int_equal(view_pick(all, 2, is_shown), 1);
	assert_true(is_shown[2]);
	view_rest_line(all, is_shown, line, sizeof line);
	assert_string_equal(line, "  and 4 more: 1 under way or in trouble, 2 waiting, 1 done");
	assert_int_equal(view_pick(all, 0, is_shown), 0);
	json_decref(all);
}

static void test_view_outcome_names_receipt_downtime_or_the_error(void **state)
{
	json_t *m = migration("0f8f", 100, 4096, "DONE");
	char line[VIEW_LINE_MAX];

	(void)state;
	json_object_set_new(m, "state", json_string("done"));
	json_object_set_new(m, "downtime_ms", json_integer(812));
	view_outcome_line(m, line, sizeof line);
	assert_string_equal(line, "db: moved from a to b, 4.00 KiB, downtime 812 ms, receipt 0f8f");
	json_object_set_new(m, "state", json_string("held"));
	json_object_set_new(m, "step", json_string("SRC_STOPPING"));
	json_object_set_new(m, "last_error", json_pack("{s:s,s:s}", "code", "STILL_OPEN", "message", "pid 7 has it"));
	view_outcome_line(m, line, sizeof line);
	assert_string_equal(line, "db: held at SRC_STOPPING (STILL_OPEN: pid 7 has it)");
	json_decref(m);
}

static void test_view_point_of_no_return_is_boot_intent(void **state)
{
	static const char *const before[] = {"PLANNED", "DEST_RESERVED", "SRC_STOPPING", "SRC_STOPPED", "SRC_FENCED", "EXPORTED", "ATTACHED"};
	static const char *const after[] = {"BOOT_INTENT", "DEST_RUNNING", "HYDRATED", "DETACHED", "UNEXPORTED", "RETAINED", "ERASED", "DONE", ""};
	json_t *m = migration("m", 0, 1, "");

	(void)state;
	for (size_t i = 0; i < sizeof before / sizeof before[0]; i++) {
		json_object_set_new(m, "step", json_string(before[i]));
		assert_true(view_is_before_intent(m));
	}
	for (size_t i = 0; i < sizeof after / sizeof after[0]; i++) {
		json_object_set_new(m, "step", json_string(after[i]));
		assert_false(view_is_before_intent(m));
	}
	json_decref(m);
}

static void test_view_event_line_is_utc(void **state)
{
	json_t *e = json_pack("{s:I, s:s, s:s}", "time_ms", (json_int_t)86399999, "volume", "db", "text", "fenced\ron a");
	char line[VIEW_LINE_MAX];

	(void)state;
	view_event_line(e, line, sizeof line);
	assert_string_equal(line, "23:59:59  db: fenced?on a");
	json_decref(e);
}

static void test_table_columns_are_as_wide_as_their_widest_cell(void **state)
{
	struct view_table *t = view_table_create(2);
	char *text;

	(void)state;
	view_table_cell(t, "A");
	view_table_cell(t, "B");
	view_table_cell(t, "longer");
	view_table_cell(t, "%d", 7);
	text = view_table_text(t);
	assert_string_equal(text, "A       B\nlonger  7\n");
	free(text);
	view_table_destroy(t);
	view_table_destroy(NULL);
}

static void test_duration_units_are_exact(void **state)
{
	uint64_t ms = 77;

	(void)state;
	assert_int_equal(duration_parse("500ms", &ms), 0);
	assert_int_equal(ms, 500);
	assert_int_equal(duration_parse("30s", &ms), 0);
	assert_int_equal(ms, 30000);
	assert_int_equal(duration_parse("2h", &ms), 0);
	assert_int_equal(ms, 7200000);
	assert_int_equal(duration_parse("0", &ms), 0);
	assert_int_equal(ms, 0);
	assert_true(duration_parse("30", &ms) < 0);
	assert_true(duration_parse("", &ms) < 0);
	assert_true(duration_parse("-1s", &ms) < 0);
	assert_true(duration_parse("1 s", &ms) < 0);
	assert_true(duration_parse("1sec", &ms) < 0);
	assert_true(duration_parse("99999999999999999999s", &ms) < 0);
	assert_true(duration_parse("18446744073709551615d", &ms) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_view_bar_never_runs_backwards_nor_past_the_end),
		cmocka_unit_test(test_view_says_all_only_when_every_byte_is_durable),
		cmocka_unit_test(test_view_bar_fits_small_buffers),
		cmocka_unit_test(test_view_estimate_is_a_range_or_none),
		cmocka_unit_test(test_view_lines_fit_the_terminal_and_carry_no_control_characters),
		cmocka_unit_test(test_view_progress_lines_come_every_ten_seconds_or_five_percent),
		cmocka_unit_test(test_view_tells_how_far_the_comparison_is),
		cmocka_unit_test(test_view_of_many_shows_what_is_under_way),
		cmocka_unit_test(test_view_outcome_names_receipt_downtime_or_the_error),
		cmocka_unit_test(test_view_point_of_no_return_is_boot_intent),
		cmocka_unit_test(test_view_event_line_is_utc),
		cmocka_unit_test(test_table_columns_are_as_wide_as_their_widest_cell),
		cmocka_unit_test(test_duration_units_are_exact),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
