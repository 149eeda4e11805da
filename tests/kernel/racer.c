/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The racing writer of race.sh. One program, three parts:
 *
 *   racer write DEVICE RECORD SEED MAX       writes numbered blocks at random places in every other run of 16 blocks, reads back what it wrote
 *                                            there before, flushes now and then, and remembers what was acknowledged, until SIGTERM or MAX
 *                                            writes; then a last flush, and the record: a number a block
 *   racer check DEVICE RECORD SOURCE         compares: every block as it was acknowledged last, the others as at the source
 *   racer naive SOURCE CLONE BATCH MS        the obvious hydrator: reads a batch of the source, which takes MS over a network, and writes it back
 *                                            through the clone
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"

#define BLOCK 4096u
#define MAGIC 0x4b524143u

static volatile sig_atomic_t is_asked_to_end;

static void term_cb(int sig)
{
	(void)sig;
	is_asked_to_end = 1;
}

static void die(const char *what)
{
	fprintf(stderr, "racer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t random_next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static int open_direct(const char *path, int flags)
{
	int fd = open(path, flags | O_DIRECT | O_CLOEXEC);

	if (fd < 0 && errno == EINVAL)
		fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		die(path);
	return fd;
}

static void *get_buf(size_t n)
{
	void *p = NULL;

	if (posix_memalign(&p, BLOCK, n) != 0)
		die("memory");
	return memset(p, 0, n);
}

static void transfer(int fd, bool is_write, void *buf, size_t n, uint64_t at)
{
	ssize_t k = is_write ? pwrite(fd, buf, n, (off_t)at) : pread(fd, buf, n, (off_t)at);

	if (k != (ssize_t)n)
		die(is_write ? "write" : "read");
}

/* magic, crc of the rest, block number, sequence number, then words that follow from both */
static void make_block(uint8_t *b, uint64_t nr, uint64_t seq)
{
	uint64_t s = nr * 0x9e3779b97f4a7c15ull ^ seq ^ 1;

	for (size_t i = 24; i < BLOCK; i += 8)
		kedge_put_le64(b + i, random_next(&s));
	kedge_put_le32(b, MAGIC);
	kedge_put_le64(b + 8, nr);
	kedge_put_le64(b + 16, seq);
	kedge_put_le32(b + 4, kedge_crc32c(0, b + 8, BLOCK - 8));
}

/* Sequence number of a whole block of ours at this place; 0: none. */
static uint64_t seq_of(const uint8_t *b, uint64_t nr)
{
	if (kedge_get_le32(b) != MAGIC || kedge_get_le32(b + 4) != kedge_crc32c(0, b + 8, BLOCK - 8) || kedge_get_le64(b + 8) != nr)
		return 0;
	return kedge_get_le64(b + 16);
}

static int run_write(char **arg)
{
	uint64_t seed = strtoull(arg[2], NULL, 10), max = strtoull(arg[3], NULL, 10), seq = 0, nr_flushes = 0, nr_lost = 0, due = 1;
	int fd = open_direct(arg[0], O_RDWR);
	uint64_t nr_blocks = (uint64_t)lseek(fd, 0, SEEK_END) / BLOCK, s = seed * 2654435761u + 88172645463325252ull;
	uint64_t *last = calloc(nr_blocks, sizeof *last);
	struct sigaction sa = {.sa_handler = term_cb};
	uint8_t *b = get_buf(BLOCK);

	if (!last)
		die("memory");
	sigaction(SIGTERM, &sa, NULL);
	while (!is_asked_to_end && seq < max) {
		uint64_t nr = random_next(&s) % nr_blocks;
		nr &= ~16ull; /* the other runs are for whoever hydrates */
		if (last[nr]) { /* a loss may be written over before anybody looks */
			transfer(fd, false, b, BLOCK, nr * BLOCK);
			nr_lost += seq_of(b, nr) != last[nr];
		}
		make_block(b, nr, ++seq);
		transfer(fd, true, b, BLOCK, nr * BLOCK);
		last[nr] = seq;
		if (seq < due)
			continue;
		if (fdatasync(fd) < 0)
			die("flush");
		nr_flushes++;
		due = seq + 1 + random_next(&s) % 16;
	}
	/* what is recorded is acknowledged: by this flush at the latest */
	if (fdatasync(fd) < 0)
		die("flush");
	FILE *f = fopen(arg[1], "we");
	if (!f || fwrite(last, sizeof *last, nr_blocks, f) != nr_blocks || fclose(f) != 0)
		die(arg[1]);
	printf("seed %" PRIu64 ": %" PRIu64 " writes, %" PRIu64 " flushes, %" PRIu64 " lost when read back\n", seed, seq, nr_flushes + 1, nr_lost);
	return 0;
}

static int run_check(char **arg)
{
	int fd = open_direct(arg[0], O_RDONLY), source_fd = open_direct(arg[2], O_RDONLY);
	uint64_t nr_blocks = (uint64_t)lseek(fd, 0, SEEK_END) / BLOCK, nr_written = 0, nr_lost = 0, nr_foreign = 0;
	uint64_t *last = calloc(nr_blocks, sizeof *last);
	uint8_t *b = get_buf(BLOCK), *source = get_buf(BLOCK);
	FILE *f = fopen(arg[1], "re");

	if (!f || !last || fread(last, sizeof *last, nr_blocks, f) != nr_blocks)
		die(arg[1]);
	fclose(f);
	for (uint64_t nr = 0; nr < nr_blocks; nr++) {
		transfer(fd, false, b, BLOCK, nr * BLOCK);
		if (last[nr]) {
			nr_written++;
			nr_lost += seq_of(b, nr) != last[nr];
			continue;
		}
		transfer(source_fd, false, source, BLOCK, nr * BLOCK);
		nr_foreign += memcmp(b, source, BLOCK) != 0;
	}
	printf("lost %" PRIu64 " of %" PRIu64 " acknowledged blocks, %" PRIu64 " others differ from the source\n", nr_lost, nr_written, nr_foreign);
	return nr_lost || nr_foreign ? 3 : 0;
}

static int run_naive(char **arg)
{
	size_t batch = strtoul(arg[2], NULL, 10);
	const struct timespec network = {.tv_nsec = (long)strtoul(arg[3], NULL, 10) * 1000000};
	int fd = open_direct(arg[1], O_RDWR), source_fd = open_direct(arg[0], O_RDONLY);
	uint64_t size_bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	uint8_t *b = get_buf(batch);

	for (uint64_t at = 0; at < size_bytes; at += batch) {
		size_t n = kedge_min_u64(batch, size_bytes - at);
		transfer(source_fd, false, b, n, at);
		nanosleep(&network, NULL);
		transfer(fd, true, b, n, at);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 6 && strcmp(argv[1], "write") == 0)
		return run_write(argv + 2);
	if (argc == 5 && strcmp(argv[1], "check") == 0)
		return run_check(argv + 2);
	if (argc == 6 && strcmp(argv[1], "naive") == 0)
		return run_naive(argv + 2);
	fprintf(stderr, "usage: racer write DEVICE RECORD SEED MAX | check DEVICE RECORD SOURCE | naive SOURCE CLONE BATCH MS\n");
	return 2;
}
