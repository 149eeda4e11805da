/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The one file that knows libiscsi. It turns a context into a connection with callbacks, and libiscsi's ways of failing
 * (-1, a status, a text, an event mask of 0, a service call that succeeds although the socket is gone) into one: lost_fn.
 *
 * Owns. The libiscsi context, its tasks, and two poll operations on its socket, one for reading and one for writing. A closed
 * connection lives on, without a context, until both polls have completed.
 *
 * Locks. None: loop thread only. libiscsi's callbacks run inside iscsi_service and only note what happened; commands are
 * answered and the connection is ended after it has returned, so that a context is never destroyed under its own feet.
 */
#include "conn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "batch.h"
#include "kedge/bytes.h"
#include "kedge/transit.h"
#include "kedge/uuid.h"

/* which_events may say "nothing now": ask again after this long (iscsi.h asks for at least 100 ms). */
#define ASK_AGAIN_MS 100
#define WHY_MAX 200
/* From here on data goes straight into its buffer: a call for each piece is cheaper than one more copy of it. */
#define LARGE_BYTES 32768u
/* Data-In comes in pieces of 8 KiB, the default of RFC 7143, or more: each piece that is missing leaves a mark. */
#define MARK_BYTES 8192u

_Static_assert(sizeof(struct scsi_iovec) == sizeof(struct iovec), "libiscsi promises that its iovec is POSIX's");

struct kcopy_conn {
	struct kedge_loop *loop;
	struct kcopy_url url;
	struct kedge_chap chap;
	void (*up_fn)(void *arg);
	void (*lost_fn)(void *arg, int code, const char *why);
	void (*gone_fn)(void *arg);
	void *arg;

	struct iscsi_context *ctx; /* NULL once closed */
	struct kedge_op in, out;
	struct kedge_timer ask;
	struct kedge_defer kick;   /* queued: something was queued for sending, or polls must be armed */
	struct kcopy_cmd *cmds;    /* under way, doubly linked, newest first */
	uint64_t heard_ns, mark;
	unsigned nr_large;         /* of cmds, that ask for much */
	unsigned nr_depth;         /* calls of settle on the stack */
	bool has_login_answer, is_up, is_lost_told;
	int lost_code;             /* 0: alive */
	char why[WHY_MAX];
	/* what the target said while it proved itself (mutual CHAP) */
	bool has_challenge, has_response;
	struct kcopy_batch batch;
};

/* libiscsi's log function has no argument; it runs only inside iscsi_service of this connection, on this thread. */
static _Thread_local struct kcopy_conn *login_watched;

static void note_lost(struct kcopy_conn *c, int code, const char *why)
{
	if (c->lost_code != 0)
		return;
	c->lost_code = code;
	/* the text may quote the target: keep control characters out of logs */
	size_t n = 0;
	for (; why[n] && n < sizeof c->why - 1; n++)
		c->why[n] = why[n] >= 0x20 && why[n] < 0x7f ? why[n] : '?';
	c->why[n] = 0;
}

/* ---- login ---- */

/*
 * libiscsi 1.19 takes a mutual CHAP login as proven in two cases where the target proved nothing: when the target names another
 * stage than security negotiation in its last answer, and when it answers with a response of all zero bytes before it was
 * challenged. So watch what it says and judge once more.
 */
static void login_log_cb(int level, const char *text)
{
	static const char reply[] = "TargetLoginReply: ";
	struct kcopy_conn *c = login_watched;

	if (!c || strncmp(text, reply, sizeof reply - 1) != 0)
		return;
	const char *key = text + sizeof reply - 1;
	if (strncmp(key, "CHAP_C=", 7) == 0)
		c->has_challenge = true;
	if (strncmp(key, "CHAP_R=0x", 9) == 0 && c->has_challenge) {
		const char *p = key + 9;
		c->has_response = strspn(p, "0") < 32;
	}
}

