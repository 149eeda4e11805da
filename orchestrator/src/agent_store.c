/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The agent's durable records in SQLite; the one user of SQLite on the agent's side.
 *
 * Owns. The database handle.
 *
 * Locks. None: the loop's thread. SQLite's own file lock keeps a second agent out.
 *
 * Crash. WAL with synchronous=FULL: a commit that returned survives a power cut, one that did not return is there as a
 * whole or not at all. The schema is made in one transaction; user_version is written in it.
 */
#include "agent_store.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/file.h"

#define SCHEMA_VERSION 1
#define APPLICATION_ID 0x6b656461 /* "keda" */

static const char schema_sql[] =
	"CREATE TABLE volumes("
	" uuid TEXT PRIMARY KEY, name TEXT NOT NULL, size_bytes INTEGER NOT NULL, lbs_bytes INTEGER NOT NULL,"
	" is_block INTEGER NOT NULL, path TEXT NOT NULL, state TEXT NOT NULL, epoch INTEGER NOT NULL,"
	" migration TEXT NOT NULL, held_epoch INTEGER NOT NULL, stopped_epoch INTEGER NOT NULL,"
	" fence_epoch INTEGER NOT NULL, fence_to TEXT NOT NULL, has_intent INTEGER NOT NULL,"
	" export_epoch INTEGER NOT NULL, unexported_epoch INTEGER NOT NULL, aborted_epoch INTEGER NOT NULL,"
	" is_released INTEGER NOT NULL, reserved_epoch INTEGER NOT NULL, attached_epoch INTEGER NOT NULL,"
	" booted_epoch INTEGER NOT NULL, revoked_epoch INTEGER NOT NULL) STRICT;"
	"CREATE TABLE clones("
	" uuid TEXT PRIMARY KEY, mode INTEGER NOT NULL, meta TEXT NOT NULL, url TEXT NOT NULL, initiator TEXT NOT NULL,"
	" user TEXT NOT NULL, secret TEXT NOT NULL, mutual_user TEXT NOT NULL, mutual_secret TEXT NOT NULL) STRICT;"
	"CREATE TABLE exports("
	" uuid TEXT PRIMARY KEY, iqn TEXT NOT NULL, initiator TEXT NOT NULL, port INTEGER NOT NULL,"
	" user TEXT NOT NULL, secret TEXT NOT NULL, mutual_user TEXT NOT NULL, mutual_secret TEXT NOT NULL) STRICT;"
	"CREATE TABLE workloads("
	" uuid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, spec TEXT NOT NULL, is_wanted INTEGER NOT NULL,"
	" epoch INTEGER NOT NULL, nr_restarts INTEGER NOT NULL, pid INTEGER NOT NULL, start_ticks INTEGER NOT NULL,"
	" boot_id TEXT NOT NULL) STRICT;"
	"CREATE TABLE results("
	" id TEXT NOT NULL, epoch INTEGER NOT NULL, step TEXT NOT NULL, result TEXT NOT NULL,"
	" PRIMARY KEY(id, epoch, step)) STRICT, WITHOUT ROWID;"
	"CREATE TABLE kept("
	" uuid TEXT NOT NULL, epoch INTEGER NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL, PRIMARY KEY(uuid, epoch)) STRICT;"
	"CREATE TABLE facts(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;";

struct agent_store {
	sqlite3 *db;
};

static int fail(struct agent_store *s, const char *doing, struct kedge_err *err)
{
	int code = sqlite3_errcode(s->db);
	int res = code == SQLITE_FULL ? -ENOSPC : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? KEDGE_E_META_CORRUPT : -EIO;

	return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "agent records, %s: %s", doing, sqlite3_errmsg(s->db));
}

static int exec(struct agent_store *s, const char *sql, const char *doing, struct kedge_err *err)
{
	return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(s, doing, err);
}

/* ---- binding and reading, in column order ---- */

struct row {
	sqlite3_stmt *stmt;
	int col;
};

static void put_text(struct row *r, const char *text)
{
	sqlite3_bind_text(r->stmt, ++r->col, text, -1, SQLITE_TRANSIENT);
}

