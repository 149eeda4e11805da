/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pure parts of the kernel engine: what dm-clone is told and says, its metadata on disk, the governor, the feed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dm_governor.h"
#include "dm_table.h"
#include "feed.h"
#include "kedge/bytes.h"
#include "kedge/crc32c.h"
#include "kiscsi_record.h"

/* ---- table and status ---- */

static void test_params(void **state)
{
	struct dm_clone_table t = {.meta_dev = "7:2", .dest_dev = "7:1", .source_dev = "254:0", .region_bytes = 65536, .threshold = 1, .batch = 1};
	char out[DM_PARAMS_MAX];

	(void)state;
	assert_int_equal(dm_clone_params(&t, out), 0);
	assert_string_equal(out, "7:2 7:1 254:0 128 2 no_hydration no_discard_passdown 4 hydration_threshold 1 hydration_batch_size 1");
	assert_true(dm_clone_params_are_of(out, &t));
	assert_true(dm_clone_params_are_of("7:2 7:1 254:0 128 0", &t));
	assert_false(dm_clone_params_are_of("7:2 7:1 254:0 256 0", &t));
	assert_false(dm_clone_params_are_of("7:2 7:3 254:0 128 0", &t));
	assert_false(dm_clone_params_are_of("", &t));
}

static void test_status(void **state)
{
	struct dm_clone_status s;

	(void)state;
	/* lines of a 6.1 kernel */
	assert_int_equal(dm_clone_status_parse("8 9/16384 8 0/65536 0 2 no_hydration no_discard_passdown 4 hydration_threshold 1 "
					       "hydration_batch_size 1 rw",
					       &s),
			 0);
	assert_int_equal(s.mode, DM_MODE_RW);
	assert_int_equal(s.region_bytes, 4096);
	assert_int_equal(s.nr_regions, 65536);
	assert_false(s.is_hydration_on);
	assert_int_equal(dm_clone_status_parse("8 6/272 128 321/1024 128 1 no_discard_passdown 4 hydration_threshold 128 "
					       "hydration_batch_size 16 ro",
					       &s),
			 0);
	assert_int_equal(s.mode, DM_MODE_RO);
	assert_int_equal(s.nr_hydrated, 321);
	assert_int_equal(s.nr_hydrating, 128);
	assert_int_equal(s.threshold, 128);
	assert_int_equal(s.batch, 16);
	assert_true(s.is_hydration_on);
	assert_int_equal(dm_clone_status_parse("Fail", &s), 0);
	assert_int_equal(s.mode, DM_MODE_FAIL);
	static const char *const bad[] = {"", "8", "8 9", "8 9/", "8 6/272 128 321/1024 0", "8 6/272 128 1025/1024 0 0 0 rw",
					  "8 6/272 3 1/1024 0 0 0 rw", "8 6/272 128 1/1024 0 99 a rw", "8 6/272 128 1/1024 0 0 1 a rw",
					  "8 6/272 128 1/1024 0 0 0 xx", "9 6/272 128 1/1024 0 0 0 rw", "8 6/272 128 -1/1024 0 0 0 rw"};
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(bad); i++)
		if (dm_clone_status_parse(bad[i], &s) == 0)
			fail_msg("taken: %s", bad[i]);
}

static void test_geometry(void **state)
{
	struct kedge_err err = {0};

	(void)state;
	assert_int_equal(dm_clone_nr_regions((64ull << 20) + 512, 65536), 1025);
	/* measured: 64 GiB in 4 KiB regions does not fit in 2048 KiB */
	assert_true(dm_clone_meta_bytes(64ull << 30, 4096) > 2048 * 1024 * 2);
	assert_int_equal(dm_clone_check_region(8ull << 40, 512, 4096, &err), 0);
	assert_true(dm_clone_check_region((8ull << 40) + 4096, 512, 4096, &err) < 0);
	assert_true(dm_clone_check_region(1 << 20, 512, 12288, NULL) < 0);
	assert_true(dm_clone_check_region(1 << 20, 512, 2048, NULL) < 0);
	assert_true(dm_clone_check_region(1 << 20, 512, 1u << 31, NULL) < 0);
}

/* ---- the kernel's metadata ---- */

#define NR_BLOCKS 8u
static uint8_t disk[NR_BLOCKS][4096];

