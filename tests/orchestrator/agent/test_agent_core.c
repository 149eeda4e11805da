/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The agent's verdicts: each step against each state that matters, stale epochs, repeats, races of BOOT with REVOKE
 * and INTENT with UNFENCE; and random histories of two hosts, judged by the invariants. Pure.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent_core.h"

static struct kedge_uuid uuid_of(uint8_t n)
{
	return (struct kedge_uuid){.b = {n, 1, 2, 3}};
}

static struct agent_verdict ask(const struct agent_record *r, enum agent_step step, uint64_t epoch, uint8_t migration, bool is_stored)
{
	struct agent_request q = {.migration = uuid_of(migration), .epoch = epoch, .step = step, .to = "b"};
	struct agent_verdict v;

	agent_core_decide(r, is_stored, &q, &v);
	return v;
}

/* The step as a whole; it must be allowed. */
static void run(struct agent_record *r, enum agent_step step, uint64_t epoch, uint8_t migration)
{
	struct agent_request q = {.migration = uuid_of(migration), .epoch = epoch, .step = step, .to = "b", .is_release_delete = true};
	struct agent_verdict v;

	agent_core_decide(r, false, &q, &v);
	if (v.kind != AGENT_ACT)
		fail_msg("%s at epoch %u: %s", agent_step_name(step), (unsigned)epoch, v.reason);
	if (v.has_before)
		*r = v.before;
	assert_null(agent_core_broken_invariant(r));
	agent_core_finish(r, &q, r);
	assert_null(agent_core_broken_invariant(r));
}

static void begin(struct agent_record *r, enum agent_step step, uint64_t epoch, uint8_t migration)
{
	struct agent_verdict v = ask(r, step, epoch, migration, false);

	assert_int_equal(v.kind, AGENT_ACT);
	if (v.has_before)
		*r = v.before;
}

static void assert_refused(const struct agent_record *r, enum agent_step step, uint64_t epoch, uint8_t migration, int code)
{
	struct agent_verdict v = ask(r, step, epoch, migration, false);

	if (v.kind != AGENT_REFUSE || v.code != code)
		fail_msg("%s: kind %d, %s (%s), expected %s", agent_step_name(step), v.kind, kedge_err_name(v.code), v.reason,
			 kedge_err_name(code));
	assert_non_null(v.reason);
	assert_false(v.has_before);
}

static struct agent_record local(void)
{
	return (struct agent_record){.state = AGENT_STATE_LOCAL};
}

static struct agent_record fenced(uint64_t epoch)
{
	struct agent_record r = local();

	run(&r, AGENT_CHECK, epoch, 1);
	run(&r, AGENT_STOP, epoch, 1);
	run(&r, AGENT_FENCE, epoch, 1);
	return r;
}

static struct agent_record attached(uint64_t epoch)
{
	struct agent_record r = {0};

	run(&r, AGENT_RESERVE, epoch, 1);
	run(&r, AGENT_ATTACH, epoch, 1);
	return r;
}

static void test_agent_core_the_whole_way(void **state)
{
	struct agent_record a = fenced(1), b = attached(1);
	const char *reason;

	assert_int_equal(a.state, AGENT_STATE_FENCED);
	assert_string_equal(a.fence_to, "b");
	assert_int_equal(agent_core_may_start(&a, &reason), KEDGE_E_FENCED);
	assert_int_equal(agent_core_may_start(&b, &reason), KEDGE_E_FENCED);
	run(&a, AGENT_EXPORT, 1, 1);
	run(&a, AGENT_INTENT, 1, 1);
	run(&b, AGENT_BOOT, 1, 1);
	assert_int_equal(agent_core_may_start(&b, &reason), 0);
	run(&b, AGENT_HYDRATE, 1, 1);
	run(&b, AGENT_FINISH, 1, 1);
	assert_int_equal(b.state, AGENT_STATE_LOCAL);
	assert_refused(&a, AGENT_RELEASE, 1, 1, KEDGE_E_STATE); /* the export stands */
	run(&a, AGENT_UNEXPORT, 1, 1);
	assert_refused(&a, AGENT_EXPORT, 1, 1, KEDGE_E_STATE);
	run(&a, AGENT_RELEASE, 1, 1);
	assert_true(a.is_released);
	assert_int_equal(agent_core_may_start(&a, &reason), KEDGE_E_FENCED);
	/* and back */
	run(&b, AGENT_CHECK, 2, 2);
	run(&a, AGENT_RESERVE, 2, 2);
	assert_int_equal(a.state, AGENT_STATE_RESERVED);
	assert_false(a.has_intent);
}

