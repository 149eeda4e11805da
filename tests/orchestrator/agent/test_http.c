/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The HTTP server against a blocking client: routes, answers now and later, who is let in, what is refused. The
 * server runs in a child process, so that a request that kills it is seen as such.
 */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <grp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kedge/file.h"
#include "orch/http.h"

#define SECRET "0123456789abcdef0123456789abcdef"

static char dir[64], socket_path[128], tcp_address[64];
static pid_t server_pid;

/* ---- the server's side ---- */

static void on_echo(void *arg, struct http_request *req)
{
	http_respond(req, 200,
		     json_pack("{s:i, s:s?, s:s?, s:s?, s:b, s:O?}", "v", 1, "a", req->param[0], "b", req->param[1], "q",
			       http_query(req, "q"), "is_local", req->is_local, "body", req->body));
}

struct late {
	uv_timer_t timer;
	struct http_request *req;
};

static void on_late_timer(uv_timer_t *t)
{
	struct late *late = t->data;

	http_respond(late->req, 202, json_pack("{s:s}", "when", "later"));
	uv_close((uv_handle_t *)t, (uv_close_cb)free);
}

static void on_late(void *arg, struct http_request *req)
{
	struct late *late = calloc(1, sizeof *late);

	uv_timer_init(arg, &late->timer);
	late->timer.data = late;
	late->req = req;
	uv_timer_start(&late->timer, on_late_timer, 150, 0);
}

static void on_refuse(void *arg, struct http_request *req)
{
	struct kedge_err err = {0};

	kedge_err_set(&err, KEDGE_E_FENCED, KEDGE_SIDE_CONTROL, "volume v is fenced");
	http_respond_err(req, &err, "kedge why v");
}

static void on_never(void *arg, struct http_request *req)
{
	/* answered by http_server_destroy */
}

static void on_term(uv_signal_t *s, int signum)
{
	uv_stop(s->loop);
}

static int serve(int ready_fd)
{
	struct kedge_err err = {0};
	struct http_server *s;
	uv_loop_t loop;
	uv_signal_t sig;

	signal(SIGPIPE, SIG_IGN);
	uv_loop_init(&loop);
	uv_signal_init(&loop, &sig);
	uv_signal_start(&sig, on_term, SIGTERM);
	if (http_server_create(&loop, "here", SECRET, strlen(SECRET), &s, &err))
		return 1;
	http_server_route(s, "POST", "/v1/things/:a/sub/:b", HTTP_LOCAL | HTTP_PEER, on_echo, NULL);
	http_server_route(s, "GET", "/v1/echo", HTTP_LOCAL | HTTP_PEER, on_echo, NULL);
	http_server_route(s, "POST", "/v1/echo", HTTP_LOCAL | HTTP_PEER, on_echo, NULL);
	http_server_route(s, "GET", "/v1/local", HTTP_LOCAL, on_echo, NULL);
	http_server_route(s, "GET", "/v1/late", HTTP_LOCAL | HTTP_PEER, on_late, &loop);
	http_server_route(s, "GET", "/v1/refuse", HTTP_LOCAL | HTTP_PEER, on_refuse, NULL);
	http_server_route(s, "GET", "/v1/never", HTTP_LOCAL, on_never, NULL);
	if (http_server_listen_unix(s, socket_path, &err) || http_server_listen_tcp(s, tcp_address, &err)) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	kedge_assert(write(ready_fd, "x", 1) == 1);
	uv_run(&loop, UV_RUN_DEFAULT);
	http_server_destroy(s);
	uv_close((uv_handle_t *)&sig, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	return uv_loop_close(&loop) ? 2 : 0;
}

static int start_server(void **state)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof sa;
	int fds[2], fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char c;

	/* A port that was free just now. */
	if (bind(fd, (struct sockaddr *)&sa, sizeof sa) || getsockname(fd, (struct sockaddr *)&sa, &n))
		return -1;
	close(fd);
	strcpy(dir, "/tmp/kedge-http-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(socket_path, sizeof socket_path, "%s/api.sock", dir);
	snprintf(tcp_address, sizeof tcp_address, "127.0.0.1:%u", ntohs(sa.sin_port));
	if (chmod(dir, 0755) || pipe(fds))
		return -1;
	server_pid = fork();
	if (server_pid == 0)
		exit(serve(fds[1]));
	close(fds[1]);
	n = (socklen_t)(read(fds[0], &c, 1) != 1);
	close(fds[0]);
	return (int)n;
}

static int stop_server(void **state)
{
	int status;

	kill(server_pid, SIGTERM);
	waitpid(server_pid, &status, 0);
	rmdir(dir); /* the socket must be gone */
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 && access(dir, F_OK) ? 0 : -1;
}

/* ---- the client's side ---- */

struct reply {
	char body[8192];
	size_t nr_bytes;
	char auth[256];
	long status;
};

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct reply *r = arg;

	if (r->nr_bytes + size * n >= sizeof r->body)
		return 0;
	memcpy(r->body + r->nr_bytes, data, size * n);
	r->nr_bytes += size * n;
	r->body[r->nr_bytes] = 0;
	return size * n;
}

