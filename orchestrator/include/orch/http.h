/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_HTTP_H
#define ORCH_HTTP_H

/* HTTP/JSON in a libuv loop: server (libmicrohttpd by its epoll descriptor) and client (libcurl multi). Wire rules:
 * docs/api.md. Everything runs on the loop's thread. */

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>
#include <uv.h>

#include "kedge/err.h"

/* ---- server (http_server.c) ---- */
struct http_server;

struct http_request {
	const char *method;
	const char *path;    /* without the query */
	const char *param[2]; /* what the ":" parts of the route matched, in order, or NULL */
	const json_t *body;  /* parsed, an object; NULL when there was none */
	bool is_local;       /* came over the Unix socket */
	uid_t uid;           /* of a local peer */
	const char *peer_host; /* X-Kedge-Host of an authenticated peer; NULL when local */
};

enum http_where { HTTP_LOCAL = 1, HTTP_PEER = 2 };

/* The handler answers exactly once, now or later on the loop, with http_respond. The request lives until then. */
typedef void (*http_handler_fn)(void *arg, struct http_request *req);

/* own_host: the name that peers must mean (kept, not copied). secret: cluster secret, kept as a copy. */
int http_server_create(uv_loop_t *loop, const char *own_host, const void *secret, size_t secret_bytes, struct http_server **ret_s,
		       struct kedge_err *err);
/* pattern: "/v1/drains/:id/abort". where: a set of enum http_where. Before listen. */
void http_server_route(struct http_server *s, const char *method, const char *pattern, unsigned where,
		       http_handler_fn fn, void *arg);
int http_server_listen_unix(struct http_server *s, const char *path, struct kedge_err *err);
/* "ADDR:PORT"; refuses an address that is not private (kedge exit: refused). */
int http_server_listen_tcp(struct http_server *s, const char *address, struct kedge_err *err);
void http_server_destroy(struct http_server *s);

/* body: a reference that is taken over; may be NULL. */
void http_respond(struct http_request *req, unsigned status, json_t *body);
/* {"v":1,"error":{...}} with the status that fits the code; hint may be NULL. */
void http_respond_err(struct http_request *req, const struct kedge_err *err, const char *hint);
const char *http_query(const struct http_request *req, const char *key);

/* ---- client (http_client.c) ---- */
struct http_client;

/* res: 0 when an authenticated answer came (any status); KEDGE_E_UNREACHABLE, KEDGE_E_AUTH. body is borrowed. */
typedef void (*http_reply_fn)(void *arg, int res, unsigned status, const json_t *body, const struct kedge_err *err);

int http_client_create(uv_loop_t *loop, const char *own_host, const void *secret, size_t secret_bytes,
		       struct http_client **ret_c, struct kedge_err *err);
/* host: its name; address "ADDR:PORT"; body is borrowed and may be NULL. fn runs once, later. */
void http_call(struct http_client *c, const char *host, const char *address, const char *method, const char *path, const json_t *body,
	       unsigned timeout_ms, http_reply_fn fn, void *arg);
void http_client_destroy(struct http_client *c);

/* ---- authentication (http_auth.c); pure but for the nonce ---- */
#define HTTP_NONCE_MAX 33
#define HTTP_MAC_MAX 65
void http_auth_nonce(char out[HTTP_NONCE_MAX]);
/* to: the host that is asked: a request recorded on its way is no request to another host. */
void http_auth_request_mac(const void *secret, size_t secret_bytes, const char *method, const char *path_and_query,
			   const char *to, const char *nonce, const void *body, size_t body_bytes, char out[HTTP_MAC_MAX]);
void http_auth_reply_mac(const void *secret, size_t secret_bytes, unsigned status, const char *nonce, const void *body,
			 size_t body_bytes, char out[HTTP_MAC_MAX]);
/* Plain HMAC-SHA256 in hex, for receipts. */
void http_auth_mac(const void *secret, size_t secret_bytes, const void *data, size_t nr_bytes, char out[HTTP_MAC_MAX]);
/* Constant time. */
bool http_auth_is_equal(const char *a, const char *b);

#endif
