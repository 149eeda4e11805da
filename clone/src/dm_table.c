/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Words and metadata of kernel dm-clone. Pure.
 */
#include "dm_table.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"

int dm_clone_params(const struct dm_clone_table *t, char out[DM_PARAMS_MAX])
{
	int n = snprintf(out, DM_PARAMS_MAX, "%s %s %s %u 2 no_hydration no_discard_passdown 4 hydration_threshold %u hydration_batch_size %u",
			 t->meta_dev, t->dest_dev, t->source_dev, t->region_bytes / 512, t->threshold, t->batch);

	return n < DM_PARAMS_MAX ? 0 : -ENAMETOOLONG;
}

int dm_linear_params(const char *dev, uint64_t start_sectors, char out[DM_PARAMS_MAX])
{
	int n = snprintf(out, DM_PARAMS_MAX, "%s %" PRIu64, dev, start_sectors);

	return n < DM_PARAMS_MAX ? 0 : -ENAMETOOLONG;
}

bool dm_clone_params_are_of(const char *params, const struct dm_clone_table *t)
{
	char meta[64], dest[64], source[64];
	unsigned sectors;

	return sscanf(params, "%63s %63s %63s %u", meta, dest, source, &sectors) == 4 && strcmp(meta, t->meta_dev) == 0 &&
	       strcmp(dest, t->dest_dev) == 0 && strcmp(source, t->source_dev) == 0 && sectors == t->region_bytes / 512;
}

/* One word of a status line. */
static bool next_word(const char **at, char out[64])
{
	int n = 0;

	if (sscanf(*at, "%63s%n", out, &n) != 1)
		return false;
	*at += n;
	return true;
}

static bool next_number(const char **at, uint64_t *ret)
{
	char word[64], end;

	return next_word(at, word) && sscanf(word, "%" SCNu64 "%c", ret, &end) == 1;
}

static bool next_pair(const char **at, uint64_t *ret_a, uint64_t *ret_b)
{
	char word[64], end;

	return next_word(at, word) && sscanf(word, "%" SCNu64 "/%" SCNu64 "%c", ret_a, ret_b, &end) == 2;
}

int dm_clone_status_parse(const char *line, struct dm_clone_status *ret_status)
{
	struct dm_clone_status s = {.is_hydration_on = true};
	uint64_t block_sectors, region_sectors, n, v;
	char word[64];

	if (strncmp(line, "Fail", 4) == 0 || strncmp(line, "Error", 5) == 0) {
		*ret_status = (struct dm_clone_status){.mode = DM_MODE_FAIL};
		return 0;
	}
	if (!next_number(&line, &block_sectors) || block_sectors != 8 || !next_pair(&line, &s.meta_used, &s.meta_total) ||
	    !next_number(&line, &region_sectors) || region_sectors < 8 || region_sectors > DM_REGION_MAX_BYTES / 512 ||
	    !next_pair(&line, &s.nr_hydrated, &s.nr_regions) || !next_number(&line, &s.nr_hydrating))
		return KEDGE_E_PROTO;
	s.region_bytes = (uint32_t)region_sectors * 512;
	if (!next_number(&line, &n) || n > 16)
		return KEDGE_E_PROTO;
	for (uint64_t i = 0; i < n; i++) {
		if (!next_word(&line, word))
			return KEDGE_E_PROTO;
		if (strcmp(word, "no_hydration") == 0)
			s.is_hydration_on = false;
	}
	if (!next_number(&line, &n) || n > 16 || n % 2)
		return KEDGE_E_PROTO;
	for (uint64_t i = 0; i < n; i += 2) {
		if (!next_word(&line, word) || !next_number(&line, &v))
			return KEDGE_E_PROTO;
		if (strcmp(word, "hydration_threshold") == 0)
			s.threshold = (uint32_t)v;
		else if (strcmp(word, "hydration_batch_size") == 0)
			s.batch = (uint32_t)v;
	}
	if (!next_word(&line, word))
		return KEDGE_E_PROTO;
	if (strcmp(word, "rw") == 0)
		s.mode = DM_MODE_RW;
	else if (strcmp(word, "ro") == 0)
		s.mode = DM_MODE_RO;
	else
		return KEDGE_E_PROTO;
	if (s.nr_hydrated > s.nr_regions)
		return KEDGE_E_PROTO;
	*ret_status = s;
	return 0;
}

