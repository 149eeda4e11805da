/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The agent's durable records (db.c has the database).
 *
 * Owns. The database.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. A unit and the result of the step that changed it are one transaction: it is there as a whole or not at all.
 */
#include "agent_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "db.h"
#include "pace_db.h"

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
	" user TEXT NOT NULL, secret TEXT NOT NULL, mutual_user TEXT NOT NULL, mutual_secret TEXT NOT NULL,"
	" is_hydrating INTEGER NOT NULL, rate_bps INTEGER NOT NULL, " PACE_COLUMNS_SQL ") STRICT;"
	"CREATE TABLE exports("
	" uuid TEXT PRIMARY KEY, iqn TEXT NOT NULL, initiator TEXT NOT NULL, port INTEGER NOT NULL,"
	" user TEXT NOT NULL, secret TEXT NOT NULL, mutual_user TEXT NOT NULL, mutual_secret TEXT NOT NULL,"
	" left_out_bytes INTEGER NOT NULL DEFAULT 0) STRICT;"
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

static const char *const upgrades[] = {
	"ALTER TABLE exports ADD COLUMN left_out_bytes INTEGER NOT NULL DEFAULT 0",
	PACE_UPGRADE_SQL("clones"),
};

static const struct db_schema schema = {"agent records", schema_sql, 0x6b656461 /* "keda" */, 3, upgrades};

struct agent_store {
	struct db *db;
};

/* ---- binding and reading, in column order ---- */

static void put_chap(struct db_row *r, const struct kedge_chap *c)
{
	db_put_text(r, c->user);
	db_put_text(r, c->secret);
	db_put_text(r, c->mutual_user);
	db_put_text(r, c->mutual_secret);
}

static int get_chap(struct db_row *r, struct kedge_chap *c)
{
	int res = db_get_text(r, c->user, sizeof c->user);

	if (!res)
		res = db_get_text(r, c->secret, sizeof c->secret);
	if (!res)
		res = db_get_text(r, c->mutual_user, sizeof c->mutual_user);
	if (!res)
		res = db_get_text(r, c->mutual_secret, sizeof c->mutual_secret);
	return res;
}

/* ---- units ---- */

static int put_volume(struct agent_store *s, const struct agent_volume *v, struct kedge_err *err)
{
	const struct agent_record *c = &v->record;
	struct db_row r;
	int res = db_prepare(s->db, "INSERT OR REPLACE INTO volumes VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", &r, err);

	if (res)
		return res;
	db_put_uuid(&r, &v->uuid);
	db_put_text(&r, v->name);
	db_put_number(&r, v->size_bytes);
	db_put_number(&r, v->lbs_bytes);
	db_put_number(&r, v->is_block);
	db_put_text(&r, v->path);
	db_put_text(&r, agent_state_name(c->state));
	db_put_number(&r, c->epoch);
	db_put_uuid(&r, &c->migration);
	db_put_number(&r, c->held_epoch);
	db_put_number(&r, c->stopped_epoch);
	db_put_number(&r, c->fence_epoch);
	db_put_text(&r, c->fence_to);
	db_put_number(&r, c->has_intent);
	db_put_number(&r, c->export_epoch);
	db_put_number(&r, c->unexported_epoch);
	db_put_number(&r, c->aborted_epoch);
	db_put_number(&r, c->is_released);
	db_put_number(&r, c->reserved_epoch);
	db_put_number(&r, c->attached_epoch);
	db_put_number(&r, c->booted_epoch);
	db_put_number(&r, c->revoked_epoch);
	return db_run(&r, "volume", err);
}