static unsigned nr_reads;

static int read_cb(void *arg, uint64_t nr, uint8_t buf[4096])
{
	(void)arg;
	nr_reads++;
	if (nr >= NR_BLOCKS)
		return -ENODATA;
	memcpy(buf, disk[nr], 4096);
	return 0;
}

static void seal(unsigned nr, uint32_t xor_value)
{
	kedge_put_le32(disk[nr], ~kedge_crc32c(0, disk[nr] + 4, 4092) ^ xor_value);
}

#define SIZE_BYTES ((64ull << 20) + 512)
#define NR_REGIONS 1025u

/* As 6.1 writes it: superblock, one leaf, one array block of 17 words. */
static void make_metadata(void)
{
	memset(disk, 0, sizeof disk);
	kedge_put_le64(disk[0] + 32, 0x8af27f64);
	kedge_put_le32(disk[0] + 40, 1);
	kedge_put_le64(disk[0] + 172, 128);
	kedge_put_le64(disk[0] + 180, SIZE_BYTES / 512);
	kedge_put_le64(disk[0] + 188, 3);
	seal(0, 257649492);
	kedge_put_le32(disk[3] + 4, 2);
	kedge_put_le64(disk[3] + 8, 3);
	kedge_put_le32(disk[3] + 16, 1);
	kedge_put_le32(disk[3] + 20, 252);
	kedge_put_le32(disk[3] + 24, 8);
	kedge_put_le64(disk[3] + 32, 0);
	kedge_put_le64(disk[3] + 32 + 252 * 8, 5);
	seal(3, 121107);
	kedge_put_le32(disk[5] + 4, 509);
	kedge_put_le32(disk[5] + 8, 17);
	kedge_put_le32(disk[5] + 12, 8);
	kedge_put_le64(disk[5] + 16, 5);
	kedge_put_le64(disk[5] + 24, 0x8000000000000001);
	kedge_put_le64(disk[5] + 24 + 16 * 8, ~0ull); /* bits past the end do not count */
	seal(5, 595846735);
}

static void test_bitmap(void **state)
{
	uint64_t nr;

	(void)state;
	make_metadata();
	assert_int_equal(dm_clone_super_check(disk[0], SIZE_BYTES, 65536), 0);
	assert_int_equal(dm_clone_bitmap_count(read_cb, NULL, SIZE_BYTES, 65536, &nr), 0);
	assert_int_equal(nr, 3);
	assert_int_equal(dm_clone_super_check(disk[0], SIZE_BYTES, 4096), KEDGE_E_META_FOREIGN);
	assert_int_equal(dm_clone_super_check(disk[0], SIZE_BYTES + 512, 65536), KEDGE_E_META_FOREIGN);
}

/* Any damage anywhere that is read: found, never followed. */
static void test_bitmap_damage(void **state)
{
	static const unsigned blocks[] = {0, 3, 5};
	uint64_t nr;

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		for (unsigned byte = 0; byte < 4096; byte += 7) {
			make_metadata();
			disk[blocks[i]][byte] ^= 0x10;
			assert_true(dm_clone_bitmap_count(read_cb, NULL, SIZE_BYTES, 65536, &nr) < 0);
		}
	make_metadata();
	memset(disk[0], 0, 4096);
	assert_int_equal(dm_clone_bitmap_count(read_cb, NULL, SIZE_BYTES, 65536, &nr), KEDGE_E_META_ZEROED);
	/* right sums, wrong structure */
	make_metadata();
	kedge_put_le64(disk[3] + 32 + 252 * 8, 3); /* a leaf that points at itself */
	seal(3, 121107);
	assert_int_equal(dm_clone_bitmap_count(read_cb, NULL, SIZE_BYTES, 65536, &nr), KEDGE_E_META_CORRUPT);
	make_metadata();
	kedge_put_le32(disk[3] + 4, 1);
	kedge_put_le64(disk[3] + 32 + 252 * 8, 3); /* a loop of inner nodes */
	seal(3, 121107);
	assert_int_equal(dm_clone_bitmap_count(read_cb, NULL, SIZE_BYTES, 65536, &nr), KEDGE_E_META_CORRUPT);
	make_metadata();
	kedge_put_le32(disk[5] + 8, 3); /* too few words */
	seal(5, 595846735);
	assert_int_equal(dm_clone_bitmap_count(read_cb, NULL, SIZE_BYTES, 65536, &nr), KEDGE_E_META_CORRUPT);
	make_metadata();
	kedge_put_le32(disk[3] + 16, 300); /* more entries than there is room for */
	kedge_put_le32(disk[3] + 20, 300);
	seal(3, 121107);
	assert_int_equal(dm_clone_bitmap_count(read_cb, NULL, SIZE_BYTES, 65536, &nr), KEDGE_E_META_CORRUPT);
}

