/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The coordinator's records: what a drain and its migrations ask for comes back from a new open, and records of before that
 * was asked for are taken over.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "coord_store.h"

static char dir[64], path[96];
static struct coord_drain drains[4];
static struct coord_migration migrations[4];
static unsigned nr_drains, nr_migrations;

static int set_up(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/kedge-coord-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof path, "%s/coordinator.db", dir);
	return 0;
}

static int tear_down(void **state)
{
	static const char *const suffixes[] = {"", "-wal", "-shm"};
	char other[112];

	(void)state;
	for (int i = 0; i < 3; i++) {
		snprintf(other, sizeof other, "%s%s", path, suffixes[i]);
		unlink(other);
	}
	return rmdir(dir);
}

static int on_drain(void *arg, const struct coord_drain *d)
{
	(void)arg;
	drains[nr_drains++] = *d;
	return 0;
}

static int on_migration(void *arg, const struct coord_migration *m)
{
	(void)arg;
	migrations[nr_migrations++] = *m;
	return 0;
}

/* Opens, and loads everything. */
static struct coord_store *reopen(struct coord_store *s)
{
	struct kedge_err err = {0};

	coord_store_close(s);
	nr_drains = nr_migrations = 0;
	if (coord_store_open(path, &s, &err) || coord_store_load_drains(s, on_drain, NULL, &err) ||
	    coord_store_load_migrations(s, on_migration, NULL, &err))
		fail_msg("%s", err.msg);
	return s;
}

static struct coord_drain full_drain(void)
{
	return (struct coord_drain){.id = {.b = {1}}, .host = "a", .to = "b", .workload = "w", .max_parallel = 3, .rate_bps = 5, .hold_ms = 6,
				    .is_release_delete = true, .state = COORD_DRAIN_PARTLY, .started_ms = 7, .ended_ms = 8,
				    .pace = {.has_floor = true, .has_latency = true, .floor_bps = INT64_MAX, .latency_percent = 0, .transit = "checked"}};
}

static struct coord_migration full_migration(void)
{
	return (struct coord_migration){.id = {.b = {2}}, .drain = {.b = {1}}, .volume_uuid = {.b = {3}}, .volume = "v", .workload = "w", .from = "a",
					.to = "b", .epoch = 4, .size_bytes = 8192, .lbs_bytes = 512, .rate_bps = 5, .hold_ms = 6, .engine = "dm",
					.wants_start = true, .step = COORD_PLANNED, .times_ms = {[COORD_PLANNED] = 7},
					.verified_bytes = 3004, .checksum_bytes = 3001, .hole_bytes = 3002, .left_out_bytes = 3003,
					.pace = {.has_latency = true, .latency_percent = 105}};
}

/* One of each is put, in a store that is closed again. */
static void put_both(const struct coord_drain *d, const struct coord_migration *m)
{
	struct kedge_chap chap = {"u", "s", "mu", "ms"};
	struct coord_store *s = reopen(NULL);
	struct kedge_err err = {0};
	char *spec = NULL;

	if (coord_store_add_drain(s, d, m, &spec, &chap, 1, &err))
		fail_msg("%s", err.msg);
	coord_store_close(s);
}

static void test_store_gives_back_every_field(void **state)
{
	struct coord_drain d = full_drain();
	struct coord_migration m = full_migration();
	struct coord_store *s;

	(void)state;
	put_both(&d, &m);
	s = reopen(NULL);
	assert_true(nr_drains == 1 && nr_migrations == 1);
	assert_memory_equal(&drains[0], &d, sizeof d);
	assert_memory_equal(&migrations[0], &m, sizeof m);
	/* each step of it is put again, over what is there */
	d.state = COORD_DRAIN_DONE;
	m.wants_start = false;
	assert_int_equal(coord_store_put_drain(s, &d, NULL), 0);
	assert_int_equal(coord_store_put_migration(s, &m, false, NULL), 0);
	s = reopen(s);
	assert_true(nr_drains == 1 && nr_migrations == 1);
	assert_memory_equal(&drains[0], &d, sizeof d);
	assert_memory_equal(&migrations[0], &m, sizeof m);
	coord_store_close(s);
}

/* What a coordinator of before paces, and comparisons by checksums, were recorded left. */
static void test_store_takes_over_version_4(void **state)
{
	static const char *const tables[] = {"drains", "migrations"}, *const columns[] = {"floor_bps", "latency_percent", "transit"};
	struct coord_drain d = full_drain();
	struct coord_migration m = full_migration();
	struct coord_store *s;
	char sql[512] = "", command[700];

	(void)state;
	put_both(&d, &m);
	for (size_t i = 0; i < 6; i++)
		snprintf(sql + strlen(sql), sizeof sql - strlen(sql), "ALTER TABLE %s DROP COLUMN %s; ", tables[i / 3], columns[i % 3]);
	snprintf(command, sizeof command, "sqlite3 %s '%sALTER TABLE migrations DROP COLUMN checksum_bytes; PRAGMA user_version=4'", path, sql);
	assert_int_equal(system(command), 0);
	s = reopen(NULL);
	assert_true(nr_drains == 1 && nr_migrations == 1);
	memset(&d.pace, 0, sizeof d.pace);
	memset(&m.pace, 0, sizeof m.pace);
	m.checksum_bytes = 0;
	assert_memory_equal(&drains[0], &d, sizeof d);
	assert_memory_equal(&migrations[0], &m, sizeof m);
	/* and from then on they are kept */
	d.pace = full_drain().pace;
	assert_int_equal(coord_store_put_drain(s, &d, NULL), 0);
	s = reopen(s);
	assert_memory_equal(&drains[0], &d, sizeof d);
	coord_store_close(s);
}

static void test_store_refuses_a_pace_that_is_none(void **state)
{
	static const char *const wrong[] = {"latency_percent=50", "transit='lz4'", "floor_bps=-1"};
	struct coord_drain d = full_drain();
	struct coord_migration m = full_migration();

	(void)state;
	put_both(&d, &m);
	for (size_t i = 0; i < 3; i++) {
		struct kedge_err err = {0};
		struct coord_store *s;
		char command[256];
		snprintf(command, sizeof command, "sqlite3 %s \"UPDATE drains SET latency_percent=NULL, floor_bps=NULL, transit=''; UPDATE drains SET %s\"", path,
			 wrong[i]);
		assert_int_equal(system(command), 0);
		assert_int_equal(coord_store_open(path, &s, &err), 0);
		assert_int_equal(coord_store_load_drains(s, on_drain, NULL, &err), KEDGE_E_META_CORRUPT);
		coord_store_close(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_store_gives_back_every_field, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_store_takes_over_version_4, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_store_refuses_a_pace_that_is_none, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