static bool is_login_proven(const struct kcopy_conn *c)
{
	return !kedge_chap_is_mutual(&c->chap) || (c->has_challenge && c->has_response);
}

/* The login status that libiscsi only puts into its text: "... Status: Authentication failure(513)". */
static int login_error_code(const char *text)
{
	const char *paren = strrchr(text, '(');

	if (strstr(text, "Status:") && paren) {
		int status = atoi(paren + 1);
		/* 0x0201 authentication failed, 0x0202 this initiator may not: a person must act. The others may pass: a target
		 * that is starting has no such name yet, a full one has room later. */
		return status == 0x0201 || status == 0x0202 ? KEDGE_E_SOURCE_AUTH : KEDGE_E_SOURCE_AWAY;
	}
	if (strstr(text, "CHAP"))
		return KEDGE_E_SOURCE_AUTH;
	return KEDGE_E_SOURCE_AWAY;
}

static void login_cb(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
	struct kcopy_conn *c = private_data;

	if (!c->ctx)
		return;
	c->heard_ns = kedge_loop_now_ns(c->loop);
	if (status == SCSI_STATUS_GOOD && !is_login_proven(c))
		note_lost(c, KEDGE_E_SOURCE_AUTH, "the target did not prove itself (mutual CHAP)");
	else if (status == SCSI_STATUS_GOOD)
		c->has_login_answer = true;
	else if (status == SCSI_STATUS_REDIRECT)
		note_lost(c, KEDGE_E_SOURCE_AWAY, "the target redirects to another address, which is not followed");
	else
		note_lost(c, login_error_code(iscsi_get_error(ctx)), iscsi_get_error(ctx));
}

static void connect_cb(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
	struct kcopy_conn *c = private_data;

	if (!c->ctx)
		return;
	if (status != SCSI_STATUS_GOOD)
		note_lost(c, KEDGE_E_SOURCE_AWAY, iscsi_get_error(ctx));
	else if (iscsi_login_async(ctx, login_cb, c) != 0)
		note_lost(c, KEDGE_E_SOURCE_AWAY, iscsi_get_error(ctx));
}

static void logout_cb(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
	struct kcopy_conn *c = private_data;

	if (c->ctx)
		note_lost(c, -ECANCELED, "logged out");
}

/* ---- marks ---- */

/*
 * libiscsi does not count the data of a read: a target that says GOOD and sends less, without a word about a residual, leaves what was
 * in the buffer before, and that would be copied. So a number that nobody can guess stands at the end of each piece of the buffer
 * before the read, and what still holds one afterwards did not come. Data that holds the very number there by chance is read again.
 */
static uint8_t *mark_at(const struct kcopy_cmd *cmd, uint32_t i)
{
	uint32_t end = (i + 1) * MARK_BYTES;

	return cmd->read_buf + (end < cmd->nr_read_bytes ? end : cmd->nr_read_bytes) - sizeof cmd->read_mark;
}

static uint32_t nr_marks(const struct kcopy_cmd *cmd)
{
	return (cmd->nr_read_bytes + MARK_BYTES - 1) / MARK_BYTES;
}

static void set_marks(struct kcopy_conn *c, struct kcopy_cmd *cmd)
{
	c->mark = c->mark * 6364136223846793005u + 1442695040888963407u; /* another one when it is read again */
	cmd->read_mark = c->mark;
	for (uint32_t i = 0; i < nr_marks(cmd); i++)
		memcpy(mark_at(cmd, i), &cmd->read_mark, sizeof cmd->read_mark);
}

static bool has_mark(const struct kcopy_cmd *cmd)
{
	for (uint32_t i = 0; i < nr_marks(cmd); i++)
		if (memcmp(mark_at(cmd, i), &cmd->read_mark, sizeof cmd->read_mark) == 0)
			return true;
	return false;
}

/* ---- commands ---- */

