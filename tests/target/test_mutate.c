/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A seeded mutator: streams of valid login and command PDUs with bytes flipped, cut, doubled, moved, lengths made wrong. The
 * target must live, keep serving a client that behaves, and give everything back.
 * Owns. One ktarget for the whole run. Locks. None.
 *
 * usage: target_test_mutate KTARGET [SEED [STREAMS]]. A failure prints the seed that repeats it.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "peer.h"

#define STREAM_MAX 200000
#define PDUS_MAX 64
#define CHECK_EVERY 100

struct stream {
	uint8_t bytes[STREAM_MAX];
	size_t nr_bytes;
	size_t starts[PDUS_MAX + 1]; /* of the PDUs, before mutation */
	unsigned nr_pdus;
};

static uint64_t rng;

static uint32_t random_below(uint32_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)((rng >> 16) % n);
}

/* ---- valid streams ---- */

static void add(struct stream *s, struct peer *p, uint8_t *bhs, const void *data, uint32_t nr_bytes)
{
	if (s->nr_pdus == PDUS_MAX)
		return;
	s->starts[s->nr_pdus++] = s->nr_bytes;
	kedge_put_be32(bhs + 16, ++p->itt);
	kedge_put_be32(bhs + 24, p->cmd_sn);
	if (!pdu_is_immediate(bhs))
		p->cmd_sn++;
	s->nr_bytes += peer_encode(p, bhs, data, nr_bytes, s->bytes + s->nr_bytes);
	s->starts[s->nr_pdus] = s->nr_bytes;
}

static void add_login(struct stream *s, struct peer *p)
{
	static const char *const extras[] = {"HeaderDigest=CRC32C", "DataDigest=CRC32C,None", "MaxBurstLength=8192",
					     "MaxRecvDataSegmentLength=512", "X-unknown=1", "CHAP_A=5", "InitialR2T=Yes"};
	uint8_t bhs[BHS_BYTES] = {OP_LOGIN | OP_IMMEDIATE, 0x87};
	char text[2048];
	size_t n = text_make(text, "InitiatorName=" INITIATOR_IQN, random_below(8) ? "TargetName=" TARGET_IQN : "SessionType=Discovery",
			     "AuthMethod=None", NULL);
	uint32_t which = random_below(1u << KEDGE_ARRAY_LEN(extras));

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(extras); i++)
		if (which >> i & 1)
			n += text_make(text + n, extras[i], NULL);
	memcpy(bhs + 8, p->isid, 6);
	bhs[13] = (uint8_t)random_below(3); /* sometimes it reinstates a session before it */
	if (random_below(4) == 0) {         /* in two stages */
		bhs[1] = 0x81;
		add(s, p, bhs, text, (uint32_t)n);
		bhs[1] = 0x87;
		n = 0;
	}
	add(s, p, bhs, text, (uint32_t)n);
	p->has_header_digest = which & 1;
	p->has_data_digest = which & 2;
}

