/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Processes and what they hold: sessions that are stopped as a whole, the pid file that is there before the program
 * runs, and the proof that nobody uses a file or device: descriptors, mappings, loop devices, mounts.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent_driver.h"
#include "agent_files.h"
#include "kedge/loopdev.h"
#include "agent_openers.h"
#include "agent_spawn.h"
#include "kedge/file.h"

static char dir[64], log_file[96], pid_file[96], file[96];
static char *const env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};

static int set_up(void **state)
{
	strcpy(dir, "/tmp/kedge-driver-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(log_file, sizeof log_file, "%s/log", dir);
	snprintf(pid_file, sizeof pid_file, "%s/pid", dir);
	snprintf(file, sizeof file, "%s/file", dir);
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

static struct kedge_proc spawn_shell(const char *script)
{
	char *argv[] = {"bash", "-c", (char *)script, NULL};
	struct kedge_proc proc = {0};
	struct kedge_err err = {0};
	struct agent_spawn_opts o = {.argv = argv, .envp = env, .cwd = dir, .log_path = log_file, .pid_path = pid_file};

	if (agent_spawn(&o, &proc, &err))
		fail_msg("%s", err.msg);
	return proc;
}

static bool wait_for_file(const char *name)
{
	char path[128];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	for (int i = 0; i < 500; i++) {
		struct stat st;
		if (stat(path, &st) == 0 && st.st_size)
			return true;
		agent_nap(10);
	}
	return false;
}

static pid_t read_pid(const char *name)
{
	char path[128], *text = NULL;
	size_t n;
	pid_t pid;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	assert_true(wait_for_file(name));
	assert_int_equal(kedge_file_read(path, 64, &text, &n, NULL), 0);
	pid = atoi(text);
	free(text);
	return pid;
}

static void test_spawn_names_the_process_before_it_runs(void **state)
{
	/* The program sees its own pid file. */
	struct kedge_proc proc = spawn_shell("cut -d' ' -f1 pid >seen; echo $$ >mine; exec sleep 1000"), read;

	assert_int_equal(read_pid("seen"), proc.pid);
	assert_int_equal(read_pid("mine"), proc.pid);
	assert_int_equal(agent_pid_read(pid_file, &read), 0);
	assert_int_equal(read.pid, proc.pid);
	assert_true(kedge_proc_is_alive(&read));
	assert_int_equal(getsid(proc.pid), proc.pid);
	assert_int_equal(agent_session_stop(&proc, 1000), 0);
	assert_false(kedge_proc_is_alive(&read));
}

static void test_spawn_tells_why_a_program_does_not_run(void **state)
{
	char *argv[] = {"/nonexistent/x", NULL};
	struct agent_spawn_opts o = {.argv = argv, .envp = env, .cwd = "/", .log_path = log_file, .pid_path = pid_file};
	struct kedge_proc proc;
	struct kedge_err err = {0};

	assert_int_equal(agent_spawn(&o, &proc, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/x"));
	assert_int_equal(agent_pid_read(pid_file, &proc), -ENOENT);
	o.cwd = "/nonexistent";
	argv[0] = "true";
	assert_int_equal(agent_spawn(&o, &proc, NULL), -ENOENT);
}

static void test_session_stop_takes_stubborn_children_along(void **state)
{
	struct kedge_proc proc = spawn_shell("trap '' TERM; (trap '' TERM; echo $BASHPID >child; while :; do sleep 0.1; done) & "
					     "while :; do sleep 0.1; done");
	pid_t child = read_pid("child");
	struct kedge_proc child_proc;

	assert_int_equal(kedge_proc_identify(child, &child_proc), 0);
	assert_true(agent_session_count(&proc) >= 2);
	/* the leader alone dies: the session is not gone */
	kill(proc.pid, SIGKILL);
	for (int i = 0; i < 500 && kedge_proc_is_alive(&proc); i++)
		agent_nap(10);
	assert_true(agent_session_count(&proc) >= 1);
	assert_int_equal(agent_session_stop(&proc, 200), 0);
	assert_int_equal(agent_session_count(&proc), 0);
	assert_false(kedge_proc_is_alive(&child_proc));
}

static void test_session_of_a_reused_pid_is_not_touched(void **state)
{
	struct kedge_proc proc = spawn_shell("exec sleep 1000"), old = proc, boot = proc;

	old.start_ticks--;
	assert_int_equal(agent_session_count(&old), 0);
	assert_int_equal(agent_session_stop(&old, 0), 0);
	strcpy(boot.boot_id, "another-boot");
	assert_int_equal(agent_session_count(&boot), 0);
	assert_int_equal(agent_session_stop(&boot, 0), 0);
	assert_true(kedge_proc_is_alive(&proc));
	assert_int_equal(agent_session_stop(&proc, 0), 0);
}

static void test_run_gives_exit_codes_and_a_deadline(void **state)
{
	char *exit7[] = {"sh", "-c", "exit 7", NULL}, *killed[] = {"sh", "-c", "kill -9 $$", NULL};
	char *hangs[] = {"sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000", NULL};
	struct agent_spawn_opts o = {.argv = exit7, .envp = env, .cwd = "/", .log_path = log_file};
	int code = -1;

	assert_int_equal(agent_run(&o, 5000, &code, NULL), 0);
	assert_int_equal(code, 7);
	o.argv = killed;
	assert_int_equal(agent_run(&o, 5000, &code, NULL), 0);
	assert_int_equal(code, 137);
	o.argv = hangs;
	assert_int_equal(agent_run(&o, 100, &code, NULL), -ETIMEDOUT);
}

static int check(const char *path, struct kedge_err *err)
{
	struct agent_target t = {0};

	memset(err, 0, sizeof *err);
	assert_int_equal(agent_target_add(&t, path, NULL), 0);
	return agent_openers_check(&t, NULL, 0, err);
}

static void test_openers_finds_descriptors_of_daemonised_grandchildren(void **state)
{
	struct kedge_err err;
	char text[32];

	assert_int_equal(agent_file_create(file, 8192, NULL), 0);
	assert_int_equal(check(file, &err), 0);
	/* it left the session: only its descriptor tells */
	struct kedge_proc proc = spawn_shell("exec 3<file; setsid bash -c 'echo $$ >child; exec sleep 1000' & sleep 1000");
	pid_t child = read_pid("child");
	assert_int_equal(agent_session_stop(&proc, 0), 0);
	assert_int_equal(check(file, &err), KEDGE_E_STILL_OPEN);
	snprintf(text, sizeof text, "pid %d (", (int)child);
	assert_non_null(strstr(err.msg, text));
	struct agent_target t = {0};
	agent_target_add(&t, file, NULL);
	assert_int_equal(agent_openers_check(&t, &child, 1, NULL), 0);
	kill(child, SIGKILL);
	for (int i = 0; i < 500 && check(file, &err); i++)
		agent_nap(10);
	assert_int_equal(check(file, &err), 0);
}

static void test_openers_finds_mappings_without_descriptor(void **state)
{
	struct kedge_err err;
	void *p;
	int fd;

	assert_int_equal(agent_file_create(file, 8192, NULL), 0);
	fd = open(file, O_RDWR);
	p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(p != MAP_FAILED);
	close(fd);
	assert_int_equal(check(file, &err), KEDGE_E_STILL_OPEN);
	munmap(p, 4096);
	assert_int_equal(check(file, &err), 0);
}

static void test_openers_finds_loop_devices_and_mounts(void **state)
{
	char device[AGENT_DEVICE_MAX], found[AGENT_DEVICE_MAX], command[400], mount_point[80];
	struct kedge_err err = {0};
	int fd;

	assert_int_equal(agent_file_create(file, 4 << 20, NULL), 0);
	snprintf(command, sizeof command, "mkfs.ext4 -q %s", file);
	assert_int_equal(system(command), 0);
	if (kedge_loopdev_attach(file, 512, device, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(kedge_loopdev_find(file, found), 0);
	assert_string_equal(device, found);
	assert_int_equal(check(file, &err), KEDGE_E_STILL_OPEN);
	assert_non_null(strstr(err.msg, device));
	assert_int_equal(check(device, &err), 0);
	fd = open(device, O_RDONLY);
	assert_int_equal(check(device, &err), KEDGE_E_STILL_OPEN);
	close(fd);
	/* mounted in a namespace that is not ours */
	snprintf(mount_point, sizeof mount_point, "%s/mnt", dir);
	mkdir(mount_point, 0700);
	snprintf(command, sizeof command, "mount %s mnt && echo $$ >mounted && exec sleep 1000", device);
	char script[480];
	snprintf(script, sizeof script, "exec unshare -m bash -c '%s'", command);
	struct kedge_proc proc = spawn_shell(script);
	read_pid("mounted");
	assert_int_equal(check(device, &err), KEDGE_E_STILL_OPEN);
	assert_non_null(strstr(err.msg, "mounted on"));
	assert_int_equal(agent_session_stop(&proc, 0), 0);
	for (int i = 0; i < 500 && check(device, &err); i++)
		agent_nap(10);
	assert_int_equal(check(device, &err), 0);
	assert_int_equal(kedge_loopdev_detach(file, 2000, &err), 0);
	assert_int_equal(kedge_loopdev_find(file, found), -ENOENT);
	assert_int_equal(check(file, &err), 0);
}

/* driver_check() of a workload with this spec; its message in *ret_err. */
static int check_spec(const char *spec, struct kedge_err *ret_err)
{
	struct agent_unit u = {.work = {.is_defined = true, .name = "w", .spec = (char *)spec}};

	memset(ret_err, 0, sizeof *ret_err);
	return driver_check(&u, ret_err);
}

static void test_a_workload_that_could_not_be_started_is_told_beforehand(void **state)
{
	static const char *const good[] = {
		"{\"start\":[\"sleep\",\"9\"]}", "{\"start\":[\"/bin/sh\"]}", "{\"start\":[\"bin/sh\"],\"cwd\":\"/usr\"}",
		"{\"start\":[\"sh\"],\"cwd\":\"/usr\",\"env\":{\"PATH\":\"/nosuch:bin\"}}"};
	static const struct {
		const char *spec;
		int res;
		const char *said;
	} bad[] = {{"{\"start\":[\"/nosuch/db\"]}", -ENOENT, "its program /nosuch/db: No such file"},
		   {"{\"start\":[\"kedge-nosuch\"]}", -ENOENT, "its program kedge-nosuch"},
		   {"{\"start\":[\"sh\"],\"env\":{\"PATH\":\"/nosuch\"}}", -ENOENT, "its program sh"},
		   {"{\"start\":[\"/etc/passwd\"]}", -EACCES, "its program /etc/passwd: Permission denied"},
		   {"{\"start\":[\"/usr\"]}", -EACCES, "its program /usr: Permission denied"},
		   {"{\"start\":[\"/bin/sh\"],\"cwd\":\"/nosuch\"}", -ENOENT, "its directory /nosuch: No such file"},
		   {"{\"start\":[\"/bin/sh\"],\"cwd\":\"/etc/passwd\"}", -ENOTDIR, "its directory /etc/passwd: Not a directory"}};
	struct kedge_err err;

	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		if (check_spec(good[i], &err))
			fail_msg("%s: %s", good[i], err.msg);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(check_spec(bad[i].spec, &err), bad[i].res);
		if (!strstr(err.msg, bad[i].said))
			fail_msg("%s: %s", bad[i].spec, err.msg);
	}
}

static void test_files_are_made_whole_or_refused(void **state)
{
	struct kedge_err err = {0};
	struct stat st;
	char link[96];

	assert_int_equal(agent_file_create(file, 1 << 20, NULL), 0);
	assert_int_equal(stat(file, &st), 0);
	assert_true(st.st_size == 1 << 20 && st.st_blocks * 512 >= 1 << 20);
	assert_int_equal(agent_file_create(file, 1 << 20, NULL), 0); /* again */
	assert_int_equal(agent_file_create(file, 2 << 20, &err), -EEXIST);
	assert_int_equal(agent_file_remove(file, NULL), 0);
	assert_int_equal(agent_file_remove(file, NULL), 0);
	assert_int_equal(agent_file_create(file, 1ull << 60, NULL), KEDGE_E_NO_ROOM);
	assert_int_equal(stat(file, &st), -1); /* no part of it stays */
	snprintf(link, sizeof link, "%s/link", dir);
	assert_int_equal(symlink("/tmp/kedge-never-made", link), 0);
	assert_int_equal(agent_file_create(link, 4096, NULL), -ELOOP);
	assert_int_equal(agent_size_check(4096, NULL), 0);
	assert_int_equal(agent_size_check(0, NULL), -EINVAL);
	memset(&err, 0, sizeof err);
	assert_int_equal(agent_size_check(5000, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "4096 and 8192"));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_spawn_names_the_process_before_it_runs),
		T(test_spawn_tells_why_a_program_does_not_run),
		T(test_session_stop_takes_stubborn_children_along),
		T(test_session_of_a_reused_pid_is_not_touched),
		T(test_run_gives_exit_codes_and_a_deadline),
		T(test_openers_finds_descriptors_of_daemonised_grandchildren),
		T(test_openers_finds_mappings_without_descriptor),
		T(test_openers_finds_loop_devices_and_mounts),
		T(test_a_workload_that_could_not_be_started_is_told_beforehand),
		T(test_files_are_made_whole_or_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
