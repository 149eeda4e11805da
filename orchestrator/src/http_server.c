/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. HTTP/JSON server in a libuv loop: libmicrohttpd without threads, its epoll descriptor in a uv_poll, answers now
 * or later (the connection is suspended meanwhile). Who may ask is settled before a body is parsed: over the Unix socket
 * by the credentials of the accepted connection, over TCP by the mac of docs/api.md. The one user of libmicrohttpd.
 *
 * Owns. Listeners, connections, requests, a copy of the cluster secret.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. Nothing durable here.
 */
#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "address.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/name.h"
#include "orch/http.h"

#define BODY_BYTES_MAX (1024 * 1024)
#define CONNECTIONS_MAX 512
#define PEER_CONNECTIONS_MAX 192 /* one address must not take them all */
#define IDLE_SECONDS 60
#define ROUTES_MAX 64
#define NR_PARAMS 2
#define NR_LISTENERS 2

struct route {
	const char *method;
	const char *pattern;
	unsigned where;
	http_handler_fn fn;
	void *arg;
};

/* One MHD daemon on one listening socket. */
struct listener {
	struct http_server *server;
	struct MHD_Daemon *daemon;
	enum http_where where;
	uv_poll_t poll;
	uv_timer_t timer;
	unsigned nr_closing;
	char unix_path[sizeof((struct sockaddr_un *)0)->sun_path];
};

struct http_server {
	const char *own_host;
	uv_loop_t *loop;
	unsigned char *secret;
	size_t secret_bytes;
	struct route routes[ROUTES_MAX];
	unsigned nr_routes;
	struct listener *listeners[NR_LISTENERS];
	unsigned nr_listeners;
	struct exchange *exchanges;
};

enum exchange_state {
	EXCHANGE_NEW,
	EXCHANGE_UPLOADING,
	EXCHANGE_HANDLING,  /* inside the handler */
	EXCHANGE_SUSPENDED, /* the handler returned without an answer */
	EXCHANGE_ANSWERED,
	EXCHANGE_QUEUED,
};

/* A request and its answer. */
struct exchange {
	struct http_request req;
	struct listener *listener;
	struct MHD_Connection *conn;
	struct exchange *next, *prev;
	enum exchange_state state;
	char *uri;     /* path and query as sent */
	char *path;    /* the path alone; params point into params_text */
	char *params_text;
	char *upload;
	size_t upload_bytes;
	json_t *body;
	char nonce[HTTP_NONCE_MAX];
	char peer_host[KEDGE_NAME_MAX + 1];
	bool is_authenticated;
	unsigned status;
	char *answer;
	size_t answer_bytes;
};

static struct exchange *exchange_of(struct http_request *req)
{
	return kedge_container_of(req, struct exchange, req);
}

/* ---- answers ---- */

static unsigned status_of(int code)
{
	switch (code) {
	case -EINVAL:
	case -ERANGE:
	case -ENAMETOOLONG:
	case KEDGE_E_PROTO:
		return MHD_HTTP_BAD_REQUEST;
	case -ENOENT:
	case -ESRCH:
		return MHD_HTTP_NOT_FOUND;
	case KEDGE_E_AUTH:
		return MHD_HTTP_UNAUTHORIZED;
	case -EEXIST:
	case -EBUSY:
	case KEDGE_E_STALE_EPOCH:
	case KEDGE_E_STATE:
	case KEDGE_E_BUSY_VOLUME:
		return MHD_HTTP_CONFLICT;
	case KEDGE_E_FENCED:
	case KEDGE_E_NO_ROOM:
	case KEDGE_E_STILL_OPEN:
	case KEDGE_E_WRITTEN:
	case KEDGE_E_NOT_HYDRATED:
	case KEDGE_E_VERIFY:
	case KEDGE_E_DEST_SIZE:
		return MHD_HTTP_PRECONDITION_FAILED;
	case KEDGE_E_UNREACHABLE:
	case KEDGE_E_SOURCE_AWAY:
		return MHD_HTTP_SERVICE_UNAVAILABLE;
	default:
		return MHD_HTTP_INTERNAL_SERVER_ERROR;
	}
}

/* Go round once more: MHD has something to do that no descriptor tells of. */
static void listener_kick(struct listener *l);

void http_respond(struct http_request *req, unsigned status, json_t *body)
{
	struct exchange *x = exchange_of(req);

	kedge_assert(x->state == EXCHANGE_HANDLING || x->state == EXCHANGE_SUSPENDED);
	x->status = status;
	x->answer = body ? json_dumps(body, JSON_COMPACT) : NULL;
	if (body && !x->answer)
		x->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
	x->answer_bytes = x->answer ? strlen(x->answer) : 0;
	json_decref(body);
	bool is_suspended = x->state == EXCHANGE_SUSPENDED;
	x->state = EXCHANGE_ANSWERED;
	if (is_suspended) {
		MHD_resume_connection(x->conn);
		listener_kick(x->listener);
	}
}

