/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Copies of a head start: claims on regions that nobody has, filled by kcopy's hydrator.
 *
 * Owns. The destination's descriptor and its lock, the hydrator, what is taken and done of each block.
 *
 * Locks. The destination's (dm_block.h), on the descriptor that is written through: let go when the last write is over.
 *
 * Crash. Nothing here is durable before the driver's flush, and no bit is: a region whose bit is lost is copied again.
 */
#include "dm_headstart.h"

#include <errno.h>
#include <stdlib.h>

#include "kedge/disk.h"
#include "kedge/file.h"

#define LOCK_MS 1000
#define LOOK_MS 20
#define STALL_MS 10000 /* nothing copied for so long: it is over */

struct claim {
	struct kedge_claim claim;
	struct headstart *h;
	struct kedge_disk_io io;
	const uint8_t *buf;
	const struct kedge_seg *segs;
	uint32_t nr_segs, next_seg;
	uint64_t at_bytes;
	kedge_claim_fn fn;
	void *arg;
};

struct headstart {
	struct headstart_opts o;
	struct kedge_disk *dest;
	struct kedge_claims claims;
	struct kcopy_hydrator *hydrator;
	struct uc_bits taken, done, begun; /* blocks, blocks, regions */
	uint64_t nr_regions, region_blocks;
	uint64_t begun_bytes, copied_bytes;
	unsigned nr_claims;
	bool is_over; /* nothing more is taken */
	uint64_t start_ns, moved_ns, moved_bytes;
	struct kedge_timer look;
};

static struct headstart *of(struct kedge_claims *c)
{
	return kedge_container_of(c, struct headstart, claims);
}

/* May blocks of this region be taken? Of regions that were begun, always: a half one is worth nothing. */
static bool is_open(struct headstart *h, uint64_t region)
{
	if (uc_bit(&h->o.bits, region))
		return false;
	if (uc_bit(&h->begun, region))
		return true;
	if (h->is_over || (h->o.limit_bytes && h->begun_bytes + h->o.region_bytes > h->o.limit_bytes))
		return false;
	uc_bit_set(&h->begun, region);
	h->begun_bytes += h->o.region_bytes;
	return true;
}

static int claims_take(struct kedge_claims *c, uint64_t from_bytes, uint64_t end_bytes, uint64_t max_bytes, struct kedge_claim **ret_claim)
{
	struct headstart *h = of(c);
	uint64_t end = kedge_min_u64((end_bytes + UC_BLOCK - 1) / UC_BLOCK, h->taken.nr_bits), first = from_bytes / UC_BLOCK, stop;
	struct claim *k;

	for (first = uc_bits_find(&h->taken, first, end, false); first < end && !is_open(h, first / h->region_blocks);
	     first = uc_bits_find(&h->taken, first, end, false))
		first = (first / h->region_blocks + 1) * h->region_blocks;
	if (first >= end)
		return h->nr_claims ? -EAGAIN : -ENODATA;
	stop = uc_bits_find(&h->taken, first, kedge_min_u64(end, first + kedge_max_u64(max_bytes / UC_BLOCK, 1)), true);
	for (uint64_t r = first / h->region_blocks + 1; r * h->region_blocks < stop; r++)
		if (!is_open(h, r))
			stop = r * h->region_blocks;
	k = calloc(1, sizeof *k);
	if (!k)
		return -ENOMEM;
	k->h = h;
	k->claim = (struct kedge_claim){.start_bytes = first * UC_BLOCK, .nr_bytes = (stop - first) * UC_BLOCK};
	for (uint64_t b = first; b < stop; b++)
		uc_bit_set(&h->taken, b);
	h->nr_claims++;
	*ret_claim = &k->claim;
	return 0;
}

static void end_claim(struct claim *k)
{
	struct headstart *h = k->h;

	free(k);
	h->nr_claims--;
	if (h->claims.wake_fn)
		h->claims.wake_fn(h->claims.wake_arg);
}

static void free_blocks(struct claim *k)
{
	uc_bits_clear_range(&k->h->taken, k->claim.start_bytes / UC_BLOCK, (k->claim.start_bytes + k->claim.nr_bytes) / UC_BLOCK);
}

/* The driver reads bits when it has been told that we are done; a worker that dies before leaves those that are true. */
static void set_done(struct claim *k)
{
	struct headstart *h = k->h;
	uint64_t first = k->claim.start_bytes / UC_BLOCK, end = first + k->claim.nr_bytes / UC_BLOCK;

	for (uint64_t b = first; b < end; b++)
		uc_bit_set(&h->done, b);
	for (uint64_t r = first / h->region_blocks; r * h->region_blocks < end; r++) {
		uint64_t start = r * h->region_blocks;
		if (uc_bits_find(&h->done, start, start + h->region_blocks, false) == start + h->region_blocks)
			__atomic_fetch_or(&h->o.bits.w[r / 64], 1ull << (r % 64), __ATOMIC_SEQ_CST);
	}
	h->copied_bytes += k->claim.nr_bytes;
}

static void fill_next(struct claim *k);

static void fill_cb(struct kedge_disk_io *io, int res)
{
	struct claim *k = kedge_container_of(io, struct claim, io);
	kedge_claim_fn fn = k->fn;
	void *arg = k->arg;

	if (res == 0 && k->next_seg < k->nr_segs) {
		fill_next(k);
		return;
	}
	if (res == 0)
		set_done(k);
	else
		free_blocks(k);
	end_claim(k);
	fn(arg, res);
}

