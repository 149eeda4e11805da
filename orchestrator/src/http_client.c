/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Authenticated JSON calls to other hosts' daemons: libcurl's multi interface in the libuv loop.
 *
 * Owns. The multi handle, its timer, a poll handle a socket, calls until they have ended.
 *
 * Locks. None: the loop's thread.
 */
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/log.h"
#include "orch/http.h"

#define ANSWER_BYTES_MAX (8u << 20)
#define CONNECT_MS 2000L
#define HOST_CONNECTIONS_MAX 128L /* below what a server takes from one address */

struct http_client {
	uv_loop_t *loop;
	CURLM *multi;
	uv_timer_t timer;
	char host_header[96];
	void *secret;
	size_t secret_bytes;
	struct call *calls;
	bool is_closing;
};

struct call {
	struct http_client *c;
	struct call *next, **prev;
	CURL *easy;
	struct curl_slist *headers;
	char nonce[HTTP_NONCE_MAX];
	char mac[HTTP_MAC_MAX]; /* of the answer, as its header has it */
	char address[80];
	char *body, *answer;
	size_t answer_bytes;
	http_reply_fn fn;
	void *arg;
};

struct socket_watch {
	uv_poll_t poll;
	struct http_client *c;
	curl_socket_t fd;
};

static void reap(struct http_client *c);

/* ---- curl's sockets and timer in the loop ---- */

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct socket_watch *w = poll->data;
	struct http_client *c = w->c;
	int flags = 0, nr_running;

	if (status < 0)
		flags = CURL_CSELECT_ERR;
	if (events & UV_READABLE)
		flags |= CURL_CSELECT_IN;
	if (events & UV_WRITABLE)
		flags |= CURL_CSELECT_OUT;
	curl_multi_socket_action(c->multi, w->fd, flags, &nr_running);
	reap(c);
}

static void on_watch_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	struct http_client *c = arg;
	struct socket_watch *w = socket_arg;
	int events = 0;

	if (what == CURL_POLL_REMOVE) {
		if (w) {
			curl_multi_assign(c->multi, fd, NULL);
			uv_poll_stop(&w->poll);
			uv_close((uv_handle_t *)&w->poll, on_watch_closed);
		}
		return 0;
	}
	if (!w) {
		w = calloc(1, sizeof *w);
		if (!w || uv_poll_init_socket(c->loop, &w->poll, fd)) {
			free(w);
			return -1;
		}
		w->c = c;
		w->fd = fd;
		w->poll.data = w;
		curl_multi_assign(c->multi, fd, w);
	}
	if (what & CURL_POLL_IN)
		events |= UV_READABLE;
	if (what & CURL_POLL_OUT)
		events |= UV_WRITABLE;
	return uv_poll_start(&w->poll, events, on_poll) ? -1 : 0;
}

static void on_timer(uv_timer_t *timer)
{
	struct http_client *c = timer->data;
	int nr_running;

	curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &nr_running);
	reap(c);
}

static int on_timeout_wanted(CURLM *multi, long ms, void *arg)
{
	struct http_client *c = arg;

	if (ms < 0)
		uv_timer_stop(&c->timer);
	else
		uv_timer_start(&c->timer, on_timer, (uint64_t)ms, 0); /* never inside this call: curl forbids it */
	return 0;
}

/* ---- answers ---- */

static size_t on_data(char *data, size_t size, size_t nr, void *arg)
{
	struct call *call = arg;
	size_t n = size * nr;

	if (call->answer_bytes + n > ANSWER_BYTES_MAX)
		return 0;
	char *text = realloc(call->answer, call->answer_bytes + n + 1);
	if (!text)
		return 0;
	memcpy(text + call->answer_bytes, data, n);
	call->answer = text;
	call->answer_bytes += n;
	text[call->answer_bytes] = 0;
	return n;
}

