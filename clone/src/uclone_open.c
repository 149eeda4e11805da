/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Open a clone: read everything, believe nothing unchecked, never format. And the offline check, which is the same
 * reading without any write.
 *
 * Owns. The volume until it is handed over.
 *
 * Locks. None: one thread.
 *
 * Crash. The open is counted in the superblock durably before the first byte is served; the seen block follows it, so it is never
 * newer than the metadata it vouches for.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "uclone_int.h"

#define READ_PAGES 256u

typedef void (*opened_fn)(void *arg, struct uclone *u, int res, const struct kedge_err *err);

struct opening {
	struct uclone *u;
	bool is_check;
	void (*report_fn)(void *arg, bool is_error, const char *line);
	opened_fn open_fn;
	uclone_fn check_fn;
	void *arg;
	struct uc_disk_call call;
	struct kedge_defer defer;
	struct kedge_err err;
	uint8_t *buf;
	unsigned step;
	uint64_t page, max_generation, nr_promoted;
	uint64_t seen_generation, seen_open_count;
	uint64_t read_start_bytes, read_bytes, retried_bytes; /* of the metadata, in buf */
	bool is_unclean, has_lost_super;
	unsigned nr_errors;
};

static void report(struct opening *o, bool is_error, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void report(struct opening *o, bool is_error, const char *fmt, ...)
{
	char line[400];
	va_list ap;

	o->nr_errors += is_error;
	if (!o->report_fn)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	o->report_fn(o->arg, is_error, line);
}

static void release(struct uclone *u)
{
	struct uc_bits *all[] = {&u->valid, &u->written, &u->unc_now, &u->unc_old, &u->intent, &u->intent_durable,
				 &u->dirty, &u->unc_pages_now, &u->unc_pages_old, &u->unknown};
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(all); i++)
		uc_bits_fini(all[i]);
	uc_commit_fini(u);
	free(u);
}

static void end_cb(void *arg)
{
	struct opening *o = arg;
	struct opening copy = *o;
	struct uclone *u = o->u;

	kedge_buf_free(o->buf);
	free(o);
	if (copy.is_check) {
		release(u);
		if (copy.err.code == 0 && copy.nr_errors)
			kedge_err_set(&copy.err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA, "%u findings", copy.nr_errors);
		copy.check_fn(copy.arg, copy.err.code, copy.err.code ? &copy.err : NULL);
		return;
	}
	if (copy.err.code) {
		release(u);
		copy.open_fn(copy.arg, NULL, copy.err.code, &copy.err);
		return;
	}
	copy.open_fn(copy.arg, u, 0, NULL);
}

static void end(struct opening *o)
{
	o->defer = (struct kedge_defer){.fn = end_cb, .arg = o};
	kedge_defer_add(o->u->env.defer, &o->defer);
}

static void refuse(struct opening *o, int code, const char *text)
{
	kedge_err_set(&o->err, code, KEDGE_SIDE_METADATA, "%s", text);
	end(o);
}

static void step(void *arg, int res);

/* What one disk says of a place that it cannot read; anything else is about the disk as a whole. */
static bool is_unreadable(int res)
{
	return res == -EIO || res == -ENODATA || res == -EILSEQ || res == -EBADMSG;
}

/* Page by page, after a read of many has failed: one that cannot be read is no page of ours, and takes no other with it. */
static void retry_page(struct opening *o);

static void retried_cb(void *arg, int res)
{
	struct opening *o = arg;
	uint64_t at = o->read_start_bytes + o->retried_bytes;

	if (res < 0 && !is_unreadable(res)) {
		step(o, res);
		return;
	}
	if (res < 0) {
		memset(o->buf + o->retried_bytes, 0xff, UC_PAGE);
		report(o, true, "bytes %" PRIu64 " to %" PRIu64 " of the metadata cannot be read: %s", at, at + UC_PAGE, kedge_err_text(res));
	}
	o->retried_bytes += UC_PAGE;
	if (o->retried_bytes < o->read_bytes)
		retry_page(o);
	else
		step(o, 0);
}

static void retry_page(struct opening *o)
{
	uc_disk_call(&o->call, o->u->env.meta, KEDGE_DISK_READ, o->read_start_bytes + o->retried_bytes, UC_PAGE,
		     o->buf + o->retried_bytes, retried_cb, o);
}

