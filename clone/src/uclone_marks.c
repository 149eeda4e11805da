/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Marks of written blocks in memory that outlives a worker (uclone.h, uclone_env.marks). Pure.
 *
 * First a page whose first word says that the clone has failed; then a summary, one bit for each page of marks; then the marks, one bit
 * a block. A page of marks is looked at only when its summary
 * bit is set: what was never touched stays without memory, in a shared mapping too.
 *
 * Fail-stop is the clone's, not a worker's: what a failed flush lost cannot be told from what it did not, and the next worker
 * would show either as true. So it begins failed, and only a new holder, without these marks, begins anew.
 *
 * Crash. A process may die between any two stores. The summary's bit is set first; the change is answered after both. A mark
 * too many is never made: it is set when the data is in the destination, under the block's lock.
 */
#include "uclone_int.h"

#define MARKS_PAGE 4096u
#define MARKS_PAGE_BLOCKS (MARKS_PAGE * 8ull)

enum { HEAD_BYTES = MARKS_PAGE };

static uint64_t nr_mark_pages(uint64_t nr_blocks)
{
	return (nr_blocks + MARKS_PAGE_BLOCKS - 1) / MARKS_PAGE_BLOCKS;
}

static uint64_t summary_bytes(uint64_t nr_blocks)
{
	return kedge_round_up((nr_mark_pages(nr_blocks) + 63) / 64 * 8, MARKS_PAGE);
}

uint64_t uclone_marks_bytes(uint64_t size_bytes)
{
	uint64_t nr_blocks = uc_nr_blocks(size_bytes);

	return HEAD_BYTES + summary_bytes(nr_blocks) + nr_mark_pages(nr_blocks) * MARKS_PAGE;
}

static uint64_t *summary_of(const struct uclone *u)
{
	return (uint64_t *)((uint8_t *)u->env.marks + HEAD_BYTES);
}

static uint64_t *marks_of(const struct uclone *u)
{
	return (uint64_t *)((uint8_t *)u->env.marks + HEAD_BYTES + summary_bytes(u->nr_blocks));
}

/* A store that is made, and made now: the next reader is another process. */
static void set(uint64_t *words, uint64_t nr)
{
	__atomic_store_n(&words[nr / 64], words[nr / 64] | 1ull << (nr % 64), __ATOMIC_SEQ_CST);
}

void uc_marks_set(struct uclone *u, uint64_t block)
{
	if (!u->env.marks || UC_MUTANT(NO_MARKS))
		return;
	set(summary_of(u), block / MARKS_PAGE_BLOCKS);
	set(marks_of(u), block);
}

void uc_marks_set_failed(struct uclone *u)
{
	if (u->env.marks)
		set(u->env.marks, 0);
}

bool uc_marks_has_failed(const struct uclone *u)
{
	return u->env.marks && *(const uint64_t *)u->env.marks & 1 && !UC_MUTANT(FAILURE_FORGOTTEN);
}

uint64_t uc_marks_take(struct uclone *u)
{
	struct uc_bits summary, marks;
	uint64_t nr = 0;

	if (!u->env.marks)
		return 0;
	summary = (struct uc_bits){.w = summary_of(u), .nr_bits = nr_mark_pages(u->nr_blocks)};
	marks = (struct uc_bits){.w = marks_of(u), .nr_bits = u->nr_blocks};
	for (uint64_t p = 0; (p = uc_bits_find(&summary, p, summary.nr_bits, true)) < summary.nr_bits; p++) {
		uint64_t end = kedge_min_u64((p + 1) * MARKS_PAGE_BLOCKS, u->nr_blocks);
		for (uint64_t b = p * MARKS_PAGE_BLOCKS; (b = uc_bits_find(&marks, b, end, true)) < end; b++) {
			/* where the metadata is lost a mark helps nobody, and its page must stay as it is: it may come back */
			if (uc_is_unknown(u, b, b + 1) || (uc_bit(&u->valid, b) && uc_bit(&u->written, b)))
				continue;
			uc_mark_here(u, b, b + 1, true);
			nr++;
		}
	}
	return nr;
}