static void put_number(struct row *r, uint64_t v)
{
	sqlite3_bind_int64(r->stmt, ++r->col, (sqlite3_int64)v);
}

static void put_uuid(struct row *r, const struct kedge_uuid *u)
{
	char text[KEDGE_UUID_TEXT_MAX] = "";

	if (!kedge_uuid_is_null(u))
		kedge_uuid_format(u, text);
	put_text(r, text);
}

static void put_chap(struct row *r, const struct kedge_chap *c)
{
	put_text(r, c->user);
	put_text(r, c->secret);
	put_text(r, c->mutual_user);
	put_text(r, c->mutual_secret);
}

/* A value too long for its place makes the row unreadable: nothing is cut. */
static int get_text(struct row *r, char *out, size_t out_max)
{
	const char *text = (const char *)sqlite3_column_text(r->stmt, r->col++);

	if (!text || strlen(text) >= out_max)
		return -EINVAL;
	strcpy(out, text);
	return 0;
}

static uint64_t get_number(struct row *r)
{
	return (uint64_t)sqlite3_column_int64(r->stmt, r->col++);
}

static int get_uuid(struct row *r, struct kedge_uuid *ret_uuid)
{
	char text[KEDGE_UUID_TEXT_MAX];
	int res = get_text(r, text, sizeof text);

	memset(ret_uuid, 0, sizeof *ret_uuid);
	return res || !text[0] ? res : kedge_uuid_parse(text, ret_uuid);
}

static int get_chap(struct row *r, struct kedge_chap *c)
{
	int res = get_text(r, c->user, sizeof c->user);

	if (!res)
		res = get_text(r, c->secret, sizeof c->secret);
	if (!res)
		res = get_text(r, c->mutual_user, sizeof c->mutual_user);
	if (!res)
		res = get_text(r, c->mutual_secret, sizeof c->mutual_secret);
	return res;
}

static int prepare(struct agent_store *s, const char *sql, struct row *ret_row, struct kedge_err *err)
{
	ret_row->stmt = NULL;
	ret_row->col = 0;
	return sqlite3_prepare_v2(s->db, sql, -1, &ret_row->stmt, NULL) == SQLITE_OK ? 0 : fail(s, "prepare", err);
}

static int finish(struct agent_store *s, struct row *r, const char *doing, struct kedge_err *err)
{
	int res = sqlite3_step(r->stmt) == SQLITE_DONE ? 0 : fail(s, doing, err);

	sqlite3_finalize(r->stmt);
	return res;
}

/* ---- units ---- */

static int put_volume(struct agent_store *s, const struct agent_volume *v, struct kedge_err *err)
{
	const struct agent_record *c = &v->record;
	struct row r;
	int res = prepare(s,
			  "INSERT OR REPLACE INTO volumes VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", &r, err);

	if (res)
		return res;
	put_uuid(&r, &v->uuid);
	put_text(&r, v->name);
	put_number(&r, v->size_bytes);
	put_number(&r, v->lbs_bytes);
	put_number(&r, v->is_block);
	put_text(&r, v->path);
	put_text(&r, agent_state_name(c->state));
	put_number(&r, c->epoch);
	put_uuid(&r, &c->migration);
	put_number(&r, c->held_epoch);
	put_number(&r, c->stopped_epoch);
	put_number(&r, c->fence_epoch);
	put_text(&r, c->fence_to);
	put_number(&r, c->has_intent);
	put_number(&r, c->export_epoch);
	put_number(&r, c->unexported_epoch);
	put_number(&r, c->aborted_epoch);
	put_number(&r, c->is_released);
	put_number(&r, c->reserved_epoch);
	put_number(&r, c->attached_epoch);
	put_number(&r, c->booted_epoch);
	put_number(&r, c->revoked_epoch);
	return finish(s, &r, "volume", err);
}

