/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The iSCSI source against a real target: extents, priorities, ranges, limits in time, cancel and close with reads under
 * way, and a target that is stopped (SIGSTOP, by its pid) and goes on.
 *
 * Owns. Nothing.
 *
 * Locks. None.
 *
 * Usage: test_source URL FILE TARGET-PID; FILE holds the unit's bytes, at least 32 MiB, with holes.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "iscsi_source.h"
#include "kcopy/kcopy.h"
#include "kedge/bytes.h"
#include "kedge/disk.h"

#define MIB (1024u * 1024)
#define NR_READS 24

static const char *url, *path;
static pid_t target_pid;
static int fd;

struct read {
	struct kedge_source_io io;
	unsigned nr_answers;
	int res;
	unsigned place; /* how many had been answered before */
};

struct rig {
	struct kedge_loop *l;
	struct kedge_source *src;
	struct read reads[NR_READS];
	unsigned nr_answered;
	bool is_closed;
};

static void answer_cb(struct kedge_source_io *io, int res)
{
	struct read *r = kedge_container_of(io, struct read, io);
	struct rig *rig = io->arg;

	r->nr_answers++;
	r->res = res;
	r->place = rig->nr_answered++;
}

static void closed_cb(void *arg)
{
	*(bool *)arg = true;
}

static void rounds(struct rig *r, unsigned nr_answered, unsigned nr_ms)
{
	uint64_t start_ns = kedge_clock_ns();

	while (r->nr_answered < nr_answered && kedge_clock_ns() - start_ns < nr_ms * 1000000ull)
		assert_int_equal(kedge_loop_run_once(r->l, 10), 0);
}

static void open_rig(struct rig *r, unsigned nr_sessions)
{
	struct kcopy_source_opts o = { .url = url, .nr_sessions = nr_sessions };
	struct kedge_err err = { 0 };

	memset(r, 0, sizeof *r);
	assert_int_equal(kedge_loop_create(128, &r->l, &err), 0);
	assert_int_equal(kcopy_source_create(r->l, &o, &r->src, &err), 0);
	r->src->ops->start(r->src);
}

static void wait_up(struct rig *r)
{
	struct kedge_source_status st = { 0 };
	uint64_t start_ns = kedge_clock_ns();

	while (st.state != KEDGE_SOURCE_UP && kedge_clock_ns() - start_ns < 5000000000ull) {
		kedge_loop_run_once(r->l, 10);
		r->src->ops->status(r->src, &st);
	}
	assert_int_equal(st.state, KEDGE_SOURCE_UP);
}

static void close_rig(struct rig *r)
{
	r->src->ops->close(r->src, closed_cb, &r->is_closed);
	assert_false(r->is_closed); /* later, never inside the call */
	for (int i = 0; i < 500 && !r->is_closed; i++)
		kedge_loop_run_once(r->l, 10);
	assert_true(r->is_closed);
	for (unsigned i = 0; i < NR_READS; i++) {
		assert_true(r->reads[i].nr_answers <= 1);
		kedge_buf_free(r->reads[i].io.buf);
	}
	r->src->ops->destroy(r->src);
	assert_int_equal(kedge_loop_nr_inflight(r->l), 0);
	kedge_loop_destroy(r->l);
}

static void submit(struct rig *r, unsigned i, uint64_t start, uint64_t nr, enum kedge_prio prio, uint32_t timeout_ms)
{
	r->reads[i].io = (struct kedge_source_io){
		.start_bytes = start,
		.nr_bytes = nr,
		.buf = kedge_buf_alloc(nr),
		.prio = prio,
		.timeout_ms = timeout_ms,
		.fn = answer_cb,
		.arg = r,
	};
	r->src->ops->read(r->src, &r->reads[i].io);
	assert_int_equal(r->reads[i].nr_answers, 0); /* never inside the call */
}

static void check(const struct read *r)
{
	char *want = malloc(r->io.nr_bytes);

	assert_int_equal(r->nr_answers, 1);
	assert_int_equal(r->res, 0);
	assert_int_equal(pread(fd, want, r->io.nr_bytes, (off_t)r->io.start_bytes), r->io.nr_bytes);
	assert_memory_equal(want, r->io.buf, r->io.nr_bytes);
	free(want);
}

static void test_reads_of_all_sizes_are_right(void **state)
{
	static const uint64_t sizes[] = { 512, 1024, 4096, 65536, 524288, 524288 + 512, 3 * MIB, 7 * MIB + 4608 };
	struct rig r;

	open_rig(&r, 3);
	for (unsigned i = 0; i < KEDGE_ARRAY_LEN(sizes); i++)
		submit(&r, i, i * 512 * 7, sizes[i], i % 2 ? KEDGE_PRIO_FOREGROUND : KEDGE_PRIO_BACKGROUND, 0);
	rounds(&r, KEDGE_ARRAY_LEN(sizes), 10000);
	for (unsigned i = 0; i < KEDGE_ARRAY_LEN(sizes); i++)
		check(&r.reads[i]);
	close_rig(&r);
}

