/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. kclone create: learn what the source is, make the files of a new clone.
 *
 * Owns. The new files until they are complete; a create that fails takes them away again.
 *
 * Locks. None.
 *
 * Crash. META.seen and META are made empty with O_EXCL and written by the engine, superblock last; both names are synced into
 * their directory before create says that it is done. A crash leaves a file without a superblock, which open refuses and create
 * does not overwrite.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dm_stack.h"
#include "kattach.h"
#include "kclone.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/loopdev.h"
#include "kedge/name.h"
#include "uclone_layout.h"

#define DEST_LOCK_MS 2000

static void learned_cb(struct kedge_source *s, void *arg)
{
	struct kedge_source_status st;

	s->ops->status(s, &st);
	if (st.state == KEDGE_SOURCE_UP || st.state == KEDGE_SOURCE_REFUSED)
		((struct kclone_wait *)arg)->is_done = true;
}

static void closed_cb(void *arg)
{
	((struct kclone_wait *)arg)->is_done = true;
}

/* Connect, learn who the source is, go again. */
static int learn(struct kedge_loop *l, const struct kclone_args *a, struct kedge_identity *id, struct kedge_err *err)
{
	struct kcopy_source_opts so = {.url = a->source, .identity = *id, .initiator_iqn = a->initiator, .nr_sessions = 1};
	uint64_t deadline = kedge_clock_ns() + (a->timeout_ms ? a->timeout_ms : 20000) * 1000000ull;
	struct kedge_source_status st;
	struct kedge_chap chap;
	struct kedge_source *s;
	struct kclone_wait w = {0}, closed = {0};
	int r = a->chap_file ? kedge_chap_read(a->chap_file, &chap, err) : 0;

	if (r < 0)
		return r;
	so.chap = a->chap_file ? &chap : NULL;
	r = kcopy_source_create(l, &so, &s, err);
	if (a->chap_file)
		kedge_chap_fini(&chap);
	if (r < 0)
		return r;
	s->state_fn = learned_cb;
	s->state_arg = &w;
	s->ops->start(s);
	while (!w.is_done && kedge_clock_ns() < deadline)
		kedge_loop_run_once(l, 100);
	s->ops->status(s, &st);
	if (st.state == KEDGE_SOURCE_UP)
		*id = s->identity;
	else
		r = kedge_err_set(err, st.last_err.code ? st.last_err.code : KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "%s",
				  st.last_err.code ? st.last_err.msg : "the source did not answer in time");
	s->ops->close(s, closed_cb, &closed);
	while (!closed.is_done)
		kedge_loop_run_once(l, 100);
	s->ops->destroy(s);
	return r;
}

static int make_file(const char *path, uint64_t nr_bytes, struct kedge_err *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r = 0;

	if (fd < 0)
		return errno == EEXIST ? kedge_err_set(err, KEDGE_E_META_EXISTS, KEDGE_SIDE_METADATA,
						       "%s exists already: create never overwrites; abort or remove it first", path)
				       : kedge_err_set(err, -errno, KEDGE_SIDE_METADATA, "cannot create %s: %s", path, strerror(errno));
	/* space now, not at the first commit: a full disk must not stop a live clone */
	r = -posix_fallocate(fd, 0, (off_t)nr_bytes);
	if (r < 0) {
		kedge_err_set(err, r, KEDGE_SIDE_METADATA, "cannot allocate %" PRIu64 " bytes for %s: %s", nr_bytes, path, strerror(-r));
		unlink(path);
	}
	kedge_close(fd);
	return r;
}

static int copy_text(char *out, size_t out_max, const char *in, const char *what, struct kedge_err *err)
{
	if (!in)
		return 0;
	if (strlen(in) >= out_max)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "%s is too long (at most %zu bytes)", what, out_max - 1);
	strcpy(out, in);
	return 0;
}

/* Paths are recorded so that they are found from any working directory. */
static int copy_path(char *out, size_t out_max, const char *in, const char *what, struct kedge_err *err)
{
	char cwd[PATH_MAX], whole[2 * PATH_MAX];
	char *real = realpath(in, NULL);
	int r;

	if (!real && in[0] != '/' && getcwd(cwd, sizeof cwd)) /* not there yet */
		snprintf(whole, sizeof whole, "%s/%s", cwd, in);
	else
		snprintf(whole, sizeof whole, "%s", real ? real : in);
	r = copy_text(out, out_max, whole, what, err);
	free(real);
	return r;
}

static bool is_iscsi(const char *url)
{
	return strncmp(url, "iscsi://", 8) == 0;
}

static int check_source_is_not_dest(const struct kclone_args *a, struct kedge_err *err)
{
	struct stat s, d;

	if (is_iscsi(a->source) || stat(a->source, &s) < 0 || stat(a->dest, &d) < 0)
		return 0; /* said by others */
	if ((s.st_dev == d.st_dev && s.st_ino == d.st_ino) || (S_ISBLK(s.st_mode) && S_ISBLK(d.st_mode) && s.st_rdev == d.st_rdev))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--source and --dest are the same: %s", a->source);
	return 0;
}

