/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The governor between a simulated workload and a simulated link: its promise, its floor, and that it comes to rest. Time is the
 * simulation's alone. Seeds replay: SEED=N, SEEDS=N by environment.
 *
 * Owns. The simulated world.
 *
 * Locks. None.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kcopy/governor.h"
#include "kedge/bytes.h"
#include "latency.h"

#define NS_PER_S 1000000000ull
#define US 1000ull
#define MIB (1ull << 20)
/* As a hydrator asks by default. */
#define NR_MAX 32
#define COPY_BYTES (256u << 10)
#define SECONDS_MAX 120
#define PENDING_MAX 512

/* A link that sends what it is given in order. An I/O of the workload takes what it takes, and a share of what is queued before it. */
struct world {
	struct kcopy_governor *g;
	uint64_t rnd, now_ns;
	double link_bps;
	uint64_t trip_ns;     /* of a copy, besides its time on the link */
	double harm;          /* share of the queue that an I/O waits for */
	uint64_t base_ns;     /* of an I/O alone: from 0.8 to 1.2 of that, one in 200 1.5 times as much */
	double ios_per_s;
	unsigned others_percent; /* of the I/Os take four times as long, and it is not hydration's fault */
	/* inside */
	uint64_t link_free_ns, next_io_ns, ask_ns;
	uint64_t stall_every_ns, stall_ns; /* now and then everything stands still for so long, and it is not hydration's fault */
	struct { uint64_t end_ns, began_ns, nr_bytes; } copies[NR_MAX], ios[PENDING_MAX];
	unsigned nr_ios_pending, nr_busy;
	/* seen */
	uint64_t moved[SECONDS_MAX], nr_ios[SECONDS_MAX], nr_slow[SECONDS_MAX]; /* of each second; slow: over limit_ns */
	double level_max_step, level_before;
	uint64_t limit_ns;
};

static uint32_t rnd(struct world *w, uint32_t below)
{
	w->rnd = w->rnd * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)((w->rnd >> 33) % below);
}

static struct world world(uint64_t seed, double link_mib_s, uint64_t trip_us, double harm, uint64_t base_us, double ios_per_s)
{
	struct world w = { .rnd = seed, .now_ns = NS_PER_S, .link_bps = link_mib_s * (double)MIB, .trip_ns = trip_us * US, .harm = harm,
			   .base_ns = base_us * US, .ios_per_s = ios_per_s };

	w.next_io_ns = w.now_ns;
	return w;
}

static unsigned second_of(const struct world *w, uint64_t ns)
{
	uint64_t s = ns / NS_PER_S - 1;

	assert_true(s < SECONDS_MAX);
	(void)w;
	return (unsigned)s;
}

static uint64_t stall_left_ns(const struct world *w, uint64_t at_ns)
{
	return w->stall_ns && at_ns % w->stall_every_ns < w->stall_ns ? w->stall_ns - at_ns % w->stall_every_ns : 0;
}

static void begin_io(struct world *w)
{
	uint64_t queue_ns = w->link_free_ns > w->now_ns ? w->link_free_ns - w->now_ns : 0;
	uint64_t took = w->base_ns * (800 + rnd(w, 400)) / 1000;

	if (rnd(w, 200) == 0)
		took = w->base_ns * 3 / 2;
	if (w->others_percent && rnd(w, 100) < w->others_percent)
		took = w->base_ns * 4;
	took += (uint64_t)((double)queue_ns * w->harm);
	took += stall_left_ns(w, w->now_ns + took);
	assert_true(w->nr_ios_pending < PENDING_MAX);
	w->ios[w->nr_ios_pending].began_ns = w->now_ns;
	w->ios[w->nr_ios_pending++].end_ns = w->now_ns + took;
	double gap_s = -log((1 + rnd(w, 1000000)) / 1000001.0) / w->ios_per_s;
	w->next_io_ns = w->now_ns + (uint64_t)(gap_s * 1e9) + 1;
}

