/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Whether extents are compressed on their way. Pure.
 *
 * Measured is in epochs: answers counted while something is under way, so that a limit of rate or a destination that has enough makes no
 * link slow. After a change of way an epoch begins when the last answer of the old way has come. What decides is the rate at which the
 * volume's bytes arrive, whatever holds it: link, CPU at either end, the destination's disk. So nothing but being faster is rewarded, and
 * where both are the same nothing is packed.
 */
#include "choice.h"

#include "kedge/bytes.h"

/* An epoch: so many answers at least, and so long or so many. */
#define EPOCH_ANSWERS 16u
#define EPOCH_NS 50000000ull
#define EPOCH_ANSWERS_MAX 256u
/* The first sample comes soon; then less and less often while the forecast is bad. */
#define SAMPLE_FIRST 4u
#define SAMPLE_GAP_MIN 32u
#define SAMPLE_GAP_MAX 1024u
/* So much must be promised by what is saved, and by what the CPU can do; a trial must show so much; raw come so near when it is tried again. */
#define SAVING_WORTH_A_TRIAL 1.10
#define CPU_WORTH_A_TRIAL 1.25
#define PROMISING_EPOCHS 2u /* one may have been a busy moment */
#define TRIAL_WON 1.10
#define TRIAL_LOST 0.90
#define CHECK_LOST 1.05
#define TRIAL_EPOCHS 3u
#define TRIAL_EPOCHS_MAX 32u
/* Less than that saved: there was nothing to pack, and packing shows nothing. */
#define IDLE_SHARE 0.95
#define CHECK_GAP_MIN 16u
#define CHECK_GAP_MAX 256u
#define CHECK_GAP_UNFILLED 8u
#define TRIAL_PAUSE_NS 1000000000ull
/* What trials that are lost may cost: none at the very beginning, then a 25th of the time. */
#define TRIAL_FIRST_NS 500000000ull
#define TRIAL_PAUSE_SHARE 25u
#define FAILURES_MAX 6u
#define WEIGHT 0.3
#define SAMPLE_WEIGHT 0.15 /* what comes next may be other data */

static void restart_epoch(struct kcopy_choice *c)
{
	c->nr_before = c->nr_inflight;
	c->nr_answers = 0;
	c->bytes = c->wire_bytes = c->busy_ns = 0;
}

static void go(struct kcopy_choice *c, enum kcopy_choice_state state)
{
	bool was_packing = kcopy_choice_is_packing(c);

	c->state = state;
	c->nr_epochs = c->nr_idle = c->nr_promising = 0;
	if (kcopy_choice_is_packing(c) != was_packing)
		restart_epoch(c);
}

void kcopy_choice_init(struct kcopy_choice *c, unsigned nr_workers)
{
	*c = (struct kcopy_choice){ .nr_workers = nr_workers ? nr_workers : 1, .nr_until_sample = SAMPLE_FIRST, .sample_gap = SAMPLE_GAP_MIN,
				    .check_gap = CHECK_GAP_MIN };
}

bool kcopy_choice_is_packing(const struct kcopy_choice *c)
{
	return c->state == KCOPY_CHOICE_TRIAL || c->state == KCOPY_CHOICE_ZSTD;
}

bool kcopy_choice_send(struct kcopy_choice *c, uint64_t now_ns)
{
	if (c->trial_after_ns == 0)
		c->trial_after_ns = now_ns + TRIAL_FIRST_NS;
	if (c->nr_inflight++ == 0)
		c->busy_since_ns = now_ns;
	if (kcopy_choice_is_packing(c))
		return true;
	if (c->state != KCOPY_CHOICE_RAW || --c->nr_until_sample > 0)
		return false;
	c->nr_until_sample = c->sample_gap;
	return true;
}

static void mix(double *value, double sample, double weight)
{
	*value = *value > 0 ? *value + (sample - *value) * weight : sample;
}

/* A rate that is half of what it was is not what it was: nothing of before counts. */
static void mix_rate(double *value, double sample)
{
	if (2 * sample < *value)
		*value = sample;
	else
		mix(value, sample, WEIGHT);
}

static bool can_cpu(const struct kcopy_choice *c)
{
	return c->nr_workers * 1e9 / c->pack_ns >= CPU_WORTH_A_TRIAL * c->raw_bps;
}

static void end_raw(struct kcopy_choice *c, double bps, uint64_t now_ns)
{
	mix_rate(&c->raw_bps, bps);
	if (c->pack_ns <= 0)
		return;
	if (can_cpu(c))
		c->sample_gap = SAMPLE_GAP_MIN; /* then it depends on the data, and what comes next may be other data */
	c->nr_promising = can_cpu(c) && c->wire_share * SAVING_WORTH_A_TRIAL <= 1 ? c->nr_promising + 1 : 0;
	if (c->nr_promising >= PROMISING_EPOCHS && now_ns >= c->trial_after_ns) {
		c->trial_begin_ns = now_ns;
		go(c, KCOPY_CHOICE_TRIAL);
	}
}

