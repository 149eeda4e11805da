/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_FRONT_H
#define KCLONE_FRONT_H

/* Front ends of a clone: the small interface behind which FUSE and NBD sit (vhost-user-blk is to come), and the
 * holder, the tiny parent that keeps descriptors and the request in hand while workers come and go. */

#include <stdbool.h>
#include <stdint.h>

#include "engine.h"
#include "kedge/err.h"
#include "kedge/loop.h"

struct front;

struct front_ops {
	const char *name; /* "fuse", "nbd" */
	/* Begin to serve the volume. */
	int (*start)(struct front *f, struct engine *e, struct kedge_err *err);
	/* Take no new request; fn once, later, when all in hand are answered. */
	void (*stop)(struct front *f, void (*fn)(void *arg), void *arg);
	void (*destroy)(struct front *f);
	/* Requests in hand. */
	unsigned (*nr_inflight)(const struct front *f);
};

struct front {
	const struct front_ops *ops;
};

/* ---- the holder (holder*.c) ----
 * `kclone serve` is the holder. It opens /dev/fuse, mounts it over the FUSE file (created when missing), makes the shared
 * memory, binds the NBD and control sockets, then runs the worker (fork and exec of /proc/self/exe with "worker" in front of the
 * arguments), hands it the descriptors below, attaches the loop device once the worker serves, and starts the next
 * worker at once when one dies by a signal or abnormal exit (with backoff when they die young). When the worker exits with
 * 0 (asked to stop) or with an exit code that no restart can mend (KEDGE_EXIT_META_* and the like), the holder detaches the
 * loop device, unmounts, removes the sockets, and exits with the same code. SIGTERM and SIGINT are passed on as SIGTERM.
 *
 * Of a kernel clone (is_dm) the FUSE file and its loop device are the feed, the clone's source (none where the kernel's own initiator has the
 * source), and a second process stands beside the
 * worker: the driver (cmd_driver.c), which makes and governs the kernel's devices. It may wait for I/O that the worker serves, so it
 * is never the worker. It is started once the loop device is there and restarted when it dies; what it says and is told goes through
 * struct dm_share. When the holder stops, the driver ends first, then a helper takes the devices away.
 *
 * A clone of the user engine that is served as a block device has such a driver too where the kernel has device-mapper (is_top): it makes
 * the dm-linear above the loop device and leads it to the destination at the end. */

enum holder_fd {
	HOLDER_FD_FUSE = 10,    /* /dev/fuse, or closed */
	HOLDER_FD_SHARE = 11,   /* memfd of the shared record */
	HOLDER_FD_NBD = 12,     /* listening Unix socket, or closed */
	HOLDER_FD_CONTROL = 13, /* listening Unix socket, or closed */
	HOLDER_FD_READY = 14,   /* pipe: the worker writes one byte when it serves */
};
#define HOLDER_NR_FDS 5

struct holder_opts {
	const char *fuse_path;    /* NULL: none */
	bool is_block;            /* loop device on top; needs fuse_path (a private one is made when NULL) */
	bool is_dm;               /* kernel clone: a driver beside the worker */
	bool is_alone;            /* … that stands alone: no feed */
	bool is_top;              /* user engine: a dm-linear above the loop device, made by a driver too (cmd_top.c) */
	const char *nbd_path;     /* NULL: none */
	const char *control_path; /* NULL: none */
	const char *private_path; /* of the FUSE file when fuse_path is NULL */
	uint64_t size_bytes;
	uint32_t lbs_bytes;
	char *const *worker_argv; /* what follows "worker" */
};

/* Until the end; returns an exit code. */
int holder_run(const struct holder_opts *opts);

/* Of a kernel clone: between its driver and its worker. Words are written whole; what belongs together is written before the word that
 * tells of it. */
enum dm_phase {
	DM_PHASE_NONE, DM_PHASE_LIVE, DM_PHASE_ALONE, DM_PHASE_FAILED, DM_PHASE_ABORTED,
	DM_PHASE_HEAD_START, /* nobody has the device: the worker may copy straight to the destination, then it orders MARK */
	DM_PHASE_MARKING,    /* no copy may begin any more */
};
enum dm_order { DM_ORDER_NONE, DM_ORDER_COMMIT, DM_ORDER_FINISH, DM_ORDER_ABORT, DM_ORDER_MARK };

