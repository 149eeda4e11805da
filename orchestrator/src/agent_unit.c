/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Units in memory: found, committed, their processes watched, requests that wait for them.
 *
 * Owns. Units with their timers, watches (pidfds) and waiters.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. unit_commit() writes first and changes memory after: what memory says is durable.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent_int.h"
#include "kedge/log.h"

#define WAIT_MS 1000

struct unit *unit_create(struct agent_service *s, const struct kedge_uuid *uuid, const char *name)
{
	struct unit *u = calloc(1, sizeof *u);

	if (!u)
		return NULL;
	u->s = s;
	u->d.vol.uuid = *uuid;
	strcpy(u->d.vol.name, name);
	for (int i = 0; i < NR_WATCHES; i++)
		u->watches[i] = (struct watch){.u = u, .kind = (enum watch_kind)i};
	uv_timer_init(s->loop, &u->retry);
	u->retry.data = u;
	u->next = s->units;
	s->units = u;
	return u;
}

static void on_unit_closed(uv_handle_t *h)
{
	struct unit *u = h->data;

	agent_unit_fini(&u->d);
	json_decref(u->clone_status);
	free(u);
}

static void on_waiter_closed(uv_handle_t *h)
{
	free(h->data);
}

/* No waiter is answered: when this happens the server is about to answer them itself, or there is none. */
void unit_destroy(struct unit *u)
{
	struct unit **p = &u->s->units;

	while (*p != u)
		p = &(*p)->next;
	*p = u->next;
	for (int i = 0; i < NR_WATCHES; i++)
		unit_unwatch(u, (enum watch_kind)i);
	while (u->waiters) {
		struct waiter *w = u->waiters;
		u->waiters = w->next;
		uv_close((uv_handle_t *)&w->timer, on_waiter_closed);
	}
	uv_close((uv_handle_t *)&u->retry, on_unit_closed);
}

struct unit *unit_by_uuid(struct agent_service *s, const struct kedge_uuid *uuid)
{
	for (struct unit *u = s->units; u; u = u->next)
		if (kedge_uuid_is_equal(&u->d.vol.uuid, uuid))
			return u;
	return NULL;
}

/* Tombstones, which only remember epochs, have no path. */
bool unit_is_visible(const struct unit *u)
{
	return u->d.vol.record.state != AGENT_STATE_UNKNOWN && u->d.vol.path[0];
}

struct unit *unit_by_name(struct agent_service *s, const char *name)
{
	for (struct unit *u = s->units; u; u = u->next)
		if (unit_is_visible(u) && strcmp(u->d.vol.name, name) == 0)
			return u;
	return NULL;
}

struct unit *unit_by_workload(struct agent_service *s, const char *name)
{
	for (struct unit *u = s->units; u; u = u->next)
		if (u->d.work.is_defined && strcmp(u->d.work.name, name) == 0)
			return u;
	return NULL;
}

int unit_commit(struct unit *u, struct agent_unit *next, const struct agent_request *q, const char *result, struct kedge_err *err)
{
	struct agent_store *store = u->s->store;
	const char *broken = agent_core_broken_invariant(&next->vol.record);
	int res = broken ? kedge_err_set(err, KEDGE_E_BUG, KEDGE_SIDE_CONTROL, "volume %s: %s", next->vol.name, broken) : 0;

	if (!res)
		res = agent_store_begin(store, err);
	if (!res)
		res = agent_store_put_unit(store, next, err);
	if (!res && result)
		res = agent_store_put_result(store, &q->migration, q->epoch, agent_step_name(q->step), result, err);
	if (!res)
		res = agent_store_commit(store, err);
	if (res) {
		agent_store_rollback(store);
		agent_unit_fini(next);
		return res;
	}
	agent_unit_fini(&u->d);
	u->d = *next;
	u->is_stored = true;
	return 0;
}

