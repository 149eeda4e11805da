/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Requests of an iSCSI source: splits them into commands, spreads those over the sessions, replays what a lost
 * connection took with it, tries again what failed, and answers.
 *
 * Owns. The requests under way and their parts. A request's buffer is touched only while a part of it is in flight; a request is
 * answered only when none is, so late data never reaches a buffer that was given back.
 *
 * Locks. None: loop thread only. Answers go out from a deferred call, never from inside a call of the user's.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "iscsi_source.h"
#include "kedge/bytes.h"

#define TRIES 5
#define ATTENTIONS 20
#define LATER_MS 100
#define LBA_STATUS_EXTENTS 256u
#define UNKNOWN_MAX_BYTES (1ull << 30) /* taken as data where the target fails to say, before it is asked again */

/* ---- requests and parts ---- */

static struct kcopy_part *get_part(struct kcopy_isource *src)
{
	struct kcopy_part *p = src->free_parts;

	if (p)
		src->free_parts = p->next;
	else
		p = malloc(sizeof *p);
	if (p)
		memset(p, 0, sizeof *p);
	return p;
}

static void put_part(struct kcopy_isource *src, struct kcopy_part *p)
{
	p->req->nr_parts--;
	p->next = src->free_parts;
	src->free_parts = p;
}

static void done_cb(void *arg)
{
	struct kcopy_isource *src = arg;
	struct kcopy_request *r;

	while ((r = src->done_head)) {
		struct kedge_source_io *io = r->io;
		int res = r->res;

		src->done_head = r->next_done;
		if (!src->done_head)
			src->done_tail = &src->done_head;
		if (r->prev)
			r->prev->next = r->next;
		else
			src->all = r->next;
		if (r->next)
			r->next->prev = r->prev;
		r->next = src->free_requests;
		src->free_requests = r;
		io->priv = NULL;
		io->fn(io, res);
	}
	kcopy_isource_close_on(src);
}

static void unqueue(struct kcopy_isource *src, struct kcopy_request *r)
{
	struct kcopy_request **at = &src->queue_head[r->prio];

	if (!r->is_queued)
		return;
	while (*at != r)
		at = &(*at)->next_queued;
	*at = r->next_queued;
	if (src->queue_tail[r->prio] == &r->next_queued)
		src->queue_tail[r->prio] = at;
	r->is_queued = false;
}

static bool is_split_up(const struct kcopy_request *r)
{
	return r->kind == KCOPY_REQUEST_EXTENTS ? r->next_bytes > 0 : r->next_bytes == r->io->start_bytes + r->io->nr_bytes;
}

/* Answer it when nothing of it is in flight and there is nothing left to do. */
static void finish_if_done(struct kcopy_isource *src, struct kcopy_request *r)
{
	if (r->is_done || r->nr_parts > 0 || (r->res == 0 && !is_split_up(r)))
		return;
	r->is_done = true;
	unqueue(src, r);
	kedge_timer_stop(src->loop, &r->timer);
	r->next_done = NULL;
	*src->done_tail = r;
	src->done_tail = &r->next_done;
	if (!src->done.is_queued)
		kedge_loop_defer(src->loop, &src->done);
}

static void drop_parts_of(struct kcopy_isource *src, struct kcopy_part **at, const struct kcopy_request *r)
{
	while (*at) {
		struct kcopy_part *p = *at;
		if (p->req == r) {
			*at = p->next;
			put_part(src, p);
		} else {
			at = &p->next;
		}
	}
}

/* The request ends with res; first error wins. Parts in flight are waited for. */
static void fail_request(struct kcopy_isource *src, struct kcopy_request *r, int res)
{
	if (r->is_done || r->res != 0)
		return;
	r->res = res;
	unqueue(src, r);
	for (int prio = 0; prio < 2; prio++)
		drop_parts_of(src, &src->retry[prio], r);
	drop_parts_of(src, &src->later, r);
	finish_if_done(src, r);
}

void kcopy_requests_fail_all(struct kcopy_isource *src, int code, const char *msg)
{
	struct kcopy_request *next;

	for (struct kcopy_request *r = src->all; r; r = next) {
		next = r->next;
		if (!r->is_done && r->res == 0)
			kedge_err_set(&r->io->err, code, KEDGE_SIDE_SOURCE, "%s", msg);
		fail_request(src, r, code);
	}
}