/* What the floor lets begin on a link that is slower than it must not stand before the workload's reads. */
static void assert_in_flight(struct world *w)
{
	struct kcopy_governor_status gs;
	uint64_t bytes = 0;

	kcopy_governor_status(w->g, w->now_ns, &gs);
	for (unsigned i = 0; i < NR_MAX; i++)
		bytes += w->copies[i].end_ns ? w->copies[i].nr_bytes : 0;
	assert_true(gs.bound != KCOPY_BOUND_FLOOR || bytes <= 2 * MIB);
}

static void ask(struct world *w)
{
	uint32_t bytes, ms = 0;

	if (stall_left_ns(w, w->now_ns)) {
		w->ask_ns = w->now_ns + stall_left_ns(w, w->now_ns);
		return;
	}
	while (w->nr_busy < NR_MAX && (ms = kcopy_governor_ask(w->g, NR_MAX, COPY_BYTES, w->now_ns, &bytes)) == 0) {
		assert_true(bytes > 0 && bytes <= COPY_BYTES && bytes % 4096 == 0);
		unsigned i = 0;
		while (w->copies[i].end_ns)
			i++;
		uint64_t from = w->link_free_ns > w->now_ns ? w->link_free_ns : w->now_ns;
		w->link_free_ns = from + (uint64_t)(bytes / w->link_bps * 1e9) + 1;
		w->copies[i].began_ns = w->now_ns;
		w->copies[i].end_ns = w->link_free_ns + w->trip_ns;
		w->copies[i].end_ns += stall_left_ns(w, w->copies[i].end_ns);
		w->copies[i].nr_bytes = bytes;
		w->nr_busy++;
		kcopy_governor_begun(w->g, bytes, w->now_ns);
		assert_in_flight(w);
	}
	w->ask_ns = w->now_ns + (w->nr_busy < NR_MAX ? ms : 250) * 1000 * US;
}

static void end_copies(struct world *w)
{
	for (unsigned i = 0; i < NR_MAX; i++) {
		if (!w->copies[i].end_ns || w->copies[i].end_ns > w->now_ns)
			continue;
		w->moved[second_of(w, w->now_ns)] += w->copies[i].nr_bytes;
		kcopy_governor_ended(w->g, w->copies[i].nr_bytes, w->now_ns - w->copies[i].began_ns, w->now_ns);
		w->copies[i].end_ns = 0;
		w->nr_busy--;
		w->ask_ns = w->now_ns;
	}
}

static void end_ios(struct world *w)
{
	for (unsigned i = 0; i < w->nr_ios_pending;) {
		if (w->ios[i].end_ns > w->now_ns) {
			i++;
			continue;
		}
		uint64_t took = w->now_ns - w->ios[i].began_ns;
		kcopy_governor_io(w->g, KCOPY_IO_READ, took, w->now_ns);
		w->nr_ios[second_of(w, w->now_ns)]++;
		w->nr_slow[second_of(w, w->now_ns)] += took > w->limit_ns;
		w->ios[i] = w->ios[--w->nr_ios_pending];
	}
}

/* is_copying: there is something to copy. */
static void run(struct world *w, double seconds, bool is_copying)
{
	uint64_t end_ns = w->now_ns + (uint64_t)(seconds * 1e9);
	struct kcopy_governor_status s;

	while (w->now_ns < end_ns) {
		uint64_t next = w->next_io_ns;
		for (unsigned i = 0; i < w->nr_ios_pending; i++)
			next = kedge_min_u64(next, w->ios[i].end_ns);
		for (unsigned i = 0; i < NR_MAX; i++)
			if (w->copies[i].end_ns)
				next = kedge_min_u64(next, w->copies[i].end_ns);
		if (is_copying)
			next = kedge_min_u64(next, kedge_max_u64(w->ask_ns, w->now_ns));
		w->now_ns = kedge_min_u64(next, end_ns);
		end_copies(w);
		end_ios(w);
		if (w->now_ns >= w->next_io_ns && w->now_ns < end_ns)
			begin_io(w);
		if (is_copying && w->now_ns >= w->ask_ns)
			ask(w);
		kcopy_governor_status(w->g, w->now_ns, &s);
		w->level_max_step = fmax(w->level_max_step, fabs(s.level - w->level_before));
		w->level_before = s.level;
	}
}

