/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The hydrator between a simulated source and simulated claims: answers in any order, late, after cancels; holes, bad
 * blocks, outages, a full destination, a workload that writes, pause and stop. Each seed is one run with its own mix, judged
 * by a model of every block. SEEDS and SEED by environment.
 *
 * Owns. The simulated volume.
 *
 * Locks. None.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hydrator.h"
#include "kcopy/kcopy.h"
#include "kedge/bytes.h"

#define BLOCKS_MAX 700
#define PENDING_MAX 256
#define B KEDGE_BLOCK_BYTES

enum block_state { EMPTY, CLAIMED, FILLING, HERE, BAD };

struct block {
	enum block_state state;
	bool is_hole, is_unreadable, is_written;
	uint8_t source, own; /* the content: this byte, all over */
};

enum pending_kind { P_READ, P_EXTENTS, P_FILL, P_AUDIT };

struct pending {
	enum pending_kind kind;
	bool is_cancelled;
	struct kedge_source_io *io;
	struct kedge_claim *claim;
	const void *buf;
	const struct kedge_seg *segs;
	uint32_t nr_segs;
	uint64_t start_bytes, nr_bytes;
	void *audit_buf;
	kedge_claim_fn fn;
	void *arg;
};

struct sim {
	struct kedge_source src;
	struct kedge_claims claims;
	struct kedge_loop *loop;
	struct block blocks[BLOCKS_MAX];
	uint64_t size_bytes;
	unsigned nr_blocks;
	enum kedge_source_state state;
	struct pending pending[PENDING_MAX];
	unsigned nr_pending, nr_claims;
	bool must_wake, can_extents, has_outages, has_enospc, has_writer, has_lost_claims;
	unsigned nr_enospc, nr_outages, nr_cancelled_late;
	uint64_t rnd;
};

static struct sim sim;

static uint32_t rnd(uint32_t below)
{
	sim.rnd = sim.rnd * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(sim.rnd >> 33) % below;
}

static uint64_t block_len(unsigned i)
{
	return kedge_min_u64(B, sim.size_bytes - (uint64_t)i * B);
}

static void add_pending(struct pending p)
{
	assert_true(sim.nr_pending < PENDING_MAX);
	sim.pending[sim.nr_pending++] = p;
}

/* ---- the source ---- */

static void sim_start(struct kedge_source *s)
{
}

static void sim_read(struct kedge_source *s, struct kedge_source_io *io)
{
	assert_true(io->nr_bytes > 0 && io->start_bytes + io->nr_bytes <= sim.size_bytes);
	add_pending((struct pending){ .kind = P_READ, .io = io });
}

static void sim_extents(struct kedge_source *s, struct kedge_source_io *io)
{
	add_pending((struct pending){ .kind = P_EXTENTS, .io = io });
}

static void sim_cancel(struct kedge_source *s, struct kedge_source_io *io)
{
	for (unsigned i = 0; i < sim.nr_pending; i++)
		if (sim.pending[i].io == io)
			sim.pending[i].is_cancelled = true;
}

static void sim_status(const struct kedge_source *s, struct kedge_source_status *st)
{
	*st = (struct kedge_source_status){ .state = sim.state };
	if (sim.state == KEDGE_SOURCE_AWAY)
		kedge_err_set(&st->last_err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "simulated outage");
}

static const struct kedge_source_ops source_ops = {
	.start = sim_start, .read = sim_read, .extents = sim_extents, .cancel = sim_cancel, .status = sim_status
};

static int answer_read(struct kedge_source_io *io)
{
	for (uint64_t at = 0; at < io->nr_bytes; at += B) {
		struct block *b = &sim.blocks[(io->start_bytes + at) / B];
		memset((char *)io->buf + at, b->is_hole ? 0 : b->source, kedge_min_u64(B, io->nr_bytes - at));
		if (b->is_unreadable)
			return KEDGE_E_SOURCE_MEDIUM;
	}
	return 0;
}

