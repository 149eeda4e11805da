/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. LUNs: open, identify, allocation status.
 * Owns. The descriptors, the mapping, the free map. Locks. None.
 */
#include "lun.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "pool.h"

#define DESCRIPTORS_MAX 256u
/* What is looked at for them: neighbours of one kind share a descriptor. */
#define STEPS_MAX (4 * DESCRIPTORS_MAX)
#define PAGE_BYTES 4096u
#define CACHED_MAX_BYTES (1u << 20)

/* FNV-1a, 64 bits. Two CRCs would not do: texts of one length that have one in common have the other in common too. */
static uint64_t hash(const char *text)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (; *text; text++)
		h = (h ^ (uint8_t)*text) * 0x100000001b3u;
	return h;
}

/* NAA 3, locally assigned: stable for a serial number. Initiators take units with one name for one disk. */
static void make_naa(struct tgt_unit *u)
{
	kedge_put_be64(u->naa, hash(u->serial));
	u->naa[0] = (uint8_t)(0x30 | (u->naa[0] & 0x0f));
}

/* mincore tells the truth only to who might write the file; to others it says "all is cached". */
static bool may_ask(int fd, const struct stat *st)
{
	char self[32];

	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	return geteuid() == 0 || geteuid() == st->st_uid || access(self, W_OK) == 0;
}

static bool has_no_nowait(int fd)
{
	uint8_t byte;
	struct iovec v = {&byte, 1};

	return preadv2(fd, &v, 1, 0, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP;
}

static void map(struct tgt_lun *l, const struct stat *st, uint64_t size_bytes)
{
	if (sysconf(_SC_PAGESIZE) != PAGE_BYTES || !may_ask(l->fd, st))
		return;
	l->map = mmap(NULL, size_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, l->fd, 0);
	if (l->map == MAP_FAILED)
		l->map = NULL;
	else
		l->map_bytes = size_bytes;
}

static bool is_cached(const struct tgt_lun *l, uint64_t start_bytes, uint64_t nr_bytes)
{
	unsigned char pages[CACHED_MAX_BYTES / PAGE_BYTES + 1];
	uint64_t first = kedge_round_down(start_bytes, PAGE_BYTES);
	uint64_t nr = (start_bytes + nr_bytes - first + PAGE_BYTES - 1) / PAGE_BYTES;

	if (tgt_ranges_overlap(&l->free.ranges, start_bytes, start_bytes + nr_bytes))
		return false; /* zeroes, whatever the file has there */
	if (!l->map || nr == 0 || nr > sizeof pages)
		return false;
	if (mincore((char *)l->map + first, nr * PAGE_BYTES, pages) < 0)
		return false;
	for (uint64_t i = 0; i < nr; i++)
		if (!(pages[i] & 1))
			return false;
	return true;
}

bool tgt_lun_is_cached(const struct tgt_lun *l, uint64_t start_bytes, uint64_t nr_bytes)
{
	struct stat st;

	if (!is_cached(l, start_bytes, nr_bytes) || fstat(l->fd, &st) < 0)
		return false;
	/* cut short: its last page may be cached all the same */
	return !S_ISREG(st.st_mode) || (uint64_t)st.st_size >= start_bytes + nr_bytes;
}

bool tgt_lun_read_cached(const struct tgt_lun *l, void *buf, uint64_t start_bytes, uint64_t nr_bytes)
{
	/* cut short: it reads less */
	return is_cached(l, start_bytes, nr_bytes) && pread(l->fd, buf, nr_bytes, (off_t)start_bytes) == (ssize_t)nr_bytes;
}

void tgt_lun_distrust_cache(struct tgt_lun *l)
{
	if (l->map)
		munmap(l->map, l->map_bytes);
	l->map = NULL;
}

int tgt_lun_open(struct tgt_lun *l, const char *path, const char *serial, struct kedge_err *err)
{
	uint64_t size_bytes;
	struct stat st;
	int r;

	memset(l, 0, sizeof *l);
	if (strlen(path) >= sizeof l->path)
		return kedge_err_set(err, -ENAMETOOLONG, KEDGE_SIDE_NONE, "--lun: path too long");
	strcpy(l->path, path);
	l->zero_fd = -1;
	l->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (l->fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "--lun %s: %s", path, strerror(errno));
	r = kedge_file_geometry(l->fd, &size_bytes, &l->unit.lbs_bytes, err);
	if (r < 0)
		kedge_err_prefix(err, "--lun %s", path);
	if (r == 0 && (size_bytes == 0 || size_bytes % l->unit.lbs_bytes))
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--lun %s: its size, %llu bytes, is not a positive multiple of %u", path,
				  (unsigned long long)size_bytes, l->unit.lbs_bytes);
	if (r == 0 && serial && (!serial[0] || strlen(serial) >= sizeof l->unit.serial))
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--serial: 1 to %zu characters", sizeof l->unit.serial - 1);
	if (r < 0) {
		tgt_lun_close(l);
		return r;
	}
	l->unit.nr_blocks = size_bytes / l->unit.lbs_bytes;
	fstat(l->fd, &st);
	l->is_file = S_ISREG(st.st_mode);
	l->unit.can_lba_status = l->is_file;
	l->unit.nr_workers = (uint8_t)tgt_pool_nr_workers();
	if (serial)
		strcpy(l->unit.serial, serial);
	else
		snprintf(l->unit.serial, sizeof l->unit.serial, "%016llx", (unsigned long long)hash(path));
	for (const char *p = l->unit.serial; *p; p++) {
		if (*p < ' ' || *p > '~') {
			tgt_lun_close(l);
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--serial: printable ASCII only");
		}
	}
	make_naa(&l->unit);
	map(l, &st, size_bytes);
	l->is_ring_slow = has_no_nowait(l->fd);
	return 0;
}