static void read_cb(void *arg, int res)
{
	struct opening *o = arg;

	if (!is_unreadable(res)) {
		step(o, res);
		return;
	}
	o->retried_bytes = 0;
	retry_page(o);
}

static void read_meta(struct opening *o, uint64_t start, uint64_t n)
{
	o->read_start_bytes = start;
	o->read_bytes = n;
	uc_disk_call(&o->call, o->u->env.meta, KEDGE_DISK_READ, start, n, o->buf, read_cb, o);
}

/* Choose the superblock: the valid one with the highest generation. */
static int choose_super(struct opening *o)
{
	struct uclone *u = o->u;
	struct uc_super a, b;
	int ra = uc_super_decode(o->buf + UC_SUPER_A_BYTES, &a);
	int rb = uc_super_decode(o->buf + UC_SUPER_B_BYTES, &b);

	if (ra == 0 && rb == 0 && !kedge_uuid_is_equal(&a.id, &b.id))
		return kedge_err_set(&o->err, KEDGE_E_META_FOREIGN, KEDGE_SIDE_METADATA,
				     "the two superblocks belong to different clones");
	if (ra < 0 && rb < 0) {
		if (ra == KEDGE_E_META_ZEROED && rb == KEDGE_E_META_ZEROED)
			return kedge_err_set(&o->err, KEDGE_E_META_ZEROED, KEDGE_SIDE_METADATA,
					     "both superblocks are zeroes; open never formats");
		int code = ra == KEDGE_E_META_VERSION || rb == KEDGE_E_META_VERSION ? KEDGE_E_META_VERSION : KEDGE_E_META_CORRUPT;
		return kedge_err_set(&o->err, code, KEDGE_SIDE_METADATA, "no superblock is valid: %s", kedge_err_text(code));
	}
	/* a version that we do not know beside one that we do: a newer kedge was here */
	if (ra == KEDGE_E_META_VERSION || rb == KEDGE_E_META_VERSION)
		return kedge_err_set(&o->err, KEDGE_E_META_VERSION, KEDGE_SIDE_METADATA,
				     "one superblock has a version or flag not known here");
	o->has_lost_super = ra < 0 || rb < 0;
	u->super_slot = ra < 0 || (rb == 0 && b.generation > a.generation);
	u->super = u->super_slot ? b : a;
	if (u->super.dm_region_bytes)
		return kedge_err_set(&o->err, KEDGE_E_META_VERSION, KEDGE_SIDE_METADATA, "this clone belongs to the kernel engine");
	if (ra < 0 || rb < 0)
		report(o, false, "superblock %s: %s (the other one counts)", ra < 0 ? "A" : "B", kedge_err_text(ra < 0 ? ra : rb));
	return 0;
}

static int init_volume(struct opening *o)
{
	struct uclone *u = o->u;
	int r = 0;

	u->size_bytes = u->super.opts.source.size_bytes;
	u->nr_blocks = uc_nr_blocks(u->size_bytes);
	u->nr_pages = uc_nr_pages(u->size_bytes);
	u->clone_id = kedge_get_le64(u->super.id.b);
	if (u->size_bytes > (16ull << 40) || u->env.meta->size_bytes < uclone_meta_bytes(u->size_bytes))
		return kedge_err_set(&o->err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA,
				     "the metadata file is shorter than its volume needs (%" PRIu64 " of %" PRIu64 " bytes)",
				     u->env.meta->size_bytes, uclone_meta_bytes(u->size_bytes));
	if (u->env.dest && u->env.dest->size_bytes < u->size_bytes)
		return kedge_err_set(&o->err, KEDGE_E_DEST_SIZE, KEDGE_SIDE_DESTINATION,
				     "the destination has %" PRIu64 " bytes, the volume %" PRIu64, u->env.dest->size_bytes, u->size_bytes);
	if (u->env.dest && u->env.dest->size_bytes != u->super.dest_size_bytes)
		return kedge_err_set(&o->err, KEDGE_E_DEST_IDENTITY, KEDGE_SIDE_DESTINATION,
				     "the destination has %" PRIu64 " bytes, at create it had %" PRIu64, u->env.dest->size_bytes,
				     u->super.dest_size_bytes);
	uint64_t nr_groups = (u->nr_blocks + UC_GROUP_BLOCKS - 1) / UC_GROUP_BLOCKS;
	struct {
		struct uc_bits *b;
		uint64_t n;
	} all[] = {{&u->valid, u->nr_blocks}, {&u->written, u->nr_blocks}, {&u->unc_now, u->nr_blocks},
		   {&u->unc_old, u->nr_blocks}, {&u->intent, nr_groups}, {&u->intent_durable, nr_groups},
		   {&u->dirty, u->nr_pages}, {&u->unc_pages_now, u->nr_pages}, {&u->unc_pages_old, u->nr_pages},
		   {&u->unknown, u->nr_pages * UC_PAGE_SECTORS}};
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(all) && r == 0; i++)
		r = uc_bits_init(all[i].b, all[i].n);
	return r < 0 ? kedge_err_set(&o->err, r, KEDGE_SIDE_METADATA, "no memory for the bitmaps") : 0;
}

