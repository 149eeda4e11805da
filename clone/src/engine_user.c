/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The user engine behind the interface of engine.h: nothing but calls.
 * Owns. The volume. Locks. None: one thread.
 */
#include <stdlib.h>

#include "engine.h"
#include "kedge/bytes.h"

struct engine_user {
	struct engine e;
	struct uclone *u;
	uclone_fn closed_fn;
	void *closed_arg;
};

static struct uclone *volume(const struct engine *e)
{
	return kedge_container_of(e, const struct engine_user, e)->u;
}

static void user_submit(struct engine *e, struct uclone_io *io)
{
	uclone_submit(volume(e), io);
}

static enum uclone_block_kind user_map(const struct engine *e, uint64_t start_bytes, uint64_t max_bytes, uint64_t *ret_nr_bytes)
{
	return uclone_map(volume(e), start_bytes, max_bytes, ret_nr_bytes);
}

static void user_set_source(struct engine *e, struct kedge_source *s)
{
	uclone_set_source(volume(e), s, NULL);
}

static void user_tick(struct engine *e)
{
	uclone_tick(volume(e));
}

static void user_status(const struct engine *e, struct uclone_status *ret_status)
{
	uclone_status(volume(e), ret_status);
}

static struct kedge_claims *user_claims(struct engine *e)
{
	return uclone_claims(volume(e));
}

static int user_next_bad(const struct engine *e, uint64_t from_bytes, uint64_t *ret_start_bytes, uint64_t *ret_nr_bytes)
{
	return uclone_next_bad(volume(e), from_bytes, ret_start_bytes, ret_nr_bytes);
}

static void user_forget_bad(struct engine *e)
{
	uclone_forget_bad(volume(e));
}

static void user_commit(struct engine *e, uclone_fn fn, void *arg)
{
	uclone_commit(volume(e), fn, arg);
}

static void user_finish(struct engine *e, uclone_fn fn, void *arg)
{
	uclone_finish(volume(e), fn, arg);
}

static void user_abort(struct engine *e, uclone_fn fn, void *arg)
{
	uclone_abort(volume(e), fn, arg);
}

static void closed_cb(void *arg, int res, const struct kedge_err *err)
{
	struct engine_user *eu = arg;

	eu->closed_fn(eu->closed_arg, res, err);
	free(eu);
}

static void user_close(struct engine *e, uclone_fn fn, void *arg)
{
	struct engine_user *eu = kedge_container_of(e, struct engine_user, e);

	eu->closed_fn = fn;
	eu->closed_arg = arg;
	uclone_close(eu->u, closed_cb, eu);
}

static const struct engine_ops user_ops = {
	.name = "user",
	.submit = user_submit,
	.map = user_map,
	.set_source = user_set_source,
	.tick = user_tick,
	.status = user_status,
	.claims = user_claims,
	.next_bad = user_next_bad,
	.forget_bad = user_forget_bad,
	.commit = user_commit,
	.finish = user_finish,
	.abort = user_abort,
	.close = user_close,
};

struct engine *engine_user_create(struct uclone *u)
{
	struct engine_user *eu = calloc(1, sizeof *eu);

	kedge_assert(eu != NULL);
	eu->e.ops = &user_ops;
	eu->e.stored = uclone_stored(u);
	eu->u = u;
	return &eu->e;
}