uint64_t dm_clone_nr_regions(uint64_t size_bytes, uint32_t region_bytes)
{
	return size_bytes / region_bytes + (size_bytes % region_bytes != 0);
}

uint64_t dm_clone_meta_bytes(uint64_t size_bytes, uint32_t region_bytes)
{
	uint64_t blocks = dm_clone_nr_regions(size_bytes, region_bytes) / 32576 + 8;

	return kedge_round_up(2 * blocks * 4096 + (1u << 20), 4096);
}

int dm_clone_check_region(uint64_t size_bytes, uint32_t lbs_bytes, uint32_t region_bytes, struct kedge_err *err)
{
	if (region_bytes < DM_REGION_MIN_BYTES || region_bytes > DM_REGION_MAX_BYTES || region_bytes & (region_bytes - 1) ||
	    region_bytes % lbs_bytes)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--region %u: a power of two from 4 KiB to 1 GiB", region_bytes);
	if (dm_clone_nr_regions(size_bytes, region_bytes) > DM_NR_REGIONS_MAX)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE,
				     "--region %u is too small for %" PRIu64 " bytes: the kernel takes at most 2^31 regions", region_bytes,
				     size_bytes);
	return 0;
}

/* ---- metadata on disk: persistent-data of the kernel's device-mapper ---- */

#define CLONE_MAGIC 0x8af27f64u
#define CLONE_VERSION 1u
#define XOR_SUPER 257649492u
#define XOR_BTREE 121107u
#define XOR_ARRAY 595846735u
#define NODE_INTERNAL 1u
#define NODE_LEAF 2u
#define DEPTH_MAX 8u
#define ARRAY_WORDS 509u /* as many as a block holds: the kernel fills all but the last */

enum { SB_CSUM = 0, SB_MAGIC = 32, SB_VERSION = 40, SB_REGION = 172, SB_TARGET = 180, SB_ROOT = 188 };
enum { N_FLAGS = 4, N_BLOCK = 8, N_NR = 16, N_MAX = 20, N_VALUE = 24, N_KEYS = 32 };
enum { A_MAX = 4, A_NR = 8, A_VALUE = 12, A_BLOCK = 16, A_VALUES = 24 };

static bool is_sum_good(const uint8_t b[4096], uint32_t xor_value)
{
	return kedge_get_le32(b) == (~kedge_crc32c(0, b + 4, 4092) ^ xor_value);
}

int dm_clone_super_check(const uint8_t b[4096], uint64_t size_bytes, uint32_t region_bytes)
{
	if (kedge_is_zero(b, 4096))
		return KEDGE_E_META_ZEROED;
	if (kedge_get_le64(b + SB_MAGIC) != CLONE_MAGIC || !is_sum_good(b, XOR_SUPER))
		return KEDGE_E_META_CORRUPT;
	if (kedge_get_le32(b + SB_VERSION) != CLONE_VERSION)
		return KEDGE_E_META_VERSION;
	if (kedge_get_le64(b + SB_REGION) != region_bytes / 512 || kedge_get_le64(b + SB_TARGET) != size_bytes / 512)
		return KEDGE_E_META_FOREIGN;
	return 0;
}

struct walk {
	dm_read_fn read_fn;
	void *read_arg;
	uint64_t nr_regions, next_word;
	uint64_t from_word, end_word; /* what is wanted; the rest is not read */
	void (*fn)(void *arg, uint64_t first_region, uint64_t bits);
	void *arg;
};