static void add_command(struct stream *s, struct peer *p)
{
	static const uint8_t opcodes[] = {0x00, 0x03, 0x08, 0x12, 0x1a, 0x25, 0x28, 0x2a, 0x2f, 0x42, 0x5a, 0x5e, 0x88, 0x8a, 0x9e, 0xa0,
					  0xa3, 0xa8};
	uint8_t bhs[BHS_BYTES] = {OP_SCSI_CMD, 0xc1, [9] = 1}, data[2048];

	memset(data, 'd', sizeof data);
	switch (random_below(8)) {
	case 0:
		bhs[0] = OP_NOP_OUT | (random_below(2) ? OP_IMMEDIATE : 0);
		bhs[1] = 0x80;
		memset(bhs + 20, 0xff, 4);
		add(s, p, bhs, data, random_below(sizeof data));
		return;
	case 1:
		bhs[0] = OP_TMF | OP_IMMEDIATE;
		bhs[1] = (uint8_t)(0x80 | (1 + random_below(8)));
		kedge_put_be32(bhs + 20, p->itt - random_below(4));
		add(s, p, bhs, NULL, 0);
		return;
	case 2:
		bhs[0] = OP_TEXT;
		bhs[1] = 0x80;
		memset(bhs + 20, 0xff, 4);
		add(s, p, bhs, "SendTargets=All", 16);
		return;
	case 3:
		bhs[0] = random_below(8) ? OP_DATA_OUT : OP_LOGOUT;
		bhs[1] = 0x80;
		add(s, p, bhs, data, bhs[0] == OP_DATA_OUT ? 512 : 0);
		return;
	default:
		kedge_put_be32(bhs + 20, random_below(1u << (1 + random_below(24))));
		bhs[32] = opcodes[random_below(sizeof opcodes)];
		bhs[33] = bhs[32] == 0x9e ? 0x10 + 2 * (uint8_t)random_below(2) : bhs[32] == 0xa3 ? 0x0c : 0;
		bhs[36] = (uint8_t)random_below(256);
		bhs[40] = (uint8_t)random_below(256);
		bhs[44] = (uint8_t)random_below(256);
		bhs[39] = (uint8_t)random_below(16);
		add(s, p, bhs, NULL, 0);
	}
}

static void make_stream(struct stream *s, struct peer *p)
{
	unsigned n = 1 + random_below(24);

	s->nr_bytes = 0;
	s->nr_pdus = 0;
	p->has_header_digest = p->has_data_digest = false;
	add_login(s, p);
	for (unsigned i = 0; i < n; i++)
		add_command(s, p);
}

/* ---- mutation ---- */

static void move(struct stream *s, size_t at, size_t removed, const uint8_t *with, size_t nr_with)
{
	if (s->nr_bytes - removed + nr_with > STREAM_MAX)
		return;
	memmove(s->bytes + at + nr_with, s->bytes + at + removed, s->nr_bytes - at - removed);
	if (nr_with)
		memcpy(s->bytes + at, with, nr_with);
	s->nr_bytes += nr_with - removed;
}

static void mutate(struct stream *s)
{
	static const uint8_t nasty[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0x40, '=', ',', '0'};
	static uint8_t copy[STREAM_MAX];
	unsigned pdu = random_below(s->nr_pdus);
	/* mutations may have moved it: any place within the stream will do */
	size_t start = s->starts[pdu] < s->nr_bytes ? s->starts[pdu] : 0, left = s->nr_bytes - start;
	size_t at = random_below((uint32_t)s->nr_bytes), n = 1 + random_below(64);

	switch (random_below(9)) {
	case 0: /* a bit */
		s->bytes[at] ^= (uint8_t)(1u << random_below(8));
		return;
	case 1: /* a byte that often means something */
		s->bytes[at] = nasty[random_below(sizeof nasty)];
		return;
	case 2: /* a byte of a header */
		s->bytes[start + random_below(left < BHS_BYTES ? (uint32_t)left : BHS_BYTES)] = (uint8_t)random_below(256);
		return;
	case 3: /* a length of a header: AHS or data */
		if (left >= 8)
			s->bytes[start + 4 + random_below(4)] = nasty[random_below(sizeof nasty)];
		return;
	case 4: /* cut the end */
		s->nr_bytes = at ? at : 1;
		return;
	case 5: /* take bytes out */
		if (n < s->nr_bytes - at)
			move(s, at, n, NULL, 0);
		return;
	case 6: /* double bytes */
		n = n < s->nr_bytes - at ? n : s->nr_bytes - at;
		memcpy(copy, s->bytes + at, n);
		move(s, at, 0, copy, n);
		return;
	case 7: /* double a PDU, elsewhere */
		n = s->starts[pdu + 1] - s->starts[pdu];
		n = n < left ? n : left;
		memcpy(copy, s->bytes + start, n);
		move(s, s->starts[random_below(s->nr_pdus)] % s->nr_bytes, 0, copy, n);
		return;
	default: /* exchange the halves behind the login */
		n = s->starts[1] < s->nr_bytes ? s->starts[1] : 0;
		if (at <= n)
			return;
		memcpy(copy, s->bytes + n, at - n);
		move(s, n, at - n, NULL, 0);
		move(s, s->nr_bytes, 0, copy, at - n);
	}
}

