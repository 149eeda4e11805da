/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The user engine behind the interface of engine.h: nothing but calls, and read-around between it and its source.
 * Owns. The volume, and what reads ahead of it. Locks. None: one thread.
 */
#include <stdlib.h>

#include "ahead.h"
#include "engine.h"
#include "kedge/bytes.h"

struct engine_user {
	struct engine e;
	struct uclone *u;
	struct ahead *ahead;
	uclone_fn closed_fn;
	void *closed_arg;
};

static struct uclone *volume(const struct engine *e)
{
	return kedge_container_of(e, const struct engine_user, e)->u;
}

static struct ahead *ahead_of(const struct engine *e)
{
	return kedge_container_of(e, const struct engine_user, e)->ahead;
}

static void user_submit(struct engine *e, struct uclone_io *io)
{
	bool is_read = io->op == UCLONE_READ, is_wanted = io->nr_bytes && is_read;
	uint64_t start_bytes = io->start_bytes, nr_bytes = io->nr_bytes, size_bytes = engine_size_bytes(e);

	if (e->note_fn)
		e->note_fn(e->note_arg, io);
	uclone_submit(volume(e), io);
	/* after it: what is fetched ahead goes behind what is asked for */
	if (is_wanted && start_bytes < size_bytes && nr_bytes <= size_bytes - start_bytes)
		ahead_note(ahead_of(e), start_bytes, nr_bytes);
}

static enum uclone_block_kind user_map(const struct engine *e, uint64_t start_bytes, uint64_t max_bytes, uint64_t *ret_nr_bytes)
{
	return uclone_map(volume(e), start_bytes, max_bytes, ret_nr_bytes);
}

static void user_set_source(struct engine *e, struct kedge_source *s)
{
	/* ours is not told when a volume refuses to do without: reads that still come fail */
	ahead_set_source(ahead_of(e), s);
	uclone_set_source(volume(e), s ? ahead_front(ahead_of(e)) : NULL, NULL);
}

static void user_tick(struct engine *e)
{
	uclone_tick(volume(e));
	ahead_tick(ahead_of(e));
}

static void user_set_ahead(struct engine *e, uint32_t window_bytes)
{
	ahead_set_window(ahead_of(e), window_bytes);
}

static void user_ahead_status(const struct engine *e, struct ahead_status *ret_status)
{
	ahead_status(ahead_of(e), ret_status);
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

	ahead_destroy(eu->ahead); /* a fetch has a claim, and the volume waited for those */
	eu->closed_fn(eu->closed_arg, res, err);
	free(eu);
}

static void user_close(struct engine *e, uclone_fn fn, void *arg)
{
	struct engine_user *eu = kedge_container_of(e, struct engine_user, e);

	eu->closed_fn = fn;
	eu->closed_arg = arg;
	ahead_set_window(eu->ahead, 0);
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
	.set_ahead = user_set_ahead,
	.ahead_status = user_ahead_status,
	.next_bad = user_next_bad,
	.forget_bad = user_forget_bad,
	.commit = user_commit,
	.finish = user_finish,
	.abort = user_abort,
	.close = user_close,
};

struct engine *engine_user_create(struct uclone *u, struct kedge_defer_queue *queue)
{
	struct engine_user *eu = calloc(1, sizeof *eu);

	kedge_assert(eu != NULL);
	eu->e.ops = &user_ops;
	eu->e.stored = uclone_stored(u);
	eu->u = u;
	eu->ahead = ahead_create(uclone_claims(u), queue);
	return &eu->e;
}
