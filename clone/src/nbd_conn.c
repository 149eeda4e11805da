/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. One NBD connection: negotiation, then many requests in hand at once, answered in the order in which they end.
 *
 * Owns. The socket, the receive buffer, and every request from its header to the last byte of its reply. Bounded: at most
 * NBD_CONN_REQUESTS_MAX requests and NBD_CONN_BYTES_MAX of data; beyond that nothing more is received until replies have been sent.
 *
 * Locks. None: one thread.
 *
 * Crash. Nothing durable here: a reply leaves after the engine's callback, which for FLUSH and FUA comes after the commit.
 */
#include "nbd_conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "nbd_nego.h"
#include "nbd_proto.h"

/* Holds the longest option, and many requests' headers. */
#define RX_BYTES 65536u
#define TX_REPLIES_MAX 32u
/* Zeroing and trimming go to the engine in such steps: it may need a buffer for the range of one. */
#define ZERO_STEP_BYTES (16u << 20)
#define EXTENTS_MAX 1024u

struct nbd_req {
	struct nbd_conn *c;
	struct nbd_request r;
	struct uclone_io io;
	uint64_t next_bytes;     /* zeroing, trimming: where the next step begins */
	uint8_t *buf;            /* data of a READ or WRITE; chunks of a BLOCK_STATUS */
	size_t charged_bytes;
	uint32_t error;
	uint8_t head[NBD_HEAD_BYTES];
	uint32_t head_bytes, body_bytes;
	struct nbd_req *next;
};

struct nbd_conn {
	struct nbd_conn_env env;
	int fd;
	struct nbd_nego nego;
	struct nbd_out out;
	bool is_transmitting;    /* negotiation is over and its last reply is out */
	bool is_last_out;        /* transmission follows when out has been sent */
	bool is_finishing;       /* takes nothing more */
	bool is_stopping;        /* because the server stops */
	bool is_dropped;         /* and answers nothing more */
	uint8_t *rx;
	size_t rx_start, rx_end;
	struct kedge_op in_op, out_op;
	struct nbd_req *filling; /* a WRITE whose data is arriving */
	size_t filled_bytes;
	unsigned nr_reqs, nr_inflight;
	size_t charged_bytes;
	struct nbd_req *tx_head, **tx_tail;
	size_t tx_sent_bytes;    /* of the first reply, or of out */
	unsigned nr_tx_msg;      /* replies in msg */
	uint64_t tx_submits;     /* of the loop, when msg was handed to it */
	struct iovec iov[2 * TX_REPLIES_MAX];
	struct msghdr msg;
	struct kedge_timer deadline;
	struct kedge_defer end_defer;
};

static void pump(struct nbd_conn *c);
static void send_some(struct nbd_conn *c);
static bool send_along(struct nbd_conn *c, struct nbd_req *q);

/* ---- the end ---- */

static void req_destroy(struct nbd_req *q)
{
	struct nbd_conn *c = q->c;

	c->nr_reqs--;
	c->charged_bytes -= q->charged_bytes;
	kedge_buf_free(q->buf);
	free(q);
}

static void end_cb(void *arg)
{
	struct nbd_conn *c = arg;

	c->env.ended_fn(c->env.arg, c);
	kedge_close(c->fd);
	kedge_buf_free(c->rx);
	free(c);
}

/* Is it over? Called after everything that may have been the last thing. */
static void check_end(struct nbd_conn *c)
{
	if (!c->is_dropped && c->is_finishing && c->nr_reqs == 0 && !c->out_op.is_inflight)
		nbd_conn_drop(c);
	if (!c->is_dropped || c->nr_reqs || c->in_op.is_inflight || c->out_op.is_inflight || c->end_defer.is_queued)
		return;
	kedge_timer_stop(c->env.loop, &c->deadline);
	c->end_defer = (struct kedge_defer){.fn = end_cb, .arg = c};
	kedge_loop_defer(c->env.loop, &c->end_defer);
}

void nbd_conn_drop(struct nbd_conn *c)
{
	if (c->is_dropped)
		return;
	c->is_dropped = true;
	c->is_finishing = true;
	/* The descriptor stays until the operations on it have ended; those of the engine end by themselves. A WRITE whose data is
	 * still being received keeps its buffer until the receive has ended. */
	shutdown(c->fd, SHUT_RDWR);
	kedge_op_cancel(c->env.loop, &c->in_op);
	kedge_op_cancel(c->env.loop, &c->out_op);
	while (c->tx_head && !c->out_op.is_inflight) {
		struct nbd_req *q = c->tx_head;
		c->tx_head = q->next;
		req_destroy(q);
	}
	if (c->filling && !c->in_op.is_inflight) {
		req_destroy(c->filling);
		c->filling = NULL;
	}
	check_end(c);
}

