/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a driver does with a session of the kernel's initiator: kattach.c and kattach_use.c as they ship, over sessions, devices and a record that
 * are the test's. The tasks are processes, as they ship too: what they see is in shared memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kattach_use.h"
#include "kedge/log.h"
#include "kedge/loop.h"
#include "scsi_id.h"
#include "trace.h"

#define URL "iscsi://127.0.0.1:3260/iqn.2026-01.k:x/1"
#define STEPS_MAX 5000 /* of a millisecond and more */

static struct {
	struct kiscsi_session s; /* sid 0: there is none */
	uint64_t epoch;          /* of the volume that answers */
	bool has_no_unit, is_login_slow, is_login_refused, is_logout_slow;
	bool is_logging_in; /* the task's word */
	unsigned nr_looks;
	unsigned last_sid;
} *w;

static struct {
	char number[32]; /* what the source leads to */
	bool is_held;
	int lead_res, hold_res, record_res;
	unsigned nr_unwatched; /* so often that was said */
} k;

void kedge_log(enum kedge_log_level level, const char *fmt, ...)
{
	va_list ap;

	(void)level;
	k.nr_unwatched += strstr(fmt, "SOURCE_UNWATCHED") != NULL;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

/* ---- the kernel's sessions ---- */

unsigned kiscsi_sessions(const char *iqn, const char *initiator, struct kiscsi_session *sessions, unsigned nr_max)
{
	(void)iqn;
	(void)initiator;
	w->nr_looks++;
	if (w->s.sid && nr_max)
		sessions[0] = w->s;
	return w->s.sid != 0;
}

bool kiscsi_look(unsigned sid, struct kiscsi_session *ret_session)
{
	*ret_session = w->s;
	return w->s.sid == sid;
}

static struct kiscsi_disk disk_of(unsigned sid)
{
	struct kiscsi_disk d = {.path = "/dev/null"};

	snprintf(d.number, sizeof d.number, "8:%u", sid);
	return d;
}

int kiscsi_find_disk(unsigned sid, int lun, struct kiscsi_disk *ret_disk)
{
	(void)lun;
	*ret_disk = disk_of(sid);
	return w->s.sid == sid ? 0 : -ENODEV;
}

int kiscsi_attach_unit(unsigned sid, int lun, struct kiscsi_disk *ret_disk, struct kedge_err *err)
{
	if (w->has_no_unit)
		return kedge_err_set(err, KEDGE_E_SOURCE_IDENTITY, KEDGE_SIDE_SOURCE, "no such unit");
	return kiscsi_find_disk(sid, lun, ret_disk);
}

/* iscsid: the next session, whoever waits for it. */
static void log_in(void)
{
	w->s = (struct kiscsi_session){.sid = ++w->last_sid + 10, .is_up = true, .local_port = 500, .portal = "127.0.0.1:3260"};
}

int kiscsi_login(const struct kiscsi_target *t, const struct kedge_chap *chap, struct kedge_err *err)
{
	(void)t;
	(void)chap;
	w->is_logging_in = true;
	if (!w->is_login_slow)
		log_in();
	for (unsigned i = 0; i < STEPS_MAX && !w->s.sid && !w->is_login_refused; i++)
		usleep(1000);
	return w->s.sid ? 0 : kedge_err_set(err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "no");
}

int kiscsi_logout(unsigned sid, struct kedge_err *err)
{
	(void)err;
	for (unsigned i = 0; i < STEPS_MAX && w->is_logout_slow; i++)
		usleep(1000);
	if (w->s.sid == sid)
		w->s.sid = 0;
	return 0;
}

int kiscsi_set_patience(unsigned sid, unsigned seconds, struct kedge_err *err)
{
	(void)sid;
	(void)seconds;
	(void)err;
	return 0;
}

int kiscsi_probe(struct kedge_err *err)
{
	(void)err;
	return 0;
}

static const struct kedge_identity volume = {.volume = {{1}}, .epoch = 7, .size_bytes = 64 << 20, .lbs_bytes = 512};

int scsi_id_read(int fd, struct kedge_identity *ret_identity, struct kedge_err *err)
{
	(void)fd;
	(void)err;
	*ret_identity = volume;
	ret_identity->epoch = w->epoch;
	return 0;
}

/* ---- devices and record ---- */

void dm_stack_names(const struct kedge_uuid *migration, char top[DMDEV_NAME_MAX], char clone[DMDEV_NAME_MAX], char source[DMDEV_NAME_MAX])
{
	(void)migration;
	strcpy(top, "kedge-x");
	strcpy(clone, "kedge-x.clone");
	strcpy(source, "kedge-x.source");
}

int dm_stack_hold_source(const struct dm_stack *st, struct kedge_err *err)
{
	(void)st;
	(void)err;
	trace_add("hold");
	k.is_held = true;
	return 0;
}

int dm_stack_hold_source_within(const struct dm_stack *st, unsigned max_ms, struct kedge_err *err)
{
	(void)st;
	(void)max_ms;
	trace_add("hold within");
	k.is_held = k.hold_res == 0;
	return k.hold_res < 0 ? kedge_err_set(err, k.hold_res, KEDGE_SIDE_NONE, "it does not rest") : 0;
}

int dm_stack_lead_source(const struct dm_stack *st, const char *number, struct kedge_err *err)
{
	(void)st;
	trace_add("lead");
	if (k.lead_res < 0)
		return kedge_err_set(err, k.lead_res, KEDGE_SIDE_NONE, "somebody has it");
	strcpy(k.number, number);
	k.is_held = false;
	return 0;
}

bool dm_stack_is_source(const struct dm_stack *st, const char *number)
{
	(void)st;
	return strcmp(k.number, number) == 0;
}

int dm_stack_give_up(const struct kedge_uuid *migration, uint64_t nr_sectors, struct kedge_err *err)
{
	(void)migration;
	(void)nr_sectors;
	(void)err;
	trace_add("give up");
	return 0;
}

int dm_record_write(struct dm_record *rec, struct kedge_err *err)
{
	trace_add("record %s", rec->super.dm_is_led ? "led" : "not led");
	return k.record_res < 0 ? kedge_err_set(err, k.record_res, KEDGE_SIDE_METADATA, "no") : 0;
}

/* ---- the driver ---- */

static char chap_file[64];
static struct dm_record rec;
static struct dm_stack st;
static struct dm_share share;
static struct kattach_use u;

bool clone_recall_source(const char *meta, char url[UCLONE_URL_MAX], char chap[UCLONE_PATH_MAX])
{
	(void)meta;
	strcpy(url, URL);
	strcpy(chap, chap_file);
	return true;
}

static int set_up(void **state)
{
	(void)state;
	memset(w, 0, sizeof *w);
	w->epoch = 7;
	memset(&k, 0, sizeof k);
	rec = (struct dm_record){.super = {.state = UCLONE_LIVE, .dm_region_bytes = 65536}};
	rec.super.opts.source = volume;
	strcpy(rec.super.opts.source_url, URL);
	strcpy(rec.super.opts.dest_path, "/dev/null");
	strcpy(rec.super.opts.initiator_iqn, "iqn.2026-01.k:clone");
	st = (struct dm_stack){.rec = &rec};
	memset(&share, 0, sizeof share);
	trace[0] = 0;
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	if (u.a.task != KTASK_NONE)
		kill(-u.a.pgid, SIGKILL);
	kattach_fini(&u.a);
	return 0;
}

/* Session 1, and what the driver before recorded of it. */
static void left_by_a_driver(unsigned port, unsigned recorded_port)
{
	w->s = (struct kiscsi_session){.sid = 1, .is_up = true, .local_port = port, .portal = "127.0.0.1:3260"};
	strcpy(k.number, "8:1");
	rec.super.dm_is_led = true;
	rec.super.dm_led_sid = 1;
	rec.super.dm_led_port = recorded_port;
}

static void start(void)
{
	struct kedge_err err = {0};

	if (kattach_use_init(&u, &rec, &st, &share, &err) < 0)
		fail_msg("%s", err.msg);
	kattach_use_start(&u);
}

static bool step(void)
{
	usleep(1000);
	return kattach_use_step(&u, kedge_clock_ns() / 1000000);
}

/* Until it is in this state. true: on the way it was deceived. */
static bool step_until(enum kattach_state s)
{
	bool is_deceived = false;
	unsigned i = 0;

	for (; i < STEPS_MAX && u.a.state != s; i++)
		is_deceived |= step();
	if (u.a.state != s)
		fail_msg("%s, not %s: %s", kattach_state_name(u.a.state), kattach_state_name(s), u.a.err.msg);
	return is_deceived;
}

static void step_until_led(void)
{
	for (unsigned i = 0; i < STEPS_MAX && !strstr(trace, "lead"); i++)
		step();
	assert_non_null(strstr(trace, "lead"));
}

/* ---- tests ---- */

static void test_record_keeps_what_was_led(void **state)
{
	struct uc_super in = {.id = {{3}}, .dest_size_bytes = 64 << 20, .dm_region_bytes = 65536, .dm_is_led = true, .dm_led_sid = 0x12345678,
			      .dm_led_port = 0x9abcdef0, .opts = {.source = volume}};
	struct uc_super out;
	uint8_t b[UC_SUPER_BYTES];

	(void)state;
	uc_super_encode(&in, b);
	assert_int_equal(uc_super_decode(b, &out), 0);
	assert_true(out.dm_is_led && !out.dm_was_deceived);
	assert_int_equal(out.dm_led_sid, 0x12345678);
	assert_int_equal(out.dm_led_port, 0x9abcdef0);
}

static void test_first_login_is_recorded_before_it_is_used(void **state)
{
	(void)state;
	start();
	assert_string_equal(trace, "hold");
	assert_false(step_until(KATTACH_UP));
	assert_string_equal(trace, "hold, record led, lead");
	assert_int_equal(rec.super.dm_led_sid, w->s.sid);
	assert_int_equal(rec.super.dm_led_port, 500);
}

static void test_first_login_finds_another_volume(void **state)
{
	(void)state;
	w->epoch = 8;
	start();
	assert_false(step_until(KATTACH_REFUSED)); /* nothing was read there */
	assert_string_equal(trace, "hold");
	assert_int_equal(w->s.sid, 0);
}

/* The kernel went on alone: whoever answers now is taken for who answered then. */
static void test_left_session_became_another_volume(void **state)
{
	(void)state;
	left_by_a_driver(200, 100);
	w->epoch = 8;
	start();
	assert_true(step_until(KATTACH_REFUSED));
	assert_non_null(strstr(u.a.err.msg, ".8"));
	assert_true(rec.super.dm_is_led);
}

static void test_left_session_became_another_volume_in_its_connection(void **state)
{
	(void)state;
	left_by_a_driver(100, 100);
	w->epoch = 8;
	start();
	assert_true(step_until(KATTACH_REFUSED));
}

static void test_left_session_is_gone_and_another_volume_answers(void **state)
{
	(void)state;
	left_by_a_driver(100, 100);
	w->s.sid = 0;
	w->epoch = 8;
	start();
	assert_true(step_until(KATTACH_REFUSED));
}

/* Who answered there is not known, and that is said once; nothing is where its connection is the one that was asked. */
static void test_left_session_is_gone_and_the_volume_answers(void **state)
{
	(void)state;
	left_by_a_driver(100, 100);
	w->s.sid = 0;
	start();
	assert_false(step_until(KATTACH_UP));
	assert_int_equal(k.nr_unwatched, 1);
	assert_true(kattach_is_settled(&u.a));
	w->s.sid = 0;
	u.a.look_ms = 0;
	step_until(KATTACH_LOGGING_IN);
	step_until(KATTACH_UP);
	assert_int_equal(k.nr_unwatched, 1);
}

static void left_without_devices(unsigned port)
{
	left_by_a_driver(port, 100);
	strcpy(k.number, "");
	start();
	assert_false(step_until(KATTACH_UP));
}

static void test_left_session_without_devices(void **state)
{
	(void)state;
	left_without_devices(100);
	assert_int_equal(k.nr_unwatched, 0);
	set_up(NULL);
	tear_down(NULL);
	left_without_devices(200);
	assert_int_equal(k.nr_unwatched, 1);
}

/* A kernel without sd_mod, a target without the unit: no other volume was read there. */
static void test_left_session_is_gone_and_no_unit_answers(void **state)
{
	(void)state;
	left_by_a_driver(100, 100);
	w->s.sid = 0;
	w->has_no_unit = true;
	start();
	assert_false(step_until(KATTACH_REFUSED));
	assert_true(rec.super.dm_is_led);
}

static void test_left_session_is_away_then_another_volume(void **state)
{
	(void)state;
	left_by_a_driver(0, 100);
	w->s.is_up = false;
	start();
	for (unsigned i = 0; i < 50; i++)
		step();
	assert_int_equal(u.a.state, KATTACH_AWAY);
	assert_false(kattach_is_settled(&u.a));
	w->epoch = 8;
	w->s.local_port = 300;
	w->s.is_up = true;
	assert_true(step_until(KATTACH_REFUSED));
}

static void test_left_session_is_away_then_the_volume(void **state)
{
	(void)state;
	left_by_a_driver(0, 100);
	w->s.is_up = false;
	start();
	step();
	w->s.local_port = 300;
	w->s.is_up = true;
	assert_false(step_until(KATTACH_UP));
	for (unsigned i = 0; i < 10; i++)
		step();
	assert_string_equal(trace, "record led, lead"); /* once */
}

static void test_left_session_is_the_volume(void **state)
{
	(void)state;
	left_by_a_driver(100, 100);
	start();
	assert_false(step_until(KATTACH_UP));
	step();
	step();
	assert_string_equal(trace, "lead"); /* once; nothing waited */
	assert_int_equal(k.nr_unwatched, 0);
	set_up(NULL);
	tear_down(NULL);
	left_by_a_driver(200, 100);
	start();
	assert_true(u.a.is_unwatched);
	assert_false(step_until(KATTACH_UP));
	assert_int_equal(rec.super.dm_led_port, 200);
	assert_string_equal(trace, "record led, lead");
	assert_true(kattach_is_settled(&u.a) && !u.a.is_unwatched);
	assert_int_equal(k.nr_unwatched, 1);
}

/* As by a hand-over to the feed that came no further: its reads wait until they may go on. */
static void test_left_source_that_is_held_goes_on(void **state)
{
	(void)state;
	left_by_a_driver(100, 100);
	k.is_held = true;
	start();
	assert_true(k.is_held);
	step_until(KATTACH_UP);
	assert_false(k.is_held);
}

static void test_left_source_that_is_held_and_another_volume(void **state)
{
	(void)state;
	left_by_a_driver(100, 100);
	k.is_held = true;
	w->epoch = 8;
	start();
	assert_true(step_until(KATTACH_REFUSED));
	assert_true(k.is_held);
}

/* Connected again, gone before it was asked: the next one is asked in its place. */
static void test_lost_before_it_was_asked(void **state)
{
	(void)state;
	start();
	step_until(KATTACH_UP);
	w->s.local_port = 501;
	u.a.look_ms = 0;
	step();
	assert_int_equal(u.a.state, KATTACH_CHECKING);
	kill(-u.a.pgid, SIGKILL);
	w->epoch = 8;
	w->s.sid = 0;
	u.a.is_killed = true; /* as by its deadline */
	assert_true(step_until(KATTACH_REFUSED));
	assert_true(rec.super.dm_is_led);
}

static void test_lost_and_waiting_is_forgotten(void **state)
{
	(void)state;
	start();
	step_until(KATTACH_UP);
	trace[0] = 0;
	w->s.sid = 0;
	w->epoch = 8;
	assert_false(step_until(KATTACH_REFUSED));
	assert_string_equal(trace, "hold, record not led");
}

static void test_disk_that_cannot_be_used(void **state)
{
	(void)state;
	k.lead_res = -EBUSY;
	start();
	step_until_led();
	assert_int_equal(u.a.state, KATTACH_LOGGING_IN);
	assert_int_equal(share.attach_state, KATTACH_LOGGING_IN);
	assert_non_null(strstr(share.attach_text, "somebody has it"));
	assert_int_equal(u.a.backoff_ms, 1000);
	trace[0] = 0;
	u.a.retry_ms = 0;
	step_until_led();
	assert_int_equal(u.a.backoff_ms, 2000); /* rarer */
	k.lead_res = 0;
	u.a.retry_ms = 0;
	step_until(KATTACH_UP);
	assert_string_equal(share.attach_text, "");
}

static void test_disk_is_not_used_before_it_is_recorded(void **state)
{
	(void)state;
	k.record_res = -EIO;
	start();
	for (unsigned i = 0; i < STEPS_MAX && !strstr(trace, "record"); i++)
		step();
	assert_string_equal(trace, "hold, record led");
	assert_int_equal(u.a.state, KATTACH_LOGGING_IN);
	assert_false(rec.super.dm_is_led);
}

/* ---- the end ---- */

static void begin_slow_login(void)
{
	w->is_login_slow = true;
	start();
	for (unsigned i = 0; i < STEPS_MAX && !w->is_logging_in; i++)
		step();
	assert_true(w->is_logging_in);
}

static void end_of_slow_login(void)
{
	kattach_use_end(&u, 0);
	for (unsigned i = 0; i < 50; i++)
		step();
	assert_int_equal(share.attach_state, KATTACH_ENDING);
	log_in();
	step_until(KATTACH_ENDED);
	assert_int_equal(w->s.sid, 0);
}

static void test_end_waits_for_a_login_under_way(void **state)
{
	(void)state;
	begin_slow_login();
	end_of_slow_login();
}

/* … and no longer. */
static void test_end_after_a_login_that_failed(void **state)
{
	(void)state;
	begin_slow_login();
	kattach_use_end(&u, 0);
	w->is_login_refused = true;
	step_until(KATTACH_ENDED);
}

/* iscsid goes on with it. */
static void test_end_waits_for_a_login_that_was_killed(void **state)
{
	(void)state;
	begin_slow_login();
	kill(-u.a.pgid, SIGKILL);
	end_of_slow_login();
}

/* Somebody else's process, as iscsid is: its login goes on when that is waited for, or after a while. */
static pid_t log_in_elsewhere(void)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	for (unsigned i = 0; i < STEPS_MAX && w->nr_looks < 5; i++)
		usleep(1000);
	log_in();
	_exit(0);
}