static void link_cmd(struct kcopy_conn *c, struct kcopy_cmd *cmd)
{
	cmd->conn = c;
	cmd->is_done = false;
	cmd->data = NULL;
	cmd->nr_data = 0;
	cmd->nr_read_bytes = 0;
	cmd->nr_in_bytes = 0;
	cmd->is_large = false;
	cmd->sense_key = 0;
	cmd->sense_code = 0;
	cmd->prev = NULL;
	cmd->next = c->cmds;
	if (c->cmds)
		c->cmds->prev = cmd;
	c->cmds = cmd;
}

static void unlink_cmd(struct kcopy_conn *c, struct kcopy_cmd *cmd)
{
	if (cmd->prev)
		cmd->prev->next = cmd->next;
	else
		c->cmds = cmd->next;
	if (cmd->next)
		cmd->next->prev = cmd->prev;
	c->nr_large -= cmd->is_large;
}

static void note_size(struct kcopy_conn *c, struct kcopy_cmd *cmd, uint32_t nr_bytes)
{
	cmd->is_large = nr_bytes >= LARGE_BYTES;
	c->nr_large += cmd->is_large;
}

static enum kcopy_outcome outcome_of_sense(const struct kcopy_cmd *cmd)
{
	switch (cmd->sense_key) {
	case SCSI_SENSE_RECOVERED_ERROR:
		return KCOPY_CMD_GOOD;
	case SCSI_SENSE_UNIT_ATTENTION:
		return KCOPY_CMD_ATTENTION;
	case SCSI_SENSE_NOT_READY:
	case SCSI_SENSE_COMMAND_ABORTED:
		return KCOPY_CMD_BUSY;
	case SCSI_SENSE_MEDIUM_ERROR:
	case SCSI_SENSE_HARDWARE_ERROR:
		return KCOPY_CMD_MEDIUM;
	default:
		return KCOPY_CMD_REFUSED;
	}
}

static enum kcopy_outcome outcome_of(struct kcopy_cmd *cmd, int status, const struct scsi_task *task)
{
	switch (status) {
	case SCSI_STATUS_GOOD:
		return task && task->residual_status == SCSI_RESIDUAL_UNDERFLOW && task->residual > 0 ? KCOPY_CMD_SHORT
												      : KCOPY_CMD_GOOD;
	case SCSI_STATUS_CHECK_CONDITION:
		if (!task)
			return KCOPY_CMD_LOST;
		cmd->sense_key = (uint8_t)task->sense.key;
		cmd->sense_code = (uint16_t)task->sense.ascq;
		return outcome_of_sense(cmd);
	case SCSI_STATUS_BUSY:
	case SCSI_STATUS_TASK_SET_FULL:
	case SCSI_STATUS_TASK_ABORTED:
	case SCSI_STATUS_ACA_ACTIVE:
		return KCOPY_CMD_BUSY;
	case SCSI_STATUS_RESERVATION_CONFLICT:
	case SCSI_STATUS_CONDITION_MET:
		return KCOPY_CMD_REFUSED;
	default: /* cancelled, timed out, protocol error: the connection is or will be gone */
		return KCOPY_CMD_LOST;
	}
}

/* Has libiscsi received by a way around what waits in the batch? Then these are the wrong bytes. */
static bool has_bypass(struct kcopy_conn *c)
{
	if (kcopy_batch_is_between_pdus(&c->batch))
		return false;
	note_lost(c, KEDGE_E_SOURCE_AWAY, "libiscsi receives by a function that is not known here: this build does not fit it");
	return true;
}