static void begin(struct world *w, uint32_t latency_percent, uint64_t floor_bps)
{
	struct kcopy_governor_status s;

	w->g = kcopy_governor_create(latency_percent, floor_bps, w->now_ns);
	assert_non_null(w->g);
	/* 1.2: the 99th percentile of an I/O alone; the governor knows it by a few hundred samples, so by some percent */
	w->limit_ns = w->base_ns * 12 / 10 * latency_percent / 100 * 106 / 100;
	kcopy_governor_status(w->g, w->now_ns, &s);
	w->level_before = s.level;
}

static double sum(const uint64_t *of, unsigned from_s, unsigned end_s)
{
	double n = 0;

	for (unsigned s = from_s; s < end_s; s++)
		n += (double)of[s];
	return n;
}

static double slow_share(const struct world *w, unsigned from_s, unsigned end_s)
{
	return sum(w->nr_slow, from_s, end_s) / sum(w->nr_ios, from_s, end_s);
}

static double mib_s(const struct world *w, unsigned from_s, unsigned end_s)
{
	return sum(w->moved, from_s, end_s) / (end_s - from_s) / (double)MIB;
}

/* What bytes always under way would move that make an I/O just as slow as it may be. */
static double best_mib_s(const struct world *w)
{
	double headroom_s = ((double)w->limit_ns - (double)w->base_ns * 1.2) / 1e9, queued = headroom_s / w->harm * w->link_bps;
	double by_trip = queued / (w->trip_ns / 1e9 + queued / w->link_bps);

	return fmin(by_trip, w->link_bps) / (double)MIB;
}

static void test_governor_keeps_the_promise_and_is_not_shy(void **state)
{
	struct { double link_mib_s; uint64_t trip_us; double harm; uint64_t base_us; double ios; uint32_t percent; } of[] = {
		{ 1000, 500, 1.0, 400, 2000, 150 }, { 2000, 100, 1.0, 150, 5000, 150 },
		{ 110, 1000, 0.3, 1000, 500, 150 }, { 400, 20000, 0.5, 5000, 300, 150 },
		{ 1000, 500, 1.0, 2000, 5000, 122 }, /* one in 200 is late by itself */
	};

	for (unsigned i = 0; i < KEDGE_ARRAY_LEN(of); i++) {
		struct world w = world(42 + i, of[i].link_mib_s, of[i].trip_us, of[i].harm, of[i].base_us, of[i].ios);
		begin(&w, of[i].percent, 1 * MIB);
		run(&w, 2, false);
		run(&w, 38, true);
		double slow = slow_share(&w, 8, 40), best = best_mib_s(&w);
		struct kcopy_governor_status st;
		kcopy_governor_status(w.g, w.now_ns, &st);
		printf("# world %u: %.2f %% slow (%.2f %% by the governor's own baseline of %llu us), %.0f MiB/s of %.0f\n", i, 100 * slow,
		       100.0 * (double)st.nr_late / (double)st.nr_ios, (unsigned long long)(st.baseline_ns / US), mib_s(&w, 8, 40), best);
		assert_true(slow <= 0.012);
		assert_true(mib_s(&w, 8, 40) >= 0.4 * best);
		assert_true(w.level_max_step <= 1.001);
		kcopy_governor_destroy(w.g);
	}
}

static void test_governor_lets_go_what_does_no_harm(void **state)
{
	struct world w = world(7, 1000, 500, 0, 300, 2000);

	begin(&w, 150, 1 * MIB);
	run(&w, 20, true); /* the baseline too is learned beside hydration */
	assert_true(slow_share(&w, 2, 20) <= 0.012);
	assert_true(mib_s(&w, 5, 20) >= 0.9 * 1000);
	kcopy_governor_destroy(w.g);
}

