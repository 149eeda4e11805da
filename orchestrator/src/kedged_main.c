/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The daemon's shell: options, configuration, one libuv loop, the HTTP server and the services of its roles, signals,
 * readiness for the service manager. No policy lives here.
 *
 * Owns. The loop, server, client and services; the lock on STATE_DIR/kedged.pid, held until the process ends.
 *
 * Locks. None: one thread.
 *
 * Crash. Nothing durable is written here but the pid file, whose content is for people; the lock on it dies with the
 * process. All else is the services' (their databases), and data-plane processes and workloads outlive the daemon.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kedge/file.h"
#include "kedge/log.h"
#include "orch/kedged.h"

#define CONFIG_DEFAULT "/etc/kedge/kedged.conf"

struct daemon {
	struct kedged_config config;
	uv_loop_t loop;
	uv_signal_t on_term, on_int, on_hup;
	struct http_server *server;
	struct http_client *client;
	struct coord_service *coord;
	struct agent_service *agent;
	int lock_fd;
};

static void print_help(FILE *out)
{
	fputs("usage: kedged [--config FILE] [--check-config]\n"
	      "\n"
	      "The daemon of a kedge host and of the coordinator.\n"
	      "\n"
	      "  --config FILE    configuration to read (" CONFIG_DEFAULT ")\n"
	      "  --check-config   read the configuration and the secret, report, and end\n"
	      "  --version        print the version and end\n"
	      "  --help           print this text and end\n"
	      "\n"
	      "See kedged(8) and kedged.conf(5).\n",
	      out);
}

/* Tell the service manager, when there is one (sd_notify(3)'s protocol: a datagram to $NOTIFY_SOCKET). */
static void notify_manager(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	size_t n = path ? strlen(path) : 0;
	int fd;

	if (n < 2 || n >= sizeof to.sun_path || (path[0] != '/' && path[0] != '@'))
		return;
	memcpy(to.sun_path, path, n);
	if (path[0] == '@')
		to.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&to,
		   (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
		kedge_warn("the service manager at %s was not told \"%s\": %s", path, text, strerror(errno));
	close(fd);
}

#define LOCK_MS 2000

/* One daemon a state directory. The descriptor stays open for the life of the process. */
static int lock_state_dir(const char *state_dir, int *ret_fd, struct kedge_err *err)
{
	char path[KEDGED_PATH_MAX + 16], text[32];
	int fd;

	snprintf(path, sizeof path, "%s/kedged.pid", state_dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_CONTROL, "%s: %s", path, strerror(errno));
	/* One that was killed a moment ago may have threads that are still ending. */
	int res = kedge_lock(fd, LOCK_MS);
	if (res) {
		ssize_t n = read(fd, text, sizeof text - 1);
		text[n > 0 ? n : 0] = 0;
		text[strcspn(text, "\n")] = 0;
		close(fd);
		if (res != -EWOULDBLOCK)
			return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "%s: %s", path, strerror(-res));
		return kedge_err_set(err, -EBUSY, KEDGE_SIDE_CONTROL, "%s is in use by another kedged (pid %s)", state_dir,
				     text);
	}
	int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
	if (ftruncate(fd, 0) || write(fd, text, (size_t)n) != n)
		kedge_warn("%s: %s", path, strerror(errno));
	*ret_fd = fd;
	return 0;
}

static void on_stop_signal(uv_signal_t *handle, int signum)
{
	kedge_info("%s: stopping; workloads and clones go on", signum == SIGINT ? "interrupted" : "terminated");
	notify_manager("STOPPING=1");
	uv_stop(handle->loop);
}

static void on_hup_signal(uv_signal_t *handle, int signum)
{
	kedge_info("the configuration is read at start only: restart kedged to change it (migrations under way go on)");
}

static int make_dirs(const struct kedged_config *c, struct kedge_err *err)
{
	int res = kedge_mkdir_p(c->state_dir, 0700, err);

	if (!res)
		res = kedge_mkdir_p(c->run_dir, 0755, err);
	if (!res && c->is_agent)
		res = kedge_mkdir_p(c->volume_dir, 0700, err);
	return res;
}

