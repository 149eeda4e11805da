/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The SCSI commands of a read-only disk (SPC-4, SBC-3). Pure.
 */
#include "scsi.h"

#include <string.h>

#include "inquiry.h"
#include "kedge/bytes.h"
#include "kedge/transit.h"

enum {
	CMD_TEST_UNIT_READY = 0x00, CMD_REQUEST_SENSE = 0x03, CMD_READ6 = 0x08, CMD_INQUIRY = 0x12, CMD_MODE_SENSE6 = 0x1a,
	CMD_START_STOP = 0x1b, CMD_PREVENT_ALLOW = 0x1e, CMD_READ_CAPACITY10 = 0x25, CMD_READ10 = 0x28, CMD_VERIFY10 = 0x2f,
	CMD_SYNC_CACHE10 = 0x35, CMD_MODE_SENSE10 = 0x5a, CMD_PR_IN = 0x5e, CMD_READ16 = 0x88, CMD_VERIFY16 = 0x8f,
	CMD_SYNC_CACHE16 = 0x91, CMD_SERVICE_IN = 0x9e, CMD_REPORT_LUNS = 0xa0, CMD_MAINTENANCE_IN = 0xa3, CMD_READ12 = 0xa8,
	CMD_VERIFY12 = 0xaf, CMD_READ_EXTENT = KEDGE_TRANSIT_OPCODE,
};
#define SA_READ_CAPACITY16 0x10
#define SA_GET_LBA_STATUS 0x12
#define SA_REPORT_OPCODES 0x0c

/* Opcodes that change a disk: refused as protected, whoever asks. */
static const uint8_t write_opcodes[] = {
	0x04 /* FORMAT UNIT */, 0x07 /* REASSIGN */, 0x0a /* WRITE 6 */, 0x2a /* WRITE 10 */, 0x2e /* WRITE VERIFY 10 */,
	0x41 /* WRITE SAME 10 */, 0x42 /* UNMAP */, 0x89 /* COMPARE AND WRITE */, 0x8a /* WRITE 16 */, 0x8e /* WRITE VERIFY 16 */,
	0x93 /* WRITE SAME 16 */, 0x9c /* WRITE ATOMIC 16 */, 0xaa /* WRITE 12 */, 0xae /* WRITE VERIFY 12 */, 0x48 /* SANITIZE */,
	0x8b /* ORWRITE 16 */, 0x5f /* PERSISTENT RESERVE OUT */,
};

