/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Login, watch, re-login and logout of the kernel's session, each bounded.
 *
 * Owns. The task's processes, and the page that its result comes in.
 *
 * Locks. None: the task writes the page and ends, and is read after that.
 *
 * Crash. The session stays and the clone goes on with it; the next driver finds it by its names, asks who it is, and goes on.
 */
#include "kattach.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kcopy/kcopy.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/loop.h"
#include "scsi_id.h"

#define ATTACH_MS 45000 /* login 15 s twice, the unit's disk 15 s */
#define CHECK_MS 30000
#define LOGIN_MS 35000  /* 15 s twice (kiscsi_record.c), and iscsid is done with it */
#define LOGOUT_MS 30000 /* iscsid waits 5 s for the answer, the kernel for its error handling */
#define DIE_MS 10000    /* after SIGKILL: a process that waits for a device's time-out ends within it */
#define LOOK_MS 200
#define RETRY_MIN_MS 1000
#define RETRY_MAX_MS 30000
#define LOGOUT_TRIES 2
#define SESSIONS_MAX 8

struct kattach_result {
	int code;
	bool is_foreign;   /* the unit says that it is another one */
	uint64_t login_ms; /* while iscsid is at a login: since when */
	struct kedge_err err;
	struct kiscsi_session session;
	struct kiscsi_disk disk;
};

const char *kattach_state_name(enum kattach_state s)
{
	static const char *const names[] = {"none", "logging-in", "up", "away", "checking", "refused", "ending", "ended", "wedged"};

	return names[s];
}

static uint64_t now_ms(void)
{
	return kedge_clock_ns() / 1000000;
}

/* ---- in the task ---- */

/* Ask the unit who it is. The node is opened anew each time: the size is the kernel's of now. */
static int check_identity(const struct kedge_identity *expected, const struct kiscsi_disk *d, struct kedge_err *err)
{
	struct kedge_identity found;
	int one = 1, fd = open(d->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	int r = fd < 0 ? kedge_err_set(err, -errno, KEDGE_SIDE_SOURCE, "cannot open %s: %s", d->path, strerror(errno)) : 0;

	if (r == 0 && ioctl(fd, BLKROSET, &one) < 0)
		kedge_warn("%s cannot be made read-only: %s", d->path, strerror(errno));
	if (r == 0)
		r = scsi_id_read(fd, &found, err);
	if (r == 0)
		r = kedge_identity_check(expected, &found, err);
	kedge_close(fd);
	return r;
}

static int end_sessions(const struct kiscsi_target *t, const char *but_portal, struct kedge_err *err)
{
	struct kiscsi_session s[SESSIONS_MAX];
	unsigned nr = kiscsi_sessions(t->url.iqn, t->initiator, s, SESSIONS_MAX);
	int r = 0, first = 0;

	for (unsigned i = 0; i < nr && i < SESSIONS_MAX; i++) {
		if (but_portal && strcmp(s[i].portal, but_portal) == 0)
			continue;
		r = kiscsi_logout(s[i].sid, err);
		first = first ? first : r;
	}
	return first;
}

/* The session to use: the one there is, or a new one. */
static int get_session(struct kattach *a, struct kiscsi_session *ret_session, struct kedge_err *err)
{
	struct kedge_chap chap;
	int r = end_sessions(&a->target, a->target.url.portal, err);

	if (r < 0 || kiscsi_sessions(a->target.url.iqn, a->target.initiator, ret_session, 1))
		return r;
	if (!a->chap_file[0])
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "no CHAP file: " KISCSI_NOT_MUTUAL);
	r = kedge_chap_read(a->chap_file, &chap, err);
	if (r < 0)
		return r;
	__atomic_store_n(&a->result->login_ms, now_ms(), __ATOMIC_RELEASE);
	r = kiscsi_login(&a->target, &chap, err);
	__atomic_store_n(&a->result->login_ms, 0, __ATOMIC_RELEASE);
	kedge_chap_fini(&chap);
	if (r == 0 && !kiscsi_sessions(a->target.url.iqn, a->target.initiator, ret_session, 1))
		r = kedge_err_set(err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "the session to %s ended at once", a->target.url.iqn);
	return r;
}

