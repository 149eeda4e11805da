/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The rules of the engine one by one: E8, E9, E10, the size matrix (E16), finish, abort, failures, bad source ranges.
 *
 * Usage: uclone_rules [PATTERN]: only the tests of that name
 */
#include "rules.h"

#include <errno.h>

static void test_discard_during_copy_keeps_later_write(void **state)
{
	struct world *w = start(1, 8 * 4096);

	w->source.is_away = true; /* the copy hangs in its read */
	assert_true(world_hydrate(w, 0, 8, 8));
	assert_int_equal(world_do(w, UCLONE_DISCARD, 0, 32, false), 0);
	assert_int_equal(world_do(w, UCLONE_WRITE, 8, 8, false), 0);
	assert_int_equal(world_do(w, UCLONE_FLUSH, 0, 0, false), 0);
	w->source.is_away = false;
	world_settle(w);
	assert_int_equal(w->nr_copies, 0);
	assert_int_equal(world_do(w, UCLONE_READ, 0, 64, false), 0); /* the judge knows what must be there */
	world_crash(w, SIM_CRASH_DROP);
	assert_int_equal(world_open(w), 0);
	assert_int_equal(world_do(w, UCLONE_READ, 0, 64, false), 0);
	stop(w);
}

static void test_late_source_data_changes_nothing(void **state)
{
	unsigned nr = 0;

	for (uint64_t seed = 1; seed <= 10000; seed++, nr++) {
		struct world *w = start(seed, 4 * 4096);
		w->sim.is_fifo = false;
		w->source.is_away = true;
		w->is_never_filled = seed % 3 == 0; /* timed out: the claim is dropped when the late answer comes */
		world_hydrate(w, sim_below(&w->sim, 4), 4, 1 + sim_below(&w->sim, 4));
		for (unsigned i = sim_below(&w->sim, 4) + 1; i > 0; i--) {
			uint64_t b = sim_below(&w->sim, 4);
			world_submit(w, sim_below(&w->sim, 4) ? UCLONE_WRITE : UCLONE_DISCARD, b * 8, 8 * (1 + sim_below(&w->sim, 4 - b)),
				     sim_below(&w->sim, 3) == 0);
			for (unsigned k = sim_below(&w->sim, 6); k > 0; k--)
				world_step(w);
		}
		w->source.is_away = false;
		for (unsigned k = sim_below(&w->sim, 6); k > 0; k--)
			world_step(w);
		world_submit(w, UCLONE_READ, 0, 32, false);
		world_settle(w);
		assert_int_equal(world_do(w, UCLONE_READ, 0, 32, false), 0);
		if (world_is_bad(w))
			print_message("seed %lu\n", (unsigned long)seed);
		stop(w);
	}
	print_message("E9: %u simulations, seeds 1 to 10000\n", nr);
}

static void test_failed_commit_stops_everything_but_committed_reads(void **state)
{
	/* operations of a FLUSH with one dirty page: flush destination, write page, flush metadata */
	for (unsigned n = 1; n <= 3; n++) {
		struct world *w = start(n, 8 * 4096);
		struct uclone_status s;
		assert_int_equal(world_do(w, UCLONE_WRITE, 0, 8, true), 0); /* committed */
		assert_int_equal(world_do(w, UCLONE_WRITE, 8, 8, false), 0);
		w->is_error_ok = true;
		world_settle(w);
		w->sim.fail_at = w->sim.nr_ops + n;
		w->sim.fail_res = -EIO;
		assert_int_equal(world_do(w, UCLONE_FLUSH, 0, 0, false), -EIO);
		uclone_status(w->u, &s);
		assert_int_equal(s.state, UCLONE_FAILED);
		assert_int_equal(world_do(w, UCLONE_READ, 0, 8, false), 0);
		assert_int_equal(world_do(w, UCLONE_READ, 8, 8, false), -EIO); /* it may be gone after the restart */
		assert_int_equal(world_do(w, UCLONE_READ, 16, 8, false), 0);   /* at the source as ever */
		assert_int_equal(world_do(w, UCLONE_WRITE, 16, 8, false), -EIO);
		assert_int_equal(world_do(w, UCLONE_FLUSH, 0, 0, false), -EIO);
		assert_int_equal(world_do(w, UCLONE_DISCARD, 24, 8, true), -EIO);
		world_close(w);
		world_crash(w, SIM_CRASH_DROP);
		w->is_error_ok = false;
		assert_int_equal(world_open(w), 0);
		assert_int_equal(world_do(w, UCLONE_READ, 0, 64, false), 0);
		stop(w);
	}
}

