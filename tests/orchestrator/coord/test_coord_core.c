/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Units of the coordinator's machine: what the simulation's world does not bring about.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "coord_core.h"

static struct coord_flow at(enum coord_step step)
{
	struct coord_flow f = {0};

	strcpy(f.m.volume, "v");
	strcpy(f.m.from, "a");
	strcpy(f.m.to, "b");
	strcpy(f.m.portal, "10.0.0.1:1");
	f.m.epoch = 7;
	f.m.size_bytes = 1 << 20;
	f.m.step = step;
	return f;
}

static struct coord_todo answer(struct coord_flow *f, const struct coord_answer *a, uint64_t now_ms)
{
	struct coord_todo t;

	coord_core_on_answer(f, f->ask_nr, a, now_ms, &t);
	return t;
}

static struct coord_todo failed(struct coord_flow *f, int code, uint64_t now_ms)
{
	return answer(f, &(struct coord_answer){.kind = COORD_ANSWER_FAILED, .code = code}, now_ms);
}

static void test_the_whole_way_in_order(void **state)
{
	static const enum agent_step asked[] = {AGENT_CHECK, AGENT_RESERVE, AGENT_STOP, AGENT_FENCE, AGENT_EXPORT, AGENT_ATTACH, AGENT_INTENT,
						AGENT_BOOT, AGENT_HYDRATE, AGENT_FINISH, AGENT_UNEXPORT, AGENT_RELEASE};
	struct coord_answer done = {.kind = COORD_ANSWER_DONE, .size_bytes = 1 << 20, .lbs_bytes = 512, .portal = "10.0.0.1:1"};
	struct coord_flow f = at(COORD_PLANNED);
	struct coord_todo t;
	size_t nr = 0;
	bool is_intent_durable = false;

	coord_core_begin(&f, 1, &t);
	for (unsigned i = 0; i < 100 && t.kind != COORD_END; i++) {
		if (t.kind == COORD_WRITE) {
			if (f.next.step == COORD_BOOT_INTENT) {
				assert_false(t.is_lazy);
				is_intent_durable = true;
			}
			assert_null(coord_core_broken_invariant(&f.next));
			coord_core_written(&f, i, &t);
		} else {
			assert_int_equal(t.kind, COORD_ASK);
			assert_true(nr < sizeof asked / sizeof asked[0]);
			assert_int_equal(t.ask, asked[nr]);
			assert_true(is_intent_durable || (t.ask != AGENT_INTENT && t.ask != AGENT_BOOT));
			nr++;
			t = answer(&f, &done, i);
		}
	}
	assert_int_equal(f.m.step, COORD_DONE);
	assert_int_equal(nr, sizeof asked / sizeof asked[0]);
}

static void test_blocks_that_differ_are_held_and_never_released(void **state)
{
	struct coord_answer bad = {.kind = COORD_ANSWER_DONE, .mismatch_bytes = 4096};
	struct coord_flow f = at(COORD_HYDRATED);
	struct coord_todo t;

	coord_core_begin(&f, 1, &t);
	t = answer(&f, &bad, 2);
	assert_int_equal(t.kind, COORD_WAIT);
	assert_int_equal(f.m.step, COORD_HYDRATED);
	assert_string_equal(coord_core_state_name(&f), "held");
	assert_int_equal(f.last_code, KEDGE_E_VERIFY);
}

static void test_abort_is_refused_from_the_intent_on_even_while_it_is_written(void **state)
{
	struct coord_flow f = at(COORD_ATTACHED);
	struct kedge_err err = {0};
	struct coord_todo t;

	coord_core_begin(&f, 1, &t);
	assert_int_equal(t.kind, COORD_WRITE); /* it may be on the disk already */
	assert_int_equal(coord_core_abort(&f, 2, &t, &err), KEDGE_E_STATE);
	for (int s = COORD_BOOT_INTENT; s <= COORD_DONE; s++) {
		f = at((enum coord_step)s);
		assert_int_equal(coord_core_abort(&f, 2, &t, NULL), KEDGE_E_STATE);
	}
	for (int s = COORD_PLANNED; s <= COORD_ATTACHED; s++) {
		f = at((enum coord_step)s);
		assert_int_equal(coord_core_abort(&f, 2, &t, NULL), 0);
		assert_int_equal(t.kind, COORD_WRITE);
		assert_int_equal(f.next.step, s == COORD_PLANNED ? COORD_ABORTED : COORD_ABORTING);
	}
}

static void test_answers_of_an_earlier_question_change_nothing(void **state)
{
	struct coord_answer done = {.kind = COORD_ANSWER_DONE};
	struct coord_flow f = at(COORD_SRC_STOPPED);
	struct coord_todo t;
	uint64_t asked;

	coord_core_begin(&f, 1, &t);
	asked = t.ask_nr;
	assert_int_equal(coord_core_abort(&f, 2, &t, NULL), 0);
	coord_core_written(&f, 2, &t);
	assert_int_equal(t.ask, AGENT_REVOKE);
	coord_core_on_answer(&f, asked, &done, 3, &t);
	assert_int_equal(t.kind, COORD_NOTHING);
	assert_int_equal(f.m.step, COORD_ABORTING);
}

