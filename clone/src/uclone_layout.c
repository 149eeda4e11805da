/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Codecs of the metadata: superblock, bitmap sectors, the seen block. Pure.
 */
#include "uclone_layout.h"

#include <string.h>

#include "kedge/bytes.h"
#include "kedge/crc32c.h"

static const char super_magic[8] = "KEDGEUC1";
static const char seen_magic[8] = "KEDGESN1";
#define VERSION 1u

enum incompat { INCOMPAT_DM = 1 };
enum flag {
	FLAG_CLEAN = 1, FLAG_HAD_UNCLEAN = 2, FLAG_STARTED = 4, FLAG_DM_WRITTEN = 8, FLAG_DM_MARKED = 16, FLAG_DM_KERNEL_ATTACH = 32,
	FLAG_DM_DECEIVED = 64, FLAG_DM_LED = 128, FLAGS_KNOWN = 255,
};

/* Offsets in the superblock; formats.md has the table. */
enum {
	O_MAGIC = 0, O_CRC = 8, O_VERSION = 12, O_COMPAT = 16, O_INCOMPAT = 20, O_GENERATION = 24, O_ID = 32,
	O_MIGRATION = 48, O_VOLUME = 64, O_EPOCH = 80, O_SIZE = 88, O_LBS = 96, O_BLOCK = 100, O_NR_BLOCKS = 104,
	O_DEST_SIZE = 112, O_OPEN_COUNT = 120, O_STATE = 128, O_FLAGS = 132, O_REGION = 136, O_NR_SEEN = 144, O_LED_SID = 152, O_LED_PORT = 156, O_IQN = 256, O_URL = 512,
	O_CHAP = 1024, O_DEST = 1536,
};

void uc_super_encode(const struct uc_super *s, uint8_t out[UC_SUPER_BYTES])
{
	memset(out, 0, UC_SUPER_BYTES);
	memcpy(out + O_MAGIC, super_magic, 8);
	kedge_put_le32(out + O_VERSION, VERSION);
	kedge_put_le32(out + O_INCOMPAT, s->dm_region_bytes ? INCOMPAT_DM : 0);
	kedge_put_le64(out + O_GENERATION, s->generation);
	memcpy(out + O_ID, s->id.b, 16);
	memcpy(out + O_MIGRATION, s->opts.migration.b, 16);
	memcpy(out + O_VOLUME, s->opts.source.volume.b, 16);
	kedge_put_le64(out + O_EPOCH, s->opts.source.epoch);
	kedge_put_le64(out + O_SIZE, s->opts.source.size_bytes);
	kedge_put_le32(out + O_LBS, s->opts.source.lbs_bytes);
	kedge_put_le32(out + O_BLOCK, UC_BLOCK);
	kedge_put_le64(out + O_NR_BLOCKS, uc_nr_blocks(s->opts.source.size_bytes));
	kedge_put_le64(out + O_DEST_SIZE, s->dest_size_bytes);
	kedge_put_le64(out + O_OPEN_COUNT, s->open_count);
	kedge_put_le32(out + O_STATE, (uint32_t)s->state);
	kedge_put_le32(out + O_FLAGS, (s->is_clean ? FLAG_CLEAN : 0) | (s->had_unclean ? FLAG_HAD_UNCLEAN : 0) |
					      (s->has_started ? FLAG_STARTED : 0) | (s->dm_was_written ? FLAG_DM_WRITTEN : 0) |
					      (s->dm_is_marked ? FLAG_DM_MARKED : 0) |
					      (s->dm_is_kernel_attach ? FLAG_DM_KERNEL_ATTACH : 0) |
					      (s->dm_was_deceived ? FLAG_DM_DECEIVED : 0) | (s->dm_is_led ? FLAG_DM_LED : 0));
	kedge_put_le32(out + O_REGION, s->dm_region_bytes);
	kedge_put_le64(out + O_NR_SEEN, s->dm_nr_seen);
	kedge_put_le32(out + O_LED_SID, s->dm_led_sid);
	kedge_put_le32(out + O_LED_PORT, s->dm_led_port);
	memcpy(out + O_IQN, s->opts.initiator_iqn, UCLONE_IQN_MAX);
	memcpy(out + O_URL, s->opts.source_url, UCLONE_URL_MAX);
	memcpy(out + O_CHAP, s->opts.chap_file, UCLONE_PATH_MAX);
	memcpy(out + O_DEST, s->opts.dest_path, UCLONE_PATH_MAX);
	kedge_put_le32(out + O_CRC, kedge_crc32c(0, out + O_VERSION, UC_SUPER_BYTES - O_VERSION));
}

