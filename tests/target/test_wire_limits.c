/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. ktarget over the wire: what somebody who has not logged in can use up: 8 KiB of text, 64 keys, 8 PDUs, 5 s, 4
 * connections an address, 16 in all. And that the others do not notice.
 * Owns. One ktarget a test. Locks. None.
 */
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NAMES "InitiatorName=" INITIATOR_IQN, "TargetName=" TARGET_IQN

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ll + ts.tv_nsec / 1000000;
}

/* Not held up by others: below their deadline of 5 s, on a busy machine too. */
#define PROMPT_MS 4500

/* A legitimate login from an address of its own, and how long it took. */
static int64_t login_ms(struct wire *w)
{
	int64_t start_ms = now_ms();
	struct peer p;

	assert_int_equal(peer_open(&p, &w->t, "127.0.9.9"), 0);
	assert_int_equal(peer_login(&p, NULL, NULL, NULL), 0);
	assert_true(peer_ping(&p));
	peer_close(&p);
	return now_ms() - start_ms;
}

/* Names and a filler key, so that the text has nr_bytes in all. */
static size_t make_text_of(char *text, size_t nr_bytes)
{
	size_t n = text_make(text, NAMES, NULL);

	memset(text + n, 'v', nr_bytes - n);
	memcpy(text + n, "X-f=", 4);
	text[nr_bytes - 1] = 0;
	return nr_bytes;
}

static void test_login_text_ends_at_8_kib(void **state)
{
	static char text[PEER_TEXT_MAX];
	struct wire w;
	struct peer p;

	wire_begin(&w, NULL);
	assert_int_equal(peer_login_step(&w.p, 0x87, text, make_text_of(text, 8192)), 0);
	assert_string_equal(peer_value(&w.p, "X-f"), "NotUnderstood");
	/* one byte more, in one PDU: the header alone says too much */
	assert_int_equal(peer_open(&p, &w.t, NULL), 0);
	assert_int_not_equal(peer_login_step(&p, 0x87, text, make_text_of(text, 8193)), 0);
	assert_true(peer_is_closed_by_target(&p, 3000));
	peer_close(&p);
	/* the same over several PDUs */
	for (size_t total = 8192; total <= 8196; total += 4) {
		make_text_of(text, total);
		assert_int_equal(peer_open(&p, &w.t, NULL), 0);
		assert_int_equal(peer_login_step(&p, LOGIN_C | LOGIN_STAGES(1, 0), text, 4096), 0);
		assert_int_equal(peer_login_step(&p, 0x87, text + 4096, total - 4096), total == 8192 ? 0 : 0x0200);
		peer_close(&p);
	}
	/* 8189 to 8192 bytes without an end of the text */
	for (size_t total = 8189; total <= 8192; total++) {
		make_text_of(text, total);
		text[total - 1] = 'v';
		assert_int_equal(peer_open(&p, &w.t, NULL), 0);
		assert_int_equal(peer_login_step(&p, 0x87, text, total), 0x0200);
		peer_close(&p);
	}
	wire_end(&w);
}

static void test_login_keys_end_at_64(void **state)
{
	static char text[PEER_TEXT_MAX];
	struct wire w;

	for (unsigned nr_keys = 64; nr_keys <= 65; nr_keys++) {
		wire_begin(&w, NULL);
		size_t n = text_make(text, NAMES, NULL);
		for (unsigned i = 2; i < nr_keys; i++)
			n += (size_t)sprintf(text + n, "X-%u=1", i) + 1;
		assert_int_equal(peer_login_step(&w.p, 0x87, text, n), nr_keys == 64 ? 0 : 0x0200);
		if (nr_keys == 64) {
			assert_string_equal(peer_value(&w.p, "X-63"), "NotUnderstood");
			assert_true(peer_ping(&w.p));
		}
		wire_end(&w);
	}
}

