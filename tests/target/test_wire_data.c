/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. ktarget over the wire: Data-In sequences, residuals, digests, what the disks hold.
 * Owns. One ktarget a test. Locks. None.
 */
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void expect_disk(const uint8_t *data, unsigned lun, uint64_t at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (data[i] != disk_byte(lun, at + i))
			fail_msg("LUN %u differs at byte %llu", lun, (unsigned long long)(at + i));
}

/* Answer the power-on unit attention of both LUNs. */
static void clear_attention(struct peer *p)
{
	static const uint8_t ready[16] = {0};
	struct outcome o = {0};

	for (uint32_t lun = 1; lun <= 2; lun++) {
		peer_command(p, lun, ready, 0, &o);
		assert_int_equal(o.error, 0);
		assert_int_equal(o.status, 0);
	}
}

/* Read nr_blocks at lba, and look at every header of the Data-In sequence. */
static void read_in_bursts(struct peer *p, uint32_t lba, uint16_t nr_blocks, uint32_t segment, uint32_t burst)
{
	uint32_t total = nr_blocks * 512u, at = 0, in_burst = 0, data_sn = 0;
	uint32_t itt = peer_read10(p, 1, lba, nr_blocks, total);

	while (at < total) {
		assert_int_equal(peer_recv(p), 0);
		assert_int_equal(pdu_opcode(p->bhs), OP_DATA_IN);
		assert_int_equal(pdu_itt(p->bhs), itt);
		assert_int_equal(kedge_get_be32(p->bhs + 20), TAG_NONE);
		assert_int_equal(kedge_get_be32(p->bhs + 36), data_sn++);
		assert_int_equal(kedge_get_be32(p->bhs + 40), at);
		assert_in_range(p->nr_data, 1, segment);
		expect_disk(p->data, 1, lba * 512ull + at, p->nr_data);
		at += p->nr_data;
		in_burst += p->nr_data;
		assert_in_range(in_burst, 1, burst);
		bool is_end = at == total, is_final = p->bhs[1] & 0x80;
		/* F ends each burst, and bursts are full but for the last */
		assert_int_equal(is_final, is_end || in_burst == burst);
		if (is_final)
			in_burst = 0;
		assert_int_equal(p->bhs[1] & 0x01, is_end); /* S: the status */
		assert_int_equal(p->bhs[1] & 0x7e, 0);      /* no residual, nothing reserved, no A */
		if (is_end)
			assert_int_equal(p->bhs[3], 0);
	}
	assert_int_equal(at, total);
}

static void keep_to_bursts_and_segments(const char *digest, bool is_evicted)
{
	static const struct {
		const char *segment, *burst;
		uint32_t segment_bytes, burst_bytes;
	} cases[] = {
		{"MaxRecvDataSegmentLength=4096", "MaxBurstLength=16384", 4096, 16384},
		{"MaxRecvDataSegmentLength=4608", "MaxBurstLength=65536", 4608, 65536},
		{"MaxRecvDataSegmentLength=512", "MaxBurstLength=512", 512, 512},
		{"MaxRecvDataSegmentLength=1027", "MaxBurstLength=3333", 1027, 3333}, /* padding in each PDU */
		{"MaxRecvDataSegmentLength=262144", "MaxBurstLength=16776192", 262144, 16776192},
		{"MaxRecvDataSegmentLength=65536", "MaxBurstLength=4096", 65536, 4096},
		{NULL, NULL, 8192, 262144},
	};

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(cases); i++) {
		struct wire w;
		wire_begin(&w, NULL);
		/* what was not declared has RFC 7143's default; our answer to MaxBurstLength binds both */
		assert_int_equal(peer_login(&w.p, cases[i].segment, cases[i].burst, digest), 0);
		const char *v = peer_value(&w.p, "MaxBurstLength");
		uint32_t burst = v ? (uint32_t)atoi(v) : cases[i].burst_bytes;
		assert_true(burst <= cases[i].burst_bytes);
		clear_attention(&w.p);
		if (is_evicted)
			wire_evict_disk1(&w);
		read_in_bursts(&w.p, 0, 1, cases[i].segment_bytes, burst);
		read_in_bursts(&w.p, 7, 129, cases[i].segment_bytes, burst);
		read_in_bursts(&w.p, 4000, 3 * 2048 + 5, cases[i].segment_bytes, burst); /* over the hole, more than one disk read */
		read_in_bursts(&w.p, (uint32_t)(DISK1_BYTES / 512 - 3), 3, cases[i].segment_bytes, burst);
		wire_end(&w);
	}
}