static void respond_err_status(struct http_request *req, unsigned status, const struct kedge_err *err, const char *hint)
{
	json_t *e = json_pack("{s:s, s:s, s:s}", "code", kedge_err_name(err->code), "class",
			      kedge_err_class_name(kedge_err_class_of(err->code)), "message",
			      err->msg[0] ? err->msg : kedge_err_text(err->code));

	/* json_pack answers NULL for text that is not UTF-8. */
	if (!e)
		e = json_pack("{s:s, s:s, s:s}", "code", kedge_err_name(err->code), "class",
			      kedge_err_class_name(kedge_err_class_of(err->code)), "message", kedge_err_text(err->code));
	if (hint)
		json_object_set_new(e, "hint", json_string(hint));
	http_respond(req, status, json_pack("{s:i, s:o}", "v", 1, "error", e));
}

void http_respond_err(struct http_request *req, const struct kedge_err *err, const char *hint)
{
	respond_err_status(req, status_of(err->code), err, hint);
}

static void refuse(struct exchange *x, unsigned status, int code, const char *text)
{
	struct kedge_err err = {0};

	kedge_err_set(&err, code, KEDGE_SIDE_CONTROL, "%s", text);
	x->state = EXCHANGE_HANDLING;
	respond_err_status(&x->req, status, &err, NULL);
}

/* 401 says nothing more, and is not authenticated itself: whoever asked has proven nothing. */
static void refuse_unauthenticated(struct exchange *x)
{
	x->is_authenticated = false;
	x->state = EXCHANGE_HANDLING;
	http_respond(&x->req, MHD_HTTP_UNAUTHORIZED, NULL);
}

static enum MHD_Result queue_answer(struct exchange *x)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(x->answer_bytes, x->answer, MHD_RESPMEM_MUST_FREE);
	char mac[HTTP_MAC_MAX];
	enum MHD_Result res;

	if (!r)
		return MHD_NO;
	if (x->is_authenticated) {
		struct http_server *s = x->listener->server;
		http_auth_reply_mac(s->secret, s->secret_bytes, x->status, x->nonce, x->answer, x->answer_bytes, mac);
		MHD_add_response_header(r, "X-Kedge-Auth", mac);
	}
	MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
	res = MHD_queue_response(x->conn, x->status, r);
	MHD_destroy_response(r); /* frees x->answer with its last reference */
	x->answer = NULL;
	x->state = EXCHANGE_QUEUED;
	return res;
}

/* ---- who asks ---- */

static bool has_group(int fd, gid_t gid)
{
	gid_t groups[256];
	socklen_t nr_bytes = sizeof groups;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &nr_bytes) < 0)
		return false;
	for (size_t i = 0; i < nr_bytes / sizeof groups[0]; i++)
		if (groups[i] == gid)
			return true;
	return false;
}

/* Of the accepted connection: the listening socket would tell the daemon's own credentials. */
static bool is_local_peer_allowed(struct exchange *x)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->conn, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred cred;
	socklen_t nr_bytes = sizeof cred;

	if (!info || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &cred, &nr_bytes) < 0)
		return false;
	x->req.is_local = true;
	x->req.uid = cred.uid;
	return cred.uid == 0 || cred.uid == geteuid() || cred.gid == getegid() || has_group(info->connect_fd, getegid());
}

/* The header "<nonce> <mac>" and the sender's name. */
static bool is_remote_peer_allowed(struct exchange *x)
{
	const char *auth = MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, "X-Kedge-Auth");
	const char *host = MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, "X-Kedge-Host");
	struct http_server *s = x->listener->server;
	char mac[HTTP_MAC_MAX];

	if (!auth || strlen(auth) != HTTP_NONCE_MAX - 1 + 1 + HTTP_MAC_MAX - 1 || auth[HTTP_NONCE_MAX - 1] != ' ')
		return false;
	memcpy(x->nonce, auth, HTTP_NONCE_MAX - 1);
	if (strspn(x->nonce, "0123456789abcdef") != HTTP_NONCE_MAX - 1)
		return false;
	http_auth_request_mac(s->secret, s->secret_bytes, x->req.method, x->uri, s->own_host, x->nonce, x->upload, x->upload_bytes, mac);
	if (!http_auth_is_equal(mac, auth + HTTP_NONCE_MAX))
		return false;
	if (!host || !kedge_name_is_valid(host))
		return false;
	strcpy(x->peer_host, host);
	x->req.peer_host = x->peer_host;
	x->is_authenticated = true;
	return true;
}