static int walk_array(struct walk *w, uint64_t nr, uint64_t key)
{
	uint8_t b[4096];
	int r = w->read_fn(w->read_arg, nr, b);

	if (r < 0)
		return r;
	uint32_t n = kedge_get_le32(b + A_NR), max = kedge_get_le32(b + A_MAX);
	if (!is_sum_good(b, XOR_ARRAY) || kedge_get_le64(b + A_BLOCK) != nr || kedge_get_le32(b + A_VALUE) != 8 || n > max ||
	    max != ARRAY_WORDS)
		return KEDGE_E_META_CORRUPT;
	/* keys of the tree number the array blocks: all but the last are full */
	if (key * max != w->next_word)
		return KEDGE_E_META_CORRUPT;
	for (uint32_t i = 0; i < n; i++, w->next_word++) {
		uint64_t first = w->next_word * 64, bits = kedge_get_le64(b + A_VALUES + i * 8);
		if (first >= w->nr_regions || w->next_word < w->from_word || w->next_word >= w->end_word)
			continue;
		if (w->nr_regions - first < 64)
			bits &= (1ull << (w->nr_regions - first)) - 1;
		w->fn(w->arg, first, bits);
	}
	return 0;
}

static int walk_node(struct walk *w, uint64_t nr, unsigned depth)
{
	uint8_t b[4096];
	int r = depth > DEPTH_MAX ? KEDGE_E_META_CORRUPT : w->read_fn(w->read_arg, nr, b);

	if (r < 0)
		return r;
	uint32_t flags = kedge_get_le32(b + N_FLAGS), n = kedge_get_le32(b + N_NR), max = kedge_get_le32(b + N_MAX);
	if (!is_sum_good(b, XOR_BTREE) || kedge_get_le64(b + N_BLOCK) != nr || kedge_get_le32(b + N_VALUE) != 8 || n > max ||
	    max > (4096 - N_KEYS) / 16 || (flags != NODE_INTERNAL && flags != NODE_LEAF))
		return KEDGE_E_META_CORRUPT;
	for (uint32_t i = 0; i < n && r == 0; i++) {
		uint64_t key = kedge_get_le64(b + N_KEYS + i * 8), value = kedge_get_le64(b + N_KEYS + (max + i) * 8);
		uint64_t next = i + 1 < n ? kedge_get_le64(b + N_KEYS + (i + 1) * 8) : UINT64_MAX;
		if (key > UINT32_MAX || next <= key)
			return KEDGE_E_META_CORRUPT;
		if (key * ARRAY_WORDS >= w->end_word)
			break;
		if (next <= w->from_word / ARRAY_WORDS) { /* ends before what is wanted */
			w->next_word = next * ARRAY_WORDS;
			continue;
		}
		r = flags == NODE_LEAF ? walk_array(w, value, key) : walk_node(w, value, depth + 1);
	}
	return r;
}

int dm_clone_bitmap_read_range(dm_read_fn read_fn, void *read_arg, uint64_t size_bytes, uint32_t region_bytes, uint64_t from_region,
			       uint64_t end_region, void (*fn)(void *arg, uint64_t first_region, uint64_t bits), void *arg)
{
	struct walk w = {.read_fn = read_fn, .read_arg = read_arg, .fn = fn, .arg = arg, .from_word = from_region / 64};
	uint8_t b[4096];
	int r = read_fn(read_arg, 0, b);

	w.nr_regions = dm_clone_nr_regions(size_bytes, region_bytes);
	w.end_word = (kedge_min_u64(end_region, w.nr_regions) + 63) / 64;
	if (r == 0)
		r = dm_clone_super_check(b, size_bytes, region_bytes);
	if (r == 0)
		r = walk_node(&w, kedge_get_le64(b + SB_ROOT), 0);
	if (r == 0 && w.next_word < w.end_word)
		r = KEDGE_E_META_CORRUPT;
	return r;
}

int dm_clone_bitmap_read(dm_read_fn read_fn, void *read_arg, uint64_t size_bytes, uint32_t region_bytes,
			 void (*fn)(void *arg, uint64_t first_region, uint64_t bits), void *arg)
{
	return dm_clone_bitmap_read_range(read_fn, read_arg, size_bytes, region_bytes, 0, UINT64_MAX, fn, arg);
}

static void count_cb(void *arg, uint64_t first_region, uint64_t bits)
{
	(void)first_region;
	*(uint64_t *)arg += (uint64_t)__builtin_popcountll(bits);
}

int dm_clone_bitmap_count(dm_read_fn read_fn, void *read_arg, uint64_t size_bytes, uint32_t region_bytes, uint64_t *ret_nr)
{
	*ret_nr = 0;
	return dm_clone_bitmap_read(read_fn, read_arg, size_bytes, region_bytes, count_cb, ret_nr);
}
