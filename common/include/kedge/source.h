/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_SOURCE_H
#define KEDGE_SOURCE_H

/*
 * The immutable, far end of a clone or copy: an iSCSI LUN (kcopy/src/iscsi_*.c), a file or device, or a simulated one in
 * tests. The implementation owns connections, reconnection, replay, identity checks and deadlines; its users see reads
 * that take long while the source is away.
 *
 * Rules: design/engine.md, "The source". A read whose connection was lost is replayed; it ends with
 * KEDGE_E_SOURCE_AWAY only when its own timeout_ms passed, with KEDGE_E_SOURCE_MEDIUM after 5 tries at a bad range, with
 * KEDGE_E_SOURCE_DAMAGED when it arrived damaged so often, with KEDGE_E_SOURCE_IDENTITY once another volume was found (for good: every later read too, no byte is served).
 */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/err.h"
#include "kedge/identity.h"

struct kedge_source;
struct kedge_source_io;

enum kedge_prio {
	KEDGE_PRIO_FOREGROUND, /* a workload waits: goes first */
	KEDGE_PRIO_BACKGROUND, /* hydration, verification */
};

/* res: 0 for the whole range, or negative; io->err holds the details. */
typedef void (*kedge_source_fn)(struct kedge_source_io *io, int res);

/* A run of bytes of one kind. */
struct kedge_extent {
	uint64_t nr_bytes;
	bool is_hole; /* reads as zeroes, not allocated at the source */
};

/* Caller-owned; stays until the callback. The range lies inside the source and is a multiple of its logical block size. */
struct kedge_source_io {
	uint64_t start_bytes;
	uint64_t nr_bytes;
	void *buf; /* reads: 4 KiB-aligned, nr_bytes long, filled by the implementation directly */
	/* extents: array for the answer. The extents returned follow each other from start_bytes and may cover less than
	 * nr_bytes, never zero bytes; a source that cannot tell answers one data extent. */
	struct kedge_extent *extents;
	uint32_t nr_extents_max;
	uint32_t ret_nr_extents;
	enum kedge_prio prio;
	uint32_t timeout_ms; /* 0: wait for ever */
	kedge_source_fn fn;
	struct kedge_err err;
	void *arg; /* the caller's */
	/* private to the implementation */
	void *priv;
	uint64_t priv_u64[4];
	struct kedge_source_io *next, *prev;
};

enum kedge_source_state {
	KEDGE_SOURCE_STOPPED,    /* not told to connect yet */
	KEDGE_SOURCE_CONNECTING, /* first connection */
	KEDGE_SOURCE_UP,
	KEDGE_SOURCE_AWAY,       /* lost, reconnecting with backoff */
	KEDGE_SOURCE_REFUSED,    /* another identity or a refused login: will not retry */
	KEDGE_SOURCE_CLOSED,
};

/* "stopped", "connecting", … */
const char *kedge_source_state_name(enum kedge_source_state s);

struct kedge_source_status {
	enum kedge_source_state state;
	uint64_t since_ns;      /* clock value of the last state change */
	uint64_t read_bytes;    /* of the volume, received by all sessions since start */
	uint64_t wire_bytes;    /* what came for that, without the protocol's own bytes */
	uint64_t nr_damaged;    /* extents that were not what the source's checksum said, and were read again */
	uint64_t nr_reconnects;
	unsigned nr_sessions;   /* logged in now */
	unsigned nr_inflight;
	struct kedge_err last_err;
};

struct kedge_source_ops {
	/* Begin to connect. Reads submitted before it wait. Idempotent. */
	void (*start)(struct kedge_source *s);
	void (*read)(struct kedge_source *s, struct kedge_source_io *io);
	void (*extents)(struct kedge_source *s, struct kedge_source_io *io);
	/* A request: the callback still comes, with -ECANCELED or with its real result, and only then is the buffer free. */
	/* Into buf the sum (kedge_transit_sum) of each KEDGE_TRANSIT_EXTENT_MAX_BYTES from start_bytes on, the last of what is left: made by the
	 * source, the bytes do not travel. -EOPNOTSUPP: the source makes none, now. NULL: it never does. */
	void (*sums)(struct kedge_source *s, struct kedge_source_io *io);
	void (*cancel)(struct kedge_source *s, struct kedge_source_io *io);
	/* A workload has come to wait for this background read: what of it has not been asked for yet goes as if it had been foreground from now
	 * on. NULL: the source keeps no queue. */
	void (*urge)(struct kedge_source *s, struct kedge_source_io *io);
	void (*status)(const struct kedge_source *s, struct kedge_source_status *ret_status);
	/* Log out and close all sessions; outstanding I/O is cancelled first. closed_fn runs once, later. */
	void (*close)(struct kedge_source *s, void (*closed_fn)(void *arg), void *arg);
	/* After close has called back (or if start was never called). */
	void (*destroy)(struct kedge_source *s);
};

struct kedge_source {
	const struct kedge_source_ops *ops;
	/* What must be found; size_bytes 0 or a null uuid are learned at the first connection and from then on required. Valid
	 * as a whole from the first UP on. */
	struct kedge_identity identity;
	/* Called on the loop at each state change; may be NULL. Set before start. */
	void (*state_fn)(struct kedge_source *s, void *arg);
	void *state_arg;
};

#endif
