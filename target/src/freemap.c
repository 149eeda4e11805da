/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Have the free map of a volume read.
 *
 * Owns. The reader's process, until it has ended. Locks. None.
 *
 * What is on a volume was written by whoever had it, and libraries that read file systems have had their holes. So the reader is a process
 * without rights, with limits of time and memory, that has nothing to say but a list of ranges; those are checked here. If it crashes there is
 * no map.
 */
#include "freemap.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "free_fs.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/loopdev.h"

#define REAP_MS 200u /* of the limit: for a reader that was killed to be gone */
#define READER_DATA_BYTES (512u << 20)
#define NOBODY 65534u
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_DATA_LIMIT false /* their shadow is more than any limit */
#define HAS_STDERR true      /* their reports */
#else
#define HAS_DATA_LIMIT true
#define HAS_STDERR false
#endif

/* What the reader says first; the ranges follow. */
struct answer {
	int32_t code;
	uint32_t nr_ranges;
	char fs[8];
	char why[KEDGE_ERR_MSG_MAX];
};

/* ---- the reader's process ---- */

/* Two descriptors: what it reads, where it answers. Not our output: who started us looks there for the port. */
static int drop_files(struct tgt_free_volume *v, int *out)
{
	enum { VOLUME = 3, OUT };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int volume = fcntl(v->fd, F_DUPFD_CLOEXEC, OUT + 1), answer = fcntl(*out, F_DUPFD_CLOEXEC, OUT + 1);

	if (null < 0 || volume < 0 || answer < 0)
		return -errno;
	for (int fd = 0; fd < (HAS_STDERR ? STDERR_FILENO : VOLUME); fd++)
		if (dup2(null, fd) < 0)
			return -errno;
	if (dup2(volume, VOLUME) < 0 || dup2(answer, OUT) < 0 || close_range(OUT + 1, ~0u, 0) < 0)
		return -errno;
	v->fd = VOLUME;
	*out = OUT;
	return 0;
}

static int drop_rights(pid_t parent, unsigned limit_ms)
{
	const rlim_t cpu_s = (limit_ms + 999) / 1000;
	const struct rlimit none = {0, 0}, cpu = {cpu_s, cpu_s}, data = {READER_DATA_BYTES, READER_DATA_BYTES};

	if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0))
		return -errno;
	/* now: with the old identity the kernel forgets a signal asked for earlier */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	if (getppid() != parent) /* it died before it was asked for */
		_exit(1);
	if (setrlimit(RLIMIT_FSIZE, &none) < 0 || setrlimit(RLIMIT_NPROC, &none) < 0 || setrlimit(RLIMIT_CPU, &cpu) < 0 ||
	    (HAS_DATA_LIMIT && setrlimit(RLIMIT_DATA, &data) < 0))
		return -errno;
	return 0;
}

static int read_map(const struct tgt_free_volume *v, pid_t parent, unsigned limit_ms, struct answer *a, struct tgt_ranges *ret_free,
		    struct kedge_err *err)
{
	enum tgt_free_kind kind;
	int r = drop_rights(parent, limit_ms);

	if (r < 0)
		return kedge_err_set(err, r, KEDGE_SIDE_SOURCE, "the reader keeps its rights: %s", strerror(-r));
	r = tgt_free_probe(v, &kind, err);
	if (r < 0)
		return r;
	strcpy(a->fs, kind == TGT_FREE_EXT4 ? "ext4" : "xfs");
	r = kind == TGT_FREE_EXT4 ? tgt_free_ext4(v, ret_free, err) : tgt_free_xfs(v, ret_free, err);
	if (r == 0)
		tgt_ranges_shrink(ret_free, KEDGE_BLOCK_BYTES);
	return r;
}

static bool write_all(int fd, const void *buf, size_t nr_bytes)
{
	for (size_t n = 0; n < nr_bytes;) {
		ssize_t r = write(fd, (const char *)buf + n, nr_bytes - n);
		if (r <= 0)
			return false;
		n += (size_t)r;
	}
	return true;
}

static _Noreturn void be_reader(struct tgt_free_volume v, int out, pid_t parent, unsigned limit_ms)
{
	struct tgt_ranges ranges = {0};
	struct kedge_err err = {0};
	struct answer a = {0};
	int r;

	setsid(); /* who ends our session waits for all of it, and the disk may not let this one go */
	r = drop_files(&v, &out);
	a.code = r < 0 ? kedge_err_set(&err, r, KEDGE_SIDE_SOURCE, "the reader keeps its files: %s", strerror(-r))
		       : read_map(&v, parent, limit_ms, &a, &ranges, &err);
	a.nr_ranges = a.code == 0 ? (uint32_t)ranges.nr : 0;
	memcpy(a.why, err.msg, sizeof a.why);
	_exit(write_all(out, &a, sizeof a) && write_all(out, ranges.r, a.nr_ranges * sizeof *ranges.r) ? 0 : 1);
}