static void answer_extents(struct kedge_source_io *io)
{
	uint64_t at = io->start_bytes, end = io->start_bytes + io->nr_bytes;
	uint32_t max = 1 + rnd(io->nr_extents_max);

	io->ret_nr_extents = 0;
	if (!sim.can_extents) {
		io->extents[io->ret_nr_extents++] = (struct kedge_extent){ .nr_bytes = io->nr_bytes };
		return;
	}
	while (at < end && io->ret_nr_extents < max) {
		bool is_hole = sim.blocks[at / B].is_hole;
		uint64_t start = at;
		while (at < end && sim.blocks[at / B].is_hole == is_hole)
			at = kedge_min_u64(end, (at / B + 1) * B);
		io->extents[io->ret_nr_extents++] = (struct kedge_extent){ .nr_bytes = at - start, .is_hole = is_hole };
	}
}

/* ---- the claims ---- */

static int sim_take(struct kedge_claims *c, uint64_t from, uint64_t end, uint64_t max, struct kedge_claim **ret_claim)
{
	bool is_owned = false;

	assert_true(from % B == 0 && max % B == 0 && max > 0);
	end = kedge_min_u64(end, sim.size_bytes);
	for (uint64_t at = from; at < end; at += B) {
		enum block_state state = sim.blocks[at / B].state;
		if (state == CLAIMED || state == FILLING)
			is_owned = true;
		if (state != EMPTY)
			continue;
		struct kedge_claim *claim = calloc(1, sizeof *claim);
		claim->start_bytes = at;
		while (at < end && claim->nr_bytes < max && sim.blocks[at / B].state == EMPTY) {
			sim.blocks[at / B].state = CLAIMED;
			claim->nr_bytes += block_len((unsigned)(at / B));
			at += B;
		}
		sim.nr_claims++;
		*ret_claim = claim;
		return 0;
	}
	sim.must_wake = sim.must_wake || is_owned;
	return is_owned ? -EAGAIN : -ENODATA;
}

static void end_claim(struct kedge_claim *claim, enum block_state from, enum block_state to)
{
	for (uint64_t at = 0; at < claim->nr_bytes; at += B) {
		struct block *b = &sim.blocks[(claim->start_bytes + at) / B];
		if (b->state == from)
			b->state = to;
	}
	memset(claim, 0xee, sizeof *claim);
	free(claim);
	sim.nr_claims--;
}

static void sim_drop(struct kedge_claims *c, struct kedge_claim *claim, int res)
{
	if (res == KEDGE_E_SOURCE_MEDIUM) {
		/* never more than the one block that is bad */
		assert_true(claim->nr_bytes <= B);
		assert_true(sim.blocks[claim->start_bytes / B].is_unreadable);
	}
	end_claim(claim, CLAIMED, res == KEDGE_E_SOURCE_MEDIUM ? BAD : EMPTY);
}

static void sim_fill(struct kedge_claims *c, struct kedge_claim *claim, const void *buf, const struct kedge_seg *segs,
		     uint32_t nr_segs, kedge_claim_fn fn, void *arg)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < nr_segs; i++)
		sum += segs[i].nr_bytes;
	assert_int_equal(sum, claim->nr_bytes);
	for (uint64_t at = 0; at < claim->nr_bytes; at += B) {
		struct block *b = &sim.blocks[(claim->start_bytes + at) / B];
		if (b->state == CLAIMED)
			b->state = FILLING;
	}
	add_pending((struct pending){
		.kind = P_FILL, .claim = claim, .buf = buf, .segs = segs, .nr_segs = nr_segs, .fn = fn, .arg = arg });
}