static int get_volume(struct db_row *r, struct agent_volume *v)
{
	struct agent_record *c = &v->record;
	char state[16];
	int res = db_get_uuid(r, &v->uuid);

	if (!res)
		res = db_get_text(r, v->name, sizeof v->name);
	v->size_bytes = db_get_number(r);
	v->lbs_bytes = (uint32_t)db_get_number(r);
	v->is_block = db_get_number(r);
	if (!res)
		res = db_get_text(r, v->path, sizeof v->path);
	if (!res)
		res = db_get_text(r, state, sizeof state);
	if (!res)
		res = agent_state_by_name(state, &c->state);
	c->epoch = db_get_number(r);
	if (!res)
		res = db_get_uuid(r, &c->migration);
	c->held_epoch = db_get_number(r);
	c->stopped_epoch = db_get_number(r);
	c->fence_epoch = db_get_number(r);
	if (!res)
		res = db_get_text(r, c->fence_to, sizeof c->fence_to);
	c->has_intent = db_get_number(r);
	c->export_epoch = db_get_number(r);
	c->unexported_epoch = db_get_number(r);
	c->aborted_epoch = db_get_number(r);
	c->is_released = db_get_number(r);
	c->reserved_epoch = db_get_number(r);
	c->attached_epoch = db_get_number(r);
	c->booted_epoch = db_get_number(r);
	c->revoked_epoch = db_get_number(r);
	return res;
}

/* A row, or none: what the unit does not have is deleted. */
static int delete_part(struct agent_store *s, const char *sql, const struct kedge_uuid *uuid, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, sql, &r, err);

	if (res)
		return res;
	db_put_uuid(&r, uuid);
	return db_run(&r, "delete", err);
}

static int put_clone(struct agent_store *s, const struct agent_unit *u, struct kedge_err *err)
{
	struct db_row r;
	int res;

	if (u->clone.mode == AGENT_CLONE_NONE)
		return delete_part(s, "DELETE FROM clones WHERE uuid=?", &u->vol.uuid, err);
	res = db_prepare(s->db, "INSERT OR REPLACE INTO clones VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)", &r, err);
	if (res)
		return res;
	db_put_uuid(&r, &u->vol.uuid);
	db_put_number(&r, u->clone.mode);
	db_put_text(&r, u->clone.meta);
	db_put_text(&r, u->clone.url);
	db_put_text(&r, u->clone.initiator);
	put_chap(&r, &u->clone.chap);
	db_put_number(&r, u->clone.is_hydrating);
	db_put_number(&r, u->clone.rate_bps);
	pace_put(&r, &u->clone.pace);
	return db_run(&r, "clone", err);
}

static int put_export(struct agent_store *s, const struct agent_unit *u, struct kedge_err *err)
{
	struct db_row r;
	int res;

	if (!u->export.is_recorded)
		return delete_part(s, "DELETE FROM exports WHERE uuid=?", &u->vol.uuid, err);
	res = db_prepare(s->db, "INSERT OR REPLACE INTO exports VALUES(?,?,?,?,?,?,?,?,?)", &r, err);
	if (res)
		return res;
	db_put_uuid(&r, &u->vol.uuid);
	db_put_text(&r, u->export.iqn);
	db_put_text(&r, u->export.initiator);
	db_put_number(&r, u->export.port);
	put_chap(&r, &u->export.chap);
	db_put_number(&r, u->export.left_out_bytes);
	return db_run(&r, "export", err);
}

static int put_workload(struct agent_store *s, const struct agent_unit *u, struct kedge_err *err)
{
	struct db_row r;
	int res;

	if (!u->work.is_defined)
		return delete_part(s, "DELETE FROM workloads WHERE uuid=?", &u->vol.uuid, err);
	/* An upsert: REPLACE would silently take another volume's workload of the same name away. */
	res = db_prepare(s->db, "INSERT INTO workloads VALUES(?,?,?,?,?,?,?,?,?) ON CONFLICT(uuid) DO UPDATE SET name=excluded.name,"
		      " spec=excluded.spec, is_wanted=excluded.is_wanted, epoch=excluded.epoch, nr_restarts=excluded.nr_restarts,"
		      " pid=excluded.pid, start_ticks=excluded.start_ticks, boot_id=excluded.boot_id",
		      &r, err);
	if (res)
		return res;
	db_put_uuid(&r, &u->vol.uuid);
	db_put_text(&r, u->work.name);
	db_put_text(&r, u->work.spec);
	db_put_number(&r, u->work.is_wanted);
	db_put_number(&r, u->work.epoch);
	db_put_number(&r, u->work.nr_restarts);
	db_put_number(&r, (uint64_t)u->work.proc.pid);
	db_put_number(&r, u->work.proc.start_ticks);
	db_put_text(&r, u->work.proc.boot_id);
	return db_run(&r, "workload", err);
}

