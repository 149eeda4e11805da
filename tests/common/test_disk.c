/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* kedge_disk on real files, on the disk's file system and on tmpfs (which has no ZERO_RANGE). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/disk.h"
#include "kedge/file.h"

#define SIZE (1u << 20)

/* A file system that calls everything a hole, and one that nobody knows. */
static bool is_lying, is_unknown;

off_t lseek(int fd, off_t at, int whence)
{
	if (is_lying && whence == SEEK_DATA) {
		errno = ENXIO;
		return -1;
	}
	return syscall(SYS_lseek, fd, at, whence);
}

int fstatfs(int fd, struct statfs *st)
{
	int r = (int)syscall(SYS_fstatfs, fd, st);

	if (is_unknown)
		st->f_type = 0x2fc12fc1;
	return r;
}

struct probe {
	struct kedge_disk_io io;
	int res;
	unsigned nr_calls;
};

static void probe_cb(struct kedge_disk_io *io, int res)
{
	struct probe *p = kedge_container_of(io, struct probe, io);

	p->res = res;
	p->nr_calls++;
}

static int run_io(struct kedge_loop *l, struct kedge_disk *d, struct kedge_disk_io io)
{
	struct probe p = {.io = io};

	p.io.fn = probe_cb;
	kedge_disk_submit(d, &p.io);
	assert_int_equal(p.nr_calls, 0);
	for (int i = 0; i < 500 && !p.nr_calls; i++)
		kedge_loop_run_once(l, 20);
	assert_int_equal(p.nr_calls, 1);
	return p.res;
}

static int run(struct kedge_loop *l, struct kedge_disk *d, enum kedge_disk_op op, uint64_t start, uint64_t n, void *buf)
{
	return run_io(l, d, (struct kedge_disk_io){.op = op, .start_bytes = start, .nr_bytes = n, .buf = buf});
}

/* Of what nobody has written. */
static int run_zero_empty(struct kedge_loop *l, struct kedge_disk *d, uint64_t start, uint64_t n)
{
	return run_io(l, d, (struct kedge_disk_io){.op = KEDGE_DISK_ZERO, .start_bytes = start, .nr_bytes = n, .may_stay_hole = true});
}

