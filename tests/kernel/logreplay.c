/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Plays back what dm-log-writes recorded (Documentation/admin-guide/device-mapper/log-writes.rst).
 *
 *   logreplay LOG list              an entry a line: number, flags, first byte, bytes, text of a mark
 *   logreplay LOG apply IMAGE I J   entries I to J - 1 are written to IMAGE
 *
 * The log is a super block in its first sector (magic, version, number of entries, sector size), and entries: a sector that says where, how
 * much and what kind, then the data. Writes are in it in the order in which they completed, but only once a flush or their own FUA made them
 * durable: a prefix of the log is what a disk holds that loses all the rest.
 *
 * Owns. Nothing. Locks. None.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kedge/bytes.h"

#define MAGIC UINT64_C(0x6a736677736872)
#define SUPER_BYTES 28u
#define ENTRY_BYTES 32u
#define PIECE_BYTES (1u << 20)

enum { FLAG_FLUSH = 1, FLAG_FUA = 2, FLAG_DISCARD = 4, FLAG_MARK = 8, FLAG_METADATA = 16, FLAGS = 31 };

struct log {
	int fd;
	uint64_t nr_entries, at_bytes;
	uint32_t sector_bytes;
};

struct entry {
	uint64_t start_bytes, nr_bytes, flags, data_at_bytes;
	char mark[256];
};

static uint8_t piece[PIECE_BYTES];

static void die(const char *what, uint64_t number)
{
	fprintf(stderr, "logreplay: %s (%" PRIu64 ")\n", what, number);
	exit(1);
}

static void read_at(int fd, void *buf, size_t n, uint64_t at)
{
	if (pread(fd, buf, n, (off_t)at) != (ssize_t)n)
		die("the log ends too early", at);
}

static void open_log(struct log *l, const char *path)
{
	uint8_t b[SUPER_BYTES];

	l->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (l->fd < 0)
		die(strerror(errno), 0);
	read_at(l->fd, b, sizeof b, 0);
	l->nr_entries = kedge_get_le64(b + 16);
	l->sector_bytes = kedge_get_le32(b + 24);
	if (kedge_get_le64(b) != MAGIC || kedge_get_le64(b + 8) != 1)
		die("not a log of version 1", 0);
	if (l->sector_bytes < 512 || l->sector_bytes > 65536 || l->sector_bytes % 512)
		die("sector size", l->sector_bytes);
	l->at_bytes = l->sector_bytes;
}

static void next(struct log *l, uint64_t nr, struct entry *e)
{
	uint8_t b[ENTRY_BYTES];
	uint64_t len;

	read_at(l->fd, b, sizeof b, l->at_bytes);
	*e = (struct entry){.start_bytes = kedge_get_le64(b) * l->sector_bytes, .nr_bytes = kedge_get_le64(b + 8) * l->sector_bytes, .flags = kedge_get_le64(b + 16)};
	len = kedge_get_le64(b + 24);
	if (e->flags & ~(uint64_t)FLAGS || e->nr_bytes > UINT64_C(1) << 40)
		die("not an entry", nr);
	e->data_at_bytes = l->at_bytes + l->sector_bytes;
	if (e->flags & FLAG_MARK) {
		if (len >= sizeof e->mark || len > l->sector_bytes - ENTRY_BYTES)
			die("a mark that is too long", nr);
		read_at(l->fd, e->mark, len, l->at_bytes + ENTRY_BYTES);
	}
	l->at_bytes = e->data_at_bytes + (e->flags & FLAG_DISCARD ? 0 : e->nr_bytes);
}

static void list(struct log *l)
{
	struct entry e;

	for (uint64_t i = 0; i < l->nr_entries; i++) {
		next(l, i, &e);
		printf("%" PRIu64 " %s%s%s%s%s %" PRIu64 " %" PRIu64 " %s\n", i, e.flags & FLAG_MARK ? "mark" : e.flags & FLAG_DISCARD ? "discard" : "write",
		       e.flags & FLAG_FLUSH ? ",flush" : "", e.flags & FLAG_FUA ? ",fua" : "", e.flags & FLAG_METADATA ? ",meta" : "", "", e.start_bytes,
		       e.nr_bytes, e.mark[0] ? e.mark : "-");
	}
}

static void apply_one(const struct log *l, const struct entry *e, int image)
{
	for (uint64_t done = 0; done < e->nr_bytes;) {
		size_t n = kedge_min_u64(PIECE_BYTES, e->nr_bytes - done);
		if (e->flags & FLAG_DISCARD)
			memset(piece, 0, n); /* as the devices below do in these tests */
		else
			read_at(l->fd, piece, n, e->data_at_bytes + done);
		if (pwrite(image, piece, n, (off_t)(e->start_bytes + done)) != (ssize_t)n)
			die("cannot write the image", e->start_bytes);
		done += n;
	}
}

static void apply(struct log *l, const char *path, uint64_t from, uint64_t to)
{
	int image = open(path, O_WRONLY | O_CLOEXEC);
	struct entry e;

	if (image < 0 || from > to || to > l->nr_entries)
		die(image < 0 ? strerror(errno) : "no such entries", to);
	for (uint64_t i = 0; i < to; i++) {
		next(l, i, &e);
		if (i >= from)
			apply_one(l, &e, image);
	}
	close(image);
}

int main(int argc, char **argv)
{
	struct log l = {0};

	if (argc == 3 && strcmp(argv[2], "list") == 0) {
		open_log(&l, argv[1]);
		list(&l);
		return 0;
	}
	if (argc == 6 && strcmp(argv[2], "apply") == 0) {
		open_log(&l, argv[1]);
		apply(&l, argv[3], strtoull(argv[4], NULL, 0), strtoull(argv[5], NULL, 0));
		return 0;
	}
	fprintf(stderr, "usage: logreplay LOG list | logreplay LOG apply IMAGE FROM TO\n");
	return 2;
}
