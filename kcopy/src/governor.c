/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. How much a hydrator may have under way beside a workload (governor.h).
 *
 * Pure.
 */
#include "kcopy/governor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bucket.h"
#include "kedge/bytes.h"
#include "latency.h"

#define NS_PER_MS 1000000ull
#define UNIT_BYTES 65536u        /* level 0 */
#define PIECE_BYTES 262144u      /* copies are this small while that leaves room for no more than there may be */
#define LEVEL_MIN (-8.0)
#define LEVEL_MIN_FLOOR 3.0      /* with the default floor or a higher one: two copies of PIECE_BYTES are always under way, pauses for a baseline aside */
#define LEVEL_START 2.0
#define FLOOR_BYTES (8u * PIECE_BYTES) /* of what the floor lets begin, under way: where it can't be held, more would only stand before the workload's reads */
#define LEVEL_BLIND 3.0          /* at most, while no baseline is known */
#define QUIET_MS 500             /* without I/O: nobody is there */
#define SETTLE_NS 300000ull      /* after the last copy: what begins then and ends before the next had none beside it, rests included */
#define ALLOWED 0.007            /* of the I/O may be late: less than one in a hundred, for those above us measure too */
#define BUDGET_MAX 3.0
#define BUDGET_MIN (-24.0)
#define LATE_MIN 2.0             /* more that are late than may be: a step down */
#define SLOW_IOS 256
#define SLOW_MAX 0.4             /* no further up; half of them slow: down */
#define WINDOW_IOS 32            /* one judgement: so many I/Os and so long … */
#define WINDOW_MS 10
#define WINDOW_MAX_MS 100        /* … or fewer, and longer */
#define DOWN 1.0
#define UP_FIRST 0.25            /* until it hurts once */
#define UP 0.125
#define UP_NEAR 0.03125          /* close to where it hurt */
#define NEAR 0.75
#define ENOUGH_BPS (1ull << 30)  /* as fast as this, no further up: what more there is under way only waits, and the workload's I/O behind it */
#define HURT_FADE 0.01           /* a window: it may not hurt there any more */
#define SINK_MAX_MS 1000         /* after a step down, what is under way lands first */
#define KNOWN_IOS 64             /* of a kind, for a baseline to be one */
#define PAST_IOS 512             /* what was seen before a pause counts like so many at most */
#define PROBE_MS 150             /* shorter than what the floor's bucket holds */
#define PROBE_IOS 256            /* so many are enough */
#define PROBE_LOOK_MS 3
#define PROBE_DRAIN_MS 1000
#define PROBE_PERIOD_MS 8000
#define PROBE_AGAIN_MS 600       /* … while none is known */
#define LAG_HOLDS_MS 10
#define REST_MIN_NS NS_PER_MS    /* shorter rests are saved up */
#define REST_MAX_NS (200 * NS_PER_MS)

struct kcopy_governor {
	uint32_t latency_percent;
	struct kcopy_bucket floor; /* level above 0: less was copied than is promised */

	/* what is seen */
	struct kcopy_latency idle[KCOPY_NR_IO_KINDS], busy[KCOPY_NR_IO_KINDS];
	uint64_t limit_ns[KCOPY_NR_IO_KINDS]; /* 0: not known */
	uint64_t middle_ns[KCOPY_NR_IO_KINDS]; /* likewise of the median */
	uint64_t recent[KCOPY_NR_IO_KINDS];   /* I/Os, fading: what there is most of */
	uint64_t last_io_ns, lag_ns, lag_at_ns;
	bool has_io;
	unsigned nr_copies;
	uint64_t inflight_bytes, copy_end_ns;

	/* the judgement */
	double level, hurt_level, budget, low, slow; /* slow: share beyond middle_ns, of the last SLOW_IOS or so; low: of the budget, at the last step down; 0: there is none to make good */
	bool has_hurt, was_governed;
	uint64_t window_ns, sink_until_ns; /* 0: not sinking */
	uint32_t window_ios, window_late, window_slow; /* slow: beyond middle_ns */
	uint64_t window_bytes; /* of copies that ended in it */
	uint64_t nr_ios, nr_late;

	/* the pause in which a baseline is learned */
	bool is_probing;
	uint64_t probe_ns, probe_idle_ns, probe_due_ns; /* since when; since when idle (0: not yet); the next */
	struct kcopy_latency probed[KCOPY_NR_IO_KINDS];

