/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The command finish: HYDRATED becomes durable, then the source goes, then kclone out of the way (worker_top.c).
 *
 * Owns. The answer that is owed, and the source while it closes.
 *
 * Locks. None: one thread.
 *
 * Crash. The engine records HYDRATED after a commit and a check of what it wrote; the source is closed only then, so a crash at any
 * point finds either a clone that still has its source or one that needs none.
 */
#include "worker.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "kedge/log.h"

static void finish_done(struct worker *w, const struct kedge_err *err)
{
	struct control_call *call = w->finish_call;

	w->finish_call = NULL;
	w->is_finishing = false;
	if (err)
		control_refuse(call, err);
	else
		control_answer(call, json_pack("{s:b}", "hydrated", 1));
}

static void alone_cb(struct worker *w)
{
	finish_done(w, NULL);
}

static void finish_closed_cb(void *arg)
{
	struct worker *w = arg;
	char path[UCLONE_PATH_MAX + 16];

	w->source->ops->destroy(w->source);
	w->source = NULL;
	w->is_source_closing = false;
	snprintf(path, sizeof path, "%s.source", w->args->meta);
	if (!w->share || !w->share->dm.is_kernel_attach) /* that one goes when its session has (kattach_use.c) */
		unlink(path);
	kedge_info("hydrated: the clone stands alone");
	worker_stand_alone(w, alone_cb);
}

static void finished_cb(void *arg, int res, const struct kedge_err *err)
{
	struct worker *w = arg;

	if (res < 0) {
		finish_done(w, err);
		return;
	}
	if (w->is_stopping) { /* which closes the source */
		finish_done(w, NULL);
		return;
	}
	/* HYDRATED is durable: only now the source may go */
	worker_retire_hydrator(w);
	w->e->ops->set_source(w->e, NULL);
	if (!w->source) {
		worker_stand_alone(w, alone_cb);
		return;
	}
	w->is_source_closing = true;
	w->source->ops->close(w->source, finish_closed_cb, w);
}

void worker_finish(struct worker *w, struct control_call *call)
{
	struct kedge_err err = {0};
	struct uclone_status s;

	w->e->ops->status(w->e, &s);
	if (s.state == UCLONE_HYDRATED) {
		if (!w->is_finishing) {
			control_answer(call, json_pack("{s:b}", "hydrated", 1));
			return;
		}
		kedge_err_set(&err, -EBUSY, KEDGE_SIDE_CONTROL, "finish is under way");
	} else if (w->is_finishing) {
		kedge_err_set(&err, -EBUSY, KEDGE_SIDE_CONTROL, "finish is under way");
	} else if (s.here_bytes != s.size_bytes || w->is_hydrating) {
		kedge_err_set(&err, KEDGE_E_NOT_HYDRATED, KEDGE_SIDE_CONTROL, "%llu bytes are not here yet",
			      (unsigned long long)(s.size_bytes - s.here_bytes));
	} else if (!worker_is_compared(w)) {
		kedge_err_set(&err, KEDGE_E_VERIFY, KEDGE_SIDE_CONTROL, "the comparison with the source has not passed: %s",
			      w->verify == VERIFY_FAILED ? w->verify_err.msg : "run verify first");
	}
	if (err.code) {
		control_refuse(call, &err);
		return;
	}
	w->finish_call = call;
	w->is_finishing = true;
	w->e->ops->finish(w->e, finished_cb, w);
}
