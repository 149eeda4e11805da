/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_AGENT_SPEC_H
#define ORCH_AGENT_SPEC_H

/* Pure. A workload's SPEC (docs/api.md) as argv arrays. */

#include <jansson.h>
#include <stddef.h>

#include "kedge/err.h"

struct agent_spec {
	char **start;  /* NULL-terminated, at least one */
	char **stop;   /* may be empty */
	char **health; /* may be empty */
	char **env;    /* "KEY=value" */
	char *cwd;
	unsigned grace_ms;
};

/* Unknown fields, wrong types, an empty start: -EINVAL and what. */
int agent_spec_parse(const json_t *json, struct agent_spec *ret_spec, struct kedge_err *err);
void agent_spec_fini(struct agent_spec *spec);

#endif