static int run_attach(struct kattach *a, struct kattach_result *res, struct kedge_err *err)
{
	int r = get_session(a, &res->session, err);

	if (r == 0 && !res->session.is_up)
		r = kedge_err_set(err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "iSCSI session %u waits for its target", res->session.sid);
	if (r == 0)
		r = kiscsi_set_patience(res->session.sid, KISCSI_REPLACEMENT_S, err);
	if (r == 0)
		r = kiscsi_attach_unit(res->session.sid, a->target.url.lun, &res->disk, err);
	if (r == 0) {
		r = check_identity(&a->identity, &res->disk, err);
		res->is_foreign = r == KEDGE_E_SOURCE_IDENTITY;
	}
	if (r == KEDGE_E_SOURCE_IDENTITY) /* nobody is led there */
		end_sessions(&a->target, NULL, NULL);
	return r;
}

static int run_check(struct kattach *a, struct kattach_result *res, struct kedge_err *err)
{
	if (!kiscsi_look(a->session.sid, &res->session))
		return kedge_err_set(err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "iSCSI session %u is gone", a->session.sid);
	res->disk = a->disk;
	kiscsi_set_patience(a->session.sid, KISCSI_REPLACEMENT_S, NULL); /* iscsid may have been another one meanwhile */
	return check_identity(&a->identity, &a->disk, err);
}

static void run_task(struct kattach *a, enum kattach_task task)
{
	struct kedge_err err = {0};
	sigset_t none;
	int r;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close_range(3, ~0u, 0); /* one that is stuck keeps no lock of ours */
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_NAME, "kclone-iscsi");
	r = task == KTASK_ATTACH ? run_attach(a, a->result, &err)
	    : task == KTASK_CHECK ? run_check(a, a->result, &err)
				  : end_sessions(&a->target, NULL, &err);
	a->result->err = err;
	__atomic_store_n(&a->result->code, r, __ATOMIC_RELEASE);
	_exit(0);
}

/* ---- tasks, from outside ---- */

static void start_task(struct kattach *a, enum kattach_task task, unsigned limit_ms)
{
	pid_t pid;

	*a->result = (struct kattach_result){.code = -ECANCELED};
	pid = fork();
	if (pid == 0)
		run_task(a, task);
	if (pid < 0) {
		a->retry_ms = now_ms() + RETRY_MAX_MS;
		kedge_err_set(&a->err, -errno, KEDGE_SIDE_NONE, "cannot start a process: %s", strerror(errno));
		return;
	}
	setpgid(pid, pid); /* whoever of both is first */
	a->pgid = pid;
	a->task = task;
	a->is_killed = false;
	a->deadline_ms = now_ms() + limit_ms;
}

/* Has every process of the task ended? Those that lost their parent are ours to reap (PR_SET_CHILD_SUBREAPER). */
static bool reap(struct kattach *a)
{
	pid_t pid = waitpid(-a->pgid, NULL, WNOHANG);

	while (pid > 0)
		pid = waitpid(-a->pgid, NULL, WNOHANG);
	return pid < 0 && errno == ECHILD;
}

static void wedge(struct kattach *a, const char *what)
{
	a->state = KATTACH_WEDGED;
	a->err = (struct kedge_err){0};
	kedge_err_set(&a->err, KEDGE_E_FAILED, KEDGE_SIDE_SOURCE, "wedged: %s %s: this host needs a reboot before anything attaches it again",
		      what, a->target.url.iqn);
	kedge_error("event SOURCE_WEDGED: %s", a->err.msg);
}

enum task_end { TASK_RUNS, TASK_ENDED, TASK_STUCK };

static enum task_end look_at_task(struct kattach *a, uint64_t now)
{
	if (reap(a)) {
		if (a->is_killed && a->result->code == -ECANCELED)
			kedge_err_set(&a->result->err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "%s of %s did not end in time and was killed",
				      a->task == KTASK_LOGOUT ? "the logout" : "the login", a->target.url.iqn);
		if (a->result->code == -ECANCELED)
			a->result->code = a->result->err.code ? a->result->err.code : -ECANCELED;
		a->pgid = 0;
		return TASK_ENDED;
	}
	if (now < a->deadline_ms)
		return TASK_RUNS;
	if (!a->is_killed) {
		kill(-a->pgid, SIGKILL);
		a->is_killed = true;
		a->deadline_ms = now + DIE_MS;
		return TASK_RUNS;
	}
	wedge(a, "a process that cannot be killed waits in the kernel for the target");
	a->task = KTASK_NONE;
	a->pgid = 0;
	return TASK_STUCK;
}

/* ---- what became of it ---- */

static void try_again(struct kattach *a, uint64_t now)
{
	a->backoff_ms = (unsigned)kedge_min_u64(a->backoff_ms ? a->backoff_ms * 2 : RETRY_MIN_MS, RETRY_MAX_MS);
	a->retry_ms = now + a->backoff_ms;
}