static void end_trial(struct kcopy_choice *c, double bps, double wire_bps, uint64_t now_ns)
{
	c->packed_bps = bps;
	c->nr_idle += wire_bps > IDLE_SHARE * bps;
	if (bps > TRIAL_WON * c->raw_bps) {
		c->nr_failures = 0;
		go(c, KCOPY_CHOICE_ZSTD);
	} else if (bps < TRIAL_LOST * c->raw_bps || c->nr_epochs - c->nr_idle >= TRIAL_EPOCHS || c->nr_epochs >= TRIAL_EPOCHS_MAX) {
		c->trial_after_ns = now_ns + kedge_max_u64(TRIAL_PAUSE_NS << c->nr_failures, TRIAL_PAUSE_SHARE * (now_ns - c->trial_begin_ns));
		c->nr_failures += c->nr_failures < FAILURES_MAX;
		go(c, KCOPY_CHOICE_RAW);
	}
}

static void end_packed(struct kcopy_choice *c, double bps, double wire_bps)
{
	mix_rate(&c->packed_bps, bps);
	if (wire_bps > c->raw_bps)
		c->raw_bps = wire_bps; /* so much the link does carry */
	/* a link that is not filled may have become faster than packing is; or packing slower than the link was */
	bool is_filled = wire_bps > TRIAL_LOST * c->raw_bps, is_slow = bps < TRIAL_LOST * c->raw_bps;
	if (is_slow || c->nr_epochs >= (is_filled ? c->check_gap : CHECK_GAP_UNFILLED))
		go(c, KCOPY_CHOICE_CHECK);
}

static void end_check(struct kcopy_choice *c, double bps)
{
	c->raw_bps = bps;
	if (CHECK_LOST * bps >= c->packed_bps) {
		c->check_gap = CHECK_GAP_MIN;
		go(c, KCOPY_CHOICE_RAW);
		return;
	}
	c->check_gap = (unsigned)kedge_min_u64(2 * c->check_gap, CHECK_GAP_MAX);
	go(c, KCOPY_CHOICE_ZSTD);
}

static void end_epoch(struct kcopy_choice *c, uint64_t now_ns)
{
	double per_s = 1e9 / (double)kedge_max_u64(1, c->busy_ns);
	double bps = (double)c->bytes * per_s, wire_bps = (double)c->wire_bytes * per_s;

	c->nr_epochs++;
	c->nr_answers = 0;
	c->bytes = c->wire_bytes = c->busy_ns = 0;
	switch (c->state) {
	case KCOPY_CHOICE_RAW:
		end_raw(c, bps, now_ns);
		break;
	case KCOPY_CHOICE_TRIAL:
		end_trial(c, bps, wire_bps, now_ns);
		break;
	case KCOPY_CHOICE_ZSTD:
		end_packed(c, bps, wire_bps);
		break;
	case KCOPY_CHOICE_CHECK:
		end_check(c, bps);
		break;
	}
}

static void take_sample(struct kcopy_choice *c, uint32_t nr_bytes, uint32_t payload_bytes, uint64_t pack_ns)
{
	mix(&c->wire_share, (double)payload_bytes / nr_bytes, SAMPLE_WEIGHT);
	mix(&c->pack_ns, (double)pack_ns / nr_bytes, SAMPLE_WEIGHT);
	if (c->state == KCOPY_CHOICE_RAW)
		c->sample_gap = (unsigned)kedge_min_u64(2 * c->sample_gap, SAMPLE_GAP_MAX);
}

void kcopy_choice_answer(struct kcopy_choice *c, uint32_t nr_bytes, uint32_t payload_bytes, uint64_t pack_ns, uint64_t now_ns)
{
	uint64_t passed_ns = now_ns - c->busy_since_ns;

	c->nr_inflight--;
	c->busy_since_ns = now_ns;
	if (pack_ns > 0 && nr_bytes > 0)
		take_sample(c, nr_bytes, payload_bytes, pack_ns);
	if (c->nr_before > 0) {
		c->nr_before--;
		return;
	}
	c->busy_ns += passed_ns;
	c->bytes += nr_bytes;
	c->wire_bytes += payload_bytes;
	c->nr_answers++;
	if (c->nr_answers >= EPOCH_ANSWERS && (c->busy_ns >= EPOCH_NS || c->nr_answers >= EPOCH_ANSWERS_MAX))
		end_epoch(c, now_ns);
}
