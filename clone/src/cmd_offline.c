/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Verbs for a clone that nobody serves: check, abort.
 *
 * Owns. The files while a verb runs, under their locks.
 *
 * Locks. See kclone.h, "the files of a clone".
 *
 * Crash. check reads only; abort is one superblock, written by the engine, or of a kernel clone after its devices went: done again, it goes on.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "dm_top.h"
#include "kattach.h"
#include "kclone.h"
#include "kedge/bytes.h"
#include "kedge/log.h"
#include "uclone_layout.h"

static void report_cb(void *arg, bool is_error, const char *line)
{
	(void)arg;
	printf("%s%s\n", is_error ? "ERROR: " : "", line);
}

static int check_kernel(const struct kclone_args *a, struct kedge_err *err)
{
	struct dm_record rec;
	struct clone_files f;
	uint64_t nr = 0;
	int r = clone_files_lock(a->meta, CLONE_OPEN_READ, &f, err);

	if (r < 0)
		return r;
	r = dm_record_open(a->meta, false, &rec, err);
	if (r == 0) {
		printf("engine dm, state %s, %s, generation %llu, opened %llu times\n", uclone_state_name(rec.super.state),
		       rec.super.is_clean ? "closed cleanly" : "not closed cleanly", (unsigned long long)rec.super.generation,
		       (unsigned long long)rec.super.open_count);
		if (rec.super.state == UCLONE_CREATED || rec.super.state == UCLONE_LIVE)
			r = dm_record_guard(&rec, &nr, err);
		if (r == 0 && rec.super.state == UCLONE_LIVE)
			printf("%llu of %llu regions of %u bytes are here\n", (unsigned long long)nr,
			       (unsigned long long)dm_clone_nr_regions(rec.super.opts.source.size_bytes, rec.super.dm_region_bytes),
			       rec.super.dm_region_bytes);
		dm_record_close(&rec);
	}
	clone_files_close(&f);
	return r;
}

int cmd_check(const struct kclone_args *a)
{
	if (clone_is_dm(a->meta)) {
		struct kedge_err kerr = {0};
		if (check_kernel(a, &kerr) < 0) {
			kedge_err_prefix(&kerr, "%s", a->meta);
			return kclone_fail(&kerr);
		}
		printf("%s: clean\n", a->meta);
		return KEDGE_EXIT_OK;
	}
	struct kclone_wait w = {0};
	struct kedge_err err = {0};
	struct kedge_loop *l;
	struct clone_files f;
	int r = kedge_loop_create(64, &l, &err);

	if (r < 0)
		return kclone_fail(&err);
	r = clone_files_open(l, a->meta, CLONE_OPEN_READ, &f, &err);
	if (r == 0) {
		uclone_check(f.meta, f.seen, kedge_loop_defer_queue(l), report_cb, kclone_wait_cb, &w);
		r = kclone_wait_for(l, &w, &err);
		clone_files_close(&f);
	}
	kedge_loop_destroy(l);
	if (r < 0) {
		kedge_err_prefix(&err, "%s", a->meta);
		return kclone_fail(&err);
	}
	printf("%s: clean\n", a->meta);
	return KEDGE_EXIT_OK;
}

static uint64_t now_cb(void *arg)
{
	(void)arg;
	return kedge_clock_ns();
}

static int open_and_abort(struct clone_files *f, struct kedge_err *err)
{
	struct uclone_env env = {.meta = f->meta, .dest = f->dest, .seen = f->seen, .now_ns = now_cb};
	struct kclone_wait opened = {0}, aborted = {0}, closed = {0};
	int r;

	env.defer = kedge_loop_defer_queue(f->loop);
	uclone_open(&env, kclone_wait_open_cb, &opened);
	r = kclone_wait_for(f->loop, &opened, err);
	if (r < 0)
		return r;
	uclone_abort(opened.u, kclone_wait_cb, &aborted);
	r = kclone_wait_for(f->loop, &aborted, err);
	uclone_close(opened.u, kclone_wait_cb, &closed);
	kclone_wait_for(f->loop, &closed, NULL);
	return r;
}