static void cmd_cb(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
	struct kcopy_cmd *cmd = private_data;
	struct kcopy_conn *c = cmd->conn;
	struct scsi_task *task = cmd->task;

	if (!c->ctx || cmd->is_done)
		return; /* being closed: kcopy_conn_close answers */
	cmd->outcome = outcome_of(cmd, status, task);
	if (cmd->outcome != KCOPY_CMD_LOST && has_bypass(c))
		cmd->outcome = KCOPY_CMD_LOST;
	if (cmd->outcome == KCOPY_CMD_SHORT)
		cmd->nr_in_bytes -= (uint32_t)kedge_min_u64(cmd->nr_in_bytes, (uint64_t)task->residual);
	if (cmd->outcome == KCOPY_CMD_GOOD && has_mark(cmd))
		cmd->outcome = KCOPY_CMD_SHORT;
	if (cmd->outcome == KCOPY_CMD_LOST) {
		note_lost(c, KEDGE_E_SOURCE_AWAY, iscsi_get_error(ctx));
	} else {
		c->heard_ns = kedge_loop_now_ns(c->loop);
		if (task && cmd->outcome <= KCOPY_CMD_SHORT && task->datain.size > 0) {
			cmd->data = task->datain.data;
			cmd->nr_data = (size_t)task->datain.size;
		}
	}
	cmd->is_done = true;
}

static void nop_cb(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
	struct kcopy_cmd *cmd = private_data;
	struct kcopy_conn *c = cmd->conn;

	if (!c->ctx || cmd->is_done)
		return;
	cmd->outcome = status == SCSI_STATUS_GOOD && !has_bypass(c) ? KCOPY_CMD_GOOD : KCOPY_CMD_LOST;
	if (cmd->outcome == KCOPY_CMD_GOOD)
		c->heard_ns = kedge_loop_now_ns(c->loop);
	cmd->is_done = true;
}

static void answer(struct kcopy_conn *c, struct kcopy_cmd *cmd)
{
	struct scsi_task *task = cmd->task;

	unlink_cmd(c, cmd);
	cmd->task = NULL;
	/* cmd may be gone after fn; the task holds the data that fn looks at */
	cmd->fn(cmd);
	if (task)
		scsi_free_scsi_task(task);
}

static void kick(struct kcopy_conn *c)
{
	if (!c->kick.is_queued)
		kedge_loop_defer(c->loop, &c->kick);
}

static int sent(struct kcopy_conn *c, struct kcopy_cmd *cmd, bool is_sent)
{
	if (!is_sent) {
		unlink_cmd(c, cmd);
		return -ENOMEM;
	}
	kick(c);
	return 0;
}

int kcopy_cmd_read(struct kcopy_conn *c, struct kcopy_cmd *cmd, uint64_t lba, void *buf, uint32_t nr_bytes,
		   uint32_t block_bytes)
{
	link_cmd(c, cmd);
	cmd->iov[0] = (struct iovec){ .iov_base = buf, .iov_len = nr_bytes };
	cmd->read_buf = buf;
	cmd->nr_read_bytes = nr_bytes;
	set_marks(c, cmd);
	note_size(c, cmd, nr_bytes);
	cmd->task = iscsi_read16_iov_task(c->ctx, c->url.lun, lba, nr_bytes, (int)block_bytes, 0, 0, 0, 0, 0, cmd_cb, cmd,
					  (struct scsi_iovec *)cmd->iov, 1);
	return sent(c, cmd, cmd->task != NULL);
}

int kcopy_cmd_read_extent(struct kcopy_conn *c, struct kcopy_cmd *cmd, uint64_t lba, uint32_t nr_blocks, uint8_t codecs,
			  uint8_t *head, void *buf, uint32_t nr_bytes)
{
	uint8_t cdb[KEDGE_TRANSIT_CDB_BYTES];
	struct scsi_task *task;

	kedge_transit_cdb_encode(lba, nr_blocks, codecs, cdb);
	memset(head, 0, KEDGE_TRANSIT_HEAD_BYTES); /* what does not come is no head */
	task = scsi_create_task(sizeof cdb, cdb, SCSI_XFER_READ, (int)(KEDGE_TRANSIT_HEAD_BYTES + nr_bytes));
	if (!task)
		return -ENOMEM;
	link_cmd(c, cmd);
	cmd->task = task;
	cmd->iov[0] = (struct iovec){ .iov_base = head, .iov_len = KEDGE_TRANSIT_HEAD_BYTES };
	cmd->iov[1] = (struct iovec){ .iov_base = buf, .iov_len = nr_bytes };
	cmd->nr_in_bytes = KEDGE_TRANSIT_HEAD_BYTES + nr_bytes;
	note_size(c, cmd, nr_bytes);
	scsi_task_set_iov_in(task, (struct scsi_iovec *)cmd->iov, nr_bytes > 0 ? 2 : 1);
	bool is_sent = iscsi_scsi_command_async(c->ctx, c->url.lun, task, cmd_cb, NULL, cmd) == 0;
	if (!is_sent)
		scsi_free_scsi_task(task);
	return sent(c, cmd, is_sent);
}

