/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_FUSE_SHARE_H
#define KCLONE_FUSE_SHARE_H

/*
 * Layout of the memory that the holder and its workers share: one page of facts (struct holder_share), then the request slots, then
 * the engine's marks (holder_share.marks_start_bytes).
 * A request is read to FUSE_SLOT_REQUEST of its slot, so that the data of a WRITE (behind 40 bytes of fuse_in_header and 40 of
 * fuse_write_in) begins on a page: it goes to an O_DIRECT destination as it is. A READ's answer is built in the same place.
 */

#include "front.h"

#define FUSE_SHARE_SLOTS 32u
#define FUSE_MAX_IO_BYTES (1u << 20)
#define FUSE_SLOT_DATA 4096u
#define FUSE_SLOT_REQUEST (FUSE_SLOT_DATA - 80u)
#define FUSE_SLOT_BYTES (FUSE_SLOT_DATA + FUSE_MAX_IO_BYTES)
/* what one read(2) may bring: the kernel asks for room for a WRITE of max_write */
#define FUSE_REQUEST_MAX_BYTES (FUSE_SLOT_DATA - FUSE_SLOT_REQUEST + FUSE_MAX_IO_BYTES)
#define FUSE_SHARE_BYTES ((size_t)4096 + (size_t)FUSE_SHARE_SLOTS * FUSE_SLOT_BYTES)

_Static_assert(sizeof(struct holder_share) <= 4096, "the facts have one page");

#endif
