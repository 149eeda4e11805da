/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The gathered socket calls: no byte is lost, doubled or overtaken, whatever the pieces; few calls reach the kernel; who has not
 * entered, and other descriptors, get the C library's calls.
 *
 * Owns. A pair of sockets a test.
 *
 * Locks. None.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "batch.h"
#include "kedge/bytes.h"

struct pair {
	struct kcopy_batch b;
	int near, far;
	size_t nr_written, nr_read; /* far to near: byte i is byte_at(i) */
};

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 2654435761u >> 13);
}

static int setup(void **state)
{
	struct pair *p = calloc(1, sizeof *p);
	int fds[2];

	assert_non_null(p);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
	p->near = fds[0];
	p->far = fds[1];
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;

	close(p->near);
	close(p->far);
	free(p);
	return 0;
}

static size_t far_writes(struct pair *p, size_t nr_bytes)
{
	uint8_t buf[8192];
	ssize_t n;

	for (size_t i = 0; i < nr_bytes; i++)
		buf[i] = byte_at(p->nr_written + i);
	n = write(p->far, buf, nr_bytes);
	assert_true(n >= 0 || errno == EAGAIN);
	p->nr_written += n > 0 ? (size_t)n : 0;
	return n > 0 ? (size_t)n : 0;
}

static void check(struct pair *p, const uint8_t *buf, ssize_t n)
{
	for (ssize_t i = 0; i < n; i++)
		assert_int_equal(buf[i], byte_at(p->nr_read++));
}

static int nr_in_socket(const struct pair *p)
{
	int n;

	assert_int_equal(ioctl(p->near, FIONREAD, &n), 0);
	return n;
}

