/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. ktarget over the wire: CHAP, one way and both ways, and the ways around it.
 * Owns. One ktarget and a CHAP file a test. Locks. None.
 */
#include "wire.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chap.h"
#include "text.h"

#define USER "in-user"
#define SECRET "initiator-secret-1"
#define MUTUAL_USER "out-user"
#define MUTUAL_SECRET "target-secret-22"

static char chap_path[64];

static void chap_begin(struct wire *w, bool is_mutual)
{
	int fd;

	strcpy(chap_path, "/tmp/kedge-chap.XXXXXX");
	fd = mkstemp(chap_path);
	assert_true(fd >= 0);
	dprintf(fd, "user = " USER "\nsecret = " SECRET "\n");
	if (is_mutual)
		dprintf(fd, "mutual-user = " MUTUAL_USER "\nmutual-secret = " MUTUAL_SECRET "\n");
	close(fd);
	wire_begin(w, "--chap-file", chap_path, NULL);
}

static void chap_end(struct wire *w)
{
	wire_end(w);
	unlink(chap_path);
}

static int offer(struct peer *p, const char *methods)
{
	char text[PEER_TEXT_MAX], key[128];

	snprintf(key, sizeof key, "AuthMethod=%s", methods);
	return peer_login_step(p, LOGIN_T | LOGIN_STAGES(0, 1), text,
			       text_make(text, "InitiatorName=" INITIATOR_IQN, "TargetName=" TARGET_IQN, key, NULL));
}

struct challenge {
	uint8_t id, bytes[TGT_CHAP_CHALLENGE_MAX];
	size_t nr_bytes;
};

/* The login up to the target's challenge. */
static void get_challenge(struct peer *p, struct challenge *c)
{
	char text[PEER_TEXT_MAX];
	uint32_t id;
	int n;

	assert_int_equal(offer(p, "CHAP,None"), 0);
	assert_string_equal(peer_value(p, "AuthMethod"), "CHAP");
	assert_int_equal(p->bhs[1] & 0x80, 0);
	assert_int_equal(peer_login_step(p, LOGIN_STAGES(0, 0), text, text_make(text, "CHAP_A=8,7,6,5", NULL)), 0);
	assert_string_equal(peer_value(p, "CHAP_A"), "5");
	assert_true(tgt_number_parse(peer_value(p, "CHAP_I"), 255, &id));
	n = tgt_binary_decode(peer_value(p, "CHAP_C"), c->bytes, sizeof c->bytes);
	assert_true(n >= 16);
	c->id = (uint8_t)id;
	c->nr_bytes = (size_t)n;
}

/* The answer to a challenge; more: CHAP_I and CHAP_C of a challenge of our own. */
static int respond(struct peer *p, const struct challenge *c, const char *user, const char *secret, const char *more1, const char *more2)
{
	char text[PEER_TEXT_MAX], name[128], response[96], hex[64];
	uint8_t digest[TGT_CHAP_MD5_BYTES];

	assert_int_equal(tgt_chap_response(c->id, secret, c->bytes, c->nr_bytes, digest), 0);
	tgt_binary_encode(digest, sizeof digest, hex);
	snprintf(name, sizeof name, "CHAP_N=%s", user);
	snprintf(response, sizeof response, "CHAP_R=%s", hex);
	return peer_login_step(p, LOGIN_T | LOGIN_STAGES(0, 1), text, text_make(text, name, response, more1, more2, NULL));
}

static void finish_login(struct peer *p)
{
	assert_int_equal(p->bhs[1], 0x81);
	assert_int_equal(peer_login_step(p, LOGIN_T | LOGIN_STAGES(1, 3), NULL, 0), 0);
	assert_int_equal(p->bhs[1], 0x87);
	assert_true(peer_ping(p));
}

static void test_chap_right_secret_logs_in(void **state)
{
	struct challenge c;
	struct wire w;

	chap_begin(&w, false);
	get_challenge(&w.p, &c);
	assert_int_equal(respond(&w.p, &c, USER, SECRET, NULL, NULL), 0);
	finish_login(&w.p);
	chap_end(&w);
}

static void expect_refusal(struct wire *w, const char *user, const char *secret, const char *more1, const char *more2)
{
	struct challenge c;
	struct peer p;

	assert_int_equal(peer_open(&p, &w->t, NULL), 0);
	get_challenge(&p, &c);
	assert_int_equal(respond(&p, &c, user, secret, more1, more2), 0x0201);
	assert_true(peer_is_closed_by_target(&p, 3000));
	peer_close(&p);
}