static void answer_fill(struct pending *p)
{
	uint64_t at = 0;

	for (uint32_t i = 0; i < p->nr_segs; i++) {
		for (uint64_t end = at + p->segs[i].nr_bytes; at < end; at += B) {
			struct block *b = &sim.blocks[(p->claim->start_bytes + at) / B];
			const uint8_t *data = p->segs[i].is_zero ? NULL : (const uint8_t *)p->buf + at;
			uint64_t len = kedge_min_u64(B, end - at);
			if (b->state != FILLING)
				continue; /* the workload took it */
			b->own = data ? data[0] : 0;
			for (uint64_t k = 0; data && k < len; k++)
				assert_int_equal(data[k], data[0]);
		}
		at = kedge_min_u64(at, p->claim->nr_bytes);
	}
}

static int sim_audit_next(struct kedge_claims *c, uint64_t from, uint64_t max, uint64_t *ret_start, uint64_t *ret_nr)
{
	for (unsigned i = (unsigned)((from + B - 1) / B); i < sim.nr_blocks; i++) {
		if (sim.blocks[i].state != HERE || sim.blocks[i].is_written)
			continue;
		*ret_start = (uint64_t)i * B;
		for (*ret_nr = 0; i < sim.nr_blocks && *ret_nr < max && sim.blocks[i].state == HERE && !sim.blocks[i].is_written; i++)
			*ret_nr += block_len(i);
		return 0;
	}
	return -ENODATA;
}

static void sim_audit_read(struct kedge_claims *c, uint64_t start, uint64_t nr, void *buf, kedge_claim_fn fn, void *arg)
{
	add_pending((struct pending){ .kind = P_AUDIT, .start_bytes = start, .nr_bytes = nr, .audit_buf = buf, .fn = fn, .arg = arg });
}

static uint64_t sim_audit_hole_end(struct kedge_claims *c, uint64_t start, uint64_t end)
{
	uint64_t at = start;

	while (at < end && sim.blocks[at / B].own == 0 && rnd(5))
		at = kedge_min_u64(end, (at / B + 1) * B);
	return at;
}

static bool sim_audit_is_written(struct kedge_claims *c, uint64_t start)
{
	return sim.blocks[start / B].is_written;
}

static const struct kedge_claims_ops claims_ops = {
	.take = sim_take,
	.fill = sim_fill,
	.drop = sim_drop,
	.audit_next = sim_audit_next,
	.audit_read = sim_audit_read,
	.audit_hole_end = sim_audit_hole_end,
	.audit_is_written = sim_audit_is_written,
};

/* ---- time goes on ---- */

static void complete_one(void)
{
	unsigned i = rnd(sim.nr_pending);
	struct pending p = sim.pending[i];
	int res = 0;

	if ((p.kind == P_READ || p.kind == P_EXTENTS) && sim.state != KEDGE_SOURCE_UP && !p.is_cancelled)
		return; /* waits for the source */
	sim.pending[i] = sim.pending[--sim.nr_pending];
	switch (p.kind) {
	case P_READ:
		if (p.is_cancelled && (sim.state != KEDGE_SOURCE_UP || rnd(2))) {
			res = -ECANCELED;
		} else {
			sim.nr_cancelled_late += p.is_cancelled;
			res = answer_read(p.io);
		}
		if (res == KEDGE_E_SOURCE_MEDIUM)
			kedge_err_set(&p.io->err, res, KEDGE_SIDE_SOURCE, "simulated");
		p.io->fn(p.io, res);
		return;
	case P_EXTENTS:
		res = p.is_cancelled && rnd(2) ? -ECANCELED : 0;
		if (res == 0)
			answer_extents(p.io);
		p.io->fn(p.io, res);
		return;
	case P_FILL:
		if (sim.has_enospc && rnd(20) == 0) {
			sim.nr_enospc++;
			res = -ENOSPC;
		} else {
			answer_fill(&p);
		}
		end_claim(p.claim, FILLING, res == 0 ? HERE : EMPTY);
		p.fn(p.arg, res);
		return;
	case P_AUDIT:
		for (uint64_t at = 0; at < p.nr_bytes; at += B)
			memset((char *)p.audit_buf + at, sim.blocks[(p.start_bytes + at) / B].own, kedge_min_u64(B, p.nr_bytes - at));
		p.fn(p.arg, 0);
		return;
	}
}

