/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Reads source urls. Addresses must be numeric: a name would have to be resolved, which blocks the loop, and would
 * let whoever answers DNS choose the source.
 *
 * Pure.
 */
#include "kcopy/url.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PREFIX "iscsi://"
#define FORM "expected iscsi://ADDR:PORT/IQN/LUN"

bool kcopy_url_is_iscsi(const char *text)
{
	return strncmp(text, "iscsi:", 6) == 0;
}

/* Decimal digits only, at most max, in exactly nr_chars characters. */
static int parse_number(const char *text, size_t nr_chars, unsigned max, unsigned *ret_value)
{
	unsigned v = 0;

	if (nr_chars == 0 || nr_chars > 5)
		return -EINVAL;
	for (size_t i = 0; i < nr_chars; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -EINVAL;
		v = v * 10 + (unsigned)(text[i] - '0');
	}
	if (v > max)
		return -EINVAL;
	*ret_value = v;
	return 0;
}

/* "ADDR", "ADDR:PORT", "[ADDR6]", "[ADDR6]:PORT" into the canonical portal. */
static int parse_portal(const char *text, size_t nr_chars, char out[KCOPY_PORTAL_MAX], struct kedge_err *err)
{
	char addr[INET6_ADDRSTRLEN] = "";
	const char *end = text + nr_chars, *addr_start = text, *addr_end, *rest;
	unsigned char bin[16];
	unsigned port = 3260;
	bool is_v6 = nr_chars > 0 && text[0] == '[';

	if (is_v6) {
		addr_start = text + 1;
		addr_end = memchr(text, ']', nr_chars);
		if (!addr_end)
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "source url: the address has '[' but no ']'; " FORM);
		rest = addr_end + 1;
	} else {
		addr_end = memchr(text, ':', nr_chars);
		if (!addr_end)
			addr_end = end;
		rest = addr_end;
	}
	size_t nr_addr = (size_t)(addr_end - addr_start);
	if (nr_addr == 0 || nr_addr >= sizeof addr)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "source url: no address; " FORM);
	memcpy(addr, addr_start, nr_addr);
	if (inet_pton(is_v6 ? AF_INET6 : AF_INET, addr, bin) != 1)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE,
				     "source url: the address is not numeric (10.0.0.1 or [fd00::1]; names are not resolved); " FORM);
	if (rest < end) {
		if (*rest != ':' || parse_number(rest + 1, (size_t)(end - rest - 1), 65535, &port) < 0 || port == 0)
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE,
					     "source url: the port is not a number from 1 to 65535; " FORM);
	}
	snprintf(out, KCOPY_PORTAL_MAX, is_v6 ? "[%s]:%u" : "%s:%u", addr, port);
	return 0;
}

int kcopy_url_parse(const char *text, struct kcopy_url *ret_url, struct kedge_err *err)
{
	struct kcopy_url u = { .lun = 0 };
	unsigned lun;

	if (strncmp(text, PREFIX, strlen(PREFIX)) != 0)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "source url: does not begin with " PREFIX "; " FORM);
	const char *portal = text + strlen(PREFIX);
	const char *iqn = strchr(portal, '/');
	if (strchr(portal, '@'))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE,
				     "source url: a user or password has no place in it; use a CHAP file");
	if (!iqn)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "source url: no target name; " FORM);
	const char *lun_text = strchr(iqn + 1, '/');
	if (!lun_text)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "source url: no LUN; " FORM);
	int rc = parse_portal(portal, (size_t)(iqn - portal), u.portal, err);
	if (rc < 0)
		return rc;
	size_t nr_iqn = (size_t)(lun_text - iqn - 1);
	if (nr_iqn >= sizeof u.iqn)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "source url: the target name is longer than %d bytes",
				     KEDGE_IQN_MAX);
	memcpy(u.iqn, iqn + 1, nr_iqn);
	if (!kedge_iqn_is_valid(u.iqn))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE,
				     "source url: the target name is not an IQN (iqn.yyyy-mm.domain:text); " FORM);
	if (parse_number(lun_text + 1, strlen(lun_text + 1), KCOPY_LUN_MAX, &lun) < 0)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "source url: the LUN is not a number from 0 to %d; " FORM,
				     KCOPY_LUN_MAX);
	u.lun = (int)lun;
	*ret_url = u;
	return 0;
}
