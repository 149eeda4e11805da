/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The speed of kernel hydration beside a workload. Pure.
 */
#include "dm_governor.h"

#include "kedge/bytes.h"

#define FLOOR_BPS (8ull << 20)
#define START_BPS (32ull << 20)
#define CEILING_BPS (8ull << 30)
#define KEEP_PERCENT 93
#define WINDOW_MS 400        /* one judgement of the workload's speed: no shorter than that, nor than two doses … */
#define WINDOW_IOS 200       /* … nor by fewer I/Os, which would be chance … */
#define WINDOW_MAX_MS 3000   /* … but no longer than that, or two doses */
#define IDLE_WINDOW_MS 100
#define BUSY_IOS 8           /* in IDLE_WINDOW_MS: less is no workload … */
#define BUSY_PERCENT 50      /* … unless they are slow and something is in flight for so much of the time */
#define PROBE_MS 300         /* hydration off that long … */
#define PROBE_SKIP_MS 100    /* … and so much of it left out, while copies under way end */
#define PROBE_IOS 100        /* … and longer when there were fewer I/Os, up to */
#define PROBE_MAX_MS 1200
#define PROBE_PERIOD_MS 8000
#define DOSE_MIN_MS 20       /* a dose costs the workload one moment: not more often */
#define DOSE_MS 100
#define GAP_MAX_MS 4000
#define FREE_BYTES (8ull << 20)  /* in flight while nobody waits */
#define DOSE_MAX_BYTES (64ull << 20)
#define STUCK_MS 5000        /* without any progress: the source is dead */
#define BACKOFF_MIN_MS 1000
#define BACKOFF_MAX_MS 30000
#define BATCH_BYTES (1ull << 20)
#define ALONE_BYTES (64ull << 20) /* so much is copied region by region once copies had got stuck */

const char *gov_phase_name(enum gov_phase p)
{
	static const char *const names[] = {"off", "free", "doses", "probe", "backoff"};

	return (unsigned)p < 5 ? names[p] : "?";
}

void gov_init(struct governor *g, const struct gov_opts *o)
{
	*g = (struct governor){.o = {.region_bytes = o->region_bytes}, .dose_bps = START_BPS};
	gov_set(g, o->limit_bps, o->floor_bps, o->keep_percent);
}

bool gov_set(struct governor *g, uint64_t limit_bps, uint64_t floor_bps, unsigned keep_percent)
{
	struct gov_opts before = g->o;

	g->o.limit_bps = limit_bps;
	/* with a floor of next to nothing it goes on all the same, region by region */
	g->o.floor_bps = floor_bps ? kedge_max_u64(floor_bps, g->o.region_bytes) : FLOOR_BPS;
	g->o.keep_percent = keep_percent ? keep_percent : KEEP_PERCENT;
	if (before.keep_percent && before.keep_percent != g->o.keep_percent)
		g->has_hurt = false; /* it did by another measure */
	return limit_bps != before.limit_bps || g->o.floor_bps != before.floor_bps || g->o.keep_percent != before.keep_percent;
}

unsigned gov_keep_percent(uint32_t latency_percent)
{
	if (latency_percent == 0)
		return 1;
	return (unsigned)kedge_min_u64(kedge_max_u64(10000 / latency_percent, 1), 99);
}

static uint64_t clamp_bps(const struct governor *g, uint64_t bps)
{
	bps = kedge_max_u64(bps, g->o.floor_bps);
	bps = kedge_min_u64(bps, CEILING_BPS);
	return g->o.limit_bps ? kedge_min_u64(bps, g->o.limit_bps) : bps;
}

static uint32_t to_regions(const struct governor *g, uint64_t bytes)
{
	uint64_t n = kedge_max_u64(bytes / g->o.region_bytes, 1);

	return (uint32_t)kedge_min_u64(n, 1u << 20);
}

static void begin_window(struct governor *g, const struct gov_view *v)
{
	g->window_ms = v->now_ms;
	g->window_ios = v->nr_ios;
	g->window_busy_ms = v->busy_ms;
	g->window_hydrated = v->nr_hydrated;
}

static void enter(struct governor *g, enum gov_phase phase, const struct gov_view *v)
{
	if (g->phase == GOV_PHASE_OFF || g->phase == GOV_PHASE_BACKOFF || phase == GOV_PHASE_OFF) {
		g->moved_ms = v->now_ms;
		g->moved_hydrated = v->nr_hydrated;
	}
	g->phase = phase;
	g->phase_ms = v->now_ms;
	g->dose_due_ms = v->now_ms;
	g->dose_bps_given = 0;
	begin_window(g, v);
}

/* Is there a workload, by what was seen in the window so far? */
static bool is_busy(const struct governor *g, const struct gov_view *v)
{
	return v->nr_ios - g->window_ios >= BUSY_IOS || (v->busy_ms - g->window_busy_ms) * 100 >= (v->now_ms - g->window_ms) * BUSY_PERCENT;
}

static double iops(const struct governor *g, const struct gov_view *v)
{
	uint64_t ms = v->now_ms - g->window_ms;

	return ms ? 1000.0 * (double)(v->nr_ios - g->window_ios) / (double)ms : 0;
}

