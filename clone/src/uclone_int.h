/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef UCLONE_INT_H
#define UCLONE_INT_H

/* Inside of the engine. One thread; every structure belongs to the volume's loop or defer queue. */

#include "kedge/bytes.h"
#include "uclone/uclone.h"
#include "uclone_layout.h"

/* ---- bitmaps (uclone_map.c), pure ---- */
struct uc_bits {
	uint64_t *w;
	uint64_t nr_bits;
};
int uc_bits_init(struct uc_bits *b, uint64_t nr_bits); /* zeroed, pages touched only when set */
void uc_bits_fini(struct uc_bits *b);
static inline bool uc_bit(const struct uc_bits *b, uint64_t i)
{
	return b->w[i / 64] >> (i % 64) & 1;
}
static inline void uc_bit_set(struct uc_bits *b, uint64_t i)
{
	b->w[i / 64] |= 1ull << (i % 64);
}
static inline void uc_bit_clear(struct uc_bits *b, uint64_t i)
{
	b->w[i / 64] &= ~(1ull << (i % 64));
}
/* First index in [from, end) whose bit is value, or end. */
uint64_t uc_bits_find(const struct uc_bits *b, uint64_t from, uint64_t end, bool value);
uint64_t uc_bits_count(const struct uc_bits *b, uint64_t from, uint64_t end);
void uc_bits_clear_range(struct uc_bits *b, uint64_t from, uint64_t end);

/* ---- range locks (uclone_range.c), pure ---- */
struct uc_lock {
	uint64_t first, end; /* blocks */
	bool is_held;
	void (*granted)(struct uc_lock *k); /* runs from unlock or at once from lock */
	struct uc_lock *next;
};
struct uc_locks {
	struct uc_lock *head, **tail; /* in order of arrival, held and waiting */
};
void uc_locks_init(struct uc_locks *l);
/* FIFO among overlapping ranges. true: held now (granted is not called). false: granted will be called. */
bool uc_lock(struct uc_locks *l, struct uc_lock *k, uint64_t first, uint64_t end);
void uc_unlock(struct uc_locks *l, struct uc_lock *k);
/* First block of [first, end) that a lock, held or waiting, covers; end when there is none. */
uint64_t uc_locks_find(const struct uc_locks *l, uint64_t first, uint64_t end);

struct uc_claim {
	struct kedge_claim claim;
	bool is_filling;
	struct uclone *u;
	struct uc_lock lock;
	const uint8_t *buf;
	const struct kedge_seg *segs;
	uint32_t nr_segs;
	uint64_t at_bytes; /* fill position */
	uint64_t part_end_bytes; /* locked up to here */
	struct kedge_disk_io io;
	kedge_claim_fn fn;
	void *arg;
	int res;
	struct kedge_defer defer;
	struct uc_claim *next;
};

/* Somebody who waits for a commit that begins from now on. */
struct uc_waiter {
	void (*fn)(struct uc_waiter *w, int res);
	struct uc_waiter *next;
};

enum uc_commit_phase { UC_COMMIT_IDLE, UC_COMMIT_DEST_FLUSH, UC_COMMIT_META_WRITE, UC_COMMIT_META_FLUSH };

#define UC_META_INFLIGHT 16
#define UC_META_RUN 256 /* pages in one write */
#define UC_DIRTY_MAX 1024 /* pages: uc_commit_much */

struct uc_meta_io {
	struct kedge_disk_io io;
	struct uclone *u;
};

struct uc_commit {
	enum uc_commit_phase phase;
	struct uc_waiter *next_head, **next_tail; /* for the next one */
	struct uc_waiter *now;
	bool is_kicked;           /* the next one is to begin as soon as possible */
	struct kedge_defer defer;
	uint64_t *pages;          /* numbers of the pages being written */
	uint8_t *bufs;
	uint64_t nr_pages, next_page, nr_inflight;
	uint64_t generation;
	int res;
	struct uc_meta_io mio[UC_META_INFLIGHT];
	struct kedge_disk_io flush_io, seen_io;
	bool is_seen_inflight;
	uint8_t *seen_buf;
	uint64_t last_dirty_ns;
};

struct uc_bad {
	uint64_t first, end;
	struct uc_bad *next;
};

struct uclone {
	struct uclone_env env;
	struct uc_super super;
	unsigned super_slot;      /* where the present superblock is */
	uint64_t clone_id;        /* short id in sectors */
	uint64_t size_bytes, nr_blocks, nr_pages;
	uint64_t generation;
	bool is_passthrough, is_failed, is_closing;
	bool is_failed_before; /* by an earlier worker: what it had not committed is not known here */
	bool is_aborted; /* from the moment the abort began: no change is taken any more */
	struct kedge_err failure;

