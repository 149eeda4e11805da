/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Refuses what a peer or operator sent and we do not know. Pure.
 */
#include "fields.h"

#include <errno.h>
#include <string.h>

int fields_check(const json_t *object, const char *names, struct kedge_err *err)
{
	const char *key;
	json_t *value;

	if (!object || json_is_null(object))
		return 0;
	if (!json_is_object(object))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "an object was expected");
	json_object_foreach((json_t *)object, key, value) {
		const char *p = strstr(names, key);
		size_t n = strlen(key);
		/* whole words only */
		while (p && ((p != names && p[-1] != ' ') || (p[n] && p[n] != ' ')))
			p = strstr(p + 1, key);
		if (!p || !n || strchr(key, ' '))
			return kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "unknown field \"%.64s\"", key);
	}
	return 0;
}