/* ---- parts in flight ---- */

static void later_cb(struct kedge_timer *t)
{
	struct kcopy_isource *src = kedge_container_of(t, struct kcopy_isource, later_timer);

	while (src->later) {
		struct kcopy_part *p = src->later;
		src->later = p->next;
		p->next = src->retry[p->req->prio];
		src->retry[p->req->prio] = p;
	}
	kcopy_requests_dispatch(src);
}

static void retry_part(struct kcopy_isource *src, struct kcopy_part *p, bool is_at_once)
{
	struct kcopy_part **list = is_at_once ? &src->retry[p->req->prio] : &src->later;

	p->next = *list;
	*list = p;
	if (!is_at_once && !kedge_timer_is_armed(&src->later_timer))
		kedge_timer_start(src->loop, &src->later_timer, LATER_MS);
}

/* It has been tried often enough: the whole request ends. */
static void give_up(struct kcopy_isource *src, struct kcopy_part *p, int code, const char *what)
{
	struct kcopy_request *r = p->req;

	if (r->res == 0)
		kedge_err_set(&r->io->err, code, KEDGE_SIDE_SOURCE,
			      "%s: %s at bytes %" PRIu64 " to %" PRIu64 " (sense %02x/%04x), %u tries", src->url.portal, what,
			      p->start_bytes, p->start_bytes + p->nr_bytes, p->cmd.sense_key, p->cmd.sense_code, p->nr_tries);
	put_part(src, p);
	fail_request(src, r, code);
}

static void one_data_extent(struct kcopy_request *r, uint64_t max_bytes)
{
	r->io->extents[0] = (struct kedge_extent){ .nr_bytes = kedge_min_u64(r->io->nr_bytes, max_bytes), .is_hole = false };
	r->io->ret_nr_extents = 1;
}

static void take_extents(struct kcopy_isource *src, struct kcopy_part *p)
{
	struct kcopy_request *r = p->req;
	struct kedge_source_io *io = r->io;
	uint32_t lbs_bytes = src->base.identity.lbs_bytes;
	int nr = kcopy_parse_lba_status(p->cmd.data, p->cmd.data ? p->cmd.nr_data : 0, io->start_bytes / lbs_bytes,
					io->nr_bytes / lbs_bytes, lbs_bytes, io->extents, io->nr_extents_max);

	if (nr > 0) {
		io->ret_nr_extents = (uint32_t)nr;
	} else {
		src->can_lba_status = false;
		one_data_extent(r, UINT64_MAX);
	}
}

/* Unit attentions that say that what we know of the unit may be wrong now: capacity or inquiry data changed, other LUNs. */
static bool is_identity_in_doubt(const struct kcopy_cmd *cmd)
{
	uint8_t asc = (uint8_t)(cmd->sense_code >> 8);

	return asc == 0x2a || asc == 0x3f;
}

/* What becomes of a part that was answered otherwise than well. */
static void part_failed(struct kcopy_isource *src, struct kcopy_part *p, struct kcopy_isession *s)
{
	bool is_extents = p->req->kind == KCOPY_REQUEST_EXTENTS;

	switch (p->cmd.outcome) {
	case KCOPY_CMD_GOOD:
	case KCOPY_CMD_LOST:
		retry_part(src, p, true);
		return;
	case KCOPY_CMD_ATTENTION:
		if (is_identity_in_doubt(&p->cmd)) {
			retry_part(src, p, true);
			kcopy_isession_fail(s, KEDGE_E_SOURCE_AWAY, "the target says that the unit has changed: asking again who it is");
		} else {
			retry_part(src, p, p->nr_attentions++ < ATTENTIONS);
		}
		return;
	case KCOPY_CMD_BUSY:
		retry_part(src, p, false);
		return;
	case KCOPY_CMD_REFUSED:
		if (p->is_extent) { /* it was offered; whatever is wrong, a plain read finds out */
			s->offer = (struct kedge_transit_offer){ 0 };
			retry_part(src, p, true);
			return;
		}
		break;
	case KCOPY_CMD_SHORT:
	case KCOPY_CMD_MEDIUM:
	case KCOPY_CMD_DAMAGED:
		break;
	}
	p->nr_tries++;
	if (is_extents && (p->cmd.outcome == KCOPY_CMD_REFUSED || p->nr_tries >= TRIES)) {
		struct kcopy_request *r = p->req;
		if (p->cmd.outcome == KCOPY_CMD_REFUSED)
			src->can_lba_status = false;
		one_data_extent(r, src->can_lba_status ? UNKNOWN_MAX_BYTES : UINT64_MAX);
		put_part(src, p);
		finish_if_done(src, r);
	} else if (p->nr_tries >= TRIES && p->cmd.outcome == KCOPY_CMD_DAMAGED) {
		give_up(src, p, KEDGE_E_SOURCE_DAMAGED, "what arrives is not what the source's checksum says");
	} else if (p->nr_tries >= TRIES) {
		bool is_refused = p->cmd.outcome == KCOPY_CMD_REFUSED;
		give_up(src, p, is_refused ? -EIO : KEDGE_E_SOURCE_MEDIUM, is_refused ? "the target refuses to read" : "cannot read");
	} else if (p->cmd.outcome == KCOPY_CMD_REFUSED) {
		/* No such unit, no such block: this may be another volume by now. A new login finds out. */
		retry_part(src, p, true);
		kcopy_isession_fail(s, KEDGE_E_SOURCE_AWAY, "the target refuses a read: asking again who it is");
	} else {
		retry_part(src, p, false);
	}
}

