/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. One place for a session of an iSCSI source: connects, asks the target who it is before any read, watches it with
 * deadlines of our own, and after any failure makes a new connection, with backoff.
 *
 * Owns. The connection while there is one, and two timers.
 *
 * Locks. None: loop thread only.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "iscsi_source.h"
#include "kedge/bytes.h"

#define MS_NS 1000000ull
/* A fresh session answers the first commands with unit attentions, one for each thing it wants known. */
#define PROBE_TRIES 20
/* A command may take this many times the deadline when the target answers others meanwhile. */
#define PATIENCE 6
/* How long a silent target may hold up a cancel. */
#define ABANDONED_MS 1000

enum step { STEP_READY, STEP_SERIAL, STEP_LIMITS, STEP_TRANSIT, STEP_CAPACITY, NR_STEPS };

static void connect_now(struct kcopy_isession *s);

static void set_state(struct kcopy_isession *s, enum kcopy_session_state state)
{
	bool is_change = (s->state == KCOPY_SESSION_UP) != (state == KCOPY_SESSION_UP);

	s->state = state;
	if (is_change)
		kcopy_isource_sessions_changed(s->src);
}

static void drop_conn(struct kcopy_isession *s)
{
	struct kcopy_conn *conn = s->conn;

	kedge_timer_stop(s->src->loop, &s->deadline);
	kedge_timer_stop(s->src->loop, &s->watch);
	s->conn = NULL;
	kcopy_conn_close(conn);
	s->is_nop_inflight = false;
}

void kcopy_isession_fail(struct kcopy_isession *s, int code, const char *why)
{
	if (s->state == KCOPY_SESSION_IDLE || s->state == KCOPY_SESSION_WAITING)
		return;
	if (s->state == KCOPY_SESSION_LEAVING) {
		s->state = KCOPY_SESSION_IDLE;
		drop_conn(s);
		return;
	}
	kcopy_isource_note(s->src, code, why);
	/* The state goes first: parts that come back must not be given to this session again. */
	enum kcopy_session_state was = s->state;
	s->state = KCOPY_SESSION_WAITING;
	drop_conn(s);
	if (code == KEDGE_E_SOURCE_AUTH) {
		struct kedge_err err = { 0 };
		kedge_err_set(&err, code, KEDGE_SIDE_SOURCE, "%s: the login was refused: %s", s->src->url.portal, why);
		kcopy_isource_refuse(s->src, code, &err);
		return;
	}
	kedge_timer_start(s->src->loop, &s->deadline, kcopy_backoff_next_ms(&s->backoff));
	if (was == KCOPY_SESSION_UP)
		kcopy_isource_sessions_changed(s->src);
}

/* ---- identification: steps in order, each asked again after a unit attention ---- */

static void ask(struct kcopy_isession *s)
{
	int rc = -EINVAL;

	switch ((enum step)s->step) {
	case STEP_READY:
		rc = kcopy_cmd_test_unit_ready(s->conn, &s->probe);
		break;
	case STEP_SERIAL:
		rc = kcopy_cmd_inquiry_page(s->conn, &s->probe, 0x80);
		break;
	case STEP_LIMITS:
		rc = kcopy_cmd_inquiry_page(s->conn, &s->probe, 0xb0);
		break;
	case STEP_TRANSIT:
		rc = kcopy_cmd_inquiry_page(s->conn, &s->probe, KEDGE_TRANSIT_PAGE);
		break;
	case STEP_CAPACITY:
		rc = kcopy_cmd_read_capacity(s->conn, &s->probe);
		break;
	case NR_STEPS:
		break;
	}
	if (rc < 0)
		kcopy_isession_fail(s, KEDGE_E_SOURCE_AWAY, "no memory for a command");
}

static void identified(struct kcopy_isession *s)
{
	struct kcopy_isource *src = s->src;

	s->found = (struct kedge_identity){
		.size_bytes = s->capacity.nr_blocks * s->capacity.block_bytes,
		.lbs_bytes = s->capacity.block_bytes,
	};
	kedge_serial_parse(s->usn, &s->found.volume, &s->found.epoch); /* another form: stays null */
	if (kcopy_isource_check_identity(src, s) < 0)
		return;
	if (s->was_up)
		src->nr_reconnects++;
	s->was_up = true;
	kedge_timer_stop(src->loop, &s->deadline);
	kedge_timer_start(src->loop, &s->watch, 0);
	set_state(s, KCOPY_SESSION_UP);
}

