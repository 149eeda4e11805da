/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Client of control sockets: one request, one answer, a deadline.
 * Owns. The connection of a call. Locks. None.
 */
#include "kedge/ctl.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "kedge/file.h"
#include "kedge/loop.h"

#define LINE_MAX_BYTES 65536

static int wait_for(int fd, short events, uint64_t deadline_ns)
{
	struct pollfd p = {.fd = fd, .events = events};

	for (;;) {
		uint64_t now = kedge_clock_ns();
		int n;

		if (now >= deadline_ns)
			return -ETIMEDOUT;
		n = poll(&p, 1, (int)((deadline_ns - now) / 1000000 + 1));
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static int open_socket(const char *path, unsigned timeout_ms, struct kedge_err *err)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	/* connect(2) waits too: for a place in the queue of a server that is stopped. 0 would mean for ever. */
	struct timeval limit = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000 + 1};
	int fd;

	if (strlen(path) >= sizeof sa.sun_path)
		return kedge_err_set(err, -ENAMETOOLONG, KEDGE_SIDE_CONTROL, "socket path too long: %s", path);
	memcpy(sa.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_CONTROL, "cannot make a socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	if (connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0) {
		int e = errno;
		kedge_close(fd);
		return kedge_err_set(err, KEDGE_E_UNREACHABLE, KEDGE_SIDE_CONTROL, "cannot connect to %s: %s", path,
				     e == EAGAIN ? "it takes no connection" : strerror(e));
	}
	return fd;
}

static int exchange(int fd, const char *request, char *reply, uint64_t deadline_ns)
{
	size_t left = strlen(request), n = 0;

	while (left) {
		ssize_t w;
		int r = wait_for(fd, POLLOUT, deadline_ns);
		if (r < 0)
			return r;
		w = send(fd, request, left, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (w < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (w < 0)
			return -errno;
		request += w;
		left -= (size_t)w;
	}
	while (n == 0 || reply[n - 1] != '\n') {
		ssize_t got;
		int r = wait_for(fd, POLLIN, deadline_ns);
		if (r < 0)
			return r;
		got = recv(fd, reply + n, LINE_MAX_BYTES - n, MSG_DONTWAIT);
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (got < 0)
			return -errno;
		n += (size_t)got;
		if (got == 0 || n == LINE_MAX_BYTES)
			return -EPIPE;
	}
	reply[n] = 0;
	return 0;
}

static int read_reply(const char *socket_path, const char *reply, json_t **ret_result, struct kedge_err *err)
{
	json_error_t je;
	json_t *root = json_loads(reply, 0, &je);
	const char *code, *message;
	int ok = 0, r;

	if (!root || json_unpack(root, "{s:b}", "ok", &ok) < 0) {
		json_decref(root);
		return kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "%s answered something that is not ours",
				     socket_path);
	}
	if (ok) {
		json_t *result = json_object_get(root, "result");
		if (ret_result)
			*ret_result = result ? json_incref(result) : json_object();
		json_decref(root);
		return 0;
	}
	if (json_unpack(root, "{s:{s:s,s:s}}", "error", "code", &code, "message", &message) < 0)
		r = kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "%s refused without a reason", socket_path);
	else
		r = kedge_err_set(err, kedge_err_by_name(code), KEDGE_SIDE_CONTROL, "%s", message);
	json_decref(root);
	return r;
}

int kedge_ctl_call(const char *socket_path, const char *cmd, json_t *args, unsigned timeout_ms, json_t **ret_result,
		   struct kedge_err *err)
{
	uint64_t deadline_ns = kedge_clock_ns() + (uint64_t)timeout_ms * 1000000u;
	json_t *root = json_pack("{s:i,s:s,s:O?}", "v", 1, "cmd", cmd, "args", args);
	char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	char *reply = malloc(LINE_MAX_BYTES + 1), *line = NULL;
	int fd = -1, r = -ENOMEM;

	if (text)
		line = malloc(strlen(text) + 2);
	if (reply && line) {
		strcpy(line, text);
		strcat(line, "\n");
		fd = open_socket(socket_path, timeout_ms, err);
		r = fd < 0 ? fd : exchange(fd, line, reply, deadline_ns);
		if (fd >= 0 && r < 0)
			r = kedge_err_set(err, KEDGE_E_UNREACHABLE, KEDGE_SIDE_CONTROL, "%s: no answer to %s: %s",
					  socket_path, cmd, strerror(-r));
		if (r == 0)
			r = read_reply(socket_path, reply, ret_result, err);
	} else {
		kedge_err_set(err, r, KEDGE_SIDE_CONTROL, "no memory for a request");
	}
	kedge_close(fd);
	/* attach may carry a secret's path only, but stay careful: nothing of the request remains */
	if (line)
		explicit_bzero(line, strlen(line));
	if (text)
		explicit_bzero(text, strlen(text));
	free(line);
	free(text);
	free(reply);
	json_decref(root);
	return r;
}
