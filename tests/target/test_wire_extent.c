/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. READ EXTENT over the wire: page, heads, payloads, residuals, errors, commands taken back and connections that end while a
 * worker has them.
 * Owns. One ktarget a test. Locks. None.
 */
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "kedge/transit.h"

#define HEAD KEDGE_TRANSIT_HEAD_BYTES
#define ZSTD KEDGE_TRANSIT_CAN(KEDGE_TRANSIT_ZSTD)
#define SUM KEDGE_TRANSIT_CAN_SUM
#define ANSWER_MAX (HEAD + KEDGE_TRANSIT_EXTENT_MAX_BYTES)

static uint8_t data[ANSWER_MAX], out[KEDGE_TRANSIT_EXTENT_MAX_BYTES];

static void logged_in(struct wire *w, const char *digest)
{
	static const uint8_t ready[16] = {0};
	struct outcome o = {0};

	wire_begin(w, NULL);
	assert_int_equal(peer_login(&w->p, "MaxRecvDataSegmentLength=65536", digest, NULL), 0);
	for (uint32_t lun = 1; lun <= 2; lun++)
		peer_command(&w->p, lun, ready, 0, &o);
	assert_int_equal(o.status, 0);
}

static uint32_t ask(struct peer *p, uint32_t lun, uint64_t lba, uint32_t nr_blocks, uint8_t codecs, uint32_t expected)
{
	uint8_t cdb[16];

	kedge_transit_cdb_encode(lba, nr_blocks, codecs, cdb);
	return peer_scsi(p, lun, cdb, expected);
}

/* All of an extent, unpacked into out. */
static enum kedge_transit_codec read_extent(struct peer *p, uint32_t lun, uint64_t lba, uint32_t nr_blocks, uint8_t codecs)
{
	struct kedge_transit_coder *coder = kedge_transit_coder_create();
	struct outcome o = {.data = data, .out_max = sizeof data};
	uint32_t n = nr_blocks * 512, expected = HEAD + n;
	struct kedge_transit_head h;

	peer_finish(p, ask(p, lun, lba, nr_blocks, codecs, expected), &o);
	assert_int_equal(o.error, 0);
	assert_int_equal(o.status, 0);
	assert_false(o.is_over);
	assert_int_equal(o.nr_bytes + o.residual, expected);
	assert_int_equal(kedge_transit_head_decode(data, lba * 512, n, o.nr_bytes - HEAD, &h), 0);
	assert_int_equal(h.pack_ns > 0, (codecs & ZSTD) && h.codec != KEDGE_TRANSIT_ZERO);
	assert_int_equal(kedge_transit_unpack(coder, &h, data + HEAD, out), 0);
	kedge_transit_coder_destroy(coder);
	return h.codec;
}

static void expect_disk(unsigned lun, uint64_t at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (out[i] != disk_byte(lun, at + i))
			fail_msg("LUN %u differs at byte %llu", lun, (unsigned long long)(at + i));
}

