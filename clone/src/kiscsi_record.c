/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The node record of open-iscsi: one target, exactly named, with every setting that matters said, so that no default of the host's
 * decides.
 *
 * Pure.
 */
#include "kiscsi_record.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The portal of a parsed url: "[v6]:port" or "v4:port", nothing else. */
static void split_portal(const char *portal, char addr[KCOPY_PORTAL_MAX], unsigned *ret_port)
{
	const char *colon = strrchr(portal, ':');
	bool is_v6 = portal[0] == '[';
	size_t n = (size_t)(colon - portal) - (is_v6 ? 2 : 0);

	memcpy(addr, portal + is_v6, n);
	addr[n] = 0;
	*ret_port = 0;
	sscanf(colon + 1, "%5u", ret_port);
}

/* A value is what stands between '=' and the end of the line, blanks at both ends cut off. */
static bool is_value(const char *text)
{
	size_t n = strlen(text);

	if (n == 0 || text[0] == ' ' || text[n - 1] == ' ')
		return false;
	for (size_t i = 0; i < n; i++)
		if (text[i] < 0x20 || text[i] > 0x7e)
			return false;
	return true;
}

void kiscsi_record_name(const struct kiscsi_target *t, char out[KCOPY_PORTAL_MAX])
{
	char addr[KCOPY_PORTAL_MAX];
	unsigned port;

	split_portal(t->url.portal, addr, &port);
	snprintf(out, KCOPY_PORTAL_MAX, "%.46s,%u", addr, port);
}

int kiscsi_record_format(const struct kiscsi_target *t, const struct kedge_chap *chap, char out[KISCSI_RECORD_MAX], struct kedge_err *err)
{
	char addr[KCOPY_PORTAL_MAX];
	unsigned port;
	int n;

	/* The kernel's initiator logs in again by itself, and only then do we look who answers: so the target must prove itself each time. */
	if (!kedge_chap_is_mutual(chap))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, KISCSI_NOT_MUTUAL);
	if (!is_value(chap->user) || !is_value(chap->secret) || !is_value(chap->mutual_user) || !is_value(chap->mutual_secret))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "a CHAP name or secret is not printable ASCII");
	split_portal(t->url.portal, addr, &port);
	n = snprintf(out, KISCSI_RECORD_MAX,
		     "# BEGIN RECORD 2.1\n"
		     "node.name = %s\n"
		     "node.startup = manual\n"
		     "node.leading_login = No\n"
		     "iface.iscsi_ifacename = default\n"
		     "iface.transport_name = tcp\n"
		     "iface.initiatorname = %s\n"
		     "node.session.auth.authmethod = CHAP\n"
		     "node.session.auth.chap_algs = MD5\n"
		     "node.session.auth.username = %s\n"
		     "node.session.auth.password = %s\n"
		     "node.session.auth.username_in = %s\n"
		     "node.session.auth.password_in = %s\n"
		     "node.session.timeo.replacement_timeout = %u\n"
		     "node.session.initial_login_retry_max = 1\n"
		     "node.session.reopen_max = 0\n"
		     "node.session.nr_sessions = 1\n"
		     "node.session.cmds_max = 128\n"
		     "node.session.queue_depth = 64\n"
		     "node.session.scan = manual\n" /* one unit is ours; what else the target offers is not looked at */
		     "node.conn[0].address = %s\n"
		     "node.conn[0].port = %u\n"
		     "node.conn[0].startup = manual\n"
		     "node.conn[0].timeo.login_timeout = 15\n"
		     "node.conn[0].timeo.logout_timeout = 5\n"
		     "node.conn[0].timeo.noop_out_interval = 5\n"
		     "node.conn[0].timeo.noop_out_timeout = 5\n"
		     "node.conn[0].iscsi.MaxRecvDataSegmentLength = 262144\n"
		     "node.conn[0].iscsi.HeaderDigest = CRC32C\n"
		     "node.conn[0].iscsi.DataDigest = CRC32C\n"
		     "# END RECORD\n",
		     t->url.iqn, t->initiator, chap->user, chap->secret, chap->mutual_user, chap->mutual_secret, KISCSI_REPLACEMENT_S, addr, port);
	return n < 0 || n >= KISCSI_RECORD_MAX ? kedge_err_set(err, -EOVERFLOW, KEDGE_SIDE_SOURCE, "the node record is too long") : 0;
}
