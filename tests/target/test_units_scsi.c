/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Units of the target's SCSI: CDBs, ranges, INQUIRY and its pages, capacities, mode pages, sense.
 * Owns. Nothing. Locks. None.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inquiry.h"
#include "kedge/bytes.h"
#include "lun.h"
#include "scsi.h"

static const struct tgt_unit disk = {
	.nr_blocks = 1000, .lbs_bytes = 512, .serial = "vol-7.3", .naa = {0x31, 2, 3, 4, 5, 6, 7, 8}, .can_lba_status = true, .nr_workers = 2};
static uint8_t *out; /* exactly SCSI_ANSWER_MAX bytes, so that a sanitizer sees one more */

static struct tgt_result decode_for(const struct tgt_unit *u, uint32_t lun, const uint8_t *cdb)
{
	struct tgt_result r;
	bool has_attention = false;

	memset(out, 0xa5, SCSI_ANSWER_MAX); /* what is not written shows */
	tgt_scsi_decode(cdb, u, lun, 2, &has_attention, out, &r);
	return r;
}

static struct tgt_result decode(const uint8_t *cdb)
{
	return decode_for(&disk, 1, cdb);
}

/* ---- reads ---- */

static void make_read(uint8_t *cdb, uint8_t opcode, uint64_t lba, uint32_t n)
{
	memset(cdb, 0, 16);
	cdb[0] = opcode;
	switch (opcode) {
	case 0x08:
		kedge_put_be24(cdb + 1, (uint32_t)lba);
		cdb[4] = (uint8_t)n;
		break;
	case 0x28:
		kedge_put_be32(cdb + 2, (uint32_t)lba);
		kedge_put_be16(cdb + 7, (uint16_t)n);
		break;
	case 0xa8:
		kedge_put_be32(cdb + 2, (uint32_t)lba);
		kedge_put_be32(cdb + 6, n);
		break;
	default:
		kedge_put_be64(cdb + 2, lba);
		kedge_put_be32(cdb + 10, n);
	}
}

static void test_reads_of_every_length_are_decoded(void **state)
{
	static const uint8_t opcodes[] = {0x08, 0x28, 0xa8, 0x88};
	uint8_t cdb[16];

	for (size_t i = 0; i < sizeof opcodes; i++) {
		make_read(cdb, opcodes[i], 999, 1);
		struct tgt_result r = decode(cdb);
		assert_int_equal(r.action, TGT_READ);
		assert_int_equal(r.lba, 999);
		assert_int_equal(r.nr_bytes, 512);
		make_read(cdb, opcodes[i], 998, 3);
		assert_int_equal(decode(cdb).sense, SENSE_LBA_RANGE);
		make_read(cdb, opcodes[i], 1001, 1);
		assert_int_equal(decode(cdb).sense, SENSE_LBA_RANGE);
		make_read(cdb, opcodes[i], 744, 0);
		r = decode(cdb);
		assert_int_equal(r.sense, SENSE_NONE);
		if (opcodes[i] == 0x08) { /* READ 6: none means 256 */
			assert_int_equal(r.action, TGT_READ);
			assert_int_equal(r.nr_bytes, 256 * 512);
		} else {
			assert_int_equal(r.action, TGT_ANSWER);
			assert_int_equal(r.nr_bytes, 0);
		}
	}
	/* READ 6 has 21 bits: those above are not part of the address */
	make_read(cdb, 0x08, 0xe00000 | 5, 1);
	assert_int_equal(decode(cdb).lba, 5);
}

static void test_ranges_do_not_wrap_around(void **state)
{
	static const struct {
		uint64_t lba;
		uint32_t n;
	} bad[] = {{UINT64_MAX, 1}, {UINT64_MAX, 2}, {UINT64_MAX - 1, 0xffffffff}, {UINT64_MAX / 512 + 1, 1}, {1, UINT32_MAX}, {1000, 1},
		   {0, UINT32_MAX}, {1ull << 63, 1}, {1ull << 55, 1}};
	const struct tgt_unit huge = {.nr_blocks = UINT64_MAX / 512, .lbs_bytes = 512};
	uint8_t cdb[16];

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(bad); i++) {
		make_read(cdb, 0x88, bad[i].lba, bad[i].n);
		struct tgt_result r = decode(cdb);
		assert_int_equal(r.sense, SENSE_LBA_RANGE);
		assert_int_equal(r.action, TGT_ANSWER);
		assert_int_equal(r.nr_bytes, 0);
	}
	/* more bytes than 32 bits hold */
	make_read(cdb, 0x88, 0, UINT32_MAX / 512 + 1);
	assert_int_equal(decode_for(&huge, 1, cdb).sense, SENSE_BAD_CDB);
	make_read(cdb, 0x88, UINT64_MAX / 512 - 2, 2);
	assert_int_equal(decode_for(&huge, 1, cdb).action, TGT_READ);
	/* the end itself, with nothing to read, is in range */
	make_read(cdb, 0x88, 1000, 0);
	assert_int_equal(decode(cdb).sense, SENSE_NONE);
}

