/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The event loop of the data plane over one io_uring: operations, timers, deferred calls. The only file that knows
 * liburing.
 *
 * Owns. The ring, the timer heap (pointers to timers that belong to others), the defer queue, an eventfd for wake-ups.
 *
 * Locks. None: one thread. kedge_loop_wake only writes to the eventfd.
 */
#include "kedge/loop.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/file.h"

/* Completions whose owner is nobody: cancellations. */
#define UD_IGNORE ((void *)0)

#define SPIN_NS 50000u
/* A yield that takes longer than this ran somebody else: then no spinning for a while. */
#define SPIN_STOLEN_NS 20000u
#define SPIN_REST_NS 1000000u

struct kedge_loop {
	struct io_uring ring;
	struct kedge_defer_queue defer;
	struct kedge_timer **heap;
	int nr_timers, heap_room;
	uint64_t now_ns, no_spin_ns, nr_submits;
	bool was_short; /* the last round: its wait, or it had work and did not wait */
	unsigned nr_inflight;
	bool is_stopping;
	int wake_fd;
	struct kedge_op wake_op;
	uint64_t wake_value;
};

/* ---- deferred calls ---- */

void kedge_defer_queue_init(struct kedge_defer_queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
	q->round = 0;
}

void kedge_defer_add(struct kedge_defer_queue *q, struct kedge_defer *d)
{
	kedge_assert(!d->is_queued);
	d->is_queued = true;
	d->round = q->round;
	d->next = NULL;
	*q->tail = d;
	q->tail = &d->next;
}

void kedge_defer_remove(struct kedge_defer_queue *q, struct kedge_defer *d)
{
	struct kedge_defer **p;

	if (!d->is_queued)
		return;
	for (p = &q->head; *p; p = &(*p)->next) {
		if (*p != d)
			continue;
		*p = d->next;
		if (q->tail == &d->next)
			q->tail = p;
		d->is_queued = false;
		return;
	}
	kedge_assert(!"queued elsewhere");
}

unsigned kedge_defer_run(struct kedge_defer_queue *q)
{
	unsigned n = 0;

	/* What callbacks add belongs to the new round and waits. Items are taken one at a time, so that remove works on all. */
	q->round++;
	while (q->head && q->head->round < q->round) {
		struct kedge_defer *d = q->head;
		q->head = d->next;
		if (!q->head)
			q->tail = &q->head;
		d->is_queued = false;
		n++;
		d->fn(d->arg);
	}
	return n;
}

bool kedge_defer_is_empty(const struct kedge_defer_queue *q)
{
	return q->head == NULL;
}

/* ---- clock and timers: a binary heap by due time ---- */

uint64_t kedge_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void heap_place(struct kedge_loop *l, int pos, struct kedge_timer *t)
{
	l->heap[pos] = t;
	t->heap_pos = pos + 1;
}

static void heap_up(struct kedge_loop *l, int pos)
{
	struct kedge_timer *t = l->heap[pos];

	while (pos > 0 && l->heap[(pos - 1) / 2]->due_ns > t->due_ns) {
		heap_place(l, pos, l->heap[(pos - 1) / 2]);
		pos = (pos - 1) / 2;
	}
	heap_place(l, pos, t);
}

static void heap_down(struct kedge_loop *l, int pos)
{
	struct kedge_timer *t = l->heap[pos];

	for (;;) {
		int child = 2 * pos + 1;
		if (child >= l->nr_timers)
			break;
		if (child + 1 < l->nr_timers && l->heap[child + 1]->due_ns < l->heap[child]->due_ns)
			child++;
		if (l->heap[child]->due_ns >= t->due_ns)
			break;
		heap_place(l, pos, l->heap[child]);
		pos = child;
	}
	heap_place(l, pos, t);
}

void kedge_timer_stop(struct kedge_loop *l, struct kedge_timer *t)
{
	int pos = t->heap_pos - 1;

	if (pos < 0)
		return;
	t->heap_pos = 0;
	l->nr_timers--;
	if (pos == l->nr_timers)
		return;
	heap_place(l, pos, l->heap[l->nr_timers]);
	heap_up(l, pos);
	heap_down(l, l->heap[pos]->heap_pos - 1);
}

void kedge_timer_start(struct kedge_loop *l, struct kedge_timer *t, uint64_t ms)
{
	kedge_timer_stop(l, t);
	if (l->nr_timers == l->heap_room) {
		int room = l->heap_room ? l->heap_room * 2 : 64;
		struct kedge_timer **heap = realloc(l->heap, (size_t)room * sizeof *heap);
		kedge_assert(heap != NULL);
		l->heap = heap;
		l->heap_room = room;
	}
	t->due_ns = kedge_clock_ns() + ms * 1000000u;
	heap_place(l, l->nr_timers, t);
	l->nr_timers++;
	heap_up(l, l->nr_timers - 1);
}

