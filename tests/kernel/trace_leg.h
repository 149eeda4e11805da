/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TEST_TRACE_LEG_H
#define TEST_TRACE_LEG_H

/* A clone that plays a trace: ours of either engine (kclone), or the kernel's dm-clone as dmsetup makes it. Every call that fails ends the
 * program with leg_die. */

#include <sys/types.h>

#include "trace_model.h"

enum leg_kind { LEG_USER, LEG_DM, LEG_PLAIN };

struct leg {
	const char *name;
	enum leg_kind kind;
	const char *kclone;
	char dir[256], meta[300], dest[300], control[300], log[300], device[256];
	char source[300];
	uint64_t size_bytes, region_bytes;
	pid_t holder;
	int fd;
	bool is_alone;
	char loops[3][32]; /* plain: metadata, destination, source */
	struct tr_model m;
};

/* Says where in the trace; set by the program. */
extern void (*leg_die_fn)(const char *leg, const char *what);
void leg_die(const struct leg *l, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));

/* A fresh clone over source, served, nothing hydrating; the destination is full of another owner's bytes. */
void leg_create(struct leg *l, uint64_t seed);
void leg_stop(struct leg *l);  /* an orderly end */
void leg_crash(struct leg *l); /* every process at once by SIGKILL; those that are the kernel's stay */
void leg_serve(struct leg *l);
void leg_kill_worker(struct leg *l, bool is_driver);
void leg_ask(struct leg *l, const char *cmd);
void leg_finish(struct leg *l);
/* Stop, check the metadata, judge the destination where the clone stands alone, take all down. */
void leg_end(struct leg *l);

#endif