static int open_disk(const struct wire *w, unsigned lun)
{
	char path[96];
	int fd;

	snprintf(path, sizeof path, "%s/disk%u", w->t.dir, lun);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void evict(const struct wire *w, unsigned lun)
{
	int fd = open_disk(w, lun);

	assert_int_equal(fsync(fd), 0);
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	close(fd);
}

static void test_extents_of_all_kinds_arrive(void **state)
{
	static const char *const digests[] = {"DataDigest=None", "DataDigest=CRC32C"};
	static uint8_t text[DISK2_BYTES];

	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (uint8_t)"some text that goes on and on. "[i % 31];
	for (unsigned i = 0; i < 4; i++) {
		struct wire w;
		logged_in(&w, digests[i & 1]);
		int fd = open_disk(&w, 2);
		assert_int_equal(pwrite(fd, text, sizeof text, 0), sizeof text);
		close(fd);
		if (i & 2) {
			evict(&w, 1);
			evict(&w, 2);
		}
		assert_int_equal(read_extent(&w.p, 1, 100, 1024, ZSTD), KEDGE_TRANSIT_RAW);
		expect_disk(1, 100 * 512, 1024 * 512);
		assert_int_equal(read_extent(&w.p, 1, DISK1_BYTES / 512 - 3, 3, 0), KEDGE_TRANSIT_RAW);
		expect_disk(1, DISK1_BYTES - 1536, 1536);
		assert_int_equal(read_extent(&w.p, 1, DISK1_HOLE_START / 512, 512, 0), KEDGE_TRANSIT_ZERO);
		expect_disk(1, DISK1_HOLE_START, 512 * 512);
		assert_int_equal(read_extent(&w.p, 1, DISK1_HOLE_START / 512 - 1, 512, 0), KEDGE_TRANSIT_RAW);
		expect_disk(1, DISK1_HOLE_START - 512, 512 * 512);
		assert_int_equal(read_extent(&w.p, 2, 0, DISK2_BYTES / 512, ZSTD), KEDGE_TRANSIT_ZSTD);
		assert_memory_equal(out, text, sizeof text);
		assert_int_equal(read_extent(&w.p, 2, 0, DISK2_BYTES / 512, 0), KEDGE_TRANSIT_RAW);
		assert_memory_equal(out, text, sizeof text);
		wire_end(&w);
	}
}

/* Of the disk as it is now, in whatever way it is asked for. */
static void expect_sum(struct peer *p, uint64_t lba, uint32_t nr_blocks, uint32_t room)
{
	struct outcome o = {.data = data, .out_max = sizeof data};
	uint8_t sum[KEDGE_TRANSIT_SUM_BYTES], expected[KEDGE_TRANSIT_SUM_BYTES];
	uint32_t n = nr_blocks * 512;

	for (uint32_t i = 0; i < n; i++)
		out[i] = disk_byte(1, lba * 512 + i);
	kedge_transit_sum(out, lba * 512, n, expected);
	peer_finish(p, ask(p, 1, lba, nr_blocks, SUM, room), &o);
	assert_int_equal(o.error, 0);
	assert_int_equal(o.status, 0);
	assert_int_equal(o.nr_bytes, HEAD);
	assert_false(o.is_over);
	assert_int_equal(o.residual, room - HEAD);
	assert_int_equal(kedge_transit_sum_decode(data, lba * 512, n, sum), 0);
	assert_memory_equal(sum, expected, sizeof sum);
	assert_int_equal(kedge_transit_sum_decode(data, lba * 512 + 512, n, sum), -EBADMSG);
	assert_int_equal(kedge_transit_sum_decode(data, lba * 512, n - 512, sum), -EBADMSG);
}

static void test_a_sum_travels_alone_and_is_of_the_bytes_there(void **state)
{
	static const char *const digests[] = {"DataDigest=None", "DataDigest=CRC32C"};

	for (unsigned i = 0; i < 4; i++) {
		struct outcome o = {.data = data, .out_max = sizeof data};
		struct wire w;
		logged_in(&w, digests[i & 1]);
		if (i & 2)
			evict(&w, 1);
		expect_sum(&w.p, 100, 1024, HEAD);
		expect_sum(&w.p, DISK1_BYTES / 512 - 3, 3, ANSWER_MAX);
		expect_sum(&w.p, DISK1_HOLE_START / 512 - 1, 512, HEAD);
		expect_sum(&w.p, DISK1_HOLE_START / 512, 1024, HEAD);
		/* an initiator without room gets what fits, and is told */
		peer_finish(&w.p, ask(&w.p, 1, 0, 8, SUM, HEAD - 1), &o);
		assert_int_equal(o.status, 0);
		assert_int_equal(o.nr_bytes, HEAD - 1);
		assert_true(o.is_over);
		assert_int_equal(read_extent(&w.p, 1, 0, 1024, 0), KEDGE_TRANSIT_RAW);
		/* a file that was cut short has no sum of what it does not hold */
		int fd = open_disk(&w, 1);
		assert_int_equal(ftruncate(fd, 1 << 20), 0);
		close(fd);
		peer_finish(&w.p, ask(&w.p, 1, 2040, 16, SUM, HEAD), &o);
		assert_int_equal(o.status, 2);
		assert_int_equal(o.sense, 0x031100);
		wire_end(&w);
	}
}

static void test_the_page_is_listed_and_says_what_is_offered(void **state)
{
	uint8_t cdb[16] = {0x12, 1, 0, 0, 255};
	struct outcome o = {.data = data, .out_max = sizeof data};
	struct kedge_transit_offer offer;
	struct wire w;

	logged_in(&w, NULL);
	peer_command(&w.p, 1, cdb, 255, &o);
	assert_int_equal(data[3 + data[3]], KEDGE_TRANSIT_PAGE); /* the last one */
	cdb[2] = KEDGE_TRANSIT_PAGE;
	peer_command(&w.p, 1, cdb, 255, &o);
	assert_int_equal(o.status, 0);
	assert_int_equal(o.nr_bytes, KEDGE_TRANSIT_PAGE_BYTES);
	assert_int_equal(kedge_transit_page_decode(data, o.nr_bytes, &offer), 0);
	assert_int_equal(offer.extent_max_bytes, KEDGE_TRANSIT_EXTENT_MAX_BYTES);
	assert_true(offer.nr_workers >= 1);
	assert_int_equal(offer.codecs, KEDGE_TRANSIT_CAN_ALL | SUM);
	wire_end(&w);
}

static void test_what_cannot_be_answered_is_refused(void **state)
{
	static const struct {
		uint64_t lba;
		uint32_t n;
		uint8_t codecs;
		uint32_t sense;
	} bad[] = {
		{0, 0, 0, 0x052400}, {0, 1025, 0, 0x052400}, {0, 8, 9, 0x052400}, {0, 8, 16, 0x052400}, {0, 1025, SUM, 0x052400}, {DISK1_BYTES / 512 - 1, 2, SUM, 0x052100}, {0, 8, 0xff, 0x052400}, {0, UINT32_MAX, 0, 0x052400},
		{DISK1_BYTES / 512, 1, 0, 0x052100}, {DISK1_BYTES / 512 - 1, 2, 0, 0x052100}, {UINT64_MAX, 1, 0, 0x052100},
		{UINT64_MAX, 2, ZSTD, 0x052100},
	};
	struct outcome o = {.data = data, .out_max = sizeof data};
	struct wire w;

	logged_in(&w, NULL);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(bad); i++) {
		peer_finish(&w.p, ask(&w.p, 1, bad[i].lba, bad[i].n, bad[i].codecs, 4096), &o);
		assert_int_equal(o.error, 0);
		assert_int_equal(o.status, 2);
		assert_int_equal(o.sense, bad[i].sense);
		assert_int_equal(o.nr_bytes, 0);
	}
	/* an initiator without room gets what fits, and is told */
	static const uint32_t rooms[] = {0, 1, HEAD - 1, HEAD, HEAD + 1, HEAD + 4095};
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(rooms); i++) {
		o = (struct outcome){.data = data, .out_max = sizeof data};
		peer_finish(&w.p, ask(&w.p, 1, 0, 8, 0, rooms[i]), &o);
		assert_int_equal(o.status, 0);
		assert_int_equal(o.nr_bytes, rooms[i]);
		assert_true(o.is_over);
		assert_int_equal(o.residual, HEAD + 4096 - rooms[i]);
	}
	/* a file that was cut short */
	int fd = open_disk(&w, 1);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	for (uint32_t lba = 2040; lba <= 4000; lba += 1960) {
		peer_finish(&w.p, ask(&w.p, 1, lba, 16, ZSTD, HEAD + 8192), &o);
		assert_int_equal(o.status, 2);
		assert_int_equal(o.sense, 0x031100);
		assert_int_equal(o.nr_bytes, 0);
	}
	assert_int_equal(read_extent(&w.p, 1, 2032, 16, 0), KEDGE_TRANSIT_RAW);
	expect_disk(1, 2032 * 512, 8192);
	wire_end(&w);
}