/* ---- a part of it ---- */

#define ARRAY_REGIONS (509ull * 64)
#define BIG_REGIONS (2 * ARRAY_REGIONS + 100)

static void put_node(unsigned nr, uint32_t flags, uint32_t n, uint64_t key_a, uint64_t value_a, uint64_t key_b, uint64_t value_b)
{
	kedge_put_le32(disk[nr] + 4, flags);
	kedge_put_le64(disk[nr] + 8, nr);
	kedge_put_le32(disk[nr] + 16, n);
	kedge_put_le32(disk[nr] + 20, 252);
	kedge_put_le32(disk[nr] + 24, 8);
	kedge_put_le64(disk[nr] + 32, key_a);
	kedge_put_le64(disk[nr] + 32 + 252 * 8, value_a);
	kedge_put_le64(disk[nr] + 40, key_b);
	kedge_put_le64(disk[nr] + 40 + 252 * 8, value_b);
	seal(nr, 121107);
}

/* An inner node over two leaves over three array blocks; in each block the first and the last bit that counts. */
static void make_big(void)
{
	memset(disk, 0, sizeof disk);
	kedge_put_le64(disk[0] + 32, 0x8af27f64);
	kedge_put_le32(disk[0] + 40, 1);
	kedge_put_le64(disk[0] + 172, 128);
	kedge_put_le64(disk[0] + 180, BIG_REGIONS * 128);
	kedge_put_le64(disk[0] + 188, 1);
	seal(0, 257649492);
	put_node(1, 1, 2, 0, 2, 2, 3);
	put_node(2, 2, 2, 0, 5, 1, 6);
	put_node(3, 2, 1, 2, 7, 0, 0);
	for (unsigned nr = 5; nr < 8; nr++) {
		unsigned words = nr == 7 ? 2 : 509;
		kedge_put_le32(disk[nr] + 4, 509);
		kedge_put_le32(disk[nr] + 8, words);
		kedge_put_le32(disk[nr] + 12, 8);
		kedge_put_le64(disk[nr] + 16, nr);
		disk[nr][24] = 1;
		disk[nr][24 + (words - 1) * 8 + (nr == 7 ? 4 : 7)] = nr == 7 ? 8 : 128; /* region 99 of the last, bit 63 */
		seal(nr, 595846735);
	}
}

struct part {
	uint64_t nr_bits, first, end; /* of the words that came */
};

static void part_cb(void *arg, uint64_t first_region, uint64_t bits)
{
	struct part *p = arg;

	if (p->end == 0)
		p->first = first_region;
	else
		assert_int_equal(first_region, p->end);
	p->end = first_region + 64;
	p->nr_bits += (uint64_t)__builtin_popcountll(bits);
}

