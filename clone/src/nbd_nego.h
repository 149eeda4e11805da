/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_NBD_NEGO_H
#define KCLONE_NBD_NEGO_H

/* Pure. The server's side of NBD's fixed newstyle negotiation: bytes in, bytes out, and what was agreed upon. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The longest option we take; longer ones end the connection. Room for two export names and a few dozen queries. */
#define NBD_OPT_MAX_BYTES 16384u
#define NBD_OPT_HEAD_BYTES 16u
#define NBD_OUT_MAX_BYTES 1024u

/* Meta contexts; the number is the context id on the wire. */
enum nbd_context { NBD_CONTEXT_ALLOCATION = 1, NBD_CONTEXT_HYDRATED = 2, NBD_CONTEXT_END };

enum nbd_step {
	NBD_STEP_MORE,     /* needs more input than there is */
	NBD_STEP_GO_ON,    /* took some, may take more after the output was sent */
	NBD_STEP_TRANSMIT, /* send the output, then requests follow */
	NBD_STEP_CLOSE,    /* send the output, then close */
};

struct nbd_nego {
	uint64_t size_bytes;
	bool has_flags;     /* the client's flags have come */
	bool is_no_zeroes;
	bool is_structured;
	bool is_context[NBD_CONTEXT_END];
};

struct nbd_out {
	uint8_t buf[NBD_OUT_MAX_BYTES];
	size_t nr_bytes;
};

/* The greeting, which the server sends first. */
void nbd_nego_begin(struct nbd_nego *n, uint64_t size_bytes, struct nbd_out *out);
/* Take one message. out is emptied first; *ret_used is how much input was taken (0 with MORE). */
enum nbd_step nbd_nego_feed(struct nbd_nego *n, const uint8_t *in, size_t nr_in, size_t *ret_used, struct nbd_out *out);
/* The transmission flags that go with what was agreed. */
uint16_t nbd_nego_flags(const struct nbd_nego *n);

#endif
