/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Remembers durably what of a copy is there, so that a copy that was killed goes on where it was.
 *
 * Owns. The map file.
 *
 * Locks. None inside the process: loop thread only. The map file is locked (flock) against other processes.
 *
 * Crash. A bit reaches the map file only after the flush that made its block durable: step 1 takes a snapshot of the pages that
 * changed, step 2 flushes the destination, step 3 writes the snapshot, step 4 flushes the map. A crash before step 3 finds older
 * pages, whose blocks are copied again. A crash inside step 3 finds some pages old, some new, perhaps some torn: a torn one fails
 * its checksum and counts as empty. The header is written once, by a rename, and never changes. Nothing but this copy
 * writes the destination, so a bit that is wrongly 0 costs a second copy of the same bytes and no more.
 */
#include "sink_map.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/file.h"

/* ---- commit ---- */

static void begin_commit(struct kcopy_sink *s);

static void commit_end(struct kcopy_sink *s, int res)
{
	s->is_committing = false;
	if (res < 0) {
		s->fail_code = res;
	} else {
		for (unsigned i = 0; i < s->nr_pages; i++) {
			struct kcopy_leaf *l = &s->here.leaves[s->page_nr[i]];
			s->durable_blocks += s->page_nr_set[i] - l->nr_durable;
			l->nr_durable = s->page_nr_set[i];
		}
		if (s->is_more) {
			begin_commit(s);
			return;
		}
	}
	s->commit_fn(s->commit_arg, res);
}

/* Step 4 has ended. */
static void map_synced_cb(struct kedge_op *op, int res)
{
	commit_end(kedge_container_of(op, struct kcopy_sink, map_op), res);
}

static void write_pages(struct kcopy_sink *s);

static void page_written_cb(struct kedge_op *op, int res)
{
	struct kcopy_sink *s = kedge_container_of(op, struct kcopy_sink, map_op);

	if (res == -EINTR || res == -EAGAIN)
		res = 0;
	if (res < 0) {
		commit_end(s, res);
		return;
	}
	s->page_done_bytes += (uint32_t)res;
	s->page += s->page_done_bytes / KCOPY_MAP_PAGE_BYTES;
	s->page_done_bytes %= KCOPY_MAP_PAGE_BYTES;
	write_pages(s);
}

/* Step 3, pages that follow each other at once; then step 4. */
static void write_pages(struct kcopy_sink *s)
{
	unsigned nr = 1;

	if (s->page == s->nr_pages) {
		s->map_op.fn = map_synced_cb;
		kedge_op_fsync(s->loop, &s->map_op, s->map_fd, true);
		return;
	}
	while (s->page + nr < s->nr_pages && s->page_nr[s->page + nr] == s->page_nr[s->page] + nr)
		nr++;
	s->map_op.fn = page_written_cb;
	kedge_op_write(s->loop, &s->map_op, s->map_fd,
		       s->pages + (size_t)s->page * KCOPY_MAP_PAGE_BYTES + s->page_done_bytes,
		       nr * KCOPY_MAP_PAGE_BYTES - s->page_done_bytes,
		       (1 + s->page_nr[s->page]) * KCOPY_MAP_PAGE_BYTES + s->page_done_bytes);
}

/* Step 2 has ended: what the snapshot says is there is durable. */
static void flushed_cb(struct kedge_disk_io *io, int res)
{
	struct kcopy_sink *s = kedge_container_of(io, struct kcopy_sink, flush_io);

	if (s->fail_code)
		res = s->fail_code;
	if (res < 0 || s->map_fd < 0 || s->nr_pages == 0) {
		commit_end(s, res);
		return;
	}
	s->page = 0;
	s->page_done_bytes = 0;
	write_pages(s);
}

static void begin_commit(struct kcopy_sink *s)
{
	uint8_t bits[KCOPY_LEAF_BYTES];

	s->is_committing = true;
	/* step 1 */
	s->nr_pages = 0;
	s->is_more = false;
	s->generation++;
	for (; s->at_leaf < s->here.nr_leaves; s->at_leaf++) {
		struct kcopy_leaf *l = &s->here.leaves[s->at_leaf];
		if (!l->is_dirty)
			continue;
		if (s->nr_pages == KCOPY_COMMIT_PAGES) {
			s->is_more = true;
			break;
		}
		l->is_dirty = false;
		s->page_nr[s->nr_pages] = s->at_leaf;
		s->page_nr_set[s->nr_pages] = l->nr_set;
		kcopy_bitmap_store(&s->here, s->at_leaf, bits);
		kcopy_map_encode_page(&s->header.uuid, s->at_leaf, s->generation, bits,
				      s->pages + (size_t)s->nr_pages * KCOPY_MAP_PAGE_BYTES);
		s->nr_pages++;
	}
	/* step 2 */
	s->flush_io = (struct kedge_disk_io){ .op = KEDGE_DISK_FLUSH, .fn = flushed_cb };
	kedge_disk_submit(s->disk, &s->flush_io);
}