/* What drop had to leave because the kernel was using it. */
static void drop_rest(struct nbd_conn *c)
{
	c->is_dropped = false;
	nbd_conn_drop(c);
}

/* No new requests; ends when those in hand are answered. */
static void finish(struct nbd_conn *c)
{
	c->is_finishing = true;
	if (c->filling || !c->is_transmitting) {
		nbd_conn_drop(c); /* what is half here is not in hand */
		return;
	}
	kedge_op_cancel(c->env.loop, &c->in_op);
	check_end(c);
}

void nbd_conn_stop(struct nbd_conn *c)
{
	c->is_stopping = true;
	finish(c);
}

unsigned nbd_conn_nr_inflight(const struct nbd_conn *c)
{
	return c->nr_inflight;
}

/* ---- replies ---- */

static void answer(struct nbd_req *q)
{
	struct nbd_conn *c = q->c;
	bool is_chunked = c->nego.is_structured && (q->r.cmd == NBD_CMD_READ || q->r.cmd == NBD_CMD_BLOCK_STATUS);

	if (c->is_dropped) {
		req_destroy(q);
		check_end(c);
		return;
	}
	if (q->error)
		q->body_bytes = 0;
	if (!is_chunked)
		q->head_bytes = nbd_simple_encode(q->head, q->r.cookie, q->error);
	else if (q->error)
		q->head_bytes = nbd_error_encode(q->head, q->r.cookie, q->error);
	else if (q->r.cmd == NBD_CMD_READ)
		q->head_bytes = nbd_data_encode(q->head, q->r.cookie, q->r.start_bytes, q->r.nr_bytes);
	q->next = NULL;
	*c->tx_tail = q;
	c->tx_tail = &q->next;
	if (!send_along(c, q))
		send_some(c);
}

static void add_iov(struct nbd_conn *c, const void *p, size_t nr_bytes, size_t *skip_bytes)
{
	size_t skip = kedge_min_u64(*skip_bytes, nr_bytes);

	*skip_bytes -= skip;
	if (nr_bytes > skip)
		c->iov[c->msg.msg_iovlen++] = (struct iovec){(uint8_t *)(uintptr_t)p + skip, nr_bytes - skip};
}

/* What a round answers goes out together: with a message that the kernel has not seen yet. */
static bool send_along(struct nbd_conn *c, struct nbd_req *q)
{
	size_t skip = 0;

	if (!c->out_op.is_inflight || c->tx_submits != kedge_loop_nr_submits(c->env.loop) || c->out.nr_bytes ||
	    c->nr_tx_msg == TX_REPLIES_MAX)
		return false;
	add_iov(c, q->head, q->head_bytes, &skip);
	add_iov(c, q->buf, q->body_bytes, &skip);
	c->nr_tx_msg++;
	return true;
}

static void send_some(struct nbd_conn *c)
{
	size_t skip = c->tx_sent_bytes;
	unsigned n = 0;

	if (c->out_op.is_inflight || c->is_dropped)
		return;
	c->msg = (struct msghdr){.msg_iov = c->iov};
	if (c->out.nr_bytes)
		add_iov(c, c->out.buf, c->out.nr_bytes, &skip);
	else
		for (struct nbd_req *q = c->tx_head; q && n < TX_REPLIES_MAX; q = q->next, n++) {
			add_iov(c, q->head, q->head_bytes, &skip);
			add_iov(c, q->buf, q->body_bytes, &skip);
		}
	c->nr_tx_msg = n;
	c->tx_submits = kedge_loop_nr_submits(c->env.loop);
	if (c->msg.msg_iovlen)
		kedge_op_sendmsg(c->env.loop, &c->out_op, c->fd, &c->msg, 0);
}

static void out_sent(struct nbd_conn *c)
{
	if (c->tx_sent_bytes < c->out.nr_bytes)
		return;
	c->tx_sent_bytes = 0;
	c->out.nr_bytes = 0;
	if (c->is_last_out) {
		c->is_transmitting = true;
		kedge_timer_stop(c->env.loop, &c->deadline);
	}
}