	uint64_t rest_ns, rest_from_ns; /* owed to the workload; since when it is given (0: not yet) */
	enum kcopy_bound bound;
	bool was_floor; /* what let the last copy begin */
	unsigned may_copies;
	uint32_t may_bytes;
};

const char *kcopy_bound_name(enum kcopy_bound b)
{
	static const char *const names[] = { "none", "latency", "floor", "baseline" };

	return (unsigned)b < KEDGE_ARRAY_LEN(names) ? names[b] : "?";
}

struct kcopy_governor *kcopy_governor_create(uint32_t latency_percent, uint64_t floor_bps, uint64_t now_ns)
{
	struct kcopy_governor *g = calloc(1, sizeof *g);

	if (!g)
		return NULL;
	g->latency_percent = latency_percent;
	g->level = LEVEL_START;
	g->window_ns = now_ns;
	kcopy_bucket_init(&g->floor, floor_bps, now_ns);
	return g;
}

void kcopy_governor_destroy(struct kcopy_governor *g)
{
	free(g);
}

static void set_limit(struct kcopy_governor *g, unsigned kind)
{
	uint64_t base_ns = g->idle[kind].nr >= KNOWN_IOS ? kcopy_latency_ns(&g->idle[kind], 10) : 0;

	g->limit_ns[kind] = base_ns * g->latency_percent / 100;
	g->middle_ns[kind] = kcopy_latency_ns(&g->idle[kind], 500) * g->latency_percent / 100;
}

void kcopy_governor_set(struct kcopy_governor *g, uint32_t latency_percent, uint64_t floor_bps, uint64_t now_ns)
{
	if (floor_bps != g->floor.rate_bps)
		kcopy_bucket_set_rate(&g->floor, floor_bps, now_ns);
	if (latency_percent == g->latency_percent)
		return;
	/* where it hurt, it did so by another measure */
	g->latency_percent = latency_percent;
	g->has_hurt = false;
	g->budget = g->low = g->slow = 0;
	for (unsigned k = 0; k < KCOPY_NR_IO_KINDS; k++)
		set_limit(g, k);
}

/* ---- what is seen ---- */

static bool is_idle(const struct kcopy_governor *g, uint64_t began_ns)
{
	return g->nr_copies == 0 && (g->copy_end_ns == 0 || began_ns >= g->copy_end_ns + SETTLE_NS);
}

bool kcopy_governor_has_workload(const struct kcopy_governor *g, uint64_t now_ns)
{
	return g->has_io && now_ns < g->last_io_ns + QUIET_MS * NS_PER_MS;
}

void kcopy_governor_lag(struct kcopy_governor *g, uint64_t lag_ns, uint64_t now_ns)
{
	g->lag_ns = lag_ns;
	g->lag_at_ns = now_ns;
}

static void note_recent(struct kcopy_governor *g, enum kcopy_io_kind kind)
{
	if (++g->recent[kind] < 4096)
		return;
	for (unsigned k = 0; k < KCOPY_NR_IO_KINDS; k++)
		g->recent[k] /= 2;
}

static void learn(struct kcopy_governor *g, enum kcopy_io_kind kind, uint64_t took_ns, uint64_t now_ns)
{
	kcopy_latency_add(&g->idle[kind], took_ns);
	if (g->is_probing)
		kcopy_latency_add(&g->probed[kind], took_ns);
	if (g->idle[kind].nr % 16 == 0 || g->idle[kind].nr == KNOWN_IOS)
		set_limit(g, kind);
	if (g->limit_ns[kind] && !g->is_probing)
		g->probe_due_ns = now_ns + PROBE_PERIOD_MS * NS_PER_MS;
}

void kcopy_governor_io(struct kcopy_governor *g, enum kcopy_io_kind kind, uint64_t took_ns, uint64_t now_ns)
{
	uint64_t began_ns = now_ns > took_ns ? now_ns - took_ns : 0;

	if (g->lag_at_ns && now_ns < g->lag_at_ns + LAG_HOLDS_MS * NS_PER_MS)
		took_ns += g->lag_ns;
	g->has_io = true;
	g->last_io_ns = kedge_max_u64(now_ns, g->last_io_ns);
	note_recent(g, kind);
	bool is_alone = is_idle(g, began_ns);
	if (is_alone)
		learn(g, kind, took_ns, now_ns);
	else
		kcopy_latency_add(&g->busy[kind], took_ns);
	/* the promise is one for all of its I/O: what comes in a rest counts too */
	if (g->limit_ns[kind] == 0 || (is_alone && (!g->was_governed || g->is_probing)))
		return;
	bool is_late = took_ns > g->limit_ns[kind];
	g->window_ios++;
	g->window_late += is_late;
	g->window_slow += took_ns > g->middle_ns[kind];
	g->nr_ios++;
	g->nr_late += is_late;
}

