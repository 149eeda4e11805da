/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_KCLONE_H
#define KCLONE_KCLONE_H

/* The kclone program: verbs, and the worker that serves a clone. */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "front.h"
#include "kcopy/kcopy.h"
#include "kedge/chapfile.h"
#include "kedge/err.h"
#include "uclone/uclone.h"

/* Options of all verbs; each verb says which it takes. */
struct kclone_args {
	const char *source, *dest, *meta, *chap_file, *initiator, *serial, *migration;
	const char *fuse, *nbd, *control;
	const char *url; /* attach */
	const char *verify_holes; /* verify: "status", "read" */
	const char *verify_data;  /* verify: "checksum", "bytes" */
	const char *engine;
	const char *source_attach; /* "feed", "kernel"; NULL: as recorded, or the feed */
	uint32_t region_bytes;
	uint64_t size_bytes, rate_bps, floor_bps;
	uint32_t latency_percent;
	bool has_rate, has_floor, has_latency;
	uint32_t lbs_bytes;
	unsigned nr_sessions, timeout_ms;
	enum kcopy_transit_mode transit;
	bool has_io_timeout;
	uint32_t io_timeout_ms;
	bool is_block, is_no_attach, is_no_hydrate, is_urgent, is_top_never, is_json;
	uint64_t head_start_bytes; /* at most so much, or for so long; both 0: no head start */
	unsigned head_start_ms;
	uint32_t window_bytes; /* 0: no quiesce windows */
	uint32_t read_around_bytes; /* 0: none */
	const char *prefetch, *output, *show;
	bool is_trace, is_start, is_stop;
};

int cmd_create(const struct kclone_args *a);
/* worker_argv: the options as given, ends with NULL */
int cmd_serve(const struct kclone_args *a, char *const *worker_argv);
int cmd_worker(const struct kclone_args *a);
/* The process beside the worker of a kernel clone. */
int cmd_driver(const struct kclone_args *a);
/* The same of a clone of the user engine under a dm-linear. */
int cmd_top(const struct kclone_args *a);
/* What engine this host gets, and why. */
int cmd_doctor(const struct kclone_args *a);
int cmd_status(const struct kclone_args *a);
/* Every run of bytes and where it lives. */
int cmd_map(const struct kclone_args *a);
/* Recordings of what a workload touches. */
int cmd_trace(const struct kclone_args *a);
int cmd_check(const struct kclone_args *a);
/* abort without a running process */
int cmd_abort(const struct kclone_args *a);
/* A command over the control socket that prints nothing but errors. */
int cmd_control(const struct kclone_args *a, const char *cmd);

/* ---- clone_files.c: the files of a clone ----
 * Three locks (flock): META.seen by whoever is responsible for the clone (a holder for its whole life, shared by verbs that
 * only read), META and then the destination by the one process that has them open (a worker). So a reader never stands in the way of a
 * next worker, and a next worker waits for what the kernel still does for a killed one. */
struct clone_files {
	struct kedge_loop *loop;
	struct kedge_disk *meta, *seen, *dest;
	int service_fd; /* the lock of META.seen; -1: not ours (a worker) */
	bool is_top;    /* it is served under a dm-linear */
};
enum clone_open { CLONE_OPEN_READ, CLONE_OPEN_CHANGE, CLONE_OPEN_SERVE, CLONE_OPEN_WORKER };

/* "META.seen", "META.run" (path of the control socket of the process that serves it) */
void clone_seen_path(const char *meta, char out[UCLONE_PATH_MAX + 8]);
void clone_run_path(const char *meta, char out[UCLONE_PATH_MAX + 8]);
/* Where the source was attached last (META.source); false: nowhere, and then both stay. */
bool clone_recall_source(const char *meta, char url[UCLONE_URL_MAX], char chap_file[UCLONE_PATH_MAX]);
/* Open and lock metadata and seen file. May block some seconds for somebody who is about to let go. KEDGE_E_META_MISSING,
 * _BUSY. The locks live as long as the files are open. */
int clone_files_open(struct kedge_loop *l, const char *meta, enum clone_open how, struct clone_files *ret_files,
		     struct kedge_err *err);
/* The service lock alone, in f->service_fd; nothing else is opened. KEDGE_E_META_MISSING, _BUSY. */
int clone_files_lock(const char *meta, enum clone_open how, struct clone_files *ret_files, struct kedge_err *err);
/* Read the destination's path from the superblock and open it. */
int clone_files_open_dest(struct clone_files *f, struct kedge_err *err);
/* Let go of the disks, keep the service lock. */
void clone_files_close_disks(struct clone_files *f);
void clone_files_close(struct clone_files *f);

/* The valid superblock with the highest generation, of metadata that another process may have open and change. */
struct uc_super;
int clone_super_read(const char *meta, struct uc_super *ret_super, struct kedge_err *err);

/* Is it a clone of the kernel engine? Reads only; false also when it cannot be read. */
bool clone_is_dm(const char *meta);

/* The same, by one who has it open. */
int clone_files_peek(struct clone_files *f, struct uc_super *ret_super, struct kedge_err *err);

/* Run the loop until a callback has come. */
struct kclone_wait {
	bool is_done;
	int res;
	struct kedge_err err;
	struct uclone *u;
};
void kclone_wait_cb(void *arg, int res, const struct kedge_err *err);
void kclone_wait_open_cb(void *arg, struct uclone *u, int res, const struct kedge_err *err);
int kclone_wait_for(struct kedge_loop *l, struct kclone_wait *w, struct kedge_err *err);

/* Print it, give its exit code. */
int kclone_fail(const struct kedge_err *err);

/* ---- meta_scan.c: what the metadata of a clone that nobody serves says ---- */
/* run_fn may be NULL: what is where, piece by piece, in order. */
int meta_scan(struct clone_files *f, struct uclone_create_opts *ret_opts, struct uclone_status *ret_status,
	      void (*run_fn)(void *arg, uint64_t start_bytes, uint64_t nr_bytes, enum uclone_block_kind kind), void *arg,
	      struct kedge_err *err);

/* ---- source_absent.c ---- */
/* A source that fails every read, later: so that what waits for a source can end. destroy with its ops. */
struct kedge_source *source_absent_create(struct kedge_defer_queue *defer);

/* ---- worker.c ---- */
struct worker;

/* ---- control.c: the server of the control socket ---- */
struct control;
int control_start(struct worker *w, int listen_fd, struct control **ret_c, struct kedge_err *err);
void control_stop(struct control *c);

/* A command that will be answered later. Exactly one answer. */
struct control_call;
void control_answer(struct control_call *call, json_t *result); /* result is taken over; NULL: {} */
void control_refuse(struct control_call *call, const struct kedge_err *err);
/* Carried out by the worker; answers now or later. */
void worker_command(struct worker *w, const char *cmd, json_t *args, struct control_call *call);

struct kedge_loop *worker_loop(struct worker *w);
json_t *worker_status(struct worker *w);
/* The status object of a clone that nobody serves. */
json_t *status_json(const struct uclone_create_opts *o, const struct uclone_status *s);
/* Where the process listens that serves this clone, as it left it in META.run. */
bool kclone_find_control(const char *meta, char *out, size_t out_max);
/* For people. */
void status_print(const json_t *status);

#endif