static void test_governor_always_gives_the_floor(void **state)
{
	struct kcopy_governor_status s;
	struct world w = world(9, 100, 200, 4, 200, 1000); /* whatever is copied hurts */

	begin(&w, 120, 8 * MIB);
	run(&w, 30, true);
	for (unsigned i = 1; i < 30; i++)
		assert_true(w.moved[i] >= 8 * MIB * 95 / 100);
	assert_true(mib_s(&w, 5, 30) <= 8 * 1.25);
	kcopy_governor_status(w.g, w.now_ns, &s);
	assert_int_equal(s.bound, KCOPY_BOUND_FLOOR);
	assert_true(slow_share(&w, 5, 30) > 0.02); /* else this world says nothing */
	kcopy_governor_destroy(w.g);

	w = world(9, 100, 200, 4, 200, 1000); /* without one it still goes on, and hurts less */
	begin(&w, 120, 0);
	run(&w, 60, true);
	assert_true(mib_s(&w, 5, 60) > 0.1);
	assert_true(slow_share(&w, 5, 60) <= 0.02);
	kcopy_governor_destroy(w.g);
}

static void test_governor_comes_to_rest(void **state)
{
	struct world w = world(11, 1000, 500, 1, 400, 2000);
	double least = INFINITY, most = 0;

	begin(&w, 150, 1 * MIB);
	run(&w, 10, true);
	run(&w, 50, true);
	for (unsigned s = 10; s < 60; s += 2) {
		least = fmin(least, mib_s(&w, s, s + 2));
		most = fmax(most, mib_s(&w, s, s + 2));
	}
	printf("# at rest: %.0f to %.0f MiB/s in two seconds\n", least, most);
	assert_true(most <= 2.5 * least);
	kcopy_governor_destroy(w.g);
}

/* Others make the workload slower, and it is not hydration's fault: holding that back would help nobody. */
static void test_governor_learns_a_new_baseline(void **state)
{
	struct world w = world(13, 1000, 500, 1, 400, 2000);

	begin(&w, 150, 1 * MIB);
	run(&w, 20, true);
	double before = mib_s(&w, 5, 20);
	w.base_ns *= 3;
	run(&w, 40, true);
	assert_true(mib_s(&w, 40, 60) >= before);
	w.base_ns /= 3;
	run(&w, 60, true);
	assert_true(slow_share(&w, 100, 120) <= 0.012);
	kcopy_governor_destroy(w.g);
}

/* Likewise when it is a few of the I/Os that have become slow. */
static void test_governor_sees_through_the_noise_of_others(void **state)
{
	struct world w = world(14, 1000, 500, 1, 400, 2000);

	begin(&w, 150, 1 * MIB);
	run(&w, 3, false);
	run(&w, 17, true);
	double before = mib_s(&w, 8, 20);
	w.others_percent = 3;
	run(&w, 30, true);
	assert_true(mib_s(&w, 40, 50) >= before / 2);
	w.others_percent = 0;
	w.stall_every_ns = 1100000000; /* rare: a pause mostly misses them */
	w.stall_ns = 25000000;
	run(&w, 60, true);
	printf("# with hiccups: %.0f MiB/s, before %.0f\n", mib_s(&w, 60, 110), before);
	assert_true(mib_s(&w, 60, 110) >= before / 3);
	kcopy_governor_destroy(w.g);
}

/* A few I/Os that are very slow by themselves are no leave to make all of them slow. */
static void test_governor_keeps_the_median(void **state)
{
	struct world w = world(18, 1000, 500, 1, 400, 2000);

	w.others_percent = 3; /* the 99th percentile is four times the median */
	begin(&w, 150, 1 * MIB);
	run(&w, 3, false);
	run(&w, 27, true);
	printf("# %.0f %% beyond 1.5 times the median, %.0f MiB/s\n", 100 * slow_share(&w, 5, 30), mib_s(&w, 5, 30));
	assert_true(slow_share(&w, 5, 30) <= 0.5);
	assert_true(mib_s(&w, 5, 30) >= 100);
	kcopy_governor_destroy(w.g);
}

