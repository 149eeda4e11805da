/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The iSCSI source as its users see it: starts and closes sessions, and refuses for good when another volume answers.
 *
 * Owns. The sessions; the requests are iscsi_requests.c's business.
 *
 * Locks. None: loop thread only.
 */
#include "iscsi_source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "kedge/bytes.h"
#include "source.h"

/* One command: measured, 128 KiB to 1 MiB copy equally fast; the smaller, the sooner a foreground read slips in between. */
#define CMD_BYTES (256u * 1024)

static struct kcopy_isource *isource_of(const struct kedge_source *s)
{
	return kedge_container_of(s, struct kcopy_isource, base);
}

/* ---- state ---- */

static void tell_cb(void *arg)
{
	struct kcopy_isource *src = arg;

	if (src->base.state_fn)
		src->base.state_fn(&src->base, src->base.state_arg);
}

static void set_state(struct kcopy_isource *src, enum kedge_source_state state)
{
	if (src->state == state)
		return;
	src->state = state;
	src->since_ns = kedge_loop_now_ns(src->loop);
	if (!src->tell.is_queued)
		kedge_loop_defer(src->loop, &src->tell);
}

void kcopy_isource_note(struct kcopy_isource *src, int code, const char *why)
{
	src->last_err = (struct kedge_err){ 0 };
	kedge_err_set(&src->last_err, code, KEDGE_SIDE_SOURCE, "%s: %s", src->url.portal, why);
}

static unsigned nr_up(const struct kcopy_isource *src)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < src->nr_sessions; i++)
		nr += src->sessions[i].state == KCOPY_SESSION_UP;
	return nr;
}

void kcopy_isource_sessions_changed(struct kcopy_isource *src)
{
	if (src->state == KEDGE_SOURCE_REFUSED || src->is_closing)
		return;
	if (nr_up(src) > 0) {
		set_state(src, KEDGE_SOURCE_UP);
		/* the first session learns who the source is; the others come after it */
		for (unsigned i = 0; i < src->nr_sessions; i++)
			kcopy_isession_start(&src->sessions[i]);
		kcopy_requests_dispatch(src);
	} else if (src->state == KEDGE_SOURCE_UP) {
		set_state(src, KEDGE_SOURCE_AWAY);
	}
}

void kcopy_isource_refuse(struct kcopy_isource *src, int code, const struct kedge_err *err)
{
	if (src->state == KEDGE_SOURCE_REFUSED || src->is_closing)
		return;
	src->last_err = *err;
	set_state(src, KEDGE_SOURCE_REFUSED);
	kcopy_requests_fail_all(src, code, err->msg);
	for (unsigned i = 0; i < src->nr_sessions; i++)
		kcopy_isession_stop(&src->sessions[i]);
}

int kcopy_isource_check_identity(struct kcopy_isource *src, const struct kcopy_isession *s)
{
	struct kedge_err err = { 0 };
	int rc = kedge_identity_check(&src->base.identity, &s->found, &err);

	if (rc == 0 && src->is_usn_required && strcmp(src->usn, s->usn) != 0)
		rc = kedge_err_set(&err, KEDGE_E_SOURCE_IDENTITY, KEDGE_SIDE_SOURCE,
				   "the source has the serial number \"%s\", expected \"%s\"", s->usn, src->usn);
	if (rc < 0) {
		kedge_err_prefix(&err, "%s", src->url.portal);
		kcopy_isource_refuse(src, rc, &err);
		return rc;
	}
	if (!src->has_learned) {
		src->has_learned = true;
		src->base.identity = s->found;
		memcpy(src->usn, s->usn, sizeof src->usn);
		src->is_usn_required = true;
		src->can_lba_status = s->capacity.is_thin_zeroed;
		if (s->max_transfer_blocks > 0)
			src->max_cmd_bytes = (uint32_t)kedge_min_u64(
				src->max_cmd_bytes, (uint64_t)s->max_transfer_blocks * s->found.lbs_bytes);
	}
	return 0;
}

/* ---- the interface ---- */

static void isource_read(struct kedge_source *base, struct kedge_source_io *io)
{
	kcopy_requests_submit(isource_of(base), io, KCOPY_REQUEST_READ);
}

static void isource_extents(struct kedge_source *base, struct kedge_source_io *io)
{
	kcopy_requests_submit(isource_of(base), io, KCOPY_REQUEST_EXTENTS);
}

static void isource_sums(struct kedge_source *base, struct kedge_source_io *io)
{
	kcopy_requests_submit(isource_of(base), io, KCOPY_REQUEST_SUMS);
}

static void isource_cancel(struct kedge_source *base, struct kedge_source_io *io)
{
	kcopy_requests_cancel(isource_of(base), io);
}

static void isource_urge(struct kedge_source *base, struct kedge_source_io *io)
{
	kcopy_requests_urge(isource_of(base), io);
}

static void isource_start(struct kedge_source *base)
{
	struct kcopy_isource *src = isource_of(base);

	if (src->is_started || src->is_closing)
		return;
	src->is_started = true;
	set_state(src, KEDGE_SOURCE_CONNECTING);
	kcopy_isession_start(&src->sessions[0]);
}

