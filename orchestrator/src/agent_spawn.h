/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_AGENT_SPAWN_H
#define ORCH_AGENT_SPAWN_H

/* Processes that outlive the daemon: data-plane processes and workloads. All of it blocks: worker threads only. */

#include <stdbool.h>
#include <stddef.h>

#include "kedge/err.h"
#include "kedge/proc.h"

struct agent_spawn_opts {
	char *const *argv; /* argv[0] is searched in PATH of envp; no shell */
	char *const *envp;
	const char *cwd;
	const char *log_path; /* stdout and stderr are appended to it; stdin is /dev/null */
	const char *pid_path; /* who it is, written before the program starts; NULL: nowhere (agent_run) */
};

/* Start it in a session of its own, as a child of init. On success the program's exec has succeeded. */
int agent_spawn(const struct agent_spawn_opts *o, struct kedge_proc *ret_proc, struct kedge_err *err);
/* Who the file names, alive or not. -ENOENT; -EINVAL when it is no such file. */
int agent_pid_read(const char *pid_path, struct kedge_proc *ret_proc);

/* Run to its end. *ret_exit_code: as a shell has it (128 + signal). -ETIMEDOUT: it was killed with its session. */
int agent_run(const struct agent_spawn_opts *o, unsigned timeout_ms, int *ret_exit_code, struct kedge_err *err);

/* Processes (not zombies) of the session that the leader made, the leader included. The leader may be dead. */
unsigned agent_session_count(const struct kedge_proc *leader);
/* Their pids; at most max. Returns how many were written. */
unsigned agent_session_list(const struct kedge_proc *leader, pid_t *out, unsigned max);
/* Signal each of them. Returns how many there were. */
unsigned agent_session_kill(const struct kedge_proc *leader, int sig);
/* Until the session is empty or the time is over. True when it is empty. */
bool agent_session_wait(const struct kedge_proc *leader, unsigned timeout_ms);
/* TERM, wait grace_ms, KILL, wait 5 s. 0 or -ETIMEDOUT. */
int agent_session_stop(const struct kedge_proc *leader, unsigned grace_ms);

/* Sleep of a worker thread between two looks at something that tells nobody when it changes. */
void agent_nap(unsigned ms);

#endif
