/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loop devices belong to files, not to numbers: who lets go his own never lets go what another process attached under the same number
 * a moment ago. Needs root and the loop driver.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

#include "kedge/err.h"
#include "kedge/file.h"
#include "kedge/loopdev.h"

#define NR_THREADS 4
#define NR_ROUNDS 60

static char dir[] = "/tmp/kedge-loopdev-XXXXXX";

static const char *file_of(const char *name, char out[128])
{
	snprintf(out, 128, "%s/%s", dir, name);
	int fd = open(out, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	return out;
}

static int set_up(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof command, "rm -rf %s", dir);
	return system(command);
}

static int clean(void **state)
{
	static const char *const names[] = {"a", "b", "link", "0", "1", "2", "3"};
	char path[128];

	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		kedge_loopdev_abandon(path);
	}
	return 0;
}

static void attach(const char *path, char device[KEDGE_LOOPDEV_MAX])
{
	struct kedge_err err = {0};

	if (kedge_loopdev_attach(path, 512, device, &err))
		fail_msg("%s", err.msg);
}

static void test_found_by_its_file(void **state)
{
	char a[128], link_path[128], device[KEDGE_LOOPDEV_MAX], found[KEDGE_LOOPDEV_MAX];
	struct kedge_err err = {0};

	(void)state;
	file_of("a", a);
	snprintf(link_path, sizeof link_path, "%s/link", dir);
	assert_int_equal(symlink(a, link_path), 0);
	assert_int_equal(kedge_loopdev_find(a, found), -ENOENT);
	assert_int_equal(kedge_loopdev_detach(a, 0, &err), 0);
	attach(a, device);
	assert_int_equal(kedge_loopdev_find(a, found), 0);
	assert_string_equal(found, device);
	assert_int_equal(kedge_loopdev_find(link_path, found), 0);
	assert_string_equal(found, device);
	assert_true(kedge_loopdev_is_of(device, a));
	assert_false(kedge_loopdev_is_of(device, "/etc/passwd"));
	assert_false(kedge_loopdev_is_of("/dev/null", a));
	assert_int_equal(kedge_loopdev_detach(a, 2000, &err), 0);
	assert_int_equal(kedge_loopdev_find(a, found), -ENOENT);
}

static void test_two_devices_of_one_file_both_go(void **state)
{
	char a[128], device[KEDGE_LOOPDEV_MAX], other[KEDGE_LOOPDEV_MAX];
	struct kedge_err err = {0};

	(void)state;
	file_of("a", a);
	attach(a, device);
	attach(a, other);
	assert_string_not_equal(device, other);
	assert_int_equal(kedge_loopdev_detach(a, 2000, &err), 0);
	assert_false(kedge_loopdev_is_of(device, a));
	assert_false(kedge_loopdev_is_of(other, a));
}

static void test_the_number_of_another(void **state)
{
	char a[128], b[128], of_a[KEDGE_LOOPDEV_MAX], of_b[KEDGE_LOOPDEV_MAX];
	struct kedge_err err = {0};

	(void)state;
	file_of("a", a);
	file_of("b", b);
	attach(a, of_a);
	assert_int_equal(kedge_loopdev_detach(a, 2000, &err), 0);
	attach(b, of_b);
	assert_int_equal(kedge_loopdev_detach(a, 2000, &err), 0);
	assert_int_equal(kedge_loopdev_abandon(a), 0);
	assert_true(kedge_loopdev_is_of(of_b, b));
	assert_int_equal(kedge_loopdev_detach(b, 2000, &err), 0);
}

static void test_in_use_it_stays(void **state)
{
	char a[128], device[KEDGE_LOOPDEV_MAX];
	struct kedge_err err = {0};

	(void)state;
	file_of("a", a);
	attach(a, device);
	int fd = open(device, O_RDWR | O_CLOEXEC);
	assert_int_equal(kedge_loopdev_detach(a, 50, &err), KEDGE_E_STILL_OPEN);
	assert_non_null(strstr(err.msg, device));
	close(fd); /* its user will come again */
	assert_true(kedge_loopdev_is_of(device, a));
	fd = open(device, O_RDWR | O_EXCL | O_CLOEXEC); /* as a mount holds it */
	assert_true(fd >= 0);
	assert_int_equal(kedge_loopdev_detach(a, 50, &err), KEDGE_E_STILL_OPEN);
	close(fd);
	assert_true(kedge_loopdev_is_of(device, a));
	assert_int_equal(kedge_loopdev_detach(a, 2000, &err), 0);
}

static void test_abandoned_it_goes_with_its_last_user(void **state)
{
	char a[128], device[KEDGE_LOOPDEV_MAX];

	(void)state;
	file_of("a", a);
	attach(a, device);
	int fd = open(device, O_RDWR | O_CLOEXEC);
	assert_int_equal(kedge_loopdev_abandon(a), 1);
	assert_true(kedge_loopdev_is_of(device, a));
	close(fd);
	for (int i = 0; i < 400 && kedge_loopdev_is_of(device, a); i++)
		usleep(5000);
	assert_false(kedge_loopdev_is_of(device, a));
}

static atomic_int nr_lost;

static void *attach_and_detach(void *arg)
{
	const char *path = arg;
	char device[KEDGE_LOOPDEV_MAX];
	struct kedge_err err = {0};

	for (int i = 0; i < NR_ROUNDS; i++) {
		if (kedge_loopdev_attach(path, 512, device, &err)) {
			atomic_fetch_add(&nr_lost, 1000);
			return NULL;
		}
		usleep(200);
		if (!kedge_loopdev_is_of(device, path))
			atomic_fetch_add(&nr_lost, 1);
		if (kedge_loopdev_detach(path, 5000, &err))
			atomic_fetch_add(&nr_lost, 1000);
	}
	return NULL;
}

/* All take the lowest free number, so that they take each other's all the time. */
static void test_side_by_side(void **state)
{
	pthread_t threads[NR_THREADS];
	char paths[NR_THREADS][128], name[16];

	(void)state;
	atomic_store(&nr_lost, 0);
	for (int i = 0; i < NR_THREADS; i++) {
		snprintf(name, sizeof name, "%d", i);
		assert_int_equal(pthread_create(&threads[i], NULL, attach_and_detach, (void *)file_of(name, paths[i])), 0);
	}
	for (int i = 0; i < NR_THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&nr_lost), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_found_by_its_file, clean),
		cmocka_unit_test_teardown(test_two_devices_of_one_file_both_go, clean),
		cmocka_unit_test_teardown(test_the_number_of_another, clean),
		cmocka_unit_test_teardown(test_in_use_it_stays, clean),
		cmocka_unit_test_teardown(test_abandoned_it_goes_with_its_last_user, clean),
		cmocka_unit_test_teardown(test_side_by_side, clean),
	};

	return cmocka_run_group_tests_name("loopdev", tests, set_up, tear_down);
}
