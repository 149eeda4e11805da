/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. How a volume is copied: checks what operators and peers say of it. Pure.
 */
#include "pace.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/name.h"

bool pace_is_transit(const char *text)
{
	static const char *const names[] = {"auto", "plain", "checked", "zstd"};

	return kedge_word_find(names, KEDGE_ARRAY_LEN(names), text) >= 0;
}

/* 1: *ret_v is what was given; 0: nothing was. */
static int read_number(const json_t *o, const char *key, json_int_t max, json_int_t *ret_v, struct kedge_err *err)
{
	const json_t *v = json_object_get(o, key);

	if (!v || json_is_null(v))
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > max)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is not a number from 0 to %" PRId64, key, (int64_t)max);
	*ret_v = json_integer_value(v);
	return 1;
}

int pace_read(const json_t *o, struct pace *ret_pace, struct kedge_err *err)
{
	const json_t *transit = json_object_get(o, "transit");
	struct pace p = {0};
	json_int_t floor = 0, percent = 0;
	int has_floor = read_number(o, "floor_bps", INT64_MAX, &floor, err);
	int has_latency = has_floor < 0 ? has_floor : read_number(o, "latency_percent", 10000, &percent, err);

	if (has_latency < 0)
		return has_latency;
	if (percent && percent < 101)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"latency_percent\" is 0, or 101 to 10000");
	if (transit && !json_is_null(transit)) {
		if (!json_is_string(transit) || !pace_is_transit(json_string_value(transit)))
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "\"transit\" is " PACE_TRANSITS);
		strcpy(p.transit, json_string_value(transit));
	}
	p.has_floor = has_floor;
	p.floor_bps = (uint64_t)floor;
	p.has_latency = has_latency;
	p.latency_percent = (uint32_t)percent;
	*ret_pace = p;
	return 0;
}

void pace_write(const struct pace *p, json_t *o)
{
	if (p->has_floor)
		json_object_set_new(o, "floor_bps", json_integer((json_int_t)p->floor_bps));
	if (p->has_latency)
		json_object_set_new(o, "latency_percent", json_integer(p->latency_percent));
	if (p->transit[0])
		json_object_set_new(o, "transit", json_string(p->transit));
}