/* Said once for each text. */
static void set_err(struct kattach *a, const struct kedge_err *e)
{
	bool is_new = strcmp(a->err.msg, e->msg) != 0;

	a->err = *e;
	if (is_new)
		kedge_warn("event SOURCE_ATTACH: %s", e->msg);
}

static enum kattach_news attached(struct kattach *a, uint64_t now)
{
	const struct kattach_result *res = a->result;

	if (res->code == 0) {
		a->session = res->session;
		a->disk = res->disk;
		a->has_session = true;
		a->state = KATTACH_UP;
		if (a->is_unwatched)
			kedge_warn("event SOURCE_UNWATCHED: the iSCSI session to %s that was left is gone, or has connected again while no driver "
				   "looked: who answered there cannot be asked", a->target.url.iqn);
		a->is_suspect = a->is_unwatched = false;
		return KATTACH_NEW_DISK;
	}
	set_err(a, &res->err);
	if (res->code == KEDGE_E_SOURCE_IDENTITY || res->code == KEDGE_E_SOURCE_AUTH || res->code == -EINVAL) {
		a->state = KATTACH_REFUSED;
		return res->is_foreign && a->is_suspect ? KATTACH_DECEIVED : KATTACH_NOTHING;
	}
	try_again(a, now);
	return KATTACH_NOTHING;
}

static enum kattach_news checked(struct kattach *a, uint64_t now)
{
	const struct kattach_result *res = a->result;

	if (res->code == 0) {
		a->session.local_port = res->session.local_port;
		a->state = KATTACH_UP;
		a->err = (struct kedge_err){0};
		if (a->is_unwatched)
			kedge_warn("event SOURCE_UNWATCHED: iSCSI session %u connected again while no driver looked", a->session.sid);
		a->is_suspect = a->is_unwatched = false;
		kedge_info("source: the kernel's session %u is up again, and it is the volume", a->session.sid);
		return KATTACH_NOTHING;
	}
	set_err(a, &res->err);
	if (res->code == KEDGE_E_SOURCE_IDENTITY) {
		a->state = KATTACH_REFUSED;
		return KATTACH_DECEIVED;
	}
	a->state = KATTACH_AWAY; /* down again, or it did not answer: asked again when the session is up */
	a->look_ms = now + RETRY_MIN_MS;
	return KATTACH_NOTHING;
}

static enum kattach_news watch(struct kattach *a, uint64_t now)
{
	struct kiscsi_session s;

	if (now < a->look_ms)
		return KATTACH_NOTHING;
	a->look_ms = now + LOOK_MS;
	if (!kiscsi_look(a->session.sid, &s)) {
		a->has_session = false;
		a->state = KATTACH_LOGGING_IN;
		a->retry_ms = now;
		kedge_warn("event SOURCE_ATTACH: iSCSI session %u was ended by somebody: logging in again", a->session.sid);
		return KATTACH_LOST;
	}
	if (!s.is_up) {
		if (a->state == KATTACH_UP)
			kedge_warn("event SOURCE_AWAY: iSCSI session %u is down: reads wait for it", a->session.sid);
		a->state = KATTACH_AWAY;
		if (strcmp(s.portal, a->target.url.portal) != 0) { /* the source is elsewhere now */
			a->state = KATTACH_LOGGING_IN;
			a->retry_ms = now;
		}
		return KATTACH_NOTHING;
	}
	if (a->state == KATTACH_AWAY || s.local_port != a->session.local_port) {
		a->state = KATTACH_CHECKING;
		a->is_suspect = true;
		start_task(a, KTASK_CHECK, CHECK_MS);
	}
	return KATTACH_NOTHING;
}

/* A login elsewhere ends the old session first: from that moment on reads must not reach its disk. */
static enum kattach_news look_for_loss(struct kattach *a)
{
	struct kiscsi_session s;

	if (!a->has_session || kiscsi_look(a->session.sid, &s))
		return KATTACH_NOTHING;
	a->has_session = false;
	return KATTACH_LOST;
}

/* Log out, look, once more, the verdict. While iscsid is at a login there may be a session yet, and one that is there does not end. */
static void go_on_ending(struct kattach *a, uint64_t now)
{
	struct kiscsi_session s = {0};
	bool is_there = kiscsi_sessions(a->target.url.iqn, a->target.initiator, &s, 1) > 0;

	if (s.is_up)
		a->login_end_ms = 0; /* that was it */
	if (now < a->login_end_ms)
		return;
	if (!is_there) {
		a->state = KATTACH_ENDED;
		a->has_session = false;
		a->err = (struct kedge_err){0};
	} else if (a->nr_logouts++ < LOGOUT_TRIES) {
		start_task(a, KTASK_LOGOUT, LOGOUT_MS);
	} else {
		wedge(a, "an iSCSI session does not end, of the target");
	}
}

