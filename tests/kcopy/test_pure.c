/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Purpose. The pure files of kcopy: url, timeouts, bucket, meter, backoff, replies, extents, bitmap, map pages. Pure. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backoff.h"
#include "bitmap.h"
#include "bucket.h"
#include "extents.h"
#include "kcopy/scsi_reply.h"
#include "kcopy/url.h"
#include "kedge/bytes.h"
#include "mapfile.h"
#include "meter.h"
#include "timeouts.h"

#define S 1000000000ull
#define MIB (1024ull * 1024)

static void test_url_takes_what_is_right(void **state)
{
	struct kcopy_url u;

	assert_int_equal(kcopy_url_parse("iscsi://10.0.0.1:3261/iqn.2026-11.local.kedge:v1/2", &u, NULL), 0);
	assert_string_equal(u.portal, "10.0.0.1:3261");
	assert_string_equal(u.iqn, "iqn.2026-11.local.kedge:v1");
	assert_int_equal(u.lun, 2);
	assert_int_equal(kcopy_url_parse("iscsi://10.0.0.1/iqn.2026-11.local.kedge:v1/0", &u, NULL), 0);
	assert_string_equal(u.portal, "10.0.0.1:3260");
	assert_int_equal(kcopy_url_parse("iscsi://[fd00::1]:860/iqn.2026-11.local.kedge:v1/255", &u, NULL), 0);
	assert_string_equal(u.portal, "[fd00::1]:860");
	assert_true(kcopy_url_is_iscsi("iscsi://x"));
	assert_false(kcopy_url_is_iscsi("/dev/sda"));
}

static void test_url_refuses_what_is_wrong(void **state)
{
	static const char *const wrong[] = {
		"iscsi:/10.0.0.1/iqn.2026-11.a.b:v/1",        "iscsi://localhost/iqn.2026-11.a.b:v/1",
		"iscsi://10.0.0.1:0/iqn.2026-11.a.b:v/1",     "iscsi://10.0.0.1:65536/iqn.2026-11.a.b:v/1",
		"iscsi://10.0.0.1:12x/iqn.2026-11.a.b:v/1",   "iscsi://10.0.0.1:/iqn.2026-11.a.b:v/1",
		"iscsi://10.0.0.1/iqn.2026-11.a.b:v",         "iscsi://10.0.0.1/iqn.2026-11.a.b:v/",
		"iscsi://10.0.0.1/iqn.2026-11.a.b:v/256",     "iscsi://10.0.0.1/iqn.2026-11.a.b:v/1/2",
		"iscsi://10.0.0.1/Iqn.2026-11.a.b:V/1",       "iscsi://10.0.0.1/eui.0123/1",
		"iscsi://[fd00::1/iqn.2026-11.a.b:v/1",       "iscsi://fd00::1/iqn.2026-11.a.b:v/1",
		"iscsi:///iqn.2026-11.a.b:v/1",               "iscsi://10.0.0.1",
		"iscsi://[10.0.0.1]/iqn.2026-11.a.b:v/1",     "iscsi://10.0.0.1/iqn.2026-11.a.b:v/-1",
		"iscsi://[fd00::1]x:3260/iqn.2026-11.a.b:v/1", "",
	};
	struct kcopy_url u;

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(wrong); i++) {
		struct kedge_err err = { 0 };
		if (kcopy_url_parse(wrong[i], &u, &err) != -EINVAL)
			fail_msg("taken: %s", wrong[i]);
		assert_int_equal(err.code, -EINVAL);
	}
	struct kedge_err err = { 0 };
	assert_int_equal(kcopy_url_parse("iscsi://user%hunter2@10.0.0.1/iqn.2026-11.a.b:v/1", &u, &err), -EINVAL);
	assert_null(strstr(err.msg, "hunter2"));
}

static void test_timeouts_parse(void **state)
{
	struct kcopy_timeouts t;

	assert_int_equal(kcopy_timeouts_parse(NULL, &t, NULL), 0);
	assert_int_equal(t.login_ms, 15000);
	assert_int_equal(t.command_ms, 10000);
	assert_int_equal(kcopy_timeouts_parse("login=50,nop-reply=70", &t, NULL), 0);
	assert_int_equal(t.login_ms, 50);
	assert_int_equal(t.nop_reply_ms, 70);
	assert_int_equal(t.nop_ms, 5000);
	static const char *const wrong[] = { "login", "login=", "login=0", "x=50", "login=50;nop=3", "login=50x", "login=999999999" };
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(wrong); i++)
		assert_int_equal(kcopy_timeouts_parse(wrong[i], &t, NULL), -EINVAL);
}

