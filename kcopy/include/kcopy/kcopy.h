/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_KCOPY_H
#define KCOPY_KCOPY_H

/* Sources, and the hydrator that moves blocks from a source into claims. All on one kedge_loop, one thread. */

#include <stdbool.h>
#include <stdint.h>

#include "kcopy/governor.h"
#include "kedge/chapfile.h"
#include "kedge/claim.h"
#include "kedge/err.h"
#include "kedge/loop.h"
#include "kedge/name.h"
#include "kedge/source.h"

/* How what is not waited for travels. Sources that do not offer transit (others' targets, files) are read plainly all the same. */
enum kcopy_transit_mode {
	KCOPY_TRANSIT_AUTO,    /* as ZSTD while that is faster, else PLAIN: by measurement */
	KCOPY_TRANSIT_PLAIN,   /* as iSCSI has it */
	KCOPY_TRANSIT_CHECKED, /* with the source's checksum, compared before anybody gets it */
	KCOPY_TRANSIT_ZSTD,    /* and compressed, where an extent gets smaller by it */
};
/* "plain", … Negative: none of them. */
int kcopy_transit_mode_parse(const char *text);
const char *kcopy_transit_mode_name(enum kcopy_transit_mode mode);

struct kcopy_source_opts {
	/* "iscsi://ADDR:PORT/IQN/LUN" (no user or password in it: refused), or a path of a file or block device. */
	const char *url;
	/* Required identity; size_bytes 0 / null uuid: learn. */
	struct kedge_identity identity;
	const struct kedge_chap *chap; /* copied; NULL: none */
	const char *initiator_iqn;     /* NULL: a default made from the host name */
	unsigned nr_sessions;          /* 1 to 16; 0: the default (2) */
	enum kcopy_transit_mode transit;
	const char *serial;            /* the unit serial number text that must be found, of whatever form; NULL: any */
};

/* Makes the source and checks the url; connects only at start. Errors: -EINVAL with the part of the url that is wrong. */
int kcopy_source_create(struct kedge_loop *l, const struct kcopy_source_opts *opts, struct kedge_source **ret_source,
			struct kedge_err *err);

/* What a source calls itself when it logs in: the name given, checked, or "iqn.2026-11.local.kedge:<host name>" for NULL. 0 or -EINVAL. */
int kcopy_initiator_iqn(const char *given, char ret_iqn[KEDGE_IQN_MAX + 1], struct kedge_err *err);

/* The unit serial number text that the target showed at its first login; "" before that and for files. Valid as long as the
 * source. */
const char *kcopy_source_serial(const struct kedge_source *s);

/* What a comparison does where the source has holes (decision 0013). */
enum kcopy_holes {
	KCOPY_HOLES_BY_STATUS, /* the source says anew that they are holes, the destination reads as zeroes, samples of them are read */
	KCOPY_HOLES_READ,      /* they are read on both sides like everything else */
};
/* "status", "read" */
const char *kcopy_holes_name(enum kcopy_holes h);
/* False: not one of them. */
bool kcopy_holes_parse(const char *text, enum kcopy_holes *ret_holes);

/* How a comparison looks at what is not a hole (decision 0016). */
enum kcopy_data {
	KCOPY_DATA_BYTES,       /* the source's bytes are read over the network */
	KCOPY_DATA_BY_CHECKSUM, /* where the source makes checksums of 128 bits, those; where they differ, the bytes */
};
/* "bytes", "checksum" */
const char *kcopy_data_name(enum kcopy_data d);
/* False: not one of them. */
bool kcopy_data_parse(const char *text, enum kcopy_data *ret_data);

struct kcopy_hydrator;

struct kcopy_range {
	uint64_t start_bytes, end_bytes; /* multiples of 4 KiB; may reach past the end of the volume */
};