static void out_cb(struct kedge_op *op, int res)
{
	struct nbd_conn *c = kedge_container_of(op, struct nbd_conn, out_op);

	if (c->is_dropped) {
		drop_rest(c);
		return;
	}
	if (res <= 0 && res != -EINTR && res != -EAGAIN) {
		nbd_conn_drop(c);
		return;
	}
	c->tx_sent_bytes += res > 0 ? (size_t)res : 0;
	if (c->out.nr_bytes) {
		out_sent(c);
	} else {
		while (c->tx_head && c->tx_sent_bytes >= (size_t)c->tx_head->head_bytes + c->tx_head->body_bytes) {
			struct nbd_req *q = c->tx_head;
			c->tx_sent_bytes -= (size_t)q->head_bytes + q->body_bytes;
			c->tx_head = q->next;
			if (!c->tx_head)
				c->tx_tail = &c->tx_head;
			req_destroy(q);
		}
	}
	send_some(c);
	pump(c);
	check_end(c);
}

/* ---- requests ---- */

static void io_cb(struct uclone_io *io, int res);

static void submit(struct nbd_req *q, enum uclone_op op, uint64_t start, uint64_t n, bool is_fua)
{
	q->io = (struct uclone_io){.op = op, .is_fua = is_fua, .start_bytes = start, .nr_bytes = n, .buf = q->buf, .fn = io_cb};
	q->c->nr_inflight++;
	q->c->env.e->ops->submit(q->c->env.e, &q->io);
}

/* One step of zeroing or trimming. FUA with the last: its commit covers all that completed before. */
static void submit_step(struct nbd_req *q)
{
	uint64_t start = q->next_bytes, end = q->r.start_bytes + q->r.nr_bytes;
	uint64_t stop = kedge_min_u64(end, kedge_round_down(start, ZERO_STEP_BYTES) + ZERO_STEP_BYTES);

	q->next_bytes = stop;
	submit(q, q->r.cmd == NBD_CMD_TRIM ? UCLONE_DISCARD : UCLONE_WRITE_ZEROES, start, stop - start,
	       stop == end && (q->r.flags & NBD_CMD_FLAG_FUA));
}

static void io_cb(struct uclone_io *io, int res)
{
	struct nbd_req *q = kedge_container_of(io, struct nbd_req, io);
	bool has_steps = q->r.cmd == NBD_CMD_TRIM || q->r.cmd == NBD_CMD_WRITE_ZEROES;

	q->c->nr_inflight--;
	if (res == 0 && has_steps && q->next_bytes < q->r.start_bytes + q->r.nr_bytes) {
		submit_step(q);
		return;
	}
	if (res < 0 && q->c->is_stopping)
		nbd_conn_drop(q->c);
	q->error = nbd_errno(res);
	q->body_bytes = q->r.cmd == NBD_CMD_READ ? q->r.nr_bytes : 0;
	answer(q);
}

/* kedge:hydrated (docs/formats.md, "NBD") */
static uint32_t hydrated_flags(enum uclone_block_kind kind)
{
	switch (kind) {
	case UCLONE_HERE:
		return 1;
	case UCLONE_WRITTEN:
		return 1 | 2;
	case UCLONE_BAD:
	case UCLONE_UNKNOWN:
		return 4;
	default:
		return 0;
	}
}

/* The chunk of one context behind what is in the buffer; returns its length. */
static uint32_t put_status(struct nbd_req *q, uint32_t at, unsigned context, bool is_last)
{
	uint64_t start = q->r.start_bytes, left = q->r.nr_bytes;
	uint8_t *out = q->buf + at + NBD_CHUNK_BYTES + 4;
	unsigned n = 0, max = q->r.flags & NBD_CMD_FLAG_REQ_ONE ? 1 : EXTENTS_MAX;
	uint32_t flags = 0, before = 0;

	while (left) {
		uint64_t nr = left;
		/* All of a volume counts as allocated: what a hole at the source is, only the source knows. */
		if (context == NBD_CONTEXT_HYDRATED)
			flags = hydrated_flags(q->c->env.e->ops->map(q->c->env.e, start, left, &nr));
		if (n && flags == before) {
			kedge_put_be32(out - 8, kedge_get_be32(out - 8) + (uint32_t)nr);
		} else if (n == max) {
			break;
		} else {
			kedge_put_be32(out, (uint32_t)nr);
			kedge_put_be32(out + 4, flags);
			out += 8;
			n++;
		}
		before = flags;
		start += nr;
		left -= nr;
	}
	nbd_chunk_encode(q->buf + at, q->r.cookie, is_last ? NBD_CHUNK_DONE : 0, NBD_CHUNK_BLOCK_STATUS, 4 + 8 * n);
	kedge_put_be32(q->buf + at + NBD_CHUNK_BYTES, context);
	return NBD_CHUNK_BYTES + 4 + 8 * n;
}

