/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_DISK_H
#define KEDGE_DISK_H

/*
 * A local store of bytes: the destination or the metadata of a clone, a copy's target. An interface, so that the same
 * engine runs on files and devices (disk.c, over kedge_loop) and on the simulated disk of the crash tests.
 *
 * Volatile until flushed: a completed write survives a power cut only when a flush that was submitted after its
 * completion has completed with 0.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/err.h"
#include "kedge/loop.h"

struct kedge_disk;
struct kedge_disk_io;
/* res: 0 for the whole range, or -errno; never a short count. */
typedef void (*kedge_disk_fn)(struct kedge_disk_io *io, int res);

enum kedge_disk_op {
	KEDGE_DISK_READ,
	KEDGE_DISK_WRITE,
	/* The range reads as zeroes afterwards. Space stays allocated where the store can do so. */
	KEDGE_DISK_ZERO,
	KEDGE_DISK_FLUSH,
};

/* Caller-owned; stays until the callback. Offsets and lengths are multiples of 512; the fast path wants 4 KiB-aligned
 * buffers, offsets and lengths (others are bounced inside). */
struct kedge_disk_io {
	enum kedge_disk_op op;
	uint64_t start_bytes;
	uint64_t nr_bytes;
	void *buf; /* NULL for ZERO and FLUSH */
	kedge_disk_fn fn;
	/* ZERO of what nobody has written: holes that the store knows of may stay, so that it costs what is held there, not the range. What was
	 * written is not left to what the store says of it. */
	bool may_stay_hole;
	/* private to the implementation */
	struct kedge_op ring;
	struct kedge_defer defer;
	void *priv;
	uint64_t done_bytes;
	int way, moved;
	bool is_fine;
	struct kedge_disk *disk;
	struct kedge_disk_io *next;
};

struct kedge_disk_ops {
	/* The callback runs exactly once, later, never inside submit. */
	void (*submit)(struct kedge_disk *d, struct kedge_disk_io *io);
	/* Ask for an early end; the callback still comes. May be NULL. */
	void (*cancel)(struct kedge_disk *d, struct kedge_disk_io *io);
	/* Up to where, from start_bytes on and at most to end_bytes, it reads as zeroes because nothing was ever written there: known without
	 * reading, at once, from a store that is known to be right. start_bytes: not known. May be NULL: never known. */
	uint64_t (*hole_end)(struct kedge_disk *d, uint64_t start_bytes, uint64_t end_bytes);
	void (*close)(struct kedge_disk *d);
};

struct kedge_disk {
	const struct kedge_disk_ops *ops;
	uint64_t size_bytes;
	uint32_t lbs_bytes;
};

static inline void kedge_disk_submit(struct kedge_disk *d, struct kedge_disk_io *io)
{
	d->ops->submit(d, io);
}

/* In whole blocks of 4 KiB, or to end_bytes. */
uint64_t kedge_disk_hole_end(struct kedge_disk *d, uint64_t start_bytes, uint64_t end_bytes);
/* close(NULL) is a no-op; nothing may be in flight. */
void kedge_disk_close(struct kedge_disk *d);

enum kedge_disk_flags {
	KEDGE_DISK_RDONLY = 1,
	KEDGE_DISK_BUFFERED = 2, /* do not try O_DIRECT */
	KEDGE_DISK_EXCL = 4,     /* O_EXCL on a block device: nobody else may hold it */
};

/* An existing regular file or block device, O_DIRECT where the file system allows it. Never creates, never truncates.
 * Errors: errno of open(2), -ENOTBLK for anything that is neither file nor block device. */
int kedge_disk_open(struct kedge_loop *l, const char *path, unsigned flags, struct kedge_disk **ret_disk,
		    struct kedge_err *err);
/* The descriptor behind a disk made by kedge_disk_open (flock, xattr, fstat); -1 for others. */
int kedge_disk_fd(const struct kedge_disk *d);
/* Go on without what KEDGE_DISK_EXCL claimed, so that another one may: the same device, opened anew in the old one's place. What is in flight
 * keeps the claim until it ends, and the flock(2) of the old descriptor: take a new one. 0 or -errno, and then all is as it was. */
int kedge_disk_unclaim(struct kedge_disk *d);
/* Page-aligned memory; kedge_buf_free(NULL) is a no-op. NULL when there is none. */
void *kedge_buf_alloc(size_t nr_bytes);
void kedge_buf_free(void *buf);

#endif
