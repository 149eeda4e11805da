/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The agent's records: what is put comes back from a new open, transactions are whole, foreign and damaged databases
 * are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent_store.h"
#include "db.h"
#include "kedge/file.h"

static char dir[64], path[96];

static int set_up(void **state)
{
	strcpy(dir, "/tmp/kedge-store-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof path, "%s/agent.db", dir);
	return 0;
}

static int tear_down(void **state)
{
	char other[112];
	static const char *const suffixes[] = {"", "-wal", "-shm"};

	for (int i = 0; i < 3; i++) {
		snprintf(other, sizeof other, "%s%s", path, suffixes[i]);
		unlink(other);
	}
	return rmdir(dir);
}

static struct agent_store *reopen(struct agent_store *s)
{
	struct kedge_err err = {0};

	agent_store_close(s);
	if (agent_store_open(path, &s, &err))
		fail_msg("%s", err.msg);
	return s;
}

static struct agent_unit full_unit(void)
{
	struct agent_unit u = {0};

	u.vol = (struct agent_volume){.uuid = {.b = {1, 2, 3}}, .name = "v", .size_bytes = 1ull << 40, .lbs_bytes = 4096, .is_block = true, .path = "/dev/x"};
	u.vol.record = (struct agent_record){.state = AGENT_STATE_FENCED, .epoch = 7, .migration = {.b = {9}}, .held_epoch = 7,
					     .stopped_epoch = 7, .fence_epoch = 7, .fence_to = "b", .has_intent = true, .export_epoch = 7,
					     .unexported_epoch = 6, .aborted_epoch = 5, .reserved_epoch = 3, .attached_epoch = 3,
					     .booted_epoch = 3, .revoked_epoch = 2};
	u.clone = (struct agent_clone){.mode = AGENT_CLONE_ATTACHED, .meta = "/m", .url = "iscsi://x", .initiator = "iqn.i",
				       .chap = {"u", "s", "mu", "ms"},
				       .pace = {.has_floor = true, .has_latency = true, .floor_bps = INT64_MAX, .latency_percent = 101, .transit = "zstd"}};
	u.export = (struct agent_export){.is_recorded = true, .iqn = "iqn.t", .initiator = "iqn.j", .port = 65535, .chap = {"a", "b", "c", "d"},
					 .left_out_bytes = 1ull << 50};
	u.work = (struct agent_workload){.is_defined = true, .name = "w", .spec = strdup("{\"start\":[\"x\"]}"), .is_wanted = true, .epoch = 4,
					 .nr_restarts = 2, .proc = {.pid = 42, .start_ticks = 1ull << 40, .boot_id = "boot"}};
	return u;
}

static struct agent_unit loaded[4];
static unsigned nr_loaded;

static int on_unit(void *arg, struct agent_unit *u)
{
	loaded[nr_loaded++] = *u;
	return 0;
}

static void load(struct agent_store *s)
{
	struct kedge_err err = {0};

	for (unsigned i = 0; i < nr_loaded; i++)
		agent_unit_fini(&loaded[i]);
	nr_loaded = 0;
	memset(loaded, 0, sizeof loaded);
	if (agent_store_load(s, on_unit, NULL, &err))
		fail_msg("%s", err.msg);
}

static void forget_loaded(void)
{
	for (unsigned i = 0; i < nr_loaded; i++)
		agent_unit_fini(&loaded[i]);
	nr_loaded = 0;
}

static void test_store_gives_back_every_field(void **state)
{
	struct agent_store *s = reopen(NULL);
	struct agent_unit u = full_unit(), *l = &loaded[0];
	struct stat st;

	assert_int_equal(agent_store_put_unit(s, &u, NULL), 0);
	s = reopen(s);
	load(s);
	assert_int_equal(nr_loaded, 1);
	assert_memory_equal(&l->vol.record, &u.vol.record, sizeof u.vol.record);
	assert_true(kedge_uuid_is_equal(&l->vol.uuid, &u.vol.uuid));
	assert_string_equal(l->vol.name, "v");
	assert_string_equal(l->vol.path, "/dev/x");
	assert_true(l->vol.size_bytes == u.vol.size_bytes && l->vol.lbs_bytes == 4096 && l->vol.is_block);
	assert_memory_equal(&l->clone, &u.clone, sizeof u.clone);
	assert_memory_equal(&l->export.chap, &u.export.chap, sizeof u.export.chap);
	assert_true(l->export.port == 65535 && l->export.is_recorded && l->export.left_out_bytes == 1ull << 50);
	assert_string_equal(l->export.iqn, "iqn.t");
	assert_string_equal(l->work.spec, u.work.spec);
	assert_true(l->work.is_wanted && l->work.epoch == 4 && l->work.nr_restarts == 2);
	assert_int_equal(l->work.proc.pid, 42);
	assert_true(l->work.proc.start_ticks == 1ull << 40);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* what the unit has no more is gone */
	agent_unit_fini(&u);
	u.work = (struct agent_workload){0};
	memset(&u.clone, 0, sizeof u.clone);
	memset(&u.export, 0, sizeof u.export);
	assert_int_equal(agent_store_put_unit(s, &u, NULL), 0);
	load(s);
	assert_true(nr_loaded == 1 && !l->work.is_defined && l->clone.mode == AGENT_CLONE_NONE && !l->export.is_recorded);
	forget_loaded();
	agent_store_close(s);
}

static void test_store_transaction_is_whole_or_not_there(void **state)
{
	struct agent_store *s = reopen(NULL);
	struct agent_unit u = full_unit();
	struct kedge_uuid id = {.b = {5}};
	char *text;

	assert_int_equal(agent_store_begin(s, NULL), 0);
	assert_int_equal(agent_store_put_unit(s, &u, NULL), 0);
	assert_int_equal(agent_store_put_result(s, &id, 1, "STOP", "{}", NULL), 0);
	agent_store_rollback(s);
	load(s);
	assert_int_equal(nr_loaded, 0);
	assert_null(agent_store_get_result(s, &id, 1, "STOP", NULL));
	/* never committed: the close drops it */
	assert_int_equal(agent_store_begin(s, NULL), 0);
	assert_int_equal(agent_store_put_unit(s, &u, NULL), 0);
	s = reopen(s);
	load(s);
	assert_int_equal(nr_loaded, 0);
	assert_int_equal(agent_store_begin(s, NULL), 0);
	assert_int_equal(agent_store_put_unit(s, &u, NULL), 0);
	assert_int_equal(agent_store_put_result(s, &id, 1, "STOP", "{\"x\":1}", NULL), 0);
	assert_int_equal(agent_store_commit(s, NULL), 0);
	s = reopen(s);
	load(s);
	assert_int_equal(nr_loaded, 1);
	text = agent_store_get_result(s, &id, 1, "STOP", NULL);
	assert_string_equal(text, "{\"x\":1}");
	free(text);
	assert_null(agent_store_get_result(s, &id, 2, "STOP", NULL));
	assert_int_equal(agent_store_forget_result(s, &id, 1, "STOP", NULL), 0);
	assert_null(agent_store_get_result(s, &id, 1, "STOP", NULL));
	forget_loaded();
	agent_unit_fini(&u);
	agent_store_close(s);
}

static void test_store_refuses_a_workload_name_twice(void **state)
{
	struct agent_store *s = reopen(NULL);
	struct agent_unit u = full_unit(), other = full_unit();

	other.vol.uuid.b[0] = 77;
	assert_int_equal(agent_store_put_unit(s, &u, NULL), 0);
	assert_int_not_equal(agent_store_put_unit(s, &other, NULL), 0);
	load(s);
	assert_int_equal(nr_loaded, 1);
	forget_loaded();
	agent_unit_fini(&u);
	agent_unit_fini(&other);
	agent_store_close(s);
}

static void test_store_refuses_foreign_and_damaged_files(void **state)
{
	struct agent_store *s = reopen(NULL);
	struct kedge_err err = {0};
	char command[256];
	int res;

	agent_store_close(s);
	snprintf(command, sizeof command, "sqlite3 %s 'PRAGMA user_version=99'", path);
	assert_int_equal(system(command), 0);
	assert_int_equal(agent_store_open(path, &s, &err), KEDGE_E_META_VERSION);
	tear_down(NULL);
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_int_equal(kedge_file_replace(path, "this is no database, and is long enough to be looked at as one......"
						  "................................................................",
					    132, 0600, NULL), 0);
	memset(&err, 0, sizeof err);
	res = agent_store_open(path, &s, &err);
	assert_int_equal(res, KEDGE_E_META_CORRUPT);
}

/* Damage is seen when the daemon starts, not when the page that has it decides something. */
static void test_store_refuses_a_damaged_page_wherever_it_is(void **state)
{
	static const unsigned char wrong[16] = "XXXXXXXXXXXXXXXX";
	struct agent_store *s = reopen(NULL);
	struct agent_unit u = full_unit();
	unsigned nr_refused = 0, nr_pages;
	struct kedge_err err;
	size_t nr_bytes;
	char *whole;

	(void)state;
	assert_int_equal(agent_store_put_unit(s, &u, NULL), 0);
	agent_store_close(s);
	assert_int_equal(kedge_file_read(path, 1 << 20, &whole, &nr_bytes, NULL), 0);
	nr_pages = (unsigned)(nr_bytes / 4096);
	assert_true(nr_pages > 4);
	for (unsigned page = 0; page < nr_pages; page++) {
		char *damaged = malloc(nr_bytes);
		assert_non_null(damaged);
		memcpy(damaged, whole, nr_bytes);
		memcpy(damaged + (size_t)page * 4096, wrong, sizeof wrong);
		assert_int_equal(kedge_file_replace(path, damaged, nr_bytes, 0600, NULL), 0);
		free(damaged);
		memset(&err, 0, sizeof err);
		if (agent_store_open(path, &s, &err)) {
			nr_refused++;
			continue;
		}
		fail_msg("page %u: opened", page);
	}
	assert_int_equal(nr_refused, nr_pages);
	assert_non_null(strstr(err.msg, "damaged"));
	agent_unit_fini(&u);
	free(whole);
}

static void test_store_refuses_records_that_break_an_invariant(void **state)
{
	struct agent_store *s = reopen(NULL);
	struct agent_unit u = full_unit();
	struct kedge_err err = {0};

	u.vol.record.revoked_epoch = u.vol.record.booted_epoch;
	assert_int_equal(agent_store_put_unit(s, &u, NULL), 0);
	assert_int_equal(agent_store_load(s, on_unit, NULL, &err), KEDGE_E_META_CORRUPT);
	assert_non_null(strstr(err.msg, "booted and revoked"));
	agent_unit_fini(&u);
	agent_store_close(s);
}

/* A database of an earlier version is brought up, step by step, and keeps what it holds. */
static void test_upgrade(void **state)
{
	static const char *const steps[] = {"ALTER TABLE t ADD COLUMN b INTEGER NOT NULL DEFAULT 7", "ALTER TABLE t ADD COLUMN c TEXT NOT NULL DEFAULT 'x'"};
	static const struct db_schema one = {"test records", "CREATE TABLE t(a INTEGER NOT NULL) STRICT", 0x74657374, 1, NULL};
	static const struct db_schema three = {"test records", "CREATE TABLE never(x INTEGER) STRICT", 0x74657374, 3, steps};
	struct kedge_err err = {0};
	struct db_row r;
	struct db *db;

	assert_int_equal(db_open(&one, path, &db, &err), 0);
	assert_int_equal(db_exec(db, "INSERT INTO t VALUES(5)", "test", &err), 0);
	db_close(db);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(db_open(&three, path, &db, &err), 0);
		assert_int_equal(db_prepare(db, "SELECT a,b,c FROM t", &r, &err), 0);
		assert_int_equal(db_next(&r, &err), 1);
		assert_int_equal(db_get_number(&r), 5);
		assert_int_equal(db_get_number(&r), 7);
		db_end(&r);
		db_close(db);
	}
	/* and not back again */
	assert_int_equal(db_open(&one, path, &db, &err), KEDGE_E_META_VERSION);
}

