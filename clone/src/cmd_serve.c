/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. kclone serve: says at once what is wrong with the clone, then holds it (holder.c) for as long as it is served.
 *
 * Owns. The service lock of the clone, and META.run, which tells the other verbs where the control socket is.
 *
 * Locks. META.seen, for the holder's whole life (kclone.h).
 *
 * Crash. Nothing durable but META.run; one that is left over names a socket that nobody answers on.
 */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kclone.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "uclone_layout.h"

/* Open everything once, as a worker will, and let go of the disks again. */
static int look(const char *meta, struct clone_files *ret_files, struct uc_super *ret_super, struct kedge_err *err)
{
	struct kedge_loop *l;
	int r = kedge_loop_create(8, &l, err);

	if (r < 0)
		return r;
	r = clone_files_open(l, meta, CLONE_OPEN_SERVE, ret_files, err);
	if (r == 0) {
		r = clone_files_peek(ret_files, ret_super, err);
		if (r == 0)
			r = clone_files_open_dest(ret_files, err);
		clone_files_close_disks(ret_files);
		if (r < 0)
			clone_files_close(ret_files);
	}
	kedge_loop_destroy(l);
	return r;
}

static void write_run_file(const struct kclone_args *a)
{
	char path[UCLONE_PATH_MAX + 8], text[PATH_MAX + UCLONE_PATH_MAX], cwd[PATH_MAX];
	struct kedge_err err = {0};

	clone_run_path(a->meta, path);
	if (!a->control) {
		unlink(path);
		return;
	}
	if (a->control[0] == '/' || !getcwd(cwd, sizeof cwd))
		cwd[0] = 0;
	snprintf(text, sizeof text, "%s%s%s\n", cwd, cwd[0] ? "/" : "", a->control);
	if (kedge_file_replace(path, text, strlen(text), 0600, &err) < 0)
		kedge_warn("other verbs will need --control: %s", err.msg);
}

int cmd_serve(const struct kclone_args *a, char *const *worker_argv)
{
	struct holder_opts o = {.fuse_path = a->fuse, .is_block = a->is_block, .nbd_path = a->nbd, .control_path = a->control};
	char dir[UCLONE_PATH_MAX], run_path[UCLONE_PATH_MAX + 8];
	struct kedge_err err = {0};
	struct clone_files f;
	struct uc_super super;
	int code;

	if (look(a->meta, &f, &super, &err) < 0)
		return kclone_fail(&err);
	snprintf(dir, sizeof dir, "%s", a->meta);
	o.run_dir = dirname(dir);
	o.size_bytes = super.opts.source.size_bytes;
	o.lbs_bytes = super.opts.source.lbs_bytes;
	o.worker_argv = worker_argv; /* what workers need of our options goes on to them as it is */
	write_run_file(a);
	code = holder_run(&o);
	clone_run_path(a->meta, run_path);
	unlink(run_path);
	clone_files_close(&f);
	return code;
}
