/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. FUSE requests about the file and the session: handshake, attributes, open, and those with nothing to do.
 *
 * Owns. Nothing; owner and mode live in the shared page, so that the next worker knows them.
 *
 * Locks. None: one thread.
 */
#include <errno.h>
#include <sys/stat.h>

#include "fuse_int.h"
#include "kedge/bytes.h"
#include "kedge/log.h"

#define ATTR_VALID_S 3600 /* nobody but us changes them */
#define MIN_MINOR 28      /* FUSE_MAX_PAGES */

static void fill_attr(const struct holder_share *s, struct fuse_attr *a)
{
	*a = (struct fuse_attr){
		.ino = 1,
		.size = s->size_bytes,
		.blocks = s->size_bytes / 512,
		.mode = S_IFREG | (s->mode & 07777),
		.uid = s->uid,
		.gid = s->gid,
		.nlink = 1,
		.blksize = 4096,
	};
}

static void do_getattr(struct fuse_work *w)
{
	struct fuse_attr_out out = {.attr_valid = ATTR_VALID_S};

	fill_attr(w->f->share, &out.attr);
	fuse_reply(w, 0, &out, sizeof out);
}

/* Owner and mode can change (a jailed VMM is not root). The size cannot; O_TRUNC leaves it as it is, as on a block device. Times
 * are taken and forgotten. */
static void do_setattr(struct fuse_work *w)
{
	const struct fuse_setattr_in *in = fuse_args(w);
	struct holder_share *s = w->f->share;
	bool is_open_trunc = in->size == 0 && !(in->valid & FATTR_FH);

	if (in->valid & FATTR_SIZE && in->size != s->size_bytes && !is_open_trunc) {
		fuse_reply(w, -EPERM, NULL, 0);
		return;
	}
	if (in->valid & FATTR_MODE)
		s->mode = in->mode & 07777;
	if (in->valid & FATTR_UID)
		s->uid = in->uid;
	if (in->valid & FATTR_GID)
		s->gid = in->gid;
	do_getattr(w);
}

static void do_init(struct fuse_work *w)
{
	const struct fuse_init_in *in = fuse_args(w);
	struct holder_share *s = w->f->share;
	struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION};

	if (in->major != FUSE_KERNEL_VERSION || in->minor < MIN_MINOR) {
		kedge_error("fuse: the kernel speaks %u.%u, at least %u.%u is needed", in->major, in->minor, FUSE_KERNEL_VERSION,
			    MIN_MINOR);
		fuse_reply(w, -EPROTO, NULL, 0);
		return;
	}
	out.minor = (uint32_t)kedge_min_u64(in->minor, FUSE_KERNEL_MINOR_VERSION);
	out.max_readahead = in->max_readahead;
	/* No write-back cache: what was acknowledged to a program must be in our hands. */
	out.flags = in->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES);
	out.max_background = FUSE_SHARE_SLOTS * 2;
	out.congestion_threshold = FUSE_SHARE_SLOTS * 2;
	out.max_write = FUSE_MAX_IO_BYTES;
	out.time_gran = 1;
	out.max_pages = FUSE_MAX_IO_BYTES / 4096;
	s->fuse_minor = out.minor;
	s->fuse_flags = out.flags;
	s->fuse_max_write = out.max_write;
	s->is_fuse_inited = 1;
	fuse_reply(w, 0, &out, sizeof out);
}

static void do_open(struct fuse_work *w)
{
	/* No flag: the page cache is dropped at open, for another front end may have written meanwhile. */
	struct fuse_open_out out = {.fh = 1};

	fuse_reply(w, 0, &out, sizeof out);
}

static void do_statfs(struct fuse_work *w)
{
	struct fuse_statfs_out out = {.st = {.bsize = 4096, .frsize = 4096, .namelen = 255}};

	out.st.blocks = w->f->share->size_bytes / 4096;
	fuse_reply(w, 0, &out, sizeof out);
}

bool fuse_handle_meta(struct fuse_work *w)
{
	switch (fuse_header(w)->opcode) {
	case FUSE_INIT:
		do_init(w);
		return true;
	case FUSE_GETATTR:
		do_getattr(w);
		return true;
	case FUSE_SETATTR:
		do_setattr(w);
		return true;
	case FUSE_OPEN:
		do_open(w);
		return true;
	case FUSE_STATFS:
		do_statfs(w);
		return true;
	case FUSE_FLUSH: /* close(2): promises nothing about durability */
	case FUSE_RELEASE:
	case FUSE_ACCESS:
	case FUSE_DESTROY:
		fuse_reply(w, 0, NULL, 0);
		return true;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT: /* no answer; what is interrupted is answered when it ends */
		fuse_header(w)->len = 0;
		return true;
	default:
		return false;
	}
}
