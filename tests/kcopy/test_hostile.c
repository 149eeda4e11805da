/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Targets that do not play fair: they skip the proof of mutual CHAP in the two ways that libiscsi 1.19 lets pass, say
 * nothing, say nonsense, or close at once: the source must refuse or keep trying; it must never come up. Or they are good targets
 * but for their reads, which they call good without having sent all of the data: the read must fail; or for a medium error while they look
 * where their holes are: what comes after it is known all the same. Or they offer READ EXTENT and answer it wrongly in every way, or refuse it.
 *
 * Owns. A child process per case, a target of a few lines.
 *
 * Locks. None.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kcopy/kcopy.h"
#include "kedge/bytes.h"
#include "kedge/transit.h"

struct child {
	pid_t pid;
	uint16_t port;
};

static void read_exactly(int fd, uint8_t *buf, size_t n)
{
	while (n > 0) {
		ssize_t r = recv(fd, buf, n, 0);
		if (r <= 0)
			_exit(0);
		buf += r;
		n -= (size_t)r;
	}
}

/* Read a PDU; returns its initiator task tag in place. */
static void read_pdu(int fd, uint8_t head[48])
{
	uint8_t data[65536];

	read_exactly(fd, head, 48);
	read_exactly(fd, data, kedge_round_up(kedge_get_be24(head + 5), 4));
}

/* A login response. flags: transit, stages. */
static void send_login(int fd, const uint8_t request[48], uint8_t flags, const char *text, size_t nr_text)
{
	uint8_t pdu[2048] = { 0x23, flags };

	kedge_put_be24(pdu + 5, (uint32_t)nr_text);
	memcpy(pdu + 8, request + 8, 6);   /* ISID */
	kedge_put_be16(pdu + 14, 1);       /* TSIH */
	memcpy(pdu + 16, request + 16, 4); /* task tag */
	kedge_put_be32(pdu + 24, 1);
	memcpy(pdu + 28, request + 24, 4); /* ExpCmdSN, MaxCmdSN */
	memcpy(pdu + 32, request + 24, 4);
	memcpy(pdu + 48, text, nr_text);
	send(fd, pdu, 48 + kedge_round_up(nr_text, 4), MSG_NOSIGNAL);
}

static void target_skips_security(int fd)
{
	static const char keys[] = "TargetPortalGroupTag=1\0AuthMethod=None";
	uint8_t head[48];

	read_pdu(fd, head);
	/* as if from the operational stage, straight to full feature */
	send_login(fd, head, 0x80 | 1 << 2 | 3, keys, sizeof keys);
	for (;;)
		read_pdu(fd, head);
}

static void target_answers_zeroes(int fd)
{
	static const char keys[] = "AuthMethod=CHAP\0CHAP_N=bob\0CHAP_R=0x00000000000000000000000000000000";
	static const char done[] = "HeaderDigest=None";
	uint8_t head[48];

	read_pdu(fd, head);
	send_login(fd, head, 0x80 | 0 << 2 | 1, keys, sizeof keys);
	read_pdu(fd, head);
	send_login(fd, head, 0x80 | 1 << 2 | 3, done, sizeof done);
	for (;;)
		read_pdu(fd, head);
}

static void target_is_silent(int fd)
{
	uint8_t head[48];

	for (;;)
		read_pdu(fd, head);
}

static void target_talks_nonsense(int fd)
{
	uint8_t junk[4096];

	srandom((unsigned)getpid());
	for (size_t i = 0; i < sizeof junk; i++)
		junk[i] = (uint8_t)random();
	send(fd, junk, sizeof junk, MSG_NOSIGNAL);
}

static void target_closes(int fd)
{
}

/* ---- a target that is good but for its reads ---- */

