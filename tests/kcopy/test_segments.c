/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The commands of one round leave in one segment, at once: what the kernel counts on the socket of a connection to a ktarget.
 *
 * Owns. A ktarget. Locks. None.
 *
 * Usage: test_segments KTARGET
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "conn.h"
#include "kedge/bytes.h"
#include "kedge/disk.h"
#include "peer.h"

#define NR_MAX 16u

static const char *ktarget;

/* ---- what goes by (ld --wrap) ---- */

static int fd = -1;

struct iscsi_context;
int __real_iscsi_get_fd(struct iscsi_context *ctx);
int __wrap_iscsi_get_fd(struct iscsi_context *ctx);

int __wrap_iscsi_get_fd(struct iscsi_context *ctx)
{
	fd = __real_iscsi_get_fd(ctx);
	return fd;
}

static uint32_t nr_segments_out(void)
{
	struct tcp_info info;
	socklen_t n = sizeof info;

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n), 0);
	return info.tcpi_data_segs_out;
}

/* ---- a connection ---- */

struct rig {
	struct target t;
	struct kedge_loop *l;
	struct kcopy_conn *conn;
	bool is_up, is_gone;
	unsigned nr_answers;
	struct kcopy_cmd cmds[NR_MAX];
	uint8_t *buf;
};

static struct rig rig;

static void up_cb(void *arg)
{
	rig.is_up = true;
}

static void lost_cb(void *arg, int code, const char *why)
{
	fail_msg("the connection is lost: %s", why);
}

static void gone_cb(void *arg)
{
	rig.is_gone = true;
}

static void answer_cb(struct kcopy_cmd *cmd)
{
	rig.nr_answers++;
}

static int set_up(void **state)
{
	struct kedge_err err = {0};
	struct kcopy_url url;
	char text[128];

	memset(&rig, 0, sizeof rig);
	target_start(&rig.t, ktarget, NULL);
	snprintf(text, sizeof text, "iscsi://127.0.0.1:%d/" TARGET_IQN "/1", rig.t.port);
	assert_int_equal(kcopy_url_parse(text, &url, &err), 0);
	rig.buf = kedge_buf_alloc(NR_MAX * 4096);
	assert_int_equal(kedge_loop_create(64, &rig.l, &err), 0);
	struct kcopy_conn_opts o = {.url = &url, .initiator_iqn = "iqn.2026-01.test:segments", .up_fn = up_cb, .lost_fn = lost_cb, .gone_fn = gone_cb};
	assert_int_equal(kcopy_conn_open(rig.l, &o, &rig.conn, &err), 0);
	for (int i = 0; i < 1000 && !rig.is_up; i++)
		kedge_loop_run_once(rig.l, 10);
	assert_true(rig.is_up);
	return 0;
}

static int tear_down(void **state)
{
	kcopy_conn_close(rig.conn);
	for (int i = 0; i < 1000 && !rig.is_gone; i++)
		kedge_loop_run_once(rig.l, 10);
	assert_true(rig.is_gone);
	kedge_loop_destroy(rig.l);
	kedge_buf_free(rig.buf);
	assert_true(target_stop(&rig.t));
	return 0;
}

/* So many commands in one round, and their answers; how many segments they left in. */
static uint32_t ask(unsigned nr)
{
	uint32_t before = nr_segments_out();

	rig.nr_answers = 0;
	for (unsigned i = 0; i < nr; i++) {
		rig.cmds[i] = (struct kcopy_cmd){.fn = answer_cb};
		assert_int_equal(kcopy_cmd_read(rig.conn, &rig.cmds[i], i * 8, rig.buf + i * 4096, 4096, 512), 0);
	}
	kedge_loop_run_once(rig.l, 0);
	uint32_t after = nr_segments_out();
	for (int i = 0; i < 1000 && rig.nr_answers < nr; i++)
		kedge_loop_run_once(rig.l, 10);
	assert_int_equal(rig.nr_answers, nr);
	return after - before;
}

static void test_conn_commands_of_a_round_leave_in_one_segment(void **state)
{
	for (unsigned nr = 1; nr <= NR_MAX; nr++)
		assert_int_equal(ask(nr), 1);
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_conn_commands_of_a_round_leave_in_one_segment),
	};

	if (argc != 2)
		return 2;
	ktarget = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
