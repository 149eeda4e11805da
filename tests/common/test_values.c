/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pure files of common: errors, sizes, names, uuids, identities, checksums. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"
#include "kedge/err.h"
#include "kedge/identity.h"
#include "kedge/name.h"
#include "kedge/size.h"
#include "kedge/uuid.h"

static void test_err_first_error_wins(void **state)
{
	struct kedge_err err = {0};

	assert_int_equal(kedge_err_set(&err, -EIO, KEDGE_SIDE_SOURCE, "first %d", 1), -EIO);
	assert_int_equal(kedge_err_set(&err, -EINVAL, KEDGE_SIDE_NONE, "second"), -EINVAL);
	assert_int_equal(err.code, -EIO);
	assert_string_equal(err.msg, "first 1");
	kedge_err_prefix(&err, "volume %s", "v");
	assert_string_equal(err.msg, "volume v: first 1");
	assert_int_equal(kedge_err_set(NULL, -EIO, KEDGE_SIDE_NONE, "x"), -EIO);
}

static void test_err_prefix_cuts_at_the_end(void **state)
{
	struct kedge_err err = {0};
	char longish[2 * KEDGE_ERR_MSG_MAX];

	memset(longish, 'x', sizeof longish - 1);
	longish[sizeof longish - 1] = 0;
	kedge_err_set(&err, -EIO, KEDGE_SIDE_NONE, "%s", longish);
	kedge_err_prefix(&err, "where");
	assert_memory_equal(err.msg, "where: xxx", 10);
	assert_int_equal(strlen(err.msg), KEDGE_ERR_MSG_MAX - 1);
}

static void test_err_names_come_back(void **state)
{
#define X(name, value, class, text) assert_int_equal(kedge_err_by_name(#name), value);
	KEDGE_ERR_TABLE(X)
#undef X
	assert_int_equal(kedge_err_by_name("ENOSPC"), -ENOSPC);
	assert_int_equal(kedge_err_by_name("NONSENSE"), -EIO);
	assert_string_equal(kedge_err_name(KEDGE_E_META_ZEROED), "META_ZEROED");
	assert_int_equal(kedge_err_class_of(KEDGE_E_SOURCE_AWAY), KEDGE_CLASS_TRANSIENT);
	assert_int_equal(kedge_exit_of(KEDGE_E_META_OLD), 23);
}

static void test_factor_parses_what_people_write(void **state)
{
	static const struct {
		const char *text;
		int res;
		uint32_t percent;
	} t[] = {
		{ "0", 0, 0 },	      { "1", 0, 100 },	       { "1.5", 0, 150 },      { "1.05", 0, 105 },	{ "12.34", 0, 1234 },  { "999.99", 0, 99999 },
		{ "1000", -EINVAL, 0 }, { "1.", -EINVAL, 0 },  { ".5", -EINVAL, 0 },   { "1.555", -EINVAL, 0 }, { "-1", -EINVAL, 0 },  { "", -EINVAL, 0 },
		{ "1,5", -EINVAL, 0 },  { "1.5x", -EINVAL, 0 }, { "1e3", -EINVAL, 0 }, { " 1", -EINVAL, 0 },
	};

	for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
		uint32_t v = 7;
		assert_int_equal(kedge_factor_parse(t[i].text, &v), t[i].res);
		assert_int_equal(v, t[i].res ? 7 : t[i].percent);
	}
}

static void test_size_parses_what_people_write(void **state)
{
	static const struct {
		const char *text;
		int res;
		uint64_t bytes;
	} t[] = {
		{"0", 0, 0}, {"4096", 0, 4096}, {"64K", 0, 65536}, {"2G", 0, 2ull << 30}, {"2GiB", 0, 2ull << 30},
		{"10MB", 0, 10u << 20}, {"1t", 0, 1ull << 40}, {"", -EINVAL, 0}, {"G", -EINVAL, 0}, {"-1", -EINVAL, 0},
		{"1x", -EINVAL, 0}, {"1Gx", -EINVAL, 0}, {" 1", -EINVAL, 0}, {"16E", -ERANGE, 0},
		{"99999999999999999999", -ERANGE, 0},
	};
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(t); i++) {
		uint64_t v = 77;
		assert_int_equal(kedge_size_parse(t[i].text, &v), t[i].res);
		assert_int_equal(v, t[i].res ? 77 : t[i].bytes);
	}
}

static void test_size_formats(void **state)
{
	char s[32];

	assert_string_equal(kedge_size_format(512, s, sizeof s), "512 B");
	assert_string_equal(kedge_size_format(2ull << 30, s, sizeof s), "2.00 GiB");
	assert_string_equal(kedge_duration_format(950, s, sizeof s), "950 ms");
	assert_string_equal(kedge_duration_format(3725000, s, sizeof s), "1 h 2 min");
}

static void test_names_outside_the_grammar_are_refused(void **state)
{
	char longest[KEDGE_NAME_MAX + 2];

	memset(longest, 'a', sizeof longest);
	longest[KEDGE_NAME_MAX] = 0;
	assert_true(kedge_name_is_valid(longest));
	longest[KEDGE_NAME_MAX] = 'a';
	longest[KEDGE_NAME_MAX + 1] = 0;
	assert_false(kedge_name_is_valid(longest));
	assert_true(kedge_name_is_valid("db-1.a_b"));
	static const char *const bad[] = {"", ".", "..", "-a", "A", "a/b", "a b", "a\n", "\xc3\xa4", "a%", "_a"};
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(bad); i++)
		assert_false(kedge_name_is_valid(bad[i]));
}

