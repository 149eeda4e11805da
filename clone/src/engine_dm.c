/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The kernel engine as a worker sees it: reads of its front end are the clone's source (feed.h); all else is asked of the driver,
 * through the memory they share.
 *
 * Owns. The feed, the order under way, the head start, the answers to the driver's questions for pieces of the source.
 *
 * Locks. None: one thread; the driver answers in struct dm_share.
 *
 * Crash. A worker that dies takes nothing along: the kernel's reads wait in the holder's FUSE connection for the next one.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dm_governor.h"
#include "dm_headstart.h"
#include "dm_prefetch.h"
#include "dm_table.h"
#include "feed.h"
#include "front.h"
#include "kedge/bytes.h"
#include "kclone.h"
#include "kedge/disk.h"
#include "kedge/log.h"
#include "uclone_layout.h"

#define POLL_MS 5
#define LOOK_MS 2 /* while the driver may ask for a piece of the source, or for a head start */

struct audit {
	struct engine_dm *e;
	struct kedge_disk_io io;
	kedge_claim_fn fn;
	void *arg;
};

struct engine_dm {
	struct engine e;
	struct uc_super super;
	struct kedge_loop *loop;
	struct kedge_disk *dest;
	struct feed *feed;
	struct holder_share *share;
	struct kedge_claims claims;
	uint64_t nr_differing; /* blocks, of the comparison under way */
	uint32_t phase_told;
	void (*event_fn)(void *arg, const char *name, const char *text);
	void *event_arg;
	/* before the device is there (dm_headstart.h), and for quiesce windows (dm_prefetch.h) */
	const struct kclone_args *args;
	void *marks, *slots;
	struct kedge_source *source;
	struct headstart *head;
	bool is_head_over, is_mark_ordered;
	struct prefetch *prefetch;
	struct kedge_timer look;
	/* order under way */
	struct kedge_timer poll;
	uclone_fn order_fn, close_fn;
	void *order_arg, *close_arg;
};

static struct engine_dm *of(const struct engine *e)
{
	return kedge_container_of((struct engine *)(uintptr_t)e, struct engine_dm, e);
}