/* CVE-2026-63887's shape: thousands of short unknown keys, so that the reply is longer than the request. */
static void test_many_unknown_keys_do_not_overflow_the_reply(void **state)
{
	static char text[PEER_TEXT_MAX];
	struct wire w;
	size_t n;

	wire_begin(&w, NULL);
	n = text_make(text, NAMES, NULL);
	while (n + 4 <= 8192) {
		memcpy(text + n, "a=", 3);
		n += 3;
	}
	assert_int_equal(peer_login_step(&w.p, 0x87, text, n), 0x0200);
	assert_true(target_is_alive(&w.t));
	/* CVE-2013-2850's: one long unknown key */
	struct peer p;
	assert_int_equal(peer_open(&p, &w.t, NULL), 0);
	n = text_make(text, NAMES, NULL);
	memset(text + n, 'K', 4000);
	n += 4000;
	memcpy(text + n, "=1", 3);
	n += 3;
	assert_int_equal(peer_login_step(&p, 0x87, text, n), 0x0200);
	peer_close(&p);
	assert_true(login_ms(&w) < PROMPT_MS);
	wire_end(&w);
}

static void test_login_pdus_end_at_8(void **state)
{
	char text[PEER_TEXT_MAX];
	struct wire w;
	struct peer p;

	wire_begin(&w, NULL);
	for (int nr_pdus = 8; nr_pdus <= 9; nr_pdus++) {
		assert_int_equal(peer_open(&p, &w.t, NULL), 0);
		assert_int_equal(peer_login_step(&p, LOGIN_STAGES(1, 0), text, text_make(text, NAMES, NULL)), 0);
		for (int i = 2; i < nr_pdus; i++)
			assert_int_equal(peer_login_step(&p, LOGIN_STAGES(1, 0), NULL, 0), 0);
		assert_int_equal(peer_login_step(&p, 0x87, NULL, 0), nr_pdus == 8 ? 0 : 0x0200);
		peer_close(&p);
	}
	wire_end(&w);
}

/* Four ways to be slow at once, each from its own address; meanwhile others log in as fast as ever. */
static void test_login_must_be_done_in_5_s_and_holds_up_nobody(void **state)
{
	static char text[PEER_TEXT_MAX];
	struct wire w;
	struct peer p[4];
	uint8_t header[BHS_BYTES] = {OP_LOGIN | OP_IMMEDIATE, 0x87, [6] = 1};
	int64_t start_ms, closed_ms[4] = {0};
	unsigned nr_open = 4;

	wire_begin(&w, NULL);
	start_ms = now_ms();
	for (int i = 0; i < 4; i++) {
		char from[32];
		snprintf(from, sizeof from, "127.0.1.%d", i + 1);
		assert_int_equal(peer_open(&p[i], &w.t, from), 0);
	}
	/* 0 says nothing; 1 drips a header; 2 sends a header and no data; 3 has begun to log in */
	assert_int_equal(peer_send_raw(&p[2], header, sizeof header), 0);
	assert_int_equal(peer_login_step(&p[3], LOGIN_STAGES(1, 0), text, text_make(text, NAMES, NULL)), 0);
	for (unsigned drips = 0; nr_open && now_ms() - start_ms < 10000;) {
		if (drips < BHS_BYTES - 1 && (now_ms() - start_ms) / 200 > drips && !closed_ms[1])
			peer_send_raw(&p[1], header + drips++, 1);
		for (int i = 0; i < 4; i++) {
			if (closed_ms[i] || !peer_is_closed_by_target(&p[i], 5))
				continue;
			closed_ms[i] = now_ms() - start_ms;
			nr_open--;
		}
		int64_t took_ms = login_ms(&w);
		if (took_ms > PROMPT_MS)
			fail_msg("a login beside slow ones took %lld ms", (long long)took_ms);
	}
	for (int i = 0; i < 4; i++) {
		if (closed_ms[i] < 4000 || closed_ms[i] > 15000)
			fail_msg("slow login %d ended after %lld ms, not 5000", i, (long long)closed_ms[i]);
		peer_close(&p[i]);
	}
	wire_end(&w);
}

static unsigned nr_still_open(struct peer *p, unsigned nr_peers)
{
	unsigned n = 0;

	for (unsigned i = 0; i < nr_peers; i++)
		n += !peer_is_closed_by_target(&p[i], 0);
	return n;
}

