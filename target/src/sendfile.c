/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Data-In straight out of the page cache: what is cached is sent by sendfile(2), which hands the pages to the socket instead of
 * copying them twice. What is not cached goes the other way (full.c), so that the loop does not wait for a disk: a page that leaves the
 * cache between the question and the answer makes it wait once.
 *
 * Owns. Nothing of its own.
 *
 * Locks. None: one thread. The socket is made non-blocking only for the length of a call: io_uring would take that as "do not wait".
 *
 * An export is frozen, so the pages cannot change between here and the wire. Digests need the bytes in our hands: they go the other way.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/sendfile.h>

#include "conn.h"
#include "kedge/bytes.h"

/* Less than this is copied sooner than asked about. */
#define SENDFILE_MIN_BYTES (32u << 10)
/* Then others have their turn. */
#define STEP_MAX_BYTES (4u << 20)

bool tgt_sendfile_can(const struct tgt_conn *c, const struct tgt_cmd *cmd, uint64_t start_bytes, uint64_t nr_bytes)
{
	/* multiples of 4: no padding between the pages */
	return nr_bytes >= SENDFILE_MIN_BYTES && !c->has_data_digest && (nr_bytes | c->send_data_bytes | c->max_burst_bytes) % 4 == 0 &&
	       tgt_lun_is_cached(cmd->lun, start_bytes, nr_bytes);
}

static int send_header(struct tgt_conn *c)
{
	while (c->iov_at < c->nr_iov) {
		struct iovec *v = &c->iov[c->iov_at];
		/* only while there is more: else the kernel waits for it (an extent of zeroes has a head and no pages) */
		int more = c->iov_at + 1 < c->nr_iov || c->file_bytes > 0 ? MSG_MORE : 0;
		ssize_t n = send(c->fd, v->iov_base, v->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL | more);

		if (n < 0)
			return -errno;
		v->iov_base = (char *)v->iov_base + n;
		v->iov_len -= (size_t)n;
		if (v->iov_len == 0)
			c->iov_at++;
	}
	return 0;
}

/* Bytes, or negative. */
static ssize_t send_pages(struct tgt_conn *c, const struct tgt_cmd *cmd)
{
	off_t at = (off_t)c->file_at_bytes;
	ssize_t n = sendfile(c->fd, cmd->lun->fd, &at, c->file_bytes);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		/* Its header is out: only an end of the connection says that the data does not come. If it was the file and not the
		 * connection, the next attempt goes through a buffer and can tell (full.c). */
		int r = n == 0 ? -EIO : -errno;
		if (r != -EPIPE && r != -ECONNRESET)
			tgt_lun_distrust_cache(cmd->lun);
		return r;
	}
	if (n < 0)
		return -errno;
	c->file_at_bytes += (uint64_t)n;
	c->file_bytes -= (uint64_t)n;
	return n;
}

/* Header of the next PDU; of an extent's first one also the head, which is data to iSCSI. */
static void begin_pdu(struct tgt_conn *c, struct tgt_cmd *cmd)
{
	uint64_t at = cmd->sent_bytes;

	tgt_conn_begin_build(c);
	c->file_bytes = tgt_conn_data_in(c, cmd);
	tgt_conn_add_header(c, (uint32_t)c->file_bytes);
	if (at < cmd->nr_head_bytes) {
		uint64_t n = kedge_min_u64(cmd->nr_head_bytes - at, c->file_bytes);
		c->iov[c->nr_iov++] = (struct iovec){cmd->out_head + at, n};
		c->file_bytes -= n;
		at += n;
	}
	c->file_at_bytes = cmd->disk_bytes + at - cmd->nr_head_bytes;
}

static int send_some(struct tgt_conn *c, struct tgt_cmd *cmd)
{
	uint64_t nr_sent = 0;

	while (nr_sent < STEP_MAX_BYTES) {
		ssize_t r;
		if (c->iov_at == c->nr_iov && c->file_bytes == 0) {
			if (cmd->sent_bytes == cmd->read_bytes)
				return 1;
			begin_pdu(c, cmd);
		}
		r = send_header(c);
		if (r == 0 && c->file_bytes > 0)
			r = send_pages(c, cmd);
		if (r == -EINTR)
			continue;
		if (r == -EAGAIN)
			return 0;
		if (r < 0)
			return (int)r;
		nr_sent += (uint64_t)r;
	}
	return 0;
}

int tgt_sendfile_step(struct tgt_conn *c, struct tgt_cmd *cmd)
{
	int flags = fcntl(c->fd, F_GETFL);
	int r;

	if (flags < 0 || fcntl(c->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	r = send_some(c, cmd);
	if (fcntl(c->fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
		return -errno;
	if (r == 0) {
		c->is_out_poll = true;
		kedge_op_poll(tgt_server_loop(c->s), &c->out, c->fd, POLLOUT);
	}
	return r;
}
