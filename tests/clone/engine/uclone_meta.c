/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Metadata that is not ours, not whole or not new (E11): refused or unknown, never formatted and never believed.
 *
 * Usage: uclone_meta [PATTERN]: only the tests of that name
 */
#include "rules.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- create ---- */

/* At every event the power goes: what is left is refused, or it is whole; what create has answered is there. */
static void test_create_cut_short_is_refused_or_whole(void **state)
{
	unsigned nr = 0, nr_opened = 0;

	for (uint64_t seed = 1; seed <= 200; seed++)
		for (unsigned cut_at = 0;; cut_at++, nr++) {
			struct world w;
			struct uclone_status s;
			bool is_done;
			world_init(&w, seed, 1922 * 4096);
			w.sim.is_fifo = true;
			is_done = world_create_until(&w, cut_at);
			world_crash(&w, (enum sim_crash)(seed % SIM_NR_CRASHES));
			w.is_error_ok = true;
			if (world_open(&w) == 0) {
				uclone_status(w.u, &s);
				assert_int_equal(s.unknown_bytes, 0);
				world_do(&w, UCLONE_WRITE, 0, 8, true);
				assert_int_equal(world_do(&w, UCLONE_READ, 0, w.nr_sectors, false), 0);
				nr_opened++;
			} else {
				assert_false(is_done);
				assert_true(w.open_res == KEDGE_E_META_ZEROED || w.open_res == KEDGE_E_META_CORRUPT);
			}
			expect_good(&w);
			world_fini(&w);
			if (is_done)
				break;
		}
	print_message("create: cut short %u times, opened %u times\n", nr, nr_opened);
}

/* ---- E11: metadata that is not ours, not whole or not new ---- */

struct image {
	uint8_t *meta, *seen;
};

static struct image save(const struct world *w)
{
	struct image i = {malloc(w->meta.disk.size_bytes), malloc(4096)};

	memcpy(i.meta, w->meta.cache, w->meta.disk.size_bytes);
	memcpy(i.seen, w->seen.cache, 4096);
	return i;
}

static void put_back(struct world *w, const struct image *i)
{
	memcpy(w->meta.cache, i->meta, w->meta.disk.size_bytes);
	memcpy(w->meta.durable, i->meta, w->meta.disk.size_bytes);
	memcpy(w->seen.cache, i->seen, 4096);
	memcpy(w->seen.durable, i->seen, 4096);
}

static void drop_image(struct image *i)
{
	free(i->meta);
	free(i->seen);
}

/* Open what is there now: the result; when refused, nothing may have been written. */
static int try_open(struct world *w)
{
	struct image before = save(w);
	int r = world_open(w);

	world_settle(w);
	if (r < 0) {
		assert_memory_equal(before.meta, w->meta.cache, w->meta.disk.size_bytes);
		assert_memory_equal(before.seen, w->seen.cache, 4096);
	} else {
		world_crash(w, SIM_CRASH_KEEP);
	}
	drop_image(&before);
	return r;
}