/* ---- routes ---- */

static bool match_pattern(struct exchange *x, const char *pattern)
{
	const char *path = x->path;
	char *out = x->params_text;
	unsigned n = 0;

	memset(x->req.param, 0, sizeof x->req.param);
	while (*pattern) {
		if (*pattern != ':') {
			if (*pattern++ != *path++)
				return false;
			continue;
		}
		size_t nr_bytes = strcspn(path, "/");
		if (nr_bytes == 0 || n == NR_PARAMS)
			return false;
		memcpy(out, path, nr_bytes);
		out[nr_bytes] = 0;
		x->req.param[n++] = out;
		out += nr_bytes + 1;
		path += nr_bytes;
		pattern += strcspn(pattern, "/");
	}
	return *path == 0;
}

static const struct route *find_route(struct exchange *x, bool *ret_is_known_path)
{
	struct http_server *s = x->listener->server;

	*ret_is_known_path = false;
	for (unsigned i = 0; i < s->nr_routes; i++) {
		const struct route *r = &s->routes[i];
		if (!(r->where & x->listener->where) || !match_pattern(x, r->pattern))
			continue;
		*ret_is_known_path = true;
		if (strcmp(r->method, x->req.method) == 0)
			return r;
	}
	return NULL;
}

static int parse_body(struct exchange *x)
{
	json_error_t je;
	const json_t *v;

	if (!x->upload_bytes)
		return 0;
	x->body = json_loadb(x->upload, x->upload_bytes, JSON_REJECT_DUPLICATES, &je);
	if (!x->body || !json_is_object(x->body))
		return -EINVAL;
	v = json_object_get(x->body, "v");
	if (v && (!json_is_integer(v) || json_integer_value(v) != 1))
		return KEDGE_E_PROTO;
	x->req.body = x->body;
	return 0;
}

/* The whole request is here: authenticate, parse, call the handler. */
static void dispatch(struct exchange *x)
{
	const struct route *r;
	bool is_known_path;
	int res;

	if (x->listener->where == HTTP_PEER && !is_remote_peer_allowed(x)) {
		refuse_unauthenticated(x);
		return;
	}
	r = find_route(x, &is_known_path);
	if (!r) {
		if (is_known_path)
			refuse(x, MHD_HTTP_METHOD_NOT_ALLOWED, -EINVAL, "this path does not take this method");
		else
			refuse(x, MHD_HTTP_NOT_FOUND, -ENOENT, "no such path");
		return;
	}
	res = parse_body(x);
	if (res == KEDGE_E_PROTO) {
		refuse(x, MHD_HTTP_BAD_REQUEST, res, "only version 1 is spoken here");
		return;
	}
	if (res) {
		refuse(x, MHD_HTTP_BAD_REQUEST, res, "the body is not one JSON object");
		return;
	}
	x->state = EXCHANGE_HANDLING;
	r->fn(r->arg, &x->req);
	if (x->state == EXCHANGE_HANDLING) {
		x->state = EXCHANGE_SUSPENDED;
		MHD_suspend_connection(x->conn);
	}
}

const char *http_query(const struct http_request *req, const char *key)
{
	const struct exchange *x = kedge_container_of(req, const struct exchange, req);

	return MHD_lookup_connection_value(x->conn, MHD_GET_ARGUMENT_KIND, key);
}

/* ---- MHD's callbacks ---- */

static void *on_uri(void *arg, const char *uri, struct MHD_Connection *conn)
{
	struct listener *l = arg;
	struct exchange *x = calloc(1, sizeof *x);

	if (!x)
		return NULL;
	x->listener = l;
	x->conn = conn;
	x->uri = strdup(uri);
	x->path = x->uri ? strndup(uri, strcspn(uri, "?")) : NULL;
	x->params_text = x->path ? malloc(strlen(x->path) + NR_PARAMS + 1) : NULL;
	if (!x->params_text) {
		free(x->path);
		free(x->uri);
		free(x);
		return NULL;
	}
	x->req.path = x->path;
	x->next = l->server->exchanges;
	if (x->next)
		x->next->prev = x;
	l->server->exchanges = x;
	return x;
}

