/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. ktarget over the wire: the full feature phase apart from data: pings, numbers and windows, task management, what is
 * refused and how.
 * Owns. One ktarget a test. Locks. None.
 */
#include "wire.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PING_BYTES 65536 /* what the target declares to take in one PDU */

static const uint8_t ready[16] = {0};

static void logged_in(struct wire *w)
{
	struct outcome o = {0};

	wire_begin(w, NULL);
	assert_int_equal(peer_login(&w->p, "MaxRecvDataSegmentLength=65536", NULL, NULL), 0);
	for (uint32_t lun = 1; lun <= 2; lun++)
		peer_command(&w->p, lun, ready, 0, &o);
	assert_int_equal(o.status, 0);
}

static void test_first_command_reports_power_on_once_a_lun(void **state)
{
	struct wire w;
	struct outcome o = {0};
	uint8_t inquiry[16] = {0x12, 0, 0, 0, 96}, luns[16] = {0xa0, [9] = 64};

	wire_begin(&w, NULL);
	assert_int_equal(peer_login(&w.p, NULL, NULL, NULL), 0);
	/* these two do not report it */
	peer_finish(&w.p, peer_scsi(&w.p, 1, inquiry, 96), &o);
	assert_int_equal(o.status, 0);
	peer_finish(&w.p, peer_scsi(&w.p, 1, luns, 64), &o);
	assert_int_equal(o.status, 0);
	for (uint32_t lun = 1; lun <= 2; lun++) {
		peer_finish(&w.p, peer_scsi(&w.p, lun, ready, 0), &o);
		assert_int_equal(o.error, 0);
		assert_int_equal(o.status, 2);
		assert_int_equal(o.sense, 0x062900);
		/* fixed format, 18 bytes after their length */
		assert_int_equal(kedge_get_be16(w.p.data), 18);
		assert_int_equal(w.p.nr_data, 20);
		assert_int_equal(w.p.data[2], 0x70);
		peer_finish(&w.p, peer_scsi(&w.p, lun, ready, 0), &o);
		assert_int_equal(o.status, 0);
	}
	wire_end(&w);
}

static void test_nop_out_is_answered_with_its_data(void **state)
{
	static uint8_t data[PING_BYTES];
	struct wire w;

	logged_in(&w);
	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (uint8_t)(i * 7);
	for (uint32_t n = 0; n <= sizeof data; n = n * 3 + 1) {
		uint8_t bhs[BHS_BYTES] = {OP_NOP_OUT, 0x80};
		kedge_put_be32(bhs + 16, ++w.p.itt);
		kedge_put_be32(bhs + 20, TAG_NONE);
		kedge_put_be32(bhs + 24, w.p.cmd_sn++);
		assert_int_equal(peer_send(&w.p, bhs, data, n), 0);
		assert_int_equal(peer_recv(&w.p), 0);
		assert_int_equal(pdu_opcode(w.p.bhs), OP_NOP_IN);
		assert_int_equal(w.p.bhs[1], 0x80);
		assert_int_equal(pdu_itt(w.p.bhs), w.p.itt);
		assert_int_equal(kedge_get_be32(w.p.bhs + 20), TAG_NONE);
		assert_int_equal(w.p.nr_data, n);
		assert_memory_equal(w.p.data, data, n);
		assert_int_equal(w.p.exp_cmd_sn, w.p.cmd_sn);
	}
	/* without a tag it wants no answer */
	uint8_t bhs[BHS_BYTES] = {OP_NOP_OUT | OP_IMMEDIATE, 0x80};
	memset(bhs + 16, 0xff, 8);
	kedge_put_be32(bhs + 24, w.p.cmd_sn);
	assert_int_equal(peer_send(&w.p, bhs, NULL, 0), 0);
	assert_true(peer_ping(&w.p));
	wire_end(&w);
}

static void test_command_numbers_out_of_order_are_ignored(void **state)
{
	struct wire w;
	struct outcome o = {0};

	logged_in(&w);
	static const int steps[] = {1, 127, 128, 4096, -1, -2, 0x40000000, -0x40000000};
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(steps); i++) {
		uint32_t right = w.p.cmd_sn;
		w.p.cmd_sn = right + (uint32_t)steps[i];
		peer_scsi(&w.p, 1, ready, 0);
		w.p.cmd_sn = right;
		assert_true(peer_ping(&w.p)); /* the ping's answer is the first to come: the command had none */
		assert_int_equal(w.p.exp_cmd_sn, right);
	}
	peer_finish(&w.p, peer_scsi(&w.p, 1, ready, 0), &o);
	assert_int_equal(o.error, 0);
	assert_int_equal(w.p.exp_cmd_sn, w.p.cmd_sn);
	wire_end(&w);
}