/* Zeroes are written too, where the destination holds anything: what lies in it is not ours to trust. */
static void fill_next(struct claim *k)
{
	const struct kedge_seg *s = &k->segs[k->next_seg++];

	k->io = (struct kedge_disk_io){.op = s->is_zero ? KEDGE_DISK_ZERO : KEDGE_DISK_WRITE, .start_bytes = k->at_bytes,
				       .nr_bytes = s->nr_bytes, .fn = fill_cb, .may_stay_hole = s->is_zero};
	if (!s->is_zero)
		k->io.buf = (void *)(uintptr_t)(k->buf + (k->at_bytes - k->claim.start_bytes));
	k->at_bytes += s->nr_bytes;
	kedge_disk_submit(k->h->dest, &k->io);
}

static void claims_fill(struct kedge_claims *c, struct kedge_claim *claim, const void *buf, const struct kedge_seg *segs, uint32_t nr_segs,
			kedge_claim_fn fn, void *arg)
{
	struct claim *k = kedge_container_of(claim, struct claim, claim);

	(void)c;
	k->buf = buf;
	k->segs = segs;
	k->nr_segs = nr_segs;
	k->at_bytes = claim->start_bytes;
	k->fn = fn;
	k->arg = arg;
	fill_next(k);
}

static void claims_drop(struct kedge_claims *c, struct kedge_claim *claim, int res)
{
	struct claim *k = kedge_container_of(claim, struct claim, claim);

	(void)c;
	if (res != KEDGE_E_SOURCE_MEDIUM) /* bad at the source: not offered again, and its region stays there */
		free_blocks(k);
	end_claim(k);
}

static const struct kedge_claims_ops claims_ops = {.take = claims_take, .fill = claims_fill, .drop = claims_drop};

static void look_cb(struct kedge_timer *t)
{
	struct headstart *h = kedge_container_of(t, struct headstart, look);
	uint64_t now = kedge_clock_ns();

	if (h->copied_bytes != h->moved_bytes) {
		h->moved_bytes = h->copied_bytes;
		h->moved_ns = now;
	}
	if ((h->o.limit_ms && now - h->start_ns >= h->o.limit_ms * 1000000ull) || now - h->moved_ns >= STALL_MS * 1000000ull)
		headstart_stop(h);
	else
		kedge_timer_start(h->o.loop, t, LOOK_MS);
}

static void done_cb(void *arg, int res, const struct kedge_err *err)
{
	struct headstart *h = arg;

	if (res < 0 && res != -ECANCELED)
		h->o.event_fn(h->o.arg, "HEAD_START_CUT", err->msg);
	kedge_timer_stop(h->o.loop, &h->look);
	kedge_assert(h->nr_claims == 0);
	kedge_disk_close(h->dest); /* and with it the lock */
	h->dest = NULL;
	h->o.done_fn(h->o.arg);
}

void headstart_stop(struct headstart *h)
{
	if (h->is_over)
		return;
	h->is_over = true;
	kcopy_hydrator_stop(h->hydrator);
}

void headstart_set_rate(struct headstart *h, uint64_t rate_bps)
{
	if (rate_bps == h->o.rate_bps)
		return;
	h->o.rate_bps = rate_bps;
	kcopy_hydrator_set_rate(h->hydrator, rate_bps);
}

uint64_t headstart_bytes(const struct headstart *h)
{
	return h->copied_bytes;
}

void headstart_destroy(struct headstart *h)
{
	if (!h)
		return;
	kcopy_hydrator_destroy(h->hydrator);
	kedge_disk_close(h->dest);
	uc_bits_fini(&h->taken);
	uc_bits_fini(&h->done);
	uc_bits_fini(&h->begun);
	free(h);
}

int headstart_start(const struct headstart_opts *o, struct headstart **ret_h, struct kedge_err *err)
{
	struct kcopy_hydrator_opts ko = {.rate_bps = o->rate_bps, .event_fn = o->event_fn, .event_arg = o->arg, .first = o->first, .nr_first = o->nr_first};
	struct headstart *h = calloc(1, sizeof *h);
	int r = h ? 0 : kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory");

	if (r < 0)
		return r;
	h->o = *o;
	h->nr_regions = o->size_bytes / o->region_bytes; /* a short last one cannot be marked */
	h->region_blocks = o->region_bytes / UC_BLOCK;
	h->claims = (struct kedge_claims){.ops = &claims_ops, .size_bytes = h->nr_regions * o->region_bytes};
	if (uc_bits_init(&h->taken, h->nr_regions * h->region_blocks) < 0 || uc_bits_init(&h->done, h->nr_regions * h->region_blocks) < 0 ||
	    uc_bits_init(&h->begun, h->nr_regions) < 0)
		r = kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory");
	if (r == 0)
		r = kedge_disk_open(o->loop, o->dest_path, 0, &h->dest, err);
	if (r == 0 && kedge_lock(kedge_disk_fd(h->dest), LOCK_MS) < 0)
		r = kedge_err_set(err, -EBUSY, KEDGE_SIDE_DESTINATION, "somebody is writing %s", o->dest_path);
	if (r == 0)
		r = kcopy_hydrator_create(o->loop, o->source, &h->claims, &ko, &h->hydrator, err);
	if (r < 0) {
		headstart_destroy(h);
		return r;
	}
	h->start_ns = h->moved_ns = kedge_clock_ns();
	h->look.fn = look_cb;
	kedge_timer_start(o->loop, &h->look, LOOK_MS);
	kcopy_hydrator_start(h->hydrator, done_cb, h);
	*ret_h = h;
	return 0;
}