static void on_completed(void *arg, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode code)
{
	struct exchange *x = *con_cls;

	if (!x)
		return;
	*con_cls = NULL;
	if (x->prev)
		x->prev->next = x->next;
	else
		x->listener->server->exchanges = x->next;
	if (x->next)
		x->next->prev = x->prev;
	json_decref(x->body);
	/* CHAP secrets pass through here. */
	if (x->upload)
		explicit_bzero(x->upload, x->upload_bytes);
	free(x->upload);
	free(x->answer);
	free(x->params_text);
	free(x->path);
	free(x->uri);
	free(x);
}

/* The header is here, the body is not: refuse early what can be refused. */
static enum MHD_Result begin(struct exchange *x)
{
	const char *length = MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);

	x->state = EXCHANGE_UPLOADING;
	if (x->listener->where == HTTP_LOCAL && !is_local_peer_allowed(x)) {
		refuse(x, MHD_HTTP_FORBIDDEN, -EACCES,
		       "this socket answers root, the daemon's own user and the members of its group");
		return queue_answer(x);
	}
	if (length && strtoull(length, NULL, 10) > BODY_BYTES_MAX) {
		refuse(x, MHD_HTTP_CONTENT_TOO_LARGE, -EFBIG, "a body has at most 1 MiB");
		return queue_answer(x);
	}
	return MHD_YES;
}

static enum MHD_Result upload(struct exchange *x, const char *data, size_t *nr_bytes)
{
	size_t n = *nr_bytes;
	char *grown;

	/* A chunked body tells no length in front; the connection ends here. */
	if (x->upload_bytes + n > BODY_BYTES_MAX)
		return MHD_NO;
	grown = realloc(x->upload, x->upload_bytes + n);
	if (!grown)
		return MHD_NO;
	memcpy(grown + x->upload_bytes, data, n);
	x->upload = grown;
	x->upload_bytes += n;
	*nr_bytes = 0;
	return MHD_YES;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *conn, const char *url, const char *method,
				  const char *version, const char *data, size_t *nr_bytes, void **con_cls)
{
	struct exchange *x = *con_cls;

	if (!x)
		return MHD_NO; /* there was no memory for it */
	if (x->state == EXCHANGE_NEW) {
		x->req.method = method;
		return begin(x);
	}
	if (*nr_bytes)
		return x->state == EXCHANGE_UPLOADING ? upload(x, data, nr_bytes) : MHD_NO;
	if (x->state == EXCHANGE_UPLOADING)
		dispatch(x);
	return x->state == EXCHANGE_ANSWERED ? queue_answer(x) : MHD_YES;
}

static void on_mhd_log(void *arg, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static void on_mhd_log(void *arg, const char *fmt, va_list ap)
{
	char line[256];

	vsnprintf(line, sizeof line, fmt, ap);
	line[strcspn(line, "\n")] = 0;
	kedge_debug("http: %s", line);
}

/* ---- the loop ---- */

static void listener_run(struct listener *l);

static void on_timer(uv_timer_t *t)
{
	listener_run(t->data);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
	listener_run(p->data);
}

static void listener_run(struct listener *l)
{
	MHD_UNSIGNED_LONG_LONG ms;

	MHD_run(l->daemon);
	if (MHD_get_timeout(l->daemon, &ms) == MHD_YES)
		uv_timer_start(&l->timer, on_timer, ms, 0);
	else
		uv_timer_stop(&l->timer);
}

static void listener_kick(struct listener *l)
{
	uv_timer_start(&l->timer, on_timer, 0, 0);
}

static int listen_on(struct http_server *s, int fd, enum http_where where, const char *unix_path, struct kedge_err *err)
{
	struct listener *l = calloc(1, sizeof *l);
	const union MHD_DaemonInfo *info;
	int res = -ENOMEM;

	if (!l || s->nr_listeners == NR_LISTENERS)
		goto fail;
	l->server = s;
	l->where = where;
	l->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, l,
				     MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
				     MHD_OPTION_URI_LOG_CALLBACK, on_uri, l, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
				     MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
				     (unsigned)PEER_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
				     (unsigned)IDLE_SECONDS, MHD_OPTION_END);
	if (!l->daemon)
		goto fail;
	info = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	kedge_assert(info);
	res = uv_poll_init(s->loop, &l->poll, info->epoll_fd);
	if (res)
		goto fail_daemon;
	uv_timer_init(s->loop, &l->timer);
	l->poll.data = l->timer.data = l;
	uv_poll_start(&l->poll, UV_READABLE, on_poll);
	listener_kick(l);
	if (unix_path)
		strcpy(l->unix_path, unix_path);
	s->listeners[s->nr_listeners++] = l;
	return 0;

fail_daemon:
	MHD_stop_daemon(l->daemon);
	free(l);
	return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "no HTTP server: %s", uv_strerror(res));
fail:
	kedge_close(fd);
	free(l);
	return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "the HTTP server does not start");
}