static void test_immediate_commands_take_no_number(void **state)
{
	uint8_t bhs[BHS_BYTES] = {OP_SCSI_CMD | OP_IMMEDIATE, 0x81, [9] = 1};
	struct wire w;

	logged_in(&w);
	kedge_put_be32(bhs + 16, ++w.p.itt);
	kedge_put_be32(bhs + 24, w.p.cmd_sn);
	assert_int_equal(peer_send(&w.p, bhs, NULL, 0), 0);
	assert_int_equal(peer_recv(&w.p), 0);
	assert_int_equal(pdu_opcode(w.p.bhs), OP_SCSI_RSP);
	assert_int_equal(w.p.exp_cmd_sn, w.p.cmd_sn);
	wire_end(&w);
}

static void test_window_holds_many_commands_and_every_one_is_answered(void **state)
{
	enum { NR = 100, BLOCKS = 64 };
	static uint8_t data[BLOCKS * 512];
	uint32_t first;
	struct wire w;

	logged_in(&w);
	assert_true(w.p.max_cmd_sn - w.p.exp_cmd_sn + 1 >= NR);
	first = w.p.itt + 1;
	for (uint32_t i = 0; i < NR; i++)
		peer_read10(&w.p, 1 + i % 2, i % 60, BLOCKS, sizeof data);
	bool has_come[NR] = {false};
	for (uint32_t nr_left = NR; nr_left;) {
		assert_int_equal(peer_recv(&w.p), 0);
		uint32_t i = pdu_itt(w.p.bhs) - first;
		assert_in_range(i, 0, NR - 1);
		assert_int_equal(w.p.nr_data, sizeof data);
		assert_int_equal(w.p.data[5], disk_byte(1 + i % 2, i % 60 * 512 + 5));
		assert_false(has_come[i]);
		has_come[i] = true;
		nr_left--;
	}
	assert_true(peer_ping(&w.p)); /* a command that is being answered still counts */
	assert_int_equal(w.p.max_cmd_sn - w.p.exp_cmd_sn + 1, 128);
	wire_end(&w);
}

/* The window counts what is not answered: MaxCmdSN stands still while the initiator does not read. */
static void test_window_closes_while_answers_wait(void **state)
{
	struct wire w;

	logged_in(&w);
	for (int i = 0; i < 128; i++)
		peer_read10(&w.p, 1, 0, 16000, 16000 * 512);
	/* 128 × 8 MB do not fit into any socket buffer: the window is full now, one more is not taken */
	peer_read10(&w.p, 1, 0, 1, 512);
	uint32_t last = w.p.itt, nr_done = 0;
	while (nr_done < 128) {
		assert_int_equal(peer_recv(&w.p), 0);
		assert_int_equal(pdu_opcode(w.p.bhs), OP_DATA_IN);
		assert_int_not_equal(pdu_itt(w.p.bhs), last);
		nr_done += w.p.bhs[1] & 1;
	}
	assert_true(peer_ping(&w.p));
	assert_int_equal(w.p.exp_cmd_sn, w.p.cmd_sn - 1);
	wire_end(&w);
}

static int send_tmf(struct peer *p, uint8_t function, uint32_t lun, uint32_t referenced)
{
	uint8_t bhs[BHS_BYTES] = {OP_TMF | OP_IMMEDIATE, (uint8_t)(0x80 | function), [9] = (uint8_t)lun};

	kedge_put_be32(bhs + 16, ++p->itt);
	kedge_put_be32(bhs + 20, referenced);
	kedge_put_be32(bhs + 24, p->cmd_sn);
	return peer_send(p, bhs, NULL, 0);
}

