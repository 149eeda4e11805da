/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Processes identified beyond their pid, and signals that hit no other process.
 * Owns. Nothing. Locks. None.
 */
#include "kedge/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kedge/file.h"

static ssize_t read_small(const char *path, char *out, size_t out_max)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, out, out_max - 1);
	kedge_close(fd);
	if (n < 0)
		return -errno;
	out[n] = 0;
	return n;
}

static int read_stat(pid_t pid, char *ret_state, uint64_t *ret_start_ticks)
{
	char path[40], text[1024];
	const char *p;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (read_small(path, text, sizeof text) <= 0)
		return -ESRCH;
	/* The command name may hold anything, ")" and blanks too: fields start after the last ")". */
	p = strrchr(text, ')');
	if (!p || p[1] != ' ')
		return -ESRCH;
	p += 2;
	*ret_state = *p;
	for (int field = 3; field < 22; field++) {
		p = strchr(p, ' ');
		if (!p)
			return -ESRCH;
		p++;
	}
	*ret_start_ticks = strtoull(p, NULL, 10);
	return 0;
}

static void read_boot_id(char out[KEDGE_BOOT_ID_MAX])
{
	ssize_t n = read_small("/proc/sys/kernel/random/boot_id", out, KEDGE_BOOT_ID_MAX);

	if (n < 0)
		n = 0;
	out[n] = 0;
	out[strcspn(out, "\n")] = 0;
}

int kedge_proc_identify(pid_t pid, struct kedge_proc *ret_proc)
{
	struct kedge_proc p = {.pid = pid};
	char state;
	int r = pid > 0 ? read_stat(pid, &state, &p.start_ticks) : -ESRCH;

	if (r < 0)
		return r;
	read_boot_id(p.boot_id);
	*ret_proc = p;
	return 0;
}

bool kedge_proc_is_alive(const struct kedge_proc *p)
{
	char boot_id[KEDGE_BOOT_ID_MAX], state;
	uint64_t start;

	if (p->pid <= 0 || read_stat(p->pid, &state, &start) < 0)
		return false;
	read_boot_id(boot_id);
	return state != 'Z' && state != 'X' && start == p->start_ticks && strcmp(boot_id, p->boot_id) == 0;
}

int kedge_proc_kill(const struct kedge_proc *p, int sig)
{
	int fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	int r;

	/* Checked after the pidfd is open: from here on the descriptor means that process and no later one. */
	if (!kedge_proc_is_alive(p)) {
		kedge_close(fd);
		return -ESRCH;
	}
	if (fd < 0)
		return kill(p->pid, sig) < 0 ? -errno : 0;
	r = syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0) < 0 ? -errno : 0;
	kedge_close(fd);
	return r;
}