void unit_set_reason(struct unit *u, enum work_state state, const char *text)
{
	u->work_state = state;
	strncpy(u->reason, text ? text : "", sizeof u->reason - 1);
}

/* ---- watches ---- */

struct watch_poll {
	uv_poll_t poll;
	struct watch *watch;
	int fd;
};

static void on_poll_closed(uv_handle_t *h)
{
	struct watch_poll *p = h->data;

	close(p->fd);
	free(p);
}

bool unit_is_running(const struct unit *u, enum watch_kind kind)
{
	const struct watch *w = &u->watches[kind];

	return w->proc.pid > 0 && kedge_proc_is_alive(&w->proc);
}

/* A pidfd reads as ready when its process has ended, ours or not. */
static void on_process_ended(uv_poll_t *poll, int status, int events)
{
	static const char *const names[NR_WATCHES] = {"the workload", "kclone", "ktarget"};
	struct watch_poll *p = poll->data;
	struct watch *w = p->watch;
	struct unit *u = w->u;

	/* A job that stops it knows by itself. */
	if (!u->job)
		kedge_warn("volume %s: %s (pid %d) has ended", u->d.vol.name, names[w->kind], (int)w->proc.pid);
	if (w->kind == WATCH_CLONE)
		u->is_clone_ready = false;
	unit_unwatch(u, w->kind);
	if (u->job)
		return;
	if (w->kind == WATCH_WORKLOAD && u->d.work.is_wanted) {
		unit_set_reason(u, WORK_FAILED, "the workload ended by itself");
		agent_back_off(u);
	}
	agent_reconcile(u);
}

void unit_unwatch(struct unit *u, enum watch_kind kind)
{
	struct watch *w = &u->watches[kind];

	if (w->poll) {
		uv_poll_stop(&w->poll->poll);
		uv_close((uv_handle_t *)&w->poll->poll, on_poll_closed);
	}
	w->poll = NULL;
	memset(&w->proc, 0, sizeof w->proc);
}

void unit_watch(struct unit *u, enum watch_kind kind, const struct kedge_proc *proc)
{
	struct watch *w = &u->watches[kind];
	struct watch_poll *p;

	if (w->poll && w->proc.pid == proc->pid && w->proc.start_ticks == proc->start_ticks)
		return;
	unit_unwatch(u, kind);
	p = calloc(1, sizeof *p);
	if (!p)
		return;
	p->watch = w;
	p->fd = (int)syscall(SYS_pidfd_open, proc->pid, 0);
	if (p->fd < 0 || uv_poll_init(u->s->loop, &p->poll, p->fd)) {
		/* Gone already: reconcile sees it. */
		if (p->fd >= 0)
			close(p->fd);
		free(p);
		return;
	}
	p->poll.data = p;
	w->poll = p;
	w->proc = *proc;
	uv_poll_start(&p->poll, UV_READABLE, on_process_ended);
}

/* ---- waiters ---- */

static void waiter_remove(struct waiter *w)
{
	struct waiter **p = &w->u->waiters;

	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
	uv_timer_stop(&w->timer);
	uv_close((uv_handle_t *)&w->timer, on_waiter_closed);
}

static void on_wait_over(uv_timer_t *t)
{
	struct waiter *w = t->data;

	w->is_over = true;
	if (w->look(w))
		waiter_remove(w);
}

void unit_wait(struct unit *u, struct http_request *req, struct waiter *w, bool (*look)(struct waiter *w))
{
	w->u = u;
	w->req = req;
	w->look = look;
	uv_timer_init(u->s->loop, &w->timer);
	w->timer.data = w;
	uv_timer_start(&w->timer, on_wait_over, WAIT_MS, 0);
	w->next = u->waiters;
	u->waiters = w;
}

void unit_look_again(struct unit *u)
{
	struct waiter *w = u->waiters;

	while (w) {
		struct waiter *next = w->next;
		if (w->look(w))
			waiter_remove(w);
		w = next;
	}
}