static void run_timers(struct kedge_loop *l)
{
	/* Those due at the start of the round; a timer that re-arms itself with 0 waits for the next one. */
	while (l->nr_timers && l->heap[0]->due_ns <= l->now_ns) {
		struct kedge_timer *t = l->heap[0];
		kedge_timer_stop(l, t);
		t->fn(t);
	}
}

/* ---- the loop ---- */

static void wake_cb(struct kedge_op *op, int res)
{
	struct kedge_loop *l = kedge_container_of(op, struct kedge_loop, wake_op);

	/* Ends with the loop; a failing eventfd read can only be a shutdown. */
	l->nr_inflight++; /* the wake-up read is not counted as work: undo what the round took off */
	if (res > 0 || res == -EINTR || res == -EAGAIN) {
		kedge_op_read(l, op, l->wake_fd, &l->wake_value, sizeof l->wake_value, 0);
		l->nr_inflight--;
	}
}

static int init_ring(struct kedge_loop *l, unsigned entries)
{
	struct io_uring_params p = {.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE, .cq_entries = entries * 8};
	struct io_uring_params one = p;
	int r;

	/* From Linux 6.1 on completions wait for our next call, instead of interrupting what runs. */
	one.flags |= IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
	r = io_uring_queue_init_params(entries, &l->ring, &one);
	if (r == -EINVAL)
		r = io_uring_queue_init_params(entries, &l->ring, &p);
	if (r < 0)
		return r;
	/* The queue is shared memory, and what is put there is done with our rights: a child, which may have fewer, does not get it. */
	r = io_uring_ring_dontfork(&l->ring);
	if (r < 0)
		io_uring_queue_exit(&l->ring);
	return r;
}

int kedge_loop_create(unsigned entries, struct kedge_loop **ret_loop, struct kedge_err *err)
{
	struct kedge_loop *l = calloc(1, sizeof *l);
	int r;

	if (!l)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for an event loop");
	kedge_defer_queue_init(&l->defer);
	l->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (l->wake_fd < 0) {
		r = kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot make an eventfd: %s", strerror(errno));
		goto free_loop;
	}
	r = init_ring(l, entries);
	if (r < 0) {
		kedge_err_set(err, r, KEDGE_SIDE_NONE,
			      "cannot set up io_uring: %s (see /proc/sys/kernel/io_uring_disabled and the sandbox's rules)",
			      strerror(-r));
		goto close_wake;
	}
	l->now_ns = kedge_clock_ns();
	l->wake_op.fn = wake_cb;
	kedge_op_read(l, &l->wake_op, l->wake_fd, &l->wake_value, sizeof l->wake_value, 0);
	l->nr_inflight = 0;
	*ret_loop = l;
	return 0;

close_wake:
	kedge_close(l->wake_fd);
free_loop:
	free(l);
	return r;
}

void kedge_loop_destroy(struct kedge_loop *l)
{
	if (!l)
		return;
	io_uring_queue_exit(&l->ring);
	kedge_close(l->wake_fd);
	free(l->heap);
	free(l);
}

/*
 * Look for completions for a while before sleeping: on an idle core, most of all in a virtual machine, the wake-up from a sleep takes longer
 * than an answer from the same host. Only while answers do come that soon, and not while others want the core: a yield that takes its time
 * says so, and one who sleeps is put before them when he is woken, one who yields is not.
 */
static void spin(struct kedge_loop *l)
{
	uint64_t begin_ns = kedge_clock_ns(), at_ns = begin_ns;

	l->nr_submits++;
	io_uring_submit_and_get_events(&l->ring);
	while (io_uring_cq_ready(&l->ring) == 0 && at_ns - begin_ns < SPIN_NS) {
		sched_yield();
		io_uring_get_events(&l->ring);
		uint64_t now_ns = kedge_clock_ns();
		if (now_ns - at_ns > SPIN_STOLEN_NS) {
			l->no_spin_ns = now_ns + SPIN_REST_NS;
			return;
		}
		at_ns = now_ns;
	}
}

