/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The final comparison over holes and by checksums: what it costs, what it counts, and that sources that lie about holes are found. Volumes are of
 * terabytes: content is a function of the block, nothing is stored.
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

#include "kcopy/kcopy.h"
#include "kedge/bytes.h"
#include "kedge/transit.h"

#define B KEDGE_BLOCK_BYTES
#define RANGES_MAX 80
#define KCOPY_INFLIGHT 64
#define GIB (1ull << 30)

struct range {
	uint64_t start_bytes, end_bytes;
};

struct ranges {
	struct range r[RANGES_MAX];
	unsigned nr;
};

/* What the source does when it is asked for sums. */
enum sums { SUMS_NONE, SUMS_GOOD, SUMS_WRONG, SUMS_NOT_NOW, SUMS_DAMAGED, SUMS_SILENT };

static struct sim {
	struct kedge_source src;
	struct kedge_claims claims;
	struct kedge_loop *loop;
	uint64_t size_bytes;
	struct ranges theirs, ours; /* data */
	struct ranges lies;         /* data of theirs that they call a hole */
	uint64_t nr_reads, read_bytes, nr_questions, own_bytes, nr_sums;
	enum sums sums;
	unsigned nr_silent, nr_away; /* so many reads find the source away */
	struct kedge_source_io *silent[KCOPY_INFLIGHT]; /* asked, never to be answered but when taken back */
	uint64_t flipped_bytes; /* the destination differs in the block here; 0: nowhere */
	bool is_flip_written;
} sim;

static void add(struct ranges *rs, uint64_t start_bytes, uint64_t end_bytes)
{
	assert_true(rs->nr < RANGES_MAX);
	rs->r[rs->nr++] = (struct range){ start_bytes, end_bytes };
}

/* Is the byte in one of them, and up to where is that so? */
static bool look(const struct ranges *rs, uint64_t at_bytes, uint64_t *ret_end_bytes)
{
	for (unsigned i = 0; i < rs->nr; i++) {
		if (at_bytes < rs->r[i].start_bytes)
			*ret_end_bytes = kedge_min_u64(*ret_end_bytes, rs->r[i].start_bytes);
		else if (at_bytes < rs->r[i].end_bytes) {
			*ret_end_bytes = kedge_min_u64(*ret_end_bytes, rs->r[i].end_bytes);
			return true;
		}
	}
	return false;
}

static void content(const struct ranges *rs, uint64_t start_bytes, uint64_t nr_bytes, uint8_t *buf)
{
	for (uint64_t at = 0; at < nr_bytes; at += B) {
		uint64_t end = UINT64_MAX;
		memset(buf + at, look(rs, start_bytes + at, &end) ? (int)(1 + (start_bytes + at) / B % 250) : 0, kedge_min_u64(B, nr_bytes - at));
	}
}

struct later {
	struct kedge_defer defer;
	struct kedge_source_io *io;
	kedge_claim_fn fn;
	void *arg;
	int res;
};

static void later_cb(void *arg)
{
	struct later l = *(struct later *)arg;

	free(arg);
	if (l.io)
		l.io->fn(l.io, l.res);
	else
		l.fn(l.arg, 0);
}

static void answer_later(struct later l)
{
	struct later *copy = malloc(sizeof *copy);

	*copy = l;
	copy->defer = (struct kedge_defer){ .fn = later_cb, .arg = copy };
	kedge_loop_defer(sim.loop, &copy->defer);
}

static void sim_read(struct kedge_source *s, struct kedge_source_io *io)
{
	if (sim.nr_away > 0) {
		sim.nr_away--;
		answer_later((struct later){ .io = io, .res = KEDGE_E_SOURCE_AWAY });
		return;
	}
	sim.nr_reads++;
	sim.read_bytes += io->nr_bytes;
	content(&sim.theirs, io->start_bytes, io->nr_bytes, io->buf);
	answer_later((struct later){ .io = io });
}