static void block_status(struct nbd_req *q)
{
	const bool *is_context = q->c->nego.is_context;
	bool has_both = is_context[NBD_CONTEXT_ALLOCATION] && is_context[NBD_CONTEXT_HYDRATED];

	if (is_context[NBD_CONTEXT_ALLOCATION])
		q->body_bytes = put_status(q, 0, NBD_CONTEXT_ALLOCATION, !has_both);
	if (is_context[NBD_CONTEXT_HYDRATED])
		q->body_bytes += put_status(q, q->body_bytes, NBD_CONTEXT_HYDRATED, true);
	answer(q);
}

/* All of the request is here. */
static void carry_out(struct nbd_req *q)
{
	bool is_fua = q->r.flags & NBD_CMD_FLAG_FUA;

	if (q->error || (q->r.nr_bytes == 0 && q->r.cmd != NBD_CMD_FLUSH)) {
		answer(q);
		return;
	}
	switch (q->r.cmd) {
	case NBD_CMD_READ:
		submit(q, UCLONE_READ, q->r.start_bytes, q->r.nr_bytes, false);
		return;
	case NBD_CMD_WRITE:
		submit(q, UCLONE_WRITE, q->r.start_bytes, q->r.nr_bytes, is_fua);
		return;
	case NBD_CMD_FLUSH:
		submit(q, UCLONE_FLUSH, 0, 0, false);
		return;
	case NBD_CMD_BLOCK_STATUS:
		block_status(q);
		return;
	default:
		q->next_bytes = q->r.start_bytes;
		submit_step(q);
	}
}

static size_t buffer_bytes(const struct nbd_request *r, uint32_t error)
{
	if (r->cmd == NBD_CMD_WRITE)
		return r->nr_bytes; /* the data comes also when the request is refused */
	if (error)
		return 0;
	if (r->cmd == NBD_CMD_READ)
		return r->nr_bytes;
	return r->cmd == NBD_CMD_BLOCK_STATUS ? 2 * (NBD_CHUNK_BYTES + 4 + 8 * (size_t)EXTENTS_MAX) : 0;
}

/* The next request, when a whole header is here and there is room for it. False: not now, or never. */
static bool take_request(struct nbd_conn *c)
{
	struct nbd_request r;
	struct nbd_req *q;
	bool has_context = c->nego.is_context[NBD_CONTEXT_ALLOCATION] || c->nego.is_context[NBD_CONTEXT_HYDRATED];
	size_t need;

	if (nbd_request_decode(c->rx + c->rx_start, &r) < 0 ||
	    (r.cmd == NBD_CMD_WRITE && r.nr_bytes > NBD_MAX_PAYLOAD_BYTES)) {
		kedge_warn("nbd: dropping a client that does not keep to the protocol");
		nbd_conn_drop(c);
		return false;
	}
	if (r.cmd == NBD_CMD_DISC) {
		finish(c);
		return false;
	}
	uint32_t error = nbd_request_check(&r, engine_size_bytes(c->env.e), has_context);
	need = buffer_bytes(&r, error);
	if (c->nr_reqs >= NBD_CONN_REQUESTS_MAX || (c->nr_reqs && c->charged_bytes + need > NBD_CONN_BYTES_MAX))
		return false; /* goes on when a reply has been sent */
	q = calloc(1, sizeof *q);
	if (q && need)
		q->buf = kedge_buf_alloc(need);
	if (!q || (need && !q->buf)) {
		free(q);
		nbd_conn_drop(c);
		return false;
	}
	*q = (struct nbd_req){.c = c, .r = r, .buf = q->buf, .charged_bytes = need, .error = error};
	c->rx_start += NBD_REQUEST_BYTES;
	c->nr_reqs++;
	c->charged_bytes += need;
	if (r.cmd == NBD_CMD_WRITE && r.nr_bytes) {
		c->filling = q;
		c->filled_bytes = 0;
	} else {
		carry_out(q);
	}
	return true;
}

