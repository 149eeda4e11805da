/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. open-iscsi: iscsiadm as a child process, iscsid's presence, sessions and their disks in sysfs.
 *
 * Owns. While iscsiadm logs in: a mount namespace of that process alone, in which an empty /etc/iscsi in memory holds the one node record, and
 * /run/lock another lock than the host's. Both are gone when it ends. The host's own records are neither read nor changed.
 *
 * Locks. None.
 *
 * Crash. A session outlives everybody; the next driver finds it by its names. No secret is on a disk.
 */
#include "kiscsi.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kedge/file.h"

#define ROOT "/etc/iscsi"
#define LOCKS "/run/lock"
#define SESSIONS "/sys/class/iscsi_session"
#define CONNECTIONS "/sys/class/iscsi_connection"
#define IPC_NAME "@ISCSIADM_ABSTRACT_NAMESPACE"
#define OUTPUT_MAX 4096
#define LOOK_MS 20
#define DISK_MS 15000
#define GONE_MS 15000
/* exit codes of iscsiadm (its manual page) */
enum { ISCSIADM_SESS_EXISTS = 15, ISCSIADM_LOGIN_FATAL = 19, ISCSIADM_NO_ISCSID = 20, ISCSIADM_AUTH = 24, ISCSIADM_NOT_STARTED = 127 };

static void nap(unsigned ms)
{
	const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&t, NULL);
}

/* ---- what there is ---- */

static const char *program(void)
{
	static const char *const places[] = {"/usr/sbin/iscsiadm", "/sbin/iscsiadm", "/usr/bin/iscsiadm"};
	struct stat st;

	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
		if (stat(places[i], &st) == 0 && S_ISREG(st.st_mode) && access(places[i], X_OK) == 0)
			return places[i];
	return NULL;
}

/* It, or systemd for it, listens: asked of the list of sockets, for iscsid takes each connection for a request. */
static bool is_iscsid_there(void)
{
	char line[512];
	bool is_there = false;
	FILE *f = fopen("/proc/net/unix", "re");

	while (f && fgets(line, sizeof line, f)) {
		const char *name = strchr(line, '@');
		line[strcspn(line, "\n")] = 0;
		is_there = is_there || (name && strcmp(name, IPC_NAME) == 0);
	}
	if (f)
		fclose(f);
	return is_there;
}

int kiscsi_probe(struct kedge_err *err)
{
	if (!program())
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_SOURCE,
				     "the kernel's initiator needs open-iscsi, which is not installed (no iscsiadm)");
	if (!is_iscsid_there())
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_SOURCE,
				     "iscsid does not run: the kernel's initiator needs it (systemctl start iscsid)");
	return 0;
}

/* ---- sessions in sysfs ---- */

/* A line of a small file of sysfs; false when there is none. */
static bool read_line(const char *path, char *out, size_t out_max)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, out, out_max - 1) : -1;

	kedge_close(fd);
	if (n < 0)
		return false;
	out[n] = 0;
	out[strcspn(out, "\n")] = 0;
	return true;
}

static bool read_session(unsigned sid, const char *file, char *out, size_t out_max)
{
	char path[128];

	snprintf(path, sizeof path, SESSIONS "/session%u/%s", sid, file);
	return read_line(path, out, out_max);
}

static bool read_connection(unsigned sid, const char *file, char *out, size_t out_max)
{
	char path[128];

	snprintf(path, sizeof path, CONNECTIONS "/connection%u:0/%s", sid, file);
	return read_line(path, out, out_max);
}

bool kiscsi_look(unsigned sid, struct kiscsi_session *ret_session)
{
	char state[32], address[64] = "", port[16] = "", local[16] = "";

	*ret_session = (struct kiscsi_session){.sid = sid};
	if (!read_session(sid, "state", state, sizeof state))
		return false;
	ret_session->is_up = strcmp(state, "LOGGED_IN") == 0;
	if (read_connection(sid, "local_port", local, sizeof local))
		ret_session->local_port = (unsigned)strtoul(local, NULL, 10);
	read_connection(sid, "persistent_address", address, sizeof address);
	read_connection(sid, "persistent_port", port, sizeof port);
	snprintf(ret_session->portal, KCOPY_PORTAL_MAX, strchr(address, ':') ? "[%.46s]:%.5s" : "%.46s:%.5s", address, port);
	return true;
}