static void sim_sums(struct kedge_source *s, struct kedge_source_io *io)
{
	static uint8_t data[KEDGE_TRANSIT_EXTENT_MAX_BYTES];
	uint8_t *sum = io->buf;

	sim.nr_sums++;
	if (sim.sums == SUMS_SILENT) {
		assert_true(sim.nr_silent < KCOPY_INFLIGHT);
		sim.silent[sim.nr_silent++] = io;
		return;
	}
	if (sim.sums == SUMS_NOT_NOW || sim.sums == SUMS_DAMAGED) {
		if (sim.sums == SUMS_DAMAGED)
			kedge_err_set(&io->err, KEDGE_E_SOURCE_DAMAGED, KEDGE_SIDE_SOURCE, "damaged");
		answer_later((struct later){ .io = io, .res = sim.sums == SUMS_NOT_NOW ? -EOPNOTSUPP : KEDGE_E_SOURCE_DAMAGED });
		return;
	}
	for (uint64_t at = 0; at < io->nr_bytes; at += sizeof data, sum += KEDGE_TRANSIT_SUM_BYTES) {
		uint64_t n = kedge_min_u64(sizeof data, io->nr_bytes - at);
		content(&sim.theirs, io->start_bytes + at, n, data);
		kedge_transit_sum(data, io->start_bytes + at, (uint32_t)n, sum);
		sum[15] ^= sim.sums == SUMS_WRONG;
	}
	answer_later((struct later){ .io = io });
}

static void sim_extents(struct kedge_source *s, struct kedge_source_io *io)
{
	uint64_t at = io->start_bytes, end = io->start_bytes + io->nr_bytes;

	sim.nr_questions++;
	for (io->ret_nr_extents = 0; at < end && io->ret_nr_extents < io->nr_extents_max; io->ret_nr_extents++) {
		uint64_t run_end = end;
		bool is_data = look(&sim.theirs, at, &run_end) && !look(&sim.lies, at, &run_end);
		io->extents[io->ret_nr_extents] = (struct kedge_extent){ .nr_bytes = run_end - at, .is_hole = !is_data };
		at = run_end;
	}
	answer_later((struct later){ .io = io });
}

static void sim_cancel(struct kedge_source *s, struct kedge_source_io *io)
{
	for (unsigned i = 0; i < sim.nr_silent; i++) {
		if (sim.silent[i] != io)
			continue;
		sim.silent[i] = sim.silent[--sim.nr_silent];
		answer_later((struct later){ .io = io, .res = -ECANCELED });
		return;
	}
}

static void sim_status(const struct kedge_source *s, struct kedge_source_status *st)
{
	*st = (struct kedge_source_status){ .state = KEDGE_SOURCE_UP };
}

static const struct kedge_source_ops source_ops = { .read = sim_read, .extents = sim_extents, .cancel = sim_cancel, .status = sim_status };

static const struct kedge_source_ops sums_ops = {
	.read = sim_read, .extents = sim_extents, .sums = sim_sums, .cancel = sim_cancel, .status = sim_status
};

static int sim_audit_next(struct kedge_claims *c, uint64_t from, uint64_t max, uint64_t *ret_start, uint64_t *ret_nr)
{
	if (from >= sim.size_bytes)
		return -ENODATA;
	*ret_start = from;
	*ret_nr = kedge_min_u64(max, sim.size_bytes - from);
	return 0;
}

static void sim_audit_read(struct kedge_claims *c, uint64_t start, uint64_t nr, void *buf, kedge_claim_fn fn, void *arg)
{
	sim.own_bytes += nr;
	content(&sim.ours, start, nr, buf);
	if (sim.flipped_bytes >= start + 1 && sim.flipped_bytes < start + nr)
		((uint8_t *)buf)[sim.flipped_bytes - start] ^= 1;
	answer_later((struct later){ .fn = fn, .arg = arg });
}

static uint64_t sim_audit_hole_end(struct kedge_claims *c, uint64_t start, uint64_t end)
{
	return look(&sim.ours, start, &end) ? start : end;
}

static bool sim_audit_is_written(struct kedge_claims *c, uint64_t block)
{
	return sim.is_flip_written && block == kedge_round_down(sim.flipped_bytes, B);
}