static void test_agent_core_stale_epoch_changes_nothing(void **state)
{
	struct agent_record records[] = {local(), fenced(5), attached(5)};

	records[0].epoch = 5;
	for (size_t i = 0; i < 3; i++) {
		for (int step = 0; step < AGENT_NR_STEPS; step++) {
			for (int is_stored = 0; is_stored < 2; is_stored++) {
				struct agent_verdict v = ask(&records[i], (enum agent_step)step, 4, 1, is_stored);
				/* the very result may be told again */
				assert_int_equal(v.kind, is_stored ? AGENT_STORED : AGENT_STALE);
				assert_false(v.has_before);
			}
		}
	}
	assert_refused(&records[0], AGENT_CHECK, 0, 1, -EINVAL);
}

static void test_agent_core_repeats_are_answered_from_the_store(void **state)
{
	struct agent_record a = fenced(1), b = attached(1);

	assert_int_equal(ask(&a, AGENT_STOP, 1, 1, true).kind, AGENT_STORED);
	assert_int_equal(ask(&a, AGENT_FENCE, 1, 1, true).kind, AGENT_STORED);
	assert_int_equal(ask(&b, AGENT_RESERVE, 1, 1, true).kind, AGENT_STORED);
	/* but not what an abort has undone */
	run(&b, AGENT_REVOKE, 1, 1);
	assert_int_equal(ask(&b, AGENT_RESERVE, 1, 1, true).kind, AGENT_REFUSE);
	assert_int_equal(ask(&b, AGENT_ATTACH, 1, 1, true).kind, AGENT_REFUSE);
	assert_int_equal(ask(&b, AGENT_REVOKE, 1, 1, true).kind, AGENT_STORED);
	run(&a, AGENT_UNFENCE, 1, 1);
	assert_int_equal(ask(&a, AGENT_STOP, 1, 1, true).kind, AGENT_REFUSE);
	assert_int_equal(ask(&a, AGENT_FENCE, 1, 1, true).kind, AGENT_REFUSE);
	assert_int_equal(ask(&a, AGENT_UNFENCE, 1, 1, true).kind, AGENT_STORED);
}

static void test_agent_core_one_migration_at_a_time(void **state)
{
	struct agent_record a = local(), f = fenced(1), b = attached(1);

	run(&a, AGENT_CHECK, 1, 1);
	/* the same epoch by another migration */
	assert_refused(&a, AGENT_STOP, 1, 2, KEDGE_E_BUSY_VOLUME);
	/* nothing holds the volume yet: a later epoch takes over */
	run(&a, AGENT_CHECK, 2, 2);
	assert_int_equal(ask(&a, AGENT_STOP, 1, 1, false).kind, AGENT_STALE);
	/* held, fenced, reserved, cloning: a later epoch is refused and not taken over */
	run(&a, AGENT_STOP, 2, 2);
	for (int step = 0; step < AGENT_NR_STEPS; step++) {
		assert_refused(&a, (enum agent_step)step, 3, 3, KEDGE_E_BUSY_VOLUME);
		assert_refused(&f, (enum agent_step)step, 3, 3, KEDGE_E_BUSY_VOLUME);
		assert_refused(&b, (enum agent_step)step, 3, 3, KEDGE_E_BUSY_VOLUME);
	}
}