static int reap(struct kedge_loop *l)
{
	struct io_uring_cqe *cqes[64];
	unsigned n;
	int total = 0;

	while ((n = io_uring_peek_batch_cqe(&l->ring, cqes, KEDGE_ARRAY_LEN(cqes))) > 0) {
		struct {
			struct kedge_op *op;
			int res;
		} done[KEDGE_ARRAY_LEN(cqes)];

		for (unsigned i = 0; i < n; i++) {
			done[i].op = io_uring_cqe_get_data(cqes[i]);
			done[i].res = cqes[i]->res;
		}
		/* Handed back before the callbacks, which may submit and so need room. */
		io_uring_cq_advance(&l->ring, n);
		for (unsigned i = 0; i < n; i++) {
			struct kedge_op *op = done[i].op;
			if (op == UD_IGNORE)
				continue;
			l->nr_inflight--;
			op->is_inflight = false;
			op->fn(op, done[i].res);
		}
		total += (int)n;
		if (total > 1024)
			break; /* let timers and deferred calls have their turn */
	}
	return total;
}

int kedge_loop_run_once(struct kedge_loop *l, unsigned max_wait_ms)
{
	uint64_t wait_ns = (uint64_t)max_wait_ms * 1000000u, begin_ns;
	int r;

	l->now_ns = kedge_clock_ns();
	if (!kedge_defer_is_empty(&l->defer))
		wait_ns = 0;
	if (l->nr_timers) {
		uint64_t due = l->heap[0]->due_ns;
		wait_ns = kedge_min_u64(wait_ns, due > l->now_ns ? due - l->now_ns : 0);
	}
	if (wait_ns > SPIN_NS && l->was_short && l->now_ns >= l->no_spin_ns) {
		spin(l);
		if (io_uring_cq_ready(&l->ring) > 0)
			wait_ns = 0;
	}
	begin_ns = l->now_ns;
	l->nr_submits++;
	if (wait_ns == 0) {
		r = io_uring_submit_and_get_events(&l->ring);
	} else {
		struct __kernel_timespec ts = {.tv_sec = (long long)(wait_ns / 1000000000u),
					       .tv_nsec = (long long)(wait_ns % 1000000000u)};
		struct io_uring_cqe *cqe;
		r = io_uring_submit_and_wait_timeout(&l->ring, &cqe, 1, &ts, NULL);
	}
	if (r < 0 && r != -ETIME && r != -EINTR && r != -EAGAIN && r != -EBUSY)
		return r;
	l->now_ns = kedge_clock_ns();
	l->was_short = l->now_ns - begin_ns < 2 * SPIN_NS;
	reap(l);
	run_timers(l);
	kedge_defer_run(&l->defer);
	return 0;
}

int kedge_loop_run(struct kedge_loop *l)
{
	int r = 0;

	l->is_stopping = false;
	while (!l->is_stopping && r == 0)
		r = kedge_loop_run_once(l, 60000);
	return r;
}

void kedge_loop_stop(struct kedge_loop *l)
{
	l->is_stopping = true;
}

void kedge_loop_wake(struct kedge_loop *l)
{
	uint64_t one = 1;
	ssize_t n = write(l->wake_fd, &one, sizeof one);

	(void)n; /* full: the loop is awake anyway */
}

unsigned kedge_loop_nr_inflight(const struct kedge_loop *l)
{
	return l->nr_inflight;
}

struct kedge_defer_queue *kedge_loop_defer_queue(struct kedge_loop *l)
{
	return &l->defer;
}

void kedge_loop_defer(struct kedge_loop *l, struct kedge_defer *d)
{
	kedge_defer_add(&l->defer, d);
}

uint64_t kedge_loop_now_ns(const struct kedge_loop *l)
{
	return l->now_ns;
}

uint64_t kedge_loop_nr_submits(const struct kedge_loop *l)
{
	return l->nr_submits;
}

/* ---- operations ---- */

static struct io_uring_sqe *get_sqe(struct kedge_loop *l)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);

	while (!sqe) {
		/* The queue is full: hand it over. EBUSY/EAGAIN mean that completions must be taken first, which only the round may
		 * do (no callback inside a submit); the kernel keeps overflown completions, so this ends. */
		l->nr_submits++;
		int r = io_uring_submit(&l->ring);
		kedge_assert(r >= 0 || r == -EBUSY || r == -EAGAIN || r == -EINTR);
		sqe = io_uring_get_sqe(&l->ring);
	}
	return sqe;
}

static struct io_uring_sqe *begin(struct kedge_loop *l, struct kedge_op *op)
{
	struct io_uring_sqe *sqe = get_sqe(l);

	kedge_assert(op->fn != NULL && !op->is_inflight);
	op->is_inflight = true;
	l->nr_inflight++;
	return sqe;
}