/* Metadata never lives where the guest can write: neither in the destination's file nor in a file system on its device. */
static int check_place_of_meta(const struct kclone_args *a, struct kedge_err *err)
{
	char path[UCLONE_PATH_MAX];
	struct stat d, m, dir;

	if (strlen(a->meta) >= sizeof path)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_METADATA, "--meta is too long (at most %zu bytes)", sizeof path - 1);
	strcpy(path, a->meta);
	if (stat(a->dest, &d) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_DESTINATION, "destination %s: %s", a->dest, strerror(errno));
	if (stat(a->meta, &m) == 0 && d.st_dev == m.st_dev && d.st_ino == m.st_ino)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_METADATA, "--meta and --dest are the same file: %s", a->meta);
	if (stat(dirname(path), &dir) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_METADATA, "the directory of %s: %s", a->meta, strerror(errno));
	if (S_ISBLK(d.st_mode) && d.st_rdev == dir.st_dev)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_METADATA, "%s would lie on the destination itself: the workload overwrites it",
				     a->meta);
	return 0;
}

static int fill_opts(const struct kclone_args *a, struct uclone_create_opts *o, struct kedge_err *err)
{
	char *real = realpath(a->dest, NULL);
	int r;

	if (!real)
		return kedge_err_set(err, -errno, KEDGE_SIDE_DESTINATION, "destination %s: %s", a->dest, strerror(errno));
	r = copy_text(o->dest_path, sizeof o->dest_path, real, "the path of the destination", err);
	free(real);
	if (r == 0)
		r = (is_iscsi(a->source) ? copy_text : copy_path)(o->source_url, sizeof o->source_url, a->source, "the source's URL", err);
	if (r == 0 && a->chap_file)
		r = copy_path(o->chap_file, sizeof o->chap_file, a->chap_file, "the path of the CHAP file", err);
	if (r == 0)
		r = copy_text(o->initiator_iqn, sizeof o->initiator_iqn, a->initiator, "the initiator's name", err);
	if (r == 0 && a->initiator && !kedge_iqn_is_valid(a->initiator))
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--initiator %s: not an iSCSI name (iqn.yyyy-mm.domain:text)", a->initiator);
	if (r == 0 && a->migration && kedge_uuid_parse(a->migration, &o->migration) < 0)
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--migration %s: not a uuid", a->migration);
	if (r == 0 && !a->migration)
		kedge_uuid_create(&o->migration);
	o->source.size_bytes = a->size_bytes;
	o->source.lbs_bytes = a->lbs_bytes;
	if (r == 0 && a->serial && kedge_serial_parse(a->serial, &o->source.volume, &o->source.epoch) < 0)
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--serial %s: expected UUID.EPOCH", a->serial);
	uint32_t lbs = a->lbs_bytes ? a->lbs_bytes : 512;
	if (r == 0 && a->size_bytes % lbs)
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE,
				  "--size %" PRIu64 " is no multiple of the logical block size %u; the next one is %" PRIu64,
				  a->size_bytes, lbs, kedge_round_up(a->size_bytes, lbs));
	if (r == 0)
		r = check_source_is_not_dest(a, err);
	if (r == 0)
		r = check_place_of_meta(a, err);
	return r;
}

enum created { HAS_META = 1, HAS_SEEN = 2, HAS_KERNEL = 4 };

static void take_away(const char *meta, unsigned created)
{
	char path[UCLONE_PATH_MAX + 8];

	if (created & HAS_META)
		unlink(meta);
	clone_seen_path(meta, path);
	if (created & HAS_SEEN)
		unlink(path);
	dm_record_kernel_path(meta, path);
	if (created & HAS_KERNEL)
		unlink(path);
}

static int create_user(struct kedge_loop *l, const struct kclone_args *a, const struct uclone_create_opts *o, struct kedge_disk *dest,
		       unsigned *created, struct kedge_err *err)
{
	struct kedge_disk *meta = NULL, *seen = NULL;
	char seen_path[UCLONE_PATH_MAX + 8];
	struct kclone_wait w = {0};
	int r = make_file(a->meta, uclone_meta_bytes(o->source.size_bytes), err);

	clone_seen_path(a->meta, seen_path);
	if (r == 0) {
		*created |= HAS_META;
		r = make_file(seen_path, UC_BLOCK, err);
	}
	if (r == 0) {
		*created |= HAS_SEEN;
		r = kedge_disk_open(l, a->meta, 0, &meta, err);
	}
	if (r == 0)
		r = kedge_disk_open(l, seen_path, 0, &seen, err);
	if (r == 0) {
		uclone_create(meta, dest, seen, kedge_loop_defer_queue(l), o, kclone_wait_cb, &w);
		r = kclone_wait_for(l, &w, err);
	}
	kedge_disk_close(seen);
	kedge_disk_close(meta);
	return r;
}