/* BUSY would be asked again for ever: this says that the command is not known, and plain reads go on. */
static void test_without_workers_extents_are_unknown(void **state)
{
	struct outcome o = {.data = data, .out_max = sizeof data};
	struct rlimit before, none;
	struct wire w;

	logged_in(&w, NULL);
	assert_int_equal(prlimit(w.t.pid, RLIMIT_NOFILE, NULL, &before), 0);
	none = (struct rlimit){0, before.rlim_max};
	assert_int_equal(prlimit(w.t.pid, RLIMIT_NOFILE, &none, NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		peer_finish(&w.p, ask(&w.p, 1, 0, 8, 0, HEAD + 4096), &o);
		assert_int_equal(o.error, 0);
		assert_int_equal(o.status, 2);
		assert_int_equal(o.sense, 0x052000);
		assert_int_equal(o.nr_bytes, 0);
		peer_finish(&w.p, peer_read10(&w.p, 1, 0, 8, 4096), &o);
		assert_int_equal(o.status, 0);
		assert_int_equal(o.nr_bytes, 4096);
	}
	assert_int_equal(prlimit(w.t.pid, RLIMIT_NOFILE, &before, NULL), 0);
	assert_int_equal(read_extent(&w.p, 1, 0, 8, 0), KEDGE_TRANSIT_RAW);
	expect_disk(1, 0, 4096);
	wire_end(&w);
}

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint64_t shortest_us(struct wire *w, uint64_t lba, enum kedge_transit_codec codec)
{
	uint64_t min_us = UINT64_MAX;

	read_extent(&w->p, 1, lba, 512, 0); /* from now on out of the page cache */
	for (unsigned i = 0; i < 10; i++) {
		uint64_t begin_us = now_us(), us;
		assert_int_equal(read_extent(&w->p, 1, lba, 512, 0), codec);
		us = now_us() - begin_us;
		min_us = us < min_us ? us : min_us;
	}
	return min_us;
}

/* Behind a head that is all there is no packet waits for more: TCP would give it 200 ms. */
static void test_extents_of_zeroes_take_no_longer_than_data(void **state)
{
	uint64_t zero_us, raw_us;
	struct wire w;

	logged_in(&w, NULL);
	zero_us = shortest_us(&w, DISK1_HOLE_START / 512, KEDGE_TRANSIT_ZERO);
	raw_us = shortest_us(&w, 0, KEDGE_TRANSIT_RAW);
	if (zero_us > 20 * raw_us)
		fail_msg("%llu us, and %llu us with data", (unsigned long long)zero_us, (unsigned long long)raw_us);
	wire_end(&w);
}

/* Ask for many and go, or take them back: whoever has them then, nothing is lost and others are served. */
static void test_extents_under_way_can_be_abandoned(void **state)
{
	struct wire w;

	logged_in(&w, NULL);
	for (unsigned round = 0; round < 20; round++) {
		struct peer p;
		assert_int_equal(peer_open(&p, &w.t, NULL), 0);
		p.isid[5] ^= 1; /* another session */
		assert_int_equal(peer_login(&p, "MaxRecvDataSegmentLength=65536", NULL, NULL), 0);
		struct outcome o = {0};
		static const uint8_t ready[16] = {0};
		peer_command(&p, 1, ready, 0, &o);
		if (round & 1)
			evict(&w, 1);
		for (unsigned i = 0; i < 40; i++)
			ask(&p, 1, i * 100, 1024, i % 3 ? ZSTD : SUM, ANSWER_MAX);
		if (round & 2) { /* TARGET WARM RESET */
			uint8_t bhs[BHS_BYTES] = {OP_TMF | OP_IMMEDIATE, 0x86};
			kedge_put_be32(bhs + 16, ++p.itt);
			kedge_put_be32(bhs + 24, p.cmd_sn);
			assert_int_equal(peer_send(&p, bhs, NULL, 0), 0);
			int r;
			do
				r = peer_recv(&p);
			while (r == 0 && pdu_opcode(p.bhs) != OP_TMF_RSP);
			assert_int_equal(r, 0);
			assert_true(peer_ping(&p));
		}
		peer_close(&p);
		assert_int_equal(read_extent(&w.p, 1, 0, 1024, 0), KEDGE_TRANSIT_RAW);
		expect_disk(1, 0, 1024 * 512);
	}
	wire_end(&w);
}

/* No more than 64 of a connection are under way: the others are told to come back. */
static void test_too_many_extents_are_told_to_wait(void **state)
{
	static uint8_t all[100 * BHS_BYTES];
	unsigned nr_good = 0, nr_busy = 0;
	uint32_t first = 0;
	size_t n = 0;
	struct wire w;

	logged_in(&w, NULL);
	for (unsigned i = 0; i < 100; i++) { /* in one send: the target has them all before a worker is through with one */
		uint8_t bhs[BHS_BYTES] = {OP_SCSI_CMD, 0xc1, [9] = 1};
		kedge_put_be32(bhs + 16, ++w.p.itt);
		kedge_put_be32(bhs + 20, ANSWER_MAX);
		kedge_put_be32(bhs + 24, w.p.cmd_sn++);
		kedge_transit_cdb_encode(0, 1024, ZSTD, bhs + 32);
		n += peer_encode(&w.p, bhs, NULL, 0, all + n);
		first = first ? first : w.p.itt;
	}
	assert_int_equal(n, sizeof all);
	assert_int_equal(peer_send_raw(&w.p, all, n), 0);
	for (unsigned nr = 0; nr < 100;) {
		assert_int_equal(peer_recv(&w.p), 0);
		bool is_response = pdu_opcode(w.p.bhs) == OP_SCSI_RSP;
		if (!is_response && !(w.p.bhs[1] & 1))
			continue;
		assert_true(pdu_itt(w.p.bhs) - first < 100);
		nr++;
		nr_busy += is_response && w.p.bhs[3] == 0x08;
		nr_good += !is_response;
	}
	assert_int_equal(nr_good, 64);
	assert_int_equal(nr_busy, 36);
	assert_int_equal(read_extent(&w.p, 1, 0, 8, 0), KEDGE_TRANSIT_RAW);
	wire_end(&w);
}

/* More than the buffers of the server hold: those that wait for one get their turn when others have been taken. */
static void test_extents_wait_for_buffers(void **state)
{
	static const uint8_t ready[16] = {0};
	struct outcome o = {.data = data, .out_max = sizeof data};
	struct kedge_transit_head h;
	struct peer p[3];
	uint32_t first[3];
	struct wire w;

	for (unsigned round = 0; round < 2; round++) {
		logged_in(&w, NULL);
		for (unsigned i = 0; i < 3; i++) {
			assert_int_equal(peer_open(&p[i], &w.t, NULL), 0);
			p[i].isid[5] = (uint8_t)(2 + i);
			assert_int_equal(peer_login(&p[i], "MaxRecvDataSegmentLength=262144", NULL, NULL), 0);
			peer_command(&p[i], 1, ready, 0, &o);
			if (round)
				evict(&w, 1);
			first[i] = 0;
			for (unsigned k = 0; k < 60; k++) {
				uint32_t itt = ask(&p[i], 1, k * 100, 1024, ZSTD, ANSWER_MAX);
				first[i] = first[i] ? first[i] : itt;
			}
		}
		for (unsigned i = 0; i < 3; i++) {
			bool has_come[60] = {false};
			/* in whatever order the workers were through with them */
			for (unsigned nr = 0; nr < 60; nr++) {
				uint32_t at = 0, itt = 0;
				do {
					assert_int_equal(peer_recv(&p[i]), 0);
					assert_int_equal(pdu_opcode(p[i].bhs), OP_DATA_IN);
					assert_true(at + p[i].nr_data <= sizeof data);
					memcpy(data + at, p[i].data, p[i].nr_data);
					at += p[i].nr_data;
					itt = pdu_itt(p[i].bhs);
				} while (!(p[i].bhs[1] & 1));
				uint32_t k = itt - first[i];
				assert_true(k < 60 && !has_come[k]);
				has_come[k] = true;
				assert_int_equal(kedge_transit_head_decode(data, k * 100 * 512, 1024 * 512, at - HEAD, &h), 0);
			}
			peer_close(&p[i]);
		}
		wire_end(&w);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_extents_of_all_kinds_arrive),
		cmocka_unit_test(test_a_sum_travels_alone_and_is_of_the_bytes_there),
		cmocka_unit_test(test_the_page_is_listed_and_says_what_is_offered),
		cmocka_unit_test(test_what_cannot_be_answered_is_refused),
		cmocka_unit_test(test_without_workers_extents_are_unknown),
		cmocka_unit_test(test_extents_of_zeroes_take_no_longer_than_data),
		cmocka_unit_test(test_extents_under_way_can_be_abandoned),
		cmocka_unit_test(test_too_many_extents_are_told_to_wait),
		cmocka_unit_test(test_extents_wait_for_buffers),
	};

	return wire_main(argc, argv) ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
