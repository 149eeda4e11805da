/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. ktarget over the wire: login, discovery, logout, who is let in, reinstatement of sessions.
 * Owns. One ktarget a test. Locks. None.
 */
#include "wire.h"

static void test_login_negotiates_every_key(void **state)
{
	struct wire w;
	char text[PEER_TEXT_MAX];
	static const char *const answers[][2] = {
		{"HeaderDigest", "CRC32C"}, {"DataDigest", "None"}, {"MaxConnections", "1"}, {"InitialR2T", "Yes"}, {"ImmediateData", "No"},
		{"MaxBurstLength", "16384"}, {"FirstBurstLength", "8192"}, {"DefaultTime2Wait", "7"}, {"DefaultTime2Retain", "0"},
		{"MaxOutstandingR2T", "1"}, {"DataPDUInOrder", "Yes"}, {"DataSequenceInOrder", "Yes"}, {"ErrorRecoveryLevel", "0"},
		{"IFMarker", "No"}, {"OFMarker", "No"}, {"X-com.example.thing", "NotUnderstood"}, {"TargetPortalGroupTag", "1"},
	};

	wire_begin(&w, NULL);
	size_t n = text_make(text, "InitiatorName=" INITIATOR_IQN, "TargetName=" TARGET_IQN, "SessionType=Normal", "InitiatorAlias=me",
			     "HeaderDigest=CRC32C,None", "DataDigest=None,CRC32C", "MaxConnections=8", "InitialR2T=No", "ImmediateData=Yes",
			     "MaxRecvDataSegmentLength=4096", "MaxBurstLength=16384", "FirstBurstLength=8192", "DefaultTime2Wait=7",
			     "DefaultTime2Retain=20", "MaxOutstandingR2T=4", "DataPDUInOrder=No", "DataSequenceInOrder=No",
			     "ErrorRecoveryLevel=2", "IFMarker=Yes", "OFMarker=Yes", "X-com.example.thing=1", NULL);
	assert_int_equal(peer_login_step(&w.p, LOGIN_T | LOGIN_STAGES(1, 3), text, n), 0);
	assert_int_equal(w.p.bhs[1], 0x87);
	assert_int_not_equal(w.p.tsih, 0);
	assert_memory_equal(w.p.bhs + 8, w.p.isid, 6);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(answers); i++) {
		const char *v = peer_value(&w.p, answers[i][0]);
		if (!v || strcmp(v, answers[i][1]) != 0)
			fail_msg("%s: \"%s\", not \"%s\"", answers[i][0], v ? v : "(none)", answers[i][1]);
	}
	assert_non_null(peer_value(&w.p, "MaxRecvDataSegmentLength"));
	assert_null(peer_value(&w.p, "InitiatorAlias"));
	w.p.has_header_digest = true;
	assert_true(peer_ping(&w.p));
	wire_end(&w);
}

static void test_login_in_three_stages_with_continued_text(void **state)
{
	struct wire w;
	char text[PEER_TEXT_MAX];

	wire_begin(&w, NULL);
	size_t n = text_make(text, "InitiatorName=" INITIATOR_IQN, "TargetName=" TARGET_IQN, "AuthMethod=CHAP,None", NULL);
	/* the text is cut inside a name */
	assert_int_equal(peer_login_step(&w.p, LOGIN_C | LOGIN_STAGES(0, 0), text, 20), 0);
	assert_int_equal(w.p.nr_data, 0);
	assert_int_equal(w.p.bhs[1] & 0x80, 0);
	assert_int_equal(peer_login_step(&w.p, LOGIN_T | LOGIN_STAGES(0, 1), text + 20, n - 20), 0);
	assert_int_equal(w.p.bhs[1], 0x81);
	assert_string_equal(peer_value(&w.p, "AuthMethod"), "None");
	assert_string_equal(peer_value(&w.p, "TargetPortalGroupTag"), "1");
	n = text_make(text, "HeaderDigest=None", "MaxBurstLength=99999", NULL);
	assert_int_equal(peer_login_step(&w.p, LOGIN_STAGES(1, 0), text, n), 0);
	assert_int_equal(w.p.bhs[1] & 0x80, 0);
	assert_string_equal(peer_value(&w.p, "MaxBurstLength"), "99999");
	assert_int_equal(peer_login_step(&w.p, LOGIN_T | LOGIN_STAGES(1, 3), NULL, 0), 0);
	assert_int_equal(w.p.bhs[1], 0x87);
	assert_true(peer_ping(&w.p));
	wire_end(&w);
}

