/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Lines for people on stderr, one write(2) each so that processes sharing a terminal do not mix.
 */
#include "kedge/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *log_name = "kedge";
static enum kedge_log_level log_level = KEDGE_LOG_INFO;

void kedge_log_init(const char *name, enum kedge_log_level level)
{
	static const char *const names[] = {"debug", "info", "warn", "err"};
	const char *env = getenv("KEDGE_LOG");

	log_name = name;
	log_level = level;
	for (unsigned i = 0; env && i < 4; i++)
		if (strcmp(env, names[i]) == 0)
			log_level = (enum kedge_log_level)i;
}

void kedge_log(enum kedge_log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	int n;

	if (level < log_level)
		return;
	n = snprintf(line, sizeof line, "%s: ", log_name);
	va_start(ap, fmt);
	int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	va_end(ap);
	n += m < (int)sizeof line - n - 1 ? m : (int)sizeof line - n - 2;
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return; /* nowhere left to say so */
}