static void order_probe(struct governor *g, const struct gov_view *v, struct gov_order *o)
{
	enter(g, GOV_PHASE_PROBE, v);
	g->probe_due_ms = v->now_ms + PROBE_PERIOD_MS;
	*o = (struct gov_order){.act = GOV_HOLD, .sleep_ms = PROBE_SKIP_MS};
}

/* The kernel copies a batch as one, and one bad sector fails it whole: after that, each region alone, so that all but the bad one come. */
static uint32_t batch_of(const struct governor *g, const struct gov_view *v)
{
	return v->nr_hydrated < g->alone_until_hydrated ? 1 : to_regions(g, BATCH_BYTES);
}

static void order_free(struct governor *g, const struct gov_view *v, struct gov_order *o)
{
	uint64_t bytes = g->o.limit_bps ? kedge_min_u64(FREE_BYTES, g->o.limit_bps / 10) : FREE_BYTES;

	if (g->phase != GOV_PHASE_FREE)
		enter(g, GOV_PHASE_FREE, v);
	*o = (struct gov_order){.act = GOV_FREE, .threshold = to_regions(g, bytes), .batch = batch_of(g, v),
				.sleep_ms = IDLE_WINDOW_MS};
}

/* Nobody is there, or somebody came. An operator's limit is kept by doses alone: left to itself the kernel knows none. */
static void step_free(struct governor *g, const struct gov_view *v, struct gov_order *o)
{
	if (v->now_ms - g->window_ms >= IDLE_WINDOW_MS) {
		if (is_busy(g, v) && g->base_iops == 0) {
			order_probe(g, v, o);
			return;
		}
		if (is_busy(g, v) || g->o.limit_bps) {
			enter(g, GOV_PHASE_DOSES, v);
			*o = (struct gov_order){.act = GOV_HOLD, .sleep_ms = 1};
			return;
		}
		begin_window(g, v);
	}
	order_free(g, v, o);
}

static void step_probe(struct governor *g, const struct gov_view *v, struct gov_order *o)
{
	uint64_t age = v->now_ms - g->phase_ms;

	if (age < PROBE_SKIP_MS || v->nr_hydrating) { /* its last copies still end: not the workload's own speed */
		begin_window(g, v);
		if (v->nr_hydrating && age > STUCK_MS)
			enter(g, GOV_PHASE_DOSES, v);
		*o = (struct gov_order){.act = GOV_NOTHING, .sleep_ms = 10};
		return;
	}
	uint64_t seen_ms = v->now_ms - g->window_ms;
	if (seen_ms < PROBE_MS - PROBE_SKIP_MS || (seen_ms < PROBE_MAX_MS && v->nr_ios - g->window_ios < PROBE_IOS)) {
		*o = (struct gov_order){.act = GOV_NOTHING, .sleep_ms = seen_ms < PROBE_MS - PROBE_SKIP_MS ? (unsigned)(PROBE_MS - PROBE_SKIP_MS - seen_ms) : 20};
		return;
	}
	double now = iops(g, v);
	/* up at once, down slowly: one slow moment is no new measure */
	g->base_iops = now >= g->base_iops ? now : (g->base_iops + now) / 2;
	enter(g, GOV_PHASE_DOSES, v);
	*o = (struct gov_order){.act = GOV_NOTHING, .sleep_ms = 1};
}

static void judge(struct governor *g, const struct gov_view *v)
{
	uint64_t age = v->now_ms - g->window_ms, two_doses = 2ull * kedge_max_u64(g->gap_ms, DOSE_MS);

	if (age < WINDOW_MS || age < two_doses || (v->nr_ios - g->window_ios < WINDOW_IOS && age < kedge_max_u64(WINDOW_MAX_MS, two_doses)))
		return;
	g->last_share = g->base_iops > 0 ? iops(g, v) / g->base_iops : 1;
	uint64_t moved = (v->nr_hydrated - g->window_hydrated) * g->o.region_bytes * 1000 / (v->now_ms - g->window_ms);
	if (g->last_share * 100 < g->o.keep_percent)
		g->dose_bps = g->has_hurt ? g->dose_bps / 4 * 3 : g->dose_bps / 2; /* the last step was a doubling */
	else if (moved * 2 >= g->dose_bps) /* what was granted was used: twice as much until it hurts once, then step by step */
		g->dose_bps += g->has_hurt ? kedge_max_u64(g->dose_bps / 8, 1 << 20) : g->dose_bps;
	g->has_hurt |= g->last_share * 100 < g->o.keep_percent;
	g->dose_bps = clamp_bps(g, g->dose_bps);
	begin_window(g, v);
}

/* Half of what the workload may lose is for the pauses of doses, half for the copies. On a slow disk that means rarer and larger doses. */
static uint32_t least_gap_ms(const struct governor *g, const struct gov_view *v)
{
	unsigned lose_percent = g->o.keep_percent < 100 ? 100 - g->o.keep_percent : 1;
	uint64_t pause_ms = kedge_max_u64(v->pause_ms, g->gap_ms * 3ull / 4 * lose_percent / 200); /* one quick dose proves little */
	uint64_t gap_ms = pause_ms * 200 / lose_percent;

	return (uint32_t)kedge_min_u64(kedge_max_u64(gap_ms, DOSE_MIN_MS), GAP_MAX_MS);
}