/* Let out as much as the bucket allows for some seconds and see what that was. */
static uint64_t drain(struct kcopy_bucket *b, uint64_t *now_ns, unsigned nr_s, uint64_t copy_bytes)
{
	uint64_t end_ns = *now_ns + nr_s * S, sum = 0;

	while (*now_ns < end_ns) {
		uint64_t wait_ms = kcopy_bucket_wait_ms(b, *now_ns);
		if (wait_ms > 0) {
			*now_ns += wait_ms * 1000000;
			continue;
		}
		kcopy_bucket_take(b, copy_bytes);
		sum += copy_bytes;
		*now_ns += 1000;
	}
	return sum;
}

static void test_bucket_keeps_the_mean_rate(void **state)
{
	static const uint64_t rates[] = { 100, 4096, 1000000, 50 * MIB, 20000 * MIB };
	static const uint64_t copies[] = { 4096, MIB, 4 * MIB };

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(rates); i++) {
		for (size_t j = 0; j < KEDGE_ARRAY_LEN(copies); j++) {
			struct kcopy_bucket b;
			uint64_t now_ns = 123456789, sum;
			unsigned nr_s = 20;

			kcopy_bucket_init(&b, rates[i], now_ns);
			sum = drain(&b, &now_ns, nr_s, copies[j]);
			uint64_t most = rates[i] * nr_s + kedge_max_u64(rates[i] / 5, 65536) + copies[j] + rates[i] / 50;
			uint64_t least = rates[i] * nr_s * 9 / 10;
			assert_true(sum <= most);
			if (copies[j] < rates[i] && rates[i] < 1000 * MIB) /* above, the 1 us a copy of this test binds */
				assert_true(sum >= least);
		}
	}
}

static void test_bucket_takes_back_what_was_not_let_out(void **state)
{
	struct kcopy_bucket b;

	kcopy_bucket_init(&b, MIB, 5);
	kcopy_bucket_take(&b, MIB);
	assert_true(kcopy_bucket_wait_ms(&b, 5) > 0);
	kcopy_bucket_give(&b, MIB);
	assert_int_equal(kcopy_bucket_wait_ms(&b, 5), 0);
	/* never more than it holds */
	kcopy_bucket_give(&b, 100 * MIB);
	kcopy_bucket_take(&b, MIB / 4);
	assert_true(kcopy_bucket_wait_ms(&b, 5) > 0);
}

static void test_bucket_without_limit_never_waits(void **state)
{
	struct kcopy_bucket b;

	kcopy_bucket_init(&b, 0, 5);
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(kcopy_bucket_wait_ms(&b, 5), 0);
		kcopy_bucket_take(&b, UINT32_MAX);
	}
	/* a limit set later does not pay for what went before */
	kcopy_bucket_set_rate(&b, 1000000, 6);
	assert_true(kcopy_bucket_wait_ms(&b, 6 + S) == 0);
	kcopy_bucket_take(&b, 100 * MIB);
	assert_true(kcopy_bucket_wait_ms(&b, 6 + S) > 90000);
	/* and an old debt does not stop a new rate for long */
	kcopy_bucket_set_rate(&b, 2000000, 6 + S);
	assert_true(kcopy_bucket_wait_ms(&b, 6 + S) < 1000);
}

static void test_meter_averages_two_minutes(void **state)
{
	struct kcopy_meter m = { 0 };
	uint64_t now_ns = 77 * S;

	assert_int_equal(kcopy_meter_bps(&m, now_ns), 0);
	for (int i = 0; i < 3000; i++, now_ns += S / 10)
		kcopy_meter_add(&m, 100000, now_ns);
	uint64_t bps = kcopy_meter_bps(&m, now_ns);
	assert_true(bps > 980000 && bps < 1020000);
	/* a minute of silence halves it, two end it */
	bps = kcopy_meter_bps(&m, now_ns + 60 * S);
	assert_true(bps > 400000 && bps < 600000);
	assert_int_equal(kcopy_meter_bps(&m, now_ns + 130 * S), 0);
}