static int get_volume(struct row *r, struct agent_volume *v)
{
	struct agent_record *c = &v->record;
	char state[16];
	int res = get_uuid(r, &v->uuid);

	if (!res)
		res = get_text(r, v->name, sizeof v->name);
	v->size_bytes = get_number(r);
	v->lbs_bytes = (uint32_t)get_number(r);
	v->is_block = get_number(r);
	if (!res)
		res = get_text(r, v->path, sizeof v->path);
	if (!res)
		res = get_text(r, state, sizeof state);
	if (!res)
		res = agent_state_by_name(state, &c->state);
	c->epoch = get_number(r);
	if (!res)
		res = get_uuid(r, &c->migration);
	c->held_epoch = get_number(r);
	c->stopped_epoch = get_number(r);
	c->fence_epoch = get_number(r);
	if (!res)
		res = get_text(r, c->fence_to, sizeof c->fence_to);
	c->has_intent = get_number(r);
	c->export_epoch = get_number(r);
	c->unexported_epoch = get_number(r);
	c->aborted_epoch = get_number(r);
	c->is_released = get_number(r);
	c->reserved_epoch = get_number(r);
	c->attached_epoch = get_number(r);
	c->booted_epoch = get_number(r);
	c->revoked_epoch = get_number(r);
	return res;
}

/* A row, or none: what the unit does not have is deleted. */
static int delete_part(struct agent_store *s, const char *sql, const struct kedge_uuid *uuid, struct kedge_err *err)
{
	struct row r;
	int res = prepare(s, sql, &r, err);

	if (res)
		return res;
	put_uuid(&r, uuid);
	return finish(s, &r, "delete", err);
}

static int put_clone(struct agent_store *s, const struct agent_unit *u, struct kedge_err *err)
{
	struct row r;
	int res;

	if (u->clone.mode == AGENT_CLONE_NONE)
		return delete_part(s, "DELETE FROM clones WHERE uuid=?", &u->vol.uuid, err);
	res = prepare(s, "INSERT OR REPLACE INTO clones VALUES(?,?,?,?,?,?,?,?,?)", &r, err);
	if (res)
		return res;
	put_uuid(&r, &u->vol.uuid);
	put_number(&r, u->clone.mode);
	put_text(&r, u->clone.meta);
	put_text(&r, u->clone.url);
	put_text(&r, u->clone.initiator);
	put_chap(&r, &u->clone.chap);
	return finish(s, &r, "clone", err);
}

static int put_export(struct agent_store *s, const struct agent_unit *u, struct kedge_err *err)
{
	struct row r;
	int res;

	if (!u->export.is_recorded)
		return delete_part(s, "DELETE FROM exports WHERE uuid=?", &u->vol.uuid, err);
	res = prepare(s, "INSERT OR REPLACE INTO exports VALUES(?,?,?,?,?,?,?,?)", &r, err);
	if (res)
		return res;
	put_uuid(&r, &u->vol.uuid);
	put_text(&r, u->export.iqn);
	put_text(&r, u->export.initiator);
	put_number(&r, u->export.port);
	put_chap(&r, &u->export.chap);
	return finish(s, &r, "export", err);
}

static int put_workload(struct agent_store *s, const struct agent_unit *u, struct kedge_err *err)
{
	struct row r;
	int res;

	if (!u->work.is_defined)
		return delete_part(s, "DELETE FROM workloads WHERE uuid=?", &u->vol.uuid, err);
	/* An upsert: REPLACE would silently take another volume's workload of the same name away. */
	res = prepare(s,
		      "INSERT INTO workloads VALUES(?,?,?,?,?,?,?,?,?) ON CONFLICT(uuid) DO UPDATE SET name=excluded.name,"
		      " spec=excluded.spec, is_wanted=excluded.is_wanted, epoch=excluded.epoch, nr_restarts=excluded.nr_restarts,"
		      " pid=excluded.pid, start_ticks=excluded.start_ticks, boot_id=excluded.boot_id",
		      &r, err);
	if (res)
		return res;
	put_uuid(&r, &u->vol.uuid);
	put_text(&r, u->work.name);
	put_text(&r, u->work.spec);
	put_number(&r, u->work.is_wanted);
	put_number(&r, u->work.epoch);
	put_number(&r, u->work.nr_restarts);
	put_number(&r, (uint64_t)u->work.proc.pid);
	put_number(&r, u->work.proc.start_ticks);
	put_text(&r, u->work.proc.boot_id);
	return finish(s, &r, "workload", err);
}

