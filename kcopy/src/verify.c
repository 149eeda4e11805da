/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The final comparison: every block that is here and that the workload has not written is read on both sides, and of holes as much
 * as verify_next.c says. What travels for it is the source's bytes or a checksum of them (verify_sum.c); where that differs, or cannot be had, the bytes.
 *
 * Owns. Nothing beyond the hydrator's copies.
 *
 * Locks. None: loop thread only.
 */
#include <errno.h>
#include <inttypes.h>

#include "hydrator.h"
#include "kedge/bytes.h"

void kcopy_verify_begin(struct kcopy_hydrator *h)
{
	h->cursor_bytes = 0;
	h->verified_bytes = h->mismatch_bytes = h->agreed_bytes = h->sampled_bytes = h->checksum_bytes = 0;
	h->first_mismatch_bytes = UINT64_MAX;
	h->has_no_sums = false;
	if (!h->claims->ops->audit_next || !h->claims->ops->audit_read)
		kcopy_hydrator_fail(h, -ENOTSUP, NULL, "comparing");
	kcopy_verify_next_begin(h);
}

static void compare(struct kcopy_copy *c)
{
	struct kcopy_hydrator *h = c->h;
	const char *theirs = c->buf, *ours = c->own_buf;

	if (memcmp(theirs, ours, c->nr_bytes) == 0) {
		h->verified_bytes += c->nr_bytes;
		return;
	}
	for (uint64_t at = 0; at < c->nr_bytes; at += KEDGE_BLOCK_BYTES) {
		uint64_t here = kedge_min_u64(KEDGE_BLOCK_BYTES, c->nr_bytes - at);
		uint64_t block = c->start_bytes + at;

		if (memcmp(theirs + at, ours + at, here) == 0) {
			h->verified_bytes += here;
			continue;
		}
		/* written since audit_next offered it: the difference is the workload's */
		if (h->claims->ops->audit_is_written && h->claims->ops->audit_is_written(h->claims, block))
			continue;
		h->mismatch_bytes += here;
		h->first_mismatch_bytes = kedge_min_u64(h->first_mismatch_bytes, block);
	}
}

/* The destination alone was read, where the source says it has a hole. */
static void compare_own(struct kcopy_copy *c)
{
	if (kedge_is_zero(c->own_buf, c->nr_bytes)) {
		c->h->agreed_bytes += c->nr_bytes;
		return;
	}
	c->check = KCOPY_CHECK_BOTH; /* then the source has to be read there */
	c->must_repeat = true;
}

static void compare_sides(struct kcopy_copy *c)
{
	struct kcopy_hydrator *h = c->h;
	uint64_t before = h->verified_bytes;

	kcopy_meter_add(&h->meter, c->nr_bytes, kedge_loop_now_ns(h->loop));
	compare(c);
	if (c->check == KCOPY_CHECK_SAMPLE)
		h->sampled_bytes += h->verified_bytes - before;
}

static void compare_sums(struct kcopy_copy *c)
{
	if (c->source_res == 0 && kcopy_verify_sum_compare(c)) {
		kcopy_meter_add(&c->h->meter, c->nr_bytes, kedge_loop_now_ns(c->h->loop));
		return;
	}
	if (c->source_res == -EOPNOTSUPP)
		kcopy_bucket_give(&c->h->bucket, c->nr_bytes); /* it has read nothing */
	/* What own_buf differs in is a difference, or had been written by the workload by the time it was read: the record of that stays. */
	c->check = KCOPY_CHECK_SOURCE;
	c->must_repeat = true;
}

static bool is_away(const struct kcopy_copy *c)
{
	return c->source_res == -ECANCELED || kedge_err_class_of(c->source_res) == KEDGE_CLASS_TRANSIENT;
}