/* Targets that do not have that page are fine. */
static bool is_optional(enum step step)
{
	return step == STEP_SERIAL || step == STEP_LIMITS || step == STEP_TRANSIT;
}

/* Take in the answer to the present step. 0, or -EPROTO. */
static int take_answer(struct kcopy_isession *s, const struct kcopy_cmd *cmd)
{
	if (cmd->outcome == KCOPY_CMD_REFUSED && is_optional(s->step))
		return 0;
	switch ((enum step)s->step) {
	case STEP_READY:
		return 0;
	case STEP_SERIAL:
		return kcopy_parse_usn(cmd->data, cmd->nr_data, s->usn);
	case STEP_LIMITS:
		if (kcopy_parse_block_limits(cmd->data, cmd->nr_data, &s->max_transfer_blocks) < 0)
			s->max_transfer_blocks = 0;
		return 0;
	case STEP_TRANSIT:
		if (kedge_transit_page_decode(cmd->data, cmd->nr_data, &s->offer) < 0)
			s->offer = (struct kedge_transit_offer){ 0 };
		return 0;
	case STEP_CAPACITY:
		return kcopy_parse_capacity(cmd->data, cmd->nr_data, &s->capacity);
	case NR_STEPS:
		break;
	}
	return -EPROTO;
}

static void probe_cb(struct kcopy_cmd *cmd)
{
	struct kcopy_isession *s = kedge_container_of(cmd, struct kcopy_isession, probe);
	static const char *const names[] = { "TEST UNIT READY", "INQUIRY (serial number)", "INQUIRY (block limits)",
					     "INQUIRY (transit)", "READ CAPACITY(16)" };
	char why[128];

	if (cmd->outcome == KCOPY_CMD_LOST || s->state != KCOPY_SESSION_IDENTIFYING)
		return; /* lost_cb follows, or the session was ended */
	if (cmd->outcome == KCOPY_CMD_ATTENTION && s->nr_probe_tries++ < PROBE_TRIES) {
		ask(s);
		return;
	}
	bool is_answer = cmd->outcome <= KCOPY_CMD_SHORT || (cmd->outcome == KCOPY_CMD_REFUSED && is_optional(s->step));
	if (!is_answer || take_answer(s, cmd) < 0) {
		snprintf(why, sizeof why, "%s: no usable answer (sense %02x/%04x)", names[s->step], cmd->sense_key,
			 cmd->sense_code);
		kcopy_isession_fail(s, KEDGE_E_SOURCE_AWAY, why);
		return;
	}
	s->step++;
	if (s->step == NR_STEPS)
		identified(s);
	else
		ask(s);
}

static void up_cb(void *arg)
{
	struct kcopy_isession *s = arg;

	s->state = KCOPY_SESSION_IDENTIFYING;
	s->step = STEP_READY;
	s->nr_probe_tries = 0;
	s->usn[0] = 0;
	s->max_transfer_blocks = 0;
	s->offer = (struct kedge_transit_offer){ 0 };
	s->probe.fn = probe_cb;
	ask(s);
}

static void lost_cb(void *arg, int code, const char *why)
{
	kcopy_isession_fail(arg, code, why);
}

static void gone_cb(void *arg)
{
	struct kcopy_isession *s = arg;

	kcopy_isource_conn_gone(s->src);
}

/* ---- deadlines ---- */

static void deadline_cb(struct kedge_timer *t)
{
	struct kcopy_isession *s = kedge_container_of(t, struct kcopy_isession, deadline);

	if (s->state == KCOPY_SESSION_WAITING)
		connect_now(s);
	else
		kcopy_isession_fail(s, KEDGE_E_SOURCE_AWAY, "no login within the time limit");
}

static void nop_cb(struct kcopy_cmd *cmd)
{
	struct kcopy_isession *s = kedge_container_of(cmd, struct kcopy_isession, nop);

	s->is_nop_inflight = false;
}

/* Somebody waits to get a buffer back whose content nobody wants any more. */
static bool has_abandoned(const struct kcopy_isession *s)
{
	for (unsigned i = 0; i < KCOPY_SLOTS; i++)
		if (s->slots[i] && kcopy_part_is_abandoned(s->slots[i]))
			return true;
	return false;
}

static uint64_t oldest_sent_ns(const struct kcopy_isession *s)
{
	uint64_t oldest_ns = UINT64_MAX;

	for (unsigned i = 0; i < KCOPY_SLOTS; i++)
		if (s->slots[i] && s->slots[i]->sent_ns < oldest_ns)
			oldest_ns = s->slots[i]->sent_ns;
	return oldest_ns;
}

