/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. S6, reduced: a connection that is reset after any number of bytes, in either direction, is noticed and the read is
 * replayed; what arrives is right every time, and nothing is written behind the buffer or after the answer. And one that stalls
 * after any number of bytes ends a read with a time limit once, in time; what arrives later is written nowhere.
 *
 * Owns. A child process that forwards between the source under test and a real target and cuts where it is told.
 *
 * Locks. One shared page: the parent arms a cut while no connection is under way.
 *
 * Usage: test_cut TARGET-PORT IQN LUN FILE SEED NR-CUTS NR-STALLS [ALL-BELOW]; FILE holds the unit's bytes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kcopy/kcopy.h"
#include "kedge/disk.h"
#include "kedge/log.h"

#define READ_BYTES 65536u
#define GUARD_BYTES 4096u

enum direction { FROM_TARGET, TO_TARGET };

struct shared {
	_Atomic int64_t cut_at[2];    /* bytes of that direction to let through; -1: all */
	_Atomic uint64_t passed[2];   /* bytes in the connection that ended last, or that is open */
	_Atomic unsigned nr_cuts;
	_Atomic bool is_stall;        /* hold the rest back instead of cutting */
	_Atomic bool is_stalled, may_go_on;
};

static struct shared *shared;

/* ---- the proxy ---- */

static int listen_any(uint16_t *ret_port)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof sa;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 || listen(fd, 8) < 0 ||
	    getsockname(fd, (struct sockaddr *)&sa, &len) < 0) {
		perror("listen");
		exit(1);
	}
	*ret_port = ntohs(sa.sin_port);
	return fd;
}

static void reset(int fd)
{
	struct linger l = { .l_onoff = 1, .l_linger = 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
	close(fd);
}

static int send_all(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t r = send(fd, p, n, MSG_NOSIGNAL);
		if (r <= 0)
			return -1;
		p += r;
		n -= (size_t)r;
	}
	return 0;
}

/* Move what is there. 0; -1: ended; 1: cut. */
static int move(enum direction dir, int from, int to)
{
	static char buf[65536];
	ssize_t n = recv(from, buf, sizeof buf, 0);
	int64_t cut_at = shared->cut_at[dir];
	uint64_t passed = shared->passed[dir];

	if (n <= 0)
		return -1;
	if (cut_at >= 0 && passed + (uint64_t)n >= (uint64_t)cut_at) {
		size_t rest = (uint64_t)cut_at > passed ? (size_t)((uint64_t)cut_at - passed) : 0;
		send_all(to, buf, rest);
		shared->passed[dir] = passed + rest;
		shared->cut_at[dir] = -1;
		shared->nr_cuts++;
		if (!shared->is_stall)
			return 1;
		shared->is_stalled = true;
		while (!shared->may_go_on)
			usleep(500);
		return send_all(to, buf + rest, (size_t)n - rest);
	}
	if (send_all(to, buf, (size_t)n) < 0)
		return -1;
	shared->passed[dir] = passed + (uint64_t)n;
	return 0;
}

static void forward(int client, uint16_t target_port)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(target_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int target = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = 0;

	shared->passed[FROM_TARGET] = shared->passed[TO_TARGET] = 0;
	if (connect(target, (struct sockaddr *)&sa, sizeof sa) < 0)
		rc = -1;
	/* a cut at 0 is a connection that is reset before the first byte */
	if (!shared->is_stall && (shared->cut_at[FROM_TARGET] == 0 || shared->cut_at[TO_TARGET] == 0)) {
		shared->cut_at[FROM_TARGET] = shared->cut_at[TO_TARGET] = -1;
		shared->nr_cuts++;
		rc = 1;
	}
	while (rc == 0) {
		struct pollfd p[2] = { { .fd = client, .events = POLLIN }, { .fd = target, .events = POLLIN } };
		if (poll(p, 2, -1) < 0)
			break;
		if (p[0].revents)
			rc = move(TO_TARGET, client, target);
		if (rc == 0 && p[1].revents)
			rc = move(FROM_TARGET, target, client);
	}
	reset(target);
	if (rc == 1)
		usleep(200); /* let what was let through arrive before the reset overtakes it; either order is a legal network */
	reset(client);
}

static pid_t start_proxy(uint16_t target_port, uint16_t *ret_port)
{
	int fd = listen_any(ret_port);
	pid_t pid = fork();

	if (pid != 0) {
		close(fd);
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		int client = accept(fd, NULL, NULL);
		if (client >= 0)
			forward(client, target_port);
	}
}