	struct uc_bits valid, written, unc_now, unc_old;
	struct uc_bits intent, intent_durable; /* by group */
	struct uc_bits dirty;                  /* pages with bits not yet on disk */
	struct uc_bits unc_pages_now, unc_pages_old;
	struct uc_bits unknown;                /* by sector */
	uint64_t nr_valid, nr_written, nr_unc_valid, nr_unc_valid_old, nr_unknown_sectors, nr_dirty;

	struct uc_locks locks;
	struct uc_claim *claims_list;
	struct kedge_claims claims;
	struct kedge_defer wake;
	bool is_claims_waiting;
	struct uc_bad *bad;

	struct uc_commit commit;
	struct kedge_source *source;
	struct uc_child *waiting; /* source reads before the source is there */
	uint32_t io_timeout_ms;

	unsigned nr_ios;          /* foreground, not answered */
	unsigned nr_changes;      /* those of them that change something */
	struct uc_lazy *admin;    /* one administrative operation at a time */
	struct uclone_status counters;

	/* close */
	uclone_fn close_fn;
	void *close_arg;
	struct kedge_defer close_defer;
	unsigned close_step;
	struct uc_waiter close_waiter;
};

static inline uint64_t uc_page_of(uint64_t block)
{
	return block / UC_PAGE_BLOCKS;
}
static inline uint64_t uc_group_of(uint64_t block)
{
	return block / UC_GROUP_BLOCKS;
}
static inline uint64_t uc_block_bytes(const struct uclone *u, uint64_t block)
{
	return kedge_min_u64(UC_BLOCK, u->size_bytes - block * UC_BLOCK);
}

/* 0 without a clock (offline verbs). */
static inline uint64_t uc_now_ns(const struct uclone *u)
{
	return u->env.now_ns ? u->env.now_ns(u->env.now_arg) : 0;
}

/* A change by the workload reached this block: say so to the next worker. */
void uc_marks_set(struct uclone *u, uint64_t block);
/* After the map was read: what the worker before had answered and not committed. How many blocks that were. */
uint64_t uc_marks_take(struct uclone *u);
/* Fail-stop, for the next worker too. */
void uc_marks_set_failed(struct uclone *u);
bool uc_marks_has_failed(const struct uclone *u);
void uc_mark_here(struct uclone *u, uint64_t first, uint64_t end, bool is_written);
void uc_mark_dirty(struct uclone *u, uint64_t block);
void uc_encode_page(const struct uclone *u, uint64_t page, uint64_t generation, uint8_t out[UC_PAGE]);
bool uc_is_unknown(const struct uclone *u, uint64_t first, uint64_t end);
const struct uc_bad *uc_find_bad(const struct uclone *u, uint64_t first, uint64_t end);
void uc_heal_bad(struct uclone *u, uint64_t first, uint64_t end);

/* Wait for a commit that begins after this call. fn runs later. */
void uc_commit_wait(struct uclone *u, struct uc_waiter *w);
/* Holes of terabytes: begin a commit when so much is dirty, so that the map is written while there is something to copy, and what a commit takes in
 * memory stays small. */
void uc_commit_much(struct uclone *u);
void uc_commit_init(struct uclone *u);
void uc_commit_fini(struct uclone *u);
bool uc_commit_is_idle(const struct uclone *u);
void uc_fail(struct uclone *u, int code, const char *what);
void uc_event(struct uclone *u, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void uc_claims_init(struct uclone *u);
void uc_claims_wake(struct uclone *u);
void uc_io_done(struct uclone *u); /* a foreground I/O was answered */
void uc_source_arrived(struct uclone *u);
void uc_waiting_tick(struct uclone *u);
void uc_try_close(struct uclone *u);
/* Write the superblock that counts an open; fn runs once, later. */
void uc_begin_session(struct uclone *u, bool is_promoted, uclone_fn fn, void *arg);

/* One disk operation with a plain callback (uclone_admin.c). */
struct uc_disk_call {
	struct kedge_disk_io io;
	void (*fn)(void *arg, int res);
	void *arg;
};
void uc_disk_call(struct uc_disk_call *c, struct kedge_disk *d, enum kedge_disk_op op, uint64_t start_bytes,
		  uint64_t nr_bytes, void *buf, void (*fn)(void *arg, int res), void *arg);

#include "uclone_mutants.h"
#endif