/* A workload comes back while much is queued: that it is slow until the queue is gone says nothing of the level. */
static void test_governor_waits_for_what_is_under_way(void **state)
{
	struct world w = world(16, 50, 500, 0.1, 2000, 2000);
	struct kcopy_governor_status s;

	begin(&w, 150, 0);
	run(&w, 2, false);
	w.next_io_ns = UINT64_MAX;
	run(&w, 2, true); /* alone: 8 MiB under way */
	w.next_io_ns = w.now_ns;
	run(&w, 0.15, true);
	kcopy_governor_status(w.g, w.now_ns, &s);
	assert_true(s.nr_late > 50); /* else this world says nothing */
	assert_true(s.level >= 0);
	kcopy_governor_destroy(w.g);
}

static void test_governor_takes_new_settings(void **state)
{
	struct world w = world(15, 1000, 500, 1, 400, 2000);
	struct kcopy_governor_status s;

	begin(&w, 150, 1 * MIB);
	run(&w, 20, true);
	double narrow = mib_s(&w, 5, 20);
	kcopy_governor_set(w.g, 400, 1 * MIB, w.now_ns);
	run(&w, 20, true);
	double wide = mib_s(&w, 25, 40);
	assert_true(wide >= 1.3 * narrow);
	kcopy_governor_set(w.g, 0, 1 * MIB, w.now_ns);
	run(&w, 10, true);
	assert_true(mib_s(&w, 41, 50) >= 0.95 * 1000);
	kcopy_governor_status(w.g, w.now_ns, &s);
	assert_int_equal(s.bound, KCOPY_BOUND_NONE);
	kcopy_governor_set(w.g, 150, 600 * MIB, w.now_ns);
	run(&w, 20, true);
	for (unsigned i = 51; i < 70; i++)
		assert_true(w.moved[i] >= 600 * MIB * 95 / 100);
	kcopy_governor_destroy(w.g);
}

static void test_governor_does_not_stand_still_for_few_ios(void **state)
{
	struct world w = world(17, 1000, 500, 1, 400, 5);

	begin(&w, 150, 1 * MIB);
	run(&w, 100, true);
	assert_true(mib_s(&w, 1, 100) >= 100);
	kcopy_governor_destroy(w.g);
}

static void test_governor_is_free_when_nobody_is_there(void **state)
{
	struct world w = world(19, 1000, 500, 1, 400, 2000);

	begin(&w, 150, 1 * MIB);
	run(&w, 10, true);
	w.next_io_ns = UINT64_MAX;
	run(&w, 10, true);
	assert_true(mib_s(&w, 11, 20) >= 0.95 * 1000);
	kcopy_governor_destroy(w.g);
}

/* A loop that looks late is as slow as a disk that answers late. */
static void test_governor_counts_how_late_the_loop_looks(void **state)
{
	struct kcopy_governor_status s;
	struct kcopy_governor *g = kcopy_governor_create(150, 0, NS_PER_S);
	uint64_t now = NS_PER_S;

	for (unsigned i = 0; i < 200; i++)
		kcopy_governor_io(g, KCOPY_IO_READ, 100 * US, now += 500 * US);
	kcopy_governor_begun(g, 65536, now);
	for (unsigned i = 0; i < 10; i++) {
		kcopy_governor_lag(g, 900 * US, now);
		kcopy_governor_io(g, KCOPY_IO_READ, 100 * US, now += 500 * US);
	}
	kcopy_governor_status(g, now, &s);
	assert_int_equal(s.nr_ios, 10);
	assert_int_equal(s.nr_late, 10);
	assert_true(s.baseline_ns < 115 * US && s.latency_ns >= 1000 * US);
	kcopy_governor_destroy(g);
}