static void test_protection_and_compare_are_refused(void **state)
{
	static const uint8_t opcodes[] = {0x28, 0xa8, 0x88, 0x2f, 0xaf, 0x8f};
	uint8_t cdb[16];

	for (size_t i = 0; i < sizeof opcodes; i++) {
		for (unsigned protect = 1; protect < 8; protect++) {
			make_read(cdb, opcodes[i] == 0x2f ? 0x28 : opcodes[i] == 0xaf ? 0xa8 : opcodes[i] == 0x8f ? 0x88 : opcodes[i], 0, 1);
			cdb[0] = opcodes[i];
			cdb[1] = (uint8_t)(protect << 5);
			assert_int_equal(decode(cdb).sense, SENSE_BAD_CDB);
		}
		cdb[1] = 0x18; /* DPO and FUA are taken */
		assert_int_equal(decode(cdb).sense, i < 3 ? SENSE_NONE : decode(cdb).sense);
	}
	make_read(cdb, 0x28, 0, 1);
	cdb[0] = 0x2f;
	struct tgt_result r = decode(cdb);
	assert_int_equal(r.action, TGT_ANSWER);
	assert_int_equal(r.sense, SENSE_NONE);
	assert_int_equal(r.nr_bytes, 0);
	cdb[1] = 2; /* BYTCHK */
	assert_int_equal(decode(cdb).sense, SENSE_BAD_CDB);
}

static void test_writes_are_data_protect(void **state)
{
	static const uint8_t opcodes[] = {0x04, 0x07, 0x0a, 0x2a, 0x2e, 0x41, 0x42, 0x48, 0x5f, 0x89, 0x8a, 0x8b, 0x8e, 0x93, 0x9c, 0xaa, 0xae};
	uint8_t sense[SENSE_BYTES], expected[SENSE_BYTES] = {0x70, 0, 0x07, [7] = 10, [12] = 0x27, [13] = 0};

	for (size_t i = 0; i < sizeof opcodes; i++) {
		uint8_t cdb[16] = {opcodes[i]};
		struct tgt_result r = decode(cdb);
		assert_int_equal(r.action, TGT_ANSWER);
		assert_int_equal(r.sense, SENSE_WRITE_PROTECTED);
	}
	tgt_sense_encode(SENSE_WRITE_PROTECTED, sense);
	assert_memory_equal(sense, expected, SENSE_BYTES);
}

/* No CDB, whatever is in it, may ask for a read outside of the disk or answer more than its buffer: 200,000 random ones. */
static void test_no_cdb_leaves_the_disk(void **state)
{
	uint64_t x = 88172645463325252ull;

	for (unsigned i = 0; i < 200000; i++) {
		uint8_t cdb[16];
		for (unsigned j = 0; j < 16; j += 8) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			memcpy(cdb + j, &x, 8);
		}
		if (i % 2) /* near the end of the disk more often */
			memset(cdb + 2, 0, i % 4 == 1 ? 2 : 6);
		struct tgt_result r = decode_for(i % 16 ? &disk : NULL, i % 3, cdb);
		if (r.action == TGT_READ)
			assert_true(r.lba < 1000 && r.nr_bytes % 512 == 0 && r.nr_bytes / 512 <= 1000 - r.lba && r.nr_bytes);
		else if (r.action == TGT_LBA_STATUS)
			assert_true(r.lba < 1000 && r.allocation >= 24);
		else
			assert_true(r.nr_bytes <= SCSI_ANSWER_MAX);
		if (r.sense != SENSE_NONE)
			assert_int_equal(r.nr_bytes, 0);
	}
}