static void test_end_left_waits_for_a_login_under_way(void **state)
{
	pid_t pid = log_in_elsewhere();

	(void)state;
	assert_true(pid > 0);
	kattach_end_left("", &rec.super.opts, true);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(w->s.sid, 0);
}

static void test_end_left_asks_once_where_nobody_logs_in(void **state)
{
	(void)state;
	kattach_end_left("", &rec.super.opts, false);
	assert_in_range(w->nr_looks, 1, 2);
}

static bool has_place(void)
{
	char path[UCLONE_PATH_MAX + 16];

	snprintf(path, sizeof path, "%s.source", rec.meta);
	return access(path, F_OK) == 0;
}

static void make_place(void)
{
	char path[UCLONE_PATH_MAX + 16];

	strcpy(rec.meta, chap_file);
	snprintf(path, sizeof path, "%s.source", rec.meta);
	assert_int_equal(close(creat(path, 0600)), 0);
}

/* Who starts next, of a finished clone that was killed before it had logged out, has to know of which target. */
static void test_place_is_known_until_logged_out(void **state)
{
	(void)state;
	make_place();
	rec.super.state = UCLONE_HYDRATED;
	begin_slow_login();
	kattach_use_end(&u, 0);
	step();
	assert_true(has_place());
	log_in();
	step_until(KATTACH_ENDED);
	assert_false(has_place());
}