void tgt_lun_close(struct tgt_lun *l)
{
	tgt_lun_distrust_cache(l);
	tgt_ranges_fini(&l->free.ranges);
	kedge_close(l->zero_fd);
	kedge_close(l->fd);
	l->fd = l->zero_fd = -1;
}

/* What was cut off the file since it was opened is no hole: a hole reads as zeroes, this does not read at all. */
static bool is_cut_short(const struct tgt_lun *l)
{
	struct stat st;

	return fstat(l->fd, &st) < 0 || (uint64_t)st.st_size < l->unit.nr_blocks * l->unit.lbs_bytes;
}

/* Is at a hole of the file? Where that answer ends. Only whole logical blocks are a hole. */
static bool is_file_hole(const struct tgt_lun *l, uint64_t at, uint64_t end, uint64_t *ret_stop)
{
	uint32_t lbs = l->unit.lbs_bytes;
	off_t data = lseek(l->fd, (off_t)at, SEEK_DATA), hole;
	bool is_hole = data < 0 ? errno == ENXIO && !is_cut_short(l) : (uint64_t)data > at;
	uint64_t stop = end;

	if (is_hole && data >= 0) {
		stop = kedge_round_down((uint64_t)data, lbs);
		is_hole = stop > at;
	}
	if (!is_hole) {
		hole = data < 0 ? -1 : lseek(l->fd, data, SEEK_HOLE);
		stop = hole < 0 ? end : kedge_round_up((uint64_t)hole, lbs);
	}
	*ret_stop = kedge_min_u64(stop, end);
	return is_hole;
}

static bool is_deallocated(const struct tgt_lun *l, uint64_t at, uint64_t end, uint64_t *ret_stop)
{
	if (tgt_ranges_at(&l->free.ranges, at, end, ret_stop))
		return true;
	return l->is_file && is_file_hole(l, at, *ret_stop, ret_stop);
}

uint32_t tgt_lun_status(const struct tgt_lun *l, uint64_t lba, uint32_t allocation, uint8_t *out)
{
	uint32_t lbs = l->unit.lbs_bytes, n = 0;
	uint32_t max = (uint32_t)kedge_min_u64((allocation - 8) / 16, DESCRIPTORS_MAX);
	uint64_t at = lba * lbs, end = l->unit.nr_blocks * lbs;
	uint8_t *d = NULL; /* the last descriptor */

	memset(out, 0, 8);
	for (unsigned step = 0; at < end && step < STEPS_MAX; step++) {
		uint64_t stop, blocks, before = d ? kedge_get_be32(d + 8) : 0;
		uint8_t status = is_deallocated(l, at, end, &stop) ? 1 : 0; /* deallocated, or mapped */
		blocks = kedge_min_u64((stop - at) / lbs, 0xffffffffu);
		if (d && d[12] == status && before + blocks <= 0xffffffffu) {
			kedge_put_be32(d + 8, (uint32_t)(before + blocks));
		} else if (n < max) {
			d = out + 8 + 16 * n++;
			memset(d, 0, 16);
			kedge_put_be64(d, at / lbs);
			kedge_put_be32(d + 8, (uint32_t)blocks);
			d[12] = status;
		} else {
			break;
		}
		at += blocks * lbs;
	}
	kedge_put_be32(out, 4 + 16 * n);
	return 8 + 16 * n;
}

/* ---- free space ---- */

int tgt_lun_read_from(const struct tgt_lun *l, uint64_t start_bytes, uint64_t *nr_bytes)
{
	uint64_t stop;
	bool is_free = tgt_ranges_at(&l->free.ranges, start_bytes, start_bytes + *nr_bytes, &stop);

	*nr_bytes = stop - start_bytes;
	return is_free ? l->zero_fd : l->fd;
}

/* Served again, it was looked at when its export began: who mounts a copy to read it does no harm. */
static int take_free(struct tgt_lun *l, bool is_again, struct kedge_err *err)
{
	int r;

	if (l->unit.lbs_bytes > KEDGE_BLOCK_BYTES)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "its logical blocks have %u bytes", l->unit.lbs_bytes);
	l->zero_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	if (l->zero_fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_SOURCE, "/dev/zero: %s", strerror(errno));
	r = tgt_freemap_read(l->fd, is_again ? NULL : l->path, l->unit.nr_blocks * l->unit.lbs_bytes,
			     is_again ? TGT_FREEMAP_AGAIN_MS : TGT_FREEMAP_FIRST_MS, &l->free, err);
	l->unit.can_lba_status |= r == 0;
	return r;
}

int tgt_lun_take_free(struct tgt_lun *l, enum tgt_free_space how, struct kedge_err *err)
{
	struct kedge_err why = {0};

	if (how == TGT_FREE_COPY)
		return 0;
	if (take_free(l, how == TGT_FREE_MUST, &why) == 0) {
		kedge_info("--lun %s: %llu bytes of free space of its %s are left out", l->path,
			   (unsigned long long)tgt_ranges_total_bytes(&l->free.ranges), l->free.fs);
		return 0;
	}
	if (how == TGT_FREE_MUST)
		return kedge_err_set(err, why.code, KEDGE_SIDE_SOURCE, "--lun %s: no free map: %s", l->path, why.msg);
	kedge_warn("--lun %s: no free map, all of it is copied: %s", l->path, why.msg);
	return 0;
}