void kcopy_governor_begun(struct kcopy_governor *g, uint64_t nr_bytes, uint64_t now_ns)
{
	g->nr_copies++;
	g->inflight_bytes += nr_bytes;
	(void)kcopy_bucket_wait_ms(&g->floor, now_ns); /* fills it */
	kcopy_bucket_take(&g->floor, nr_bytes);
	/* what was copied beyond the floor is no reason to copy less later */
	if (g->floor.level_bytes < -(int64_t)nr_bytes)
		g->floor.level_bytes = -(int64_t)nr_bytes;
}

void kcopy_governor_ended(struct kcopy_governor *g, uint64_t nr_bytes, uint64_t took_ns, uint64_t now_ns)
{
	g->nr_copies--;
	g->inflight_bytes -= nr_bytes;
	g->copy_end_ns = now_ns;
	g->window_bytes += nr_bytes;
	if (g->level < 0 && g->bound == KCOPY_BOUND_LATENCY)
		g->rest_ns = kedge_min_u64(g->rest_ns + (uint64_t)((double)took_ns * (exp2(-g->level) - 1)), REST_MAX_NS);
}

/* ---- the judgement ---- */

static void begin_window(struct kcopy_governor *g, uint64_t now_ns)
{
	g->window_ns = now_ns;
	g->window_ios = g->window_late = g->window_slow = 0;
	g->window_bytes = 0;
}

static bool is_fast_enough(const struct kcopy_governor *g, uint64_t now_ns)
{
	return (double)g->window_bytes * 1e9 >= (double)ENOUGH_BPS * (double)(now_ns - g->window_ns);
}

static double level_max(unsigned nr_max, uint32_t max_bytes)
{
	return log2((double)nr_max * max_bytes / UNIT_BYTES);
}

static void step_up(struct kcopy_governor *g)
{
	double share = kedge_min_u64(g->window_ios, WINDOW_IOS) / (double)WINDOW_IOS, by = UP_FIRST;

	if (g->has_hurt) {
		g->hurt_level += HURT_FADE;
		by = g->level + UP > g->hurt_level - NEAR && g->level < g->hurt_level + NEAR ? UP_NEAR : UP;
	}
	g->level += by * (share > 0.125 ? share : 0.125); /* few I/Os say little */
}

static void step_down(struct kcopy_governor *g, uint64_t now_ns)
{
	g->hurt_level = g->level;
	g->has_hurt = true;
	g->level -= DOWN;
	g->low = g->budget;
	g->slow = g->slow > SLOW_MAX ? SLOW_MAX : g->slow; /* the next step needs more of them */
	g->sink_until_ns = now_ns + SINK_MAX_MS * NS_PER_MS;
}

static double level_min(const struct kcopy_governor *g)
{
	return g->floor.rate_bps >= KCOPY_FLOOR_BPS_DEFAULT ? LEVEL_MIN_FLOOR : LEVEL_MIN;
}

static void judge(struct kcopy_governor *g, uint64_t now_ns, double max)
{
	uint64_t age_ms = (now_ns - g->window_ns) / NS_PER_MS;

	if (g->window_ios < WINDOW_IOS ? age_ms < WINDOW_MAX_MS : age_ms < WINDOW_MS)
		return;
	g->budget += g->window_ios * ALLOWED - g->window_late;
	g->budget = g->budget > BUDGET_MAX ? BUDGET_MAX : g->budget < BUDGET_MIN ? BUDGET_MIN : g->budget;
	if (g->budget >= 0)
		g->low = 0;
	/* where the slow hundredth is very slow by itself, that alone would allow anything */
	if (g->window_ios)
		g->slow += ((double)g->window_slow / g->window_ios - g->slow) * (double)kedge_min_u64(g->window_ios, SLOW_IOS) / SLOW_IOS;
	double window_bytes = UNIT_BYTES * exp2(g->level > 0 ? g->level : 0);
	if (g->sink_until_ns && (now_ns >= g->sink_until_ns || (double)g->inflight_bytes <= window_bytes))
		g->sink_until_ns = 0; /* what is judged next began after the step */
	else if (g->sink_until_ns)
		;
	else if (g->slow > 0.5)
		step_down(g, now_ns);
	else if (g->window_late && (g->budget <= g->low - LATE_MIN || g->budget <= BUDGET_MIN)) /* a late one now and then is chance */
		step_down(g, now_ns);
	else if (g->window_ios && !g->window_late && g->slow < SLOW_MAX && g->budget >= 0 && !is_fast_enough(g, now_ns))
		step_up(g);
	begin_window(g, now_ns);
}