static void test_backoff_doubles_up_to_its_limit(void **state)
{
	for (uint64_t seed = 1; seed < 200; seed++) {
		struct kcopy_backoff b;
		uint32_t step_ms = 100;

		kcopy_backoff_init(&b, seed, 0, 0);
		for (int i = 0; i < 20; i++) {
			uint32_t ms = kcopy_backoff_next_ms(&b);
			assert_in_range(ms, step_ms - step_ms / 4, step_ms);
			step_ms = step_ms >= 15000 ? 30000 : step_ms * 2;
		}
		kcopy_backoff_reset(&b);
		assert_in_range(kcopy_backoff_next_ms(&b), 75, 100);
	}
}

static void test_replies_are_taken_apart(void **state)
{
	uint8_t usn[32] = { 0, 0x80, 0, 10, ' ', ' ', 'a', 'b', ' ', 'c', ' ', ' ', 0, 0 };
	uint8_t cap[32] = { 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 2, 0, 0, 0, 0xc0 };
	uint8_t limits[64] = { 0, 0xb0, 0, 60, 0, 0, 0, 0, 0, 0, 4, 0 };
	char text[KCOPY_USN_MAX];
	struct kcopy_capacity c;
	uint32_t max;

	assert_int_equal(kcopy_parse_usn(usn, 14, text), 0);
	assert_string_equal(text, "ab c");
	usn[6] = '\n';
	assert_int_equal(kcopy_parse_usn(usn, 14, text), -EPROTO);
	assert_int_equal(kcopy_parse_usn(usn, 3, text), -EPROTO);
	assert_int_equal(kcopy_parse_capacity(cap, 32, &c), 0);
	assert_int_equal(c.nr_blocks, 100);
	assert_int_equal(c.block_bytes, 512);
	assert_true(c.is_thin_zeroed);
	cap[14] = 0x80; /* unmapped blocks may read as anything */
	assert_int_equal(kcopy_parse_capacity(cap, 32, &c), 0);
	assert_false(c.is_thin_zeroed);
	assert_int_equal(kcopy_parse_capacity(cap, 15, &c), -EPROTO);
	memset(cap, 0xff, 8);
	assert_int_equal(kcopy_parse_capacity(cap, 32, &c), -EPROTO);
	assert_int_equal(kcopy_parse_block_limits(limits, 64, &max), 0);
	assert_int_equal(max, 0x400);
	assert_int_equal(kcopy_parse_block_limits(limits, 11, &max), -EPROTO);
}

static size_t lba_descriptor(uint8_t *out, uint64_t lba, uint32_t nr, uint8_t kind)
{
	memset(out, 0, 16);
	kedge_put_be64(out, lba);
	kedge_put_be32(out + 8, nr);
	out[12] = kind;
	return 16;
}

static void test_lba_status_is_clipped_and_joined(void **state)
{
	uint8_t data[128] = { 0 };
	struct kedge_extent x[4];
	size_t n = 8;

	n += lba_descriptor(data + n, 90, 20, 0);
	n += lba_descriptor(data + n, 110, 10, 0);
	n += lba_descriptor(data + n, 120, 30, 1);
	n += lba_descriptor(data + n, 150, 1000, 2);
	assert_int_equal(kcopy_parse_lba_status(data, n, 100, 100, 512, x, 4), 3);
	assert_int_equal(x[0].nr_bytes, 20 * 512);
	assert_false(x[0].is_hole);
	assert_int_equal(x[1].nr_bytes, 30 * 512);
	assert_true(x[1].is_hole);
	assert_int_equal(x[2].nr_bytes, 50 * 512);
	assert_false(x[2].is_hole);
	assert_int_equal(kcopy_parse_lba_status(data, n, 100, 100, 512, x, 1), 1);
	/* does not begin where asked; nothing in it; a gap ends it; a hostile length */
	assert_int_equal(kcopy_parse_lba_status(data, n, 80, 100, 512, x, 4), -EPROTO);
	assert_int_equal(kcopy_parse_lba_status(data, 23, 100, 100, 512, x, 4), -EPROTO);
	lba_descriptor(data + 24, 111, 10, 1);
	assert_int_equal(kcopy_parse_lba_status(data, n, 100, 100, 512, x, 4), 1);
	lba_descriptor(data + 8, 100, 0, 1);
	assert_int_equal(kcopy_parse_lba_status(data, n, 100, 100, 512, x, 4), -EPROTO);
	lba_descriptor(data + 8, UINT64_MAX - 5, UINT32_MAX, 1);
	assert_int_equal(kcopy_parse_lba_status(data, n, UINT64_MAX - 4, 4, 512, x, 4), -EPROTO);
}