static void test_data_in_keeps_to_bursts_and_segments(void **state)
{
	keep_to_bursts_and_segments("DataDigest=CRC32C", false); /* through a buffer */
	keep_to_bursts_and_segments("DataDigest=None", false);   /* out of the page cache */
	keep_to_bursts_and_segments("HeaderDigest=CRC32C", false);
	keep_to_bursts_and_segments("DataDigest=None", true);    /* from the disk, and then both within one command */
}

static void test_luns_hold_their_own_data(void **state)
{
	static uint8_t data[DISK2_BYTES];
	struct wire w;

	wire_begin(&w, NULL);
	assert_int_equal(peer_login(&w.p, "MaxRecvDataSegmentLength=262144", NULL, NULL), 0);
	clear_attention(&w.p);
	for (uint32_t lun = 1; lun <= 2; lun++) {
		struct outcome o = {.data = data, .out_max = sizeof data};
		peer_finish(&w.p, peer_read10(&w.p, lun, 0, DISK2_BYTES / 512, DISK2_BYTES), &o);
		assert_int_equal(o.error, 0);
		assert_int_equal(o.nr_bytes, sizeof data);
		expect_disk(data, lun, 0, sizeof data);
	}
	wire_end(&w);
}

static void test_residuals_say_over_and_under(void **state)
{
	static const struct {
		uint16_t nr_blocks;
		uint32_t expected, got, residual;
		bool is_over, is_under;
	} cases[] = {
		{2, 1024, 1024, 0, false, false}, {2, 1000, 1000, 24, true, false}, {2, 4096, 1024, 3072, false, true},
		{2, 1, 1, 1023, true, false}, {2, 0, 0, 1024, true, false}, {0, 4096, 0, 4096, false, true},
		{4096, 512, 512, 4096 * 512 - 512, true, false}, {300, 300 * 512 + 7, 300 * 512, 7, false, true},
		{0, 0, 0, 0, false, false},
	};
	static uint8_t data[1 << 20];
	struct wire w;

	wire_begin(&w, NULL);
	assert_int_equal(peer_login(&w.p, "MaxRecvDataSegmentLength=8192", "MaxBurstLength=16384", NULL), 0);
	clear_attention(&w.p);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(cases); i++) {
		struct outcome o = {.data = data, .out_max = sizeof data};
		peer_finish(&w.p, peer_read10(&w.p, 1, 100, cases[i].nr_blocks, cases[i].expected), &o);
		assert_int_equal(o.error, 0);
		assert_int_equal(o.status, 0);
		assert_int_equal(o.nr_bytes, cases[i].got);
		assert_int_equal(o.is_over, cases[i].is_over);
		assert_int_equal(o.is_under, cases[i].is_under);
		assert_int_equal(o.residual, cases[i].residual);
		expect_disk(data, 1, 100 * 512, o.nr_bytes);
	}
	/* a small answer, and one that fails: nothing came, all is missing */
	struct outcome o = {.data = data, .out_max = sizeof data};
	uint8_t capacity[16] = {0x25}, bad[16] = {0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1};
	peer_command(&w.p, 1, capacity, 255, &o);
	assert_int_equal(o.nr_bytes, 8);
	assert_true(o.is_under);
	assert_int_equal(o.residual, 247);
	assert_int_equal(kedge_get_be32(data), DISK1_BYTES / 512 - 1);
	peer_command(&w.p, 1, bad, 512, &o);
	assert_int_equal(o.status, 2);
	assert_int_equal(o.sense, 0x052100);
	assert_int_equal(o.nr_data_in, 0);
	assert_true(o.is_under);
	assert_int_equal(o.residual, 512);
	wire_end(&w);
}