enum gap { GAP_NONE, GAP_ALL, GAP_BEGIN, GAP_MIDDLE, GAP_END };
static enum gap gap;
static uint64_t disk_bytes;
static bool has_sums; /* it offers them */
static bool is_for_sums; /* what read_over asks for */
static enum ping { PING_UNANSWERED, PING_ANSWERED, PING_OVERLOOKED } *ping; /* shared likewise: a ping comes with the end of a read */
static unsigned *nr_status_errors; /* shared by its connections: so many GET LBA STATUS fail, then all is a hole */

/* How it answers READ EXTENT: not offered; refused; well; or with this wrong. */
enum lie { LIE_NO_OFFER, LIE_REFUSED, LIE_NONE, LIE_OTHER_PLACE, LIE_CHECKSUM, LIE_LENGTH, LIE_NO_HEAD, LIE_RESIDUAL, LIE_BOMB, NR_LIES };
static enum lie lie;

#define READ_BYTES 65536u
#define SEGMENT_BYTES 8192u
#define SUMS_BYTES (2 * KEDGE_TRANSIT_EXTENT_MAX_BYTES + 512) /* three of them */

static uint8_t disk_byte(uint32_t at)
{
	return (uint8_t)(at * 7 + at / 4096 + 1);
}

static void send_status(int fd, const uint8_t request[48], uint8_t opcode, uint8_t flags, uint8_t status, uint32_t stat_sn, uint32_t at,
			const uint8_t *data, uint32_t n)
{
	static uint8_t pdu[48 + SEGMENT_BYTES];

	memset(pdu, 0, 48);
	pdu[0] = opcode;
	pdu[1] = flags;
	pdu[3] = status;
	kedge_put_be24(pdu + 5, n);
	memcpy(pdu + 16, request + 16, 4);
	kedge_put_be32(pdu + 20, 0xffffffff);
	kedge_put_be32(pdu + 24, stat_sn);
	kedge_put_be32(pdu + 28, kedge_get_be32(request + 24) + 1);
	kedge_put_be32(pdu + 32, kedge_get_be32(request + 24) + 64);
	kedge_put_be32(pdu + 36, at / SEGMENT_BYTES);
	kedge_put_be32(pdu + 40, opcode == 0x25 ? at : 0);
	if (n)
		memcpy(pdu + 48, data, n);
	send(fd, pdu, 48 + kedge_round_up(n, 4), MSG_NOSIGNAL);
}

static void send_answer(int fd, const uint8_t request[48], uint8_t opcode, uint8_t flags, uint32_t stat_sn, uint32_t at,
			const uint8_t *data, uint32_t n)
{
	send_status(fd, request, opcode, flags, 0, stat_sn, at, data, n);
}

static bool is_gap(uint32_t at, uint32_t n)
{
	return gap == GAP_ALL || (gap == GAP_BEGIN && at == 0) || (gap == GAP_MIDDLE && at == n / 2 / SEGMENT_BYTES * SEGMENT_BYTES) ||
	       (gap == GAP_END && at + SEGMENT_BYTES >= n);
}

static void send_read(int fd, const uint8_t request[48], uint32_t stat_sn)
{
	uint32_t n = kedge_get_be32(request + 20), lba = kedge_get_be32(request + 32 + 6);
	uint8_t data[SEGMENT_BYTES];

	for (uint32_t at = 0; at < n; at += SEGMENT_BYTES) {
		if (is_gap(at, n))
			continue;
		for (uint32_t i = 0; i < SEGMENT_BYTES; i++)
			data[i] = disk_byte(lba * 512 + at + i);
		send_answer(fd, request, 0x25, 0, 0, at, data, (uint32_t)kedge_min_u64(n - at, SEGMENT_BYTES));
	}
	send_answer(fd, request, 0x21, 0x80, stat_sn, 0, NULL, 0); /* GOOD, and no residual */
}

