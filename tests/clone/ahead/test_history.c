/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Access histories: what is recorded, the file against damage of every kind, the order. SEED by environment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "history.h"
#include "kedge/bytes.h"
#include "kedge/crc32c.h"

#define B KEDGE_BLOCK_BYTES
#define G HISTORY_GRAIN_BYTES
#define MS 1000000ull

static const struct kedge_uuid volume = {.b = {1, 2, 3}};
static uint64_t seed = 1;
static uint8_t file[HISTORY_FILE_MAX + 64];

static uint32_t rnd(uint32_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % below;
}

static void expect(const struct history *h, uint32_t i, uint32_t grain, uint32_t at_ms, unsigned read, unsigned written)
{
	assert_true(i < h->nr);
	assert_int_equal(h->records[i].grain, grain);
	assert_int_equal(h->records[i].at_ms, at_ms);
	assert_int_equal(h->records[i].read, read);
	assert_int_equal(h->records[i].written, written);
}

static void test_history_keeps_first_touches_in_their_order(void **state)
{
	uint64_t size = 100ull * G + B + 512;
	struct recorder *r = recorder_create(&volume, size, 5000 * MS);
	const struct history *h;

	(void)state;
	recorder_note(r, 7ull * G, B, false, 5000 * MS);
	recorder_note(r, 3ull * G + 4 * B, 2 * B, false, 5010 * MS);
	recorder_note(r, 7ull * G + B, 512, false, 5020 * MS);            /* a later touch of a grain: its first time stays */
	recorder_note(r, 3ull * G + 4 * B, 8 * B, true, 5030 * MS);       /* what was read stays read */
	recorder_note(r, 9ull * G - B, 2 * B, false, 5040 * MS);          /* over an edge: two grains */
	recorder_note(r, 20ull * G + 512, 2 * B, true, 5050 * MS);        /* a part of a block needs the rest of it */
	recorder_note(r, 100ull * G + B, 512, true, 5060 * MS);           /* the short block at the end, whole */
	recorder_note(r, 20ull * G, 3 * B, false, 5070 * MS);             /* written and then read: not needed from the source */
	h = recorder_history(r, 6000 * MS);
	assert_int_equal(h->nr, 6);
	assert_int_equal(h->length_ms, 1000);
	assert_false(h->is_full);
	expect(h, 0, 7, 0, 0x3, 0);
	expect(h, 1, 3, 10, 0x30, 0xfc0);
	expect(h, 2, 8, 40, 0x8000, 0);
	expect(h, 3, 9, 40, 0x1, 0);
	expect(h, 4, 20, 50, 0x5, 0x2);
	expect(h, 5, 100, 60, 0, 0x2);
	recorder_destroy(r);
}

static void test_history_is_bounded_and_then_ends(void **state)
{
	struct recorder *r = recorder_create(&volume, 16ull << 40, 0);
	const struct history *h;

	(void)state;
	for (uint64_t i = 0; i < HISTORY_MAX + 1000u; i++) /* spread out, so that the look-ups collide as they may */
		recorder_note(r, i * 2654435761u % (1u << 28) * G, B, false, i * MS);
	h = recorder_history(r, 1ull << 40);
	assert_int_equal(h->nr, HISTORY_MAX);
	assert_true(h->is_full);
	size_t nr_bytes = history_encode(h, file);
	assert_int_equal(nr_bytes, HISTORY_FILE_MAX);
	struct history back;
	assert_int_equal(history_decode(file, nr_bytes, &back, NULL), 0);
	assert_int_equal(memcmp(back.records, h->records, HISTORY_MAX * sizeof *h->records), 0);
	history_fini(&back);
	recorder_destroy(r);
}

static struct recorder *random_recorder(uint64_t *ret_size)
{
	uint64_t size = 512ull * (1 + rnd(1u << 20));
	struct recorder *r = recorder_create(&volume, size, 0);

	for (unsigned i = rnd(300); i > 0; i--) {
		uint64_t start = 512ull * rnd((uint32_t)(size / 512)), nr = 512ull * (1 + rnd(1000));
		recorder_note(r, start, kedge_min_u64(nr, size - start), rnd(3) == 0, (300 - i) * 10 * MS);
	}
	*ret_size = size;
	return r;
}

static void sign(size_t nr_bytes)
{
	kedge_put_le32(file + 8, kedge_crc32c(0, file + 12, nr_bytes - 12));
}

static void test_history_files_come_back_and_damage_never_does(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t size, at = seed;
		struct recorder *r = random_recorder(&size);
		const struct history *h = recorder_history(r, 123456 * MS);
		size_t nr_bytes = history_encode(h, file), where = rnd((uint32_t)nr_bytes);
		struct history back;
		struct kedge_err err = {0};
		if (history_decode(file, nr_bytes, &back, &err) < 0)
			fail_msg("seed %llu: %s", (unsigned long long)at, err.msg);
		assert_int_equal(back.nr, h->nr);
		assert_int_equal(back.size_bytes, size);
		assert_int_equal(back.length_ms, h->length_ms);
		assert_int_equal(memcmp(back.records, h->records, h->nr * sizeof *h->records), 0);
		history_fini(&back);
		file[where] ^= (uint8_t)(1u << rnd(8));
		assert_int_equal(history_decode(file, nr_bytes, &back, &err), -EINVAL);
		assert_int_equal(history_decode(file, rnd((uint32_t)nr_bytes), &back, &err), -EINVAL);
		recorder_destroy(r);
	}
}