/* Written while a commit runs: that commit does not cover it. */
static void test_what_no_commit_covers_is_not_shown_after_a_failure(void **state)
{
	struct world *w = start(1, 8 * 4096);

	w->sim.is_fifo = false;
	world_do(w, UCLONE_WRITE, 0, 8, false);
	world_settle(w);
	w->sim.stall = "meta";
	world_submit(w, UCLONE_FLUSH, 0, 0, false);
	world_settle(w); /* its page is being written */
	assert_int_equal(world_do(w, UCLONE_WRITE, 8, 8, false), 0);
	w->sim.stall = NULL;
	world_settle(w);
	w->is_error_ok = true;
	w->sim.fail_at = w->sim.nr_ops + 2; /* the page of the next one */
	w->sim.fail_res = -EIO;
	w->sim.stall = "meta";
	world_submit(w, UCLONE_FLUSH, 0, 0, false);
	world_settle(w);
	assert_int_equal(world_do(w, UCLONE_WRITE, 16, 8, false), 0);
	w->sim.stall = NULL;
	world_settle(w);
	assert_true(w->sim.has_failed_commit);
	assert_int_equal(world_do(w, UCLONE_READ, 0, 8, false), 0);
	assert_int_equal(world_do(w, UCLONE_READ, 8, 8, false), -EIO);
	assert_int_equal(world_do(w, UCLONE_READ, 16, 8, false), -EIO);
	stop(w);
}

/* Fail-stop is the clone's, not the worker's: the next one must not take for true what a failed flush may have lost. */
static void test_a_failure_outlives_the_worker(void **state)
{
	for (unsigned n = 1; n <= 3; n++) {
		struct world *w = start(n, 8 * 4096);
		struct uclone_status s;
		assert_true(world_hydrate(w, 2, 3, 1));
		assert_int_equal(world_do(w, UCLONE_WRITE, 0, 8, true), 0);
		assert_int_equal(world_do(w, UCLONE_WRITE, 8, 8, false), 0);
		w->is_error_ok = true;
		world_settle(w);
		w->sim.fail_at = w->sim.nr_ops + n;
		w->sim.fail_res = -EIO;
		assert_int_equal(world_do(w, UCLONE_FLUSH, 0, 0, false), -EIO);
		for (unsigned worker = 0; worker < 2; worker++) {
			uint64_t nr_writes = w->meta.nr_ops;
			world_process_death(w);
			assert_int_equal(world_open(w), 0);
			uclone_status(w->u, &s);
			assert_int_equal(s.state, UCLONE_FAILED);
			assert_true(s.failure.msg[0] != 0);
			/* committed once, but who knows what came after */
			assert_int_equal(world_do(w, UCLONE_READ, 0, 8, false), -EIO);
			assert_int_equal(world_do(w, UCLONE_READ, 8, 8, false), -EIO);
			assert_int_equal(world_do(w, UCLONE_READ, 16, 8, false), 0); /* copied */
			assert_int_equal(world_do(w, UCLONE_READ, 24, 8, false), 0); /* at the source as ever */
			assert_int_equal(world_do(w, UCLONE_WRITE, 16, 8, false), -EIO);
			assert_int_equal(world_do(w, UCLONE_FLUSH, 0, 0, false), -EIO);
			assert_true(w->meta.nr_ops - nr_writes < 10); /* it reads, and leaves all as it is */
		}
		world_close(w);
		world_crash(w, SIM_CRASH_DROP); /* the holder goes as well: a fresh start */
		w->is_error_ok = false;
		assert_int_equal(world_open(w), 0);
		assert_int_equal(world_do(w, UCLONE_READ, 0, 64, false), 0);
		stop(w);
	}
}

