/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A writer that knows what it was promised, and its judge. Write n of a cycle, a few blocks at a place drawn from the seed, can be
 * computed again by anybody; so of what was acknowledged only its number needs to be known.
 *
 *   ackblocks write DEVICE SEED CYCLE COUNT ACKS [MARK]   write 1 to COUNT, flush now and then; each flush that succeeded: its number is a line
 *                                                      of ACKS, durably; then "MARK number" is run
 *   ackblocks check DEVICE SEED CYCLE ACKED SOURCE STATE  each block holds the last write up to ACKED or a later one of the cycle; without such
 *                                                      a write what STATE says that it held before (no STATE: the source's); STATE is renewed
 *   ackblocks leak SEED CYCLE MS FILE...               has parts of the files' page cache written, one each MS, without end and without a flush
 *
 * Owns. Nothing. Locks. None.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"
#include "kedge/disk.h"
#include "kedge/err.h"

#define MAGIC UINT64_C(0x6b636f6c626b6361)
#define BLOCK KEDGE_BLOCK_BYTES
#define RUN_MAX 24u
#define COUNT_MAX 1000000u
#define FLUSH_ONE_IN 6u

static uint64_t seed, nr_blocks;
static uint32_t cycle;

static void die(const char *what, const char *path)
{
	fprintf(stderr, "ackblocks: %s %s: %s\n", what, path, strerror(errno));
	exit(1);
}

static uint64_t mix(uint64_t n, uint64_t what)
{
	uint64_t x = seed + ((uint64_t)cycle << 40) + (n << 8) + what;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* Write n: one block, a run, or sixteen that are a region of 64 KiB. */
static void op_of(uint64_t n, uint64_t *ret_first, uint64_t *ret_nr)
{
	uint64_t kind = mix(n, 1) % 4, nr = kind == 0 ? 1 : kind == 1 ? 16 : 1 + mix(n, 2) % RUN_MAX;

	*ret_first = mix(n, 3) % (nr_blocks - RUN_MAX);
	if (kind == 1)
		*ret_first = kedge_round_down(*ret_first, 16);
	*ret_nr = nr;
}

static void stamp(uint8_t *out, uint64_t block, uint32_t in_cycle, uint64_t n)
{
	uint64_t x = mix(n, block + 16) | 1;

	kedge_put_le64(out, MAGIC);
	kedge_put_le64(out + 8, seed);
	kedge_put_le64(out + 16, block);
	kedge_put_le32(out + 24, in_cycle);
	kedge_put_le32(out + 28, (uint32_t)n);
	for (unsigned i = 32; i < BLOCK - 8; i += 8) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		kedge_put_le64(out + i, x);
	}
	kedge_put_le64(out + BLOCK - 8, kedge_crc32c(0, out, BLOCK - 8));
}

static int open_device(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_DIRECT);

	if (fd < 0)
		die("cannot open", path);
	nr_blocks = (uint64_t)lseek(fd, 0, SEEK_END) / BLOCK;
	kedge_assert(nr_blocks > 2 * RUN_MAX);
	return fd;
}

/* ---- write ---- */

static void acknowledge(int acks, const char *mark, uint64_t n)
{
	char text[600];
	int len = snprintf(text, sizeof text, "%" PRIu64 "\n", n);

	if (write(acks, text, (size_t)len) != len || fsync(acks) < 0)
		die("cannot write", "acks");
	snprintf(text, sizeof text, "%s %" PRIu64, mark ? mark : "", n);
	if (mark && system(text) != 0)
		die("mark", text);
}

static int do_write(const char *device, uint64_t count, const char *acks_path, const char *mark)
{
	int fd = open_device(device, O_RDWR), acks = open(acks_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	uint8_t *buf = kedge_buf_alloc(RUN_MAX * BLOCK);

	if (acks < 0)
		die("cannot open", acks_path);
	for (uint64_t n = 1; n <= count; n++) {
		uint64_t first, nr;
		op_of(n, &first, &nr);
		for (uint64_t i = 0; i < nr; i++)
			stamp(buf + i * BLOCK, first + i, cycle, n);
		if (pwrite(fd, buf, nr * BLOCK, (off_t)(first * BLOCK)) != (ssize_t)(nr * BLOCK))
			die("cannot write", device);
		if (mix(n, 4) % FLUSH_ONE_IN && n != count)
			continue;
		if (fdatasync(fd) < 0)
			die("cannot flush", device);
		acknowledge(acks, mark, n);
	}
	return 0;
}

/* ---- check ---- */

/* cycle << 32 | n of a block's content; 0: the source's. False: neither. */
static bool decode(const uint8_t *in, const uint8_t *source, uint64_t block, uint64_t *ret_value)
{
	*ret_value = 0;
	if (memcmp(in, source, BLOCK) == 0)
		return true;
	*ret_value = (uint64_t)kedge_get_le32(in + 24) << 32 | kedge_get_le32(in + 28);
	return kedge_get_le64(in) == MAGIC && kedge_get_le64(in + 8) == seed && kedge_get_le64(in + 16) == block &&
	       kedge_get_le64(in + BLOCK - 8) == kedge_crc32c(0, in, BLOCK - 8);
}

static bool is_write_of(uint64_t n, uint64_t block)
{
	uint64_t first, nr;

	op_of(n, &first, &nr);
	return block >= first && block < first + nr;
}

static uint64_t *load_state(const char *path)
{
	uint64_t *s = calloc(nr_blocks, sizeof *s);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, s, nr_blocks * sizeof *s) != (ssize_t)(nr_blocks * sizeof *s))
		die("cannot read", path);
	if (fd >= 0)
		close(fd);
	return s;
}

