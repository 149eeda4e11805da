/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_INQUIRY_H
#define TGT_INQUIRY_H

/* Pure. INQUIRY: standard data and the vital product data pages 00, 80, 83, B0, B1, B2, and our C0. */

#include "scsi.h"

#define TGT_IO_MAX_BYTES (1u << 20) /* what one READ should ask for at most (VPD B0) */

/* unit NULL: a LUN without a unit (is_lun0: one without a medium). Bytes in out, or negative for a bad CDB. */
int tgt_inquiry(const uint8_t *cdb, const struct tgt_unit *unit, bool is_lun0, uint8_t *out);

#endif
