/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_PACE_DB_H
#define ORCH_PACE_DB_H

/* The three columns of a pace, always in this order and together. */

#include "db.h"
#include "pace.h"

#define PACE_COLUMNS "floor_bps,latency_percent,transit"
#define PACE_COLUMNS_SQL "floor_bps INTEGER, latency_percent INTEGER, transit TEXT NOT NULL DEFAULT ''"
#define PACE_UPGRADE_SQL(table)                                                                                                                \
	"ALTER TABLE " table " ADD COLUMN floor_bps INTEGER;"                                                                                  \
	"ALTER TABLE " table " ADD COLUMN latency_percent INTEGER;"                                                                            \
	"ALTER TABLE " table " ADD COLUMN transit TEXT NOT NULL DEFAULT ''"

void pace_put(struct db_row *r, const struct pace *p);
/* -EINVAL for what no pace is. */
int pace_get(struct db_row *r, struct pace *ret_pace);

#endif
