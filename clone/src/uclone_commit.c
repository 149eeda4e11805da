/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Group commit: makes data and the bits that speak of it durable, in that order.
 *
 * Owns. The dirty set and its swap, page buffers of the running commit, the seen block's buffer.
 *
 * Locks. None: one thread.
 *
 * Crash. Steps, as in design engine.md "Commit order":
 *   1. swap: the content of the dirty pages is encoded now; what changes later belongs to the next commit
 *   2. flush the destination   (a crash here: bits 0 on disk, blocks copied again; no FLUSH was answered)
 *   3. write the encoded pages (a crash here: each 512-byte sector is old or new, both true: its blocks were flushed in 2)
 *   4. flush the metadata      (a crash here: as 3)
 *   5. answer those who waited since before 1; the seen block is written after it and waited for by nobody, so it is never
 *      newer than the metadata
 * An error in 2, 3 or 4 is final: fail-stop, nobody is answered with success, nothing is tried again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "uclone_int.h"

static void start(struct uclone *u);

void uc_mark_dirty(struct uclone *u, uint64_t block)
{
	uint64_t page = uc_page_of(block);

	if (uc_bit(&u->dirty, page))
		return;
	uc_bit_set(&u->dirty, page);
	if (u->nr_dirty++ == 0)
		u->commit.last_dirty_ns = uc_now_ns(u);
}

static void fill_bits(const struct uc_bits *b, uint64_t first, uint64_t end, uint8_t *out)
{
	/* Sectors begin at multiples of 1920 blocks = 30 words: whole words can be copied. */
	for (uint64_t i = first; i < end; i += 64) {
		uint64_t w = i / 64 < (b->nr_bits + 63) / 64 ? b->w[i / 64] : 0;
		kedge_put_le64(out + (i - first) / 8, w);
	}
}

void uc_encode_page(const struct uclone *u, uint64_t page, uint64_t generation, uint8_t out[UC_PAGE])
{
	for (unsigned i = 0; i < UC_PAGE_SECTORS; i++) {
		uint64_t sector = page * UC_PAGE_SECTORS + i;
		uint64_t first = sector * UC_SECTOR_BLOCKS;
		struct uc_sector s = {.generation = generation};

		if (uc_bit(&u->unknown, sector) && !UC_MUTANT(UNKNOWN_HEALS)) {
			/* What it said is lost. Bits of ours with a checksum would turn that into "not here"; zeroes are no sector. */
			memset(out + i * UC_SECTOR, 0, UC_SECTOR);
			continue;
		}
		if (first < u->nr_blocks) {
			uint64_t end = kedge_round_up(kedge_min_u64(first + UC_SECTOR_BLOCKS, u->nr_blocks), 64);
			fill_bits(&u->valid, first, end, s.valid);
			fill_bits(&u->written, first, end, s.written);
			for (unsigned g = 0; g < 8; g++) {
				uint64_t group = first / UC_GROUP_BLOCKS + g;
				if (group < u->intent.nr_bits && uc_bit(&u->intent, group))
					s.intent |= (uint8_t)(1u << g);
			}
		}
		uc_sector_encode(&s, u->clone_id, (uint32_t)sector, out + i * UC_SECTOR);
	}
}

void uc_fail(struct uclone *u, int code, const char *what)
{
	if (u->is_failed || UC_MUTANT(NOT_STICKY))
		return;
	u->is_failed = true;
	uc_marks_set_failed(u);
	kedge_err_set(&u->failure, KEDGE_E_FAILED, KEDGE_SIDE_METADATA, "%s failed: %s; the clone has stopped taking writes",
		      what, kedge_err_text(code));
	uc_event(u, "failed", "%s", u->failure.msg);
}

static void answer(struct uclone *u, struct uc_waiter *w, int res)
{
	while (w) {
		struct uc_waiter *next = w->next;
		w->fn(w, res);
		w = next;
	}
}

static void seen_cb(struct kedge_disk_io *io, int res)
{
	struct uc_commit *c = kedge_container_of(io, struct uc_commit, seen_io);
	struct uclone *u = kedge_container_of(c, struct uclone, commit);

	c->is_seen_inflight = false;
	if (res < 0)
		uc_event(u, "seen", "cannot write the generation record: %s", kedge_err_text(res));
	uc_try_close(u);
}

static void write_seen(struct uclone *u)
{
	struct uc_commit *c = &u->commit;

	if (c->is_seen_inflight)
		return; /* the next commit writes a newer one */
	/* Only what is durable: u->generation may already count a superblock that is still on its way. */
	struct uc_super s = u->super;
	s.generation = kedge_max_u64(u->super.generation, c->generation);
	uc_seen_encode(&s, c->seen_buf);
	c->seen_io = (struct kedge_disk_io){
		.op = KEDGE_DISK_WRITE, .nr_bytes = UC_BLOCK, .buf = c->seen_buf, .fn = seen_cb};
	c->is_seen_inflight = true;
	kedge_disk_submit(u->env.seen, &c->seen_io);
}