/* io_uring_prep_* clears user_data in later versions: set it last. */
#define END(sqe, op) io_uring_sqe_set_data(sqe, op)

static unsigned clamp_len(size_t nr_bytes)
{
	/* One operation moves at most 1 GiB; callers resume short counts anyway. */
	return nr_bytes > (1u << 30) ? 1u << 30 : (unsigned)nr_bytes;
}

void kedge_op_read(struct kedge_loop *l, struct kedge_op *op, int fd, void *buf, size_t nr_bytes, uint64_t offset_bytes)
{
	struct io_uring_sqe *sqe = begin(l, op);

	io_uring_prep_read(sqe, fd, buf, clamp_len(nr_bytes), offset_bytes);
	END(sqe, op);
}

void kedge_op_write(struct kedge_loop *l, struct kedge_op *op, int fd, const void *buf, size_t nr_bytes,
		    uint64_t offset_bytes)
{
	struct io_uring_sqe *sqe = begin(l, op);

	io_uring_prep_write(sqe, fd, buf, clamp_len(nr_bytes), offset_bytes);
	END(sqe, op);
}

void kedge_op_readv(struct kedge_loop *l, struct kedge_op *op, int fd, const struct iovec *iov, unsigned nr_iov,
		    uint64_t offset_bytes)
{
	struct io_uring_sqe *sqe = begin(l, op);

	io_uring_prep_readv(sqe, fd, iov, nr_iov, offset_bytes);
	END(sqe, op);
}

void kedge_op_writev(struct kedge_loop *l, struct kedge_op *op, int fd, const struct iovec *iov, unsigned nr_iov,
		     uint64_t offset_bytes)
{
	struct io_uring_sqe *sqe = begin(l, op);

	io_uring_prep_writev(sqe, fd, iov, nr_iov, offset_bytes);
	END(sqe, op);
}

void kedge_op_fsync(struct kedge_loop *l, struct kedge_op *op, int fd, bool is_datasync)
{
	struct io_uring_sqe *sqe = begin(l, op);

	io_uring_prep_fsync(sqe, fd, is_datasync ? IORING_FSYNC_DATASYNC : 0);
	END(sqe, op);
}

void kedge_op_fallocate(struct kedge_loop *l, struct kedge_op *op, int fd, int mode, uint64_t offset_bytes,
			uint64_t nr_bytes)
{
	struct io_uring_sqe *sqe = begin(l, op);

	io_uring_prep_fallocate(sqe, fd, mode, (off_t)offset_bytes, (off_t)nr_bytes);
	END(sqe, op);
}

void kedge_op_poll(struct kedge_loop *l, struct kedge_op *op, int fd, unsigned events)
{
	struct io_uring_sqe *sqe = begin(l, op);

	io_uring_prep_poll_add(sqe, fd, events);
	END(sqe, op);
}

void kedge_op_recv(struct kedge_loop *l, struct kedge_op *op, int fd, void *buf, size_t nr_bytes, int flags)
{
	struct io_uring_sqe *sqe = begin(l, op);

	io_uring_prep_recv(sqe, fd, buf, clamp_len(nr_bytes), flags | MSG_NOSIGNAL);
	END(sqe, op);
}

void kedge_op_send(struct kedge_loop *l, struct kedge_op *op, int fd, const void *buf, size_t nr_bytes, int flags)
{
	struct io_uring_sqe *sqe = begin(l, op);

	io_uring_prep_send(sqe, fd, buf, clamp_len(nr_bytes), flags | MSG_NOSIGNAL);
	END(sqe, op);
}

void kedge_op_sendmsg(struct kedge_loop *l, struct kedge_op *op, int fd, const struct msghdr *msg, int flags)
{
	struct io_uring_sqe *sqe = begin(l, op);

	io_uring_prep_sendmsg(sqe, fd, msg, (unsigned)flags | MSG_NOSIGNAL);
	END(sqe, op);
}

void kedge_op_accept(struct kedge_loop *l, struct kedge_op *op, int listen_fd)
{
	struct io_uring_sqe *sqe = begin(l, op);

	io_uring_prep_accept(sqe, listen_fd, NULL, NULL, SOCK_CLOEXEC);
	END(sqe, op);
}

void kedge_op_cancel(struct kedge_loop *l, struct kedge_op *op)
{
	struct io_uring_sqe *sqe;

	if (!op->is_inflight)
		return;
	sqe = get_sqe(l);
	io_uring_prep_cancel(sqe, op, 0);
	END(sqe, UD_IGNORE);
}