static void test_batch_a_small_recv_takes_all_that_has_come(void **state)
{
	struct pair *p = *state;
	uint8_t buf[256];

	far_writes(p, 5000);
	kcopy_batch_enter(&p->b, p->near, true);
	assert_int_equal(recv(p->near, buf, 48, 0), 48);
	check(p, buf, 48);
	assert_int_equal(nr_in_socket(p), 0);
	assert_true(kcopy_batch_has_in(&p->b));
	for (int i = 0; i < 24; i++) {
		struct iovec iov[2] = {{buf, 6}, {buf + 6, 200}};
		assert_int_equal(readv(p->near, iov, 2), 206);
		check(p, buf, 206);
	}
	assert_int_equal(recv(p->near, buf, sizeof buf, 0), 5000 - 48 - 24 * 206);
	check(p, buf, 5000 - 48 - 24 * 206);
	assert_false(kcopy_batch_has_in(&p->b));
	/* emptied: what comes now is for the next time */
	far_writes(p, 10);
	assert_int_equal(recv(p->near, buf, 10, 0), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(kcopy_batch_leave(&p->b), 0);
	kcopy_batch_enter(&p->b, p->near, true);
	assert_int_equal(recv(p->near, buf, 10, 0), 10);
	check(p, buf, 10);
	close(p->far);
	p->far = -1;
	kcopy_batch_leave(&p->b);
	kcopy_batch_enter(&p->b, p->near, true);
	assert_int_equal(recv(p->near, buf, 10, 0), 0);
	kcopy_batch_leave(&p->b);
}

static void test_batch_without_reading_ahead_takes_no_more_than_asked(void **state)
{
	struct pair *p = *state;
	uint8_t buf[256];

	far_writes(p, 300);
	kcopy_batch_enter(&p->b, p->near, false);
	assert_int_equal(recv(p->near, buf, 48, 0), 48);
	check(p, buf, 48);
	assert_int_equal(nr_in_socket(p), 252);
	kcopy_batch_leave(&p->b);
	/* nor does anybody who has not entered */
	assert_int_equal(recv(p->near, buf, 52, 0), 52);
	check(p, buf, 52);
	assert_int_equal(nr_in_socket(p), 200);
	/* what was taken ahead comes first, also when nothing more may be */
	kcopy_batch_enter(&p->b, p->near, true);
	assert_int_equal(recv(p->near, buf, 20, 0), 20);
	check(p, buf, 20);
	kcopy_batch_leave(&p->b);
	far_writes(p, 20);
	kcopy_batch_enter(&p->b, p->near, false);
	struct iovec iov = {buf, 200};
	assert_int_equal(readv(p->near, &iov, 1), 200);
	check(p, buf, 200);
	kcopy_batch_leave(&p->b);
}

/* Pieces of all sizes, in and out of the batch, with and without reading ahead: the stream stays what it was. */
static void test_batch_the_stream_stays_in_order(void **state)
{
	static uint8_t buf[100000];
	struct pair *p = *state;
	unsigned seed = 20261124;

	for (int i = 0; i < 4000; i++) {
		size_t want = rand_r(&seed) % 4 ? 1 + rand_r(&seed) % 5000u : 1 + rand_r(&seed) % 90000u;
		size_t split = rand_r(&seed) % want;
		ssize_t n;

		for (int j = rand_r(&seed) % 4; j > 0; j--)
			far_writes(p, 1 + rand_r(&seed) % 8192u);
		kcopy_batch_enter(&p->b, p->near, rand_r(&seed) % 3);
		for (int j = rand_r(&seed) % 4; j > 0; j--) {
			struct iovec iov[2] = {{buf, split}, {buf + split, want - split}};
			n = rand_r(&seed) % 2 ? recv(p->near, buf, want, 0) : readv(p->near, split ? iov : iov + 1, split ? 2 : 1);
			assert_true(n > 0 || (n < 0 && errno == EAGAIN));
			check(p, buf, n);
		}
		assert_int_equal(kcopy_batch_leave(&p->b), 0);
	}
	assert_true(p->nr_read > 1000000);
	assert_int_equal(p->nr_written, p->nr_read + (size_t)nr_in_socket(p) + (p->b.in_end - p->b.in_start));
}

static void test_batch_what_is_sent_goes_out_together_at_leave(void **state)
{
	struct pair *p = *state;
	uint8_t buf[4096], got[4096];

	for (size_t i = 0; i < sizeof buf; i++)
		buf[i] = byte_at(i);
	kcopy_batch_enter(&p->b, p->near, true);
	for (size_t i = 0; i < 32; i++)
		assert_int_equal(send(p->near, buf + 48 * i, 48, MSG_NOSIGNAL), 48);
	assert_int_equal(read(p->far, got, sizeof got), -1);
	assert_int_equal(kcopy_batch_leave(&p->b), 0);
	assert_int_equal(read(p->far, got, sizeof got), 32 * 48);
	assert_memory_equal(got, buf, 32 * 48);
	assert_int_equal(send(p->near, buf, 48, MSG_NOSIGNAL), 48); /* not entered */
	assert_int_equal(read(p->far, got, sizeof got), 48);
	shutdown(p->far, SHUT_RDWR);
	kcopy_batch_enter(&p->b, p->near, true);
	assert_int_equal(send(p->near, buf, 48, MSG_NOSIGNAL), 48);
	assert_int_equal(kcopy_batch_leave(&p->b), -EPIPE);
}

/* A full socket: what waits is not lost, and nothing overtakes it. */
static void test_batch_nothing_overtakes_what_a_full_socket_left(void **state)
{
	static uint8_t buf[20000], got[1 << 20];
	struct pair *p = *state;
	unsigned seed = 7;
	size_t nr_sent = 0, nr_got = 0, nr_refused = 0;

	for (int i = 0; i < 20000; i++) {
		size_t n = rand_r(&seed) % 8 ? 48 : 1 + rand_r(&seed) % sizeof buf;

		for (size_t j = 0; j < n; j++)
			buf[j] = byte_at(nr_sent + j);
		kcopy_batch_enter(&p->b, p->near, true);
		ssize_t r = send(p->near, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		assert_true(r > 0 || (r < 0 && errno == EAGAIN));
		nr_refused += r < 0;
		nr_sent += r > 0 ? (size_t)r : 0;
		assert_int_equal(kcopy_batch_leave(&p->b), 0);
		if (i % 100 < 90 && i < 19999)
			continue;
		for (ssize_t k = read(p->far, got, sizeof got); k > 0; k = read(p->far, got, sizeof got))
			for (ssize_t j = 0; j < k; j++)
				assert_int_equal(got[j], byte_at(nr_got++));
	}
	assert_true(nr_refused > 0);
	kcopy_batch_enter(&p->b, p->near, true);
	assert_int_equal(kcopy_batch_leave(&p->b), 0);
	assert_false(kcopy_batch_has_out(&p->b));
	for (ssize_t k = read(p->far, got, sizeof got); k > 0; k = read(p->far, got, sizeof got))
		for (ssize_t j = 0; j < k; j++)
			assert_int_equal(got[j], byte_at(nr_got++));
	assert_int_equal(nr_got, nr_sent);
}

/* PDUs of all lengths, received in pieces of all sizes as libiscsi does: known to be whole when they are, and never before. */
static void test_batch_knows_where_a_pdu_ends(void **state)
{
	static uint8_t pdu[52 + 6000], buf[52 + 6000];
	struct pair *p = *state;
	unsigned seed = 11;

	for (int i = 0; i < 3000; i++) {
		uint32_t nr_head = i < 1500 ? 48 : 52; /* with a digest */
		uint32_t nr_data = rand_r(&seed) % 3 ? rand_r(&seed) % 5999u : 0, nr = nr_head + (nr_data + 3) / 4 * 4;

		uint32_t nr_sent = 0;
		memset(pdu, 0xff, sizeof pdu);
		pdu[5] = 0;
		pdu[6] = (uint8_t)(nr_data >> 8);
		pdu[7] = (uint8_t)nr_data;
		kcopy_batch_enter(&p->b, p->near, i % 2);
		for (uint32_t done = 0; done < nr;) {
			uint32_t n = (done < nr_head ? nr_head : nr) - done;
			struct iovec iov = {buf + done, n};
			assert_int_equal(kcopy_batch_is_between_pdus(&p->b), done == 0);
			ssize_t got = done < nr_head || rand_r(&seed) % 2 ? recv(p->near, buf + done, n, 0) : readv(p->near, &iov, 1);
			if (got < 0) {
				size_t piece = 1 + rand_r(&seed) % (nr - nr_sent); /* the network's */
				assert_int_equal(write(p->far, pdu + nr_sent, piece), piece);
				nr_sent += (uint32_t)piece;
				assert_int_equal(kcopy_batch_leave(&p->b), 0);
				kcopy_batch_enter(&p->b, p->near, i % 2);
				continue;
			}
			done += (uint32_t)got;
		}
		assert_true(kcopy_batch_is_between_pdus(&p->b));
		assert_int_equal(kcopy_batch_leave(&p->b), 0);
	}
}

/* A libiscsi that received data by another function would get what comes behind what waits here. */
static void test_batch_knows_that_it_was_bypassed(void **state)
{
	struct pair *p = *state;
	uint8_t buf[200] = {[7] = 100};

	assert_int_equal(write(p->far, buf, 148), 148);
	kcopy_batch_enter(&p->b, p->near, false);
	assert_int_equal(recv(p->near, buf, 48, 0), 48);
	assert_int_equal(read(p->near, buf, 100), 100);
	assert_false(kcopy_batch_is_between_pdus(&p->b));
	assert_int_equal(kcopy_batch_leave(&p->b), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_batch_a_small_recv_takes_all_that_has_come, setup, teardown),
		cmocka_unit_test_setup_teardown(test_batch_without_reading_ahead_takes_no_more_than_asked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_batch_the_stream_stays_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_batch_knows_where_a_pdu_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(test_batch_knows_that_it_was_bypassed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_batch_what_is_sent_goes_out_together_at_leave, setup, teardown),
		cmocka_unit_test_setup_teardown(test_batch_nothing_overtakes_what_a_full_socket_left, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
