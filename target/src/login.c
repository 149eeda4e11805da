/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The login phase (RFC 7143, 6 and 12): names, CHAP, operational keys. Pure but for getrandom(2).
 *
 * Limits before authentication (design security.md): 8 KiB of text, 64 keys, 8 PDUs; the connection adds the deadline.
 */
#include "login.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kedge/err.h"
#include "kedge/name.h"
#include "kedge/uuid.h"

enum { CSG_SECURITY = 0, CSG_OPERATIONAL = 1, CSG_FULL = 3 };

void tgt_login_init(struct tgt_login *l, const struct tgt_policy *policy)
{
	memset(l, 0, sizeof *l);
	l->policy = policy;
	l->send_data_bytes = 8192; /* RFC 7143 13.12: the default */
	l->max_burst_bytes = 262144;
	l->is_authentic = !policy->chap;
}

static void put_header(struct tgt_login *l, const uint8_t *bhs, uint8_t flags, uint32_t status, uint8_t *out)
{
	memset(out, 0, BHS_BYTES);
	out[0] = OP_LOGIN_RSP;
	out[1] = flags;
	memcpy(out + 8, bhs + 8, 6);
	kedge_put_be16(out + 14, status == 0 && (flags & 0x80) && (flags & 3) == CSG_FULL ? l->tsih : kedge_get_be16(bhs + 14));
	memcpy(out + 16, bhs + 16, 4);
	kedge_put_be32(out + 24, l->stat_sn++);
	kedge_put_be32(out + 28, l->exp_cmd_sn);
	kedge_put_be32(out + 32, l->exp_cmd_sn + 127);
	kedge_put_be16(out + 36, (uint16_t)status);
	kedge_put_be24(out + 5, (uint32_t)l->reply.nr_bytes);
}

void tgt_login_refuse(struct tgt_login *l, const uint8_t *bhs, enum tgt_login_status status, uint8_t *out)
{
	l->reply.nr_bytes = 0;
	put_header(l, bhs, 0, status, out);
}

/* ---- names ---- */

static int take_names(struct tgt_login *l, const struct tgt_keys *k)
{
	const char *initiator = tgt_keys_get(k, "InitiatorName"), *target = tgt_keys_get(k, "TargetName");
	const char *type = tgt_keys_get(k, "SessionType");

	if (l->has_names)
		return LOGIN_OK;
	if (!initiator || !*initiator || strlen(initiator) >= sizeof l->initiator)
		return LOGIN_MISSING;
	for (const char *p = initiator; *p; p++)
		if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f)
			return LOGIN_INITIATOR_ERROR;
	strcpy(l->initiator, initiator);
	if (type && strcmp(type, "Discovery") == 0)
		l->is_discovery = true;
	else if (type && strcmp(type, "Normal") != 0)
		return LOGIN_NO_SESSION_TYPE;
	if (!l->is_discovery && !target)
		return LOGIN_MISSING;
	if (l->policy->initiator_iqn && strcmp(initiator, l->policy->initiator_iqn) != 0)
		return LOGIN_FORBIDDEN;
	if (!l->is_discovery && strcmp(target, l->policy->iqn) != 0)
		return LOGIN_NOT_FOUND;
	l->has_names = true;
	return LOGIN_OK;
}

/* ---- security stage ---- */

static int begin_auth(struct tgt_login *l, const struct tgt_keys *k)
{
	const char *methods = tgt_keys_get(k, "AuthMethod");

	if (!methods)
		return LOGIN_OK; /* not offered yet: the stage cannot end without it */
	if (l->policy->chap) {
		if (!tgt_list_has(methods, "CHAP"))
			return LOGIN_AUTH_FAILED;
		tgt_reply_add(&l->reply, "AuthMethod", "CHAP");
		l->phase = LOGIN_CHAP_ALGORITHM;
	} else {
		if (!tgt_list_has(methods, "None"))
			return LOGIN_AUTH_FAILED;
		tgt_reply_add(&l->reply, "AuthMethod", "None");
	}
	return LOGIN_OK;
}

