/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Free space that is left out: one and the same volume for every reader, whichever way its bytes go out, and the list of ranges.
 * Owns. One ktarget a test, an image beside it. Locks. None.
 */
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "freemap.h"
#include "kedge/bytes.h"
#include "kedge/transit.h"

#define IMAGE_BYTES (16u << 20)
#define LUN 3u
#define READ_MAX_BYTES (3u << 20)

struct volume {
	char dir[32], path[64];
	struct tgt_freemap map;
	uint8_t *want; /* what everybody reads */
};

static unsigned seed;

static uint32_t random_below(uint32_t n)
{
	return (uint32_t)rand_r(&seed) % n;
}

/* Full of bytes, then a file system of many small groups: free and used alternate. A hole of the file lies beside free space, in zeroes that
 * are in use (an inode table). */
static void volume_make(struct volume *v)
{
	char command[260];
	const char *base = getenv("KEDGE_TEST_DIR");
	struct kedge_err err = {0};
	int fd;

	snprintf(v->dir, sizeof v->dir, "%s/ktarget-free.XXXXXX", base ? base : "/tmp");
	assert_non_null(mkdtemp(v->dir));
	snprintf(v->path, sizeof v->path, "%s/image", v->dir);
	v->want = malloc(IMAGE_BYTES);
	assert_non_null(v->want);
	for (size_t i = 0; i < IMAGE_BYTES; i++)
		v->want[i] = (uint8_t)(1 + (i * 31 + i / 4096) % 255);
	fd = open(v->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, v->want, IMAGE_BYTES, 0), IMAGE_BYTES);
	snprintf(command, sizeof command, "mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0 -b 1024 -g 256 -O ^resize_inode,^flex_bg %s && "
		 "fallocate -d %s", v->path, v->path);
	assert_int_equal(system(command), 0);
	assert_int_equal(pread(fd, v->want, IMAGE_BYTES, 0), IMAGE_BYTES);
	memset(&v->map, 0, sizeof v->map);
	if (tgt_freemap_read(fd, v->path, IMAGE_BYTES, TGT_FREEMAP_FIRST_MS, &v->map, &err) < 0)
		fail_msg("no free map: %s", err.msg);
	assert_in_range(v->map.ranges.nr, 40, 1000);
	for (size_t i = 0; i < v->map.ranges.nr; i++) {
		uint64_t start = v->map.ranges.r[i].start_bytes, n = v->map.ranges.r[i].end_bytes - start;
		assert_false(kedge_is_zero(v->want + start, n)); /* else nothing is proved */
		memset(v->want + start, 0, n);
	}
	close(fd);
}

static void volume_end(struct volume *v)
{
	tgt_ranges_fini(&v->map.ranges);
	free(v->want);
	unlink(v->path);
	rmdir(v->dir);
}

static void evict(const struct volume *v)
{
	int fd = open(v->path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fsync(fd), 0);
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	close(fd);
}

static void begin(struct wire *w, const struct volume *v, const char *digest)
{
	static const uint8_t ready[16] = {0};
	struct outcome o = {0};

	wire_begin(w, "--lun", v->path, "--free-space", "skip", NULL);
	assert_int_equal(peer_login(&w->p, "MaxRecvDataSegmentLength=262144", "MaxBurstLength=1048576", digest), 0);
	peer_command(&w->p, LUN, ready, 0, &o);
	assert_int_equal(o.status, 0);
}

/* The same by READ EXTENT, as it is, compressed, and its sum alone. */
static void extent_and_compare(struct wire *w, const struct volume *v, uint32_t at, uint32_t n)
{
	static uint8_t data[KEDGE_TRANSIT_HEAD_BYTES + KEDGE_TRANSIT_EXTENT_MAX_BYTES], out[KEDGE_TRANSIT_EXTENT_MAX_BYTES];
	struct kedge_transit_coder *coder = kedge_transit_coder_create();
	struct kedge_transit_head h;
	uint8_t cdb[16];

	for (unsigned codecs = 0; codecs <= KEDGE_TRANSIT_CAN_ALL; codecs += KEDGE_TRANSIT_CAN_ALL) {
		struct outcome o = {.data = data, .out_max = sizeof data};
		kedge_transit_cdb_encode(at / 512, n / 512, (uint8_t)codecs, cdb);
		peer_command(&w->p, LUN, cdb, KEDGE_TRANSIT_HEAD_BYTES + n, &o);
		assert_int_equal(o.status, 0);
		assert_int_equal(kedge_transit_head_decode(data, at, n, o.nr_bytes - KEDGE_TRANSIT_HEAD_BYTES, &h), 0);
		assert_int_equal(kedge_transit_unpack(coder, &h, data + KEDGE_TRANSIT_HEAD_BYTES, out), 0);
		if (memcmp(out, v->want + at, n) != 0)
			fail_msg("%u bytes at %u differ as an extent (seed %u)", n, at, seed);
	}
	uint8_t sum[KEDGE_TRANSIT_SUM_BYTES], want[KEDGE_TRANSIT_SUM_BYTES];
	struct outcome o = {.data = data, .out_max = sizeof data};
	kedge_transit_cdb_encode(at / 512, n / 512, KEDGE_TRANSIT_CAN_SUM, cdb);
	peer_command(&w->p, LUN, cdb, KEDGE_TRANSIT_HEAD_BYTES, &o);
	assert_int_equal(o.status, 0);
	assert_int_equal(kedge_transit_sum_decode(data, at, n, sum), 0);
	kedge_transit_sum(v->want + at, at, n, want);
	if (memcmp(sum, want, sizeof sum) != 0)
		fail_msg("%u bytes at %u have another sum (seed %u)", n, at, seed);
	kedge_transit_coder_destroy(coder);
}