static int take_text(char *out, size_t max, const uint8_t *in)
{
	memcpy(out, in, max);
	return memchr(out, 0, max) ? 0 : KEDGE_E_META_CORRUPT;
}

static int check_geometry(const uint8_t *in, const struct uc_super *s)
{
	const struct kedge_identity *id = &s->opts.source;

	if (kedge_get_le32(in + O_BLOCK) != UC_BLOCK || (id->lbs_bytes != 512 && id->lbs_bytes != 4096))
		return KEDGE_E_META_VERSION;
	if (id->size_bytes == 0 || id->size_bytes % 512 || id->size_bytes > UINT64_MAX / 2 ||
	    kedge_get_le64(in + O_NR_BLOCKS) != uc_nr_blocks(id->size_bytes) || s->dest_size_bytes < id->size_bytes)
		return KEDGE_E_META_CORRUPT;
	if (s->dm_region_bytes && ((s->dm_region_bytes & (s->dm_region_bytes - 1)) || s->dm_region_bytes < 4096 || s->dm_region_bytes > 1u << 30))
		return KEDGE_E_META_CORRUPT;
	return 0;
}

int uc_super_decode(const uint8_t in[UC_SUPER_BYTES], struct uc_super *ret_super)
{
	struct uc_super s = {0};
	uint32_t state, flags;
	int r;

	if (kedge_is_zero(in, UC_SUPER_BYTES))
		return KEDGE_E_META_ZEROED;
	if (memcmp(in, super_magic, 8) != 0 ||
	    kedge_get_le32(in + O_CRC) != kedge_crc32c(0, in + O_VERSION, UC_SUPER_BYTES - O_VERSION))
		return KEDGE_E_META_CORRUPT;
	/* compat flags that are not known do no harm; any incompat flag does */
	if (kedge_get_le32(in + O_VERSION) != VERSION || (kedge_get_le32(in + O_INCOMPAT) & ~(uint32_t)INCOMPAT_DM) != 0)
		return KEDGE_E_META_VERSION;
	s.generation = kedge_get_le64(in + O_GENERATION);
	memcpy(s.id.b, in + O_ID, 16);
	memcpy(s.opts.migration.b, in + O_MIGRATION, 16);
	memcpy(s.opts.source.volume.b, in + O_VOLUME, 16);
	s.opts.source.epoch = kedge_get_le64(in + O_EPOCH);
	s.opts.source.size_bytes = kedge_get_le64(in + O_SIZE);
	s.opts.source.lbs_bytes = kedge_get_le32(in + O_LBS);
	s.dest_size_bytes = kedge_get_le64(in + O_DEST_SIZE);
	s.open_count = kedge_get_le64(in + O_OPEN_COUNT);
	state = kedge_get_le32(in + O_STATE);
	flags = kedge_get_le32(in + O_FLAGS);
	if (state > UCLONE_ABORTED || flags > FLAGS_KNOWN)
		return KEDGE_E_META_VERSION;
	s.state = (enum uclone_state)state;
	s.is_clean = flags & FLAG_CLEAN;
	s.had_unclean = flags & FLAG_HAD_UNCLEAN;
	s.has_started = flags & FLAG_STARTED;
	s.dm_was_written = flags & FLAG_DM_WRITTEN;
	s.dm_is_marked = flags & FLAG_DM_MARKED;
	s.dm_is_kernel_attach = flags & FLAG_DM_KERNEL_ATTACH;
	s.dm_was_deceived = flags & FLAG_DM_DECEIVED;
	s.dm_is_led = flags & FLAG_DM_LED;
	s.dm_region_bytes = kedge_get_le32(in + O_REGION);
	s.dm_nr_seen = kedge_get_le64(in + O_NR_SEEN);
	s.dm_led_sid = kedge_get_le32(in + O_LED_SID);
	s.dm_led_port = kedge_get_le32(in + O_LED_PORT);
	if ((s.dm_region_bytes != 0) != (kedge_get_le32(in + O_INCOMPAT) == INCOMPAT_DM))
		return KEDGE_E_META_CORRUPT;
	r = take_text(s.opts.initiator_iqn, UCLONE_IQN_MAX, in + O_IQN);
	if (r == 0)
		r = take_text(s.opts.source_url, UCLONE_URL_MAX, in + O_URL);
	if (r == 0)
		r = take_text(s.opts.chap_file, UCLONE_PATH_MAX, in + O_CHAP);
	if (r == 0)
		r = take_text(s.opts.dest_path, UCLONE_PATH_MAX, in + O_DEST);
	if (r == 0)
		r = check_geometry(in, &s);
	if (r == 0)
		*ret_super = s;
	return r;
}