int kcopy_cmd_test_unit_ready(struct kcopy_conn *c, struct kcopy_cmd *cmd)
{
	link_cmd(c, cmd);
	cmd->task = iscsi_testunitready_task(c->ctx, c->url.lun, cmd_cb, cmd);
	return sent(c, cmd, cmd->task != NULL);
}

int kcopy_cmd_inquiry_page(struct kcopy_conn *c, struct kcopy_cmd *cmd, uint8_t page)
{
	link_cmd(c, cmd);
	cmd->task = iscsi_inquiry_task(c->ctx, c->url.lun, 1, page, 255, cmd_cb, cmd);
	return sent(c, cmd, cmd->task != NULL);
}

int kcopy_cmd_read_capacity(struct kcopy_conn *c, struct kcopy_cmd *cmd)
{
	link_cmd(c, cmd);
	cmd->task = iscsi_readcapacity16_task(c->ctx, c->url.lun, cmd_cb, cmd);
	return sent(c, cmd, cmd->task != NULL);
}

int kcopy_cmd_lba_status(struct kcopy_conn *c, struct kcopy_cmd *cmd, uint64_t lba, uint32_t nr_answer_bytes)
{
	link_cmd(c, cmd);
	cmd->task = iscsi_get_lba_status_task(c->ctx, c->url.lun, lba, nr_answer_bytes, cmd_cb, cmd);
	return sent(c, cmd, cmd->task != NULL);
}

int kcopy_cmd_nop(struct kcopy_conn *c, struct kcopy_cmd *cmd)
{
	link_cmd(c, cmd);
	cmd->task = NULL;
	return sent(c, cmd, iscsi_nop_out_async(c->ctx, nop_cb, NULL, 0, cmd) == 0);
}

/* ---- events ---- */

static void free_if_unused(struct kcopy_conn *c)
{
	if (c->ctx || c->nr_depth > 0 || c->in.is_inflight || c->out.is_inflight)
		return;
	void (*gone_fn)(void *) = c->gone_fn;
	void *arg = c->arg;
	kedge_chap_fini(&c->chap);
	free(c);
	gone_fn(arg);
}

static void arm(struct kcopy_conn *c)
{
	int events = iscsi_which_events(c->ctx) | (kcopy_batch_has_out(&c->batch) ? POLLOUT : 0);
	int fd = iscsi_get_fd(c->ctx);

	if (fd < 0 || events == 0) {
		kedge_timer_start(c->loop, &c->ask, ASK_AGAIN_MS);
		return;
	}
	if ((events & POLLIN) && !c->in.is_inflight)
		kedge_op_poll(c->loop, &c->in, fd, POLLIN);
	if ((events & POLLOUT) && !c->out.is_inflight)
		kedge_op_poll(c->loop, &c->out, fd, POLLOUT);
}

/* Answer what is done. A callback may close the connection; then the rest has been answered there. */
static void answer_done(struct kcopy_conn *c)
{
	bool is_again = true;

	while (is_again && c->ctx) {
		is_again = false;
		for (struct kcopy_cmd *cmd = c->cmds; cmd; cmd = cmd->next) {
			if (!cmd->is_done)
				continue;
			answer(c, cmd);
			is_again = true; /* the list may have changed under us */
			break;
		}
	}
}

