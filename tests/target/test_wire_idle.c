/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. ktarget over the wire: sessions that say nothing. After 15 s the target asks; who answers stays, who does not is gone 15 s
 * later; who is still busy taking data is not asked. Minutes of waiting, so it stands apart from the quick tests.
 * Owns. One ktarget. Locks. None.
 */
#include "wire.h"

#include <string.h>
#include <time.h>

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ll + ts.tv_nsec / 1000000;
}

/* The ping: a tag of the target's, none of ours, and no StatSN used up. */
static void expect_ping(struct peer *p)
{
	assert_int_equal(peer_recv(p), 0);
	assert_int_equal(pdu_opcode(p->bhs), OP_NOP_IN);
	assert_int_equal(p->bhs[1], 0x80);
	assert_int_equal(pdu_itt(p->bhs), TAG_NONE);
	assert_int_not_equal(kedge_get_be32(p->bhs + 20), TAG_NONE);
	assert_int_equal(kedge_get_be32(p->bhs + 24), p->exp_stat_sn);
}

static void test_idle_sessions_are_pinged_and_silent_ones_end(void **state)
{
	uint8_t bhs[BHS_BYTES] = {OP_NOP_OUT | OP_IMMEDIATE, 0x80};
	struct wire w;
	struct peer silent;
	int64_t start_ms;

	wire_begin(&w, NULL);
	assert_int_equal(peer_open(&silent, &w.t, NULL), 0);
	silent.isid[5] = 2;
	assert_int_equal(peer_login(&w.p, NULL, NULL, NULL), 0);
	assert_int_equal(peer_login(&silent, NULL, NULL, NULL), 0);
	start_ms = now_ms();
	w.p.wait_ms = silent.wait_ms = 20000;
	expect_ping(&w.p);
	assert_in_range(now_ms() - start_ms, 14000, 17000);
	kedge_put_be32(bhs + 16, TAG_NONE);
	memcpy(bhs + 20, w.p.bhs + 20, 4);
	kedge_put_be32(bhs + 24, w.p.cmd_sn);
	assert_int_equal(peer_send(&w.p, bhs, NULL, 0), 0);
	expect_ping(&silent);
	assert_true(peer_is_closed_by_target(&silent, 20000));
	assert_in_range(now_ms() - start_ms, 29000, 33000);
	expect_ping(&w.p); /* the next one */
	assert_true(peer_ping(&w.p));
	peer_close(&silent);
	wire_end(&w);
}

/* Over a slow line the answers to what was asked take longer than the silence that is allowed. */
static void test_slow_readers_are_not_silent(void **state)
{
	enum { NR_READS = 10, NR_BLOCKS = DISK1_BYTES / 512 };
	uint64_t total = (uint64_t)NR_READS * NR_BLOCKS * 512, got = 0;
	int64_t start_ms;
	struct wire w;

	wire_begin(&w, NULL);
	assert_int_equal(peer_login(&w.p, "MaxRecvDataSegmentLength=262144", NULL, NULL), 0);
	for (int i = 0; i < 2; i++) { /* the first one finds a unit attention */
		struct outcome o = {0};
		peer_finish(&w.p, peer_read10(&w.p, 1, 0, 1, 512), &o);
		assert_int_equal(o.error, 0);
	}
	start_ms = now_ms();
	for (int i = 0; i < NR_READS; i++)
		peer_read10(&w.p, 1, 0, NR_BLOCKS, NR_BLOCKS * 512);
	while (got < total) {
		/* 2 MiB/s, and not a byte from us */
		int64_t ahead_ms = (int64_t)(got >> 11) - (now_ms() - start_ms);
		if (ahead_ms > 0)
			nanosleep(&(struct timespec){.tv_sec = ahead_ms / 1000, .tv_nsec = ahead_ms % 1000 * 1000000}, NULL);
		assert_int_equal(peer_recv(&w.p), 0);
		if (pdu_opcode(w.p.bhs) == OP_DATA_IN)
			got += w.p.nr_data;
	}
	assert_true(now_ms() - start_ms > 35000);
	peer_close(&w.p);
	assert_true(target_stop(&w.t));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_idle_sessions_are_pinged_and_silent_ones_end),
		cmocka_unit_test(test_slow_readers_are_not_silent),
	};

	return wire_main(argc, argv) ? 2 : cmocka_run_group_tests_name("wire idle", tests, NULL, NULL);
}
