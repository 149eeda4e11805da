/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_CONN_H
#define TGT_CONN_H

/* One TCP connection: login, then the full feature phase of its session (one connection a session). */

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "kedge/loop.h"
#include "kedge/transit.h"
#include "login.h"
#include "lun.h"
#include "pool.h"
#include "tgt/tgt.h"

#define CMDS_MAX 128u
#define TX_PDUS_MAX 64u

struct tgt_conn;

/* Something to be answered. */
struct tgt_cmd {
	struct tgt_conn *c;
	uint8_t bhs[BHS_BYTES];      /* the request's; of an answer that has no command: the answer's own */
	bool is_plain;               /* bhs is the answer, buf its data */
	bool is_stat;                /* a plain answer takes a StatSN */
	bool is_command;             /* counts against the window */
	bool is_aborted, is_queued, is_last; /* is_last: the connection ends after it */
	bool is_built;               /* in the sendmsg under way, all of it or as far as sent_bytes */
	uint8_t status;
	enum tgt_sense sense;
	uint8_t *buf;
	uint32_t buf_bytes;          /* against the server's budget; 0 for small buffers */
	uint64_t total_bytes;        /* data to send */
	uint64_t read_bytes;         /* of those, in buf or sent */
	uint64_t chunk_start;        /* position of buf's first byte in the data */
	uint64_t sent_bytes;         /* put into PDUs */
	uint32_t burst_bytes, data_sn, residual;
	bool is_over;                /* residual is an overflow */
	bool is_cached;              /* this chunk goes out of the page cache (sendfile.c); buf is not used */
	uint8_t out_head[KEDGE_TRANSIT_HEAD_BYTES]; /* with is_cached: nr_head_bytes of it are sent before what is on the disk */
	uint32_t nr_head_bytes;
	struct tgt_lun *lun;
	uint64_t disk_bytes;         /* where the data begins on the LUN */
	struct kedge_op op;
	/* READ EXTENT (extent.c); extent_bytes 0: another command */
	uint32_t extent_bytes;
	uint8_t codecs;
	bool is_read_by_worker;
	struct tgt_job job;
	int job_res;
	struct kedge_transit_head head;
	struct tgt_cmd *next, *all_next, *wait_next;
};

/* The kernel or a worker has it: it cannot be freed now. */
static inline bool tgt_cmd_is_busy(const struct tgt_cmd *cmd)
{
	return cmd->op.is_inflight || cmd->job.is_inflight;
}

struct tgt_conn {
	struct tgt_server *s;
	int fd;
	bool is_gone, is_full, is_closing;
	struct kedge_op in, out;
	struct kedge_timer timer;    /* login deadline, then idle pings */
	struct kedge_defer end;      /* frees it */
	struct kedge_defer send;     /* what this round made ready goes out together */
	bool is_ping_out, has_sent; /* has_sent: since the timer last looked */
	struct sockaddr_storage peer;

	uint8_t *rx;
	uint32_t rx_bytes, rx_max;
	struct tgt_login *login;     /* until the full feature phase */
	struct tgt_policy policy;

	/* session */
	bool is_discovery, has_header_digest, has_data_digest;
	uint32_t send_data_bytes, max_burst_bytes;
	char initiator[TGT_NAME_MAX];
	uint8_t isid[6];
	uint16_t tsih;
	uint32_t stat_sn, exp_cmd_sn;
	uint32_t attention;          /* bit n: LUN n has a unit attention to report */

	struct tgt_cmd *all;
	unsigned nr_cmds, nr_counted;
	struct tgt_cmd *tx_head, **tx_tail;
	/* the sendmsg under way; nr_pdus: headers and tails in use */
	unsigned nr_pdus;
	uint8_t headers[TX_PDUS_MAX][BHS_BYTES + DIGEST_BYTES];
	uint8_t tails[TX_PDUS_MAX][8];
	struct iovec iov[TX_PDUS_MAX * 3];
	unsigned nr_iov, iov_at;
	struct msghdr msg;
	/* of a chunk that is cached: the PDU that is going out is a header (iov) and so much of the file */
	uint64_t file_at_bytes, file_bytes;
	bool is_out_poll;            /* out waits for room in the socket */
	struct tgt_conn *next;
};

