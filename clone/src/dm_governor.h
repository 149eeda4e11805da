/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DM_GOVERNOR_H
#define KCLONE_DM_GOVERNOR_H

/*
 * Pure. How fast kernel dm-clone may hydrate beside a workload (fault K6 of engine.md: by itself it stops while any foreground I/O is in
 * flight, and takes one region at a time otherwise).
 *
 * Idle foreground: the kernel goes on by itself, many regions in flight (FREE). Busy foreground: doses. A dose is given while the
 * device above the clone is suspended for the moment that its I/O in hand takes to end: with nothing in flight one message makes
 * the kernel start as many regions as the threshold says, and they are copied while the workload goes on. The next dose comes when its
 * turn is and the last one has landed. Size times frequency is the rate: raised step by step while the workload keeps its speed, halved
 * when it does not, never under the floor, never over the operator's limit. What the workload's speed is without hydration is measured
 * again and again, in short pauses (PROBE), the first part of each left out.
 */

#include <stdbool.h>
#include <stdint.h>

enum gov_act {
	GOV_NOTHING,
	GOV_FREE,  /* hydration on, with threshold and batch */
	GOV_HOLD,  /* hydration off */
	GOV_DOSE,  /* suspend above, hydration on with threshold and batch (which starts it), resume */
};

struct gov_opts {
	uint32_t region_bytes;
	uint64_t floor_bps;   /* hydration never gets less, whatever it costs the workload; 0: the default, 8 MiB/s */
	uint64_t limit_bps;   /* the operator's; 0: none. Goes over the floor. */
	unsigned keep_percent; /* of its own speed the workload is to keep; 0: the default, 93 */
};

/* What is so now. Counters only grow. */
struct gov_view {
	uint64_t now_ms;
	uint64_t nr_ios;      /* completed by the foreground since ever */
	uint64_t busy_ms;     /* in which it had something in flight, since ever */
	uint32_t pause_ms;    /* how long the last dose made the foreground wait: its slowest I/O in hand, and a few calls */
	uint64_t nr_hydrated, nr_regions, nr_hydrating;
	bool is_wanted;       /* hydration is allowed just now: not paused, the source is there */
};

struct gov_order {
	enum gov_act act;
	uint32_t threshold, batch; /* regions */
	unsigned sleep_ms;         /* look again after that */
};

enum gov_phase { GOV_PHASE_OFF, GOV_PHASE_FREE, GOV_PHASE_DOSES, GOV_PHASE_PROBE, GOV_PHASE_BACKOFF };
const char *gov_phase_name(enum gov_phase p);

struct governor {
	struct gov_opts o;
	enum gov_phase phase;
	uint64_t phase_ms;        /* since when */
	uint64_t dose_bps;        /* what doses add up to */
	double base_iops;         /* the workload's own speed; 0: not measured */
	double last_share;        /* of base_iops, in the last window */
	bool has_hurt;            /* the workload was slower than it is to be, at least once */
	/* window under way */
	uint64_t window_ms, window_ios, window_hydrated, window_busy_ms;
	uint64_t probe_due_ms;
	uint64_t dose_due_ms;
	/* the last dose: when, how far hydration was, at what rate; 0: none in this phase */
	uint64_t dose_ms, dose_hydrated, dose_bps_given;
	uint32_t gap_ms;          /* between doses, at least: so that their pauses take only a part of what the workload may lose */
	/* progress, for dead sources (K5) */
	uint64_t moved_ms, moved_hydrated;
	unsigned backoff_ms;
	uint64_t alone_until_hydrated; /* regions; below it they are copied one by one */
	uint64_t nr_doses;
};

void gov_init(struct governor *g, const struct gov_opts *o);
/* As in gov_opts, at any time. True: something is different now. */
bool gov_set(struct governor *g, uint64_t limit_bps, uint64_t floor_bps, unsigned keep_percent);
/* What of its own speed a workload keeps that waits for each answer, when an answer may take so much of its time alone. 0: all is hydration's. */
unsigned gov_keep_percent(uint32_t latency_percent);
/* Call again after sleep_ms. */
void gov_step(struct governor *g, const struct gov_view *v, struct gov_order *ret_order);

#endif
