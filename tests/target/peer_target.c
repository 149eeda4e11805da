/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A ktarget as a child process of a test, and the disks behind its LUNs.
 * Owns. The child and its scratch directory. Locks. None.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "peer.h"

#define ARGS_MAX 32
#define START_MS 20000
#define STOP_MS 10000

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "peer: %s: %s\n", what, strerror(errno));
	abort();
}

uint8_t disk_byte(unsigned lun, uint64_t at)
{
	uint64_t word = at / 8 * 0x9e3779b97f4a7c15ull + lun;

	if (lun == 1 && at >= DISK1_HOLE_START && at < DISK1_HOLE_END)
		return 0;
	word ^= word >> 29;
	return (uint8_t)(word >> (at % 8 * 8));
}

static void make_disk(const char *path, unsigned lun, uint64_t nr_bytes)
{
	static uint8_t buf[65536];
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, (off_t)nr_bytes) < 0)
		die(path);
	for (uint64_t at = 0; at < nr_bytes; at += sizeof buf) {
		size_t n = nr_bytes - at < sizeof buf ? (size_t)(nr_bytes - at) : sizeof buf;
		if (lun == 1 && at >= DISK1_HOLE_START && at < DISK1_HOLE_END)
			continue;
		for (size_t i = 0; i < n; i++)
			buf[i] = disk_byte(lun, at + i);
		if (pwrite(fd, buf, n, (off_t)at) != (ssize_t)n)
			die(path);
	}
	close(fd);
}

/* Wait for "ktarget: listening on 127.0.0.1:PORT". */
static int read_port(int fd)
{
	static const char wanted[] = "ktarget: listening on 127.0.0.1:";
	char line[128];
	size_t n = 0;

	while (n < sizeof line - 1) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		if (poll(&p, 1, START_MS) != 1 || read(fd, line + n, 1) != 1)
			return -1;
		if (line[n++] == '\n')
			break;
	}
	line[n] = 0;
	return strncmp(line, wanted, strlen(wanted)) == 0 ? atoi(line + strlen(wanted)) : -1;
}

void target_start(struct target *t, const char *path, ...)
{
	const char *base = getenv("KEDGE_TEST_DIR"); /* where the disks lie: file systems differ in what they can do */
	char disk1[96], disk2[96];
	const char *argv[ARGS_MAX] = {path, "--portal", "127.0.0.1:0", "--iqn", TARGET_IQN, "--lun", disk1, "--serial", "test-serial-1",
				      "--lun", disk2};
	unsigned n = 11;
	pid_t parent = getpid();
	va_list ap;
	int out[2];

	memset(t, 0, sizeof *t);
	snprintf(t->dir, sizeof t->dir, "%s/kedge-target.XXXXXX", base ? base : "/tmp");
	if (!mkdtemp(t->dir) || pipe2(out, O_CLOEXEC) < 0)
		die("set-up");
	snprintf(disk1, sizeof disk1, "%s/disk1", t->dir);
	snprintf(disk2, sizeof disk2, "%s/disk2", t->dir);
	make_disk(disk1, 1, DISK1_BYTES);
	make_disk(disk2, 2, DISK2_BYTES);
	va_start(ap, path);
	for (const char *a = va_arg(ap, const char *); a && n < ARGS_MAX - 1; a = va_arg(ap, const char *))
		argv[n++] = a;
	va_end(ap);
	argv[n] = NULL;
	t->pid = fork();
	if (t->pid < 0)
		die("fork");
	if (t->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that aborts leaves no target behind */
		if (getppid() != parent)
			_exit(126);
		dup2(out[1], 1);
		execv(path, (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	close(out[1]);
	t->out_fd = out[0];
	t->port = read_port(t->out_fd);
	if (t->port <= 0) {
		errno = ETIMEDOUT;
		target_stop(t);
		die("ktarget does not listen");
	}
}

static bool wait_for_end(pid_t pid, int *ret_status, int ms)
{
	for (; ms > 0; ms -= 10) {
		if (waitpid(pid, ret_status, WNOHANG) == pid)
			return true;
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL); /* polled: a child has no descriptor to wait on here */
	}
	return false;
}

bool target_stop(struct target *t)
{
	char path[96];
	int status = -1;
	bool has_ended;

	kill(t->pid, SIGTERM);
	has_ended = wait_for_end(t->pid, &status, STOP_MS);
	if (!has_ended) {
		kill(t->pid, SIGKILL);
		waitpid(t->pid, &status, 0);
	}
	close(t->out_fd);
	for (int i = 1; i <= 2; i++) {
		snprintf(path, sizeof path, "%s/disk%d", t->dir, i);
		unlink(path);
	}
	rmdir(t->dir);
	if (!has_ended || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fprintf(stderr, "ktarget did not end well: %s, wait status 0x%x\n", has_ended ? "ended" : "killed after SIGTERM", (unsigned)status);
		return false;
	}
	return true;
}

bool target_is_alive(struct target *t)
{
	siginfo_t info = {0};

	return waitid(P_PID, (id_t)t->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

long target_rss_kib(const struct target *t)
{
	char path[64], line[128];
	long kib = -1;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/status", (int)t->pid);
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (fgets(line, sizeof line, f))
		if (strncmp(line, "VmRSS:", 6) == 0)
			kib = strtol(line + 6, NULL, 10);
	fclose(f);
	return kib;
}