static void test_metadata_zeroed_foreign_or_old_is_refused(void **state)
{
	struct world *b = start(2, 8 * 4096);

	world_do(b, UCLONE_WRITE, 0, 8, true);
	world_close(b);
	struct image other = save(b);
	struct world *a = start(1, 8 * 4096);
	world_do(a, UCLONE_WRITE, 0, 8, true);
	world_close(a);
	struct image old = save(a);
	assert_int_equal(world_open(a), 0);
	world_do(a, UCLONE_WRITE, 8, 8, true);
	world_close(a);
	struct image good = save(a);

	a->is_error_ok = true;
	memset(a->meta.cache, 0, a->meta.disk.size_bytes);
	assert_int_equal(try_open(a), KEDGE_E_META_ZEROED);
	put_back(a, &good);
	memset(a->seen.cache, 0, 4096);
	assert_int_equal(try_open(a), KEDGE_E_META_ZEROED);
	put_back(a, &good);
	memcpy(a->seen.cache, other.seen, 4096);
	assert_int_equal(try_open(a), KEDGE_E_META_FOREIGN);
	put_back(a, &good);
	memcpy(a->meta.cache, other.meta, a->meta.disk.size_bytes);
	assert_int_equal(try_open(a), KEDGE_E_META_FOREIGN);
	put_back(a, &good);
	memcpy(a->meta.cache + UC_SUPER_B_BYTES, other.meta + UC_SUPER_B_BYTES, 4096); /* one slot of another clone */
	assert_int_equal(try_open(a), KEDGE_E_META_FOREIGN);
	put_back(a, &good);
	memcpy(a->meta.cache, old.meta, a->meta.disk.size_bytes);
	assert_int_equal(try_open(a), KEDGE_E_META_OLD);
	put_back(a, &good);
	a->meta.disk.size_bytes -= 4096;
	assert_int_equal(try_open(a), KEDGE_E_META_CORRUPT);
	a->meta.disk.size_bytes += 4096;
	a->dest.disk.size_bytes += 4096;
	assert_int_equal(try_open(a), KEDGE_E_DEST_IDENTITY);
	a->dest.disk.size_bytes -= 8192;
	assert_int_equal(try_open(a), KEDGE_E_DEST_SIZE);
	a->dest.disk.size_bytes += 4096;
	assert_int_equal(world_create(a), KEDGE_E_META_EXISTS);
	memset(a->meta.cache, 0, UC_MAP_START_BYTES); /* only the map is left */
	assert_int_equal(world_create(a), KEDGE_E_META_EXISTS);
	put_back(a, &good);
	assert_int_equal(try_open(a), 0);
	drop_image(&old);
	drop_image(&good);
	drop_image(&other);
	stop(a);
	stop(b);
}

static void test_every_byte_of_the_superblocks_counts(void **state)
{
	struct world *w = start(3, 8 * 4096);
	unsigned nr = 0;

	world_do(w, UCLONE_WRITE, 0, 8, true);
	world_crash(w, SIM_CRASH_KEEP);
	struct image good = save(w);
	struct uc_super a, b;
	assert_int_equal(uc_super_decode(good.meta + UC_SUPER_A_BYTES, &a), 0);
	assert_int_equal(uc_super_decode(good.meta + UC_SUPER_B_BYTES, &b), 0);
	uint64_t newer = a.generation > b.generation ? UC_SUPER_A_BYTES : UC_SUPER_B_BYTES;
	uint64_t older = UC_SUPER_B_BYTES - newer;
	w->is_error_ok = true;
	for (unsigned i = 0; i < UC_SUPER_BYTES; i++, nr++) {
		put_back(w, &good);
		w->meta.cache[older + i] ^= 0x10;
		assert_int_equal(try_open(w), 0);
		put_back(w, &good);
		w->meta.cache[newer + i] ^= 0x10;
		assert_int_equal(try_open(w), KEDGE_E_META_CORRUPT); /* the older one alone is not enough */
		put_back(w, &good);
		w->meta.cache[newer + i] ^= 0x10;
		w->meta.cache[older + i] ^= 0x10;
		assert_int_equal(try_open(w), KEDGE_E_META_CORRUPT);
	}
	for (unsigned i = 0; i < 512; i++, nr++) {
		put_back(w, &good);
		w->seen.cache[i] ^= 1;
		assert_true(try_open(w) < 0);
	}
	put_back(w, &good);
	drop_image(&good);
	print_message("E11: %u bytes flipped, in each slot and in both\n", nr);
	stop(w);
}

static void test_every_byte_of_a_map_sector_counts(void **state)
{
	struct world *w = start(4, 1930 * 4096);

	world_do(w, UCLONE_WRITE, 0, 8, true);
	world_do(w, UCLONE_WRITE, 1920 * 8, 8, true);
	world_close(w);
	struct image good = save(w);
	for (unsigned i = 0; i < 512; i++) {
		uint64_t n;
		put_back(w, &good);
		w->meta.cache[UC_MAP_START_BYTES + i] ^= 4;
		w->is_error_ok = true;
		assert_int_equal(world_open(w), 0);
		assert_int_equal(uclone_map(w->u, 0, w->size_bytes, &n), UCLONE_UNKNOWN);
		assert_int_equal(n, 1920 * 4096);
		assert_int_equal(world_do(w, UCLONE_READ, 0, 8, false), -EIO);
		assert_int_equal(world_do(w, UCLONE_READ, 1919 * 8, 16, false), -EIO);
		assert_int_equal(world_do(w, UCLONE_WRITE, 8, 8, false), -EIO);
		assert_int_equal(world_do(w, UCLONE_READ, 1920 * 8, 8, false), 0);
		assert_false(world_hydrate(w, 0, 1920, 16));
		w->is_error_ok = false;
		world_crash(w, SIM_CRASH_DROP);
	}
	w->is_check_bad = false;
	put_back(w, &good);
	w->meta.cache[UC_MAP_START_BYTES + 512 + 30] ^= 1;
	world_check_offline(w);
	assert_non_null(strstr(w->check_line, "bytes 7864320 to 7905280"));
	w->sim.problem[0] = 0;
	drop_image(&good);
	stop(w);
}

