/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Read-around between the engine and its source: random workloads with readers in order among them, on the simulated disks, crashed at
 * random events, judged like all others. Prints counts and the seed of a failure.
 *
 * Usage: uclone_ahead [CRASHES [SEED]]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ahead.h"
#include "kedge/bytes.h"
#include "world.h"

#define NR_READERS 3

static const uint64_t sizes[] = {15362 * 4096, 243 * 4096 + 512, 1922 * 4096 + 7 * 512, 33 * 4096};

struct run {
	struct world w;
	struct ahead *a; /* NULL: the engine is not open */
	const struct kedge_source_ops *sim_ops;
	struct kedge_source_ops source_ops;
	uint64_t at[NR_READERS], nr[NR_READERS]; /* sectors */
	struct ahead_status sum;
	struct {
		struct kedge_source_io *io;
		kedge_source_fn fn;
	} fetches[AHEAD_NR]; /* on their way from the source, and wanted */
};

static struct run *this_run;

static void source_status(const struct kedge_source *s, struct kedge_source_status *ret_status)
{
	(void)s;
	*ret_status = (struct kedge_source_status){.state = this_run->w.source.is_away ? KEDGE_SOURCE_AWAY : KEDGE_SOURCE_UP};
}

static void forget_fetch(struct run *r, const struct kedge_source_io *io, kedge_source_fn *ret_fn)
{
	for (unsigned i = 0; i < AHEAD_NR; i++) {
		if (r->fetches[i].io != io)
			continue;
		*ret_fn = r->fetches[i].fn;
		r->fetches[i].io = NULL;
	}
}

static void fetched_cb(struct kedge_source_io *io, int res)
{
	kedge_source_fn fn = io->fn;

	forget_fetch(this_run, io, &fn);
	io->fn = fn;
	fn(io, res);
}

static void note_fetch(struct run *r, struct kedge_source_io *io)
{
	for (unsigned i = 0; i < AHEAD_NR; i++) {
		if (r->fetches[i].io)
			continue;
		r->fetches[i].io = io;
		r->fetches[i].fn = io->fn;
		io->fn = fetched_cb;
		return;
	}
	sim_problem(&r->w.sim, "more than %u fetches at once", AHEAD_NR);
}

/* No read of the workload asks for what a fetch brings already. */
static void source_read(struct kedge_source *s, struct kedge_source_io *io)
{
	struct run *r = this_run;

	for (unsigned i = 0; i < AHEAD_NR && io->prio == KEDGE_PRIO_FOREGROUND; i++) {
		const struct kedge_source_io *f = r->fetches[i].io;
		if (f && f->start_bytes < io->start_bytes + io->nr_bytes && io->start_bytes < f->start_bytes + f->nr_bytes)
			sim_problem(&r->w.sim, "a read at %" PRIu64 " asked the source for what a fetch brings", io->start_bytes);
	}
	if (io->prio == KEDGE_PRIO_BACKGROUND && !io->arg) /* hydration's have one */
		note_fetch(r, io);
	r->sim_ops->read(s, io);
}

static void source_cancel(struct kedge_source *s, struct kedge_source_io *io)
{
	kedge_source_fn fn = io->fn;

	forget_fetch(this_run, io, &fn);
	io->fn = fn;
	this_run->sim_ops->cancel(s, io);
}

static void keep_figures(struct run *r)
{
	struct ahead_status s;

	ahead_status(r->a, &s);
	r->sum.nr_fetches += s.nr_fetches;
	r->sum.nr_joined += s.nr_joined;
	r->sum.fetched_bytes += s.fetched_bytes;
}

static bool open_with_ahead(struct run *r)
{
	if (world_open(&r->w) < 0)
		return false;
	memset(r->fetches, 0, sizeof r->fetches); /* those of a dead process */
	r->a = ahead_create(uclone_claims(r->w.u), &r->w.sim.defer);
	ahead_set_source(r->a, &r->w.source.source);
	ahead_set_window(r->a, (uint32_t)(4096u << sim_below(&r->w.sim, 9)));
	uclone_set_source(r->w.u, ahead_front(r->a), NULL);
	return true;
}

/* The next read of a reader; now and then it goes elsewhere. */
static void read_on(struct run *r)
{
	unsigned i = (unsigned)sim_below(&r->w.sim, NR_READERS);

	if (r->nr[i] == 0 || r->at[i] >= r->w.nr_sectors || sim_below(&r->w.sim, 40) == 0) {
		r->at[i] = sim_below(&r->w.sim, r->w.nr_sectors);
		r->nr[i] = 1 + sim_below(&r->w.sim, sim_below(&r->w.sim, 2) ? 8 : 100);
	}
	uint64_t nr = kedge_min_u64(r->nr[i], r->w.nr_sectors - r->at[i]);
	world_submit(&r->w, UCLONE_READ, r->at[i], nr, false);
	ahead_note(r->a, r->at[i] * SIM_SECTOR, nr * SIM_SECTOR);
	r->at[i] += nr;
}

