/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. kedged.conf: what is read, and what is refused with file and line; addresses.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "address.h"
#include "orch/kedged.h"

static char dir[64], conf[128], secret[128];

static void write_file(const char *path, const char *text, mode_t mode)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	chmod(path, mode);
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/kedge-config.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(conf, sizeof conf, "%s/kedged.conf", dir);
	snprintf(secret, sizeof secret, "%s/secret", dir);
	write_file(secret, "0123456789abcdef0123456789abcdef\n", 0600);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(conf);
	unlink(secret);
	return rmdir(dir);
}

#define GOOD_HEAD "[daemon]\nhost = a\nroles = agent\nlisten = 10.1.2.3:7420\ncluster_secret_file = %s\n"

static int read_text(const char *tail, struct kedged_config *c, struct kedge_err *err)
{
	static char text[8192];
	int n = snprintf(text, sizeof text, GOOD_HEAD, secret);

	snprintf(text + n, sizeof text - (size_t)n, "%s", tail);
	write_file(conf, text, 0644);
	memset(err, 0, sizeof *err);
	return kedged_config_read(conf, c, err);
}

static void test_config_reads_all_and_fills_in_defaults(void **state)
{
	static struct kedged_config c;
	struct kedge_err err;

	(void)state;
	assert_int_equal(read_text("; a comment\nstate_dir = /s\nrun_dir = /r\n[coordinator]\nhold = 30m\nrelease = keep\n"
				   "[agent]\nverify_holes = read\nverify_data = bytes\nfree_space = skip\nhydrate_floor = 20M\nlatency_factor = 2.5\ntransit = checked\n[host a]\naddress = 10.1.2.3:7420\n[host b]\naddress = [fd00::2]:7420\n",
				   &c, &err),
			 0);
	assert_string_equal(c.host, "a");
	assert_true(c.is_agent);
	assert_false(c.is_coordinator);
	assert_string_equal(c.volume_dir, "/s/volumes");
	assert_string_equal(c.socket, "/r/api.sock");
	assert_string_equal(c.portal_address, "10.1.2.3");
	assert_int_equal(c.bin_dir[0], '/');
	assert_string_equal(c.hydrate_floor, "20M");
	assert_string_equal(c.latency_factor, "2.5");
	assert_string_equal(c.transit, "checked");
	assert_int_equal(c.hold_ms, 1800000);
	assert_false(c.is_release_delete);
	assert_true(c.is_verify_holes_read);
	assert_true(c.is_verify_data_bytes);
	assert_true(c.is_free_skipped);
	assert_int_equal(c.nr_hosts, 2);
	assert_string_equal(c.hosts[1].name, "b");
	assert_string_equal(c.hosts[1].address, "[fd00::2]:7420");
	assert_int_equal(c.secret_bytes, 32);
	assert_memory_equal(c.secret, "0123456789abcdef0123456789abcdef", 32);
}

/* Each wrong tail, and what the message must hold. The head has 5 lines. */
static void test_config_wrong_lines_are_named(void **state)
{
	static const struct {
		const char *tail, *want;
	} rows[] = {
		{"colour = red\n", "kedged.conf:6: unknown key \"colour\" in [daemon]"},
		{"\n[agnet]\nvolume_dir = /v\n", "kedged.conf:7: unknown section [agnet]"},
		{"[agnet]\n", "kedged.conf:6: unknown section [agnet]"},
		{"host = b\n", "kedged.conf:6: \"host\" is given twice"},
		{"state_dir = relative\n", "kedged.conf:6: \"relative\" is not an absolute path"},
		{"nonsense\n", "kedged.conf:6:"},
		{"[agent]\nfree_space = maybe\n", "kedged.conf:7: free_space is copy or skip"},
		{"[agent]\nhydrate_floor = much\n", "kedged.conf:7: \"much\" is not a number of bytes"},
		{"[agent]\nlatency_factor = 1\n", "kedged.conf:7: \"1\" is not a factor"},
		{"[agent]\nlatency_factor = 1.555\n", "kedged.conf:7: \"1.555\" is not a factor"},
		{"[agent]\ntransit = lz4\n", "kedged.conf:7: transit is auto, plain, checked or zstd, not \"lz4\""},
		{"[agent]\ntransit =\n", "kedged.conf:7: transit is"},
		{"[coordinator]\nhold = 5\n", "kedged.conf:7: \"5\" is not a duration"},
		{"[agent]\nverify_data = crc\n", "kedged.conf:7: verify_data is checksum or bytes"},
		{"[agent]\nverify_holes = no\n", "kedged.conf:7: verify_holes is status or read"},
		{"[coordinator]\nrelease = burn\n", "kedged.conf:7: release is delete or keep"},
		{"[host B]\naddress = 10.0.0.2:1\n", "kedged.conf:7: \"B\" is not a host name"},
		{"[host b]\naddress = example.org:7420\n", "kedged.conf:7: \"example.org:7420\" is not numeric"},
		{"[host b]\naddress = 10.0.0.2\n", "kedged.conf:7: \"10.0.0.2\" is not ADDRESS:PORT"},
		{"[host b]\naddress = 10.0.0.2:1\n[host b]\naddress = 10.0.0.2:1\n", "kedged.conf:9: host b is given twice"},
		{"[host b]\nport = 1\n", "kedged.conf:7: unknown key \"port\" in [host b]"},
		{"[agent]\nportal_address = 10.0.0.1:3260\n", "kedged.conf:7: \"10.0.0.1:3260\" is not a numeric address"},
		{"[agent]\nportal_address = 192.0.2.1\n", "portal_address = 192.0.2.1 is not a private address"},
		{"[host b]\naddress = 8.8.8.8:7420\n", "address = 8.8.8.8:7420 is not a private address"},
		{"roles = agent\n", "kedged.conf:6: \"roles\" is given twice"},
	};
	static struct kedged_config c;
	struct kedge_err err;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		assert_true(read_text(rows[i].tail, &c, &err) < 0);
		if (!strstr(err.msg, rows[i].want))
			fail_msg("\"%s\" is not in \"%s\"", rows[i].want, err.msg);
	}
}

