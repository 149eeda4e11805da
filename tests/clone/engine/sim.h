/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef SIM_H
#define SIM_H

/*
 * A deterministic world for the engine: disks that forget what was not flushed, a source, a clock, and one seeded order of events.
 *
 * A data sector holds 64 equal words, its identity: so the store keeps 8 bytes a sector, and data that lands anywhere but on its own
 * sector is noticed. Metadata disks keep their bytes.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/disk.h"
#include "kedge/loop.h"
#include "kedge/source.h"

#define SIM_SECTOR 512u
#define SIM_BLOCK_SECTORS 8u

/* identities */
#define SIM_KIND_SOURCE (1ull << 60)
#define SIM_KIND_CANARY (2ull << 60) /* what another tenant left on the destination */
#define SIM_KIND_WRITE (3ull << 60)
static inline uint64_t sim_id(uint64_t kind, uint64_t seq, uint64_t sector)
{
	return kind | seq << 24 | sector;
}
/* Some source blocks are zeroes. */
static inline uint64_t sim_source_id(uint64_t sector)
{
	return sector / SIM_BLOCK_SECTORS % 5 == 3 ? 0 : sim_id(SIM_KIND_SOURCE, 0, sector);
}
void sim_fill(void *buf, uint64_t id); /* one sector */
bool sim_is_uniform(const void *buf, uint64_t *ret_id);

enum sim_crash {
	SIM_CRASH_DROP,    /* nothing unflushed survives */
	SIM_CRASH_KEEP,    /* all of it does */
	SIM_CRASH_WHOLE,   /* each write survives or not */
	SIM_CRASH_TEAR,    /* each sector of each write does or not */
	SIM_CRASH_DEST,    /* the destination keeps, the metadata drops */
	SIM_CRASH_META,    /* the other way round */
	SIM_NR_CRASHES,
};

struct sim_write {
	struct sim_write *next;
	uint64_t first, nr; /* sectors */
	uint64_t done_seq;  /* 0: in flight */
	bool is_zero;
	bool is_whole; /* it went well: not what a failure or a death left of it */
	uint8_t *data;      /* whole sectors, or ids */
};

struct sim_disk {
	struct kedge_disk disk;
	struct sim *sim;
	const char *name;
	bool is_data;
	uint64_t nr_sectors;
	uint8_t *durable, *cache; /* units of 8 (data) or 512 bytes a sector */
	struct sim_write *log, **log_tail; /* completed, not flushed, in order of completion */
	uint64_t done_seq;
	uint64_t nr_ops;
	uint64_t bad_first, bad_end; /* sectors that cannot be read */
};

struct sim_op {
	struct sim_op *next;
	uint64_t seq;
	struct sim_disk *disk;
	struct kedge_disk_io *io;
	struct sim_write *write;
	uint64_t flush_seq;
	struct kedge_source_io *sio;
	int res;
};

struct sim_source {
	struct kedge_source source;
	struct sim *sim;
	bool is_away;    /* reads stay pending */
	uint64_t bad_first, bad_end; /* sectors that answer KEDGE_E_SOURCE_MEDIUM */
	uint64_t nr_reads;
};

struct sim {
	uint64_t rng;
	uint64_t now_ns;
	struct kedge_defer_queue defer;
	struct sim_op *pending;
	unsigned nr_pending;
	uint64_t op_seq;
	uint64_t nr_events;
	uint64_t nr_changes;   /* of what a disk holds, may hold after a crash, or surely holds */
	bool is_fifo;          /* complete in order of submission instead of at random */
	const char *stall;     /* operations of that disk do not complete; NULL: none */
	/* fault injection: operations are counted over all disks */
	uint64_t nr_ops, fail_at;
	int fail_res;
	bool is_fail_persistent;
	bool has_failed;
	/* a flush or a write of metadata failed: from now on nothing may succeed */
	bool has_failed_commit;
	char problem[256];     /* the first thing that should never happen */
};

void sim_init(struct sim *s, uint64_t seed);
uint64_t sim_rand(struct sim *s);
static inline uint64_t sim_below(struct sim *s, uint64_t n)
{
	return sim_rand(s) % n;
}
uint64_t sim_now(void *arg);
/* One event: the deferred calls, or the end of one pending operation. false: there is nothing to do. */
bool sim_step(struct sim *s);
/* For a test that chooses itself: how many things could happen now, and let one of them happen. The deferred calls come first, when
 * there are any, then the operations, oldest first. */
unsigned sim_nr_choices(const struct sim *s);
void sim_choose(struct sim *s, unsigned nr);
void sim_problem(struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void sim_disk_init(struct sim_disk *d, struct sim *s, const char *name, bool is_data, uint64_t size_bytes);
void sim_disk_fini(struct sim_disk *d);
/* Sector number `at` of a write, into an image of its disk. */
void sim_put_sector(const struct sim_disk *d, uint8_t *image, const struct sim_write *w, uint64_t at);
/* Append a write that has ended and that no flush covers: `nr` sectors as the cache has them now. */
void sim_disk_leave(struct sim_disk *d, uint64_t first, uint64_t nr);
/* Both disks are of one size; nothing of `from` is in flight any more or counts. */
void sim_disk_copy(struct sim_disk *to, const struct sim_disk *from);
uint64_t sim_disk_id(const struct sim_disk *d, uint64_t sector); /* data disks: as a read would see it */
/* The power goes: pending operations vanish without callback, unflushed writes survive as the mode says. */
void sim_crash(struct sim *s, enum sim_crash mode, struct sim_disk *const *disks, unsigned nr_disks);
/* The process dies and the machine lives: what was written is there and still not durable; pending writes happened, happened in
 * part, or did not. */
void sim_process_death(struct sim *s, struct sim_disk *const *disks, unsigned nr_disks);

void sim_source_init(struct sim_source *s, struct sim *sim, const struct kedge_identity *id);
#endif