static void test_a_dead_destination_does_not_keep_the_source_down(void **state)
{
	struct coord_flow f = at(COORD_ABORTING);
	struct coord_todo t;
	uint64_t now;

	f.m.aborted_at = COORD_EXPORTED;
	coord_core_begin(&f, 1000, &t);
	for (now = 1000; now < 20000 && t.kind != COORD_WRITE; now += 1000) {
		t = failed(&f, KEDGE_E_UNREACHABLE, now);
		if (t.kind == COORD_WAIT)
			coord_core_on_time(&f, t.until_ms, &t);
	}
	assert_int_equal(f.next.step, COORD_UNFENCING);
	assert_in_range(now, 11000, 13000);
	/* one that was never stopped has nothing to give back: it waits */
	f = at(COORD_ABORTING);
	f.m.aborted_at = COORD_CHECKED;
	coord_core_begin(&f, 1000, &t);
	for (now = 1000; now < 30000; now += 1000) {
		t = failed(&f, KEDGE_E_UNREACHABLE, now);
		assert_int_equal(t.kind, COORD_WAIT);
		coord_core_on_time(&f, t.until_ms, &t);
	}
}

static void test_failures_before_the_stop_end_it_at_once_when_waiting_does_not_help(void **state)
{
	struct coord_flow f = at(COORD_CHECKED);
	struct coord_todo t;

	coord_core_begin(&f, 1, &t);
	t = failed(&f, KEDGE_E_NO_ROOM, 2);
	assert_int_equal(t.kind, COORD_WRITE);
	assert_int_equal(f.next.step, COORD_ABORTING);
	assert_true(f.next.is_failed);
	assert_int_equal(f.next.reason_code, KEDGE_E_NO_ROOM);
	f = at(COORD_CHECKED);
	coord_core_begin(&f, 1, &t);
	t = failed(&f, KEDGE_E_UNREACHABLE, 2);
	assert_int_equal(t.kind, COORD_WAIT);
	f = at(COORD_SRC_STOPPING); /* an opener may go away: asked again, for its patience */
	coord_core_begin(&f, 1, &t);
	t = failed(&f, KEDGE_E_STILL_OPEN, 2);
	assert_int_equal(t.kind, COORD_WAIT);
	coord_core_on_time(&f, t.until_ms, &t);
	t = failed(&f, KEDGE_E_STILL_OPEN, 2 + 600000);
	assert_int_equal(f.next.step, COORD_ABORTING);
}

static void test_a_copy_is_kept_for_its_time_and_counts_as_done(void **state)
{
	struct coord_flow f = at(COORD_UNEXPORTED);
	struct coord_todo t;

	f.m.hold_ms = 5000;
	coord_core_begin(&f, 1000, &t);
	assert_int_equal(f.next.hold_until_ms, 6000);
	coord_core_written(&f, 1000, &t);
	assert_int_equal(t.kind, COORD_WAIT);
	assert_int_equal(t.until_ms, 6000);
	assert_string_equal(coord_core_state_name(&f), "done");
	coord_core_on_time(&f, 6000, &t);
	assert_int_equal(t.ask, AGENT_RELEASE);
	f.m.hold_ms = 0; /* no hold: a clock that jumped back keeps nobody waiting */
	coord_core_begin(&f, 1, &t);
	assert_int_equal(t.ask, AGENT_RELEASE);
}

static void test_names_and_invariants(void **state)
{
	enum coord_step step;

	for (int s = 0; s < COORD_NR_STEPS; s++) {
		assert_int_equal(coord_step_by_name(coord_row_of((enum coord_step)s)->name, &step), 0);
		assert_int_equal(step, s);
	}
	assert_int_equal(coord_step_by_name("ERASED", &step), -EINVAL);
	struct coord_migration m = at(COORD_ABORTING).m;
	m.aborted_at = COORD_BOOT_INTENT;
	assert_non_null(coord_core_broken_invariant(&m));
	m = at(COORD_ATTACHED).m;
	assert_null(coord_core_broken_invariant(&m));
	m.portal[0] = 0;
	assert_non_null(coord_core_broken_invariant(&m));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_whole_way_in_order),
		cmocka_unit_test(test_blocks_that_differ_are_held_and_never_released),
		cmocka_unit_test(test_abort_is_refused_from_the_intent_on_even_while_it_is_written),
		cmocka_unit_test(test_answers_of_an_earlier_question_change_nothing),
		cmocka_unit_test(test_a_dead_destination_does_not_keep_the_source_down),
		cmocka_unit_test(test_failures_before_the_stop_end_it_at_once_when_waiting_does_not_help),
		cmocka_unit_test(test_a_copy_is_kept_for_its_time_and_counts_as_done),
		cmocka_unit_test(test_names_and_invariants),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