/* ---- conn.c: bytes ---- */
int tgt_conn_create(struct tgt_server *s, int fd, const struct sockaddr_storage *peer, struct tgt_conn **ret_c);
/* Ends it; freed later, when nothing of it is in flight: c stays valid until the present callback has returned. */
void tgt_conn_drop(struct tgt_conn *c, const char *why);
/* Queue an answer whose data is ready. */
void tgt_conn_queue(struct tgt_cmd *cmd);
struct tgt_cmd *tgt_cmd_create(struct tgt_conn *c);
void tgt_cmd_destroy(struct tgt_cmd *cmd);
/* A plain answer with a copy of data. */
void tgt_conn_reply(struct tgt_conn *c, const uint8_t *bhs, const void *data, uint32_t nr_bytes, bool is_stat,
		    bool is_last);

/* Forget what was built. */
void tgt_conn_begin_build(struct tgt_conn *c);
/* The header of the next Data-In PDU of cmd into the next place; how many bytes of data follow it. */
uint64_t tgt_conn_data_in(struct tgt_conn *c, struct tgt_cmd *cmd);
/* The header that was made last, of a PDU with so much data, with its digest into the iov that is being built. */
void tgt_conn_add_header(struct tgt_conn *c, uint32_t nr_data_bytes);

/* ---- sendfile.c ---- */
/* May a chunk of cmd, of nr_bytes at the LUN's start_bytes, go out of the page cache? */
bool tgt_sendfile_can(const struct tgt_conn *c, const struct tgt_cmd *cmd, uint64_t start_bytes, uint64_t nr_bytes);
/* Send what is left of the chunk until the socket is full. 1: all of it is sent; 0: the socket is full (or others shall have their
 * turn): c->out polls; negative: the connection has failed. */
int tgt_sendfile_step(struct tgt_conn *c, struct tgt_cmd *cmd);

/* ---- extent.c ---- */
/* READ EXTENT of nr_bytes from cmd->disk_bytes of cmd->lun on. */
void tgt_extent_start(struct tgt_cmd *cmd, uint32_t nr_bytes, uint8_t codecs);
/* Go on with one that waited for a buffer. */
void tgt_extent_read(struct tgt_cmd *cmd);

/* ---- full.c: meaning ---- */
/* One PDU in the full feature phase. data has nr_bytes, inside the receive buffer. */
void tgt_full_take(struct tgt_conn *c, const uint8_t *bhs, const uint8_t *data, uint32_t nr_bytes);
/* The next chunk of a read. True: it is in the page cache and can be sent at once; otherwise it is queued when it has been read. */
bool tgt_full_read_more(struct tgt_cmd *cmd);
void tgt_full_read_into_buffer(struct tgt_cmd *cmd);
/* There are so many bytes of data for the answer: what the initiator expects of them is sent, the residual count says the rest. */
void tgt_full_set_residual(struct tgt_cmd *cmd, uint64_t nr_bytes);
/* res: of the read; 0: the file ends. */
void tgt_full_read_failed(struct tgt_cmd *cmd, int res);
void tgt_full_reject(struct tgt_conn *c, uint8_t reason, const uint8_t *bhs);

/* ---- server.c ---- */
struct kedge_loop *tgt_server_loop(struct tgt_server *s);
const struct tgt_policy *tgt_server_policy(struct tgt_server *s);
struct tgt_lun *tgt_server_lun(struct tgt_server *s, uint32_t lun);
unsigned tgt_server_nr_luns(const struct tgt_server *s);
/* The workers, started when they are first wanted. NULL: they cannot be. */
struct tgt_pool *tgt_server_pool(struct tgt_server *s);
uint16_t tgt_server_next_tsih(struct tgt_server *s);
/* The login is complete: an older session of the same name and ISID ends. False: too many sessions. */
bool tgt_server_admit(struct tgt_server *s, struct tgt_conn *c);
void tgt_server_conn_gone(struct tgt_server *s, struct tgt_conn *c);
/* Read buffers have a budget: false: the command waits and tgt_full_read_into_buffer (or tgt_extent_read) is called later. */
bool tgt_server_get_buffer(struct tgt_server *s, struct tgt_cmd *cmd, uint32_t nr_bytes);
void tgt_server_put_buffer(struct tgt_server *s, struct tgt_cmd *cmd);
void tgt_server_forget_waiting(struct tgt_server *s, struct tgt_cmd *cmd);

#endif