/* The blocks whose change the finished commit covers are committed now. */
static void settle_uncommitted(struct uclone *u)
{
	uint64_t page = 0;

	while ((page = uc_bits_find(&u->unc_pages_old, page, u->nr_pages, true)) < u->nr_pages) {
		uc_bits_clear_range(&u->unc_old, page * UC_PAGE_BLOCKS,
				    kedge_min_u64((page + 1) * UC_PAGE_BLOCKS, u->nr_blocks));
		uc_bit_clear(&u->unc_pages_old, page);
		page++;
	}
	for (uint64_t i = 0; i < u->commit.nr_pages; i++) {
		uint64_t g = u->commit.pages[i] * UC_PAGE_BLOCKS / UC_GROUP_BLOCKS;
		const uint8_t *p = u->commit.bufs + i * UC_PAGE;
		for (unsigned s = 0; s < UC_PAGE_SECTORS; s++, g += 8)
			for (unsigned b = 0, bits = p[s * UC_SECTOR + 504]; bits >> b; b++)
				if (g + b < u->intent.nr_bits && (bits >> b & 1))
					uc_bit_set(&u->intent_durable, g + b);
	}
	u->nr_unc_valid_old = 0;
}

static void end_commit(struct uclone *u, int res)
{
	struct uc_commit *c = &u->commit;
	struct uc_waiter *now = c->now;

	if (u->is_failed)
		res = -EIO; /* something else failed meanwhile: nothing completes as success any more */
	if (res == 0) {
		settle_uncommitted(u);
		u->counters.nr_commits++;
		if (c->nr_pages)
			write_seen(u);
	}
	free(c->pages);
	kedge_buf_free(c->bufs);
	c->pages = NULL;
	c->bufs = NULL;
	c->nr_pages = 0;
	c->now = NULL;
	c->phase = UC_COMMIT_IDLE;
	answer(u, now, res);
	if (c->next_head && !c->is_kicked) {
		c->is_kicked = true;
		kedge_defer_add(u->env.defer, &c->defer);
	}
	uc_try_close(u);
}

static void flush_cb(struct kedge_disk_io *io, int res);

static void begin_flush(struct uclone *u, struct kedge_disk *d, enum uc_commit_phase phase)
{
	struct uc_commit *c = &u->commit;

	c->phase = phase;
	c->flush_io = (struct kedge_disk_io){.op = KEDGE_DISK_FLUSH, .fn = flush_cb};
	kedge_disk_submit(d, &c->flush_io);
}

static void page_cb(struct kedge_disk_io *io, int res);

/* How many pages from nr on follow each other in the map: one write. */
static uint64_t run_of_pages(const struct uc_commit *c, uint64_t nr)
{
	uint64_t n = 1;

	while (n < UC_META_RUN && nr + n < c->nr_pages && c->pages[nr + n] == c->pages[nr] + n)
		n++;
	return n;
}

static void write_pages(struct uclone *u)
{
	struct uc_commit *c = &u->commit;

	for (unsigned i = 0; i < UC_META_INFLIGHT && c->next_page < c->nr_pages; i++) {
		struct uc_meta_io *m = &c->mio[i];
		if (m->u)
			continue;
		uint64_t nr = run_of_pages(c, c->next_page);
		m->u = u;
		m->io = (struct kedge_disk_io){
			.op = KEDGE_DISK_WRITE,
			.start_bytes = UC_MAP_START_BYTES + c->pages[c->next_page] * UC_PAGE,
			.nr_bytes = nr * UC_PAGE,
			.buf = c->bufs + c->next_page * UC_PAGE,
			.fn = page_cb,
		};
		c->next_page += nr;
		c->nr_inflight++;
		kedge_disk_submit(u->env.meta, &m->io);
	}
	if (c->nr_inflight == 0) {
		if (c->res < 0) {
			uc_fail(u, c->res, "writing metadata");
			end_commit(u, -EIO);
		} else if (UC_MUTANT(NO_META_FLUSH)) {
			begin_flush(u, u->env.dest, UC_COMMIT_META_FLUSH); /* flushes the wrong disk */
		} else {
			begin_flush(u, u->env.meta, UC_COMMIT_META_FLUSH);
		}
	}
}

static void page_cb(struct kedge_disk_io *io, int res)
{
	struct uc_meta_io *m = kedge_container_of(io, struct uc_meta_io, io);
	struct uclone *u = m->u;
	struct uc_commit *c = &u->commit;

	m->u = NULL;
	c->nr_inflight--;
	if (res < 0 && c->res == 0) {
		c->res = res;
		c->next_page = c->nr_pages;
	}
	write_pages(u);
}