/* In one segment with what was sent before it. Overlooked it is when something else comes first: the initiator's own ping. */
static void send_ping(int fd, const uint8_t request[48], uint32_t stat_sn)
{
	uint8_t pdu[48] = {0x20, 0x80}, head[48];
	int off = 0;

	memset(pdu + 16, 0xff, 4);
	kedge_put_be32(pdu + 20, 1);
	kedge_put_be32(pdu + 24, stat_sn);
	kedge_put_be32(pdu + 28, kedge_get_be32(request + 24) + 1);
	kedge_put_be32(pdu + 32, kedge_get_be32(request + 24) + 64);
	send(fd, pdu, sizeof pdu, MSG_NOSIGNAL);
	setsockopt(fd, IPPROTO_TCP, TCP_CORK, &off, sizeof off);
	read_pdu(fd, head);
	*ping = (head[0] & 0x3f) == 0 && kedge_get_be32(head + 20) == 1 ? PING_ANSWERED : PING_OVERLOOKED;
}

static void send_lba_status(int fd, const uint8_t request[48], uint32_t stat_sn)
{
	static const uint8_t medium_error[20] = {0, 18, 0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11};
	uint64_t lba = kedge_get_be64(request + 32 + 2);
	uint8_t data[24] = {0, 0, 0, 20};

	if (nr_status_errors && *nr_status_errors) {
		--*nr_status_errors;
		send_status(fd, request, 0x21, 0x80, 2, stat_sn, 0, medium_error, sizeof medium_error);
		return;
	}
	kedge_put_be64(data + 8, lba);
	kedge_put_be32(data + 16, (uint32_t)(disk_bytes / 512 - lba));
	data[20] = 1; /* deallocated */
	send_answer(fd, request, 0x25, 0x81, stat_sn, 0, data, sizeof data);
}

static void send_end(int fd, const uint8_t request[48], uint8_t status, uint8_t flags, uint32_t stat_sn, uint32_t residual)
{
	uint8_t pdu[68] = {0x21, (uint8_t)(0x80 | flags), 0, status};
	static const uint8_t bad_field[20] = {0, 18, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24};

	memcpy(pdu + 16, request + 16, 4);
	kedge_put_be32(pdu + 24, stat_sn);
	kedge_put_be32(pdu + 28, kedge_get_be32(request + 24) + 1);
	kedge_put_be32(pdu + 32, kedge_get_be32(request + 24) + 64);
	kedge_put_be32(pdu + 44, residual);
	if (status == 0x02) {
		pdu[7] = sizeof bad_field;
		memcpy(pdu + 48, bad_field, sizeof bad_field);
	}
	send(fd, pdu, 48u + pdu[7], MSG_NOSIGNAL);
}

static void send_refusal(int fd, const uint8_t request[48], uint32_t stat_sn)
{
	send_end(fd, request, 0x02, 0x02, stat_sn, kedge_get_be32(request + 20));
}

static void send_sum(int fd, const uint8_t request[48], uint32_t stat_sn, const uint8_t *data, uint64_t start_bytes, uint32_t nr_bytes)
{
	uint8_t head[KEDGE_TRANSIT_HEAD_BYTES], sum[KEDGE_TRANSIT_SUM_BYTES];
	uint32_t room = kedge_get_be32(request + 20), n = lie == LIE_NO_HEAD ? 0 : lie == LIE_BOMB ? 20 : sizeof head;

	kedge_transit_sum(data, start_bytes, nr_bytes, sum);
	kedge_transit_sum_encode(start_bytes + (lie == LIE_OTHER_PLACE ? 4096 : 0), nr_bytes - (lie == LIE_LENGTH ? 512 : 0), sum, head);
	head[30] ^= lie == LIE_CHECKSUM;
	if (n > 0) /* LIE_BOMB: a head that ends in the middle */
		send_answer(fd, request, 0x25, 0, 0, 0, head, n);
	send_end(fd, request, 0, n < room || lie == LIE_RESIDUAL ? 2 : 0, stat_sn, lie == LIE_RESIDUAL ? 0xfffffff0 : room - n);
}