static int check_abort(const struct uc_super *s, struct kedge_err *err)
{
	if (s->state == UCLONE_HYDRATED)
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_METADATA, "the clone stands alone: there is nothing to go back to");
	if (s->state == UCLONE_LIVE && !s->dm_was_deceived && (s->dm_was_written || !s->is_clean))
		return kedge_err_set(err, KEDGE_E_WRITTEN, KEDGE_SIDE_DESTINATION, "the workload has %swritten: an abort would lose it",
				     s->dm_was_written ? "" : "perhaps ");
	return 0;
}

/* Whose session still answers, with another volume's data: what waits for it ends with it, and only then do the devices go. */
static int end_deceived(const char *meta, const struct uc_super *s, struct kedge_err *err)
{
	char top[DMDEV_NAME_MAX], clone[DMDEV_NAME_MAX], source[DMDEV_NAME_MAX];
	struct dmdev_info i;
	int r;

	dm_stack_names(&s->opts.migration, top, clone, source);
	r = dmdev_info(top, &i, err);
	if (r == 0 && i.nr_open)
		r = kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "/dev/mapper/%s is open or mounted: close it first", top);
	if (r == 0)
		kattach_end_left(meta, &s->opts, !s->is_clean);
	return r;
}

static int take_down(const char *meta, const struct uc_super *s, struct kedge_err *err)
{
	int r = s->dm_was_deceived ? end_deceived(meta, s, err) : 0;

	if (r == 0)
		r = dm_stack_remove(&s->opts.migration, meta, s->opts.dest_path, err);
	if (r == 0 && !s->dm_was_deceived)
		kattach_end_left(meta, &s->opts, false); /* closed cleanly, or never handed out */
	return r;
}

static int abort_kernel(const struct kclone_args *a, struct kedge_err *err)
{
	struct dm_record rec;
	struct clone_files f;
	int r = clone_files_lock(a->meta, CLONE_OPEN_CHANGE, &f, err);

	if (r < 0)
		return r;
	r = dm_record_open(a->meta, true, &rec, err);
	if (r < 0) {
		clone_files_close(&f);
		return r;
	}
	const struct uc_super *s = &rec.super;
	if (s->state != UCLONE_ABORTED) {
		r = check_abort(s, err);
		if (r == 0)
			r = take_down(a->meta, s, err);
		rec.super.state = UCLONE_ABORTED;
		if (r == 0)
			r = dm_record_write(&rec, err);
	}
	if (r == 0 && s->dm_was_deceived)
		kedge_warn("the source became another volume while this clone used it: what lies in %s is not to be trusted", s->opts.dest_path);
	dm_record_close(&rec);
	clone_files_close(&f);
	return r;
}

int cmd_abort(const struct kclone_args *a)
{
	if (clone_is_dm(a->meta)) {
		struct kedge_err kerr = {0};
		return abort_kernel(a, &kerr) < 0 ? kclone_fail(&kerr) : KEDGE_EXIT_OK;
	}
	struct kedge_err err = {0};
	struct kedge_loop *l;
	struct clone_files f;
	struct uc_super super;
	int r = kedge_loop_create(64, &l, &err);

	if (r < 0)
		return kclone_fail(&err);
	r = clone_files_open(l, a->meta, CLONE_OPEN_CHANGE, &f, &err);
	if (r == 0) {
		r = clone_files_peek(&f, &super, &err);
		if (r == 0 && super.state != UCLONE_HYDRATED)
			r = dm_top_remove_left(a->meta, &super, &err);
		f.is_top = true;
		/* done before: whoever asks again gets the same answer */
		if (r == 0 && super.state != UCLONE_ABORTED) {
			r = clone_files_open_dest(&f, &err);
			if (r == 0)
				r = open_and_abort(&f, &err);
		}
		clone_files_close(&f);
	}
	kedge_loop_destroy(l);
	return r < 0 ? kclone_fail(&err) : KEDGE_EXIT_OK;
}
