/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_IDENTITY_H
#define KEDGE_IDENTITY_H

/* Pure. What makes a source the source we mean: the volume's uuid, the epoch it was exported for, its geometry.
 * The uuid and the epoch travel in the unit serial number page (SPC VPD 0x80) as "<uuid>.<epoch>". */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kedge/err.h"
#include "kedge/uuid.h"

#define KEDGE_SERIAL_MAX 64

struct kedge_identity {
	struct kedge_uuid volume; /* null: not known (a plain file or a foreign target); then only geometry is compared */
	uint64_t epoch;
	uint64_t size_bytes;
	uint32_t lbs_bytes; /* logical block size: 512 or 4096 */
};

/* "<uuid>.<epoch>" into out; an empty string for a null uuid. */
void kedge_serial_format(const struct kedge_identity *id, char out[KEDGE_SERIAL_MAX]);
/* Trailing blanks (SPC pads with them) are ignored. 0 or -EINVAL when it is not of our form. */
int kedge_serial_parse(const char *text, struct kedge_uuid *ret_volume, uint64_t *ret_epoch);
/* 0, or KEDGE_E_SOURCE_IDENTITY with a message that names the field, what was expected and what was found. */
int kedge_identity_check(const struct kedge_identity *expected, const struct kedge_identity *found,
			 struct kedge_err *err);

#endif