static void workload_writes(void)
{
	struct block *b = &sim.blocks[rnd(sim.nr_blocks)];

	if (b->state == FILLING)
		return; /* such writes wait */
	b->state = HERE;
	b->is_written = true;
	b->own = (uint8_t)(200 + rnd(50));
}

struct end {
	bool is_over;
	int res;
	char msg[KEDGE_ERR_MSG_MAX];
};

static void done_cb(void *arg, int res, const struct kedge_err *err)
{
	struct end *e = arg;

	assert_false(e->is_over);
	e->is_over = true;
	e->res = res;
	memcpy(e->msg, err->msg, sizeof e->msg);
}

static void setup(uint64_t seed)
{
	memset(&sim, 0, sizeof sim);
	sim.rnd = seed * 77777777777ull + 1;
	rnd(2);
	sim.size_bytes = (uint64_t)(20 + rnd(BLOCKS_MAX - 20)) * B;
	if (rnd(2))
		sim.size_bytes -= 512 * (1 + rnd(7));
	sim.nr_blocks = (unsigned)((sim.size_bytes + B - 1) / B);
	sim.src.ops = &source_ops;
	sim.claims.ops = &claims_ops;
	sim.claims.size_bytes = sim.size_bytes;
	sim.state = KEDGE_SOURCE_UP;
	sim.can_extents = rnd(4) != 0;
	sim.has_enospc = rnd(6) == 0;
	sim.has_outages = rnd(6) == 0;
	sim.has_writer = rnd(2);
	bool has_bad = rnd(5) == 0, is_hole = false;
	for (unsigned i = 0; i < sim.nr_blocks; i++) {
		struct block *b = &sim.blocks[i];
		if (rnd(12) == 0)
			is_hole = !is_hole;
		b->is_hole = is_hole;
		b->source = is_hole ? 0 : rnd(5) == 0 ? 0 : (uint8_t)(1 + rnd(199));
		b->own = 0xfe;
		b->is_unreadable = has_bad && !is_hole && rnd(60) == 0;
		if (rnd(30) == 0)
			b->state = HERE, b->is_written = true;
	}
	struct kedge_err err = { 0 };
	if (kedge_loop_create(64, &sim.loop, &err) < 0)
		fail_msg("%s", err.msg);
}

static void one_round(struct kcopy_hydrator *h)
{
	struct kcopy_status st;

	kedge_loop_run_once(sim.loop, sim.nr_pending ? 0 : 5);
	for (unsigned n = rnd(6); n > 0 && sim.nr_pending > 0; n--)
		complete_one();
	if (sim.has_writer && rnd(8) == 0)
		workload_writes();
	if (sim.must_wake && sim.claims.wake_fn && rnd(3) == 0) {
		sim.must_wake = false;
		sim.claims.wake_fn(sim.claims.wake_arg);
	}
	if (sim.has_outages && sim.nr_outages < 2 && rnd(30) == 0) {
		sim.nr_outages++;
		sim.state = KEDGE_SOURCE_AWAY;
	}
	kcopy_hydrator_status(h, &st);
	if (sim.state == KEDGE_SOURCE_AWAY && st.state == KCOPY_DEGRADED && st.issued_bytes == 0) {
		/* in an outage every claim is given back */
		for (unsigned i = 0; i < sim.nr_blocks; i++)
			assert_int_not_equal(sim.blocks[i].state, CLAIMED);
		sim.state = KEDGE_SOURCE_UP;
	}
	if (st.state == KCOPY_PAUSED && sim.nr_pending == 0 && rnd(2))
		kcopy_hydrator_resume(h);
	if (rnd(200) == 0)
		kcopy_hydrator_pause(h);
}

