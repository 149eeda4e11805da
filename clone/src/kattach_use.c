/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Joins the kernel's session (kattach.c) and the devices of the clone (dm_stack.c) for the driver.
 *
 * Owns. What the record says of the disk that the clone is led to (uc_super.dm_is_led). META.source at the end of a finished clone.
 *
 * Locks. None: the driver's thread; what the worker says comes through struct dm_share.
 *
 * Crash. The device below the clone stays where it leads. It is recorded before it is led to a disk, and forgotten after nothing can be read
 * there any more: so the next driver knows that the kernel may have gone on alone, asks the disk who it is before it goes on hydrating, and
 * takes another volume for one that was read. Of the connection it is recorded after it was asked: too little is one event too many.
 */
#include "kattach_use.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kedge/file.h"
#include "kedge/log.h"

#define LEFT_MAX 8
#define LEAVE_MS 3000 /* a session that is up has answered by then */

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
static bool find_left(const struct kattach_use *u, struct kiscsi_session *ret_session, struct kiscsi_disk *ret_disk)
{
	struct kiscsi_session s[LEFT_MAX];
	unsigned nr = kiscsi_sessions(u->a.target.url.iqn, u->a.target.initiator, s, LEFT_MAX);

	for (unsigned i = 0; i < nr && i < LEFT_MAX; i++) {
		if (kiscsi_find_disk(s[i].sid, u->a.target.url.lun, ret_disk) < 0 || !dm_stack_is_source(u->st, ret_disk->number))
			continue;
		*ret_session = s[i];
		return true;
	}
	return false;
}

/* ---- the record ---- */

/* This session, and this connection of it? */
static bool is_recorded(const struct kattach_use *u, const struct kiscsi_session *c)
{
	const struct uc_super *s = &u->rec->super;

	return s->dm_is_led && c->sid == s->dm_led_sid && c->local_port == s->dm_led_port;
}

/* Somebody took the devices away, and the connection that was asked is still there. */
static bool is_still_connected(const struct kattach_use *u)
{
	struct kiscsi_session s[LEFT_MAX];
	unsigned nr = kiscsi_sessions(u->a.target.url.iqn, u->a.target.initiator, s, LEFT_MAX);
	bool is_there = false;

	for (unsigned i = 0; i < nr && i < LEFT_MAX; i++)
		is_there = is_there || (s[i].is_up && is_recorded(u, &s[i]));
	return is_there;
}

static int record_led(struct kattach_use *u, struct kedge_err *err)
{
	struct uc_super *s = &u->rec->super, before = *s;
	int r;

	if (is_recorded(u, &u->a.session))
		return 0;
	s->dm_is_led = true;
	s->dm_led_sid = u->a.session.sid;
	s->dm_led_port = u->a.session.local_port;
	r = dm_record_write(u->rec, err);
	if (r < 0) {
		s->dm_is_led = before.dm_is_led;
		s->dm_led_sid = before.dm_led_sid;
		s->dm_led_port = before.dm_led_port;
	}
	return r;
}

static void forget(struct uc_super *s)
{
	s->dm_is_led = false;
	s->dm_led_sid = s->dm_led_port = 0;
}

/* The kernel may have gone on alone since the driver before us: its session is ours to ask, or gone. */
static bool take_over(struct kattach_use *u)
{
	struct kiscsi_session session;
	struct kiscsi_disk disk;

	if (find_left(u, &session, &disk)) {
		kattach_take_over(&u->a, &session, &disk, session.is_up && is_recorded(u, &session));
		return true;
	}
	if (u->rec->super.dm_is_led)
		kattach_suspect(&u->a, is_still_connected(u));
	return false;
}

/* ---- the device below the clone ---- */

static bool lead(struct kattach_use *u, uint64_t now_ms)
{
	struct kedge_err err = {0};
	int r = record_led(u, &err);

	u->is_left = false;
	if (r == 0)
		r = dm_stack_lead_source(u->st, u->a.disk.number, &err);
	if (r < 0) {
		kedge_err_prefix(&err, "%s is the volume, and the clone cannot have it", u->a.disk.path);
		kattach_fail(&u->a, &err, now_ms);
	}
	return r == 0;
}

