/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Create, finish, abort, close: the durable changes of a clone's state.
 *
 * Owns. One sequence at a time, with its superblock buffer.
 *
 * Locks. None: one thread.
 *
 * Crash. A new superblock goes into the slot that does not hold the present one, then the metadata is flushed: before the flush
 * the old one counts (or the new one, whole: it checks itself), after it the new one. create writes the map first, flushes, and the
 * superblocks last: a half-made metadata file has no superblock and is refused by open.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "uclone_int.h"

static void call_cb(struct kedge_disk_io *io, int res)
{
	struct uc_disk_call *c = kedge_container_of(io, struct uc_disk_call, io);

	c->fn(c->arg, res);
}

void uc_disk_call(struct uc_disk_call *c, struct kedge_disk *d, enum kedge_disk_op op, uint64_t start_bytes,
		  uint64_t nr_bytes, void *buf, void (*fn)(void *arg, int res), void *arg)
{
	c->fn = fn;
	c->arg = arg;
	c->io = (struct kedge_disk_io){.op = op, .start_bytes = start_bytes, .nr_bytes = nr_bytes, .buf = buf, .fn = call_cb};
	kedge_disk_submit(d, &c->io);
}

/* ---- create ---- */

#define CREATE_CHUNK_PAGES 256u

struct creation {
	struct kedge_disk *meta, *seen;
	struct uc_super super;
	uint64_t clone_id, page, nr_pages;
	uint64_t at_bytes, nr_bytes, total_bytes; /* the look for what is there already */
	unsigned step;
	uint8_t *buf;
	struct uc_disk_call call;
	struct kedge_defer defer;
	struct kedge_err err;
	uclone_fn fn;
	void *arg;
	int res;
};

static void create_end(void *arg)
{
	struct creation *c = arg;
	uclone_fn fn = c->fn;
	void *fn_arg = c->arg;
	struct kedge_err err = c->err;
	int res = c->res;

	kedge_buf_free(c->buf);
	free(c);
	fn(fn_arg, res, res < 0 ? &err : NULL);
}

static void create_fail(struct creation *c, struct kedge_defer_queue *q, int code, const char *what)
{
	c->res = kedge_err_set(&c->err, code, KEDGE_SIDE_METADATA, "%s", what);
	c->defer = (struct kedge_defer){.fn = create_end, .arg = c};
	kedge_defer_add(q, &c->defer);
}

static void create_step(void *arg, int res);

static void create_pages(struct creation *c)
{
	uint64_t n = kedge_min_u64(c->nr_pages - c->page, CREATE_CHUNK_PAGES);
	struct uc_sector s = {.generation = c->super.generation};

	for (uint64_t i = 0; i < n * UC_PAGE_SECTORS; i++)
		uc_sector_encode(&s, c->clone_id, (uint32_t)(c->page * UC_PAGE_SECTORS + i), c->buf + i * UC_SECTOR);
	uint64_t start = UC_MAP_START_BYTES + c->page * UC_PAGE;
	c->page += n;
	uc_disk_call(&c->call, c->meta, KEDGE_DISK_WRITE, start, n * UC_PAGE, c->buf, create_step, c);
}