static void take_sector(struct opening *o, uint64_t nr, const uint8_t *in)
{
	struct uclone *u = o->u;
	uint64_t first = nr * UC_SECTOR_BLOCKS;
	struct uc_sector s;

	if (first >= u->nr_blocks)
		return;
	int r = uc_sector_decode(in, u->clone_id, (uint32_t)nr, &s);
	if (r < 0 && UC_MUTANT(UNKNOWN_IS_EMPTY))
		return;
	if (r < 0) {
		uc_bit_set(&u->unknown, nr);
		u->nr_unknown_sectors++;
		report(o, true, "metadata sector %" PRIu64 " is damaged: bytes %" PRIu64 " to %" PRIu64 " of the volume are unknown", nr,
		       first * UC_BLOCK, kedge_min_u64((first + UC_SECTOR_BLOCKS) * UC_BLOCK, u->size_bytes));
		if (!o->is_check)
			uc_event(u, "metadata-damaged", "bytes %" PRIu64 " to %" PRIu64 " are unknown: reads of them fail", first * UC_BLOCK,
				 kedge_min_u64((first + UC_SECTOR_BLOCKS) * UC_BLOCK, u->size_bytes));
		return;
	}
	o->max_generation = kedge_max_u64(o->max_generation, s.generation);
	uint64_t n = kedge_min_u64(UC_SECTOR_BLOCKS, u->nr_blocks - first);
	for (uint64_t i = 0; i < n; i++) {
		if (s.valid[i / 8] == 0) {
			i |= 7;
			continue;
		}
		bool is_valid = s.valid[i / 8] >> (i % 8) & 1, is_written = s.written[i / 8] >> (i % 8) & 1;
		bool is_intent = s.intent >> (i / UC_GROUP_BLOCKS) & 1;
		if (!is_valid)
			continue;
		uc_bit_set(&u->valid, first + i);
		u->nr_valid++;
		if (!is_written && is_intent && o->is_unclean && !UC_MUTANT(IGNORE_INTENT)) {
			/* a write may have reached this block without its bit: it counts as written */
			is_written = true;
			o->nr_promoted++;
			if (!o->is_check)
				uc_mark_dirty(u, first + i);
		}
		if (is_written) {
			uc_bit_set(&u->written, first + i);
			u->nr_written++;
		}
	}
	/* intents stay set on disk; what is promoted needs none, what is still copied in that group is covered until a clean close */
	for (unsigned g = 0; g < 8; g++)
		if (s.intent >> g & 1 && nr * 8 + g < u->intent.nr_bits) {
			uc_bit_set(&u->intent, nr * 8 + g);
			uc_bit_set(&u->intent_durable, nr * 8 + g);
		}
}

static int check_age(struct opening *o)
{
	struct uclone *u = o->u;

	o->max_generation = kedge_max_u64(o->max_generation, u->super.generation);
	u->generation = o->max_generation;
	if (UC_MUTANT(NO_AGE_CHECK))
		return 0;
	if (o->max_generation < o->seen_generation && u->nr_unknown_sectors)
		return kedge_err_set(&o->err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA,
				     "%" PRIu64 " sectors of the metadata are damaged, and the newest one (generation %" PRIu64
				     ") is not among the others: it may be an older copy as well",
				     u->nr_unknown_sectors, o->seen_generation);
	if (o->has_lost_super && (o->max_generation < o->seen_generation || u->super.open_count < o->seen_open_count))
		return kedge_err_set(&o->err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA,
				     "the newest superblock is damaged, and what the other one says is older than what was written last");
	if (o->max_generation < o->seen_generation || u->super.open_count < o->seen_open_count)
		return kedge_err_set(&o->err, KEDGE_E_META_OLD, KEDGE_SIDE_METADATA,
				     "the metadata is an older copy: generation %" PRIu64 ", but %" PRIu64 " was written once",
				     o->max_generation, o->seen_generation);
	return 0;
}