static void test_names_random_bytes_are_refused(void **state)
{
	unsigned nr_accepted = 0;

	for (unsigned i = 0; i < 100000; i++) {
		char name[16];
		kedge_random(name, sizeof name);
		name[15] = 0;
		if (!kedge_name_is_valid(name))
			continue;
		nr_accepted++;
		assert_null(strpbrk(name, "/ \t\n%\\"));
		assert_true(name[0] != '.');
	}
	(void)nr_accepted;
}

static void test_iqn_grammar(void **state)
{
	assert_true(kedge_iqn_is_valid("iqn.2026-01.net.kedge:vol1.e3"));
	assert_false(kedge_iqn_is_valid("iqn.2026-1.net.kedge"));
	assert_false(kedge_iqn_is_valid("iqn.2026-01.net kedge"));
	assert_false(kedge_iqn_is_valid("iqn.2026-01.net\nkedge"));
	assert_false(kedge_iqn_is_valid("eui.0123456789abcdef"));
}

static void test_uuid_text_comes_back(void **state)
{
	struct kedge_uuid a, b;
	char text[KEDGE_UUID_TEXT_MAX];

	kedge_uuid_create(&a);
	kedge_uuid_format(&a, text);
	assert_int_equal(kedge_uuid_parse(text, &b), 0);
	assert_true(kedge_uuid_is_equal(&a, &b));
	assert_int_equal(text[14], '4');
	text[8] = 'x';
	assert_int_equal(kedge_uuid_parse(text, &b), -EINVAL);
	assert_int_equal(kedge_uuid_parse("", &b), -EINVAL);
}

static void test_identity_another_volume_is_refused(void **state)
{
	struct kedge_identity want = {.epoch = 7, .size_bytes = 1 << 20, .lbs_bytes = 512}, have;
	struct kedge_err err = {0};
	char serial[KEDGE_SERIAL_MAX];

	kedge_uuid_create(&want.volume);
	have = want;
	assert_int_equal(kedge_identity_check(&want, &have, &err), 0);
	have.epoch = 6;
	assert_int_equal(kedge_identity_check(&want, &have, &err), KEDGE_E_SOURCE_IDENTITY);
	have = want;
	have.size_bytes += 512;
	assert_int_equal(kedge_identity_check(&want, &have, NULL), KEDGE_E_SOURCE_IDENTITY);
	have = want;
	have.lbs_bytes = 4096;
	assert_int_equal(kedge_identity_check(&want, &have, NULL), KEDGE_E_SOURCE_IDENTITY);
	memset(&have.volume, 0, sizeof have.volume);
	assert_int_equal(kedge_identity_check(&want, &have, NULL), KEDGE_E_SOURCE_IDENTITY);

	kedge_serial_format(&want, serial);
	strcat(serial, "   ");
	struct kedge_uuid u;
	uint64_t epoch;
	assert_int_equal(kedge_serial_parse(serial, &u, &epoch), 0);
	assert_int_equal(epoch, 7);
	assert_true(kedge_uuid_is_equal(&u, &want.volume));
	assert_int_equal(kedge_serial_parse("0123456789", &u, &epoch), -EINVAL);
	serial[38] = 'x';
	assert_int_equal(kedge_serial_parse(serial, &u, &epoch), -EINVAL);
}

static void test_crc32c_known_sums(void **state)
{
	uint8_t buf[48];

	/* RFC 7143 (RFC 3720 B.4): 32 bytes of zeroes, ones, rising, falling */
	memset(buf, 0, 32);
	assert_int_equal(kedge_crc32c(0, buf, 32), 0x8a9136aau);
	memset(buf, 0xff, 32);
	assert_int_equal(kedge_crc32c(0, buf, 32), 0x62a8ab43u);
	for (int i = 0; i < 32; i++)
		buf[i] = (uint8_t)i;
	assert_int_equal(kedge_crc32c(0, buf, 32), 0x46dd794eu);
	assert_int_equal(kedge_crc32c(0, "123456789", 9), 0xe3069283u);
	for (size_t cut = 0; cut <= 32; cut++)
		assert_int_equal(kedge_crc32c(kedge_crc32c(0, buf, cut), buf + cut, 32 - cut), 0x46dd794eu);
}

static void test_is_zero_sees_every_byte(void **state)
{
	uint8_t buf[100];

	for (size_t n = 0; n <= sizeof buf; n++) {
		memset(buf, 0, sizeof buf);
		assert_true(kedge_is_zero(buf, n));
		for (size_t i = 0; i < n; i++) {
			buf[i] = 1;
			assert_false(kedge_is_zero(buf, n));
			buf[i] = 0;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_err_first_error_wins),
		cmocka_unit_test(test_err_prefix_cuts_at_the_end),
		cmocka_unit_test(test_err_names_come_back),
		cmocka_unit_test(test_size_parses_what_people_write),
		cmocka_unit_test(test_factor_parses_what_people_write),
		cmocka_unit_test(test_size_formats),
		cmocka_unit_test(test_names_outside_the_grammar_are_refused),
		cmocka_unit_test(test_names_random_bytes_are_refused),
		cmocka_unit_test(test_iqn_grammar),
		cmocka_unit_test(test_uuid_text_comes_back),
		cmocka_unit_test(test_identity_another_volume_is_refused),
		cmocka_unit_test(test_crc32c_known_sums),
		cmocka_unit_test(test_is_zero_sees_every_byte),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