/* The superblock of a finish fails while the commit of a FLUSH is under way. */
static void test_a_failure_beside_a_commit_fails_the_commit(void **state)
{
	struct world *w = start(1, 4 * 4096);
	const struct sim_op *first;

	world_hydrate_all(w);
	world_do(w, UCLONE_WRITE, 0, 32, true);
	world_finish_begin(w);
	do
		assert_true(world_step(w));
	while (!(first = w->sim.pending) || first->disk != &w->meta || !first->write || first->write->first * 512 >= UC_MAP_START_BYTES);
	w->sim.pending->res = -EIO;
	w->is_error_ok = true;
	world_submit(w, UCLONE_FLUSH, 0, 0, false);
	w->sim.stall = "dest";
	world_settle(w); /* the superblock has failed, the destination is being flushed */
	assert_int_equal(w->finish_res, KEDGE_E_FAILED);
	w->sim.stall = NULL;
	world_settle(w); /* the judge wants no success any more */
	assert_int_equal(w->nr_ops, 0);
	stop(w);
}

/* A write over a copied block fails and leaves something else there: no clean close makes that the source's content again. */
static void test_failed_write_over_a_copied_block_counts_as_written(void **state)
{
	unsigned nr_damaged = 0;

	for (uint64_t seed = 1; seed <= 8; seed++) {
		struct world *w = start(seed, 8 * 4096);
		struct uclone_status s;
		world_hydrate_all(w);
		world_do(w, UCLONE_FLUSH, 0, 0, false);
		world_do(w, UCLONE_WRITE, 56, 8, true); /* so that the intent is durable */
		world_settle(w);
		w->is_error_ok = true;
		w->sim.fail_at = w->sim.nr_ops + 1;
		w->sim.fail_res = -EIO;
		assert_int_equal(world_do(w, UCLONE_WRITE, 8, 8, false), -EIO);
		w->is_error_ok = false;
		for (uint64_t i = 8; i < 16; i++)
			nr_damaged += sim_disk_id(&w->dest, i) != sim_source_id(i);
		world_close(w);
		assert_int_equal(world_open(w), 0);
		uclone_status(w->u, &s);
		assert_int_equal(s.written_bytes, 2 * 4096);
		world_check_copied(w);
		stop(w);
	}
	assert_true(nr_damaged > 0);
}

/* ---- whole lives ---- */

static void test_sizes_of_every_kind_are_copied_whole(void **state)
{
	static const uint64_t sectors[] = {1, 2, 7, 8, 9, 15, 16, 17, 63, 1919, 1920, 1921, 15359, 15360, 15361, 15367, 15368, 122879,
					   122880, 122887};
	unsigned nr = 0;

	for (unsigned i = 0; i < KEDGE_ARRAY_LEN(sectors); i++)
		for (unsigned way = 0; way < 2; way++, nr++) {
			uint64_t n = sectors[i];
			struct world *w = start(i + 1, n * 512);
			struct uclone_status s;
			if (way) {
				world_do(w, UCLONE_WRITE, n - 1, 1, false);
				world_do(w, UCLONE_DISCARD, 0, n, false);
			}
			world_hydrate_all(w);
			world_check_copied(w);
			if (!way) {
				world_do(w, UCLONE_WRITE, n - 1, 1, false);
				world_do(w, UCLONE_WRITE_ZEROES, 0, 1, false);
			}
			world_finish_begin(w);
			world_settle(w);
			assert_int_equal(w->finish_res, 0);
			uclone_status(w->u, &s);
			assert_int_equal(s.state, UCLONE_HYDRATED);
			assert_int_equal(s.here_bytes, n * 512);
			assert_int_equal(s.durable_bytes, n * 512);
			uint64_t nr_reads = w->source.nr_reads;
			assert_int_equal(world_do(w, UCLONE_READ, 0, n, false), 0);
			assert_int_equal(w->source.nr_reads, nr_reads);
			world_crash(w, SIM_CRASH_DROP);
			assert_int_equal(world_open(w), 0);
			uclone_status(w->u, &s);
			assert_int_equal(s.state, UCLONE_HYDRATED);
			assert_int_equal(world_do(w, UCLONE_READ, 0, n, false), 0);
			stop(w);
		}
	print_message("E16: %u combinations\n", nr);
}

