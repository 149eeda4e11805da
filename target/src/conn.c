/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The bytes of a connection: receive PDUs whole, check digests, run the login, send answers and Data-In in bursts.
 *
 * Owns. The socket, the receive buffer, the commands under way. A command whose disk read is in flight outlives the connection's end
 * until the read has completed.
 *
 * Locks. None: one thread.
 *
 * The send path is hot: headers are built into the connection, data goes out of the buffer that the disk read filled, nothing is
 * allocated.
 */
#include "conn.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>

#include "inquiry.h"
#include "kedge/crc32c.h"
#include "kedge/file.h"
#include "kedge/log.h"

#define LOGIN_MS 5000
#define IDLE_MS 15000
#define RX_LOGIN_BYTES (BHS_BYTES + TGT_TEXT_MAX + 64)
#define RX_FULL_BYTES (BHS_BYTES + 255 * 4 + TGT_RECV_DATA_BYTES + 16)

static void receive(struct tgt_conn *c);
static void take_pdus(struct tgt_conn *c);
static void send_next(struct tgt_conn *c);

/* ---- commands ---- */

struct tgt_cmd *tgt_cmd_create(struct tgt_conn *c)
{
	struct tgt_cmd *cmd = calloc(1, sizeof *cmd);

	if (!cmd)
		return NULL;
	cmd->c = c;
	cmd->all_next = c->all;
	c->all = cmd;
	c->nr_cmds++;
	return cmd;
}

static bool is_unused(const struct tgt_conn *c)
{
	return c->is_gone && !c->in.is_inflight && !c->out.is_inflight && !c->all;
}

static void free_cb(void *arg)
{
	struct tgt_conn *c = arg;

	if (!is_unused(c))
		return; /* asked for again when the last of it has ended */
	kedge_defer_remove(kedge_loop_defer_queue(tgt_server_loop(c->s)), &c->send);
	kedge_timer_stop(tgt_server_loop(c->s), &c->timer);
	kedge_close(c->fd);
	free(c->rx);
	free(c->login);
	tgt_server_conn_gone(c->s, c);
	free(c);
}

/* Later, not now: a connection is dropped in the depth of its own callbacks, and those still look at it on their way out. */
static void free_if_unused(struct tgt_conn *c)
{
	if (!is_unused(c) || c->end.is_queued)
		return;
	c->end = (struct kedge_defer){.fn = free_cb, .arg = c};
	kedge_loop_defer(tgt_server_loop(c->s), &c->end);
}

void tgt_cmd_destroy(struct tgt_cmd *cmd)
{
	struct tgt_conn *c = cmd->c;
	struct tgt_cmd **p = &c->all;

	while (*p != cmd)
		p = &(*p)->all_next;
	*p = cmd->all_next;
	c->nr_cmds--;
	c->nr_counted -= cmd->is_command;
	if (cmd->buf_bytes)
		tgt_server_put_buffer(c->s, cmd);
	else
		free(cmd->buf);
	free(cmd);
}

/* ---- sending ---- */

static uint32_t max_cmd_sn(const struct tgt_conn *c)
{
	return c->exp_cmd_sn + CMDS_MAX - 1 - c->nr_counted;
}

void tgt_conn_begin_build(struct tgt_conn *c)
{
	c->nr_iov = c->iov_at = c->nr_pdus = 0;
}

/* The header of the next PDU to be added. */
static uint8_t *next_header(struct tgt_conn *c)
{
	return c->headers[c->nr_pdus];
}

void tgt_conn_add_header(struct tgt_conn *c, uint32_t nr_data_bytes)
{
	uint8_t *h = c->headers[c->nr_pdus++];
	uint32_t head = BHS_BYTES;

	kedge_put_be24(h + 5, nr_data_bytes);
	if (c->has_header_digest) {
		kedge_put_le32(h + BHS_BYTES, kedge_crc32c(0, h, BHS_BYTES));
		head += DIGEST_BYTES;
	}
	c->iov[c->nr_iov++] = (struct iovec){h, head};
}