static void check_on(const char *dir)
{
	struct kedge_loop *l;
	struct kedge_disk *d;
	char path[200];
	char *a = kedge_buf_alloc(SIZE), *b = kedge_buf_alloc(SIZE + 64);
	int fd;

	snprintf(path, sizeof path, "%s/kedge-disk-XXXXXX", dir);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	assert_int_equal(kedge_loop_create(64, &l, NULL), 0);
	assert_int_equal(kedge_disk_open(l, path, 0, &d, NULL), 0);
	assert_int_equal(d->size_bytes, SIZE);

	for (unsigned i = 0; i < SIZE; i++)
		a[i] = (char)(i * 7 + i / 4096);
	assert_int_equal(run(l, d, KEDGE_DISK_WRITE, 0, SIZE, a), 0);
	assert_int_equal(run(l, d, KEDGE_DISK_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(run(l, d, KEDGE_DISK_READ, 4096, 8192, b + 8), 0); /* a misaligned buffer is bounced */
	assert_memory_equal(b + 8, a + 4096, 8192);
	assert_int_equal(run(l, d, KEDGE_DISK_WRITE, 512, 512, b + 8), 0);
	memcpy(a + 512, b + 8, 512);
	/* fine and whole ranges side by side see each other's bytes */
	assert_int_equal(run(l, d, KEDGE_DISK_READ, 0, 4096, b), 0);
	assert_memory_equal(b, a, 4096);
	memset(a + 8192, 0x5a, 4096);
	assert_int_equal(run(l, d, KEDGE_DISK_WRITE, 8192, 4096, a + 8192), 0);
	memset(a + 8192 + 1024, 0x33, 512);
	assert_int_equal(run(l, d, KEDGE_DISK_WRITE, 8192 + 1024, 512, a + 8192 + 1024), 0);
	assert_int_equal(run(l, d, KEDGE_DISK_READ, 8192 + 512, 1536, b), 0);
	assert_memory_equal(b, a + 8192 + 512, 1536);
	assert_int_equal(run(l, d, KEDGE_DISK_READ, 8192, 4096, b), 0);
	assert_memory_equal(b, a + 8192, 4096);
	assert_int_equal(run(l, d, KEDGE_DISK_FLUSH, 0, 0, NULL), 0);

	/* two at once, so that a refused way of zeroing is found by both */
	struct probe z[2];
	for (unsigned i = 0; i < 2; i++) {
		z[i] = (struct probe){.io = {.op = KEDGE_DISK_ZERO, .start_bytes = 65536 * (i + 1), .nr_bytes = 12288, .fn = probe_cb}};
		kedge_disk_submit(d, &z[i].io);
		memset(a + 65536 * (i + 1), 0, 12288);
	}
	for (int i = 0; i < 500 && !(z[0].nr_calls && z[1].nr_calls); i++)
		kedge_loop_run_once(l, 20);
	assert_int_equal(z[0].res, 0);
	assert_int_equal(z[1].res, 0);
	assert_int_equal(run(l, d, KEDGE_DISK_READ, 0, SIZE, b), 0);
	assert_memory_equal(a, b, SIZE);
	assert_int_equal(run(l, d, KEDGE_DISK_READ, SIZE, 4096, b), -EIO); /* past the end: an error, not a short count */

	kedge_disk_close(d);
	kedge_loop_destroy(l);
	close(fd);
	unlink(path);
	kedge_buf_free(a);
	kedge_buf_free(b);
}

static void test_disk_on_a_file_system(void **state)
{
	check_on("/var/tmp");
}

static void test_disk_on_tmpfs(void **state)
{
	check_on("/dev/shm");
}

/* A range of a terabyte with a MiB in the middle, and one that is reserved. */
static void check_sparse_on(const char *dir)
{
	const uint64_t size = 1ull << 40, data = size / 2 + 4096, reserved = size / 4;
	const uint32_t nr = 1u << 20;
	char path[64], *a = kedge_buf_alloc(nr);
	struct kedge_loop *l;
	struct kedge_disk *d;
	struct stat st;
	int fd;

	snprintf(path, sizeof path, "%s/kedge-disk-XXXXXX", dir);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)reserved, nr), 0);
	memset(a, 0x5a, nr);
	assert_int_equal(pwrite(fd, a, nr, (off_t)data), nr);
	assert_int_equal(kedge_file_hole_end(fd, 0, size), data);
	assert_int_equal(kedge_file_hole_end(fd, 8192, 12288), 12288);
	assert_int_equal(kedge_file_hole_end(fd, data + 4096, size), data + 4096);
	assert_int_equal(kedge_file_hole_end(fd, data + nr, size), size);
	assert_int_equal(kedge_file_hole_end(fd, size - 4096, size + 4096), size - 4096); /* past the end nothing is known */
	assert_int_equal(kedge_loop_create(64, &l, NULL), 0);
	assert_int_equal(kedge_disk_open(l, path, 0, &d, NULL), 0);
	assert_int_equal(run_zero_empty(l, d, 0, size), 0);
	assert_int_equal(run_zero_empty(l, d, 0, 4096), 0);
	assert_int_equal(run(l, d, KEDGE_DISK_READ, data, nr, a), 0);
	for (uint32_t i = 0; i < nr; i++)
		assert_int_equal(a[i], 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_in_range((uint64_t)st.st_blocks * 512, nr, 140ull << 20); /* the reservation is left, and nothing was made of the hole */
	kedge_disk_close(d);
	kedge_loop_destroy(l);
	close(fd);
	unlink(path);
	kedge_buf_free(a);
}

static void test_disk_zeroes_what_is_there_only(void **state)
{
	check_sparse_on("/var/tmp");
	check_sparse_on("/dev/shm");
}

static void check_zeroed(struct kedge_loop *l, struct kedge_disk *d, bool may_stay_hole, char expected)
{
	char *a = kedge_buf_alloc(65536);

	memset(a, 0x5a, 65536);
	assert_int_equal(run(l, d, KEDGE_DISK_WRITE, 0, 65536, a), 0);
	is_lying = true;
	assert_int_equal(may_stay_hole ? run_zero_empty(l, d, 0, 65536) : run(l, d, KEDGE_DISK_ZERO, 0, 65536, NULL), 0);
	is_lying = false;
	assert_int_equal(run(l, d, KEDGE_DISK_READ, 0, 65536, a), 0);
	for (uint32_t i = 0; i < 65536; i++)
		assert_int_equal(a[i], expected);
	kedge_buf_free(a);
}

/* The file system calls what was written a hole: what may have been written is zeroed all the same, and on a file system that nobody knows
 * everything is. On one that is known its word is taken, where it may be. */
static void test_disk_zeroes_what_was_written_whatever_is_called_a_hole(void **state)
{
	char path[] = "/var/tmp/kedge-disk-XXXXXX";
	int fd = mkstemp(path);
	struct kedge_loop *l;
	struct kedge_disk *d;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 65536), 0);
	assert_int_equal(kedge_loop_create(64, &l, NULL), 0);
	assert_int_equal(kedge_disk_open(l, path, 0, &d, NULL), 0);
	check_zeroed(l, d, false, 0);
	check_zeroed(l, d, true, 0x5a);
	is_lying = true;
	assert_int_equal(kedge_disk_hole_end(d, 0, 65536), 65536);
	is_lying = false;
	kedge_disk_close(d);
	is_unknown = true;
	assert_int_equal(kedge_disk_open(l, path, 0, &d, NULL), 0);
	check_zeroed(l, d, true, 0);
	assert_int_equal(kedge_disk_hole_end(d, 0, 65536), 0); /* though it is one, now */
	is_unknown = false;
	kedge_disk_close(d);
	kedge_loop_destroy(l);
	close(fd);
	unlink(path);
}

