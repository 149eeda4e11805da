/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TEST_DM_SUSPENDS_H
#define TEST_DM_SUSPENDS_H

/* Suspend and resume of a device-mapper that only writes down what is asked; in one file of a test. */

#include "dmdev.h"
#include "trace.h"

/* What ends in a suspend, if anything. */
static void (*in_suspend)(void);

int dmdev_suspend(const char *name, unsigned flags, struct kedge_err *err)
{
	(void)err;
	trace_add("suspend %s%s%s", short_name(name), flags & DMDEV_NOFLUSH ? " noflush" : "", flags & DMDEV_SKIP_LOCKFS ? " skip_lockfs" : "");
	if (in_suspend)
		in_suspend();
	return 0;
}

int dmdev_suspend_within(const char *name, unsigned flags, unsigned max_ms, struct kedge_err *err)
{
	(void)max_ms;
	return dmdev_suspend(name, flags, err);
}

int dmdev_resume(const char *name, struct kedge_err *err)
{
	(void)err;
	trace_add("resume %s", short_name(name));
	return 0;
}

#endif
