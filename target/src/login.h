/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_LOGIN_H
#define TGT_LOGIN_H

/* Pure but for random challenges. The login phase of one connection: request PDUs in, response PDUs out. */

#include <stdbool.h>
#include <stdint.h>

#include "chap.h"
#include "kedge/chapfile.h"
#include "pdu.h"
#include "text.h"

#define TGT_LOGIN_PDUS_MAX 8
#define TGT_NAME_MAX 224
#define TGT_RECV_DATA_BYTES 65536u /* what we declare as MaxRecvDataSegmentLength */

/* What a target wants of a login. */
struct tgt_policy {
	const char *iqn;
	const char *initiator_iqn;      /* NULL: any */
	const struct kedge_chap *chap;  /* NULL: none */
};

enum tgt_login_phase { LOGIN_SECURITY, LOGIN_CHAP_ALGORITHM, LOGIN_CHAP_RESPONSE, LOGIN_OPERATIONAL, LOGIN_DONE };

struct tgt_login {
	const struct tgt_policy *policy;
	enum tgt_login_phase phase;
	unsigned nr_pdus;
	bool has_names, is_discovery, is_authentic;
	char initiator[TGT_NAME_MAX];
	uint8_t isid[6];
	uint16_t tsih;              /* to be given at the end */
	uint16_t cid;
	/* text of requests with the C bit, collected */
	char text[TGT_TEXT_MAX + 1];
	size_t nr_text;
	/* CHAP */
	uint8_t chap_id;
	uint8_t challenge[TGT_CHAP_CHALLENGE_BYTES];
	/* negotiated; the initiator's declarations or RFC 7143's defaults */
	bool has_header_digest, has_data_digest;
	uint32_t send_data_bytes;   /* the initiator's MaxRecvDataSegmentLength */
	uint32_t max_burst_bytes;
	/* what goes out */
	struct tgt_reply reply;
	uint32_t stat_sn, exp_cmd_sn;
};

void tgt_login_init(struct tgt_login *l, const struct tgt_policy *policy);
/*
 * One login request with its data segment (nr_bytes; changed). bhs_out gets the response's header, l->reply its text.
 * 0: send it, more to come. 1: send it, the login is complete. Negative: send it (it carries the status), then close.
 */
int tgt_login_take(struct tgt_login *l, const uint8_t *bhs, char *data, uint32_t nr_bytes, uint8_t *bhs_out);
/* A response that refuses, whatever the state. */
void tgt_login_refuse(struct tgt_login *l, const uint8_t *bhs, enum tgt_login_status status,
		      uint8_t *bhs_out);

#endif
