/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_AGENT_LOOP_H
#define ORCH_AGENT_LOOP_H

/* Loop devices over the raw file of a local volume. Blocks: worker threads only. */

#include <stdint.h>

#include "agent_types.h"
#include "kedge/err.h"

/* The device that is attached to exactly this file (by device and inode). 0, or -ENOENT when there is none. */
int agent_loop_find(const char *path, char out[AGENT_DEVICE_MAX]);
/* A new one, with direct I/O where the file system allows it. */
int agent_loop_attach(const char *path, uint32_t lbs_bytes, char out[AGENT_DEVICE_MAX], struct kedge_err *err);
/* Detach every loop device of the file and wait until it is free of them. KEDGE_E_STILL_OPEN when one stays in use. */
int agent_loop_detach(const char *path, struct kedge_err *err);
/* Detach a device by name, if it is attached at all (a dead clone's, whose file is gone). */
int agent_loop_detach_device(const char *device, struct kedge_err *err);

#endif