static void create_step(void *arg, int res)
{
	struct creation *c = arg;

	if (res < 0) {
		c->res = kedge_err_set(&c->err, res, KEDGE_SIDE_METADATA, "cannot write the metadata: %s", kedge_err_text(res));
		create_end(c);
		return;
	}
	switch (c->step) {
	case 0: /* read all of it: nothing may be there */
		c->step = 1;
		c->nr_bytes = kedge_min_u64(c->total_bytes - c->at_bytes, CREATE_CHUNK_PAGES * UC_PAGE);
		uc_disk_call(&c->call, c->meta, KEDGE_DISK_READ, c->at_bytes, c->nr_bytes, c->buf, create_step, c);
		return;
	case 1:
		if (!kedge_is_zero(c->buf, c->nr_bytes)) {
			c->res = kedge_err_set(&c->err, KEDGE_E_META_EXISTS, KEDGE_SIDE_METADATA,
					       "the metadata holds something already: create never overwrites");
			create_end(c);
			return;
		}
		c->at_bytes += c->nr_bytes;
		if (c->at_bytes < c->total_bytes) {
			c->step = 0;
			create_step(c, 0);
			return;
		}
		c->step = 2;
		create_pages(c);
		return;
	case 2:
		if (c->page < c->nr_pages) {
			create_pages(c);
			return;
		}
		c->step = 3;
		uc_seen_encode(&c->super, c->buf);
		uc_disk_call(&c->call, c->seen, KEDGE_DISK_WRITE, 0, UC_BLOCK, c->buf, create_step, c);
		return;
	case 3:
		c->step = 4;
		uc_disk_call(&c->call, c->seen, KEDGE_DISK_FLUSH, 0, 0, NULL, create_step, c);
		return;
	case 4:
		c->step = 5;
		uc_disk_call(&c->call, c->meta, KEDGE_DISK_FLUSH, 0, 0, NULL, create_step, c);
		return;
	case 5:
		c->step = 6;
		uc_super_encode(&c->super, c->buf);
		uc_disk_call(&c->call, c->meta, KEDGE_DISK_WRITE, UC_SUPER_A_BYTES, UC_SUPER_BYTES, c->buf, create_step, c);
		return;
	case 6:
		c->step = 7;
		uc_disk_call(&c->call, c->meta, KEDGE_DISK_WRITE, UC_SUPER_B_BYTES, UC_SUPER_BYTES, c->buf, create_step, c);
		return;
	case 7:
		c->step = 8;
		uc_disk_call(&c->call, c->meta, KEDGE_DISK_FLUSH, 0, 0, NULL, create_step, c);
		return;
	default:
		create_end(c);
	}
}

void uclone_create(struct kedge_disk *meta, struct kedge_disk *dest, struct kedge_disk *seen,
		   struct kedge_defer_queue *defer, const struct uclone_create_opts *opts, uclone_fn fn, void *arg)
{
	struct creation *c = calloc(1, sizeof *c);
	const struct kedge_identity *id = &opts->source;

	kedge_assert(c != NULL);
	c->meta = meta;
	c->seen = seen;
	c->fn = fn;
	c->arg = arg;
	c->super.opts = *opts;
	c->super.generation = 1;
	c->super.state = UCLONE_CREATED;
	c->super.is_clean = true;
	c->super.dest_size_bytes = dest->size_bytes;
	kedge_uuid_create(&c->super.id);
	c->clone_id = kedge_get_le64(c->super.id.b);
	c->nr_pages = uc_nr_pages(id->size_bytes);
	c->total_bytes = uclone_meta_bytes(id->size_bytes);
	c->buf = kedge_buf_alloc(CREATE_CHUNK_PAGES * UC_PAGE);
	if (!c->buf)
		create_fail(c, defer, -ENOMEM, "no memory");
	else if (id->size_bytes == 0 || id->size_bytes % 512 || id->size_bytes > (16ull << 40))
		create_fail(c, defer, -EINVAL, "the size of the volume must be a multiple of 512 bytes, at most 16 TiB");
	else if (id->lbs_bytes != 512 && id->lbs_bytes != 4096)
		create_fail(c, defer, -EINVAL, "the source must have logical blocks of 512 or 4096 bytes");
	else if (id->size_bytes % id->lbs_bytes)
		create_fail(c, defer, -EINVAL, "the size of the source is no multiple of its logical block size");
	else if (dest->size_bytes < id->size_bytes)
		create_fail(c, defer, KEDGE_E_DEST_SIZE, "the destination is smaller than the volume");
	else if (id->size_bytes % dest->lbs_bytes) /* its last block could not be written */
		create_fail(c, defer, KEDGE_E_DEST_SIZE,
			    "the size of the volume is no multiple of the destination's logical block size");
	else if (meta->size_bytes < uclone_meta_bytes(id->size_bytes) || seen->size_bytes < UC_BLOCK)
		create_fail(c, defer, -ENOSPC, "the metadata file is too small for this volume");
	else
		create_step(c, 0);
}

/* ---- changes of the superblock ---- */