static void test_bitmap_range(void **state)
{
	static const struct { uint64_t from, end, nr_bits, nr_reads; } rows[] = {
		{0, BIG_REGIONS, 6, 7},
		{0, UINT64_MAX, 6, 7},
		{0, 1, 1, 4},
		{64, 128, 0, 4},
		{ARRAY_REGIONS - 1, ARRAY_REGIONS, 1, 4},
		{ARRAY_REGIONS - 1, ARRAY_REGIONS + 1, 2, 5},
		{ARRAY_REGIONS, ARRAY_REGIONS + 64, 1, 4},
		{2 * ARRAY_REGIONS - 64, 2 * ARRAY_REGIONS + 1, 2, 6},
		{BIG_REGIONS - 1, BIG_REGIONS, 1, 4},
	};
	struct part p;

	(void)state;
	make_big();
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(rows); i++) {
		p = (struct part){0};
		nr_reads = 0;
		assert_int_equal(dm_clone_bitmap_read_range(read_cb, NULL, BIG_REGIONS * 65536, 65536, rows[i].from, rows[i].end, part_cb, &p), 0);
		assert_int_equal(p.first, rows[i].from / 64 * 64);
		assert_true(p.end >= kedge_min_u64(rows[i].end, BIG_REGIONS));
		assert_int_equal(p.nr_bits, rows[i].nr_bits);
		assert_int_equal(nr_reads, rows[i].nr_reads);
	}
	put_node(2, 2, 2, 1, 6, 0, 5); /* keys out of order */
	assert_int_equal(dm_clone_bitmap_read_range(read_cb, NULL, BIG_REGIONS * 65536, 65536, 0, 64, part_cb, &p), KEDGE_E_META_CORRUPT);
	put_node(2, 2, 1, 0, 5, 0, 0); /* the block that is wanted is not there */
	assert_int_equal(dm_clone_bitmap_read_range(read_cb, NULL, BIG_REGIONS * 65536, 65536, ARRAY_REGIONS, ARRAY_REGIONS + 64, part_cb, &p),
			 KEDGE_E_META_CORRUPT);
}

/* ---- the governor, against a model of kernel and workload ---- */

struct model {
	struct governor g;
	struct gov_view v;
	double iops;          /* the workload's own speed */
	double cost;          /* of it lost while copies are in flight, 0 to 1 */
	double copy_bps;      /* how fast copies are */
	uint32_t pause_ms;    /* what a dose costs it */
	uint64_t paused_ms;   /* of it still to come */
	double ios, landed;   /* fractions */
	uint64_t allowed;     /* regions that may be started: by a dose, or without end */
	bool is_free, is_dead;
	bool is_slow;         /* the workload's I/Os are few, and one is always in flight */
	uint64_t nr_doses;
};

static void model_init(struct model *m, double iops, double cost, double copy_bps)
{
	*m = (struct model){.iops = iops, .cost = cost, .copy_bps = copy_bps};
	m->v = (struct gov_view){.now_ms = 1000, .nr_regions = 1u << 20, .is_wanted = true};
	gov_init(&m->g, &(struct gov_opts){.region_bytes = 65536});
}

static void model_run(struct model *m, uint64_t ms)
{
	uint64_t end = m->v.now_ms + ms, next = m->v.now_ms;

	while (m->v.now_ms < end) {
		if (m->v.now_ms >= next) {
			struct gov_order o;
			gov_step(&m->g, &m->v, &o);
			if (o.act == GOV_FREE)
				m->is_free = true;
			if (o.act == GOV_HOLD || o.act == GOV_DOSE)
				m->is_free = false;
			if (o.act == GOV_HOLD)
				m->allowed = 0;
			if (o.act == GOV_DOSE) {
				m->allowed = o.threshold;
				m->nr_doses++;
				m->paused_ms = m->v.pause_ms = m->pause_ms;
			}
			next = m->v.now_ms + (o.sleep_ms ? o.sleep_ms : 1);
		}
		/* the kernel by itself: only while the foreground has nothing in flight */
		if (m->is_free && m->iops < 1000 && m->v.nr_hydrating == 0)
			m->allowed = 128;
		if (m->allowed && !m->v.nr_hydrating) {
			m->v.nr_hydrating = m->allowed;
			m->allowed = 0;
		}
		bool is_copying = m->v.nr_hydrating > 0;
		if (is_copying && !m->is_dead) {
			m->landed += m->copy_bps / 65536 / 1000;
			while (m->landed >= 1 && m->v.nr_hydrating) {
				m->landed -= 1;
				m->v.nr_hydrating--;
				m->v.nr_hydrated++;
			}
		}
		if (m->paused_ms)
			m->paused_ms--;
		else
			m->ios += m->iops * (is_copying ? 1 - m->cost : 1) / 1000;
		m->v.nr_ios = (uint64_t)m->ios;
		m->v.busy_ms += m->iops > 0 && m->is_slow;
		m->v.now_ms++;
	}
}

static double model_bps(struct model *m, uint64_t ms)
{
	uint64_t before = m->v.nr_hydrated;

	model_run(m, ms);
	return (double)(m->v.nr_hydrated - before) * 65536 * 1000 / (double)ms;
}

