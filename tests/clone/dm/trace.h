/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TEST_DM_TRACE_H
#define TEST_DM_TRACE_H

/* What the code under test asked of the kernel, as one line: "suspend top, load top linear 7:1 0, resume top". */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static char trace[4096];

static void __attribute__((format(printf, 1, 2))) trace_add(const char *fmt, ...)
{
	size_t n = strlen(trace);
	va_list ap;

	if (n)
		n += (size_t)snprintf(trace + n, sizeof trace - n, ", ");
	va_start(ap, fmt);
	vsnprintf(trace + n, sizeof trace - n, fmt, ap);
	va_end(ap);
}

/* "top", "clone", "source" of kedge-UUID, kedge-UUID.clone, … */
static __attribute__((unused)) const char *short_name(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot ? dot + 1 : "top";
}

#endif
