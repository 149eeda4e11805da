/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_AGENT_FILES_H
#define ORCH_AGENT_FILES_H

/* Volume files and devices. Blocks: worker threads only, but for agent_room. */

#include <stdbool.h>
#include <stdint.h>

#include "agent_types.h"
#include "kedge/err.h"

/* Bytes that a new file in dir may take. */
int agent_room(const char *dir, uint64_t *ret_free_bytes, struct kedge_err *err);
/* 0, or -EINVAL with the sizes that would do. */
int agent_size_check(uint64_t size_bytes, struct kedge_err *err);
/* "DIR/NAME.<first 8 digits of the uuid>.img", with ".<epoch>" before ".img" when that is not 0. */
int agent_file_path(const char *dir, const char *name, const struct kedge_uuid *uuid, uint64_t epoch, char out[AGENT_PATH_MAX],
		    struct kedge_err *err);
/* Make or complete a file of exactly this size, every block allocated and zero, durable. KEDGE_E_NO_ROOM. A file of another
 * size is refused (-EEXIST). */
int agent_file_create(const char *path, uint64_t size_bytes, struct kedge_err *err);
/* Unlink, durably; 0 when it is gone already. */
int agent_file_remove(const char *path, struct kedge_err *err);
/* All that was written to the file or device is on stable storage on return. */
int agent_flush(const char *path, struct kedge_err *err);
/* Look at a file or device that shall become a volume: geometry, in use. Fills path (resolved), size, lbs, is_block. */
int agent_import_check(const char *path, struct agent_volume *v, struct kedge_err *err);

#endif