static const struct kedge_claims_ops claims_ops = {
	.audit_is_written = sim_audit_is_written,
	.audit_next = sim_audit_next, .audit_read = sim_audit_read, .audit_hole_end = sim_audit_hole_end
};
/* a device: it has to be read */
static const struct kedge_claims_ops device_ops = { .audit_next = sim_audit_next, .audit_read = sim_audit_read };

static void set_up(uint64_t size_bytes)
{
	sim = (struct sim){ .size_bytes = size_bytes, .src = { .ops = &source_ops, .identity = { .size_bytes = size_bytes, .lbs_bytes = 512 } },
			    .claims = { .ops = &claims_ops, .size_bytes = size_bytes } };
	assert_int_equal(kedge_loop_create(64, &sim.loop, NULL), 0);
}

struct end {
	bool is_over;
	int res;
};

static void done_cb(void *arg, int res, const struct kedge_err *err)
{
	*(struct end *)arg = (struct end){ true, res };
}

/* One comparison more; the result of it. */
static int compare(struct kcopy_hydrator *h, struct kcopy_status *ret_status)
{
	struct end e = { 0 };

	kcopy_verify_start(h, done_cb, &e);
	for (uint64_t begin_ns = kedge_clock_ns(); !e.is_over;) {
		kedge_loop_run_once(sim.loop, 20);
		if (kedge_clock_ns() - begin_ns > 60000000000ull)
			fail_msg("a comparison does not end");
	}
	kcopy_hydrator_status(h, ret_status);
	return e.res;
}

static struct kcopy_hydrator *make(enum kcopy_holes holes, uint64_t seed)
{
	struct kcopy_hydrator_opts o = { .holes = holes, .sample_seed = seed };
	struct kcopy_hydrator *h;

	assert_int_equal(kcopy_hydrator_create(sim.loop, &sim.src, &sim.claims, &o, &h, NULL), 0);
	return h;
}

static int compare_once(enum kcopy_holes holes, uint64_t seed, struct kcopy_status *ret_status)
{
	struct kcopy_hydrator *h = make(holes, seed);
	int res = compare(h, ret_status);

	kcopy_hydrator_destroy(h);
	return res;
}

static void tear_down(void)
{
	kedge_loop_destroy(sim.loop);
}

static void test_verify_of_16_tib_costs_what_they_hold(void **state)
{
	const uint64_t size = 16ull << 40, each = 256 * 1024, nr = 64;
	struct kcopy_status st;

	set_up(size);
	for (uint64_t i = 0; i < nr; i++) {
		add(&sim.theirs, i * (size / nr) + 5 * B, i * (size / nr) + 5 * B + each);
		add(&sim.ours, i * (size / nr) + 5 * B, i * (size / nr) + 5 * B + each);
	}
	assert_int_equal(compare_once(KCOPY_HOLES_BY_STATUS, 0, &st), 0);
	assert_int_equal(st.verified_bytes + st.hole_bytes, size);
	assert_int_equal(st.verified_bytes, nr * each + st.sampled_bytes);
	assert_int_equal(st.verified_bytes, sim.read_bytes);
	/* A sample in each 4 GiB of each hole, of which there are 4,160 pieces: 64 of five blocks, and after 4,096 a block of each is enough. */
	assert_int_equal(st.sampled_bytes, 64 * 5 * B + 4032 * 65536 + 64 * B);
	assert_in_range(sim.nr_questions, 1, 4);
	assert_true(st.sample_seed != 0);
	tear_down();
}

static void test_verify_reads_all_when_told_to(void **state)
{
	struct kcopy_status st;

	set_up(64 << 20);
	add(&sim.theirs, 1 << 20, 2 << 20);
	add(&sim.ours, 1 << 20, 2 << 20);
	assert_int_equal(compare_once(KCOPY_HOLES_READ, 0, &st), 0);
	assert_int_equal(st.verified_bytes, sim.size_bytes);
	assert_int_equal(st.hole_bytes + st.sampled_bytes, 0);
	assert_int_equal(sim.read_bytes, sim.size_bytes);
	assert_int_equal(sim.nr_questions, 0);
	tear_down();
}