/* ---- the pause in which a baseline is learned ---- */

/* The kind there is most of. */
static unsigned main_kind(const struct kcopy_governor *g)
{
	unsigned best = 0;

	for (unsigned k = 1; k < KCOPY_NR_IO_KINDS; k++)
		if (g->recent[k] > g->recent[best])
			best = k;
	return best;
}

static bool is_known(const struct kcopy_governor *g)
{
	return g->limit_ns[main_kind(g)] != 0;
}

static void begin_probe(struct kcopy_governor *g, uint64_t now_ns)
{
	g->is_probing = true;
	g->probe_ns = now_ns;
	g->probe_idle_ns = 0;
	/* what was learned before shall not outweigh what is seen now */
	for (unsigned k = 0; k < KCOPY_NR_IO_KINDS; k++) {
		g->probed[k].nr = 0;
		memset(g->probed[k].buckets, 0, sizeof g->probed[k].buckets);
		while (g->idle[k].nr >= PAST_IOS)
			kcopy_latency_fade(&g->idle[k]);
	}
}

static void look_at_probe(struct kcopy_governor *g, uint64_t now_ns)
{
	if (g->probe_idle_ns == 0 && is_idle(g, now_ns))
		g->probe_idle_ns = now_ns;
	bool is_seen = g->probed[main_kind(g)].nr >= PROBE_IOS && is_known(g);
	bool is_over = g->probe_idle_ns ? now_ns >= g->probe_idle_ns + PROBE_MS * NS_PER_MS : now_ns >= g->probe_ns + PROBE_DRAIN_MS * NS_PER_MS;
	if (!is_seen && !is_over)
		return;
	g->is_probing = false;
	for (unsigned k = 0; k < KCOPY_NR_IO_KINDS; k++) {
		/* Of a past that was slower as a whole a few would keep it up. By the median: one pause without a hiccup proves nothing. */
		if (g->probed[k].nr >= KNOWN_IOS && kcopy_latency_ns(&g->probed[k], 500) < kcopy_latency_ns(&g->idle[k], 500) / 4 * 3)
			g->idle[k] = g->probed[k];
		set_limit(g, k);
	}
	g->probe_due_ns = now_ns + (is_known(g) ? PROBE_PERIOD_MS : PROBE_AGAIN_MS) * NS_PER_MS;
	begin_window(g, now_ns);
}

/* ---- the answer ---- */

/* Small copies first: none of them holds the thread for long. */
static void shape(struct kcopy_governor *g, unsigned nr_max, uint32_t max_bytes)
{
	uint64_t window = (uint64_t)(UNIT_BYTES * exp2(g->level > 0 ? g->level : 0));
	uint64_t bytes = kedge_min_u64(kedge_max_u64(window / 2, UNIT_BYTES), PIECE_BYTES);

	if (window / bytes > nr_max)
		bytes = window / nr_max;
	bytes = kedge_min_u64(kedge_round_down(bytes, UNIT_BYTES), max_bytes);
	g->may_bytes = (uint32_t)kedge_max_u64(bytes, kedge_min_u64(UNIT_BYTES, max_bytes));
	g->may_copies = (unsigned)kedge_min_u64(kedge_max_u64(window / g->may_bytes, 1), nr_max);
}

static uint32_t rest_ms(struct kcopy_governor *g, uint64_t now_ns)
{
	if (g->level >= 0)
		g->rest_ns = 0;
	if (g->rest_ns < REST_MIN_NS)
		return 0;
	if (g->rest_from_ns == 0)
		g->rest_from_ns = kedge_max_u64(g->copy_end_ns, 1);
	uint64_t given_ns = now_ns > g->rest_from_ns ? now_ns - g->rest_from_ns : 0;
	if (given_ns >= g->rest_ns) {
		g->rest_ns = g->rest_from_ns = 0;
		return 0;
	}
	return (uint32_t)((g->rest_ns - given_ns) / NS_PER_MS) + 1;
}

