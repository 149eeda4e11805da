/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small files, CHAP files, processes, control sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kedge/chapfile.h"
#include "kedge/ctl.h"
#include "kedge/file.h"
#include "kedge/proc.h"

static char dir[64];

static int setup(void **state)
{
	strcpy(dir, "/tmp/kedge-files-XXXXXX");
	assert_non_null(mkdtemp(dir));
	return 0;
}

static int teardown(void **state)
{
	char cmd[100];

	snprintf(cmd, sizeof cmd, "rm -rf -- '%s'", dir);
	return system(cmd);
}

static const char *in_dir(const char *name)
{
	static char path[128];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	return path;
}

static void put(const char *name, const char *text, mode_t mode)
{
	int fd = open(in_dir(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static void test_file_replace_and_read(void **state)
{
	char *text;
	size_t n;
	struct stat st;

	assert_int_equal(kedge_file_replace(in_dir("f"), "one", 3, 0600, NULL), 0);
	assert_int_equal(kedge_file_replace(in_dir("f"), "second", 6, 0640, NULL), 0);
	assert_int_equal(kedge_file_read(in_dir("f"), 100, &text, &n, NULL), 0);
	assert_string_equal(text, "second");
	free(text);
	assert_int_equal(stat(in_dir("f"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(kedge_file_read(in_dir("f"), 5, &text, &n, NULL), -EFBIG);
	assert_int_equal(kedge_mkdir_p(in_dir("a/b/c"), 0700, NULL), 0);
	assert_int_equal(kedge_mkdir_p(in_dir("a/b/c"), 0700, NULL), 0);
}

static void test_chap_file_open_to_others_is_refused(void **state)
{
	struct kedge_chap c;
	struct kedge_err err = {0};

	put("chap", "user = in\nsecret = 0123456789ab\n", 0644);
	assert_int_equal(kedge_chap_read(in_dir("chap"), &c, &err), -EACCES);
	assert_null(strstr(err.msg, "0123456789ab"));
}

static void test_chap_file_round_trip(void **state)
{
	struct kedge_chap c = {.user = "in", .secret = "0123456789ab", .mutual_user = "tg", .mutual_secret = "ba9876543210"}, d;

	assert_int_equal(kedge_chap_write(in_dir("chap"), &c, NULL), 0);
	assert_int_equal(kedge_chap_read(in_dir("chap"), &d, NULL), 0);
	assert_memory_equal(&c, &d, sizeof c);
	kedge_chap_fini(&d);
	assert_int_equal(d.secret[0], 0);
}

static void test_chap_file_bad_ones_are_refused_without_their_secret(void **state)
{
	static const char *const bad[] = {
		"user = in\nsecret = short\n",
		"user = in\n",
		"secret = 0123456789ab\n",
		"user = in\nsecret = 0123456789ab\nmutual-user = x\n",
		"user = in\nsecret = 0123456789ab\nmutual-user = x\nmutual-secret = 0123456789ab\n",
		"user = in\nsecret = 0123456789ab\npassword = 0123456789ab\n",
		"user in\n",
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct kedge_chap c;
		struct kedge_err err = {0};
		put("chap", bad[i], 0600);
		assert_int_equal(kedge_chap_read(in_dir("chap"), &c, &err), -EINVAL);
		assert_null(strstr(err.msg, "0123456789ab"));
	}
}

static void test_proc_is_not_fooled_by_a_reused_pid(void **state)
{
	struct kedge_proc p, other;
	pid_t pid = fork();

	if (pid == 0) {
		pause();
		_exit(0);
	}
	assert_int_equal(kedge_proc_identify(pid, &p), 0);
	assert_true(kedge_proc_is_alive(&p));
	other = p;
	other.start_ticks++;
	assert_false(kedge_proc_is_alive(&other));
	assert_int_equal(kedge_proc_kill(&other, SIGKILL), -ESRCH);
	assert_true(kedge_proc_is_alive(&p));
	other = p;
	other.boot_id[0] ^= 1;
	assert_false(kedge_proc_is_alive(&other));
	assert_int_equal(kedge_proc_kill(&p, SIGKILL), 0);
	/* a zombie is gone: nothing of it runs any more */
	siginfo_t si;
	assert_int_equal(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT), 0);
	assert_false(kedge_proc_is_alive(&p));
	waitpid(pid, NULL, 0);
	assert_int_equal(kedge_proc_identify(pid, &other), -ESRCH);
}

static const char *canned;

static void *answer(void *arg)
{
	int fd = accept(*(int *)arg, NULL, NULL);
	char buf[4096];

	if (read(fd, buf, sizeof buf) > 0 && canned)
		kedge_write_full(fd, canned, strlen(canned));
	if (!canned)
		sleep(1);
	close(fd);
	return NULL;
}

static int ask(const char *reply, unsigned timeout_ms, json_t **ret_result, struct kedge_err *err)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), r;
	pthread_t th;

	snprintf(sa.sun_path, sizeof sa.sun_path, "%s/s", dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
	assert_int_equal(listen(fd, 1), 0);
	canned = reply;
	pthread_create(&th, NULL, answer, &fd);
	r = kedge_ctl_call(sa.sun_path, "status", NULL, timeout_ms, ret_result, err);
	pthread_join(th, NULL);
	close(fd);
	unlink(sa.sun_path);
	return r;
}

static void test_ctl_answers_refusals_and_silence(void **state)
{
	struct kedge_err err = {0};
	json_t *result = NULL;

	assert_int_equal(ask("{\"v\":1,\"ok\":true,\"result\":{\"a\":5}}\n", 5000, &result, &err), 0);
	assert_int_equal(json_integer_value(json_object_get(result, "a")), 5);
	json_decref(result);
	assert_int_equal(ask("{\"v\":1,\"ok\":false,\"error\":{\"code\":\"WRITTEN\",\"message\":\"no\"}}\n", 5000, NULL, &err),
			 KEDGE_E_WRITTEN);
	assert_string_equal(err.msg, "no");
	assert_int_equal(ask("nonsense\n", 5000, NULL, NULL), KEDGE_E_PROTO);
	assert_int_equal(ask("{\"cut", 5000, NULL, NULL), KEDGE_E_UNREACHABLE);
	assert_int_equal(ask(NULL, 100, NULL, NULL), KEDGE_E_UNREACHABLE);
	assert_int_equal(kedge_ctl_call(in_dir("none"), "status", NULL, 100, NULL, NULL), KEDGE_E_UNREACHABLE);
}

/* A server that is stopped takes no connections; once its queue is full, connect(2) itself waits. */
static void test_ctl_keeps_its_deadline_before_a_full_queue(void **state)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), r = 0, nr = 0;

	snprintf(sa.sun_path, sizeof sa.sun_path, "%s/s", dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
	assert_int_equal(listen(fd, 0), 0);
	int queued[8];
	for (; nr < 8 && r == 0; nr++) {
		queued[nr] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		r = connect(queued[nr], (struct sockaddr *)&sa, sizeof sa);
	}
	assert_int_equal(r, -1);
	assert_int_equal(errno, EAGAIN);
	alarm(20); /* without the deadline it would wait for ever */
	assert_int_equal(kedge_ctl_call(sa.sun_path, "status", NULL, 100, NULL, NULL), KEDGE_E_UNREACHABLE);
	alarm(0);
	while (nr > 0)
		close(queued[--nr]);
	close(fd);
	unlink(sa.sun_path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_file_replace_and_read, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chap_file_open_to_others_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chap_file_round_trip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chap_file_bad_ones_are_refused_without_their_secret, setup, teardown),
		cmocka_unit_test_setup_teardown(test_proc_is_not_fooled_by_a_reused_pid, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ctl_answers_refusals_and_silence, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ctl_keeps_its_deadline_before_a_full_queue, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
