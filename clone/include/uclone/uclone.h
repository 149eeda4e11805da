/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef UCLONE_UCLONE_H
#define UCLONE_UCLONE_H

/*
 * The user-space clone engine (engine=user): a volume that reads through to its source until every block is here.
 * Rules: design/engine.md. One thread; all callbacks run later, from the owner's loop or defer queue.
 *
 * The engine does no system call itself: the destination and the metadata are kedge_disks, the source is a kedge_source,
 * time comes in through uclone_tick. So the crash tests run the code that ships.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/claim.h"
#include "kedge/disk.h"
#include "kedge/err.h"
#include "kedge/identity.h"
#include "kedge/loop.h"
#include "kedge/source.h"

struct uclone;

enum uclone_state {
	UCLONE_CREATED,  /* never served a byte */
	UCLONE_LIVE,     /* serving; blocks may still be at the source only */
	UCLONE_HYDRATED, /* durable: every block is here, verified, the source is not needed any more (passthrough) */
	UCLONE_ABORTED,  /* durable: given up before anything was written; will never serve again */
	UCLONE_FAILED,   /* in memory only: a flush or metadata write failed; fail-stop until opened anew, without the marks of before */
};
const char *uclone_state_name(enum uclone_state s);

/* Where the source is, as stored in the metadata; the secret itself is not: only the path of its file. */
#define UCLONE_URL_MAX 512
#define UCLONE_PATH_MAX 512
#define UCLONE_IQN_MAX 224

struct uclone_create_opts {
	struct kedge_uuid migration;
	struct kedge_identity source;     /* size_bytes and lbs_bytes known; uuid may be null */
	char source_url[UCLONE_URL_MAX];
	char chap_file[UCLONE_PATH_MAX];  /* may be empty */
	char initiator_iqn[UCLONE_IQN_MAX];
	char dest_path[UCLONE_PATH_MAX];
};

/* How many bytes the metadata of a volume of that size takes. Pure. */
uint64_t uclone_meta_bytes(uint64_t size_bytes);
/* How much address space uclone_env.marks takes; memory is used only where marks are. Pure. */
uint64_t uclone_marks_bytes(uint64_t size_bytes);

/* Format metadata on an empty (all-zero, exactly or at least uclone_meta_bytes long) disk: create never opens, open never
 * formats. Synchronous from the caller's view through fn; both disks stay the caller's. Refuses metadata that holds
 * anything (KEDGE_E_META_EXISTS), a destination that is too small (KEDGE_E_DEST_SIZE). */
typedef void (*uclone_fn)(void *arg, int res, const struct kedge_err *err);
void uclone_create(struct kedge_disk *meta, struct kedge_disk *dest, struct kedge_disk *seen,
		   struct kedge_defer_queue *defer, const struct uclone_create_opts *opts, uclone_fn fn, void *arg);

/* What becomes of an I/O of the workload: read here, or partly from the source; a change; a flush, or a change that waits for one. */
enum uclone_io_kind { UCLONE_IO_READ, UCLONE_IO_READ_SOURCE, UCLONE_IO_CHANGE, UCLONE_IO_FLUSH, UCLONE_NR_IO_KINDS };

/* What a volume does not own: all of it outlives the volume. */
struct uclone_env {
	struct kedge_disk *meta;
	struct kedge_disk *dest;
	/* One 4 KiB block kept apart from the metadata (META.seen): the newest commit generation that was completed, so that an
	 * older copy of the metadata put back in its place is refused (KEDGE_E_META_OLD). */
	struct kedge_disk *seen;
	struct kedge_defer_queue *defer;
	uint64_t (*now_ns)(void *arg);
	void *now_arg;
	/* Memory of uclone_marks_bytes() that outlives the process which serves, zeroes at first; NULL: none. A block that a change of the
	 * workload made part of the destination is marked here before the change is answered. Whoever opens the clone next with this
	 * memory takes marked blocks as written, so that a worker may die unseen: to those above it no power was cut, and what
	 * was answered stays, flushed or not. A failure stays as well: the next worker opens the clone FAILED. */
	void *marks;
	/* One line for each thing an operator should know; may be NULL. */
	void (*event_fn)(void *arg, const char *name, const char *text);
	void *event_arg;
	/* Each I/O that went well, right before its callback: how long it took in here. May be NULL. */
	void (*io_fn)(void *arg, enum uclone_io_kind kind, uint64_t took_ns);
	void *io_arg;
	/* A fill holds off the workload from so much at a time, whole blocks; 0: 64 MiB. */
	uint64_t fill_lock_bytes;
};

/* Reads, checks, never formats. The source is attached later. Errors by KEDGE_E_META_*, KEDGE_E_DEST_*. On success
 * uclone_opened gives the volume inside fn. */
void uclone_open(const struct uclone_env *env, void (*fn)(void *arg, struct uclone *ret_volume, int res, const struct kedge_err *err),
		 void *arg);