/* More dirty pages than are written at a time. */
static void test_a_commit_of_many_pages_is_whole(void **state)
{
	enum { NR_PAGES = 40 };
	struct world *w = start(1, (NR_PAGES * (uint64_t)UC_PAGE_BLOCKS + 1) * 4096);
	uint64_t n;

	w->sim.is_fifo = false;
	for (uint64_t p = 0; p <= NR_PAGES; p++)
		world_do(w, UCLONE_WRITE, p * UC_PAGE_BLOCKS * 8, 8, false);
	world_do(w, UCLONE_FLUSH, 0, 0, false);
	world_crash(w, SIM_CRASH_DROP);
	assert_int_equal(world_open(w), 0);
	for (uint64_t p = 0; p <= NR_PAGES; p++) {
		assert_int_equal(uclone_map(w->u, p * UC_PAGE_BLOCKS * 4096, 4096, &n), UCLONE_WRITTEN);
		assert_int_equal(world_do(w, UCLONE_READ, p * UC_PAGE_BLOCKS * 8, 8, false), 0);
	}
	stop(w);
}

/* What counts is on the disk: a sector that went bad there is noticed. */
static void test_finish_rereads_the_metadata(void **state)
{
	struct world *w = start(1, 1930 * 4096);
	struct uclone_status s;

	world_hydrate_all(w);
	world_do(w, UCLONE_FLUSH, 0, 0, false);
	w->meta.cache[UC_MAP_START_BYTES + UC_SECTOR + 24] ^= 1;
	world_finish_begin(w);
	world_settle(w);
	assert_int_equal(w->finish_res, KEDGE_E_META_CORRUPT);
	uclone_status(w->u, &s);
	assert_int_equal(s.state, UCLONE_LIVE);
	stop(w);
}

static void test_finish_is_refused_while_a_block_is_missing(void **state)
{
	struct world *w = start(1, 8 * 4096);

	assert_true(world_hydrate(w, 1, 8, 7));
	world_settle(w);
	world_finish_begin(w);
	world_settle(w);
	assert_int_equal(w->finish_res, KEDGE_E_NOT_HYDRATED);
	assert_int_equal(uclone_set_source(w->u, NULL, NULL), KEDGE_E_STATE);
	stop(w);
}

struct answer {
	bool is_done;
	int res;
};

static void answer_cb(void *arg, int res, const struct kedge_err *err)
{
	*(struct answer *)arg = (struct answer){true, res};
}

static void test_abort_never_loses_a_write(void **state)
{
	struct world *w = start(1, 8 * 4096);
	struct answer a = {0};

	world_do(w, UCLONE_WRITE, 0, 1, false);
	uclone_abort(w->u, answer_cb, &a);
	world_settle(w);
	assert_int_equal(a.res, KEDGE_E_WRITTEN);
	stop(w);

	w = start(1, 8 * 4096);
	world_hydrate_all(w);
	uclone_abort(w->u, answer_cb, &a);
	w->is_error_ok = true;
	assert_int_equal(world_do(w, UCLONE_WRITE, 0, 8, true), -EIO); /* the abort has begun */
	world_settle(w);
	assert_int_equal(a.res, 0);
	world_finish_begin(w); /* every block is here, but nothing brings it back */
	world_settle(w);
	assert_int_equal(w->finish_res, KEDGE_E_STATE);
	world_close(w);
	assert_int_equal(world_open(w), KEDGE_E_STATE);
	stop(w);
}

static void test_abort_after_a_crash_knows_of_writes_under_way(void **state)
{
	struct world *w = start(1, 8 * 4096);
	struct answer a = {0};
	struct uclone_status s;

	world_hydrate_all(w);
	world_do(w, UCLONE_FLUSH, 0, 0, false);
	world_do(w, UCLONE_WRITE, 8, 8, false); /* never flushed, but on the platter */
	world_crash(w, SIM_CRASH_DEST);
	assert_int_equal(world_open(w), 0);
	uclone_status(w->u, &s);
	assert_true(s.had_unclean_stop);
	uclone_abort(w->u, answer_cb, &a);
	world_settle(w);
	assert_int_equal(a.res, KEDGE_E_WRITTEN);
	stop(w);
}

static void test_clean_close_forgets_intents(void **state)
{
	struct world *w = start(1, 8 * 4096);
	struct uclone_status s;

	world_hydrate_all(w);
	world_do(w, UCLONE_WRITE, 8, 8, false);
	world_close(w);
	assert_int_equal(world_open(w), 0);
	uclone_status(w->u, &s);
	assert_false(s.had_unclean_stop);
	assert_int_equal(s.written_bytes, 4096);
	world_crash(w, SIM_CRASH_DROP);
	assert_int_equal(world_open(w), 0);
	uclone_status(w->u, &s);
	assert_int_equal(s.written_bytes, 4096);
	stop(w);
}