static void save_state(const char *path, const uint64_t *s)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, s, nr_blocks * sizeof *s) != (ssize_t)(nr_blocks * sizeof *s) || fsync(fd) < 0)
		die("cannot write", path);
	close(fd);
}

static const char *judge(uint64_t block, uint64_t value, uint64_t need, uint64_t before, uint64_t acked)
{
	uint64_t n = value & UINT32_MAX;

	if (value == before)
		return need ? "an acknowledged write is lost" : NULL;
	if (value >> 32 != cycle || n == 0 || n > COUNT_MAX || !is_write_of(n, block))
		return value >> 32 < cycle ? "it went back to an older value" : "a write that never was";
	if (need && n < need)
		return "an acknowledged write is lost";
	return !need && n <= acked ? "a write that never was" : NULL;
}

static int do_check(const char *device, uint64_t acked, const char *source_path, const char *state_path)
{
	int fd = open_device(device, O_RDONLY), source = open(source_path, O_RDONLY | O_CLOEXEC);
	uint8_t *in = kedge_buf_alloc(BLOCK), *src = kedge_buf_alloc(BLOCK);
	uint64_t *state = load_state(state_path), *need = calloc(nr_blocks, sizeof *need), nr_wrong = 0, nr_acked = 0, nr_later = 0;

	for (uint64_t n = 1; n <= acked; n++) {
		uint64_t first, nr;
		op_of(n, &first, &nr);
		for (uint64_t b = first; b < first + nr; b++)
			need[b] = n;
	}
	for (uint64_t b = 0; b < nr_blocks; b++) {
		const char *why = "neither the source's nor one that was written: torn, misplaced or another owner's";
		uint64_t value;
		if (pread(source, src, BLOCK, (off_t)(b * BLOCK)) != (ssize_t)BLOCK)
			die("cannot read", source_path);
		if (pread(fd, in, BLOCK, (off_t)(b * BLOCK)) != (ssize_t)BLOCK)
			die("cannot read", device);
		if (decode(in, src, b, &value))
			why = judge(b, value, need[b], state[b], acked);
		if (why && nr_wrong++ < 5)
			fprintf(stderr, "ackblocks: seed %" PRIu64 " cycle %u, block %" PRIu64 ": %s (here %" PRIx64 ", acknowledged %" PRIx64 ", before %" PRIx64 ")\n",
				seed, cycle, b, why, value, need[b], state[b]);
		nr_acked += need[b] != 0;
		nr_later += (value & UINT32_MAX) > acked && value >> 32 == cycle;
		state[b] = value;
	}
	if (nr_wrong) {
		fprintf(stderr, "ackblocks: %" PRIu64 " of %" PRIu64 " blocks are wrong, with writes up to %" PRIu64 " acknowledged\n", nr_wrong, nr_blocks,
			acked);
		return 1;
	}
	save_state(state_path, state);
	printf("%" PRIu64 " blocks right: %" PRIu64 " acknowledged (writes up to %" PRIu64 "), %" PRIu64 " hold later ones\n", nr_blocks, nr_acked, acked,
	       nr_later);
	return 0;
}

/* ---- leak ---- */

static int do_leak(unsigned ms, char *const *paths, unsigned nr_paths)
{
	const struct timespec nap = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
	int fds[8];

	for (unsigned i = 0; i < nr_paths && i < 8; i++) {
		fds[i] = open(paths[i], O_RDWR | O_CLOEXEC);
		if (fds[i] < 0)
			die("cannot open", paths[i]);
	}
	for (uint64_t n = 0; getppid() != 1; n++, nanosleep(&nap, NULL)) {
		int fd = fds[mix(n, 5) % nr_paths];
		off_t size = lseek(fd, 0, SEEK_END), at = (off_t)(mix(n, 6) % (uint64_t)size);
		sync_file_range(fd, at, size / 128, SYNC_FILE_RANGE_WRITE);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 5 && argc < 14 && strcmp(argv[1], "leak") == 0) {
		seed = strtoull(argv[2], NULL, 0);
		cycle = (uint32_t)strtoul(argv[3], NULL, 0);
		return do_leak((unsigned)strtoul(argv[4], NULL, 0), argv + 5, (unsigned)argc - 5);
	}
	if (argc < 7)
		goto usage;
	seed = strtoull(argv[3], NULL, 0);
	cycle = (uint32_t)strtoul(argv[4], NULL, 0);
	if (cycle == 0)
		goto usage;
	if (strcmp(argv[1], "write") == 0)
		return do_write(argv[2], strtoull(argv[5], NULL, 0), argv[6], argc > 7 ? argv[7] : NULL);
	if (strcmp(argv[1], "check") == 0 && argc == 8)
		return do_check(argv[2], strtoull(argv[5], NULL, 0), argv[6], argv[7]);
usage:
	fprintf(stderr, "usage: ackblocks write DEVICE SEED CYCLE COUNT ACKS [MARK]\n       ackblocks check DEVICE SEED CYCLE ACKED SOURCE STATE\n"
			"       ackblocks leak SEED CYCLE MS FILE...\n"
			"CYCLE counts from 1\n");
	return 2;
}
