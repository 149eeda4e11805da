/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The choice whether extents are packed, in a simulated world: workers, a link, a destination, each taking one extent after the
 * other. Never much slower than never packing, nearly as fast as always packing where that is faster. The time is the simulation's.
 *
 * Usage: kcopy_test_choice [SEED]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "choice.h"
#include "kedge/bytes.h"

#define EXTENT_BYTES (256u * 1024)
#define WINDOW 32u
#define NS 1e9
#define MBIT (1e6 / 8)

static uint64_t seed;

static uint64_t next_random(void)
{
	seed += 0x9e3779b97f4a7c15u;
	uint64_t z = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9u;
	return z ^ z >> 27;
}

enum data { TEXT, NOISE, MIXED };

struct world {
	const char *name;
	enum data data;
	double link_bps, later_link_bps; /* of bytes; later: from the middle on, 0: the same */
	double rtt_ns;
	unsigned nr_workers;
	double pack_bps, unpack_bps, write_bps, cpu_bps; /* cpu: of the source's one thread that sends, whatever it sends */
	double later_pack_bps;
	unsigned nr_extents;
};

enum way { NEVER, ALWAYS, CHOSEN };

struct result {
	double ns, second_half_ns;
	unsigned nr_packed;
	enum kcopy_choice_state last;
};

static double around(double value)
{
	return value * (0.9 + 0.2 * (double)(next_random() % 1000) / 1000);
}

static bool is_text(const struct world *w, unsigned i)
{
	return w->data == TEXT || (w->data == MIXED && i / 16 % 10 < 5); /* runs of 4 MiB */
}

static struct result run(const struct world *w, enum way way)
{
	struct { double done; uint32_t payload; uint64_t pack_ns; } ring[WINDOW];
	double worker_free[8] = {0}, link_free = 0, dest_free = 0, now = 0;
	unsigned nr_sent = 0, nr_done = 0;
	struct kcopy_choice c;
	struct result r = {0};

	kcopy_choice_init(&c, w->nr_workers);
	while (nr_done < w->nr_extents) {
		while (nr_sent < w->nr_extents && nr_sent - nr_done < WINDOW) {
			bool is_packed = kcopy_choice_send(&c, (uint64_t)now);
			if (way != CHOSEN)
				is_packed = way == ALWAYS;
			double link_bps = w->later_link_bps > 0 && nr_sent > w->nr_extents / 2 ? w->later_link_bps : w->link_bps;
			double pack = 0, at = now + w->rtt_ns / 2;
			uint32_t payload = EXTENT_BYTES;
			if (is_packed) {
				double pack_bps = w->later_pack_bps > 0 && nr_sent > w->nr_extents / 2 ? w->later_pack_bps : w->pack_bps;
				pack = around(EXTENT_BYTES * NS / pack_bps) / (is_text(w, nr_sent) ? 1 : 40);
				if (is_text(w, nr_sent))
					payload = (uint32_t)around(EXTENT_BYTES / 2.4);
				unsigned best = 0;
				for (unsigned k = 1; k < w->nr_workers; k++)
					if (worker_free[k] < worker_free[best])
						best = k;
				at = worker_free[best] = (worker_free[best] > at ? worker_free[best] : at) + pack;
			}
			r.nr_packed += is_packed;
			at = link_free = (link_free > at ? link_free : at) + payload * NS / link_bps + payload * NS / w->cpu_bps;
			at += w->rtt_ns / 2;
			double dest = EXTENT_BYTES * NS / w->write_bps + (payload < EXTENT_BYTES ? EXTENT_BYTES * NS / w->unpack_bps : 0);
			at = dest_free = (dest_free > at ? dest_free : at) + dest;
			ring[nr_sent % WINDOW].done = at;
			ring[nr_sent % WINDOW].payload = payload;
			ring[nr_sent % WINDOW].pack_ns = (uint64_t)pack;
			nr_sent++;
		}
		now = ring[nr_done % WINDOW].done;
		kcopy_choice_answer(&c, EXTENT_BYTES, ring[nr_done % WINDOW].payload, ring[nr_done % WINDOW].pack_ns, (uint64_t)now);
		nr_done++;
		if (nr_done == w->nr_extents / 2)
			r.second_half_ns = -now;
	}
	r.second_half_ns += now;
	r.ns = now;
	r.last = c.state;
	return r;
}

/* pack 430 MB/s a worker, unpack 1.6 GB/s, write and send 4 GB/s: as measured, two cores */
#define CPUS .nr_workers = 2, .pack_bps = 430e6, .unpack_bps = 1.6e9, .write_bps = 4e9, .cpu_bps = 4e9

