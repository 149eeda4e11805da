/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Device-mapper ioctls, through libdevmapper.
 *
 * Owns. A task for the length of each call.
 *
 * Locks. None; libdevmapper is used by one thread.
 *
 * Crash. The kernel's state is the only state: whoever comes next asks it.
 */
#include "dmdev.h"

#include <errno.h>
#include <inttypes.h>
#include <libdevmapper.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

/* What the last failed task said, for the line that we print. */
static char last_text[160];

static void __attribute__((format(printf, 5, 6)))
log_cb(int level, const char *file, int line, int dm_errno, const char *fmt, ...)
{
	va_list ap;

	(void)file;
	(void)line;
	(void)dm_errno;
	if ((level & 7) > 3) /* below error */
		return;
	va_start(ap, fmt);
	vsnprintf(last_text, sizeof last_text, fmt, ap);
	va_end(ap);
}

static struct dm_task *begin(int type, const char *name, struct kedge_err *err)
{
	struct dm_task *t;

	dm_log_with_errno_init(log_cb);
	last_text[0] = 0;
	t = dm_task_create(type);
	if (t && name && !dm_task_set_name(t, name)) {
		dm_task_destroy(t);
		t = NULL;
	}
	if (!t)
		kedge_err_set(err, -ENODEV, KEDGE_SIDE_NONE, "device-mapper: %s", last_text[0] ? last_text : "not available");
	return t;
}

static int run(struct dm_task *t, const char *what, const char *name, struct kedge_err *err)
{
	int e;

	if (dm_task_run(t))
		return 0;
	e = dm_task_get_errno(t);
	e = e > 0 ? e : errno > 0 ? errno : EIO;
	return kedge_err_set(err, -e, KEDGE_SIDE_NONE, "device-mapper cannot %s %s: %s", what, name,
			     last_text[0] ? last_text : strerror(e));
}

int dmdev_target_version(const char *target, uint32_t ret_version[3], struct kedge_err *err)
{
	struct dm_task *t;
	struct dm_versions *v;
	int r;

	if (access("/dev/mapper/control", F_OK) < 0 && access("/sys/class/misc/device-mapper", F_OK) < 0)
		return kedge_err_set(err, -ENODEV, KEDGE_SIDE_NONE, "the kernel has no device-mapper");
	t = begin(DM_DEVICE_GET_TARGET_VERSION, target, err);
	if (!t)
		return -ENODEV;
	r = run(t, "find the target", target, NULL);
	v = r == 0 ? dm_task_get_versions(t) : NULL;
	if (v)
		memcpy(ret_version, v->version, sizeof v->version);
	dm_task_destroy(t);
	if (r == 0)
		return v ? 0 : -ENOENT;
	char text[32];
	if (!dm_driver_version(text, sizeof text))
		return kedge_err_set(err, -ENODEV, KEDGE_SIDE_NONE, "device-mapper is not available: %s",
				     last_text[0] ? last_text : strerror(-r));
	return kedge_err_set(err, -ENOENT, KEDGE_SIDE_NONE, "the kernel has no device-mapper target %s", target);
}

int dmdev_info(const char *name, struct dmdev_info *ret_info, struct kedge_err *err)
{
	struct dm_task *t = begin(DM_DEVICE_INFO, name, err);
	struct dm_info i = {0};
	int r;

	if (!t)
		return -ENODEV;
	r = run(t, "look at", name, err);
	if (r == 0 && !dm_task_get_info(t, &i))
		r = kedge_err_set(err, -EIO, KEDGE_SIDE_NONE, "device-mapper says nothing of %s", name);
	dm_task_destroy(t);
	*ret_info = (struct dmdev_info){.exists = i.exists,
					.is_suspended = i.suspended,
					.has_live_table = i.live_table,
					.is_read_only = i.read_only,
					.nr_open = i.open_count > 0 ? (uint32_t)i.open_count : 0,
					.event_nr = i.event_nr,
					.major = i.major,
					.minor = i.minor};
	return r;
}

int dmdev_number(const char *name, char out[32], struct kedge_err *err)
{
	struct dmdev_info i;
	int r = dmdev_info(name, &i, err);

	if (r < 0)
		return r;
	if (!i.exists)
		return kedge_err_set(err, -ENODEV, KEDGE_SIDE_NONE, "there is no device %s", name);
	snprintf(out, 32, "%u:%u", i.major, i.minor);
	return 0;
}

