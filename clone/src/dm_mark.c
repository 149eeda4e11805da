/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Regions that a head start copied are marked as hydrated.
 *
 * Owns. Nothing beyond each call.
 *
 * Locks. The destination's, from before the flush; the caller keeps it.
 *
 * Crash. A mark in META.dm is true for ever: it is submitted after a flush of the destination that began when every copy had ended. So a crash
 *   before 2: no marks; the source is read, whatever lies in the destination.
 *   between 2 and 3: likewise; META.dm is formatted and empty.
 *   between 3 and 5: some marks are committed, each of data that is durable; META (state created, marked) says that they may be there, so that
 *   the next start takes them instead of refusing META.dm as another clone's. The head start goes on where the marks end.
 *   after 5: all are. The workload has nothing yet; META becomes live only after this, so no head start ever begins on a clone with data of its own.
 */
#include "dm_mark.h"

#include <errno.h>
#include <inttypes.h>

#include "dm_block.h"
#include "kedge/file.h"
#include "kedge/log.h"

uint64_t dm_mark_nr_regions(const struct dm_stack *st)
{
	return st->nr_sectors / (st->rec->super.dm_region_bytes / 512);
}

static int check_quiet(const struct dm_stack *st, struct kedge_err *err)
{
	struct dm_clone_status s;
	struct dmdev_info i;
	int r = dmdev_info(st->top, &i, err);

	if (r == 0)
		r = dm_stack_status(st, false, &s, err);
	if (r == 0 && (i.exists || s.mode != DM_MODE_RW || s.is_hydration_on || s.nr_hydrating))
		r = kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_NONE, "%s is in use: no head start", st->clone);
	return r;
}

bool dm_mark_is_possible(const struct dm_stack *st)
{
	return st->rec->super.state == UCLONE_CREATED && check_quiet(st, NULL) == 0;
}

int dm_mark_recall(const struct dm_stack *st, struct uc_bits *bits, struct kedge_err *err)
{
	struct dm_clone_status s;
	int r = dm_stack_status(st, true, &s, err); /* commits, and with it a clone that is new has a bitmap */

	return r < 0 ? r : dm_record_bits(st->rec, 0, bits->nr_bits, bits->w, err);
}

/* One call a run of regions. */
static int discard_runs(const struct dm_stack *st, const struct uc_bits *bits, struct kedge_err *err)
{
	uint64_t region_bytes = st->rec->super.dm_region_bytes, first, end = 0;
	int fd, r = dm_block_open(st->clone, true, &fd, err);

	if (r < 0)
		return r;
	for (first = uc_bits_find(bits, 0, bits->nr_bits, true); first < bits->nr_bits && r == 0;
	     first = uc_bits_find(bits, end, bits->nr_bits, true)) {
		end = uc_bits_find(bits, first, bits->nr_bits, false);
		r = dm_block_discard(fd, st->clone, first * region_bytes, (end - first) * region_bytes, err);
	}
	kedge_close(fd);
	return r;
}

/* What the kernel made durable is what was copied, and no region more: one more would show what lay in the destination (K2). */
static int check_marks(const struct dm_stack *st, const struct uc_bits *bits, uint64_t *ret_nr, struct kedge_err *err)
{
	struct dm_clone_status s;
	struct uc_bits now;
	int r = dm_stack_status(st, true, &s, err);

	if (r == 0 && s.mode != DM_MODE_RW)
		r = kedge_err_set(err, KEDGE_E_FAILED, KEDGE_SIDE_METADATA, "%s has failed", st->clone);
	if (r < 0)
		return r;
	if (uc_bits_init(&now, s.nr_regions) < 0)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory");
	r = dm_record_bits(st->rec, 0, s.nr_regions, now.w, err);
	for (uint64_t i = 0; i < s.nr_regions && r == 0; i++)
		if (uc_bit(&now, i) && (i >= bits->nr_bits || !uc_bit(bits, i)))
			r = kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA,
					  "region %" PRIu64 " of %s is marked, but was not copied: not serving", i, st->clone);
	*ret_nr = r == 0 ? uc_bits_count(&now, 0, s.nr_regions) : 0;
	uc_bits_fini(&now);
	return r;
}

static int mark(struct dm_stack *st, const struct uc_bits *bits, int dest_fd, uint64_t *ret_nr, struct kedge_err *err)
{
	struct kedge_err refused = {0};
	int r = check_quiet(st, err), withheld;

	if (r == 0)
		r = dm_block_flush(dest_fd, st->rec->super.opts.dest_path, err);
	if (r == 0 && !st->rec->super.dm_is_marked) {
		st->rec->super.dm_is_marked = true;
		r = dm_record_write(st->rec, err);
	}
	if (r < 0)
		return r;
	dm_stack_allow_discards(st->clone);
	if (discard_runs(st, bits, &refused) < 0)
		kedge_warn("%s: the rest of the head start is copied again", refused.msg);
	withheld = dm_stack_withhold_discards(st->clone, err);
	return withheld < 0 ? withheld : check_marks(st, bits, ret_nr, err);
}

int dm_mark_run(struct dm_stack *st, const struct uc_bits *bits, int *ret_lock_fd, uint64_t *ret_nr, struct kedge_err *err)
{
	bool is_any = bits && uc_bits_find(bits, 0, bits->nr_bits, true) < bits->nr_bits;
	int fd, r = dm_block_lock(st->rec->super.opts.dest_path, DM_BLOCK_LOCK_MS, &fd, err);

	*ret_nr = 0;
	if (r < 0)
		return r;
	if (is_any)
		r = mark(st, bits, fd, ret_nr, err);
	if (r < 0)
		kedge_close(fd);
	else
		*ret_lock_fd = fd;
	return r;
}
