/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_HOLDER_INT_H
#define KCLONE_HOLDER_INT_H

/*
 * Inside of the holder (front.h); one thread. holder.c has its life and what it does about each event, holder_setup.c what it holds: mount, shared
 * memory, sockets; holder_child.c its processes.
 */

#include <sys/types.h>

#include "front.h"

struct holder {
	const struct holder_opts *o;
	char fuse_path[512];
	bool is_private_file;
	int fds[HOLDER_NR_FDS]; /* in the order of enum holder_fd; -1: none */
	int ready_fd, sig_fd;
	struct holder_share *share;
	pid_t worker, helper, driver;
	int driver_ready_fd;
	uint64_t driver_restart_ns;
	unsigned driver_backoff_ms;
	bool is_driver_wanted, is_driver_done; /* its devices are gone, or it never made any */
	bool is_helper_detach, is_ready_told, is_stopping, is_detached, is_unmounted;
	uint64_t started_ns, restart_ns;
	unsigned backoff_ms;
	int exit_code;
	bool is_over;
};

/* Does a driver stand beside the worker? */
static inline bool holder_has_driver(const struct holder *h)
{
	return h->o->is_dm || h->o->is_top;
}

/* holder_setup.c */
/* What goes on to workers, and the signals. On failure holder_tear_down all the same. */
int holder_set_up(struct holder *h, struct kedge_err *err);
void holder_tear_down(struct holder *h);
/* The same descriptor above the numbers that workers get; fd is closed. -1: no more are to be had. */
int holder_raise_fd(int fd);

/* holder_child.c */
int holder_start_worker(struct holder *h);
void holder_start_driver(struct holder *h);
/* In a process of its own, the helper: a loop device on the FUSE file; or that and the mount go, while the worker still serves. Exit 0: done. */
void holder_start_attach(struct holder *h);
void holder_start_detach(struct holder *h);

#endif