static void test_agent_core_fence_needs_a_stop_of_the_epoch(void **state)
{
	struct agent_record r = local();

	assert_refused(&r, AGENT_FENCE, 1, 1, KEDGE_E_STATE);
	run(&r, AGENT_CHECK, 1, 1);
	assert_refused(&r, AGENT_FENCE, 1, 1, KEDGE_E_STATE);
	begin(&r, AGENT_STOP, 1, 1); /* began, failed: STILL_OPEN */
	assert_refused(&r, AGENT_FENCE, 1, 1, KEDGE_E_STATE);
	const char *reason;
	assert_int_equal(agent_core_may_start(&r, &reason), KEDGE_E_BUSY_VOLUME);
	run(&r, AGENT_STOP, 1, 1);
	assert_int_equal(ask(&r, AGENT_FENCE, 1, 1, false).kind, AGENT_ACT);
	assert_false(ask(&r, AGENT_FENCE, 1, 1, false).has_before);
}

static void test_agent_core_export_and_intent_need_the_fence(void **state)
{
	struct agent_record r = local();

	run(&r, AGENT_STOP, 1, 1);
	assert_refused(&r, AGENT_EXPORT, 1, 1, KEDGE_E_STATE);
	assert_refused(&r, AGENT_INTENT, 1, 1, KEDGE_E_STATE);
	assert_refused(&r, AGENT_UNEXPORT, 1, 1, KEDGE_E_STATE);
	assert_refused(&r, AGENT_RELEASE, 1, 1, KEDGE_E_STATE);
	r = fenced(1);
	assert_refused(&r, AGENT_RELEASE, 1, 1, KEDGE_E_STATE); /* no intent */
}

static void test_agent_core_boot_and_revoke_exclude_each_other(void **state)
{
	/* whichever writes its mark first wins, also when its action never ended */
	struct agent_record r = attached(1);

	begin(&r, AGENT_BOOT, 1, 1);
	assert_refused(&r, AGENT_REVOKE, 1, 1, KEDGE_E_STATE);
	assert_int_equal(ask(&r, AGENT_BOOT, 1, 1, false).kind, AGENT_ACT);
	r = attached(1);
	begin(&r, AGENT_REVOKE, 1, 1);
	assert_refused(&r, AGENT_BOOT, 1, 1, KEDGE_E_STATE);
	assert_refused(&r, AGENT_RESERVE, 1, 1, KEDGE_E_STATE);
	assert_int_equal(ask(&r, AGENT_REVOKE, 1, 1, false).kind, AGENT_ACT);
	/* the revoke that overtakes the reserve */
	memset(&r, 0, sizeof r);
	run(&r, AGENT_REVOKE, 1, 1);
	assert_refused(&r, AGENT_RESERVE, 1, 1, KEDGE_E_STATE);
	run(&r, AGENT_RESERVE, 2, 2);
}

static void test_agent_core_intent_and_unfence_exclude_each_other(void **state)
{
	struct agent_record r = fenced(1);
	const char *reason;

	run(&r, AGENT_INTENT, 1, 1);
	assert_refused(&r, AGENT_UNFENCE, 1, 1, KEDGE_E_STATE);
	r = fenced(1);
	begin(&r, AGENT_UNFENCE, 1, 1);
	assert_refused(&r, AGENT_INTENT, 1, 1, KEDGE_E_STATE);
	assert_int_equal(agent_core_may_start(&r, &reason), KEDGE_E_FENCED); /* until it has ended */
	run(&r, AGENT_UNFENCE, 1, 1);
	assert_int_equal(agent_core_may_start(&r, &reason), 0);
	assert_refused(&r, AGENT_STOP, 1, 1, KEDGE_E_STATE); /* a delayed one */
	run(&r, AGENT_STOP, 2, 2);
}

