/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What lies on a volume. The one file that knows libblkid.
 *
 * Owns. Nothing after it returns. Locks. None.
 *
 * A file system's free map says nothing of others: a volume that carries the signature of anything beside it (a partition table, RAID, LVM,
 * another file system of earlier days) is in doubt as a whole. libblkid's safe probing finds two signatures where there are two.
 */
#include <blkid/blkid.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "free_fs.h"
#include "kedge/bytes.h"

#define HEAD_BYTES 8192u
#define MBR_MAGIC_AT 510u
#define MBR_ENTRIES_AT 446u

int tgt_free_pread(const struct tgt_free_volume *v, void *buf, size_t nr_bytes, uint64_t at_bytes, struct kedge_err *err)
{
	for (size_t n = 0; n < nr_bytes;) {
		ssize_t r = pread(v->fd, (char *)buf + n, nr_bytes - n, (off_t)(at_bytes + n));
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return kedge_err_set(err, -errno, KEDGE_SIDE_SOURCE, "cannot read at %llu: %s", (unsigned long long)(at_bytes + n),
					     strerror(errno));
		if (r == 0)
			return kedge_err_set(err, -EIO, KEDGE_SIDE_SOURCE, "the volume ends at %llu", (unsigned long long)(at_bytes + n));
		n += (size_t)r;
	}
	return 0;
}

/* libblkid passes over a table that it takes for boot code, or that says odd things. */
static bool has_partitions(const uint8_t *head)
{
	static const uint8_t none[16];

	if (memcmp(head + 512, "EFI PART", 8) == 0 || memcmp(head + 4096, "EFI PART", 8) == 0)
		return true;
	if (head[MBR_MAGIC_AT] != 0x55 || head[MBR_MAGIC_AT + 1] != 0xaa)
		return false;
	for (unsigned i = 0; i < 4; i++)
		if (memcmp(head + MBR_ENTRIES_AT + 16 * i, none, 16) != 0)
			return true;
	return false;
}

static int ask_blkid(blkid_probe pr, const struct tgt_free_volume *v, enum tgt_free_kind *ret_kind, struct kedge_err *err)
{
	const char *type = NULL;
	int r;

	if (blkid_probe_set_device(pr, v->fd, 0, (blkid_loff_t)v->size_bytes) < 0 || blkid_probe_enable_superblocks(pr, 1) < 0 ||
	    blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE) < 0 || blkid_probe_enable_partitions(pr, 1) < 0)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "libblkid cannot begin");
	r = blkid_do_safeprobe(pr);
	if (r == -2)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "it carries the signatures of more than one thing");
	if (r < 0)
		return kedge_err_set(err, -EIO, KEDGE_SIDE_SOURCE, "cannot tell what is on it");
	if (blkid_probe_lookup_value(pr, "PTTYPE", NULL, NULL) == 0)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "it is partitioned");
	if (r == 1 || blkid_probe_lookup_value(pr, "TYPE", &type, NULL) < 0)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "there is no file system directly on it");
	if (strcmp(type, "ext4") == 0)
		*ret_kind = TGT_FREE_EXT4;
	else if (strcmp(type, "xfs") == 0)
		*ret_kind = TGT_FREE_XFS;
	else
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "free space of %s is not known here", type);
	return 0;
}

int tgt_free_probe(const struct tgt_free_volume *v, enum tgt_free_kind *ret_kind, struct kedge_err *err)
{
	uint8_t head[HEAD_BYTES];
	blkid_probe pr;
	int r = tgt_free_pread(v, head, sizeof head, 0, err);

	if (r < 0)
		return r;
	if (has_partitions(head))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "it is partitioned");
	pr = blkid_new_probe();
	if (!pr)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory");
	r = ask_blkid(pr, v, ret_kind, err);
	blkid_free_probe(pr);
	return r;
}
