/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Random uuids and their text form. Pure but for getrandom(2).
 */
#include "kedge/uuid.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "kedge/err.h"

#include <errno.h>

void kedge_random(void *buf, unsigned nr_bytes)
{
	unsigned char *p = buf;

	while (nr_bytes) {
		ssize_t n = getrandom(p, nr_bytes, 0);
		if (n < 0 && errno == EINTR)
			continue;
		kedge_assert(n > 0);
		p += n;
		nr_bytes -= (unsigned)n;
	}
}

void kedge_uuid_create(struct kedge_uuid *ret_uuid)
{
	kedge_random(ret_uuid->b, sizeof ret_uuid->b);
	ret_uuid->b[6] = (uint8_t)((ret_uuid->b[6] & 0x0f) | 0x40); /* RFC 4122, 4.4: version 4 */
	ret_uuid->b[8] = (uint8_t)((ret_uuid->b[8] & 0x3f) | 0x80);
}

void kedge_uuid_format(const struct kedge_uuid *u, char out[KEDGE_UUID_TEXT_MAX])
{
	static const char hex[] = "0123456789abcdef";
	char *p = out;

	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = hex[u->b[i] >> 4];
		*p++ = hex[u->b[i] & 15];
	}
	*p = 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int kedge_uuid_parse(const char *text, struct kedge_uuid *ret_uuid)
{
	struct kedge_uuid u;
	const char *p = text;

	if (strnlen(text, KEDGE_UUID_TEXT_MAX) != 36)
		return -EINVAL;
	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			if (*p++ != '-')
				return -EINVAL;
		int hi = hex_digit(p[0]);
		int lo = hi < 0 ? -1 : hex_digit(p[1]);
		if (lo < 0)
			return -EINVAL;
		u.b[i] = (uint8_t)(hi << 4 | lo);
		p += 2;
	}
	*ret_uuid = u;
	return 0;
}

bool kedge_uuid_is_equal(const struct kedge_uuid *a, const struct kedge_uuid *b)
{
	return memcmp(a->b, b->b, sizeof a->b) == 0;
}

bool kedge_uuid_is_null(const struct kedge_uuid *u)
{
	static const struct kedge_uuid null_uuid;

	return kedge_uuid_is_equal(u, &null_uuid);
}