static void run_to_end(struct kcopy_hydrator *h, struct end *e, uint64_t seed, const char *what)
{
	uint64_t start_ns = kedge_clock_ns();

	while (!e->is_over) {
		one_round(h);
		if (kedge_clock_ns() - start_ns > 20000000000ull)
			fail_msg("seed %llu: %s does not end (%u pending, %u claims)", (unsigned long long)seed, what, sim.nr_pending,
				 sim.nr_claims);
	}
	assert_int_equal(sim.nr_claims, 0);
	for (unsigned i = 0; i < sim.nr_pending; i++)
		fail_msg("seed %llu: %s ended with something in flight", (unsigned long long)seed, what);
}

static void check_blocks(uint64_t seed)
{
	for (unsigned i = 0; i < sim.nr_blocks; i++) {
		struct block *b = &sim.blocks[i];
		if (b->is_unreadable && !b->is_written) {
			assert_int_equal(b->state, BAD);
			continue;
		}
		if (b->state != HERE)
			fail_msg("seed %llu: block %u is in state %d", (unsigned long long)seed, i, b->state);
		if (!b->is_written && b->own != b->source)
			fail_msg("seed %llu: block %u has %u, the source %u", (unsigned long long)seed, i, b->own, b->source);
		if (b->is_written && b->own < 200)
			fail_msg("seed %llu: block %u was written by the workload and overwritten", (unsigned long long)seed, i);
	}
}

static void verify(struct kcopy_hydrator *h, uint64_t seed)
{
	struct end e = { 0 };
	unsigned i;

	sim.has_writer = false;
	kcopy_verify_start(h, done_cb, &e);
	run_to_end(h, &e, seed, "the comparison");
	if (e.res != 0)
		fail_msg("seed %llu: comparison: %s", (unsigned long long)seed, e.msg);
	struct kcopy_status st;
	uint64_t unwritten_bytes = 0;
	kcopy_hydrator_status(h, &st);
	for (i = 0; i < sim.nr_blocks; i++)
		unwritten_bytes += sim.blocks[i].state == HERE && !sim.blocks[i].is_written ? block_len(i) : 0;
	if (st.verified_bytes + st.hole_bytes != unwritten_bytes || st.sampled_bytes > st.verified_bytes ||
	    (st.hole_bytes > 0) > (st.sampled_bytes > 0) || (!sim.can_extents && st.hole_bytes > 0))
		fail_msg("seed %llu: of %llu bytes %llu were compared, %llu agreed as holes, %llu sampled", (unsigned long long)seed,
			 (unsigned long long)unwritten_bytes, (unsigned long long)st.verified_bytes, (unsigned long long)st.hole_bytes,
			 (unsigned long long)st.sampled_bytes);
	for (i = 0; i < sim.nr_blocks; i++)
		if (sim.blocks[i].state == HERE && !sim.blocks[i].is_written)
			break;
	if (i == sim.nr_blocks)
		return;
	sim.blocks[i].own ^= 1;
	e = (struct end){ 0 };
	kcopy_verify_start(h, done_cb, &e);
	run_to_end(h, &e, seed, "the second comparison");
	assert_int_equal(e.res, KEDGE_E_VERIFY);
	char text[40];
	snprintf(text, sizeof text, "at byte %llu", (unsigned long long)i * B);
	assert_non_null(strstr(e.msg, text));
}