static void test_governor_idle(void **state)
{
	struct model m;

	(void)state;
	model_init(&m, 0, 0, 500e6);
	model_run(&m, 1000);
	assert_int_equal(m.g.phase, GOV_PHASE_FREE);
	assert_true(model_bps(&m, 5000) > 450e6);
	assert_int_equal(m.nr_doses, 0);
}

/* A busy workload that copies do not hurt: up to what copies can do. One that they hurt: it keeps most of its speed, hydration its floor. */
static void test_governor_busy(void **state)
{
	struct model m;

	(void)state;
	model_init(&m, 5000, 0.02, 400e6);
	model_run(&m, 60000);
	assert_true(model_bps(&m, 10000) > 200e6);
	model_init(&m, 5000, 0.6, 200e6);
	model_run(&m, 60000);
	double ios = m.ios, bps = model_bps(&m, 20000);
	assert_true(bps > 7e6);
	assert_true((m.ios - ios) / 20 > 0.88 * 5000);
	model_init(&m, 5000, 1, 10e6); /* whatever it costs, the floor holds as far as copies can go */
	model_run(&m, 20000);
	assert_true(model_bps(&m, 20000) > 6e6);
}

/* Where each pause takes a disk's latency, doses are rare and large. */
static void test_governor_slow_disk(void **state)
{
	struct model m;

	(void)state;
	model_init(&m, 1500, 0.02, 200e6);
	m.pause_ms = 30;
	model_run(&m, 60000);
	double ios = m.ios, bps = model_bps(&m, 20000);
	assert_true((m.ios - ios) / 20 > 0.92 * 1500);
	assert_true(bps > 40e6);
	model_init(&m, 40, 0.02, 200e6); /* few I/Os a second are a workload too, when that is what the disk gives */
	m.is_slow = true;
	m.pause_ms = 30;
	model_run(&m, 5000);
	assert_int_not_equal(m.g.phase, GOV_PHASE_FREE);
	ios = m.ios;
	assert_true(model_bps(&m, 60000) > 20e6);
	assert_true((m.ios - ios) / 60 > 0.9 * 40);
	model_init(&m, 1500, 0.02, 200e6);
	m.pause_ms = 30;
	model_run(&m, 20000);
	m.pause_ms = 2; /* it has become a fast one */
	model_run(&m, 60000);
	assert_true(model_bps(&m, 20000) > 100e6);
}

static void test_governor_limit(void **state)
{
	struct model m;

	(void)state;
	for (int is_busy = 0; is_busy < 2; is_busy++) {
		model_init(&m, is_busy ? 5000 : 0, 0.02, 400e6);
		gov_set(&m.g, 10u << 20, 0, 0);
		model_run(&m, 5000);
		double bps = model_bps(&m, 20000);
		assert_true(bps < 11.5e6);
		assert_true(bps > 8e6);
	}
	/* below the floor too: it is the operator's word */
	model_init(&m, 5000, 0.02, 400e6);
	gov_set(&m.g, 1u << 20, 0, 0);
	model_run(&m, 5000);
	assert_true(model_bps(&m, 20000) < 1.2e6);
}

static void test_governor_dead_source(void **state)
{
	struct model m;

	(void)state;
	model_init(&m, 5000, 0.02, 400e6);
	model_run(&m, 3000);
	m.is_dead = true;
	model_run(&m, 20000);
	assert_int_equal(m.g.phase, GOV_PHASE_BACKOFF);
	/* a batch fails as one: what is tried next is single regions */
	struct governor next = m.g;
	struct gov_view later = m.v;
	struct gov_order o;
	later.now_ms += 60000;
	gov_step(&next, &later, &o);
	assert_int_equal(o.act, GOV_FREE);
	assert_int_equal(o.batch, 1);
	later.nr_hydrated += (64 << 20) / m.g.o.region_bytes;
	later.now_ms += 10;
	gov_step(&next, &later, &o);
	assert_true(o.batch > 1);
	uint64_t doses = m.nr_doses;
	model_run(&m, 60000);
	assert_true(m.nr_doses - doses <= 10);
	m.is_dead = false;
	m.v.nr_hydrating = 0;
	model_run(&m, 40000);
	assert_int_not_equal(m.g.phase, GOV_PHASE_BACKOFF);
	assert_true(model_bps(&m, 10000) > 20e6);
}