/* Flushes are slow and are no measure for reads; a kind without a baseline is not judged. */
static void test_governor_holds_each_kind_against_its_own(void **state)
{
	struct kcopy_governor_status s;
	struct kcopy_governor *g = kcopy_governor_create(150, 0, NS_PER_S);
	uint64_t now = NS_PER_S;

	for (unsigned i = 0; i < 200; i++) {
		kcopy_governor_io(g, KCOPY_IO_READ, 100 * US, now += 500 * US);
		kcopy_governor_io(g, KCOPY_IO_FLUSH, 5000 * US, now += 500 * US);
	}
	kcopy_governor_begun(g, 65536, now);
	for (unsigned i = 0; i < 10; i++) {
		kcopy_governor_io(g, KCOPY_IO_READ, 2000 * US, now += 3000 * US);
		kcopy_governor_io(g, KCOPY_IO_FLUSH, 5000 * US, now += 500 * US);
		kcopy_governor_io(g, KCOPY_IO_CHANGE, 90000 * US, now += 500 * US);
	}
	kcopy_governor_status(g, now, &s);
	assert_int_equal(s.nr_ios, 20);
	assert_int_equal(s.nr_late, 10);
	kcopy_governor_destroy(g);
}

/* Worlds by chance: the floor in every second of every one, the promise where it can be kept. */
static void test_governor_in_worlds_by_chance(void **state)
{
	uint64_t seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 0) : 1, nr = getenv("SEEDS") ? strtoull(getenv("SEEDS"), NULL, 0) : 30;

	for (uint64_t i = seed; i < seed + nr; i++) {
		struct world p = { .rnd = i * 7919 };
		for (unsigned k = 0; k < 3; k++)
			rnd(&p, 2);
		struct world w = world(i, 50 << rnd(&p, 6), 100 << rnd(&p, 8), 0.125 * (1 << rnd(&p, 6)), 100 << rnd(&p, 6), 50 << rnd(&p, 7));
		if (w.ios_per_s * (double)w.base_ns / 1e9 > 32)
			w.ios_per_s = 50;
		if (getenv("SEED"))
			printf("# link %.0f MiB/s, trip %.1f ms, harm %.3f, base %.1f ms, %.0f a second\n", w.link_bps / MIB, (double)w.trip_ns / 1e6, w.harm,
			       (double)w.base_ns / 1e6, w.ios_per_s);
		uint64_t floor = (1ull << rnd(&p, 4)) * MIB;
		begin(&w, 110 + 20 * rnd(&p, 10), floor);
		run(&w, 1 + rnd(&p, 3), rnd(&p, 2));
		unsigned from = (unsigned)(w.now_ns / NS_PER_S) - 1 + 1;
		run(&w, 30, true);
		for (unsigned s = from; s < from + 28; s++)
			if (w.moved[s] < floor * 9 / 10)
				fail_msg("SEED=%llu: %llu bytes in second %u, the floor is %llu", (unsigned long long)i, (unsigned long long)w.moved[s], s,
					 (unsigned long long)floor);
		double slow = slow_share(&w, from + 6, from + 28), moved = mib_s(&w, from + 6, from + 28);
		/* of fewer I/Os a baseline is known late, and a handful of late ones is chance */
		if (w.ios_per_s >= 400 && moved > 1.3 * (double)floor / (double)MIB && slow > 0.015)
			fail_msg("SEED=%llu: %.2f %% slow at %.1f MiB/s, the floor is %llu", (unsigned long long)i, 100 * slow, moved, (unsigned long long)floor);
		assert_true(w.level_max_step <= 1.001);
		kcopy_governor_destroy(w.g);
	}
}

/* With the default floor two small copies are under way in every state but a pause, on a link that makes every I/O late: less would be a workload that
 * holds its own volume back. With less of a floor it goes below that. */
static void test_governor_keeps_two_copies_under_way_with_the_default_floor(void **state)
{
	struct kcopy_governor_status s;

	for (unsigned i = 0; i < 2; i++) {
		struct world w = world(21, 1000, 500, 20, 200, 2000);
		begin(&w, 120, i == 0 ? KCOPY_FLOOR_BPS_DEFAULT : KCOPY_FLOOR_BPS_DEFAULT / 2);
		run(&w, 3, false);
		run(&w, 20, true);
		kcopy_governor_status(w.g, w.now_ns, &s);
		printf("# floor %llu MiB/s: %u copies of %u KiB, %.0f MiB/s\n", (unsigned long long)(s.floor_bps / MIB), s.nr_copies, s.copy_bytes / 1024,
		       mib_s(&w, 10, 23));
		if (i == 0) {
			assert_int_equal(s.nr_copies, 2);
			assert_int_equal(s.copy_bytes, 256 << 10);
			assert_true(s.level >= 3.0 && s.level <= 3.0);
			assert_true(slow_share(&w, 10, 23) > 0.5); /* else this world says nothing */
			for (unsigned t = 4; t < 22; t++) /* a pause of 150 ms a period aside: far beyond the floor */
				assert_true(w.moved[t] >= 3 * KCOPY_FLOOR_BPS_DEFAULT);
		} else {
			assert_true(s.level < 0);
			assert_true(mib_s(&w, 10, 23) < 64);
		}
		kcopy_governor_destroy(w.g);
	}
}

