/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_BATCH_H
#define KCOPY_BATCH_H

/*
 * libiscsi's socket calls of one service call, gathered: it sends each PDU and receives each header and each data segment by a call of its own. Between
 * enter and leave its send is put off to leave, and a small recv takes all that has come.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 15 answers of 4 KiB. */
#define KCOPY_BATCH_IN_BYTES 65536u
/* 85 commands. */
#define KCOPY_BATCH_OUT_BYTES 4096u

/* What of the stream libiscsi has been given, PDU by PDU (RFC 7143, 11.2: a header of 48 bytes, 52 with its digest; bytes 5 to 7 say how much data
 * follow, in whole words). Which of the two libiscsi shows by asking for so many where a PDU begins. */
struct kcopy_batch_pdu {
	uint8_t head[8];
	size_t head_bytes;
	unsigned nr_head_bytes;
	uint32_t nr_data_bytes; /* still to come */
};

/* Zero-initialise, between two PDUs. */
struct kcopy_batch {
	int fd;
	bool may_read_ahead, is_dry;
	struct kcopy_batch_pdu pdu;
	size_t in_start, in_end, out_start, out_end;
	uint8_t in[KCOPY_BATCH_IN_BYTES], out[KCOPY_BATCH_OUT_BYTES];
};

/* From here to leave, the thread's recv, readv and send on fd (non-blocking) go through b. Without may_read_ahead nothing is received that
 * was not asked for: large data goes straight into its buffer. */
void kcopy_batch_enter(struct kcopy_batch *b, int fd, bool may_read_ahead);
/* 0, or -errno of the socket: what was sent before is lost. What the socket did not take now waits: see has_out. */
int kcopy_batch_leave(struct kcopy_batch *b);
/* Whatever libiscsi takes for a whole PDU ends where one ends in what went through here: false would mean that it reads its socket by another way as
 * well (a libiscsi that calls other functions), past what waits here, and has the wrong bytes. To be asked whenever it calls back. */
static inline bool kcopy_batch_is_between_pdus(const struct kcopy_batch *b)
{
	return b->pdu.nr_head_bytes == 0 && b->pdu.nr_data_bytes == 0;
}
/* Received and not yet asked for. No poll tells of that. */
static inline bool kcopy_batch_has_in(const struct kcopy_batch *b)
{
	return b->in_start < b->in_end;
}
/* To be sent by the next leave, when the socket takes more. */
static inline bool kcopy_batch_has_out(const struct kcopy_batch *b)
{
	return b->out_start < b->out_end;
}

#endif
