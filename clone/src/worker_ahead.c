/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What a worker does for reads that are still to come: read-around of streams, and what the status says of it.
 *
 * Owns. Nothing.
 *
 * Locks. None: one thread.
 */
#include "ahead.h"
#include "worker.h"

void worker_ahead_tick(struct worker *w)
{
	struct kcopy_status ks = {0};

	if (w->is_hydrating)
		kcopy_hydrator_status(w->hydrator, &ks);
	/* it writes to the destination, so it keeps still when hydration is to, or does by itself because the destination is full */
	bool is_paused = w->is_paused || ks.state == KCOPY_PAUSED;
	bool is_wanted = w->is_hydrate_wanted && !is_paused && !w->is_hydrated && !w->is_stopping;

	if (w->e->ops->set_ahead)
		w->e->ops->set_ahead(w->e, is_wanted ? w->args->read_around_bytes : 0);
}

json_t *worker_access_status(struct worker *w)
{
	struct ahead_status as = {0};
	struct uclone_status us;

	w->e->ops->status(w->e, &us);
	if (w->e->ops->ahead_status)
		w->e->ops->ahead_status(w->e, &as);
	return json_pack("{s:I,s:I,s:I,s:I,s:I}", "reads", (json_int_t)us.foreground_reads, "source_reads", (json_int_t)us.foreground_source_reads,
			 "joined_reads", (json_int_t)as.nr_joined, "fetched_bytes", (json_int_t)as.fetched_bytes, "window_bytes",
			 (json_int_t)as.window_bytes);
}