/* A stop: the next driver logs in there. */
static void test_place_of_a_live_clone_stays_known(void **state)
{
	(void)state;
	make_place();
	start();
	step_until(KATTACH_UP);
	kattach_use_end(&u, 5000);
	assert_int_equal(u.a.state, KATTACH_ENDED);
	assert_true(has_place());
	rec.super.state = UCLONE_HYDRATED;
	kattach_use_end(&u, 0);
	assert_false(has_place());
}

static void test_end_of_what_is_known_is_forgotten(void **state)
{
	(void)state;
	start();
	step_until(KATTACH_UP);
	kattach_use_end(&u, 5000);
	assert_int_equal(u.a.state, KATTACH_ENDED);
	kattach_use_forget(&u);
	assert_false(rec.super.dm_is_led);
}

static void test_end_of_what_is_not_known_is_kept(void **state)
{
	(void)state;
	start();
	step_until(KATTACH_UP);
	w->s.local_port = 501;
	kattach_use_end(&u, 5000);
	assert_int_equal(u.a.state, KATTACH_ENDED);
	kattach_use_forget(&u);
	assert_true(rec.super.dm_is_led);
}

/* It may connect once more before it is logged out, and answer what is in flight. */
static void test_end_of_a_session_that_is_away_is_kept(void **state)
{
	(void)state;
	start();
	step_until(KATTACH_UP);
	w->s.is_up = false;
	w->s.local_port = 0;
	u.a.look_ms = 0;
	step_until(KATTACH_AWAY);
	kattach_use_end(&u, 5000);
	assert_int_equal(u.a.state, KATTACH_ENDED);
	kattach_use_forget(&u);
	assert_true(rec.super.dm_is_led);
}