/* ---- the source under test ---- */

struct wait {
	bool is_done;
	int res;
};

static void read_cb(struct kedge_source_io *io, int res)
{
	struct wait *w = io->arg;

	w->is_done = true;
	w->res = res;
}

static void closed_cb(void *arg)
{
	*(bool *)arg = true;
}

static void spin(struct kedge_loop *l, const bool *is_done, const char *what)
{
	uint64_t start_ns = kedge_clock_ns();

	while (!*is_done) {
		if (kedge_loop_run_once(l, 100) < 0 || kedge_clock_ns() - start_ns > 20000000000ull) {
			fprintf(stderr, "FAIL: %s does not end\n", what);
			exit(1);
		}
	}
}

struct rig {
	struct kedge_loop *loop;
	char url[320];
	unsigned char *buf, *want;
	uint64_t start_bytes;
};

/* One connection, one read of 64 KiB with a cut armed, compared, closed. */
static void one_read(struct rig *r, enum direction dir, int64_t cut_at)
{
	struct kcopy_source_opts o = { .url = r->url, .nr_sessions = 1 };
	struct kedge_err err = { 0 };
	struct kedge_source *src;
	struct wait w = { 0 };
	bool is_closed = false;
	struct kedge_source_io io = {
		.start_bytes = r->start_bytes, .nr_bytes = READ_BYTES, .buf = r->buf, .fn = read_cb, .arg = &w
	};

	shared->cut_at[FROM_TARGET] = shared->cut_at[TO_TARGET] = -1;
	shared->cut_at[dir] = cut_at;
	memset(r->buf, 0xa5, READ_BYTES + GUARD_BYTES);
	if (kcopy_source_create(r->loop, &o, &src, &err) < 0) {
		fprintf(stderr, "FAIL: %s\n", err.msg);
		exit(1);
	}
	src->ops->start(src);
	src->ops->read(src, &io);
	spin(r->loop, &w.is_done, "the read");
	bool is_right = w.res == 0 && memcmp(r->buf, r->want, READ_BYTES) == 0;
	for (unsigned i = 0; i < GUARD_BYTES; i++)
		is_right = is_right && r->buf[READ_BYTES + i] == 0xa5;
	memset(r->buf, 0x5a, READ_BYTES);
	src->ops->close(src, closed_cb, &is_closed);
	spin(r->loop, &is_closed, "the close");
	for (unsigned i = 0; i < READ_BYTES; i++)
		is_right = is_right && r->buf[i] == 0x5a;
	src->ops->destroy(src);
	if (!is_right) {
		fprintf(stderr, "FAIL: cut at byte %" PRId64 " %s: result %d (%s), wrong bytes\n", cut_at,
			dir == FROM_TARGET ? "from the target" : "to the target", w.res, io.err.msg);
		exit(1);
	}
}

static void never_again_cb(struct kedge_source_io *io, int res)
{
	struct wait *w = io->arg;

	if (w->is_done) {
		fprintf(stderr, "FAIL: a read was answered twice\n");
		exit(1);
	}
	read_cb(io, res);
}

/*
 * One read with a time limit on a connection that stalls; then let the rest come, and see that it goes nowhere. False: on a busy
 * machine the time was over before so many bytes had come.
 */
static bool one_stall(struct rig *r, int64_t cut_at)
{
	struct kcopy_source_opts o = { .url = r->url, .nr_sessions = 1 };
	struct kedge_source *src;
	struct wait w = { 0 };
	bool is_closed = false;
	struct kedge_source_io io = {
		.start_bytes = r->start_bytes, .nr_bytes = READ_BYTES, .buf = r->buf, .timeout_ms = 60, .fn = never_again_cb, .arg = &w
	};

	shared->is_stall = true;
	shared->is_stalled = shared->may_go_on = false;
	shared->cut_at[TO_TARGET] = -1;
	shared->cut_at[FROM_TARGET] = cut_at;
	if (kcopy_source_create(r->loop, &o, &src, NULL) < 0)
		exit(1);
	src->ops->start(src);
	uint64_t start_ns = kedge_clock_ns();
	src->ops->read(src, &io);
	spin(r->loop, &w.is_done, "the read");
	uint64_t took_ms = (kedge_clock_ns() - start_ns) / 1000000;
	memset(r->buf, 0x5a, READ_BYTES);
	shared->may_go_on = true;
	for (int i = 0; i < 6; i++)
		kedge_loop_run_once(r->loop, 5);
	src->ops->close(src, closed_cb, &is_closed);
	spin(r->loop, &is_closed, "the close");
	src->ops->destroy(src);
	bool is_right = w.res == KEDGE_E_SOURCE_AWAY && took_ms >= 59 && took_ms < 1060;
	for (unsigned i = 0; i < READ_BYTES; i++)
		is_right = is_right && r->buf[i] == 0x5a;
	if (!is_right) {
		fprintf(stderr, "FAIL: stall at byte %" PRId64 ": result %d after %" PRIu64 " ms, or late bytes in the buffer\n", cut_at,
			w.res, took_ms);
		exit(1);
	}
	shared->is_stall = false;
	return shared->is_stalled;
}