/* After each entry into libiscsi: tell what it noted, then wait for the next event. */
static void settle(struct kcopy_conn *c)
{
	c->nr_depth++;
	answer_done(c);
	if (c->ctx && c->lost_code == 0 && c->has_login_answer && !c->is_up) {
		c->is_up = true;
		iscsi_set_log_level(c->ctx, 0);
		c->up_fn(c->arg);
	}
	if (c->ctx && c->lost_code == 0 && c->is_up && !iscsi_is_logged_in(c->ctx))
		note_lost(c, KEDGE_E_SOURCE_AWAY, "the target ended the session");
	if (c->ctx && c->lost_code != 0 && !c->is_lost_told) {
		c->is_lost_told = true;
		kedge_timer_stop(c->loop, &c->ask);
		c->lost_fn(c->arg, c->lost_code, c->why);
	} else if (c->ctx && c->lost_code == 0) {
		arm(c);
	}
	c->nr_depth--;
	free_if_unused(c);
}

static int serve_login(struct kcopy_conn *c, int revents)
{
	login_watched = c;
	int rc = iscsi_service(c->ctx, revents);
	login_watched = NULL;
	return rc;
}

/* libiscsi stops reading when nobody waits for an answer: what was received with the last one is no news to a poll. */
static int serve_gathered(struct kcopy_conn *c, int revents)
{
	int rc, sent;

	kcopy_batch_enter(&c->batch, iscsi_get_fd(c->ctx), c->nr_large == 0);
	do
		rc = iscsi_service(c->ctx, revents);
	while (rc == 0 && c->lost_code == 0 && kcopy_batch_has_in(&c->batch));
	sent = kcopy_batch_leave(&c->batch);
	if (rc == 0 && sent < 0)
		note_lost(c, KEDGE_E_SOURCE_AWAY, strerror(-sent));
	return rc;
}

static void service(struct kcopy_conn *c, int revents)
{
	if (!c->ctx || c->lost_code != 0)
		return;
	int rc = c->is_up ? serve_gathered(c, revents) : serve_login(c, revents);
	if (rc != 0)
		note_lost(c, KEDGE_E_SOURCE_AWAY, iscsi_get_error(c->ctx));
	settle(c);
}

static void poll_done(struct kcopy_conn *c, int res)
{
	if (!c->ctx)
		free_if_unused(c);
	else if (res < 0)
		service(c, 0);
	else
		service(c, res);
}

static void in_cb(struct kedge_op *op, int res)
{
	poll_done(kedge_container_of(op, struct kcopy_conn, in), res);
}

static void out_cb(struct kedge_op *op, int res)
{
	poll_done(kedge_container_of(op, struct kcopy_conn, out), res);
}

static void ask_cb(struct kedge_timer *t)
{
	service(kedge_container_of(t, struct kcopy_conn, ask), 0);
}

/* Send what was queued in this round at once, all of it together; only what the socket does not take waits for a poll. */
static void kick_cb(void *arg)
{
	struct kcopy_conn *c = arg;

	c->nr_depth++;
	if (c->ctx && (iscsi_which_events(c->ctx) & POLLOUT) && c->is_up)
		service(c, POLLOUT);
	else if (c->ctx)
		settle(c);
	c->nr_depth--;
	free_if_unused(c);
}

/* ---- opening and closing ---- */

