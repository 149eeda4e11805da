/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Count what the metadata of a clone says, without opening the clone: for the status of one that nobody serves.
 *
 * Owns. A buffer during the call.
 *
 * Locks. The caller holds the files.
 *
 * Crash. Reads only.
 */
#include <errno.h>
#include <stdlib.h>

#include "kclone.h"
#include "kedge/bytes.h"
#include "uclone_layout.h"

#define CHUNK_PAGES 256u

struct page_read {
	struct kedge_disk_io io;
	struct kclone_wait wait;
};

static void read_cb(struct kedge_disk_io *io, int res)
{
	kclone_wait_cb(&kedge_container_of(io, struct page_read, io)->wait, res, NULL);
}

static int read_pages(struct clone_files *f, uint64_t page, uint64_t nr_pages, uint8_t *buf)
{
	struct page_read p = {.io = {.op = KEDGE_DISK_READ,
				     .start_bytes = UC_MAP_START_BYTES + page * UC_PAGE,
				     .nr_bytes = nr_pages * UC_PAGE,
				     .buf = buf,
				     .fn = read_cb}};

	kedge_disk_submit(f->meta, &p.io);
	return kclone_wait_for(f->loop, &p.wait, NULL);
}

typedef void (*run_fn)(void *arg, uint64_t start_bytes, uint64_t nr_bytes, enum uclone_block_kind kind);

static enum uclone_block_kind kind_of(const struct uc_super *super, const struct uc_sector *sector, uint64_t i)
{
	if (super->state == UCLONE_HYDRATED)
		return UCLONE_HERE;
	if (!sector)
		return UCLONE_UNKNOWN;
	if (!(sector->valid[i / 8] >> (i % 8) & 1))
		return UCLONE_AT_SOURCE;
	return sector->written[i / 8] >> (i % 8) & 1 ? UCLONE_WRITTEN : UCLONE_HERE;
}

static void count_sector(const struct uc_super *super, uint64_t nr, const uint8_t *in, struct uclone_status *s, run_fn fn, void *arg)
{
	uint64_t first = nr * UC_SECTOR_BLOCKS, nr_blocks = uc_nr_blocks(super->opts.source.size_bytes), n;
	struct uc_sector sector;

	if (first >= nr_blocks)
		return;
	n = kedge_min_u64(UC_SECTOR_BLOCKS, nr_blocks - first);
	bool is_bad = uc_sector_decode(in, kedge_get_le64(super->id.b), (uint32_t)nr, &sector) < 0;
	for (uint64_t i = 0; i < n; i++) {
		/* the volume's last block may be short */
		uint64_t bytes = kedge_min_u64(UC_BLOCK, super->opts.source.size_bytes - (first + i) * UC_BLOCK);
		if (fn)
			fn(arg, (first + i) * UC_BLOCK, bytes, kind_of(super, is_bad ? NULL : &sector, i));
		if (is_bad)
			s->unknown_bytes += bytes;
		else if (sector.valid[i / 8] >> (i % 8) & 1) {
			s->durable_bytes += bytes;
			if (sector.written[i / 8] >> (i % 8) & 1)
				s->written_bytes += bytes;
		}
	}
	if (!is_bad)
		s->generation = kedge_max_u64(s->generation, sector.generation);
}

int meta_scan(struct clone_files *f, struct uclone_create_opts *ret_opts, struct uclone_status *ret_status,
	      run_fn fn, void *arg, struct kedge_err *err)
{
	uint8_t *buf = kedge_buf_alloc(CHUNK_PAGES * UC_PAGE);
	struct uclone_status s = {0};
	struct uc_super super;
	int r = buf ? clone_files_peek(f, &super, err) : kedge_err_set(err, -ENOMEM, KEDGE_SIDE_METADATA, "no memory");
	uint64_t nr_pages = r < 0 ? 0 : uc_nr_pages(super.opts.source.size_bytes), n;

	if (r == 0) {
		s.state = super.state;
		s.size_bytes = super.opts.source.size_bytes;
		s.generation = super.generation;
		s.had_unclean_stop = super.had_unclean;
	}
	if (r == 0 && f->meta->size_bytes < uclone_meta_bytes(s.size_bytes))
		r = kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_METADATA, "the metadata file is shorter than its volume needs");
	for (uint64_t page = 0; page < nr_pages && r == 0; page += n) {
		n = kedge_min_u64(nr_pages - page, CHUNK_PAGES);
		int read_res = read_pages(f, page, n, buf);
		for (uint64_t i = 0; read_res < 0 && i < n; i++) /* a page that cannot be read is unknown, and takes no other with it */
			if (read_pages(f, page + i, 1, buf + i * UC_PAGE) < 0)
				memset(buf + i * UC_PAGE, 0xff, UC_PAGE);
		for (uint64_t i = 0; i < n * UC_PAGE_SECTORS; i++)
			count_sector(&super, page * UC_PAGE_SECTORS + i, buf + i * UC_SECTOR, &s, fn, arg);
	}
	kedge_buf_free(buf);
	if (r < 0)
		return r;
	s.here_bytes = s.durable_bytes;
	*ret_opts = super.opts;
	*ret_status = s;
	return 0;
}
