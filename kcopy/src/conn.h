/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_CONN_H
#define KCOPY_CONN_H

/*
 * One TCP connection and iSCSI session, from connect to its first failure: a libiscsi context driven by a kedge_loop. It never
 * reconnects; whoever owns it makes a new one. It has no timers; whoever owns it closes it when something takes too long.
 *
 * A command's data lands in the caller's buffer until the command's callback has begun and no longer: libiscsi looks the
 * buffer up by task tag for each piece that arrives, and the only ways out of the list of waiting tasks are completion
 * and the end of the whole context. Single tasks are never cancelled (a half-sent request would leave the stream out of step);
 * to take one back, close the connection.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "kcopy/url.h"
#include "kedge/chapfile.h"
#include "kedge/err.h"
#include "kedge/loop.h"

struct kcopy_conn;
struct kcopy_cmd;

enum kcopy_outcome {
	KCOPY_CMD_GOOD,
	KCOPY_CMD_SHORT,     /* good, but less came than was asked for, whether the target says so or not */
	KCOPY_CMD_ATTENTION, /* unit attention */
	KCOPY_CMD_BUSY,      /* busy, task set full, not ready, aborted: again after a while */
	KCOPY_CMD_MEDIUM,    /* medium or hardware error */
	KCOPY_CMD_REFUSED,   /* illegal request and everything else definite */
	KCOPY_CMD_LOST,      /* the connection ended first; nothing is known */
	KCOPY_CMD_DAMAGED,   /* never from here: what came is not what the source's checksum says (transit.c) */
};

typedef void (*kcopy_cmd_fn)(struct kcopy_cmd *cmd);

/* Caller-owned, stays until the callback. */
struct kcopy_cmd {
	kcopy_cmd_fn fn;
	/* results */
	enum kcopy_outcome outcome;
	uint8_t sense_key;
	uint16_t sense_code;  /* ASC and ASCQ */
	const uint8_t *data;  /* answers other than reads; valid inside fn only */
	size_t nr_data;
	uint32_t nr_in_bytes; /* of an extent: what came, as the target says: head and payload */
	/* private */
	struct kcopy_conn *conn;
	void *task;
	struct iovec iov[2];
	uint8_t *read_buf;     /* of a read, with marks of read_mark in it */
	uint32_t nr_read_bytes;
	uint64_t read_mark;
	bool is_done, is_large;
	struct kcopy_cmd *next, *prev;
};

struct kcopy_conn_opts {
	const struct kcopy_url *url;
	const char *initiator_iqn;
	const struct kedge_chap *chap; /* NULL: none */
	uint32_t isid;                 /* 24 bits, the same for each connection that follows another in the same place */
	uint16_t isid_qualifier;
	/* Both run on the loop, never inside a call into this file. up_fn:
	 * logged in. lost_fn: the connection has ended, code and text say why (KEDGE_E_SOURCE_AUTH: the login was refused);
	 * commands that were under way have been answered with LOST before. Close it then. */
	void (*up_fn)(void *arg);
	void (*lost_fn)(void *arg, int code, const char *why);
	/* After kcopy_conn_close, when the last trace of the connection is gone from the loop. */
	void (*gone_fn)(void *arg);
	void *arg;
};

/* Everything in opts is copied. Errors: -ENOMEM, KEDGE_E_SOURCE_AWAY when the connect fails at once. */
int kcopy_conn_open(struct kedge_loop *l, const struct kcopy_conn_opts *opts, struct kcopy_conn **ret_conn,
		    struct kedge_err *err);
/* End it now, without logout. Commands under way are answered with LOST inside this call; afterwards nothing of it touches any
 * buffer, and neither up_fn nor lost_fn runs. gone_fn runs once, later. NULL is a no-op. */
void kcopy_conn_close(struct kcopy_conn *conn);
/* Send a logout; lost_fn comes when it is answered or the connection ends. Only with no command under way. */
void kcopy_conn_logout(struct kcopy_conn *conn);
/* Clock value when the target was last heard to answer anything. */
uint64_t kcopy_conn_heard_ns(const struct kcopy_conn *conn);

/* Each: 0, and fn runs once, later; or -ENOMEM, and it never runs. Only after up_fn. */
int kcopy_cmd_read(struct kcopy_conn *conn, struct kcopy_cmd *cmd, uint64_t lba, void *buf, uint32_t nr_bytes,
		   uint32_t block_bytes);
/* READ EXTENT (kedge/transit.h). head: KEDGE_TRANSIT_HEAD_BYTES; buf: nr_bytes, for the payload; of a sum none. Nothing is checked here. */
int kcopy_cmd_read_extent(struct kcopy_conn *conn, struct kcopy_cmd *cmd, uint64_t lba, uint32_t nr_blocks, uint8_t codecs,
			  uint8_t *head, void *buf, uint32_t nr_bytes);
int kcopy_cmd_test_unit_ready(struct kcopy_conn *conn, struct kcopy_cmd *cmd);
int kcopy_cmd_inquiry_page(struct kcopy_conn *conn, struct kcopy_cmd *cmd, uint8_t page);
int kcopy_cmd_read_capacity(struct kcopy_conn *conn, struct kcopy_cmd *cmd);
int kcopy_cmd_lba_status(struct kcopy_conn *conn, struct kcopy_cmd *cmd, uint64_t lba, uint32_t nr_answer_bytes);
/* An iSCSI NOP-Out. */
int kcopy_cmd_nop(struct kcopy_conn *conn, struct kcopy_cmd *cmd);

#endif
