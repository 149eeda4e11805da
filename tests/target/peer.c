/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The raw initiator of the tests.
 * Owns. One socket and a buffer for the PDU received last. Locks. None.
 */
#include "peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "kedge/crc32c.h"

const char *wire_ktarget;

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ll + ts.tv_nsec / 1000000;
}

int peer_open(struct peer *p, const struct target *t, const char *from)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)t->port)};
	struct sockaddr_in local = {.sin_family = AF_INET};
	struct timeval send_limit = {.tv_sec = 5};
	int one = 1;

	memset(p, 0, sizeof *p);
	p->wait_ms = 5000;
	p->cmd_sn = 1;
	p->itt = 100;
	memcpy(p->isid, "\x80\x12\x34\x56\x00\x01", 6);
	inet_pton(AF_INET, "127.0.0.1", &sa.sin_addr);
	p->data = malloc(PEER_DATA_MAX + 16);
	p->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p->fd < 0 || !p->data)
		abort();
	setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(p->fd, SOL_SOCKET, SO_SNDTIMEO, &send_limit, sizeof send_limit);
	if (from && (inet_pton(AF_INET, from, &local.sin_addr) != 1 || bind(p->fd, (struct sockaddr *)&local, sizeof local) < 0))
		return -errno;
	return connect(p->fd, (struct sockaddr *)&sa, sizeof sa) < 0 ? -errno : 0;
}

void peer_close(struct peer *p)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
	free(p->data);
	p->data = NULL;
}

/* ---- sending ---- */

int peer_send_raw(struct peer *p, const void *bytes, size_t nr_bytes)
{
	const char *at = bytes;

	while (nr_bytes) {
		ssize_t n = send(p->fd, at, nr_bytes, MSG_NOSIGNAL);
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += n;
		nr_bytes -= (size_t)n;
	}
	return 0;
}

size_t peer_encode(struct peer *p, uint8_t *bhs, const void *data, uint32_t nr_bytes, uint8_t *out)
{
	size_t n = BHS_BYTES;

	kedge_put_be24(bhs + 5, nr_bytes);
	if (pdu_opcode(bhs) != OP_DATA_OUT)
		kedge_put_be32(bhs + 28, p->exp_stat_sn);
	memcpy(out, bhs, BHS_BYTES);
	if (p->has_header_digest) {
		kedge_put_le32(out + n, kedge_crc32c(0, out, BHS_BYTES));
		n += DIGEST_BYTES;
	}
	if (nr_bytes == 0)
		return n;
	memcpy(out + n, data, nr_bytes);
	memset(out + n + nr_bytes, 0, pdu_pad4(nr_bytes) - nr_bytes);
	if (p->has_data_digest)
		kedge_put_le32(out + n + pdu_pad4(nr_bytes), kedge_crc32c(0, out + n, pdu_pad4(nr_bytes)));
	return n + pdu_pad4(nr_bytes) + (p->has_data_digest ? DIGEST_BYTES : 0);
}

int peer_send(struct peer *p, uint8_t *bhs, const void *data, uint32_t nr_bytes)
{
	uint8_t *out = malloc(BHS_BYTES + 2 * DIGEST_BYTES + nr_bytes + 4);
	int r;

	if (!out)
		abort();
	r = peer_send_raw(p, out, peer_encode(p, bhs, data, nr_bytes, out));
	free(out);
	return r;
}

/* ---- receiving ---- */

static int receive(struct peer *p, void *buf, size_t nr_bytes, int64_t deadline_ms)
{
	char *at = buf;

	while (nr_bytes) {
		struct pollfd pfd = {.fd = p->fd, .events = POLLIN};
		int64_t left = deadline_ms - now_ms();
		if (left <= 0 || poll(&pfd, 1, (int)left) == 0)
			return -ETIMEDOUT;
		ssize_t n = recv(p->fd, at, nr_bytes, 0);
		if (n <= 0)
			return -ECONNRESET;
		at += n;
		nr_bytes -= (size_t)n;
	}
	return 0;
}

/* Data-In carries a StatSN only with the S bit, NOP-In pings and Async do not take one. */
static bool takes_stat_sn(const uint8_t *bhs)
{
	switch (pdu_opcode(bhs)) {
	case OP_DATA_IN:
		return bhs[1] & 1;
	case OP_NOP_IN:
		return pdu_itt(bhs) != TAG_NONE;
	default:
		return true;
	}
}