/* Skip the answers of commands that were on their way; the response code. */
static int finish_tmf(struct peer *p)
{
	uint32_t itt = p->itt;

	for (int i = 0; i < 100000; i++) {
		if (peer_recv(p) < 0)
			return -1;
		if (pdu_opcode(p->bhs) == OP_TMF_RSP)
			return pdu_itt(p->bhs) == itt ? p->bhs[2] : -2;
	}
	return -3;
}

static void test_task_management_answers(void **state)
{
	static const struct {
		uint8_t function;
		uint32_t lun;
		int response;
	} cases[] = {
		{1, 1, 1},   /* ABORT TASK: no such task */
		{2, 1, 0},   /* ABORT TASK SET */
		{2, 9, 2},   /* no such LUN */
		{3, 1, 5},   /* CLEAR ACA: not offered */
		{5, 1, 0},   /* LUN RESET */
		{5, 9, 2}, {6, 0, 0}, /* TARGET WARM RESET */
		{7, 0, 255}, /* TARGET COLD RESET: refused */
		{8, 1, 5},   /* TASK REASSIGN: recovery level 2 */
		{99, 1, 5},
	};
	struct outcome o = {0};
	struct wire w;

	logged_in(&w);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(cases); i++) {
		assert_int_equal(send_tmf(&w.p, cases[i].function, cases[i].lun, 12345), 0);
		int r = finish_tmf(&w.p);
		if (r != cases[i].response)
			fail_msg("function %u answered %d, not %d", cases[i].function, r, cases[i].response);
	}
	peer_command(&w.p, 1, ready, 0, &o);
	assert_int_equal(o.status, 0);
	wire_end(&w);
}

/* Reads that are not cached are answered in the order in which the disk gives them: any of the 40, also the one that is aborted, may have begun
 * before the request to abort it is there. Then it is answered whole, before the response. After that nothing comes of it. */
static void test_aborted_commands_answer_no_more(void **state)
{
	static const uint8_t functions[] = {1, 2, 5, 6};
	unsigned nr_in_time[KEDGE_ARRAY_LEN(functions)] = {0};
	struct wire w;

	for (size_t i = 0; i < 4 * KEDGE_ARRAY_LEN(functions); i++) {
		uint8_t function = functions[i / 4];
		logged_in(&w);
		uint32_t first = w.p.itt + 1, nr_done = 0, begun = 0;
		bool is_last_done = false;
		if (i & 2)
			wire_evict_disk1(&w);
		for (int j = 0; j < 40; j++)
			peer_read10(&w.p, 1, 0, 16000, 16000 * 512);
		uint32_t last = w.p.itt;
		/* every second time they have all been read from the disk and stand in the queue behind the first that was */
		for (int j = 0; j < (i & 1 ? 60 : 0); j++) {
			assert_int_equal(peer_recv(&w.p), 0);
			assert_int_equal(pdu_itt(w.p.bhs), begun ? begun : pdu_itt(w.p.bhs));
			begun = pdu_itt(w.p.bhs);
		}
		send_tmf(&w.p, function, 1, last);
		uint32_t tmf = w.p.itt;
		bool has_response = false;
		for (;;) {
			if (has_response && nr_done == (function == 1 ? 39 : nr_done))
				break;
			assert_int_equal(peer_recv(&w.p), 0);
			if (pdu_opcode(w.p.bhs) == OP_TMF_RSP) {
				assert_int_equal(pdu_itt(w.p.bhs), tmf);
				/* 1: there is no such task any more */
				assert_int_equal(w.p.bhs[2], function == 1 && is_last_done);
				assert_int_equal(begun, 0);
				has_response = true;
				continue;
			}
			assert_int_equal(pdu_opcode(w.p.bhs), OP_DATA_IN);
			assert_in_range(pdu_itt(w.p.bhs), first, has_response ? last - 1 : last);
			begun = w.p.bhs[1] & 1 ? 0 : pdu_itt(w.p.bhs);
			nr_done += begun == 0 && pdu_itt(w.p.bhs) != last;
			is_last_done |= begun == 0 && pdu_itt(w.p.bhs) == last;
		}
		nr_in_time[i / 4] += function == 1 ? !is_last_done : nr_done < 39;
		/* what was aborted left the window, and no buffer behind: reads go on */
		assert_true(peer_ping(&w.p));
		struct outcome o = {0};
		static uint8_t block[512];
		o.data = block;
		o.out_max = sizeof block;
		peer_finish(&w.p, peer_read10(&w.p, 1, 9, 1, 512), &o);
		if (o.sense)
			peer_finish(&w.p, peer_read10(&w.p, 1, 9, 1, 512), &o);
		assert_int_equal(o.error, 0);
		assert_int_equal(o.nr_bytes, 512);
		assert_int_equal(block[77], disk_byte(1, 9 * 512 + 77));
		assert_true(peer_ping(&w.p));
		assert_int_equal(w.p.max_cmd_sn - w.p.exp_cmd_sn + 1, 128);
		wire_end(&w);
	}
	/* TCP may keep a request back for longer than 300 MB take: one of four comes in time, or it aborts nothing */
	for (size_t f = 0; f < KEDGE_ARRAY_LEN(functions); f++)
		assert_true(nr_in_time[f] > 0);
}

