/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What the hydrator sees of a clone: runs to fill, and runs to compare with the source.
 *
 * Owns. The claims under way. A claim keeps other claims off its blocks; against the workload it holds nothing until fill takes
 * the range lock. A block that the workload wrote before that is here by then, and fill leaves it alone: under the lock, the valid
 * bit is the token. A claim that was dropped cannot be filled any more: its object is gone.
 *
 * Locks. The range lock of the claim's blocks, from fill's first write to after its bits; of large claims, holes, part by part, so that a write
 * of the workload does not wait for all of it. What is written between two parts has its bits before the next one is locked.
 *
 * Crash. As a foreground write: data, then bits in memory, made durable by a commit.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "uclone_int.h"

#define FILL_LOCK_BYTES (64ull << 20)

static struct uclone *volume_of(struct kedge_claims *c)
{
	return kedge_container_of(c, struct uclone, claims);
}

/* The end of the claim that owns the block, or the block itself when none does. */
static uint64_t owner_end(const struct uclone *u, uint64_t block)
{
	for (const struct uc_claim *c = u->claims_list; c; c = c->next) {
		uint64_t z = (c->claim.start_bytes + c->claim.nr_bytes + UC_BLOCK - 1) / UC_BLOCK;
		if (c->claim.start_bytes / UC_BLOCK <= block && block < z)
			return z;
	}
	return block;
}

/* First block in [first, end) that another claim owns, or end. */
static uint64_t find_claimed(const struct uclone *u, uint64_t first, uint64_t end)
{
	uint64_t at = end;

	for (const struct uc_claim *c = u->claims_list; c; c = c->next) {
		uint64_t a = c->claim.start_bytes / UC_BLOCK;
		uint64_t z = (c->claim.start_bytes + c->claim.nr_bytes + UC_BLOCK - 1) / UC_BLOCK;
		if (a < at && first < z)
			at = kedge_max_u64(a, first);
	}
	return at;
}

static int claims_take(struct kedge_claims *kc, uint64_t from_bytes, uint64_t end_bytes, uint64_t max_bytes,
		       struct kedge_claim **ret_claim)
{
	struct uclone *u = volume_of(kc);
	uint64_t b = (from_bytes + UC_BLOCK - 1) / UC_BLOCK; /* the end of a volume with a short last block rounds up */
	uint64_t end = (kedge_min_u64(end_bytes, u->size_bytes) + UC_BLOCK - 1) / UC_BLOCK;
	bool has_owned = false;

	if (u->is_failed || u->is_closing || u->is_aborted)
		return KEDGE_E_FAILED;
	if (u->is_passthrough)
		return -ENODATA;
	while ((b = uc_bits_find(&u->valid, b, end, false)) < end) {
		const struct uc_bad *bad = uc_find_bad(u, b, b + 1);
		if (bad && !UC_MUTANT(BAD_IS_OFFERED)) {
			b = bad->end;
			continue;
		}
		if (uc_is_unknown(u, b, b + 1)) {
			b = (b / UC_SECTOR_BLOCKS + 1) * UC_SECTOR_BLOCKS;
			continue;
		}
		uint64_t z = owner_end(u, b);
		if (z > b || uc_locks_find(&u->locks, b, b + 1) == b) {
			has_owned = true;
			b = z > b ? z : b + 1;
			continue;
		}
		break;
	}
	if (b >= end) {
		if (has_owned)
			u->is_claims_waiting = true;
		return has_owned ? -EAGAIN : -ENODATA;
	}
	uint64_t stop = kedge_min_u64(end, b + kedge_max_u64(max_bytes / UC_BLOCK, 1));
	stop = uc_bits_find(&u->valid, b, stop, true);
	stop = find_claimed(u, b, stop);
	stop = uc_locks_find(&u->locks, b, stop);
	for (const struct uc_bad *bad = u->bad; bad; bad = bad->next)
		if (bad->first > b && bad->first < stop)
			stop = bad->first;
	while (uc_is_unknown(u, b, stop))
		stop = kedge_min_u64((stop - 1) / UC_SECTOR_BLOCKS * UC_SECTOR_BLOCKS, stop - 1);