static void test_chap_wrong_secret_or_name_is_refused(void **state)
{
	struct wire w;

	chap_begin(&w, false);
	expect_refusal(&w, USER, SECRET "x", NULL, NULL);
	expect_refusal(&w, USER, "", NULL, NULL);
	expect_refusal(&w, USER "x", SECRET, NULL, NULL);
	expect_refusal(&w, "", SECRET, NULL, NULL);
	expect_refusal(&w, MUTUAL_USER, MUTUAL_SECRET, NULL, NULL);
	/* it has no secret of its own to prove itself with */
	expect_refusal(&w, USER, SECRET, "CHAP_I=1", "CHAP_C=0x00112233445566778899aabbccddeeff");
	chap_end(&w);
}

static void test_chap_bad_responses_are_refused(void **state)
{
	static const char *const responses[] = {
		"CHAP_R=", "CHAP_R=0x", "CHAP_R=0x00", "CHAP_R=0b", "CHAP_R=zz", "CHAP_R=0xzz112233445566778899aabbccddeeff",
		"CHAP_R=0x00112233445566778899aabbccddee", "CHAP_R=0x00112233445566778899aabbccddeeff00", "CHAP_X=1",
	};
	struct wire w;

	chap_begin(&w, false);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(responses); i++) {
		char text[PEER_TEXT_MAX];
		struct challenge c;
		struct peer p;
		assert_int_equal(peer_open(&p, &w.t, NULL), 0);
		get_challenge(&p, &c);
		assert_int_equal(peer_login_step(&p, 0x81, text, text_make(text, "CHAP_N=" USER, responses[i], NULL)), 0x0201);
		peer_close(&p);
	}
	chap_end(&w);
}

static void test_chap_cannot_be_left_out(void **state)
{
	struct wire w;
	struct peer p;
	char text[PEER_TEXT_MAX];
	struct challenge c;

	chap_begin(&w, false);
	/* straight to the operational stage */
	assert_int_equal(peer_login(&w.p, NULL, NULL, NULL), 0x0201);
	/* None, or a method that it does not know */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(peer_open(&p, &w.t, NULL), 0);
		assert_int_equal(offer(&p, i ? "KRB5,SRP" : "None"), 0x0201);
		peer_close(&p);
	}
	/* the security stage without AuthMethod: no transit, whatever is asked for */
	assert_int_equal(peer_open(&p, &w.t, NULL), 0);
	size_t n = text_make(text, "InitiatorName=" INITIATOR_IQN, "TargetName=" TARGET_IQN, NULL);
	assert_int_equal(peer_login_step(&p, LOGIN_T | LOGIN_STAGES(0, 3), text, n), 0);
	assert_int_equal(p.bhs[1] & 0x80, 0);
	assert_int_equal(peer_login_step(&p, LOGIN_T | LOGIN_STAGES(0, 3), NULL, 0), 0);
	assert_int_equal(p.bhs[1] & 0x80, 0);
	peer_close(&p);
	/* after the challenge, without a response: to the next stage */
	assert_int_equal(peer_open(&p, &w.t, NULL), 0);
	get_challenge(&p, &c);
	assert_int_equal(peer_login_step(&p, LOGIN_T | LOGIN_STAGES(1, 3), NULL, 0), 0x0201);
	peer_close(&p);
	/* algorithms without MD5 */
	assert_int_equal(peer_open(&p, &w.t, NULL), 0);
	assert_int_equal(offer(&p, "CHAP"), 0);
	assert_int_equal(peer_login_step(&p, 0x00, text, text_make(text, "CHAP_A=6,7,55", NULL)), 0x0201);
	peer_close(&p);
	/* discovery is not open either */
	assert_int_equal(peer_open(&p, &w.t, NULL), 0);
	n = text_make(text, "InitiatorName=" INITIATOR_IQN, "SessionType=Discovery", "AuthMethod=None", NULL);
	assert_int_equal(peer_login_step(&p, LOGIN_T | LOGIN_STAGES(0, 3), text, n), 0x0201);
	peer_close(&p);
	chap_end(&w);
}