static size_t on_header(char *data, size_t size, size_t n, void *arg)
{
	struct reply *r = arg;

	if (size * n > 14 && strncasecmp(data, "X-Kedge-Auth: ", 14) == 0) {
		size_t m = size * n - 14;
		memcpy(r->auth, data + 14, m < sizeof r->auth ? m : sizeof r->auth - 1);
		r->auth[strcspn(r->auth, "\r\n")] = 0;
	}
	return size * n;
}

struct call {
	const char *method, *path, *body;
	size_t body_bytes; /* 0: strlen */
	bool is_tcp;
	const char *auth; /* header value; NULL: none */
	const char *host;
	bool is_chunked;
};

static struct reply call(const struct call *c)
{
	struct reply r = {0};
	struct curl_slist *headers = NULL;
	char url[256], line[256];
	CURL *h = curl_easy_init();

	snprintf(url, sizeof url, "http://%s%s", c->is_tcp ? tcp_address : "local", c->path);
	curl_easy_setopt(h, CURLOPT_URL, url);
	if (!c->is_tcp)
		curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, socket_path);
	curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, c->method);
	if (c->body) {
		curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE,
				 (curl_off_t)(c->body_bytes ? c->body_bytes : strlen(c->body)));
		curl_easy_setopt(h, CURLOPT_POSTFIELDS, c->body);
	}
	headers = curl_slist_append(headers, "Expect:");
	if (c->is_chunked)
		headers = curl_slist_append(headers, "Transfer-Encoding: chunked");
	if (c->auth) {
		snprintf(line, sizeof line, "X-Kedge-Auth: %s", c->auth);
		headers = curl_slist_append(headers, line);
	}
	if (c->host) {
		snprintf(line, sizeof line, "X-Kedge-Host: %s", c->host);
		headers = curl_slist_append(headers, line);
	}
	curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(h, CURLOPT_WRITEDATA, &r);
	curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(h, CURLOPT_HEADERDATA, &r);
	curl_easy_setopt(h, CURLOPT_TIMEOUT, 10L);
	curl_easy_setopt(h, CURLOPT_PROXY, "");
	if (curl_easy_perform(h) == CURLE_OK)
		curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &r.status);
	else
		r.status = -1;
	curl_slist_free_all(headers);
	curl_easy_cleanup(h);
	return r;
}

static struct reply get_local(const char *path)
{
	return call(&(struct call){.method = "GET", .path = path});
}

static const char *recipient = "here";

static void auth_of(const char *secret, const char *method, const char *path, const char *nonce, const char *body,
		    char out[128])
{
	char mac[HTTP_MAC_MAX];

	http_auth_request_mac(secret, strlen(secret), method, path, recipient, nonce, body, body ? strlen(body) : 0, mac);
	snprintf(out, 128, "%s %s", nonce, mac);
}

/* ---- tests ---- */

