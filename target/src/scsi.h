/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_SCSI_H
#define TGT_SCSI_H

/* Pure. SCSI commands: decoded to what is to be done. Data that needs no disk is built at once. */

#include <stdbool.h>
#include <stdint.h>

#define SCSI_GOOD 0x00
#define SCSI_CHECK_CONDITION 0x02
#define SCSI_BUSY 0x08

#define SENSE_BYTES 18
#define SCSI_ANSWER_MAX 8192u

/* sense key << 16 | ASC << 8 | ASCQ */
enum tgt_sense {
	SENSE_NONE = 0, SENSE_NO_MEDIUM = 0x023a00, SENSE_READ_ERROR = 0x031100, SENSE_BAD_OPCODE = 0x052000,
	SENSE_LBA_RANGE = 0x052100, SENSE_BAD_CDB = 0x052400, SENSE_BAD_LUN = 0x052500, SENSE_SAVING = 0x053900,
	SENSE_POWER_ON = 0x062900, SENSE_WRITE_PROTECTED = 0x072700,
};

struct tgt_unit {
	uint64_t nr_blocks;
	uint32_t lbs_bytes;
	char serial[128];
	uint8_t naa[8];
	bool can_lba_status;
	uint8_t nr_workers;     /* for READ EXTENT, at least 1 */
};

enum tgt_action { TGT_ANSWER, TGT_READ, TGT_LBA_STATUS, TGT_READ_EXTENT };

struct tgt_result {
	enum tgt_action action;
	enum tgt_sense sense;   /* ANSWER: other than NONE: check condition */
	uint32_t nr_bytes;      /* ANSWER: bytes of out; READ, READ_EXTENT: bytes to read */
	uint64_t lba;           /* READ, READ_EXTENT, LBA_STATUS */
	uint8_t codecs;         /* READ_EXTENT: what the answer may be (kedge/transit.h) */
	uint32_t allocation;    /* LBA_STATUS: bytes of the answer at most */
};

/*
 * unit: NULL for a LUN that does not exist (lun 0: exists as SPC asks, without a medium). luns: those that exist besides 0.
 * has_attention: a unit attention waits; set to false when this command reports it. out: SCSI_ANSWER_MAX bytes.
 */
void tgt_scsi_decode(const uint8_t *cdb, const struct tgt_unit *unit, uint32_t lun, unsigned nr_luns, bool *has_attention,
		     uint8_t *out, struct tgt_result *ret_result);
/* Fixed format sense data. */
void tgt_sense_encode(enum tgt_sense sense, uint8_t out[SENSE_BYTES]);

#endif