static void test_hydrator_copies_every_block_once_right(void **state)
{
	unsigned nr_seeds = getenv("SEEDS") ? (unsigned)atoi(getenv("SEEDS")) : 150;
	uint64_t first = getenv("SEED") ? (uint64_t)atoll(getenv("SEED")) : 1;
	unsigned nr_enospc = 0, nr_outages = 0, nr_stops = 0, nr_late = 0;

	for (uint64_t seed = first; seed < first + nr_seeds; seed++) {
		setup(seed);
		/* what the workload wrote before is a write like others */
		for (unsigned i = 0; i < sim.nr_blocks; i++)
			if (sim.blocks[i].is_written)
				sim.blocks[i].own = 255;
		struct kcopy_range wishes[20]; /* any, overlapping, past the end */
		for (unsigned i = 0; i < KEDGE_ARRAY_LEN(wishes); i++) {
			wishes[i].start_bytes = (uint64_t)rnd(sim.nr_blocks + 5) * B;
			wishes[i].end_bytes = wishes[i].start_bytes + (uint64_t)rnd(40) * B;
		}
		struct kcopy_hydrator_opts o = { .copy_bytes = B << rnd(6), .nr_inflight = 1 + rnd(9), .first = wishes };
		o.nr_first = rnd(KEDGE_ARRAY_LEN(wishes) + 1);
		struct kcopy_hydrator *h;
		struct end e = { 0 };
		assert_int_equal(kcopy_hydrator_create(sim.loop, &sim.src, &sim.claims, &o, &h, NULL), 0);
		kcopy_hydrator_start(h, done_cb, &e);
		if (rnd(3) == 0) {
			for (unsigned n = rnd(40); n > 0 && !e.is_over; n--)
				one_round(h);
			bool was_over = e.is_over;
			kcopy_hydrator_stop(h);
			run_to_end(h, &e, seed, "the stop");
			assert_int_equal(e.res, was_over ? 0 : -ECANCELED);
			nr_stops++;
			e = (struct end){ 0 };
			kcopy_hydrator_start(h, done_cb, &e);
		}
		run_to_end(h, &e, seed, "the run");
		if (e.res != 0)
			fail_msg("seed %llu: %d %s", (unsigned long long)seed, e.res, e.msg);
		check_blocks(seed);
		nr_enospc += sim.nr_enospc;
		nr_outages += sim.nr_outages;
		sim.has_outages = false;
		verify(h, seed);
		nr_late += sim.nr_cancelled_late;
		kcopy_hydrator_destroy(h);
		kedge_loop_destroy(sim.loop);
	}
	printf("seeds %llu to %llu: %u stops, %u outages, %u times no space, %u reads that came after their cancel\n",
	       (unsigned long long)first, (unsigned long long)(first + nr_seeds - 1), nr_stops, nr_outages, nr_enospc, nr_late);
	if (nr_seeds >= 100)
		assert_true(nr_stops && nr_outages && nr_enospc && nr_late);
}

static void test_hydrator_never_exceeds_its_rate(void **state)
{
	setup(4711);
	sim.has_enospc = sim.has_outages = sim.has_writer = false;
	for (unsigned i = 0; i < sim.nr_blocks; i++)
		sim.blocks[i] = (struct block){ .source = 7 };
	struct kcopy_hydrator_opts o = { .rate_bps = 1000000, .copy_bytes = 16 * B, .nr_inflight = 4 };
	struct kcopy_hydrator *h;
	struct kcopy_status st;
	struct end e = { 0 };
	assert_int_equal(kcopy_hydrator_create(sim.loop, &sim.src, &sim.claims, &o, &h, NULL), 0);
	uint64_t start_ns = kedge_clock_ns();
	kcopy_hydrator_start(h, done_cb, &e);
	while (!e.is_over) {
		kedge_loop_run_once(sim.loop, 5);
		while (sim.nr_pending > 0)
			complete_one();
		kcopy_hydrator_status(h, &st);
		uint64_t passed_us = (kedge_clock_ns() - start_ns) / 1000;
		/* what the bucket holds at first, and one copy of debt */
		assert_true(st.copied_bytes + st.issued_bytes <= passed_us + 200000 + 16 * B);
	}
	assert_int_equal(e.res, 0);
	kcopy_hydrator_destroy(h);
	kedge_loop_destroy(sim.loop);
}