static void test_auth_macs_are_those_of_the_wire_contract(void **state)
{
	char mac[HTTP_MAC_MAX], a[HTTP_NONCE_MAX], b[HTTP_NONCE_MAX];

	/* RFC 4231, test case 2 */
	http_auth_mac("Jefe", 4, "what do ya want for nothing?", 28, mac);
	assert_string_equal(mac, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
	/* The composition, against the plain mac over the bytes that docs/api.md spells out. */
	char want[HTTP_MAC_MAX];
	http_auth_mac("k", 1, "req\nPOST\n/v1/x?y=1\nhere\nnn\n{}", 29, want);
	http_auth_request_mac("k", 1, "POST", "/v1/x?y=1", "here", "nn", "{}", 2, mac);
	assert_string_equal(mac, want);
	http_auth_mac("k", 1, "rep\n200\nnn\n{}", 13, want);
	http_auth_reply_mac("k", 1, 200, "nn", "{}", 2, mac);
	assert_string_equal(mac, want);
	assert_true(http_auth_is_equal("abc", "abc"));
	assert_false(http_auth_is_equal("abc", "abd"));
	assert_false(http_auth_is_equal("abc", "ab"));
	http_auth_nonce(a);
	http_auth_nonce(b);
	assert_int_equal(strlen(a), 32);
	assert_string_not_equal(a, b);
}

static void test_http_routes_give_parameters_query_and_body(void **state)
{
	struct reply r = call(&(struct call){.method = "POST", .path = "/v1/things/one/sub/two.b?q=7", .body = "{\"v\":1,\"x\":[1]}"});
	json_t *j = json_loads(r.body, 0, NULL);

	assert_int_equal(r.status, 200);
	assert_string_equal(json_string_value(json_object_get(j, "a")), "one");
	assert_string_equal(json_string_value(json_object_get(j, "b")), "two.b");
	assert_string_equal(json_string_value(json_object_get(j, "q")), "7");
	assert_true(json_is_true(json_object_get(j, "is_local")));
	assert_int_equal(json_array_size(json_object_get(json_object_get(j, "body"), "x")), 1);
	json_decref(j);
	assert_int_equal(get_local("/v1/things/one/sub/two/three").status, 404);
	assert_int_equal(get_local("/v1/thing").status, 404);
	assert_int_equal(get_local("/v1/things/one/sub/two").status, 405);
}

static void test_http_answers_later_without_holding_others(void **state)
{
	struct reply r = get_local("/v1/late");

	assert_int_equal(r.status, 202);
	assert_string_equal(r.body, "{\"when\":\"later\"}");
}

static void test_http_errors_carry_code_class_and_hint(void **state)
{
	struct reply r = get_local("/v1/refuse");

	assert_int_equal(r.status, 412);
	assert_string_equal(r.body, "{\"v\":1,\"error\":{\"code\":\"FENCED\",\"class\":\"operator\",\"message\":\"volume v is "
				    "fenced\",\"hint\":\"kedge why v\"}}");
}

static void test_http_refuses_bodies_that_are_no_object_of_version_1(void **state)
{
	static const char *const bad[] = {"[1]", "{", "{\"a\":1,\"a\":2}", "{\"v\":2}", "{\"v\":\"1\"}", "nonsense", "{}{}"};

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct reply r = call(&(struct call){.method = "POST", .path = "/v1/echo", .body = bad[i]});
		if (r.status != 400)
			fail_msg("%s: %ld", bad[i], r.status);
	}
}

static void test_http_refuses_a_body_above_1_mib(void **state)
{
	size_t n = 2 * 1024 * 1024;
	char *big = malloc(n);

	memset(big, ' ', n);
	struct reply r = call(&(struct call){.method = "POST", .path = "/v1/echo", .body = big, .body_bytes = n});
	assert_true(r.status == 413 || r.status == -1);
	/* chunked: no length in front */
	r = call(&(struct call){.method = "POST", .path = "/v1/echo", .body = big, .body_bytes = n, .is_chunked = true});
	assert_true(r.status == 413 || r.status == -1);
	free(big);
	assert_int_equal(get_local("/v1/echo").status, 200);
}

static void test_http_peer_needs_a_right_mac_and_gets_one(void **state)
{
	const char *nonce = "00112233445566778899aabbccddeeff", *body = "{\"v\":1}";
	char auth[128], mac[HTTP_MAC_MAX];
	struct call c = {.method = "POST", .path = "/v1/echo?q=1", .body = body, .is_tcp = true, .auth = auth, .host = "b"};
	struct reply r;

	auth_of(SECRET, "POST", "/v1/echo?q=1", nonce, body, auth);
	r = call(&c);
	assert_int_equal(r.status, 200);
	http_auth_reply_mac(SECRET, strlen(SECRET), 200, nonce, r.body, r.nr_bytes, mac);
	assert_string_equal(r.auth, mac);

	/* another secret, another method, another query, another body, nothing, noise, no sender, a wrong sender */
	auth_of("another secret of 32 bytes......", "POST", "/v1/echo?q=1", nonce, body, auth);
	r = call(&c);
	assert_int_equal(r.status, 401);
	assert_int_equal(r.nr_bytes, 0);
	auth_of(SECRET, "GET", "/v1/echo?q=1", nonce, body, auth);
	assert_int_equal(call(&c).status, 401);
	auth_of(SECRET, "POST", "/v1/echo?q=2", nonce, body, auth);
	assert_int_equal(call(&c).status, 401);
	auth_of(SECRET, "POST", "/v1/echo?q=1", nonce, "{\"v\":2}", auth);
	assert_int_equal(call(&c).status, 401);
	/* what was meant for another host is nothing here: a recorded request cannot be carried elsewhere */
	recipient = "elsewhere";
	auth_of(SECRET, "POST", "/v1/echo?q=1", nonce, body, auth);
	recipient = "here";
	assert_int_equal(call(&c).status, 401);
	c.auth = NULL;
	assert_int_equal(call(&c).status, 401);
	c.auth = "x";
	assert_int_equal(call(&c).status, 401);
	c.auth = auth;
	auth_of(SECRET, "POST", "/v1/echo?q=1", nonce, body, auth);
	auth[32] = '-';
	assert_int_equal(call(&c).status, 401);
	auth[32] = ' ';
	auth[0] = 'G';
	assert_int_equal(call(&c).status, 401);
	auth_of(SECRET, "POST", "/v1/echo?q=1", nonce, body, auth);
	c.host = NULL;
	assert_int_equal(call(&c).status, 401);
	c.host = "../x";
	assert_int_equal(call(&c).status, 401);
	c.host = "b";
	assert_int_equal(call(&c).status, 200);
}