static size_t on_header(char *data, size_t size, size_t nr, void *arg)
{
	static const char name[] = "X-Kedge-Auth:";
	struct call *call = arg;
	size_t n = size * nr, skip = sizeof name - 1;

	if (n <= skip || strncasecmp(data, name, skip) != 0)
		return n;
	while (skip < n && data[skip] == ' ')
		skip++;
	if (n - skip >= HTTP_MAC_MAX - 1)
		snprintf(call->mac, sizeof call->mac, "%.*s", HTTP_MAC_MAX - 1, data + skip);
	return n;
}

static int check_mac(const struct call *call, unsigned status, struct kedge_err *err)
{
	const struct http_client *c = call->c;
	char mac[HTTP_MAC_MAX];

	if (status == 401)
		return kedge_err_set(err, KEDGE_E_AUTH, KEDGE_SIDE_CONTROL,
				     "the daemon at %s refused our request: has it the same cluster secret, and the name it has here?",
				     call->address);
	http_auth_reply_mac(c->secret, c->secret_bytes, status, call->nonce, call->answer ? call->answer : "", call->answer_bytes, mac);
	if (!http_auth_is_equal(mac, call->mac))
		return kedge_err_set(err, KEDGE_E_AUTH, KEDGE_SIDE_CONTROL, "the daemon at %s has not proven that it holds the cluster secret",
				     call->address);
	return 0;
}

static int judge(const struct call *call, CURLcode code, unsigned *ret_status, json_t **ret_body, struct kedge_err *err)
{
	json_error_t at;
	long status = 0;
	int res;

	if (code != CURLE_OK)
		return kedge_err_set(err, KEDGE_E_UNREACHABLE, KEDGE_SIDE_CONTROL, "no answer from %s: %s", call->address,
				     curl_easy_strerror(code));
	curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
	res = check_mac(call, (unsigned)status, err);
	if (res)
		return res;
	*ret_status = (unsigned)status;
	*ret_body = call->answer_bytes ? json_loadb(call->answer, call->answer_bytes, JSON_REJECT_DUPLICATES, &at) : json_object();
	if (!*ret_body)
		return kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "%s answered something that is not JSON: %s", call->address,
				     at.text);
	return 0;
}

static void call_destroy(struct call *call)
{
	if (call->easy) {
		curl_multi_remove_handle(call->c->multi, call->easy);
		curl_easy_cleanup(call->easy);
	}
	curl_slist_free_all(call->headers);
	*call->prev = call->next;
	if (call->next)
		call->next->prev = call->prev;
	if (call->body)
		explicit_bzero(call->body, strlen(call->body)); /* may hold CHAP secrets */
	free(call->body);
	free(call->answer);
	free(call);
}

static void end_call(struct call *call, CURLcode code)
{
	struct kedge_err err = {0};
	http_reply_fn fn = call->fn;
	void *arg = call->arg;
	unsigned status = 0;
	json_t *body = NULL;
	int res = judge(call, code, &status, &body, &err);

	call_destroy(call);
	fn(arg, res, status, body, res ? &err : NULL);
	json_decref(body);
}

static void reap(struct http_client *c)
{
	CURLMsg *msg;
	int nr_left;

	/* a reply's function may begin new calls; they end in a later turn */
	for (msg = curl_multi_info_read(c->multi, &nr_left); msg && !c->is_closing; msg = curl_multi_info_read(c->multi, &nr_left)) {
		struct call *call = NULL;
		if (msg->msg != CURLMSG_DONE)
			continue;
		CURLcode code = msg->data.result;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &call);
		end_call(call, code);
	}
}

/* ---- calls ---- */

static int add_headers(struct call *call, const char *host, const char *method, const char *path)
{
	struct http_client *c = call->c;
	char mac[HTTP_MAC_MAX], auth[HTTP_NONCE_MAX + HTTP_MAC_MAX + 32];
	const char *lines[] = {auth, c->host_header, "Content-Type: application/json", "Expect:"};

	http_auth_nonce(call->nonce);
	http_auth_request_mac(c->secret, c->secret_bytes, method, path, host, call->nonce, call->body ? call->body : "",
			      call->body ? strlen(call->body) : 0, mac);
	snprintf(auth, sizeof auth, "X-Kedge-Auth: %s %s", call->nonce, mac);
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
		struct curl_slist *more = curl_slist_append(call->headers, lines[i]);
		if (!more)
			return -ENOMEM;
		call->headers = more;
	}
	return 0;
}