/* ---- INQUIRY ---- */

static struct tgt_result inquire(const struct tgt_unit *u, uint32_t lun, bool is_vpd, uint8_t page, uint16_t allocation)
{
	uint8_t cdb[16] = {0x12, is_vpd, page};

	kedge_put_be16(cdb + 3, allocation);
	return decode_for(u, lun, cdb);
}

static void test_inquiry_standard(void **state)
{
	assert_int_equal(inquire(&disk, 1, false, 0, 255).nr_bytes, 96);
	assert_int_equal(out[0], 0);
	assert_int_equal(out[2], 6);
	assert_int_equal(out[3] & 15, 2);
	assert_int_equal(out[4], 91);
	assert_memory_equal(out + 8, "KEDGE   ", 8);
	assert_int_equal(inquire(&disk, 1, false, 0, 36).nr_bytes, 36);
	assert_int_equal(inquire(&disk, 1, false, 0, 0).nr_bytes, 0);
	assert_int_equal(inquire(&disk, 1, false, 0x80, 255).sense, SENSE_BAD_CDB); /* a page without EVPD */
	assert_int_equal(decode((const uint8_t[16]){0x12, 2, 0, 0, 255}).sense, SENSE_BAD_CDB);
	inquire(NULL, 0, false, 0, 255);
	assert_int_equal(out[0], 0x20);
	inquire(NULL, 5, false, 0, 255);
	assert_int_equal(out[0], 0x7f);
}

static void test_inquiry_pages(void **state)
{
	static const uint8_t pages[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2, 0xc0};

	for (unsigned page = 0; page < 256; page++) {
		struct tgt_result r = inquire(&disk, 1, true, (uint8_t)page, 1000);
		if (!memchr(pages, (int)page, sizeof pages)) {
			assert_int_equal(r.sense, SENSE_BAD_CDB);
			continue;
		}
		assert_int_equal(r.sense, SENSE_NONE);
		assert_int_equal(out[1], page);
		assert_int_equal(kedge_get_be16(out + 2) + 4, r.nr_bytes); /* the length it claims */
		for (unsigned i = 0; i < 3; i++)
			assert_int_equal(out[r.nr_bytes + i], 0xa5); /* and no byte more */
	}
	inquire(&disk, 1, true, 0x00, 255);
	assert_memory_equal(out + 4, pages, sizeof pages);
	inquire(&disk, 1, true, 0x80, 255);
	assert_memory_equal(out + 4, "vol-7.3", 7);
}

static void test_inquiry_identifiers(void **state)
{
	struct tgt_unit u = disk;
	struct tgt_result r = inquire(&disk, 1, true, 0x83, 1000);
	unsigned nr = 0, at = 4;

	for (; at < r.nr_bytes; at += 4 + out[at + 3], nr++) {
		const uint8_t *d = out + at;
		if ((d[1] & 15) == 1) {
			assert_int_equal(d[0] & 15, 2);
			assert_int_equal(d[3], 8 + 7);
			assert_memory_equal(d + 4, "KEDGE   vol-7.3", 15);
		} else {
			assert_int_equal(d[1] & 15, 3);
			assert_int_equal(d[0] & 15, 1);
			assert_int_equal(d[3], 8);
			assert_memory_equal(d + 4, u.naa, 8);
			assert_int_equal(d[4] >> 4, 3);
		}
	}
	assert_int_equal(at, r.nr_bytes);
	assert_int_equal(nr, 2);
	/* the longest serial number there can be */
	memset(u.serial, 's', sizeof u.serial - 1);
	u.serial[sizeof u.serial - 1] = 0;
	assert_int_equal(inquire(&u, 1, true, 0x80, 1000).nr_bytes, 4 + 127);
	assert_int_equal(inquire(&u, 1, true, 0x83, 1000).nr_bytes, 4 + 4 + 8 + 127 + 12);
	assert_int_equal(out[7], 8 + 127);
}

