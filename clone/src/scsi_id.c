/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. INQUIRY and READ CAPACITY through SG_IO, for the identity of a disk.
 *
 * Owns. Nothing. Locks. None.
 */
#include "scsi_id.h"

#include <errno.h>
#include <scsi/sg.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kcopy/scsi_reply.h"
#include "kedge/bytes.h"

#define COMMAND_MS 10000
#define TRIES 5 /* a unit attention is told once for each thing that happened to the unit */
#define SENSE_UNIT_ATTENTION 6

static bool is_unit_attention(const uint8_t *sense, unsigned nr_bytes)
{
	if (nr_bytes < 3)
		return false;
	return ((sense[0] & 0x7f) >= 0x72 ? sense[1] & 15 : sense[2] & 15) == SENSE_UNIT_ATTENTION;
}

/* ret_nr_bytes: so many came. */
static int command(int fd, const uint8_t *cdb, unsigned nr_cdb_bytes, uint8_t *buf, unsigned buf_bytes, size_t *ret_nr_bytes,
		   struct kedge_err *err)
{
	uint8_t sense[32];

	for (unsigned i = 0; i < TRIES; i++) {
		struct sg_io_hdr h = {.interface_id = 'S', .dxfer_direction = SG_DXFER_FROM_DEV, .cmd_len = (unsigned char)nr_cdb_bytes,
				      .mx_sb_len = sizeof sense, .dxfer_len = buf_bytes, .dxferp = buf, .cmdp = (unsigned char *)(uintptr_t)cdb,
				      .sbp = sense, .timeout = COMMAND_MS};
		memset(buf, 0, buf_bytes);
		if (ioctl(fd, SG_IO, &h) < 0)
			return kedge_err_set(err, -errno, KEDGE_SIDE_SOURCE, "the source's disk takes no SCSI command: %s", strerror(errno));
		if ((h.info & SG_INFO_OK_MASK) == SG_INFO_OK) {
			*ret_nr_bytes = h.resid >= 0 && (unsigned)h.resid <= buf_bytes ? buf_bytes - (unsigned)h.resid : 0;
			return 0;
		}
		if (h.host_status || (h.driver_status & 15) == 6)
			return kedge_err_set(err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "the source's disk does not answer");
		if (!is_unit_attention(sense, h.sb_len_wr))
			break;
	}
	return kedge_err_set(err, -EIO, KEDGE_SIDE_SOURCE, "the source's disk refuses SCSI command 0x%02x", cdb[0]);
}

int scsi_id_read(int fd, struct kedge_identity *ret_identity, struct kedge_err *err)
{
	const uint8_t inquiry[6] = {0x12, 1, 0x80, 0, 252, 0};
	const uint8_t capacity[16] = {0x9e, 0x10, [13] = 32};
	struct kedge_identity id = {0};
	struct kcopy_capacity c;
	char text[KCOPY_USN_MAX];
	uint8_t buf[252];
	size_t n;
	int r = command(fd, inquiry, sizeof inquiry, buf, sizeof buf, &n, err);

	if (r < 0)
		return r;
	r = kcopy_parse_usn(buf, n, text);
	if (r < 0)
		return kedge_err_set(err, r, KEDGE_SIDE_SOURCE, "the source's disk says something else than its serial number");
	if (kedge_serial_parse(text, &id.volume, &id.epoch) < 0)
		id.volume = (struct kedge_uuid){0};
	r = command(fd, capacity, sizeof capacity, buf, 32, &n, err);
	if (r < 0)
		return r;
	r = kcopy_parse_capacity(buf, n, &c);
	if (r < 0)
		return kedge_err_set(err, r, KEDGE_SIDE_SOURCE, "the source's disk says something else than its size");
	id.size_bytes = c.nr_blocks * c.block_bytes;
	id.lbs_bytes = c.block_bytes;
	*ret_identity = id;
	return 0;
}
