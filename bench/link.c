/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A link of a given rate, delay and loss between two network namespaces, for kernels without netem: a TUN device in each,
 * this program in between. What is lost are packets, so that TCP sees what it sees on a long line.
 *
 * Owns. The two devices, which go with it; the packets under way.
 *
 * Locks. None: one thread.
 *
 * Each direction is a line that sends one packet at a time at its rate; before it a queue of bounded length, the last one in is
 * dropped, as in a router; behind it the delay. Loss is drawn from a seed, one draw a packet.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

enum { PACKET_MAX_BYTES = 2048, NR_SLOTS = 16384, BURST = 64 };

#define DEVICE "kbench"
#define NS_PER_S 1000000000ull

struct packet {
	uint64_t due_ns;
	uint32_t nr_bytes;
	uint8_t data[PACKET_MAX_BYTES];
};

struct link_opts {
	uint64_t rate_bps, delay_ns, loss_ppm, queue_bytes;
};

struct way {
	int from, to;
	struct packet *slots; /* a ring; the oldest at head */
	uint64_t head, tail, random;
	uint64_t free_ns; /* when the line has sent what it was given */
	uint64_t nr_sent, nr_lost, nr_overflowed, nr_bytes;
};

static volatile sig_atomic_t is_told_to_end;

static void on_signal(int signum)
{
	(void)signum;
	is_told_to_end = 1;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* A device in the namespace, which whoever made it gives its address; this process stays there. */
static int open_tun(const char *netns, const char *name)
{
	struct ifreq req = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	char path[128];
	int ns, fd;

	snprintf(path, sizeof path, "/run/netns/%s", netns);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
		wire_fail(path);
	close(ns);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		wire_fail("/dev/net/tun");
	snprintf(req.ifr_name, sizeof req.ifr_name, "%s", name);
	if (ioctl(fd, TUNSETIFF, &req) < 0)
		wire_fail("TUNSETIFF");
	return fd;
}

/* Takes one packet in; false: there was none. */
static bool take_one(struct way *w, const struct link_opts *opts, uint64_t now)
{
	struct packet *p = &w->slots[w->tail % NR_SLOTS];
	uint8_t spare[PACKET_MAX_BYTES];
	bool is_full = w->tail - w->head == NR_SLOTS;
	ssize_t n = read(w->from, is_full ? spare : p->data, PACKET_MAX_BYTES);
	uint64_t begin = w->free_ns > now ? w->free_ns : now;

	if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == EIO)) /* EIO: the device is not up yet */
		return false;
	if (n <= 0)
		wire_fail("read from the device");
	if (opts->loss_ppm && draw(&w->random) % 1000000 < opts->loss_ppm) {
		w->nr_lost++;
		return true;
	}
	if (is_full || (begin - now) * opts->rate_bps / 8 / NS_PER_S + (uint64_t)n > opts->queue_bytes) {
		w->nr_overflowed++;
		return true;
	}
	w->free_ns = begin + (uint64_t)n * 8 * NS_PER_S / opts->rate_bps;
	p->due_ns = w->free_ns + opts->delay_ns;
	p->nr_bytes = (uint32_t)n;
	w->tail++;
	return true;
}

static void send_due(struct way *w, uint64_t now)
{
	while (w->head < w->tail) {
		struct packet *p = &w->slots[w->head % NR_SLOTS];

		if (p->due_ns > now)
			break;
		/* what the other end cannot take now is lost, as on a wire */
		if (write(w->to, p->data, p->nr_bytes) < 0) {
			w->nr_overflowed++;
		} else {
			w->nr_sent++;
			w->nr_bytes += p->nr_bytes;
		}
		w->head++;
	}
}

/* Until the next packet is due. false: none is under way. */
static bool next_due(const struct way ways[2], uint64_t now, struct timespec *ret_wait)
{
	uint64_t due = UINT64_MAX;

	for (int i = 0; i < 2; i++)
		if (ways[i].head < ways[i].tail && ways[i].slots[ways[i].head % NR_SLOTS].due_ns < due)
			due = ways[i].slots[ways[i].head % NR_SLOTS].due_ns;
	if (due == UINT64_MAX)
		return false;
	due = due > now ? due - now : 0;
	*ret_wait = (struct timespec){ .tv_sec = (time_t)(due / NS_PER_S), .tv_nsec = (long)(due % NS_PER_S) };
	return true;
}

static void relay(struct way ways[2], const struct link_opts *opts, const sigset_t *while_waiting)
{
	while (!is_told_to_end) {
		struct pollfd fds[2] = { { .fd = ways[0].from, .events = POLLIN }, { .fd = ways[1].from, .events = POLLIN } };
		struct timespec wait;
		bool is_busy = next_due(ways, now_ns(), &wait);

		if (ppoll(fds, 2, is_busy ? &wait : NULL, while_waiting) < 0 && errno != EINTR)
			wire_fail("poll");
		for (int i = 0; i < 2; i++) {
			uint64_t now = now_ns();

			for (int nr = 0; nr < BURST && take_one(&ways[i], opts, now); nr++)
				;
			send_due(&ways[i], now_ns());
		}
	}
}

static uint64_t parse_number(const char *text)
{
	char *end;
	uint64_t v;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || *end || end == text || *text == '-') {
		fprintf(stderr, "bench_link: %s is no number\n", text);
		exit(2);
	}
	return v;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_signal };
	sigset_t blocked, before;
	struct link_opts opts;
	struct way ways[2];
	int a, b;

	if (argc != 8) {
		fputs("usage: bench_link NETNS_A NETNS_B RATE_BPS DELAY_US LOSS_PPM QUEUE_BYTES SEED\n"
		      "Makes the device kbench in both; DELAY_US is one way. Says ready; at SIGTERM, for each way: packets sent, lost, overflowed, bytes.\n",
		      stderr);
		return 2;
	}
	opts = (struct link_opts){ .rate_bps = parse_number(argv[3]), .delay_ns = parse_number(argv[4]) * 1000,
				   .loss_ppm = parse_number(argv[5]), .queue_bytes = parse_number(argv[6]) };
	if (opts.rate_bps == 0) {
		fputs("bench_link: a link of no rate\n", stderr);
		return 2;
	}
	sigemptyset(&blocked); /* a signal between the look at the flag and the wait would be slept over */
	sigaddset(&blocked, SIGTERM);
	sigaddset(&blocked, SIGINT);
	sigprocmask(SIG_BLOCK, &blocked, &before);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	prctl(PR_SET_TIMERSLACK, 1000ul, 0, 0, 0);
	a = open_tun(argv[1], DEVICE);
	b = open_tun(argv[2], DEVICE);
	ways[0] = (struct way){ .from = a, .to = b, .random = parse_number(argv[7]) };
	ways[1] = (struct way){ .from = b, .to = a, .random = parse_number(argv[7]) ^ 0x5555555555555555u };
	for (int i = 0; i < 2; i++) {
		ways[i].slots = calloc(NR_SLOTS, sizeof *ways[i].slots);
		if (!ways[i].slots)
			wire_fail("memory");
	}
	puts("ready");
	fflush(stdout);
	relay(ways, &opts, &before);
	for (int i = 0; i < 2; i++) {
		printf("%llu %llu %llu %llu\n", (unsigned long long)ways[i].nr_sent, (unsigned long long)ways[i].nr_lost,
		       (unsigned long long)ways[i].nr_overflowed, (unsigned long long)ways[i].nr_bytes);
		free(ways[i].slots);
	}
	return 0;
}
