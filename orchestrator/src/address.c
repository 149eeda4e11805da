/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Numeric addresses with a port, and which of them are private. Pure.
 */
#include "address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

static int port_parse(const char *text, uint16_t *ret_port)
{
	char *end;
	unsigned long v;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	v = strtoul(text, &end, 10);
	if (*end || v == 0 || v > 65535)
		return -EINVAL;
	*ret_port = (uint16_t)v;
	return 0;
}

int address_parse(const char *text, struct sockaddr_storage *ret_address, socklen_t *ret_bytes, struct kedge_err *err)
{
	const char *colon = strrchr(text, ':');
	char host[INET6_ADDRSTRLEN + 2] = "";
	struct sockaddr_storage a = {0};
	uint16_t port;
	size_t n = colon ? (size_t)(colon - text) : 0;

	if (!colon || port_parse(colon + 1, &port))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is not ADDRESS:PORT", text);
	if (n == 0 || n >= sizeof host)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" has no numeric address", text);
	memcpy(host, text, n);
	struct sockaddr_in *in4 = (struct sockaddr_in *)&a;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&a;
	if (inet_pton(AF_INET, host, &in4->sin_addr) == 1) {
		in4->sin_family = AF_INET;
		in4->sin_port = htons(port);
		*ret_bytes = sizeof *in4;
	} else if (host[0] == '[' && host[n - 1] == ']') {
		host[n - 1] = 0;
		if (inet_pton(AF_INET6, host + 1, &in6->sin6_addr) != 1)
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is not a numeric IPv6 address", text);
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		*ret_bytes = sizeof *in6;
	} else {
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL,
				     "\"%s\" is not numeric (10.0.0.1:7420 or [fd00::1]:7420)", text);
	}
	*ret_address = a;
	return 0;
}

bool address_is_private(const struct sockaddr_storage *a)
{
	static const struct {
		uint32_t net;
		unsigned bits;
	} nets[] = {{0x0a000000, 8}, {0xac100000, 12}, {0xc0a80000, 16}, {0x7f000000, 8}, {0xa9fe0000, 16}, {0x64400000, 10}};

	if (a->ss_family == AF_INET) {
		uint32_t v = ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr);
		for (size_t i = 0; i < sizeof nets / sizeof nets[0]; i++)
			if (((v ^ nets[i].net) >> (32 - nets[i].bits)) == 0)
				return true;
		return false;
	}
	if (a->ss_family == AF_INET6) {
		const struct in6_addr *v = &((const struct sockaddr_in6 *)a)->sin6_addr;
		return IN6_IS_ADDR_LOOPBACK(v) || IN6_IS_ADDR_LINKLOCAL(v) || (v->s6_addr[0] & 0xfe) == 0xfc;
	}
	return false;
}