static int offer_challenge(struct tgt_login *l, const struct tgt_keys *k)
{
	const char *algorithms = tgt_keys_get(k, "CHAP_A");
	char text[2 * TGT_CHAP_CHALLENGE_BYTES + 3];

	if (!algorithms || !tgt_list_has(algorithms, "5"))
		return LOGIN_AUTH_FAILED;
	kedge_random(&l->chap_id, 1);
	kedge_random(l->challenge, sizeof l->challenge);
	tgt_reply_add(&l->reply, "CHAP_A", "5");
	tgt_reply_add_number(&l->reply, "CHAP_I", l->chap_id);
	tgt_binary_encode(l->challenge, sizeof l->challenge, text);
	tgt_reply_add(&l->reply, "CHAP_C", text);
	l->phase = LOGIN_CHAP_RESPONSE;
	return LOGIN_OK;
}

/* The initiator wants us to prove ourselves too. */
static int prove_ourselves(struct tgt_login *l, const struct tgt_keys *k)
{
	const char *id_text = tgt_keys_get(k, "CHAP_I"), *challenge_text = tgt_keys_get(k, "CHAP_C");
	uint8_t challenge[TGT_CHAP_CHALLENGE_MAX], digest[TGT_CHAP_MD5_BYTES];
	char text[2 * TGT_CHAP_MD5_BYTES + 3];
	uint32_t id;
	int n;

	if (!id_text && !challenge_text)
		return LOGIN_OK;
	if (!id_text || !challenge_text || !kedge_chap_is_mutual(l->policy->chap) || !tgt_number_parse(id_text, 255, &id))
		return LOGIN_AUTH_FAILED;
	n = tgt_binary_decode(challenge_text, challenge, sizeof challenge);
	if (n < 1)
		return LOGIN_AUTH_FAILED;
	/* our own challenge sent back: somebody wants us to compute the answer for him (RFC 7143, 9.2.1) */
	if (n == TGT_CHAP_CHALLENGE_BYTES && memcmp(challenge, l->challenge, (size_t)n) == 0)
		return LOGIN_AUTH_FAILED;
	if (tgt_chap_response((uint8_t)id, l->policy->chap->mutual_secret, challenge, (size_t)n, digest) < 0)
		return LOGIN_NO_RESOURCES;
	tgt_reply_add(&l->reply, "CHAP_N", l->policy->chap->mutual_user);
	tgt_binary_encode(digest, sizeof digest, text);
	tgt_reply_add(&l->reply, "CHAP_R", text);
	return LOGIN_OK;
}

static int check_response(struct tgt_login *l, const struct tgt_keys *k)
{
	const char *name = tgt_keys_get(k, "CHAP_N"), *response = tgt_keys_get(k, "CHAP_R");
	uint8_t given[TGT_CHAP_MD5_BYTES], expected[TGT_CHAP_MD5_BYTES];
	int r;

	if (!name || !response || tgt_binary_decode(response, given, sizeof given) != TGT_CHAP_MD5_BYTES)
		return LOGIN_AUTH_FAILED;
	if (tgt_chap_response(l->chap_id, l->policy->chap->secret, l->challenge, sizeof l->challenge, expected) < 0)
		return LOGIN_NO_RESOURCES;
	if (!tgt_chap_is_equal(given, expected) || strcmp(name, l->policy->chap->user) != 0)
		return LOGIN_AUTH_FAILED;
	r = prove_ourselves(l, k);
	if (r != LOGIN_OK)
		return r;
	l->is_authentic = true;
	l->phase = LOGIN_SECURITY;
	return LOGIN_OK;
}

static int take_security(struct tgt_login *l, const struct tgt_keys *k)
{
	switch (l->phase) {
	case LOGIN_CHAP_ALGORITHM:
		return offer_challenge(l, k);
	case LOGIN_CHAP_RESPONSE:
		return check_response(l, k);
	default:
		return begin_auth(l, k);
	}
}

/* ---- operational keys ---- */

