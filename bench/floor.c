/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What moving a file over one TCP connection costs when nothing is in between: a server that only calls sendfile, a client
 * that only receives and writes. Not a protocol for anybody's data: no checks, no retries.
 *
 * Owns. A listening socket, one connection at a time.
 *
 * Locks. None: one thread at each end.
 *
 * The client sends one byte, 'a' or 'h'. The server answers with ranges, each a struct range and then its bytes; 'a': one of the
 * whole file, 'h': those that hold data. A range of 0 bytes ends the answer.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wire.h"

struct range {
	uint64_t start_bytes, nr_bytes;
};

enum { BUFFER_BYTES = 256 * 1024, PIPE_BYTES = 1024 * 1024 };

static void send_range(int sock, int fd, uint64_t start, uint64_t end)
{
	struct range r = { start, end - start };
	off_t at = (off_t)start;

	wire_send(sock, &r, sizeof r, MSG_MORE);
	while ((uint64_t)at < end)
		if (sendfile(sock, fd, &at, end - (uint64_t)at) <= 0)
			wire_fail("sendfile");
}

static void answer(int sock, int fd, char what)
{
	static const struct range last;
	struct stat st;
	off_t start = 0, end;

	if (fstat(fd, &st) < 0)
		wire_fail("stat");
	if (what == 'a') {
		send_range(sock, fd, 0, (uint64_t)st.st_size);
	} else {
		while ((start = lseek(fd, start, SEEK_DATA)) >= 0) {
			end = lseek(fd, start, SEEK_HOLE);
			send_range(sock, fd, (uint64_t)start, (uint64_t)end);
			start = end;
		}
	}
	wire_send(sock, &last, sizeof last, 0);
}

static int serve(const char *path, const char *address)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), listener = wire_listen(address);
	char what;

	if (fd < 0)
		wire_fail(path);
	for (;;) {
		int sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (sock < 0)
			wire_fail("accept");
		wire_nodelay(sock);
		if (recv(sock, &what, 1, 0) == 1)
			answer(sock, fd, what);
		close(sock);
	}
}

static void take_by_copy(int sock, int fd, struct range r)
{
	static char buffer[BUFFER_BYTES] __attribute__((aligned(4096)));

	while (r.nr_bytes) {
		ssize_t n = recv(sock, buffer, r.nr_bytes < sizeof buffer ? (size_t)r.nr_bytes : sizeof buffer, 0);

		if (n <= 0)
			wire_fail("recv");
		for (ssize_t done = 0, w; done < n; done += w) {
			w = pwrite(fd, buffer + done, (size_t)(n - done), (off_t)r.start_bytes + done);
			if (w <= 0)
				wire_fail("pwrite");
		}
		r.start_bytes += (uint64_t)n;
		r.nr_bytes -= (uint64_t)n;
	}
}

static void take_by_splice(int sock, int fd, int pipes[2], struct range r)
{
	off_t at = (off_t)r.start_bytes;

	while (r.nr_bytes) {
		ssize_t n = splice(sock, NULL, pipes[1], NULL, r.nr_bytes < PIPE_BYTES ? (size_t)r.nr_bytes : PIPE_BYTES, SPLICE_F_MOVE);

		if (n <= 0)
			wire_fail("splice from the socket");
		for (ssize_t done = 0, w; done < n; done += w) {
			w = splice(pipes[0], NULL, fd, &at, (size_t)(n - done), SPLICE_F_MOVE);
			if (w <= 0)
				wire_fail("splice to the file");
		}
		r.nr_bytes -= (uint64_t)n;
	}
}

static int fetch(const char *address, uint16_t port, const char *path, const char *how)
{
	int sock = wire_connect(address, port), fd = open(path, O_WRONLY | O_CLOEXEC), pipes[2];
	char what = strcmp(how, "all") == 0 ? 'a' : 'h';
	struct range r;

	if (fd < 0)
		wire_fail(path);
	if (pipe2(pipes, O_CLOEXEC) < 0 || fcntl(pipes[1], F_SETPIPE_SZ, PIPE_BYTES) < 0)
		wire_fail("pipe");
	wire_send(sock, &what, 1, 0);
	for (;;) {
		wire_recv(sock, &r, sizeof r);
		if (r.nr_bytes == 0)
			break;
		if (strcmp(how, "splice") == 0)
			take_by_splice(sock, fd, pipes, r);
		else
			take_by_copy(sock, fd, r);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if ((argc == 3 || argc == 4) && strcmp(argv[1], "serve") == 0)
		return serve(argv[2], argc == 4 ? argv[3] : WIRE_LOOPBACK);
	if ((argc == 5 || argc == 6) && strcmp(argv[1], "fetch") == 0)
		return fetch(argc == 6 ? argv[5] : WIRE_LOOPBACK, (uint16_t)atoi(argv[2]), argv[3], argv[4]);
	fputs("usage: bench_floor serve FILE [ADDRESS] (prints its port)\n"
	      "       bench_floor fetch PORT FILE all|holes|splice [ADDRESS] (the last two skip holes)\n",
	      stderr);
	return 2;
}
