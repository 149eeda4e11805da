/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The finish of a kernel clone, in its one right order.
 *
 * Owns. Nothing.
 *
 * Locks. META, held by the driver.
 *
 * Crash. Before 3: a live clone, with its source. After 3: the next start finds HYDRATED and leads the top to the destination, whatever
 * devices are left. The top is led there by suspend, load, resume: a write is either below the clone before, or on the destination after.
 */
#include "dm_finish.h"

int dm_finish(struct dm_stack *st, struct kedge_err *err)
{
	struct uc_super *s = &st->rec->super, before = *s;
	int r = dm_stack_prove(st, err);

	if (r < 0)
		return r;
	s->state = UCLONE_HYDRATED;
	s->dm_nr_seen = dm_clone_nr_regions(s->opts.source.size_bytes, s->dm_region_bytes);
	s->is_clean = true;
	r = dm_record_write(st->rec, err);
	if (r < 0) { /* not known which one is on disk; nothing may be written as if it were this one */
		before.generation = s->generation;
		*s = before;
		return r;
	}
	return dm_stack_stand_alone(st, err);
}
