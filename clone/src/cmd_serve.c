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
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dest_use.h"
#include "dm_top.h"
#include "kattach_use.h"
#include "kclone.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "uclone_layout.h"

/* Open everything once, as a worker will, and let go of the disks again. */
static int look(const char *meta, bool is_top, struct clone_files *ret_files, struct uc_super *ret_super, struct kedge_err *err)
{
	struct kedge_loop *l;
	int r = kedge_loop_create(8, &l, err);

	if (r < 0)
		return r;
	r = clone_files_open(l, meta, CLONE_OPEN_SERVE, ret_files, err);
	if (r == 0) {
		ret_files->is_top = is_top;
		r = clone_files_peek(ret_files, ret_super, err);
		if (r == 0 && !is_top)
			r = dm_top_remove_left(meta, ret_super, err);
		if (r == 0)
			r = clone_files_open_dest(ret_files, err);
		if (r == 0)
			r = dest_use_check(ret_super, err);
		clone_files_close_disks(ret_files);
		if (r < 0)
			clone_files_close(ret_files);
	}
	kedge_loop_destroy(l);
	return r;
}

/* Of a kernel clone: the record, and that this kernel can run it. The metadata and devices are looked at by the driver. */
static int look_kernel(const char *meta, const char *source_attach, struct clone_files *ret_files, struct uc_super *ret_super, struct kedge_err *err)
{
	struct dm_record rec;
	int r = clone_files_lock(meta, CLONE_OPEN_SERVE, ret_files, err);

	if (r < 0)
		return r;
	r = dm_record_open(meta, false, &rec, err);
	if (r == 0) {
		*ret_super = rec.super;
		dm_record_close(&rec);
		if (rec.super.state == UCLONE_ABORTED)
			r = kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_METADATA, "this clone was aborted and never serves again");
		else if (rec.super.dm_was_deceived)
			r = kattach_use_refuse(&rec.super.opts, err);
		else if (rec.super.state != UCLONE_HYDRATED)
			r = dm_probe(err);
		if (r == 0 && rec.super.state != UCLONE_HYDRATED && dm_record_is_kernel_attach(&rec.super, source_attach))
			r = kattach_check(&rec.super.opts, err);
		if (r == 0)
			r = dest_use_check(&rec.super, err);
	}
	if (r < 0)
		clone_files_close(ret_files);
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
	char private_path[UCLONE_PATH_MAX + 8], run_path[UCLONE_PATH_MAX + 8];
	struct kedge_err err = {0};
	struct clone_files f;
	struct uc_super super;
	int code;

	bool is_dm = clone_is_dm(a->meta);
	o.is_top = !is_dm && a->is_block && !a->is_top_never && dm_top_probe(NULL) == 0;
	if ((is_dm ? look_kernel(a->meta, a->source_attach, &f, &super, &err) : look(a->meta, o.is_top, &f, &super, &err)) < 0)
		return kclone_fail(&err);
	if (!is_dm && a->source_attach) {
		kedge_error("--source-attach is of the kernel engine, and this clone is of the user engine");
		clone_files_close(&f);
		return KEDGE_EXIT_USAGE;
	}
	if (is_dm) {
		bool is_kernel_attach = dm_record_is_kernel_attach(&super, a->source_attach);
		bool is_feed_wanted = is_kernel_attach && (a->window_bytes || a->head_start_bytes || a->head_start_ms);
		if (a->nbd || a->fuse || is_feed_wanted || (a->window_bytes && super.dm_region_bytes > DM_SLOT_BYTES)) {
			if (a->nbd || a->fuse)
				kedge_error("a kernel clone is a block device and nothing else: leave out %s", a->nbd ? "--nbd" : "--fuse");
			else if (is_feed_wanted)
				kedge_error("--head-start and --windows need the source by the feed: leave them out, or say --source-attach feed");
			else
				kedge_error("no --windows with regions of %u bytes: at most %u", super.dm_region_bytes, DM_SLOT_BYTES);
			clone_files_close(&f);
			return KEDGE_EXIT_USAGE;
		}
		if (a->prefetch && !a->head_start_bytes && !a->head_start_ms) {
			kedge_error("--prefetch of a kernel clone is the order of its --head-start: the kernel's own copying has one order only");
			clone_files_close(&f);
			return KEDGE_EXIT_USAGE;
		}
		o.is_dm = true;
		o.is_alone = super.state == UCLONE_HYDRATED;
		o.is_block = !o.is_alone && !is_kernel_attach; /* the feed */
	} else if (a->window_bytes || a->head_start_bytes || a->head_start_ms) {
		kedge_error("--head-start and --windows are the kernel engine's: this clone is of the user engine");
		clone_files_close(&f);
		return KEDGE_EXIT_USAGE;
	} else if (o.is_top && super.state == UCLONE_HYDRATED && dm_top_fits_dest(&super, NULL) == 0) {
		o.is_block = false; /* its device goes to the destination at once */
	}
	snprintf(private_path, sizeof private_path, "%s.disk", a->meta);
	o.private_path = private_path;
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