/* What the latency allows: 0: a copy now; else ms. */
static uint32_t by_latency(struct kcopy_governor *g, unsigned nr_max, uint32_t max_bytes, uint64_t now_ns)
{
	double max = level_max(nr_max, max_bytes);

	if (!g->is_probing && now_ns >= g->probe_due_ns && (!is_known(g) || g->level < max))
		begin_probe(g, now_ns);
	if (g->is_probing)
		look_at_probe(g, now_ns);
	if (!g->is_probing)
		judge(g, now_ns, max);
	if (!is_known(g) && g->level > LEVEL_BLIND)
		g->level = LEVEL_BLIND;
	g->level = g->level < level_min(g) ? level_min(g) : g->level;
	g->level = g->level > max ? max : g->level;
	shape(g, nr_max, max_bytes);
	g->bound = g->is_probing ? KCOPY_BOUND_BASELINE : KCOPY_BOUND_LATENCY;
	if (g->is_probing)
		return PROBE_LOOK_MS;
	if (g->nr_copies >= g->may_copies)
		return WINDOW_MAX_MS; /* the end of one of them comes sooner */
	uint32_t ms = rest_ms(g, now_ns);
	if (ms == 0 && g->level >= max)
		g->bound = KCOPY_BOUND_NONE;
	return ms;
}

/* Nothing has been judged for a while. */
static void begin_governing(struct kcopy_governor *g, uint64_t now_ns)
{
	begin_window(g, now_ns);
	g->rest_ns = g->rest_from_ns = 0;
	g->was_floor = false;
	(void)kcopy_bucket_wait_ms(&g->floor, now_ns);
	g->floor.level_bytes = 0;
	g->was_governed = true;
}

static uint32_t ask_governed(struct kcopy_governor *g, unsigned nr_max, uint32_t max_bytes, uint64_t now_ns)
{
	if (!g->was_governed)
		begin_governing(g, now_ns);
	uint32_t ms = by_latency(g, nr_max, max_bytes, now_ns);
	if (ms == 0)
		g->was_floor = false;
	if (g->was_floor && !g->is_probing)
		g->bound = KCOPY_BOUND_FLOOR;
	if (ms == 0 || g->floor.rate_bps == 0)
		return ms;
	uint64_t floor_ms = kcopy_bucket_wait_ms(&g->floor, now_ns);
	/* a pause may use what the bucket holds, not more: that is copied after it */
	if (g->is_probing && g->floor.level_bytes < (int64_t)(g->floor.rate_bps / 6))
		return ms;
	if (floor_ms == 0 && g->nr_copies < nr_max && g->inflight_bytes < FLOOR_BYTES) {
		g->bound = KCOPY_BOUND_FLOOR;
		g->was_floor = true;
		g->rest_from_ns = 0; /* a rest begins anew after what is copied now */
		return 0;
	}
	return (uint32_t)kedge_max_u64(kedge_min_u64(ms, floor_ms), 1);
}

uint32_t kcopy_governor_ask(struct kcopy_governor *g, unsigned nr_max, uint32_t max_bytes, uint64_t now_ns, uint32_t *ret_bytes)
{
	uint32_t ms = 0;

	if (g->latency_percent && kcopy_governor_has_workload(g, now_ns)) {
		ms = ask_governed(g, nr_max, max_bytes, now_ns);
	} else {
		g->was_governed = g->is_probing = false;
		g->sink_until_ns = 0;
		g->bound = KCOPY_BOUND_NONE;
		g->may_copies = nr_max;
		g->may_bytes = max_bytes;
	}
	*ret_bytes = g->may_bytes;
	return ms;
}

void kcopy_governor_status(const struct kcopy_governor *g, uint64_t now_ns, struct kcopy_governor_status *ret_status)
{
	unsigned kind = main_kind(g);

	*ret_status = (struct kcopy_governor_status){
		.latency_percent = g->latency_percent,
		.floor_bps = g->floor.rate_bps,
		.bound = kcopy_governor_has_workload(g, now_ns) ? g->bound : KCOPY_BOUND_NONE,
		.baseline_ns = g->limit_ns[kind] ? kcopy_latency_ns(&g->idle[kind], 10) : 0,
		.limit_ns = g->limit_ns[kind],
		.latency_ns = kcopy_latency_ns(&g->busy[kind], 10),
		.nr_copies = g->may_copies,
		.copy_bytes = g->may_bytes,
		.level = g->level,
		.nr_ios = g->nr_ios,
		.nr_late = g->nr_late,
	};
}