/* … as it may while that takes its time. */
static void test_end_of_a_session_that_connects_meanwhile_is_kept(void **state)
{
	(void)state;
	start();
	step_until(KATTACH_UP);
	w->is_logout_slow = true;
	kattach_use_end(&u, 0);
	step();
	w->s.local_port = 0; /* on its way out */
	step();
	assert_false(u.a.is_suspect);
	w->s.local_port = 501;
	step();
	w->is_logout_slow = false;
	step_until(KATTACH_ENDED);
	kattach_use_forget(&u);
	assert_true(rec.super.dm_is_led);
}

/* … also where nobody has noticed yet that it is down. */
static void test_end_of_a_session_that_went_just_now_is_kept(void **state)
{
	(void)state;
	start();
	step_until(KATTACH_UP);
	w->s.is_up = false;
	kattach_use_end(&u, 5000);
	kattach_use_forget(&u);
	assert_true(rec.super.dm_is_led);
}

/* ---- to the feed ---- */

static void test_leave_a_session_that_is_up(void **state)
{
	struct kedge_err err = {0};

	(void)state;
	left_by_a_driver(200, 100);
	assert_int_equal(kattach_use_leave(&rec, &err), 0);
	assert_string_equal(trace, "hold within");
	assert_int_equal(w->s.sid, 1); /* until the device below the clone is elsewhere */
	assert_false(rec.super.dm_is_led);
}

