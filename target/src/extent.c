/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. READ EXTENT: reads, has a worker hash and perhaps compress, answers with a head and the payload (docs/formats.md, "Transit").
 *
 * Owns. Nothing of its own; a command is in the hands of a worker between extent_submit and done_cb.
 *
 * Locks. None here: what a worker touches of a command (its buffer, heads, job_res) nobody else does meanwhile (pool.c).
 *
 * What is in the page cache is read by the worker, into memory of its own that stays in the processor's cache, and, when it travels as it is,
 * is sent out of the page cache as other reads are (sendfile.c). Of one whose sum is wanted nothing but a head travels. What is not cached is read by io_uring into a buffer, so that no worker waits
 * for a disk.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "conn.h"
#include "kedge/bytes.h"
#include "kedge/log.h"

/* More than any initiator of ours has under way. */
#define EXTENTS_PER_CONN_MAX 64u

static int read_here(const struct tgt_cmd *cmd, uint8_t *buf)
{
	uint64_t at = 0;

	while (at < cmd->extent_bytes) {
		ssize_t n = pread(cmd->lun->fd, buf + at, cmd->extent_bytes - at, (off_t)(cmd->disk_bytes + at));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		at += (uint64_t)n;
	}
	return 0;
}

static bool is_sum(const struct tgt_cmd *cmd)
{
	return cmd->codecs == KEDGE_TRANSIT_CAN_SUM;
}

static void work_cb(struct tgt_job *job, struct kedge_transit_coder *coder, void *scratch)
{
	struct tgt_cmd *cmd = kedge_container_of(job, struct tgt_cmd, job);
	uint8_t *packed = (uint8_t *)scratch + KEDGE_TRANSIT_EXTENT_MAX_BYTES;
	uint8_t *data = cmd->is_read_by_worker ? scratch : cmd->buf + KEDGE_TRANSIT_HEAD_BYTES;
	bool has_tried;

	if (cmd->is_read_by_worker)
		cmd->job_res = read_here(cmd, data);
	if (cmd->job_res < 0)
		return;
	if (is_sum(cmd)) {
		uint8_t sum[KEDGE_TRANSIT_SUM_BYTES];
		kedge_transit_sum(data, cmd->disk_bytes, cmd->extent_bytes, sum);
		kedge_transit_sum_encode(cmd->disk_bytes, cmd->extent_bytes, sum, cmd->out_head);
		return;
	}
	uint64_t begin_ns = kedge_clock_ns();
	kedge_transit_pack(coder, data, cmd->extent_bytes, cmd->codecs, packed, &has_tried, &cmd->head);
	if (cmd->head.codec == KEDGE_TRANSIT_ZSTD)
		memcpy(cmd->buf + KEDGE_TRANSIT_HEAD_BYTES, packed, cmd->head.payload_bytes);
	cmd->head.start_bytes = cmd->disk_bytes;
	cmd->head.pack_ns = has_tried ? kedge_max_u64(1, kedge_clock_ns() - begin_ns) : 0;
}

static void answer_sum(struct tgt_cmd *cmd)
{
	memcpy(cmd->buf, cmd->out_head, KEDGE_TRANSIT_HEAD_BYTES);
	tgt_full_set_residual(cmd, KEDGE_TRANSIT_HEAD_BYTES);
	cmd->read_bytes = cmd->total_bytes;
	tgt_conn_queue(cmd);
}

static void done_cb(struct tgt_job *job)
{
	struct tgt_cmd *cmd = kedge_container_of(job, struct tgt_cmd, job);
	struct tgt_conn *c = cmd->c;

	if (c->is_gone) {
		tgt_conn_drop(c, NULL);
		return;
	}
	if (cmd->job_res < 0) {
		tgt_full_read_failed(cmd, cmd->job_res == -ENODATA ? 0 : cmd->job_res);
		return;
	}
	if (is_sum(cmd)) {
		answer_sum(cmd);
		return;
	}
	tgt_full_set_residual(cmd, KEDGE_TRANSIT_HEAD_BYTES + cmd->head.payload_bytes);
	cmd->read_bytes = cmd->total_bytes;
	cmd->is_cached = cmd->is_read_by_worker && cmd->head.codec != KEDGE_TRANSIT_ZSTD;
	kedge_transit_head_encode(&cmd->head, cmd->is_cached ? cmd->out_head : cmd->buf);
	if (cmd->is_cached)
		cmd->nr_head_bytes = KEDGE_TRANSIT_HEAD_BYTES;
	tgt_conn_queue(cmd);
}

