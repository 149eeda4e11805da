/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. SQLite for the daemons' records; its one user.
 *
 * Owns. The database handle.
 *
 * Locks. None: the loop's thread. SQLite's own file lock keeps a second daemon out.
 *
 * Crash. WAL with synchronous=FULL: a commit that returned survives a power cut, one that did not return is there as a
 * whole or not at all. The schema is made in one transaction; user_version is written in it. A torn tail of the log is dropped by SQLite;
 * damage in the middle is looked for before anything is read, and refused.
 */
#include "db.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kedge/file.h"

struct db {
	sqlite3 *sql;
	const struct db_schema *schema;
};

static int fail(struct db *db, const char *doing, struct kedge_err *err)
{
	int code = sqlite3_errcode(db->sql);
	int res = code == SQLITE_FULL ? -ENOSPC : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? KEDGE_E_META_CORRUPT : -EIO;

	return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "%s, %s: %s", db->schema->what, doing, sqlite3_errmsg(db->sql));
}

int db_exec(struct db *db, const char *sql, const char *doing, struct kedge_err *err)
{
	return sqlite3_exec(db->sql, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(db, doing, err);
}

/* ---- statements ---- */

int db_prepare(struct db *db, const char *sql, struct db_row *ret_row, struct kedge_err *err)
{
	sqlite3_stmt *stmt = NULL;

	*ret_row = (struct db_row){.db = db};
	if (sqlite3_prepare_v2(db->sql, sql, -1, &stmt, NULL) != SQLITE_OK)
		return fail(db, "prepare", err);
	ret_row->stmt = stmt;
	return 0;
}

void db_put_text(struct db_row *r, const char *text)
{
	sqlite3_bind_text(r->stmt, ++r->col, text, -1, SQLITE_TRANSIENT);
}

void db_put_number(struct db_row *r, uint64_t v)
{
	sqlite3_bind_int64(r->stmt, ++r->col, (sqlite3_int64)v);
}

void db_put_maybe(struct db_row *r, bool is_there, uint64_t v)
{
	if (is_there)
		db_put_number(r, v);
	else
		sqlite3_bind_null(r->stmt, ++r->col);
}

void db_put_uuid(struct db_row *r, const struct kedge_uuid *u)
{
	char text[KEDGE_UUID_TEXT_MAX] = "";

	if (!kedge_uuid_is_null(u))
		kedge_uuid_format(u, text);
	db_put_text(r, text);
}

int db_run(struct db_row *r, const char *doing, struct kedge_err *err)
{
	int res = sqlite3_step(r->stmt) == SQLITE_DONE ? 0 : fail(r->db, doing, err);

	db_end(r);
	return res;
}

int db_next(struct db_row *r, struct kedge_err *err)
{
	int step = sqlite3_step(r->stmt);

	r->col = 0;
	if (step == SQLITE_ROW)
		return 1;
	return step == SQLITE_DONE ? 0 : fail(r->db, "read", err);
}

void db_end(struct db_row *r)
{
	sqlite3_finalize(r->stmt);
	r->stmt = NULL;
}

int db_get_text(struct db_row *r, char *out, size_t out_max)
{
	const char *text = (const char *)sqlite3_column_text(r->stmt, r->col++);

	if (!text || strlen(text) >= out_max)
		return -EINVAL;
	strcpy(out, text);
	return 0;
}

char *db_get_heap_text(struct db_row *r)
{
	const char *text = (const char *)sqlite3_column_text(r->stmt, r->col++);

	return text ? strdup(text) : NULL;
}

uint64_t db_get_number(struct db_row *r)
{
	return (uint64_t)sqlite3_column_int64(r->stmt, r->col++);
}

bool db_get_maybe(struct db_row *r, uint64_t *ret_v)
{
	bool is_there = sqlite3_column_type(r->stmt, r->col) != SQLITE_NULL;

	*ret_v = db_get_number(r);
	return is_there;
}

int db_get_uuid(struct db_row *r, struct kedge_uuid *ret_uuid)
{
	char text[KEDGE_UUID_TEXT_MAX];
	int res = db_get_text(r, text, sizeof text);

	memset(ret_uuid, 0, sizeof *ret_uuid);
	return res || !text[0] ? res : kedge_uuid_parse(text, ret_uuid);
}

/* ---- transactions ---- */

int db_begin(struct db *db, struct kedge_err *err)
{
	return db_exec(db, "BEGIN IMMEDIATE", "begin", err);
}

int db_commit(struct db *db, struct kedge_err *err)
{
	return db_exec(db, "COMMIT", "commit", err);
}

void db_rollback(struct db *db)
{
	if (db_is_in_transaction(db))
		sqlite3_exec(db->sql, "ROLLBACK", NULL, NULL, NULL);
}

bool db_is_in_transaction(const struct db *db)
{
	return !sqlite3_get_autocommit(db->sql);
}

void db_set_lazy(struct db *db, bool is_lazy)
{
	sqlite3_exec(db->sql, is_lazy ? "PRAGMA synchronous=NORMAL" : "PRAGMA synchronous=FULL", NULL, NULL, NULL);
}

void db_scrub(struct db *db)
{
	sqlite3_wal_checkpoint_v2(db->sql, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
}

/* ---- open, close ---- */

static int read_pragma(struct db *db, const char *sql, int *ret_value, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(db, sql, &r, err);

	if (res)
		return res;
	res = db_next(&r, err);
	if (res == 1)
		*ret_value = (int)db_get_number(&r);
	db_end(&r);
	return res < 0 ? res : 0;
}

static int make_schema(struct db *db, struct kedge_err *err)
{
	char pragmas[96];
	int res = db_begin(db, err);

	if (res)
		return res;
	snprintf(pragmas, sizeof pragmas, "PRAGMA application_id=%d; PRAGMA user_version=%d", db->schema->application_id,
		 db->schema->version);
	res = db_exec(db, db->schema->sql, "schema", err);
	if (!res)
		res = db_exec(db, pragmas, "schema version", err);
	if (!res)
		res = db_commit(db, err);
	if (res)
		db_rollback(db);
	return res;
}

/* Step by step, each in a transaction of its own. */
static int upgrade(struct db *db, int from, struct kedge_err *err)
{
	int res = 0;

	for (int v = from; v < db->schema->version && !res; v++) {
		char pragma[48];
		res = db_begin(db, err);
		if (res)
			return res;
		snprintf(pragma, sizeof pragma, "PRAGMA user_version=%d", v + 1);
		res = db_exec(db, db->schema->upgrades[v - 1], "upgrade", err);
		if (!res)
			res = db_exec(db, pragma, "schema version", err);
		if (!res)
			res = db_commit(db, err);
		if (res)
			db_rollback(db);
	}
	return res;
}

/* Damage is to be seen now, not when the page that has it decides something. */
static int check_whole(struct db *db, const char *path, struct kedge_err *err)
{
	char said[200] = "";
	struct db_row r;
	int res = db_prepare(db, "PRAGMA quick_check(1)", &r, err);

	if (res)
		return res;
	res = db_next(&r, err);
	if (res == 1)
		db_get_text(&r, said, sizeof said);
	db_end(&r);
	if (res < 0)
		return res;
	if (strcmp(said, "ok") == 0)
		return 0;
	for (char *p = said; *p; p++)
		if (*p == '\n')
			*p = ' ';
	return kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_CONTROL, "%s is damaged: %s", path, said[0] ? said : "no verdict");
}

static int set_up(struct db *db, const char *path, struct kedge_err *err)
{
	int version = 0, id = 0;
	int res = db_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON", "settings", err);

	if (!res)
		res = read_pragma(db, "PRAGMA user_version", &version, err);
	if (!res)
		res = read_pragma(db, "PRAGMA application_id", &id, err);
	if (res)
		return res;
	if (version || id)
		res = check_whole(db, path, err);
	if (res)
		return res;
	if (version == db->schema->version && id == db->schema->application_id)
		return 0;
	if (id == db->schema->application_id && version >= 1 && version < db->schema->version)
		return upgrade(db, version, err);
	if (version || id)
		return kedge_err_set(err, KEDGE_E_META_VERSION, KEDGE_SIDE_CONTROL,
				     "%s: schema version %d of application %#x is not known here (known: %d)", path, version, (unsigned)id,
				     db->schema->version);
	return make_schema(db, err);
}

int db_open(const struct db_schema *schema, const char *path, struct db **ret_db, struct kedge_err *err)
{
	struct db *db = calloc(1, sizeof *db);
	int fd, res;

	if (!db)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for %s", schema->what);
	db->schema = schema;
	/* SQLite gives WAL and shared memory the mode of the database: make that first. */
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || fchmod(fd, 0600) < 0) {
		res = -errno;
		kedge_close(fd);
		free(db);
		return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "%s: %s", path, strerror(-res));
	}
	kedge_close(fd);
	if (sqlite3_open_v2(path, &db->sql, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
		res = fail(db, "open", err);
	else
		res = set_up(db, path, err);
	if (!res)
		res = kedge_file_sync_dir_of(path, err);
	if (res) {
		db_close(db);
		return res;
	}
	sqlite3_busy_timeout(db->sql, 2000);
	*ret_db = db;
	return 0;
}

void db_close(struct db *db)
{
	if (!db)
		return;
	sqlite3_close(db->sql);
	free(db);
}
