/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Verbs for a clone that nobody serves: check, abort.
 *
 * Owns. The files while a verb runs, under their locks.
 *
 * Locks. See kclone.h, "the files of a clone".
 *
 * Crash. check reads only; abort is one superblock, written by the engine.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "kclone.h"
#include "kedge/bytes.h"
#include "kedge/log.h"
#include "uclone_layout.h"

static void report_cb(void *arg, bool is_error, const char *line)
{
	(void)arg;
	printf("%s%s\n", is_error ? "ERROR: " : "", line);
}

int cmd_check(const struct kclone_args *a)
{
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

int cmd_abort(const struct kclone_args *a)
{
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
