/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Calls from the kedge command to the daemon: HTTP over its Unix socket, blocking, with a deadline, interruptible by
 * Ctrl-C at once. Errors of the daemon are turned into a line, the next command and an exit code here.
 *
 * Owns. One curl handle pair for the life of the process; the pipe that the signal handler writes to.
 *
 * Locks. None: one thread; the handler does nothing but one write(2).
 */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "cli_view.h"

#define ANSWER_BYTES_MAX (64u << 20)
#define CALL_TIMEOUT_MS 60000

struct cli_http {
	CURLM *multi;
	CURL *easy;
	const char *socket;
};

struct answer {
	char *text;
	size_t nr_bytes;
};

static int interrupt_pipe[2] = {-1, -1};
static volatile sig_atomic_t is_interrupted;

static void on_interrupt(int signum)
{
	int saved = errno;

	is_interrupted = 1;
	if (write(interrupt_pipe[1], "", 1) < 0)
		errno = saved; /* a full pipe wakes just as well */
	errno = saved;
}

void cli_interrupt_init(void)
{
	struct sigaction sa = {.sa_handler = on_interrupt};

	if (interrupt_pipe[0] >= 0 || pipe2(interrupt_pipe, O_CLOEXEC | O_NONBLOCK))
		return;
	sigaction(SIGINT, &sa, NULL);
}

bool cli_is_interrupted(void)
{
	return is_interrupted;
}

void cli_sleep(unsigned ms)
{
	struct pollfd p = {.fd = interrupt_pipe[0], .events = POLLIN};

	poll(&p, 1, (int)ms);
}

struct cli_http *cli_http_create(const char *socket)
{
	struct cli_http *h = calloc(1, sizeof *h);

	if (!h)
		return NULL;
	h->socket = socket;
	h->multi = curl_multi_init();
	h->easy = curl_easy_init();
	if (h->multi && h->easy)
		return h;
	cli_http_destroy(h);
	return NULL;
}

void cli_http_destroy(struct cli_http *h)
{
	if (!h)
		return;
	if (h->easy)
		curl_easy_cleanup(h->easy);
	if (h->multi)
		curl_multi_cleanup(h->multi);
	free(h);
}

static size_t on_data(char *data, size_t size, size_t nr, void *arg)
{
	struct answer *a = arg;
	size_t n = size * nr;

	if (a->nr_bytes + n > ANSWER_BYTES_MAX)
		return 0;
	char *text = realloc(a->text, a->nr_bytes + n + 1);
	if (!text)
		return 0;
	memcpy(text + a->nr_bytes, data, n);
	a->text = text;
	a->nr_bytes += n;
	text[a->nr_bytes] = 0;
	return n;
}

/* 0, -EINTR, or -EIO with *ret_code set. */
static int transfer(struct cli_http *h, CURLcode *ret_code)
{
	struct curl_waitfd extra = {.fd = interrupt_pipe[0], .events = CURL_WAIT_POLLIN};
	int nr_running = 1, nr_left;
	CURLMsg *msg;

	*ret_code = CURLE_OK;
	while (curl_multi_perform(h->multi, &nr_running) == CURLM_OK && nr_running) {
		if (is_interrupted)
			return -EINTR;
		curl_multi_poll(h->multi, &extra, interrupt_pipe[0] >= 0 ? 1 : 0, 1000, NULL);
	}
	while ((msg = curl_multi_info_read(h->multi, &nr_left)))
		if (msg->msg == CURLMSG_DONE)
			*ret_code = msg->data.result;
	return *ret_code == CURLE_OK ? 0 : -EIO;
}

static int unreachable(const struct cli_http *h, CURLcode code, struct kedge_err *err)
{
	long os = 0;

	curl_easy_getinfo(h->easy, CURLINFO_OS_ERRNO, &os);
	if (code == CURLE_OPERATION_TIMEDOUT)
		return kedge_err_set(err, KEDGE_E_UNREACHABLE, KEDGE_SIDE_CONTROL, "no answer from the daemon at %s in time",
				     h->socket);
	return kedge_err_set(err, KEDGE_E_UNREACHABLE, KEDGE_SIDE_CONTROL, "no daemon answers at %s: %s", h->socket,
			     os ? strerror((int)os) : curl_easy_strerror(code));
}

