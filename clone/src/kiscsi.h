/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_KISCSI_H
#define KCLONE_KISCSI_H

/*
 * The kernel's iSCSI initiator. kiscsi.c is the only file that knows open-iscsi and the kernel's sysfs tree of sessions. Sessions are known by
 * the exact names of target and initiator and disks by their session, never by a prefix or a path under /dev/disk; nothing is ever
 * discovered. What blocks says so: it may sleep in the kernel without end, and runs only in a process that may be given up (kattach.c).
 */

#include "kiscsi_record.h"

#define KISCSI_DISK_PATH_MAX 64

/* Is there what a login needs? KEDGE_E_STATE with one line: no iscsiadm, iscsid does not run. */
int kiscsi_probe(struct kedge_err *err);

struct kiscsi_session {
	unsigned sid;
	bool is_up;
	unsigned local_port; /* another one: it has connected again */
	char portal[KCOPY_PORTAL_MAX]; /* as in a url */
};
/* Sessions of this target and initiator. How many there are; at most nr_max are told. */
unsigned kiscsi_sessions(const char *iqn, const char *initiator, struct kiscsi_session *sessions, unsigned nr_max);
/* false: there is no such session (any more). */
bool kiscsi_look(unsigned sid, struct kiscsi_session *ret_session);

struct kiscsi_disk {
	char path[KISCSI_DISK_PATH_MAX]; /* "/dev/sda" */
	char number[32];                 /* "major:minor" */
};
/* The disk of a unit that the kernel has already. -ENODEV. */
int kiscsi_find_disk(unsigned sid, int lun, struct kiscsi_disk *ret_disk);

/* Blocks. Log in to this target and no other; the session is up and its unit not yet looked for. Secrets go to iscsiadm in a file that no other
 * process sees. KEDGE_E_SOURCE_AUTH, _AWAY, _STATE (no open-iscsi). */
int kiscsi_login(const struct kiscsi_target *t, const struct kedge_chap *chap, struct kedge_err *err);
/* Blocks. Find the unit, and that one alone, among those of the target, and its node in /dev. */
int kiscsi_attach_unit(unsigned sid, int lun, struct kiscsi_disk *ret_disk, struct kedge_err *err);
/* I/O waits so long for a session that is down; what iscsid thinks after a restart of its own does not change it. */
int kiscsi_set_patience(unsigned sid, unsigned seconds, struct kedge_err *err);
/* Blocks. Log out, whatever the target does; 0 when the session is gone. What is in flight fails. */
int kiscsi_logout(unsigned sid, struct kedge_err *err);

#endif
