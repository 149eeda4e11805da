/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. How a driver process begins, of either engine: its signals, its name, the memory that it shares with the worker.
 * Owns. Nothing. Locks. None.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "front.h"
#include "kclone.h"
#include "kedge/log.h"

struct holder_share *driver_begin(void (*term_fn)(int sig))
{
	const struct sigaction sa = {.sa_handler = term_fn};
	sigset_t term;

	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_UNBLOCK, &term, NULL); /* the holder began us with it blocked */
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_NAME, "kclone-driver");
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, HOLDER_FD_SHARE, 0);
	if (p == MAP_FAILED) {
		kedge_error("kclone driver is started by kclone serve");
		return NULL;
	}
	return p;
}
