/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_CLAIM_H
#define KEDGE_CLAIM_H

/*
 * What a hydrator needs of the place it hydrates: take a run of blocks that are not here yet, give it content or give it
 * back. Implemented by the clone engine (region locks, tokens, bitmap) and by kcopy's own file sink (a map file).
 *
 * A claim owns its blocks against other claims. A foreground write that covers a whole claimed block before the fill began
 * takes that block away from the claim (the token of the block changes): fill then leaves it alone. From the
 * submission of fill to its end such writes wait.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/err.h"

struct kedge_claims;

struct kedge_claim {
	uint64_t start_bytes; /* multiple of 4 KiB */
	uint64_t nr_bytes;    /* multiple of 4 KiB but at the volume's end */
	uint64_t token;       /* the implementation's */
};

/* A part of a claim's buffer. */
struct kedge_seg {
	uint64_t nr_bytes; /* multiple of 4 KiB but at the volume's end; parts follow each other and cover the claim */
	bool is_zero;      /* nothing to write but zeroes; the buffer there is not looked at */
};

typedef void (*kedge_claim_fn)(void *arg, int res);

struct kedge_claims_ops {
	/* Take the next run at or after from_bytes, at most max_bytes (a multiple of 4 KiB), never past end_bytes.
	 * 0: *ret_claim is set (object owned by the implementation until fill's callback or drop).
	 * -EAGAIN: blocks are left in [from, end) but all are owned just now; wake_fn is called when that may have changed.
	 * -ENODATA: nothing is left in [from, end).
	 * Other: the clone has failed. */
	int (*take)(struct kedge_claims *c, uint64_t from_bytes, uint64_t end_bytes, uint64_t max_bytes,
		    struct kedge_claim **ret_claim);
	/* Write the claim's content, set its bits, end the claim. buf: 4 KiB-aligned, claim->nr_bytes long (NULL when all parts
	 * are zero); it and segs stay until fn. fn runs once, later; res 0 or negative (then the blocks are free again or the clone
	 * has failed). Blocks that were taken away by writes are skipped and count as success. */
	void (*fill)(struct kedge_claims *c, struct kedge_claim *claim, const void *buf, const struct kedge_seg *segs,
		     uint32_t nr_segs, kedge_claim_fn fn, void *arg);
	/* End the claim without content. res: why (0, -ECANCELED, or KEDGE_E_SOURCE_MEDIUM: the range is marked bad, is not
	 * offered again until reset, and reads of it by the workload fail). */
	void (*drop)(struct kedge_claims *c, struct kedge_claim *claim, int res);

	/* For the final comparison with the source: the next run, at or after from_bytes, at most max_bytes, of blocks that are
	 * here and that the workload has not written. 0 or -ENODATA. NULL where there is no such notion. */
	int (*audit_next)(struct kedge_claims *c, uint64_t from_bytes, uint64_t max_bytes, uint64_t *ret_start_bytes,
			  uint64_t *ret_nr_bytes);
	/* Read a range of the place itself into buf, 4 KiB-aligned. fn as above. */
	void (*audit_read)(struct kedge_claims *c, uint64_t start_bytes, uint64_t nr_bytes, void *buf, kedge_claim_fn fn,
			   void *arg);
	/* Up to where, from start_bytes on and at most to end_bytes, the place is known to read as zeroes without being read; start_bytes: it has to be
	 * read. A multiple of 4 KiB, or end_bytes. May look through much: asked once for a large range. NULL: never known. */
	uint64_t (*audit_hole_end)(struct kedge_claims *c, uint64_t start_bytes, uint64_t end_bytes);
	/* Has the workload written this block (any part of it) by now? */
	bool (*audit_is_written)(struct kedge_claims *c, uint64_t block_start_bytes);
};

struct kedge_claims {
	const struct kedge_claims_ops *ops;
	uint64_t size_bytes;
	/* Set by the hydrator; called on the loop, later, after a take answered -EAGAIN. May be NULL. */
	void (*wake_fn)(void *arg);
	void *wake_arg;
};

#endif
