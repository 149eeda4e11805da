/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The reader of a free map on a disk that does not answer: what it holds, what limits it has, and that nobody waits for it.
 *
 * Owns. A FUSE file that is the volume, with a thread that answers all but reads: who reads is in the kernel's hands and cannot be killed.
 * Locks. lock: who reads.
 */
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "freemap.h"

#define VOLUME_BYTES (16u << 20)
#define LIMIT_MS 1000u
#define WAIT_S 20

static struct {
	char path[64];
	int fuse_fd;
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t has_reader;
	pid_t reader;
	uint64_t unique; /* of its request */
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER, .has_reader = PTHREAD_COND_INITIALIZER};

/* ---- the disk ---- */

static void answer(uint64_t unique, int error, const void *data, size_t nr_bytes)
{
	struct {
		struct fuse_out_header h;
		uint8_t data[256];
	} out = {.h = {.len = (uint32_t)(sizeof out.h + nr_bytes), .error = error, .unique = unique}};

	if (nr_bytes)
		memcpy(out.data, data, nr_bytes);
	if (write(disk.fuse_fd, &out, out.h.len) < 0 && errno != ENOENT)
		abort();
}

static void take_request(const struct fuse_in_header *h)
{
	struct fuse_init_out init = {.major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 65536};
	struct fuse_open_out open_out = {.open_flags = FOPEN_DIRECT_IO};
	struct fuse_attr_out attr = {.attr = {.ino = 1, .size = VOLUME_BYTES, .mode = S_IFREG | 0600, .nlink = 1, .blksize = 4096}};

	switch (h->opcode) {
	case FUSE_INIT:
		answer(h->unique, 0, &init, sizeof init);
		return;
	case FUSE_GETATTR:
		answer(h->unique, 0, &attr, sizeof attr);
		return;
	case FUSE_OPEN:
		answer(h->unique, 0, &open_out, sizeof open_out);
		return;
	case FUSE_READ:
		pthread_mutex_lock(&disk.lock);
		disk.reader = (pid_t)h->pid;
		disk.unique = h->unique;
		pthread_cond_signal(&disk.has_reader);
		pthread_mutex_unlock(&disk.lock);
		return;
	case FUSE_FORGET:
	case FUSE_INTERRUPT:
		return;
	default:
		answer(h->unique, -ENOSYS, NULL, 0);
	}
}

static void *disk_thread(void *arg)
{
	static union {
		struct fuse_in_header h;
		uint8_t bytes[128 * 1024];
	} in;

	/* the unmount ends it */
	for (;;) {
		ssize_t n = read(disk.fuse_fd, &in, sizeof in);
		if (n >= (ssize_t)sizeof in.h)
			take_request(&in.h);
		else if (errno != EINTR && errno != EAGAIN && errno != ENOENT)
			return NULL;
	}
}

static void disk_start(void)
{
	char options[80];
	int fd;

	strcpy(disk.path, "/tmp/kedge-freemap.XXXXXX");
	fd = mkstemp(disk.path);
	assert_true(fd >= 0);
	close(fd);
	disk.reader = 0;
	disk.fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	assert_true(disk.fuse_fd >= 0);
	snprintf(options, sizeof options, "fd=%d,rootmode=100600,user_id=0,group_id=0", disk.fuse_fd);
	assert_int_equal(mount("kedge-test", disk.path, "fuse", MS_NODEV | MS_NOSUID, options), 0);
	assert_int_equal(pthread_create(&disk.thread, NULL, disk_thread, NULL), 0);
}

static void disk_stop(void)
{
	umount2(disk.path, MNT_FORCE); /* fails what is under way */
	umount2(disk.path, MNT_DETACH);
	pthread_join(disk.thread, NULL);
	close(disk.fuse_fd);
	unlink(disk.path);
}

static int teardown(void **state)
{
	disk_stop();
	return 0;
}

static int setup(void **state)
{
	disk_start();
	return 0;
}

static pid_t wait_reader(void)
{
	struct timespec end;
	pid_t pid;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += WAIT_S;
	pthread_mutex_lock(&disk.lock);
	while (!disk.reader && r == 0)
		r = pthread_cond_timedwait(&disk.has_reader, &disk.lock, &end);
	pid = disk.reader;
	pthread_mutex_unlock(&disk.lock);
	return pid;
}

/* ---- the reader ---- */

struct question {
	int fd, r;
	struct kedge_err err;
};

static void *ask_thread(void *arg)
{
	struct question *q = arg;
	struct tgt_freemap m = {0};

	q->r = tgt_freemap_read(q->fd, NULL, VOLUME_BYTES, LIMIT_MS, &m, &q->err);
	return NULL;
}

/* What descriptor fd of a process is, "" for none. */
static void what_is(pid_t pid, int fd, char out[128])
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
	n = readlink(path, out, 127);
	out[n < 0 ? 0 : n] = 0;
}

static unsigned nr_mappings(pid_t pid, const char *what)
{
	char path[64], line[512];
	unsigned nr = 0;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof line, f))
		nr += strstr(line, what) != NULL;
	fclose(f);
	return nr;
}

static unsigned cpu_limit_s(pid_t pid)
{
	char path[64], line[256];
	unsigned s = 0;
	FILE *f;

	snprintf(path, sizeof path, "/proc/%d/limits", (int)pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof line, f))
		sscanf(line, "Max cpu time %u", &s);
	fclose(f);
	return s;
}

