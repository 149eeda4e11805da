/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_SCSI_ID_H
#define KCLONE_SCSI_ID_H

/* Who a SCSI disk of the kernel's says it is, asked of the unit itself (SG_IO), not of what the kernel remembers. */

#include "kedge/err.h"
#include "kedge/identity.h"

/* Unit serial number, size, logical block size. A serial number that is not of our form leaves the volume null. Blocks for as long as the
 * kernel holds commands back. -EIO, -EPROTO, or KEDGE_E_SOURCE_AWAY. */
int scsi_id_read(int fd, struct kedge_identity *ret_identity, struct kedge_err *err);

#endif
