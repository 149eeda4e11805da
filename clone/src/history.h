/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_HISTORY_H
#define KCLONE_HISTORY_H

/*
 * Pure. What a workload touched of a volume, in the order of its first touch: recorded while it runs (kclone trace), kept in a file
 * (docs/formats.md, "Access history"), and turned into the order in which another clone of that volume is copied (--prefetch).
 * It is never more than an order: nothing that a history says decides about data.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kcopy/kcopy.h"
#include "kedge/err.h"
#include "kedge/uuid.h"

#define HISTORY_GRAIN_BYTES 65536u
#define HISTORY_MAX 65536u /* records: at most 4 GiB of grains */
#define HISTORY_HEAD_BYTES 64u
#define HISTORY_RECORD_BYTES 12u
#define HISTORY_FILE_MAX (HISTORY_HEAD_BYTES + (size_t)HISTORY_MAX * HISTORY_RECORD_BYTES)

/* One grain of 16 blocks. */
struct history_record {
	uint32_t grain;   /* number: start_bytes / HISTORY_GRAIN_BYTES */
	uint32_t at_ms;   /* of the first touch, since the recording began */
	uint16_t read;    /* blocks whose first touch needed what was there, bit 0 the first */
	uint16_t written; /* blocks whose first touch replaced them whole */
};

struct history {
	struct kedge_uuid volume; /* null: its source showed none */
	uint64_t size_bytes;
	uint64_t length_ms;
	bool is_full; /* it ended because it was full */
	uint32_t nr;
	struct history_record *records; /* HISTORY_MAX of a recorder, nr of a parsed one */
};

/* ---- recording ---- */

struct recorder;
struct recorder *recorder_create(const struct kedge_uuid *volume, uint64_t size_bytes, uint64_t now_ns); /* NULL: no memory */
void recorder_destroy(struct recorder *r);
/* The workload reads a range, or replaces it. The range lies inside the volume. */
void recorder_note(struct recorder *r, uint64_t start_bytes, uint64_t nr_bytes, bool is_change, uint64_t now_ns);
/* So far; belongs to the recorder. */
const struct history *recorder_history(struct recorder *r, uint64_t now_ns);

/* ---- the file ---- */

/* out has HISTORY_FILE_MAX bytes. How many were used. */
size_t history_encode(const struct history *h, uint8_t *out);
/* -EINVAL and what is wrong with it, -ENOMEM; history_fini afterwards. */
int history_decode(const uint8_t *file, size_t nr_bytes, struct history *ret_h, struct kedge_err *err);
void history_fini(struct history *h);
/* Is it of that volume? A source that shows no uuid is compared by size alone. -EINVAL and why not. */
int history_check(const struct history *h, const struct kedge_uuid *volume, uint64_t size_bytes, struct kedge_err *err);

/* ---- the order ---- */

/* What was read, in the order of first touch; records of one batch are in the order of their place and joined where little lies between.
 * Heap, the caller's; 0 ranges: NULL. -ENOMEM. */
int history_order(const struct history *h, struct kcopy_range **ret_ranges, uint32_t *ret_nr, uint64_t *ret_nr_bytes);

#endif