struct uc_lazy {
	struct uclone *u;
	struct uc_super next;
	uint8_t *buf;
	struct uc_disk_call call;
	struct uc_waiter waiter;
	struct kedge_defer defer;
	unsigned step;
	uint64_t page;
	unsigned nr_tries; /* of re-reading one chunk */
	bool is_finish;
	uclone_fn fn;
	void *arg;
	int res;
	struct kedge_err err;
};

#define VERIFY_PAGES 256u
#define REREAD_TRIES 5u

static void lazy_end(struct uc_lazy *z, int res)
{
	struct uclone *u = z->u;
	uclone_fn fn = z->fn;
	void *arg = z->arg;
	struct kedge_err err = z->err;

	kedge_buf_free(z->buf);
	free(z);
	u->admin = NULL;
	if (fn)
		fn(arg, res, res < 0 ? &err : NULL);
	uc_try_close(u);
}

static void super_step(void *arg, int res)
{
	struct uc_lazy *z = arg;
	struct uclone *u = z->u;

	if (res < 0 && z->step == 3) {
		/* the superblock is durable; an old generation record only weakens the guard against older copies */
		uc_event(u, "seen", "cannot write the generation record: %s", kedge_err_text(res));
	} else if (res < 0) {
		u->is_aborted = false;
		uc_fail(u, res, "writing the superblock");
		lazy_end(z, kedge_err_set(&z->err, KEDGE_E_FAILED, KEDGE_SIDE_METADATA, "cannot write the superblock: %s",
					  kedge_err_text(res)));
		return;
	}
	switch (z->step++) {
	case 0:
		z->next.generation = ++u->generation;
		uc_super_encode(&z->next, z->buf);
		uc_disk_call(&z->call, u->env.meta, KEDGE_DISK_WRITE,
			     u->super_slot == 0 ? UC_SUPER_B_BYTES : UC_SUPER_A_BYTES, UC_SUPER_BYTES, z->buf, super_step, z);
		return;
	case 1:
		uc_disk_call(&z->call, u->env.meta, KEDGE_DISK_FLUSH, 0, 0, NULL, super_step, z);
		return;
	case 2:
		u->super = z->next;
		u->super_slot ^= 1;
		if (u->super.state == UCLONE_HYDRATED)
			u->is_passthrough = true;
		uc_seen_encode(&u->super, z->buf);
		uc_disk_call(&z->call, u->env.seen, KEDGE_DISK_WRITE, 0, UC_BLOCK, z->buf, super_step, z);
		return;
	default:
		lazy_end(z, 0);
	}
}

static void write_super(struct uc_lazy *z)
{
	z->step = 0;
	super_step(z, 0);
}

/* Read back what is on disk and compare it with what is in memory (engine.md, "Complete"). */
static void reread_step(void *arg, int res)
{
	struct uc_lazy *z = arg;
	struct uclone *u = z->u;

	if (res < 0) {
		lazy_end(z, kedge_err_set(&z->err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA, "cannot re-read the metadata: %s",
					  kedge_err_text(res)));
		return;
	}
	uint64_t n = kedge_min_u64(u->nr_pages - z->page, VERIFY_PAGES);
	if (z->step == 1) {
		for (uint64_t s = z->page * UC_PAGE_SECTORS, i = 0; i < n * UC_PAGE_SECTORS; s++, i++) {
			struct uc_sector sec;
			uint64_t first = s * UC_SECTOR_BLOCKS, nr;
			if (first >= u->nr_blocks)
				break;
			nr = kedge_min_u64(UC_SECTOR_BLOCKS, u->nr_blocks - first);
			bool is_good = uc_sector_decode(z->buf + i * UC_SECTOR, u->clone_id, (uint32_t)s, &sec) == 0;
			for (uint64_t b = 0; is_good && b < nr; b++)
				is_good = sec.valid[b / 8] >> (b % 8) & 1;
			if (!is_good && z->nr_tries++ < REREAD_TRIES) {
				/* perhaps a commit wrote this page while we read it: once more, after the next one */
				z->step = 0;
				uc_commit_wait(u, &z->waiter);
				return;
			}
			if (!is_good) {
				lazy_end(z, kedge_err_set(&z->err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA,
							  "the metadata on disk does not say that every block is here (sector %" PRIu64 ")", s));
				return;
			}
		}
		z->page += n;
		z->nr_tries = 0;
	}
	z->step = 1;
	if (z->page >= u->nr_pages) {
		write_super(z);
		return;
	}
	n = kedge_min_u64(u->nr_pages - z->page, VERIFY_PAGES);
	uc_disk_call(&z->call, u->env.meta, KEDGE_DISK_READ, UC_MAP_START_BYTES + z->page * UC_PAGE, n * UC_PAGE, z->buf,
		     reread_step, z);
}