static void test_chap_mutual_proves_the_target(void **state)
{
	static const uint8_t ours[] = {0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 1};
	uint8_t expected[TGT_CHAP_MD5_BYTES], given[TGT_CHAP_MD5_BYTES];
	struct challenge c;
	struct wire w;

	chap_begin(&w, true);
	get_challenge(&w.p, &c);
	assert_int_equal(respond(&w.p, &c, USER, SECRET, "CHAP_I=200", "CHAP_C=0x00112233445566778899aabbccddeeff01"), 0);
	assert_string_equal(peer_value(&w.p, "CHAP_N"), MUTUAL_USER);
	assert_int_equal(tgt_chap_response(200, MUTUAL_SECRET, ours, sizeof ours, expected), 0);
	assert_int_equal(tgt_binary_decode(peer_value(&w.p, "CHAP_R"), given, sizeof given), TGT_CHAP_MD5_BYTES);
	assert_memory_equal(given, expected, sizeof given);
	finish_login(&w.p);
	/* who does not know the secret gets no proof out of the target, nor who asks by halves */
	expect_refusal(&w, USER, "some-other-secret", "CHAP_I=200", "CHAP_C=0x0011223344556677");
	expect_refusal(&w, USER, SECRET, "CHAP_I=200", NULL);
	expect_refusal(&w, USER, SECRET, "CHAP_C=0x0011223344556677", NULL);
	expect_refusal(&w, USER, SECRET, "CHAP_I=256", "CHAP_C=0x0011223344556677");
	expect_refusal(&w, USER, SECRET, "CHAP_I=1", "CHAP_C=0xnothing");
	expect_refusal(&w, USER, SECRET, "CHAP_I=1", "CHAP_C=0b");
	chap_end(&w);
}

static void test_chap_reflected_challenge_is_refused(void **state)
{
	char id[32], text[2 * TGT_CHAP_CHALLENGE_MAX + 16] = "CHAP_C=";
	struct challenge c;
	struct wire w;

	chap_begin(&w, true);
	get_challenge(&w.p, &c);
	snprintf(id, sizeof id, "CHAP_I=%u", c.id);
	tgt_binary_encode(c.bytes, c.nr_bytes, text + 7);
	assert_int_equal(respond(&w.p, &c, USER, SECRET, id, text), 0x0201);
	assert_null(peer_value(&w.p, "CHAP_R"));
	chap_end(&w);
}

static void test_chap_challenge_too_long_is_refused(void **state)
{
	static char key[3000] = "CHAP_C=0x";
	struct wire w;

	chap_begin(&w, true);
	memset(key + 9, 'a', 2 * (TGT_CHAP_CHALLENGE_MAX + 1));
	expect_refusal(&w, USER, SECRET, "CHAP_I=1", key);
	chap_end(&w);
}

static void test_chap_replay_fails_as_challenges_differ(void **state)
{
	struct challenge c[8], d;
	struct wire w;
	struct peer p;

	for (int start = 0; start < 2; start++) { /* also after a restart: tgt's were the same each time */
		chap_begin(&w, false);
		for (int i = 0; i < 4; i++) {
			assert_int_equal(peer_open(&p, &w.t, NULL), 0);
			get_challenge(&p, &c[4 * start + i]);
			peer_close(&p);
		}
		if (start == 1) { /* the answer to the first challenge of the first start */
			get_challenge(&w.p, &d);
			d = c[0];
			assert_int_equal(respond(&w.p, &d, USER, SECRET, NULL, NULL), 0x0201);
		}
		chap_end(&w);
	}
	for (int i = 0; i < 8; i++)
		for (int j = 0; j < i; j++)
			assert_memory_not_equal(c[i].bytes, c[j].bytes, 16);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chap_right_secret_logs_in),
		cmocka_unit_test(test_chap_wrong_secret_or_name_is_refused),
		cmocka_unit_test(test_chap_bad_responses_are_refused),
		cmocka_unit_test(test_chap_cannot_be_left_out),
		cmocka_unit_test(test_chap_mutual_proves_the_target),
		cmocka_unit_test(test_chap_reflected_challenge_is_refused),
		cmocka_unit_test(test_chap_challenge_too_long_is_refused),
		cmocka_unit_test(test_chap_replay_fails_as_challenges_differ),
	};

	return wire_main(argc, argv) ? 2 : cmocka_run_group_tests_name("wire chap", tests, NULL, NULL);
}
