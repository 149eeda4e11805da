/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_STREAMS_H
#define KCLONE_STREAMS_H

/*
 * Pure. Who reads in order? A few streams of reads are followed, each by where its next read would begin. One that has gone on several times
 * is read ahead of: a window that begins small and doubles, asked for again when half of it is used. A read that goes on from
 * nowhere, as all random ones do, asks for nothing.
 */

#include <stdbool.h>
#include <stdint.h>

#define STREAMS_NR 8u
#define STREAMS_PROOF 3u /* a read that goes on, so often, makes a stream */
#define STREAMS_WINDOW_MIN_BYTES (128u * 1024)
/* A stream may leave out so much, or come back so far: reads that were sent together arrive in any order. */
#define STREAMS_SLACK_BYTES (256u * 1024)

struct stream {
	uint64_t next_bytes;  /* where the read would begin that goes on */
	uint64_t ahead_bytes; /* fetched up to there */
	uint32_t window_bytes, nr_proofs;
	uint64_t used;        /* clock; 0: not in use */
};

struct streams {
	struct stream s[STREAMS_NR];
	uint64_t clock;
};

/* A read of the workload. True: fetch [*ret_start_bytes, *ret_end_bytes) now, aligned to 4 KiB but at the volume's end; *ret_stream is to
 * be told how far that came (streams_fetched). window_max_bytes 0: never. */
bool streams_note(struct streams *st, uint64_t start_bytes, uint64_t nr_bytes, uint64_t size_bytes, uint32_t window_max_bytes,
		  struct stream **ret_stream, uint64_t *ret_start_bytes, uint64_t *ret_end_bytes);
/* What was not fetched will be asked for again by the next read of the stream. */
void streams_fetched(struct stream *s, uint64_t end_bytes);

#endif
