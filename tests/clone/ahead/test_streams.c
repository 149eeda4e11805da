/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who reads in order, and what is read ahead of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "kedge/bytes.h"
#include "streams.h"

#define KIB 1024u
#define MIB (1024u * KIB)
#define SIZE (1ull << 40)

struct asked {
	uint64_t start, end;
	unsigned nr;
	uint64_t bytes;
};

static bool note(struct streams *st, uint64_t start, uint64_t nr, uint64_t size, uint32_t window, struct asked *a)
{
	struct stream *s;

	if (!streams_note(st, start, nr, size, window, &s, &a->start, &a->end))
		return false;
	assert_true(a->start < a->end && a->end <= size);
	assert_true(a->start % 4096 == 0 && (a->end % 4096 == 0 || a->end == size));
	a->nr++;
	a->bytes += a->end - a->start;
	streams_fetched(s, a->end);
	return true;
}

static void test_streams_random_reads_ask_for_nothing(void **state)
{
	uint64_t rnd = 4711;
	struct asked a = {0};

	(void)state;
	for (unsigned dense = 0; dense < 2; dense++) { /* all over a volume, and in a MiB of it as a database's root pages are read */
		struct streams st = {0};
		for (unsigned i = 0; i < 100000; i++) {
			rnd = rnd * 6364136223846793005ull + 1442695040888963407ull;
			uint64_t at = (rnd >> 20) % (dense ? MIB : SIZE - MIB);
			assert_false(note(&st, kedge_round_down(at, 4096), 4096, SIZE, 2 * MIB, &a) && !dense);
		}
		if (dense) /* by chance some go on three times: far fewer bytes than were read */
			assert_true(a.bytes < 100000ull * 4096 / 10);
	}
}

static void test_streams_a_reader_in_order_is_read_ahead_of_once(void **state)
{
	static const uint64_t lens[] = {512, 4096, 12 * KIB, 128 * KIB, MIB};

	(void)state;
	for (unsigned i = 0; i < KEDGE_ARRAY_LEN(lens); i++) {
		struct streams st = {0};
		struct asked a = {0};
		uint64_t begin = 77 * MIB, reached = 0;
		unsigned nr_first = 0;
		for (uint64_t at = begin; at < begin + 64 * MIB; at += lens[i]) {
			if (!note(&st, at, lens[i], SIZE, 2 * MIB, &a))
				continue;
			/* what follows the read, and what follows what was fetched: nothing twice, no gap */
			if (reached)
				assert_true(a.start == kedge_max_u64(reached, kedge_round_down(at + lens[i], 4096)));
			else
				nr_first = (unsigned)((at - begin) / lens[i]);
			assert_true(a.end <= kedge_round_up(at + lens[i] + 2 * MIB, 4096));
			reached = a.end;
		}
		assert_int_equal(nr_first, STREAMS_PROOF);
		assert_true(reached >= begin + 64 * MIB);
		/* it has grown: few questions, each a large piece */
		assert_true(a.nr < 80);
	}
}

static void test_streams_the_window_begins_small_and_is_bounded(void **state)
{
	struct streams st = {0};
	struct asked a = {0};
	uint64_t at = 0;

	(void)state;
	for (; !note(&st, at, 4096, SIZE, MIB, &a); at += 4096)
		assert_true(at < MIB);
	assert_true(a.bytes <= STREAMS_WINDOW_MIN_BYTES + 4096);
	for (unsigned i = 0; i < 5000; i++) {
		at += 4096;
		if (note(&st, at, 4096, SIZE, MIB, &a))
			assert_true(a.end <= at + 4096 + MIB);
	}
	/* 0: never */
	st = (struct streams){0};
	for (at = 0; at < 8 * MIB; at += 4096)
		assert_false(note(&st, at, 4096, SIZE, 0, &a));
}

static void test_streams_several_readers_are_told_apart(void **state)
{
	struct streams st = {0};
	struct asked a = {0};
	uint64_t at[STREAMS_NR - 1], seen[STREAMS_NR - 1] = {0};

	(void)state;
	for (unsigned i = 0; i < KEDGE_ARRAY_LEN(at); i++)
		at[i] = i * 512ull * MIB;
	for (unsigned n = 0; n < 400; n++)
		for (unsigned i = 0; i < KEDGE_ARRAY_LEN(at); i++) {
			if (note(&st, at[i], 8 * KIB, SIZE, MIB, &a)) {
				assert_int_equal(a.start / (512 * MIB), i);
				seen[i]++;
			}
			at[i] += 8 * KIB;
			if (i == 3) /* random reads between them do not drive them out: they have one place, the oldest */
				note(&st, 600ull << 30 | n * 7919ull * 4096 % (1ull << 30), 4096, SIZE, MIB, &a);
		}
	for (unsigned i = 0; i < KEDGE_ARRAY_LEN(at); i++)
		assert_true(seen[i] > 3);
}

static void test_streams_reads_that_pass_each_other_are_one_stream(void **state)
{
	struct streams st = {0};
	struct asked a = {0};
	uint64_t at = 10 * MIB, reached = 0;

	(void)state;
	for (unsigned i = 0; i < 4; i++, at += 128 * KIB)
		note(&st, at, 128 * KIB, SIZE, 2 * MIB, &a);
	assert_int_equal(a.nr, 1);
	for (unsigned i = 0; i < 100; i++, at += 256 * KIB) {
		if (note(&st, at + 128 * KIB, 128 * KIB, SIZE, 2 * MIB, &a))
			reached = a.end;
		if (note(&st, at, 128 * KIB, SIZE, 2 * MIB, &a))
			reached = a.end;
	}
	assert_true(reached > at);
}

static void test_streams_the_end_of_the_volume(void **state)
{
	struct streams st = {0};
	struct asked a = {0};
	uint64_t size = 3 * MIB + 1536;

	(void)state;
	for (uint64_t at = 0; at < size; at += 512)
		note(&st, at, 512, size, 2 * MIB, &a);
	assert_int_equal(a.end, size);
	assert_true(a.bytes <= size);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_streams_random_reads_ask_for_nothing),
		cmocka_unit_test(test_streams_a_reader_in_order_is_read_ahead_of_once),
		cmocka_unit_test(test_streams_the_window_begins_small_and_is_bounded),
		cmocka_unit_test(test_streams_several_readers_are_told_apart),
		cmocka_unit_test(test_streams_reads_that_pass_each_other_are_one_stream),
		cmocka_unit_test(test_streams_the_end_of_the_volume),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
