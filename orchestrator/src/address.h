/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_ADDRESS_H
#define ORCH_ADDRESS_H

/* Pure. Numeric network addresses. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "kedge/err.h"

/* "10.0.0.1:7420" or "[fd00::1]:7420"; never a host name. Errors: -EINVAL with what is wrong. */
int address_parse(const char *text, struct sockaddr_storage *ret_address, socklen_t *ret_bytes, struct kedge_err *err);
/* Loopback, link-local, RFC 1918, RFC 6598 and RFC 4193 addresses; the unspecified address is not. */
bool address_is_private(const struct sockaddr_storage *a);

#endif
