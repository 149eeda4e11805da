/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The NBD front end: takes connections on the holder's Unix socket.
 *
 * Owns. The connections. The listening socket is the holder's, so clients that come while no worker lives wait in its queue.
 *
 * Locks. None: one thread.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "front.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "nbd_conn.h"

#define CONNS_MAX 16u
/* Clients that do not take their answers must not keep a stop waiting. */
#define STOP_MS 5000u
#define RETRY_MS 100u

struct nbd_front {
	struct front front;
	struct kedge_loop *loop;
	int listen_fd;
	struct nbd_conn_env env;
	struct kedge_op accept;
	struct kedge_timer retry, stop_deadline;
	struct nbd_conn *conns[CONNS_MAX];
	unsigned nr_conns;
	bool is_stopping;
	void (*stop_fn)(void *arg);
	void *stop_arg;
	struct kedge_defer stop_defer;
};

static void arm(struct nbd_front *f)
{
	/* At the limit the next clients wait in the socket's queue. */
	if (!f->is_stopping && !f->accept.is_inflight && !kedge_timer_is_armed(&f->retry) && f->nr_conns < CONNS_MAX)
		kedge_op_accept(f->loop, &f->accept, f->listen_fd);
}

static void stopped_cb(void *arg)
{
	struct nbd_front *f = arg;

	f->stop_fn(f->stop_arg);
}

static void check_stopped(struct nbd_front *f)
{
	if (!f->stop_fn || f->nr_conns || f->accept.is_inflight || f->stop_defer.is_queued)
		return;
	kedge_timer_stop(f->loop, &f->stop_deadline);
	f->stop_defer = (struct kedge_defer){.fn = stopped_cb, .arg = f};
	kedge_loop_defer(f->loop, &f->stop_defer);
}

static void ended_cb(void *arg, struct nbd_conn *c)
{
	struct nbd_front *f = arg;

	for (unsigned i = 0; i < f->nr_conns; i++)
		if (f->conns[i] == c) {
			f->conns[i] = f->conns[--f->nr_conns];
			break;
		}
	arm(f);
	check_stopped(f);
}

static void accept_cb(struct kedge_op *op, int res)
{
	struct nbd_front *f = kedge_container_of(op, struct nbd_front, accept);

	if (f->is_stopping) {
		kedge_close(res >= 0 ? res : -1);
		check_stopped(f);
		return;
	}
	if (res >= 0) {
		struct nbd_conn *c = nbd_conn_create(&f->env, res);
		if (c)
			f->conns[f->nr_conns++] = c;
	} else if (res != -EINTR && res != -ECONNABORTED && res != -EAGAIN) {
		kedge_warn("nbd: cannot take a connection: %s", kedge_err_text(res));
		kedge_timer_start(f->loop, &f->retry, RETRY_MS);
	}
	arm(f);
}

static void retry_cb(struct kedge_timer *t)
{
	arm(kedge_container_of(t, struct nbd_front, retry));
}

static void stop_deadline_cb(struct kedge_timer *t)
{
	struct nbd_front *f = kedge_container_of(t, struct nbd_front, stop_deadline);

	for (unsigned i = 0; i < f->nr_conns; i++)
		nbd_conn_drop(f->conns[i]);
}

/* ---- the interface ---- */

static int nbd_start(struct front *front, struct engine *e, struct kedge_err *err)
{
	struct nbd_front *f = (struct nbd_front *)front;

	f->env = (struct nbd_conn_env){.loop = f->loop, .e = e, .ended_fn = ended_cb, .arg = f};
	arm(f);
	return 0;
}

static void nbd_stop(struct front *front, void (*fn)(void *arg), void *arg)
{
	struct nbd_front *f = (struct nbd_front *)front;

	f->is_stopping = true;
	f->stop_fn = fn;
	f->stop_arg = arg;
	kedge_timer_stop(f->loop, &f->retry);
	kedge_timer_start(f->loop, &f->stop_deadline, STOP_MS);
	kedge_op_cancel(f->loop, &f->accept);
	for (unsigned i = 0; i < f->nr_conns; i++)
		nbd_conn_stop(f->conns[i]);
	check_stopped(f);
}

static void nbd_destroy(struct front *front)
{
	free(front);
}

static unsigned nbd_nr_inflight(const struct front *front)
{
	const struct nbd_front *f = (const struct nbd_front *)front;
	unsigned n = 0;

	for (unsigned i = 0; i < f->nr_conns; i++)
		n += nbd_conn_nr_inflight(f->conns[i]);
	return n;
}

static const struct front_ops nbd_ops = {
	.name = "nbd",
	.start = nbd_start,
	.stop = nbd_stop,
	.destroy = nbd_destroy,
	.nr_inflight = nbd_nr_inflight,
};

int nbd_front_create(struct kedge_loop *l, int listen_fd, struct front **ret_front, struct kedge_err *err)
{
	struct nbd_front *f = calloc(1, sizeof *f);

	if (!f)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for the NBD front end");
	f->front.ops = &nbd_ops;
	f->loop = l;
	f->listen_fd = listen_fd;
	f->accept.fn = accept_cb;
	f->retry.fn = retry_cb;
	f->stop_deadline.fn = stop_deadline_cb;
	*ret_front = &f->front;
	return 0;
}