/* A task after which nodes come or go: by udev where it runs, and then we wait for it. */
static int run_with_udev(struct dm_task *t, const char *what, const char *name, struct kedge_err *err)
{
	/* what is below the workload's device is nobody's business: no rules but those that make the node */
	uint16_t flags = DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG | DM_UDEV_DISABLE_DISK_RULES_FLAG | DM_UDEV_DISABLE_OTHER_RULES_FLAG;
	uint32_t cookie = 0;
	int r;

	if (!dm_task_set_cookie(t, &cookie, flags))
		return kedge_err_set(err, -EIO, KEDGE_SIDE_NONE, "device-mapper: no udev cookie for %s", name);
	r = run(t, what, name, err);
	dm_udev_wait(cookie);
	dm_task_update_nodes();
	return r;
}

static int create(const char *name, const char *uuid, uint64_t nr_sectors, const char *target, const char *params, bool is_read_only,
		  struct kedge_err *err)
{
	struct dm_task *t = begin(DM_DEVICE_CREATE, name, err);
	int r;

	if (!t)
		return -ENODEV;
	if ((is_read_only && !dm_task_set_ro(t)) || !dm_task_set_uuid(t, uuid) || !dm_task_add_target(t, 0, nr_sectors, target, params) ||
	    !dm_task_set_add_node(t, DM_ADD_NODE_ON_CREATE))
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "device-mapper: a bad table for %s: %s", name, last_text);
	else
		r = run_with_udev(t, "create", name, err);
	dm_task_destroy(t);
	return r;
}

int dmdev_create(const char *name, const char *uuid, uint64_t nr_sectors, const char *target, const char *params, struct kedge_err *err)
{
	return create(name, uuid, nr_sectors, target, params, false, err);
}

int dmdev_create_read_only(const char *name, const char *uuid, uint64_t nr_sectors, const char *target, const char *params,
			   struct kedge_err *err)
{
	return create(name, uuid, nr_sectors, target, params, true, err);
}

int dmdev_suspend(const char *name, unsigned flags, struct kedge_err *err)
{
	struct dm_task *t = begin(DM_DEVICE_SUSPEND, name, err);
	int r;

	if (!t)
		return -ENODEV;
	if (flags & DMDEV_NOFLUSH)
		dm_task_no_flush(t);
	if (flags & DMDEV_SKIP_LOCKFS)
		dm_task_skip_lockfs(t);
	r = run(t, "suspend", name, err);
	dm_task_destroy(t);
	return r;
}

static void alarm_cb(int sig)
{
	(void)sig; /* it is there to end a call */
}

int dmdev_suspend_within(const char *name, unsigned flags, unsigned max_ms, struct kedge_err *err)
{
	/* again and again: the first one may come before the call has begun to wait */
	const struct itimerval on = {.it_value = {.tv_sec = max_ms / 1000, .tv_usec = (suseconds_t)(max_ms % 1000) * 1000},
				     .it_interval = {.tv_usec = 20000}};
	const struct itimerval off = {.it_value = {0}};
	const struct sigaction sa = {.sa_handler = alarm_cb}; /* no SA_RESTART */
	struct sigaction before;
	struct kedge_err why = {0};
	int r;

	sigaction(SIGALRM, &sa, &before);
	setitimer(ITIMER_REAL, &on, NULL);
	r = dmdev_suspend(name, flags, &why);
	setitimer(ITIMER_REAL, &off, NULL);
	sigaction(SIGALRM, &before, NULL);
	if (r == -EINTR)
		return kedge_err_set(err, -ETIMEDOUT, KEDGE_SIDE_NONE, "%s did not come to rest in %u ms", name, max_ms);
	if (r < 0 && err)
		*err = why;
	return r;
}

int dmdev_resume(const char *name, struct kedge_err *err)
{
	struct dm_task *t = begin(DM_DEVICE_RESUME, name, err);
	int r;

	if (!t)
		return -ENODEV;
	r = run_with_udev(t, "resume", name, err);
	dm_task_destroy(t);
	return r;
}

static int load(const char *name, uint64_t nr_sectors, const char *target, const char *params, bool is_read_only, struct kedge_err *err)
{
	struct dm_task *t = begin(DM_DEVICE_RELOAD, name, err);
	int r;

	if (!t)
		return -ENODEV;
	if ((is_read_only && !dm_task_set_ro(t)) || !dm_task_add_target(t, 0, nr_sectors, target, params))
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "device-mapper: a bad table for %s: %s", name, last_text);
	else
		r = run(t, "load a table for", name, err);
	dm_task_destroy(t);
	return r;
}

int dmdev_load(const char *name, uint64_t nr_sectors, const char *target, const char *params, struct kedge_err *err)
{
	return load(name, nr_sectors, target, params, false, err);
}