static enum kattach_news task_ended(struct kattach *a, enum kattach_task task, uint64_t now)
{
	uint64_t login_ms = __atomic_load_n(&a->result->login_ms, __ATOMIC_ACQUIRE);

	a->task = KTASK_NONE;
	if (login_ms) /* it was killed at that */
		a->login_end_ms = login_ms + LOGIN_MS;
	if (a->state == KATTACH_ENDING) {
		if (task == KTASK_LOGOUT && a->result->code < 0)
			set_err(a, &a->result->err);
		return KATTACH_NOTHING;
	}
	return task == KTASK_CHECK ? checked(a, now) : attached(a, now);
}

/* A logout may take its time, and the session connect anew before it: nobody asks who that is. One on its way out has no port. */
static void look_for_reconnect(struct kattach *a)
{
	struct kiscsi_session s;

	if (a->has_session && kiscsi_look(a->session.sid, &s) && s.is_up && s.local_port && s.local_port != a->session.local_port)
		a->is_suspect = true;
}

enum kattach_news kattach_step(struct kattach *a, uint64_t now)
{
	if (a->state == KATTACH_ENDING)
		look_for_reconnect(a);
	if (a->task != KTASK_NONE) {
		enum kattach_task task = a->task;
		if (look_at_task(a, now) == TASK_ENDED)
			return task_ended(a, task, now);
		return task == KTASK_ATTACH && a->state == KATTACH_LOGGING_IN ? look_for_loss(a) : KATTACH_NOTHING;
	}
	switch (a->state) {
	case KATTACH_LOGGING_IN:
		if (now >= a->retry_ms)
			start_task(a, KTASK_ATTACH, ATTACH_MS);
		return KATTACH_NOTHING;
	case KATTACH_UP:
	case KATTACH_AWAY:
	case KATTACH_CHECKING: /* its task could not be started */
		return watch(a, now);
	case KATTACH_ENDING:
		go_on_ending(a, now);
		return KATTACH_NOTHING;
	default:
		return KATTACH_NOTHING;
	}
}

/* ---- beginning and end ---- */

