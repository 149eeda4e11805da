/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The map of a copy never runs ahead of the destination. A simulated disk keeps what is written volatile until it is
 * flushed; after every round of the loop the map file is read as a restart would read it, and each block it names must be
 * durable with the right bytes. Then damage to the map, foreign maps, and their refusals.
 *
 * Owns. The simulated disk and a map file in a scratch directory.
 *
 * Locks. None.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kedge/bytes.h"
#include "kedge/file.h"
#include "sink.h"

#define B KEDGE_BLOCK_BYTES
#define NR_BLOCKS 900
#define NR_IOS 64

struct sim_disk {
	struct kedge_disk disk;
	uint8_t now[NR_BLOCKS], durable[NR_BLOCKS], flushing[NR_BLOCKS];
	struct kedge_disk_io *ios[NR_IOS];
	unsigned nr_ios;
	int flush_res;
};

static struct sim_disk disk;
static char dir[] = "/dev/shm/kcopy-sink.XXXXXX" /* a thousand fsyncs a second */, map_path[64];

static uint8_t content(unsigned block)
{
	return block % 7 == 0 ? 0 : (uint8_t)(1 + block % 250);
}

static void sim_submit(struct kedge_disk *d, struct kedge_disk_io *io)
{
	assert_true(disk.nr_ios < NR_IOS);
	/* a flush covers what was complete when it was submitted */
	if (io->op == KEDGE_DISK_FLUSH)
		memcpy(disk.flushing, disk.now, sizeof disk.now);
	disk.ios[disk.nr_ios++] = io;
}

static const struct kedge_disk_ops sim_ops = { .submit = sim_submit };

static void complete(unsigned i)
{
	struct kedge_disk_io *io = disk.ios[i];
	int res = 0;

	disk.ios[i] = disk.ios[--disk.nr_ios];
	for (uint64_t at = 0; at < io->nr_bytes; at += B) {
		unsigned block = (unsigned)((io->start_bytes + at) / B);
		if (io->op == KEDGE_DISK_WRITE)
			disk.now[block] = ((uint8_t *)io->buf)[at];
		if (io->op == KEDGE_DISK_ZERO)
			disk.now[block] = 0;
	}
	if (io->op == KEDGE_DISK_FLUSH) {
		res = disk.flush_res;
		if (res == 0)
			memcpy(disk.durable, disk.flushing, sizeof disk.durable);
	}
	io->fn(io, res);
}

struct rig {
	struct kedge_loop *loop;
	struct kcopy_sink *sink;
	struct kedge_claims *claims;
	unsigned nr_filling;
	bool is_committed;
	int commit_res;
};

static int open_sink(struct rig *r, const char *source_id, const char *destination_id, struct kedge_err *err)
{
	struct kcopy_sink_opts o = {
		.disk = &disk.disk,
		.size_bytes = (uint64_t)NR_BLOCKS * B - 512,
		.punch_fd = -1,
		.map_path = map_path,
		.source_id = source_id,
		.destination_id = destination_id,
	};
	int rc;

	if (!r->loop)
		assert_int_equal(kedge_loop_create(64, &r->loop, NULL), 0);
	rc = kcopy_sink_create(r->loop, &o, &r->sink, err);
	if (rc == 0)
		r->claims = kcopy_sink_claims(r->sink);
	return rc;
}

static void close_sink(struct rig *r)
{
	kcopy_sink_destroy(r->sink);
	r->sink = NULL;
}

static void clear_disk(void)
{
	memset(&disk, 0, sizeof disk);
	memset(disk.now, 0xee, sizeof disk.now);
	memset(disk.durable, 0xee, sizeof disk.durable);
	disk.disk.ops = &sim_ops;
	disk.disk.size_bytes = (uint64_t)NR_BLOCKS * B;
	disk.disk.lbs_bytes = 512;
}

struct filling {
	struct rig *r;
	uint8_t *buf;
	struct kedge_seg segs[64];
};

static void filled_cb(void *arg, int res)
{
	struct filling *f = arg;

	f->r->nr_filling--;
	free(f->buf);
	free(f);
}