/* The session is gone, and with it what was in flight. Once it waits and everything that answered is known, there is nothing to ask. */
static void lost(struct kattach_use *u)
{
	struct kedge_err err = {0};
	int r = dm_stack_hold_source(u->st, &err);

	if (r == 0 && kattach_is_settled(&u->a) && u->rec->super.dm_is_led) {
		forget(&u->rec->super);
		r = dm_record_write(u->rec, &err);
	}
	if (r < 0)
		kedge_error("%s", err.msg);
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

	*u = (struct kattach_use){.rec = rec, .st = st, .m = m};
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
	u->is_left = take_over(u);
	if (!u->is_left) {
		hold(u);
		if (u->is_recalled) /* a worker verified it there: no need to wait for the next one */
			kattach_go(&u->a);
	}
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

/* Of a clone that stands alone nobody has to know any more where its source was, once nothing is left there. */
static void forget_place(const struct kattach_use *u)
{
	char path[UCLONE_PATH_MAX + 16];

	if (!u->is_ending || u->a.state != KATTACH_ENDED || u->rec->super.state != UCLONE_HYDRATED)
		return;
	snprintf(path, sizeof path, "%s.source", u->rec->meta);
	unlink(path);
}

bool kattach_use_step(struct kattach_use *u, uint64_t now_ms)
{
	bool is_deceived = false;

	if (!u->is_used)
		return false;
	listen_to_worker(u);
	switch (kattach_step(&u->a, now_ms)) {
	case KATTACH_NEW_DISK:
		if (lead(u, now_ms))
			kattach_used(&u->a);
		break;
	case KATTACH_LOST:
		lost(u);
		break;
	case KATTACH_DECEIVED:
		is_deceived = true;
		break;
	case KATTACH_NOTHING:
		/* it has connected again, and was asked; or it was left, and perhaps its reads wait */
		if (u->a.state == KATTACH_UP && (u->is_left || !is_recorded(u, &u->a.session)))
			lead(u, now_ms);
		break;
	}
	publish(u);
	forget_place(u);
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
	if (!u->is_ending)
		u->is_settled = kattach_is_settled(&u->a);
	u->is_ending = true;
	kattach_end(&u->a, 0);
	publish(u);
	kattach_end(&u->a, wait_ms);
	publish(u);
	forget_place(u);
}

void kattach_use_forget(struct kattach_use *u)
{
	if (u->is_used && u->is_ending && u->is_settled && !u->a.is_suspect)
		forget(&u->rec->super);
}

/* ---- another way to the source, or none ---- */

/* What the last driver's session may have connected to meanwhile, where there is somebody to ask. */
static int settle(struct kattach_use *u, struct kedge_err *err)
{
	if (take_over(u) && kattach_ask(&u->a) == KATTACH_DECEIVED)
		return kedge_err_set(err, KEDGE_E_SOURCE_IDENTITY, KEDGE_SIDE_SOURCE, "%s", u->a.err.msg);
	if (!kattach_is_settled(&u->a))
		kedge_warn("event SOURCE_UNWATCHED: the last iSCSI session to %s cannot be asked any more who answered there: %s",
			   u->a.target.url.iqn, u->a.err.msg[0] ? u->a.err.msg : "it is gone, or its target is away");
	return 0;
}

/* A session that is up answers what is in flight; of one that is dead it fails when that is logged out, and not before. */
static int free_source(struct kattach_use *u, struct kedge_err *err)
{
	struct kedge_err why = {0};
	int r = dm_stack_hold_source_within(u->st, LEAVE_MS, &why);

	if (r != -ETIMEDOUT)
		return r < 0 ? kedge_err_set(err, r, why.side, "%s", why.msg) : 0;
	if (kattach_end(&u->a, KATTACH_END_MS))
		return 0;
	return kedge_err_set(err, KEDGE_E_FAILED, KEDGE_SIDE_SOURCE, "%s", u->a.err.msg);
}

int kattach_use_leave(struct dm_record *rec, struct kedge_err *err)
{
	const struct uclone_create_opts *o = &rec->super.opts;
	struct dm_stack st = {.rec = rec, .nr_sectors = o->source.size_bytes / 512};
	struct kattach_use u = {.rec = rec, .st = &st};
	struct kedge_err why = {0};
	int r = kattach_open_left(&u.a, rec->meta, o, &why);

	dm_stack_names(&o->migration, st.top, st.clone, st.source);
	if (r == 0)
		r = settle(&u, &why);
	if (r == 0)
		r = free_source(&u, &why);
	kattach_fini(&u.a);
	if (r == -ENOENT)
		r = 0;
	if (r == 0)
		forget(&rec->super);
	else if (err)
		*err = why;
	return r;
}

int kattach_use_refuse(const struct uclone_create_opts *o, struct kedge_err *err)
{
	struct kedge_err why = {0};

	if (dm_stack_give_up(&o->migration, o->source.size_bytes / 512, &why) < 0)
		kedge_error("%s", why.msg);
	return kedge_err_set(err, KEDGE_E_SOURCE_IDENTITY, KEDGE_SIDE_SOURCE, DM_RECORD_DECEIVED);
}