static void test_ranges_outside_are_refused(void **state)
{
	struct rig r;

	open_rig(&r, 1);
	wait_up(&r);
	uint64_t size = r.src->identity.size_bytes;
	submit(&r, 0, size, 512, KEDGE_PRIO_FOREGROUND, 0);
	submit(&r, 1, size - 512, 1024, KEDGE_PRIO_FOREGROUND, 0);
	submit(&r, 2, UINT64_MAX - 511, 1024, KEDGE_PRIO_FOREGROUND, 0);
	submit(&r, 3, 1, 512, KEDGE_PRIO_FOREGROUND, 0);
	submit(&r, 4, 0, 100, KEDGE_PRIO_FOREGROUND, 0);
	submit(&r, 5, size - 512, 512, KEDGE_PRIO_FOREGROUND, 0);
	rounds(&r, 6, 5000);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(r.reads[i].res, -EINVAL);
	check(&r.reads[5]);
	close_rig(&r);
}

static void test_foreground_goes_first(void **state)
{
	struct rig r;

	open_rig(&r, 1);
	wait_up(&r);
	for (unsigned i = 0; i < NR_READS - 1; i++)
		submit(&r, i, (uint64_t)i * MIB, MIB, KEDGE_PRIO_BACKGROUND, 0);
	submit(&r, NR_READS - 1, 4096, 4096, KEDGE_PRIO_FOREGROUND, 0);
	rounds(&r, NR_READS, 20000);
	for (unsigned i = 0; i < NR_READS; i++)
		check(&r.reads[i]);
	/* behind what was in flight when it came, which is a third of the others at most */
	assert_true(r.reads[NR_READS - 1].place <= (NR_READS - 1) / 3);
	close_rig(&r);
}

static void wait_sessions(struct rig *r, unsigned nr)
{
	struct kedge_source_status st = { 0 };
	uint64_t start_ns = kedge_clock_ns();

	while (st.nr_sessions < nr && kedge_clock_ns() - start_ns < 5000000000ull) {
		kedge_loop_run_once(r->l, 10);
		r->src->ops->status(r->src, &st);
	}
	assert_int_equal(st.nr_sessions, nr);
}

/* While a workload reads, hydration leaves one connection to it and uses one: more of them would each take as much of the link as the workload's.
 * Before and after, it uses all. */
static void foreground_has_a_session_for_itself(unsigned nr_sessions)
{
	struct rig r;

	open_rig(&r, nr_sessions);
	wait_up(&r);
	wait_sessions(&r, nr_sessions);
	struct kcopy_isource *src = kedge_container_of(r.src, struct kcopy_isource, base);
	unsigned nr = 0;
	for (unsigned i = 0; i < 4; i++)
		submit(&r, nr++, (uint64_t)i * MIB, MIB, KEDGE_PRIO_BACKGROUND, 0);
	assert_true(src->sessions[0].nr_inflight && src->sessions[1].nr_inflight);
	rounds(&r, nr, 20000);
	submit(&r, nr++, 4096, 4096, KEDGE_PRIO_FOREGROUND, 0);
	rounds(&r, nr, 20000);
	for (unsigned i = 0; i < 4; i++)
		submit(&r, nr++, (uint64_t)i * MIB, MIB, KEDGE_PRIO_BACKGROUND, 0);
	assert_int_equal(src->sessions[0].nr_inflight, 0);
	assert_int_equal(src->sessions[1].nr_inflight, 16);
	for (unsigned i = 2; i < nr_sessions; i++)
		assert_int_equal(src->sessions[i].nr_inflight, 0);
	submit(&r, nr++, 8192, 4096, KEDGE_PRIO_FOREGROUND, 0);
	assert_int_equal(src->sessions[0].nr_inflight, 1);
	rounds(&r, nr, 20000);
	src->demand_ns = 1; /* long ago */
	for (unsigned i = 0; i < 4; i++)
		submit(&r, nr++, (uint64_t)i * MIB, MIB, KEDGE_PRIO_BACKGROUND, 0);
	assert_true(src->sessions[0].nr_inflight && src->sessions[1].nr_inflight);
	rounds(&r, nr, 20000);
	for (unsigned i = 0; i < nr; i++)
		check(&r.reads[i]);
	close_rig(&r);
}

static void test_foreground_has_a_session_for_itself(void **state)
{
	foreground_has_a_session_for_itself(2);
	foreground_has_a_session_for_itself(4);
}