static void fill_some(struct rig *r)
{
	struct kedge_claim *claim;
	uint64_t from = (uint64_t)(random() % NR_BLOCKS) * B, max = (uint64_t)(1 + random() % 60) * B;

	if (r->nr_filling > 12 || r->claims->ops->take(r->claims, from, UINT64_MAX, max, &claim) != 0)
		return;
	if (random() % 10 == 0) {
		r->claims->ops->drop(r->claims, claim, 0);
		return;
	}
	struct filling *f = calloc(1, sizeof *f);
	uint32_t nr = 0;
	f->r = r;
	f->buf = malloc(claim->nr_bytes + B);
	for (uint64_t at = 0; at < claim->nr_bytes; at += B) {
		uint8_t byte = content((unsigned)((claim->start_bytes + at) / B));
		memset(f->buf + at, byte, B);
		f->segs[nr++] = (struct kedge_seg){ .nr_bytes = kedge_min_u64(B, claim->nr_bytes - at), .is_zero = byte == 0 };
	}
	r->nr_filling++;
	r->claims->ops->fill(r->claims, claim, f->buf, f->segs, nr, filled_cb, f);
}

/* Read the map as a restart would, and judge it by what is durable. Returns how many blocks it names. */
static unsigned check_map(void)
{
	uint8_t page[KCOPY_MAP_PAGE_BYTES], bits[KCOPY_LEAF_BYTES];
	struct kcopy_map_header h;
	unsigned nr = 0;
	int fd = open(map_path, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, page, sizeof page, 0), sizeof page);
	assert_int_equal(kcopy_map_decode_header(page, &h, NULL), 0);
	if (pread(fd, page, sizeof page, sizeof page) == sizeof page &&
	    kcopy_map_decode_page(&h.uuid, 0, page, bits) == KCOPY_MAP_PAGE_GOOD) {
		for (unsigned i = 0; i < NR_BLOCKS; i++) {
			if (!(bits[i / 8] >> (i % 8) & 1))
				continue;
			nr++;
			if (disk.durable[i] != content(i))
				fail_msg("the map names block %u, which is not durable", i);
		}
	}
	close(fd);
	return nr;
}

static void committed_cb(void *arg, int res)
{
	struct rig *r = arg;

	r->is_committed = true;
	r->commit_res = res;
}

static void test_map_bits_never_precede_flush(void **state)
{
	unsigned nr_crashes = 0, nr_rounds = 0;

	for (unsigned seed = 1; seed <= 60; seed++) {
		struct rig r = { 0 };
		unsigned before = 0;

		srandom(seed);
		unlink(map_path);
		clear_disk();
		for (unsigned life = 0; life < 4; life++) {
			struct kcopy_sink_status st;
			assert_int_equal(open_sink(&r, "s", "d", NULL), 0);
			kcopy_sink_status(r.sink, &st);
			assert_int_equal(st.resumed_bytes, kedge_min_u64((uint64_t)before * B, (uint64_t)NR_BLOCKS * B - 512));
			for (unsigned n = 20 + random() % 60; n > 0; n--, nr_rounds++) {
				fill_some(&r);
				if (!kcopy_sink_is_committing(r.sink) && random() % 6 == 0)
					kcopy_sink_commit(r.sink, committed_cb, &r);
				for (unsigned k = random() % 4; k > 0 && disk.nr_ios > 0; k--)
					complete((unsigned)random() % disk.nr_ios);
				kedge_loop_run_once(r.loop, 0);
				before = check_map();
			}
			/* the process dies here; let what is under way end without effect on the disk, then lose the volatile part */
			while (disk.nr_ios > 0 || kcopy_sink_is_committing(r.sink)) {
				disk.flush_res = -EIO;
				if (disk.nr_ios > 0)
					complete(0);
				kedge_loop_run_once(r.loop, disk.nr_ios > 0 ? 0 : 1);
			}
			disk.flush_res = 0;
			before = check_map();
			close_sink(&r);
			for (unsigned i = 0; i < NR_BLOCKS; i++)
				if (random() % 2)
					disk.now[i] = disk.durable[i];
			nr_crashes++;
		}
		kedge_loop_destroy(r.loop);
	}
	printf("%u crashes, %u looks at the map\n", nr_crashes, nr_rounds);
}