static void flush_cb(struct kedge_disk_io *io, int res)
{
	struct uc_commit *c = kedge_container_of(io, struct uc_commit, flush_io);
	struct uclone *u = kedge_container_of(c, struct uclone, commit);

	if (res < 0) {
		uc_fail(u, res, c->phase == UC_COMMIT_DEST_FLUSH ? "flushing the destination" : "flushing the metadata");
		end_commit(u, -EIO);
	} else if (c->phase == UC_COMMIT_DEST_FLUSH && c->nr_pages && !UC_MUTANT(FLUSH_NO_META)) {
		for (uint64_t i = 0; UC_MUTANT(LATE_ENCODE) && i < c->nr_pages; i++)
			uc_encode_page(u, c->pages[i], c->generation, c->bufs + i * UC_PAGE);
		c->phase = UC_COMMIT_META_WRITE;
		write_pages(u);
	} else {
		end_commit(u, 0);
	}
}

static int swap(struct uclone *u)
{
	struct uc_commit *c = &u->commit;
	struct uc_bits b;
	uint64_t n = 0;

	c->nr_pages = u->is_passthrough ? 0 : u->nr_dirty;
	c->next_page = 0;
	c->res = 0;
	if (c->nr_pages) {
		c->pages = malloc(c->nr_pages * sizeof *c->pages);
		c->bufs = kedge_buf_alloc(c->nr_pages * UC_PAGE);
		if (!c->pages || !c->bufs)
			return -ENOMEM;
		c->generation = ++u->generation;
		for (uint64_t p = 0; (p = uc_bits_find(&u->dirty, p, u->nr_pages, true)) < u->nr_pages; p++) {
			uc_encode_page(u, p, u->generation, c->bufs + n * UC_PAGE);
			c->pages[n++] = p;
			uc_bit_clear(&u->dirty, p);
		}
		u->nr_dirty = 0;
	}
	/* unc_old is empty between commits */
	b = u->unc_old;
	u->unc_old = u->unc_now;
	u->unc_now = b;
	b = u->unc_pages_old;
	u->unc_pages_old = u->unc_pages_now;
	u->unc_pages_now = b;
	u->nr_unc_valid_old = u->nr_unc_valid;
	u->nr_unc_valid = 0;
	return 0;
}

static void start(struct uclone *u)
{
	struct uc_commit *c = &u->commit;
	int r;

	c->now = c->next_head;
	c->next_head = NULL;
	c->next_tail = &c->next_head;
	if (u->is_failed) {
		end_commit(u, -EIO);
		return;
	}
	r = swap(u); /* step 1 */
	if (UC_MUTANT(SEEN_FIRST) && c->nr_pages)
		write_seen(u);
	if (r < 0) {
		uc_fail(u, r, "preparing a commit");
		end_commit(u, -EIO);
	} else if (UC_MUTANT(NO_DEST_FLUSH) && c->nr_pages) {
		c->phase = UC_COMMIT_META_WRITE; /* no flush of the destination */
		write_pages(u);
	} else {
		begin_flush(u, u->env.dest, UC_COMMIT_DEST_FLUSH); /* step 2 */
	}
}

static void kick_cb(void *arg)
{
	struct uclone *u = arg;

	u->commit.is_kicked = false;
	if (u->commit.phase == UC_COMMIT_IDLE)
		start(u);
}

void uc_commit_wait(struct uclone *u, struct uc_waiter *w)
{
	struct uc_commit *c = &u->commit;

	if (UC_MUTANT(FLUSH_JOINS) && c->phase != UC_COMMIT_IDLE && c->now) {
		w->next = c->now;
		c->now = w;
		return;
	}
	w->next = NULL;
	*c->next_tail = w;
	c->next_tail = &w->next;
	if (c->phase == UC_COMMIT_IDLE && !c->is_kicked) {
		c->is_kicked = true;
		kedge_defer_add(u->env.defer, &c->defer);
	}
}

bool uc_commit_is_idle(const struct uclone *u)
{
	const struct uc_commit *c = &u->commit;

	return c->phase == UC_COMMIT_IDLE && !c->is_kicked && !c->next_head && !c->is_seen_inflight;
}

void uc_commit_init(struct uclone *u)
{
	struct uc_commit *c = &u->commit;

	c->next_tail = &c->next_head;
	c->defer.fn = kick_cb;
	c->defer.arg = u;
}

void uc_commit_fini(struct uclone *u)
{
	kedge_buf_free(u->commit.seen_buf);
}

#define COMMIT_PERIOD_NS 1000000000ull

/* A commit that nobody waits for. */
static void begin_unasked(struct uclone *u)
{
	struct uc_commit *c = &u->commit;

	if (c->phase != UC_COMMIT_IDLE || c->is_kicked || u->is_failed || u->is_passthrough)
		return;
	c->is_kicked = true;
	kedge_defer_add(u->env.defer, &c->defer);
}

void uclone_tick(struct uclone *u)
{
	uc_waiting_tick(u);
	if (u->nr_dirty > 0 && uc_now_ns(u) - u->commit.last_dirty_ns >= COMMIT_PERIOD_NS)
		begin_unasked(u);
}

void uc_commit_much(struct uclone *u)
{
	if (u->nr_dirty >= UC_DIRTY_MAX)
		begin_unasked(u);
}