/* Header (with digest), data, padding and digest of one PDU into the sendmsg that is being built. */
static void add_pdu(struct tgt_conn *c, const uint8_t *data, uint32_t nr_bytes)
{
	uint8_t *t = c->tails[c->nr_pdus];
	uint32_t pad = pdu_pad4(nr_bytes) - nr_bytes, tail = pad;

	tgt_conn_add_header(c, nr_bytes);
	if (nr_bytes == 0)
		return;
	c->iov[c->nr_iov++] = (struct iovec){(void *)(uintptr_t)data, nr_bytes};
	memset(t, 0, 4);
	if (c->has_data_digest) {
		uint32_t crc = kedge_crc32c(0, data, nr_bytes);
		crc = kedge_crc32c(crc, t, pad);
		kedge_put_le32(t + pad, crc);
		tail += DIGEST_BYTES;
	}
	if (tail)
		c->iov[c->nr_iov++] = (struct iovec){t, tail};
}

static void put_sns(struct tgt_conn *c, uint8_t *h, bool is_stat)
{
	if (is_stat)
		kedge_put_be32(h + 24, c->stat_sn++);
	kedge_put_be32(h + 28, c->exp_cmd_sn);
	kedge_put_be32(h + 32, max_cmd_sn(c));
}

static uint8_t residual_flag(const struct tgt_cmd *cmd)
{
	return cmd->residual == 0 ? 0 : cmd->is_over ? 0x04 : 0x02;
}

uint64_t tgt_conn_data_in(struct tgt_conn *c, struct tgt_cmd *cmd)
{
	uint8_t *h = next_header(c);
	uint64_t n = kedge_min_u64(c->send_data_bytes, cmd->read_bytes - cmd->sent_bytes);
	n = kedge_min_u64(n, c->max_burst_bytes - cmd->burst_bytes);
	bool is_end = cmd->sent_bytes + n == cmd->total_bytes;
	bool is_final = is_end || cmd->burst_bytes + n == c->max_burst_bytes;

	memset(h, 0, BHS_BYTES);
	h[0] = OP_DATA_IN;
	h[1] = is_final ? 0x80 : 0;
	memcpy(h + 16, cmd->bhs + 16, 4);
	kedge_put_be32(h + 20, TAG_NONE);
	put_sns(c, h, is_end);
	kedge_put_be32(h + 36, cmd->data_sn++);
	kedge_put_be32(h + 40, (uint32_t)cmd->sent_bytes);
	if (is_end) { /* phase collapse: the status rides on the last one */
		h[1] |= (uint8_t)(0x01 | residual_flag(cmd));
		h[3] = SCSI_GOOD;
		kedge_put_be32(h + 44, cmd->residual);
	}
	cmd->sent_bytes += n;
	cmd->burst_bytes = is_final ? 0 : cmd->burst_bytes + (uint32_t)n;
	return n;
}

/* Data-In PDUs for what is in the buffer, as many as fit. */
static void build_data_in(struct tgt_conn *c, struct tgt_cmd *cmd)
{
	while (c->nr_pdus < TX_PDUS_MAX && cmd->sent_bytes < cmd->read_bytes) {
		const uint8_t *data = cmd->buf + (cmd->sent_bytes - cmd->chunk_start);
		add_pdu(c, data, (uint32_t)tgt_conn_data_in(c, cmd));
	}
}

static void build_scsi_response(struct tgt_conn *c, struct tgt_cmd *cmd)
{
	uint8_t *h = next_header(c);

	memset(h, 0, BHS_BYTES);
	h[0] = OP_SCSI_RSP;
	h[1] = (uint8_t)(0x80 | residual_flag(cmd));
	h[3] = cmd->status;
	memcpy(h + 16, cmd->bhs + 16, 4);
	put_sns(c, h, true);
	kedge_put_be32(h + 36, cmd->data_sn); /* ExpDataSN */
	kedge_put_be32(h + 44, cmd->residual);
	if (cmd->sense != SENSE_NONE) {
		/* sense data needs more room than a tail: it takes the place of the header behind this one */
		uint8_t *sense = c->headers[c->nr_pdus + 1];
		kedge_put_be16(sense, SENSE_BYTES);
		tgt_sense_encode(cmd->sense, sense + 2);
		add_pdu(c, sense, 2 + SENSE_BYTES);
		c->nr_pdus++;
	} else {
		add_pdu(c, NULL, 0);
	}
}

