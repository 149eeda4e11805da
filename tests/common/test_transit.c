/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Extents in transit: what is packed comes out again, what was changed on the way or made up by a hostile source does not, and
 * never more of it than there is room for. Every buffer has exactly its length, so that a sanitizer sees one byte more.
 *
 * Usage: test_common_transit [SEED]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <xxhash.h>
#include <zstd.h>

#include "kedge/bytes.h"
#include "kedge/transit.h"

#define ALL KEDGE_TRANSIT_CAN_ALL
#define NR_MUTATIONS 20000

static struct kedge_transit_coder *coder;
static uint8_t *packed;
static uint64_t seed;

static uint64_t next_random(void)
{
	seed += 0x9e3779b97f4a7c15u;
	uint64_t z = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9u;
	return z ^ z >> 27;
}

enum content { ZEROES, TEXT, NOISE, NEARLY_ZERO, NR_CONTENTS };

static uint8_t *make_extent(enum content content, uint32_t nr_bytes)
{
	uint8_t *p = calloc(1, nr_bytes);

	assert_non_null(p);
	for (uint32_t i = 0; i < nr_bytes; i++) {
		if (content == TEXT)
			p[i] = (uint8_t)"the quick brown fox "[(i + i / 300) % 20];
		else if (content == NOISE)
			p[i] = (uint8_t)next_random();
	}
	if (content == NEARLY_ZERO)
		p[nr_bytes - 1] = 1;
	return p;
}

/* Over the wire and back: the head by its bytes, the payload in a buffer of its length. The result of decode or of unpack. */
static int arrive(const uint8_t head[KEDGE_TRANSIT_HEAD_BYTES], uint64_t start_bytes, uint32_t nr_bytes, const uint8_t *payload,
		  uint32_t payload_bytes, const uint8_t *expected)
{
	struct kedge_transit_head h;
	uint8_t *in = malloc(payload_bytes + !payload_bytes), *out = malloc(nr_bytes);
	int r = kedge_transit_head_decode(head, start_bytes, nr_bytes, payload_bytes, &h);

	memcpy(in, payload, payload_bytes);
	memset(out, 0x77, nr_bytes);
	if (r == 0)
		r = kedge_transit_unpack(coder, &h, in, out);
	if (r == 0)
		assert_memory_equal(out, expected, nr_bytes);
	free(in);
	free(out);
	return r;
}

static void test_extents_arrive_as_they_were(void **state)
{
	static const uint32_t sizes[] = {512, 4096, 4096 + 512, 65536, 262144, KEDGE_TRANSIT_EXTENT_MAX_BYTES};
	static const enum kedge_transit_codec expected[NR_CONTENTS] = {KEDGE_TRANSIT_ZERO, KEDGE_TRANSIT_ZSTD, KEDGE_TRANSIT_RAW, KEDGE_TRANSIT_ZSTD};

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(sizes); i++) {
		for (enum content content = ZEROES; content < NR_CONTENTS; content++) {
			uint8_t *data = make_extent(content, sizes[i]), head[KEDGE_TRANSIT_HEAD_BYTES];
			struct kedge_transit_head h;
			bool has_tried;
			kedge_transit_pack(coder, data, sizes[i], ALL, packed, &has_tried, &h);
			assert_int_equal(h.codec, expected[content]);
			assert_int_equal(has_tried, content != ZEROES);
			assert_true(h.payload_bytes <= sizes[i]);
			h.start_bytes = 7ull << 40;
			kedge_transit_head_encode(&h, head);
			const uint8_t *payload = h.codec == KEDGE_TRANSIT_ZSTD ? packed : data;
			assert_int_equal(arrive(head, 7ull << 40, sizes[i], payload, h.payload_bytes, data), 0);
			/* for other bytes than were asked for, or with another length than is said */
			assert_int_equal(arrive(head, 0, sizes[i], payload, h.payload_bytes, data), -EBADMSG);
			if (h.payload_bytes > 0)
				assert_int_equal(arrive(head, 7ull << 40, sizes[i], payload, h.payload_bytes - 1, data), -EBADMSG);
			kedge_transit_pack(coder, data, sizes[i], 0, packed, &has_tried, &h);
			assert_int_equal(h.codec, content == ZEROES ? KEDGE_TRANSIT_ZERO : KEDGE_TRANSIT_RAW);
			assert_false(has_tried);
			free(data);
		}
	}
}

