/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_NBD_CONN_H
#define KCLONE_NBD_CONN_H

/* One NBD connection, from the greeting to the end. */

#include <stdbool.h>

#include "engine.h"
#include "kedge/loop.h"

struct nbd_conn;

/* Memory of a connection: requests in hand and their data. A client that asks for more waits. */
#define NBD_CONN_REQUESTS_MAX 128u
#define NBD_CONN_BYTES_MAX (32u << 20)
/* A client that has not begun to send requests by then is dropped. */
#define NBD_NEGOTIATION_MS 10000u

struct nbd_conn_env {
	struct kedge_loop *loop;
	struct engine *e;
	/* The connection is over; its memory goes right after this. Runs once, later. */
	void (*ended_fn)(void *arg, struct nbd_conn *c);
	void *arg;
};

/* Takes fd over, also when it fails (NULL: no memory). env outlives the connection. */
struct nbd_conn *nbd_conn_create(const struct nbd_conn_env *env, int fd);
/* The server stops: no new requests; ends when those in hand are answered. When one of them fails, it ends without that answer: a
 * client that connects anew and asks again gets data from the next server, while an error would go up to a guest. */
void nbd_conn_stop(struct nbd_conn *c);
/* Ends as soon as the engine and the kernel have let go of it; what is in hand is not answered. */
void nbd_conn_drop(struct nbd_conn *c);
/* Requests that the engine has. */
unsigned nbd_conn_nr_inflight(const struct nbd_conn *c);

#endif
