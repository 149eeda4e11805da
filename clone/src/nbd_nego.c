/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. NBD's fixed newstyle negotiation. One export, under any name; meta contexts base:allocation and kedge:hydrated.
 *
 * Pure.
 */
#include "nbd_nego.h"

#include <string.h>

#include "kedge/bytes.h"
#include "kedge/err.h"
#include "nbd_proto.h"

static const char *const context_names[NBD_CONTEXT_END] = {
	[NBD_CONTEXT_ALLOCATION] = "base:allocation",
	[NBD_CONTEXT_HYDRATED] = "kedge:hydrated",
};

/* What is left to read of an option's data. */
struct cursor {
	const uint8_t *at;
	size_t left;
};

static bool take_u16(struct cursor *c, uint16_t *ret)
{
	if (c->left < 2)
		return false;
	*ret = kedge_get_be16(c->at);
	c->at += 2;
	c->left -= 2;
	return true;
}

static bool take_text(struct cursor *c, const uint8_t **ret_text, uint32_t *ret_bytes)
{
	uint32_t n;

	if (c->left < 4)
		return false;
	n = kedge_get_be32(c->at);
	if (n > c->left - 4)
		return false;
	*ret_text = c->at + 4;
	*ret_bytes = n;
	c->at += 4 + n;
	c->left -= 4 + (size_t)n;
	return true;
}

static uint8_t *extend(struct nbd_out *out, size_t nr_bytes)
{
	uint8_t *p = out->buf + out->nr_bytes;

	/* all replies to one option together are known to fit */
	kedge_assert(nr_bytes <= sizeof out->buf - out->nr_bytes);
	memset(p, 0, nr_bytes);
	out->nr_bytes += nr_bytes;
	return p;
}

/* The head of a reply to an option; its data is returned, zeroed. */
static uint8_t *reply(struct nbd_out *out, uint32_t option, uint32_t type, uint32_t nr_bytes)
{
	uint8_t *p = extend(out, 20 + (size_t)nr_bytes);

	kedge_put_be64(p, NBD_REP_MAGIC);
	kedge_put_be32(p + 8, option);
	kedge_put_be32(p + 12, type);
	kedge_put_be32(p + 16, nr_bytes);
	return p + 20;
}

uint16_t nbd_nego_flags(const struct nbd_nego *n)
{
	uint16_t flags = NBD_TX_HAS_FLAGS | NBD_TX_SEND_FLUSH | NBD_TX_SEND_FUA | NBD_TX_SEND_TRIM | NBD_TX_SEND_WRITE_ZEROES |
			 NBD_TX_CAN_MULTI_CONN;

	/* every read is answered by one chunk anyway */
	return n->is_structured ? flags | NBD_TX_SEND_DF : flags;
}

