/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Units of the target's text: keys, numbers, binary values, replies; CHAP responses; the login's decisions that need no
 * socket. Text lies at the end of a heap block of its exact size, so that a sanitizer sees a read behind it.
 * Owns. Nothing. Locks. None.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chap.h"
#include "login.h"
#include "text.h"

static char *copy_of(const void *bytes, size_t n)
{
	char *p = malloc(n ? n : 1);

	assert_non_null(p);
	memcpy(p, bytes, n);
	return p;
}

static void test_keys_are_split_at_nul_and_equals(void **state)
{
	static const char in[] = "A=1\0\0\0Long.key=x=y,z\0Empty=\0\0";
	char *text = copy_of(in, sizeof in - 1);
	struct tgt_keys k;

	assert_int_equal(tgt_keys_parse(text, sizeof in - 1, &k), 0);
	assert_int_equal(k.nr_pairs, 3);
	assert_string_equal(tgt_keys_get(&k, "A"), "1");
	assert_string_equal(tgt_keys_get(&k, "Long.key"), "x=y,z");
	assert_string_equal(tgt_keys_get(&k, "Empty"), "");
	assert_null(tgt_keys_get(&k, "a"));
	assert_null(tgt_keys_get(&k, "Long"));
	free(text);
	assert_int_equal(tgt_keys_parse(NULL, 0, &k), 0);
	assert_int_equal(k.nr_pairs, 0);
}

static void test_keys_refuse_text_without_form(void **state)
{
	static const struct {
		const char *text;
		size_t n;
	} bad[] = {{"A=1", 3}, {"A", 2}, {"=1", 3}, {"A=1\0B", 6}, {"A=1\0B", 5}, {"A=1\0B=2", 7}, {"x", 1}};
	struct tgt_keys k;
	char name[80];

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		char *text = copy_of(bad[i].text, bad[i].n);
		assert_int_equal(tgt_keys_parse(text, bad[i].n, &k), -EBADMSG);
		free(text);
	}
	for (size_t n = TGT_KEY_NAME_MAX; n <= TGT_KEY_NAME_MAX + 1; n++) {
		memset(name, 'k', n);
		memcpy(name + n, "=v", 3);
		char *text = copy_of(name, n + 3);
		assert_int_equal(tgt_keys_parse(text, n + 3, &k), n == TGT_KEY_NAME_MAX ? 0 : -EBADMSG);
		free(text);
	}
}

static void test_keys_are_64_at_most(void **state)
{
	for (unsigned nr = 63; nr <= 66; nr++) {
		struct tgt_keys k;
		char *text = malloc(nr * 4);
		assert_non_null(text);
		for (unsigned i = 0; i < nr; i++)
			memcpy(text + 4 * i, "k=v", 4);
		assert_int_equal(tgt_keys_parse(text, nr * 4, &k), nr <= 64 ? 0 : -E2BIG);
		assert_true(k.nr_pairs <= 64);
		free(text);
	}
}

static void test_reply_is_bounded(void **state)
{
	struct tgt_reply *r = calloc(1, sizeof *r);
	char *value = malloc(TGT_TEXT_MAX + 1);

	assert_true(r && value);
	memset(value, 'v', TGT_TEXT_MAX);
	value[TGT_TEXT_MAX - 3] = 0; /* "k=", value, NUL: exactly all of it */
	tgt_reply_add(r, "k", value);
	assert_false(r->is_full);
	assert_int_equal(r->nr_bytes, TGT_TEXT_MAX);
	tgt_reply_add(r, "", "");
	assert_true(r->is_full);
	assert_int_equal(r->nr_bytes, TGT_TEXT_MAX);
	memset(r, 0, sizeof *r);
	value[TGT_TEXT_MAX - 3] = 'v';
	value[TGT_TEXT_MAX - 2] = 0;
	tgt_reply_add(r, "k", value);
	assert_true(r->is_full);
	assert_int_equal(r->nr_bytes, 0);
	tgt_reply_add(r, "k", "v"); /* full stays full */
	assert_int_equal(r->nr_bytes, 0);
	memset(r, 0, sizeof *r);
	tgt_reply_add_number(r, "n", 4294967295u);
	assert_memory_equal(r->text, "n=4294967295", 13);
	assert_int_equal(r->nr_bytes, 13);
	free(value);
	free(r);
}

