/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The commands of the control socket: each is carried out or handed to the file that knows how.
 *
 * Owns. Nothing beyond a command under way.
 *
 * Locks. None: one thread.
 */
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/log.h"

struct deferred {
	struct worker *w;
	struct control_call *call;
};

static void simple_cb(void *arg, int res, const struct kedge_err *err)
{
	struct control_call *call = arg;

	if (res < 0)
		control_refuse(call, err);
	else
		control_answer(call, NULL);
}

static void ask_holder_to_stop(struct worker *w)
{
	if (w->share)
		kill(w->share->holder_pid, SIGTERM);
}

static void aborted_cb(void *arg, int res, const struct kedge_err *err)
{
	struct deferred *d = arg;

	simple_cb(d->call, res, err);
	if (res == 0)
		ask_holder_to_stop(d->w);
	free(d);
}

void worker_command(struct worker *w, const char *cmd, json_t *args, struct control_call *call)
{
	struct kedge_err err = {0};

	if (w->is_stopping) {
		kedge_err_set(&err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL, "kclone is stopping");
		control_refuse(call, &err);
		return;
	}
	if (strcmp(cmd, "status") == 0) {
		control_answer(call, worker_status(w));
		return;
	}
	if (strcmp(cmd, "attach") == 0) {
		worker_attach(w, args, call);
		return;
	}
	if (strcmp(cmd, "map") == 0) {
		worker_map(w, args, call);
		return;
	}
	if (strcmp(cmd, "trace") == 0) {
		worker_trace(w, args, call);
		return;
	}
	if (strcmp(cmd, "finish") == 0) {
		worker_finish(w, call);
		return;
	}
	if (strcmp(cmd, "commit") == 0) {
		w->e->ops->commit(w->e, simple_cb, call);
		return;
	}
	if (strcmp(cmd, "abort") == 0) {
		struct deferred *d = malloc(sizeof *d);
		kedge_assert(d != NULL);
		*d = (struct deferred){w, call};
		w->e->ops->abort(w->e, aborted_cb, d);
		return;
	}
	if (strcmp(cmd, "verify") == 0) {
		worker_ask_verify(w, args, &err);
	} else if (strcmp(cmd, "rate") == 0 && !json_object_get(args, "bps")) {
		kedge_err_set(&err, -EINVAL, KEDGE_SIDE_CONTROL, "rate needs bps: bytes a second, 0 for no limit");
	} else if (strcmp(cmd, "rate") == 0 || strcmp(cmd, "set") == 0) {
		worker_set(w, args, &err);
	} else if (strcmp(cmd, "pause") == 0 || strcmp(cmd, "resume") == 0) {
		worker_set_paused(w, cmd[0] == 'p');
	} else if (strcmp(cmd, "hydrate") == 0) {
		w->is_hydrate_wanted = true;
		if (w->e->ops->forget_bad) /* an operator has mended the source, or wants to know */
			w->e->ops->forget_bad(w->e);
		worker_hydrate(w);
	} else if (strcmp(cmd, "stop") == 0) {
		ask_holder_to_stop(w);
	} else {
		kedge_err_set(&err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "unknown command");
	}
	if (err.code)
		control_refuse(call, &err);
	else
		control_answer(call, NULL);
}