/* One login request of its own connection, and the status it must get; the connection must end after a refusal. */
static void expect_status(struct wire *w, int status, uint8_t flags, const char *text, size_t n)
{
	struct peer p;
	int r;

	assert_int_equal(peer_open(&p, &w->t, NULL), 0);
	r = peer_login_step(&p, flags, text, n);
	if (r != status)
		fail_msg("login answered 0x%04x, not 0x%04x", (unsigned)r, (unsigned)status);
	if (status)
		assert_true(peer_is_closed_by_target(&p, 3000));
	peer_close(&p);
}

static void test_login_refusals_carry_their_status(void **state)
{
	struct wire w;
	char text[PEER_TEXT_MAX], name[400];
	size_t n;

	wire_begin(&w, NULL);
	n = text_make(text, "InitiatorName=" INITIATOR_IQN, "TargetName=iqn.2026-01.test.kedge:other", NULL);
	expect_status(&w, 0x0203, 0x87, text, n);
	n = text_make(text, "InitiatorName=" INITIATOR_IQN, "TargetName=" TARGET_IQN "x", NULL);
	expect_status(&w, 0x0203, 0x87, text, n);
	n = text_make(text, "TargetName=" TARGET_IQN, NULL);
	expect_status(&w, 0x0207, 0x87, text, n);
	n = text_make(text, "InitiatorName=" INITIATOR_IQN, NULL);
	expect_status(&w, 0x0207, 0x87, text, n);
	n = text_make(text, "InitiatorName=" INITIATOR_IQN, "TargetName=" TARGET_IQN, "SessionType=Other", NULL);
	expect_status(&w, 0x0209, 0x87, text, n);
	n = text_make(text, "InitiatorName=iqn.a\nb", "TargetName=" TARGET_IQN, NULL);
	expect_status(&w, 0x0200, 0x87, text, n);
	snprintf(name, sizeof name, "InitiatorName=iqn.%0300d", 1);
	n = text_make(text, name, "TargetName=" TARGET_IQN, NULL);
	expect_status(&w, 0x0207, 0x87, text, n);
	/* flags: T with C, stage 2, going back, no end of the text, no '=' */
	n = text_make(text, "InitiatorName=" INITIATOR_IQN, "TargetName=" TARGET_IQN, NULL);
	expect_status(&w, 0x0200, 0xc7, text, n);
	expect_status(&w, 0x0200, 0x8b, text, n);
	expect_status(&w, 0x0200, 0x84, text, n);
	expect_status(&w, 0x0200, 0x87, text, n - 1);
	n = text_make(text, "InitiatorName=" INITIATOR_IQN, "TargetName=" TARGET_IQN, "nothing", NULL);
	expect_status(&w, 0x0200, 0x87, text, n);
	assert_int_equal(peer_login(&w.p, NULL, NULL, NULL), 0);
	wire_end(&w);
}

static void test_login_refuses_versions_and_joining(void **state)
{
	struct wire w;
	char text[PEER_TEXT_MAX];
	size_t n = text_make(text, "InitiatorName=" INITIATOR_IQN, "TargetName=" TARGET_IQN, NULL);

	wire_begin(&w, NULL);
	for (int i = 0; i < 2; i++) {
		uint8_t bhs[BHS_BYTES] = {OP_LOGIN | OP_IMMEDIATE, 0x87};
		struct peer p;
		assert_int_equal(peer_open(&p, &w.t, NULL), 0);
		if (i == 0)
			bhs[2] = bhs[3] = 1; /* version 1 only */
		else
			kedge_put_be16(bhs + 14, 77); /* a connection more for session 77 */
		assert_int_equal(peer_send(&p, bhs, text, (uint32_t)n), 0);
		assert_int_equal(peer_recv(&p), 0);
		assert_int_equal(kedge_get_be16(p.bhs + 36), i == 0 ? 0x0205 : 0x020a);
		assert_true(peer_is_closed_by_target(&p, 3000));
		peer_close(&p);
	}
	wire_end(&w);
}

