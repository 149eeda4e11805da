/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Quiesce windows.
 *
 * Owns. The clone's descriptor; the slots' questions while it runs.
 *
 * Locks. None: the suspended top is what keeps the workload out, and only the process that suspended it writes.
 *
 * Crash. Writes through the clone are the kernel's to make durable: destination first, then the bitmap, as for the workload's own. A driver that is
 * killed in a window leaves the top suspended, and is gone only when its write is (dm_block.c); the next one resumes the top. A power cut
 * leaves regions with their bit, written before, or without it, read from the source again.
 */
#include "dm_windows.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "dm_block.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"

#define ASK_MS 2
#define AWAY_MS 50
#define QUIET_LOOKS 50  /* the last copies of the workload's own writes, whose answers have gone out already */
#define WINDOW_WAIT_MS 500 /* a read of a source that is away does not end: nothing else is to wait for it */
#define BUSY_PAUSE 4    /* a workload gets that many times the length of the window before the next one */

static void nap_ns(long ns)
{
	const struct timespec t = {.tv_nsec = ns};

	nanosleep(&t, NULL);
}

int dm_windows_init(struct dm_windows *w, const struct dm_stack *st, struct holder_share *share, uint32_t window_bytes,
		    struct kedge_err *err)
{
	uint32_t region_bytes = st->rec->super.dm_region_bytes;
	void *p;
	int r;

	*w = (struct dm_windows){.st = st, .m = &share->dm, .region_bytes = region_bytes, .fd = -1};
	w->window_bytes = window_bytes > region_bytes ? window_bytes : region_bytes;
	w->nr_regions = st->nr_sectors / (region_bytes / 512);
	if (w->window_bytes > DM_SLOT_BYTES)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "no windows with regions of %u bytes: at most %u", region_bytes, DM_SLOT_BYTES);
	p = mmap(NULL, (size_t)DM_NR_SLOTS * DM_SLOT_BYTES, PROT_READ, MAP_SHARED, HOLDER_FD_SHARE, (off_t)share->slots_start_bytes);
	if (p == MAP_FAILED)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot map shared memory: %s", strerror(errno));
	w->mem = p;
	r = dm_block_open(st->clone, false, &w->fd, err);
	if (r < 0)
		return r;
	w->is_on = true;
	__atomic_store_n(&w->m->is_windows, 1, __ATOMIC_RELEASE);
	return 0;
}

void dm_windows_fini(struct dm_windows *w)
{
	if (w->is_on)
		__atomic_store_n(&w->m->is_windows, 0, __ATOMIC_RELEASE);
	if (w->mem)
		munmap((void *)(uintptr_t)w->mem, (size_t)DM_NR_SLOTS * DM_SLOT_BYTES);
	w->mem = NULL;
	kedge_close(w->fd);
	w->fd = -1;
	w->is_on = false;
}

/* ---- what to ask for ---- */

static bool is_seen(struct dm_windows *w, uint64_t region, struct kedge_err *err)
{
	if (region < w->seen_first || region >= w->seen_end) {
		w->seen_first = kedge_round_down(region, 64);
		w->seen_end = kedge_min_u64(w->seen_first + KEDGE_ARRAY_LEN(w->seen) * 64, w->nr_regions);
		memset(w->seen, 0, sizeof w->seen);
		if (dm_record_bits(w->st->rec, w->seen_first, w->seen_end, w->seen, err) < 0) {
			w->seen_end = w->seen_first;
			return false;
		}
	}
	return w->seen[(region - w->seen_first) / 64] >> (region % 64) & 1;
}

/* The next run of missing regions, at most a window. False: none up to the end. */
static bool next_run(struct dm_windows *w, uint64_t *ret_first, uint64_t *ret_end, struct kedge_err *err)
{
	uint64_t per_window = w->window_bytes / w->region_bytes, first = w->next_region, end;

	while (first < w->nr_regions && is_seen(w, first, err) && !err->code)
		first++;
	if (first >= w->nr_regions || err->code)
		return false;
	/* to the next multiple of a window: pieces as the feed has them */
	end = kedge_min_u64((first / per_window + 1) * per_window, w->nr_regions);
	*ret_first = first;
	*ret_end = w->next_region = end;
	return true;
}

static void ask(struct dm_windows *w)
{
	for (unsigned i = 0; i < DM_NR_SLOTS && !w->is_pass_over; i++) {
		struct dm_slot *s = &w->m->slots[i];
		struct kedge_err err = {0};
		uint64_t first, end;
		if (w->slot_nr[i])
			continue;
		if (!next_run(w, &first, &end, &err)) {
			w->is_pass_over = true;
			if (err.code)
				kedge_warn("%s", err.msg);
			return;
		}
		s->start_bytes = first * w->region_bytes;
		s->nr_bytes = (end - first) * w->region_bytes;
		/* a number that no earlier driver used: what is answered to that one is not for us */
		w->slot_nr[i] = kedge_max_u64(s->ask_nr, s->done_nr) + 1;
		__atomic_store_n(&s->ask_nr, w->slot_nr[i], __ATOMIC_RELEASE);
	}
}

/* ---- a window ---- */

/* With the top suspended: whatever the workload had in hand has ended. 0: nothing is under way in the clone, and its bitmap is on disk. */
static int become_quiet(struct dm_windows *w, struct kedge_err *err)
{
	struct dm_clone_status s = {.nr_hydrating = 1};
	int r = 0;

	for (unsigned i = 0; i < QUIET_LOOKS && r == 0 && s.nr_hydrating; i++) {
		if (i)
			nap_ns(100000);
		r = dm_stack_status(w->st, false, &s, err);
	}
	if (r == 0)
		r = dm_stack_status(w->st, true, &s, err);
	if (r == 0 && (s.mode != DM_MODE_RW || s.is_hydration_on || s.nr_hydrating))
		r = kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_NONE, "%s is not quiet: this window is left out", w->st->clone);
	return r;
}

