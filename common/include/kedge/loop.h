/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_LOOP_H
#define KEDGE_LOOP_H

/*
 * The data plane's event loop: one thread, one io_uring. Reads, writes, flushes, polls, timers and deferred calls
 * all complete as callbacks on that thread. loop.c is the only file that knows liburing.
 *
 * Contract of every asynchronous call here (SPDK's): the callback runs exactly once, later, from
 * kedge_loop_run, never inside the submitting call. An operation object belongs to the caller and must stay where it
 * is until its callback has begun; inside the callback it may be reused or freed. A cancelled operation still
 * completes, with -ECANCELED or with its real result; until then its buffer belongs to the kernel.
 *
 * Nothing here is thread-safe but kedge_loop_wake.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "kedge/err.h"

struct kedge_loop;

/* Something to run once, soon. Zero-initialise before first use. */
struct kedge_defer {
	void (*fn)(void *arg);
	void *arg;
	struct kedge_defer *next; /* private */
	uint64_t round;           /* private: the queue's round when it was added */
	bool is_queued;           /* private */
};

/* The queue alone, for code that runs without a loop (the simulated disk). Pure. */
struct kedge_defer_queue {
	struct kedge_defer *head, **tail;
	uint64_t round;
};
void kedge_defer_queue_init(struct kedge_defer_queue *q);
/* d->fn and d->arg are set by the caller; queueing a queued one is a bug. */
void kedge_defer_add(struct kedge_defer_queue *q, struct kedge_defer *d);
/* Take a queued one out again; no-op when it is not queued. */
void kedge_defer_remove(struct kedge_defer_queue *q, struct kedge_defer *d);
/* Runs those queued at the time of the call, in order; those that they add wait for the next call. Returns how many ran. */
unsigned kedge_defer_run(struct kedge_defer_queue *q);
bool kedge_defer_is_empty(const struct kedge_defer_queue *q);

struct kedge_op;
typedef void (*kedge_op_fn)(struct kedge_op *op, int res);

/* One asynchronous operation, embedded in its owner's object (kedge_container_of leads back). */
struct kedge_op {
	kedge_op_fn fn;     /* set by the caller before submitting */
	struct iovec iov;   /* private */
	bool is_inflight;   /* private; true from submit until just before the callback */
};

/* One timer, embedded likewise. Zero-initialise before first use. */
struct kedge_timer {
	void (*fn)(struct kedge_timer *t); /* set by the caller */
	uint64_t due_ns;                   /* private */
	int heap_pos;                      /* private; 0 = not armed, else position + 1 */
};

/* entries: submission queue size, a power of two (256 suits all programs here). Errors: -ENOSYS, -EPERM where io_uring is
 * off, -ENOMEM. */
int kedge_loop_create(unsigned entries, struct kedge_loop **ret_loop, struct kedge_err *err);
/* All operations must have completed. destroy(NULL) is a no-op. */
void kedge_loop_destroy(struct kedge_loop *l);
/* Until kedge_loop_stop. Returns 0, or -errno when the ring itself fails. */
int kedge_loop_run(struct kedge_loop *l);
/* One round: submit, wait at most max_wait_ms for something (0: do not wait), run all callbacks that are due. */
int kedge_loop_run_once(struct kedge_loop *l, unsigned max_wait_ms);
/* Make kedge_loop_run return after the present round; callable from callbacks only. */
void kedge_loop_stop(struct kedge_loop *l);
/* Make a sleeping loop go round; the one call allowed from other threads and from signal handlers. */
void kedge_loop_wake(struct kedge_loop *l);
/* Operations submitted whose callback has not run. */
unsigned kedge_loop_nr_inflight(const struct kedge_loop *l);

struct kedge_defer_queue *kedge_loop_defer_queue(struct kedge_loop *l);
void kedge_loop_defer(struct kedge_loop *l, struct kedge_defer *d);

/* CLOCK_MONOTONIC, read once a round (kedge_clock_ns reads it now). */
uint64_t kedge_loop_now_ns(const struct kedge_loop *l);
uint64_t kedge_clock_ns(void);

/* Re-arming an armed timer moves it. ms = 0 fires in the next round. */
void kedge_timer_start(struct kedge_loop *l, struct kedge_timer *t, uint64_t ms);
void kedge_timer_stop(struct kedge_loop *l, struct kedge_timer *t);
static inline bool kedge_timer_is_armed(const struct kedge_timer *t)
{
	return t->heap_pos != 0;
}

/* res: bytes moved (short counts possible, resuming is the caller's task), 0 or -errno. */
void kedge_op_read(struct kedge_loop *l, struct kedge_op *op, int fd, void *buf, size_t nr_bytes, uint64_t offset_bytes);
void kedge_op_write(struct kedge_loop *l, struct kedge_op *op, int fd, const void *buf, size_t nr_bytes,
		    uint64_t offset_bytes);
/* iov must stay until the callback. */
void kedge_op_readv(struct kedge_loop *l, struct kedge_op *op, int fd, const struct iovec *iov, unsigned nr_iov,
		    uint64_t offset_bytes);
void kedge_op_writev(struct kedge_loop *l, struct kedge_op *op, int fd, const struct iovec *iov, unsigned nr_iov,
		     uint64_t offset_bytes);
/* fdatasync(2) when is_datasync. */
void kedge_op_fsync(struct kedge_loop *l, struct kedge_op *op, int fd, bool is_datasync);
/* fallocate(2). */
void kedge_op_fallocate(struct kedge_loop *l, struct kedge_op *op, int fd, int mode, uint64_t offset_bytes,
			uint64_t nr_bytes);
/* One shot; events are POLLIN etc.; res: the events seen, or -errno. */
void kedge_op_poll(struct kedge_loop *l, struct kedge_op *op, int fd, unsigned events);
/* Sockets. flags as in send(2) and recv(2); MSG_NOSIGNAL is added. */
void kedge_op_recv(struct kedge_loop *l, struct kedge_op *op, int fd, void *buf, size_t nr_bytes, int flags);
void kedge_op_send(struct kedge_loop *l, struct kedge_op *op, int fd, const void *buf, size_t nr_bytes, int flags);
/* msg and all it points to must stay until the callback. */
void kedge_op_sendmsg(struct kedge_loop *l, struct kedge_op *op, int fd, const struct msghdr *msg, int flags);
/* res: the new descriptor (SOCK_CLOEXEC, blocking: on a non-blocking one io_uring answers recv and send with -EAGAIN at
 * once instead of waiting), or -errno. */
void kedge_op_accept(struct kedge_loop *l, struct kedge_op *op, int listen_fd);
/* Goes up whenever operations may have been handed to the kernel. Until then what a sendmsg's msg points to may still be added to. */
uint64_t kedge_loop_nr_submits(const struct kedge_loop *l);
/* Ask that an operation in flight end early. Its own callback still comes. No-op when not in flight. */
void kedge_op_cancel(struct kedge_loop *l, struct kedge_op *op);

#endif