int agent_store_put_unit(struct agent_store *s, const struct agent_unit *u, struct kedge_err *err)
{
	bool is_own = sqlite3_get_autocommit(s->db);
	int res = is_own ? agent_store_begin(s, err) : 0;

	if (res)
		return res;
	res = put_volume(s, &u->vol, err);
	if (!res)
		res = put_clone(s, u, err);
	if (!res)
		res = put_export(s, u, err);
	if (!res)
		res = put_workload(s, u, err);
	if (!res && is_own)
		res = agent_store_commit(s, err);
	if (res && is_own)
		agent_store_rollback(s);
	return res;
}

/* One row of a part, when it is there. */
static int load_part(struct agent_store *s, const char *sql, struct agent_unit *u,
		     int (*get)(struct row *r, struct agent_unit *u), struct kedge_err *err)
{
	struct row r;
	int step, res = prepare(s, sql, &r, err);

	if (res)
		return res;
	put_uuid(&r, &u->vol.uuid);
	r.col = 0;
	step = sqlite3_step(r.stmt);
	if (step == SQLITE_ROW && get(&r, u))
		res = kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_CONTROL, "agent records of volume %s are damaged",
				    u->vol.name);
	else if (step != SQLITE_ROW && step != SQLITE_DONE)
		res = fail(s, "read", err);
	sqlite3_finalize(r.stmt);
	return res;
}

static int get_clone(struct row *r, struct agent_unit *u)
{
	uint64_t mode = get_number(r);

	u->clone.mode = (enum agent_clone_mode)mode;
	if (mode > AGENT_CLONE_PASSTHROUGH || get_text(r, u->clone.meta, sizeof u->clone.meta) ||
	    get_text(r, u->clone.url, sizeof u->clone.url) || get_text(r, u->clone.initiator, sizeof u->clone.initiator))
		return -EINVAL;
	return get_chap(r, &u->clone.chap);
}

static int get_export(struct row *r, struct agent_unit *u)
{
	u->export.is_recorded = true;
	if (get_text(r, u->export.iqn, sizeof u->export.iqn) || get_text(r, u->export.initiator, sizeof u->export.initiator))
		return -EINVAL;
	u->export.port = (uint16_t)get_number(r);
	return get_chap(r, &u->export.chap);
}

static int get_workload(struct row *r, struct agent_unit *u)
{
	u->work.is_defined = true;
	if (get_text(r, u->work.name, sizeof u->work.name))
		return -EINVAL;
	u->work.spec = strdup((const char *)sqlite3_column_text(r->stmt, r->col++));
	u->work.is_wanted = get_number(r);
	u->work.epoch = get_number(r);
	u->work.nr_restarts = get_number(r);
	u->work.proc.pid = (pid_t)get_number(r);
	u->work.proc.start_ticks = get_number(r);
	if (get_text(r, u->work.proc.boot_id, sizeof u->work.proc.boot_id))
		return -EINVAL;
	return u->work.spec ? 0 : -ENOMEM;
}

static int load_unit(struct agent_store *s, struct row *r, struct agent_unit *u, struct kedge_err *err)
{
	const char *broken;
	int res;

	r->col = 0;
	if (get_volume(r, &u->vol))
		return kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_CONTROL, "agent records: a volume is damaged");
	broken = agent_core_broken_invariant(&u->vol.record);
	if (broken)
		return kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_CONTROL, "agent records of volume %s: %s", u->vol.name,
				     broken);
	res = load_part(s, "SELECT mode,meta,url,initiator,user,secret,mutual_user,mutual_secret FROM clones WHERE uuid=?", u,
			get_clone, err);
	if (!res)
		res = load_part(s, "SELECT iqn,initiator,port,user,secret,mutual_user,mutual_secret FROM exports WHERE uuid=?",
				u, get_export, err);
	if (!res)
		res = load_part(s, "SELECT name,spec,is_wanted,epoch,nr_restarts,pid,start_ticks,boot_id FROM workloads WHERE uuid=?", u, get_workload,
				err);
	return res;
}