/* ---- the run ---- */

/* Send it all, read what comes back for a moment, hang up in one of three ways. */
static bool play(const struct target *t, struct stream *s, unsigned number)
{
	static uint8_t sink[65536];
	struct peer p;
	char from[32];

	snprintf(from, sizeof from, "127.1.%u.%u", number / 250 % 250, 1 + number % 250);
	if (peer_open(&p, t, from) < 0) {
		peer_close(&p);
		return false;
	}
	make_stream(s, &p);
	for (unsigned n = random_below(6); n > 0; n--)
		mutate(s);
	(void)peer_send_raw(&p, s->bytes, s->nr_bytes); /* the target may hang up in the middle */
	unsigned ways = random_below(3);
	if (ways == 0)
		shutdown(p.fd, SHUT_WR);
	for (unsigned reads = ways == 1 ? 0 : 64; reads > 0; reads--) {
		struct pollfd pfd = {.fd = p.fd, .events = POLLIN};
		if (poll(&pfd, 1, 10) != 1 || recv(p.fd, sink, sizeof sink, 0) <= 0)
			break;
	}
	if (ways == 2)
		setsockopt(p.fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger)); /* RST */
	peer_close(&p);
	return true;
}

/* A client that behaves, with a name of its own so that nobody reinstates it: the whole of LUN 2, compared. */
static bool is_served_well(const struct target *t)
{
	static uint8_t data[DISK2_BYTES];
	static const uint8_t ready[16] = {0};
	struct outcome o = {.data = data, .out_max = sizeof data};
	struct peer p;
	bool is_good = peer_open(&p, t, "127.0.9.9") == 0;

	p.isid[5] = 0x99;
	is_good = is_good && peer_login(&p, "HeaderDigest=CRC32C", "DataDigest=CRC32C", NULL) == 0;
	if (is_good) {
		peer_command(&p, 2, ready, 0, &o);
		peer_finish(&p, peer_read10(&p, 2, 0, DISK2_BYTES / 512, DISK2_BYTES), &o);
		is_good = o.error == 0 && o.status == 0 && o.nr_bytes == DISK2_BYTES;
	}
	for (size_t i = 0; i < sizeof data && is_good; i++)
		is_good = data[i] == disk_byte(2, i);
	peer_close(&p);
	return is_good;
}

int main(int argc, char **argv)
{
	static struct stream s;
	uint64_t seed = 0;
	unsigned nr_streams = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 0) : 2000;
	struct target t;

	if (argc < 2 || argc > 4 || nr_streams == 0) {
		fprintf(stderr, "usage: %s KTARGET [SEED [STREAMS]]\n", argv[0]);
		return 2;
	}
	if (argc > 2)
		seed = strtoull(argv[2], NULL, 0);
	while (seed == 0)
		if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
			return 2;
	printf("seed 0x%llx, %u streams\n", (unsigned long long)seed, nr_streams);
	fflush(stdout);
	rng = seed;
	target_start(&t, argv[1], "--max-sessions", "256", NULL);
	for (unsigned i = 0; i < nr_streams; i++) {
		bool is_good = play(&t, &s, i);
		if (i % CHECK_EVERY == CHECK_EVERY - 1 || i == nr_streams - 1)
			is_good = is_good && is_served_well(&t);
		if (!is_good || !target_is_alive(&t)) {
			fprintf(stderr, "FAIL at stream %u: the target %s (seed 0x%llx)\n", i,
				target_is_alive(&t) ? "does not serve a good client" : "died", (unsigned long long)seed);
			target_stop(&t);
			return 1;
		}
	}
	if (!target_stop(&t)) {
		fprintf(stderr, "FAIL (seed 0x%llx)\n", (unsigned long long)seed);
		return 1;
	}
	printf("%u streams, the target lives and serves\n", nr_streams);
	return 0;
}