static void read_and_compare(struct wire *w, const struct volume *v, uint32_t at, uint32_t n)
{
	static uint8_t data[READ_MAX_BYTES];
	struct outcome o = {.data = data, .out_max = sizeof data};

	peer_finish(&w->p, peer_read10(&w->p, LUN, at / 512, (uint16_t)(n / 512), n), &o);
	assert_int_equal(o.error, 0);
	assert_int_equal(o.status, 0);
	assert_int_equal(o.nr_bytes, n);
	for (uint32_t i = 0; i < n; i++)
		if (data[i] != v->want[at + i])
			fail_msg("%u bytes at %u differ at %u (seed %u)", n, at, at + i, seed);
	if (n <= KEDGE_TRANSIT_EXTENT_MAX_BYTES)
		extent_and_compare(w, v, at, n);
}

static void test_every_read_sees_zeroes_in_free_space(void **state)
{
	struct volume v;
	struct wire w;

	volume_make(&v);
	for (int way = 0; way < 3; way++) { /* through a buffer, out of the page cache, from the disk */
		begin(&w, &v, way == 0 ? "DataDigest=CRC32C" : "DataDigest=None");
		if (way == 2)
			evict(&v);
		for (uint32_t at = 0; at < IMAGE_BYTES; at += READ_MAX_BYTES)
			read_and_compare(&w, &v, at, (uint32_t)kedge_min_u64(READ_MAX_BYTES, IMAGE_BYTES - at));
		for (size_t i = 0; i < v.map.ranges.nr; i += 3) { /* wholly inside, and over both ends */
			uint64_t start = v.map.ranges.r[i].start_bytes, end = v.map.ranges.r[i].end_bytes;
			read_and_compare(&w, &v, (uint32_t)start, (uint32_t)(end - start));
			read_and_compare(&w, &v, (uint32_t)start - 512, 1024);
			read_and_compare(&w, &v, (uint32_t)end - 512, 1024);
		}
		for (int i = 0; i < 300; i++) {
			uint32_t at = random_below(IMAGE_BYTES / 512) * 512;
			uint32_t n = 512 + random_below(i % 2 ? 16 : 2048) * 512;
			read_and_compare(&w, &v, at, (uint32_t)kedge_min_u64(n, IMAGE_BYTES - at));
		}
		wire_end(&w);
	}
	volume_end(&v);
}

/* What is deallocated has to hold all of the free map and nothing but zeroes; neighbours of one kind share a descriptor. */
static void test_lba_status_tells_of_all_free_space(void **state)
{
	uint8_t cdb[16] = {0x9e, 0x12}, data[600];
	uint64_t at = 0;
	struct volume v;
	struct wire w;

	volume_make(&v);
	begin(&w, &v, NULL);
	for (int rounds = 0; at < IMAGE_BYTES && rounds < 1000; rounds++) {
		struct outcome o = {.data = data, .out_max = sizeof data};
		int last = -1;
		kedge_put_be64(cdb + 2, at / 512);
		kedge_put_be32(cdb + 10, sizeof data);
		peer_command(&w.p, LUN, cdb, sizeof data, &o);
		assert_int_equal(o.status, 0);
		assert_in_range(o.nr_bytes, 24, sizeof data);
		for (size_t d = 8; d + 16 <= o.nr_bytes; d += 16) {
			uint64_t n = kedge_get_be32(data + d + 8) * 512ull;
			assert_int_equal(kedge_get_be64(data + d), at / 512);
			assert_in_range(n, 512, IMAGE_BYTES - at);
			assert_int_not_equal(data[d + 12], last);
			last = data[d + 12];
			if (last == 1)
				assert_true(kedge_is_zero(v.want + at, n));
			else
				assert_false(tgt_ranges_overlap(&v.map.ranges, at, at + n));
			at += n;
		}
	}
	assert_int_equal(at, IMAGE_BYTES);
	wire_end(&w);
	volume_end(&v);
}

static void test_copy_is_the_default_and_must_refuses(void **state)
{
	static uint8_t data[4096];
	struct outcome o = {.data = data, .out_max = sizeof data};
	char command[300];
	struct volume v;
	struct wire w;
	uint64_t at;

	volume_make(&v);
	at = v.map.ranges.r[7].start_bytes;
	wire_begin(&w, "--lun", v.path, NULL);
	assert_int_equal(peer_login(&w.p, "MaxRecvDataSegmentLength=262144", NULL, NULL), 0);
	peer_finish(&w.p, peer_read10(&w.p, LUN, (uint32_t)(at / 512), 8, 4096), &o);
	if (o.status != 0) /* its unit attention */
		peer_finish(&w.p, peer_read10(&w.p, LUN, (uint32_t)(at / 512), 8, 4096), &o);
	assert_int_equal(o.nr_bytes, 4096);
	assert_false(kedge_is_zero(data, 4096));
	wire_end(&w);
	/* half of it is missing */
	assert_int_equal(truncate(v.path, IMAGE_BYTES / 2), 0);
	snprintf(command, sizeof command, "%s --portal 127.0.0.1:0 --iqn %s --lun %s --free-space must 2>&1 | grep -q 'no free map.*larger'",
		 wire_ktarget, TARGET_IQN, v.path);
	assert_int_equal(system(command), 0);
	volume_end(&v);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_read_sees_zeroes_in_free_space),
		cmocka_unit_test(test_lba_status_tells_of_all_free_space),
		cmocka_unit_test(test_copy_is_the_default_and_must_refuses),
	};

	if (wire_main(argc, argv))
		return 2;
	seed = (unsigned)getpid();
	printf("seed %u\n", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