/* Two volumes whose serial numbers have the same CRC32C: an initiator must not take them for one disk. */
static void test_units_of_alike_serials_have_names_of_their_own(void **state)
{
	static const char *const serials[] = {"0f8fad5b-d9cb-469f-a165-7086fcaaa56c.7", "0f8fad5b-d9cb-469f-a165-7086144ae49f.7"};
	char path[] = "/tmp/kedge-target.XXXXXX";
	struct tgt_lun luns[3];
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(tgt_lun_open(&luns[i], path, serials[i % 2], NULL), 0);
		tgt_lun_close(&luns[i]);
		assert_int_equal(luns[i].unit.naa[0] >> 4, 3);
	}
	unlink(path);
	close(fd);
	assert_memory_not_equal(luns[0].unit.naa, luns[1].unit.naa, 8);
	assert_memory_equal(luns[0].unit.naa, luns[2].unit.naa, 8);
}

/* What is read at once is right or left to others: behind the end, over it, and in the page that holds it. */
static void test_units_read_what_is_cached(void **state)
{
	char path[] = "/dev/shm/kedge-target.XXXXXX";
	char bytes[8192], got[8192] = {0};
	struct tgt_lun l;
	int fd = mkstemp(path);

	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (char)(i * 7 + i / 4096);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
	assert_int_equal(tgt_lun_open(&l, path, NULL, NULL), 0);
	unlink(path); /* now: a failed assertion does not come back here */
	assert_true(l.is_ring_slow);
	assert_true(tgt_lun_read_cached(&l, got, 4096, 4096));
	assert_memory_equal(got, bytes + 4096, 4096);
	assert_true(tgt_lun_read_cached(&l, got, 0, 8192));
	assert_memory_equal(got, bytes, 8192);
	assert_int_equal(ftruncate(fd, 6144), 0);
	assert_true(tgt_lun_read_cached(&l, got, 4096, 2048));
	assert_false(tgt_lun_read_cached(&l, got, 4096, 4096));
	assert_false(tgt_lun_read_cached(&l, got, 0, 8192));
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_false(tgt_lun_read_cached(&l, got, 4096, 512));
	tgt_lun_close(&l);
	close(fd);
}

static void test_inquiry_provisioning_tells_of_holes(void **state)
{
	struct tgt_unit block = disk;

	block.can_lba_status = false;
	inquire(&disk, 1, true, 0xb2, 255);
	assert_int_equal(out[5] & 0xe0, 0); /* no UNMAP, no WRITE SAME: it is read-only */
	assert_int_equal(out[6] & 7, 2);
	inquire(&block, 1, true, 0xb2, 255);
	assert_int_equal(out[6] & 7, 0);
	inquire(&disk, 1, true, 0xb0, 255);
	assert_int_equal(kedge_get_be32(out + 8), TGT_IO_MAX_BYTES / 512);
	assert_int_equal(kedge_get_be32(out + 20), 0); /* no UNMAP */
	inquire(&disk, 1, true, 0xb1, 255);
	assert_int_equal(kedge_get_be16(out + 4), 1);
}

/* ---- the others ---- */

static void test_capacities(void **state)
{
	struct tgt_unit u = disk;
	uint8_t c10[16] = {0x25}, c16[16] = {0x9e, 0x10, [13] = 32};

	assert_int_equal(decode(c10).nr_bytes, 8);
	assert_int_equal(kedge_get_be32(out), 999);
	assert_int_equal(kedge_get_be32(out + 4), 512);
	c10[5] = 1; /* an address without PMI */
	assert_int_equal(decode(c10).sense, SENSE_BAD_CDB);
	c10[5] = 0;
	assert_int_equal(decode(c16).nr_bytes, 32);
	assert_int_equal(kedge_get_be64(out), 999);
	assert_int_equal(kedge_get_be32(out + 8), 512);
	assert_int_equal(out[12], 0); /* no protection information */
	assert_int_equal(out[14] & 0x80, 0x80);
	c16[13] = 10;
	assert_int_equal(decode(c16).nr_bytes, 10);
	/* 2^32 blocks and about: READ CAPACITY 10 says "ask the other" only when it must */
	static const struct {
		uint64_t nr_blocks;
		uint32_t said;
	} sizes[] = {{0xffffffffull, 0xfffffffe}, {0x100000000ull, 0xffffffff}, {0x100000001ull, 0xffffffff}, {1ull << 40, 0xffffffff}};
	c16[13] = 32;
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(sizes); i++) {
		u.nr_blocks = sizes[i].nr_blocks;
		u.lbs_bytes = 4096;
		decode_for(&u, 1, c10);
		assert_int_equal(kedge_get_be32(out), sizes[i].said);
		assert_int_equal(kedge_get_be32(out + 4), 4096);
		decode_for(&u, 1, c16);
		assert_int_equal(kedge_get_be64(out), sizes[i].nr_blocks - 1);
	}
	c16[1] = 0x11;
	assert_int_equal(decode(c16).sense, SENSE_BAD_CDB);
}