static void watch_cb(struct kedge_timer *t)
{
	struct kcopy_isession *s = kedge_container_of(t, struct kcopy_isession, watch);
	const struct kcopy_timeouts *to = &s->src->timeouts;
	uint64_t now_ns = kedge_loop_now_ns(s->src->loop);
	uint64_t heard_ns = kcopy_conn_heard_ns(s->conn), oldest_ns = oldest_sent_ns(s);
	uint64_t command_ns = to->command_ms * MS_NS;

	if (has_abandoned(s))
		command_ns = kedge_min_u64(command_ns, ABANDONED_MS * MS_NS);
	if (s->nr_inflight > 0 &&
	    (now_ns - kedge_max_u64(heard_ns, oldest_ns) >= command_ns || now_ns - oldest_ns >= PATIENCE * command_ns)) {
		kcopy_isession_fail(s, KEDGE_E_SOURCE_AWAY, "no answer to a command within the time limit");
		return;
	}
	if (s->is_nop_inflight && heard_ns < s->nop_sent_ns && now_ns - s->nop_sent_ns >= to->nop_reply_ms * MS_NS) {
		kcopy_isession_fail(s, KEDGE_E_SOURCE_AWAY, "no answer to a NOP within the time limit");
		return;
	}
	if (!s->is_nop_inflight && now_ns - heard_ns >= to->nop_ms * MS_NS) {
		s->nop.fn = nop_cb;
		s->nop_sent_ns = now_ns;
		s->is_nop_inflight = kcopy_cmd_nop(s->conn, &s->nop) == 0;
	}
	uint64_t period_ms = kedge_min_u64(to->command_ms, kedge_min_u64(to->nop_ms, to->nop_reply_ms)) / 4;
	kedge_timer_start(s->src->loop, &s->watch, kedge_max_u64(10, kedge_min_u64(period_ms, 1000)));
}

/* ---- life ---- */

static void connect_now(struct kcopy_isession *s)
{
	struct kcopy_isource *src = s->src;
	struct kedge_err err = { 0 };
	struct kcopy_conn_opts o = {
		.url = &src->url,
		.initiator_iqn = src->initiator_iqn,
		.chap = src->has_chap ? &src->chap : NULL,
		.isid = src->isid,
		.isid_qualifier = (uint16_t)s->nr,
		.up_fn = up_cb,
		.lost_fn = lost_cb,
		.gone_fn = gone_cb,
		.arg = s,
	};

	s->state = KCOPY_SESSION_CONNECTING;
	if (kcopy_conn_open(src->loop, &o, &s->conn, &err) < 0) {
		s->conn = NULL;
		kcopy_isession_fail(s, KEDGE_E_SOURCE_AWAY, err.msg);
		return;
	}
	src->nr_conns++;
	kedge_timer_start(src->loop, &s->deadline, src->timeouts.login_ms);
}

void kcopy_isession_init(struct kcopy_isession *s, struct kcopy_isource *src, unsigned nr)
{
	uint64_t seed;

	s->src = src;
	s->nr = nr;
	s->deadline.fn = deadline_cb;
	s->watch.fn = watch_cb;
	kedge_random(&seed, sizeof seed);
	kcopy_backoff_init(&s->backoff, seed, src->timeouts.backoff_min_ms, src->timeouts.backoff_max_ms);
}

void kcopy_isession_start(struct kcopy_isession *s)
{
	if (s->state == KCOPY_SESSION_IDLE)
		connect_now(s);
}

void kcopy_isession_succeeded(struct kcopy_isession *s)
{
	kcopy_backoff_reset(&s->backoff);
}

void kcopy_isession_stop(struct kcopy_isession *s)
{
	kedge_timer_stop(s->src->loop, &s->deadline);
	if (s->state == KCOPY_SESSION_UP && s->nr_inflight == 0 && !s->is_nop_inflight) {
		kedge_timer_stop(s->src->loop, &s->watch);
		s->state = KCOPY_SESSION_LEAVING;
		kedge_timer_start(s->src->loop, &s->deadline, s->src->timeouts.logout_ms);
		kcopy_conn_logout(s->conn);
		return;
	}
	if (s->state == KCOPY_SESSION_LEAVING)
		return;
	s->state = KCOPY_SESSION_IDLE;
	drop_conn(s);
}