struct kcopy_hydrator_opts {
	uint64_t rate_bps;        /* bytes a second; 0: no limit */
	uint32_t copy_bytes;      /* one copy, a multiple of 4 KiB up to 4 MiB; 0: the default (256 KiB) */
	uint32_t nr_inflight;     /* copies in flight; 0: the default */
	bool is_verify;           /* compare instead of copy: see kcopy_verify_start */
	enum kcopy_holes holes;   /* when comparing */
	enum kcopy_data data;     /* likewise */
	uint64_t sample_seed;     /* where samples are taken; 0: a new one for each comparison */
	struct kcopy_governor *governor; /* the caller's; NULL: nobody else is there */
	/* One line for each thing an operator should know: SOURCE_BAD_RANGE, HYDRATION_DEGRADED, HYDRATION_RUNNING,
	 * HYDRATION_PAUSED (with the reason). On the loop; may be NULL. */
	void (*event_fn)(void *arg, const char *name, const char *text);
	void *event_arg;
	/* What is copied first, in this order, before the sweep from start to end; may be NULL. Stays the caller's, and as long as the hydrator.
	 * It is a wish: what is here, or owned by somebody, is passed over. */
	const struct kcopy_range *first;
	uint32_t nr_first;
};

enum kcopy_state { KCOPY_IDLE, KCOPY_RUNNING, KCOPY_PAUSED, KCOPY_DEGRADED, KCOPY_DONE, KCOPY_FAILED };
const char *kcopy_state_name(enum kcopy_state s);

struct kcopy_status {
	enum kcopy_state state;
	uint64_t copied_bytes;   /* data blocks written */
	uint64_t zero_bytes;     /* holes and zero runs */
	uint64_t issued_bytes;   /* reads under way */
	uint64_t bad_bytes;
	uint64_t rate_bps_2min;  /* moving average */
	uint64_t rate_limit_bps;
	bool is_at_limit;        /* that is what it waits for now */
	/* Verification: read on both sides and the same; differ; holes by what the source says, not read there. Samples of holes count as
	 * verified. Of the verified, by checksums; the rest byte by byte. */
	uint64_t verified_bytes, mismatch_bytes, hole_bytes, sampled_bytes, checksum_bytes;
	enum kcopy_holes holes;
	enum kcopy_data data;
	uint64_t sample_seed;
	uint32_t nr_first_left;  /* ranges of kcopy_hydrator_opts.first that were not looked at yet */
	struct kedge_err last_err;
};

/* fn: once, later, when nothing is left to take (0), on failure, or after stop (-ECANCELED). */
typedef void (*kcopy_done_fn)(void *arg, int res, const struct kedge_err *err);

int kcopy_hydrator_create(struct kedge_loop *l, struct kedge_source *src, struct kedge_claims *claims,
			  const struct kcopy_hydrator_opts *opts, struct kcopy_hydrator **ret_h, struct kedge_err *err);
/* While the source is away the claims in hand are given back (dropped with 0), so that no write of a workload waits for it; they
 * are taken again when it is up. Takes claims->wake_fn for the length of the run. */
void kcopy_hydrator_start(struct kcopy_hydrator *h, kcopy_done_fn fn, void *arg);
/* The final comparison: every block that audit_next offers is read on both sides, but for holes, see enum kcopy_holes; whether its bytes travel for
 * it, enum kcopy_data says. Differences that the
 * workload did not make: KEDGE_E_VERIFY, first offset in the message. Only when no hydration runs. */
void kcopy_verify_start(struct kcopy_hydrator *h, kcopy_done_fn fn, void *arg);
void kcopy_hydrator_pause(struct kcopy_hydrator *h);
void kcopy_hydrator_resume(struct kcopy_hydrator *h);
void kcopy_hydrator_set_rate(struct kcopy_hydrator *h, uint64_t rate_bps);
void kcopy_hydrator_status(const struct kcopy_hydrator *h, struct kcopy_status *ret_status);
/* A request: the done callback comes with -ECANCELED when all copies in flight have ended. */
void kcopy_hydrator_stop(struct kcopy_hydrator *h);
/* Not while running. destroy(NULL) is a no-op. */
void kcopy_hydrator_destroy(struct kcopy_hydrator *h);

#endif