static bool is_response(const struct tgt_cmd *cmd)
{
	return !cmd->is_plain && cmd->status != SCSI_GOOD;
}

/* Its data, or the next chunk of it, is still being read. */
static bool is_reading(const struct tgt_cmd *cmd)
{
	return !cmd->is_plain && cmd->status == SCSI_GOOD && cmd->total_bytes && cmd->sent_bytes == cmd->read_bytes;
}

static bool is_all_built(const struct tgt_cmd *cmd)
{
	return cmd->sent_bytes == cmd->total_bytes || is_response(cmd);
}

static void build_one(struct tgt_conn *c, struct tgt_cmd *cmd)
{
	cmd->is_built = true;
	if (cmd->is_plain) {
		uint8_t *h = next_header(c);
		memcpy(h, cmd->bhs, BHS_BYTES);
		put_sns(c, h, cmd->is_stat);
		if (!cmd->is_stat)
			kedge_put_be32(h + 24, c->stat_sn);
		add_pdu(c, cmd->buf, (uint32_t)cmd->total_bytes);
		cmd->sent_bytes = cmd->total_bytes;
	} else if (cmd->total_bytes && cmd->status == SCSI_GOOD) {
		build_data_in(c, cmd);
	} else {
		build_scsi_response(c, cmd);
		cmd->sent_bytes = cmd->total_bytes;
	}
}

/* All answers that are ready, in their order, as many as fit into one sendmsg. */
static void build(struct tgt_conn *c)
{
	tgt_conn_begin_build(c);
	for (struct tgt_cmd *cmd = c->tx_head; cmd && c->nr_pdus + 2 <= TX_PDUS_MAX; cmd = cmd->next) {
		if (cmd->is_cached || is_reading(cmd))
			return;
		build_one(c, cmd);
		if (cmd->is_last || !is_all_built(cmd))
			return;
	}
}

static void send_iov(struct tgt_conn *c)
{
	c->msg = (struct msghdr){.msg_iov = c->iov + c->iov_at, .msg_iovlen = c->nr_iov - c->iov_at};
	kedge_op_sendmsg(tgt_server_loop(c->s), &c->out, c->fd, &c->msg, 0);
}

static void end_cmd(struct tgt_conn *c, struct tgt_cmd *cmd)
{
	bool is_last = cmd->is_last;

	c->tx_head = cmd->next;
	if (!c->tx_head) {
		c->tx_tail = &c->tx_head;
		if (c->is_ping_out) /* only now has it all that the ping stood behind */
			kedge_timer_start(tgt_server_loop(c->s), &c->timer, IDLE_MS);
	}
	tgt_cmd_destroy(cmd);
	if (is_last)
		tgt_conn_drop(c, NULL);
}

/* What was built for the commands at the head is out. False: nothing else is to be sent now. */
static bool sent_built(struct tgt_conn *c)
{
	struct tgt_cmd *cmd;

	while (!c->is_gone && (cmd = c->tx_head) && cmd->is_built) {
		cmd->is_built = false;
		if (is_all_built(cmd))
			end_cmd(c, cmd);
		else if (cmd->sent_bytes == cmd->read_bytes) /* it stays at the head: its Data-In goes on when the next chunk is here */
			return tgt_full_read_more(cmd);
		else
			break;
	}
	return !c->is_gone;
}

static void out_cb(struct kedge_op *op, int res)
{
	struct tgt_conn *c = kedge_container_of(op, struct tgt_conn, out);
	size_t n = res > 0 ? (size_t)res : 0;

	if (res <= 0 || c->is_gone) {
		tgt_conn_drop(c, "send failed");
		return;
	}
	c->has_sent = true;
	if (c->is_out_poll) {
		c->is_out_poll = false;
		send_next(c);
		return;
	}
	while (c->iov_at < c->nr_iov && n >= c->iov[c->iov_at].iov_len)
		n -= c->iov[c->iov_at++].iov_len;
	if (c->iov_at < c->nr_iov) {
		c->iov[c->iov_at].iov_base = (char *)c->iov[c->iov_at].iov_base + n;
		c->iov[c->iov_at].iov_len -= n;
		send_iov(c);
		return;
	}
	if (sent_built(c))
		send_next(c);
}

