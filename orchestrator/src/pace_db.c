/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A pace in the daemons' records.
 *
 * Owns. Nothing. Locks. None: the loop's thread.
 */
#include "pace_db.h"

#include <errno.h>

void pace_put(struct db_row *r, const struct pace *p)
{
	db_put_maybe(r, p->has_floor, p->floor_bps);
	db_put_maybe(r, p->has_latency, p->latency_percent);
	db_put_text(r, p->transit);
}

int pace_get(struct db_row *r, struct pace *ret_pace)
{
	struct pace p = {0};
	uint64_t percent;

	p.has_floor = db_get_maybe(r, &p.floor_bps);
	p.has_latency = db_get_maybe(r, &percent);
	p.latency_percent = (uint32_t)percent;
	if (db_get_text(r, p.transit, sizeof p.transit) || (p.transit[0] && !pace_is_transit(p.transit)) || p.floor_bps > INT64_MAX ||
	    percent > 10000 || (percent && percent < 101))
		return -EINVAL;
	*ret_pace = p;
	return 0;
}
