/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_KISCSI_RECORD_H
#define KCLONE_KISCSI_RECORD_H

/* Pure. What open-iscsi is told of a target: a node record (docs/formats.md, "Node record"). */

#include "kcopy/url.h"
#include "kedge/chapfile.h"
#include "kedge/err.h"
#include "kedge/name.h"

struct kiscsi_target {
	struct kcopy_url url;
	char initiator[KEDGE_IQN_MAX + 1]; /* our name */
};

#define KISCSI_RECORD_MAX 4096
#define KISCSI_REPLACEMENT_S 86400
#define KISCSI_NOT_MUTUAL \
	"the kernel's initiator needs mutual-user and mutual-secret, for it reconnects by itself, and only they prove the target"

/* The record's text, with the secrets in it. -EINVAL: without a mutual secret, or with a name or secret that a line of it cannot hold. */
int kiscsi_record_format(const struct kiscsi_target *t, const struct kedge_chap *chap, char out[KISCSI_RECORD_MAX], struct kedge_err *err);
/* "10.0.0.1,3260", "fd00::1,3260": how open-iscsi calls the record's file. */
void kiscsi_record_name(const struct kiscsi_target *t, char out[KCOPY_PORTAL_MAX]);

#endif
