/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_NBD_PROTO_H
#define KCLONE_NBD_PROTO_H

/* Pure. Numbers and messages of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md) as far as a server with fixed newstyle
 * negotiation, simple and structured replies needs them. All numbers are big-endian on the wire. */

#include <stdbool.h>
#include <stdint.h>

#define NBD_MAGIC UINT64_C(0x4e42444d41474943)     /* "NBDMAGIC" */
#define NBD_OPT_MAGIC UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REP_MAGIC UINT64_C(0x0003e889045565a9)
#define NBD_REQUEST_MAGIC UINT32_C(0x25609513)
#define NBD_SIMPLE_REPLY_MAGIC UINT32_C(0x67446698)
#define NBD_CHUNK_MAGIC UINT32_C(0x668e33ef)

/* handshake flags, both directions */
enum { NBD_FLAG_FIXED_NEWSTYLE = 1, NBD_FLAG_NO_ZEROES = 2 };

enum nbd_opt {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ERROR UINT32_C(0x80000000)
#define NBD_REP_ACK UINT32_C(1)
#define NBD_REP_SERVER UINT32_C(2)
#define NBD_REP_INFO UINT32_C(3)
#define NBD_REP_META_CONTEXT UINT32_C(4)
#define NBD_REP_ERR_UNSUP (NBD_REP_ERROR | 1)
#define NBD_REP_ERR_INVALID (NBD_REP_ERROR | 3)

enum { NBD_INFO_EXPORT = 0, NBD_INFO_BLOCK_SIZE = 3 };

/* transmission flags */
enum {
	NBD_TX_HAS_FLAGS = 1 << 0,
	NBD_TX_SEND_FLUSH = 1 << 2,
	NBD_TX_SEND_FUA = 1 << 3,
	NBD_TX_SEND_TRIM = 1 << 5,
	NBD_TX_SEND_WRITE_ZEROES = 1 << 6,
	NBD_TX_SEND_DF = 1 << 7,
	NBD_TX_CAN_MULTI_CONN = 1 << 8,
};

enum nbd_cmd {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

enum { NBD_CMD_FLAG_FUA = 1, NBD_CMD_FLAG_NO_HOLE = 2, NBD_CMD_FLAG_DF = 4, NBD_CMD_FLAG_REQ_ONE = 8 };

enum { NBD_CHUNK_DONE = 1 };
#define NBD_CHUNK_OFFSET_DATA 1
#define NBD_CHUNK_BLOCK_STATUS 5
#define NBD_CHUNK_ERROR ((1 << 15) + 1)

#define NBD_EPERM 1
#define NBD_EIO 5
#define NBD_ENOMEM 12
#define NBD_EINVAL 22
#define NBD_ENOSPC 28
#define NBD_ESHUTDOWN 108

#define NBD_REQUEST_BYTES 28u
#define NBD_SIMPLE_REPLY_BYTES 16u
#define NBD_CHUNK_BYTES 20u
/* the longest head of a reply: a chunk and an offset behind it */
#define NBD_HEAD_BYTES 28u

/* What we serve. */
#define NBD_MIN_BLOCK_BYTES 512u
#define NBD_PREFERRED_BLOCK_BYTES 4096u
#define NBD_MAX_PAYLOAD_BYTES (32u << 20)

struct nbd_request {
	uint16_t flags, cmd;
	uint64_t cookie, start_bytes;
	uint32_t nr_bytes;
};

/* 0, or -EBADMSG when the magic is wrong. */
int nbd_request_decode(const uint8_t in[NBD_REQUEST_BYTES], struct nbd_request *ret_request);

/* May the server begin with it? 0 or a positive NBD error number. has_context: a meta context was chosen. */
uint32_t nbd_request_check(const struct nbd_request *r, uint64_t size_bytes, bool has_context);

/* The NBD error number of a negative errno. */
uint32_t nbd_errno(int res);

/* Heads of replies; each returns its length. */
uint32_t nbd_simple_encode(uint8_t out[NBD_HEAD_BYTES], uint64_t cookie, uint32_t error);
uint32_t nbd_chunk_encode(uint8_t out[NBD_CHUNK_BYTES], uint64_t cookie, uint16_t flags, uint16_t type, uint32_t nr_bytes);
/* A read's one and last chunk: nr_bytes of data follow. */
uint32_t nbd_data_encode(uint8_t out[NBD_HEAD_BYTES], uint64_t cookie, uint64_t start_bytes, uint32_t nr_bytes);
/* One and last chunk that says that a structured request failed; no text. */
uint32_t nbd_error_encode(uint8_t out[NBD_HEAD_BYTES], uint64_t cookie, uint32_t error);

#endif
