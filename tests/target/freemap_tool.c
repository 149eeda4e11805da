/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The free map of an image, for scripts: `freemap_tool list IMAGE` prints file system and bytes, then a line a range; `freemap_tool
 * junk IMAGE` also overwrites every free range, so that whatever needs one of those blocks shows, `zero` with zeroes. No map: why, and exit code 3.
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

static int overwrite(const char *path, const struct tgt_ranges *s, int byte)
{
	uint8_t junk[KEDGE_BLOCK_BYTES];
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	memset(junk, byte, sizeof junk);
	for (size_t i = 0; i < s->nr && fd >= 0; i++)
		for (uint64_t at = s->r[i].start_bytes; at < s->r[i].end_bytes; at += sizeof junk)
			if (pwrite(fd, junk, sizeof junk, (off_t)at) != (ssize_t)sizeof junk)
				return 1;
	return fd < 0 || close(fd) < 0;
}

int main(int argc, char **argv)
{
	struct tgt_freemap m = {0};
	struct kedge_err err = {0};
	struct stat st;
	int fd, r = 0;

	if (argc != 3 || (strcmp(argv[1], "list") != 0 && strcmp(argv[1], "junk") != 0 && strcmp(argv[1], "zero") != 0))
		return 2;
	fd = open(argv[2], O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return 1;
	if (tgt_freemap_read(fd, argv[2], (uint64_t)st.st_size, TGT_FREEMAP_FIRST_MS, &m, &err) < 0) {
		printf("none: %s\n", err.msg);
		return 3;
	}
	printf("%s %llu\n", m.fs, (unsigned long long)tgt_ranges_total_bytes(&m.ranges));
	for (size_t i = 0; i < m.ranges.nr; i++)
		printf("%llu %llu\n", (unsigned long long)m.ranges.r[i].start_bytes, (unsigned long long)m.ranges.r[i].end_bytes);
	if (strcmp(argv[1], "list") != 0)
		r = overwrite(argv[2], &m.ranges, strcmp(argv[1], "junk") == 0 ? 0xa5 : 0);
	tgt_ranges_fini(&m.ranges);
	close(fd);
	return r;
}