static void test_digests_protect_both_ways(void **state)
{
	struct wire w;

	for (int i = 0; i < 4; i++) {
		wire_begin(&w, NULL);
		assert_int_equal(peer_login(&w.p, i & 1 ? "HeaderDigest=CRC32C" : "HeaderDigest=None",
					    i & 2 ? "DataDigest=CRC32C,None" : "DataDigest=None,CRC32C", NULL), 0);
		assert_int_equal(w.p.has_header_digest, i & 1);
		assert_int_equal(w.p.has_data_digest, (i & 2) != 0);
		assert_true(peer_ping(&w.p));
		clear_attention(&w.p);
		read_in_bursts(&w.p, 11, 65, 8192, 262144);
		wire_end(&w);
	}
}

static size_t make_ping(struct peer *p, uint8_t *out, const char *data)
{
	uint8_t bhs[BHS_BYTES] = {OP_NOP_OUT | OP_IMMEDIATE, 0x80};

	kedge_put_be32(bhs + 16, ++p->itt);
	kedge_put_be32(bhs + 20, TAG_NONE);
	kedge_put_be32(bhs + 24, p->cmd_sn);
	return peer_encode(p, bhs, data, (uint32_t)strlen(data), out);
}

static void test_header_digest_error_closes(void **state)
{
	uint8_t out[256];
	struct wire w;

	wire_begin(&w, NULL);
	for (unsigned at = 0; at < BHS_BYTES + DIGEST_BYTES; at += 5) {
		struct peer p;
		if (at >= 4 && at < 8)
			continue; /* lengths: the target waits for what is not sent */
		assert_int_equal(peer_open(&p, &w.t, NULL), 0);
		assert_int_equal(peer_login(&p, "HeaderDigest=CRC32C", NULL, NULL), 0);
		size_t n = make_ping(&p, out, "abc");
		out[at] ^= 0x10;
		assert_int_equal(peer_send_raw(&p, out, n), 0);
		assert_true(peer_is_closed_by_target(&p, 3000));
		peer_close(&p);
	}
	wire_end(&w);
}

static void test_data_digest_error_is_rejected(void **state)
{
	uint8_t out[256];
	struct wire w;

	wire_begin(&w, NULL);
	assert_int_equal(peer_login(&w.p, "HeaderDigest=CRC32C", "DataDigest=CRC32C", NULL), 0);
	size_t n = make_ping(&w.p, out, "abcdef");
	out[BHS_BYTES + DIGEST_BYTES + 2] ^= 1;
	assert_int_equal(peer_send_raw(&w.p, out, n), 0);
	assert_int_equal(peer_recv(&w.p), 0);
	assert_int_equal(pdu_opcode(w.p.bhs), OP_REJECT);
	assert_int_equal(w.p.bhs[2], REJECT_DATA_DIGEST);
	assert_int_equal(w.p.nr_data, BHS_BYTES);
	assert_memory_equal(w.p.data, out, BHS_BYTES);
	assert_true(peer_ping(&w.p));
	wire_end(&w);
}