static void test_report_luns(void **state)
{
	uint8_t cdb[16] = {0xa0, [9] = 255};

	/* at a LUN that does not exist, too */
	assert_int_equal(decode_for(NULL, 77, cdb).nr_bytes, 24);
	assert_int_equal(kedge_get_be32(out), 16);
	assert_int_equal(kedge_get_be64(out + 8), 1ull << 48);
	assert_int_equal(kedge_get_be64(out + 16), 2ull << 48);
	cdb[9] = 16;
	assert_int_equal(decode(cdb).nr_bytes, 16);
	assert_int_equal(kedge_get_be32(out), 16); /* all there are, not all that fit */
	cdb[9] = 15;
	assert_int_equal(decode(cdb).sense, SENSE_BAD_CDB);
	cdb[9] = 255;
	cdb[2] = 1; /* well-known units: none */
	assert_int_equal(decode(cdb).nr_bytes, 8);
	assert_int_equal(kedge_get_be32(out), 0);
	cdb[2] = 3;
	assert_int_equal(decode(cdb).sense, SENSE_BAD_CDB);
}

static void test_mode_sense_says_write_protected(void **state)
{
	static const uint8_t pages[] = {0x08, 0x0a, 0x1c, 0x3f};

	for (unsigned page = 0; page < 64; page++) {
		uint8_t c6[16] = {0x1a, 0, (uint8_t)page, 0, 255}, c10[16] = {0x5a, 0, (uint8_t)page, [8] = 255};
		bool is_known = memchr(pages, (int)page, sizeof pages);
		struct tgt_result r = decode(c6);
		assert_int_equal(r.sense, is_known ? SENSE_NONE : SENSE_BAD_CDB);
		if (!is_known)
			continue;
		assert_int_equal(out[0] + 1, r.nr_bytes);
		assert_int_equal(out[2] & 0x80, 0x80); /* WP */
		assert_int_equal(out[3], 8);
		assert_int_equal(kedge_get_be24(out + 4 + 5), 512);
		assert_int_equal(out[12] & 0x3f, page == 0x3f ? 0x08 : page);
		c6[1] = 8; /* without the block descriptor */
		assert_int_equal(decode(c6).nr_bytes, r.nr_bytes - 8);
		assert_int_equal(out[3], 0);
		assert_int_equal(out[4] & 0x3f, page == 0x3f ? 0x08 : page);
		r = decode(c10);
		assert_int_equal(kedge_get_be16(out) + 2, r.nr_bytes);
		assert_int_equal(out[3] & 0x80, 0x80);
		c6[2] |= 0xc0; /* saved values are not kept */
		assert_int_equal(decode(c6).sense, SENSE_SAVING);
	}
	/* the control page says so too, and that nothing of it can be changed */
	decode((const uint8_t[16]){0x1a, 8, 0x0a, 0, 255});
	assert_int_equal(out[4 + 4] & 8, 8);
	decode((const uint8_t[16]){0x1a, 8, 0x4a, 0, 255});
	for (unsigned i = 6; i < 16; i++)
		assert_int_equal(out[i], 0);
}

static void test_lba_status_wants_a_place_and_room(void **state)
{
	struct tgt_unit block = disk;
	uint8_t cdb[16] = {0x9e, 0x12, [13] = 24};

	cdb[9] = 5;
	struct tgt_result r = decode(cdb);
	assert_int_equal(r.action, TGT_LBA_STATUS);
	assert_int_equal(r.lba, 5);
	assert_int_equal(r.allocation, 24);
	cdb[13] = 23;
	assert_int_equal(decode(cdb).sense, SENSE_BAD_CDB);
	cdb[13] = 24;
	kedge_put_be64(cdb + 2, 1000);
	assert_int_equal(decode(cdb).sense, SENSE_LBA_RANGE);
	kedge_put_be64(cdb + 2, 0);
	block.can_lba_status = false;
	assert_int_equal(decode_for(&block, 1, cdb).sense, SENSE_BAD_CDB);
}

