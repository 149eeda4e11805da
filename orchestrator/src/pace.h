/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_PACE_H
#define ORCH_PACE_H

/* Pure. How a volume is copied to where it moves: what kclone serve calls --floor, --latency-factor and --transit. */

#include <stdbool.h>

#define PACE_TRANSITS "auto, plain, checked or zstd"

/* Is it a way to travel that kclone has? */
bool pace_is_transit(const char *text);

#endif