static void test_writes_are_refused_as_protected(void **state)
{
	static const uint8_t opcodes[] = {0x04, 0x0a, 0x2a, 0x2e, 0x41, 0x42, 0x5f, 0x89, 0x8a, 0x8e, 0x93, 0xaa, 0xae};
	static uint8_t data[512], block[512];
	struct outcome o = {.data = block, .out_max = sizeof block};
	struct wire w;

	logged_in(&w);
	memset(data, 0xee, sizeof data);
	for (size_t i = 0; i < sizeof opcodes; i++) {
		/* a write with its data behind it unasked, as an initiator that ignored InitialR2T would send it */
		uint8_t bhs[BHS_BYTES] = {OP_SCSI_CMD, 0xa1, [9] = 1}, out[BHS_BYTES] = {OP_DATA_OUT, 0x80, [9] = 1};
		kedge_put_be32(bhs + 16, ++w.p.itt);
		kedge_put_be32(bhs + 20, sizeof data);
		kedge_put_be32(bhs + 24, w.p.cmd_sn++);
		bhs[32] = opcodes[i];
		bhs[opcodes[i] >= 0x80 ? 45 : 40] = 1;
		assert_int_equal(peer_send(&w.p, bhs, i % 2 ? data : NULL, i % 2 ? sizeof data : 0), 0);
		kedge_put_be32(out + 16, w.p.itt);
		kedge_put_be32(out + 20, TAG_NONE);
		assert_int_equal(peer_send(&w.p, out, data, sizeof data), 0);
		peer_finish(&w.p, w.p.itt, &o);
		assert_int_equal(o.error, 0);
		assert_int_equal(o.status, 2);
		if (o.sense != 0x072700)
			fail_msg("opcode 0x%02x: sense 0x%06x, not DATA PROTECT", opcodes[i], o.sense);
		assert_int_equal(o.residual, sizeof data);
		assert_true(o.is_under);
	}
	peer_command(&w.p, 1, (const uint8_t[16]){0x28, [8] = 1}, 512, &o);
	for (size_t i = 0; i < sizeof block; i++)
		assert_int_equal(block[i], disk_byte(1, i));
	wire_end(&w);
}

static void test_luns_that_are_not_there(void **state)
{
	static uint8_t data[256];
	static const uint32_t luns[] = {3, 17, 31, 32, 255, 256, 0x3fff};
	struct outcome o = {.data = data, .out_max = sizeof data};
	uint8_t read10[16] = {0x28, [8] = 1}, inquiry[16] = {0x12, [4] = 96}, report[16] = {0xa0, [9] = 255};
	struct wire w;

	logged_in(&w);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(luns); i++) {
		peer_command(&w.p, luns[i], read10, 512, &o);
		assert_int_equal(o.sense, 0x052500);
		peer_command(&w.p, luns[i], ready, 0, &o);
		assert_int_equal(o.sense, 0x052500);
		peer_command(&w.p, luns[i], inquiry, 96, &o);
		assert_int_equal(o.status, 0);
		assert_int_equal(data[0], 0x7f); /* there can be no unit here */
		peer_command(&w.p, luns[i], report, 255, &o); /* Linux and Windows ask anywhere */
		assert_int_equal(o.status, 0);
		assert_int_equal(kedge_get_be32(data), 16);
	}
	/* LUN 0: answers, has no medium */
	peer_command(&w.p, 0, inquiry, 96, &o);
	assert_int_equal(o.status, 0);
	assert_int_equal(data[0], 0x20);
	peer_command(&w.p, 0, ready, 0, &o);
	assert_int_equal(o.sense, 0x023a00);
	peer_command(&w.p, 0, read10, 512, &o);
	assert_int_equal(o.status, 2);
	assert_int_equal(o.nr_bytes, 0);
	wire_end(&w);
}