/* In memory nothing waits: what is not too much is done when submit returns. It is answered later all the same, and errors are answered too. */
static void test_disk_in_memory_is_moved_at_once(void **state)
{
	char path[] = "/dev/shm/kedge-disk-XXXXXX";
	char *a = kedge_buf_alloc(SIZE), b[2] = {0};
	struct probe p = {.io = {.op = KEDGE_DISK_WRITE, .nr_bytes = 262144, .buf = a, .fn = probe_cb}};
	int fd = mkstemp(path);
	struct kedge_loop *l;
	struct kedge_disk *d;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 2 * SIZE), 0);
	memset(a, 0x5a, SIZE);
	assert_int_equal(kedge_loop_create(64, &l, NULL), 0);
	assert_int_equal(kedge_disk_open(l, path, 0, &d, NULL), 0);
	kedge_disk_submit(d, &p.io);
	assert_int_equal(kedge_loop_nr_inflight(l), 0);
	assert_int_equal(pread(fd, b, 2, 262143), 2);
	assert_memory_equal(b, "\x5a", 2); /* all of it, and no more */
	assert_int_equal(p.nr_calls, 0);
	kedge_loop_run_once(l, 0);
	assert_int_equal(p.nr_calls, 1);
	assert_int_equal(p.res, 0);

	memset(a, 0, SIZE);
	p = (struct probe){.io = {.op = KEDGE_DISK_READ, .nr_bytes = 65536, .buf = a, .fn = probe_cb}};
	kedge_disk_submit(d, &p.io);
	assert_int_equal(kedge_loop_nr_inflight(l), 0);
	assert_int_equal(a[65535], 0x5a);
	assert_int_equal(p.nr_calls, 0);
	kedge_loop_run_once(l, 0);
	assert_int_equal(p.nr_calls, 1);
	assert_int_equal(p.res, 0);

	for (int op = KEDGE_DISK_WRITE; op >= KEDGE_DISK_READ; op--) { /* too much: the loop would be kept too long */
		uint64_t nr_bytes = (op == KEDGE_DISK_WRITE ? 262144 : 65536) + 4096;
		p = (struct probe){.io = {.op = (enum kedge_disk_op)op, .nr_bytes = nr_bytes, .buf = a, .fn = probe_cb}};
		kedge_disk_submit(d, &p.io);
		assert_int_equal(kedge_loop_nr_inflight(l), 1);
		for (int i = 0; i < 500 && !p.nr_calls; i++)
			kedge_loop_run_once(l, 20);
		assert_int_equal(p.res, 0);
	}
	kedge_disk_close(d);

	assert_int_equal(kedge_disk_open(l, path, KEDGE_DISK_RDONLY, &d, NULL), 0);
	unlink(path);
	assert_int_equal(run(l, d, KEDGE_DISK_WRITE, 0, 4096, a), -EBADF);
	assert_int_equal(run(l, d, KEDGE_DISK_READ, 2 * SIZE, 4096, a), -EIO); /* past the end */
	kedge_disk_close(d);
	kedge_loop_destroy(l);
	kedge_buf_free(a);
	close(fd);
	unlink(path);
}

static void test_disk_refuses_what_it_cannot_be(void **state)
{
	struct kedge_loop *l;
	struct kedge_disk *d = NULL;
	struct kedge_err err = {0};

	assert_int_equal(kedge_loop_create(8, &l, NULL), 0);
	assert_int_equal(kedge_disk_open(l, "/nonexistent/file", 0, &d, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/file"));
	assert_int_equal(kedge_disk_open(l, "/dev/null", KEDGE_DISK_BUFFERED, &d, NULL), -ENOTBLK);
	assert_null(d);
	kedge_loop_destroy(l);
}

static const char *extra_dir;

/* By disk_4k.sh: a file system on a disk with blocks of 4 KiB, where direct I/O refuses what is finer. */
static void test_disk_on_the_directory_given(void **state)
{
	if (extra_dir)
		check_on(extra_dir);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disk_on_a_file_system),
		cmocka_unit_test(test_disk_on_tmpfs),
		cmocka_unit_test(test_disk_zeroes_what_is_there_only),
		cmocka_unit_test(test_disk_zeroes_what_was_written_whatever_is_called_a_hole),
		cmocka_unit_test(test_disk_in_memory_is_moved_at_once),
		cmocka_unit_test(test_disk_refuses_what_it_cannot_be),
		cmocka_unit_test(test_disk_on_the_directory_given),
	};
	extra_dir = argc > 1 ? argv[1] : NULL;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
