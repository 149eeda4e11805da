/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. INQUIRY (SPC-4 6.6, 7.8; SBC-3 6.6). Pure.
 */
#include "inquiry.h"

#include <string.h>

#include "kedge/bytes.h"
#include "kedge/transit.h"

#define VENDOR "KEDGE   "
#define PRODUCT "kedge export    "
#define REVISION "0001"

static uint8_t peripheral(const struct tgt_unit *u, bool is_lun0)
{
	if (u)
		return 0x00;
	return is_lun0 ? 0x20 : 0x7f; /* may exist but does not; never */
}

static int standard(const struct tgt_unit *u, bool is_lun0, uint8_t *out)
{
	static const uint16_t versions[] = {0x0460 /* SPC-4 */, 0x04c0 /* SBC-3 */, 0x00a0 /* SAM-5 */, 0x0960 /* iSCSI */};

	memset(out, 0, 96);
	out[0] = peripheral(u, is_lun0);
	out[2] = 0x06; /* SPC-4 */
	out[3] = 0x12; /* HISUP, response format 2 */
	out[4] = 96 - 5;
	out[7] = 0x02; /* CMDQUE */
	memcpy(out + 8, VENDOR, 8);
	memcpy(out + 16, PRODUCT, 16);
	memcpy(out + 32, REVISION, 4);
	for (unsigned i = 0; i < KEDGE_ARRAY_LEN(versions); i++)
		kedge_put_be16(out + 58 + 2 * i, versions[i]);
	return 96;
}

static int page_serial(const struct tgt_unit *u, uint8_t *out)
{
	size_t n = strlen(u->serial);

	memcpy(out + 4, u->serial, n);
	return (int)n;
}

static int page_ids(const struct tgt_unit *u, uint8_t *out)
{
	size_t n = strlen(u->serial);
	uint8_t *p = out + 4;

	p[0] = 0x02; /* ASCII */
	p[1] = 0x01; /* T10 vendor id based */
	p[2] = 0;
	p[3] = (uint8_t)(8 + n);
	memcpy(p + 4, VENDOR, 8);
	memcpy(p + 12, u->serial, n);
	p += 12 + n;
	p[0] = 0x01; /* binary */
	p[1] = 0x03; /* NAA */
	p[2] = 0;
	p[3] = 8;
	memcpy(p + 4, u->naa, 8);
	p += 12;
	return (int)(p - out - 4);
}

static int page_limits(const struct tgt_unit *u, uint8_t *out)
{
	memset(out + 4, 0, 60);
	kedge_put_be16(out + 6, (uint16_t)(4096 / u->lbs_bytes));        /* optimal granularity */
	kedge_put_be32(out + 8, TGT_IO_MAX_BYTES / u->lbs_bytes);        /* maximum transfer */
	kedge_put_be32(out + 12, TGT_IO_MAX_BYTES / 2 / u->lbs_bytes);   /* optimal transfer */
	return 60;
}

static int page_transit(const struct tgt_unit *u, uint8_t *out)
{
	const struct kedge_transit_offer offer = {
		.codecs = KEDGE_TRANSIT_CAN_ALL | KEDGE_TRANSIT_CAN_SUM, .nr_workers = u->nr_workers,
		.extent_max_bytes = KEDGE_TRANSIT_EXTENT_MAX_BYTES};
	uint8_t page[KEDGE_TRANSIT_PAGE_BYTES];

	kedge_transit_page_encode(&offer, page);
	memcpy(out + 4, page + 4, sizeof page - 4);
	return sizeof page - 4;
}

int tgt_inquiry(const uint8_t *c, const struct tgt_unit *u, bool is_lun0, uint8_t *out)
{
	int n;

	if (c[1] & 0x02)
		return -1; /* CMDDT is gone since SPC-3 */
	if (!(c[1] & 1))
		return c[2] ? -1 : standard(u, is_lun0, out);
	out[0] = peripheral(u, is_lun0);
	out[1] = c[2];
	if (c[2] == 0x00) {
		static const uint8_t pages[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2, KEDGE_TRANSIT_PAGE};
		n = u ? (int)sizeof pages : 1;
		memcpy(out + 4, pages, (size_t)n);
	} else if (!u) {
		return -1;
	} else if (c[2] == 0x80) {
		n = page_serial(u, out);
	} else if (c[2] == 0x83) {
		n = page_ids(u, out);
	} else if (c[2] == 0xb0) {
		n = page_limits(u, out);
	} else if (c[2] == 0xb1) {
		memset(out + 4, 0, 60);
		kedge_put_be16(out + 4, 1); /* not rotating */
		n = 60;
	} else if (c[2] == 0xb2) {
		memset(out + 4, 0, 4);
		if (u->can_lba_status) {
			out[5] = 0x04; /* LBPRZ */
			out[6] = 0x02; /* thin */
		}
		n = 4;
	} else if (c[2] == KEDGE_TRANSIT_PAGE) {
		n = page_transit(u, out);
	} else {
		return -1;
	}
	kedge_put_be16(out + 2, (uint16_t)n);
	return n + 4;
}
