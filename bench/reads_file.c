/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The requests of bench_reads to a file or device: one thread for each that is in flight, O_DIRECT where the file can.
 *
 * Owns. The file's descriptor; its threads, each with samples of its own.
 *
 * Locks. None: threads share nothing that changes.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "reads.h"
#include "wire.h"

struct worker {
	const struct options *o;
	struct samples samples;
	pthread_t thread;
	int fd;
	uint64_t places;
};

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	size_t n = w->o->block_bytes;
	uint64_t *buffer = aligned_alloc(4096, n);

	if (!buffer)
		wire_fail("memory");
	for (size_t i = 0; i < n / sizeof *buffer; i++)
		buffer[i] = i * 0x9e3779b97f4a7c15u;
	while (!is_over()) {
		off_t at = (off_t)next_place(w->o, &w->places);
		uint64_t begin = now_ns();
		ssize_t r = w->o->is_write ? pwrite(w->fd, buffer, n, at) : pread(w->fd, buffer, n, at);

		if (r != (ssize_t)n)
			wire_fail(w->o->where);
		samples_add(&w->samples, begin, now_ns());
		tell_ready();
	}
	free(buffer);
	return NULL;
}

static int open_file(const struct options *o)
{
	int flags = (o->is_write ? O_RDWR : O_RDONLY) | O_CLOEXEC;
	int fd = open(o->where, flags | O_DIRECT);

	if (fd < 0 && errno == EINVAL)
		fd = open(o->where, flags);
	if (fd < 0)
		wire_fail(o->where);
	return fd;
}

void read_file(const struct options *o, struct samples *ret)
{
	struct worker *workers = calloc(o->depth, sizeof *workers);
	int fd = open_file(o);

	if (!workers)
		wire_fail("memory");
	for (uint32_t i = 0; i < o->depth; i++) {
		struct worker *w = &workers[i];

		*w = (struct worker){ .o = o, .fd = fd };
		w->places = o->is_sequential ? i * (o->size_bytes / o->block_bytes / o->depth) : o->seed + i * 0x632be59bd9b4e019u;
		if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
			wire_fail("thread");
	}
	for (uint32_t i = 0; i < o->depth; i++) {
		pthread_join(workers[i].thread, NULL);
		for (size_t k = 0; k < workers[i].samples.nr; k++) {
			const struct sample *s = &workers[i].samples.all[k];

			samples_add(ret, s->begin_ns, s->begin_ns + s->took_ns);
		}
		free(workers[i].samples.all);
	}
	free(workers);
	close(fd);
}
