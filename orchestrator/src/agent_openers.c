/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Who uses a file or block device, from /proc and /sys. Matches by device and inode numbers, never by name, so
 * that a bind mount, a rename or another namespace hides nothing; only for mounts of file systems with numbers of their own
 * (btrfs) is the name of the mounted device looked at too.
 *
 * Owns. Nothing. Locks. None.
 */
#include "agent_openers.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int agent_target_add(struct agent_target *t, const char *path, struct kedge_err *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "%s: %s", path, strerror(errno));
	if (S_ISREG(st.st_mode)) {
		t->has_file = true;
		t->file_dev = st.st_dev;
		t->file_ino = st.st_ino;
	} else if (S_ISBLK(st.st_mode)) {
		t->has_device = true;
		t->device = st.st_rdev;
		snprintf(t->device_path, sizeof t->device_path, "%s", path);
	} else {
		return kedge_err_set(err, -ENOTBLK, KEDGE_SIDE_NONE, "%s is neither a regular file nor a block device", path);
	}
	return 0;
}

/* Without asking the file system anew: a hung FUSE or NFS mount elsewhere must not hang us. */
static bool is_target(const struct agent_target *t, int dir_fd, const char *name)
{
	struct statx sx;

	if (statx(dir_fd, name, AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &sx) < 0)
		return false;
	if (S_ISBLK(sx.stx_mode))
		return t->has_device && makedev(sx.stx_rdev_major, sx.stx_rdev_minor) == t->device;
	return t->has_file && S_ISREG(sx.stx_mode) && sx.stx_ino == t->file_ino &&
	       makedev(sx.stx_dev_major, sx.stx_dev_minor) == t->file_dev;
}

static void read_comm(pid_t pid, char out[32])
{
	char path[40];
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
	strcpy(out, "?");
	f = fopen(path, "re");
	if (!f)
		return;
	if (fgets(out, 32, f))
		out[strcspn(out, "\n")] = 0;
	fclose(f);
	/* It goes into messages: a process may name itself anything. */
	for (char *p = out; *p; p++)
		if (!isprint((unsigned char)*p))
			*p = '?';
}

static bool has_descriptor(const struct agent_target *t, pid_t pid)
{
	char path[40];
	struct dirent *e;
	bool is_found = false;
	DIR *dir;

	snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!is_found && (e = readdir(dir)))
		is_found = isdigit((unsigned char)e->d_name[0]) && is_target(t, dirfd(dir), e->d_name);
	closedir(dir);
	return is_found;
}

static bool has_mapping(const struct agent_target *t, pid_t pid)
{
	char path[40], *line = NULL;
	size_t line_max = 0;
	bool is_found = false;
	FILE *f;

	if (!t->has_file)
		return false;
	snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (!is_found && getline(&line, &line_max, f) > 0) {
		unsigned major, minor;
		unsigned long long ino;
		if (sscanf(line, "%*s %*s %*s %x:%x %llu", &major, &minor, &ino) == 3)
			is_found = ino == t->file_ino && makedev(major, minor) == t->file_dev;
	}
	free(line);
	fclose(f);
	return is_found;
}

/* In mountinfo: major:minor is the third field, the mounted device the second after " - ". */
static bool is_mount_of(const struct agent_target *t, const char *line)
{
	unsigned major, minor;
	char source[128];
	const char *dash;

	if (sscanf(line, "%*d %*d %u:%u", &major, &minor) == 2 && makedev(major, minor) == t->device)
		return true;
	dash = strstr(line, " - ");
	return dash && sscanf(dash, " - %*s %127s", source) == 1 && strcmp(source, t->device_path) == 0;
}

