/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The loop looks for answers before it sleeps (decision 0011): when, for how long, and when not. Its clock, its yields and its sleeps are
 * ours (ld --wrap), so that nothing depends on how busy the machine is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <liburing.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/loop.h"

#define US 1000u
#define MS 1000000u

/* What a loop that sleeps or yields finds, and what it did. */
static struct {
	uint64_t now_ns, yield_ns, sleep_ns;
	int peer_fd;
	unsigned answer_yield; /* the answer comes at this yield; otherwise in the sleep */
	bool is_answered;
	unsigned nr_yields, nr_sleeps;
	uint64_t asked_ns; /* the last sleep */
} world;

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_sched_yield(void);
int __real_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned nr, struct __kernel_timespec *ts,
					    sigset_t *mask);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned nr, struct __kernel_timespec *ts,
					    sigset_t *mask);

int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
	if (id != CLOCK_MONOTONIC)
		return __real_clock_gettime(id, t);
	*t = (struct timespec){.tv_sec = (time_t)(world.now_ns / 1000000000u), .tv_nsec = (long)(world.now_ns % 1000000000u)};
	return 0;
}

static void answer_now(void)
{
	assert_int_equal(send(world.peer_fd, "y", 1, 0), 1);
	world.is_answered = true;
}

int __wrap_sched_yield(void)
{
	world.nr_yields++;
	world.now_ns += world.yield_ns;
	if (world.nr_yields == world.answer_yield)
		answer_now();
	return 0;
}

int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned nr, struct __kernel_timespec *ts,
					    sigset_t *mask)
{
	struct __kernel_timespec bound = {.tv_sec = 10};

	world.nr_sleeps++;
	world.asked_ns = (uint64_t)ts->tv_sec * 1000000000u + (uint64_t)ts->tv_nsec;
	world.now_ns += world.sleep_ns;
	if (!world.is_answered)
		answer_now();
	return __real_io_uring_submit_and_wait_timeout(ring, cqe, nr, &bound, mask);
}

struct probe {
	struct kedge_op op;
	int res;
	unsigned nr_calls;
};

static void probe_cb(struct kedge_op *op, int res)
{
	struct probe *p = kedge_container_of(op, struct probe, op);

	p->res = res;
	p->nr_calls++;
}

struct pair {
	struct kedge_loop *loop;
	int fds[2];
};

static int setup(void **state)
{
	static struct pair p;

	world = (__typeof__(world)){.now_ns = 1000u * (uint64_t)MS, .yield_ns = US, .sleep_ns = 10 * US};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p.fds), 0);
	world.peer_fd = p.fds[1];
	assert_int_equal(kedge_loop_create(64, &p.loop, NULL), 0);
	*state = &p;
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;

	assert_int_equal(kedge_loop_nr_inflight(p->loop), 0);
	kedge_loop_destroy(p->loop);
	close(p->fds[0]);
	close(p->fds[1]);
	return 0;
}

/* Wait for an answer that comes at that yield, or in a sleep of so long; counts the yields and sleeps of it. */
static void await_answer(struct pair *p, unsigned answer_yield, uint64_t sleep_ns)
{
	struct probe in = {.op.fn = probe_cb};
	char byte = 0;

	world.nr_yields = world.nr_sleeps = 0;
	world.is_answered = false;
	world.sleep_ns = sleep_ns;
	world.answer_yield = answer_yield;
	kedge_op_recv(p->loop, &in.op, p->fds[0], &byte, 1, 0);
	kedge_loop_run_once(p->loop, 1000);
	assert_int_equal(in.nr_calls, 1);
	assert_int_equal(in.res, 1);
	assert_int_equal(byte, 'y');
}

/* What it had to submit is submitted first, and what has come is seen: no sleep. */
static void test_loop_answer_at_once_needs_no_sleep(void **state)
{
	await_answer(*state, 0, 99 * US);
	for (unsigned yield = 1; yield < 40; yield++) {
		await_answer(*state, yield, MS);
		assert_int_equal(world.nr_yields, yield);
		assert_int_equal(world.nr_sleeps, 0);
	}
}

static void test_loop_looks_for_50_us_then_sleeps(void **state)
{
	await_answer(*state, 0, 10 * US);
	await_answer(*state, 0, 10 * US);
	assert_int_equal(world.nr_yields, 50);
	assert_int_equal(world.nr_sleeps, 1);
	assert_in_range(world.asked_ns, 0, 1000u * MS);
}

static void test_loop_does_not_look_after_a_long_wait(void **state)
{
	await_answer(*state, 0, 100 * US);
	await_answer(*state, 1, 10 * US);
	assert_int_equal(world.nr_yields, 0);
	assert_int_equal(world.nr_sleeps, 1);
	await_answer(*state, 0, 60 * US); /* what it looked for in vain counts as waiting, too */
	assert_int_equal(world.nr_yields, 50);
	await_answer(*state, 1, 10 * US);
	assert_int_equal(world.nr_yields, 0);
}

/* Who is given the core by a yield needs it. */
static void test_loop_does_not_look_where_others_want_the_core(void **state)
{
	await_answer(*state, 0, 10 * US);
	world.yield_ns = 21 * US;
	await_answer(*state, 9, 10 * US);
	assert_int_equal(world.nr_yields, 1);
	assert_int_equal(world.nr_sleeps, 1);
	world.yield_ns = US;
	for (unsigned i = 0; i < 9; i++) {
		world.now_ns += 90 * US;
		await_answer(*state, 1, 10 * US);
		assert_int_equal(world.nr_yields, 0);
		assert_int_equal(world.nr_sleeps, 1);
	}
	world.now_ns += 90 * US;
	await_answer(*state, 1, 10 * US);
	assert_int_equal(world.nr_yields, 1);
	assert_int_equal(world.nr_sleeps, 0);
}

static void ignore_timer_cb(struct kedge_timer *t)
{
	(void)t;
}

static void test_loop_does_not_look_past_a_timer(void **state)
{
	struct pair *p = *state;
	struct kedge_timer t = {.fn = ignore_timer_cb};

	await_answer(p, 0, 10 * US);
	kedge_timer_start(p->loop, &t, 1);
	world.now_ns += 950 * US; /* due in 50 us */
	await_answer(p, 1, 10 * US);
	assert_int_equal(world.nr_yields, 0);
	assert_int_equal(world.nr_sleeps, 1);
	assert_int_equal(world.asked_ns, 50 * US);
	kedge_timer_stop(p->loop, &t);
}

static void ignore_cb(void *arg)
{
	(void)arg;
}

/* A round with work at hand does not wait, and what follows work is an answer to it, as a rule: looked for, also after a long wait. */
static void test_loop_looks_after_work(void **state)
{
	struct pair *p = *state;
	struct kedge_defer d = {.fn = ignore_cb};

	await_answer(p, 0, 100 * US);
	kedge_loop_defer(p->loop, &d);
	world.nr_sleeps = world.nr_yields = 0;
	kedge_loop_run_once(p->loop, 1000);
	assert_int_equal(world.nr_sleeps + world.nr_yields, 0);
	await_answer(p, 3, 10 * US);
	assert_int_equal(world.nr_yields, 3);
	assert_int_equal(world.nr_sleeps, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_loop_##name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(answer_at_once_needs_no_sleep),
		TEST(looks_for_50_us_then_sleeps),
		TEST(does_not_look_after_a_long_wait),
		TEST(does_not_look_where_others_want_the_core),
		TEST(does_not_look_past_a_timer),
		TEST(looks_after_work),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
