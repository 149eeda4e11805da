/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The event loop: the asynchronous contract, timers in order, cancellation, wake-up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/loop.h"

static int setup(void **state)
{
	struct kedge_loop *l;

	assert_int_equal(kedge_loop_create(64, &l, NULL), 0);
	*state = l;
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(kedge_loop_nr_inflight(*state), 0);
	kedge_loop_destroy(*state);
	return 0;
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

static void spin(struct kedge_loop *l, const unsigned *counter, unsigned want)
{
	for (int i = 0; i < 200 && *counter < want; i++)
		kedge_loop_run_once(l, 50);
	assert_int_equal(*counter, want);
}

static void test_loop_callback_comes_later_and_once(void **state)
{
	struct kedge_loop *l = *state;
	struct probe p = {.op.fn = probe_cb};
	int fds[2];
	char buf[4];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "abc", 3), 3);
	kedge_op_read(l, &p.op, fds[0], buf, sizeof buf, 0);
	assert_int_equal(p.nr_calls, 0);
	spin(l, &p.nr_calls, 1);
	assert_int_equal(p.res, 3);
	kedge_loop_run_once(l, 0);
	assert_int_equal(p.nr_calls, 1);
	close(fds[0]);
	close(fds[1]);
}

static void test_loop_cancelled_still_completes(void **state)
{
	struct kedge_loop *l = *state;
	struct probe p = {.op.fn = probe_cb};
	int fds[2];
	char buf[4];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	kedge_op_recv(l, &p.op, fds[0], buf, sizeof buf, 0);
	kedge_loop_run_once(l, 1);
	kedge_op_cancel(l, &p.op);
	assert_int_equal(p.nr_calls, 0);
	spin(l, &p.nr_calls, 1);
	assert_int_equal(p.res, -ECANCELED);
	kedge_op_cancel(l, &p.op); /* not in flight: nothing happens */
	kedge_loop_run_once(l, 1);
	assert_int_equal(p.nr_calls, 1);
	close(fds[0]);
	close(fds[1]);
}

static void test_loop_more_than_the_queue_holds(void **state)
{
	struct kedge_loop *l = *state;
	enum { N = 1000 };
	static struct probe p[N];
	static char bytes[N];
	int fd = open("/dev/null", O_WRONLY);

	memset(p, 0, sizeof p);
	for (unsigned i = 0; i < N; i++) {
		p[i].op.fn = probe_cb;
		kedge_op_write(l, &p[i].op, fd, &bytes[i], 1, 0);
	}
	for (unsigned i = 0; i < N; i++)
		spin(l, &p[i].nr_calls, 1);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(p[i].res, 1);
	close(fd);
}

static unsigned order[8], nr_order;
struct numbered {
	struct kedge_timer t;
	unsigned id;
};

static void timer_cb(struct kedge_timer *t)
{
	order[nr_order++] = kedge_container_of(t, struct numbered, t)->id;
}

static void test_loop_timers_fire_in_order(void **state)
{
	struct kedge_loop *l = *state;
	static const unsigned delays[] = {40, 10, 30, 20, 5};
	struct numbered n[5];

	nr_order = 0;
	memset(n, 0, sizeof n);
	for (unsigned i = 0; i < 5; i++) {
		n[i].t.fn = timer_cb;
		n[i].id = delays[i];
		kedge_timer_start(l, &n[i].t, delays[i]);
	}
	kedge_timer_stop(l, &n[3].t);  /* 20 never fires */
	kedge_timer_start(l, &n[0].t, 1); /* 40 moves to the front */
	spin(l, &nr_order, 4);
	assert_int_equal(order[0], 40);
	assert_int_equal(order[1], 5);
	assert_int_equal(order[2], 10);
	assert_int_equal(order[3], 30);
	assert_false(kedge_timer_is_armed(&n[3].t));
}

static void test_loop_timer_heap_stays_a_heap(void **state)
{
	struct kedge_loop *l = *state;
	enum { N = 300 };
	static struct kedge_timer t[N];
	uint32_t x = 12345;

	memset(t, 0, sizeof t);
	for (int round = 0; round < 5000; round++) {
		x = x * 1664525u + 1013904223u;
		unsigned i = (x >> 8) % N;
		t[i].fn = timer_cb;
		if (x & 0x80)
			kedge_timer_start(l, &t[i], 100000 + (x >> 16));
		else
			kedge_timer_stop(l, &t[i]);
	}
	for (unsigned i = 0; i < N; i++)
		kedge_timer_stop(l, &t[i]);
	kedge_loop_run_once(l, 0);
}

static struct kedge_defer chain[3];
static struct kedge_loop *chain_loop;
static unsigned nr_chain;

static void chain_cb(void *arg)
{
	struct kedge_defer *d = arg;

	nr_chain++;
	if (d == &chain[0]) {
		kedge_defer_remove(kedge_loop_defer_queue(chain_loop), &chain[1]);
		kedge_loop_defer(chain_loop, &chain[2]);
	}
}