/* The damaged sector shares its page with one that is committed again and again. */
static void test_damaged_sector_stays_unknown_after_commits(void **state)
{
	struct world *w = start(5, 1930 * 4096);
	struct uclone_status s;
	uint64_t n;

	world_do(w, UCLONE_WRITE, 0, 8, true);
	world_do(w, UCLONE_WRITE, 1920 * 8, 8, true);
	world_close(w);
	w->meta.cache[UC_MAP_START_BYTES + 100] ^= 1;
	w->meta.durable[UC_MAP_START_BYTES + 100] ^= 1;
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(world_open(w), 0);
		uclone_status(w->u, &s);
		assert_int_equal(s.unknown_bytes, 1920 * 4096);
		assert_int_equal(uclone_map(w->u, 0, 4096, &n), UCLONE_UNKNOWN);
		w->is_error_ok = true;
		assert_int_equal(world_do(w, UCLONE_READ, 0, 8, false), -EIO);
		w->is_error_ok = false;
		assert_int_equal(world_do(w, UCLONE_WRITE, (1921 + i) * 8, 8, true), 0);
		assert_int_equal(world_do(w, UCLONE_READ, 1920 * 8, 80, false), 0);
		if (i == 0)
			world_crash(w, SIM_CRASH_DROP);
		else
			world_close(w);
	}
	stop(w);
}

/* Then it is not known whether the copy is an old one: refused, and not as one that was put back. */
static void test_damage_to_the_newest_sector_is_called_damage(void **state)
{
	struct world *w = start(6, 8 * 4096);

	world_do(w, UCLONE_WRITE, 0, 8, true);
	world_settle(w);
	world_crash(w, SIM_CRASH_KEEP);
	w->meta.cache[UC_MAP_START_BYTES + 100] ^= 1;
	w->is_error_ok = true;
	assert_int_equal(world_open(w), KEDGE_E_META_CORRUPT);
	stop(w);
}

static unsigned newest_slot(const struct world *w)
{
	struct uc_super a, b;

	assert_int_equal(uc_super_decode(w->meta.cache + UC_SUPER_A_BYTES, &a), 0);
	assert_int_equal(uc_super_decode(w->meta.cache + UC_SUPER_B_BYTES, &b), 0);
	return b.generation > a.generation;
}

/* Should the write of one go wrong, the one before it is still there. */
static void test_a_superblock_never_overwrites_the_present_one(void **state)
{
	struct world *w = start(7, 8 * 4096);
	unsigned slot = newest_slot(w);

	for (unsigned i = 0; i < 4; i++) {
		world_close(w);
		assert_int_not_equal(newest_slot(w), slot);
		slot ^= 1;
		assert_int_equal(world_open(w), 0);
		assert_int_not_equal(newest_slot(w), slot);
		slot ^= 1;
	}
	stop(w);
}

/* ---- a disk that cannot be read everywhere ---- */

static void cannot_read(struct world *w, uint64_t start_bytes, uint64_t nr_bytes)
{
	w->meta.bad_first = start_bytes / 512;
	w->meta.bad_end = (start_bytes + nr_bytes) / 512;
}