	struct uc_claim *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	static uint64_t next_token;
	c->u = u;
	c->claim.start_bytes = b * UC_BLOCK;
	c->claim.nr_bytes = kedge_min_u64(stop * UC_BLOCK, u->size_bytes) - c->claim.start_bytes;
	c->claim.token = ++next_token;
	c->next = u->claims_list;
	u->claims_list = c;
	*ret_claim = &c->claim;
	return 0;
}

static void unlink_claim(struct uc_claim *c)
{
	struct uc_claim **p = &c->u->claims_list;

	while (*p != c) {
		kedge_assert(*p != NULL); /* a claim that is not ours any more */
		p = &(*p)->next;
	}
	*p = c->next;
}

static void wake_cb(void *arg)
{
	struct uclone *u = arg;

	if (u->claims.wake_fn)
		u->claims.wake_fn(u->claims.wake_arg);
}

void uc_claims_wake(struct uclone *u)
{
	if (!u->is_claims_waiting || u->wake.is_queued)
		return;
	u->is_claims_waiting = false;
	u->wake = (struct kedge_defer){.fn = wake_cb, .arg = u};
	kedge_defer_add(u->env.defer, &u->wake);
}

static void fill_end(struct uc_claim *c, int res)
{
	struct uclone *u = c->u;
	kedge_claim_fn fn = c->fn;
	void *arg = c->arg;

	uc_unlock(&u->locks, &c->lock);
	unlink_claim(c);
	free(c);
	uc_claims_wake(u);
	fn(arg, res);
	uc_try_close(u);
}

static void fill_next(struct uc_claim *c);
static void fill_lock_part(struct uc_claim *c);

static void fill_cb(struct kedge_disk_io *io, int res)
{
	struct uc_claim *c = kedge_container_of(io, struct uc_claim, io);
	struct uclone *u = c->u;

	if (res < 0 || u->is_failed) {
		fill_end(c, res < 0 ? res : KEDGE_E_FAILED);
		return;
	}
	uint64_t first = io->start_bytes / UC_BLOCK;
	uint64_t end = (io->start_bytes + io->nr_bytes + UC_BLOCK - 1) / UC_BLOCK;
	if (UC_MUTANT(NO_TOKEN)) {
		/* the mutant overwrote what the workload wrote: its bits stay as they are */
		for (uint64_t b = first; b < end; b++)
			if (!uc_bit(&u->valid, b))
				uc_mark_here(u, b, b + 1, false);
	} else {
		uc_mark_here(u, first, end, false);
	}
	uc_commit_much(u);
	c->at_bytes = io->start_bytes + io->nr_bytes;
	fill_next(c);
}

/* The next run of blocks in the part that are still missing and of one kind (data or zeroes). */
static void fill_next(struct uc_claim *c)
{
	struct uclone *u = c->u;
	uint64_t seg_start = c->claim.start_bytes;

	for (uint32_t i = 0; i < c->nr_segs && c->at_bytes < c->part_end_bytes; seg_start += c->segs[i].nr_bytes, i++) {
		uint64_t seg_end = kedge_min_u64(seg_start + c->segs[i].nr_bytes, c->part_end_bytes);
		if (c->at_bytes >= seg_end)
			continue;
		uint64_t b = c->at_bytes / UC_BLOCK, end = (seg_end + UC_BLOCK - 1) / UC_BLOCK;
		uint64_t first = UC_MUTANT(NO_TOKEN) ? b : uc_bits_find(&u->valid, b, end, false);
		if (first >= end) {
			c->at_bytes = seg_end;
			continue;
		}
		uint64_t stop = UC_MUTANT(NO_TOKEN) ? end : uc_bits_find(&u->valid, first, end, true);
		uint64_t start_bytes = first * UC_BLOCK;
		c->io = (struct kedge_disk_io){
			.op = c->segs[i].is_zero ? KEDGE_DISK_ZERO : KEDGE_DISK_WRITE,
			.start_bytes = start_bytes,
			.nr_bytes = kedge_min_u64(stop * UC_BLOCK, seg_end) - start_bytes,
			.fn = fill_cb,
			.may_stay_hole = c->segs[i].is_zero,
		};
		if (!c->segs[i].is_zero)
			c->io.buf = (void *)(uintptr_t)(c->buf + (start_bytes - c->claim.start_bytes));
		if (c->segs[i].is_zero && UC_MUTANT(ZERO_SKIP)) {
			fill_cb(&c->io, 0); /* trusts that the destination holds zeroes */
			return;
		}
		kedge_disk_submit(u->env.dest, &c->io);
		return;
	}
	if (c->part_end_bytes < c->claim.start_bytes + c->claim.nr_bytes) {
		uc_unlock(&u->locks, &c->lock);
		fill_lock_part(c);
	} else {
		fill_end(c, 0);
	}
}