/* Poll until so many are open; false after 3 s. */
static bool wait_until_open(struct peer *p, unsigned nr_peers, unsigned wanted)
{
	for (int64_t end_ms = now_ms() + 3000; now_ms() < end_ms;) {
		if (nr_still_open(p, nr_peers) == wanted)
			return true;
		poll(NULL, 0, 10);
	}
	return false;
}

static void test_half_open_are_4_an_address(void **state)
{
	struct wire w;
	struct peer p[12];

	wire_begin(&w, NULL);
	assert_int_equal(peer_login(&w.p, NULL, NULL, NULL), 0);
	for (unsigned i = 0; i < 12; i++)
		assert_int_equal(peer_open(&p[i], &w.t, "127.0.2.1"), 0);
	assert_true(wait_until_open(p, 12, 4));
	/* the newest are kept: a login that is not slow gets through, from the same address too */
	for (unsigned i = 8; i < 12; i++)
		assert_false(peer_is_closed_by_target(&p[i], 0));
	assert_int_equal(peer_login(&p[11], NULL, NULL, NULL), 0);
	assert_true(login_ms(&w) < PROMPT_MS);
	for (unsigned i = 0; i < 12; i++)
		peer_close(&p[i]);
	wire_end(&w);
}

static void test_half_open_are_16_in_all(void **state)
{
	struct wire w;
	struct peer p[40];

	wire_begin(&w, NULL);
	w.p.isid[5] = 77;
	assert_int_equal(peer_login(&w.p, NULL, NULL, NULL), 0);
	for (unsigned i = 0; i < 40; i++) {
		char from[32];
		snprintf(from, sizeof from, "127.0.3.%u", i + 1);
		assert_int_equal(peer_open(&p[i], &w.t, from), 0);
	}
	assert_true(wait_until_open(p, 40, 16));
	assert_true(login_ms(&w) < PROMPT_MS);
	assert_true(peer_ping(&w.p)); /* sessions do not count and are not touched */
	for (unsigned i = 0; i < 40; i++)
		peer_close(&p[i]);
	wire_end(&w);
}

static void test_memory_stays_bounded_under_a_flood(void **state)
{
	static char text[PEER_TEXT_MAX];
	struct wire w;
	size_t n = make_text_of(text, 8000);

	wire_begin(&w, NULL);
	login_ms(&w);
	long before_kib = target_rss_kib(&w.t);
	for (unsigned i = 0; i < 1000; i++) {
		char from[32];
		struct peer p;
		snprintf(from, sizeof from, "127.0.%u.%u", 10 + i / 200, 1 + i % 200);
		assert_int_equal(peer_open(&p, &w.t, from), 0);
		uint8_t bhs[BHS_BYTES] = {OP_LOGIN | OP_IMMEDIATE, LOGIN_C | LOGIN_STAGES(1, 0)};
		(void)peer_send(&p, bhs, text, (uint32_t)n);
		peer_close(&p);
		if (i % 100 == 0)
			assert_true(login_ms(&w) < PROMPT_MS);
	}
	assert_true(login_ms(&w) < PROMPT_MS);
	long grown_kib = target_rss_kib(&w.t) - before_kib;
	if (grown_kib > 16 * 1024 + WIRE_RSS_SLACK_KIB)
		fail_msg("the target grew by %ld KiB", grown_kib);
	wire_end(&w);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_login_text_ends_at_8_kib),
		cmocka_unit_test(test_login_keys_end_at_64),
		cmocka_unit_test(test_many_unknown_keys_do_not_overflow_the_reply),
		cmocka_unit_test(test_login_pdus_end_at_8),
		cmocka_unit_test(test_login_must_be_done_in_5_s_and_holds_up_nobody),
		cmocka_unit_test(test_half_open_are_4_an_address),
		cmocka_unit_test(test_half_open_are_16_in_all),
		cmocka_unit_test(test_memory_stays_bounded_under_a_flood),
	};

	return wire_main(argc, argv) ? 2 : cmocka_run_group_tests_name("wire limits", tests, NULL, NULL);
}
