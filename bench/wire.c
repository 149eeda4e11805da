/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Sockets for the floor and the ping-pong.
 *
 * Owns. Nothing; what it opens is the caller's.
 *
 * Locks. None.
 */
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void wire_fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "the other end is gone");
	exit(1);
}

static struct sockaddr_in parse_address(const char *address, uint16_t port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };

	if (inet_pton(AF_INET, address, &at.sin_addr) != 1) {
		fprintf(stderr, "%s is no IPv4 address\n", address);
		exit(2);
	}
	return at;
}

int wire_listen(const char *address)
{
	struct sockaddr_in at = parse_address(address, 0);
	socklen_t len = sizeof at;
	int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (sock < 0 || bind(sock, (struct sockaddr *)&at, sizeof at) < 0 || listen(sock, 16) < 0 ||
	    getsockname(sock, (struct sockaddr *)&at, &len) < 0)
		wire_fail("listen");
	printf("%u\n", ntohs(at.sin_port));
	fflush(stdout);
	return sock;
}

int wire_connect(const char *address, uint16_t port)
{
	struct sockaddr_in to = parse_address(address, port);
	int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (sock < 0 || connect(sock, (struct sockaddr *)&to, sizeof to) < 0)
		wire_fail("connect");
	wire_nodelay(sock);
	return sock;
}

void wire_nodelay(int sock)
{
	int one = 1;

	if (setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0)
		wire_fail("TCP_NODELAY");
}

void wire_send(int sock, const void *data, size_t nr_bytes, int flags)
{
	const char *at = data;

	while (nr_bytes) {
		ssize_t n = send(sock, at, nr_bytes, flags | MSG_NOSIGNAL);

		if (n <= 0)
			wire_fail("send");
		at += n;
		nr_bytes -= (size_t)n;
	}
}

void wire_recv(int sock, void *data, size_t nr_bytes)
{
	char *at = data;

	while (nr_bytes) {
		ssize_t n = recv(sock, at, nr_bytes, 0);

		if (n <= 0)
			wire_fail("recv");
		at += n;
		nr_bytes -= (size_t)n;
	}
}
