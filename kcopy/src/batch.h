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

/* Zero-initialise. */
struct kcopy_batch {
	int fd;
	bool may_read_ahead, is_dry;
	size_t in_start, in_end, out_start, out_end;
	uint8_t in[KCOPY_BATCH_IN_BYTES], out[KCOPY_BATCH_OUT_BYTES];
};

/* From here to leave, the thread's recv, readv and send on fd (non-blocking) go through b. Without may_read_ahead nothing is received that
 * was not asked for: large data goes straight into its buffer. */
void kcopy_batch_enter(struct kcopy_batch *b, int fd, bool may_read_ahead);
/* 0, or -errno of the socket: what was sent before is lost. What the socket did not take now waits: see has_out. */
int kcopy_batch_leave(struct kcopy_batch *b);
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