static void test_lba_status_shows_the_hole(void **state)
{
	uint8_t cdb[16] = {0x9e, 0x12}, data[1024];
	struct outcome o = {.data = data, .out_max = sizeof data};
	uint64_t at = 0, hole_blocks = 0;
	struct wire w;

	wire_begin(&w, NULL);
	assert_int_equal(peer_login(&w.p, NULL, NULL, NULL), 0);
	kedge_put_be32(cdb + 10, sizeof data);
	peer_command(&w.p, 1, cdb, sizeof data, &o);
	assert_int_equal(o.error, 0);
	assert_int_equal(o.status, 0);
	assert_int_equal(kedge_get_be32(data) + 4, o.nr_bytes);
	assert_true(o.nr_bytes >= 8 + 3 * 16);
	for (size_t i = 8; i < o.nr_bytes; i += 16) {
		uint64_t lba = kedge_get_be64(data + i), n = kedge_get_be32(data + i + 8);
		assert_int_equal(lba, at);
		assert_int_not_equal(n, 0);
		if (data[i + 12] == 1) { /* deallocated: only where there is nothing */
			assert_true(lba * 512 >= DISK1_HOLE_START && (lba + n) * 512 <= DISK1_HOLE_END);
			hole_blocks += n;
		}
		at += n;
	}
	assert_int_equal(at, DISK1_BYTES / 512);
	assert_int_equal(hole_blocks, (DISK1_HOLE_END - DISK1_HOLE_START) / 512);
	wire_end(&w);
}

/* The file gets shorter under the target: what cannot be read is said, and never made up. */
static void test_read_errors_are_told(void **state)
{
	static uint8_t data[2 << 20];
	struct outcome o = {.data = data, .out_max = sizeof data};
	uint8_t status[16] = {0x9e, 0x12};
	char path[96];
	struct wire w;

	wire_begin(&w, NULL);
	assert_int_equal(peer_login(&w.p, "MaxRecvDataSegmentLength=65536", NULL, NULL), 0);
	clear_attention(&w.p);
	snprintf(path, sizeof path, "%s/disk1", w.t.dir);
	assert_int_equal(truncate(path, 4 << 20), 0);
	/* behind the end, and over it */
	for (uint32_t lba = 10000; lba >= 8190; lba -= 1810) {
		peer_finish(&w.p, peer_read10(&w.p, 1, lba, 8, 4096), &o);
		assert_int_equal(o.error, 0);
		assert_int_equal(o.status, 2);
		assert_int_equal(o.sense, 0x031100);
		assert_int_equal(o.nr_data_in, 0);
		assert_int_equal(o.residual, 4096);
	}
	/* nor is it called a hole, which reads as zeroes */
	for (uint32_t lba = 8192; lba <= 10000; lba += 1808) {
		kedge_put_be64(status + 2, lba);
		kedge_put_be32(status + 10, 24);
		peer_command(&w.p, 1, status, 24, &o);
		assert_int_equal(o.status, 0);
		assert_int_equal(o.nr_bytes, 24);
		assert_int_equal(data[8 + 12], 0); /* mapped */
	}
	peer_finish(&w.p, peer_read10(&w.p, 1, 8184, 8, 4096), &o);
	assert_int_equal(o.status, 0);
	expect_disk(data, 1, 8184 * 512, 4096);
	/* in the middle of a transfer: the data that there is, then what is wrong, and the session goes on */
	peer_finish(&w.p, peer_read10(&w.p, 1, 2048, 4 * 2048, 4 << 20), &o);
	assert_int_equal(o.error, 0);
	assert_int_equal(o.status, 2);
	assert_int_equal(o.sense, 0x031100);
	assert_int_equal(o.nr_bytes, 3 << 20);
	assert_true(o.is_under);
	assert_int_equal(o.residual, 1 << 20);
	assert_int_equal(kedge_get_be32(w.p.bhs + 36), o.nr_data_in); /* ExpDataSN */
	expect_disk(data, 1, 2048 * 512, sizeof data);
	assert_true(peer_ping(&w.p));
	wire_end(&w);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_data_in_keeps_to_bursts_and_segments),
		cmocka_unit_test(test_luns_hold_their_own_data),
		cmocka_unit_test(test_residuals_say_over_and_under),
		cmocka_unit_test(test_digests_protect_both_ways),
		cmocka_unit_test(test_header_digest_error_closes),
		cmocka_unit_test(test_data_digest_error_is_rejected),
		cmocka_unit_test(test_lba_status_shows_the_hole),
		cmocka_unit_test(test_read_errors_are_told),
	};

	return wire_main(argc, argv) ? 2 : cmocka_run_group_tests_name("wire data", tests, NULL, NULL);
}