/* Sector: crc32c, number, generation, short id, valid, written, intent, 7 zero bytes. */
enum { S_CRC = 0, S_NR = 4, S_GENERATION = 8, S_ID = 16, S_VALID = 24, S_WRITTEN = 264, S_INTENT = 504 };

void uc_sector_encode(const struct uc_sector *s, uint64_t clone_id, uint32_t sector_nr, uint8_t out[UC_SECTOR])
{
	memset(out, 0, UC_SECTOR);
	kedge_put_le32(out + S_NR, sector_nr);
	kedge_put_le64(out + S_GENERATION, s->generation);
	kedge_put_le64(out + S_ID, clone_id);
	memcpy(out + S_VALID, s->valid, sizeof s->valid);
	memcpy(out + S_WRITTEN, s->written, sizeof s->written);
	out[S_INTENT] = s->intent;
	kedge_put_le32(out + S_CRC, kedge_crc32c(0, out + S_NR, UC_SECTOR - S_NR));
}

int uc_sector_decode(const uint8_t in[UC_SECTOR], uint64_t clone_id, uint32_t sector_nr, struct uc_sector *ret_sector)
{
	if (kedge_get_le32(in + S_CRC) != kedge_crc32c(0, in + S_NR, UC_SECTOR - S_NR) ||
	    kedge_get_le32(in + S_NR) != sector_nr || kedge_get_le64(in + S_ID) != clone_id)
		return KEDGE_E_META_CORRUPT;
	for (unsigned i = 0; i < 240; i++)
		if (in[S_WRITTEN + i] & ~in[S_VALID + i]) /* written without being here: no code of ours writes that */
			return KEDGE_E_META_CORRUPT;
	ret_sector->generation = kedge_get_le64(in + S_GENERATION);
	memcpy(ret_sector->valid, in + S_VALID, 240);
	memcpy(ret_sector->written, in + S_WRITTEN, 240);
	ret_sector->intent = in[S_INTENT];
	return 0;
}

/* Seen block: magic, crc32c, version, clone id, generation, open count. */
enum { N_CRC = 8, N_VERSION = 12, N_ID = 16, N_GENERATION = 32, N_OPEN_COUNT = 40 };

void uc_seen_encode(const struct uc_super *s, uint8_t out[UC_BLOCK])
{
	memset(out, 0, UC_BLOCK);
	memcpy(out, seen_magic, 8);
	kedge_put_le32(out + N_VERSION, VERSION);
	memcpy(out + N_ID, s->id.b, 16);
	kedge_put_le64(out + N_GENERATION, s->generation);
	kedge_put_le64(out + N_OPEN_COUNT, s->open_count);
	/* Over the first 512 bytes: a torn write of the block tears between sectors. */
	kedge_put_le32(out + N_CRC, kedge_crc32c(0, out + N_VERSION, 512 - N_VERSION));
}

int uc_seen_decode(const uint8_t in[UC_BLOCK], const struct uc_super *s, uint64_t *ret_generation, uint64_t *ret_open_count)
{
	if (kedge_is_zero(in, UC_BLOCK))
		return KEDGE_E_META_ZEROED;
	if (memcmp(in, seen_magic, 8) != 0 ||
	    kedge_get_le32(in + N_CRC) != kedge_crc32c(0, in + N_VERSION, 512 - N_VERSION))
		return KEDGE_E_META_CORRUPT;
	if (kedge_get_le32(in + N_VERSION) != VERSION)
		return KEDGE_E_META_VERSION;
	if (memcmp(in + N_ID, s->id.b, 16) != 0)
		return KEDGE_E_META_FOREIGN;
	*ret_generation = kedge_get_le64(in + N_GENERATION);
	*ret_open_count = kedge_get_le64(in + N_OPEN_COUNT);
	return 0;
}

uint64_t uclone_meta_bytes(uint64_t size_bytes)
{
	return UC_MAP_START_BYTES + uc_nr_pages(size_bytes) * UC_PAGE;
}

const char *uclone_block_kind_name(enum uclone_block_kind k)
{
	static const char *const names[] = {"source", "here", "written", "bad", "unknown"};

	return (unsigned)k < 5 ? names[k] : "unknown";
}

const char *uclone_state_name(enum uclone_state s)
{
	static const char *const names[] = {"created", "live", "hydrated", "aborted", "failed"};

	return (unsigned)s < 5 ? names[s] : "failed";
}