static void step_doses(struct governor *g, const struct gov_view *v, struct gov_order *o)
{
	if (v->now_ms - g->phase_ms > WINDOW_MS && v->now_ms - g->window_ms >= IDLE_WINDOW_MS && !is_busy(g, v) &&
	    !g->o.limit_bps) {
		order_free(g, v, o);
		return;
	}
	if (g->base_iops > 0 && v->now_ms >= g->probe_due_ms) {
		order_probe(g, v, o);
		return;
	}
	judge(g, v);
	/* what the last dose really moved is what it cost: the kernel may have started a little more than it was asked for */
	uint64_t moved = v->nr_hydrated - g->dose_hydrated;
	if (g->dose_bps_given && g->dose_ms + moved * g->o.region_bytes * 1000 / g->dose_bps_given > g->dose_due_ms)
		g->dose_due_ms = g->dose_ms + moved * g->o.region_bytes * 1000 / g->dose_bps_given;
	/* The last dose has not landed: more would only queue up. Ask again soon. */
	if (v->now_ms < g->dose_due_ms || v->nr_hydrating) {
		unsigned left = v->now_ms < g->dose_due_ms ? (unsigned)(g->dose_due_ms - v->now_ms) : 2;
		*o = (struct gov_order){.act = GOV_NOTHING, .sleep_ms = (unsigned)kedge_min_u64(kedge_max_u64(left, 1), 20)};
		return;
	}
	uint64_t bps = clamp_bps(g, g->dose_bps);
	g->gap_ms = least_gap_ms(g, v);
	uint64_t bytes = kedge_max_u64(bps * kedge_max_u64(DOSE_MS, g->gap_ms) / 1000, g->o.region_bytes);
	bytes = kedge_min_u64(bytes, DOSE_MAX_BYTES);
	uint32_t n = to_regions(g, bytes);
	uint64_t gap_ms = kedge_max_u64((uint64_t)n * g->o.region_bytes * 1000 / bps, g->gap_ms);
	/* from when it was due, so that late looks do not make it slower; but no debt is carried on */
	g->dose_due_ms = kedge_max_u64(g->dose_due_ms + gap_ms, v->now_ms + g->gap_ms);
	g->dose_ms = v->now_ms;
	g->dose_hydrated = v->nr_hydrated;
	g->dose_bps_given = bps;
	g->nr_doses++;
	*o = (struct gov_order){.act = GOV_DOSE, .threshold = n, .batch = batch_of(g, v), .sleep_ms = 2};
}

/* Hydration is on and nothing comes: the source is dead and the kernel retries without end (K5). */
static bool is_stuck(struct governor *g, const struct gov_view *v)
{
	if (v->nr_hydrated != g->moved_hydrated) {
		g->moved_hydrated = v->nr_hydrated;
		g->moved_ms = v->now_ms;
		g->backoff_ms = 0;
	} else if (g->phase == GOV_PHASE_PROBE && !v->nr_hydrating) {
		g->moved_ms = v->now_ms; /* nothing was asked for */
	}
	return v->now_ms - g->moved_ms >= STUCK_MS;
}

void gov_step(struct governor *g, const struct gov_view *v, struct gov_order *o)
{
	if (!v->is_wanted || v->nr_hydrated >= v->nr_regions) {
		bool was_off = g->phase == GOV_PHASE_OFF;
		enter(g, GOV_PHASE_OFF, v);
		*o = (struct gov_order){.act = was_off ? GOV_NOTHING : GOV_HOLD, .sleep_ms = IDLE_WINDOW_MS};
		return;
	}
	if (g->phase == GOV_PHASE_OFF) {
		order_free(g, v, o);
		return;
	}
	if (g->phase == GOV_PHASE_BACKOFF) {
		if (v->now_ms - g->phase_ms >= g->backoff_ms) {
			order_free(g, v, o);
			return;
		}
		*o = (struct gov_order){.act = GOV_NOTHING, .sleep_ms = IDLE_WINDOW_MS};
		return;
	}
	if (is_stuck(g, v)) {
		g->backoff_ms = (unsigned)kedge_min_u64(g->backoff_ms ? g->backoff_ms * 2 : BACKOFF_MIN_MS, BACKOFF_MAX_MS);
		g->alone_until_hydrated = v->nr_hydrated + to_regions(g, ALONE_BYTES);
		enter(g, GOV_PHASE_BACKOFF, v);
		*o = (struct gov_order){.act = GOV_HOLD, .sleep_ms = IDLE_WINDOW_MS};
		return;
	}
	if (g->phase == GOV_PHASE_FREE)
		step_free(g, v, o);
	else if (g->phase == GOV_PHASE_PROBE)
		step_probe(g, v, o);
	else
		step_doses(g, v, o);
}