static const struct world worlds[] = {
	{"loopback, text", TEXT, 4e9, 0, 50e3, CPUS, .nr_extents = 40000},
	{"loopback, mixed", MIXED, 4e9, 0, 50e3, CPUS, .nr_extents = 40000},
	{"10 Gbit/s, text", TEXT, 10e3 * MBIT, 0, 100e3, CPUS, .nr_extents = 40000},
	{"10 Gbit/s, noise", NOISE, 10e3 * MBIT, 0, 100e3, CPUS, .nr_extents = 40000},
	{"1 Gbit/s, text", TEXT, 1e3 * MBIT, 0, 200e3, CPUS, .nr_extents = 20000},
	{"1 Gbit/s, mixed", MIXED, 1e3 * MBIT, 0, 200e3, CPUS, .nr_extents = 20000},
	{"100 Mbit/s, text", TEXT, 100 * MBIT, 0, 1e6, CPUS, .nr_extents = 8000},
	{"100 Mbit/s, noise", NOISE, 100 * MBIT, 0, 1e6, CPUS, .nr_extents = 8000},
	{"100 Mbit/s, mixed", MIXED, 100 * MBIT, 0, 1e6, CPUS, .nr_extents = 8000},
	{"100 Mbit/s and 80 ms, text", TEXT, 100 * MBIT, 0, 80e6, CPUS, .nr_extents = 8000},
	{"a slow disk behind 10 Gbit/s, text", TEXT, 10e3 * MBIT, 0, 100e3, .nr_workers = 2, .pack_bps = 430e6, .unpack_bps = 1.6e9,
	 .write_bps = 80e6, .cpu_bps = 4e9, .nr_extents = 8000},
	{"1 Gbit/s from a busy host, text", TEXT, 1e3 * MBIT, 0, 200e3, .nr_workers = 1, .pack_bps = 60e6, .unpack_bps = 1.6e9, .write_bps = 4e9,
	 .cpu_bps = 4e9, .nr_extents = 20000},
	{"from 100 Mbit/s to 10 Gbit/s, text", TEXT, 100 * MBIT, 10e3 * MBIT, 1e6, CPUS, .nr_extents = 16000},
	{"from 100 Mbit/s to loopback, text", TEXT, 100 * MBIT, 4e9, 1e6, CPUS, .nr_extents = 16000},
	{"100 Mbit/s from a host that gets busy", TEXT, 100 * MBIT, 0, 1e6, CPUS, .later_pack_bps = 4e6, .nr_extents = 16000},
	{"from 10 Gbit/s to 100 Mbit/s, text", TEXT, 10e3 * MBIT, 100 * MBIT, 1e6, CPUS, .nr_extents = 8000},
};

static void test_no_world_is_much_slower_than_the_better_way(void **state)
{
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(worlds); i++) {
		const struct world *w = &worlds[i];
		struct result never = run(w, NEVER), always = run(w, ALWAYS), chosen = run(w, CHOSEN);

		print_message("%-36s never %7.2f s, always %7.2f s, chosen %7.2f s (second half %7.2f, %7.2f, %7.2f), %3.0f %% packed\n", w->name,
			      never.ns / NS, always.ns / NS, chosen.ns / NS, never.second_half_ns / NS, always.second_half_ns / NS,
			      chosen.second_half_ns / NS, 100.0 * chosen.nr_packed / w->nr_extents);
		/* never slower than without */
		assert_true(chosen.ns <= 1.02 * never.ns);
		/* and where it is faster, the most of it is had */
		if (always.ns < 0.9 * never.ns)
			assert_true(chosen.ns <= 1.12 * always.ns);
		/* also after the world has changed; that is noticed within some seconds */
		if ((w->later_link_bps > 0 || w->later_pack_bps > 0) && never.second_half_ns < 0.9 * always.second_half_ns)
			assert_true(chosen.second_half_ns <= 1.10 * never.second_half_ns);
	}
}

static void test_cpu_is_not_spent_for_nothing(void **state)
{
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(worlds); i++) {
		const struct world *w = &worlds[i];
		struct result never = run(w, NEVER), always = run(w, ALWAYS), chosen = run(w, CHOSEN);

		if (w->data != NOISE && w->later_pack_bps == 0 && always.ns > 0.95 * never.ns)
			assert_true(chosen.nr_packed <= w->nr_extents / 10);
	}
}

static void test_what_does_not_come_is_no_speed(void **state)
{
	struct kcopy_choice c;

	kcopy_choice_init(&c, 1);
	for (unsigned i = 0; i < 1000; i++) {
		kcopy_choice_send(&c, i * 1000000ull);
		kcopy_choice_answer(&c, 0, 0, 0, i * 1000000ull + 500000);
	}
	assert_int_equal(c.state, KCOPY_CHOICE_RAW);
	assert_true(c.raw_bps == 0);
	assert_int_equal(c.nr_inflight, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_world_is_much_slower_than_the_better_way),
		cmocka_unit_test(test_cpu_is_not_spent_for_nothing),
		cmocka_unit_test(test_what_does_not_come_is_no_speed),
	};

	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : ((uint64_t)time(NULL) << 16 ^ (uint64_t)getpid());
	printf("seed 0x%llx\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
