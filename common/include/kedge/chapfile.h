/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_CHAPFILE_H
#define KEDGE_CHAPFILE_H

/* CHAP names and secrets, from a file of mode 0600 (docs/formats.md, "CHAP file"); never from argv or the
 * environment. Lines "key = value": user, secret, mutual-user, mutual-secret. The first pair proves the initiator to
 * the target, the second the target to the initiator. */

#include <stdbool.h>

#include "kedge/err.h"

#define KEDGE_CHAP_NAME_MAX 64
#define KEDGE_CHAP_SECRET_MAX 128

struct kedge_chap {
	char user[KEDGE_CHAP_NAME_MAX];
	char secret[KEDGE_CHAP_SECRET_MAX];
	char mutual_user[KEDGE_CHAP_NAME_MAX];
	char mutual_secret[KEDGE_CHAP_SECRET_MAX];
};

static inline bool kedge_chap_is_mutual(const struct kedge_chap *c)
{
	return c->mutual_secret[0] != 0;
}

/* Secrets of fewer than 12 bytes (96 bits, RFC 7143 9.2.1) or the same secret both ways are refused. */
int kedge_chap_read(const char *path, struct kedge_chap *ret_chap, struct kedge_err *err);
/* Durable, mode 0600. */
int kedge_chap_write(const char *path, const struct kedge_chap *chap, struct kedge_err *err);
/* Overwrites the secrets in memory. */
void kedge_chap_fini(struct kedge_chap *chap);

#endif