/* A piece of the source that the driver asks the worker for, in memory of its own behind the marks. It is there when done_nr is ask_nr. */
#define DM_NR_SLOTS 3u
#define DM_SLOT_BYTES (4u << 20)
struct dm_slot {
	uint64_t ask_nr, start_bytes, nr_bytes; /* the driver's */
	uint64_t done_nr;                       /* the worker's, written last */
	int32_t res;
};

struct dm_share {
	/* the driver's */
	uint32_t phase, gov_phase;
	uint64_t nr_hydrated, nr_durable, nr_regions, nr_hydrating, nr_writes;
	uint64_t generation, nr_commits, dose_bps;
	uint32_t is_led;      /* of the user engine: its device was made, or found, since the holder began */
	uint32_t was_written; /* the workload wrote something, now or in an earlier session */
	uint32_t speed_percent; /* the foreground's, of its own speed without hydration; 0: not known */
	char top_path[192], failure[320];
	uint64_t answer_nr; /* the order that the answer is for */
	int32_t answer_code;
	char answer_text[320];
	uint64_t marked_bytes; /* by a head start */
	uint32_t is_windows;   /* it writes in quiesce windows, and asks for the source by slots */
	uint32_t window_max_us; /* the longest that a window held the workload's I/O */
	uint64_t nr_windows, windows_bytes;
	uint32_t is_kernel_attach, attach_state; /* enum kattach_state */
	char attach_disk[64], attach_text[256];
	/* the worker's */
	uint32_t is_wanted, order; /* hydration; enum dm_order */
	uint64_t limit_bps, order_nr;
	uint64_t floor_bps;    /* 0: the governor's default, as of the next */
	uint32_t keep_percent;
	uint32_t is_head_begun; /* a head start, by this or an earlier worker: there is one */
	uint64_t head_bytes;    /* copied by it */
	struct dm_slot slots[DM_NR_SLOTS];
	/* where the source is up, for the kernel's initiator */
	char attach_url[UCLONE_URL_MAX], attach_chap_file[UCLONE_PATH_MAX];
	uint64_t attach_nr;
};

/* The first page of the shared memory: facts that workers read and the holder writes (or the other way round where said). */
#define HOLDER_SHARE_MAGIC 0x6b656467u
struct holder_share {
	uint32_t magic;
	uint32_t version;
	uint64_t size_bytes;
	uint32_t nr_workers;      /* started so far */
	uint32_t is_fuse_inited;  /* worker: the FUSE INIT handshake is done */
	uint32_t fuse_minor, fuse_flags, fuse_max_write;
	char loop_path[32];       /* holder: "/dev/loop7" once attached, else empty */
	char fuse_path[512];
	int32_t holder_pid;
	uint32_t is_top;  /* holder: as in its options */
	uint32_t mode, uid, gid; /* worker: permissions and owner of the FUSE file; the holder begins with its own and 0600 */
	struct dm_share dm;
	uint64_t marks_start_bytes, marks_bytes; /* the engine's marks in this memory (uclone_env.marks); of a kernel clone a bit a
						  * region: copied by a head start */
	uint64_t slots_start_bytes;              /* kernel clone: DM_NR_SLOTS pieces of DM_SLOT_BYTES */
};
_Static_assert(sizeof(struct holder_share) <= 4096, "one page");

/* driver_begin.c: in a driver process (of either engine), before anything else. term_fn takes SIGTERM and SIGINT. NULL, and said: it was not
 * started by a holder. */
struct holder_share *driver_begin(void (*term_fn)(int sig));

/* fuse.c: descriptor and share as handed over by the holder. */
int fuse_front_create(struct kedge_loop *l, int fuse_fd, int share_fd, struct front **ret_front, struct kedge_err *err);
/* nbd.c: the export is served under any name. */
int nbd_front_create(struct kedge_loop *l, int listen_fd, struct front **ret_front, struct kedge_err *err);

#endif