/* The settings that both engines take, as this one understands them. */
static void test_governor_settings(void **state)
{
	struct governor g;

	gov_init(&g, &(struct gov_opts){.region_bytes = 65536});
	uint64_t floor = g.o.floor_bps;
	unsigned keep = g.o.keep_percent;
	assert_true(floor && keep);
	assert_false(gov_set(&g, 0, 0, 0));
	assert_true(gov_set(&g, 5 << 20, 1 << 20, 50));
	assert_false(gov_set(&g, 5 << 20, 1 << 20, 50));
	assert_int_equal(g.o.limit_bps, 5 << 20);
	assert_int_equal(g.o.floor_bps, 1 << 20);
	assert_int_equal(g.o.keep_percent, 50);
	assert_true(gov_set(&g, 0, 1, 50)); /* none: region by region all the same */
	assert_int_equal(g.o.floor_bps, 65536);
	assert_true(gov_set(&g, 0, 0, 0));
	assert_int_equal(g.o.floor_bps, floor);
	assert_int_equal(g.o.keep_percent, keep);
	assert_int_equal(gov_keep_percent(150), 66);
	assert_int_equal(gov_keep_percent(101), 99);
	assert_int_equal(gov_keep_percent(10000), 1);
	assert_int_equal(gov_keep_percent(0), 1);
}

static void test_governor_off(void **state)
{
	struct model m;

	(void)state;
	model_init(&m, 5000, 0.02, 400e6);
	model_run(&m, 2000);
	m.v.is_wanted = false;
	model_run(&m, 1000);
	assert_true(model_bps(&m, 5000) == 0);
	m.v.is_wanted = true;
	assert_true(model_bps(&m, 5000) > 0);
	m.v.nr_hydrated = m.v.nr_regions;
	m.v.nr_hydrating = 0;
	model_run(&m, 200);
	assert_int_equal(m.g.phase, GOV_PHASE_OFF);
}

/* ---- the feed ---- */

struct fake {
	struct kedge_source s;
	struct kedge_source_io *list;
	unsigned nr_reads;
};

static void fake_read(struct kedge_source *s, struct kedge_source_io *io)
{
	struct fake *f = kedge_container_of(s, struct fake, s);

	f->nr_reads++;
	io->next = f->list;
	f->list = io;
}

static void fake_answer(struct fake *f, int res)
{
	struct kedge_source_io *list = f->list;

	f->list = NULL;
	while (list) {
		struct kedge_source_io *next = list->next;
		for (uint64_t i = 0; i < list->nr_bytes && res == 0; i++)
			((uint8_t *)list->buf)[i] = (uint8_t)((list->start_bytes + i) / 512 * 31);
		list->fn(list, res);
		list = next;
	}
}

struct asked {
	struct uclone_io io;
	bool is_done;
	int res;
};

static void asked_cb(struct uclone_io *io, int res)
{
	struct asked *a = kedge_container_of(io, struct asked, io);

	assert_false(a->is_done);
	a->is_done = true;
	a->res = res;
}

#define FEED_SIZE ((10u << 20) + 512u)

static void ask(struct feed *f, struct asked *a, uint64_t start, uint64_t n, uint8_t *buf)
{
	*a = (struct asked){.io = {.op = UCLONE_READ, .start_bytes = start, .nr_bytes = n, .buf = buf, .fn = asked_cb}};
	feed_submit(f, &a->io);
}

static void check_bytes(const uint8_t *buf, uint64_t start, uint64_t n)
{
	for (uint64_t i = 0; i < n; i += 512)
		assert_int_equal(buf[i], (uint8_t)((start + i) / 512 * 31));
}