static void send_extent(int fd, const uint8_t request[48], uint32_t stat_sn)
{
	uint64_t lba = kedge_get_be64(request + 34);
	uint32_t n = kedge_get_be32(request + 42) * 512, room = kedge_get_be32(request + 20);
	static uint8_t data[KEDGE_TRANSIT_HEAD_BYTES + KEDGE_TRANSIT_EXTENT_MAX_BYTES], scratch[KEDGE_TRANSIT_EXTENT_MAX_BYTES];
	struct kedge_transit_coder *coder = kedge_transit_coder_create();
	uint8_t *payload = data + KEDGE_TRANSIT_HEAD_BYTES;
	struct kedge_transit_head h;
	bool has_tried;

	for (uint32_t i = 0; i < n; i++)
		payload[i] = disk_byte((uint32_t)lba * 512 + i);
	kedge_transit_pack(coder, payload, n, request[33], scratch, &has_tried, &h);
	if (h.codec == KEDGE_TRANSIT_ZSTD)
		memcpy(payload, scratch, h.payload_bytes);
	h.start_bytes = lba * 512 + (lie == LIE_OTHER_PLACE ? 4096 : 0);
	h.checksum ^= lie == LIE_CHECKSUM;
	h.payload_bytes -= lie == LIE_LENGTH;
	if (request[33] == KEDGE_TRANSIT_CAN_SUM) {
		send_sum(fd, request, stat_sn, payload, lba * 512, n);
		kedge_transit_coder_destroy(coder);
		return;
	}
	if (lie == LIE_BOMB) { /* 512 KiB in a few bytes, called n */
		static uint8_t text[KEDGE_TRANSIT_EXTENT_MAX_BYTES];
		memset(text, 'x', sizeof text);
		struct kedge_transit_head bomb;
		kedge_transit_pack(coder, text, sizeof text, KEDGE_TRANSIT_CAN_ALL, scratch, &has_tried, &bomb);
		h.codec = bomb.codec;
		h.payload_bytes = bomb.payload_bytes;
		memcpy(payload, scratch, h.payload_bytes);
	}
	kedge_transit_head_encode(&h, data);
	uint32_t all = KEDGE_TRANSIT_HEAD_BYTES + h.payload_bytes, at = lie == LIE_NO_HEAD ? KEDGE_TRANSIT_HEAD_BYTES : 0;
	for (; at < all; at += SEGMENT_BYTES)
		send_answer(fd, request, 0x25, 0, 0, at, data + at, (uint32_t)kedge_min_u64(all - at, SEGMENT_BYTES));
	send_end(fd, request, 0, all < room || lie == LIE_RESIDUAL ? 2 : 0, stat_sn, lie == LIE_RESIDUAL ? 0xfffffff0 : room - all);
	kedge_transit_coder_destroy(coder);
}

