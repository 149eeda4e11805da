/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Requests and replies of NBD's transmission phase, between bytes and structs.
 *
 * Pure.
 */
#include "nbd_proto.h"

#include <errno.h>

#include "kedge/bytes.h"

int nbd_request_decode(const uint8_t in[NBD_REQUEST_BYTES], struct nbd_request *r)
{
	if (kedge_get_be32(in) != NBD_REQUEST_MAGIC)
		return -EBADMSG;
	r->flags = kedge_get_be16(in + 4);
	r->cmd = kedge_get_be16(in + 6);
	r->cookie = kedge_get_be64(in + 8);
	r->start_bytes = kedge_get_be64(in + 16);
	r->nr_bytes = kedge_get_be32(in + 24);
	return 0;
}

static uint16_t known_flags(uint16_t cmd)
{
	/* FUA is valid with every command (proto.md) and ignored where nothing is changed */
	switch (cmd) {
	case NBD_CMD_READ:
		return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF;
	case NBD_CMD_WRITE_ZEROES:
		return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE;
	case NBD_CMD_BLOCK_STATUS:
		return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
	default:
		return NBD_CMD_FLAG_FUA;
	}
}

uint32_t nbd_request_check(const struct nbd_request *r, uint64_t size_bytes, bool has_context)
{
	bool is_change = r->cmd == NBD_CMD_WRITE || r->cmd == NBD_CMD_WRITE_ZEROES || r->cmd == NBD_CMD_TRIM;

	if (r->flags & ~known_flags(r->cmd))
		return NBD_EINVAL;
	if (r->cmd == NBD_CMD_FLUSH)
		return r->start_bytes || r->nr_bytes ? NBD_EINVAL : 0;
	if (!is_change && r->cmd != NBD_CMD_READ && r->cmd != NBD_CMD_BLOCK_STATUS)
		return NBD_EINVAL;
	if (r->start_bytes > size_bytes || r->nr_bytes > size_bytes - r->start_bytes)
		return is_change ? NBD_ENOSPC : NBD_EINVAL;
	if (r->start_bytes % NBD_MIN_BLOCK_BYTES || r->nr_bytes % NBD_MIN_BLOCK_BYTES)
		return NBD_EINVAL;
	if (r->cmd == NBD_CMD_READ && (r->nr_bytes == 0 || r->nr_bytes > NBD_MAX_PAYLOAD_BYTES))
		return NBD_EINVAL;
	if (r->cmd == NBD_CMD_BLOCK_STATUS && (!has_context || r->nr_bytes == 0))
		return NBD_EINVAL;
	return 0;
}

uint32_t nbd_errno(int res)
{
	switch (res) {
	case 0:
		return 0;
	case -EPERM:
		return NBD_EPERM;
	case -ENOMEM:
		return NBD_ENOMEM;
	case -EINVAL:
		return NBD_EINVAL;
	case -ENOSPC:
		return NBD_ENOSPC;
	case -ESHUTDOWN:
		return NBD_ESHUTDOWN;
	default:
		return NBD_EIO;
	}
}

uint32_t nbd_simple_encode(uint8_t out[NBD_HEAD_BYTES], uint64_t cookie, uint32_t error)
{
	kedge_put_be32(out, NBD_SIMPLE_REPLY_MAGIC);
	kedge_put_be32(out + 4, error);
	kedge_put_be64(out + 8, cookie);
	return NBD_SIMPLE_REPLY_BYTES;
}

uint32_t nbd_chunk_encode(uint8_t out[NBD_CHUNK_BYTES], uint64_t cookie, uint16_t flags, uint16_t type, uint32_t nr_bytes)
{
	kedge_put_be32(out, NBD_CHUNK_MAGIC);
	kedge_put_be16(out + 4, flags);
	kedge_put_be16(out + 6, type);
	kedge_put_be64(out + 8, cookie);
	kedge_put_be32(out + 16, nr_bytes);
	return NBD_CHUNK_BYTES;
}

uint32_t nbd_data_encode(uint8_t out[NBD_HEAD_BYTES], uint64_t cookie, uint64_t start_bytes, uint32_t nr_bytes)
{
	uint32_t n = nbd_chunk_encode(out, cookie, NBD_CHUNK_DONE, NBD_CHUNK_OFFSET_DATA, nr_bytes + 8);

	kedge_put_be64(out + n, start_bytes);
	return n + 8;
}

uint32_t nbd_error_encode(uint8_t out[NBD_HEAD_BYTES], uint64_t cookie, uint32_t error)
{
	uint32_t n = nbd_chunk_encode(out, cookie, NBD_CHUNK_DONE, NBD_CHUNK_ERROR, 6);

	kedge_put_be32(out + n, error);
	kedge_put_be16(out + n + 4, 0);
	return n + 6;
}