/* Random runs of 512-byte granularity; every block's answer is compared with a plain array. */
static void test_extents_answer_in_whole_blocks(void **state)
{
	for (unsigned seed = 1; seed <= 300; seed++) {
		enum { SECTORS = 2000 };
		static bool is_hole[SECTORS];
		struct kcopy_extents x;
		uint64_t size = (SECTORS - seed % 9) * 512ull, at = 0;

		srandom(seed);
		kcopy_extents_init(&x, size);
		while (at < size) {
			struct kedge_extent run = { .nr_bytes = (1 + random() % 40) * 512ull, .is_hole = random() % 2 };
			for (uint64_t s = at / 512; s < (at + run.nr_bytes) / 512 && s < SECTORS; s++)
				is_hole[s] = run.is_hole;
			kcopy_extents_add(&x, at, &run, 1);
			at += run.nr_bytes;
		}
		for (at = 0; at < size;) {
			uint64_t end;
			bool hole;
			assert_true(kcopy_extents_at(&x, at, &hole, &end));
			assert_true(end > at && end <= size);
			assert_true(end == size || end % 4096 == 0);
			for (uint64_t b = at; b < end; b += 4096) {
				bool all_hole = true;
				for (uint64_t s = b / 512; s < (b + 4096) / 512 && s * 512 < size; s++)
					all_hole = all_hole && is_hole[s];
				if (hole && !all_hole)
					fail_msg("seed %u: block at %llu has data and is called a hole", seed, (unsigned long long)b);
			}
			if (random() % 3 == 0)
				kcopy_extents_trim(&x, at);
			at = end;
		}
		uint64_t end;
		bool hole;
		assert_false(kcopy_extents_at(&x, kedge_round_up(size, 4096), &hole, &end));
	}
}

static void test_segments_find_zero_blocks(void **state)
{
	static uint8_t buf[10 * 4096 + 512];
	struct kedge_seg segs[11];
	uint64_t zero;

	memset(buf, 0, sizeof buf);
	assert_int_equal(kcopy_segments(buf, sizeof buf, segs, &zero), 1);
	assert_int_equal(zero, sizeof buf);
	assert_true(segs[0].is_zero);
	buf[4096 * 3 + 4095] = 1;
	buf[sizeof buf - 1] = 1;
	assert_int_equal(kcopy_segments(buf, sizeof buf, segs, &zero), 4);
	assert_int_equal(segs[0].nr_bytes, 3 * 4096);
	assert_false(segs[1].is_zero);
	assert_int_equal(segs[1].nr_bytes, 4096);
	assert_int_equal(segs[2].nr_bytes, 6 * 4096);
	assert_int_equal(segs[3].nr_bytes, 512);
	assert_int_equal(zero, 9 * 4096);
}

static void test_bitmap_is_a_plain_array(void **state)
{
	for (unsigned seed = 1; seed <= 30; seed++) {
		uint64_t nr = KCOPY_LEAF_BITS * 2 + seed * 37;
		bool *plain = calloc(nr, 1);
		struct kcopy_bitmap b, copy;
		uint64_t nr_set = 0;

		srandom(seed);
		assert_int_equal(kcopy_bitmap_init(&b, nr), 0);
		assert_int_equal(kcopy_bitmap_init(&copy, nr), 0);
		for (int i = 0; i < 60; i++) {
			uint64_t start = (uint64_t)random() % nr, end = start + (uint64_t)random() % (i % 3 ? 100 : nr);
			end = kedge_min_u64(end, nr);
			assert_int_equal(kcopy_bitmap_set(&b, start, end), 0);
			memset(plain + start, 1, end - start);
		}
		for (uint64_t i = 0; i < nr; i++) {
			assert_int_equal(kcopy_bitmap_get(&b, i), plain[i]);
			nr_set += plain[i];
		}
		assert_int_equal(b.nr_set, nr_set);
		for (int i = 0; i < 300; i++) {
			uint64_t start = (uint64_t)random() % nr, end = start + (uint64_t)random() % (nr - start + 1), want = start;
			bool value = random() % 2;
			while (want < end && plain[want] != value)
				want++;
			assert_int_equal(kcopy_bitmap_next(&b, start, end, value), want);
		}
		for (uint64_t leaf = 0; leaf < b.nr_leaves; leaf++) {
			uint8_t bits[KCOPY_LEAF_BYTES], again[KCOPY_LEAF_BYTES];
			kcopy_bitmap_store(&b, leaf, bits);
			assert_int_equal(kcopy_bitmap_load(&copy, leaf, bits), 0);
			kcopy_bitmap_store(&copy, leaf, again);
			assert_memory_equal(bits, again, sizeof bits);
		}
		assert_int_equal(copy.nr_set, nr_set);
		kcopy_bitmap_fini(&b);
		kcopy_bitmap_fini(&copy);
		free(plain);
	}
}

