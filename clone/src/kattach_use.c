/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Joins the kernel's session (kattach.c) and the devices of the clone (dm_stack.c) for the driver.
 *
 * Owns. Nothing of its own.
 *
 * Locks. None: the driver's thread; what the worker says comes through struct dm_share.
 *
 * Crash. The device below the clone stays where it leads; the next driver asks the disk who it is before it goes on hydrating.
 */
#include "kattach_use.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "kedge/file.h"
#include "kedge/log.h"

static void publish(struct kattach_use *u)
{
	snprintf(u->m->attach_disk, sizeof u->m->attach_disk, "%s", u->a.has_session ? u->a.disk.path : "");
	snprintf(u->m->attach_text, sizeof u->m->attach_text, "%.250s", u->a.err.msg);
	__atomic_store_n(&u->m->attach_state, u->a.state, __ATOMIC_RELEASE);
}

static void hold(struct kattach_use *u)
{
	struct kedge_err err = {0};

	if (dm_stack_hold_source(u->st, &err) < 0)
		kedge_error("%s", err.msg);
}

/* Is what lies below the clone the disk of a session of our target? Asked of the kernel's tree only. */
static bool is_left_by_a_driver(const struct kattach_use *u)
{
	struct kiscsi_session s;
	struct kiscsi_disk d;

	return kiscsi_sessions(u->a.target.url.iqn, u->a.target.initiator, &s, 1) &&
	       kiscsi_find_disk(s.sid, u->a.target.url.lun, &d) == 0 && dm_stack_is_source(u->st, d.number);
}

/* A destination with smaller blocks than the source: the clone's would be those, for it is made before the source's disk is there. */
static int check_blocks(const struct uclone_create_opts *o, struct kedge_err *err)
{
	int fd = open(o->dest_path, O_RDONLY | O_CLOEXEC), r = fd < 0 ? -errno : 0;
	uint64_t size_bytes;
	uint32_t lbs_bytes;
	struct stat st;

	if (r == 0 && fstat(fd, &st) == 0 && S_ISBLK(st.st_mode)) { /* a file's loop device gets the source's */
		r = kedge_file_geometry(fd, &size_bytes, &lbs_bytes, NULL);
		if (r == 0 && lbs_bytes < o->source.lbs_bytes)
			r = -EINVAL;
	}
	kedge_close(fd);
	if (r == -EINVAL)
		return kedge_err_set(err, r, KEDGE_SIDE_DESTINATION,
				     "%s has smaller blocks than the source (%u bytes): use --source-attach feed, or another destination",
				     o->dest_path, o->source.lbs_bytes);
	return r < 0 ? kedge_err_set(err, r, KEDGE_SIDE_DESTINATION, "%s: %s", o->dest_path, strerror(-r)) : 0;
}

int kattach_use_init(struct kattach_use *u, struct dm_record *rec, struct dm_stack *st, struct dm_share *m, struct kedge_err *err)
{
	const struct uclone_create_opts *o = &rec->super.opts;
	char url[UCLONE_URL_MAX], chap_file[UCLONE_PATH_MAX];
	int r = check_blocks(o, err);

	*u = (struct kattach_use){.st = st, .m = m};
	if (r == 0)
		r = kattach_init(&u->a, &o->source, o->initiator_iqn, err);
	snprintf(url, sizeof url, "%s", o->source_url);
	snprintf(chap_file, sizeof chap_file, "%s", o->chap_file);
	u->is_recalled = clone_recall_source(rec->meta, url, chap_file);
	if (r == 0)
		r = kattach_aim(&u->a, url, chap_file, err);
	u->is_used = r == 0;
	return r;
}

void kattach_use_start(struct kattach_use *u)
{
	if (!u->is_used)
		return;
	u->m->is_kernel_attach = 1;
	if (!is_left_by_a_driver(u))
		hold(u);
	if (u->is_recalled) /* a worker verified it there: no need to wait for the next one */
		kattach_go(&u->a);
	publish(u);
}

/* The worker's source is up somewhere. */
static void listen_to_worker(struct kattach_use *u)
{
	uint64_t nr = __atomic_load_n(&u->m->attach_nr, __ATOMIC_ACQUIRE);
	char url[UCLONE_URL_MAX], chap_file[UCLONE_PATH_MAX];
	struct kedge_err err = {0};

	if (nr == u->seen_nr)
		return;
	memcpy(url, u->m->attach_url, sizeof url);
	memcpy(chap_file, u->m->attach_chap_file, sizeof chap_file);
	url[sizeof url - 1] = chap_file[sizeof chap_file - 1] = 0;
	if (__atomic_load_n(&u->m->attach_nr, __ATOMIC_ACQUIRE) != nr)
		return; /* being written: the next round */
	u->seen_nr = nr;
	if (kattach_aim(&u->a, url, chap_file, &err) < 0)
		kedge_error("%s", err.msg);
	else
		kattach_go(&u->a);
}

bool kattach_use_step(struct kattach_use *u, uint64_t now_ms)
{
	bool is_deceived = false;
	struct kedge_err err = {0};

	if (!u->is_used)
		return false;
	listen_to_worker(u);
	switch (kattach_step(&u->a, now_ms)) {
	case KATTACH_NEW_DISK:
		if (dm_stack_lead_source(u->st, u->a.disk.number, &err) < 0)
			kedge_error("%s", err.msg);
		break;
	case KATTACH_LOST:
		hold(u);
		break;
	case KATTACH_DECEIVED:
		is_deceived = true;
		break;
	case KATTACH_NOTHING:
		break;
	}
	publish(u);
	return is_deceived;
}

void kattach_use_prove(struct kattach_use *u)
{
	if (u->is_used && !u->is_proven)
		u->is_proven = kattach_is_sure(&u->a);
}

int kattach_use_is_proven(const struct kattach_use *u, struct kedge_err *err)
{
	if (!u->is_used || u->is_proven)
		return 0;
	return kedge_err_set(err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE,
			     "the kernel's session was away when the last blocks came, and has to come back once, to show that it is the volume");
}

void kattach_use_end(struct kattach_use *u, unsigned wait_ms)
{
	if (!u->is_used)
		return;
	u->m->is_kernel_attach = 1;
	kattach_end(&u->a, wait_ms);
	publish(u);
}