static void configure(struct kcopy_conn *c, const struct kcopy_conn_opts *o)
{
	iscsi_set_noautoreconnect(c->ctx, 1);
	iscsi_set_session_type(c->ctx, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(c->ctx, ISCSI_HEADER_DIGEST_CRC32C_NONE);
	iscsi_set_targetname(c->ctx, c->url.iqn);
	iscsi_set_isid_random(c->ctx, o->isid, o->isid_qualifier);
	iscsi_set_timeout(c->ctx, 0);
	if (c->chap.user[0])
		iscsi_set_initiator_username_pwd(c->ctx, c->chap.user, c->chap.secret);
	if (kedge_chap_is_mutual(&c->chap)) {
		iscsi_set_target_username_pwd(c->ctx, c->chap.mutual_user, c->chap.mutual_secret);
		iscsi_set_log_level(c->ctx, 6);
		iscsi_set_log_fn(c->ctx, login_log_cb);
	} else {
		iscsi_set_log_level(c->ctx, 0);
	}
}

int kcopy_conn_open(struct kedge_loop *l, const struct kcopy_conn_opts *o, struct kcopy_conn **ret_conn,
		    struct kedge_err *err)
{
	struct kcopy_conn *c = calloc(1, sizeof *c);

	if (!c)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory for a connection");
	c->loop = l;
	c->url = *o->url;
	if (o->chap)
		c->chap = *o->chap;
	c->up_fn = o->up_fn;
	c->lost_fn = o->lost_fn;
	c->gone_fn = o->gone_fn;
	c->arg = o->arg;
	c->in.fn = in_cb;
	c->out.fn = out_cb;
	c->ask.fn = ask_cb;
	c->kick.fn = kick_cb;
	c->kick.arg = c;
	c->heard_ns = kedge_loop_now_ns(l);
	kedge_random(&c->mark, sizeof c->mark);
	c->ctx = iscsi_create_context(o->initiator_iqn);
	if (!c->ctx) {
		free(c);
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory for an iSCSI context");
	}
	configure(c, o);
	if (iscsi_connect_async(c->ctx, c->url.portal, connect_cb, c) != 0) {
		int rc = kedge_err_set(err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "%s: %s", c->url.portal,
				       iscsi_get_error(c->ctx));
		iscsi_destroy_context(c->ctx);
		kedge_chap_fini(&c->chap);
		free(c);
		return rc;
	}
	int fd = iscsi_get_fd(c->ctx);
	if (fd >= 0)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	kick(c);
	*ret_conn = c;
	return 0;
}

static void gone_cb(void *arg)
{
	free_if_unused(arg);
}

void kcopy_conn_close(struct kcopy_conn *c)
{
	if (!c || !c->ctx)
		return;
	struct iscsi_context *ctx = c->ctx;
	int fd = iscsi_get_fd(ctx);

	/* The polls hold the socket open beyond close(2): end the stream by hand, then the polls. */
	if (fd >= 0)
		shutdown(fd, SHUT_RDWR);
	c->nr_depth++;
	c->ctx = NULL;
	kedge_timer_stop(c->loop, &c->ask);
	kedge_defer_remove(kedge_loop_defer_queue(c->loop), &c->kick);
	if (c->in.is_inflight)
		kedge_op_cancel(c->loop, &c->in);
	if (c->out.is_inflight)
		kedge_op_cancel(c->loop, &c->out);
	/* libiscsi still looks at the tasks while it goes, so they are freed after it. From here on no buffer is written to. */
	iscsi_destroy_context(ctx);
	while (c->cmds) {
		struct kcopy_cmd *cmd = c->cmds;
		cmd->outcome = KCOPY_CMD_LOST;
		cmd->data = NULL;
		cmd->nr_data = 0;
		answer(c, cmd);
	}
	c->nr_depth--;
	/* gone_fn must not run inside this call: go round through the loop even when no poll is under way */
	if (!c->in.is_inflight && !c->out.is_inflight && c->nr_depth == 0) {
		c->kick.fn = gone_cb;
		kedge_loop_defer(c->loop, &c->kick);
	}
}

void kcopy_conn_logout(struct kcopy_conn *c)
{
	if (!c->ctx || c->lost_code != 0)
		return;
	if (iscsi_logout_async(c->ctx, logout_cb, c) != 0)
		note_lost(c, KEDGE_E_SOURCE_AWAY, iscsi_get_error(c->ctx));
	kick(c);
}

uint64_t kcopy_conn_heard_ns(const struct kcopy_conn *c)
{
	return c->heard_ns;
}
