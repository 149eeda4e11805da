/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Bitmaps that cost memory only where bits are set. Pure but for mmap(2).
 */
#include <errno.h>
#include <sys/mman.h>

#include "uclone_int.h"

static uint64_t map_bytes(uint64_t nr_bits)
{
	return kedge_round_up((nr_bits + 63) / 64 * 8, 4096);
}

int uc_bits_init(struct uc_bits *b, uint64_t nr_bits)
{
	void *p = mmap(NULL, map_bytes(nr_bits ? nr_bits : 1), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -ENOMEM;
	b->w = p;
	b->nr_bits = nr_bits;
	return 0;
}

void uc_bits_fini(struct uc_bits *b)
{
	if (b->w)
		munmap(b->w, map_bytes(b->nr_bits ? b->nr_bits : 1));
	b->w = NULL;
}

uint64_t uc_bits_find(const struct uc_bits *b, uint64_t from, uint64_t end, bool value)
{
	while (from < end) {
		uint64_t w = b->w[from / 64];
		if (!value)
			w = ~w;
		w >>= from % 64;
		if (w) {
			uint64_t at = from + (uint64_t)__builtin_ctzll(w);
			return at < end ? at : end;
		}
		from = (from / 64 + 1) * 64;
	}
	return end;
}

uint64_t uc_bits_count(const struct uc_bits *b, uint64_t from, uint64_t end)
{
	uint64_t n = 0;

	while (from < end) {
		uint64_t nr = kedge_min_u64(64 - from % 64, end - from);
		uint64_t mask = nr == 64 ? ~0ull : ((1ull << nr) - 1);
		n += (uint64_t)__builtin_popcountll(b->w[from / 64] >> (from % 64) & mask);
		from += nr;
	}
	return n;
}

void uc_bits_clear_range(struct uc_bits *b, uint64_t from, uint64_t end)
{
	while (from < end) {
		uint64_t nr = kedge_min_u64(64 - from % 64, end - from);
		uint64_t mask = nr == 64 ? ~0ull : ((1ull << nr) - 1);
		if (b->w[from / 64])
			b->w[from / 64] &= ~(mask << (from % 64));
		from += nr;
	}
}