/* True: the chunk is out, and the next command may be looked at. */
static bool send_cached(struct tgt_conn *c, struct tgt_cmd *cmd)
{
	if (!cmd->is_built)
		tgt_conn_begin_build(c);
	cmd->is_built = true;
	int r = tgt_sendfile_step(c, cmd);

	if (r < 0)
		tgt_conn_drop(c, "send failed");
	return r > 0 && sent_built(c);
}

static void send_next(struct tgt_conn *c)
{
	struct tgt_cmd *cmd;

	while ((cmd = c->tx_head) && !c->out.is_inflight && !c->is_gone) {
		if (cmd->is_cached) {
			if (!send_cached(c, cmd))
				return;
			continue;
		}
		build(c);
		if (c->nr_iov > 0)
			send_iov(c);
		return;
	}
}

static void send_cb(void *arg)
{
	send_next(arg);
}

void tgt_conn_queue(struct tgt_cmd *cmd)
{
	struct tgt_conn *c = cmd->c;

	if (c->is_gone || (cmd->is_aborted && !cmd->is_queued)) {
		tgt_cmd_destroy(cmd);
		free_if_unused(c);
		return;
	}
	if (!cmd->is_queued) {
		cmd->is_queued = true;
		cmd->next = NULL;
		*c->tx_tail = cmd;
		c->tx_tail = &cmd->next;
	}
	if (cmd->is_plain) {
		send_next(c);
	} else if (!c->send.is_queued) {
		c->send = (struct kedge_defer){.fn = send_cb, .arg = c};
		kedge_loop_defer(tgt_server_loop(c->s), &c->send);
	}
}

void tgt_conn_reply(struct tgt_conn *c, const uint8_t *bhs, const void *data, uint32_t nr_bytes, bool is_stat, bool is_last)
{
	struct tgt_cmd *cmd = tgt_cmd_create(c);

	if (cmd && nr_bytes) {
		cmd->buf = malloc(nr_bytes);
		if (cmd->buf)
			memcpy(cmd->buf, data, nr_bytes);
	}
	if (!cmd || (nr_bytes && !cmd->buf)) {
		tgt_conn_drop(c, "no memory for an answer");
		return;
	}
	memcpy(cmd->bhs, bhs, BHS_BYTES);
	cmd->is_plain = true;
	cmd->is_stat = is_stat;
	cmd->is_last = is_last;
	cmd->total_bytes = cmd->read_bytes = nr_bytes;
	tgt_conn_queue(cmd);
}

/* ---- login ---- */

static bool enter_full(struct tgt_conn *c)
{
	struct tgt_login *l = c->login;
	uint8_t *rx = realloc(c->rx, RX_FULL_BYTES);

	if (!rx)
		return false;
	c->rx = rx;
	c->rx_max = RX_FULL_BYTES;
	c->is_full = true;
	c->is_discovery = l->is_discovery;
	c->send_data_bytes = l->send_data_bytes;
	c->max_burst_bytes = l->max_burst_bytes;
	c->attention = ~0u;
	return true;
}