static void complete_all_of_kind(enum pending_kind kind)
{
	while (sim.nr_pending > 0 && sim.pending[0].kind == kind)
		complete_one();
}

static void see_ios(struct kcopy_governor *g, unsigned nr)
{
	uint64_t now_ns = kedge_clock_ns();

	for (unsigned i = 0; i < nr; i++)
		kcopy_governor_io(g, KCOPY_IO_READ, 1000, now_ns);
}

/* What is under way beside a workload is what the governor says, for copies and for comparisons; alone it is all there may be. */
static void test_hydrator_asks_the_governor(void **state)
{
	setup(4712);
	sim.has_enospc = sim.has_outages = sim.has_writer = false;
	sim.nr_blocks = BLOCKS_MAX;
	sim.size_bytes = (uint64_t)BLOCKS_MAX * B;
	sim.claims.size_bytes = sim.size_bytes;
	for (unsigned i = 0; i < sim.nr_blocks; i++)
		sim.blocks[i] = (struct block){ .source = 7, .own = 7, .state = *state ? HERE : EMPTY };
	struct kcopy_governor *g = kcopy_governor_create(150, 0, kedge_clock_ns());
	struct kcopy_hydrator_opts o = { .copy_bytes = 100 * B, .nr_inflight = 8, .governor = g, .is_verify = *state != NULL };
	unsigned per_copy = *state ? 2 : 1; /* a comparison reads twice */
	struct kcopy_governor_status gs;
	struct kcopy_hydrator *h;
	struct end e = { 0 };
	assert_non_null(g);
	assert_int_equal(kcopy_hydrator_create(sim.loop, &sim.src, &sim.claims, &o, &h, NULL), 0);
	see_ios(g, 500); /* before the first copy: a baseline */
	kcopy_hydrator_start(h, done_cb, &e);
	for (unsigned i = 0; i < 40; i++) {
		see_ios(g, 1);
		kedge_loop_run_once(sim.loop, 5);
		complete_all_of_kind(P_EXTENTS);
		kcopy_governor_status(g, kedge_clock_ns(), &gs);
		assert_true(gs.nr_copies < 8 && sim.nr_pending <= per_copy * gs.nr_copies);
		for (unsigned k = 0; k < sim.nr_pending; k++)
			assert_true(sim.pending[k].kind != P_READ || sim.pending[k].io->nr_bytes <= gs.copy_bytes);
	}
	assert_int_equal(sim.nr_pending, per_copy * gs.nr_copies);
	kcopy_governor_set(g, 0, 0, kedge_clock_ns()); /* let go: seen at once */
	kcopy_hydrator_set_rate(h, 0);
	for (unsigned i = 0; i < 3; i++)
		kedge_loop_run_once(sim.loop, 5);
	assert_int_equal(sim.nr_pending, *state ? 2 * 8 : 8);
	while (!e.is_over) {
		kedge_loop_run_once(sim.loop, 5);
		while (sim.nr_pending > 0)
			complete_one();
	}
	assert_int_equal(e.res, 0);
	check_blocks(4712);
	kcopy_governor_destroy(g);
	kcopy_hydrator_destroy(h);
	kedge_loop_destroy(sim.loop);
}