static void test_extents_are_those_of_the_file(void **state)
{
	struct kedge_extent x[64];
	struct rig r;
	uint64_t at = 0;
	unsigned nr_holes = 0;

	open_rig(&r, 1);
	wait_up(&r);
	uint64_t size = r.src->identity.size_bytes;
	while (at < size) {
		struct read *q = &r.reads[0];
		*q = (struct read){ .io = { .start_bytes = at, .nr_bytes = size - at, .extents = x, .nr_extents_max = 64, .fn = answer_cb,
					    .arg = &r } };
		r.nr_answered = 0;
		r.src->ops->extents(r.src, &q->io);
		rounds(&r, 1, 5000);
		assert_int_equal(q->res, 0);
		assert_true(q->io.ret_nr_extents > 0);
		for (unsigned i = 0; i < q->io.ret_nr_extents; i++) {
			uint64_t end = at + x[i].nr_bytes;
			assert_true(x[i].nr_bytes > 0 && end <= size);
			if (x[i].is_hole) {
				off_t data = lseek(fd, (off_t)at, SEEK_DATA);
				assert_true(data < 0 || (uint64_t)data >= end);
				nr_holes++;
			}
			at = end;
		}
	}
	assert_int_equal(at, size);
	assert_true(nr_holes > 0);
	close_rig(&r);
}

static void test_cancelled_and_closed_reads_are_answered_once(void **state)
{
	struct rig r;

	for (unsigned delay = 0; delay < 6; delay++) {
		open_rig(&r, 2);
		if (delay > 0)
			wait_up(&r);
		for (unsigned i = 0; i < NR_READS; i++)
			submit(&r, i, (uint64_t)i * MIB, MIB, KEDGE_PRIO_BACKGROUND, 0);
		for (unsigned i = 1; i < delay; i++)
			kedge_loop_run_once(r.l, 1);
		for (unsigned i = 0; i < NR_READS; i += 2)
			r.src->ops->cancel(r.src, &r.reads[i].io);
		if (delay % 2)
			rounds(&r, NR_READS, 20000);
		close_rig(&r);
		for (unsigned i = 0; i < NR_READS; i++) {
			assert_int_equal(r.reads[i].nr_answers, 1);
			assert_true(r.reads[i].res == 0 || r.reads[i].res == -ECANCELED);
			if (delay % 2 && i % 2)
				assert_int_equal(r.reads[i].res, 0);
		}
	}
}

static void test_stopped_target_ends_reads_in_time(void **state)
{
	struct rig r;

	open_rig(&r, 2);
	wait_up(&r);
	submit(&r, 0, 0, MIB, KEDGE_PRIO_FOREGROUND, 0);
	rounds(&r, 1, 5000);
	check(&r.reads[0]);
	kill(target_pid, SIGSTOP);
	uint64_t start_ns = kedge_clock_ns();
	for (unsigned i = 1; i < 5; i++)
		submit(&r, i, (uint64_t)i * MIB, MIB, KEDGE_PRIO_FOREGROUND, i * 300);
	submit(&r, 5, 9 * MIB, MIB, KEDGE_PRIO_FOREGROUND, 0); /* for ever */
	rounds(&r, 5, 5000);
	uint64_t took_ms = (kedge_clock_ns() - start_ns) / 1000000;
	for (unsigned i = 1; i < 5; i++) {
		assert_int_equal(r.reads[i].nr_answers, 1);
		assert_int_equal(r.reads[i].res, KEDGE_E_SOURCE_AWAY);
		assert_int_equal(r.reads[i].io.err.code, KEDGE_E_SOURCE_AWAY);
	}
	assert_true(took_ms >= 1200 && took_ms < 2200);
	assert_int_equal(r.reads[5].nr_answers, 0);
	kill(target_pid, SIGCONT);
	rounds(&r, 6, 20000);
	check(&r.reads[5]);
	/* a cancel is not held up by a target that is stopped */
	kill(target_pid, SIGSTOP);
	submit(&r, 6, 0, MIB, KEDGE_PRIO_BACKGROUND, 0);
	kedge_loop_run_once(r.l, 5);
	r.src->ops->cancel(r.src, &r.reads[6].io);
	rounds(&r, 7, 3000);
	assert_int_equal(r.reads[6].res, -ECANCELED);
	kill(target_pid, SIGCONT);
	close_rig(&r);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_of_all_sizes_are_right),
		cmocka_unit_test(test_ranges_outside_are_refused),
		cmocka_unit_test(test_foreground_goes_first),
		cmocka_unit_test(test_foreground_has_a_session_for_itself),
		cmocka_unit_test(test_extents_are_those_of_the_file),
		cmocka_unit_test(test_cancelled_and_closed_reads_are_answered_once),
		cmocka_unit_test(test_stopped_target_ends_reads_in_time),
	};

	if (argc != 4) {
		fprintf(stderr, "usage: %s URL FILE TARGET-PID\n", argv[0]);
		return 2;
	}
	url = argv[1];
	path = argv[2];
	target_pid = (pid_t)atoi(argv[3]);
	fd = open(path, O_RDONLY);
	if (fd < 0) {
		perror(path);
		return 1;
	}
	setenv("KEDGE_SOURCE_TIMEOUTS", "login=1000,command=700,nop=300,nop-reply=300,logout=200,backoff-min=10,backoff-max=200", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