static void test_unknown_commands_and_pdus_are_refused_by_name(void **state)
{
	struct outcome o = {0};
	struct wire w;

	logged_in(&w);
	for (unsigned opcode = 0xc0; opcode < 0x100; opcode++) {
		uint8_t cdb[16] = {(uint8_t)opcode};
		if (opcode == 0xc1)
			continue; /* READ EXTENT: test_wire_extent.c */
		peer_command(&w.p, 1, cdb, 0, &o);
		assert_int_equal(o.sense, 0x052000);
	}
	static const uint8_t opcodes[] = {0x10 /* SNACK */, 0x07, 0x1c, 0x1d, 0x20, 0x21, 0x25, 0x31, 0x3f, OP_LOGIN};
	for (size_t i = 0; i < sizeof opcodes; i++) {
		uint8_t bhs[BHS_BYTES] = {(uint8_t)(opcodes[i] | OP_IMMEDIATE), 0x80};
		kedge_put_be32(bhs + 16, ++w.p.itt);
		kedge_put_be32(bhs + 24, w.p.cmd_sn);
		if (opcodes[i] == OP_SNACK)
			bhs[0] = OP_SNACK;
		assert_int_equal(peer_send(&w.p, bhs, NULL, 0), 0);
		assert_int_equal(peer_recv(&w.p), 0);
		assert_int_equal(pdu_opcode(w.p.bhs), OP_REJECT);
		assert_int_equal(pdu_itt(w.p.bhs), TAG_NONE);
		assert_int_equal(w.p.nr_data, BHS_BYTES);
		assert_int_equal(pdu_opcode(w.p.data), opcodes[i]);
	}
	assert_true(peer_ping(&w.p));
	wire_end(&w);
}

static void test_segment_longer_than_declared_closes(void **state)
{
	uint8_t bhs[BHS_BYTES] = {OP_NOP_OUT | OP_IMMEDIATE, 0x80};
	struct wire w;

	logged_in(&w);
	kedge_put_be24(bhs + 5, 0xffffff);
	assert_int_equal(peer_send_raw(&w.p, bhs, sizeof bhs), 0);
	assert_true(peer_is_closed_by_target(&w.p, 3000));
	wire_end(&w);
}

/* Pings whose answers are never read must not pile up in the target. */
static void test_flood_without_reading_is_cut_off(void **state)
{
	static uint8_t data[PING_BYTES];
	struct wire w;
	int r = 0;

	logged_in(&w);
	long before_kib = target_rss_kib(&w.t);
	for (int i = 0; i < 4000 && r == 0; i++) {
		uint8_t bhs[BHS_BYTES] = {OP_NOP_OUT | OP_IMMEDIATE, 0x80};
		kedge_put_be32(bhs + 16, ++w.p.itt);
		kedge_put_be32(bhs + 20, TAG_NONE);
		kedge_put_be32(bhs + 24, w.p.cmd_sn);
		r = peer_send(&w.p, bhs, data, sizeof data);
	}
	assert_int_not_equal(r, 0);
	long grown_kib = target_rss_kib(&w.t) - before_kib;
	if (grown_kib > 32 * 1024 + WIRE_RSS_SLACK_KIB)
		fail_msg("the target grew by %ld KiB", grown_kib);
	wire_end(&w);
}

static void test_sigterm_ends_it_amid_reads(void **state)
{
	struct wire w;

	logged_in(&w);
	for (int i = 0; i < 100; i++)
		peer_read10(&w.p, 1, 0, 16000, 16000 * 512);
	assert_int_equal(peer_recv(&w.p), 0);
	assert_true(target_stop(&w.t));
	peer_close(&w.p);
}

/* A session that asks for 8 MB and takes none of it. */
static void open_stuck(struct wire *w, struct peer *p, uint8_t isid)
{
	int one = 1;

	assert_int_equal(peer_open(p, &w->t, NULL), 0);
	assert_int_equal(setsockopt(p->fd, SOL_SOCKET, SO_RCVBUF, &one, sizeof one), 0);
	p->isid[5] = isid;
	assert_int_equal(peer_login(p, "DataDigest=CRC32C", NULL, NULL), 0); /* through buffers */
	peer_command(p, 1, ready, 0, &(struct outcome){0});
	peer_read10(p, 1, 0, 16000, 16000 * 512);
}

