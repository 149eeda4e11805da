/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_UUID_H
#define KEDGE_UUID_H

#include <stdbool.h>
#include <stdint.h>

#define KEDGE_UUID_TEXT_MAX 37 /* 36 characters and NUL */

struct kedge_uuid {
	uint8_t b[16];
};

/* A random (version 4) uuid from getrandom(2). */
void kedge_uuid_create(struct kedge_uuid *ret_uuid);
/* Lower case, with dashes. */
void kedge_uuid_format(const struct kedge_uuid *u, char out[KEDGE_UUID_TEXT_MAX]);
/* Exactly the 36-character form; upper case is accepted. 0 or -EINVAL. */
int kedge_uuid_parse(const char *text, struct kedge_uuid *ret_uuid);
bool kedge_uuid_is_equal(const struct kedge_uuid *a, const struct kedge_uuid *b);
bool kedge_uuid_is_null(const struct kedge_uuid *u);
/* Fill with bytes from getrandom(2); aborts when the kernel has none. */
void kedge_random(void *buf, unsigned nr_bytes);

#endif