/* The source goes and comes back; what waits for it then goes on. */
static void blink(struct run *r)
{
	r->w.source.is_away = true;
	for (unsigned i = 0; i < 5; i++)
		world_step(&r->w);
	ahead_tick(r->a);
	for (unsigned i = 0; i < 5; i++)
		world_step(&r->w);
	r->w.source.is_away = false;
}

static void live(struct run *r, bool is_sized)
{
	struct world *w = &r->w;
	unsigned long until = sim_below(&w->sim, 400);

	for (unsigned long i = 0; i < until && !world_is_bad(w); i++) {
		if (w->nr_ops + w->nr_copies < 10 && sim_below(&w->sim, 3))
			read_on(r);
		else if (w->nr_ops + w->nr_copies < 10 && sim_below(&w->sim, 2))
			world_random_op(w);
		if (sim_below(&w->sim, 60) == 0)
			blink(r);
		if (is_sized && sim_below(&w->sim, 30) == 0)
			ahead_set_window(r->a, (uint32_t)(4096u << sim_below(&w->sim, 9)));
		world_step(w);
	}
}

/* All ends well: every read is answered, every claim over, all memory back. */
static void end_well(struct run *r)
{
	struct ahead_status s;

	world_settle(&r->w);
	ahead_status(r->a, &s);
	if (s.nr_inflight)
		sim_problem(&r->w.sim, "%u fetches never end", s.nr_inflight);
	if (r->w.nr_ops)
		sim_problem(&r->w.sim, "%u requests are never answered", r->w.nr_ops);
	if (world_is_bad(&r->w))
		return;
	world_check_copied(&r->w);
	world_read_known(&r->w, false);
	world_settle(&r->w);
	keep_figures(r);
	uclone_set_source(r->w.u, &r->w.source.source, NULL);
	ahead_destroy(r->a);
	r->a = NULL;
	world_close(&r->w);
}

static void one(struct run *r)
{
	struct world *w = &r->w;
	uint64_t dice;

	if (!open_with_ahead(r))
		return;
	live(r, true);
	if (world_is_bad(w))
		return;
	dice = sim_below(&w->sim, 3);
	if (dice == 0) {
		end_well(r);
		return;
	}
	keep_figures(r);
	r->a = NULL; /* its memory goes with the process */
	if (dice == 1)
		world_process_death(w);
	else
		world_crash(w, (enum sim_crash)sim_below(&w->sim, SIM_NR_CRASHES));
	if (dice == 2)
		world_check_offline(w);
	if (!world_is_bad(w) && open_with_ahead(r))
		end_well(r);
}

int main(int argc, char **argv)
{
	uint64_t nr_crashes = argc > 1 ? strtoull(argv[1], NULL, 0) : 2000, seed0 = argc > 2 ? strtoull(argv[2], NULL, 0) : 1, seed = seed0;
	uint64_t nr_reads = 0;
	struct ahead_status sum = {0};

	for (uint64_t n = 0; n < nr_crashes; seed++) {
		static struct run r;
		r = (struct run){0};
		this_run = &r;
		world_init(&r.w, seed, sizes[seed % KEDGE_ARRAY_LEN(sizes)]);
		r.sim_ops = r.w.source.source.ops;
		r.source_ops = *r.sim_ops;
		r.source_ops.status = source_status;
		r.source_ops.read = source_read;
		r.source_ops.cancel = source_cancel;
		r.w.source.source.ops = &r.source_ops;
		world_create(&r.w);
		for (unsigned i = 0; i < 6 && !world_is_bad(&r.w); i++, n++)
			one(&r);
		if (world_is_bad(&r.w)) {
			printf("ahead: FAILED: %s\nreplay: uclone_ahead 1 %" PRIu64 "\n", r.w.sim.problem, seed);
			world_fini(&r.w);
			return 1;
		}
		nr_reads += r.w.nr_reads;
		sum.nr_fetches += r.sum.nr_fetches;
		sum.nr_joined += r.sum.nr_joined;
		sum.fetched_bytes += r.sum.fetched_bytes;
		world_fini(&r.w);
	}
	printf("ahead: %" PRIu64 " reads judged, %" PRIu64 " fetches, %" PRIu64 " bytes laid down, %" PRIu64 " reads that waited for one, seeds %" PRIu64
	       " to %" PRIu64 "\n", nr_reads, sum.nr_fetches, sum.fetched_bytes, sum.nr_joined, seed0, seed - 1);
	/* a run in which none of it happens proves nothing */
	return nr_crashes >= 100 && !(sum.nr_fetches > nr_crashes && sum.nr_joined > nr_crashes / 4 && sum.fetched_bytes);
}