static void test_what_is_not_a_login_closes(void **state)
{
	struct wire w;

	wire_begin(&w, NULL);
	for (unsigned opcode = 0; opcode < 0x40; opcode++) {
		uint8_t bhs[BHS_BYTES] = {(uint8_t)opcode};
		struct peer p;
		if (opcode == OP_LOGIN)
			continue;
		assert_int_equal(peer_open(&p, &w.t, NULL), 0);
		assert_int_equal(peer_send(&p, bhs, NULL, 0), 0);
		assert_true(peer_is_closed_by_target(&p, 3000));
		peer_close(&p);
	}
	assert_int_equal(peer_login(&w.p, NULL, NULL, NULL), 0);
	wire_end(&w);
}

static void send_text(struct peer *p, const char *text)
{
	uint8_t bhs[BHS_BYTES] = {OP_TEXT, 0x80};

	kedge_put_be32(bhs + 16, ++p->itt);
	kedge_put_be32(bhs + 20, TAG_NONE);
	kedge_put_be32(bhs + 24, p->cmd_sn++);
	assert_int_equal(peer_send(p, bhs, text, (uint32_t)strlen(text) + 1), 0);
	assert_int_equal(peer_recv(p), 0);
}

static void test_discovery_lists_the_target_and_takes_no_commands(void **state)
{
	struct wire w;
	char text[PEER_TEXT_MAX], address[64];
	uint8_t cdb[16] = {0};

	wire_begin(&w, NULL);
	size_t n = text_make(text, "InitiatorName=" INITIATOR_IQN, "SessionType=Discovery", "AuthMethod=None", NULL);
	assert_int_equal(peer_login_step(&w.p, LOGIN_T | LOGIN_STAGES(0, 3), text, n), 0);
	assert_int_equal(w.p.bhs[1], 0x83);
	send_text(&w.p, "SendTargets=All");
	assert_int_equal(pdu_opcode(w.p.bhs), OP_TEXT_RSP);
	assert_int_equal(w.p.bhs[1] & 0xc0, 0x80);
	assert_string_equal(peer_value(&w.p, "TargetName"), TARGET_IQN);
	snprintf(address, sizeof address, "127.0.0.1:%d,1", w.t.port);
	assert_string_equal(peer_value(&w.p, "TargetAddress"), address);
	send_text(&w.p, "SendTargets=iqn.2026-01.test.kedge:other");
	assert_int_equal(w.p.nr_data, 0);
	send_text(&w.p, "X-what=1");
	assert_string_equal(peer_value(&w.p, "X-what"), "NotUnderstood");
	peer_scsi(&w.p, 1, cdb, 0);
	assert_int_equal(peer_recv(&w.p), 0);
	assert_int_equal(pdu_opcode(w.p.bhs), OP_REJECT);
	wire_end(&w);
}

static void test_only_the_initiator_named_may_log_in(void **state)
{
	struct wire w;
	char text[PEER_TEXT_MAX];
	size_t n;

	wire_begin(&w, "--initiator", INITIATOR_IQN, NULL);
	n = text_make(text, "InitiatorName=iqn.2026-01.test.kedge:initiatoR", "TargetName=" TARGET_IQN, NULL);
	expect_status(&w, 0x0202, 0x87, text, n);
	n = text_make(text, "InitiatorName=" INITIATOR_IQN "2", "TargetName=" TARGET_IQN, NULL);
	expect_status(&w, 0x0202, 0x87, text, n);
	n = text_make(text, "InitiatorName=iqn.2026-01.test.kedge:other", "SessionType=Discovery", NULL);
	expect_status(&w, 0x0202, 0x87, text, n);
	/* the answer does not tell a stranger which targets exist */
	n = text_make(text, "InitiatorName=iqn.2026-01.test.kedge:other", "TargetName=iqn.2026-01.test.kedge:nix", NULL);
	expect_status(&w, 0x0202, 0x87, text, n);
	assert_int_equal(peer_login(&w.p, NULL, NULL, NULL), 0);
	wire_end(&w);
}