static void test_map_header_shows_every_flipped_byte(void **state)
{
	struct kcopy_map_header h = { .size_bytes = 12345678, .source_id = "volume:x.7", .destination_id = "file:ino=1 born=2" }, got;
	uint8_t page[KCOPY_MAP_PAGE_BYTES];

	kedge_uuid_create(&h.uuid);
	kcopy_map_encode_header(&h, page);
	assert_int_equal(kcopy_map_decode_header(page, &got, NULL), 0);
	assert_memory_equal(&h, &got, sizeof h);
	for (unsigned i = 0; i < sizeof page; i++) {
		page[i] ^= 0x10;
		assert_true(kcopy_map_decode_header(page, &got, NULL) < 0);
		page[i] ^= 0x10;
	}
	memset(page, 0, sizeof page);
	assert_int_equal(kcopy_map_decode_header(page, &got, NULL), KEDGE_E_META_ZEROED);
}

static void test_map_page_shows_every_flipped_byte_and_move(void **state)
{
	struct kedge_uuid uuid, other;
	uint8_t bits[KCOPY_LEAF_BYTES], got[KCOPY_LEAF_BYTES], page[KCOPY_MAP_PAGE_BYTES];

	kedge_uuid_create(&uuid);
	kedge_uuid_create(&other);
	memset(bits, 0x5a, sizeof bits);
	kcopy_map_encode_page(&uuid, 3, 9, bits, page);
	assert_int_equal(kcopy_map_decode_page(&uuid, 3, page, got), KCOPY_MAP_PAGE_GOOD);
	assert_memory_equal(bits, got, sizeof bits);
	assert_int_equal(kcopy_map_decode_page(&uuid, 4, page, got), KCOPY_MAP_PAGE_DAMAGED);
	assert_int_equal(kcopy_map_decode_page(&other, 3, page, got), KCOPY_MAP_PAGE_DAMAGED);
	for (unsigned i = 0; i < sizeof page; i++) {
		page[i] ^= 1;
		assert_int_equal(kcopy_map_decode_page(&uuid, 3, page, got), KCOPY_MAP_PAGE_DAMAGED);
		page[i] ^= 1;
	}
	/* torn at each sector: the rest is what was there before, zeroes here */
	for (unsigned at = 512; at < sizeof page; at += 512) {
		uint8_t torn[KCOPY_MAP_PAGE_BYTES] = { 0 };
		memcpy(torn, page, at);
		assert_int_equal(kcopy_map_decode_page(&uuid, 3, torn, got), KCOPY_MAP_PAGE_DAMAGED);
	}
	memset(page, 0, sizeof page);
	assert_int_equal(kcopy_map_decode_page(&uuid, 3, page, got), KCOPY_MAP_PAGE_EMPTY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_url_takes_what_is_right),
		cmocka_unit_test(test_url_refuses_what_is_wrong),
		cmocka_unit_test(test_timeouts_parse),
		cmocka_unit_test(test_bucket_keeps_the_mean_rate),
		cmocka_unit_test(test_bucket_takes_back_what_was_not_let_out),
		cmocka_unit_test(test_bucket_without_limit_never_waits),
		cmocka_unit_test(test_meter_averages_two_minutes),
		cmocka_unit_test(test_backoff_doubles_up_to_its_limit),
		cmocka_unit_test(test_replies_are_taken_apart),
		cmocka_unit_test(test_lba_status_is_clipped_and_joined),
		cmocka_unit_test(test_extents_answer_in_whole_blocks),
		cmocka_unit_test(test_segments_find_zero_blocks),
		cmocka_unit_test(test_bitmap_is_a_plain_array),
		cmocka_unit_test(test_map_header_shows_every_flipped_byte),
		cmocka_unit_test(test_map_page_shows_every_flipped_byte_and_move),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
