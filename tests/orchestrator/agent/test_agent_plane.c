/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. How long an agent waits for the port of a ktarget: the program is a script that says it when it is told to, the clock and the naps
 * of agent_plane.c are ours (ld --wrap), so that minutes take no time.
 */
#include <errno.h>
#include <fcntl.h>
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

#include "agent_plane.h"
#include "agent_spawn.h"
#include "kedge/file.h"
#include "kedge/loop.h"

#define NAP_MS 250u
#define S 1000u
#define NEVER 1000000u

static char dir[64];
static struct {
	uint64_t slept_ms;  /* the clock is ahead by this */
	unsigned speaks_ms; /* when ktarget tells its port */
	bool has_spoken;
} world;

uint64_t __real_kedge_clock_ns(void);
uint64_t __wrap_kedge_clock_ns(void);
void __real_agent_nap(unsigned ms);
void __wrap_agent_nap(unsigned ms);

uint64_t __wrap_kedge_clock_ns(void)
{
	return __real_kedge_clock_ns() + world.slept_ms * 1000000u;
}

static bool has_text(const char *name, const char *text)
{
	char path[96], *got = NULL;
	bool is_so;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	if (kedge_file_read(path, 4096, &got, NULL, NULL))
		return false;
	is_so = strstr(got, text) != NULL;
	free(got);
	return is_so;
}

static void wait_text(const char *name, const char *text)
{
	for (int i = 0; i < 5000 && !has_text(name, text); i++)
		__real_agent_nap(2);
	assert_true(has_text(name, text));
}

/* The script opens its end when it gets there. */
static void speak(void)
{
	char path[96];
	int fd = -1;

	snprintf(path, sizeof path, "%s/bin/ask", dir);
	for (int i = 0; i < 5000 && (fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC)) < 0; i++)
		__real_agent_nap(2);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "\n", 1), 1);
	close(fd);
	wait_text("bin/said", "yes");
	world.has_spoken = true;
}

void __wrap_agent_nap(unsigned ms)
{
	(void)ms;
	if (world.slept_ms == 0)
		wait_text("bin/args", "--free-space"); /* it runs */
	world.slept_ms += NAP_MS;
	if (world.slept_ms >= world.speaks_ms && !world.has_spoken)
		speak();
}

static int set_up(void **state)
{
	static const char script[] = "#!/bin/bash\ncd \"$(dirname \"$0\")\"\necho \"$@\" >args\nread -r line <ask\n"
				     "echo 'ktarget: listening on 127.0.0.1:4711'\necho yes >said\nexec sleep 60\n";
	char path[96];

	strcpy(dir, "/tmp/kedge-plane-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof path, "%s/bin", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof path, "%s/bin/ask", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	snprintf(path, sizeof path, "%s/bin/ktarget", dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	assert_int_equal(write(fd, script, sizeof script - 1), sizeof script - 1);
	close(fd);
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

/* Start an export whose ktarget tells its port after so long. */
static int start(uint16_t port, uint64_t left_out_bytes, unsigned speaks_ms, struct kedge_err *err)
{
	struct kedged_config c = {.portal_address = "127.0.0.1"};
	struct agent_unit u = {.vol = {.name = "v", .size_bytes = 4096, .lbs_bytes = 512, .path = "/nothing"},
			       .export = {.iqn = "iqn.2026-01.test:v", .initiator = "iqn.2026-01.test:i", .port = port,
					  .left_out_bytes = left_out_bytes, .chap = {.user = "alice", .secret = "alice-secret-1"}}};
	uint16_t told = 0;
	uint64_t left_out = 0;

	snprintf(c.run_dir, sizeof c.run_dir, "%s/run", dir);
	snprintf(c.state_dir, sizeof c.state_dir, "%s/state", dir);
	snprintf(c.bin_dir, sizeof c.bin_dir, "%s/bin", dir);
	assert_int_equal(plane_make_dirs(&c, err), 0);
	world = (__typeof__(world)){.speaks_ms = speaks_ms};
	int res = plane_export_start(&c, &u, &told, &left_out, err);
	if (res == 0)
		assert_int_equal(told, 4711);
	assert_int_equal(plane_export_stop(&c, &u, NULL), 0);
	return res;
}

/* The reader of its free map has 120 s (ktarget(8)), and the agent must not be the one who gives up first. */
static void test_an_export_that_is_served_again_with_its_map_has_130_s(void **state)
{
	struct kedge_err err = {0};

	if (start(4711, 4096, 120 * S, &err))
		fail_msg("%s", err.msg);
	assert_true(has_text("bin/args", "--free-space must"));
	assert_in_range(world.slept_ms, 120 * S, 121 * S);
}

static void test_an_export_that_is_served_again_with_its_map_has_no_longer(void **state)
{
	struct kedge_err err = {0};

	assert_int_equal(start(4711, 4096, NEVER, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.msg, "within 130 s"));
	assert_in_range(world.slept_ms, 100 * S, 131 * S);
}

static void test_other_exports_have_10_s(void **state)
{
	static const uint16_t ports[] = {0, 4711}; /* the first time, and again without a map */

	for (size_t i = 0; i < sizeof ports / sizeof ports[0]; i++) {
		struct kedge_err err = {0};
		assert_int_equal(start(ports[i], 0, NEVER, &err), -ETIMEDOUT);
		assert_non_null(strstr(err.msg, "within 10 s"));
		assert_true(has_text("bin/args", "--free-space copy"));
		assert_in_range(world.slept_ms, 0, 11 * S);
	}
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_an_export_that_is_served_again_with_its_map_has_130_s),
		T(test_an_export_that_is_served_again_with_its_map_has_no_longer),
		T(test_other_exports_have_10_s),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