static int take_numbers(struct peer *p)
{
	uint32_t stat_sn = kedge_get_be32(p->bhs + 24);

	p->exp_cmd_sn = kedge_get_be32(p->bhs + 28);
	p->max_cmd_sn = kedge_get_be32(p->bhs + 32);
	if ((int32_t)(p->max_cmd_sn - (p->exp_cmd_sn - 1)) < 0)
		return -EPROTO;
	if (!takes_stat_sn(p->bhs))
		return 0;
	if (p->has_stat_sn && stat_sn != p->exp_stat_sn)
		return -EPROTO;
	p->has_stat_sn = true;
	p->exp_stat_sn = stat_sn + 1;
	return 0;
}

int peer_recv(struct peer *p)
{
	int64_t deadline_ms = now_ms() + p->wait_ms;
	uint32_t padded;
	uint8_t digest[DIGEST_BYTES];
	int r = receive(p, p->bhs, BHS_BYTES, deadline_ms);

	if (r == 0 && p->has_header_digest) {
		r = receive(p, digest, sizeof digest, deadline_ms);
		if (r == 0 && kedge_get_le32(digest) != kedge_crc32c(0, p->bhs, BHS_BYTES))
			return -EBADMSG;
	}
	if (r < 0)
		return r;
	p->nr_data = pdu_data_bytes(p->bhs);
	padded = pdu_pad4(p->nr_data);
	if (p->nr_data > PEER_DATA_MAX || p->bhs[4])
		return -EBADMSG;
	r = receive(p, p->data, padded, deadline_ms);
	if (r == 0 && p->has_data_digest && p->nr_data) {
		r = receive(p, digest, sizeof digest, deadline_ms);
		if (r == 0 && kedge_get_le32(digest) != kedge_crc32c(0, p->data, padded))
			return -EBADMSG;
	}
	if (r < 0)
		return r;
	for (uint32_t i = p->nr_data; i < padded; i++)
		if (p->data[i])
			return -EBADMSG;
	p->data[p->nr_data] = 0;
	return take_numbers(p);
}

bool peer_is_closed_by_target(struct peer *p, int wait_ms)
{
	struct pollfd pfd = {.fd = p->fd, .events = POLLIN};
	char c;

	return poll(&pfd, 1, wait_ms) == 1 && recv(p->fd, &c, 1, 0) <= 0;
}

/* ---- text and login ---- */

size_t text_make(char *out, ...)
{
	size_t n = 0;
	va_list ap;

	va_start(ap, out);
	for (const char *s = va_arg(ap, const char *); s; s = va_arg(ap, const char *)) {
		strcpy(out + n, s);
		n += strlen(s) + 1;
	}
	va_end(ap);
	return n;
}

const char *peer_value(const struct peer *p, const char *key)
{
	size_t n = strlen(key);

	for (const char *at = (const char *)p->data, *end = at + p->nr_data; at < end; at += strlen(at) + 1)
		if (strncmp(at, key, n) == 0 && at[n] == '=')
			return at + n + 1;
	return NULL;
}

int peer_login_step(struct peer *p, uint8_t flags, const char *text, size_t nr_bytes)
{
	uint8_t bhs[BHS_BYTES] = {OP_LOGIN | OP_IMMEDIATE, flags};
	int r;

	memcpy(bhs + 8, p->isid, 6);
	kedge_put_be32(bhs + 16, p->itt);
	kedge_put_be32(bhs + 24, p->cmd_sn);
	r = peer_send(p, bhs, text, (uint32_t)nr_bytes);
	if (r == 0)
		r = peer_recv(p);
	if (r < 0)
		return r;
	if (pdu_opcode(p->bhs) != OP_LOGIN_RSP || pdu_itt(p->bhs) != p->itt)
		return -EPROTO;
	if (p->bhs[36] || p->bhs[37])
		return kedge_get_be16(p->bhs + 36);
	if ((p->bhs[1] & 0x83) == 0x83)
		p->tsih = kedge_get_be16(p->bhs + 14);
	return 0;
}

