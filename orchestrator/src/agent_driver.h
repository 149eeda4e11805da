/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_AGENT_DRIVER_H
#define ORCH_AGENT_DRIVER_H

/* The exec driver: a workload as a process in a session of its own. Blocks with deadlines: worker threads only. */

#include "agent_types.h"
#include "orch/kedged.h"

/* Could it be started here: is its directory one, is its program there and executable? Looked at before the source is stopped. */
int driver_check(const struct agent_unit *u, struct kedge_err *err);
/* The workload's process, if it lives. */
bool driver_find(const struct kedged_config *c, const struct agent_unit *u, struct kedge_proc *ret_proc);
/* Start it on the device and, when there is a health command, wait until that passes once (30 s). A workload that runs is
 * left alone; what an earlier one left of its session is ended first. */
int driver_start(const struct kedged_config *c, const struct agent_unit *u, const char *device, struct kedge_proc *ret_proc,
		 struct kedge_err *err);
/* Stop command or SIGTERM, grace, SIGKILL, 5 s. 0 when the whole session is gone; -ETIMEDOUT. grace_ms < 0: the spec's. */
int driver_stop(const struct kedged_config *c, const struct agent_unit *u, const char *device, int grace_ms, bool *ret_was_running,
		struct kedge_err *err);
/* End what a workload left, without grace: its device is lost. */
int driver_kill(const struct kedged_config *c, const struct agent_unit *u, struct kedge_err *err);

#endif