static void test_hydrator_copies_first_what_is_wanted_first(void **state)
{
	static const struct kcopy_range wishes[] = {
		{ 600 * B, 603 * B }, { 8 * B, 9 * B }, { 601 * B, 604 * B }, { 690 * B, 900 * B }, { 300 * B, 350 * B }, { 40 * B, 41 * B },
	};
	static const unsigned want[][2] = { { 600, 3 }, { 8, 1 }, { 603, 1 }, { 690, 10 }, { 300, 40 }, { 340, 10 }, { 40, 1 } };
	struct kcopy_hydrator_opts o = { .copy_bytes = 40 * B, .nr_inflight = 8, .first = wishes };
	struct kcopy_governor *g = kcopy_governor_create(150, 0, kedge_clock_ns());
	struct kcopy_hydrator *h;
	struct kcopy_status st;
	struct end e = { 0 };

	setup(4713);
	sim.has_enospc = sim.has_outages = sim.has_writer = false;
	sim.nr_blocks = BLOCKS_MAX;
	sim.size_bytes = sim.claims.size_bytes = (uint64_t)BLOCKS_MAX * B;
	for (unsigned i = 0; i < sim.nr_blocks; i++)
		sim.blocks[i] = (struct block){ .source = 7 };
	o.nr_first = KEDGE_ARRAY_LEN(wishes);
	o.governor = g;
	assert_non_null(g);
	assert_int_equal(kcopy_hydrator_create(sim.loop, &sim.src, &sim.claims, &o, &h, NULL), 0);
	see_ios(g, 500);
	kcopy_hydrator_start(h, done_cb, &e);
	/* beside a workload: all of them at once, being small, but no copy of the sweep before the governor lets it */
	for (unsigned i = 0; i < 10; i++) {
		see_ios(g, 1);
		kedge_loop_run_once(sim.loop, 1);
	}
	assert_int_equal(sim.nr_pending, 7);
	kcopy_hydrator_status(h, &st);
	assert_int_equal(st.nr_first_left, 0);
	for (unsigned i = 0; i < sim.nr_pending; i++) {
		assert_int_equal(sim.pending[i].kind, P_READ);
		assert_int_equal(sim.pending[i].io->start_bytes, (uint64_t)want[i][0] * B);
		assert_int_equal(sim.pending[i].io->nr_bytes, (uint64_t)want[i][1] * B);
	}
	kcopy_governor_set(g, 0, 0, kedge_clock_ns());
	while (!e.is_over) {
		kedge_loop_run_once(sim.loop, 5);
		while (sim.nr_pending > 0)
			complete_one();
	}
	assert_int_equal(e.res, 0);
	check_blocks(4713);
	kcopy_governor_destroy(g);
	kcopy_hydrator_destroy(h);
	kedge_loop_destroy(sim.loop);
}

static void test_hydrator_ends_at_once_when_the_source_is_refused(void **state)
{
	setup(5);
	struct kcopy_hydrator_opts o = { 0 };
	struct kcopy_hydrator *h;
	struct end e = { 0 };
	assert_int_equal(kcopy_hydrator_create(sim.loop, &sim.src, &sim.claims, &o, &h, NULL), 0);
	kcopy_hydrator_start(h, done_cb, &e);
	kedge_loop_run_once(sim.loop, 0);
	while (sim.nr_pending > 0) {
		struct pending p = sim.pending[--sim.nr_pending];
		kedge_err_set(&p.io->err, KEDGE_E_SOURCE_IDENTITY, KEDGE_SIDE_SOURCE, "another volume");
		p.io->fn(p.io, KEDGE_E_SOURCE_IDENTITY);
	}
	uint64_t start_ns = kedge_clock_ns();
	while (!e.is_over && kedge_clock_ns() - start_ns < 5000000000ull)
		kedge_loop_run_once(sim.loop, 5);
	assert_true(e.is_over);
	assert_int_equal(e.res, KEDGE_E_SOURCE_IDENTITY);
	for (unsigned i = 0; i < sim.nr_blocks; i++)
		assert_true(sim.blocks[i].is_written || sim.blocks[i].own == 0xfe);
	kcopy_hydrator_destroy(h);
	kedge_loop_destroy(sim.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hydrator_copies_every_block_once_right),
		cmocka_unit_test(test_hydrator_never_exceeds_its_rate),
		cmocka_unit_test(test_hydrator_asks_the_governor),
		cmocka_unit_test_prestate(test_hydrator_asks_the_governor, (void *)1),
		cmocka_unit_test(test_hydrator_copies_first_what_is_wanted_first),
		cmocka_unit_test(test_hydrator_ends_at_once_when_the_source_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