int peer_login(struct peer *p, const char *more1, const char *more2, const char *more3)
{
	char text[PEER_TEXT_MAX];
	size_t n = text_make(text, "InitiatorName=" INITIATOR_IQN, "TargetName=" TARGET_IQN, "SessionType=Normal", "AuthMethod=None",
			     more1, more2, more3, NULL);
	int r = peer_login_step(p, LOGIN_T | LOGIN_STAGES(1, 3), text, n);
	const char *v;

	if (r != 0)
		return r;
	v = peer_value(p, "HeaderDigest");
	p->has_header_digest = v && strcmp(v, "CRC32C") == 0;
	v = peer_value(p, "DataDigest");
	p->has_data_digest = v && strcmp(v, "CRC32C") == 0;
	return (p->bhs[1] & 0x83) == 0x83 ? 0 : -EPROTO;
}

/* ---- commands ---- */

uint32_t peer_scsi(struct peer *p, uint32_t lun, const uint8_t cdb[16], uint32_t expected_bytes)
{
	uint8_t bhs[BHS_BYTES] = {OP_SCSI_CMD, expected_bytes ? 0xc1 : 0x81};

	bhs[8] = lun > 255 ? (uint8_t)(0x40 | lun >> 8) : 0;
	bhs[9] = (uint8_t)lun;
	kedge_put_be32(bhs + 16, ++p->itt);
	kedge_put_be32(bhs + 20, expected_bytes);
	kedge_put_be32(bhs + 24, p->cmd_sn++);
	memcpy(bhs + 32, cdb, 16);
	peer_send(p, bhs, NULL, 0);
	return p->itt;
}

uint32_t peer_read10(struct peer *p, uint32_t lun, uint32_t lba, uint16_t nr_blocks, uint32_t expected_bytes)
{
	uint8_t cdb[16] = {0x28};

	kedge_put_be32(cdb + 2, lba);
	kedge_put_be16(cdb + 7, nr_blocks);
	return peer_scsi(p, lun, cdb, expected_bytes);
}

static void take_status(struct peer *p, struct outcome *o)
{
	o->status = p->bhs[3];
	o->is_over = p->bhs[1] & 4;
	o->is_under = p->bhs[1] & 2;
	o->residual = kedge_get_be32(p->bhs + 44);
	if (pdu_opcode(p->bhs) == OP_SCSI_RSP && p->nr_data >= 16)
		o->sense = (uint32_t)(p->data[4] & 15) << 16 | (uint32_t)p->data[14] << 8 | p->data[15];
}

void peer_finish(struct peer *p, uint32_t itt, struct outcome *o)
{
	uint8_t *data = o->data;
	size_t out_max = o->out_max;

	*o = (struct outcome){.data = data, .out_max = out_max};
	for (;;) {
		o->error = peer_recv(p);
		if (o->error)
			return;
		if (pdu_itt(p->bhs) != itt || (pdu_opcode(p->bhs) != OP_DATA_IN && pdu_opcode(p->bhs) != OP_SCSI_RSP)) {
			o->error = -EPROTO;
			return;
		}
		if (pdu_opcode(p->bhs) == OP_DATA_IN) {
			if (kedge_get_be32(p->bhs + 36) != o->nr_data_in || kedge_get_be32(p->bhs + 40) != o->nr_bytes) {
				o->error = -EPROTO;
				return;
			}
			o->nr_data_in++;
			for (uint32_t i = 0; i < p->nr_data && o->nr_bytes + i < out_max; i++)
				data[o->nr_bytes + i] = p->data[i];
			o->nr_bytes += p->nr_data;
			if (!(p->bhs[1] & 1))
				continue;
		}
		take_status(p, o);
		return;
	}
}

void peer_command(struct peer *p, uint32_t lun, const uint8_t cdb[16], uint32_t expected_bytes, struct outcome *o)
{
	for (int i = 0; i < 2; i++) {
		peer_finish(p, peer_scsi(p, lun, cdb, expected_bytes), o);
		if (o->error || o->sense != 0x062900)
			return;
	}
}

bool peer_ping(struct peer *p)
{
	uint8_t bhs[BHS_BYTES] = {OP_NOP_OUT | OP_IMMEDIATE, 0x80};

	kedge_put_be32(bhs + 16, ++p->itt);
	kedge_put_be32(bhs + 20, TAG_NONE);
	kedge_put_be32(bhs + 24, p->cmd_sn);
	if (peer_send(p, bhs, "ping", 4) < 0 || peer_recv(p) < 0)
		return false;
	return pdu_opcode(p->bhs) == OP_NOP_IN && pdu_itt(p->bhs) == p->itt && p->nr_data == 4 && memcmp(p->data, "ping", 4) == 0;
}