/* What REPORT SUPPORTED OPERATION CODES says: opcode, service action (-1: none), CDB length, usage bits of the CDB. */
static const struct {
	uint8_t opcode;
	int16_t action;
	uint8_t nr_bytes;
	uint8_t usage[16];
} supported[] = {
	{CMD_TEST_UNIT_READY, -1, 6, {0x00, 0, 0, 0, 0, 0x07}},
	{CMD_REQUEST_SENSE, -1, 6, {0x03, 0x01, 0, 0, 0xff, 0x07}},
	{CMD_READ6, -1, 6, {0x08, 0x1f, 0xff, 0xff, 0xff, 0x07}},
	{CMD_INQUIRY, -1, 6, {0x12, 0x01, 0xff, 0xff, 0xff, 0x07}},
	{CMD_MODE_SENSE6, -1, 6, {0x1a, 0x08, 0xff, 0xff, 0xff, 0x07}},
	{CMD_START_STOP, -1, 6, {0x1b, 0x01, 0, 0x0f, 0xf7, 0x07}},
	{CMD_PREVENT_ALLOW, -1, 6, {0x1e, 0, 0, 0, 0x03, 0x07}},
	{CMD_READ_CAPACITY10, -1, 10, {0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0x07}},
	{CMD_READ10, -1, 10, {0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x07}},
	{CMD_VERIFY10, -1, 10, {0x2f, 0x10, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x07}},
	{CMD_SYNC_CACHE10, -1, 10, {0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0x07}},
	{CMD_MODE_SENSE10, -1, 10, {0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0x07}},
	{CMD_PR_IN, 0, 10, {0x5e, 0x00, 0, 0, 0, 0, 0, 0xff, 0xff, 0x07}},
	{CMD_PR_IN, 2, 10, {0x5e, 0x02, 0, 0, 0, 0, 0, 0xff, 0xff, 0x07}},
	{CMD_READ16, -1, 16, {0x88, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
	{CMD_VERIFY16, -1, 16, {0x8f, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
	{CMD_SYNC_CACHE16, -1, 16, {0x91, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
	{CMD_SERVICE_IN, SA_READ_CAPACITY16, 16, {0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
	{CMD_SERVICE_IN, SA_GET_LBA_STATUS, 16,
	 {0x9e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
	{CMD_REPORT_LUNS, -1, 12, {0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
	{CMD_MAINTENANCE_IN, SA_REPORT_OPCODES, 12, {0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
	{CMD_READ12, -1, 12, {0xa8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
	{CMD_VERIFY12, -1, 12, {0xaf, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
	{CMD_READ_EXTENT, -1, 16,
	 {0xc1, KEDGE_TRANSIT_CAN_ALL | KEDGE_TRANSIT_CAN_SUM, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x07}},
};

void tgt_sense_encode(enum tgt_sense sense, uint8_t out[SENSE_BYTES])
{
	memset(out, 0, SENSE_BYTES);
	out[0] = 0x70;
	out[2] = (uint8_t)(sense >> 16);
	out[7] = SENSE_BYTES - 8;
	out[12] = (uint8_t)(sense >> 8);
	out[13] = (uint8_t)sense;
}

static void fail(struct tgt_result *r, enum tgt_sense sense)
{
	r->action = TGT_ANSWER;
	r->sense = sense;
	r->nr_bytes = 0;
}

/* The answer has n bytes, of which the initiator has room for so many. */
static void give(struct tgt_result *r, uint32_t n, uint32_t allocation)
{
	r->nr_bytes = n < allocation ? n : allocation;
}

static void set_range(const struct tgt_unit *u, uint64_t lba, uint32_t nr_blocks, struct tgt_result *r)
{
	if (lba > u->nr_blocks || nr_blocks > u->nr_blocks - lba) {
		fail(r, SENSE_LBA_RANGE);
		return;
	}
	if (nr_blocks > UINT32_MAX / u->lbs_bytes) {
		fail(r, SENSE_BAD_CDB);
		return;
	}
	r->lba = lba;
	r->nr_bytes = nr_blocks * u->lbs_bytes;
	r->action = nr_blocks ? TGT_READ : TGT_ANSWER;
}

/* RDPROTECT needs protection information, which we have not. */
static void read_or_verify(const uint8_t *c, const struct tgt_unit *u, struct tgt_result *r)
{
	uint8_t op = c[0];
	bool is_verify = op == CMD_VERIFY10 || op == CMD_VERIFY12 || op == CMD_VERIFY16;
	uint64_t lba;
	uint32_t n;

	if (op == CMD_READ6) {
		set_range(u, kedge_get_be24(c + 1) & 0x1fffff, c[4] ? c[4] : 256, r);
		return;
	}
	if (op == CMD_READ16 || op == CMD_VERIFY16 || op == CMD_SYNC_CACHE16) {
		lba = kedge_get_be64(c + 2);
		n = kedge_get_be32(c + 10);
	} else if (op == CMD_READ12 || op == CMD_VERIFY12) {
		lba = kedge_get_be32(c + 2);
		n = kedge_get_be32(c + 6);
	} else {
		lba = kedge_get_be32(c + 2);
		n = kedge_get_be16(c + 7);
	}
	bool is_sync = op == CMD_SYNC_CACHE10 || op == CMD_SYNC_CACHE16;
	if (!is_sync && (c[1] & 0xe0)) {
		fail(r, SENSE_BAD_CDB);
		return;
	}
	set_range(u, lba, n, r);
	if (r->sense == SENSE_NONE && (is_verify || is_sync)) {
		if (is_verify && (c[1] & 0x06)) /* BYTCHK: compare with data that the initiator would send */
			fail(r, SENSE_BAD_CDB);
		r->action = TGT_ANSWER; /* nothing is cached, nothing is compared: the range exists */
		r->nr_bytes = 0;
	}
}

/* Vendor-specific: docs/formats.md, "Transit". */
static void read_extent(const uint8_t *c, const struct tgt_unit *u, struct tgt_result *r)
{
	uint32_t nr_blocks = kedge_get_be32(c + 10);

	if (((c[1] & ~KEDGE_TRANSIT_CAN_ALL) && c[1] != KEDGE_TRANSIT_CAN_SUM) || c[14] || nr_blocks == 0 || nr_blocks > KEDGE_TRANSIT_EXTENT_MAX_BYTES / u->lbs_bytes) {
		fail(r, SENSE_BAD_CDB);
		return;
	}
	set_range(u, kedge_get_be64(c + 2), nr_blocks, r);
	if (r->sense != SENSE_NONE)
		return;
	r->action = TGT_READ_EXTENT;
	r->codecs = c[1];
}

static void read_capacity10(const uint8_t *c, const struct tgt_unit *u, uint8_t *out, struct tgt_result *r)
{
	uint64_t last = u->nr_blocks - 1;

	if (!(c[8] & 1) && kedge_get_be32(c + 2)) {
		fail(r, SENSE_BAD_CDB);
		return;
	}
	kedge_put_be32(out, last > 0xfffffffeu ? 0xffffffffu : (uint32_t)last);
	kedge_put_be32(out + 4, u->lbs_bytes);
	give(r, 8, 8);
}

static void read_capacity16(const uint8_t *c, const struct tgt_unit *u, uint8_t *out, struct tgt_result *r)
{
	memset(out, 0, 32);
	kedge_put_be64(out, u->nr_blocks - 1);
	kedge_put_be32(out + 8, u->lbs_bytes);
	if (u->lbs_bytes == 512)
		out[13] = 3; /* 8 logical blocks a physical one */
	if (u->can_lba_status)
		out[14] = 0xc0; /* LBPME, LBPRZ: holes read as zeroes */
	give(r, 32, kedge_get_be32(c + 10));
}

static uint32_t put_mode_pages(uint8_t page, bool is_changeable, uint8_t *out)
{
	uint32_t n = 0;

	if (page == 0x08 || page == 0x3f) { /* caching: nothing is cached for writing */
		memset(out + n, 0, 20);
		out[n] = 0x08;
		out[n + 1] = 18;
		n += 20;
	}
	if (page == 0x0a || page == 0x3f) { /* control */
		memset(out + n, 0, 12);
		out[n] = 0x0a;
		out[n + 1] = 10;
		if (!is_changeable)
			out[n + 4] = 0x08; /* SWP: write protected by software */
		n += 12;
	}
	if (page == 0x1c || page == 0x3f) { /* informational exceptions */
		memset(out + n, 0, 12);
		out[n] = 0x1c;
		out[n + 1] = 10;
		n += 12;
	}
	return n;
}

static void mode_sense(const uint8_t *c, const struct tgt_unit *u, uint8_t *out, struct tgt_result *r)
{
	bool is_10 = c[0] == CMD_MODE_SENSE10, has_descriptor = !(c[1] & 8);
	uint8_t page = c[2] & 0x3f, control = c[2] >> 6, subpage = c[3];
	uint32_t head = is_10 ? 8 : 4, n = head, pages;

	if (control == 3) {
		fail(r, SENSE_SAVING);
		return;
	}
	memset(out, 0, head + 8);
	if (has_descriptor) {
		kedge_put_be32(out + n, u->nr_blocks > 0xffffffffu ? 0xffffffffu : (uint32_t)u->nr_blocks);
		kedge_put_be24(out + n + 5, u->lbs_bytes);
		n += 8;
	}
	pages = subpage != 0 && subpage != 0xff ? 0 : put_mode_pages(page, control == 1, out + n);
	if (pages == 0) {
		fail(r, SENSE_BAD_CDB);
		return;
	}
	n += pages;
	if (is_10) {
		kedge_put_be16(out, (uint16_t)(n - 2));
		out[3] = 0x90; /* WP, DPOFUA */
		kedge_put_be16(out + 6, has_descriptor ? 8 : 0);
	} else {
		out[0] = (uint8_t)(n - 1);
		out[2] = 0x90;
		out[3] = has_descriptor ? 8 : 0;
	}
	give(r, n, is_10 ? kedge_get_be16(c + 7) : c[4]);
}

static void report_luns(const uint8_t *c, unsigned nr_luns, uint8_t *out, struct tgt_result *r)
{
	uint32_t allocation = kedge_get_be32(c + 6), n;

	if (allocation < 16 || c[2] > 2) {
		fail(r, SENSE_BAD_CDB);
		return;
	}
	n = c[2] == 1 ? 0 : nr_luns * 8; /* 1: only well-known units, which we have not */
	memset(out, 0, 8 + n);
	kedge_put_be32(out, n);
	for (unsigned i = 0; i < n / 8; i++)
		out[8 + 8 * i + 1] = (uint8_t)(i + 1);
	give(r, 8 + n, allocation);
}

static void pr_in(const uint8_t *c, uint8_t *out, struct tgt_result *r)
{
	memset(out, 0, 8);
	if ((c[1] & 0x1f) == 0) { /* READ KEYS: none */
		give(r, 8, kedge_get_be16(c + 7));
	} else if ((c[1] & 0x1f) == 2) { /* REPORT CAPABILITIES: no type of reservation */
		kedge_put_be16(out, 8);
		give(r, 8, kedge_get_be16(c + 7));
	} else {
		fail(r, SENSE_BAD_CDB);
	}
}

static void one_opcode(const uint8_t *c, uint8_t *out, struct tgt_result *r)
{
	uint8_t options = c[2] & 7, opcode = c[3];
	int action = kedge_get_be16(c + 4), found = -1;
	bool has_actions = false;

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(supported); i++) {
		if (supported[i].opcode != opcode)
			continue;
		has_actions |= supported[i].action >= 0;
		if (supported[i].action < 0 || (options != 1 && supported[i].action == action))
			found = (int)i;
	}
	if ((options == 1 && has_actions) || (options == 2 && found >= 0 && !has_actions)) {
		fail(r, SENSE_BAD_CDB);
		return;
	}
	memset(out, 0, 4 + 16);
	if (found < 0) {
		out[1] = 1; /* not supported */
		give(r, 4, kedge_get_be32(c + 6));
		return;
	}
	out[1] = 3;
	kedge_put_be16(out + 2, supported[found].nr_bytes);
	memcpy(out + 4, supported[found].usage, supported[found].nr_bytes);
	give(r, 4u + supported[found].nr_bytes, kedge_get_be32(c + 6));
}

static void report_opcodes(const uint8_t *c, uint8_t *out, struct tgt_result *r)
{
	bool has_timeouts = c[2] & 0x80;
	uint32_t n = 4;

	if ((c[2] & 7) > 3) {
		fail(r, SENSE_BAD_CDB);
		return;
	}
	if (c[2] & 7) {
		one_opcode(c, out, r);
		return;
	}
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(supported); i++) {
		uint8_t *p = out + n;
		memset(p, 0, 20);
		p[0] = supported[i].opcode;
		if (supported[i].action >= 0) {
			kedge_put_be16(p + 2, (uint16_t)supported[i].action);
			p[5] = 1;
		}
		kedge_put_be16(p + 6, supported[i].nr_bytes);
		n += 8;
		if (has_timeouts) {
			p[5] |= 2;
			kedge_put_be16(p + 8, 10);
			n += 12;
		}
	}
	kedge_put_be32(out, n - 4);
	give(r, n, kedge_get_be32(c + 6));
}

static bool is_write(uint8_t opcode)
{
	return memchr(write_opcodes, opcode, sizeof write_opcodes) != NULL;
}

static void on_medium(const uint8_t *c, const struct tgt_unit *u, uint8_t *out, struct tgt_result *r)
{
	switch (c[0]) {
	case CMD_TEST_UNIT_READY:
	case CMD_START_STOP:
	case CMD_PREVENT_ALLOW:
		return;
	case CMD_READ6:
	case CMD_READ10:
	case CMD_READ12:
	case CMD_READ16:
	case CMD_VERIFY10:
	case CMD_VERIFY12:
	case CMD_VERIFY16:
	case CMD_SYNC_CACHE10:
	case CMD_SYNC_CACHE16:
		read_or_verify(c, u, r);
		return;
	case CMD_READ_EXTENT:
		read_extent(c, u, r);
		return;
	case CMD_READ_CAPACITY10:
		read_capacity10(c, u, out, r);
		return;
	case CMD_SERVICE_IN:
		if ((c[1] & 0x1f) == SA_READ_CAPACITY16) {
			read_capacity16(c, u, out, r);
		} else if ((c[1] & 0x1f) == SA_GET_LBA_STATUS && u->can_lba_status) {
			r->lba = kedge_get_be64(c + 2);
			r->allocation = kedge_get_be32(c + 10);
			if (r->lba >= u->nr_blocks)
				fail(r, SENSE_LBA_RANGE);
			else if (r->allocation < 24)
				fail(r, SENSE_BAD_CDB);
			else
				r->action = TGT_LBA_STATUS;
		} else {
			fail(r, SENSE_BAD_CDB);
		}
		return;
	case CMD_MODE_SENSE6:
	case CMD_MODE_SENSE10:
		mode_sense(c, u, out, r);
		return;
	case CMD_PR_IN:
		pr_in(c, out, r);
		return;
	case CMD_MAINTENANCE_IN:
		if ((c[1] & 0x1f) == SA_REPORT_OPCODES)
			report_opcodes(c, out, r);
		else
			fail(r, SENSE_BAD_CDB);
		return;
	default:
		fail(r, is_write(c[0]) ? SENSE_WRITE_PROTECTED : SENSE_BAD_OPCODE);
	}
}

void tgt_scsi_decode(const uint8_t *c, const struct tgt_unit *u, uint32_t lun, unsigned nr_luns, bool *has_attention,
		     uint8_t *out, struct tgt_result *r)
{
	memset(r, 0, sizeof *r);
	/* These answer at any LUN and leave a unit attention standing (SPC-4, 5.14). */
	if (c[0] == CMD_REPORT_LUNS) {
		report_luns(c, nr_luns, out, r);
		return;
	}
	if (c[0] == CMD_INQUIRY) {
		int n = tgt_inquiry(c, u, lun == 0, out);
		if (n < 0)
			fail(r, SENSE_BAD_CDB);
		else
			give(r, (uint32_t)n, kedge_get_be16(c + 3));
		return;
	}
	if (c[0] == CMD_REQUEST_SENSE) {
		if (c[1] & 1) { /* descriptor format is not kept */
			fail(r, SENSE_BAD_CDB);
			return;
		}
		tgt_sense_encode(u ? (*has_attention ? SENSE_POWER_ON : SENSE_NONE) : lun == 0 ? SENSE_NONE : SENSE_BAD_LUN, out);
		*has_attention = false;
		give(r, SENSE_BYTES, c[4]);
		return;
	}
	if (!u) {
		fail(r, lun == 0 ? (c[0] == CMD_TEST_UNIT_READY ? SENSE_NO_MEDIUM : SENSE_BAD_OPCODE) : SENSE_BAD_LUN);
		return;
	}
	if (*has_attention) {
		*has_attention = false;
		fail(r, SENSE_POWER_ON);
		return;
	}
	on_medium(c, u, out, r);
}