/* The destination is a device: its zeroes are read there, and nothing but samples at the source. A short last block. */
static void test_verify_reads_the_holes_of_a_device_here(void **state)
{
	struct kcopy_status st;

	set_up((64 << 20) + 512);
	add(&sim.theirs, 1 << 20, 2 << 20);
	add(&sim.ours, 1 << 20, 2 << 20);
	sim.claims.ops = &device_ops;
	assert_int_equal(compare_once(KCOPY_HOLES_BY_STATUS, 0, &st), 0);
	assert_int_equal(st.verified_bytes + st.hole_bytes, sim.size_bytes);
	assert_int_equal(sim.own_bytes, sim.size_bytes);
	assert_int_equal(sim.read_bytes, (1 << 20) + st.sampled_bytes);
	assert_in_range(st.sampled_bytes, 65536 + 512, 2 * 65536);
	tear_down();
}

/* Data of which the source says that it is a hole, so that it was never copied. */
static int compare_with_lie(enum kcopy_holes holes, uint64_t seed, uint64_t start_bytes, uint64_t end_bytes, bool is_device)
{
	struct kcopy_status st;

	set_up(2 * GIB);
	add(&sim.theirs, GIB, GIB + 65536);
	add(&sim.ours, GIB, GIB + 65536);
	add(&sim.theirs, start_bytes, end_bytes);
	add(&sim.lies, start_bytes, end_bytes);
	if (is_device)
		sim.claims.ops = &device_ops;
	int res = compare_once(holes, seed, &st);
	if (res != 0)
		assert_in_range(st.mismatch_bytes, 1, end_bytes - start_bytes);
	tear_down();
	return res;
}

static void test_verify_finds_a_lie_about_a_whole_hole_always(void **state)
{
	for (uint64_t seed = 1; seed <= 30; seed++)
		assert_int_equal(compare_with_lie(KCOPY_HOLES_BY_STATUS, seed, GIB + 65536, 2 * GIB, seed % 8 == 0), KEDGE_E_VERIFY);
}

static void test_verify_by_reading_finds_a_lie_about_one_block(void **state)
{
	for (uint64_t seed = 1; seed <= 3; seed++)
		assert_int_equal(compare_with_lie(KCOPY_HOLES_READ, seed, seed * 100 * B, seed * 100 * B + B, false), KEDGE_E_VERIFY);
}

/* A lie about half of a hole is found every second time: the seeds are what they are, so is the number. */
static void test_verify_finds_a_lie_as_often_as_it_says(void **state)
{
	unsigned nr_found = 0;

	for (uint64_t seed = 1; seed <= 400; seed++) {
		int res = compare_with_lie(KCOPY_HOLES_BY_STATUS, seed, GIB / 4, 3 * GIB / 4, false);
		assert_true(res == 0 || res == KEDGE_E_VERIFY);
		nr_found += res != 0;
	}
	printf("a lie about half of a hole was found %u times of 400\n", nr_found);
	assert_in_range(nr_found, 160, 240);
}

static void test_verify_finds_what_the_destination_has_in_a_hole(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct kcopy_status st;
		set_up(GIB);
		add(&sim.ours, 777 * B, 778 * B);
		if (i % 2)
			sim.claims.ops = &device_ops;
		assert_int_equal(compare_once(i < 2 ? KCOPY_HOLES_BY_STATUS : KCOPY_HOLES_READ, 0, &st), KEDGE_E_VERIFY);
		assert_int_equal(st.mismatch_bytes, B);
		tear_down();
	}
}

static void test_verify_asks_anew(void **state)
{
	struct kcopy_status st;

	set_up(8 * GIB);
	struct kcopy_hydrator *h = make(KCOPY_HOLES_BY_STATUS, 0);
	assert_int_equal(compare(h, &st), 0);
	add(&sim.theirs, 5 * GIB, 5 * GIB + B); /* a hole no more */
	assert_int_equal(compare(h, &st), KEDGE_E_VERIFY);
	assert_int_equal(st.mismatch_bytes, B);
	add(&sim.ours, 5 * GIB, 5 * GIB + B);
	assert_int_equal(compare(h, &st), 0);
	assert_int_equal(st.verified_bytes + st.hole_bytes, sim.size_bytes);
	kcopy_hydrator_destroy(h);
	tear_down();
}