static void target_leaves_gaps(int fd)
{
	const struct kedge_transit_offer offer = {
		.codecs = KEDGE_TRANSIT_CAN_ALL | (has_sums ? KEDGE_TRANSIT_CAN_SUM : 0), .nr_workers = 1, .extent_max_bytes = KEDGE_TRANSIT_EXTENT_MAX_BYTES};
	uint8_t page[KEDGE_TRANSIT_PAGE_BYTES];
	static const char keys[] = "TargetPortalGroupTag=1\0HeaderDigest=None\0DataDigest=None\0InitialR2T=Yes\0ImmediateData=No\0"
				   "MaxBurstLength=262144\0FirstBurstLength=65536\0MaxRecvDataSegmentLength=65536";
	static const uint8_t usn[] = {0, 0x80, 0, 4, 't', 'e', 's', 't'};
	uint8_t head[48], capacity[32] = {0};
	uint32_t stat_sn = 2;

	kedge_transit_page_encode(&offer, page);
	read_pdu(fd, head);
	send_login(fd, head, 0x80 | 1 << 2 | 3, keys, sizeof keys);
	kedge_put_be64(capacity, disk_bytes / 512 - 1);
	kedge_put_be32(capacity + 8, 512);
	capacity[14] = 0xc0; /* thin, what is not there reads as zeroes */
	for (;; stat_sn++) {
		read_pdu(fd, head);
		if ((head[0] & 0x3f) == 0x06)
			_exit(0);
		if ((head[0] & 0x3f) == 0) { /* NOP */
			send_answer(fd, head, 0x20, 0x80, stat_sn, 0, NULL, 0);
			continue;
		}
		switch (head[32]) {
		case 0x12:
			if (head[34] == 0x80)
				send_answer(fd, head, 0x25, 0x81, stat_sn, 0, usn, sizeof usn);
			else if (head[34] == KEDGE_TRANSIT_PAGE && lie != LIE_NO_OFFER)
				send_answer(fd, head, 0x25, 0x81, stat_sn, 0, page, sizeof page);
			else
				send_refusal(fd, head, stat_sn);
			break;
		case KEDGE_TRANSIT_OPCODE:
			if (lie == LIE_REFUSED)
				send_refusal(fd, head, stat_sn);
			else
				send_extent(fd, head, stat_sn);
			break;
		case 0x9e:
			if ((head[33] & 0x1f) == 0x12)
				send_lba_status(fd, head, stat_sn);
			else
				send_answer(fd, head, 0x25, 0x81, stat_sn, 0, capacity, sizeof capacity);
			break;
		case 0x88:
			setsockopt(fd, IPPROTO_TCP, TCP_CORK, &(int){ping != NULL}, sizeof(int));
			send_read(fd, head, stat_sn);
			if (ping)
				send_ping(fd, head, stat_sn + 1);
			break;
		default:
			send_answer(fd, head, 0x21, 0x80, stat_sn, 0, NULL, 0);
		}
	}
}

static struct child start_target(void (*serve)(int fd))
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof sa;
	struct child c;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	c.port = ntohs(sa.sin_port);
	c.pid = fork();
	if (c.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGCHLD, SIG_IGN);
		for (;;) {
			int client = accept(fd, NULL, NULL);
			if (client >= 0 && fork() == 0) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				serve(client);
				_exit(0);
			}
			close(client);
		}
	}
	close(fd);
	return c;
}

static void closed_cb(void *arg)
{
	*(bool *)arg = true;
}

static void never_cb(struct kedge_source_io *io, int res)
{
	*(int *)io->arg = res;
}

/* Run a source against it until it is refused or the time is over; returns its state, and the result of a read. */
static enum kedge_source_state meet(void (*serve)(int fd), const struct kedge_chap *chap, unsigned nr_ms,
				    struct kedge_source_status *st, int *read_res)
{
	struct child c = start_target(serve);
	struct kedge_loop *l;
	struct kedge_source *src;
	struct kedge_err err = { 0 };
	char url[128], *buf = aligned_alloc(4096, 4096);
	bool is_closed = false;
	enum kedge_source_state worst = KEDGE_SOURCE_STOPPED;

	snprintf(url, sizeof url, "iscsi://127.0.0.1:%u/iqn.2026-11.test:v/1", c.port);
	assert_int_equal(kedge_loop_create(64, &l, &err), 0);
	struct kcopy_source_opts o = { .url = url, .chap = chap, .nr_sessions = 2 };
	assert_int_equal(kcopy_source_create(l, &o, &src, &err), 0);
	*read_res = 1;
	memset(buf, 0x77, 4096);
	struct kedge_source_io io = { .nr_bytes = 4096, .buf = buf, .fn = never_cb, .arg = read_res };
	src->ops->start(src);
	src->ops->read(src, &io);
	uint64_t start_ns = kedge_clock_ns();
	while (kedge_clock_ns() - start_ns < nr_ms * 1000000ull) {
		kedge_loop_run_once(l, 10);
		src->ops->status(src, st);
		if (st->state == KEDGE_SOURCE_UP)
			worst = KEDGE_SOURCE_UP;
		if (st->state == KEDGE_SOURCE_REFUSED && *read_res <= 0)
			break;
	}
	if (worst != KEDGE_SOURCE_UP)
		worst = st->state;
	for (int i = 0; i < 4096; i++)
		assert_int_equal(buf[i], 0x77);
	int before_close = *read_res;
	src->ops->close(src, closed_cb, &is_closed);
	while (!is_closed)
		assert_int_equal(kedge_loop_run_once(l, 100), 0);
	assert_int_equal(*read_res, before_close == 1 ? -ECANCELED : before_close);
	*read_res = before_close;
	src->ops->destroy(src);
	kedge_loop_destroy(l);
	kill(c.pid, SIGKILL);
	waitpid(c.pid, NULL, 0);
	free(buf);
	return worst;
}

