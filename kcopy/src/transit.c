/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Background reads as extents in transit, where the source offers that: checked before anybody sees them.
 *
 * Owns. The coder and the buffer for what is packed.
 *
 * Locks. None: loop thread only. What a workload waits for is always a plain READ: 4 KiB are not worth a detour through a worker.
 */
#include "transit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iscsi_source.h"
#include "kedge/log.h"

int kcopy_transit_init(struct kcopy_transit *t, enum kcopy_transit_mode mode, struct kedge_err *err)
{
	t->mode = mode;
	kcopy_choice_init(&t->choice, 1);
	if (mode == KCOPY_TRANSIT_PLAIN)
		return 0;
	t->coder = kedge_transit_coder_create();
	t->packed = malloc(KEDGE_TRANSIT_EXTENT_MAX_BYTES);
	if (!t->coder || !t->packed)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory to unpack extents");
	return 0;
}

void kcopy_transit_fini(struct kcopy_transit *t)
{
	kedge_transit_coder_destroy(t->coder);
	free(t->packed);
}

static bool is_for_transit(const struct kcopy_isource *src, const struct kcopy_isession *s, const struct kcopy_part *p)
{
	return src->transit.mode != KCOPY_TRANSIT_PLAIN && p->req->prio == KEDGE_PRIO_BACKGROUND &&
	       p->nr_bytes <= s->offer.extent_max_bytes;
}

static void choose(struct kcopy_isource *src, const struct kcopy_isession *s, struct kcopy_part *p)
{
	struct kcopy_choice *c = &src->transit.choice;
	bool is_packed = src->transit.mode == KCOPY_TRANSIT_ZSTD;

	p->is_extent = true;
	if (src->transit.mode == KCOPY_TRANSIT_AUTO) {
		c->nr_workers = s->offer.nr_workers;
		is_packed = kcopy_choice_send(c, kedge_loop_now_ns(src->loop));
		p->is_chosen = true;
		p->is_extent = is_packed; /* else plain: where CPU is the limit, checksums cost a third of the time */
	}
	p->codecs = is_packed ? s->offer.codecs & KEDGE_TRANSIT_CAN_ALL : 0;
}

int kcopy_transit_send(struct kcopy_isource *src, struct kcopy_isession *s, struct kcopy_part *p, void *buf)
{
	uint32_t lbs_bytes = src->base.identity.lbs_bytes;
	uint64_t lba = p->start_bytes / lbs_bytes;

	p->is_extent = p->is_chosen = false;
	p->pack_ns = 0;
	if (is_for_transit(src, s, p))
		choose(src, s, p);
	int rc = p->is_extent ? kcopy_cmd_read_extent(s->conn, &p->cmd, lba, p->nr_bytes / lbs_bytes, p->codecs, p->head, buf, p->nr_bytes)
			      : kcopy_cmd_read(s->conn, &p->cmd, lba, buf, p->nr_bytes, lbs_bytes);
	if (rc < 0)
		kcopy_transit_ended(src, p, false);
	return rc;
}

static bool take_extent(struct kcopy_isource *src, struct kcopy_part *p)
{
	struct kcopy_transit *t = &src->transit;
	uint8_t *buf = (uint8_t *)p->req->io->buf + (p->start_bytes - p->req->io->start_bytes);
	const uint8_t *payload = buf;
	struct kedge_transit_head h;

	if (p->cmd.nr_in_bytes < sizeof p->head ||
	    kedge_transit_head_decode(p->head, p->start_bytes, p->nr_bytes, p->cmd.nr_in_bytes - sizeof p->head, &h) < 0)
		return false;
	p->pack_ns = h.pack_ns;
	if (h.codec == KEDGE_TRANSIT_ZSTD) {
		memcpy(t->packed, buf, h.payload_bytes);
		payload = t->packed;
	}
	return kedge_transit_unpack(t->coder, &h, payload, buf) == 0;
}

bool kcopy_transit_take(struct kcopy_isource *src, struct kcopy_part *p)
{
	struct kcopy_transit *t = &src->transit;

	if (!p->is_extent) {
		if (p->cmd.outcome != KCOPY_CMD_GOOD)
			return false;
		t->wire_bytes += p->nr_bytes;
		return true;
	}
	t->wire_bytes += p->cmd.nr_in_bytes;
	if (take_extent(src, p))
		return true;
	t->nr_damaged++;
	p->cmd.outcome = KCOPY_CMD_DAMAGED;
	kedge_debug("bytes %llu + %u of the source arrived damaged", (unsigned long long)p->start_bytes, p->nr_bytes);
	return false;
}

bool kcopy_transit_can_sum(const struct kcopy_isession *s)
{
	return (s->offer.codecs & KEDGE_TRANSIT_CAN_SUM) && s->offer.extent_max_bytes == KEDGE_TRANSIT_EXTENT_MAX_BYTES;
}

int kcopy_transit_send_sum(struct kcopy_isource *src, struct kcopy_isession *s, struct kcopy_part *p)
{
	uint32_t lbs_bytes = src->base.identity.lbs_bytes;

	p->is_extent = true;
	p->is_chosen = false;
	return kcopy_cmd_read_extent(s->conn, &p->cmd, p->start_bytes / lbs_bytes, p->nr_bytes / lbs_bytes, KEDGE_TRANSIT_CAN_SUM, p->head,
				     NULL, 0);
}

bool kcopy_transit_take_sum(struct kcopy_isource *src, struct kcopy_part *p)
{
	const struct kedge_source_io *io = p->req->io;
	uint64_t nr = (p->start_bytes - io->start_bytes) / KEDGE_TRANSIT_EXTENT_MAX_BYTES;

	src->transit.wire_bytes += p->cmd.nr_in_bytes;
	if (p->cmd.nr_in_bytes == sizeof p->head &&
	    kedge_transit_sum_decode(p->head, p->start_bytes, p->nr_bytes, (uint8_t *)io->buf + nr * KEDGE_TRANSIT_SUM_BYTES) == 0)
		return true;
	src->transit.nr_damaged++;
	p->cmd.outcome = KCOPY_CMD_DAMAGED;
	return false;
}

void kcopy_transit_ended(struct kcopy_isource *src, struct kcopy_part *p, bool is_good)
{
	uint32_t wire_bytes = p->is_extent ? p->cmd.nr_in_bytes : p->nr_bytes;
	struct kcopy_choice *c = &src->transit.choice;
	bool was_packing = kcopy_choice_is_packing(c);

	if (!p->is_chosen)
		return;
	p->is_chosen = false;
	if (is_good)
		kcopy_choice_answer(c, p->nr_bytes, wire_bytes, p->pack_ns, kedge_loop_now_ns(src->loop));
	else
		kcopy_choice_answer(c, 0, 0, 0, kedge_loop_now_ns(src->loop));
	if (kcopy_choice_is_packing(c) != was_packing)
		kedge_debug("transit: %s; plain %.0f MB/s, compressed %.0f MB/s to %.2f", was_packing ? "plain" : "compressed", c->raw_bps / 1e6,
			    c->packed_bps / 1e6, c->wire_share);
}