static void test_loop_defer_added_in_a_callback_waits(void **state)
{
	chain_loop = *state;
	nr_chain = 0;
	for (int i = 0; i < 3; i++)
		chain[i] = (struct kedge_defer){.fn = chain_cb, .arg = &chain[i]};
	kedge_loop_defer(chain_loop, &chain[0]);
	kedge_loop_defer(chain_loop, &chain[1]);
	kedge_loop_run_once(chain_loop, 0);
	assert_int_equal(nr_chain, 1); /* 1 was taken out, 2 waits */
	kedge_loop_run_once(chain_loop, 0);
	assert_int_equal(nr_chain, 2);
}

static void *waker(void *arg)
{
	usleep(20000);
	kedge_loop_wake(arg);
	return NULL;
}

static void *echo_thread(void *arg)
{
	int fd = *(int *)arg;
	char byte;

	while (read(fd, &byte, 1) == 1)
		if (write(fd, &byte, 1) != 1)
			break;
	return NULL;
}

struct ticker {
	struct kedge_timer timer;
	struct kedge_loop *loop;
	unsigned nr_calls;
};

static void tick_cb(struct kedge_timer *t)
{
	struct ticker *k = kedge_container_of(t, struct ticker, timer);

	k->nr_calls++;
	kedge_timer_start(k->loop, t, 1);
}

/* The loop looks for answers before it sleeps: what it had to submit is submitted, and timers are not forgotten over it. */
static void test_loop_answers_that_come_at_once(void **state)
{
	struct ticker ticker = { .timer.fn = tick_cb, .loop = *state };
	struct probe in = { .op.fn = probe_cb }, out = { .op.fn = probe_cb };
	uint64_t begin_ns = kedge_clock_ns();
	pthread_t thread;
	char byte = 'x';
	unsigned nr = 0;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(pthread_create(&thread, NULL, echo_thread, &fds[1]), 0);
	kedge_timer_start(*state, &ticker.timer, 1);
	while (nr < 2000 || (ticker.nr_calls < 20 && nr < 1000000)) {
		kedge_op_recv(*state, &in.op, fds[0], &byte, 1, 0);
		kedge_op_send(*state, &out.op, fds[0], "y", 1, 0);
		nr++;
		spin(*state, &in.nr_calls, nr);
		spin(*state, &out.nr_calls, nr);
		assert_int_equal(in.res, 1);
		assert_int_equal(byte, 'y');
		byte = 'x';
	}
	assert_in_range(ticker.nr_calls, 20, (kedge_clock_ns() - begin_ns) / 1000000u + 1); /* and never before they are due */
	kedge_timer_stop(*state, &ticker.timer);
	close(fds[0]);
	pthread_join(thread, NULL);
	close(fds[1]);
}

/* A message may grow until the kernel has seen it, and the loop says when that may have been. */
static void test_loop_a_message_grows_until_it_is_handed_over(void **state)
{
	struct probe out = { .op.fn = probe_cb }, fill[80];
	struct iovec iov[2] = { { "one", 3 }, { "two", 3 } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 1 };
	uint64_t nr = kedge_loop_nr_submits(*state);
	char got[16];
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	kedge_op_sendmsg(*state, &out.op, fds[0], &msg, 0);
	assert_int_equal(kedge_loop_nr_submits(*state), nr);
	msg.msg_iovlen = 2;
	spin(*state, &out.nr_calls, 1);
	assert_int_equal(out.res, 6);
	assert_true(kedge_loop_nr_submits(*state) > nr);
	assert_int_equal(read(fds[1], got, sizeof got), 6);
	assert_memory_equal(got, "onetwo", 6);
	/* also when it is the queue that is full, in the middle of a round */
	nr = kedge_loop_nr_submits(*state);
	for (unsigned i = 0; i < 80; i++) {
		fill[i] = (struct probe){ .op.fn = probe_cb };
		kedge_op_send(*state, &fill[i].op, fds[0], "x", 1, 0);
	}
	assert_true(kedge_loop_nr_submits(*state) > nr);
	for (unsigned i = 0; i < 80; i++)
		spin(*state, &fill[i].nr_calls, 1);
	close(fds[0]);
	close(fds[1]);
}

static void test_loop_wake_from_another_thread(void **state)
{
	struct kedge_loop *l = *state;
	pthread_t th;
	uint64_t before = kedge_clock_ns();

	for (int i = 0; i < 3; i++) {
		assert_int_equal(pthread_create(&th, NULL, waker, l), 0);
		kedge_loop_run_once(l, 30000);
		pthread_join(th, NULL);
	}
	assert_true(kedge_clock_ns() - before < 20000000000ull);
}

static unsigned nr_ring_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned nr = 0;

	if (!f)
		return ~0u;
	while (fgets(line, sizeof line, f))
		nr += strstr(line, "[io_uring]") != NULL;
	fclose(f);
	return nr;
}

/* What a child put into the queue would be done with the rights of its parent. */
static void test_loop_ring_is_no_childs(void **state)
{
	int status;
	pid_t pid;

	assert_in_range(nr_ring_mappings(), 1, 3);
	pid = fork();
	if (pid == 0)
		_exit((int)nr_ring_mappings());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_loop_callback_comes_later_and_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop_cancelled_still_completes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop_more_than_the_queue_holds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop_timers_fire_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop_timer_heap_stays_a_heap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop_defer_added_in_a_callback_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop_answers_that_come_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop_a_message_grows_until_it_is_handed_over, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop_wake_from_another_thread, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loop_ring_is_no_childs, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