static void test_agent_core_boot_needs_reserve_and_attach(void **state)
{
	struct agent_record r = {0};

	assert_refused(&r, AGENT_BOOT, 1, 1, KEDGE_E_STATE);
	assert_refused(&r, AGENT_ATTACH, 1, 1, KEDGE_E_STATE);
	assert_refused(&r, AGENT_CHECK, 1, 1, -ENOENT);
	run(&r, AGENT_RESERVE, 1, 1);
	assert_refused(&r, AGENT_BOOT, 1, 1, KEDGE_E_STATE);
	assert_refused(&r, AGENT_HYDRATE, 1, 1, KEDGE_E_STATE);
	assert_refused(&r, AGENT_FINISH, 1, 1, KEDGE_E_STATE);
	r = local();
	assert_refused(&r, AGENT_RESERVE, 1, 1, KEDGE_E_STATE);
	assert_refused(&r, AGENT_REVOKE, 1, 1, KEDGE_E_STATE);
}

static void test_agent_core_reboot_voids_a_stop_but_no_fence(void **state)
{
	struct agent_record r = local();
	const char *reason;

	run(&r, AGENT_STOP, 1, 1);
	assert_true(agent_core_reboot(&r));
	assert_int_equal(agent_core_may_start(&r, &reason), 0);
	assert_refused(&r, AGENT_FENCE, 1, 1, KEDGE_E_STATE);
	run(&r, AGENT_STOP, 1, 1);
	run(&r, AGENT_FENCE, 1, 1);
	assert_false(agent_core_reboot(&r));
	assert_int_equal(agent_core_may_start(&r, &reason), KEDGE_E_FENCED);
}

static void test_agent_core_names_round_trip(void **state)
{
	enum agent_step step;
	enum agent_state st;

	for (int i = 0; i < AGENT_NR_STEPS; i++) {
		assert_int_equal(agent_step_by_name(agent_step_name((enum agent_step)i), &step), 0);
		assert_int_equal(step, i);
	}
	for (int i = 0; i < AGENT_NR_STATES; i++) {
		assert_int_equal(agent_state_by_name(agent_state_name((enum agent_state)i), &st), 0);
		assert_int_equal(st, i);
	}
	assert_int_equal(agent_step_by_name("check", &step), -EINVAL);
}

/* ---- random histories ---- */

struct host {
	struct agent_record r;
	bool is_stored[8][AGENT_NR_STEPS];
};

/* Deliver a step; the action may be cut off after the first write, and the step may arrive again at any time. */
static void deliver(struct host *h, enum agent_step step, unsigned epoch, bool is_cut)
{
	struct agent_request q = {.migration = uuid_of((uint8_t)epoch), .epoch = epoch, .step = step, .to = "b"};
	struct agent_record old = h->r;
	struct agent_verdict v;

	agent_core_decide(&h->r, h->is_stored[epoch][step], &q, &v);
	if (v.kind == AGENT_ACT) {
		if (v.has_before)
			h->r = v.before;
		if (!is_cut) {
			agent_core_finish(&h->r, &q, &h->r);
			h->is_stored[epoch][step] = true;
		}
	}
	if (agent_core_broken_invariant(&h->r))
		fail_msg("%s at epoch %u: %s", agent_step_name(step), epoch, agent_core_broken_invariant(&h->r));
	if (h->r.epoch < old.epoch)
		fail_msg("the epoch went back");
	if (old.state == AGENT_STATE_FENCED && old.has_intent && h->r.state == AGENT_STATE_LOCAL)
		fail_msg("unfenced after the intent");
}

/* Mostly the next step of a whole move, so that histories get far; else any step of any epoch. */
static enum agent_step pick(unsigned x, const struct host *a, const struct host *b, unsigned *epoch)
{
	static const enum agent_step way[] = {AGENT_CHECK, AGENT_RESERVE, AGENT_STOP, AGENT_FENCE, AGENT_EXPORT, AGENT_ATTACH,
					      AGENT_INTENT, AGENT_BOOT, AGENT_HYDRATE, AGENT_FINISH, AGENT_UNEXPORT, AGENT_RELEASE};