static void fill_start_cb(void *arg)
{
	struct uc_claim *c = arg;

	if (c->u->is_failed)
		fill_end(c, KEDGE_E_FAILED);
	else
		fill_next(c);
}

static void fill_granted(struct uc_lock *k)
{
	struct uc_claim *c = kedge_container_of(k, struct uc_claim, lock);

	c->defer = (struct kedge_defer){.fn = fill_start_cb, .arg = c};
	kedge_defer_add(c->u->env.defer, &c->defer);
}

static void fill_lock_part(struct uc_claim *c)
{
	struct uclone *u = c->u;
	uint64_t part_bytes = u->env.fill_lock_bytes ? u->env.fill_lock_bytes : FILL_LOCK_BYTES;
	uint64_t first = c->at_bytes / UC_BLOCK;

	c->part_end_bytes = kedge_min_u64(c->at_bytes + part_bytes, c->claim.start_bytes + c->claim.nr_bytes);
	if (uc_lock(&u->locks, &c->lock, first, UC_MUTANT(FILL_NO_LOCK) ? first : (c->part_end_bytes + UC_BLOCK - 1) / UC_BLOCK))
		fill_granted(&c->lock);
}

static void claims_fill(struct kedge_claims *kc, struct kedge_claim *claim, const void *buf, const struct kedge_seg *segs,
			uint32_t nr_segs, kedge_claim_fn fn, void *arg)
{
	struct uc_claim *c = kedge_container_of(claim, struct uc_claim, claim);

	c->is_filling = true;
	c->buf = buf;
	c->segs = segs;
	c->nr_segs = nr_segs;
	c->at_bytes = claim->start_bytes;
	c->fn = fn;
	c->arg = arg;
	c->lock.granted = fill_granted;
	fill_lock_part(c);
}

/* A disk fails in stretches, found block by block: what touches is one range. */
static void put_bad(struct uclone *u, uint64_t first, uint64_t end)
{
	struct uc_bad *bad;

	for (struct uc_bad **p = &u->bad; *p;) {
		bad = *p;
		if (bad->end < first || end < bad->first) {
			p = &bad->next;
			continue;
		}
		first = kedge_min_u64(first, bad->first);
		end = kedge_max_u64(end, bad->end);
		*p = bad->next;
		free(bad);
	}
	bad = calloc(1, sizeof *bad);
	kedge_assert(bad != NULL);
	*bad = (struct uc_bad){.first = first, .end = end, .next = u->bad};
	u->bad = bad;
	u->counters.nr_bad_changes++;
}

static void add_bad(struct uclone *u, const struct kedge_claim *k)
{
	uint64_t first = k->start_bytes / UC_BLOCK, end = (k->start_bytes + k->nr_bytes + UC_BLOCK - 1) / UC_BLOCK;

	bool is_first = !u->bad;

	put_bad(u, first, end);
	/* what the workload has written meanwhile is not bad */
	for (uint64_t b = first; b < end; b++)
		if (uc_bit(&u->valid, b))
			uc_heal_bad(u, b, b + 1);
	if (is_first) /* of perhaps thousands: the others are told by nr_bad_changes */
		uc_event(u, "bad-range", "the source cannot read bytes %" PRIu64 " to %" PRIu64
			 ", perhaps more; reads of them fail until they are overwritten", k->start_bytes, k->start_bytes + k->nr_bytes);
}

int uclone_next_bad(const struct uclone *u, uint64_t from_bytes, uint64_t *ret_start_bytes, uint64_t *ret_nr_bytes)
{
	const struct uc_bad *next = NULL;

	for (const struct uc_bad *b = u->bad; b; b = b->next)
		if (b->end * UC_BLOCK > from_bytes && (!next || b->first < next->first))
			next = b;
	if (!next)
		return -ENODATA;
	*ret_start_bytes = kedge_max_u64(next->first * UC_BLOCK, from_bytes);
	*ret_nr_bytes = kedge_min_u64(next->end * UC_BLOCK, u->size_bytes) - *ret_start_bytes;
	return 0;
}