static void fill_all(struct rig *r)
{
	struct kedge_claim *claim;

	while (r->claims->ops->take(r->claims, 0, UINT64_MAX, B, &claim) != -ENODATA) {
		while (disk.nr_ios > 0)
			complete(0);
		r->claims->ops->drop(r->claims, claim, 0);
		fill_some(r);
		while (disk.nr_ios > 0)
			complete(0);
		kedge_loop_run_once(r->loop, 0);
	}
	r->is_committed = false;
	kcopy_sink_commit(r->sink, committed_cb, r);
	while (!r->is_committed) {
		if (disk.nr_ios > 0)
			complete(0);
		kedge_loop_run_once(r->loop, disk.nr_ios > 0 ? 0 : 1);
	}
	assert_int_equal(r->commit_res, 0);
}

static void test_sink_failed_flush_is_final(void **state)
{
	struct rig r = { 0 };
	struct kedge_claim *claim;

	unlink(map_path);
	clear_disk();
	assert_int_equal(open_sink(&r, "s", "d", NULL), 0);
	fill_some(&r);
	while (disk.nr_ios > 0)
		complete(0);
	for (int i = 0; i < 2; i++) {
		disk.flush_res = i == 0 ? -EIO : 0; /* the disk is fine again, and yet */
		r.is_committed = false;
		kcopy_sink_commit(r.sink, committed_cb, &r);
		complete(0);
		kedge_loop_run_once(r.loop, 0);
		assert_true(r.is_committed);
		assert_int_equal(r.commit_res, -EIO);
		assert_int_equal(check_map(), 0);
	}
	assert_int_equal(r.claims->ops->take(r.claims, 0, B, B, &claim), -EIO);
	close_sink(&r);
	kedge_loop_destroy(r.loop);
}

static void flip(off_t at)
{
	int fd = open(map_path, O_RDWR);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

static void test_sink_refuses_foreign_and_damaged_maps(void **state)
{
	struct rig r = { 0 }, other = { 0 };
	struct kcopy_sink_status st;
	struct kedge_err err = { 0 };

	unlink(map_path);
	clear_disk();
	assert_int_equal(open_sink(&r, "s", "d", NULL), 0);
	fill_all(&r);
	/* in use */
	assert_int_equal(open_sink(&other, "s", "d", &err), KEDGE_E_META_BUSY);
	close_sink(&r);
	/* of another copy */
	assert_int_equal(open_sink(&r, "other", "d", NULL), KEDGE_E_META_FOREIGN);
	assert_int_equal(open_sink(&r, "s", "other", NULL), KEDGE_E_DEST_IDENTITY);
	/* good */
	assert_int_equal(open_sink(&r, "s", "d", NULL), 0);
	kcopy_sink_status(r.sink, &st);
	assert_int_equal(st.resumed_bytes, (uint64_t)NR_BLOCKS * B - 512);
	assert_int_equal(st.nr_damaged_pages, 0);
	close_sink(&r);
	/* a rotten page is copied again, a rotten header refused */
	flip(4096 + 100);
	assert_int_equal(open_sink(&r, "s", "d", NULL), 0);
	kcopy_sink_status(r.sink, &st);
	assert_int_equal(st.resumed_bytes, 0);
	assert_int_equal(st.nr_damaged_pages, 1);
	close_sink(&r);
	flip(70);
	assert_int_equal(open_sink(&r, "s", "d", NULL), KEDGE_E_META_CORRUPT);
	/* zeroed, short */
	assert_int_equal(truncate(map_path, 0), 0);
	assert_int_equal(open_sink(&r, "s", "d", NULL), KEDGE_E_META_CORRUPT);
	assert_int_equal(truncate(map_path, 8192), 0);
	assert_int_equal(open_sink(&r, "s", "d", NULL), KEDGE_E_META_ZEROED);
	kedge_loop_destroy(r.loop);
	kedge_loop_destroy(other.loop);
}

static int make_dir(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	snprintf(map_path, sizeof map_path, "%s/map", dir);
	return 0;
}

static int remove_dir(void **state)
{
	unlink(map_path);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_map_bits_never_precede_flush),
		cmocka_unit_test(test_sink_failed_flush_is_final),
		cmocka_unit_test(test_sink_refuses_foreign_and_damaged_maps),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