/* Beyond 1 GiB/s more copies under way would only wait; a slower link gets as many as do no harm. */
static void test_governor_goes_no_further_up_beyond_a_gib_a_second(void **state)
{
	struct kcopy_governor_status fast, slow;

	for (unsigned i = 0; i < 2; i++) {
		struct world w = world(22, i == 0 ? 8000 : 700, 100, 0, 300, 2000);
		begin(&w, 150, 1 * MIB);
		run(&w, 2, false);
		run(&w, 10, true);
		kcopy_governor_status(w.g, w.now_ns, i == 0 ? &fast : &slow);
		assert_true(mib_s(&w, 5, 12) >= (i == 0 ? 1000 : 0.9 * 700));
		kcopy_governor_destroy(w.g);
	}
	printf("# levels: %.2f beyond 1 GiB/s, %.2f below\n", fast.level, slow.level);
	assert_true(slow.level > 6.99); /* 8 MiB */
	assert_true(fast.level < 4);
	assert_int_equal(fast.bound, KCOPY_BOUND_LATENCY);
}

static void test_latency_histogram(void **state)
{
	struct kcopy_latency h = { 0 };

	assert_int_equal(kcopy_latency_ns(&h, 10), 0);
	for (unsigned i = 1; i <= 1000; i++)
		kcopy_latency_add(&h, i * US);
	uint64_t p99 = kcopy_latency_ns(&h, 10), p50 = kcopy_latency_ns(&h, 500);
	assert_true(p99 >= 990 * US && p99 <= 990 * US * 104 / 100);
	assert_true(p50 >= 500 * US && p50 <= 500 * US * 104 / 100);
	kcopy_latency_add(&h, 0);
	kcopy_latency_add(&h, UINT64_MAX);
	kcopy_latency_fade(&h);
	assert_true(h.nr >= 400 && h.nr <= 501);
	for (unsigned i = 0; i < 3 * KCOPY_LATENCY_NR; i++)
		kcopy_latency_add(&h, 5000 * US);
	assert_true(h.nr <= KCOPY_LATENCY_NR && kcopy_latency_ns(&h, 500) >= 5000 * US);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_latency_histogram),
		cmocka_unit_test(test_governor_keeps_the_promise_and_is_not_shy),
		cmocka_unit_test(test_governor_lets_go_what_does_no_harm),
		cmocka_unit_test(test_governor_always_gives_the_floor),
		cmocka_unit_test(test_governor_comes_to_rest),
		cmocka_unit_test(test_governor_learns_a_new_baseline),
		cmocka_unit_test(test_governor_sees_through_the_noise_of_others),
		cmocka_unit_test(test_governor_keeps_the_median),
		cmocka_unit_test(test_governor_waits_for_what_is_under_way),
		cmocka_unit_test(test_governor_takes_new_settings),
		cmocka_unit_test(test_governor_does_not_stand_still_for_few_ios),
		cmocka_unit_test(test_governor_is_free_when_nobody_is_there),
		cmocka_unit_test(test_governor_counts_how_late_the_loop_looks),
		cmocka_unit_test(test_governor_holds_each_kind_against_its_own),
		cmocka_unit_test(test_governor_keeps_two_copies_under_way_with_the_default_floor),
		cmocka_unit_test(test_governor_goes_no_further_up_beyond_a_gib_a_second),
		cmocka_unit_test(test_governor_in_worlds_by_chance),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