static void test_opcodes_are_reported(void **state)
{
	uint8_t all[16] = {0xa3, 0x0c, 0x80, [8] = 0x20}, one[16] = {0xa3, 0x0c, 1, 0x28, [9] = 255};
	struct tgt_result r = decode(all);
	bool has_read16 = false;

	assert_int_equal(r.sense, SENSE_NONE);
	assert_int_equal(kedge_get_be32(out) + 4, r.nr_bytes);
	assert_int_equal((r.nr_bytes - 4) % 20, 0);
	for (unsigned at = 4; at < r.nr_bytes; at += 20) {
		/* what it claims to know is not answered with "unknown" */
		uint8_t cdb[16] = {out[at], out[at + 5] & 1 ? out[at + 3] : 0}, opcode = out[at];
		uint8_t *keep = malloc(r.nr_bytes);
		assert_non_null(keep);
		memcpy(keep, out, r.nr_bytes);
		assert_int_not_equal(decode(cdb).sense, SENSE_BAD_OPCODE);
		memcpy(out, keep, r.nr_bytes);
		free(keep);
		has_read16 |= opcode == 0x88;
	}
	assert_true(has_read16);
	r = decode(one);
	assert_int_equal(r.nr_bytes, 4 + 10);
	assert_int_equal(out[1] & 7, 3);
	assert_int_equal(out[4], 0x28);
	one[3] = 0x2a;
	decode(one);
	assert_int_equal(out[1] & 7, 1);
}

static void test_attention_and_request_sense(void **state)
{
	uint8_t ready[16] = {0}, sense[16] = {0x03, [4] = 255};
	struct tgt_result r;
	bool has_attention = true;

	tgt_scsi_decode(ready, &disk, 1, 2, &has_attention, out, &r);
	assert_int_equal(r.sense, SENSE_POWER_ON);
	assert_false(has_attention);
	tgt_scsi_decode(ready, &disk, 1, 2, &has_attention, out, &r);
	assert_int_equal(r.sense, SENSE_NONE);
	/* REQUEST SENSE takes it as data, with status GOOD */
	has_attention = true;
	tgt_scsi_decode(sense, &disk, 1, 2, &has_attention, out, &r);
	assert_int_equal(r.sense, SENSE_NONE);
	assert_int_equal(r.nr_bytes, SENSE_BYTES);
	assert_int_equal(out[2], 6);
	assert_int_equal(out[12], 0x29);
	assert_false(has_attention);
	decode_for(NULL, 9, sense);
	assert_int_equal(out[2], 5);
	assert_int_equal(out[12], 0x25);
	assert_int_equal(decode((const uint8_t[16]){0x03, 1, [4] = 255}).sense, SENSE_BAD_CDB);
	assert_int_equal(decode_for(NULL, 9, ready).sense, SENSE_BAD_LUN);
	assert_int_equal(decode_for(NULL, 0, ready).sense, SENSE_NO_MEDIUM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_of_every_length_are_decoded),
		cmocka_unit_test(test_ranges_do_not_wrap_around),
		cmocka_unit_test(test_protection_and_compare_are_refused),
		cmocka_unit_test(test_writes_are_data_protect),
		cmocka_unit_test(test_no_cdb_leaves_the_disk),
		cmocka_unit_test(test_inquiry_standard),
		cmocka_unit_test(test_inquiry_pages),
		cmocka_unit_test(test_inquiry_identifiers),
		cmocka_unit_test(test_units_of_alike_serials_have_names_of_their_own),
		cmocka_unit_test(test_units_read_what_is_cached),
		cmocka_unit_test(test_inquiry_provisioning_tells_of_holes),
		cmocka_unit_test(test_capacities),
		cmocka_unit_test(test_report_luns),
		cmocka_unit_test(test_mode_sense_says_write_protected),
		cmocka_unit_test(test_lba_status_wants_a_place_and_room),
		cmocka_unit_test(test_opcodes_are_reported),
		cmocka_unit_test(test_attention_and_request_sense),
	};
	int r;

	out = malloc(SCSI_ANSWER_MAX);
	r = out ? cmocka_run_group_tests_name("target scsi", tests, NULL, NULL) : 1;
	free(out);
	return r;
}
