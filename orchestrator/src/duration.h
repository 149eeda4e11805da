/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_DURATION_H
#define ORCH_DURATION_H

#include <stdint.h>

/* "500ms", "30s", "5m", "2h", "1d", and a bare 0. Pure. 0, -EINVAL or -ERANGE. */
int duration_parse(const char *text, uint64_t *ret_ms);

#endif