static void test_every_flipped_bit_is_noticed(void **state)
{
	for (enum content content = ZEROES; content < NR_CONTENTS; content++) {
		uint8_t *data = make_extent(content, 4096), head[KEDGE_TRANSIT_HEAD_BYTES], *payload;
		struct kedge_transit_head h;
		bool has_tried;
		kedge_transit_pack(coder, data, 4096, ALL, packed, &has_tried, &h);
		kedge_transit_head_encode(&h, head);
		payload = h.codec == KEDGE_TRANSIT_ZSTD ? packed : data;
		uint8_t *copy = malloc(4096);
		memcpy(copy, data, 4096);
		for (uint32_t bit = 0; bit < KEDGE_TRANSIT_HEAD_BYTES * 8; bit++) {
			head[bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_int_equal(arrive(head, 0, 4096, payload, h.payload_bytes, copy), -EBADMSG);
			head[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		for (uint32_t bit = 0; bit < h.payload_bytes * 8; bit++) {
			payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
			int r = arrive(head, 0, 4096, payload, h.payload_bytes, copy);
			payload[bit / 8] ^= (uint8_t)(1 << bit % 8);
			/* zstd has bits that mean nothing: then the bytes are right all the same (arrive looks) */
			if (h.codec == KEDGE_TRANSIT_RAW)
				assert_int_equal(r, -EBADMSG);
		}
		free(copy);
		free(data);
	}
}

static void test_sums_are_of_bytes_place_and_length(void **state)
{
	uint8_t *data = make_extent(NOISE, 8192), head[KEDGE_TRANSIT_HEAD_BYTES], sum[KEDGE_TRANSIT_SUM_BYTES], other[KEDGE_TRANSIT_SUM_BYTES];
	struct kedge_transit_head h;

	kedge_transit_sum(data, 4096, 4096, sum);
	for (uint32_t bit = 0; bit < 4096 * 8; bit++) {
		data[bit / 8] ^= (uint8_t)(1 << bit % 8);
		kedge_transit_sum(data, 4096, 4096, other);
		assert_memory_not_equal(sum, other, sizeof sum);
		data[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	kedge_transit_sum(data, 0, 4096, other);
	assert_memory_not_equal(sum, other, sizeof sum);
	kedge_transit_sum(data, 4096, 4608, other);
	assert_memory_not_equal(sum, other, sizeof sum);
	kedge_transit_sum_encode(4096, 4096, sum, head);
	assert_int_equal(kedge_transit_sum_decode(head, 4096, 4096, other), 0);
	assert_memory_equal(sum, other, sizeof sum);
	assert_int_equal(kedge_transit_sum_decode(head, 0, 4096, other), -EBADMSG);
	assert_int_equal(kedge_transit_sum_decode(head, 4096, 8192, other), -EBADMSG);
	/* neither is taken for the other */
	assert_int_equal(kedge_transit_head_decode(head, 4096, 4096, 0, &h), -EBADMSG);
	for (uint32_t bit = 0; bit < KEDGE_TRANSIT_HEAD_BYTES * 8; bit++) {
		head[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(kedge_transit_sum_decode(head, 4096, 4096, other), -EBADMSG);
		head[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	h = (struct kedge_transit_head){.codec = KEDGE_TRANSIT_ZERO, .start_bytes = 4096, .nr_bytes = 4096};
	kedge_transit_head_encode(&h, head);
	assert_int_equal(kedge_transit_sum_decode(head, 4096, 4096, other), -EBADMSG);
	free(data);
}

/* A head whose own checksum is right and whose lengths are anything, before any payload. */
static void test_hostile_answers_overrun_nothing(void **state)
{
	static const uint32_t lengths[] = {0, 1, 47, 48, 4095, 4096, 4097, 65536, 0x7fffffff, 0x80000000, 0xffffffff};
	uint8_t *big = make_extent(TEXT, KEDGE_TRANSIT_EXTENT_MAX_BYTES);
	uint8_t head[KEDGE_TRANSIT_HEAD_BYTES], *payload = malloc(65536);
	struct kedge_transit_head h;

	for (unsigned i = 0; i < NR_MUTATIONS; i++) {
		uint32_t nr = 4096u << next_random() % 5, came;
		size_t n = ZSTD_compress(payload, 65536, big, nr, 1);
		assert_false(ZSTD_isError(n));
		for (unsigned k = next_random() % 4; k > 0; k--)
			payload[next_random() % n] ^= (uint8_t)(1 << next_random() % 8);
		h = (struct kedge_transit_head){
			.codec = (enum kedge_transit_codec)(next_random() % 4),
			.nr_bytes = next_random() % 4 ? 4096 : lengths[next_random() % KEDGE_ARRAY_LEN(lengths)],
			.payload_bytes = next_random() % 4 ? (uint32_t)n : lengths[next_random() % KEDGE_ARRAY_LEN(lengths)],
			.checksum = next_random() % 2 ? XXH3_64bits(big, 4096) : 0,
		};
		kedge_transit_head_encode(&h, head);
		came = next_random() % 2 ? (uint32_t)n : (uint32_t)(next_random() % 4097);
		arrive(head, 0, 4096, payload, (uint32_t)kedge_min_u64(came, 65536), big); /* what is taken is right: arrive looks */
	}
	/* a frame that wants to be 512 KiB has no more room than 4 KiB */
	size_t n = ZSTD_compress(payload, 65536, big, KEDGE_TRANSIT_EXTENT_MAX_BYTES, 1);
	assert_in_range(n, 1, 4095);
	h = (struct kedge_transit_head){.codec = KEDGE_TRANSIT_ZSTD, .nr_bytes = 4096, .payload_bytes = (uint32_t)n, .checksum = XXH3_64bits(big, 4096)};
	kedge_transit_head_encode(&h, head);
	assert_int_equal(arrive(head, 0, 4096, payload, (uint32_t)n, big), -EBADMSG);
	/* and one of 2 KiB is no extent of 4 KiB, whatever stood in the buffer */
	n = ZSTD_compress(payload, 65536, big, 2048, 1);
	h.payload_bytes = (uint32_t)n;
	kedge_transit_head_encode(&h, head);
	assert_int_equal(arrive(head, 0, 4096, payload, (uint32_t)n, big), -EBADMSG);
	free(payload);
	free(big);
}

static void test_a_page_is_taken_only_when_all_of_it_is_known(void **state)
{
	const struct kedge_transit_offer offer = {.codecs = ALL, .nr_workers = 3, .extent_max_bytes = KEDGE_TRANSIT_EXTENT_MAX_BYTES};
	struct kedge_transit_offer got;
	uint8_t page[KEDGE_TRANSIT_PAGE_BYTES];

	kedge_transit_page_encode(&offer, page);
	assert_int_equal(kedge_transit_page_decode(page, sizeof page, &got), 0);
	assert_int_equal(got.codecs, ALL);
	assert_int_equal(got.nr_workers, 3);
	assert_int_equal(got.extent_max_bytes, KEDGE_TRANSIT_EXTENT_MAX_BYTES);
	for (size_t n = 0; n < sizeof page; n++) {
		uint8_t *cut = malloc(n + !n);
		memcpy(cut, page, n);
		assert_int_equal(kedge_transit_page_decode(cut, n, &got), -EPROTO);
		free(cut);
	}
	static const struct {
		size_t at;
		uint8_t value;
	} wrong[] = {{1, 0xc2}, {3, 4}, {4, 'k'}, {8, 2}, {9, 1}, {9, 2}, {10, 0}};
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(wrong); i++) {
		kedge_transit_page_encode(&offer, page);
		page[wrong[i].at] = wrong[i].value;
		assert_int_equal(kedge_transit_page_decode(page, sizeof page, &got), -EPROTO);
	}
	kedge_transit_page_encode(&offer, page);
	kedge_put_be32(page + 12, 0x40000000); /* more than we ask for: our own limit holds */
	assert_int_equal(kedge_transit_page_decode(page, sizeof page, &got), 0);
	assert_int_equal(got.extent_max_bytes, KEDGE_TRANSIT_EXTENT_MAX_BYTES);
	kedge_put_be32(page + 12, 1000); /* no blocks */
	assert_int_equal(kedge_transit_page_decode(page, sizeof page, &got), -EPROTO);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_extents_arrive_as_they_were),
		cmocka_unit_test(test_every_flipped_bit_is_noticed),
		cmocka_unit_test(test_sums_are_of_bytes_place_and_length),
		cmocka_unit_test(test_hostile_answers_overrun_nothing),
		cmocka_unit_test(test_a_page_is_taken_only_when_all_of_it_is_known),
	};

	seed = argc > 1 ? strtoull(argv[1], NULL, 0) : ((uint64_t)time(NULL) << 16 ^ (uint64_t)getpid());
	printf("seed 0x%llx\n", (unsigned long long)seed);
	coder = kedge_transit_coder_create();
	packed = malloc(KEDGE_TRANSIT_EXTENT_MAX_BYTES);
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	kedge_transit_coder_destroy(coder);
	free(packed);
	return r;
}