/* Well answered? Of extents less than was asked for is the rule, of reads it is none. */
static bool is_answered(struct kcopy_isource *src, struct kcopy_part *p)
{
	if (p->cmd.outcome > KCOPY_CMD_SHORT)
		return false;
	if (p->req->kind == KCOPY_REQUEST_SUMS)
		return kcopy_transit_take_sum(src, p);
	return p->req->kind == KCOPY_REQUEST_EXTENTS || kcopy_transit_take(src, p);
}

static void part_cb(struct kcopy_cmd *cmd)
{
	struct kcopy_part *p = kedge_container_of(cmd, struct kcopy_part, cmd);
	struct kcopy_request *r = p->req;
	struct kcopy_isession *s = p->session;
	struct kcopy_isource *src = s->src;

	s->slots[p->slot] = NULL;
	s->nr_inflight--;
	s->inflight_bytes -= p->nr_bytes;
	r->nr_inflight--;
	bool is_good = r->res == 0 && is_answered(src, p);
	kcopy_transit_ended(src, p, is_good);
	if (r->res != 0) { /* it has failed or been cancelled meanwhile */
		put_part(src, p);
		finish_if_done(src, r);
	} else if (is_good) {
		kcopy_isession_succeeded(s);
		if (r->kind == KCOPY_REQUEST_READ)
			src->read_bytes += p->nr_bytes;
		else if (r->kind == KCOPY_REQUEST_EXTENTS)
			take_extents(src, p);
		put_part(src, p);
		finish_if_done(src, r);
	} else {
		part_failed(src, p, s);
	}
	kcopy_requests_dispatch(src);
}

/* ---- dispatch ---- */

/* The session that foreground reads have for themselves; NULL: none, nobody reads or there is no other. */
static const struct kcopy_isession *kept_session(const struct kcopy_isource *src)
{
	const struct kcopy_isession *first = NULL;

	if (src->demand_ns == 0 || kedge_loop_now_ns(src->loop) >= src->demand_ns + KCOPY_DEMAND_MS * 1000000ull)
		return NULL;
	for (unsigned i = 0; i < src->nr_sessions; i++) {
		if (src->sessions[i].state != KCOPY_SESSION_UP)
			continue;
		if (first)
			return first;
		first = &src->sessions[i];
	}
	return NULL;
}

/* The session with a free place and the least to do. */
static struct kcopy_isession *pick_session(struct kcopy_isource *src, enum kedge_prio prio)
{
	unsigned limit = prio == KEDGE_PRIO_FOREGROUND ? KCOPY_SLOTS : KCOPY_SLOTS - KCOPY_SLOTS_KEPT;
	const struct kcopy_isession *kept = prio == KEDGE_PRIO_BACKGROUND ? kept_session(src) : NULL;
	struct kcopy_isession *best = NULL;

	for (unsigned i = 0; i < src->nr_sessions; i++) {
		struct kcopy_isession *s = &src->sessions[i];
		if (s->state != KCOPY_SESSION_UP || s == kept)
			continue;
		if (kept) /* one flow beside theirs, not three */
			return s->nr_inflight < limit ? s : NULL;
		if (s->nr_inflight >= limit)
			continue;
		if (!best || s->inflight_bytes < best->inflight_bytes)
			best = s;
	}
	return best;
}

