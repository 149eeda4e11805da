/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. CHAP responses. Pure. The only file that knows GnuTLS.
 */
#include "chap.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>

int tgt_chap_response(uint8_t id, const char *secret, const uint8_t *challenge, size_t nr_bytes,
		      uint8_t out[TGT_CHAP_MD5_BYTES])
{
	gnutls_hash_hd_t h;

	if (gnutls_hash_init(&h, GNUTLS_DIG_MD5) < 0)
		return -EIO;
	int r = gnutls_hash(h, &id, 1);
	if (r == 0)
		r = gnutls_hash(h, secret, strlen(secret));
	if (r == 0)
		r = gnutls_hash(h, challenge, nr_bytes);
	gnutls_hash_deinit(h, out);
	return r < 0 ? -EIO : 0;
}

bool tgt_chap_is_equal(const uint8_t a[TGT_CHAP_MD5_BYTES], const uint8_t b[TGT_CHAP_MD5_BYTES])
{
	return gnutls_memcmp(a, b, TGT_CHAP_MD5_BYTES) == 0;
}