/* 64 MiB less half a block, of which 20 MiB are data. */
static void set_up_sums(enum sums sums)
{
	set_up((64 << 20) - B / 2);
	sim.src.ops = &sums_ops;
	sim.sums = sums;
	for (int i = 0; i < 2; i++) {
		add(i ? &sim.theirs : &sim.ours, 1 << 20, 20 << 20);
		add(i ? &sim.theirs : &sim.ours, 63 << 20, 64 << 20);
	}
}

static int compare_by_sums_of(uint32_t copy_bytes, enum kcopy_holes holes, struct kcopy_status *ret_status)
{
	struct kcopy_hydrator_opts o = { .copy_bytes = copy_bytes, .holes = holes, .data = KCOPY_DATA_BY_CHECKSUM };
	struct kcopy_hydrator *h;

	assert_int_equal(kcopy_hydrator_create(sim.loop, &sim.src, &sim.claims, &o, &h, NULL), 0);
	int res = compare(h, ret_status);
	kcopy_hydrator_destroy(h);
	return res;
}

static int compare_by_sums(enum kcopy_holes holes, struct kcopy_status *ret_status)
{
	return compare_by_sums_of(0, holes, ret_status);
}

static void test_verify_by_sums_reads_nothing_but_samples_at_the_source(void **state)
{
	struct kcopy_status st;

	set_up_sums(SUMS_GOOD);
	assert_int_equal(compare_by_sums(KCOPY_HOLES_BY_STATUS, &st), 0);
	assert_int_equal(st.verified_bytes + st.hole_bytes, sim.size_bytes);
	assert_int_equal(st.checksum_bytes, (20 << 20) - B / 2);
	assert_int_equal(st.verified_bytes, st.checksum_bytes + st.sampled_bytes);
	assert_int_equal(sim.read_bytes, st.sampled_bytes);
	tear_down();
	set_up_sums(SUMS_GOOD);
	assert_int_equal(compare_by_sums(KCOPY_HOLES_READ, &st), 0);
	assert_int_equal(st.checksum_bytes, sim.size_bytes);
	assert_int_equal(sim.read_bytes, 0);
	tear_down();
}

static void test_verify_by_sums_takes_copies_of_several(void **state)
{
	struct kcopy_status st;

	set_up_sums(SUMS_GOOD);
	assert_int_equal(compare_by_sums_of(2 << 20, KCOPY_HOLES_READ, &st), 0);
	assert_int_equal(sim.nr_sums, 32);
	assert_int_equal(st.checksum_bytes, sim.size_bytes);
	assert_int_equal(sim.read_bytes, 0);
	sim.flipped_bytes = (7 << 20) + 77; /* the third sum of its copy */
	assert_int_equal(compare_by_sums_of(2 << 20, KCOPY_HOLES_READ, &st), KEDGE_E_VERIFY);
	assert_int_equal(st.mismatch_bytes, B);
	assert_int_equal(sim.read_bytes, 2 << 20);
	tear_down();
}

/* Bytes that were asked for are bytes, whatever the source offers. */
static void test_verify_by_bytes_asks_for_no_sums(void **state)
{
	struct kcopy_status st;

	set_up_sums(SUMS_GOOD);
	assert_int_equal(compare_once(KCOPY_HOLES_READ, 0, &st), 0);
	assert_int_equal(sim.nr_sums, 0);
	assert_int_equal(st.checksum_bytes, 0);
	assert_int_equal(sim.read_bytes, sim.size_bytes);
	tear_down();
}