int agent_store_put_unit(struct agent_store *s, const struct agent_unit *u, struct kedge_err *err)
{
	bool is_own = !db_is_in_transaction(s->db);
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
		     int (*get)(struct db_row *r, struct agent_unit *u), struct kedge_err *err)
{
	struct db_row r;
	int step, res = db_prepare(s->db, sql, &r, err);

	if (res)
		return res;
	db_put_uuid(&r, &u->vol.uuid);
	step = db_next(&r, err);
	if (step == 1 && get(&r, u))
		res = kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_CONTROL, "agent records of volume %s are damaged",
				    u->vol.name);
	else if (step < 0)
		res = step;
	db_end(&r);
	return res;
}

static int get_clone(struct db_row *r, struct agent_unit *u)
{
	uint64_t mode = db_get_number(r);

	u->clone.mode = (enum agent_clone_mode)mode;
	if (mode > AGENT_CLONE_PASSTHROUGH || db_get_text(r, u->clone.meta, sizeof u->clone.meta) ||
	    db_get_text(r, u->clone.url, sizeof u->clone.url) || db_get_text(r, u->clone.initiator, sizeof u->clone.initiator) ||
	    get_chap(r, &u->clone.chap))
		return -EINVAL;
	u->clone.is_hydrating = db_get_number(r) != 0;
	u->clone.rate_bps = db_get_number(r);
	return pace_get(r, &u->clone.pace);
}

static int get_export(struct db_row *r, struct agent_unit *u)
{
	u->export.is_recorded = true;
	if (db_get_text(r, u->export.iqn, sizeof u->export.iqn) || db_get_text(r, u->export.initiator, sizeof u->export.initiator))
		return -EINVAL;
	u->export.port = (uint16_t)db_get_number(r);
	if (get_chap(r, &u->export.chap))
		return -EINVAL;
	u->export.left_out_bytes = db_get_number(r);
	return 0;
}

static int get_workload(struct db_row *r, struct agent_unit *u)
{
	u->work.is_defined = true;
	if (db_get_text(r, u->work.name, sizeof u->work.name))
		return -EINVAL;
	u->work.spec = db_get_heap_text(r);
	u->work.is_wanted = db_get_number(r);
	u->work.epoch = db_get_number(r);
	u->work.nr_restarts = db_get_number(r);
	u->work.proc.pid = (pid_t)db_get_number(r);
	u->work.proc.start_ticks = db_get_number(r);
	if (db_get_text(r, u->work.proc.boot_id, sizeof u->work.proc.boot_id))
		return -EINVAL;
	return u->work.spec ? 0 : -ENOMEM;
}

static int load_unit(struct agent_store *s, struct db_row *r, struct agent_unit *u, struct kedge_err *err)
{
	const char *broken;
	int res;

	if (get_volume(r, &u->vol))
		return kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_CONTROL, "agent records: a volume is damaged");
	broken = agent_core_broken_invariant(&u->vol.record);
	if (broken)
		return kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_CONTROL, "agent records of volume %s: %s", u->vol.name,
				     broken);
	res = load_part(s, "SELECT mode,meta,url,initiator,user,secret,mutual_user,mutual_secret,is_hydrating,rate_bps," PACE_COLUMNS " FROM clones WHERE uuid=?",
			u, get_clone, err);
	if (!res)
		res = load_part(s, "SELECT iqn,initiator,port,user,secret,mutual_user,mutual_secret,left_out_bytes FROM exports WHERE uuid=?",
				u, get_export, err);
	if (!res)
		res = load_part(s, "SELECT name,spec,is_wanted,epoch,nr_restarts,pid,start_ticks,boot_id FROM workloads WHERE uuid=?", u, get_workload,
				err);
	return res;
}

