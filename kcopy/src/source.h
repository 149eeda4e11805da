/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_SOURCE_H
#define KCOPY_SOURCE_H

/* The two kinds of source, and what they share. */

#include "kcopy/kcopy.h"

/* opts->nr_sessions is from 1 to KCOPY_SESSIONS_MAX already. */
int kcopy_isource_create(struct kedge_loop *l, const struct kcopy_source_opts *opts, struct kedge_source **ret_source,
			 struct kedge_err *err);
/* A regular file or block device, opened read-only here and now. A size that is no multiple of 512 is rounded up; the rest reads
 * as zeroes. */
int kcopy_fsource_create(struct kedge_loop *l, const struct kcopy_source_opts *opts, struct kedge_source **ret_source,
			 struct kedge_err *err);

#endif