/* What a sum does not agree on, or cannot be asked for, is compared byte by byte: no answer makes a difference of the same, nor is it counted as a sum. */
static void test_verify_goes_back_to_bytes(void **state)
{
	for (enum sums sums = SUMS_WRONG; sums <= SUMS_DAMAGED; sums++) {
		struct kcopy_status st;
		set_up_sums(sums);
		sim.nr_away = sums == SUMS_WRONG ? 5 : 0;
		assert_int_equal(compare_by_sums(KCOPY_HOLES_READ, &st), 0);
		assert_int_equal(st.verified_bytes, sim.size_bytes);
		assert_int_equal(st.checksum_bytes, 0);
		assert_int_equal(sim.read_bytes, sim.size_bytes);
		assert_int_equal(sim.own_bytes, sim.size_bytes);
		assert_int_equal(st.last_err.code, 0); /* they agree */
		if (sums != SUMS_WRONG) /* believed but for what was in flight */
			assert_in_range(sim.nr_sums, 1, KCOPY_INFLIGHT);
		tear_down();
	}
}

static void test_verify_by_sums_finds_the_very_block(void **state)
{
	for (enum sums sums = SUMS_GOOD; sums <= SUMS_WRONG; sums++) {
		struct kcopy_status st;
		set_up_sums(sums);
		sim.flipped_bytes = (5 << 20) + 3 * B + 77;
		assert_int_equal(compare_by_sums(KCOPY_HOLES_BY_STATUS, &st), KEDGE_E_VERIFY);
		assert_int_equal(st.mismatch_bytes, B);
		assert_non_null(strstr(st.last_err.msg, "the first at byte 5255168"));
		/* the workload's own is no difference */
		sim.is_flip_written = true;
		assert_int_equal(compare_by_sums(KCOPY_HOLES_BY_STATUS, &st), 0);
		assert_int_equal(st.mismatch_bytes, 0);
		assert_int_equal(st.verified_bytes + st.hole_bytes, sim.size_bytes - B);
		tear_down();
	}
}

static void test_verify_can_be_stopped_while_it_waits_for_sums(void **state)
{
	struct kcopy_hydrator_opts o = { .data = KCOPY_DATA_BY_CHECKSUM };
	struct kcopy_hydrator *h;
	struct kcopy_status st;
	struct end e = { 0 };

	set_up_sums(SUMS_SILENT);
	assert_int_equal(kcopy_hydrator_create(sim.loop, &sim.src, &sim.claims, &o, &h, NULL), 0);
	kcopy_verify_start(h, done_cb, &e);
	for (unsigned i = 0; i < 1000 && sim.nr_silent == 0; i++)
		kedge_loop_run_once(sim.loop, 5);
	assert_in_range(sim.nr_silent, 1, KCOPY_INFLIGHT);
	kcopy_hydrator_stop(h);
	for (unsigned i = 0; i < 1000 && !e.is_over; i++)
		kedge_loop_run_once(sim.loop, 5);
	assert_true(e.is_over);
	assert_int_equal(e.res, -ECANCELED);
	assert_int_equal(sim.nr_silent, 0);
	sim.sums = SUMS_GOOD;
	assert_int_equal(compare(h, &st), 0);
	assert_int_equal(st.verified_bytes + st.hole_bytes, sim.size_bytes);
	kcopy_hydrator_destroy(h);
	tear_down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_verify_of_16_tib_costs_what_they_hold),
		cmocka_unit_test(test_verify_reads_all_when_told_to),
		cmocka_unit_test(test_verify_reads_the_holes_of_a_device_here),
		cmocka_unit_test(test_verify_finds_a_lie_about_a_whole_hole_always),
		cmocka_unit_test(test_verify_by_reading_finds_a_lie_about_one_block),
		cmocka_unit_test(test_verify_finds_a_lie_as_often_as_it_says),
		cmocka_unit_test(test_verify_finds_what_the_destination_has_in_a_hole),
		cmocka_unit_test(test_verify_asks_anew),
		cmocka_unit_test(test_verify_by_sums_reads_nothing_but_samples_at_the_source),
		cmocka_unit_test(test_verify_by_sums_takes_copies_of_several),
		cmocka_unit_test(test_verify_by_bytes_asks_for_no_sums),
		cmocka_unit_test(test_verify_goes_back_to_bytes),
		cmocka_unit_test(test_verify_by_sums_finds_the_very_block),
		cmocka_unit_test(test_verify_can_be_stopped_while_it_waits_for_sums),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
