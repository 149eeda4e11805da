/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Small reads (or writes), so many at a time, of an NBD server, of a bare TCP server or of a file; every latency is kept. One client
 * for all of them, so that what differs is the server.
 *
 * Owns. The samples.
 *
 * Locks. is_over_flag and was_ready are atomic; all else belongs to one thread at a time.
 */
#include "reads.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

static atomic_bool is_over_flag, was_ready;

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void samples_add(struct samples *s, uint64_t begin_ns, uint64_t end_ns)
{
	if (s->nr == s->nr_max) {
		s->nr_max = s->nr_max ? 2 * s->nr_max : 65536;
		s->all = realloc(s->all, s->nr_max * sizeof *s->all);
		if (!s->all)
			wire_fail("memory");
	}
	s->all[s->nr++] = (struct sample){ begin_ns, end_ns - begin_ns };
}

bool is_over(void)
{
	return atomic_load_explicit(&is_over_flag, memory_order_relaxed);
}

void tell_ready(void)
{
	if (atomic_load_explicit(&was_ready, memory_order_relaxed) || atomic_exchange(&was_ready, true))
		return;
	puts("ready");
	fflush(stdout);
}

uint64_t next_place(const struct options *o, uint64_t *state)
{
	uint64_t nr_blocks = o->size_bytes / o->block_bytes, z;

	if (o->is_sequential)
		return o->start_bytes + (*state)++ % nr_blocks * o->block_bytes;
	z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return o->start_bytes + (z ^ (z >> 31)) % nr_blocks * o->block_bytes;
}

/* A thread of its own tells the end, so that no clock is asked for it between requests. */
static void *clock_main(void *arg)
{
	const struct options *o = arg;
	char c;

	if (o->seconds > 0) {
		struct timespec ts = { (time_t)o->seconds, (long)((o->seconds - (double)(time_t)o->seconds) * 1e9) };

		while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
			;
	} else {
		while (read(0, &c, 1) > 0)
			;
	}
	atomic_store(&is_over_flag, true);
	return NULL;
}

static int by_length(const void *a, const void *b)
{
	uint64_t x = ((const struct sample *)a)->took_ns, y = ((const struct sample *)b)->took_ns;

	return (x > y) - (x < y);
}

/* The smallest that so many per mille are not above. */
static double percentile_us(const struct samples *s, size_t per_mille)
{
	size_t rank = (s->nr * per_mille + 999) / 1000;

	return (double)s->all[rank ? rank - 1 : 0].took_ns / 1000;
}

static void write_log(const struct samples *s, const char *path)
{
	FILE *f = fopen(path, "we");

	if (!f || fwrite(s->all, sizeof *s->all, s->nr, f) != s->nr || fclose(f) != 0)
		wire_fail(path);
}

static void report(const struct options *o, struct samples *s)
{
	uint64_t begin = UINT64_MAX, end = 0;

	if (s->nr == 0) {
		errno = 0;
		wire_fail("no answer at all");
	}
	for (size_t i = 0; i < s->nr; i++) {
		const struct sample *x = &s->all[i];

		begin = x->begin_ns < begin ? x->begin_ns : begin;
		end = x->begin_ns + x->took_ns > end ? x->begin_ns + x->took_ns : end;
	}
	if (o->log)
		write_log(s, o->log);
	qsort(s->all, s->nr, sizeof *s->all, by_length);
	double seconds = (double)(end - begin) / 1e9;
	printf("{\"nr\":%zu,\"seconds\":%.6f,\"iops\":%.1f,\"mib_s\":%.2f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,"
	       "\"max_us\":%.1f}\n",
	       s->nr, seconds, (double)s->nr / seconds, (double)s->nr * o->block_bytes / 1048576 / seconds, percentile_us(s, 500),
	       percentile_us(s, 900), percentile_us(s, 990), percentile_us(s, 999), percentile_us(s, 1000));
}

static int usage(void)
{
	fputs("usage: bench_reads nbd unix:PATH|tcp:PORT [options]\n"
	      "       bench_reads ping PORT [options]\n"
	      "       bench_reads file PATH [options]\n"
	      "  --size BYTES --offset BYTES --block BYTES --depth N --seed N --sequential --write (file)\n"
	      "  --rate N (a second, at fixed moments; nbd, ping)\n"
	      "  --seconds S (else until stdin ends) --log FILE (pairs of u64: begin on CLOCK_MONOTONIC, duration; ns)\n",
	      stderr);
	return 2;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {
		{ "size", 1, NULL, 's' },    { "offset", 1, NULL, 'o' },  { "block", 1, NULL, 'b' },	  { "depth", 1, NULL, 'd' },
		{ "seed", 1, NULL, 'r' },    { "seconds", 1, NULL, 't' }, { "log", 1, NULL, 'l' }, { "sequential", 0, NULL, 'q' },
		{ "write", 0, NULL, 'w' },   { "rate", 1, NULL, 'p' },    { 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case 's': o->size_bytes = strtoull(optarg, NULL, 0); break;
		case 'o': o->start_bytes = strtoull(optarg, NULL, 0); break;
		case 'b': o->block_bytes = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 'd': o->depth = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 'r': o->seed = strtoull(optarg, NULL, 0); break;
		case 't': o->seconds = strtod(optarg, NULL); break;
		case 'l': o->log = optarg; break;
		case 'q': o->is_sequential = true; break;
		case 'p': o->rate = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 'w': o->is_write = true; break;
		default: return usage();
		}
	}
	if (argc - optind != 2 || o->depth < 1 || o->depth > 256 || o->block_bytes < 512 || o->size_bytes < o->block_bytes ||
	    (o->rate && (o->depth != 1 || o->rate > 1000000)))
		return usage();
	o->what = argv[optind];
	o->where = argv[optind + 1];
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = { .depth = 1, .block_bytes = 4096, .seed = 1 };
	struct samples s = { 0 };
	pthread_t clock_thread;
	int res = parse(argc, argv, &o);

	if (res)
		return res;
	if (pthread_create(&clock_thread, NULL, clock_main, &o) != 0)
		wire_fail("thread");
	if (strcmp(o.what, "file") == 0)
		read_file(&o, &s);
	else if (!o.is_write && (strcmp(o.what, "nbd") == 0 || strcmp(o.what, "ping") == 0))
		read_socket(&o, &s);
	else
		return usage();
	report(&o, &s);
	return 0;
}
