/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The source of a worker: attached by command or from memory, identity verified by kcopy at each login.
 *
 * Owns. The source, and META.source, which remembers where it was attached (and the path of its CHAP file, never a
 * secret), so that the next worker attaches by itself.
 *
 * Locks. None: one thread.
 *
 * Crash. META.source is replaced whole; a stale one cannot give wrong data, for the identity would be another.
 */
#include "worker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"

#define ATTACH_TIMEOUT_MS 10000

static void remember_source(struct worker *w)
{
	char path[UCLONE_PATH_MAX + 16], text[UCLONE_URL_MAX + UCLONE_PATH_MAX + 4];
	struct kedge_err err = {0};

	snprintf(path, sizeof path, "%s.source", w->args->meta);
	snprintf(text, sizeof text, "%s\n%s\n", w->url, w->chap_file);
	if (kedge_file_replace(path, text, strlen(text), 0600, &err) < 0)
		kedge_warn("the next worker will not attach by itself: %s", err.msg);
}

bool worker_recall_source(struct worker *w)
{
	return clone_recall_source(w->args->meta, w->url, w->chap_file);
}

void worker_answer_attach(struct worker *w, const struct kedge_err *err)
{
	struct control_call *call = w->attach_call;

	kedge_timer_stop(w->loop, &w->attach_timer);
	w->attach_call = NULL;
	if (!call)
		return;
	if (err)
		control_refuse(call, err);
	else
		control_answer(call, NULL);
}

static void source_state_cb(struct kedge_source *s, void *arg)
{
	struct worker *w = arg;
	struct kedge_source_status st;

	if (s != w->source)
		return;
	s->ops->status(s, &st);
	kedge_info("source %s%s%s", kedge_source_state_name(st.state), st.last_err.code ? ": " : "",
		   st.state == KEDGE_SOURCE_UP ? "" : st.last_err.msg);
	if (st.state == KEDGE_SOURCE_UP) {
		remember_source(w);
		if (w->e->ops->source_up)
			w->e->ops->source_up(w->e, w->url, w->chap_file);
		worker_answer_attach(w, NULL);
		if (w->is_hydrate_wanted)
			worker_hydrate(w);
	} else if (st.state == KEDGE_SOURCE_AWAY && w->args->is_urgent) {
		worker_make_urgent(w, "the source was lost");
	} else if (st.state == KEDGE_SOURCE_REFUSED) {
		worker_answer_attach(w, &st.last_err);
	}
}

static void old_closed_cb(void *arg)
{
	struct kedge_source *s = arg;

	s->ops->destroy(s);
}

int worker_open_source(struct worker *w, struct kedge_err *err)
{
	const struct uclone_create_opts *o = w->e->stored;
	struct kcopy_source_opts so = {.url = w->url, .identity = o->source, .nr_sessions = w->args->nr_sessions,
				      .transit = w->args->transit};
	struct kedge_source *old = w->source, *s;
	struct kedge_chap chap;
	int r;

	so.initiator_iqn = o->initiator_iqn[0] ? o->initiator_iqn : NULL;
	if (strncmp(w->url, "iscsi://", 8) != 0)
		memset(&so.identity.volume, 0, sizeof so.identity.volume); /* a file has no serial number: geometry only */
	if (w->chap_file[0]) {
		r = kedge_chap_read(w->chap_file, &chap, err);
		if (r < 0)
			return r;
		so.chap = &chap;
	}
	r = kcopy_source_create(w->loop, &so, &s, err);
	if (so.chap)
		kedge_chap_fini(&chap);
	if (r < 0)
		return r;
	s->state_fn = source_state_cb;
	s->state_arg = w;
	w->source = s;
	w->e->ops->set_source(w->e, s);
	s->ops->start(s);
	if (old) /* refused: it answers nothing any more */
		old->ops->close(old, old_closed_cb, old);
	return 0;
}

void worker_attach_timeout_cb(struct kedge_timer *t)
{
	struct worker *w = kedge_container_of(t, struct worker, attach_timer);
	struct kedge_source_status st = {0};
	struct kedge_err err = {0};

	if (w->source)
		w->source->ops->status(w->source, &st);
	kedge_err_set(&err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "the source does not answer yet: %s; going on trying",
		      st.last_err.code ? st.last_err.msg : w->url);
	worker_answer_attach(w, &err);
}

static int take_text(const json_t *args, const char *key, char *out, size_t out_max, struct kedge_err *err)
{
	const char *t = json_string_value(json_object_get(args, key));

	if (!t)
		return 0;
	if (strlen(t) >= out_max)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "%s is too long", key);
	strcpy(out, t);
	return 0;
}

static int attach(struct worker *w, const json_t *args, struct kedge_err *err)
{
	char url[UCLONE_URL_MAX], chap_file[UCLONE_PATH_MAX];
	struct kedge_source_status st = {0};
	struct uclone_status us;

	w->e->ops->status(w->e, &us);
	if (us.state == UCLONE_HYDRATED)
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_SOURCE, "the clone is hydrated and needs no source");
	strcpy(url, w->url);
	strcpy(chap_file, w->chap_file);
	if (take_text(args, "url", url, sizeof url, err) < 0 || take_text(args, "chap_file", chap_file, sizeof chap_file, err) < 0)
		return err->code;
	if (w->source)
		w->source->ops->status(w->source, &st);
	if (w->source && st.state != KEDGE_SOURCE_REFUSED) {
		if (strcmp(url, w->url) != 0)
			return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_SOURCE, "already attached to %s", w->url);
		return 0;
	}
	if (w->is_hydrating || w->verify == VERIFY_RUNNING) {
		kcopy_hydrator_stop(w->hydrator);
		return kedge_err_set(err, -EBUSY, KEDGE_SIDE_SOURCE, "copies of the refused source are still ending: try again");
	}
	if (w->e->ops->needs_source && w->e->ops->needs_source(w->e))
		return kedge_err_set(err, -EBUSY, KEDGE_SIDE_SOURCE, "the head start from the refused source is still ending: try again");
	worker_retire_hydrator(w);
	strcpy(w->url, url);
	strcpy(w->chap_file, chap_file);
	return worker_open_source(w, err);
}

void worker_attach(struct worker *w, const json_t *args, struct control_call *call)
{
	struct kedge_source_status st;
	struct kedge_err err = {0};
	json_int_t ms = json_integer_value(json_object_get(args, "timeout_ms"));

	if (w->attach_call)
		kedge_err_set(&err, -EBUSY, KEDGE_SIDE_SOURCE, "another attach is under way");
	else
		attach(w, args, &err);
	if (err.code) {
		control_refuse(call, &err);
		return;
	}
	if (!w->args->is_no_hydrate)
		w->is_hydrate_wanted = true;
	w->source->ops->status(w->source, &st);
	if (st.state == KEDGE_SOURCE_UP) {
		if (w->is_hydrate_wanted)
			worker_hydrate(w);
		control_answer(call, NULL);
		return;
	}
	w->attach_call = call;
	kedge_timer_start(w->loop, &w->attach_timer, ms > 0 ? (uint64_t)ms : ATTACH_TIMEOUT_MS);
}