static void test_http_wrong_mac_is_answered_before_the_body_is_parsed(void **state)
{
	struct reply r = call(&(struct call){.method = "POST", .path = "/v1/echo", .body = "{bad", .is_tcp = true, .auth = "x"});

	assert_int_equal(r.status, 401);
}

static void test_http_local_routes_are_not_there_for_peers(void **state)
{
	char auth[128];

	auth_of(SECRET, "GET", "/v1/local", "00112233445566778899aabbccddeeff", NULL, auth);
	struct reply r = call(&(struct call){.method = "GET", .path = "/v1/local", .is_tcp = true, .auth = auth, .host = "b"});
	assert_int_equal(r.status, 404);
	assert_int_equal(get_local("/v1/local").status, 200);
}

static void test_http_socket_refuses_another_user(void **state)
{
	int status;

	if (geteuid() != 0)
		fail_msg("needs root: it asks as another user");
	/* Wide open, so that only the credentials of the connection can refuse. */
	assert_int_equal(chmod(socket_path, 0666), 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (setgroups(0, NULL) || setgid(65534) || setuid(65534))
			_exit(99);
		_exit(get_local("/v1/echo").status == 403 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_int_equal(chmod(socket_path, 0660), 0);
}

static void test_http_server_refuses_public_addresses_and_busy_sockets(void **state)
{
	static const char *const bad[] = {"0.0.0.0:7420", "8.8.8.8:7420", "[::]:7420", "host:7420", "127.0.0.1", "127.0.0.1:0"};
	struct http_server *s;
	uv_loop_t loop;

	uv_loop_init(&loop);
	assert_int_equal(http_server_create(&loop, "here", SECRET, strlen(SECRET), &s, NULL), 0);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct kedge_err err = {0};
		int res = http_server_listen_tcp(s, bad[i], &err);
		if (res >= 0)
			fail_msg("%s was accepted", bad[i]);
		assert_true(err.msg[0]);
		if (i < 3)
			assert_int_equal(kedge_exit_of(res), KEDGE_EXIT_REFUSED);
	}
	assert_int_equal(http_server_listen_unix(s, socket_path, NULL), -EADDRINUSE);
	http_server_destroy(s);
	uv_run(&loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&loop), 0);
}

static void test_http_server_stops_with_requests_in_hand(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(get_local("/v1/never").status == 503 ? 0 : 1);
	/* Answered only when the server stops; the order of the two is not important to the claim. */
	for (int i = 0; i < 50; i++)
		assert_int_equal(get_local("/v1/echo").status, 200);
	assert_int_equal(stop_server(NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(start_server(NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_auth_macs_are_those_of_the_wire_contract),
		cmocka_unit_test(test_http_routes_give_parameters_query_and_body),
		cmocka_unit_test(test_http_answers_later_without_holding_others),
		cmocka_unit_test(test_http_errors_carry_code_class_and_hint),
		cmocka_unit_test(test_http_refuses_bodies_that_are_no_object_of_version_1),
		cmocka_unit_test(test_http_refuses_a_body_above_1_mib),
		cmocka_unit_test(test_http_peer_needs_a_right_mac_and_gets_one),
		cmocka_unit_test(test_http_wrong_mac_is_answered_before_the_body_is_parsed),
		cmocka_unit_test(test_http_local_routes_are_not_there_for_peers),
		cmocka_unit_test(test_http_socket_refuses_another_user),
		cmocka_unit_test(test_http_server_refuses_public_addresses_and_busy_sockets),
		cmocka_unit_test(test_http_server_stops_with_requests_in_hand),
	};

	curl_global_init(CURL_GLOBAL_ALL);
	return cmocka_run_group_tests(tests, start_server, stop_server);
}