static const struct kedge_chap mutual = {
	.user = "alice", .secret = "alice-secret-1", .mutual_user = "bob", .mutual_secret = "bobs-secret-22"
};

static void test_source_refuses_a_target_that_skips_its_proof(void **state)
{
	struct kedge_source_status st;
	int res;

	assert_int_equal(meet(target_skips_security, &mutual, 5000, &st, &res), KEDGE_SOURCE_REFUSED);
	assert_int_equal(res, KEDGE_E_SOURCE_AUTH);
	assert_int_equal(st.last_err.code, KEDGE_E_SOURCE_AUTH);
}

static void test_source_refuses_a_proof_of_zeroes(void **state)
{
	struct kedge_source_status st;
	int res;

	assert_int_equal(meet(target_answers_zeroes, &mutual, 5000, &st, &res), KEDGE_SOURCE_REFUSED);
	assert_int_equal(res, KEDGE_E_SOURCE_AUTH);
}

static void test_source_keeps_trying_where_nobody_answers_sensibly(void **state)
{
	void (*const serve[])(int) = { target_is_silent, target_talks_nonsense, target_closes };

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(serve); i++) {
		struct kedge_source_status st;
		int res;

		assert_int_equal(meet(serve[i], NULL, 400, &st, &res), KEDGE_SOURCE_CONNECTING);
		assert_int_equal(res, 1); /* still waiting */
		assert_int_equal(st.last_err.code, KEDGE_E_SOURCE_AWAY);
	}
}

/* A read of nr_bytes from a target with such gaps and lies: its result; a good one has the right bytes. */
static int read_over(enum gap g, enum lie e, uint64_t start_bytes, uint32_t nr_bytes)
{
	gap = g;
	disk_bytes = 2 << 20;
	lie = e;
	struct child c = start_target(target_leaves_gaps);
	struct kedge_loop *l;
	struct kedge_source *src;
	struct kedge_err err = { 0 };
	uint8_t *buf = aligned_alloc(4096, kedge_round_up(nr_bytes, 4096));
	char url[128];
	bool is_closed = false;
	int res = 1;

	snprintf(url, sizeof url, "iscsi://127.0.0.1:%u/iqn.2026-11.test:v/1", c.port);
	assert_int_equal(kedge_loop_create(64, &l, &err), 0);
	struct kcopy_source_opts o = { .url = url, .nr_sessions = 1, .transit = KCOPY_TRANSIT_ZSTD };
	assert_int_equal(kcopy_source_create(l, &o, &src, &err), 0);
	memset(buf, 0x77, nr_bytes);
	struct kedge_source_io io = { .start_bytes = start_bytes, .nr_bytes = nr_bytes, .buf = buf, .fn = never_cb, .arg = &res, .prio = KEDGE_PRIO_BACKGROUND };
	src->ops->start(src);
	if (is_for_sums)
		src->ops->sums(src, &io);
	else
		src->ops->read(src, &io);
	for (int i = 0; i < 1000 && res == 1; i++)
		kedge_loop_run_once(l, 10);
	for (int i = 0; i < 1000 && ping && *ping == PING_UNANSWERED; i++)
		kedge_loop_run_once(l, 10);
	for (uint32_t i = 0; res == 0 && !is_for_sums && i < nr_bytes; i++)
		assert_int_equal(buf[i], disk_byte((uint32_t)start_bytes + i));
	if (res == 0 && is_for_sums) {
		uint8_t *data = malloc(nr_bytes), sum[KEDGE_TRANSIT_SUM_BYTES];
		for (uint32_t i = 0; i < nr_bytes; i++)
			data[i] = disk_byte((uint32_t)start_bytes + i);
		for (uint32_t at = 0, nr = 0; at < nr_bytes; at += KEDGE_TRANSIT_EXTENT_MAX_BYTES, nr++) {
			kedge_transit_sum(data + at, start_bytes + at, (uint32_t)kedge_min_u64(nr_bytes - at, KEDGE_TRANSIT_EXTENT_MAX_BYTES), sum);
			assert_memory_equal(buf + nr * sizeof sum, sum, sizeof sum);
		}
		free(data);
	}
	src->ops->close(src, closed_cb, &is_closed);
	while (!is_closed)
		assert_int_equal(kedge_loop_run_once(l, 100), 0);
	src->ops->destroy(src);
	kedge_loop_destroy(l);
	kill(c.pid, SIGKILL);
	waitpid(c.pid, NULL, 0);
	free(buf);
	return res;
}