static void test_feed(void **state)
{
	static const struct kedge_source_ops ops = {.read = fake_read};
	struct fake fake = {.s = {.ops = &ops}};
	struct kedge_defer_queue q;
	struct asked a, b;
	uint8_t *buf = malloc(1 << 20), *buf2 = malloc(1 << 20);

	(void)state;
	kedge_defer_queue_init(&q);
	struct feed *f = feed_create(FEED_SIZE, &q);
	/* waits for a source */
	ask(f, &a, 0, 65536, buf);
	kedge_defer_run(&q);
	assert_false(a.is_done);
	feed_set_source(f, &fake.s);
	assert_int_equal(fake.nr_reads, 1);
	kedge_defer_run(&q);
	assert_false(a.is_done);
	fake_answer(&fake, 0);
	assert_false(a.is_done); /* never inside */
	kedge_defer_run(&q);
	assert_true(a.is_done && a.res == 0);
	check_bytes(buf, 0, 65536);
	/* in order: in pieces, ahead; what is asked for twice is fetched once */
	ask(f, &a, 65536, 65536, buf);
	ask(f, &b, 131072, 65536, buf2);
	assert_int_equal(fake.nr_reads, 2 + FEED_AHEAD);
	fake_answer(&fake, 0);
	kedge_defer_run(&q);
	assert_true(a.is_done && b.is_done);
	check_bytes(buf, 65536, 65536);
	check_bytes(buf2, 131072, 65536);
	/* far away: straight through */
	fake.nr_reads = 0;
	ask(f, &a, FEED_SIZE - 4096 - 512, 4096, buf);
	assert_int_equal(fake.nr_reads, 1);
	fake_answer(&fake, 0);
	kedge_defer_run(&q);
	check_bytes(buf, FEED_SIZE - 4096 - 512, 4096);
	/* the whole, in steps that cross pieces */
	for (uint64_t at = 0; at < FEED_SIZE; at += 200 * 1024) {
		uint64_t n = kedge_min_u64(200 * 1024, FEED_SIZE - at);
		ask(f, &a, at, n, buf);
		fake_answer(&fake, 0);
		kedge_defer_run(&q);
		assert_true(a.is_done && a.res == 0);
		check_bytes(buf, at, n);
	}
	/* a bad sector in a piece fails only who asked for it: the others ask alone */
	struct feed *g = feed_create(FEED_SIZE, &q);
	feed_set_source(g, &fake.s);
	ask(g, &a, 0, 4096, buf);
	fake_answer(&fake, 0);
	kedge_defer_run(&q);
	ask(g, &a, 4096, 4096, buf);
	fake_answer(&fake, KEDGE_E_SOURCE_MEDIUM);
	kedge_defer_run(&q);
	assert_false(a.is_done);
	fake_answer(&fake, 0);
	kedge_defer_run(&q);
	assert_true(a.is_done && a.res == 0);
	/* nothing is ever written through it */
	a = (struct asked){.io = {.op = UCLONE_WRITE, .nr_bytes = 4096, .buf = buf, .fn = asked_cb}};
	feed_submit(g, &a.io);
	kedge_defer_run(&q);
	assert_int_equal(a.res, -EROFS);
	feed_destroy(g);
	feed_destroy(f);
	free(buf);
	free(buf2);
}

/* Streams and strays over a source that answers late and in any order: whoever asks gets what lies there. */
static void test_feed_random(void **state)
{
	static const struct kedge_source_ops ops = {.read = fake_read};
	struct fake fake = {.s = {.ops = &ops}};
	struct kedge_defer_queue q;
	struct asked a[16];
	uint8_t *buf[16];
	uint64_t at[16], stream[4] = {0, 20u << 20, 40u << 20, 70u << 20};

	(void)state;
	srand(7);
	kedge_defer_queue_init(&q);
	struct feed *f = feed_create(100u << 20, &q);
	feed_set_source(f, &fake.s);
	for (unsigned i = 0; i < 16; i++)
		buf[i] = malloc(65536);
	for (unsigned round = 0; round < 600; round++) {
		unsigned n = 1 + (unsigned)rand() % 16;
		for (unsigned i = 0; i < n; i++) {
			unsigned w = (unsigned)rand() % 6;
			at[i] = w < 4 ? stream[w] : (uint64_t)(rand() % 1600) * 65536;
			if (w < 4)
				stream[w] = (stream[w] + 65536) % (100u << 20);
			ask(f, &a[i], at[i], 65536, buf[i]);
			if (rand() % 3 == 0)
				fake_answer(&fake, 0);
		}
		fake_answer(&fake, 0);
		kedge_defer_run(&q);
		for (unsigned i = 0; i < n; i++) {
			assert_true(a[i].is_done && a[i].res == 0);
			check_bytes(buf[i], at[i], 65536);
		}
	}
	for (unsigned i = 0; i < 16; i++)
		free(buf[i]);
	feed_destroy(f);
}