int dmdev_load_read_only(const char *name, uint64_t nr_sectors, const char *target, const char *params, struct kedge_err *err)
{
	return load(name, nr_sectors, target, params, true, err);
}

int dmdev_replace(const char *name, unsigned flags, uint64_t nr_sectors, const char *target, const char *params, struct kedge_err *err)
{
	int r = dmdev_suspend(name, flags, err), resumed;

	if (r < 0)
		return r;
	r = dmdev_load(name, nr_sectors, target, params, err);
	resumed = dmdev_resume(name, err); /* with the old table where the new one was refused */
	return r < 0 ? r : resumed;
}

static int remove_device(const char *name, bool is_later, struct kedge_err *err)
{
	struct dm_task *t = begin(DM_DEVICE_REMOVE, name, err);
	int r;

	if (!t)
		return -ENODEV;
	if (is_later)
		dm_task_deferred_remove(t);
	r = run_with_udev(t, "remove", name, err);
	dm_task_destroy(t);
	return r;
}

int dmdev_remove(const char *name, struct kedge_err *err)
{
	return remove_device(name, false, err);
}

int dmdev_remove_later(const char *name, struct kedge_err *err)
{
	return remove_device(name, true, err);
}

int dmdev_rename(const char *name, const char *new_name, struct kedge_err *err)
{
	struct dm_task *t = begin(DM_DEVICE_RENAME, name, err);
	int r;

	if (!t)
		return -ENODEV;
	if (!dm_task_set_newname(t, new_name))
		r = kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "device-mapper: a bad name: %s", new_name);
	else
		r = run_with_udev(t, "rename", name, err);
	dm_task_destroy(t);
	return r;
}

static int first_target(int type, const char *what, const char *name, bool is_noflush, char target[32], char params[DMDEV_PARAMS_MAX],
			struct kedge_err *err)
{
	struct dm_task *t = begin(type, name, err);
	char *tt = NULL, *pp = NULL;
	uint64_t start, length;
	int r;

	if (!t)
		return -ENODEV;
	if (is_noflush)
		dm_task_no_flush(t);
	r = run(t, what, name, err);
	if (r == 0) {
		dm_get_next_target(t, NULL, &start, &length, &tt, &pp);
		if (!tt || !pp || strlen(tt) >= 32 || strlen(pp) >= DMDEV_PARAMS_MAX) {
			r = kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_NONE, "%s has no table, or one that is not ours", name);
		} else {
			strcpy(target, tt);
			strcpy(params, pp);
		}
	}
	dm_task_destroy(t);
	return r;
}

int dmdev_status(const char *name, bool is_noflush, char target[32], char params[DMDEV_PARAMS_MAX], struct kedge_err *err)
{
	return first_target(DM_DEVICE_STATUS, "ask the status of", name, is_noflush, target, params, err);
}

int dmdev_table(const char *name, char target[32], char params[DMDEV_PARAMS_MAX], struct kedge_err *err)
{
	return first_target(DM_DEVICE_TABLE, "read the table of", name, true, target, params, err);
}

int dmdev_message(const char *name, const char *message, struct kedge_err *err)
{
	struct dm_task *t = begin(DM_DEVICE_TARGET_MSG, name, err);
	int r;

	if (!t)
		return -ENODEV;
	if (!dm_task_set_sector(t, 0) || !dm_task_set_message(t, message))
		r = kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "device-mapper: no memory");
	else
		r = run(t, "send a message to", name, err);
	dm_task_destroy(t);
	return r;
}

int dmdev_wait(const char *name, uint32_t event_nr, struct kedge_err *err)
{
	struct dm_task *t = begin(DM_DEVICE_WAITEVENT, name, err);
	int r;

	if (!t)
		return -ENODEV;
	dm_task_set_event_nr(t, event_nr);
	r = run(t, "wait for", name, err);
	dm_task_destroy(t);
	return r;
}

int dmdev_list(const char *prefix, void (*fn)(void *arg, const char *name), void *arg, struct kedge_err *err)
{
	struct dm_task *t = begin(DM_DEVICE_LIST, NULL, err);
	const struct dm_names *n;
	int r;

	if (!t)
		return -ENODEV;
	r = run(t, "list", "its devices", err);
	n = r == 0 ? dm_task_get_names(t) : NULL;
	while (n && n->dev) {
		if (strncmp(n->name, prefix, strlen(prefix)) == 0)
			fn(arg, n->name);
		n = n->next ? (const struct dm_names *)((const char *)n + n->next) : NULL;
	}
	dm_task_destroy(t);
	return r;
}
