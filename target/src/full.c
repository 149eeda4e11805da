/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The full feature phase: what each PDU means.
 *
 * Owns. Nothing of its own; commands belong to their connection. Locks. None: one thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "conn.h"
#include "inquiry.h"
#include "kedge/disk.h"
#include "kedge/log.h"

#define IMMEDIATE_EXTRA 32u
#define SMALL_BYTES (32u << 10)

uint32_t pdu_lun(const uint8_t f[8])
{
	for (unsigned i = 2; i < 8; i++)
		if (f[i])
			return 0xffffffffu;
	switch (f[0] >> 6) {
	case 0: /* peripheral addressing, bus 0 */
		return f[0] == 0 ? f[1] : 0xffffffffu;
	case 1: /* flat */
		return (uint32_t)(f[0] & 0x3f) << 8 | f[1];
	default:
		return 0xffffffffu;
	}
}

static void start_answer(uint8_t *out, uint8_t opcode, const uint8_t *bhs)
{
	memset(out, 0, BHS_BYTES);
	out[0] = opcode;
	out[1] = 0x80;
	memcpy(out + 16, bhs + 16, 4);
}

void tgt_full_reject(struct tgt_conn *c, uint8_t reason, const uint8_t *bhs)
{
	uint8_t out[BHS_BYTES];

	start_answer(out, OP_REJECT, bhs);
	out[2] = reason;
	kedge_put_be32(out + 16, TAG_NONE);
	tgt_conn_reply(c, out, bhs, BHS_BYTES, true, false);
}

/* ---- SCSI commands ---- */

/* Compare what there is with what the initiator expects (RFC 7143 11.4.5). */
void tgt_full_set_residual(struct tgt_cmd *cmd, uint64_t nr_bytes)
{
	uint32_t expected = cmd->bhs[1] & 0x40 ? kedge_get_be32(cmd->bhs + 20) : 0; /* R bit: it wants to read */
	bool is_write = cmd->bhs[1] & 0x20;

	if (cmd->status != SCSI_GOOD)
		nr_bytes = 0;
	if (is_write && !(cmd->bhs[1] & 0x40)) { /* nothing of the data out was taken */
		cmd->residual = kedge_get_be32(cmd->bhs + 20);
		cmd->total_bytes = 0;
		return;
	}
	cmd->is_over = nr_bytes > expected;
	cmd->residual = (uint32_t)(cmd->is_over ? nr_bytes - expected : expected - nr_bytes);
	cmd->total_bytes = kedge_min_u64(nr_bytes, expected);
}

static void check_condition(struct tgt_cmd *cmd, enum tgt_sense sense)
{
	cmd->status = SCSI_CHECK_CONDITION;
	cmd->sense = sense;
	tgt_full_set_residual(cmd, 0);
	tgt_conn_queue(cmd);
}

void tgt_full_read_failed(struct tgt_cmd *cmd, int res)
{
	kedge_error("read of %s at %llu failed: %s", cmd->lun->path, (unsigned long long)(cmd->disk_bytes + cmd->read_bytes),
		    res ? kedge_err_text(res) : "the file ends there");
	if (!cmd->is_queued) {
		check_condition(cmd, SENSE_READ_ERROR);
		return;
	}
	/* Data of it is out already: the status follows, and the residual count says how much did not come (RFC 7143 11.4.5). */
	cmd->status = SCSI_CHECK_CONDITION;
	cmd->sense = SENSE_READ_ERROR;
	cmd->is_over = false;
	cmd->residual = kedge_get_be32(cmd->bhs + 20) - (uint32_t)cmd->sent_bytes;
	tgt_conn_queue(cmd);
}

/* What is missing of the chunk, as far as it comes from one place. */
static void read_part(struct tgt_cmd *cmd, uint64_t chunk)
{
	uint64_t have = cmd->read_bytes - cmd->chunk_start, at = cmd->disk_bytes + cmd->read_bytes, n = chunk - have;
	int fd = tgt_lun_read_from(cmd->lun, at, &n);

	kedge_op_read(tgt_server_loop(cmd->c->s), &cmd->op, fd, cmd->buf + have, n, at);
}