static void check_range(struct kcopy_isource *src, struct kcopy_request *r)
{
	const struct kedge_identity *id = &src->base.identity;
	const struct kedge_source_io *io = r->io;

	if (io->nr_bytes == 0 || io->start_bytes % id->lbs_bytes || io->nr_bytes % id->lbs_bytes ||
	    io->start_bytes > id->size_bytes || io->nr_bytes > id->size_bytes - io->start_bytes) {
		kedge_err_set(&r->io->err, -EINVAL, KEDGE_SIDE_SOURCE,
			      "bytes %" PRIu64 " + %" PRIu64 " are not a range of whole blocks of the source", io->start_bytes,
			      io->nr_bytes);
		fail_request(src, r, -EINVAL);
	}
}

/* The next part of this priority, or NULL. */
static struct kcopy_part *next_part(struct kcopy_isource *src, enum kedge_prio prio)
{
	struct kcopy_part *p = src->retry[prio];
	struct kcopy_request *r;

	if (p) {
		src->retry[prio] = p->next;
		return p;
	}
	while ((r = src->queue_head[prio])) {
		if (r->next_bytes == (r->kind == KCOPY_REQUEST_EXTENTS ? 0 : r->io->start_bytes))
			check_range(src, r);
		if (r->is_done)
			continue; /* refused: it has left the queue */
		if (r->kind == KCOPY_REQUEST_EXTENTS && !src->can_lba_status) {
			r->next_bytes = 1;
			one_data_extent(r, UINT64_MAX);
			finish_if_done(src, r);
			continue;
		}
		break;
	}
	if (!r)
		return NULL;
	p = get_part(src);
	if (!p)
		return NULL;
	p->req = r;
	r->nr_parts++;
	if (r->kind == KCOPY_REQUEST_EXTENTS) {
		r->next_bytes = 1;
		p->start_bytes = r->io->start_bytes;
	} else {
		uint64_t left = r->io->start_bytes + r->io->nr_bytes - r->next_bytes;
		p->start_bytes = r->next_bytes;
		p->nr_bytes = (uint32_t)kedge_min_u64(left, r->kind == KCOPY_REQUEST_SUMS ? KEDGE_TRANSIT_EXTENT_MAX_BYTES : src->max_cmd_bytes);
		r->next_bytes += p->nr_bytes;
	}
	if (is_split_up(r))
		unqueue(src, r);
	return p;
}

static int send_part(struct kcopy_isource *src, struct kcopy_isession *s, struct kcopy_part *p)
{
	struct kcopy_request *r = p->req;
	uint32_t lbs_bytes = src->base.identity.lbs_bytes;
	int rc;

	p->cmd.fn = part_cb;
	if (r->kind == KCOPY_REQUEST_READ)
		rc = kcopy_transit_send(src, s, p, (char *)r->io->buf + (p->start_bytes - r->io->start_bytes));
	else if (r->kind == KCOPY_REQUEST_SUMS)
		rc = kcopy_transit_send_sum(src, s, p);
	else
		rc = kcopy_cmd_lba_status(s->conn, &p->cmd, p->start_bytes / lbs_bytes,
					  8 + 16 * (uint32_t)kedge_min_u64(r->io->nr_extents_max, LBA_STATUS_EXTENTS));
	if (rc < 0)
		return rc;
	for (p->slot = 0; s->slots[p->slot]; p->slot++)
		;
	s->slots[p->slot] = p;
	p->session = s;
	p->sent_ns = kedge_loop_now_ns(src->loop);
	s->nr_inflight++;
	s->inflight_bytes += p->nr_bytes;
	r->nr_inflight++;
	return 0;
}

void kcopy_requests_dispatch(struct kcopy_isource *src)
{
	for (int prio = KEDGE_PRIO_FOREGROUND; prio <= KEDGE_PRIO_BACKGROUND; prio++) {
		struct kcopy_isession *s;
		struct kcopy_part *p;

		while ((s = pick_session(src, prio)) && (p = next_part(src, prio))) {
			if (p->req->kind == KCOPY_REQUEST_SUMS && !kcopy_transit_can_sum(s)) {
				struct kcopy_request *r = p->req;
				put_part(src, p);
				fail_request(src, r, -EOPNOTSUPP);
				continue;
			}
			if (send_part(src, s, p) < 0) {
				retry_part(src, p, false);
				return;
			}
		}
	}
}