int main(int argc, char **argv)
{
	struct rig r = { 0 };
	struct kedge_err err = { 0 };
	uint16_t port;

	if (argc < 8) {
		fprintf(stderr, "usage: %s TARGET-PORT IQN LUN FILE SEED NR-CUTS NR-STALLS [ALL-BELOW]\n", argv[0]);
		return 2;
	}
	unsigned seed = (unsigned)atoi(argv[5]), nr = (unsigned)atoi(argv[6]);
	unsigned nr_stalls = (unsigned)atoi(argv[7]);
	int64_t all_below = argc > 8 ? atoll(argv[8]) : 0;
	kedge_log_init("test_cut", KEDGE_LOG_WARN);
	setenv("KEDGE_SOURCE_TIMEOUTS", "login=2000,command=2000,nop=1000,nop-reply=1000,logout=500,backoff-min=1,backoff-max=20", 1);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t proxy = start_proxy((uint16_t)atoi(argv[1]), &port);
	snprintf(r.url, sizeof r.url, "iscsi://127.0.0.1:%u/%s/%s", port, argv[2], argv[3]);
	r.start_bytes = 8 * 4096;
	r.buf = kedge_buf_alloc(READ_BYTES + GUARD_BYTES);
	r.want = kedge_buf_alloc(READ_BYTES);
	int fd = open(argv[4], O_RDONLY);
	if (fd < 0 || pread(fd, r.want, READ_BYTES, (off_t)r.start_bytes) != READ_BYTES ||
	    kedge_loop_create(64, &r.loop, &err) < 0) {
		fprintf(stderr, "FAIL: %s %s\n", argv[4], err.msg);
		return 1;
	}
	/* how long a session without a cut is */
	int64_t len[2];
	one_read(&r, FROM_TARGET, -1);
	for (int dir = 0; dir < 2; dir++)
		len[dir] = (int64_t)shared->passed[dir];
	printf("a session has %" PRId64 " bytes from and %" PRId64 " to the target; seed %u\n", len[0], len[1], seed);

	unsigned nr_done = 0;
	srandom(seed);
	for (int64_t at = 0; at < all_below && at < len[FROM_TARGET]; at++, nr_done++)
		one_read(&r, FROM_TARGET, at);
	for (unsigned i = 0; i < nr; i++, nr_done++) {
		enum direction dir = random() % 4 == 0 ? TO_TARGET : FROM_TARGET;
		one_read(&r, dir, random() % len[dir]);
	}
	printf("PASS: %u reads, %u cuts, 0 wrong\n", nr_done, shared->nr_cuts);
	if (shared->nr_cuts < nr_done * 9 / 10) {
		fprintf(stderr, "FAIL: only %u of %u connections were cut: the proxy tests nothing\n", shared->nr_cuts, nr_done);
		return 1;
	}
	/* short of the end of the data: later the read would be complete */
	for (unsigned i = 0; i < nr_stalls; i++) {
		int64_t at = random() % (len[FROM_TARGET] - 200);
		int nr_tries = 1;
		while (!one_stall(&r, at) && nr_tries < 50)
			nr_tries++;
		if (nr_tries == 50) {
			fprintf(stderr, "FAIL: no session stalls at byte %" PRId64 ": the proxy tests nothing\n", at);
			return 1;
		}
	}
	printf("PASS: %u stalls, every read answered once and in time, 0 late bytes\n", nr_stalls);
	kill(proxy, SIGKILL);
	waitpid(proxy, NULL, 0);
	kedge_loop_destroy(r.loop);
	kedge_buf_free(r.buf);
	kedge_buf_free(r.want);
	close(fd);
	return 0;
}