/* ---- our side ---- */

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* All of it before the deadline? */
static bool read_all(int fd, void *buf, size_t nr_bytes, uint64_t deadline_ms)
{
	for (size_t n = 0; n < nr_bytes;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		uint64_t now = now_ms();
		ssize_t r;
		if (now >= deadline_ms || poll(&p, 1, (int)(deadline_ms - now)) <= 0)
			return false;
		r = read(fd, (char *)buf + n, nr_bytes - n);
		if (r <= 0)
			return false;
		n += (size_t)r;
	}
	return true;
}

static int take_answer(int in, uint64_t size_bytes, unsigned limit_ms, struct tgt_freemap *m, struct kedge_err *err)
{
	uint64_t deadline_ms = now_ms() + limit_ms - REAP_MS;
	struct answer a;

	if (!read_all(in, &a, sizeof a, deadline_ms))
		return kedge_err_set(err, -EIO, KEDGE_SIDE_SOURCE, "its reader has died, or takes longer than %u ms", limit_ms);
	a.fs[sizeof a.fs - 1] = a.why[sizeof a.why - 1] = 0;
	for (char *p = a.why; *p; p++) /* it goes into a line of ours, and is one */
		if ((unsigned char)*p < ' ')
			*p = '?';
	if (a.code < 0)
		return kedge_err_set(err, a.code, KEDGE_SIDE_SOURCE, "%s", a.why);
	if (a.nr_ranges > TGT_RANGES_MAX)
		return kedge_err_set(err, -EIO, KEDGE_SIDE_SOURCE, "its reader talks nonsense");
	strcpy(m->fs, a.fs);
	m->ranges.nr = m->ranges.max = a.nr_ranges;
	m->ranges.r = malloc(a.nr_ranges * sizeof *m->ranges.r + 1);
	if (!m->ranges.r)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_SOURCE, "no memory");
	if (!read_all(in, m->ranges.r, a.nr_ranges * sizeof *m->ranges.r, deadline_ms) ||
	    !tgt_ranges_are_valid(&m->ranges, KEDGE_BLOCK_BYTES, size_bytes))
		return kedge_err_set(err, -EIO, KEDGE_SIDE_SOURCE, "its reader talks nonsense");
	return 0;
}

/* Mounted, or part of another device? Those who do that claim a device for themselves; of a file, the loop device over it. */
static bool is_in_use(const char *path)
{
	char device[KEDGE_LOOPDEV_MAX];
	struct stat st;
	int fd;

	if (stat(path, &st) < 0)
		return true;
	if (S_ISREG(st.st_mode)) {
		if (kedge_loopdev_find(path, device) < 0)
			return false;
		path = device;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_EXCL);
	if (fd < 0)
		return true;
	kedge_close(fd);
	return false;
}

/* One that a sick disk holds does not die: it is left behind, has nothing of ours but the volume, and ends no later than we do. */
static void end_reader(pid_t pid)
{
	struct pollfd ended = {.fd = pidfd_open(pid, 0), .events = POLLIN};

	kill(pid, SIGKILL);
	poll(&ended, 1, REAP_MS); /* without a descriptor: just so long */
	kedge_close(ended.fd);
	waitpid(pid, NULL, WNOHANG);
}

int tgt_freemap_read(int fd, const char *path, uint64_t size_bytes, unsigned limit_ms, struct tgt_freemap *ret_map, struct kedge_err *err)
{
	const struct tgt_free_volume v = {fd, size_bytes};
	struct tgt_freemap m = {0};
	const pid_t parent = getpid();
	int pipes[2], r;
	pid_t pid;

	if (path && is_in_use(path))
		return kedge_err_set(err, -EBUSY, KEDGE_SIDE_SOURCE, "it is in use");
	if (pipe2(pipes, O_CLOEXEC) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_SOURCE, "no pipe: %s", strerror(errno));
	pid = fork();
	if (pid == 0)
		be_reader(v, pipes[1], parent, limit_ms);
	kedge_close(pipes[1]);
	r = pid < 0 ? kedge_err_set(err, -EAGAIN, KEDGE_SIDE_SOURCE, "no process for the reader")
		    : take_answer(pipes[0], size_bytes, limit_ms, &m, err);
	kedge_close(pipes[0]);
	if (pid > 0)
		end_reader(pid);
	if (r < 0)
		tgt_ranges_fini(&m.ranges);
	else
		*ret_map = m;
	return r;
}