int agent_store_load(struct agent_store *s, int (*fn)(void *arg, struct agent_unit *unit), void *arg, struct kedge_err *err)
{
	struct row r;
	int step, res = prepare(s, "SELECT * FROM volumes ORDER BY name, uuid", &r, err);

	if (res)
		return res;
	while (!res && (step = sqlite3_step(r.stmt)) == SQLITE_ROW) {
		struct agent_unit u = {0};
		res = load_unit(s, &r, &u, err);
		if (!res)
			res = fn(arg, &u);
		else
			agent_unit_fini(&u);
	}
	if (!res && step != SQLITE_DONE)
		res = fail(s, "read", err);
	sqlite3_finalize(r.stmt);
	return res;
}

int agent_unit_copy(const struct agent_unit *from, struct agent_unit *ret_unit)
{
	char *spec = from->work.spec ? strdup(from->work.spec) : NULL;

	if (from->work.spec && !spec)
		return -ENOMEM;
	*ret_unit = *from;
	ret_unit->work.spec = spec;
	return 0;
}

void agent_unit_fini(struct agent_unit *u)
{
	kedge_chap_fini(&u->clone.chap);
	kedge_chap_fini(&u->export.chap);
	free(u->work.spec);
	u->work.spec = NULL;
}

/* Deleted rows are overwritten in the database (secure_delete); their old pages may stay in the WAL until it is reset. */
void agent_store_scrub(struct agent_store *s)
{
	sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
}

/* ---- results and facts ---- */

int agent_store_put_result(struct agent_store *s, const struct kedge_uuid *id, uint64_t epoch, const char *step,
			   const char *result, struct kedge_err *err)
{
	struct row r;
	int res = prepare(s, "INSERT OR REPLACE INTO results VALUES(?,?,?,?)", &r, err);

	if (res)
		return res;
	put_uuid(&r, id);
	put_number(&r, epoch);
	put_text(&r, step);
	put_text(&r, result);
	return finish(s, &r, "result", err);
}

char *agent_store_get_result(struct agent_store *s, const struct kedge_uuid *id, uint64_t epoch, const char *step,
			     struct kedge_err *err)
{
	struct row r;
	char *text = NULL;
	int got;

	if (prepare(s, "SELECT result FROM results WHERE id=? AND epoch=? AND step=?", &r, err))
		return NULL;
	put_uuid(&r, id);
	put_number(&r, epoch);
	put_text(&r, step);
	got = sqlite3_step(r.stmt);
	if (got == SQLITE_ROW) {
		text = strdup((const char *)sqlite3_column_text(r.stmt, 0));
		if (!text)
			kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a result");
	} else if (got != SQLITE_DONE) {
		fail(s, "read", err);
	}
	sqlite3_finalize(r.stmt);
	return text;
}

int agent_store_forget_result(struct agent_store *s, const struct kedge_uuid *id, uint64_t epoch, const char *step,
			      struct kedge_err *err)
{
	struct row r;
	int res = prepare(s, "DELETE FROM results WHERE id=? AND epoch=? AND step=?", &r, err);

	if (res)
		return res;
	put_uuid(&r, id);
	put_number(&r, epoch);
	put_text(&r, step);
	return finish(s, &r, "forget", err);
}

int agent_store_put_kept(struct agent_store *s, const struct agent_volume *v, struct kedge_err *err)
{
	struct row r;
	int res = prepare(s, "INSERT OR REPLACE INTO kept VALUES(?,?,?,?)", &r, err);

	if (res)
		return res;
	put_uuid(&r, &v->uuid);
	put_number(&r, v->record.epoch);
	put_text(&r, v->name);
	put_text(&r, v->path);
	return finish(s, &r, "kept copy", err);
}