/* What an agent of before paces were recorded left: all of it is there, and no pace is given. */
static void test_store_takes_over_version_2(void **state)
{
	struct agent_store *s = reopen(NULL);
	struct agent_unit u = full_unit();
	char command[512];

	(void)state;
	assert_int_equal(agent_store_put_unit(s, &u, NULL), 0);
	agent_store_close(s);
	snprintf(command, sizeof command,
		 "sqlite3 %s 'ALTER TABLE clones DROP COLUMN floor_bps; ALTER TABLE clones DROP COLUMN latency_percent;"
		 " ALTER TABLE clones DROP COLUMN transit; PRAGMA user_version=2'", path);
	assert_int_equal(system(command), 0);
	s = reopen(NULL);
	load(s);
	assert_int_equal(nr_loaded, 1);
	memset(&u.clone.pace, 0, sizeof u.clone.pace);
	assert_memory_equal(&loaded[0].clone, &u.clone, sizeof u.clone);
	forget_loaded();
	agent_unit_fini(&u);
	agent_store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_upgrade, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_store_gives_back_every_field, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_store_takes_over_version_2, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_store_transaction_is_whole_or_not_there, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_store_refuses_a_workload_name_twice, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_store_refuses_foreign_and_damaged_files, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_store_refuses_a_damaged_page_wherever_it_is, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_store_refuses_records_that_break_an_invariant, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