void kcopy_sink_commit(struct kcopy_sink *s, void (*fn)(void *arg, int res), void *arg)
{
	kedge_assert(!s->is_committing);
	s->commit_fn = fn;
	s->commit_arg = arg;
	s->at_leaf = 0;
	begin_commit(s);
}

bool kcopy_sink_is_committing(const struct kcopy_sink *s)
{
	return s->is_committing;
}

bool kcopy_sink_is_dirty(const struct kcopy_sink *s)
{
	return s->durable_blocks != s->here.nr_set;
}

/* ---- the map file ---- */

static int make_map(struct kcopy_sink *s, const struct kcopy_sink_opts *o, struct kedge_err *err)
{
	uint8_t page[KCOPY_MAP_PAGE_BYTES];

	kedge_uuid_create(&s->header.uuid);
	s->header.size_bytes = o->size_bytes;
	snprintf(s->header.source_id, sizeof s->header.source_id, "%s", o->source_id);
	snprintf(s->header.destination_id, sizeof s->header.destination_id, "%s", o->destination_id);
	kcopy_map_encode_header(&s->header, page);
	/* the whole file at once, by a rename: there is never one without a sound header */
	return kedge_file_replace(o->map_path, page, sizeof page, 0600, err);
}

static int check_header(const struct kcopy_sink *s, const struct kcopy_sink_opts *o, struct kedge_err *err)
{
	const struct kcopy_map_header *h = &s->header;

	if (h->size_bytes != o->size_bytes)
		return kedge_err_set(err, KEDGE_E_META_FOREIGN, KEDGE_SIDE_METADATA,
				     "the map is of a copy of %" PRIu64 " bytes, the source has %" PRIu64, h->size_bytes, o->size_bytes);
	if (strcmp(h->source_id, o->source_id) != 0)
		return kedge_err_set(err, KEDGE_E_META_FOREIGN, KEDGE_SIDE_METADATA,
				     "the map is of a copy of %.100s, not of %.100s", h->source_id, o->source_id);
	if (strcmp(h->destination_id, o->destination_id) != 0)
		return kedge_err_set(err, KEDGE_E_DEST_IDENTITY, KEDGE_SIDE_METADATA,
				     "the map is of a copy to %.100s, not to %.100s", h->destination_id, o->destination_id);
	return 0;
}

static int read_pages(struct kcopy_sink *s, struct kedge_err *err)
{
	uint8_t page[KCOPY_MAP_PAGE_BYTES], bits[KCOPY_LEAF_BYTES];

	for (uint64_t i = 0; i < s->here.nr_leaves; i++) {
		ssize_t n = pread(s->map_fd, page, sizeof page, (off_t)((1 + i) * KCOPY_MAP_PAGE_BYTES));
		if (n < 0) {
			int rc = -errno;
			return kedge_err_set(err, rc, KEDGE_SIDE_METADATA, "reading page %" PRIu64 ": %s", i, strerror(-rc));
		}
		if (n == 0)
			break; /* the rest was never written */
		memset(page + n, 0, sizeof page - (size_t)n);
		switch (kcopy_map_decode_page(&s->header.uuid, i, page, bits)) {
		case KCOPY_MAP_PAGE_GOOD:
			if (kcopy_bitmap_load(&s->here, i, bits) < 0)
				return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_METADATA, "no memory for the map");
			break;
		case KCOPY_MAP_PAGE_EMPTY:
			break;
		case KCOPY_MAP_PAGE_DAMAGED:
			s->nr_damaged_pages++;
			break;
		}
	}
	s->durable_blocks = s->resumed_blocks = s->here.nr_set;
	return 0;
}

int kcopy_sink_open_map(struct kcopy_sink *s, const struct kcopy_sink_opts *o, struct kedge_err *err)
{
	uint8_t page[KCOPY_MAP_PAGE_BYTES];
	int rc = 0;

	if (access(o->map_path, F_OK) < 0 && errno == ENOENT)
		rc = make_map(s, o, err);
	if (rc < 0)
		return rc;
	s->map_fd = open(o->map_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (s->map_fd < 0) {
		rc = -errno;
		return kedge_err_set(err, rc, KEDGE_SIDE_METADATA, "%s", strerror(-rc));
	}
	if (kedge_lock(s->map_fd, 1000) < 0)
		return kedge_err_set(err, KEDGE_E_META_BUSY, KEDGE_SIDE_METADATA, "another copy uses this map");
	ssize_t n = pread(s->map_fd, page, sizeof page, 0);
	if (n != (ssize_t)sizeof page)
		return kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA, "shorter than a map's header");
	rc = kcopy_map_decode_header(page, &s->header, err);
	if (rc == 0)
		rc = check_header(s, o, err);
	if (rc == 0)
		rc = read_pages(s, err);
	return rc;
}