int cli_http_call(struct cli_http *h, const char *method, const char *path, json_t *body, unsigned timeout_ms,
		  unsigned *ret_status, json_t **ret_body, struct kedge_err *err)
{
	char url[1024];
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	struct curl_slist *headers = NULL;
	struct answer answer = {0};
	CURLcode code;
	long status = 0;
	int res;

	json_decref(body);
	if (snprintf(url, sizeof url, "http://kedged%s", path) >= (int)sizeof url) {
		free(text);
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "the request is too long");
	}
	curl_easy_reset(h->easy);
	curl_easy_setopt(h->easy, CURLOPT_URL, url);
	curl_easy_setopt(h->easy, CURLOPT_UNIX_SOCKET_PATH, h->socket);
	curl_easy_setopt(h->easy, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(h->easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(h->easy, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(h->easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
	curl_easy_setopt(h->easy, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(h->easy, CURLOPT_WRITEDATA, &answer);
	if (text) {
		headers = curl_slist_append(NULL, "Content-Type: application/json");
		/* No waiting for "100 Continue" on a local socket. */
		headers = curl_slist_append(headers, "Expect:");
		curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, headers);
		curl_easy_setopt(h->easy, CURLOPT_POSTFIELDS, text);
	}
	curl_multi_add_handle(h->multi, h->easy);
	res = transfer(h, &code);
	if (res == -EIO)
		res = unreachable(h, code, err);
	else if (res)
		kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "interrupted");
	curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_multi_remove_handle(h->multi, h->easy);
	curl_slist_free_all(headers);
	free(text);
	if (!res) {
		json_error_t at;
		json_t *json = answer.text ? json_loadb(answer.text, answer.nr_bytes, JSON_REJECT_DUPLICATES, &at) : NULL;
		if (!json && answer.nr_bytes == 0)
			json = json_object();
		if (!json) {
			res = kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL,
					    "the daemon at %s answered something that is not JSON (status %ld)", h->socket,
					    status);
		} else {
			*ret_status = (unsigned)status;
			*ret_body = json;
		}
	}
	free(answer.text);
	return res;
}

int cli_no_answer(const struct cli *c, int res, const struct kedge_err *err)
{
	if (res == -EINTR)
		return cli_error(KEDGE_EXIT_DETACHED, "kedge status", "interrupted; a request that was sent may have been taken");
	if (res == KEDGE_E_UNREACHABLE)
		return cli_error(KEDGE_EXIT_UNREACHABLE, "systemctl status kedged (or say where: --socket PATH, KEDGE_SOCKET)",
				 "%s", err->msg);
	return cli_error(kedge_exit_of(res), "kedge --version", "%s", err->msg);
}

static int exit_of_answer(unsigned status, const char *name)
{
	int code = name ? kedge_err_by_name(name) : -EIO;
	int from_code = kedge_exit_of(code);

	if (status == 404 || code == -ENOENT)
		return KEDGE_EXIT_NOT_FOUND;
	if (from_code != KEDGE_EXIT_FAILED)
		return from_code;
	switch (status) {
	case 400:
		return KEDGE_EXIT_USAGE;
	case 401:
	case 403:
	case 409:
	case 412:
		return KEDGE_EXIT_REFUSED;
	case 503:
		return KEDGE_EXIT_UNREACHABLE;
	default:
		return KEDGE_EXIT_FAILED;
	}
}

int cli_answer_error(unsigned status, const json_t *body)
{
	const json_t *error = json_object_get(body, "error");
	const char *hint = view_text(error, "hint", "");
	const char *name = json_string_value(json_object_get(error, "code"));
	char text[64];

	snprintf(text, sizeof text, "the daemon answered with status %u", status);
	return cli_error(exit_of_answer(status, name), hint[0] ? hint : "kedge status", "%s", view_text(error, "message", text));
}

static int call_ok(struct cli *c, const char *method, const char *path, json_t *body, json_t **ret_body)
{
	struct kedge_err err = {0};
	unsigned status;
	json_t *answer;
	int res = cli_http_call(c->http, method, path, body, CALL_TIMEOUT_MS, &status, &answer, &err);

	if (res)
		return cli_no_answer(c, res, &err);
	if (status / 100 != 2) {
		res = cli_answer_error(status, answer);
		json_decref(answer);
		return res;
	}
	*ret_body = answer;
	return 0;
}

int cli_get(struct cli *c, const char *path, json_t **ret_body)
{
	return call_ok(c, "GET", path, NULL, ret_body);
}

int cli_post(struct cli *c, const char *path, json_t *body, json_t **ret_body)
{
	return call_ok(c, "POST", path, body ? body : json_object(), ret_body);
}

int cli_print_json(const json_t *body, bool is_pretty)
{
	if (json_dumpf(body, stdout, is_pretty ? JSON_INDENT(2) : JSON_COMPACT))
		return KEDGE_EXIT_FAILED;
	putchar('\n');
	return fflush(stdout) ? KEDGE_EXIT_FAILED : KEDGE_EXIT_OK;
}