/* ---- input ---- */

static void receive(struct nbd_conn *c, void *to, size_t nr_bytes)
{
	kedge_op_recv(c->env.loop, &c->in_op, c->fd, to, nr_bytes, 0);
}

/* More into the receive buffer. */
static void receive_more(struct nbd_conn *c)
{
	if (c->rx_start) {
		memmove(c->rx, c->rx + c->rx_start, c->rx_end - c->rx_start);
		c->rx_end -= c->rx_start;
		c->rx_start = 0;
	}
	receive(c, c->rx + c->rx_end, RX_BYTES - c->rx_end);
}

static bool fill(struct nbd_conn *c)
{
	struct nbd_req *q = c->filling;
	size_t n = kedge_min_u64(c->rx_end - c->rx_start, q->r.nr_bytes - c->filled_bytes);

	memcpy(q->buf + c->filled_bytes, c->rx + c->rx_start, n);
	c->filled_bytes += n;
	c->rx_start += n;
	if (c->filled_bytes < q->r.nr_bytes) {
		receive(c, q->buf + c->filled_bytes, q->r.nr_bytes - c->filled_bytes);
		return false;
	}
	c->filling = NULL;
	carry_out(q);
	return true;
}

static bool negotiate(struct nbd_conn *c)
{
	size_t used;
	enum nbd_step step = nbd_nego_feed(&c->nego, c->rx + c->rx_start, c->rx_end - c->rx_start, &used, &c->out);

	c->rx_start += used;
	switch (step) {
	case NBD_STEP_MORE:
		receive_more(c);
		return false;
	case NBD_STEP_GO_ON:
		break;
	case NBD_STEP_TRANSMIT:
		c->is_last_out = true;
		break;
	case NBD_STEP_CLOSE:
		c->is_finishing = true;
		break;
	}
	send_some(c);
	if (c->is_finishing)
		check_end(c);
	return c->out.nr_bytes == 0; /* else it goes on when that is out */
}

/* Take what there is, until something must be waited for. */
static void pump(struct nbd_conn *c)
{
	bool can_go_on = true;

	while (can_go_on && !c->is_finishing && !c->in_op.is_inflight) {
		if (c->filling) {
			can_go_on = fill(c);
		} else if (c->out.nr_bytes) {
			can_go_on = false;
		} else if (!c->is_transmitting) {
			can_go_on = negotiate(c);
		} else if (c->rx_end - c->rx_start < NBD_REQUEST_BYTES) {
			receive_more(c);
			can_go_on = false;
		} else {
			can_go_on = take_request(c);
		}
	}
}

static void in_cb(struct kedge_op *op, int res)
{
	struct nbd_conn *c = kedge_container_of(op, struct nbd_conn, in_op);

	if (c->is_dropped) {
		drop_rest(c);
		return;
	}
	if (c->is_finishing) {
		check_end(c);
		return;
	}
	if (res <= 0 && res != -EINTR && res != -EAGAIN) {
		/* Gone without a word: what it wrote is carried out, nobody waits for the answers. */
		nbd_conn_drop(c);
		return;
	}
	if (res > 0 && c->filling)
		c->filled_bytes += (size_t)res;
	else if (res > 0)
		c->rx_end += (size_t)res;
	pump(c);
	check_end(c);
}

static void deadline_cb(struct kedge_timer *t)
{
	struct nbd_conn *c = kedge_container_of(t, struct nbd_conn, deadline);

	if (!c->is_transmitting)
		nbd_conn_drop(c);
}

struct nbd_conn *nbd_conn_create(const struct nbd_conn_env *env, int fd)
{
	struct nbd_conn *c = calloc(1, sizeof *c);

	if (c)
		c->rx = kedge_buf_alloc(RX_BYTES);
	if (!c || !c->rx) {
		free(c);
		kedge_close(fd);
		return NULL;
	}
	c->env = *env;
	c->fd = fd;
	c->tx_tail = &c->tx_head;
	c->in_op.fn = in_cb;
	c->out_op.fn = out_cb;
	c->deadline.fn = deadline_cb;
	kedge_timer_start(env->loop, &c->deadline, NBD_NEGOTIATION_MS);
	nbd_nego_begin(&c->nego, engine_size_bytes(env->e), &c->out);
	send_some(c);
	pump(c);
	return c;
}
