/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Free maps of damaged images: `free_fuzz IMAGE SEED COUNT` changes a few bytes of what is in use, half of the time with the checksum
 * made good again, and has the map read. The reader must not die, and a map that it gives must be part of the true one.
 * Owns. The image: each change is undone. Locks. None.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "freemap.h"
#include "kedge/bytes.h"
#include "kedge/crc32c.h"

#define SECTOR_BYTES 512u
#define BLOCK_MAX_BYTES 4096u
#define CHANGES_MAX 4u

struct change {
	uint64_t at_bytes;
	uint8_t before[BLOCK_MAX_BYTES];
};

static const char *path;
static int fd;
static uint64_t size_bytes, random_state;
static struct tgt_freemap truth;
static uint64_t *sectors; /* in use and not all zero */
static uint32_t nr_sectors;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static uint32_t random_below(uint32_t n)
{
	return (uint32_t)(next_random() >> 16) % n;
}

static void must(bool is_ok, const char *what)
{
	if (is_ok)
		return;
	fprintf(stderr, "free_fuzz: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* ---- checksums ---- */

static void fix_xfs(uint8_t *buf, size_t nr_bytes, size_t crc_at)
{
	memset(buf + crc_at, 0, 4);
	kedge_put_le32(buf + crc_at, kedge_crc32c(0, buf, nr_bytes));
}

/* The checksum of what begins here, where that is known. buf: BLOCK_MAX_BYTES. */
static void fix(uint64_t at_bytes, uint8_t *buf)
{
	static const struct {
		char magic[5];
		uint16_t crc_at, nr_bytes;
	} known[] = {{"XFSB", 224, 512}, {"XAGF", 216, 512}, {"XAGI", 312, 512}, {"XAFL", 32, 512},
		     {"AB3B", 52, 4096}, {"AB3C", 52, 4096}, {"IAB3", 52, 4096}};

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(known); i++)
		if (memcmp(buf, known[i].magic, 4) == 0)
			fix_xfs(buf, known[i].nr_bytes, known[i].crc_at);
	if (at_bytes == 1024 && strcmp(truth.fs, "ext4") == 0) /* without the final inversion */
		kedge_put_le32(buf + 1020, ~kedge_crc32c(0, buf, 1020));
}

/* ---- one round ---- */

/* Where a structure begins that has this sector: its block, or the sector itself (headers). */
static uint64_t structure_at(uint64_t sector_bytes)
{
	uint64_t in_group_head = sector_bytes & ~(uint64_t)(BLOCK_MAX_BYTES - 1);
	uint8_t magic[4];

	if (strcmp(truth.fs, "ext4") == 0)
		return sector_bytes == 1024 + SECTOR_BYTES ? 1024 : sector_bytes;
	must(pread(fd, magic, 4, (off_t)in_group_head) == 4, "read");
	return memcmp(magic, "XFSB", 4) == 0 ? sector_bytes : in_group_head;
}

static void spoil(uint8_t *buf, uint32_t nr_bytes)
{
	for (uint32_t n = 1 + random_below(3); n > 0; n--) {
		uint32_t at = random_below(4) ? random_below(nr_bytes < 256 ? nr_bytes : 256) : random_below(nr_bytes);
		switch (random_below(4)) {
		case 0: buf[at] ^= (uint8_t)(1u << random_below(8)); break;
		case 1: buf[at] = (uint8_t)next_random(); break;
		case 2: buf[at]++; break;
		default: buf[at] = random_below(2) ? 0xff : 0;
		}
	}
}

static void make_change(struct change *c, bool is_fixed)
{
	uint64_t sector = sectors[random_below(nr_sectors)];
	uint8_t buf[BLOCK_MAX_BYTES];

	/* headers are few among many sectors of files: every other change is in the first of them */
	if (random_below(2))
		sector = sectors[random_below(nr_sectors < 12 ? nr_sectors : 12)];
	c->at_bytes = structure_at(sector);
	if (c->at_bytes + BLOCK_MAX_BYTES > size_bytes)
		c->at_bytes = size_bytes - BLOCK_MAX_BYTES;
	must(pread(fd, c->before, sizeof c->before, (off_t)c->at_bytes) == sizeof c->before, "read");
	memcpy(buf, c->before, sizeof buf);
	spoil(buf, random_below(2) ? SECTOR_BYTES : BLOCK_MAX_BYTES);
	if (is_fixed)
		fix(c->at_bytes, buf);
	must(pwrite(fd, buf, sizeof buf, (off_t)c->at_bytes) == sizeof buf, "write");
}

static bool is_part_of_truth(const struct tgt_ranges *s)
{
	uint64_t stop;

	for (size_t i = 0; i < s->nr; i++)
		if (!tgt_ranges_at(&truth.ranges, s->r[i].start_bytes, s->r[i].end_bytes, &stop) || stop != s->r[i].end_bytes)
			return false;
	return true;
}

/* True: there was a map. */
static bool run(unsigned round)
{
	struct change changes[CHANGES_MAX];
	unsigned nr = 1 + random_below(CHANGES_MAX);
	struct tgt_freemap m = {0};
	struct kedge_err err = {0};
	bool is_fixed = random_below(2);
	int r;

	for (unsigned i = 0; i < nr; i++)
		make_change(&changes[i], is_fixed);
	r = tgt_freemap_read(fd, path, size_bytes, TGT_FREEMAP_FIRST_MS, &m, &err);
	if (r < 0 && strstr(err.msg, "its reader")) {
		printf("round %u: %s\n", round, err.msg);
		exit(1);
	}
	if (r == 0 && !is_part_of_truth(&m.ranges)) {
		printf("round %u: a block is left out that is in use (%u changes, the first at %llu)\n", round, nr,
		       (unsigned long long)changes[0].at_bytes);
		exit(1);
	}
	tgt_ranges_fini(&m.ranges);
	for (unsigned i = nr; i-- > 0;)
		must(pwrite(fd, changes[i].before, sizeof changes[i].before, (off_t)changes[i].at_bytes) == sizeof changes[i].before, "write");
	return r == 0;
}

static void find_sectors(void)
{
	uint8_t buf[BLOCK_MAX_BYTES];
	uint32_t max = 1u << 16;

	sectors = malloc(max * sizeof *sectors);
	must(sectors != NULL, "memory");
	for (uint64_t at = 0; at < size_bytes && nr_sectors < max; at += sizeof buf) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA);
		if (data < 0)
			break;
		at = kedge_round_down((uint64_t)data, sizeof buf);
		if (tgt_ranges_overlap(&truth.ranges, at, at + sizeof buf) || pread(fd, buf, sizeof buf, (off_t)at) != sizeof buf)
			continue;
		for (uint32_t i = 0; i < sizeof buf && nr_sectors < max; i += SECTOR_BYTES)
			if (!kedge_is_zero(buf + i, SECTOR_BYTES))
				sectors[nr_sectors++] = at + i;
	}
}

int main(int argc, char **argv)
{
	struct kedge_err err = {0};
	unsigned nr_maps = 0, count;
	struct stat st;

	if (argc != 4)
		return 2;
	path = argv[1];
	random_state = strtoull(argv[2], NULL, 0) * 0x9e3779b97f4a7c15u + 1;
	count = (unsigned)strtoul(argv[3], NULL, 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	must(fd >= 0 && fstat(fd, &st) == 0, path);
	size_bytes = (uint64_t)st.st_size;
	if (tgt_freemap_read(fd, path, size_bytes, TGT_FREEMAP_FIRST_MS, &truth, &err) < 0) {
		printf("no free map of the whole image: %s\n", err.msg);
		return 1;
	}
	find_sectors();
	must(nr_sectors > 10, "nothing in use");
	for (unsigned i = 0; i < count; i++)
		nr_maps += run(i);
	printf("%s: %u rounds, seed %s, %u with a map\n", truth.fs, count, argv[2], nr_maps);
	tgt_ranges_fini(&truth.ranges);
	free(sectors);
	close(fd);
	return 0;
}
