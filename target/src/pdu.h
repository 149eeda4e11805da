/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_PDU_H
#define TGT_PDU_H

/* Pure. Numbers of RFC 7143 and access to the basic header segment. */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "kedge/bytes.h"

#define BHS_BYTES 48u
#define DIGEST_BYTES 4u

enum tgt_opcode {
	OP_NOP_OUT = 0x00, OP_SCSI_CMD = 0x01, OP_TMF = 0x02, OP_LOGIN = 0x03, OP_TEXT = 0x04, OP_DATA_OUT = 0x05,
	OP_LOGOUT = 0x06, OP_SNACK = 0x10,
	OP_NOP_IN = 0x20, OP_SCSI_RSP = 0x21, OP_TMF_RSP = 0x22, OP_LOGIN_RSP = 0x23, OP_TEXT_RSP = 0x24, OP_DATA_IN = 0x25,
	OP_LOGOUT_RSP = 0x26, OP_REJECT = 0x3f,
};

#define OP_IMMEDIATE 0x40
#define TAG_NONE 0xffffffffu

/* Reject reasons, 11.17.1 */
#define REJECT_DATA_DIGEST 2
#define REJECT_NOT_SUPPORTED 5
#define REJECT_PROTOCOL 4
#define REJECT_INVALID_FIELD 9

/* Login status, class << 8 | detail, 11.13.5 */
enum tgt_login_status {
	LOGIN_OK = 0, LOGIN_INITIATOR_ERROR = 0x0200, LOGIN_AUTH_FAILED = 0x0201, LOGIN_FORBIDDEN = 0x0202,
	LOGIN_NOT_FOUND = 0x0203, LOGIN_BAD_VERSION = 0x0205, LOGIN_TOO_MANY = 0x0206, LOGIN_MISSING = 0x0207,
	LOGIN_NO_SESSION_TYPE = 0x0209, LOGIN_NO_SESSION = 0x020a, LOGIN_INVALID = 0x020b, LOGIN_NO_RESOURCES = 0x0302,
};

static inline uint8_t pdu_opcode(const uint8_t *bhs)
{
	return bhs[0] & 0x3f;
}
static inline bool pdu_is_immediate(const uint8_t *bhs)
{
	return bhs[0] & OP_IMMEDIATE;
}
static inline uint32_t pdu_data_bytes(const uint8_t *bhs)
{
	return kedge_get_be24(bhs + 5);
}
static inline uint32_t pdu_ahs_bytes(const uint8_t *bhs)
{
	return bhs[4] * 4u;
}
static inline uint32_t pdu_itt(const uint8_t *bhs)
{
	return kedge_get_be32(bhs + 16);
}
static inline uint32_t pdu_pad4(uint32_t n)
{
	return (n + 3) & ~3u;
}

/* SAM LUN field (8 bytes): peripheral and flat addressing; 0xffffffff for what we do not know. */
uint32_t pdu_lun(const uint8_t field[8]);

#endif