/* Drain, commit, close. fn runs once, later; afterwards the volume is gone. */
void uclone_close(struct uclone *u, uclone_fn fn, void *arg);

/* What was stored at create. */
const struct uclone_create_opts *uclone_stored(const struct uclone *u);

/* Give the volume its source (its identity must have been set from uclone_stored). The caller starts it. Reads that need it
 * wait until then. NULL detaches it, allowed when HYDRATED only. */
int uclone_set_source(struct uclone *u, struct kedge_source *s, struct kedge_err *err);

/* Call about every 100 ms; commits when commit_period_ms (default 1000) has passed since the last dirty bit. */
void uclone_tick(struct uclone *u);

enum uclone_op { UCLONE_READ, UCLONE_WRITE, UCLONE_WRITE_ZEROES, UCLONE_DISCARD, UCLONE_FLUSH };

/* Caller-owned, stays until fn. Ranges are byte ranges inside the volume, multiples of 512 (the front end answers others
 * itself). */
struct uclone_io {
	enum uclone_op op;
	bool is_fua;
	uint64_t start_bytes;
	uint64_t nr_bytes;
	void *buf; /* READ: filled; WRITE: read; best 4 KiB-aligned, others are bounced */
	/* res: 0, -EIO, -EINVAL, -ENOSPC. */
	void (*fn)(struct uclone_io *io, int res);
	void *arg;
	/* private to the engine */
	void *priv;
	struct uclone_io *next;
};
void uclone_submit(struct uclone *u, struct uclone_io *io);

/* Foreground reads of blocks at the source wait at most this long, then EIO. 0: for ever. Default 30000. */
void uclone_set_io_timeout(struct uclone *u, uint32_t ms);

uint64_t uclone_size_bytes(const struct uclone *u);
/* For hydration and the final comparison. Belongs to the volume. */
struct kedge_claims *uclone_claims(struct uclone *u);

enum uclone_block_kind { UCLONE_AT_SOURCE, UCLONE_HERE, UCLONE_WRITTEN, UCLONE_BAD, UCLONE_UNKNOWN };
/* "source", "here", "written", "bad", "unknown" */
const char *uclone_block_kind_name(enum uclone_block_kind k);
/* The kind of the run of blocks that starts at start_bytes, and its length, at most max_bytes. */
enum uclone_block_kind uclone_map(const struct uclone *u, uint64_t start_bytes, uint64_t max_bytes, uint64_t *ret_nr_bytes);

/* The next range at or after from_bytes that the source cannot read. 0 or -ENODATA. */
int uclone_next_bad(const struct uclone *u, uint64_t from_bytes, uint64_t *ret_start_bytes, uint64_t *ret_nr_bytes);
/* Forget which ranges those are: they are offered to the hydrator again. */
void uclone_forget_bad(struct uclone *u);

struct uclone_status {
	enum uclone_state state;
	uint64_t size_bytes;
	uint64_t here_bytes;        /* valid in memory */
	uint64_t durable_bytes;     /* valid and committed: what progress counts */
	uint64_t written_bytes;     /* changed by the workload */
	uint64_t bad_bytes;         /* marked bad at the source */
	uint64_t nr_source_errors;  /* reads that the source could not carry out, of the workload or of the hydrator */
	uint64_t nr_bad_changes;    /* goes up whenever the bad ranges are others */
	uint64_t unknown_bytes;     /* lost with a damaged metadata sector: EIO */
	uint64_t nr_commits;
	uint64_t generation;
	uint64_t foreground_reads, foreground_source_reads, foreground_writes;
	uint64_t nr_waiting;        /* foreground I/O waiting for the source */
	bool had_unclean_stop;      /* some blocks count as written because a crash left it open */
	struct kedge_err failure;   /* when FAILED */
};
void uclone_status(const struct uclone *u, struct uclone_status *ret_status);

/* Commit now, as a FLUSH would. */
void uclone_commit(struct uclone *u, uclone_fn fn, void *arg);
/* All bits set, commit, re-read the metadata from disk and check it, then record HYDRATED durably (engine.md, "Commit
 * order"). KEDGE_E_NOT_HYDRATED, KEDGE_E_FAILED, KEDGE_E_STATE (aborted). The caller has verified the blocks against the source before. */
void uclone_finish(struct uclone *u, uclone_fn fn, void *arg);
/* Durable ABORTED; refused with KEDGE_E_WRITTEN when the workload has written anything. */
void uclone_abort(struct uclone *u, uclone_fn fn, void *arg);

/* Offline: check metadata and seen block thoroughly, write nothing. report_fn gets one line a finding (is_error) or fact. */
void uclone_check(struct kedge_disk *meta, struct kedge_disk *seen, struct kedge_defer_queue *defer,
		  void (*report_fn)(void *arg, bool is_error, const char *line), uclone_fn fn, void *arg);

#endif