static void test_config_long_line_is_refused_not_split(void **state)
{
	static struct kedged_config c;
	struct kedge_err err;
	char tail[512] = "state_dir = /";

	(void)state;
	memset(tail + strlen(tail), 'x', 300);
	strcat(tail, "\n");
	assert_true(read_text(tail, &c, &err) < 0);
	assert_non_null(strstr(err.msg, "kedged.conf:6: the line is longer"));
}

static void test_config_public_listen_address_is_refused(void **state)
{
	static const char *const addresses[] = {"192.0.2.1:7420", "0.0.0.0:7420", "8.8.8.8:1", "[2001:db8::1]:7420", "[::]:7420"};
	static struct kedged_config c;
	char text[1024];
	struct kedge_err err;

	(void)state;
	for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
		snprintf(text, sizeof text, "[daemon]\nhost = a\nroles = agent\nlisten = %s\ncluster_secret_file = %s\n", addresses[i],
			 secret);
		write_file(conf, text, 0644);
		memset(&err, 0, sizeof err);
		assert_int_equal(kedged_config_read(conf, &c, &err), KEDGE_E_STATE);
		assert_non_null(strstr(err.msg, "is not a private address"));
	}
}

static void test_config_secret_must_be_long_and_private(void **state)
{
	static struct kedged_config c;
	struct kedge_err err;

	(void)state;
	write_file(secret, "short\n", 0600);
	assert_true(read_text("", &c, &err) < 0);
	assert_non_null(strstr(err.msg, "fewer than 32"));
	write_file(secret, "0123456789abcdef0123456789abcdef\n", 0640);
	assert_true(read_text("", &c, &err) < 0);
	unlink(secret);
	assert_true(read_text("", &c, &err) < 0);
	write_file(secret, "0123456789abcdef0123456789abcdef\n", 0600);
	chmod(secret, 0600);
}

static void test_config_coordinator_needs_hosts(void **state)
{
	static struct kedged_config c;
	char text[1024];
	struct kedge_err err = {0};

	(void)state;
	snprintf(text, sizeof text, "[daemon]\nhost = a\nroles = coordinator\nlisten = 127.0.0.1:7420\ncluster_secret_file = %s\n",
		 secret);
	write_file(conf, text, 0644);
	assert_true(kedged_config_read(conf, &c, &err) < 0);
	assert_non_null(strstr(err.msg, "[host NAME]"));
}

static void test_address_private_ranges_end_where_they_end(void **state)
{
	static const struct {
		const char *text;
		bool is_private;
	} rows[] = {
		{"10.0.0.0:1", true},	      {"10.255.255.255:1", true}, {"11.0.0.0:1", false},    {"9.255.255.255:1", false},
		{"172.16.0.0:1", true},	      {"172.31.255.255:1", true}, {"172.32.0.0:1", false},  {"172.15.255.255:1", false},
		{"192.168.255.255:1", true},  {"192.169.0.0:1", false},	  {"100.64.0.1:1", true},   {"100.128.0.0:1", false},
		{"169.254.1.1:1", true},      {"127.0.0.1:65535", true},  {"[::1]:1", true},	    {"[fe80::1]:1", true},
		{"[fdff::1]:1", true},	      {"[fc00::1]:1", true},	  {"[fe00::1]:1", false},   {"[::ffff:10.0.0.1]:1", false},
	};
	struct sockaddr_storage a;
	socklen_t n;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		assert_int_equal(address_parse(rows[i].text, &a, &n, NULL), 0);
		if (address_is_private(&a) != rows[i].is_private)
			fail_msg("%s", rows[i].text);
	}
	static const char *const bad[] = {"", ":1", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:1x",
					  "10.0.0:1", "::1:1", "[::1]", "localhost:1", "10.0.0.1:-1", "[]:1"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_true(address_parse(bad[i], &a, &n, NULL) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config_reads_all_and_fills_in_defaults),
		cmocka_unit_test(test_config_wrong_lines_are_named),
		cmocka_unit_test(test_config_long_line_is_refused_not_split),
		cmocka_unit_test(test_config_public_listen_address_is_refused),
		cmocka_unit_test(test_config_secret_must_be_long_and_private),
		cmocka_unit_test(test_config_coordinator_needs_hosts),
		cmocka_unit_test(test_address_private_ranges_end_where_they_end),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
