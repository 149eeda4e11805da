/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The deadlines of a source and their text form (environment variable KEDGE_SOURCE_TIMEOUTS).
 *
 * Pure.
 */
#include "timeouts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"

void kcopy_timeouts_default(struct kcopy_timeouts *t)
{
	*t = (struct kcopy_timeouts){
		.login_ms = 15000,
		.command_ms = 10000,
		.nop_ms = 5000,
		.nop_reply_ms = 5000,
		.logout_ms = 1000,
		.backoff_min_ms = 100,
		.backoff_max_ms = 30000,
	};
}

int kcopy_timeouts_parse(const char *text, struct kcopy_timeouts *ret_timeouts, struct kedge_err *err)
{
	static const struct {
		const char *name;
		size_t field;
	} keys[] = {
		{ "login", offsetof(struct kcopy_timeouts, login_ms) },
		{ "command", offsetof(struct kcopy_timeouts, command_ms) },
		{ "nop", offsetof(struct kcopy_timeouts, nop_ms) },
		{ "nop-reply", offsetof(struct kcopy_timeouts, nop_reply_ms) },
		{ "logout", offsetof(struct kcopy_timeouts, logout_ms) },
		{ "backoff-min", offsetof(struct kcopy_timeouts, backoff_min_ms) },
		{ "backoff-max", offsetof(struct kcopy_timeouts, backoff_max_ms) },
	};
	struct kcopy_timeouts t;

	kcopy_timeouts_default(&t);
	for (const char *p = text ? text : ""; *p;) {
		size_t nr_name = strcspn(p, "=,"), i;
		char *end = NULL;
		unsigned long value = 0;

		if (p[nr_name] == '=')
			value = strtoul(p + nr_name + 1, &end, 10);
		for (i = 0; i < KEDGE_ARRAY_LEN(keys); i++)
			if (strlen(keys[i].name) == nr_name && memcmp(keys[i].name, p, nr_name) == 0)
				break;
		if (!end || i == KEDGE_ARRAY_LEN(keys) || (*end && *end != ',') || value < 1 || value > 600000)
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE,
					     "KEDGE_SOURCE_TIMEOUTS: \"%.40s\": expected login=, command=, nop=, nop-reply=, logout=, "
					     "backoff-min= or backoff-max= with 1 to 600000 ms, joined by commas", p);
		*(uint32_t *)((char *)&t + keys[i].field) = (uint32_t)value;
		p = *end ? end + 1 : end;
	}
	*ret_timeouts = t;
	return 0;
}