/* Each run of regions that are missing, as a whole: the kernel reads nothing from the source then, and marks them. */
static int write_missing(struct dm_windows *w, const uint8_t *buf, uint64_t first, uint64_t end, uint64_t *ret_bytes, struct kedge_err *err)
{
	uint64_t words[DM_SLOT_BYTES / DM_REGION_MIN_BYTES / 64 + 2] = {0}, base = kedge_round_down(first, 64);
	int r = dm_record_bits(w->st->rec, first, end, words, err);

	for (uint64_t at = first; at < end && r == 0;) {
		uint64_t stop = at;
		while (stop < end && !(words[(stop - base) / 64] >> (stop % 64) & 1))
			stop++;
		if (stop > at) {
			r = dm_block_write(w->fd, w->st->clone, buf + (at - first) * w->region_bytes, at * w->region_bytes,
					   (stop - at) * w->region_bytes, err);
			*ret_bytes += r == 0 ? (stop - at) * w->region_bytes : 0;
		}
		at = stop + 1;
	}
	return r;
}

/*
 * 1. Suspend the top: new I/O waits above it, what is below ends. 2. Nothing is under way in the clone; commit. 3. What the bitmap says, read from
 * disk, is what is so. 4. Write what is missing. 5. Resume, whatever happened.
 */
static int window(struct dm_windows *w, const uint8_t *buf, uint64_t first, uint64_t end, uint64_t *ret_bytes, struct kedge_err *err)
{
	uint64_t start_ns = kedge_clock_ns(), us;
	int r = dmdev_suspend_within(w->st->top, DMDEV_NOFLUSH | DMDEV_SKIP_LOCKFS, WINDOW_WAIT_MS, err), resumed;

	if (r < 0)
		return r;
	r = become_quiet(w, err);
	if (r == 0)
		r = write_missing(w, buf, first, end, ret_bytes, err);
	resumed = dmdev_resume(w->st->top, r < 0 ? NULL : err);
	us = (kedge_clock_ns() - start_ns) / 1000;
	w->m->window_max_us = (uint32_t)kedge_max_u64(w->m->window_max_us, us);
	w->m->nr_windows++;
	w->m->windows_bytes += *ret_bytes;
	w->pass_bytes += *ret_bytes;
	return r < 0 ? r : resumed;
}

/* The next window's time: the operator's limit, and a pause where somebody was made to wait. */
static void set_due(struct dm_windows *w, uint64_t start_ns, uint64_t nr_bytes, uint64_t limit_bps)
{
	uint64_t now = kedge_clock_ns(), nr_ios;
	struct dm_ios ios;

	dm_stack_ios(w->st, &ios);
	nr_ios = ios.nr_reads + ios.nr_writes;
	w->due_ns = nr_ios != w->nr_ios ? now + (now - start_ns) * BUSY_PAUSE : now;
	w->nr_ios = nr_ios;
	if (limit_bps)
		w->due_ns = kedge_max_u64(w->due_ns, start_ns + nr_bytes * 1000000000ull / limit_bps);
}

static bool take_answer(struct dm_windows *w, uint64_t limit_bps)
{
	for (unsigned i = 0; i < DM_NR_SLOTS; i++) {
		struct dm_slot *s = &w->m->slots[i];
		struct kedge_err err = {0};
		uint64_t start_ns = kedge_clock_ns(), nr_bytes = 0, first = s->start_bytes / w->region_bytes;
		if (!w->slot_nr[i] || __atomic_load_n(&s->done_nr, __ATOMIC_ACQUIRE) != w->slot_nr[i])
			continue;
		w->slot_nr[i] = 0;
		if (s->res < 0) /* a bad place at the source: the next pass, or the kernel, asks again */
			return true;
		if (window(w, w->mem + (size_t)i * DM_SLOT_BYTES, first, first + s->nr_bytes / w->region_bytes, &nr_bytes, &err) < 0)
			kedge_warn("%s", err.msg);
		set_due(w, start_ns, nr_bytes, limit_bps);
		return true;
	}
	return false;
}

static bool is_asking(const struct dm_windows *w)
{
	for (unsigned i = 0; i < DM_NR_SLOTS; i++)
		if (w->slot_nr[i])
			return true;
	return false;
}

unsigned dm_windows_step(struct dm_windows *w, const struct dm_clone_status *s, bool is_wanted, uint64_t limit_bps)
{
	uint64_t now = kedge_clock_ns();
	struct kedge_err err = {0};

	if (s->is_hydration_on && dm_stack_hydrate(w->st, false, 0, 0, &err) < 0)
		kedge_warn("%s", err.msg);
	if (!is_wanted)
		return AWAY_MS;
	if (w->due_ns > now)
		return (unsigned)((w->due_ns - now) / 1000000 + 1);
	ask(w);
	if (take_answer(w, limit_bps))
		return 0;
	if (!w->is_pass_over || is_asking(w))
		return ASK_MS;
	if (w->pass_bytes == 0) {
		kedge_info("windows: nothing is left that they can do");
		dm_windows_fini(w);
		return 0;
	}
	w->is_pass_over = false;
	w->next_region = w->pass_bytes = w->seen_first = w->seen_end = 0;
	return 0;
}
