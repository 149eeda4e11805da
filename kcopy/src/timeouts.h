/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_TIMEOUTS_H
#define KCOPY_TIMEOUTS_H

/* Pure. All deadlines of an iSCSI source; libiscsi has none by default. */

#include <stdint.h>

#include "kedge/err.h"

struct kcopy_timeouts {
	uint32_t login_ms;       /* connect, login and identification together */
	uint32_t command_ms;     /* silence of the target while a command waits */
	uint32_t nop_ms;         /* idle time before a NOP */
	uint32_t nop_reply_ms;
	uint32_t logout_ms;
	uint32_t backoff_min_ms, backoff_max_ms;
};

/* 15 s, 10 s, 5 s, 5 s, 1 s, 0.1 s to 30 s. */
void kcopy_timeouts_default(struct kcopy_timeouts *ret_timeouts);
/* "login=500,command=400,nop=200,nop-reply=200,logout=100,backoff-min=10,backoff-max=300" (ms) over the defaults; each from 1 to 600000. NULL
 * or empty: the defaults. 0 or -EINVAL. */
int kcopy_timeouts_parse(const char *text, struct kcopy_timeouts *ret_timeouts, struct kedge_err *err);

#endif