/* The older superblock is not needed. Without the newest nothing is believed: it may have said that the clone was given up. */
static void test_a_superblock_that_cannot_be_read_is_not_needed_or_missed(void **state)
{
	static const uint64_t slots[] = {UC_SUPER_A_BYTES, UC_SUPER_B_BYTES};
	unsigned nr_opened = 0;

	for (unsigned way = 0; way < 4; way++) {
		struct world *w = start(1, 8 * 4096);
		world_do(w, UCLONE_WRITE, 0, 8, true);
		if (way & 1) /* the newest is in the other slot */
			world_close(w);
		else
			world_crash(w, SIM_CRASH_KEEP);
		cannot_read(w, slots[way / 2], 512);
		w->is_error_ok = true;
		uint64_t nr_changes = w->sim.nr_changes;
		if (world_open(w) == 0) {
			nr_opened++;
			assert_int_equal(world_do(w, UCLONE_READ, 0, 64, false), 0);
			world_close(w);
		} else {
			assert_int_equal(w->open_res, KEDGE_E_META_CORRUPT);
			assert_int_equal(w->sim.nr_changes, nr_changes);
		}
		cannot_read(w, 0, UC_MAP_START_BYTES);
		nr_changes = w->sim.nr_changes;
		assert_int_equal(world_open(w), KEDGE_E_META_CORRUPT);
		assert_int_equal(w->sim.nr_changes, nr_changes);
		cannot_read(w, 0, 0);
		w->is_error_ok = false;
		assert_int_equal(world_open(w), 0);
		assert_int_equal(world_do(w, UCLONE_READ, 0, 64, false), 0);
		stop(w);
	}
	assert_int_equal(nr_opened, 2);
}

/* A page of the map that cannot be read is unknown: EIO there, all else goes on, and it is not overwritten: it may come back. */
static void test_a_page_that_cannot_be_read_is_unknown_until_it_can(void **state)
{
	for (unsigned way = 0; way < 2; way++) {
		struct world *w = start(1, (2 * (uint64_t)UC_PAGE_BLOCKS + 1) * 4096);
		uint64_t here = UC_PAGE_BLOCKS * 8; /* a sector of the second page */
		struct uclone_status s;
		world_do(w, UCLONE_WRITE, here, 8, true);
		world_do(w, UCLONE_WRITE, 0, 8, true); /* what is newest can be read */
		world_do(w, UCLONE_WRITE, here + 8, 8, false);
		if (way)
			world_process_death(w); /* what is answered is in the marks only */
		else
			world_close(w);
		cannot_read(w, UC_MAP_START_BYTES + UC_PAGE + 512, 512);
		assert_int_equal(world_open(w), 0);
		w->is_error_ok = true;
		uclone_status(w->u, &s);
		assert_int_equal(s.unknown_bytes, (uint64_t)UC_PAGE_BLOCKS * 4096);
		assert_int_equal(world_do(w, UCLONE_READ, here, 8, false), -EIO);
		assert_int_equal(world_do(w, UCLONE_WRITE, here, 8, false), -EIO);
		assert_int_equal(world_do(w, UCLONE_READ, 0, 8, false), 0);
		assert_int_equal(world_do(w, UCLONE_WRITE, 16, 8, true), 0);
		world_finish_begin(w);
		world_settle(w);
		assert_int_equal(w->finish_res, KEDGE_E_NOT_HYDRATED);
		w->is_error_ok = false;
		if (way)
			world_process_death(w);
		else
			world_close(w);
		cannot_read(w, 0, 0);
		assert_int_equal(world_open(w), 0);
		uclone_status(w->u, &s);
		assert_int_equal(s.unknown_bytes, 0);
		assert_int_equal(world_do(w, UCLONE_READ, here, 16, false), 0);
		assert_int_equal(world_do(w, UCLONE_READ, 0, 32, false), 0);
		stop(w);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_create_cut_short_is_refused_or_whole),
		cmocka_unit_test(test_metadata_zeroed_foreign_or_old_is_refused),
		cmocka_unit_test(test_every_byte_of_the_superblocks_counts),
		cmocka_unit_test(test_every_byte_of_a_map_sector_counts),
		cmocka_unit_test(test_damaged_sector_stays_unknown_after_commits),
		cmocka_unit_test(test_damage_to_the_newest_sector_is_called_damage),
		cmocka_unit_test(test_a_superblock_never_overwrites_the_present_one),
		cmocka_unit_test(test_a_superblock_that_cannot_be_read_is_not_needed_or_missed),
		cmocka_unit_test(test_a_page_that_cannot_be_read_is_unknown_until_it_can),
	};

	return RUN_RULES(tests, argc, argv);
}