static void test_leave_a_session_that_is_dead(void **state)
{
	struct kedge_err err = {0};

	(void)state;
	left_by_a_driver(0, 100);
	w->s.is_up = false;
	k.hold_res = -ETIMEDOUT;
	assert_int_equal(kattach_use_leave(&rec, &err), 0);
	assert_int_equal(w->s.sid, 0);
}

static void test_leave_another_volume(void **state)
{
	struct kedge_err err = {0};

	(void)state;
	left_by_a_driver(200, 100);
	w->epoch = 8;
	assert_int_equal(kattach_use_leave(&rec, &err), KEDGE_E_SOURCE_IDENTITY);
	assert_string_equal(trace, "");
	assert_true(rec.super.dm_is_led);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_record_keeps_what_was_led),
		cmocka_unit_test_setup_teardown(test_first_login_is_recorded_before_it_is_used, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_first_login_finds_another_volume, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_left_session_became_another_volume, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_left_session_became_another_volume_in_its_connection, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_left_session_is_gone_and_another_volume_answers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_left_session_is_gone_and_the_volume_answers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_left_session_without_devices, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_left_session_is_gone_and_no_unit_answers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_left_session_is_away_then_another_volume, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_left_session_is_away_then_the_volume, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_left_session_is_the_volume, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_left_source_that_is_held_goes_on, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_left_source_that_is_held_and_another_volume, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_lost_before_it_was_asked, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_lost_and_waiting_is_forgotten, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_disk_that_cannot_be_used, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_disk_is_not_used_before_it_is_recorded, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_end_waits_for_a_login_under_way, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_end_after_a_login_that_failed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_end_waits_for_a_login_that_was_killed, set_up, tear_down),
		cmocka_unit_test_setup(test_end_left_waits_for_a_login_under_way, set_up),
		cmocka_unit_test_setup(test_end_left_asks_once_where_nobody_logs_in, set_up),
		cmocka_unit_test_setup_teardown(test_place_is_known_until_logged_out, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_place_of_a_live_clone_stays_known, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_end_of_what_is_known_is_forgotten, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_end_of_what_is_not_known_is_kept, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_end_of_a_session_that_is_away_is_kept, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_end_of_a_session_that_connects_meanwhile_is_kept, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_end_of_a_session_that_went_just_now_is_kept, set_up, tear_down),
		cmocka_unit_test_setup(test_leave_a_session_that_is_up, set_up),
		cmocka_unit_test_setup(test_leave_a_session_that_is_dead, set_up),
		cmocka_unit_test_setup(test_leave_another_volume, set_up),
	};
	int fd = mkstemp(strcpy(chap_file, "/tmp/kedge-attach.XXXXXX")), r;

	w = mmap(NULL, sizeof *w, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (fd < 0 || w == MAP_FAILED || dprintf(fd, "user = a\nsecret = aaaaaaaaaaaa\nmutual-user = b\nmutual-secret = bbbbbbbbbbbb\n") < 0)
		return 1;
	close(fd);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(chap_file);
	strcat(chap_file, ".source");
	unlink(chap_file);
	return r;
}
