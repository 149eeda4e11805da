/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BENCH_READS_H
#define BENCH_READS_H

/* What bench_reads is made of: samples of latencies, and the two kinds of things that are read. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct options {
	const char *what, *where; /* nbd unix:PATH | nbd tcp:PORT | ping PORT | file PATH */
	bool is_write, is_sequential;
	uint32_t depth, block_bytes;
	uint32_t rate; /* requests a second at fixed moments, one at a time (sockets); 0: as fast as the answers come */
	uint64_t start_bytes, size_bytes, seed;
	double seconds; /* 0: until stdin ends */
	const char *log;
};

struct sample {
	uint64_t begin_ns; /* CLOCK_MONOTONIC */
	uint64_t took_ns;
};

struct samples {
	struct sample *all;
	size_t nr, nr_max;
};

uint64_t now_ns(void);
void samples_add(struct samples *s, uint64_t begin_ns, uint64_t end_ns);
/* Is it over? Cheap enough to be asked before each request. */
bool is_over(void);
/* The first answer is here. Any thread; told once. */
void tell_ready(void);
/* Where the next request goes; *state is one thread's. */
uint64_t next_place(const struct options *o, uint64_t *state);

/* Ask until is_over(); all samples into ret, which is empty. */
void read_socket(const struct options *o, struct samples *ret);
void read_file(const struct options *o, struct samples *ret);

#endif