static int set_up_call(struct call *call, const char *host, const char *method, const char *path, unsigned timeout_ms)
{
	char url[1024];

	call->easy = curl_easy_init();
	if (!call->easy || add_headers(call, host, method, path))
		return -ENOMEM;
	if (snprintf(url, sizeof url, "http://%s%s", call->address, path) >= (int)sizeof url)
		return -ENAMETOOLONG;
	curl_easy_setopt(call->easy, CURLOPT_URL, url);
	curl_easy_setopt(call->easy, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers);
	curl_easy_setopt(call->easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(call->easy, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(call->easy, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(call->easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(call->easy, CURLOPT_PROTOCOLS_STR, "http");
	curl_easy_setopt(call->easy, CURLOPT_CONNECTTIMEOUT_MS, timeout_ms < CONNECT_MS ? (long)timeout_ms : CONNECT_MS);
	curl_easy_setopt(call->easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
	curl_easy_setopt(call->easy, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(call->easy, CURLOPT_WRITEDATA, call);
	curl_easy_setopt(call->easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(call->easy, CURLOPT_HEADERDATA, call);
	curl_easy_setopt(call->easy, CURLOPT_PRIVATE, call);
	if (call->body)
		curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS, call->body);
	return curl_multi_add_handle(call->c->multi, call->easy) == CURLM_OK ? 0 : -ENOMEM;
}

void http_call(struct http_client *c, const char *host, const char *address, const char *method, const char *path, const json_t *body,
	       unsigned timeout_ms, http_reply_fn fn, void *arg)
{
	struct call *call = calloc(1, sizeof *call);

	/* Without memory for a call there is none to say so later either. */
	kedge_assert(call);
	call->c = c;
	call->next = c->calls;
	call->prev = &c->calls;
	if (c->calls)
		c->calls->prev = &call->next;
	c->calls = call;
	call->fn = fn;
	call->arg = arg;
	snprintf(call->address, sizeof call->address, "%s", address);
	call->body = body ? json_dumps(body, JSON_COMPACT) : NULL;
	kedge_assert(!body || call->body);
	int res = set_up_call(call, host, method, path, timeout_ms);
	kedge_assert(res == 0);
}

int http_client_create(uv_loop_t *loop, const char *own_host, const void *secret, size_t secret_bytes,
		       struct http_client **ret_c, struct kedge_err *err)
{
	struct http_client *c = calloc(1, sizeof *c);

	if (!c || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
		free(c);
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no HTTP client");
	}
	c->loop = loop;
	c->multi = curl_multi_init();
	c->secret = malloc(secret_bytes);
	if (!c->multi || !c->secret) {
		if (c->multi)
			curl_multi_cleanup(c->multi);
		free(c->secret);
		free(c);
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for the HTTP client");
	}
	memcpy(c->secret, secret, secret_bytes);
	c->secret_bytes = secret_bytes;
	snprintf(c->host_header, sizeof c->host_header, "X-Kedge-Host: %s", own_host);
	curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
	curl_multi_setopt(c->multi, CURLMOPT_MAX_HOST_CONNECTIONS, HOST_CONNECTIONS_MAX);
	curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timeout_wanted);
	curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
	uv_timer_init(loop, &c->timer);
	c->timer.data = c;
	*ret_c = c;
	return 0;
}

static void on_client_closed(uv_handle_t *handle)
{
	free(handle->data);
}

void http_client_destroy(struct http_client *c)
{
	if (!c)
		return;
	c->is_closing = true;
	while (c->calls)
		call_destroy(c->calls);
	curl_multi_cleanup(c->multi);
	explicit_bzero(c->secret, c->secret_bytes);
	free(c->secret);
	uv_close((uv_handle_t *)&c->timer, on_client_closed);
}
