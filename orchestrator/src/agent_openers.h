/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_AGENT_OPENERS_H
#define ORCH_AGENT_OPENERS_H

/* The proof that nobody uses a volume: no descriptor, no mapping, no mount in any mount namespace, no device on top, no swap.
 * Blocks (reads /proc): worker threads only. */

#include <stdbool.h>
#include <sys/types.h>

#include "kedge/err.h"

/* What is looked for: a regular file, a block device, or both (a loop device and its file). */
struct agent_target {
	bool has_file;
	dev_t file_dev;
	ino_t file_ino;
	bool has_device;
	dev_t device;
	char device_path[64];
};

/* Add a path, whichever of the two it is. Errors: -errno of stat(2), -ENOTBLK. */
int agent_target_add(struct agent_target *t, const char *path, struct kedge_err *err);

/* except: pids that may have it (our own data plane). 0, KEDGE_E_STILL_OPEN with who and how, -errno when /proc cannot be
 * read. A process that ends while we look is gone. */
int agent_openers_check(const struct agent_target *t, const pid_t *except, unsigned nr_except, struct kedge_err *err);

#endif