static int create_kernel(const struct kclone_args *a, const struct uclone_create_opts *o, uint64_t dest_size_bytes, unsigned *created,
			 struct kedge_err *err)
{
	struct uc_super s = {.opts = *o, .state = UCLONE_CREATED, .is_clean = true, .dest_size_bytes = dest_size_bytes};
	char seen[UCLONE_PATH_MAX + 8], kernel[UCLONE_PATH_MAX + 8];
	int r;

	s.dm_region_bytes = a->region_bytes ? a->region_bytes : DM_REGION_DEFAULT_BYTES;
	s.dm_is_kernel_attach = a->source_attach && strcmp(a->source_attach, "kernel") == 0;
	kedge_uuid_create(&s.id);
	clone_seen_path(a->meta, seen);
	dm_record_kernel_path(a->meta, kernel);
	r = dm_clone_check_region(o->source.size_bytes, o->source.lbs_bytes, s.dm_region_bytes, err);
	if (r == 0 && s.dm_is_kernel_attach)
		r = kattach_check(o, err);
	if (r == 0)
		r = make_file(a->meta, DM_RECORD_BYTES, err);
	if (r == 0) {
		*created |= HAS_META;
		r = make_file(seen, UC_BLOCK, err);
	}
	if (r == 0) {
		*created |= HAS_SEEN;
		r = make_file(kernel, dm_clone_meta_bytes(o->source.size_bytes, s.dm_region_bytes), err);
	}
	if (r == 0) {
		*created |= HAS_KERNEL;
		r = dm_record_create(a->meta, &s, err);
	}
	return r;
}

/* Which engine: by name, or by what the host can do. */
static int choose_engine(const struct kclone_args *a, bool *ret_is_dm, struct kedge_err *err)
{
	struct kedge_err why = {0};
	bool is_auto = a->engine && strcmp(a->engine, "auto") == 0;

	*ret_is_dm = false;
	if (!a->engine || strcmp(a->engine, "user") == 0)
		return 0;
	*ret_is_dm = dm_probe(&why) == 0;
	if (*ret_is_dm || is_auto)
		return 0;
	return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_NONE, "--engine dm: %s; see kclone doctor", why.msg);
}

/* Two clones on one destination would overwrite each other: a process that has the lock, or what outlives processes. A device is claimed by
 * whoever uses it, and was not opened. */
static int check_unused(const char *path, struct kedge_disk *dest, struct kedge_err *err)
{
	char loop[KEDGE_LOOPDEV_MAX];
	struct stat st;

	if (kedge_lock(kedge_disk_fd(dest), DEST_LOCK_MS) < 0)
		return kedge_err_set(err, KEDGE_E_META_BUSY, KEDGE_SIDE_DESTINATION, "%s is in use by another kclone", path);
	if (fstat(kedge_disk_fd(dest), &st) == 0 && S_ISREG(st.st_mode) && kedge_loopdev_find(path, loop) == 0)
		return kedge_err_set(err, KEDGE_E_META_BUSY, KEDGE_SIDE_DESTINATION, "%s is in use: %s is over it", path, loop);
	return 0;
}

int cmd_create(const struct kclone_args *a)
{
	struct uclone_create_opts o = {0};
	struct kedge_err err = {0};
	struct kedge_loop *l = NULL;
	struct kedge_disk *dest = NULL;
	unsigned created = 0;
	bool is_dm;
	int r = kedge_loop_create(64, &l, &err);

	if (r == 0)
		r = choose_engine(a, &is_dm, &err);
	if (r == 0 && a->source_attach && !is_dm)
		r = kedge_err_set(&err, -EINVAL, KEDGE_SIDE_NONE, "--source-attach is of the kernel engine (--engine dm)");
	if (r == 0)
		r = fill_opts(a, &o, &err);
	/* --size and --serial: prepared before the export exists, nobody is asked */
	if (r == 0 && !(a->size_bytes && a->serial))
		r = learn(l, a, &o.source, &err);
	if (r == 0 && !o.source.lbs_bytes)
		o.source.lbs_bytes = 512;
	if (r == 0)
		r = kedge_disk_open(l, o.dest_path, KEDGE_DISK_EXCL, &dest, &err);
	if (r == 0)
		r = check_unused(a->dest, dest, &err);
	if (r == 0 && dest->size_bytes < o.source.size_bytes)
		r = kedge_err_set(&err, KEDGE_E_DEST_SIZE, KEDGE_SIDE_DESTINATION,
				  "%s has %" PRIu64 " bytes, the volume %" PRIu64 ": make it larger", a->dest, dest->size_bytes,
				  o.source.size_bytes);
	if (r == 0)
		r = is_dm ? create_kernel(a, &o, dest->size_bytes, &created, &err) : create_user(l, a, &o, dest, &created, &err);
	if (r == 0)
		r = kedge_file_sync_dir_of(a->meta, &err);
	if (r < 0)
		take_away(a->meta, created);
	kedge_disk_close(dest);
	kedge_loop_destroy(l);
	return r < 0 ? kclone_fail(&err) : KEDGE_EXIT_OK;
}
