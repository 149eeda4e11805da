/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_SINK_H
#define KCOPY_SINK_H

/* The destination of a plain copy, as kedge_claims: a disk that is filled, and optionally a map file that says what is there. */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/claim.h"
#include "kedge/disk.h"
#include "kedge/err.h"
#include "kedge/loop.h"
#include "mapfile.h"

struct kcopy_sink;

struct kcopy_sink_opts {
	struct kedge_disk *disk;     /* at least size_bytes; stays the caller's */
	uint64_t size_bytes;
	int punch_fd;                /* a regular file in which zeroes become holes; -1: none */
	const char *map_path;        /* NULL: no map, no resuming */
	const char *source_id;       /* what a map must say about both sides */
	const char *destination_id;
};

/* Opens or makes the map; blocks. A map that is there is used, or refused: KEDGE_E_META_* when it is not sound,
 * KEDGE_E_META_BUSY when another process uses it, KEDGE_E_META_FOREIGN (other source, size), KEDGE_E_DEST_IDENTITY. Never changes one
 * that it refuses. */
int kcopy_sink_create(struct kedge_loop *l, const struct kcopy_sink_opts *opts, struct kcopy_sink **ret_sink,
		      struct kedge_err *err);
struct kedge_claims *kcopy_sink_claims(struct kcopy_sink *s);
/* Make durable what has been filled until now: flush the destination, write the map, flush the map. fn runs once, later; one at a
 * time. An error is final: everything after it fails too. */
void kcopy_sink_commit(struct kcopy_sink *s, void (*fn)(void *arg, int res), void *arg);
bool kcopy_sink_is_committing(const struct kcopy_sink *s);
bool kcopy_sink_is_dirty(const struct kcopy_sink *s);

struct kcopy_sink_status {
	uint64_t filled_bytes, durable_bytes, bad_bytes;
	uint64_t resumed_bytes;    /* were there at the start */
	uint64_t nr_damaged_pages; /* of the map, at the start */
};
void kcopy_sink_status(const struct kcopy_sink *s, struct kcopy_sink_status *ret_status);
/* The next bad range at or after from_bytes. 0 or -ENODATA. */
int kcopy_sink_next_bad(const struct kcopy_sink *s, uint64_t from_bytes, uint64_t *ret_start_bytes, uint64_t *ret_nr_bytes);
/* Nothing may be in flight. NULL is a no-op. */
void kcopy_sink_destroy(struct kcopy_sink *s);

#endif
