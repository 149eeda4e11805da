/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef WORKLOAD_ROWS_H
#define WORKLOAD_ROWS_H

/* What rowwriter writes and rowcheck checks.
 *
 * Table rows(n INTEGER PRIMARY KEY, host TEXT, epoch INTEGER, payload BLOB, crc INTEGER), n without a gap from 1. The record
 * is a text file outside the volume, one line a fact, each one write(2) with O_APPEND, times from CLOCK_MONOTONIC in ns:
 *
 *     started HOST EPOCH PID TIME
 *     ack N CRC HOST EPOCH TIME       the commit of row N had returned
 *     stopped HOST EPOCH PID TIME
 *     overlap HOST EPOCH PID TIME     another writer held the lock when this one started
 *     badread N HOST EPOCH TIME       an old row read back with a wrong checksum
 */

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"

#define ROW_HOST_MAX 64
#define ROW_PAYLOAD_MAX 4000

static inline uint32_t row_crc(int64_t n, const char *host, int64_t epoch, const void *payload, size_t payload_bytes)
{
	char head[ROW_HOST_MAX + 64];
	int head_bytes = snprintf(head, sizeof head, "%" PRId64 " %s %" PRId64 " ", n, host, epoch);

	return kedge_crc32c(kedge_crc32c(0, head, (size_t)head_bytes), payload, payload_bytes);
}

#endif