int agent_store_load(struct agent_store *s, int (*fn)(void *arg, struct agent_unit *unit), void *arg, struct kedge_err *err)
{
	struct db_row r;
	int step, res = db_prepare(s->db, "SELECT * FROM volumes ORDER BY name, uuid", &r, err);

	if (res)
		return res;
	for (step = db_next(&r, err); !res && step == 1; step = res ? step : db_next(&r, err)) {
		struct agent_unit u = {0};
		res = load_unit(s, &r, &u, err);
		if (!res)
			res = fn(arg, &u);
		else
			agent_unit_fini(&u);
	}
	if (!res && step < 0)
		res = step;
	db_end(&r);
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

void agent_store_scrub(struct agent_store *s)
{
	db_scrub(s->db);
}

/* ---- results and facts ---- */

int agent_store_put_result(struct agent_store *s, const struct kedge_uuid *id, uint64_t epoch, const char *step,
			   const char *result, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "INSERT OR REPLACE INTO results VALUES(?,?,?,?)", &r, err);

	if (res)
		return res;
	db_put_uuid(&r, id);
	db_put_number(&r, epoch);
	db_put_text(&r, step);
	db_put_text(&r, result);
	return db_run(&r, "result", err);
}

char *agent_store_get_result(struct agent_store *s, const struct kedge_uuid *id, uint64_t epoch, const char *step,
			     struct kedge_err *err)
{
	struct db_row r;
	char *text = NULL;
	int got;

	if (db_prepare(s->db, "SELECT result FROM results WHERE id=? AND epoch=? AND step=?", &r, err))
		return NULL;
	db_put_uuid(&r, id);
	db_put_number(&r, epoch);
	db_put_text(&r, step);
	got = db_next(&r, err);
	if (got == 1) {
		text = db_get_heap_text(&r);
		if (!text)
			kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a result");
	}
	db_end(&r);
	return text;
}

int agent_store_forget_result(struct agent_store *s, const struct kedge_uuid *id, uint64_t epoch, const char *step,
			      struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "DELETE FROM results WHERE id=? AND epoch=? AND step=?", &r, err);

	if (res)
		return res;
	db_put_uuid(&r, id);
	db_put_number(&r, epoch);
	db_put_text(&r, step);
	return db_run(&r, "forget", err);
}

int agent_store_put_kept(struct agent_store *s, const struct agent_volume *v, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "INSERT OR REPLACE INTO kept VALUES(?,?,?,?)", &r, err);

	if (res)
		return res;
	db_put_uuid(&r, &v->uuid);
	db_put_number(&r, v->record.epoch);
	db_put_text(&r, v->name);
	db_put_text(&r, v->path);
	return db_run(&r, "kept copy", err);
}

int agent_store_get_boot_id(struct agent_store *s, char out[KEDGE_BOOT_ID_MAX], struct kedge_err *err)
{
	struct db_row r;
	int got, res = db_prepare(s->db, "SELECT value FROM facts WHERE key='boot_id'", &r, err);

	if (res)
		return res;
	out[0] = 0;
	got = db_next(&r, err);
	if (got == 1)
		res = db_get_text(&r, out, KEDGE_BOOT_ID_MAX);
	else if (got < 0)
		res = got;
	db_end(&r);
	return res;
}

int agent_store_put_boot_id(struct agent_store *s, const char *boot_id, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "INSERT OR REPLACE INTO facts VALUES('boot_id',?)", &r, err);

	if (res)
		return res;
	db_put_text(&r, boot_id);
	return db_run(&r, "boot id", err);
}

/* ---- open, close, transactions ---- */

int agent_store_open(const char *path, struct agent_store **ret_store, struct kedge_err *err)
{
	struct agent_store *s = calloc(1, sizeof *s);
	int res;

	if (!s)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for the agent's records");
	res = db_open(&schema, path, &s->db, err);
	if (res) {
		free(s);
		return res;
	}
	*ret_store = s;
	return 0;
}

void agent_store_close(struct agent_store *s)
{
	if (!s)
		return;
	db_close(s->db);
	free(s);
}

int agent_store_begin(struct agent_store *s, struct kedge_err *err)
{
	return db_begin(s->db, err);
}

int agent_store_commit(struct agent_store *s, struct kedge_err *err)
{
	return db_commit(s->db, err);
}

void agent_store_rollback(struct agent_store *s)
{
	db_rollback(s->db);
}