static void test_list_matches_whole_items(void **state)
{
	assert_true(tgt_list_has("CHAP,None", "CHAP"));
	assert_true(tgt_list_has("CHAP,None", "None"));
	assert_true(tgt_list_has("5", "5"));
	assert_false(tgt_list_has("55,6", "5"));
	assert_false(tgt_list_has("CHAP2,XNone", "None"));
	assert_false(tgt_list_has("", "None"));
	assert_false(tgt_list_has(",", "None"));
}

static void test_numbers_have_bounds(void **state)
{
	uint32_t v = 7;

	assert_true(tgt_number_parse("0", 10, &v) && v == 0);
	assert_true(tgt_number_parse("0xFf", 255, &v) && v == 255);
	assert_true(tgt_number_parse("4294967295", UINT32_MAX, &v) && v == UINT32_MAX);
	v = 7;
	static const char *const bad[] = {"", "0x", "-1", "+1", " 1", "1 ", "1a", "0xg", "4294967296", "18446744073709551617",
					  "0x100000000", "99999999999999999999999999999999"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_false(tgt_number_parse(bad[i], UINT32_MAX, &v));
		assert_int_equal(v, 7); /* failure never touches what is returned */
	}
	assert_false(tgt_number_parse("256", 255, &v));
}

static void test_binary_decodes_into_what_there_is(void **state)
{
	uint8_t out[8];
	char text[32];

	assert_int_equal(tgt_binary_decode("0x00fF10", out, sizeof out), 3);
	assert_memory_equal(out, "\x00\xff\x10", 3);
	assert_int_equal(tgt_binary_decode("0Xfff", out, sizeof out), 2); /* a zero digit left out */
	assert_memory_equal(out, "\x0f\xff", 2);
	assert_int_equal(tgt_binary_decode("0bAP8Q", out, sizeof out), 3);
	assert_memory_equal(out, "\x00\xff\x10", 3);
	assert_int_equal(tgt_binary_decode("0bAP8=", out, sizeof out), 2);
	static const char *const bad[] = {"", "0", "00ff", "ff", "0x", "0xzz", "0xf-", "0b*", "0y00", "0xffzz"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(tgt_binary_decode(bad[i], out, sizeof out), -EINVAL);
	/* exactly full, then one too many; the byte behind must not be touched */
	for (size_t max = 0; max <= 4; max++) {
		memset(out, 0xa5, sizeof out);
		assert_int_equal(tgt_binary_decode("0x112233", out, max), max >= 3 ? 3 : -E2BIG);
		assert_int_equal(out[max > 3 ? 3 : max], 0xa5);
		memset(out, 0xa5, sizeof out);
		assert_int_equal(tgt_binary_decode("0bESIz", out, max), max >= 3 ? 3 : -E2BIG);
		assert_int_equal(out[max > 3 ? 3 : max], 0xa5);
	}
	tgt_binary_encode((const uint8_t *)"\x00\xff\x10", 3, text);
	assert_string_equal(text, "0x00ff10");
}

/* Computed with another program (md5sum) over the bytes 0x17 "secret-of-twelve" 00 01 … 0f. */
static void test_chap_response_is_md5_of_id_secret_challenge(void **state)
{
	static const uint8_t expected[16] = {0x39, 0x88, 0xb4, 0x02, 0x38, 0x52, 0x79, 0x79, 0x47, 0xae, 0xff, 0xc9, 0x44, 0x38, 0xa5, 0x4a};
	uint8_t challenge[16], out[16], other[16];

	for (unsigned i = 0; i < 16; i++)
		challenge[i] = (uint8_t)i;
	assert_int_equal(tgt_chap_response(0x17, "secret-of-twelve", challenge, sizeof challenge, out), 0);
	assert_memory_equal(out, expected, 16);
	assert_true(tgt_chap_is_equal(out, expected));
	for (unsigned bit = 0; bit < 128; bit++) {
		memcpy(other, out, 16);
		other[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_false(tgt_chap_is_equal(out, other));
	}
}

/* ---- login, PDU by PDU ---- */

static int step(struct tgt_login *l, uint8_t flags, const char *text, uint32_t n, uint8_t *out)
{
	uint8_t bhs[BHS_BYTES] = {OP_LOGIN | OP_IMMEDIATE, flags};
	char *data = copy_of(text, n);
	int r;

	kedge_put_be32(bhs + 24, 0xffffffff); /* the first number may be any */
	r = tgt_login_take(l, bhs, data, n, out);
	free(data);
	return r;
}

static void test_login_defaults_are_those_of_the_rfc(void **state)
{
	static const char text[] = "InitiatorName=iqn.a\0TargetName=iqn.b";
	const struct tgt_policy policy = {.iqn = "iqn.b"};
	struct tgt_login *l = malloc(sizeof *l);
	uint8_t out[BHS_BYTES];

	assert_non_null(l);
	tgt_login_init(l, &policy);
	l->tsih = 4711;
	assert_int_equal(step(l, 0x87, text, sizeof text, out), 1);
	assert_int_equal(out[0], OP_LOGIN_RSP);
	assert_int_equal(out[1], 0x87);
	assert_int_equal(kedge_get_be16(out + 14), 4711);
	assert_int_equal(kedge_get_be16(out + 36), 0);
	assert_int_equal(kedge_get_be32(out + 28), 0xffffffff);
	assert_int_equal(kedge_get_be32(out + 32), 126);
	assert_int_equal(l->send_data_bytes, 8192);
	assert_int_equal(l->max_burst_bytes, 262144);
	assert_false(l->has_header_digest || l->has_data_digest || l->is_discovery);
	free(l);
}

static void test_login_values_out_of_range_are_rejected(void **state)
{
	static const char *const keys[] = {"MaxBurstLength=511", "MaxBurstLength=16777216", "MaxBurstLength=x", "FirstBurstLength=0",
					   "MaxRecvDataSegmentLength=511", "MaxRecvDataSegmentLength=16777216", "HeaderDigest=MD4",
					   "DataDigest="};
	const struct tgt_policy policy = {.iqn = "iqn.b"};
	struct tgt_login *l = malloc(sizeof *l);
	uint8_t out[BHS_BYTES];

	assert_non_null(l);
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		char text[128], expected[64];
		int n = snprintf(text, sizeof text, "InitiatorName=iqn.a%cTargetName=iqn.b%c%s", 0, 0, keys[i]) + 1;
		tgt_login_init(l, &policy);
		assert_int_equal(step(l, 0x87, text, (uint32_t)n, out), 1);
		int m = snprintf(expected, sizeof expected, "%.*s=Reject", (int)strcspn(keys[i], "="), keys[i]);
		assert_non_null(memmem(l->reply.text, l->reply.nr_bytes, expected, (size_t)m + 1));
		assert_int_equal(l->send_data_bytes, 8192);
		assert_int_equal(l->max_burst_bytes, 262144);
		assert_false(l->has_header_digest || l->has_data_digest);
	}
	free(l);
}

static void test_lun_field_knows_two_ways_of_addressing(void **state)
{
	assert_int_equal(pdu_lun((const uint8_t[8]){0, 5}), 5);
	assert_int_equal(pdu_lun((const uint8_t[8]){0x40, 5}), 5);
	assert_int_equal(pdu_lun((const uint8_t[8]){0x41, 5}), 261);
	assert_int_equal(pdu_lun((const uint8_t[8]){0x01, 5}), 0xffffffffu); /* bus 1 */
	assert_int_equal(pdu_lun((const uint8_t[8]){0x80, 5}), 0xffffffffu);
	assert_int_equal(pdu_lun((const uint8_t[8]){0xc1, 5}), 0xffffffffu);
	for (unsigned i = 2; i < 8; i++) {
		uint8_t field[8] = {0, 5};
		field[i] = 1;
		assert_int_equal(pdu_lun(field), 0xffffffffu);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys_are_split_at_nul_and_equals),
		cmocka_unit_test(test_keys_refuse_text_without_form),
		cmocka_unit_test(test_keys_are_64_at_most),
		cmocka_unit_test(test_reply_is_bounded),
		cmocka_unit_test(test_list_matches_whole_items),
		cmocka_unit_test(test_numbers_have_bounds),
		cmocka_unit_test(test_binary_decodes_into_what_there_is),
		cmocka_unit_test(test_chap_response_is_md5_of_id_secret_challenge),
		cmocka_unit_test(test_login_defaults_are_those_of_the_rfc),
		cmocka_unit_test(test_login_values_out_of_range_are_rejected),
		cmocka_unit_test(test_lun_field_knows_two_ways_of_addressing),
	};

	return cmocka_run_group_tests_name("target text", tests, NULL, NULL);
}