/* ---- listening sockets ---- */

/* A socket that a daemon left behind is removed, one that answers is not. */
static int remove_stale_socket(const struct sockaddr_un *sa, struct kedge_err *err)
{
	struct stat st;
	int fd, res = 0;

	if (lstat(sa->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return kedge_err_set(err, -EEXIST, KEDGE_SIDE_CONTROL, "%s exists and is no socket", sa->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_CONTROL, "no socket: %s", strerror(errno));
	if (connect(fd, (const struct sockaddr *)sa, sizeof *sa) == 0)
		res = kedge_err_set(err, -EADDRINUSE, KEDGE_SIDE_CONTROL, "%s is in use by another daemon", sa->sun_path);
	else
		unlink(sa->sun_path);
	kedge_close(fd);
	return res;
}

int http_server_listen_unix(struct http_server *s, const char *path, struct kedge_err *err)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd, res;

	if (strlen(path) >= sizeof sa.sun_path)
		return kedge_err_set(err, -ENAMETOOLONG, KEDGE_SIDE_CONTROL, "socket path too long (at most %zu bytes): %s",
				     sizeof sa.sun_path - 1, path);
	strcpy(sa.sun_path, path);
	res = remove_stale_socket(&sa, err);
	if (res)
		return res;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* fchmod before bind: the socket never exists with a wider mode. */
	if (fd < 0 || fchmod(fd, 0660) < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 || chmod(path, 0660) < 0 ||
	    listen(fd, 64) < 0) {
		res = -errno;
		kedge_close(fd);
		return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "cannot listen on %s: %s", path, strerror(-res));
	}
	return listen_on(s, fd, HTTP_LOCAL, path, err);
}

int http_server_listen_tcp(struct http_server *s, const char *address, struct kedge_err *err)
{
	struct sockaddr_storage sa;
	socklen_t sa_bytes;
	int fd, one = 1, res = address_parse(address, &sa, &sa_bytes, err);

	if (res)
		return res;
	if (!address_is_private(&sa))
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL,
				     "%s is not a private address; traffic between hosts is not encrypted, so kedged listens on "
				     "private addresses only",
				     address);
	fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
	    bind(fd, (struct sockaddr *)&sa, sa_bytes) < 0 || listen(fd, 128) < 0) {
		res = -errno;
		kedge_close(fd);
		return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "cannot listen on %s: %s", address, strerror(-res));
	}
	return listen_on(s, fd, HTTP_PEER, NULL, err);
}

/* ---- the server ---- */

int http_server_create(uv_loop_t *loop, const char *own_host, const void *secret, size_t secret_bytes, struct http_server **ret_s,
		       struct kedge_err *err)
{
	struct http_server *s = calloc(1, sizeof *s);

	if (s)
		s->secret = malloc(secret_bytes ? secret_bytes : 1);
	if (!s || !s->secret) {
		free(s);
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for the HTTP server");
	}
	memcpy(s->secret, secret, secret_bytes);
	s->secret_bytes = secret_bytes;
	s->own_host = own_host;
	s->loop = loop;
	*ret_s = s;
	return 0;
}

void http_server_route(struct http_server *s, const char *method, const char *pattern, unsigned where, http_handler_fn fn,
		       void *arg)
{
	kedge_assert(s->nr_routes < ROUTES_MAX && s->nr_listeners == 0);
	s->routes[s->nr_routes++] = (struct route){method, pattern, where, fn, arg};
}

static void on_handle_closed(uv_handle_t *h)
{
	struct listener *l = h->data;

	if (--l->nr_closing == 0)
		free(l);
}

void http_server_destroy(struct http_server *s)
{
	if (!s)
		return;
	/* MHD demands that nothing is suspended when it stops. */
	for (struct exchange *x = s->exchanges; x; x = x->next)
		if (x->state == EXCHANGE_SUSPENDED)
			http_respond(&x->req, MHD_HTTP_SERVICE_UNAVAILABLE, NULL);
	for (unsigned i = 0; i < s->nr_listeners; i++) {
		struct listener *l = s->listeners[i];
		uv_poll_stop(&l->poll);
		uv_timer_stop(&l->timer);
		MHD_run(l->daemon);
		MHD_stop_daemon(l->daemon);
		if (l->unix_path[0])
			unlink(l->unix_path);
		l->nr_closing = 2;
		uv_close((uv_handle_t *)&l->poll, on_handle_closed);
		uv_close((uv_handle_t *)&l->timer, on_handle_closed);
	}
	explicit_bzero(s->secret, s->secret_bytes);
	free(s->secret);
	free(s);
}