/* Somebody's own file, with a right checksum: taken or refused, but what is taken is inside the volume and in order. */
static void test_history_forged_files_are_sane_or_refused(void **state)
{
	unsigned nr_taken = 0;

	(void)state;
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t size;
		struct recorder *r = random_recorder(&size);
		size_t nr_bytes = history_encode(recorder_history(r, MS), file);
		recorder_destroy(r);
		for (unsigned k = 1 + rnd(3); k > 0; k--) {
			size_t where = rnd(2) ? 12 + rnd(52) : 12 + rnd((uint32_t)nr_bytes - 12);
			file[where] = rnd(2) ? (uint8_t)rnd(256) : file[where] ^ (uint8_t)(1u << rnd(8));
		}
		if (rnd(10) == 0)
			nr_bytes = kedge_max_u64(12, nr_bytes - 30 + rnd(60));
		sign(nr_bytes);
		struct history h;
		if (history_decode(file, nr_bytes, &h, NULL) < 0)
			continue;
		nr_taken++;
		for (uint32_t k = 1; k < h.nr; k++)
			assert_true(h.records[k].at_ms >= h.records[k - 1].at_ms);
		struct kcopy_range *ranges = NULL;
		uint32_t nr;
		uint64_t sum;
		assert_int_equal(history_order(&h, &ranges, &nr, &sum), 0);
		assert_true(sum <= h.size_bytes * 2 + h.nr * (uint64_t)G);
		for (uint32_t k = 0; k < nr; k++)
			assert_true(ranges[k].start_bytes % B == 0 && ranges[k].end_bytes % B == 0 && ranges[k].start_bytes < ranges[k].end_bytes &&
				    ranges[k].start_bytes < h.size_bytes && ranges[k].end_bytes < h.size_bytes + B);
		free(ranges);
		history_fini(&h);
	}
	assert_true(nr_taken > 100);
}

static void test_history_is_of_one_volume(void **state)
{
	static const struct kedge_uuid other = {.b = {9}}, none = {.b = {0}};
	struct history h = {.volume = volume, .size_bytes = 1 << 20};
	struct kedge_err err = {0};

	(void)state;
	assert_int_equal(history_check(&h, &volume, 1 << 20, NULL), 0);
	assert_int_equal(history_check(&h, &none, 1 << 20, NULL), 0);
	assert_int_equal(history_check(&h, &volume, 1 << 21, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "2097152"));
	assert_int_equal(history_check(&h, &other, 1 << 20, &err), -EINVAL);
	h.volume = none;
	assert_int_equal(history_check(&h, &other, 1 << 20, NULL), 0);
}

static void order_of(struct recorder *r, const struct kcopy_range *want, uint32_t nr_want)
{
	struct kcopy_range *ranges;
	uint32_t nr;
	uint64_t sum, want_sum = 0;

	assert_int_equal(history_order(recorder_history(r, 0), &ranges, &nr, &sum), 0);
	assert_int_equal(nr, nr_want);
	for (uint32_t i = 0; i < nr; i++) {
		assert_int_equal(ranges[i].start_bytes, want[i].start_bytes);
		assert_int_equal(ranges[i].end_bytes, want[i].end_bytes);
		want_sum += want[i].end_bytes - want[i].start_bytes;
	}
	assert_int_equal(sum, want_sum);
	free(ranges);
}

static void test_history_order_is_that_of_first_reads(void **state)
{
	struct recorder *r = recorder_create(&volume, 1ull << 40, 0);
	struct kcopy_range want[300];
	uint32_t nr = 0;

	(void)state;
	/* of one batch: by place, what lies together joined; what was only written is not there */
	recorder_note(r, 900ull * G, B, false, 0);
	recorder_note(r, 5ull * G, 2 * B, false, MS);
	recorder_note(r, 5ull * G + 10 * B, B, false, 2 * MS); /* 32 KiB between: joined */
	recorder_note(r, 7ull * G, B, true, 3 * MS);
	recorder_note(r, 901ull * G, B, false, 4 * MS); /* 60 KiB between: not */
	want[nr++] = (struct kcopy_range){5ull * G, 5ull * G + 11 * B};
	want[nr++] = (struct kcopy_range){900ull * G, 900ull * G + B};
	want[nr++] = (struct kcopy_range){901ull * G, 901ull * G + B};
	order_of(r, want, nr);
	/* the next batch comes after it, wherever it lies: 124 records fill the first one */
	for (uint32_t i = 0; i < 124; i++, nr++) {
		recorder_note(r, (1000ull + i) * G, B, false, 10 * MS);
		want[nr] = (struct kcopy_range){(1000ull + i) * G, (1000ull + i) * G + B};
	}
	recorder_note(r, 0, B, false, 20 * MS);
	want[nr++] = (struct kcopy_range){0, B};
	order_of(r, want, nr);
	recorder_destroy(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_history_keeps_first_touches_in_their_order),
		cmocka_unit_test(test_history_is_bounded_and_then_ends),
		cmocka_unit_test(test_history_files_come_back_and_damage_never_does),
		cmocka_unit_test(test_history_forged_files_are_sane_or_refused),
		cmocka_unit_test(test_history_is_of_one_volume),
		cmocka_unit_test(test_history_order_is_that_of_first_reads),
	};

	if (getenv("SEED"))
		seed = strtoull(getenv("SEED"), NULL, 0);
	printf("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
