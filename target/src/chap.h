/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_CHAP_H
#define TGT_CHAP_H

/* CHAP (RFC 1994, RFC 7143 12.1.3) with MD5, the one algorithm that Debian's initiators know. chap.c alone knows GnuTLS. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TGT_CHAP_MD5_BYTES 16
#define TGT_CHAP_CHALLENGE_BYTES 16
#define TGT_CHAP_CHALLENGE_MAX 1024

/* MD5(id, secret, challenge). 0 or -EIO. */
int tgt_chap_response(uint8_t id, const char *secret, const uint8_t *challenge, size_t nr_bytes,
		      uint8_t out[TGT_CHAP_MD5_BYTES]);
/* Constant time. */
bool tgt_chap_is_equal(const uint8_t a[TGT_CHAP_MD5_BYTES], const uint8_t b[TGT_CHAP_MD5_BYTES]);

#endif