static void take_login(struct tgt_conn *c, const uint8_t *bhs, uint8_t *data, uint32_t nr_bytes)
{
	struct tgt_login *l = c->login;
	uint8_t out[BHS_BYTES];
	int r;

	l->tsih = c->tsih;
	r = tgt_login_take(l, bhs, (char *)data, nr_bytes, out);
	if (r == 1) {
		strcpy(c->initiator, l->initiator);
		memcpy(c->isid, l->isid, 6);
		if (!tgt_server_admit(c->s, c)) {
			tgt_login_refuse(l, bhs, LOGIN_NO_RESOURCES, out);
			r = -EBUSY;
		}
	}
	/* The answer's StatSN was counted by the login; digests begin after its last PDU. */
	c->stat_sn = l->stat_sn;
	c->exp_cmd_sn = l->exp_cmd_sn;
	struct tgt_cmd *cmd = tgt_cmd_create(c);
	if (!cmd) {
		tgt_conn_drop(c, "no memory for an answer");
		return;
	}
	cmd->buf = malloc(l->reply.nr_bytes + 1);
	if (!cmd->buf) {
		tgt_cmd_destroy(cmd);
		tgt_conn_drop(c, "no memory for an answer");
		return;
	}
	memcpy(cmd->buf, l->reply.text, l->reply.nr_bytes);
	memcpy(cmd->bhs, out, BHS_BYTES);
	cmd->is_plain = true;
	cmd->is_last = r < 0;
	cmd->total_bytes = cmd->read_bytes = l->reply.nr_bytes;
	c->stat_sn--; /* put_sns writes it anew */
	cmd->is_stat = true;
	if (r < 0)
		c->is_closing = true;
	tgt_conn_queue(cmd);
	if (c->is_gone || r != 1)
		return;
	/* From the next PDU on, both ways. The response is built already: send_next ran inside tgt_conn_queue. */
	c->has_header_digest = l->has_header_digest;
	c->has_data_digest = l->has_data_digest;
	if (!enter_full(c)) {
		tgt_conn_drop(c, "no memory for a session");
		return;
	}
	free(c->login);
	c->login = NULL;
	kedge_timer_start(tgt_server_loop(c->s), &c->timer, IDLE_MS);
}

/* ---- receiving ---- */

static void take_pdu(struct tgt_conn *c, uint8_t *pdu, uint32_t nr_head, uint32_t nr_data)
{
	uint8_t *data = pdu + nr_head;
	uint8_t bhs[BHS_BYTES];

	memcpy(bhs, pdu, BHS_BYTES);
	if (c->has_header_digest) {
		uint32_t n = nr_head - DIGEST_BYTES;
		if (kedge_get_le32(pdu + n) != kedge_crc32c(0, pdu, n)) {
			tgt_conn_drop(c, "header digest error"); /* the length cannot be trusted: RFC 7143 7.8 */
			return;
		}
	}
	if (c->has_data_digest && nr_data &&
	    kedge_get_le32(data + pdu_pad4(nr_data)) != kedge_crc32c(0, data, pdu_pad4(nr_data))) {
		tgt_full_reject(c, REJECT_DATA_DIGEST, bhs);
		return;
	}
	if (c->is_full)
		tgt_full_take(c, bhs, data, nr_data);
	else
		take_login(c, bhs, data, nr_data);
}

static void take_pdus(struct tgt_conn *c)
{
	uint32_t at = 0;

	while (!c->is_gone && !c->is_closing && c->rx_bytes - at >= BHS_BYTES) {
		uint8_t *pdu = c->rx + at;
		uint32_t nr_data = pdu_data_bytes(pdu), max = c->is_full ? TGT_RECV_DATA_BYTES : TGT_TEXT_MAX;
		uint32_t head = BHS_BYTES + pdu_ahs_bytes(pdu) + (c->has_header_digest ? DIGEST_BYTES : 0);
		uint32_t all = head + pdu_pad4(nr_data) + (c->has_data_digest && nr_data ? DIGEST_BYTES : 0);

		if (!c->is_full && (pdu_opcode(pdu) != OP_LOGIN || pdu_ahs_bytes(pdu) || nr_data > max)) {
			tgt_conn_drop(c, "not a login request");
			return;
		}
		if (nr_data > max) {
			tgt_conn_drop(c, "data segment longer than declared");
			return;
		}
		if (c->rx_bytes - at < all)
			break;
		take_pdu(c, pdu, head, nr_data);
		at += all;
	}
	if (c->is_gone)
		return;
	memmove(c->rx, c->rx + at, c->rx_bytes - at);
	c->rx_bytes -= at;
}