static void test_source_takes_no_good_status_for_data(void **state)
{
	assert_int_equal(read_over(GAP_NONE, LIE_NO_OFFER, 0, READ_BYTES), 0);
	assert_int_equal(read_over(GAP_NONE, LIE_NO_OFFER, 512, 512), 0);
	assert_int_equal(read_over(GAP_NONE, LIE_NO_OFFER, 4096, 300 * 512), 0);
	for (enum gap g = GAP_ALL; g <= GAP_END; g++) {
		assert_int_equal(read_over(g, LIE_NO_OFFER, 0, READ_BYTES), KEDGE_E_SOURCE_MEDIUM);
		assert_int_equal(read_over(g, LIE_NO_OFFER, 1024, 40 * 512), KEDGE_E_SOURCE_MEDIUM);
	}
	assert_int_equal(read_over(GAP_ALL, LIE_NO_OFFER, 0, 512), KEDGE_E_SOURCE_MEDIUM);
}

static void test_source_takes_no_extent_that_is_not_what_was_asked_for(void **state)
{
	/* those that are fine: by plain reads where it is not offered, or offered and refused */
	for (enum lie e = LIE_NO_OFFER; e <= LIE_NONE; e++) {
		assert_int_equal(read_over(GAP_NONE, e, 0, READ_BYTES), 0);
		assert_int_equal(read_over(GAP_NONE, e, 4096, 4096), 0);
	}
	for (enum lie e = LIE_OTHER_PLACE; e < NR_LIES; e++)
		assert_int_equal(read_over(GAP_NONE, e, 0, READ_BYTES), KEDGE_E_SOURCE_DAMAGED);
}

static void test_source_takes_no_sum_that_is_not_what_was_asked_for(void **state)
{
	is_for_sums = true;
	/* an older target has the command and not this answer; one that does not know it any more says so */
	for (enum lie e = LIE_NO_OFFER; e <= LIE_NONE; e++)
		assert_int_equal(read_over(GAP_NONE, e, 0, READ_BYTES), -EOPNOTSUPP);
	has_sums = true;
	assert_int_equal(read_over(GAP_NONE, LIE_NO_OFFER, 0, READ_BYTES), -EOPNOTSUPP);
	assert_int_equal(read_over(GAP_NONE, LIE_REFUSED, 0, READ_BYTES), -EOPNOTSUPP);
	assert_int_equal(read_over(GAP_NONE, LIE_NONE, 0, READ_BYTES), 0);
	assert_int_equal(read_over(GAP_NONE, LIE_NONE, 4096, 512), 0);
	assert_int_equal(read_over(GAP_NONE, LIE_NONE, 4096, SUMS_BYTES), 0);
	for (enum lie e = LIE_OTHER_PLACE; e < NR_LIES; e++)
		assert_int_equal(read_over(GAP_NONE, e, 0, READ_BYTES), KEDGE_E_SOURCE_DAMAGED);
	is_for_sums = false;
	/* ordinary reads never ask for one */
	assert_int_equal(read_over(GAP_NONE, LIE_NONE, 0, READ_BYTES), 0);
}