/* What the governor is shown: each I/O of the workload, once, by its kind, and nothing of hydration. */
static void test_each_io_is_told_of_by_its_kind(void **state)
{
	struct world *w = start(1, 8 * 4096);

	world_do(w, UCLONE_READ, 0, 8, false);
	assert_int_equal(w->nr_told[UCLONE_IO_READ_SOURCE], 1);
	world_do(w, UCLONE_WRITE, 9, 1, false); /* the rest of the block is read first: no measure for others */
	world_hydrate_all(w);
	assert_int_equal(w->nr_told[UCLONE_IO_READ] + w->nr_told[UCLONE_IO_CHANGE] + w->nr_told[UCLONE_IO_FLUSH], 0);
	world_do(w, UCLONE_READ, 0, 8, false);
	assert_int_equal(w->nr_told[UCLONE_IO_READ], 1);
	world_do(w, UCLONE_WRITE, 8, 8, false);
	world_do(w, UCLONE_DISCARD, 16, 8, false);
	assert_int_equal(w->nr_told[UCLONE_IO_CHANGE], 2);
	world_do(w, UCLONE_FLUSH, 0, 0, false);
	world_do(w, UCLONE_WRITE, 8, 8, true);
	assert_int_equal(w->nr_told[UCLONE_IO_FLUSH], 2);
	assert_int_equal(w->nr_told[UCLONE_IO_READ_SOURCE], 1);
	stop(w);
}

/* The final comparison must not take a write under way for a difference. */
static void test_a_change_under_way_counts_as_written_for_the_audit(void **state)
{
	struct world *w = start(1, 4 * 4096);
	struct kedge_claims *k = uclone_claims(w->u);

	world_hydrate_all(w);
	world_do(w, UCLONE_WRITE, 0, 8, true); /* the intent is durable */
	assert_true(k->ops->audit_is_written(k, 0));
	assert_false(k->ops->audit_is_written(k, 4096));
	w->sim.stall = "dest";
	world_submit(w, UCLONE_WRITE, 8, 8, false);
	world_settle(w);
	assert_true(k->ops->audit_is_written(k, 4096));
	assert_false(k->ops->audit_is_written(k, 8192));
	w->sim.stall = NULL;
	world_settle(w);
	stop(w);
}

static void test_a_write_waits_for_a_part_of_a_fill_only(void **state)
{
	for (uint64_t seed = 1; seed <= 2; seed++) {
		struct world *w = start(seed, 4 * 4096);

		w->sim.stall = "dest";
		assert_true(world_hydrate(w, 0, 4, 4));
		world_settle(w); /* the first part is being written */
		assert_int_equal(w->sim.nr_pending, 1);
		world_submit(w, UCLONE_WRITE, 16, 8, false);
		world_settle(w);
		assert_int_equal(w->sim.nr_pending, w->fill_lock_bytes ? 2 : 1);
		w->sim.stall = NULL;
		world_settle(w);
		assert_int_equal(world_do(w, UCLONE_READ, 0, 32, false), 0);
		stop(w);
	}
}

static void test_bad_source_range_fails_reads_until_overwritten(void **state)
{
	struct world *w = start(1, 16 * 4096);
	struct uclone_status s;
	uint64_t nr_bytes;

	w->source.bad_first = 20;
	w->source.bad_end = 21;
	w->is_error_ok = true;
	assert_true(world_hydrate(w, 2, 3, 1));
	world_settle(w);
	assert_int_equal(w->nr_bad_events, 1);
	uclone_status(w->u, &s);
	assert_int_equal(s.bad_bytes, 4096);
	assert_int_equal(uclone_map(w->u, 0, 16 * 4096, &nr_bytes), UCLONE_AT_SOURCE);
	assert_int_equal(nr_bytes, 2 * 4096);
	assert_int_equal(uclone_map(w->u, 2 * 4096, 14 * 4096, &nr_bytes), UCLONE_BAD);
	assert_int_equal(nr_bytes, 4096); /* behind it the source is good */
	assert_int_equal(world_do(w, UCLONE_READ, 16, 8, false), -EIO);
	assert_int_equal(world_do(w, UCLONE_WRITE, 16, 1, false), -EIO); /* a part cannot be merged */
	world_hydrate_all(w);
	uclone_status(w->u, &s);
	assert_int_equal(s.here_bytes, 15 * 4096);
	w->is_error_ok = false;
	assert_int_equal(world_do(w, UCLONE_WRITE, 16, 8, false), 0);
	assert_int_equal(world_do(w, UCLONE_READ, 0, 128, false), 0);
	uclone_status(w->u, &s);
	assert_int_equal(s.bad_bytes, 0);
	stop(w);
}