static bool take_digest(const char *list, const char *key, struct tgt_reply *r)
{
	/* first choice of the initiator that we know */
	bool is_crc = false;

	for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
		if (strncmp(p, "CRC32C", 6) == 0 && (p[6] == ',' || !p[6])) {
			is_crc = true;
			break;
		}
		if (strncmp(p, "None", 4) == 0 && (p[4] == ',' || !p[4]))
			break;
	}
	tgt_reply_add(r, key, is_crc ? "CRC32C" : tgt_list_has(list, "None") ? "None" : "Reject");
	return is_crc;
}

/* A length of which the smaller one counts. A value that is none is refused and leaves *value as it was. */
static void take_min(const char *text, const char *key, uint32_t ours, struct tgt_reply *r, uint32_t *value)
{
	uint32_t v;

	if (!tgt_number_parse(text, 0xffffff, &v) || v < 512) {
		tgt_reply_add(r, key, "Reject");
		return;
	}
	*value = v < ours ? v : ours;
	tgt_reply_add_number(r, key, *value);
}

/* Keys whose result is fixed by what we can do, with the answer we give. */
static const struct {
	const char *key, *answer;
} fixed[] = {
	{"InitialR2T", "Yes"}, {"ImmediateData", "No"}, {"MaxConnections", "1"}, {"MaxOutstandingR2T", "1"},
	{"DataPDUInOrder", "Yes"}, {"DataSequenceInOrder", "Yes"}, {"ErrorRecoveryLevel", "0"}, {"DefaultTime2Retain", "0"},
	{"IFMarker", "No"}, {"OFMarker", "No"}, {"IFMarkInt", "Irrelevant"}, {"OFMarkInt", "Irrelevant"},
	{"TaskReporting", "RFC3720"}, {"iSCSIProtocolLevel", "1"}, {"RDMAExtensions", "No"},
};

/* Declarations and keys of the security stage: taken notice of elsewhere, answered by nothing. */
static bool is_declaration(const char *key)
{
	static const char *const names[] = {"InitiatorName", "InitiatorAlias", "TargetName", "SessionType", "AuthMethod",
					    "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R", "SendTargets"};

	return kedge_word_find(names, KEDGE_ARRAY_LEN(names), key) >= 0;
}

static void take_key(struct tgt_login *l, const char *key, const char *value)
{
	struct tgt_reply *r = &l->reply;
	uint32_t v;

	if (is_declaration(key))
		return;
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(fixed); i++) {
		if (strcmp(key, fixed[i].key) == 0) {
			tgt_reply_add(r, key, fixed[i].answer);
			return;
		}
	}
	if (strcmp(key, "HeaderDigest") == 0) {
		l->has_header_digest = take_digest(value, key, r);
	} else if (strcmp(key, "DataDigest") == 0) {
		l->has_data_digest = take_digest(value, key, r);
	} else if (strcmp(key, "MaxRecvDataSegmentLength") == 0) {
		if (tgt_number_parse(value, 0xffffff, &v) && v >= 512)
			l->send_data_bytes = v;
		else
			tgt_reply_add(r, key, "Reject");
	} else if (strcmp(key, "MaxBurstLength") == 0) {
		take_min(value, key, 0xffffff, r, &l->max_burst_bytes);
	} else if (strcmp(key, "FirstBurstLength") == 0) {
		take_min(value, key, 65536, r, &v);
	} else if (strcmp(key, "DefaultTime2Wait") == 0) {
		tgt_reply_add_number(r, key, tgt_number_parse(value, 3600, &v) && v > 2 ? v : 2); /* the larger one counts */
	} else {
		tgt_reply_add(r, key, "NotUnderstood");
	}
}

static void take_operational(struct tgt_login *l, const struct tgt_keys *k)
{
	bool is_first = l->phase != LOGIN_OPERATIONAL;

	l->phase = LOGIN_OPERATIONAL;
	for (unsigned i = 0; i < k->nr_pairs; i++)
		take_key(l, k->pairs[i].key, k->pairs[i].value);
	if (is_first)
		tgt_reply_add_number(&l->reply, "MaxRecvDataSegmentLength", TGT_RECV_DATA_BYTES);
}

/* ---- requests ---- */