static void read_cb(struct kedge_op *op, int res)
{
	struct tgt_cmd *cmd = kedge_container_of(op, struct tgt_cmd, op);
	struct tgt_conn *c = cmd->c;
	uint64_t chunk = kedge_min_u64(cmd->total_bytes - cmd->chunk_start, TGT_IO_MAX_BYTES);

	if (res > 0 && !c->is_gone) {
		cmd->read_bytes += (uint64_t)res;
		if (cmd->read_bytes - cmd->chunk_start < chunk) { /* short, or the next is of another kind: go on where it stopped */
			read_part(cmd, chunk);
			return;
		}
	} else if (!c->is_gone) {
		tgt_full_read_failed(cmd, res);
		return;
	}
	if (c->is_gone)
		tgt_conn_drop(c, NULL);
	else
		tgt_conn_queue(cmd);
}

/* A few pages that are there, at once: a ring that may not wait on this file system would wake a thread for them. */
static bool read_cached(struct tgt_cmd *cmd, uint64_t nr_bytes)
{
	uint64_t at = cmd->disk_bytes + cmd->sent_bytes;

	if (!cmd->lun->is_ring_slow || nr_bytes > SMALL_BYTES || !tgt_lun_read_cached(cmd->lun, cmd->buf, at, nr_bytes))
		return false;
	cmd->read_bytes += nr_bytes;
	return true;
}

/* True: it is there. */
static bool begin_read(struct tgt_cmd *cmd, bool may_be_at_once)
{
	struct tgt_conn *c = cmd->c;
	uint64_t chunk = kedge_min_u64(cmd->total_bytes - cmd->sent_bytes, TGT_IO_MAX_BYTES);

	if (!cmd->buf && !tgt_server_get_buffer(c->s, cmd, (uint32_t)kedge_min_u64(cmd->total_bytes, TGT_IO_MAX_BYTES)))
		return false; /* called again when there is one */
	cmd->chunk_start = cmd->read_bytes = cmd->sent_bytes;
	if (may_be_at_once && read_cached(cmd, chunk))
		return true;
	cmd->op.fn = read_cb;
	read_part(cmd, chunk);
	return false;
}

void tgt_full_read_into_buffer(struct tgt_cmd *cmd)
{
	begin_read(cmd, false); /* its caller still holds it: queueing it now might end it */
}

bool tgt_full_read_more(struct tgt_cmd *cmd)
{
	uint64_t chunk = kedge_min_u64(cmd->total_bytes - cmd->sent_bytes, TGT_IO_MAX_BYTES);

	cmd->is_cached = tgt_sendfile_can(cmd->c, cmd, cmd->disk_bytes + cmd->sent_bytes, chunk);
	if (!cmd->is_cached)
		return begin_read(cmd, true);
	cmd->read_bytes = cmd->sent_bytes + chunk;
	return true;
}

static void small_answer(struct tgt_cmd *cmd, const uint8_t *data, uint32_t nr_bytes)
{
	tgt_full_set_residual(cmd, nr_bytes);
	if (cmd->total_bytes) {
		cmd->buf = malloc(cmd->total_bytes);
		if (!cmd->buf) {
			cmd->status = SCSI_BUSY;
			tgt_full_set_residual(cmd, 0);
		} else {
			memcpy(cmd->buf, data, cmd->total_bytes);
		}
	}
	cmd->read_bytes = cmd->total_bytes;
	tgt_conn_queue(cmd);
}

static void scsi_command(struct tgt_conn *c, struct tgt_cmd *cmd)
{
	uint8_t out[SCSI_ANSWER_MAX];
	uint32_t lun = pdu_lun(cmd->bhs + 8);
	struct tgt_lun *l = tgt_server_lun(c->s, lun);
	struct tgt_result r;
	bool has_attention = l && (c->attention >> lun & 1);

	tgt_scsi_decode(cmd->bhs + 32, l ? &l->unit : NULL, lun, tgt_server_nr_luns(c->s), &has_attention, out, &r);
	if (l && !has_attention)
		c->attention &= ~(1u << lun);
	if (r.sense != SENSE_NONE) {
		check_condition(cmd, r.sense);
	} else if (r.action == TGT_LBA_STATUS) {
		uint32_t n = tgt_lun_status(l, r.lba, (uint32_t)kedge_min_u64(r.allocation, sizeof out), out);
		small_answer(cmd, out, (uint32_t)kedge_min_u64(n, r.allocation));
	} else if (r.action == TGT_READ_EXTENT) {
		cmd->lun = l;
		cmd->disk_bytes = r.lba * l->unit.lbs_bytes;
		tgt_extent_start(cmd, r.nr_bytes, r.codecs);
	} else if (r.action == TGT_READ) {
		tgt_full_set_residual(cmd, r.nr_bytes);
		cmd->lun = l;
		cmd->disk_bytes = r.lba * l->unit.lbs_bytes;
		if (!cmd->total_bytes || tgt_full_read_more(cmd))
			tgt_conn_queue(cmd);
	} else {
		small_answer(cmd, out, r.nr_bytes);
	}
}

