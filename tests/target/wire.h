/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TEST_TARGET_WIRE_H
#define TEST_TARGET_WIRE_H

/* What the wire tests begin and end with: a ktarget and one connection to it. */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "peer.h"

struct wire {
	struct target t;
	struct peer p;
};



/* The path of ktarget is the one argument. Not 0: usage. */
static inline int wire_main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s KTARGET\n", argv[0]);
		return 1;
	}
	wire_ktarget = argv[1];
	return 0;
}

/* What growth of the target says nothing yet: AddressSanitizer keeps freed memory for a while, ThreadSanitizer shadows of it. */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer)
#define WIRE_RSS_SLACK_KIB (512 * 1024)
#else
#define WIRE_RSS_SLACK_KIB 0
#endif

#define wire_begin(w, ...)                                            \
	do {                                                          \
		target_start(&(w)->t, wire_ktarget, __VA_ARGS__);     \
		assert_int_equal(peer_open(&(w)->p, &(w)->t, NULL), 0); \
	} while (0)

static inline void wire_end(struct wire *w)
{
	peer_close(&w->p);
	assert_true(target_stop(&w->t));
}

/* Take LUN 1 out of the page cache: what is cached and what is not are sent in different ways. */
static inline void wire_evict_disk1(const struct wire *w)
{
	char path[96];
	int fd;

	snprintf(path, sizeof path, "%s/disk1", w->t.dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fsync(fd), 0);
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	close(fd);
}

#endif