void uclone_forget_bad(struct uclone *u)
{
	while (u->bad && !UC_MUTANT(BAD_NOT_FORGOTTEN)) {
		struct uc_bad *next = u->bad->next;
		free(u->bad);
		u->bad = next;
		u->counters.nr_bad_changes++;
	}
}

static void claims_drop(struct kedge_claims *kc, struct kedge_claim *claim, int res)
{
	struct uc_claim *c = kedge_container_of(claim, struct uc_claim, claim);
	struct uclone *u = c->u;

	kedge_assert(!c->is_filling);
	if (res == KEDGE_E_SOURCE_MEDIUM) {
		u->counters.nr_source_errors++;
		add_bad(u, claim);
	}
	unlink_claim(c);
	free(c);
	uc_claims_wake(u);
	uc_try_close(u);
}

static int claims_audit_next(struct kedge_claims *kc, uint64_t from_bytes, uint64_t max_bytes, uint64_t *ret_start_bytes,
			     uint64_t *ret_nr_bytes)
{
	struct uclone *u = volume_of(kc);
	uint64_t b = (from_bytes + UC_BLOCK - 1) / UC_BLOCK; /* the end of a volume with a short last block rounds up */

	if (u->is_passthrough)
		return -ENODATA; /* HYDRATED: what is written since is not recorded any more */
	while ((b = uc_bits_find(&u->valid, b, u->nr_blocks, true)) < u->nr_blocks && uc_bit(&u->written, b)) {
		b = uc_bits_find(&u->written, b, u->nr_blocks, false);
	}
	if (b >= u->nr_blocks)
		return -ENODATA;
	uint64_t stop = kedge_min_u64(u->nr_blocks, b + kedge_max_u64(max_bytes / UC_BLOCK, 1));
	stop = uc_bits_find(&u->valid, b, stop, false);
	stop = uc_bits_find(&u->written, b, stop, true);
	*ret_start_bytes = b * UC_BLOCK;
	*ret_nr_bytes = kedge_min_u64(stop * UC_BLOCK, u->size_bytes) - b * UC_BLOCK;
	return 0;
}

static void audit_cb(void *arg, int res);

struct audit {
	struct uc_disk_call call;
	kedge_claim_fn fn;
	void *arg;
};

static void audit_cb(void *arg, int res)
{
	struct audit *a = arg;
	kedge_claim_fn fn = a->fn;
	void *fn_arg = a->arg;

	free(a);
	fn(fn_arg, res);
}

static void claims_audit_read(struct kedge_claims *kc, uint64_t start_bytes, uint64_t nr_bytes, void *buf,
			      kedge_claim_fn fn, void *arg)
{
	struct uclone *u = volume_of(kc);
	struct audit *a = calloc(1, sizeof *a);

	kedge_assert(a != NULL);
	a->fn = fn;
	a->arg = arg;
	uc_disk_call(&a->call, u->env.dest, KEDGE_DISK_READ, start_bytes, nr_bytes, buf, audit_cb, a);
}

static uint64_t claims_audit_hole_end(struct kedge_claims *kc, uint64_t start_bytes, uint64_t end_bytes)
{
	return kedge_disk_hole_end(volume_of(kc)->env.dest, start_bytes, end_bytes);
}

static bool claims_audit_is_written(struct kedge_claims *kc, uint64_t block_start_bytes)
{
	struct uclone *u = volume_of(kc);
	uint64_t b = block_start_bytes / UC_BLOCK;

	/* a change under way may have reached the disk before its bit is set */
	return uc_bit(&u->written, b) || uc_locks_find(&u->locks, b, b + 1) == b;
}

static const struct kedge_claims_ops claims_ops = {
	.take = claims_take,
	.fill = claims_fill,
	.drop = claims_drop,
	.audit_next = claims_audit_next,
	.audit_read = claims_audit_read,
	.audit_hole_end = claims_audit_hole_end,
	.audit_is_written = claims_audit_is_written,
};

void uc_claims_init(struct uclone *u)
{
	u->claims.ops = &claims_ops;
	u->claims.size_bytes = u->size_bytes;
}

struct kedge_claims *uclone_claims(struct uclone *u)
{
	return &u->claims;
}