static int check_request(struct tgt_login *l, const uint8_t *bhs, uint32_t nr_bytes)
{
	uint8_t flags = bhs[1], csg = flags >> 2 & 3, nsg = flags & 3;
	bool is_transit = flags & 0x80, is_continued = flags & 0x40;

	if (pdu_opcode(bhs) != OP_LOGIN || ++l->nr_pdus > TGT_LOGIN_PDUS_MAX || nr_bytes > TGT_TEXT_MAX - l->nr_text)
		return LOGIN_INITIATOR_ERROR;
	if (bhs[3] > 0) /* Version-min: we speak version 0 */
		return LOGIN_BAD_VERSION;
	if (csg > CSG_OPERATIONAL || (is_transit && (is_continued || nsg <= csg || nsg == 2)))
		return LOGIN_INITIATOR_ERROR;
	if (l->nr_pdus == 1) {
		memcpy(l->isid, bhs + 8, 6);
		l->cid = kedge_get_be16(bhs + 20);
		l->exp_cmd_sn = kedge_get_be32(bhs + 24);
		if (kedge_get_be16(bhs + 14) != 0)
			return LOGIN_NO_SESSION; /* one connection a session: there is none to join */
	} else if (memcmp(l->isid, bhs + 8, 6) != 0) {
		return LOGIN_INITIATOR_ERROR;
	}
	if (csg == CSG_SECURITY && l->phase == LOGIN_OPERATIONAL)
		return LOGIN_INITIATOR_ERROR;
	if (csg == CSG_OPERATIONAL && !l->is_authentic)
		return LOGIN_AUTH_FAILED;
	return LOGIN_OK;
}

static int take_stage(struct tgt_login *l, const uint8_t *bhs)
{
	uint8_t csg = bhs[1] >> 2 & 3;
	bool is_first = !l->has_names;
	struct tgt_keys k;
	int r;

	r = tgt_keys_parse(l->text, l->nr_text, &k);
	l->nr_text = 0;
	if (r < 0)
		return LOGIN_INITIATOR_ERROR;
	r = take_names(l, &k);
	if (r != LOGIN_OK)
		return r;
	if (is_first && !l->is_discovery)
		tgt_reply_add(&l->reply, "TargetPortalGroupTag", "1");
	if (csg == CSG_SECURITY)
		r = take_security(l, &k);
	else
		take_operational(l, &k);
	if (r == LOGIN_OK && l->reply.is_full)
		r = LOGIN_INITIATOR_ERROR;
	return r;
}

int tgt_login_take(struct tgt_login *l, const uint8_t *bhs, char *data, uint32_t nr_bytes, uint8_t *out)
{
	uint8_t flags = bhs[1], csg = flags >> 2 & 3, nsg = flags & 3;
	bool can_go_on;
	int r;

	l->reply.nr_bytes = 0;
	l->reply.is_full = false;
	r = check_request(l, bhs, nr_bytes);
	if (r == LOGIN_OK && nr_bytes) {
		memcpy(l->text + l->nr_text, data, nr_bytes);
		l->nr_text += nr_bytes;
	}
	if (r == LOGIN_OK && (flags & 0x40)) { /* more text follows: an empty answer asks for it */
		put_header(l, bhs, (uint8_t)(csg << 2), 0, out);
		return 0;
	}
	if (r == LOGIN_OK)
		r = take_stage(l, bhs);
	if (r != LOGIN_OK) {
		tgt_login_refuse(l, bhs, (enum tgt_login_status)r, out);
		return -EPERM;
	}
	/* The security stage ends when nothing of it is under way and the initiator has proven itself. */
	can_go_on = csg == CSG_OPERATIONAL || (l->phase == LOGIN_SECURITY && l->is_authentic);
	if ((flags & 0x80) && can_go_on) {
		put_header(l, bhs, (uint8_t)(0x80 | csg << 2 | nsg), 0, out);
		if (nsg == CSG_FULL) {
			l->phase = LOGIN_DONE;
			return 1;
		}
		return 0;
	}
	put_header(l, bhs, (uint8_t)(csg << 2), 0, out);
	return 0;
}