static int start_services(struct daemon *d, struct kedge_err *err)
{
	const struct kedged_config *c = &d->config;
	int res = http_server_create(&d->loop, c->host, c->secret, c->secret_bytes, &d->server, err);

	if (!res)
		res = http_client_create(&d->loop, c->host, c->secret, c->secret_bytes, &d->client, err);
	/* The coordinator first: where both roles answer a call, its view is the whole one. */
	if (!res && c->is_coordinator)
		res = coord_service_create(&d->loop, c, d->server, d->client, &d->coord, err);
	if (!res && c->is_agent)
		res = agent_service_create(&d->loop, c, d->server, &d->agent, err);
	if (!res)
		res = http_server_listen_tcp(d->server, c->listen, err);
	if (!res)
		res = http_server_listen_unix(d->server, c->socket, err);
	return res;
}

static void stop_services(struct daemon *d)
{
	coord_service_destroy(d->coord);
	agent_service_destroy(d->agent);
	http_client_destroy(d->client);
	http_server_destroy(d->server);
}

static int watch_signals(struct daemon *d)
{
	uv_signal_init(&d->loop, &d->on_term);
	uv_signal_init(&d->loop, &d->on_int);
	uv_signal_init(&d->loop, &d->on_hup);
	/* A peer that hung up is an error of that call, not the end of the daemon. */
	signal(SIGPIPE, SIG_IGN);
	int res = uv_signal_start(&d->on_term, on_stop_signal, SIGTERM);
	if (!res)
		res = uv_signal_start(&d->on_int, on_stop_signal, SIGINT);
	if (!res)
		res = uv_signal_start(&d->on_hup, on_hup_signal, SIGHUP);
	return res;
}

static void close_signals(struct daemon *d)
{
	uv_close((uv_handle_t *)&d->on_term, NULL);
	uv_close((uv_handle_t *)&d->on_int, NULL);
	uv_close((uv_handle_t *)&d->on_hup, NULL);
}

static int daemon_run(struct daemon *d, struct kedge_err *err)
{
	char ready[160];
	int res = make_dirs(&d->config, err);

	if (!res)
		res = lock_state_dir(d->config.state_dir, &d->lock_fd, err);
	if (res)
		return res;
	res = uv_loop_init(&d->loop);
	if (res)
		return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "no event loop: %s", uv_strerror(res));
	res = watch_signals(d);
	if (res)
		kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "signals: %s", uv_strerror(res));
	else
		res = start_services(d, err);
	if (!res) {
		const char *roles = !d->config.is_coordinator ? "agent" : d->config.is_agent ? "agent, coordinator" : "coordinator";
		kedge_info("host %s (%s) listens on %s and %s", d->config.host, roles, d->config.listen, d->config.socket);
		snprintf(ready, sizeof ready, "READY=1\nSTATUS=host %s (%s)", d->config.host, roles);
		notify_manager(ready);
		uv_run(&d->loop, UV_RUN_DEFAULT);
	}
	stop_services(d);
	close_signals(d);
	/* Handles that are closing still want their callbacks. */
	for (int i = 0; i < 1000 && uv_run(&d->loop, UV_RUN_NOWAIT); i++)
		;
	if (uv_loop_close(&d->loop))
		kedge_debug("handles were left open at the end");
	return res;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"config", required_argument, NULL, 'c'},
						{"check-config", no_argument, NULL, 'k'},
						{"version", no_argument, NULL, 'V'},
						{"help", no_argument, NULL, 'h'},
						{NULL, 0, NULL, 0}};
	static struct daemon d = {.lock_fd = -1};
	const char *config = CONFIG_DEFAULT;
	struct kedge_err err = {0};
	bool is_check_only = false;
	int opt;

	kedge_log_init("kedged", KEDGE_LOG_INFO);
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'c':
			config = optarg;
			break;
		case 'k':
			is_check_only = true;
			break;
		case 'V':
			puts("kedged " KEDGE_VERSION);
			return KEDGE_EXIT_OK;
		case 'h':
			print_help(stdout);
			return KEDGE_EXIT_OK;
		default:
			print_help(stderr);
			return KEDGE_EXIT_USAGE;
		}
	}
	if (optind < argc) {
		kedge_error("\"%s\" is not an option; see kedged --help", argv[optind]);
		return KEDGE_EXIT_USAGE;
	}
	int res = kedged_config_read(config, &d.config, &err);
	if (!res && is_check_only) {
		printf("%s: good; host %s, %u hosts\n", config, d.config.host, d.config.nr_hosts);
		return KEDGE_EXIT_OK;
	}
	if (!res)
		res = daemon_run(&d, &err);
	explicit_bzero(d.config.secret, sizeof d.config.secret);
	if (!res)
		return KEDGE_EXIT_OK;
	kedge_error("%s", err.code ? err.msg : kedge_err_text(res));
	return kedge_exit_of(err.code ? err.code : res);
}
