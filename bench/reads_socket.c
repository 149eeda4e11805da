/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The requests of bench_reads over a socket: NBD (simple replies), and the ping-pong of 48 bytes there and a block back.
 * NBD requests that one look at the socket makes possible are sent together; a ping is a send of its own.
 *
 * Owns. The socket.
 *
 * Locks. None: one thread.
 */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "reads.h"
#include "wire.h"

enum { PING_BYTES = 48, NBD_REQUEST_BYTES = 28, NBD_REPLY_BYTES = 16 };

struct client {
	const struct options *o;
	int sock;
	bool is_nbd;
	uint64_t places;	 /* state of next_place */
	uint64_t begin_ns[256]; /* of the request with that number, its cookie */
	uint32_t order[256];	 /* ping: answers come in order */
	uint32_t nr_asked, nr_answered;
};

static int connect_unix(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
	if (sock < 0 || connect(sock, (struct sockaddr *)&to, sizeof to) < 0)
		wire_fail(path);
	return sock;
}

/* Fixed newstyle, no zeroes, EXPORT_NAME of the default export. */
static void nbd_shake_hands(int sock)
{
	static const uint8_t hello[20] = { 0, 0, 0, 3, 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 1, 0, 0, 0, 0 };
	uint8_t greeting[18], export[10];

	wire_recv(sock, greeting, sizeof greeting);
	if (memcmp(greeting, "NBDMAGICIHAVEOPT", 16) != 0) {
		errno = EPROTO;
		wire_fail("this is no NBD server");
	}
	wire_send(sock, hello, sizeof hello, 0);
	wire_recv(sock, export, sizeof export);
}

static size_t put_request(struct client *c, uint8_t *out, uint32_t number)
{
	uint64_t place = next_place(c->o, &c->places), cookie = number;
	uint32_t magic = htobe32(0x25609513), nr_bytes = htobe32(c->o->block_bytes);

	memset(out, 0, PING_BYTES);
	place = htobe64(place);
	memcpy(out + 16, &place, 8);
	memcpy(out + 24, &nr_bytes, 4);
	if (!c->is_nbd) {
		c->order[c->nr_asked++ % 256] = number;
		return PING_BYTES;
	}
	memcpy(out, &magic, 4);
	memcpy(out + 8, &cookie, 8);
	return NBD_REQUEST_BYTES;
}

static void ask(struct client *c, const uint32_t *numbers, size_t nr)
{
	uint8_t out[256 * PING_BYTES];
	size_t nr_bytes = 0;
	uint64_t now = now_ns();

	for (size_t i = 0; i < nr; i++) {
		nr_bytes += put_request(c, out + nr_bytes, numbers[i]);
		c->begin_ns[numbers[i]] = now;
		if (!c->is_nbd) {
			wire_send(c->sock, out, nr_bytes, 0);
			nr_bytes = 0;
		}
	}
	if (nr_bytes)
		wire_send(c->sock, out, nr_bytes, 0);
}

/* The number of the request that an answer belongs to. */
static uint32_t number_of(struct client *c, const uint8_t *answer)
{
	uint64_t cookie;
	uint32_t magic, error;

	if (!c->is_nbd)
		return c->order[c->nr_answered++ % 256];
	memcpy(&magic, answer, 4);
	memcpy(&error, answer + 4, 4);
	memcpy(&cookie, answer + 8, 8);
	if (magic != htobe32(0x67446698) || error || cookie >= c->o->depth) {
		errno = error ? (int)be32toh(error) : EPROTO;
		wire_fail("NBD reply");
	}
	return (uint32_t)cookie;
}

/*
 * One at a time at fixed moments, as a guest's reads come that do not wait for each other. A latency counts from the moment at which the read was due: a
 * client that only asks again when it has its answer would hardly ask while the server is slow, and say that all is well. For the same reason
 * what was due before the end is asked for still.
 */
static void run_paced(struct client *c, struct samples *ret)
{
	uint8_t *in = malloc(c->o->block_bytes + NBD_REPLY_BYTES);
	uint64_t due_ns = now_ns(), end_ns = UINT64_MAX;
	const uint32_t first = 0;

	if (!in)
		wire_fail("memory");
	for (; due_ns < end_ns; due_ns += 1000000000u / c->o->rate) {
		struct timespec due = { (time_t)(due_ns / 1000000000u), (long)(due_ns % 1000000000u) };

		if (now_ns() < due_ns)
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
		ask(c, &first, 1);
		wire_recv(c->sock, in, c->o->block_bytes + (c->is_nbd ? (size_t)NBD_REPLY_BYTES : 0));
		number_of(c, in);
		samples_add(ret, due_ns, now_ns());
		tell_ready();
		if (is_over() && end_ns == UINT64_MAX)
			end_ns = now_ns();
	}
	free(in);
}

static void run(struct client *c, struct samples *ret)
{
	size_t one = c->o->block_bytes + (c->is_nbd ? (size_t)NBD_REPLY_BYTES : 0), have = 0;
	uint8_t *in = malloc(one * c->o->depth);
	uint32_t free_numbers[256] = { 0 }, inflight = c->o->depth;

	if (!in)
		wire_fail("memory");
	for (uint32_t i = 0; i < c->o->depth; i++)
		free_numbers[i] = i;
	ask(c, free_numbers, c->o->depth);
	while (inflight) {
		ssize_t n = recv(c->sock, in + have, one * c->o->depth - have, 0);
		size_t at = 0, nr_free = 0;

		if (n <= 0)
			wire_fail("recv");
		have += (size_t)n;
		uint64_t now = now_ns();
		for (; have - at >= one; at += one) {
			uint32_t number = number_of(c, in + at);

			samples_add(ret, c->begin_ns[number], now);
			free_numbers[nr_free++] = number;
		}
		memmove(in, in + at, have - at);
		have -= at;
		if (nr_free)
			tell_ready();
		if (is_over())
			inflight -= (uint32_t)nr_free;
		else
			ask(c, free_numbers, nr_free);
	}
	free(in);
}

void read_socket(const struct options *o, struct samples *ret)
{
	struct client *c = calloc(1, sizeof *c);

	if (!c)
		wire_fail("memory");
	c->o = o;
	c->places = o->seed;
	c->is_nbd = strcmp(o->what, "nbd") == 0;
	if (c->is_nbd && strncmp(o->where, "unix:", 5) == 0)
		c->sock = connect_unix(o->where + 5);
	else
		c->sock = wire_connect(WIRE_LOOPBACK, (uint16_t)strtoul(o->where + (c->is_nbd ? strlen("tcp:") : 0), NULL, 10));
	if (c->is_nbd)
		nbd_shake_hands(c->sock);
	if (o->rate)
		run_paced(c, ret);
	else
		run(c, ret);
	close(c->sock);
	free(c);
}