static void hydrate_each(struct world *w, uint64_t nr_blocks)
{
	for (uint64_t b = 0; b < nr_blocks; b++)
		if (world_hydrate(w, b, b + 1, 1))
			world_settle(w);
}

static void test_a_bad_range_is_offered_again_when_it_is_forgotten(void **state)
{
	struct world *w = start(1, 16 * 4096);
	struct uclone_status s;

	w->source.bad_first = 20;
	w->source.bad_end = 21;
	w->is_error_ok = w->is_never_dropped = true;
	hydrate_each(w, 16);
	hydrate_each(w, 16); /* not by itself: the source is read there once, not again and again */
	uclone_status(w->u, &s);
	assert_int_equal(s.nr_source_errors, 1);
	w->source.bad_first = w->source.bad_end = 0; /* mended */
	uclone_forget_bad(w->u);
	hydrate_each(w, 16);
	uclone_status(w->u, &s);
	assert_int_equal(s.bad_bytes, 0);
	assert_int_equal(s.here_bytes, 16 * 4096);
	assert_int_equal(world_do(w, UCLONE_READ, 0, 128, false), 0);
	stop(w);
}

static void test_partial_discard_keeps_the_edges(void **state)
{
	struct world *w = start(1, 8 * 4096 + 512);

	world_do(w, UCLONE_WRITE, 0, 65, false);
	world_do(w, UCLONE_DISCARD, 3, 18, false); /* whole: block 1 only */
	world_do(w, UCLONE_DISCARD, 33, 3, false); /* nothing */
	world_do(w, UCLONE_DISCARD, 60, 5, false); /* the tail */
	assert_int_equal(world_do(w, UCLONE_READ, 0, 65, false), 0);
	assert_int_equal(sim_disk_id(&w->dest, 8), 0);
	assert_int_not_equal(sim_disk_id(&w->dest, 3), 0);
	assert_int_not_equal(sim_disk_id(&w->dest, 20), 0);
	assert_int_equal(sim_disk_id(&w->dest, 64), 0);
	stop(w);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_discard_during_copy_keeps_later_write),
		cmocka_unit_test(test_late_source_data_changes_nothing),
		cmocka_unit_test(test_failed_commit_stops_everything_but_committed_reads),
		cmocka_unit_test(test_what_no_commit_covers_is_not_shown_after_a_failure),
		cmocka_unit_test(test_a_failure_outlives_the_worker),
		cmocka_unit_test(test_a_failure_beside_a_commit_fails_the_commit),
		cmocka_unit_test(test_failed_write_over_a_copied_block_counts_as_written),
		cmocka_unit_test(test_sizes_of_every_kind_are_copied_whole),
		cmocka_unit_test(test_a_commit_of_many_pages_is_whole),
		cmocka_unit_test(test_finish_rereads_the_metadata),
		cmocka_unit_test(test_finish_is_refused_while_a_block_is_missing),
		cmocka_unit_test(test_abort_never_loses_a_write),
		cmocka_unit_test(test_abort_after_a_crash_knows_of_writes_under_way),
		cmocka_unit_test(test_clean_close_forgets_intents),
		cmocka_unit_test(test_each_io_is_told_of_by_its_kind),
		cmocka_unit_test(test_a_change_under_way_counts_as_written_for_the_audit),
		cmocka_unit_test(test_a_write_waits_for_a_part_of_a_fill_only),
		cmocka_unit_test(test_bad_source_range_fails_reads_until_overwritten),
		cmocka_unit_test(test_a_bad_range_is_offered_again_when_it_is_forgotten),
		cmocka_unit_test(test_partial_discard_keeps_the_edges),
	};

	return RUN_RULES(tests, argc, argv);
}
