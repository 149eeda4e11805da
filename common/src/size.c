/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Sizes and durations as people write and read them. Pure.
 */
#include "kedge/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int kedge_size_parse(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGTPE";
	const char *p = text;
	uint64_t v = 0;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (v > (UINT64_MAX - 9) / 10)
			return -ERANGE;
		v = v * 10 + (uint64_t)(*p - '0');
	}
	if (*p && *p != 'B') {
		char upper = (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
		const char *u = strchr(units, upper);
		if (!u)
			return -EINVAL;
		unsigned shift = 10 * (unsigned)(u - units + 1);
		if (v > UINT64_MAX >> shift)
			return -ERANGE;
		v <<= shift;
		p++;
		if (p[0] == 'i')
			p++;
	}
	if (*p == 'B')
		p++;
	if (*p)
		return -EINVAL;
	*ret_bytes = v;
	return 0;
}

char *kedge_size_format(uint64_t bytes, char *out, size_t out_max)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	unsigned u = 0;
	double v = (double)bytes;

	while (v >= 1024.0 && u + 1 < sizeof units / sizeof units[0]) {
		v /= 1024.0;
		u++;
	}
	if (u == 0)
		snprintf(out, out_max, "%" PRIu64 " B", bytes);
	else
		snprintf(out, out_max, v < 10 ? "%.2f %s" : "%.1f %s", v, units[u]);
	return out;
}

char *kedge_duration_format(uint64_t ms, char *out, size_t out_max)
{
	uint64_t s = ms / 1000;

	if (ms < 1000)
		snprintf(out, out_max, "%" PRIu64 " ms", ms);
	else if (s < 60)
		snprintf(out, out_max, "%.1f s", (double)ms / 1000.0);
	else if (s < 3600)
		snprintf(out, out_max, "%" PRIu64 " min %" PRIu64 " s", s / 60, s % 60);
	else
		snprintf(out, out_max, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s % 3600 / 60);
	return out;
}

int kedge_factor_parse(const char *text, uint32_t *ret_percent)
{
	const char *p = text;
	uint32_t percent = 0, digit = 10;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (percent >= 100)
			return -EINVAL;
		percent = percent * 10 + (uint32_t)(*p - '0');
	}
	percent *= 100;
	if (*p == '.') {
		if (p[1] < '0' || p[1] > '9')
			return -EINVAL;
		for (p++; *p >= '0' && *p <= '9' && digit; p++, digit /= 10)
			percent += (uint32_t)(*p - '0') * digit;
	}
	if (*p)
		return -EINVAL;
	*ret_percent = percent;
	return 0;
}