static void wait_readable(struct peer *p)
{
	struct pollfd fd = {.fd = p->fd, .events = POLLIN};

	assert_int_equal(poll(&fd, 1, p->wait_ms), 1);
}

/*
 * A command waits for a buffer, its connection ends while a sendmsg of it is under way, and in the same round a buffer comes free. A target
 * that destroys the command there still has it in its queue (tmpfs: small reads that are cached are answered at once). Each read has a buffer
 * of 1 MiB, and 64 MiB are what there is. Which requests a round finds is not ours to say: on one core as a rule both of those that are sent together.
 */
static void test_buffer_comes_for_a_command_whose_connection_ends(void **state)
{
	struct peer gone, full;
	struct wire w;

	cpu_set_t before, one_cpu;
	assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
	CPU_ZERO(&one_cpu);
	CPU_SET(sched_getcpu(), &one_cpu);
	assert_int_equal(sched_setaffinity(0, sizeof one_cpu, &one_cpu), 0);
	setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.perturb=165", 1); /* what was freed is seen to be, also without a sanitizer */
	logged_in(&w);
	unsetenv("GLIBC_TUNABLES");
	long before_kib = target_rss_kib(&w.t);
	open_stuck(&w, &full, 2);
	uint32_t oldest = full.itt;
	for (int i = 0; i < 62; i++)
		peer_read10(&full, 1, 0, 16000, 16000 * 512);
	for (int i = 0; i < 2000 && target_rss_kib(&w.t) < before_kib + 63 * 1024; i++)
		usleep(5000);
	assert_true(target_rss_kib(&w.t) >= before_kib + 63 * 1024); /* they have been read, and wait to be sent */
	assert_int_equal(peer_recv(&full), 0);
	uint32_t begun = pdu_itt(full.bhs), tag = oldest - 1; /* the disk gave them in any order */
	for (uint8_t i = 0; i < 55; i++) {
		tag += tag + 1 == begun ? 2 : 1;
		open_stuck(&w, &gone, (uint8_t)(3 + i));
		wait_readable(&gone);
		peer_read10(&gone, 1, 8, 8, 8 * 512);
		for (int j = 0; j < 5; j++)
			assert_true(peer_ping(&w.p)); /* it waits, and what goes out before it is stuck */
		send_tmf(&full, 1, 1, tag); /* ABORT TASK */
		shutdown(gone.fd, SHUT_WR);
		assert_true(peer_ping(&w.p));
		peer_close(&gone);
		peer_read10(&full, 1, 0, 16000, 16000 * 512);
		assert_true(peer_ping(&w.p));
	}
	peer_close(&full);
	assert_true(peer_ping(&w.p));
	wire_end(&w);
	sched_setaffinity(0, sizeof before, &before);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_command_reports_power_on_once_a_lun),
		cmocka_unit_test(test_nop_out_is_answered_with_its_data),
		cmocka_unit_test(test_command_numbers_out_of_order_are_ignored),
		cmocka_unit_test(test_immediate_commands_take_no_number),
		cmocka_unit_test(test_window_holds_many_commands_and_every_one_is_answered),
		cmocka_unit_test(test_window_closes_while_answers_wait),
		cmocka_unit_test(test_task_management_answers),
		cmocka_unit_test(test_aborted_commands_answer_no_more),
		cmocka_unit_test(test_writes_are_refused_as_protected),
		cmocka_unit_test(test_luns_that_are_not_there),
		cmocka_unit_test(test_unknown_commands_and_pdus_are_refused_by_name),
		cmocka_unit_test(test_segment_longer_than_declared_closes),
		cmocka_unit_test(test_flood_without_reading_is_cut_off),
		cmocka_unit_test(test_sigterm_ends_it_amid_reads),
		cmocka_unit_test(test_buffer_comes_for_a_command_whose_connection_ends),
	};

	return wire_main(argc, argv) ? 2 : cmocka_run_group_tests_name("wire task", tests, NULL, NULL);
}
