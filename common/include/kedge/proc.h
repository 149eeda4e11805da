/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_PROC_H
#define KEDGE_PROC_H

/* A process identified so that a reused pid is never mistaken for it: pid, start time in clock ticks since boot
 * (proc(5), stat field 22) and the boot id. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define KEDGE_BOOT_ID_MAX 40

struct kedge_proc {
	pid_t pid;
	uint64_t start_ticks;
	char boot_id[KEDGE_BOOT_ID_MAX];
};

/* Fill in start time and boot id of a live pid. 0, -ESRCH. */
int kedge_proc_identify(pid_t pid, struct kedge_proc *ret_proc);
/* Is exactly that process alive (a zombie is not)? */
bool kedge_proc_is_alive(const struct kedge_proc *p);
/* Signal exactly that process, by pidfd where the kernel has it. 0, -ESRCH when it is gone. */
int kedge_proc_kill(const struct kedge_proc *p, int sig);

#endif
