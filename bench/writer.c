/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A workload that stops and starts as fast as any can: writes 4 KiB, durably, to KEDGE_DEVICE, about two thousand times a second, and
 * records each write that returned. SIGTERM ends it on the spot.
 *
 * Owns. The first 256 KiB of the device.
 *
 * Locks. None: one thread.
 *
 * Crash. A write is recorded after it returned (O_DIRECT, O_DSYNC); one that was not recorded was not acknowledged.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK_BYTES = 4096, NR_BLOCKS = 64, PAUSE_NS = 500000 };

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int fail(const char *what)
{
	fprintf(stderr, "bench_writer: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	static char block[BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));
	const char *device = getenv("KEDGE_DEVICE"), *host = getenv("KEDGE_HOST");
	char line[128];

	if (argc != 2 || !device) {
		fputs("usage: KEDGE_DEVICE=PATH bench_writer RECORD (lines: HOST monotonic-ns realtime-ns)\n", stderr);
		return 2;
	}
	int record = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (record < 0)
		return fail(argv[1]);
	int fd = open(device, O_WRONLY | O_DIRECT | O_DSYNC | O_CLOEXEC);
	if (fd < 0)
		return fail(device);
	for (uint64_t n = 0;; n++) {
		struct timespec pause = { 0, PAUSE_NS };

		memcpy(block, &n, sizeof n);
		if (pwrite(fd, block, sizeof block, (off_t)(n % NR_BLOCKS * BLOCK_BYTES)) != BLOCK_BYTES)
			return fail(device);
		int nr = snprintf(line, sizeof line, "%s %" PRIu64 " %" PRIu64 "\n", host ? host : "-", clock_ns(CLOCK_MONOTONIC),
				  clock_ns(CLOCK_REALTIME));
		if (write(record, line, (size_t)nr) != nr)
			return fail(argv[1]);
		nanosleep(&pause, NULL);
	}
}