int agent_store_get_boot_id(struct agent_store *s, char out[KEDGE_BOOT_ID_MAX], struct kedge_err *err)
{
	struct row r;
	int got, res = prepare(s, "SELECT value FROM facts WHERE key='boot_id'", &r, err);

	if (res)
		return res;
	out[0] = 0;
	got = sqlite3_step(r.stmt);
	if (got == SQLITE_ROW)
		res = get_text(&r, out, KEDGE_BOOT_ID_MAX);
	else if (got != SQLITE_DONE)
		res = fail(s, "read", err);
	sqlite3_finalize(r.stmt);
	return res;
}

int agent_store_put_boot_id(struct agent_store *s, const char *boot_id, struct kedge_err *err)
{
	struct row r;
	int res = prepare(s, "INSERT OR REPLACE INTO facts VALUES('boot_id',?)", &r, err);

	if (res)
		return res;
	put_text(&r, boot_id);
	return finish(s, &r, "boot id", err);
}

/* ---- open, close, transactions ---- */

static int read_pragma(struct agent_store *s, const char *sql, int *ret_value, struct kedge_err *err)
{
	struct row r;
	int res = prepare(s, sql, &r, err);

	if (res)
		return res;
	if (sqlite3_step(r.stmt) == SQLITE_ROW)
		*ret_value = sqlite3_column_int(r.stmt, 0);
	else
		res = fail(s, "pragma", err);
	sqlite3_finalize(r.stmt);
	return res;
}

static int set_up(struct agent_store *s, const char *path, struct kedge_err *err)
{
	char pragmas[96];
	int version = 0, id = 0;
	int res = exec(s, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON", "settings", err);

	if (!res)
		res = read_pragma(s, "PRAGMA user_version", &version, err);
	if (!res)
		res = read_pragma(s, "PRAGMA application_id", &id, err);
	if (res)
		return res;
	if (version == SCHEMA_VERSION && id == APPLICATION_ID)
		return 0;
	if (version || id)
		return kedge_err_set(err, KEDGE_E_META_VERSION, KEDGE_SIDE_CONTROL,
				     "%s: schema version %d of application %#x is not known here (known: %d)", path, version,
				     (unsigned)id, SCHEMA_VERSION);
	res = agent_store_begin(s, err);
	if (res)
		return res;
	snprintf(pragmas, sizeof pragmas, "PRAGMA application_id=%d; PRAGMA user_version=%d", APPLICATION_ID, SCHEMA_VERSION);
	res = exec(s, schema_sql, "schema", err);
	if (!res)
		res = exec(s, pragmas, "schema version", err);
	if (!res)
		res = agent_store_commit(s, err);
	if (res)
		agent_store_rollback(s);
	return res;
}

int agent_store_open(const char *path, struct agent_store **ret_store, struct kedge_err *err)
{
	struct agent_store *s = calloc(1, sizeof *s);
	int fd, res;

	if (!s)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for the agent's records");
	/* SQLite gives WAL and shared memory the mode of the database: make that first. */
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || fchmod(fd, 0600) < 0) {
		res = -errno;
		kedge_close(fd);
		free(s);
		return kedge_err_set(err, res, KEDGE_SIDE_CONTROL, "%s: %s", path, strerror(-res));
	}
	kedge_close(fd);
	if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
		res = fail(s, "open", err);
	else
		res = set_up(s, path, err);
	if (res) {
		agent_store_close(s);
		return res;
	}
	sqlite3_busy_timeout(s->db, 2000);
	*ret_store = s;
	return kedge_file_sync_dir_of(path, err);
}

void agent_store_close(struct agent_store *s)
{
	if (!s)
		return;
	sqlite3_close(s->db);
	free(s);
}

int agent_store_begin(struct agent_store *s, struct kedge_err *err)
{
	return exec(s, "BEGIN IMMEDIATE", "begin", err);
}

int agent_store_commit(struct agent_store *s, struct kedge_err *err)
{
	return exec(s, "COMMIT", "commit", err);
}

void agent_store_rollback(struct agent_store *s)
{
	if (!sqlite3_get_autocommit(s->db))
		sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
}