static void opened_super(void *arg, int res, const struct kedge_err *err)
{
	struct opening *o = arg;

	if (res < 0)
		o->err = *err;
	end(o);
}

/* The worker before met a failed flush or metadata write. Nothing is written any more; what the workload wrote may be lost or not, and
 * is shown as neither. */
static void begin_failed(struct opening *o)
{
	struct uclone *u = o->u;

	u->is_failed = u->is_failed_before = true;
	kedge_err_set(&u->failure, KEDGE_E_FAILED, KEDGE_SIDE_METADATA,
		      "a flush or a write of metadata failed in an earlier worker; the clone has stopped taking writes until it is served anew");
	for (uint64_t b = 0; !u->is_passthrough && (b = uc_bits_find(&u->written, b, u->nr_blocks, true)) < u->nr_blocks; b++)
		uc_bit_set(&u->unc_now, b);
	uc_event(u, "failed", "%s", u->failure.msg);
	end(o);
}

/* Count this open, durably, before anything is served. */
static void begin_session(struct opening *o)
{
	struct uclone *u = o->u;

	if (u->super.state == UCLONE_ABORTED) {
		refuse(o, KEDGE_E_STATE, "this clone was aborted and never serves again");
		return;
	}
	u->commit.seen_buf = kedge_buf_alloc(UC_BLOCK);
	if (!u->commit.seen_buf) {
		refuse(o, -ENOMEM, "no memory");
		return;
	}
	uc_locks_init(&u->locks);
	uc_commit_init(u);
	uc_claims_init(u);
	u->io_timeout_ms = 30000;
	u->is_passthrough = u->super.state == UCLONE_HYDRATED;
	if (!u->is_passthrough)
		uc_marks_take(u);
	if (uc_marks_has_failed(u))
		begin_failed(o);
	else
		uc_begin_session(u, o->nr_promoted > 0, opened_super, o);
}

static void report_facts(struct opening *o)
{
	struct uclone *u = o->u;

	report(o, false, "state %s, %s, generation %" PRIu64 ", opened %" PRIu64 " times", uclone_state_name(u->super.state),
	       u->super.is_clean ? "closed cleanly" : "not closed cleanly", o->max_generation, u->super.open_count);
	report(o, false, "%" PRIu64 " of %" PRIu64 " blocks are here, %" PRIu64 " written by the workload", u->nr_valid, u->nr_blocks,
	       u->nr_written);
	if (u->super.state == UCLONE_HYDRATED && u->nr_valid != u->nr_blocks)
		report(o, true, "the state is hydrated, but not every block is here");
	if (u->super.state == UCLONE_CREATED && u->nr_valid)
		report(o, true, "the state is created, but blocks are here");
}

static void step(void *arg, int res)
{
	struct opening *o = arg;
	struct uclone *u = o->u;

	if (res < 0) {
		kedge_err_set(&o->err, res, KEDGE_SIDE_METADATA, "cannot read the metadata: %s", kedge_err_text(res));
		end(o);
		return;
	}
	switch (o->step) {
	case 0:
		if (choose_super(o) < 0 || init_volume(o) < 0) {
			end(o);
			return;
		}
		o->is_unclean = !u->super.is_clean;
		o->step = 1;
		uc_disk_call(&o->call, u->env.seen, KEDGE_DISK_READ, 0, UC_BLOCK, o->buf, step, o);
		return;
	case 1: {
		int r = uc_seen_decode(o->buf, &u->super, &o->seen_generation, &o->seen_open_count);
		if (r < 0) {
			kedge_err_set(&o->err, r, KEDGE_SIDE_METADATA, "the generation record (META.seen): %s", kedge_err_text(r));
			end(o);
			return;
		}
		o->step = 2;
		read_meta(o, UC_MAP_START_BYTES, kedge_min_u64(u->nr_pages, READ_PAGES) * UC_PAGE);
		return;
	}
	case 2: {
		uint64_t n = kedge_min_u64(u->nr_pages - o->page, READ_PAGES);
		for (uint64_t i = 0; i < n * UC_PAGE_SECTORS; i++)
			take_sector(o, o->page * UC_PAGE_SECTORS + i, o->buf + i * UC_SECTOR);
		o->page += n;
		if (o->page < u->nr_pages) {
			read_meta(o, UC_MAP_START_BYTES + o->page * UC_PAGE,
				  kedge_min_u64(u->nr_pages - o->page, READ_PAGES) * UC_PAGE);
			return;
		}
		if (check_age(o) < 0) {
			end(o);
		} else if (o->is_check) {
			report_facts(o);
			end(o);
		} else {
			begin_session(o);
		}
		return;
	}
	}
}