static void take_scsi(struct tgt_conn *c, const uint8_t *bhs)
{
	struct tgt_cmd *cmd;

	cmd = tgt_cmd_create(c);
	if (!cmd) {
		tgt_conn_drop(c, "no memory for a command");
		return;
	}
	memcpy(cmd->bhs, bhs, BHS_BYTES);
	if (!pdu_is_immediate(bhs)) {
		cmd->is_command = true;
		c->nr_counted++;
	}
	scsi_command(c, cmd);
}

/* ---- the others ---- */

static void take_nop(struct tgt_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t nr_bytes)
{
	uint8_t out[BHS_BYTES];

	if (pdu_itt(bhs) == TAG_NONE)
		return; /* the answer to our ping */
	start_answer(out, OP_NOP_IN, bhs);
	memcpy(out + 8, bhs + 8, 8);
	kedge_put_be32(out + 20, TAG_NONE);
	tgt_conn_reply(c, out, data, (uint32_t)kedge_min_u64(nr_bytes, c->send_data_bytes), true, false);
}

static void abort_cmd(struct tgt_conn *c, struct tgt_cmd *cmd)
{
	struct tgt_cmd **p = &c->tx_head;

	cmd->is_aborted = true;
	if (cmd->is_built || cmd->sent_bytes)
		return; /* its answer is going out */
	while (*p && *p != cmd)
		p = &(*p)->next;
	if (*p) {
		*p = cmd->next;
		if (c->tx_tail == &cmd->next)
			c->tx_tail = p;
		tgt_cmd_destroy(cmd);
		return;
	}
	if (!tgt_cmd_is_busy(cmd)) { /* waiting for a buffer */
		tgt_server_forget_waiting(c->s, cmd);
		tgt_cmd_destroy(cmd);
	}
}

static bool abort_matching(struct tgt_conn *c, bool is_one, uint32_t tag, bool is_all_luns, uint32_t lun)
{
	bool has_found = false;
	struct tgt_cmd *next;

	for (struct tgt_cmd *cmd = c->all; cmd; cmd = next) {
		next = cmd->all_next;
		if (cmd->is_plain || (is_one && pdu_itt(cmd->bhs) != tag) || (!is_all_luns && pdu_lun(cmd->bhs + 8) != lun))
			continue;
		has_found = true;
		abort_cmd(c, cmd);
	}
	return has_found;
}

static void take_tmf(struct tgt_conn *c, const uint8_t *bhs)
{
	uint8_t out[BHS_BYTES], function = bhs[1] & 0x7f;
	uint32_t lun = pdu_lun(bhs + 8);

	start_answer(out, OP_TMF_RSP, bhs);
	switch (function) {
	case 1: /* ABORT TASK */
		if (!abort_matching(c, true, kedge_get_be32(bhs + 20), true, 0))
			out[2] = 1; /* no such task: it has been answered */
		break;
	case 2: /* ABORT TASK SET */
	case 4: /* CLEAR TASK SET */
	case 5: /* LOGICAL UNIT RESET */
		if (!tgt_server_lun(c->s, lun))
			out[2] = 2;
		else
			abort_matching(c, false, 0, false, lun);
		break;
	case 6: /* TARGET WARM RESET */
		abort_matching(c, false, 0, true, 0);
		break;
	case 7: /* TARGET COLD RESET: sessions of others would end too */
		out[2] = 255;
		break;
	default:
		out[2] = 5;
	}
	tgt_conn_reply(c, out, NULL, 0, true, false);
}