/* What came with the last answer is looked at then, not when something else comes. */
static void test_source_overlooks_nothing_behind_an_answer(void **state)
{
	ping = mmap(NULL, sizeof *ping, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(ping != MAP_FAILED);
	assert_int_equal(read_over(GAP_NONE, LIE_NO_OFFER, 4096, 4096), 0);
	assert_int_equal(*ping, PING_ANSWERED);
	munmap(ping, sizeof *ping);
	ping = NULL;
}

/* Ask for the extents from start_bytes to the end. */
static struct kedge_extent extent_at(struct kedge_loop *l, struct kedge_source *src, uint64_t start_bytes)
{
	struct kedge_extent x = { 0 };
	int res = 1;
	struct kedge_source_io io = { .start_bytes = start_bytes, .nr_bytes = disk_bytes - start_bytes, .extents = &x, .nr_extents_max = 1,
				      .fn = never_cb, .arg = &res };

	src->ops->extents(src, &io);
	for (int i = 0; i < 1000 && res == 1; i++)
		kedge_loop_run_once(l, 10);
	assert_int_equal(res, 0);
	assert_int_equal(io.ret_nr_extents, 1);
	return x;
}

static void test_source_asks_again_behind_a_failed_question_for_holes(void **state)
{
	gap = GAP_NONE;
	disk_bytes = 5ull << 30;
	nr_status_errors = mmap(NULL, sizeof *nr_status_errors, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(nr_status_errors != MAP_FAILED);
	*nr_status_errors = 5;
	struct child c = start_target(target_leaves_gaps);
	struct kedge_loop *l;
	struct kedge_source *src;
	struct kedge_err err = { 0 };
	char url[128];
	bool is_closed = false;

	snprintf(url, sizeof url, "iscsi://127.0.0.1:%u/iqn.2026-11.test:v/1", c.port);
	assert_int_equal(kedge_loop_create(64, &l, &err), 0);
	struct kcopy_source_opts o = { .url = url, .nr_sessions = 1 };
	assert_int_equal(kcopy_source_create(l, &o, &src, &err), 0);
	src->ops->start(src);
	struct kedge_extent x = extent_at(l, src, 0);
	assert_false(x.is_hole);
	assert_int_equal(x.nr_bytes, 1 << 30);
	x = extent_at(l, src, x.nr_bytes);
	assert_true(x.is_hole);
	assert_int_equal(x.nr_bytes, 4ull << 30);
	src->ops->close(src, closed_cb, &is_closed);
	while (!is_closed)
		assert_int_equal(kedge_loop_run_once(l, 100), 0);
	src->ops->destroy(src);
	kedge_loop_destroy(l);
	kill(c.pid, SIGKILL);
	waitpid(c.pid, NULL, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_source_refuses_a_target_that_skips_its_proof),
		cmocka_unit_test(test_source_refuses_a_proof_of_zeroes),
		cmocka_unit_test(test_source_keeps_trying_where_nobody_answers_sensibly),
		cmocka_unit_test(test_source_takes_no_good_status_for_data),
		cmocka_unit_test(test_source_overlooks_nothing_behind_an_answer),
		cmocka_unit_test(test_source_asks_again_behind_a_failed_question_for_holes),
		cmocka_unit_test(test_source_takes_no_extent_that_is_not_what_was_asked_for),
		cmocka_unit_test(test_source_takes_no_sum_that_is_not_what_was_asked_for),
	};

	setenv("KEDGE_SOURCE_TIMEOUTS", "login=150,command=150,nop=100,nop-reply=100,logout=50,backoff-min=5,backoff-max=50", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
