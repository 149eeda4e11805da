/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_GOVERNOR_H
#define KCOPY_GOVERNOR_H

/*
 * Pure. How much a hydrator may have under way beside a workload.
 *
 * The promise, the operator's to set: of the workload's I/O at most one in a hundred takes longer than latency_percent of what, while nothing
 * is copied, one in a hundred takes longer than, and their median rises by no more than that; and hydration never gets less than floor_bps, whatever that costs the workload. What it gets
 * at most is another's business (bucket.h).
 *
 * Each kind of I/O is held against its own baseline: reads of what is here, reads of what is not, changes, flushes. A baseline is learned from
 * what ends while no copy is under way: before hydration, while it is paused, and in short pauses that the governor makes when it needs them. What
 * an I/O takes counts from the moment at which it could have been seen: how late the loop looks is measured apart (kcopy_governor_lag).
 *
 * The lever is one number, the level: bytes in flight from 64 KiB on, twice as many a level; below that one copy of 64 KiB and rests, each level
 * twice as long. One level down when the promise is broken, small steps up while it is kept with room to spare; doubled until it hurts once.
 */

#include <stdbool.h>
#include <stdint.h>

#define KCOPY_LATENCY_PERCENT_DEFAULT 150u
#define KCOPY_LATENCY_PERCENT_MIN 101u
#define KCOPY_LATENCY_PERCENT_MAX 10000u
/* Half a gigabit: a terabyte in under five hours, whatever the workload does. With this or more, 512 KiB are under way at least, however fast those go. */
#define KCOPY_FLOOR_BPS_DEFAULT (64ull << 20)

enum kcopy_io_kind { KCOPY_IO_READ, KCOPY_IO_READ_SOURCE, KCOPY_IO_CHANGE, KCOPY_IO_FLUSH, KCOPY_NR_IO_KINDS };

/* What hydration waited for when it was last asked. */
enum kcopy_bound {
	KCOPY_BOUND_NONE,    /* nobody is there, or the latency may be what it likes */
	KCOPY_BOUND_LATENCY,
	KCOPY_BOUND_FLOOR,   /* the latency would allow less than the floor */
	KCOPY_BOUND_BASELINE, /* nothing is copied for a moment, so that it can be learned */
};
const char *kcopy_bound_name(enum kcopy_bound b);

struct kcopy_governor;

/* latency_percent: 0: hydration goes first. floor_bps 0: none. Never fails but for want of memory (NULL). destroy(NULL) is a no-op. */
struct kcopy_governor *kcopy_governor_create(uint32_t latency_percent, uint64_t floor_bps, uint64_t now_ns);
void kcopy_governor_destroy(struct kcopy_governor *g);
void kcopy_governor_set(struct kcopy_governor *g, uint32_t latency_percent, uint64_t floor_bps, uint64_t now_ns);

/* An I/O of the workload ended. */
void kcopy_governor_io(struct kcopy_governor *g, enum kcopy_io_kind kind, uint64_t took_ns, uint64_t now_ns);
/* So late has the loop looked at what it was to do now; holds for the I/O of the next moments. */
void kcopy_governor_lag(struct kcopy_governor *g, uint64_t lag_ns, uint64_t now_ns);
/* Has there been I/O just now? Only then lags are worth measuring. */
bool kcopy_governor_has_workload(const struct kcopy_governor *g, uint64_t now_ns);

/* May a copy begin? 0: yes, of at most *ret_bytes (a multiple of 4 KiB, not more than max_bytes). Else so many ms later, or when a copy ends. nr_max may be
 * under way. */
uint32_t kcopy_governor_ask(struct kcopy_governor *g, unsigned nr_max, uint32_t max_bytes, uint64_t now_ns, uint32_t *ret_bytes);
void kcopy_governor_begun(struct kcopy_governor *g, uint64_t nr_bytes, uint64_t now_ns);
void kcopy_governor_ended(struct kcopy_governor *g, uint64_t nr_bytes, uint64_t took_ns, uint64_t now_ns);

struct kcopy_governor_status {
	uint32_t latency_percent;
	uint64_t floor_bps;
	enum kcopy_bound bound;
	/* of the kind of I/O that there is most of; 0: not known */
	uint64_t baseline_ns, limit_ns, latency_ns;
	unsigned nr_copies; /* allowed */
	uint32_t copy_bytes;
	double level;
	uint64_t nr_ios, nr_late; /* judged since ever, and later than they may be */
};
void kcopy_governor_status(const struct kcopy_governor *g, uint64_t now_ns, struct kcopy_governor_status *ret_status);

#endif