static void take_logout(struct tgt_conn *c, const uint8_t *bhs)
{
	uint8_t out[BHS_BYTES], reason = bhs[1] & 0x7f;

	start_answer(out, OP_LOGOUT_RSP, bhs);
	if (reason == 2)
		out[2] = 2; /* recovery is not supported */
	c->is_closing = reason != 2;
	tgt_conn_reply(c, out, NULL, 0, true, c->is_closing);
}

static void take_text(struct tgt_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t nr_bytes)
{
	struct tgt_reply *reply = calloc(1, sizeof *reply);
	char *text = calloc(1, nr_bytes + 1);
	uint8_t out[BHS_BYTES];
	struct tgt_keys k;
	const char *what;

	if (!reply || !text || (bhs[1] & 0x40) || nr_bytes > TGT_TEXT_MAX) {
		tgt_full_reject(c, REJECT_NOT_SUPPORTED, bhs);
	} else {
		memcpy(text, data, nr_bytes);
		if (tgt_keys_parse(text, nr_bytes, &k) < 0) {
			tgt_full_reject(c, REJECT_PROTOCOL, bhs);
		} else {
			what = tgt_keys_get(&k, "SendTargets");
			const char *iqn = tgt_server_policy(c->s)->iqn;
			if (what && ((c->is_discovery && strcmp(what, "All") == 0) || strcmp(what, iqn) == 0 || (!c->is_discovery && !*what))) {
				char address[80];
				snprintf(address, sizeof address, "%s,1", tgt_server_portal(c->s));
				tgt_reply_add(reply, "TargetName", iqn);
				tgt_reply_add(reply, "TargetAddress", address);
			}
			for (unsigned i = 0; i < k.nr_pairs; i++)
				if (strcmp(k.pairs[i].key, "SendTargets") != 0)
					tgt_reply_add(reply, k.pairs[i].key, "NotUnderstood");
			start_answer(out, OP_TEXT_RSP, bhs);
			kedge_put_be32(out + 20, TAG_NONE);
			if (reply->is_full || reply->nr_bytes > c->send_data_bytes)
				tgt_full_reject(c, REJECT_PROTOCOL, bhs);
			else
				tgt_conn_reply(c, out, reply->text, (uint32_t)reply->nr_bytes, true, false);
		}
	}
	free(text);
	free(reply);
}

void tgt_full_take(struct tgt_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t nr_bytes)
{
	uint8_t opcode = pdu_opcode(bhs);

	/* Every answer waits in memory until it is taken: somebody who asks and does not read is shown the door. */
	if (c->nr_cmds >= CMDS_MAX + IMMEDIATE_EXTRA) {
		tgt_conn_drop(c, "more requests than the window allows");
		return;
	}
	/* Data-Out: we invite none, so it belongs to a command that was refused. SNACK needs recovery level 1. */
	if (opcode == OP_DATA_OUT)
		return;
	if (opcode == OP_SNACK) {
		tgt_full_reject(c, REJECT_NOT_SUPPORTED, bhs);
		return;
	}
	if (!pdu_is_immediate(bhs) && opcode != OP_LOGIN) {
		/* one connection delivers in order: anything but the next number is outside of what we take (11.2.2.1) */
		if (kedge_get_be32(bhs + 24) != c->exp_cmd_sn || (int32_t)(c->exp_cmd_sn - (c->exp_cmd_sn + CMDS_MAX - 1 - c->nr_counted)) > 0)
			return;
		c->exp_cmd_sn++;
	}
	switch (opcode) {
	case OP_NOP_OUT:
		take_nop(c, bhs, data, nr_bytes);
		return;
	case OP_SCSI_CMD:
		if (c->is_discovery)
			tgt_full_reject(c, REJECT_PROTOCOL, bhs);
		else
			take_scsi(c, bhs);
		return;
	case OP_TMF:
		take_tmf(c, bhs);
		return;
	case OP_TEXT:
		take_text(c, bhs, data, nr_bytes);
		return;
	case OP_LOGOUT:
		take_logout(c, bhs);
		return;
	default:
		tgt_full_reject(c, REJECT_NOT_SUPPORTED, bhs);
	}
}
