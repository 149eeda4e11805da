/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Clients that do not keep to the NBD protocol, or keep to it without manners. None may harm the server, the data, or a
 * client that behaves, which asks in between.
 *
 *   rude SOCKET SEED
 *
 * Owns. Its connections. Locks. None.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/err.h"
#include "nbdc.h"

#define NR_GARBAGE 300u
#define NR_MUTATED 300u
#define NR_SILENT 16u /* as many connections as the server takes */
#define WAIT_S 25
#define MIB (1u << 20)

static const char *path;
static uint64_t rng;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "rude: %s\n", what);
	exit(1);
}

static uint64_t draw(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % below;
}

static int dial(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = WAIT_S};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0)
		die("cannot connect");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	return fd;
}

/* Whatever arrives, until the server hangs up. */
static void expect_end(int fd, const char *who)
{
	uint8_t buf[4096];
	ssize_t n;

	do
		n = recv(fd, buf, sizeof buf, 0);
	while (n > 0);
	if (n < 0 && errno != ECONNRESET && errno != EPIPE) {
		fprintf(stderr, "rude: %s\n", who);
		die("was not hung up on");
	}
	close(fd);
}

static void open_good(struct nbdc *c)
{
	struct timeval patience = {.tv_sec = WAIT_S};

	if (nbdc_open(c, path) < 0)
		die("a client that behaves is not served");
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
}

static void ask_good(void)
{
	static uint8_t buf[4096];
	struct nbdc c;

	open_good(&c);
	if (nbdc_read(&c, 0, sizeof buf, buf) < 0)
		die("a client that behaves gets no answer");
	nbdc_close(&c);
}

static void garbage(void)
{
	for (unsigned i = 0; i < NR_GARBAGE; i++) {
		uint8_t buf[600];
		int fd = dial();
		size_t n = draw(sizeof buf);
		for (size_t k = 0; k < n; k++)
			buf[k] = (uint8_t)draw(256);
		(void)!send(fd, buf, n, MSG_NOSIGNAL);
		close(fd);
	}
}

/* A good beginning, some of whose bytes are wrong, and a hang-up in the middle. */
static void mutated(void)
{
	for (unsigned i = 0; i < NR_MUTATED; i++) {
		uint8_t buf[4 + 16 + 28 * 3] = {0};
		size_t n = sizeof buf;
		int fd = dial();
		kedge_put_be32(buf, 3);
		memcpy(buf + 4, "IHAVEOPT", 8);
		kedge_put_be32(buf + 12, 1);
		for (unsigned k = 0; k < 3; k++) { /* reads only: what is written is somebody's data */
			kedge_put_be32(buf + 20 + 28 * k, 0x25609513);
			kedge_put_be32(buf + 44 + 28 * k, (uint32_t)draw(64) * 512);
		}
		for (uint64_t k = draw(3); k; k--) {
			size_t at = draw(n);
			bool is_command = at >= 20 && (at - 20) % 28 >= 4 && (at - 20) % 28 < 8;
			if (!is_command)
				buf[at] ^= (uint8_t)(1 + draw(255));
		}
		if (draw(2))
			n = draw(n);
		(void)!send(fd, buf, n, MSG_NOSIGNAL);
		if (draw(2))
			shutdown(fd, SHUT_WR);
		close(fd);
	}
}

static void wrong_magic(void)
{
	struct nbdc c;
	uint8_t request[28] = {0};

	open_good(&c);
	(void)!send(c.fd, request, sizeof request, MSG_NOSIGNAL);
	expect_end(c.fd, "one without magic");
}

static void write_too_long(void)
{
	struct nbdc c;

	open_good(&c);
	nbdc_send(&c, 1, 0, 1, 0, 32 * MIB + 512, NULL);
	expect_end(c.fd, "one with a write of more than 32 MiB");
}

static void half_a_write(void)
{
	static uint8_t data[MIB];
	struct nbdc c;

	memset(data, 0x66, sizeof data);
	open_good(&c);
	nbdc_send(&c, 1, 0, 1, 0, 2 * MIB, NULL); /* which will not come */
	(void)!send(c.fd, data, sizeof data, MSG_NOSIGNAL);
	nbdc_close(&c);
}

static void refused(struct nbdc *c, uint16_t cmd, uint16_t flags, uint64_t start, uint32_t n, const void *buf, uint32_t want)
{
	uint64_t cookie;
	uint32_t error;

	if (nbdc_send(c, cmd, flags, ++c->cookie, start, n, buf) < 0 || nbdc_reply(c, &cookie, &error) < 0)
		die("a refused request ended the connection");
	if (cookie != c->cookie || error != want) {
		fprintf(stderr, "rude: command %u flags %u at %" PRIu64 ", %u bytes: error %u, expected %u\n", cmd, flags, start, n,
			error, want);
		exit(1);
	}
}

/* Wrong, but said in the protocol: an error each, and the connection goes on. */
static void refused_requests(void)
{
	static uint8_t buf[4096];
	struct nbdc c;

	open_good(&c);
	refused(&c, 9, 0, 0, 512, NULL, 22);
	refused(&c, 0, 0, c.size_bytes, 512, NULL, 22);
	refused(&c, 0, 0, UINT64_MAX - 511, 512, NULL, 22);
	refused(&c, 0, 0, 0, 0, NULL, 22);
	refused(&c, 0, 0, 1, 512, NULL, 22);
	refused(&c, 1, 0, c.size_bytes, 4096, buf, 28); /* its data must be taken from the stream all the same */
	refused(&c, 1, 0x80, 0, 4096, buf, 22);
	refused(&c, 4, 0, c.size_bytes - 512, 1024, NULL, 28);
	refused(&c, 6, 0, 0, 100, NULL, 22);
	refused(&c, 3, 0, 0, 512, NULL, 22);
	refused(&c, 7, 0, 0, 512, NULL, 22); /* no meta context */
	if (nbdc_read(&c, 0, sizeof buf, buf) < 0)
		die("after refused requests nothing is answered");
	nbdc_close(&c);
}

/* Asks for a gigabyte and takes none of it. */
static void hoarder(int *ret_fd)
{
	struct nbdc c;
	struct timeval brief = {.tv_usec = 200000};

	open_good(&c);
	setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &brief, sizeof brief);
	for (unsigned i = 0; i < 1024; i++)
		if (nbdc_send(&c, 0, 0, i, 0, MIB, NULL) < 0)
			break;
	*ret_fd = c.fd;
}

int main(int argc, char **argv)
{
	int hoarders[4], silent[NR_SILENT];

	if (argc != 3)
		die("usage: rude SOCKET SEED");
	signal(SIGPIPE, SIG_IGN);
	path = argv[1];
	rng = strtoull(argv[2], NULL, 10) * 2654435761u + 88172645463325252u;
	garbage();
	ask_good();
	mutated();
	ask_good();
	wrong_magic();
	write_too_long();
	half_a_write();
	refused_requests();
	for (unsigned i = 0; i < 4; i++)
		hoarder(&hoarders[i]);
	ask_good();
	for (unsigned i = 0; i < 4; i++)
		close(hoarders[i]);
	/* all places taken by clients that say nothing: who behaves waits until they are dropped */
	for (unsigned i = 0; i < NR_SILENT; i++)
		silent[i] = dial();
	ask_good();
	for (unsigned i = 0; i < NR_SILENT; i++)
		expect_end(silent[i], "one that says nothing");
	ask_good();
	printf("rude: seed %s: %u of garbage, %u mutated, 17 others\n", argv[2], NR_GARBAGE, NR_MUTATED);
	return 0;
}
