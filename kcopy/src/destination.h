/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_DESTINATION_H
#define KCOPY_DESTINATION_H

/* The file or device that the tool copies to. */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/disk.h"
#include "kedge/err.h"
#include "kedge/loop.h"
#include "mapfile.h"

struct kcopy_destination {
	struct kedge_disk *disk;
	int fd;            /* the disk's */
	bool is_regular;
	char id[KCOPY_MAP_ID_MAX]; /* which file or device this is, for the map */
};

/* Open path, or create it with size_bytes unless can_create is false; an empty file, and one of exact_bytes (what the source has
 * before it is rounded up to size_bytes), is given that size. Locked against other copies. Blocks. Errors: errno of open(2), KEDGE_E_DEST_SIZE, -EBUSY, -EINVAL when it is the source itself. */
int kcopy_destination_open(struct kedge_loop *l, const char *path, const char *source_path, uint64_t size_bytes,
			   uint64_t exact_bytes, bool can_create, struct kcopy_destination *ret_dest, struct kedge_err *err);
void kcopy_destination_close(struct kcopy_destination *d);

/* Text that names a local file or device beyond its path: device and inode number, time of birth, size; for a device what the
 * kernel knows of it. For a source also the time of the last change, for a destination (which changes) not. */
int kcopy_file_id(const char *path, bool is_source, char ret_id[KCOPY_MAP_ID_MAX], struct kedge_err *err);

#endif