unsigned kiscsi_sessions(const char *iqn, const char *initiator, struct kiscsi_session *sessions, unsigned nr_max)
{
	DIR *dir = opendir(SESSIONS);
	struct dirent *e = dir ? readdir(dir) : NULL;
	unsigned nr = 0;

	for (; e; e = readdir(dir)) {
		char name[KEDGE_IQN_MAX + 2] = "", ours[KEDGE_IQN_MAX + 2] = "";
		struct kiscsi_session s;
		unsigned sid;
		if (sscanf(e->d_name, "session%u", &sid) != 1 || !read_session(sid, "targetname", name, sizeof name) ||
		    !read_session(sid, "initiatorname", ours, sizeof ours))
			continue;
		if (strcmp(name, iqn) != 0 || strcmp(ours, initiator) != 0 || !kiscsi_look(sid, &s))
			continue;
		if (nr < nr_max)
			sessions[nr] = s;
		nr++;
	}
	if (dir)
		closedir(dir);
	return nr;
}

/* ---- its disk ---- */

/* "host3", from where the session hangs in the tree of devices. */
static int host_of(unsigned sid, char path[256], unsigned *ret_host)
{
	char link[64], *real, *host;
	int r = -ENODEV;

	snprintf(link, sizeof link, SESSIONS "/session%u/device", sid);
	real = realpath(link, NULL);
	host = real ? strstr(real, "/host") : NULL;
	if (host && sscanf(host, "/host%u/", ret_host) == 1 && strlen(real) < 256) {
		strcpy(path, real);
		r = 0;
	}
	free(real);
	return r;
}

static int target_of(unsigned sid, unsigned *ret_target)
{
	char text[16];

	if (!read_session(sid, "target_id", text, sizeof text) || sscanf(text, "%u", ret_target) != 1)
		return -ENODEV;
	return 0;
}

int kiscsi_find_disk(unsigned sid, int lun, struct kiscsi_disk *ret_disk)
{
	char session[256], path[600], text[32];
	struct kiscsi_disk d;
	unsigned host, target, major_nr, minor_nr;
	struct dirent *e;
	struct stat st;
	DIR *dir;

	if (host_of(sid, session, &host) < 0 || target_of(sid, &target) < 0)
		return -ENODEV;
	snprintf(path, sizeof path, "%s/target%u:0:%u/%u:0:%u:%d/block", session, host, target, host, target, lun);
	dir = opendir(path);
	if (!dir)
		return -ENODEV;
	e = readdir(dir);
	while (e && e->d_name[0] == '.')
		e = readdir(dir);
	d.path[0] = 0;
	if (e) {
		char *end = path + strlen(path);
		snprintf(d.path, sizeof d.path, "/dev/%.32s", e->d_name);
		snprintf(end, sizeof path - (size_t)(end - path), "/%.32s/dev", e->d_name);
	}
	closedir(dir);
	/* the node is made after the device: until it is that device's, there is none */
	if (!d.path[0] || !read_line(path, text, sizeof text) || sscanf(text, "%u:%u", &major_nr, &minor_nr) != 2)
		return -ENODEV;
	if (stat(d.path, &st) < 0 || !S_ISBLK(st.st_mode) || st.st_rdev != makedev(major_nr, minor_nr))
		return -ENODEV;
	snprintf(d.number, sizeof d.number, "%u:%u", major_nr, minor_nr);
	*ret_disk = d;
	return 0;
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r = fd < 0 ? -errno : 0;

	if (r == 0)
		r = kedge_write_full(fd, text, strlen(text));
	kedge_close(fd);
	return r;
}

