/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Makes a source from a url or path.
 *
 * Owns. Nothing.
 *
 * Locks. None.
 */
#include "source.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "iscsi_source.h"
#include "kedge/bytes.h"
#include "kedge/name.h"

#define SESSIONS_DEFAULT 2

const char *kedge_source_state_name(enum kedge_source_state s)
{
	switch (s) {
	case KEDGE_SOURCE_STOPPED:
		return "stopped";
	case KEDGE_SOURCE_CONNECTING:
		return "connecting";
	case KEDGE_SOURCE_UP:
		return "up";
	case KEDGE_SOURCE_AWAY:
		return "away";
	case KEDGE_SOURCE_REFUSED:
		return "refused";
	case KEDGE_SOURCE_CLOSED:
		return "closed";
	}
	return "?";
}

static const char *const transit_names[] = { "auto", "plain", "checked", "zstd" };

const char *kcopy_transit_mode_name(enum kcopy_transit_mode mode)
{
	return (unsigned)mode < KEDGE_ARRAY_LEN(transit_names) ? transit_names[mode] : "?";
}

int kcopy_transit_mode_parse(const char *text)
{
	return kedge_word_find(transit_names, KEDGE_ARRAY_LEN(transit_names), text);
}

int kcopy_initiator_iqn(const char *given, char ret_iqn[KEDGE_IQN_MAX + 1], struct kedge_err *err)
{
	char host[64] = "";

	if (given) {
		if (!kedge_iqn_is_valid(given))
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE,
					     "the initiator name is not an IQN (iqn.yyyy-mm.domain:text)");
		snprintf(ret_iqn, KEDGE_IQN_MAX + 1, "%s", given);
		return 0;
	}
	gethostname(host, sizeof host - 1);
	for (char *p = host; *p; p++) {
		*p = (char)tolower((unsigned char)*p);
		if (!isalnum((unsigned char)*p) && *p != '-' && *p != '.')
			*p = '-';
	}
	snprintf(ret_iqn, KEDGE_IQN_MAX + 1, "iqn.2026-11.local.kedge:%s", host[0] ? host : "host");
	return 0;
}

int kcopy_source_create(struct kedge_loop *l, const struct kcopy_source_opts *opts, struct kedge_source **ret_source,
			struct kedge_err *err)
{
	struct kcopy_source_opts o = *opts;

	if (o.nr_sessions == 0)
		o.nr_sessions = SESSIONS_DEFAULT;
	if (o.nr_sessions > KCOPY_SESSIONS_MAX)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "%u sessions: expected 1 to %d", o.nr_sessions,
				     KCOPY_SESSIONS_MAX);
	if (kcopy_url_is_iscsi(o.url))
		return kcopy_isource_create(l, &o, ret_source, err);
	return kcopy_fsource_create(l, &o, ret_source, err);
}