static void extent_submit(struct tgt_cmd *cmd)
{
	cmd->job.work_fn = work_cb;
	cmd->job.done_fn = done_cb;
	tgt_pool_submit(tgt_server_pool(cmd->c->s), &cmd->job);
}

/* As far as it comes from one place: free space that is left out comes from another. */
static void read_rest(struct tgt_cmd *cmd)
{
	uint64_t at = cmd->disk_bytes + cmd->read_bytes, n = cmd->extent_bytes - cmd->read_bytes;
	int fd = tgt_lun_read_from(cmd->lun, at, &n);

	kedge_op_read(tgt_server_loop(cmd->c->s), &cmd->op, fd, cmd->buf + KEDGE_TRANSIT_HEAD_BYTES + cmd->read_bytes, n, at);
}

static void read_cb(struct kedge_op *op, int res)
{
	struct tgt_cmd *cmd = kedge_container_of(op, struct tgt_cmd, op);
	struct tgt_conn *c = cmd->c;

	if (c->is_gone) {
		tgt_conn_drop(c, NULL);
		return;
	}
	if (res <= 0) {
		tgt_full_read_failed(cmd, res);
		return;
	}
	cmd->read_bytes += (uint64_t)res;
	if (cmd->read_bytes < cmd->extent_bytes)
		read_rest(cmd);
	else
		extent_submit(cmd);
}

/* Sendfile knows no padding: the initiator must have room for all of it. */
static bool can_be_sent_from_cache(const struct tgt_cmd *cmd)
{
	return (cmd->bhs[1] & 0x40) && kedge_get_be32(cmd->bhs + 20) >= KEDGE_TRANSIT_HEAD_BYTES + cmd->extent_bytes &&
	       tgt_sendfile_can(cmd->c, cmd, cmd->disk_bytes, cmd->extent_bytes);
}

void tgt_extent_read(struct tgt_cmd *cmd)
{
	struct tgt_conn *c = cmd->c;

	bool needs_buffer = !cmd->is_read_by_worker || (cmd->codecs & KEDGE_TRANSIT_CAN(KEDGE_TRANSIT_ZSTD));

	if (needs_buffer && !cmd->buf && !tgt_server_get_buffer(c->s, cmd, KEDGE_TRANSIT_HEAD_BYTES + cmd->extent_bytes))
		return; /* called again when there is one */
	if (cmd->is_read_by_worker) {
		extent_submit(cmd);
		return;
	}
	cmd->op.fn = read_cb;
	read_rest(cmd);
}

static unsigned nr_extents(const struct tgt_conn *c)
{
	unsigned nr = 0;

	for (const struct tgt_cmd *cmd = c->all; cmd; cmd = cmd->all_next)
		nr += cmd->extent_bytes > 0;
	return nr;
}

static void refuse(struct tgt_cmd *cmd, uint8_t status, enum tgt_sense sense)
{
	cmd->status = status;
	cmd->sense = sense;
	tgt_full_set_residual(cmd, 0);
	tgt_conn_queue(cmd);
}

void tgt_extent_start(struct tgt_cmd *cmd, uint32_t nr_bytes, uint8_t codecs)
{
	cmd->extent_bytes = nr_bytes;
	cmd->codecs = codecs;
	if (nr_extents(cmd->c) > EXTENTS_PER_CONN_MAX) {
		refuse(cmd, SCSI_BUSY, SENSE_NONE);
		return;
	}
	if (!tgt_server_pool(cmd->c->s)) { /* not for a while only, as BUSY would say: who asks shall read plainly */
		refuse(cmd, SCSI_CHECK_CONDITION, SENSE_BAD_OPCODE);
		return;
	}
	if (is_sum(cmd) && tgt_lun_is_cached(cmd->lun, cmd->disk_bytes, nr_bytes)) {
		cmd->buf = malloc(KEDGE_TRANSIT_HEAD_BYTES);
		cmd->is_read_by_worker = cmd->buf != NULL;
	} else if (!is_sum(cmd)) {
		cmd->is_read_by_worker = can_be_sent_from_cache(cmd);
	}
	/* decided once: one that waits for a buffer waits until it has one */
	tgt_extent_read(cmd);
}