static void in_cb(struct kedge_op *op, int res)
{
	struct tgt_conn *c = kedge_container_of(op, struct tgt_conn, in);

	if (res <= 0 || c->is_gone) {
		tgt_conn_drop(c, res == 0 ? NULL : "receive failed");
		return;
	}
	c->rx_bytes += (uint32_t)res;
	if (c->is_full) {
		c->is_ping_out = false;
		kedge_timer_start(tgt_server_loop(c->s), &c->timer, IDLE_MS);
	}
	take_pdus(c);
	receive(c);
}

static void receive(struct tgt_conn *c)
{
	if (c->is_gone || c->in.is_inflight) {
		free_if_unused(c);
		return;
	}
	if (c->is_closing)
		return; /* only the last answer is to go out */
	kedge_op_recv(tgt_server_loop(c->s), &c->in, c->fd, c->rx + c->rx_bytes, c->rx_max - c->rx_bytes, 0);
}

/* ---- life ---- */

static void timer_cb(struct kedge_timer *t)
{
	struct tgt_conn *c = kedge_container_of(t, struct tgt_conn, timer);
	uint8_t bhs[BHS_BYTES] = {OP_NOP_IN, 0x80};

	if (c->is_full && !c->is_closing && c->tx_head && c->has_sent) {
		/* It takes what we send, slowly; a ping would wait, or waits, behind that. */
		c->has_sent = false;
		kedge_timer_start(tgt_server_loop(c->s), &c->timer, IDLE_MS);
		return;
	}
	if (!c->is_full || c->is_ping_out || c->is_closing) {
		tgt_conn_drop(c, c->is_full ? "no answer to a ping" : "login not complete in time");
		return;
	}
	c->is_ping_out = true;
	kedge_put_be32(bhs + 16, TAG_NONE);
	kedge_put_be32(bhs + 20, 1);
	kedge_timer_start(tgt_server_loop(c->s), &c->timer, IDLE_MS);
	tgt_conn_reply(c, bhs, NULL, 0, false, false);
}

void tgt_conn_drop(struct tgt_conn *c, const char *why)
{
	struct tgt_cmd *next;

	if (!c->is_gone) {
		c->is_gone = true;
		if (why)
			kedge_debug("connection ends: %s", why);
		kedge_timer_stop(tgt_server_loop(c->s), &c->timer);
		shutdown(c->fd, SHUT_RDWR);
		kedge_op_cancel(tgt_server_loop(c->s), &c->in);
		kedge_op_cancel(tgt_server_loop(c->s), &c->out);
	}
	if (!c->out.is_inflight) {
		c->tx_head = NULL;
		c->tx_tail = &c->tx_head;
		for (struct tgt_cmd *cmd = c->all; cmd; cmd = next) {
			next = cmd->all_next;
			if (tgt_cmd_is_busy(cmd))
				continue; /* its read ends first */
			tgt_server_forget_waiting(c->s, cmd);
			tgt_cmd_destroy(cmd);
		}
	}
	free_if_unused(c);
}

static void set_options(int fd)
{
	int one = 1, idle = 10, interval = 5, count = 3;
	unsigned user_ms = 30000;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof user_ms);
}

int tgt_conn_create(struct tgt_server *s, int fd, const struct sockaddr_storage *peer, struct tgt_conn **ret_c)
{
	struct tgt_conn *c = calloc(1, sizeof *c);

	if (c) {
		c->rx = malloc(RX_LOGIN_BYTES);
		c->login = malloc(sizeof *c->login);
	}
	if (!c || !c->rx || !c->login) {
		if (c) {
			free(c->rx);
			free(c->login);
		}
		free(c);
		return -ENOMEM;
	}
	c->s = s;
	c->fd = fd;
	c->peer = *peer;
	c->rx_max = RX_LOGIN_BYTES;
	c->tx_tail = &c->tx_head;
	c->in.fn = in_cb;
	c->out.fn = out_cb;
	c->timer.fn = timer_cb;
	c->tsih = tgt_server_next_tsih(s);
	tgt_login_init(c->login, tgt_server_policy(s));
	set_options(fd);
	kedge_timer_start(tgt_server_loop(s), &c->timer, LOGIN_MS);
	*ret_c = c;
	receive(c);
	return 0;
}
