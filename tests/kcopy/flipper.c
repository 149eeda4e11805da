/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A line that damages: forwards iSCSI between an initiator and a target (digests of headers or none) and flips a bit in the data of reads, with
 * TCP none the wiser.
 *
 * Owns. A child process a connection. Locks. None; one shared page.
 *
 * Usage: flipper TARGET-PORT NR: the data of the first NR Data-In PDUs that answer a read, plain or extent, has one bit flipped (NR
 * negative: all of them). Prints the port it listens on; ends when it is killed.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kedge/bytes.h"

#define BHS_BYTES 48u
#define DATA_MAX (1u << 20)
#define TAGS_MAX 4096u

static _Atomic long *nr_left; /* shared by all connections; negative: no end */
static _Atomic long *nr_done;
static uint32_t tags[TAGS_MAX]; /* of reads, by the order of their requests */
static unsigned nr_tags;
static bool has_digest; /* of headers: they are not changed, so it stays right */

static bool read_exactly(int fd, uint8_t *p, size_t n)
{
	while (n > 0) {
		ssize_t r = recv(fd, p, n, 0);
		if (r <= 0)
			return false;
		p += r;
		n -= (size_t)r;
	}
	return true;
}

static bool send_all(int fd, const uint8_t *p, size_t n)
{
	while (n > 0) {
		ssize_t r = send(fd, p, n, MSG_NOSIGNAL);
		if (r <= 0)
			return false;
		p += r;
		n -= (size_t)r;
	}
	return true;
}

static bool is_read(uint32_t tag)
{
	for (unsigned i = 0; i < nr_tags && i < TAGS_MAX; i++)
		if (tags[i] == tag)
			return true;
	return false;
}

static void damage(uint8_t *data, uint32_t nr_bytes)
{
	long left = atomic_load(nr_left);

	while (left > 0 && !atomic_compare_exchange_weak(nr_left, &left, left - 1))
		;
	if (left == 0)
		return;
	long nr = atomic_fetch_add(nr_done, 1);
	uint32_t bit = (uint32_t)((uint64_t)nr * 2654435761u % (nr_bytes * 8ull));
	data[bit / 8] ^= (uint8_t)(1 << bit % 8);
}

/* One PDU. */
static bool move(int from, int to, bool is_from_target)
{
	static uint8_t pdu[BHS_BYTES + 4 + DATA_MAX];
	uint32_t n, head;

	if (!read_exactly(from, pdu, BHS_BYTES))
		return false;
	n = kedge_get_be24(pdu + 5);
	bool is_login = (pdu[0] & 0x3f) == 0x03 || (pdu[0] & 0x3f) == 0x23;
	head = BHS_BYTES + (has_digest && !is_login ? 4 : 0);
	if (n > DATA_MAX - 4 || pdu[4] != 0 || !read_exactly(from, pdu + BHS_BYTES, head - BHS_BYTES + kedge_round_up(n, 4)))
		return false;
	if ((pdu[0] & 0x3f) == 0x23 && memmem(pdu + head, n, "HeaderDigest=CRC32C", 19))
		has_digest = true;
	uint32_t tag = kedge_get_be32(pdu + 16);
	if (!is_from_target && (pdu[0] & 0x3f) == 0x01 && (pdu[32] == 0x88 || pdu[32] == 0xc1))
		tags[nr_tags++ % TAGS_MAX] = tag;
	if (is_from_target && (pdu[0] & 0x3f) == 0x25 && n > 0 && is_read(tag))
		damage(pdu + head, n);
	return send_all(to, pdu, head + kedge_round_up(n, 4));
}

static void forward(int client, uint16_t target_port)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(target_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int target = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	bool is_alive = connect(target, (struct sockaddr *)&sa, sizeof sa) == 0;

	setsockopt(target, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	while (is_alive) {
		struct pollfd p[2] = { { .fd = client, .events = POLLIN }, { .fd = target, .events = POLLIN } };
		if (poll(p, 2, -1) < 0)
			return;
		if (p[0].revents)
			is_alive = move(client, target, false);
		if (is_alive && p[1].revents)
			is_alive = move(target, client, true);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof sa;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (argc != 3)
		return 2;
	nr_left = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (nr_left == MAP_FAILED || fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 || listen(fd, 16) < 0 ||
	    getsockname(fd, (struct sockaddr *)&sa, &len) < 0) {
		perror("flipper");
		return 1;
	}
	nr_done = nr_left + 1;
	*nr_left = atol(argv[2]);
	signal(SIGCHLD, SIG_IGN);
	printf("%u\n", ntohs(sa.sin_port));
	fflush(stdout);
	for (;;) {
		int client = accept(fd, NULL, NULL);
		if (client >= 0 && fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			forward(client, (uint16_t)atoi(argv[1]));
			_exit(0);
		}
		if (client >= 0)
			close(client);
	}
}