/*
 * Its time is over. Its parts in flight may be in the middle of arriving, so the sessions that carry them end first; what
 * else they carried is replayed.
 */
static void timer_cb(struct kedge_timer *t)
{
	struct kcopy_request *r = kedge_container_of(t, struct kcopy_request, timer);
	struct kcopy_isource *src = r->src;

	kedge_err_set(&r->io->err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "%s: no answer in %u ms%s%s", src->url.portal,
		      r->io->timeout_ms, src->last_err.code ? "; last: " : "", src->last_err.msg);
	fail_request(src, r, KEDGE_E_SOURCE_AWAY);
	for (unsigned i = 0; i < src->nr_sessions && r->nr_inflight > 0; i++) {
		struct kcopy_isession *s = &src->sessions[i];
		for (unsigned j = 0; j < KCOPY_SLOTS; j++) {
			if (s->slots[j] && s->slots[j]->req == r) {
				kcopy_isession_fail(s, KEDGE_E_SOURCE_AWAY, "a read was not answered within its time limit");
				break;
			}
		}
	}
}

static void queue(struct kcopy_isource *src, struct kcopy_request *r)
{
	r->is_queued = true;
	r->next_queued = NULL;
	*src->queue_tail[r->prio] = r;
	src->queue_tail[r->prio] = &r->next_queued;
}

void kcopy_requests_submit(struct kcopy_isource *src, struct kedge_source_io *io, enum kcopy_request_kind kind)
{
	struct kcopy_request *r = src->free_requests;

	io->err = (struct kedge_err){ 0 };
	if (r)
		src->free_requests = r->next;
	else
		r = malloc(sizeof *r);
	/* There is no way to say so without memory to say it in. */
	kedge_assert(r != NULL);
	*r = (struct kcopy_request){ .io = io, .kind = kind, .prio = io->prio, .src = src };
	r->timer.fn = timer_cb;
	r->next = src->all;
	if (src->all)
		src->all->prev = r;
	src->all = r;
	io->priv = r;
	if (src->state == KEDGE_SOURCE_REFUSED) {
		io->err = src->last_err;
		fail_request(src, r, src->last_err.code);
		return;
	}
	if (src->is_closing) {
		fail_request(src, r, -ECANCELED);
		return;
	}
	if (kind != KCOPY_REQUEST_EXTENTS)
		r->next_bytes = io->start_bytes;
	if (io->prio == KEDGE_PRIO_FOREGROUND)
		src->demand_ns = kedge_loop_now_ns(src->loop);
	queue(src, r);
	if (io->timeout_ms > 0)
		kedge_timer_start(src->loop, &r->timer, io->timeout_ms);
	kcopy_requests_dispatch(src);
}

bool kcopy_part_is_abandoned(const struct kcopy_part *p)
{
	return p->req->res != 0;
}

void kcopy_requests_cancel(struct kcopy_isource *src, struct kedge_source_io *io)
{
	struct kcopy_request *r = io->priv;

	/* What is in flight comes in soon, or its session ends (watch_cb). */
	if (r)
		fail_request(src, r, -ECANCELED);
}

void kcopy_requests_urge(struct kcopy_isource *src, struct kedge_source_io *io)
{
	struct kcopy_request *r = io->priv;

	if (!r || r->prio == KEDGE_PRIO_FOREGROUND)
		return;
	bool is_waiting = r->is_queued;
	unqueue(src, r);
	r->prio = KEDGE_PRIO_FOREGROUND;
	if (is_waiting)
		queue(src, r);
	kcopy_requests_dispatch(src);
}

void kcopy_requests_init(struct kcopy_isource *src)
{
	for (int prio = 0; prio < 2; prio++)
		src->queue_tail[prio] = &src->queue_head[prio];
	src->done_tail = &src->done_head;
	src->done.fn = done_cb;
	src->done.arg = src;
	src->later_timer.fn = later_cb;
}

void kcopy_requests_fini(struct kcopy_isource *src)
{
	void *next;

	for (struct kcopy_request *r = src->free_requests; r; r = next) {
		next = r->next;
		free(r);
	}
	for (struct kcopy_part *p = src->free_parts; p; p = next) {
		next = p->next;
		free(p);
	}
}