static bool has_mount(const struct agent_target *t, pid_t pid, char place[256])
{
	char path[48], *line = NULL;
	size_t line_max = 0;
	bool is_found = false;
	FILE *f;

	if (!t->has_device)
		return false;
	snprintf(path, sizeof path, "/proc/%d/mountinfo", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (!is_found && getline(&line, &line_max, f) > 0) {
		is_found = is_mount_of(t, line);
		if (is_found && sscanf(line, "%*d %*d %*s %*s %200s", place) != 1)
			strcpy(place, "?");
	}
	free(line);
	fclose(f);
	return is_found;
}

/* Mount tables are long and mostly shared: each namespace is read once. */
struct seen_namespaces {
	ino_t inos[256];
	unsigned nr;
};

static bool is_new_namespace(struct seen_namespaces *seen, pid_t pid)
{
	char path[40];
	struct stat st;

	snprintf(path, sizeof path, "/proc/%d/ns/mnt", (int)pid);
	if (stat(path, &st) < 0)
		return false;
	for (unsigned i = 0; i < seen->nr; i++)
		if (seen->inos[i] == st.st_ino)
			return false;
	if (seen->nr < sizeof seen->inos / sizeof seen->inos[0])
		seen->inos[seen->nr++] = st.st_ino;
	return true;
}

static int check_process(const struct agent_target *t, pid_t pid, bool is_excepted, struct seen_namespaces *seen,
			 struct kedge_err *err)
{
	char comm[32], place[256];

	if (is_new_namespace(seen, pid) && has_mount(t, pid, place))
		return kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "%s is mounted on %s (seen by pid %d)",
				     t->device_path, place, (int)pid);
	if (is_excepted)
		return 0;
	if (has_descriptor(t, pid) || has_mapping(t, pid)) {
		read_comm(pid, comm);
		return kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "still open by pid %d (%s)", (int)pid, comm);
	}
	return 0;
}

/* Device-mapper, md and the like on top of the device. */
static int check_holders(const struct agent_target *t, struct kedge_err *err)
{
	char path[80];
	struct dirent *e;
	int res = 0;
	DIR *dir;

	if (!t->has_device)
		return 0;
	snprintf(path, sizeof path, "/sys/dev/block/%u:%u/holders", major(t->device), minor(t->device));
	dir = opendir(path);
	if (!dir)
		return 0;
	while (!res && (e = readdir(dir)))
		if (e->d_name[0] != '.')
			res = kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "%s is held by %s", t->device_path,
					    e->d_name);
	closedir(dir);
	return res;
}

/* Loop devices over the file. */
static int check_loops(const struct agent_target *t, struct kedge_err *err)
{
	char path[sizeof((struct dirent *)0)->d_name + 40], backing[4096];
	struct dirent *e;
	int res = 0;
	DIR *dir;

	if (!t->has_file)
		return 0;
	dir = opendir("/sys/block");
	if (!dir)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "/sys/block: %s", strerror(errno));
	while (!res && (e = readdir(dir))) {
		FILE *f = NULL;
		if (strncmp(e->d_name, "loop", 4) == 0) {
			snprintf(path, sizeof path, "/sys/block/%s/loop/backing_file", e->d_name);
			f = fopen(path, "re");
		}
		if (!f)
			continue;
		if (fgets(backing, sizeof backing, f)) {
			backing[strcspn(backing, "\n")] = 0;
			if (is_target(t, AT_FDCWD, backing))
				res = kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "/dev/%s is attached to it",
						    e->d_name);
		}
		fclose(f);
	}
	closedir(dir);
	return res;
}

static int check_swaps(const struct agent_target *t, struct kedge_err *err)
{
	char line[512], name[256];
	int res = 0;
	FILE *f = fopen("/proc/swaps", "re");

	if (!f)
		return 0;
	while (!res && fgets(line, sizeof line, f))
		if (sscanf(line, "%255s", name) == 1 && name[0] == '/' && is_target(t, AT_FDCWD, name))
			res = kedge_err_set(err, KEDGE_E_STILL_OPEN, KEDGE_SIDE_NONE, "it is in use as swap space");
	fclose(f);
	return res;
}

int agent_openers_check(const struct agent_target *t, const pid_t *except, unsigned nr_except, struct kedge_err *err)
{
	struct seen_namespaces seen = {.nr = 0};
	struct dirent *e;
	int res = 0;
	DIR *dir = opendir("/proc");

	if (!dir)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "/proc: %s", strerror(errno));
	while (!res && (e = readdir(dir))) {
		pid_t pid = isdigit((unsigned char)e->d_name[0]) ? atoi(e->d_name) : 0;
		bool is_excepted = false;
		if (pid <= 0)
			continue;
		for (unsigned i = 0; i < nr_except; i++)
			is_excepted |= except[i] == pid;
		res = check_process(t, pid, is_excepted, &seen, err);
	}
	closedir(dir);
	if (!res)
		res = check_holders(t, err);
	if (!res)
		res = check_loops(t, err);
	if (!res)
		res = check_swaps(t, err);
	return res;
}
