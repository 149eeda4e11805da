/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_URL_H
#define KCOPY_URL_H

/* Pure. Where a source is: "iscsi://ADDR:PORT/IQN/LUN", or the path of a file or device. */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/err.h"
#include "kedge/name.h"

#define KCOPY_PORTAL_MAX 64
#define KCOPY_LUN_MAX 255

struct kcopy_url {
	char portal[KCOPY_PORTAL_MAX]; /* "10.0.0.1:3260", "[fd00::1]:3260": numeric, so that nothing is ever resolved */
	char iqn[KEDGE_IQN_MAX + 1];
	int lun;
};

/* Does the text claim to be an iSCSI url (begins with "iscsi:")? Everything else is a path. */
bool kcopy_url_is_iscsi(const char *text);
/* 0, or -EINVAL with the part that is wrong and what would be right. A user or password is refused and never repeated in
 * the message. The port may be left out (3260). */
int kcopy_url_parse(const char *text, struct kcopy_url *ret_url, struct kedge_err *err);

#endif