static void isource_status(const struct kedge_source *base, struct kedge_source_status *ret_status)
{
	const struct kcopy_isource *src = isource_of(base);

	*ret_status = (struct kedge_source_status){
		.state = src->state,
		.since_ns = src->since_ns,
		.read_bytes = src->read_bytes,
		.wire_bytes = src->transit.wire_bytes,
		.nr_damaged = src->transit.nr_damaged,
		.nr_reconnects = src->nr_reconnects,
		.nr_sessions = nr_up(src),
		.last_err = src->last_err,
	};
	for (unsigned i = 0; i < src->nr_sessions; i++)
		ret_status->nr_inflight += src->sessions[i].nr_inflight;
}

void kcopy_isource_conn_gone(struct kcopy_isource *src)
{
	src->nr_conns--;
	kcopy_isource_close_on(src);
}

/* closed_fn once everything is answered and no connection is left. */
void kcopy_isource_close_on(struct kcopy_isource *src)
{
	if (!src->is_closing || src->is_closed_told || src->nr_conns > 0 || src->all)
		return;
	src->is_closed_told = true;
	src->state = KEDGE_SOURCE_CLOSED;
	src->since_ns = kedge_loop_now_ns(src->loop);
	kedge_defer_remove(kedge_loop_defer_queue(src->loop), &src->tell);
	kedge_timer_stop(src->loop, &src->later_timer);
	src->closed_fn(src->closed_arg);
}

static void isource_close(struct kedge_source *base, void (*closed_fn)(void *arg), void *arg)
{
	struct kcopy_isource *src = isource_of(base);

	src->is_closing = true;
	src->closed_fn = closed_fn;
	src->closed_arg = arg;
	kcopy_requests_fail_all(src, -ECANCELED, "the source was closed");
	for (unsigned i = 0; i < src->nr_sessions; i++)
		kcopy_isession_stop(&src->sessions[i]);
	/* closed_fn runs from the deferred call even when nothing is left to wait for */
	if (!src->done.is_queued)
		kedge_loop_defer(src->loop, &src->done);
}

static void isource_destroy(struct kedge_source *base)
{
	struct kcopy_isource *src = isource_of(base);

	kedge_defer_remove(kedge_loop_defer_queue(src->loop), &src->tell);
	kcopy_requests_fini(src);
	kcopy_transit_fini(&src->transit);
	kedge_chap_fini(&src->chap);
	free(src);
}

static const struct kedge_source_ops isource_ops = {
	.start = isource_start,
	.read = isource_read,
	.extents = isource_extents,
	.sums = isource_sums,
	.cancel = isource_cancel,
	.urge = isource_urge,
	.status = isource_status,
	.close = isource_close,
	.destroy = isource_destroy,
};

const char *kcopy_source_serial(const struct kedge_source *base)
{
	const struct kcopy_isource *src = isource_of(base);

	return base->ops == &isource_ops && src->has_learned ? src->usn : "";
}

int kcopy_isource_create(struct kedge_loop *l, const struct kcopy_source_opts *opts, struct kedge_source **ret_source,
			 struct kedge_err *err)
{
	struct kcopy_isource *src = calloc(1, sizeof *src);
	int rc;

	if (!src)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory for a source");
	rc = kcopy_url_parse(opts->url, &src->url, err);
	if (rc == 0)
		rc = kcopy_timeouts_parse(getenv("KEDGE_SOURCE_TIMEOUTS"), &src->timeouts, err);
	if (rc == 0)
		rc = kcopy_initiator_iqn(opts->initiator_iqn, src->initiator_iqn, err);
	if (rc == 0 && opts->serial && strlen(opts->serial) >= sizeof src->usn)
		rc = kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "the serial number is longer than %d bytes", KCOPY_USN_MAX - 1);
	if (rc == 0)
		rc = kcopy_transit_init(&src->transit, opts->transit, err);
	if (rc < 0) {
		kcopy_transit_fini(&src->transit);
		free(src);
		return rc;
	}
	if (opts->serial) {
		strcpy(src->usn, opts->serial);
		src->is_usn_required = true;
	}
	src->loop = l;
	src->base.ops = &isource_ops;
	src->base.identity = opts->identity;
	src->nr_sessions = opts->nr_sessions;
	if (opts->chap) {
		src->chap = *opts->chap;
		src->has_chap = true;
	}
	kedge_random(&src->isid, sizeof src->isid);
	src->isid &= 0xffffff;
	src->max_cmd_bytes = CMD_BYTES;
	src->state = KEDGE_SOURCE_STOPPED;
	src->since_ns = kedge_loop_now_ns(l);
	kcopy_requests_init(src);
	src->tell.fn = tell_cb;
	src->tell.arg = src;
	for (unsigned i = 0; i < src->nr_sessions; i++)
		kcopy_isession_init(&src->sessions[i], src, i);
	*ret_source = &src->base;
	return 0;
}
