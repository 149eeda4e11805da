/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DM_PREFETCH_H
#define KCLONE_DM_PREFETCH_H

/* The worker's part of quiesce windows: what the driver asks for (struct dm_slot) is read from the source, through the feed, and laid into
 * the slot's memory. One thread. */

#include "feed.h"
#include "front.h"

struct prefetch;

/* slots_mem: DM_NR_SLOTS * DM_SLOT_BYTES of the shared memory. */
struct prefetch *prefetch_create(struct dm_share *m, void *slots_mem, uint64_t size_bytes, struct feed *f);
/* Look for what is asked. Often. */
void prefetch_look(struct prefetch *p);
/* After the feed's end. destroy(NULL) is a no-op. */
void prefetch_destroy(struct prefetch *p);

#endif
