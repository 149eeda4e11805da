/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. READ EXTENT: reads, has a worker hash and perhaps compress, answers with a head and the payload (docs/formats.md, "Transit").
 *
 * Owns. Nothing of its own; a command is in the hands of a worker between extent_submit and done_cb.
 *
 * Locks. None here: what a worker touches of a command (its buffer, head, job_res) nobody else does meanwhile (pool.c).
 *
 * What is in the page cache is read by the worker; what is not, by io_uring, so that no worker waits for a disk.
 */
#include <errno.h>
#include <unistd.h>

#include "conn.h"
#include "kedge/log.h"

/* More than any initiator of ours has under way. */
#define EXTENTS_PER_CONN_MAX 64u

static void read_here(struct tgt_cmd *cmd)
{
	uint8_t *buf = cmd->buf + KEDGE_TRANSIT_HEAD_BYTES;
	uint64_t at = 0;

	while (at < cmd->extent_bytes) {
		ssize_t n = pread(cmd->lun->fd, buf + at, cmd->extent_bytes - at, (off_t)(cmd->disk_bytes + at));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			cmd->job_res = n < 0 ? -errno : -ENODATA;
			return;
		}
		at += (uint64_t)n;
	}
}

static void work_cb(struct tgt_job *job, struct kedge_transit_coder *coder, void *scratch)
{
	struct tgt_cmd *cmd = kedge_container_of(job, struct tgt_cmd, job);
	uint8_t *payload = cmd->buf + KEDGE_TRANSIT_HEAD_BYTES;
	bool has_tried;

	if (cmd->is_cached)
		read_here(cmd);
	if (cmd->job_res < 0)
		return;
	uint64_t begin_ns = kedge_clock_ns();
	kedge_transit_pack(coder, payload, cmd->extent_bytes, cmd->codecs, scratch, &has_tried, &cmd->head);
	if (cmd->head.codec == KEDGE_TRANSIT_ZSTD)
		memcpy(payload, scratch, cmd->head.payload_bytes);
	cmd->head.start_bytes = cmd->disk_bytes;
	cmd->head.pack_ns = has_tried ? kedge_max_u64(1, kedge_clock_ns() - begin_ns) : 0;
}

static void done_cb(struct tgt_job *job)
{
	struct tgt_cmd *cmd = kedge_container_of(job, struct tgt_cmd, job);
	struct tgt_conn *c = cmd->c;

	cmd->is_cached = false; /* from here on it is an answer like others, out of a buffer */
	if (c->is_gone) {
		tgt_conn_drop(c, NULL);
		return;
	}
	if (cmd->job_res < 0) {
		tgt_full_read_failed(cmd, cmd->job_res == -ENODATA ? 0 : cmd->job_res);
		return;
	}
	kedge_transit_head_encode(&cmd->head, cmd->buf);
	tgt_full_set_residual(cmd, KEDGE_TRANSIT_HEAD_BYTES + cmd->head.payload_bytes);
	cmd->read_bytes = cmd->total_bytes;
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

void tgt_extent_read(struct tgt_cmd *cmd)
{
	struct tgt_conn *c = cmd->c;

	if (!cmd->buf && !tgt_server_get_buffer(c->s, cmd, KEDGE_TRANSIT_HEAD_BYTES + cmd->extent_bytes))
		return; /* called again when there is one */
	cmd->is_cached = tgt_lun_is_cached(cmd->lun, cmd->disk_bytes, cmd->extent_bytes);
	if (cmd->is_cached) {
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

void tgt_extent_start(struct tgt_cmd *cmd, uint32_t nr_bytes, uint8_t codecs)
{
	cmd->extent_bytes = nr_bytes;
	cmd->codecs = codecs;
	if (nr_extents(cmd->c) > EXTENTS_PER_CONN_MAX || !tgt_server_pool(cmd->c->s)) {
		cmd->status = SCSI_BUSY;
		tgt_full_set_residual(cmd, 0);
		tgt_conn_queue(cmd);
		return;
	}
	tgt_extent_read(cmd);
}
