/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A daemon for the tests of the kedge command: the real HTTP server on a Unix socket, answers from files. The answer to
 * the n-th "GET /v1/drains/d1" is DIR/GET_v1_drains_d1.n, or that without ".n"; its first line is the status, the rest JSON.
 * Each request is a line in DIR/requests.
 *
 * Owns. The socket DIR/sock.
 *
 * Locks. None: one thread.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "orch/http.h"

static const char *dir;
static struct {
	char key[256];
	unsigned nr;
} seen[64];

static unsigned count(const char *key)
{
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(seen); i++) {
		if (seen[i].nr && strcmp(seen[i].key, key) != 0)
			continue;
		snprintf(seen[i].key, sizeof seen[i].key, "%s", key);
		return ++seen[i].nr;
	}
	abort();
}

static void log_request(const struct http_request *req)
{
	static const char *const keys[] = {"since", "drain"};
	char path[512];
	char *body = req->body ? json_dumps(req->body, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	snprintf(path, sizeof path, "%s/requests", dir);
	FILE *f = fopen(path, "a");
	if (!f)
		abort();
	fprintf(f, "%s %s", req->method, req->path);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(keys); i++)
		if (http_query(req, keys[i]))
			fprintf(f, " %s=%s", keys[i], http_query(req, keys[i]));
	fprintf(f, " %s\n", body ? body : "");
	fclose(f);
	free(body);
}

static void on_request(void *arg, struct http_request *req)
{
	char key[256], path[640], *text;
	size_t n;
	json_error_t at;

	log_request(req);
	snprintf(key, sizeof key, "%s%s", req->method, req->path);
	for (char *p = key; *p; p++)
		if (*p == '/')
			*p = '_';
	snprintf(path, sizeof path, "%s/%s.%u", dir, key, count(key));
	if (kedge_file_read(path, 1 << 20, &text, &n, NULL)) {
		snprintf(path, sizeof path, "%s/%s", dir, key);
		if (kedge_file_read(path, 1 << 20, &text, &n, NULL)) {
			http_respond(req, 404, json_pack("{s:i, s:{s:s, s:s, s:s}}", "v", 1, "error", "code", "ENOENT", "class", "operator",
							 "message", "there is no such thing"));
			return;
		}
	}
	char *newline = strchr(text, '\n');
	http_respond(req, (unsigned)atoi(text), newline ? json_loads(newline, 0, &at) : NULL);
	free(text);
}

static void on_term(uv_signal_t *handle, int signum)
{
	uv_stop(handle->loop);
}

int main(int argc, char **argv)
{
	static const char *const patterns[] = {"/v1/:kind", "/v1/:kind/:id", "/v1/:kind/:id/abort", "/v1/:kind/:id/cordon",
					       "/v1/:kind/:id/uncordon", "/v1/:kind/:id/start", "/v1/:kind/:id/stop"};
	struct http_server *server;
	struct kedge_err err = {0};
	uv_loop_t loop;
	uv_signal_t term;
	char path[512];

	if (argc != 2)
		return 2;
	dir = argv[1];
	kedge_log_init("fake", KEDGE_LOG_INFO);
	uv_loop_init(&loop);
	uv_signal_init(&loop, &term);
	uv_signal_start(&term, on_term, SIGTERM);
	snprintf(path, sizeof path, "%s/sock", dir);
	int res = http_server_create(&loop, "fake", "0123456789abcdef0123456789abcdef", 32, &server, &err);
	for (size_t i = 0; !res && i < KEDGE_ARRAY_LEN(patterns); i++) {
		http_server_route(server, "GET", patterns[i], HTTP_LOCAL, on_request, NULL);
		http_server_route(server, "POST", patterns[i], HTTP_LOCAL, on_request, NULL);
	}
	if (!res)
		res = http_server_listen_unix(server, path, &err);
	if (res) {
		kedge_error("%s", err.msg);
		return 1;
	}
	uv_run(&loop, UV_RUN_DEFAULT);
	http_server_destroy(server);
	uv_close((uv_handle_t *)&term, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	uv_loop_close(&loop);
	return 0;
}
