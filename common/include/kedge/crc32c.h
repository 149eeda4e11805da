/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_CRC32C_H
#define KEDGE_CRC32C_H

/* Pure. CRC32C (Castagnoli), as iSCSI (RFC 7143, 13.1) and our metadata use it. */

#include <stddef.h>
#include <stdint.h>

/* crc is 0 for a fresh sum, or the result so far. The result of one buffer is the finished sum
 * (initial and final inversion are inside). */
uint32_t kedge_crc32c(uint32_t crc, const void *buf, size_t nr_bytes);

#endif
