/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The source of a clone that is being stopped: every read fails, later, so that nobody waits for a source that will not
 * come any more.
 *
 * Owns. The list of reads until the next round of the loop.
 *
 * Locks. None: one thread.
 */
#include <stdlib.h>

#include "kclone.h"
#include "kedge/bytes.h"

struct absent {
	struct kedge_source source;
	struct kedge_defer_queue *queue;
	struct kedge_defer defer;
	struct kedge_source_io *list;
	void (*closed_fn)(void *arg);
	void *closed_arg;
	bool is_closing;
};

static void run_cb(void *arg)
{
	struct absent *a = arg;
	struct kedge_source_io *list = a->list;

	a->list = NULL;
	while (list) {
		struct kedge_source_io *next = list->next;
		list->fn(list, kedge_err_set(&list->err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "the clone is being stopped"));
		list = next;
	}
	if (a->is_closing && !a->list) {
		a->is_closing = false;
		a->closed_fn(a->closed_arg);
	}
}

static void run_soon(struct absent *a)
{
	if (a->defer.is_queued)
		return;
	a->defer.fn = run_cb;
	a->defer.arg = a;
	kedge_defer_add(a->queue, &a->defer);
}

static void absent_start(struct kedge_source *s)
{
	(void)s;
}

static void absent_read(struct kedge_source *s, struct kedge_source_io *io)
{
	struct absent *a = kedge_container_of(s, struct absent, source);

	io->next = a->list;
	a->list = io;
	run_soon(a);
}

static void absent_cancel(struct kedge_source *s, struct kedge_source_io *io)
{
	(void)s; /* it ends by itself, at once */
	(void)io;
}

static void absent_status(const struct kedge_source *s, struct kedge_source_status *ret_status)
{
	(void)s;
	*ret_status = (struct kedge_source_status){.state = KEDGE_SOURCE_CLOSED};
}

static void absent_close(struct kedge_source *s, void (*closed_fn)(void *arg), void *arg)
{
	struct absent *a = kedge_container_of(s, struct absent, source);

	a->is_closing = true;
	a->closed_fn = closed_fn;
	a->closed_arg = arg;
	run_soon(a);
}

static void absent_destroy(struct kedge_source *s)
{
	struct absent *a = kedge_container_of(s, struct absent, source);

	kedge_assert(!a->list);
	kedge_defer_remove(a->queue, &a->defer);
	free(a);
}

static const struct kedge_source_ops absent_ops = {
	.start = absent_start,
	.read = absent_read,
	.extents = absent_read,
	.cancel = absent_cancel,
	.status = absent_status,
	.close = absent_close,
	.destroy = absent_destroy,
};

struct kedge_source *source_absent_create(struct kedge_defer_queue *defer)
{
	struct absent *a = calloc(1, sizeof *a);

	kedge_assert(a != NULL);
	a->source.ops = &absent_ops;
	a->queue = defer;
	return &a->source;
}