	if ((x >> 24) % 16 < 2)
		return (enum agent_step)((x >> 16) % AGENT_NR_STEPS);
	if ((x >> 24) % 16 < 13) {
		uint64_t now = a->r.epoch > b->r.epoch ? a->r.epoch : b->r.epoch;
		*epoch = now ? (unsigned)now : 1;
		if ((a->r.aborted_epoch == *epoch || b->r.revoked_epoch == *epoch) && *epoch < 4)
			++*epoch;
	}
	for (size_t i = 0; i < sizeof way / sizeof way[0]; i++)
		if (!a->is_stored[*epoch][way[i]] && !b->is_stored[*epoch][way[i]])
			return way[i];
	return AGENT_CHECK;
}

static void test_agent_core_random_histories_never_have_two_writers(void **state)
{
	const char *text = getenv("KEDGE_SEED"), *reason;
	unsigned first = text ? (unsigned)strtoul(text, NULL, 10) : 1, nr = text ? 1 : 20000, nr_booted = 0, nr_unfenced = 0;

	for (unsigned seed = first; seed < first + nr; seed++) {
		struct host a = {.r = local()}, b = {.r = {0}};
		unsigned x = seed * 2654435761u + 1;
		for (int i = 0; i < 120; i++) {
			x = x * 1664525u + 1013904223u;
			unsigned epoch = 1 + (x >> 8) % 4;
			enum agent_step step = pick(x, &a, &b, &epoch);
			bool is_at_a = step != AGENT_RESERVE && step != AGENT_ATTACH && step != AGENT_BOOT && step != AGENT_HYDRATE &&
				       step != AGENT_FINISH && step != AGENT_REVOKE;
			/* The coordinator's one rule: BOOT is sent only after it has seen INTENT's result, and RELEASE only
			 * after FINISH's. All else comes in any order, any number of times. */
			if (step == AGENT_BOOT && !a.is_stored[epoch][AGENT_INTENT])
				continue;
			if (step == AGENT_RELEASE && !b.is_stored[epoch][AGENT_FINISH])
				continue;
			deliver(is_at_a ? &a : &b, step, epoch, (x >> 28) == 0);
			if (agent_core_may_start(&a.r, &reason) == 0 && agent_core_may_start(&b.r, &reason) == 0)
				fail_msg("seed %u, step %d: both hosts may start it", seed, i);
			nr_booted += b.r.state == AGENT_STATE_CLONING;
			nr_unfenced += a.r.aborted_epoch != 0;
		}
	}
	print_message("%u histories from seed %u; booted in %u steps, aborted in %u\n", nr, first, nr_booted, nr_unfenced);
	assert_true(text || (nr_booted > 10000 && nr_unfenced > 10000));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_agent_core_the_whole_way),
		cmocka_unit_test(test_agent_core_stale_epoch_changes_nothing),
		cmocka_unit_test(test_agent_core_repeats_are_answered_from_the_store),
		cmocka_unit_test(test_agent_core_one_migration_at_a_time),
		cmocka_unit_test(test_agent_core_fence_needs_a_stop_of_the_epoch),
		cmocka_unit_test(test_agent_core_export_and_intent_need_the_fence),
		cmocka_unit_test(test_agent_core_boot_and_revoke_exclude_each_other),
		cmocka_unit_test(test_agent_core_intent_and_unfence_exclude_each_other),
		cmocka_unit_test(test_agent_core_boot_needs_reserve_and_attach),
		cmocka_unit_test(test_agent_core_reboot_voids_a_stop_but_no_fence),
		cmocka_unit_test(test_agent_core_names_round_trip),
		cmocka_unit_test(test_agent_core_random_histories_never_have_two_writers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
