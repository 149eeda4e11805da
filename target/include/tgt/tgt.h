/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_TGT_H
#define TGT_TGT_H

/* An iSCSI target (RFC 7143) that exports files and block devices read-only, on one kedge_loop. */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/chapfile.h"
#include "kedge/err.h"
#include "kedge/loop.h"

#define TGT_LUNS_MAX 16

struct tgt_server;

/* What becomes of the blocks that a file system directly on a LUN has marked as free. */
enum tgt_free_space {
	TGT_FREE_COPY, /* they are blocks as others */
	TGT_FREE_SKIP, /* they are holes and read as zeroes, where it is sure which they are; otherwise as COPY */
	TGT_FREE_MUST, /* as SKIP for an export that is served again: no export where it is not sure, and whether it is in use is not asked */
};

struct tgt_opts {
	const char *portal;              /* "ADDR:PORT" or "[ADDR6]:PORT", numeric, private; port 0: any */
	const char *iqn;
	const char *lun_paths[TGT_LUNS_MAX]; /* LUN 1, 2, … */
	const char *serials[TGT_LUNS_MAX];   /* unit serial numbers; NULL: made from the path */
	unsigned nr_luns;
	const char *initiator_iqn;       /* only this one may log in; NULL: any */
	const struct kedge_chap *chap;   /* copied; NULL: none */
	unsigned nr_sessions_max;        /* 0: 16 */
	enum tgt_free_space free_space;  /* of all LUNs */
};

/* Opens the LUNs, reads their free maps (blocks; 5 s for each at most), binds, listens. Errors: -EINVAL (what is wrong in the message), errno of open and bind,
 * KEDGE_E_AUTH for an address that is not private. */
int tgt_server_create(struct kedge_loop *l, const struct tgt_opts *opts, struct tgt_server **ret_s, struct kedge_err *err);
/* "ADDR:PORT" where it listens. */
const char *tgt_server_portal(const struct tgt_server *s);
/* Bytes of free space that are left out, of all LUNs. */
uint64_t tgt_server_left_out_bytes(const struct tgt_server *s);
/* Stop accepting, end all sessions; fn once, later, when nothing is in flight. */
void tgt_server_stop(struct tgt_server *s, void (*fn)(void *arg), void *arg);
/* After stop. destroy(NULL) is a no-op. */
void tgt_server_destroy(struct tgt_server *s);

#endif
