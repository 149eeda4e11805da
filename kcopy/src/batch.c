/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. libiscsi's calls of recv, readv and send, gathered. It has no hook for that, so these three functions of the C library are defined
 * here, as any program may; outside of enter and leave, and for other descriptors, they do what they always do.
 *
 * Owns. The bytes between socket and libiscsi. Nothing is changed; where PDUs begin and end is counted.
 *
 * Locks. None: what is between enter and leave is known to the thread only.
 */
#include "batch.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kedge/bytes.h"

static _Thread_local struct kcopy_batch *current;

static ssize_t receive(int fd, void *buf, size_t nr_bytes, int flags)
{
	return syscall(SYS_recvfrom, fd, buf, nr_bytes, flags, NULL, NULL);
}

/* libiscsi gets these bytes. */
static void account(struct kcopy_batch_pdu *p, const uint8_t *bytes, size_t nr_bytes)
{
	while (nr_bytes > 0 && p->head_bytes > 0) {
		size_t n;

		if (p->nr_data_bytes > 0) {
			n = kedge_min_u64(nr_bytes, p->nr_data_bytes);
			p->nr_data_bytes -= (uint32_t)n;
		} else {
			n = kedge_min_u64(nr_bytes, p->head_bytes - p->nr_head_bytes);
			for (size_t i = 0; i < n && p->nr_head_bytes + i < sizeof p->head; i++)
				p->head[p->nr_head_bytes + i] = bytes[i];
			p->nr_head_bytes += (unsigned)n;
			if (p->nr_head_bytes == p->head_bytes) {
				p->nr_head_bytes = 0;
				p->nr_data_bytes = (((uint32_t)p->head[5] << 16 | (uint32_t)p->head[6] << 8 | p->head[7]) + 3) & ~3u;
			}
		}
		bytes += n;
		nr_bytes -= n;
	}
}

static ssize_t accounted(struct kcopy_batch *b, const struct iovec *iov, ssize_t nr_bytes)
{
	for (ssize_t left = nr_bytes; left > 0; iov++) {
		size_t n = kedge_min_u64((uint64_t)left, iov->iov_len);
		account(&b->pdu, iov->iov_base, n);
		left -= (ssize_t)n;
	}
	return nr_bytes;
}

/* As recv. A call that brought less than there was room for has emptied the socket: asking once more is for the next poll. */
static ssize_t fill(struct kcopy_batch *b)
{
	ssize_t n;

	if (b->is_dry) {
		errno = EAGAIN;
		return -1;
	}
	n = receive(b->fd, b->in, sizeof b->in, 0);
	b->is_dry = n > 0 && (size_t)n < sizeof b->in;
	b->in_start = 0;
	b->in_end = n > 0 ? (size_t)n : 0;
	return n;
}

static size_t take(struct kcopy_batch *b, uint8_t *to, size_t nr_bytes)
{
	size_t n = kedge_min_u64(nr_bytes, b->in_end - b->in_start);

	memcpy(to, b->in + b->in_start, n);
	b->in_start += n;
	return n;
}

/* As recv, but short only when the socket has no more. */
static ssize_t receive_through(struct kcopy_batch *b, uint8_t *to, size_t nr_bytes)
{
	size_t done = take(b, to, nr_bytes);

	while (done < nr_bytes) {
		size_t left = nr_bytes - done;
		bool is_direct = !b->may_read_ahead || left >= sizeof b->in;
		ssize_t n = is_direct ? receive(b->fd, to + done, left, 0) : fill(b);

		if (n <= 0)
			return done ? (ssize_t)done : n;
		done += is_direct ? (size_t)n : take(b, to + done, left);
		if (is_direct)
			break;
	}
	return (ssize_t)done;
}

ssize_t recv(int fd, void *buf, size_t nr_bytes, int flags)
{
	if (!current || fd != current->fd || flags)
		return receive(fd, buf, nr_bytes, flags);
	if (kcopy_batch_is_between_pdus(current))
		current->pdu.head_bytes = nr_bytes;
	return accounted(current, &(struct iovec){ buf, nr_bytes }, receive_through(current, buf, nr_bytes));
}

ssize_t readv(int fd, const struct iovec *iov, int nr_iov)
{
	ssize_t done = 0;

	if (!current || fd != current->fd)
		return syscall(SYS_readv, fd, iov, nr_iov);
	if (!current->may_read_ahead && !kcopy_batch_has_in(current))
		return accounted(current, iov, syscall(SYS_readv, fd, iov, nr_iov));
	for (int i = 0; i < nr_iov; i++) {
		ssize_t n = receive_through(current, iov[i].iov_base, iov[i].iov_len);
		if (n <= 0)
			return done ? done : n;
		accounted(current, &iov[i], n);
		done += n;
		if ((size_t)n < iov[i].iov_len)
			break;
	}
	return done;
}

/* What the socket takes of it. 0 or -errno. */
static int flush(struct kcopy_batch *b)
{
	while (kcopy_batch_has_out(b)) {
		ssize_t n = syscall(SYS_sendto, b->fd, b->out + b->out_start, b->out_end - b->out_start, MSG_NOSIGNAL | MSG_DONTWAIT, NULL, 0);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		b->out_start += (size_t)n;
	}
	b->out_start = b->out_end = 0;
	return 0;
}

ssize_t send(int fd, const void *buf, size_t nr_bytes, int flags)
{
	struct kcopy_batch *b = current;

	if (!b || fd != b->fd)
		return syscall(SYS_sendto, fd, buf, nr_bytes, flags, NULL, 0);
	if (nr_bytes > sizeof b->out - b->out_end) {
		int r = flush(b);
		if (r < 0 || kcopy_batch_has_out(b)) { /* none of it may overtake what waits */
			errno = r < 0 ? -r : EAGAIN;
			return -1;
		}
		if (nr_bytes > sizeof b->out)
			return syscall(SYS_sendto, fd, buf, nr_bytes, flags, NULL, 0);
	}
	memcpy(b->out + b->out_end, buf, nr_bytes);
	b->out_end += nr_bytes;
	return (ssize_t)nr_bytes;
}

void kcopy_batch_enter(struct kcopy_batch *b, int fd, bool may_read_ahead)
{
	b->fd = fd;
	b->may_read_ahead = may_read_ahead;
	b->is_dry = false;
	current = b;
}

int kcopy_batch_leave(struct kcopy_batch *b)
{
	current = NULL;
	return flush(b);
}