/* ---- the node record of open-iscsi ---- */

static struct kiscsi_target target_of(const char *url)
{
	struct kiscsi_target t = {.initiator = "iqn.2026-01.k:clone"};

	assert_int_equal(kcopy_url_parse(url, &t.url, NULL), 0);
	return t;
}

static void test_node_record(void **state)
{
	struct kiscsi_target t = target_of("iscsi://10.0.0.1/iqn.2026-01.k:x/1");
	struct kedge_chap c = {"me", "aaaaaaaaaaaa = #", "you", "bbbbbbbbbbbbb"}, bad;
	char out[KISCSI_RECORD_MAX], name[KCOPY_PORTAL_MAX];
	struct kedge_err err = {0};

	(void)state;
	kiscsi_record_name(&t, name);
	assert_string_equal(name, "10.0.0.1,3260");
	assert_int_equal(kiscsi_record_format(&t, &c, out, NULL), 0);
	assert_non_null(strstr(out, "\nnode.name = iqn.2026-01.k:x\n"));
	assert_non_null(strstr(out, "\niface.initiatorname = iqn.2026-01.k:clone\n"));
	assert_non_null(strstr(out, "\nnode.session.auth.password = aaaaaaaaaaaa = #\n"));
	assert_non_null(strstr(out, "\nnode.session.auth.password_in = bbbbbbbbbbbbb\n"));
	assert_non_null(strstr(out, "\nnode.conn[0].iscsi.HeaderDigest = CRC32C\n"));
	assert_non_null(strstr(out, "\nnode.conn[0].iscsi.DataDigest = CRC32C\n"));
	assert_non_null(strstr(out, "\nnode.session.timeo.replacement_timeout = 86400\n"));
	t = target_of("iscsi://[fd00::1]:33210/iqn.2026-01.k:x/1");
	kiscsi_record_name(&t, name);
	assert_string_equal(name, "fd00::1,33210");
	assert_int_equal(kiscsi_record_format(&t, &c, out, NULL), 0);
	assert_non_null(strstr(out, "\nnode.conn[0].address = fd00::1\nnode.conn[0].port = 33210\n"));
	/* a secret never brings lines of its own, nor loses a blank at its end */
	bad = c;
	strcpy(bad.secret, "aaaaaaaaaaaa\nnode.name = iqn.2026-01.k:y");
	assert_int_equal(kiscsi_record_format(&t, &bad, out, NULL), -EINVAL);
	strcpy(bad.secret, "aaaaaaaaaaaa ");
	assert_int_equal(kiscsi_record_format(&t, &bad, out, NULL), -EINVAL);
	bad = c;
	strcpy(bad.mutual_user, "y\nu");
	assert_int_equal(kiscsi_record_format(&t, &bad, out, NULL), -EINVAL);
	bad = c;
	bad.mutual_secret[0] = 0;
	assert_int_equal(kiscsi_record_format(&t, &bad, out, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "mutual-secret"));
	/* the longest that there is fits */
	memset(t.url.iqn, 'i', KEDGE_IQN_MAX);
	memset(t.initiator, 'i', KEDGE_IQN_MAX);
	memset(c.user, 'u', KEDGE_CHAP_NAME_MAX - 1);
	memset(c.mutual_user, 'u', KEDGE_CHAP_NAME_MAX - 1);
	memset(c.secret, 's', KEDGE_CHAP_SECRET_MAX - 1);
	memset(c.mutual_secret, 't', KEDGE_CHAP_SECRET_MAX - 1);
	assert_int_equal(kiscsi_record_format(&t, &c, out, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_params),	       cmocka_unit_test(test_status),	     cmocka_unit_test(test_geometry),
		cmocka_unit_test(test_bitmap),	       cmocka_unit_test(test_bitmap_damage), cmocka_unit_test(test_bitmap_range), cmocka_unit_test(test_governor_idle),
		cmocka_unit_test(test_governor_busy),  cmocka_unit_test(test_governor_slow_disk), cmocka_unit_test(test_governor_limit), cmocka_unit_test(test_governor_dead_source),
		cmocka_unit_test(test_governor_settings), cmocka_unit_test(test_governor_off),   cmocka_unit_test(test_feed),
		cmocka_unit_test(test_feed_random),    cmocka_unit_test(test_node_record),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
