/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_CTL_H
#define KEDGE_CTL_H

/* Client of a data-plane process's control socket: one JSON object a line (docs/formats.md, "Control socket").
 * Blocks, with a deadline: for command-line tools and worker threads, never for an event loop. */

#include <jansson.h>

#include "kedge/err.h"

/* Send {"v":1,"cmd":cmd,"args":args} and wait for the answer. args may be NULL and is not consumed. On success
 * *ret_result is the "result" object, a new reference (may be asked not to: NULL). A refusal by the peer comes back
 * as its own code with its message; no socket or no answer is KEDGE_E_UNREACHABLE. */
int kedge_ctl_call(const char *socket_path, const char *cmd, json_t *args, unsigned timeout_ms, json_t **ret_result,
		   struct kedge_err *err);

#endif
