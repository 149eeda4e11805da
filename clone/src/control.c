/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The server of the control socket: one JSON object a line, answered in order, never blocking.
 *
 * Owns. The connections. A command under way keeps its connection's memory, not its descriptor: a client that goes away does not
 * end the command.
 *
 * Locks. None: one thread.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kclone.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"

#define LINE_MAX_BYTES 65536
#define CLIENTS_MAX 16

struct client;

struct control_call {
	struct client *client;
};

struct client {
	struct control *c;
	int fd;
	struct kedge_op in, out;
	char *line;
	size_t nr_in;
	char *reply;
	size_t nr_reply, nr_sent;
	struct control_call call;
	bool is_busy, is_gone;
	struct client *next;
};

struct control {
	struct worker *w;
	struct kedge_loop *loop;
	int listen_fd;
	struct kedge_op accept;
	struct client *clients;
	unsigned nr_clients;
	bool is_stopping;
};

static void arm_accept(struct control *c);

static void free_if_unused(struct client *k)
{
	struct control *c = k->c;
	struct client **p = &c->clients;

	if (!k->is_gone || k->is_busy || k->in.is_inflight || k->out.is_inflight)
		return;
	while (*p != k)
		p = &(*p)->next;
	*p = k->next;
	kedge_close(k->fd);
	free(k->line);
	free(k->reply);
	free(k);
	c->nr_clients--;
	if (c->is_stopping && c->nr_clients == 0 && !c->accept.is_inflight)
		free(c);
	else
		arm_accept(c);
}

static void drop(struct client *k)
{
	k->is_gone = true;
	/* the descriptor stays until the operations on it have ended */
	shutdown(k->fd, SHUT_RDWR);
	kedge_op_cancel(k->c->loop, &k->in);
	kedge_op_cancel(k->c->loop, &k->out);
	free_if_unused(k);
}

static void take_lines(struct client *k);

static void out_cb(struct kedge_op *op, int res)
{
	struct client *k = kedge_container_of(op, struct client, out);

	if (res <= 0 || k->is_gone) {
		drop(k);
		return;
	}
	k->nr_sent += (size_t)res;
	if (k->nr_sent < k->nr_reply) {
		kedge_op_send(k->c->loop, &k->out, k->fd, k->reply + k->nr_sent, k->nr_reply - k->nr_sent, 0);
		return;
	}
	free(k->reply);
	k->reply = NULL;
	if (k->c->is_stopping)
		drop(k);
	else
		take_lines(k);
}

static void send_reply(struct client *k, json_t *o)
{
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;

	json_decref(o);
	k->is_busy = false;
	if (k->is_gone || !text) {
		free(text);
		drop(k);
		return;
	}
	k->nr_reply = strlen(text);
	text[k->nr_reply++] = '\n'; /* in the place of the NUL */
	k->reply = text;
	k->nr_sent = 0;
	kedge_op_send(k->c->loop, &k->out, k->fd, k->reply, k->nr_reply, 0);
}

void control_answer(struct control_call *call, json_t *result)
{
	send_reply(call->client, json_pack("{s:i,s:b,s:o}", "v", 1, "ok", 1, "result", result ? result : json_object()));
}

void control_refuse(struct control_call *call, const struct kedge_err *err)
{
	send_reply(call->client,
		   json_pack("{s:i,s:b,s:{s:s,s:s,s:s}}", "v", 1, "ok", 0, "error", "code", kedge_err_name(err->code), "class",
			     kedge_err_class_name(kedge_err_class_of(err->code)), "message", err->msg));
}

static void take_command(struct client *k, const char *line)
{
	struct kedge_err err = {0};
	json_error_t je;
	json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, &je);
	const char *cmd = NULL;
	json_t *args = NULL;
	int v = 0;

	k->is_busy = true;
	k->call.client = k;
	if (!o || json_unpack_ex(o, &je, JSON_STRICT, "{s:i,s:s,s?o}", "v", &v, "cmd", &cmd, "args", &args) < 0) {
		kedge_err_set(&err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "not a request: %s", je.text);
		control_refuse(&k->call, &err);
	} else if (v != 1) {
		kedge_err_set(&err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "version %d is not known here", v);
		control_refuse(&k->call, &err);
	} else {
		worker_command(k->c->w, cmd, args && json_is_object(args) ? args : NULL, &k->call);
	}
	json_decref(o);
}

static void arm_in(struct client *k)
{
	if (k->nr_in == LINE_MAX_BYTES) {
		drop(k); /* a line without end */
		return;
	}
	kedge_op_recv(k->c->loop, &k->in, k->fd, k->line + k->nr_in, LINE_MAX_BYTES - k->nr_in, 0);
}

static void take_lines(struct client *k)
{
	char *end = memchr(k->line, '\n', k->nr_in);

	if (!end) {
		arm_in(k);
		return;
	}
	size_t n = (size_t)(end - k->line) + 1;
	char *line = strndup(k->line, n - 1);
	memmove(k->line, k->line + n, k->nr_in - n);
	k->nr_in -= n;
	if (!line) {
		drop(k);
		return;
	}
	take_command(k, line);
	free(line);
}

static void in_cb(struct kedge_op *op, int res)
{
	struct client *k = kedge_container_of(op, struct client, in);

	if (res <= 0 || k->is_gone) {
		drop(k);
		return;
	}
	k->nr_in += (size_t)res;
	take_lines(k);
}

static bool is_allowed(int fd)
{
	struct ucred cred;
	socklen_t n = sizeof cred;

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) == 0 && (cred.uid == 0 || cred.uid == geteuid());
}

static void accept_cb(struct kedge_op *op, int res)
{
	struct control *c = kedge_container_of(op, struct control, accept);
	struct client *k = NULL;

	if (c->is_stopping) {
		kedge_close(res >= 0 ? res : -1);
		if (c->nr_clients == 0)
			free(c);
		return;
	}
	if (res >= 0 && is_allowed(res)) {
		k = calloc(1, sizeof *k);
		if (k)
			k->line = malloc(LINE_MAX_BYTES);
		if (k && !k->line) {
			free(k);
			k = NULL;
		}
	}
	if (k) {
		k->c = c;
		k->fd = res;
		k->in.fn = in_cb;
		k->out.fn = out_cb;
		k->next = c->clients;
		c->clients = k;
		c->nr_clients++;
		arm_in(k);
	} else {
		kedge_close(res);
	}
	arm_accept(c);
}

static void arm_accept(struct control *c)
{
	if (c->is_stopping || c->accept.is_inflight || c->nr_clients >= CLIENTS_MAX)
		return;
	kedge_op_accept(c->loop, &c->accept, c->listen_fd);
}

int control_start(struct worker *w, int listen_fd, struct control **ret_c, struct kedge_err *err)
{
	struct control *c = calloc(1, sizeof *c);

	if (!c)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for the control socket");
	c->w = w;
	c->loop = worker_loop(w);
	c->listen_fd = listen_fd;
	c->accept.fn = accept_cb;
	arm_accept(c);
	*ret_c = c;
	return 0;
}

void control_stop(struct control *c)
{
	struct client *next;

	if (!c)
		return;
	c->is_stopping = true;
	kedge_op_cancel(c->loop, &c->accept);
	for (struct client *k = c->clients; k; k = next) {
		next = k->next;
		/* Who is owed an answer gets it first: the end of a stop must not swallow the answer to `stop`. */
		if (!k->is_busy && !k->out.is_inflight)
			drop(k);
	}
}