static void test_nobody_waits_for_a_reader_that_hangs(void **state)
{
	struct question q = {.fd = open(disk.path, O_RDONLY | O_CLOEXEC)};
	pthread_t thread;
	pid_t pid;

	assert_true(q.fd >= 0);
	assert_int_equal(pthread_create(&thread, NULL, ask_thread, &q), 0);
	pid = wait_reader();
	assert_true(pid > 0);
	/* comes back although the kernel still holds it */
	struct timespec end;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += WAIT_S;
	assert_int_equal(pthread_timedjoin_np(thread, NULL, &end), 0);
	assert_int_equal(q.r, -EIO);
	assert_non_null(strstr(q.err.msg, "takes longer"));
	assert_int_equal(waitpid(pid, NULL, WNOHANG), 0); /* alive: or this proves nothing */
	umount2(disk.path, MNT_FORCE);                     /* the disk gives its reads up */
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(q.fd);
}

static void test_the_reader_has_its_volume_and_its_answer_only(void **state)
{
	struct wire w;
	char text[128];
	pid_t pid;

	/* a ktarget that hangs in it cannot be asked over the wire: started by hand */
	int out[2];
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	w.t.pid = fork();
	if (w.t.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves no target behind */
		dup2(out[1], 1);
		execl(wire_ktarget, wire_ktarget, "--portal", "127.0.0.1:0", "--iqn", TARGET_IQN, "--lun", disk.path, "--free-space", "must", NULL);
		_exit(127);
	}
	close(out[1]);
	pid = wait_reader();
	if (pid == w.t.pid) { /* its own look at the volume's first byte */
		pthread_mutex_lock(&disk.lock);
		disk.reader = 0;
		uint64_t unique = disk.unique;
		pthread_mutex_unlock(&disk.lock);
		answer(unique, 0, "", 1);
		pid = wait_reader();
	}
	assert_true(pid > 0 && pid != w.t.pid);
	assert_int_equal(getsid(pid), pid); /* an agent that ends this ktarget's session does not wait for it */
	for (int fd = 0; fd < 64; fd++) {
		what_is(pid, fd, text);
		if (fd == 2 && WIRE_RSS_SLACK_KIB)
			continue; /* a sanitizer's reports */
		if (fd <= 2)
			assert_string_equal(text, "/dev/null");
		else if (fd == 3)
			assert_string_equal(text, disk.path);
		else if (fd == 4)
			assert_memory_equal(text, "pipe:", 5);
		else
			assert_string_equal(text, "");
	}
	assert_int_not_equal(nr_mappings(w.t.pid, "[io_uring]"), 0);
	assert_int_equal(nr_mappings(pid, "[io_uring]"), 0);
	/* an export that is served again has more time: many volumes may be cold at once */
	assert_int_equal(cpu_limit_s(pid), TGT_FREEMAP_AGAIN_MS / 1000);
	kill(w.t.pid, SIGKILL);
	umount2(disk.path, MNT_FORCE);
	assert_int_equal(waitpid(w.t.pid, NULL, 0), w.t.pid);
	close(out[0]);
}

/* A process that reads a map, stopped by us where it forks; its reader, which has not run yet. */
static pid_t fork_asker(pid_t *ret_reader)
{
	struct kedge_err err;
	struct tgt_freemap m = {0};
	unsigned long reader = 0;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			_exit(1);
		raise(SIGSTOP);
		tgt_freemap_read(open(disk.path, O_RDONLY | O_CLOEXEC), NULL, VOLUME_BYTES, LIMIT_MS, &m, &err);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACEFORK | PTRACE_O_EXITKILL), 0);
	assert_int_equal(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status >> 8, SIGTRAP | PTRACE_EVENT_FORK << 8);
	assert_int_equal(ptrace(PTRACE_GETEVENTMSG, pid, NULL, &reader), 0);
	assert_int_equal(waitpid((pid_t)reader, &status, __WALL), (pid_t)reader);
	assert_true(WIFSTOPPED(status));
	*ret_reader = (pid_t)reader;
	return pid;
}

static void test_a_reader_whose_parent_died_first_reads_nothing(void **state)
{
	struct timespec nap = {.tv_nsec = 10000000};
	pid_t reader, asker = fork_asker(&reader), r = 0;
	bool has_read = false;
	int status = 0;

	assert_int_equal(kill(asker, SIGKILL), 0);
	assert_int_equal(waitpid(asker, &status, 0), asker);
	assert_int_equal(ptrace(PTRACE_CONT, reader, NULL, NULL), 0);
	for (int i = 0; i < WAIT_S * 100 && r == 0 && !has_read; i++) {
		r = waitpid(reader, &status, WNOHANG | __WALL);
		pthread_mutex_lock(&disk.lock);
		has_read = disk.reader != 0;
		pthread_mutex_unlock(&disk.lock);
		nanosleep(&nap, NULL);
	}
	assert_false(has_read);
	assert_int_equal(r, reader);
	assert_true(WIFEXITED(status));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_nobody_waits_for_a_reader_that_hangs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_reader_has_its_volume_and_its_answer_only, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_reader_whose_parent_died_first_reads_nothing, setup, teardown),
	};

	return wire_main(argc, argv) ? 2 : cmocka_run_group_tests(tests, NULL, NULL);
}