static void admin_committed(struct uc_waiter *w, int res)
{
	struct uc_lazy *z = kedge_container_of(w, struct uc_lazy, waiter);

	if (res < 0)
		lazy_end(z, kedge_err_set(&z->err, KEDGE_E_FAILED, KEDGE_SIDE_METADATA, "the commit failed"));
	else if (z->is_finish)
		reread_step(z, 0);
	else
		lazy_end(z, 0);
}

static void refused_cb(void *arg)
{
	struct uc_lazy *z = arg;
	uclone_fn fn = z->fn;
	void *fn_arg = z->arg;
	struct kedge_err err = z->err;
	int res = z->res;

	free(z);
	fn(fn_arg, res, &err);
}

static struct uc_lazy *begin_admin(struct uclone *u, uclone_fn fn, void *arg)
{
	struct uc_lazy *z = calloc(1, sizeof *z);

	kedge_assert(z != NULL);
	z->u = u;
	z->fn = fn;
	z->arg = arg;
	z->next = u->super;
	return z;
}

static void refuse(struct uc_lazy *z, int code, const char *text)
{
	z->res = kedge_err_set(&z->err, code, KEDGE_SIDE_METADATA, "%s", text);
	z->defer = (struct kedge_defer){.fn = refused_cb, .arg = z};
	kedge_defer_add(z->u->env.defer, &z->defer);
}

static bool can_begin(struct uc_lazy *z)
{
	struct uclone *u = z->u;

	if (u->is_failed)
		refuse(z, KEDGE_E_FAILED, u->failure.msg);
	else if (u->admin || u->is_closing)
		refuse(z, -EBUSY, "another change of state is under way");
	else {
		z->buf = kedge_buf_alloc(VERIFY_PAGES * UC_PAGE);
		if (z->buf) {
			u->admin = z;
			return true;
		}
		refuse(z, -ENOMEM, "no memory");
	}
	return false;
}

void uclone_commit(struct uclone *u, uclone_fn fn, void *arg)
{
	struct uc_lazy *z = begin_admin(u, fn, arg);

	if (!can_begin(z))
		return;
	z->waiter.fn = admin_committed;
	uc_commit_wait(u, &z->waiter);
}

void uclone_finish(struct uclone *u, uclone_fn fn, void *arg)
{
	struct uc_lazy *z = begin_admin(u, fn, arg);

	if (u->is_aborted && !UC_MUTANT(FINISH_ABORTED)) {
		refuse(z, KEDGE_E_STATE, "this clone was given up");
		return;
	}
	if (u->nr_valid != u->nr_blocks || u->nr_unknown_sectors) {
		refuse(z, KEDGE_E_NOT_HYDRATED, "not every block is here yet");
		return;
	}
	if (!can_begin(z))
		return;
	z->is_finish = true;
	z->next.state = UCLONE_HYDRATED;
	z->waiter.fn = admin_committed;
	uc_commit_wait(u, &z->waiter);
}

void uclone_abort(struct uclone *u, uclone_fn fn, void *arg)
{
	struct uc_lazy *z = begin_admin(u, fn, arg);

	if (u->super.state == UCLONE_HYDRATED || u->nr_written || u->nr_unknown_sectors || u->nr_changes) {
		refuse(z, KEDGE_E_WRITTEN, "the workload has written to this clone: giving it up would lose those writes");
		return;
	}
	if (!can_begin(z))
		return;
	/* From here on every write is refused: one that was answered with success would be lost. */
	u->is_aborted = true;
	z->next.state = UCLONE_ABORTED;
	write_super(z);
}