int kiscsi_attach_unit(unsigned sid, int lun, struct kiscsi_disk *ret_disk, struct kedge_err *err)
{
	char session[256], path[64], text[64];
	unsigned host, target;
	int r = kiscsi_find_disk(sid, lun, ret_disk);

	if (r == 0)
		return 0;
	if (host_of(sid, session, &host) < 0 || target_of(sid, &target) < 0)
		return kedge_err_set(err, KEDGE_E_SOURCE_AWAY, KEDGE_SIDE_SOURCE, "iSCSI session %u is gone", sid);
	snprintf(path, sizeof path, "/sys/class/scsi_host/host%u/scan", host);
	snprintf(text, sizeof text, "0 %u %d", target, lun);
	r = write_file(path, text);
	if (r < 0)
		return kedge_err_set(err, r, KEDGE_SIDE_SOURCE, "cannot look for unit %d of iSCSI session %u: %s", lun, sid, strerror(-r));
	for (unsigned ms = 0; ms < DISK_MS; ms += LOOK_MS) {
		if (kiscsi_find_disk(sid, lun, ret_disk) == 0)
			return 0;
		nap(LOOK_MS);
	}
	return kedge_err_set(err, KEDGE_E_SOURCE_IDENTITY, KEDGE_SIDE_SOURCE, "the target shows no disk as unit %d (modprobe sd_mod?)", lun);
}

int kiscsi_set_patience(unsigned sid, unsigned seconds, struct kedge_err *err)
{
	char path[128], text[16];
	int r;

	snprintf(path, sizeof path, SESSIONS "/session%u/recovery_tmo", sid);
	snprintf(text, sizeof text, "%u", seconds);
	r = write_file(path, text);
	return r < 0 ? kedge_err_set(err, r, KEDGE_SIDE_SOURCE, "%s: %s", path, strerror(-r)) : 0;
}

/* ---- iscsiadm ---- */

static void child_fail(const char *what)
{
	dprintf(STDERR_FILENO, "%s: %s\n", what, strerror(errno));
	_exit(ISCSIADM_NOT_STARTED);
}

static void make_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0 || kedge_write_full(fd, text, strlen(text)) < 0)
		child_fail(path);
	kedge_close(fd);
}

