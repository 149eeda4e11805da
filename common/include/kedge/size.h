/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_SIZE_H
#define KEDGE_SIZE_H

/* Pure. Sizes, rates and durations as people write and read them. */

#include <stddef.h>
#include <stdint.h>

/* "4096", "64K", "10M", "2G", "1T" (powers of 1024; an optional trailing "iB" or "B"). 0, -EINVAL or -ERANGE. */
int kedge_size_parse(const char *text, uint64_t *ret_bytes);
/* "2", "1.5", "1.05": as a hundredth part of it, 0 to 99999. 0 or -EINVAL. */
int kedge_factor_parse(const char *text, uint32_t *ret_percent);
/* "2.0 GiB", "512 B". Returns out. */
char *kedge_size_format(uint64_t bytes, char *out, size_t out_max);
/* "3.2 s", "1 min 20 s", "2 h 5 min". Returns out. */
char *kedge_duration_format(uint64_t ms, char *out, size_t out_max);

#endif