static void side_done(struct kcopy_copy *c)
{
	struct kcopy_hydrator *h = c->h;

	if (--c->nr_pending > 0)
		return;
	if (c->check != KCOPY_CHECK_OWN)
		h->issued_bytes -= c->nr_bytes;
	kcopy_copy_ended(c);
	if (c->own_res != 0)
		kcopy_hydrator_fail(h, c->own_res, NULL, "reading the destination");
	else if (c->check == KCOPY_CHECK_OWN)
		compare_own(c);
	else if (c->source_res != 0 && is_away(c))
		c->must_repeat = true; /* the same range again when it is back */
	else if (c->check == KCOPY_CHECK_SUM)
		compare_sums(c);
	else if (c->source_res == 0)
		compare_sides(c);
	else
		kcopy_hydrator_fail(h, c->source_res, &c->io.err, "reading the source");
	if (!c->must_repeat) {
		c->is_busy = false;
		h->nr_busy--;
	}
	kcopy_hydrator_pump(h);
}

void kcopy_verify_forget(struct kcopy_hydrator *h)
{
	for (uint32_t i = 0; h->copies && i < h->nr_inflight; i++) {
		if (!h->copies[i].must_repeat)
			continue;
		h->copies[i].must_repeat = h->copies[i].is_busy = false;
		h->nr_busy--;
	}
}

static void source_cb(struct kedge_source_io *io, int res)
{
	struct kcopy_copy *c = io->arg;

	c->is_reading = false;
	c->source_res = res;
	/* asked of each range, each would cost a round trip for nothing, or all the tries there are */
	if (c->check == KCOPY_CHECK_SUM && (res == -EOPNOTSUPP || res == KEDGE_E_SOURCE_DAMAGED))
		c->h->has_no_sums = true;
	/* of a sum that cannot be had the bytes are yet to say whether anything is wrong */
	bool is_final = c->check != KCOPY_CHECK_SUM || is_away(c);
	if (res != 0 && res != -ECANCELED && io->err.code != 0 && is_final)
		c->h->last_err = io->err;
	side_done(c);
}

static void own_cb(void *arg, int res)
{
	struct kcopy_copy *c = arg;

	c->own_res = res;
	side_done(c);
}

static void begin(struct kcopy_hydrator *h, struct kcopy_copy *c)
{
	c->must_repeat = false;
	c->own_res = c->source_res = 0;
	kcopy_copy_begun(c, c->nr_bytes);
	c->nr_pending = c->check == KCOPY_CHECK_OWN || c->check == KCOPY_CHECK_SOURCE ? 1 : 2;
	if (c->check == KCOPY_CHECK_SUM)
		kcopy_copy_ask(c, h->src->ops->sums, source_cb);
	else if (c->check != KCOPY_CHECK_OWN)
		kcopy_copy_ask(c, h->src->ops->read, source_cb);
	if (c->check != KCOPY_CHECK_SOURCE)
		h->claims->ops->audit_read(h->claims, c->start_bytes, c->nr_bytes, c->own_buf, own_cb, c);
}

/* False: there is nothing to begin with now. */
static bool next(struct kcopy_hydrator *h, struct kcopy_copy *c)
{
	uint64_t max_bytes = h->next_bytes;

	c->check = kcopy_verify_next(h, max_bytes, &c->start_bytes, &c->nr_bytes);
	if (c->check == KCOPY_CHECK_WAIT || c->check == KCOPY_CHECK_END)
		return false;
	if (c->check == KCOPY_CHECK_BOTH && kcopy_verify_can_sum(h))
		c->check = KCOPY_CHECK_SUM;
	c->is_busy = true;
	h->nr_busy++;
	return true;
}

bool kcopy_verify_pump(struct kcopy_hydrator *h)
{
	for (uint32_t i = 0; i < h->nr_inflight; i++) {
		struct kcopy_copy *c = &h->copies[i];

		if (c->is_busy && !c->must_repeat)
			continue;
		if (!kcopy_hydrator_may_begin(h))
			return false;
		if (!c->must_repeat && !next(h, c))
			continue;
		begin(h, c);
	}
	if (h->nr_busy > 0 || h->is_asking || h->cursor_bytes < h->claims->size_bytes)
		return false;
	if (h->mismatch_bytes == 0)
		return true;
	struct kedge_err err = { 0 };
	kedge_err_set(&err, KEDGE_E_VERIFY, KEDGE_SIDE_DESTINATION,
		      "%" PRIu64 " bytes differ from the source, the first at byte %" PRIu64, h->mismatch_bytes,
		      h->first_mismatch_bytes);
	kcopy_hydrator_fail(h, KEDGE_E_VERIFY, &err, "verification");
	return false;
}