static struct opening *begin(struct kedge_disk *meta, const struct uclone_env *env)
{
	struct opening *o = calloc(1, sizeof *o);

	kedge_assert(o != NULL);
	o->u = calloc(1, sizeof *o->u);
	o->buf = kedge_buf_alloc(READ_PAGES * UC_PAGE);
	kedge_assert(o->u != NULL && o->buf != NULL);
	o->u->env = *env;
	return o;
}

static void start(struct opening *o)
{
	if (o->u->env.meta->size_bytes < UC_MAP_START_BYTES || o->u->env.seen->size_bytes < UC_BLOCK)
		refuse(o, o->u->env.meta->size_bytes == 0 ? KEDGE_E_META_ZEROED : KEDGE_E_META_CORRUPT,
		       "the metadata file is too short to be one");
	else
		read_meta(o, 0, UC_MAP_START_BYTES);
}

void uclone_open(const struct uclone_env *env,
		 void (*fn)(void *arg, struct uclone *ret_volume, int res, const struct kedge_err *err), void *arg)
{
	struct opening *o = begin(env->meta, env);

	o->open_fn = fn;
	o->arg = arg;
	start(o);
}

void uclone_check(struct kedge_disk *meta, struct kedge_disk *seen, struct kedge_defer_queue *defer,
		  void (*report_fn)(void *arg, bool is_error, const char *line), uclone_fn fn, void *arg)
{
	struct uclone_env env = {.meta = meta, .seen = seen, .defer = defer};
	struct opening *o = begin(meta, &env);

	o->is_check = true;
	o->report_fn = report_fn;
	o->check_fn = fn;
	o->arg = arg;
	start(o);
}

const struct uclone_create_opts *uclone_stored(const struct uclone *u)
{
	return &u->super.opts;
}

uint64_t uclone_size_bytes(const struct uclone *u)
{
	return u->size_bytes;
}

void uclone_set_io_timeout(struct uclone *u, uint32_t ms)
{
	u->io_timeout_ms = ms;
}

int uclone_set_source(struct uclone *u, struct kedge_source *s, struct kedge_err *err)
{
	if (!s && !u->is_passthrough)
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_SOURCE, "blocks still live on the source only");
	u->source = s;
	if (s)
		uc_source_arrived(u);
	return 0;
}

void uclone_status(const struct uclone *u, struct uclone_status *s)
{
	uint64_t nr_bad = 0, nr_unknown = 0;

	*s = u->counters;
	s->state = u->is_failed ? UCLONE_FAILED : u->super.state;
	s->size_bytes = u->size_bytes;
	s->here_bytes = kedge_min_u64(u->nr_valid * UC_BLOCK, u->size_bytes);
	uint64_t nr_unc = u->nr_unc_valid + u->nr_unc_valid_old;
	s->durable_bytes = nr_unc ? (u->nr_valid - nr_unc) * UC_BLOCK : s->here_bytes;
	s->written_bytes = kedge_min_u64(u->nr_written * UC_BLOCK, u->size_bytes);
	for (const struct uc_bad *b = u->bad; b; b = b->next)
		nr_bad += b->end - b->first;
	for (uint64_t i = 0; u->nr_unknown_sectors && i < u->unknown.nr_bits; i++)
		if (uc_bit(&u->unknown, i))
			nr_unknown += kedge_min_u64(UC_SECTOR_BLOCKS, u->nr_blocks - i * UC_SECTOR_BLOCKS);
	s->bad_bytes = nr_bad * UC_BLOCK;
	s->unknown_bytes = nr_unknown * UC_BLOCK;
	s->generation = u->generation;
	s->had_unclean_stop = u->super.had_unclean;
	s->failure = u->failure;
}