void uc_begin_session(struct uclone *u, bool is_promoted, uclone_fn fn, void *arg)
{
	struct uc_lazy *z = begin_admin(u, fn, arg);

	if (!can_begin(z))
		return;
	z->next.open_count++;
	z->next.is_clean = u->is_passthrough;
	z->next.had_unclean |= is_promoted;
	if (z->next.state == UCLONE_CREATED)
		z->next.state = UCLONE_LIVE;
	write_super(z);
}

/* ---- close ---- */

static void closed_super(void *arg, int res, const struct kedge_err *err);

static void close_committed(struct uc_waiter *w, int res)
{
	struct uclone *u = kedge_container_of(w, struct uclone, close_waiter);

	u->close_step++;
	uc_try_close(u);
}

static void free_volume(void *arg)
{
	struct uclone *u = arg;
	uclone_fn fn = u->close_fn;
	void *fn_arg = u->close_arg;
	struct kedge_err err = u->failure;
	int res = u->is_failed ? KEDGE_E_FAILED : 0;

	struct uc_bits *all[] = {&u->valid, &u->written, &u->unc_now, &u->unc_old, &u->intent, &u->intent_durable,
				 &u->dirty, &u->unc_pages_now, &u->unc_pages_old, &u->unknown};
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(all); i++)
		uc_bits_fini(all[i]);
	while (u->bad) {
		struct uc_bad *next = u->bad->next;
		free(u->bad);
		u->bad = next;
	}
	uc_commit_fini(u);
	kedge_defer_remove(u->env.defer, &u->wake);
	free(u);
	fn(fn_arg, res, res < 0 ? &err : NULL);
}

/* Everything has been answered: 1. commit what is dirty; 2. with all data committed no intent is needed: clear them, commit;
 * 3. a superblock that says that this was a clean stop. A crash between them is an unclean stop with nothing lost. */
void uc_try_close(struct uclone *u)
{
	if (!u->is_closing || u->nr_ios || u->claims_list || u->admin || u->close_step >= 100)
		return;
	if (!u->is_failed) {
		if (u->close_step % 2)
			return; /* waiting for a commit or the superblock */
		switch (u->close_step) {
		case 0:
		case 2:
			if (u->close_step == 2) {
				for (uint64_t g = 0; (g = uc_bits_find(&u->intent, g, u->intent.nr_bits, true)) < u->intent.nr_bits; g++) {
					uc_bit_clear(&u->intent, g);
					uc_mark_dirty(u, g * UC_GROUP_BLOCKS);
				}
			}
			u->close_step++;
			u->close_waiter.fn = close_committed;
			uc_commit_wait(u, &u->close_waiter);
			return;
		case 4: {
			if (u->is_passthrough)
				break; /* HYDRATED: no bit counts any more, the flushes above were all */
			struct uc_lazy *z = begin_admin(u, closed_super, u);
			u->close_step++;
			z->buf = kedge_buf_alloc(UC_SUPER_BYTES);
			kedge_assert(z->buf != NULL);
			z->next.is_clean = true;
			u->admin = z;
			write_super(z);
			return;
		}
		default:
			break;
		}
	}
	if (!uc_commit_is_idle(u))
		return;
	u->close_step = 100;
	u->close_defer = (struct kedge_defer){.fn = free_volume, .arg = u};
	kedge_defer_add(u->env.defer, &u->close_defer);
}

static void closed_super(void *arg, int res, const struct kedge_err *err)
{
	struct uclone *u = arg;

	u->close_step++;
}

void uclone_close(struct uclone *u, uclone_fn fn, void *arg)
{
	kedge_assert(!u->is_closing);
	u->is_closing = true;
	u->close_fn = fn;
	u->close_arg = arg;
	uc_waiting_tick(u);
	uc_try_close(u);
}

void uc_io_done(struct uclone *u)
{
	u->nr_ios--;
	uc_try_close(u);
}