/* In the child: an /etc/iscsi that only this process and its children see, with one record and no start-up command. */
static void hide_record(const struct kiscsi_target *t, const char *record)
{
	char path[sizeof ROOT + 32 + KEDGE_IQN_MAX + KCOPY_PORTAL_MAX], name[KCOPY_PORTAL_MAX];
	int n;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		child_fail("a mount namespace for the node record");
	if (mount("kedge", ROOT, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=256k") < 0)
		child_fail(ROOT);
	/* Whoever of the host's holds open-iscsi's lock, or was killed with it, does not keep us: our records are ours alone. */
	if (mount("kedge", LOCKS, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=64k") < 0 && errno != ENOENT)
		child_fail(LOCKS);
	umask(077);
	make_file(ROOT "/iscsid.conf", "");
	n = snprintf(path, sizeof path, ROOT "/nodes");
	if (mkdir(path, 0700) < 0)
		child_fail(path);
	n += snprintf(path + n, sizeof path - (size_t)n, "/%s", t->url.iqn);
	if (mkdir(path, 0700) < 0)
		child_fail(path);
	kiscsi_record_name(t, name);
	snprintf(path + n, sizeof path - (size_t)n, "/%s", name);
	make_file(path, record);
}

static void exec_child(const char *path, const char *const *argv, int out_fd, const struct kiscsi_target *t, const char *record)
{
	static const char *const env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", NULL};
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (dup2(null_fd, STDIN_FILENO) < 0 || dup2(out_fd, STDOUT_FILENO) < 0 || dup2(out_fd, STDERR_FILENO) < 0)
		_exit(ISCSIADM_NOT_STARTED);
	if (record)
		hide_record(t, record);
	execve(path, (char *const *)(uintptr_t)argv, (char *const *)(uintptr_t)env);
	child_fail(path);
}

/* The line that says why, of what iscsiadm printed; else the last one. */
static void pick_line(char *text, char *out, size_t out_max)
{
	char *save, *line = strtok_r(text, "\n", &save);
	bool is_found = false;

	out[0] = 0;
	for (; line && !is_found; line = strtok_r(NULL, "\n", &save)) {
		const char *why = strstr(line, "initiator reported error (");
		is_found = why != NULL;
		snprintf(out, out_max, "%.200s", why ? why : line);
	}
	for (char *p = out; *p; p++)
		if (*p < 0x20 || *p > 0x7e)
			*p = '?';
}

/* Run it to its end; returns its exit code, or -errno. */
static int run(const char *const *argv, const struct kiscsi_target *t, const char *record, char *ret_line, size_t line_max)
{
	char out[OUTPUT_MAX] = "";
	const char *path = program();
	size_t n = 0;
	ssize_t got;
	pid_t pid;
	int p[2], status;

	if (!path)
		return ISCSIADM_NOT_STARTED;
	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		exec_child(path, argv, p[1], t, record);
	kedge_close(p[1]);
	/* what does not fit is read and forgotten */
	do {
		char more[512];
		got = pid > 0 ? read(p[0], more, sizeof more) : 0;
		for (ssize_t i = 0; i < got && n < sizeof out - 1; i++)
			out[n++] = more[i];
	} while (got > 0 || (got < 0 && errno == EINTR));
	kedge_close(p[0]);
	out[n] = 0;
	pick_line(out, ret_line, line_max);
	if (pid < 0)
		return -EAGAIN;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -ECANCELED;
}

static int login_error(int code)
{
	switch (code) {
	case ISCSIADM_AUTH:
	case ISCSIADM_LOGIN_FATAL:
		return KEDGE_E_SOURCE_AUTH;
	case ISCSIADM_NO_ISCSID:
	case ISCSIADM_NOT_STARTED:
		return KEDGE_E_STATE;
	default:
		return KEDGE_E_SOURCE_AWAY;
	}
}

int kiscsi_login(const struct kiscsi_target *t, const struct kedge_chap *chap, struct kedge_err *err)
{
	const char *argv[] = {"iscsiadm", "-m", "node", "-T", t->url.iqn, "-p", t->url.portal, "--login", NULL};
	char record[KISCSI_RECORD_MAX], line[256];
	int r = kiscsi_probe(err), code;

	if (r == 0)
		r = kiscsi_record_format(t, chap, record, err);
	if (r < 0)
		return r;
	code = run(argv, t, record, line, sizeof line);
	explicit_bzero(record, sizeof record);
	if (code == 0 || code == ISCSIADM_SESS_EXISTS)
		return 0;
	return kedge_err_set(err, login_error(code), KEDGE_SIDE_SOURCE, "iscsiadm cannot log in to %s at %s: %s", t->url.iqn, t->url.portal,
			     line[0] ? line : "it said nothing");
}

int kiscsi_logout(unsigned sid, struct kedge_err *err)
{
	char number[16], line[256];
	const char *argv[] = {"iscsiadm", "-m", "session", "-r", number, "--logout", NULL};
	struct kiscsi_session s;
	int code;

	snprintf(number, sizeof number, "%u", sid);
	code = run(argv, NULL, NULL, line, sizeof line);
	for (unsigned ms = 0; ms < (code == 0 ? GONE_MS : LOOK_MS); ms += LOOK_MS) {
		if (!kiscsi_look(sid, &s))
			return 0;
		nap(LOOK_MS);
	}
	return kedge_err_set(err, -EBUSY, KEDGE_SIDE_SOURCE, "iSCSI session %u does not end: %s", sid, line[0] ? line : "iscsiadm said nothing");
}