static void test_same_isid_reinstates_the_session(void **state)
{
	struct wire w;
	struct peer other, again;

	wire_begin(&w, NULL);
	assert_int_equal(peer_login(&w.p, NULL, NULL, NULL), 0);
	assert_int_equal(peer_open(&other, &w.t, NULL), 0);
	other.isid[5] = 9;
	assert_int_equal(peer_login(&other, NULL, NULL, NULL), 0);
	assert_int_equal(peer_open(&again, &w.t, NULL), 0);
	assert_int_equal(peer_login(&again, NULL, NULL, NULL), 0);
	assert_true(peer_is_closed_by_target(&w.p, 3000));
	assert_true(peer_ping(&other));
	assert_true(peer_ping(&again));
	assert_int_not_equal(again.tsih, other.tsih);
	peer_close(&other);
	peer_close(&again);
	wire_end(&w);
}

static void test_sessions_have_a_limit(void **state)
{
	struct wire w;
	struct peer p[3];

	wire_begin(&w, "--max-sessions", "2", NULL);
	for (uint8_t i = 0; i < 3; i++) {
		assert_int_equal(peer_open(&p[i], &w.t, NULL), 0);
		p[i].isid[5] = i;
		assert_int_equal(peer_login(&p[i], NULL, NULL, NULL), i < 2 ? 0 : 0x0302);
	}
	assert_true(peer_ping(&p[0]));
	peer_close(&p[0]);
	/* the place of the session that ended is free, as soon as the target has seen its end */
	int r = -1;
	for (int i = 0; i < 100 && r != 0; i++) {
		peer_close(&p[2]);
		assert_int_equal(peer_open(&p[2], &w.t, NULL), 0);
		p[2].isid[5] = 2;
		r = peer_login(&p[2], NULL, NULL, NULL);
	}
	assert_int_equal(r, 0);
	peer_close(&p[1]);
	peer_close(&p[2]);
	wire_end(&w);
}

static void test_logout_answers_then_closes(void **state)
{
	struct wire w;

	wire_begin(&w, NULL);
	assert_int_equal(peer_login(&w.p, NULL, NULL, NULL), 0);
	for (uint8_t reason = 2; reason != 0xff; reason--) { /* 2: recovery, not offered; 1: connection; 0 is not reached */
		uint8_t bhs[BHS_BYTES] = {OP_LOGOUT, (uint8_t)(0x80 | reason)};
		kedge_put_be32(bhs + 16, ++w.p.itt);
		kedge_put_be32(bhs + 24, w.p.cmd_sn++);
		assert_int_equal(peer_send(&w.p, bhs, NULL, 0), 0);
		assert_int_equal(peer_recv(&w.p), 0);
		assert_int_equal(pdu_opcode(w.p.bhs), OP_LOGOUT_RSP);
		assert_int_equal(pdu_itt(w.p.bhs), w.p.itt);
		assert_int_equal(w.p.bhs[2], reason == 2 ? 2 : 0);
		if (reason < 2)
			break;
	}
	assert_true(peer_is_closed_by_target(&w.p, 3000));
	wire_end(&w);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_login_negotiates_every_key),
		cmocka_unit_test(test_login_in_three_stages_with_continued_text),
		cmocka_unit_test(test_login_refusals_carry_their_status),
		cmocka_unit_test(test_login_refuses_versions_and_joining),
		cmocka_unit_test(test_what_is_not_a_login_closes),
		cmocka_unit_test(test_discovery_lists_the_target_and_takes_no_commands),
		cmocka_unit_test(test_only_the_initiator_named_may_log_in),
		cmocka_unit_test(test_same_isid_reinstates_the_session),
		cmocka_unit_test(test_sessions_have_a_limit),
		cmocka_unit_test(test_logout_answers_then_closes),
	};

	return wire_main(argc, argv) ? 2 : cmocka_run_group_tests_name("wire login", tests, NULL, NULL);
}