static uint32_t load32(const uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static uint64_t load64(const uint64_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* ---- the front end: the feed ---- */

static void dm_submit(struct engine *e, struct uclone_io *io)
{
	feed_submit(of(e)->feed, io);
}

static enum uclone_block_kind dm_map(const struct engine *e, uint64_t start_bytes, uint64_t max_bytes, uint64_t *ret_nr_bytes)
{
	*ret_nr_bytes = kedge_min_u64(max_bytes, engine_size_bytes(e) - start_bytes);
	return UCLONE_AT_SOURCE;
}

static bool dm_needs_source(const struct engine *e)
{
	const struct engine_dm *d = of(e);

	return d->head && !d->is_head_over;
}

static void dm_set_source(struct engine *e, struct kedge_source *s)
{
	struct engine_dm *d = of(e);

	d->source = s;
	if (dm_needs_source(e)) /* we are stopping; it copies from the one before, which is there until we are closed */
		headstart_stop(d->head);
	feed_set_source(d->feed, s);
}

/* For a driver that lets the kernel's initiator log in too. */
static void dm_source_up(struct engine *e, const char *url, const char *chap_file)
{
	struct dm_share *m = &of(e)->share->dm;

	snprintf(m->attach_url, sizeof m->attach_url, "%s", url);
	snprintf(m->attach_chap_file, sizeof m->attach_chap_file, "%s", chap_file);
	__atomic_store_n(&m->attach_nr, m->attach_nr + 1, __ATOMIC_RELEASE);
}

/* ---- what the driver says ---- */

static void dm_tick(struct engine *e)
{
	struct engine_dm *d = of(e);
	uint32_t phase = load32(&d->share->dm.phase);

	if (phase == d->phase_told)
		return;
	d->phase_told = phase;
	if (phase == DM_PHASE_FAILED)
		d->event_fn(d->event_arg, "clone-failed", d->share->dm.failure);
	if (phase == DM_PHASE_ALONE)
		d->event_fn(d->event_arg, "clone-alone", d->share->dm.top_path);
}

static enum uclone_state state_of(const struct engine_dm *d, uint32_t phase)
{
	switch (phase) {
	case DM_PHASE_LIVE: return UCLONE_LIVE;
	case DM_PHASE_ALONE: return UCLONE_HYDRATED;
	case DM_PHASE_FAILED: return UCLONE_FAILED;
	case DM_PHASE_ABORTED: return UCLONE_ABORTED;
	default: return d->super.state == UCLONE_CREATED ? UCLONE_LIVE : d->super.state; /* the driver is about to say more */
	}
}

static uint64_t to_bytes(const struct engine_dm *d, uint64_t nr_regions)
{
	return kedge_min_u64(nr_regions * d->super.dm_region_bytes, d->super.opts.source.size_bytes);
}

static void dm_status(const struct engine *e, struct uclone_status *s)
{
	const struct engine_dm *d = of(e);
	const struct dm_share *m = &d->share->dm;
	uint32_t phase = load32(&m->phase);
	struct feed_status fs;

	feed_status(d->feed, &fs);
	*s = (struct uclone_status){.state = state_of(d, phase), .size_bytes = d->super.opts.source.size_bytes};
	if (s->state == UCLONE_HYDRATED) {
		s->here_bytes = s->durable_bytes = s->size_bytes;
	} else {
		bool is_all = m->nr_regions && m->nr_hydrated == m->nr_regions;
		s->here_bytes = is_all ? s->size_bytes : to_bytes(d, m->nr_hydrated);
		s->durable_bytes = m->nr_regions && m->nr_durable == m->nr_regions ? s->size_bytes : to_bytes(d, m->nr_durable);
	}
	/* the kernel keeps no record of which: what differs from the source, once that is compared */
	s->written_bytes = kedge_min_u64(d->nr_differing * KEDGE_BLOCK_BYTES, s->size_bytes);
	s->generation = m->generation;
	s->nr_commits = m->nr_commits;
	s->nr_waiting = fs.nr_waiting;
	s->foreground_source_reads = fs.nr_reads;
	s->had_unclean_stop = false;
	if (s->state == UCLONE_FAILED)
		kedge_err_set(&s->failure, KEDGE_E_FAILED, KEDGE_SIDE_METADATA, "%s", m->failure);
}

static void dm_steer(struct engine *e, bool is_wanted, const struct engine_pace *pace)
{
	struct engine_dm *d = of(e);
	struct dm_share *m = &d->share->dm;

	if (d->head && !d->is_head_over)
		headstart_set_rate(d->head, pace->limit_bps);
	__atomic_store_n(&m->limit_bps, pace->limit_bps, __ATOMIC_RELEASE);
	__atomic_store_n(&m->floor_bps, pace->is_floor_given ? kedge_max_u64(pace->floor_bps, 1) : 0, __ATOMIC_RELEASE);
	__atomic_store_n(&m->keep_percent, pace->is_latency_given ? gov_keep_percent(pace->latency_percent) : 0, __ATOMIC_RELEASE);
	__atomic_store_n(&m->is_wanted, is_wanted, __ATOMIC_RELEASE);
}

/* ---- orders ---- */

static void poll_cb(struct kedge_timer *t)
{
	struct engine_dm *d = kedge_container_of(t, struct engine_dm, poll);
	struct dm_share *m = &d->share->dm;
	struct kedge_err err = {0};
	uclone_fn fn = d->order_fn;

	if (load64(&m->answer_nr) != m->order_nr) {
		kedge_timer_start(d->loop, t, POLL_MS);
		return;
	}
	d->order_fn = NULL;
	if (m->answer_code)
		kedge_err_set(&err, m->answer_code, KEDGE_SIDE_CONTROL, "%s", m->answer_text);
	fn(d->order_arg, m->answer_code, m->answer_code ? &err : NULL);
}

struct refusal {
	struct kedge_defer defer;
	uclone_fn fn;
	void *arg;
};

static void refuse_cb(void *arg)
{
	struct refusal *r = arg;
	struct kedge_err err = {0};

	kedge_err_set(&err, -EBUSY, KEDGE_SIDE_CONTROL, "another command is under way: try again");
	r->fn(r->arg, -EBUSY, &err);
	free(r);
}

static void order(struct engine_dm *d, enum dm_order o, uclone_fn fn, void *arg)
{
	struct dm_share *m = &d->share->dm;

	if (d->order_fn) {
		struct refusal *r = calloc(1, sizeof *r);
		kedge_assert(r != NULL);
		*r = (struct refusal){.defer = {.fn = refuse_cb, .arg = r}, .fn = fn, .arg = arg};
		kedge_loop_defer(d->loop, &r->defer);
		return;
	}
	d->order_fn = fn;
	d->order_arg = arg;
	m->order = o;
	__atomic_store_n(&m->order_nr, m->order_nr + 1, __ATOMIC_RELEASE);
	kedge_timer_start(d->loop, &d->poll, POLL_MS);
}

/* ---- the head start ---- */

static void marked_cb(void *arg, int res, const struct kedge_err *err)
{
	struct engine_dm *d = arg;

	if (res == 0)
		return;
	kedge_warn("head start: %s", err->msg);
	d->is_mark_ordered = false; /* the driver stays or ends by it; a next one is asked again */
}

static void head_done_cb(void *arg)
{
	((struct engine_dm *)arg)->is_head_over = true;
}

static void begin_head(struct engine_dm *d)
{
	struct headstart_opts o = {.loop = d->loop, .source = d->source, .dest_path = d->super.opts.dest_path,
				   .size_bytes = d->super.opts.source.size_bytes, .region_bytes = d->super.dm_region_bytes,
				   .first = d->e.first, .nr_first = d->e.nr_first, .limit_bytes = d->args->head_start_bytes, .limit_ms = d->args->head_start_ms, .rate_bps = d->args->rate_bps,
				   .event_fn = d->event_fn, .done_fn = head_done_cb, .arg = d};
	struct kedge_err err = {0};

	o.bits = (struct uc_bits){.w = d->marks, .nr_bits = o.size_bytes / o.region_bytes};
	__atomic_store_n(&d->share->dm.is_head_begun, 1, __ATOMIC_SEQ_CST);
	if (headstart_start(&o, &d->head, &err) < 0) {
		kedge_warn("no head start: %s", err.msg);
		d->is_head_over = true;
	} else if (load32(&d->share->dm.phase) != DM_PHASE_HEAD_START) { /* the driver gave up meanwhile: it may have seen our lock free */
		headstart_stop(d->head);
	}
}

/* Copy once, whatever dies: one that was cut short is not begun again, for somebody waits for the device. */
static void look_at_head(struct engine_dm *d)
{
	struct kedge_source_status ss = {0};

	if (d->head)
		__atomic_store_n(&d->share->dm.head_bytes, headstart_bytes(d->head), __ATOMIC_RELAXED);
	if (load32(&d->share->dm.phase) != DM_PHASE_HEAD_START || d->close_fn)
		return;
	if (!d->head && !d->is_head_over && d->share->dm.is_head_begun)
		d->is_head_over = true;
	if (d->is_head_over) {
		if (!d->is_mark_ordered && !d->order_fn) {
			d->is_mark_ordered = true;
			order(d, DM_ORDER_MARK, marked_cb, d);
		}
		return;
	}
	if (d->source)
		d->source->ops->status(d->source, &ss);
	if (!d->head && ss.state == KEDGE_SOURCE_UP)
		begin_head(d);
}

static void look_cb(struct kedge_timer *t)
{
	struct engine_dm *d = kedge_container_of(t, struct engine_dm, look);

	if (d->marks)
		look_at_head(d);
	if (d->prefetch && load32(&d->share->dm.is_windows))
		prefetch_look(d->prefetch);
	kedge_timer_start(d->loop, t, LOOK_MS);
}

static void dm_commit(struct engine *e, uclone_fn fn, void *arg)
{
	order(of(e), DM_ORDER_COMMIT, fn, arg);
}

static void dm_finish(struct engine *e, uclone_fn fn, void *arg)
{
	order(of(e), DM_ORDER_FINISH, fn, arg);
}

static void dm_abort(struct engine *e, uclone_fn fn, void *arg)
{
	order(of(e), DM_ORDER_ABORT, fn, arg);
}

static void close_cb(struct kedge_timer *t)
{
	struct engine_dm *d = kedge_container_of(t, struct engine_dm, poll);
	uclone_fn fn = d->close_fn;
	void *arg = d->close_arg;

	if (feed_nr_inflight(d->feed) || (d->head && !d->is_head_over)) {
		kedge_timer_start(d->loop, t, POLL_MS);
		return;
	}
	headstart_destroy(d->head);
	feed_destroy(d->feed);
	prefetch_destroy(d->prefetch);
	free(d);
	fn(arg, 0, NULL);
}

static void dm_close(struct engine *e, uclone_fn fn, void *arg)
{
	struct engine_dm *d = of(e);

	kedge_timer_stop(d->loop, &d->poll);
	kedge_timer_stop(d->loop, &d->look);
	if (d->head)
		headstart_stop(d->head);
	d->close_fn = fn;
	d->close_arg = arg;
	d->poll.fn = close_cb;
	kedge_timer_start(d->loop, &d->poll, 0);
}

/* ---- the comparison with the source ---- */

static int claims_take(struct kedge_claims *c, uint64_t from_bytes, uint64_t end_bytes, uint64_t max_bytes, struct kedge_claim **ret_claim)
{
	(void)c;
	(void)from_bytes;
	(void)end_bytes;
	(void)max_bytes;
	(void)ret_claim;
	return -ENODATA; /* decision 0001: nobody but the kernel writes below a live clone */
}

static void claims_fill(struct kedge_claims *c, struct kedge_claim *claim, const void *buf, const struct kedge_seg *segs, uint32_t nr_segs,
			kedge_claim_fn fn, void *arg)
{
	(void)c;
	(void)claim;
	(void)buf;
	(void)segs;
	(void)nr_segs;
	(void)fn;
	(void)arg;
	kedge_assert(!"nothing was taken");
}

static void claims_drop(struct kedge_claims *c, struct kedge_claim *claim, int res)
{
	(void)c;
	(void)claim;
	(void)res;
	kedge_assert(!"nothing was taken");
}

static int audit_next(struct kedge_claims *c, uint64_t from_bytes, uint64_t max_bytes, uint64_t *ret_start_bytes, uint64_t *ret_nr_bytes)
{
	struct engine_dm *d = kedge_container_of(c, struct engine_dm, claims);

	if (from_bytes == 0)
		d->nr_differing = 0;
	if (from_bytes >= c->size_bytes)
		return -ENODATA;
	*ret_start_bytes = from_bytes;
	*ret_nr_bytes = kedge_min_u64(max_bytes, c->size_bytes - from_bytes);
	return 0;
}

static void audit_read_cb(struct kedge_disk_io *io, int res)
{
	struct audit *a = kedge_container_of(io, struct audit, io);
	kedge_claim_fn fn = a->fn;
	void *arg = a->arg;

	free(a);
	fn(arg, res);
}

static void audit_read(struct kedge_claims *c, uint64_t start_bytes, uint64_t nr_bytes, void *buf, kedge_claim_fn fn, void *arg)
{
	struct engine_dm *d = kedge_container_of(c, struct engine_dm, claims);
	struct audit *a = calloc(1, sizeof *a);

	kedge_assert(a != NULL);
	*a = (struct audit){.e = d, .fn = fn, .arg = arg};
	a->io = (struct kedge_disk_io){.op = KEDGE_DISK_READ, .start_bytes = start_bytes, .nr_bytes = nr_bytes, .buf = buf, .fn = audit_read_cb};
	kedge_disk_submit(d->dest, &a->io);
}

static uint64_t audit_hole_end(struct kedge_claims *c, uint64_t start_bytes, uint64_t end_bytes)
{
	return kedge_disk_hole_end(kedge_container_of(c, struct engine_dm, claims)->dest, start_bytes, end_bytes);
}

/* Asked of blocks that differ. dm-clone has no record of writes (engine.md): the workload must have done it. */
static bool audit_is_written(struct kedge_claims *c, uint64_t block_start_bytes)
{
	struct engine_dm *d = kedge_container_of(c, struct engine_dm, claims);

	(void)block_start_bytes;
	d->nr_differing++;
	return true;
}

static const struct kedge_claims_ops claims_ops = {
	.take = claims_take,
	.fill = claims_fill,
	.drop = claims_drop,
	.audit_next = audit_next,
	.audit_read = audit_read,
	.audit_hole_end = audit_hole_end,
	.audit_is_written = audit_is_written,
};

static struct kedge_claims *dm_claims(struct engine *e)
{
	return &of(e)->claims;
}

static const struct engine_ops dm_ops = {
	.name = "dm",
	.submit = dm_submit,
	.map = dm_map,
	.set_source = dm_set_source,
	.needs_source = dm_needs_source,
	.source_up = dm_source_up,
	.tick = dm_tick,
	.status = dm_status,
	.claims = dm_claims,
	.steer = dm_steer,
	.commit = dm_commit,
	.finish = dm_finish,
	.abort = dm_abort,
	.close = dm_close,
};

static void *map_share(int fd, uint64_t start_bytes, uint64_t nr_bytes)
{
	void *p = mmap(NULL, nr_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)start_bytes);

	kedge_assert(p != MAP_FAILED);
	return p;
}

struct engine *engine_dm_create(struct kedge_loop *l, const struct uc_super *super, struct kedge_disk *dest, struct holder_share *share,
				int share_fd, const struct kclone_args *args,
				void (*event_fn)(void *arg, const char *name, const char *text), void *event_arg)
{
	struct engine_dm *d = calloc(1, sizeof *d);
	uint64_t size_bytes = super->opts.source.size_bytes;

	kedge_assert(d != NULL);
	*d = (struct engine_dm){.super = *super, .loop = l, .dest = dest, .share = share, .args = args, .event_fn = event_fn,
				.event_arg = event_arg};
	d->e.ops = &dm_ops;
	d->e.stored = &d->super.opts;
	d->feed = feed_create(size_bytes, kedge_loop_defer_queue(l));
	d->claims.ops = &claims_ops;
	d->claims.size_bytes = size_bytes;
	d->poll.fn = poll_cb;
	d->look.fn = look_cb;
	if (args->head_start_bytes || args->head_start_ms)
		d->marks = map_share(share_fd, share->marks_start_bytes, dm_clone_nr_regions(size_bytes, super->dm_region_bytes) / 64 * 8 + 8);
	if (args->window_bytes) {
		d->slots = map_share(share_fd, share->slots_start_bytes, (uint64_t)DM_NR_SLOTS * DM_SLOT_BYTES);
		d->prefetch = prefetch_create(&share->dm, d->slots, size_bytes, d->feed);
	}
	if (d->marks || d->slots)
		kedge_timer_start(l, &d->look, LOOK_MS);
	return &d->e;
}
