/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Places where tests let the agent die, named in the environment: KEDGE_FAILPOINT=agent.WHERE.STEP with WHERE one of
 *   before_write  the step was accepted, nothing is recorded
 *   after_write   what must be durable before the action is; the action has not begun
 *   after_act     the action is done; its result is not recorded
 * and STEP a name of AGENT_STEP_TABLE. The process ends as by SIGKILL, so it happens once a process.
 *
 * Owns. Nothing. Locks. None.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent_int.h"

void agent_failpoint(const char *where, enum agent_step step)
{
	const char *wanted = getenv("KEDGE_FAILPOINT");
	char name[64];

	if (!wanted)
		return;
	snprintf(name, sizeof name, "agent.%s.%s", where, agent_step_name(step));
	if (strcmp(name, wanted) == 0)
		raise(SIGKILL);
}
