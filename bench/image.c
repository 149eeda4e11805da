/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The images that the bench copies, from a seed; and the state of a destination before a run, and the comparison after it.
 *
 * Owns. The files it is given.
 *
 * Locks. None: one thread.
 *
 * Crash. Nothing here is durable: the bench makes its files anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { UNIT_BYTES = 64 * 1024, RUN_UNITS_MAX = 64, CHUNK_BYTES = 1024 * 1024, NR_WORDS = 4096 };
enum kind { KIND_RANDOM, KIND_TEXT, KIND_HOLE, NR_KINDS };

struct run {
	uint32_t nr_units;
	enum kind kind;
};

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static void fail(const char *what)
{
	fprintf(stderr, "bench_image: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void write_at(int fd, const void *data, size_t nr_bytes, uint64_t start_bytes)
{
	const char *at = data;

	while (nr_bytes) {
		ssize_t n = pwrite(fd, at, nr_bytes, (off_t)start_bytes);

		if (n <= 0)
			fail("write");
		at += n;
		nr_bytes -= (size_t)n;
		start_bytes += (uint64_t)n;
	}
}

static char words[NR_WORDS][12];

static void make_words(uint64_t *state)
{
	for (int i = 0; i < NR_WORDS; i++) {
		int nr = 2 + (int)(next_random(state) % 8);

		for (int c = 0; c < nr; c++)
			words[i][c] = "etaoinshrdlucmfwypvbgkjqxz"[next_random(state) % 26 * (next_random(state) % 26) / 26];
		words[i][nr] = ' ';
		words[i][nr + 1] = 0;
	}
}

/* Frequent words are much more frequent than rare ones, as in texts: zstd -3 makes it about a third. */
static void fill_text(char *out, size_t nr_bytes, uint64_t *state)
{
	size_t at = 0;

	while (at < nr_bytes) {
		uint64_t r = next_random(state);
		uint64_t rare = (r & 0xfff) * ((r >> 12) & 0xfff) >> 12;
		const char *word = words[rare * ((r >> 24) & 0xfff) >> 12];
		size_t nr = strlen(word);

		if (nr > nr_bytes - at)
			nr = nr_bytes - at;
		memcpy(out + at, word, nr);
		at += nr;
	}
}

static void fill_random(char *out, size_t nr_bytes, uint64_t *state)
{
	for (size_t i = 0; i + 8 <= nr_bytes; i += 8) {
		uint64_t r = next_random(state);

		memcpy(out + i, &r, 8);
	}
}

static void write_run(int fd, uint64_t start_bytes, uint64_t nr_bytes, enum kind kind, uint64_t *state)
{
	static char chunk[CHUNK_BYTES];

	while (nr_bytes && kind != KIND_HOLE) {
		size_t n = nr_bytes < sizeof chunk ? (size_t)nr_bytes : sizeof chunk;

		if (kind == KIND_TEXT)
			fill_text(chunk, n, state);
		else
			fill_random(chunk, n, state);
		write_at(fd, chunk, n, start_bytes);
		start_bytes += n;
		nr_bytes -= n;
	}
}

/* Runs of 64 KiB to 4 MiB, short ones more often, of each kind exactly its share of the volume, in a random order. */
static struct run *plan_mixed(uint64_t nr_units, uint64_t *state, size_t *ret_nr_runs)
{
	uint64_t left[NR_KINDS] = { [KIND_RANDOM] = nr_units * 4 / 10, [KIND_TEXT] = nr_units * 3 / 10 };
	struct run *runs = calloc(nr_units + 1, sizeof *runs);
	size_t nr = 0;

	if (!runs)
		fail("memory");
	left[KIND_HOLE] = nr_units - left[KIND_RANDOM] - left[KIND_TEXT];
	for (enum kind kind = 0; kind < NR_KINDS; kind++) {
		while (left[kind]) {
			uint32_t n = (1u << next_random(state) % 6) + (uint32_t)(next_random(state) % 32);

			if (n > RUN_UNITS_MAX)
				n = RUN_UNITS_MAX;
			if (n > left[kind])
				n = (uint32_t)left[kind];
			runs[nr++] = (struct run){ n, kind };
			left[kind] -= n;
		}
	}
	for (size_t i = nr; i > 1; i--) {
		size_t j = next_random(state) % i;
		struct run r = runs[i - 1];

		runs[i - 1] = runs[j];
		runs[j] = r;
	}
	*ret_nr_runs = nr;
	return runs;
}

/* make FILE mixed|full SIZE SEED; make FILE sparse SIZE SEED DATA: DATA bytes of random data, in 64 places */
static int make(int argc, char **argv)
{
	uint64_t size_bytes = strtoull(argv[4], NULL, 0), state = strtoull(argv[5], NULL, 0), at = 0;
	int fd = open(argv[2], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (size_bytes == 0 || size_bytes % UNIT_BYTES) {
		fprintf(stderr, "bench_image: a size is a multiple of %d\n", UNIT_BYTES);
		return 2;
	}
	if (fd < 0 || ftruncate(fd, (off_t)size_bytes) < 0)
		fail(argv[2]);
	make_words(&state);
	if (strcmp(argv[3], "mixed") == 0) {
		size_t nr_runs;
		struct run *runs = plan_mixed(size_bytes / UNIT_BYTES, &state, &nr_runs);

		for (size_t i = 0; i < nr_runs; i++) {
			write_run(fd, at, (uint64_t)runs[i].nr_units * UNIT_BYTES, runs[i].kind, &state);
			at += (uint64_t)runs[i].nr_units * UNIT_BYTES;
		}
		free(runs);
	} else if (strcmp(argv[3], "full") == 0) {
		write_run(fd, 0, size_bytes, KIND_RANDOM, &state);
	} else if (strcmp(argv[3], "sparse") == 0 && argc == 7) {
		uint64_t piece = strtoull(argv[6], NULL, 0) / 64;

		for (uint64_t i = 0; i < 64; i++)
			write_run(fd, i * (size_bytes / 64), piece, KIND_RANDOM, &state);
	} else {
		fprintf(stderr, "bench_image: what is %s?\n", argv[3]);
		return 2;
	}
	return close(fd) < 0 ? 1 : 0;
}

/* The next range of data at or after at, or false. */
static bool next_data(int fd, uint64_t at, uint64_t *ret_start, uint64_t *ret_end)
{
	off_t start = lseek(fd, (off_t)at, SEEK_DATA);

	if (start < 0)
		return false;
	off_t end = lseek(fd, start, SEEK_HOLE);
	if (end < 0)
		fail("SEEK_HOLE");
	*ret_start = (uint64_t)start;
	*ret_end = (uint64_t)end;
	return true;
}

/*
 * The destination before a run: as long as the source; where the source has data, pages that are there and hold something else;
 * where it has holes, holes, or with "allocated" pages of zeroes (for what writes the zeroes of holes too).
 */
static int reset(int argc, char **argv)
{
	bool is_allocated = argc == 5 && strcmp(argv[4], "allocated") == 0;
	int source = open(argv[2], O_RDONLY | O_CLOEXEC), dest = open(argv[3], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	static char stale[CHUNK_BYTES];
	uint64_t at = 0, start, end;
	struct stat st;

	if (source < 0 || dest < 0 || fstat(source, &st) < 0 || ftruncate(dest, st.st_size) < 0)
		fail(argv[3]);
	uint64_t size_bytes = (uint64_t)st.st_size;
	for (;;) {
		bool has_data = next_data(source, at, &start, &end);
		uint64_t hole_end = has_data ? start : size_bytes;

		memset(stale, 0, sizeof stale);
		if (!is_allocated && hole_end > at &&
		    fallocate(dest, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)(hole_end - at)) < 0)
			fail("punch");
		for (; is_allocated && at < hole_end; at += CHUNK_BYTES)
			write_at(dest, stale, hole_end - at < CHUNK_BYTES ? (size_t)(hole_end - at) : CHUNK_BYTES, at);
		if (!has_data)
			break;
		memset(stale, 0xa5, sizeof stale);
		for (at = start; at < end; at += CHUNK_BYTES)
			write_at(dest, stale, end - at < CHUNK_BYTES ? (size_t)(end - at) : CHUNK_BYTES, at);
		at = end;
	}
	return 0;
}

/* Every byte of the data of one file, compared with the other; what is a hole in both is equal. */
static int compare_data(int a, int b, uint64_t size_bytes, const char *b_path)
{
	static char left[CHUNK_BYTES], right[CHUNK_BYTES];
	uint64_t start, end = 0;

	while (end < size_bytes && next_data(a, end, &start, &end)) {
		for (uint64_t at = start; at < end; at += CHUNK_BYTES) {
			size_t n = end - at < CHUNK_BYTES ? (size_t)(end - at) : CHUNK_BYTES;

			if (pread(a, left, n, (off_t)at) != (ssize_t)n || pread(b, right, n, (off_t)at) != (ssize_t)n)
				fail("read");
			if (memcmp(left, right, n) == 0)
				continue;
			fprintf(stderr, "bench_image: %s differs within the MiB at %" PRIu64 "\n", b_path, at);
			return 1;
		}
	}
	return 0;
}

static int compare(int argc, char **argv)
{
	int a = open(argv[2], O_RDONLY | O_CLOEXEC), b = open(argv[3], O_RDONLY | O_CLOEXEC);
	struct stat sa, sb;

	if (a < 0 || b < 0 || fstat(a, &sa) < 0 || fstat(b, &sb) < 0)
		fail(argv[3]);
	if (sa.st_size != sb.st_size) {
		fprintf(stderr, "bench_image: %s has another size\n", argv[3]);
		return 1;
	}
	return compare_data(a, b, (uint64_t)sa.st_size, argv[3]) || compare_data(b, a, (uint64_t)sa.st_size, argv[3]);
}

int main(int argc, char **argv)
{
	if (argc >= 6 && strcmp(argv[1], "make") == 0)
		return make(argc, argv);
	if (argc >= 4 && strcmp(argv[1], "reset") == 0)
		return reset(argc, argv);
	if (argc == 4 && strcmp(argv[1], "compare") == 0)
		return compare(argc, argv);
	fputs("usage: bench_image make FILE mixed|full SIZE SEED\n"
	      "       bench_image make FILE sparse SIZE SEED DATA\n"
	      "       bench_image reset SOURCE DEST [allocated]\n"
	      "       bench_image compare SOURCE DEST\n",
	      stderr);
	return 2;
}