int kattach_init(struct kattach *a, const struct kedge_identity *identity, const char *initiator, struct kedge_err *err)
{
	*a = (struct kattach){.identity = *identity};
	a->result = mmap(NULL, sizeof *a->result, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (a->result == MAP_FAILED) {
		a->result = NULL;
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot make shared memory: %s", strerror(errno));
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	return kcopy_initiator_iqn(initiator && initiator[0] ? initiator : NULL, a->target.initiator, err);
}

int kattach_aim(struct kattach *a, const char *url, const char *chap_file, struct kedge_err *err)
{
	int r = kcopy_url_parse(url, &a->target.url, err);

	if (r == 0)
		snprintf(a->chap_file, sizeof a->chap_file, "%s", chap_file);
	return r;
}

/* What a reconnect would set going is gone through from the beginning: the unit is asked as soon as the session is up. */
void kattach_take_over(struct kattach *a, const struct kiscsi_session *s, const struct kiscsi_disk *d, bool is_known)
{
	a->session = *s;
	a->disk = *d;
	a->has_session = true;
	a->is_suspect = true;
	a->is_unwatched = !is_known;
	a->state = KATTACH_AWAY;
}

void kattach_suspect(struct kattach *a, bool is_known)
{
	a->is_suspect = true;
	a->is_unwatched = !is_known;
}

void kattach_used(struct kattach *a)
{
	a->err = (struct kedge_err){0};
	a->backoff_ms = 0;
	kedge_info("source: the kernel's session %u is up, %s is the volume", a->session.sid, a->disk.path);
}

void kattach_fail(struct kattach *a, const struct kedge_err *e, uint64_t now)
{
	a->state = KATTACH_LOGGING_IN;
	set_err(a, e);
	try_again(a, now);
}

void kattach_go(struct kattach *a)
{
	if (a->state != KATTACH_NONE && a->state != KATTACH_REFUSED && a->state != KATTACH_LOGGING_IN)
		return;
	a->state = KATTACH_LOGGING_IN;
	a->retry_ms = 0;
	a->backoff_ms = 0;
}

bool kattach_is_sure(struct kattach *a)
{
	struct kiscsi_session s;

	return a->state == KATTACH_UP && kiscsi_look(a->session.sid, &s) && s.is_up && s.local_port == a->session.local_port;
}

enum kattach_news kattach_ask(struct kattach *a)
{
	const struct timespec t = {.tv_nsec = 20000000};
	enum kattach_news news = kattach_step(a, now_ms());

	/* the task has a deadline */
	while (news == KATTACH_NOTHING && a->state == KATTACH_CHECKING && a->task != KTASK_NONE) {
		nanosleep(&t, NULL);
		news = kattach_step(a, now_ms());
	}
	return news;
}

bool kattach_is_settled(struct kattach *a)
{
	struct kiscsi_session s;

	/* one that is down may connect at any moment and be somebody else's */
	return !a->is_suspect && (!a->has_session || !kiscsi_look(a->session.sid, &s) || (s.is_up && s.local_port == a->session.local_port));
}

static bool is_over(const struct kattach *a)
{
	return a->state == KATTACH_ENDED || a->state == KATTACH_WEDGED;
}

/* Nobody waits for it any more; but of a login we have to see the end. */
static void give_up_task(struct kattach *a)
{
	uint64_t login_ms = __atomic_load_n(&a->result->login_ms, __ATOMIC_ACQUIRE);

	if (a->task == KTASK_NONE || a->is_killed)
		return;
	if (login_ms) {
		a->deadline_ms = kedge_min_u64(a->deadline_ms, login_ms + LOGIN_MS);
		return;
	}
	kill(-a->pgid, SIGKILL);
	a->is_killed = true;
	a->deadline_ms = now_ms() + DIE_MS;
}

bool kattach_end(struct kattach *a, unsigned wait_ms)
{
	const struct timespec t = {.tv_nsec = 20000000};
	uint64_t give_up_ms = now_ms() + wait_ms;

	if (!is_over(a) && a->state != KATTACH_ENDING) {
		a->state = KATTACH_ENDING;
		a->nr_logouts = 0;
		give_up_task(a);
	}
	kattach_step(a, now_ms());
	while (!is_over(a) && now_ms() < give_up_ms) {
		nanosleep(&t, NULL);
		kattach_step(a, now_ms());
	}
	return a->state == KATTACH_ENDED;
}

void kattach_fini(struct kattach *a)
{
	if (a->result)
		munmap(a->result, sizeof *a->result);
	a->result = NULL;
}

int kattach_check(const struct uclone_create_opts *o, struct kedge_err *err)
{
	struct kedge_chap chap;
	struct kcopy_url u;
	int r = kiscsi_probe(err);

	if (r == 0)
		r = kcopy_url_parse(o->source_url, &u, err);
	if (r == 0 && kedge_uuid_is_null(&o->source.volume))
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE,
				  "the kernel's initiator needs a source that says who it is (a serial number UUID.EPOCH)");
	if (r < 0 || !o->chap_file[0])
		return r;
	r = kedge_chap_read(o->chap_file, &chap, err);
	if (r == 0 && !kedge_chap_is_mutual(&chap))
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_SOURCE, "%s: " KISCSI_NOT_MUTUAL, o->chap_file);
	kedge_chap_fini(&chap);
	return r;
}

int kattach_open_left(struct kattach *a, const char *meta, const struct uclone_create_opts *o, struct kedge_err *err)
{
	char url[UCLONE_URL_MAX], chap_file[UCLONE_PATH_MAX] = "";
	int r;

	*a = (struct kattach){0};
	snprintf(url, sizeof url, "%s", o->source_url);
	clone_recall_source(meta, url, chap_file);
	if (strncmp(url, "iscsi:", 6) != 0)
		return -ENOENT;
	r = kattach_init(a, &o->source, o->initiator_iqn, err);
	return r < 0 ? r : kattach_aim(a, url, chap_file, err);
}

void kattach_end_left(const char *meta, const struct uclone_create_opts *o, bool is_killed)
{
	struct kedge_err err = {0};
	struct kiscsi_session s;
	struct kattach a;
	int r = kattach_open_left(&a, meta, o, &err);

	if (r == 0 && is_killed && !kiscsi_sessions(a.target.url.iqn, a.target.initiator, &s, 1))
		a.login_end_ms = now_ms() + LOGIN_MS;
	if (r == 0)
		kattach_end(&a, KATTACH_END_MS);
	else if (r != -ENOENT)
		kedge_error("%s", err.msg);
	kattach_fini(&a);
}
