/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_FIELDS_H
#define ORCH_FIELDS_H

#include <jansson.h>

#include "kedge/err.h"

/* Pure. Refuses fields of an object that are none of the names (separated by blanks): KEDGE_E_PROTO; anything but an object or null:
 * -EINVAL. */
int fields_check(const json_t *object, const char *names, struct kedge_err *err);

#endif