void nbd_nego_begin(struct nbd_nego *n, uint64_t size_bytes, struct nbd_out *out)
{
	uint8_t *p;

	*n = (struct nbd_nego){.size_bytes = size_bytes};
	out->nr_bytes = 0;
	p = extend(out, 18);
	kedge_put_be64(p, NBD_MAGIC);
	kedge_put_be64(p + 8, NBD_OPT_MAGIC);
	kedge_put_be16(p + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

static enum nbd_step do_export_name(struct nbd_nego *n, struct nbd_out *out)
{
	uint8_t *p = extend(out, n->is_no_zeroes ? 10 : 134);

	kedge_put_be64(p, n->size_bytes);
	kedge_put_be16(p + 8, nbd_nego_flags(n));
	return NBD_STEP_TRANSMIT;
}

static enum nbd_step do_go(struct nbd_nego *n, uint32_t option, struct cursor data, struct nbd_out *out)
{
	const uint8_t *name;
	uint32_t name_bytes;
	uint16_t nr_infos = 0;
	uint8_t *p;

	if (!take_text(&data, &name, &name_bytes) || !take_u16(&data, &nr_infos) || data.left != 2u * nr_infos) {
		reply(out, option, NBD_REP_ERR_INVALID, 0);
		return NBD_STEP_GO_ON;
	}
	p = reply(out, option, NBD_REP_INFO, 12);
	kedge_put_be16(p, NBD_INFO_EXPORT);
	kedge_put_be64(p + 2, n->size_bytes);
	kedge_put_be16(p + 10, nbd_nego_flags(n));
	p = reply(out, option, NBD_REP_INFO, 14);
	kedge_put_be16(p, NBD_INFO_BLOCK_SIZE);
	kedge_put_be32(p + 2, NBD_MIN_BLOCK_BYTES);
	kedge_put_be32(p + 6, NBD_PREFERRED_BLOCK_BYTES);
	kedge_put_be32(p + 10, NBD_MAX_PAYLOAD_BYTES);
	reply(out, option, NBD_REP_ACK, 0);
	return option == NBD_OPT_GO ? NBD_STEP_TRANSMIT : NBD_STEP_GO_ON;
}

static void reply_context(struct nbd_out *out, uint32_t option, unsigned id)
{
	size_t n = strlen(context_names[id]);
	uint8_t *p = reply(out, option, NBD_REP_META_CONTEXT, (uint32_t)(4 + n));

	kedge_put_be32(p, option == NBD_OPT_SET_META_CONTEXT ? id : 0);
	memcpy(p + 4, context_names[id], n);
}

/* A query names a context, or, when they are listed, a name space ("base:"). */
static bool is_match(const char *name, const uint8_t *query, uint32_t nr_bytes, bool is_list)
{
	size_t space = (size_t)(strchr(name, ':') + 1 - name);

	if (nr_bytes == strlen(name) && memcmp(name, query, nr_bytes) == 0)
		return true;
	return is_list && nr_bytes == space && memcmp(name, query, space) == 0;
}

static bool take_queries(struct cursor *data, bool is_list, bool is_asked[NBD_CONTEXT_END])
{
	const uint8_t *text;
	uint32_t nr_bytes, nr_queries;

	if (!take_text(data, &text, &nr_bytes) || data->left < 4) /* the export's name */
		return false;
	nr_queries = kedge_get_be32(data->at);
	data->at += 4;
	data->left -= 4;
	for (unsigned id = 1; id < NBD_CONTEXT_END; id++)
		is_asked[id] = is_list && nr_queries == 0;
	for (uint32_t i = 0; i < nr_queries; i++) {
		if (!take_text(data, &text, &nr_bytes))
			return false;
		for (unsigned id = 1; id < NBD_CONTEXT_END; id++)
			is_asked[id] |= is_match(context_names[id], text, nr_bytes, is_list);
	}
	return data->left == 0;
}

static void do_meta_context(struct nbd_nego *n, uint32_t option, struct cursor data, struct nbd_out *out)
{
	bool is_asked[NBD_CONTEXT_END] = {false}, is_set = option == NBD_OPT_SET_META_CONTEXT;

	/* whatever was chosen before is void now, also when this fails */
	if (is_set)
		memset(n->is_context, 0, sizeof n->is_context);
	if ((is_set && !n->is_structured) || !take_queries(&data, !is_set, is_asked)) {
		reply(out, option, NBD_REP_ERR_INVALID, 0);
		return;
	}
	for (unsigned id = 1; id < NBD_CONTEXT_END; id++)
		if (is_asked[id])
			reply_context(out, option, id);
	if (is_set)
		memcpy(n->is_context, is_asked, sizeof is_asked);
	reply(out, option, NBD_REP_ACK, 0);
}

static enum nbd_step do_option(struct nbd_nego *n, uint32_t option, struct cursor data, struct nbd_out *out)
{
	bool must_be_empty = option == NBD_OPT_LIST || option == NBD_OPT_STRUCTURED_REPLY;

	if (must_be_empty && data.left) {
		reply(out, option, NBD_REP_ERR_INVALID, 0);
		return NBD_STEP_GO_ON;
	}
	switch (option) {
	case NBD_OPT_EXPORT_NAME:
		return do_export_name(n, out);
	case NBD_OPT_ABORT:
		reply(out, option, NBD_REP_ACK, 0);
		return NBD_STEP_CLOSE;
	case NBD_OPT_LIST:
		reply(out, option, NBD_REP_SERVER, 4); /* the empty name: the default export */
		reply(out, option, NBD_REP_ACK, 0);
		return NBD_STEP_GO_ON;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return do_go(n, option, data, out);
	case NBD_OPT_STRUCTURED_REPLY:
		n->is_structured = true;
		reply(out, option, NBD_REP_ACK, 0);
		return NBD_STEP_GO_ON;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		do_meta_context(n, option, data, out);
		return NBD_STEP_GO_ON;
	default: /* STARTTLS too: a Unix socket needs none */
		reply(out, option, NBD_REP_ERR_UNSUP, 0);
		return NBD_STEP_GO_ON;
	}
}

enum nbd_step nbd_nego_feed(struct nbd_nego *n, const uint8_t *in, size_t nr_in, size_t *ret_used, struct nbd_out *out)
{
	uint32_t flags, option, nr_bytes;

	out->nr_bytes = 0;
	*ret_used = 0;
	if (!n->has_flags) {
		if (nr_in < 4)
			return NBD_STEP_MORE;
		flags = kedge_get_be32(in);
		*ret_used = 4;
		if (flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
			return NBD_STEP_CLOSE;
		n->has_flags = true;
		n->is_no_zeroes = flags & NBD_FLAG_NO_ZEROES;
		return NBD_STEP_GO_ON;
	}
	if (nr_in < NBD_OPT_HEAD_BYTES)
		return NBD_STEP_MORE;
	option = kedge_get_be32(in + 8);
	nr_bytes = kedge_get_be32(in + 12);
	if (kedge_get_be64(in) != NBD_OPT_MAGIC || nr_bytes > NBD_OPT_MAX_BYTES)
		return NBD_STEP_CLOSE;
	if (nr_in - NBD_OPT_HEAD_BYTES < nr_bytes)
		return NBD_STEP_MORE;
	*ret_used = NBD_OPT_HEAD_BYTES + (size_t)nr_bytes;
	return do_option(n, option, (struct cursor){in + NBD_OPT_HEAD_BYTES, nr_bytes}, out);
}
