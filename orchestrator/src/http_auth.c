/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The macs by which two hosts prove to each other that they hold the cluster secret (docs/api.md, "Authentication
 * between hosts"). Pure but for the nonce. The one user of GnuTLS.
 */
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>

#include "kedge/uuid.h"
#include "orch/http.h"

#define MAC_BYTES 32

struct mac {
	gnutls_hmac_hd_t handle;
};

static void to_hex(const unsigned char *bytes, size_t nr_bytes, char *out)
{
	for (size_t i = 0; i < nr_bytes; i++)
		snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

/* Only a library without SHA-256 or without memory fails here: nothing could be authenticated any more. */
static void mac_init(struct mac *m, const void *secret, size_t secret_bytes)
{
	int res = gnutls_hmac_init(&m->handle, GNUTLS_MAC_SHA256, secret, secret_bytes);

	kedge_assert(res == 0);
}

static void mac_add(struct mac *m, const void *data, size_t nr_bytes)
{
	if (nr_bytes)
		kedge_assert(gnutls_hmac(m->handle, data, nr_bytes) == 0);
}

static void mac_add_line(struct mac *m, const char *text)
{
	mac_add(m, text, strlen(text));
	mac_add(m, "\n", 1);
}

static void mac_fini(struct mac *m, char out[HTTP_MAC_MAX])
{
	unsigned char digest[MAC_BYTES];

	gnutls_hmac_deinit(m->handle, digest);
	to_hex(digest, sizeof digest, out);
}

void http_auth_nonce(char out[HTTP_NONCE_MAX])
{
	unsigned char bytes[(HTTP_NONCE_MAX - 1) / 2];

	kedge_random(bytes, sizeof bytes);
	to_hex(bytes, sizeof bytes, out);
}

void http_auth_request_mac(const void *secret, size_t secret_bytes, const char *method, const char *path_and_query,
			   const char *to, const char *nonce, const void *body, size_t body_bytes,
			   char out[HTTP_MAC_MAX])
{
	struct mac m;

	mac_init(&m, secret, secret_bytes);
	mac_add_line(&m, "req");
	mac_add_line(&m, method);
	mac_add_line(&m, path_and_query);
	mac_add_line(&m, to);
	mac_add_line(&m, nonce);
	mac_add(&m, body, body_bytes);
	mac_fini(&m, out);
}

void http_auth_reply_mac(const void *secret, size_t secret_bytes, unsigned status, const char *nonce, const void *body,
			 size_t body_bytes, char out[HTTP_MAC_MAX])
{
	char number[12];
	struct mac m;

	snprintf(number, sizeof number, "%u", status);
	mac_init(&m, secret, secret_bytes);
	mac_add_line(&m, "rep");
	mac_add_line(&m, number);
	mac_add_line(&m, nonce);
	mac_add(&m, body, body_bytes);
	mac_fini(&m, out);
}

void http_auth_mac(const void *secret, size_t secret_bytes, const void *data, size_t nr_bytes, char out[HTTP_MAC_MAX])
{
	struct mac m;

	mac_init(&m, secret, secret_bytes);
	mac_add(&m, data, nr_bytes);
	mac_fini(&m, out);
}

bool http_auth_is_equal(const char *a, const char *b)
{
	size_t n = strlen(a);

	/* Lengths are no secret: a mac always has 64 digits. */
	return n == strlen(b) && gnutls_memcmp(a, b, n) == 0;
}
