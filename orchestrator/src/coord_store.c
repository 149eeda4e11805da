/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The coordinator's durable records (db.c has the database).
 *
 * Owns. The database.
 *
 * Locks. None: the loop's thread.
 *
 * Crash. A drain and its migrations come into being in one transaction, with the epochs they use: an epoch is never given twice. Each
 * step of a migration is one transaction; from BOOT_INTENT on none is lost by a power cut (coord_core.h says which may be). Secrets
 * are deleted in the transaction that records the end of their export.
 */
#include "coord_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "db.h"
#include "pace_db.h"

#define TIMES_MAX 1024

static const char schema_sql[] =
	"CREATE TABLE drains("
	" id TEXT PRIMARY KEY, host TEXT NOT NULL, dest TEXT NOT NULL, workload TEXT NOT NULL, max_parallel INTEGER NOT NULL,"
	" rate_bps INTEGER NOT NULL, hold_ms INTEGER NOT NULL, is_release_delete INTEGER NOT NULL, state INTEGER NOT NULL,"
	" started_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL, " PACE_COLUMNS_SQL ") STRICT;"
	"CREATE TABLE migrations("
	" nr INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, drain TEXT NOT NULL, volume_uuid TEXT NOT NULL,"
	" volume TEXT NOT NULL, workload TEXT NOT NULL, source TEXT NOT NULL, dest TEXT NOT NULL, epoch INTEGER NOT NULL,"
	" size_bytes INTEGER NOT NULL, lbs_bytes INTEGER NOT NULL, rate_bps INTEGER NOT NULL, hold_ms INTEGER NOT NULL,"
	" is_release_delete INTEGER NOT NULL, wants_start INTEGER NOT NULL, step TEXT NOT NULL, aborted_at TEXT NOT NULL,"
	" is_failed INTEGER NOT NULL, reason_code INTEGER NOT NULL, reason TEXT NOT NULL, portal TEXT NOT NULL,"
	" verified_bytes INTEGER NOT NULL, written_bytes INTEGER NOT NULL, mismatch_bytes INTEGER NOT NULL,"
	" is_released INTEGER NOT NULL, hold_until_ms INTEGER NOT NULL, times TEXT NOT NULL,"
	" engine TEXT NOT NULL DEFAULT 'user', hole_bytes INTEGER NOT NULL DEFAULT 0, sampled_bytes INTEGER NOT NULL DEFAULT 0,"
	" sample_seed INTEGER NOT NULL DEFAULT 0, left_out_bytes INTEGER NOT NULL DEFAULT 0, " PACE_COLUMNS_SQL ","
	" checksum_bytes INTEGER NOT NULL DEFAULT 0) STRICT;"
	"CREATE TABLE specs(migration TEXT PRIMARY KEY, spec TEXT NOT NULL) STRICT;"
	"CREATE TABLE secrets("
	" migration TEXT PRIMARY KEY, user TEXT NOT NULL, secret TEXT NOT NULL, mutual_user TEXT NOT NULL,"
	" mutual_secret TEXT NOT NULL) STRICT;"
	"CREATE TABLE epochs(volume_uuid TEXT PRIMARY KEY, epoch INTEGER NOT NULL) STRICT;"
	"CREATE TABLE cordons(host TEXT PRIMARY KEY, owner TEXT NOT NULL, reason TEXT NOT NULL, expires_ms INTEGER NOT NULL) STRICT;"
	"CREATE TABLE events("
	" seq INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER NOT NULL, drain TEXT NOT NULL, migration TEXT NOT NULL,"
	" volume TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL) STRICT;"
	"CREATE INDEX events_by_drain ON events(drain, seq);"
	"CREATE TABLE receipts(migration TEXT PRIMARY KEY, receipt TEXT NOT NULL) STRICT;";

static const char *const upgrades[] = {
	"ALTER TABLE migrations ADD COLUMN engine TEXT NOT NULL DEFAULT 'user'",
	"ALTER TABLE migrations ADD COLUMN hole_bytes INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE migrations ADD COLUMN sampled_bytes INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE migrations ADD COLUMN sample_seed INTEGER NOT NULL DEFAULT 0",
	"ALTER TABLE migrations ADD COLUMN left_out_bytes INTEGER NOT NULL DEFAULT 0",
	PACE_UPGRADE_SQL("drains") ";" PACE_UPGRADE_SQL("migrations"),
	"ALTER TABLE migrations ADD COLUMN checksum_bytes INTEGER NOT NULL DEFAULT 0",
};

static const struct db_schema schema = {"coordinator records", schema_sql, 0x6b656463 /* "kedc" */, 6, upgrades};

struct coord_store {
	struct db *db;
};

static int damaged(struct kedge_err *err, const char *what)
{
	return kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_CONTROL, "coordinator records: %s is damaged", what);
}

/* ---- drains ---- */

int coord_store_put_drain(struct coord_store *s, const struct coord_drain *d, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "INSERT OR REPLACE INTO drains VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)", &r, err);

	if (res)
		return res;
	db_put_uuid(&r, &d->id);
	db_put_text(&r, d->host);
	db_put_text(&r, d->to);
	db_put_text(&r, d->workload);
	db_put_number(&r, d->max_parallel);
	db_put_number(&r, d->rate_bps);
	db_put_number(&r, d->hold_ms);
	db_put_number(&r, d->is_release_delete);
	db_put_number(&r, d->state);
	db_put_number(&r, d->started_ms);
	db_put_number(&r, d->ended_ms);
	pace_put(&r, &d->pace);
	return db_run(&r, "drain", err);
}

static int get_drain(struct db_row *r, struct coord_drain *d)
{
	uint64_t state;

	if (db_get_uuid(r, &d->id) || db_get_text(r, d->host, sizeof d->host) || db_get_text(r, d->to, sizeof d->to) ||
	    db_get_text(r, d->workload, sizeof d->workload))
		return -EINVAL;
	d->max_parallel = (unsigned)db_get_number(r);
	d->rate_bps = db_get_number(r);
	d->hold_ms = db_get_number(r);
	d->is_release_delete = db_get_number(r) != 0;
	state = db_get_number(r);
	d->started_ms = db_get_number(r);
	d->ended_ms = db_get_number(r);
	d->state = (enum coord_drain_state)state;
	return state <= COORD_DRAIN_ABORTED ? pace_get(r, &d->pace) : -EINVAL;
}

int coord_store_load_drains(struct coord_store *s, int (*fn)(void *arg, const struct coord_drain *d), void *arg,
			    struct kedge_err *err)
{
	struct db_row r;
	int more = 0, res = db_prepare(s->db, "SELECT * FROM drains ORDER BY started_ms, id", &r, err);

	if (res)
		return res;
	for (more = db_next(&r, err); !res && more == 1; more = res ? more : db_next(&r, err)) {
		struct coord_drain d = {0};
		res = get_drain(&r, &d) ? damaged(err, "a drain") : fn(arg, &d);
	}
	db_end(&r);
	return res ? res : more < 0 ? more : 0;
}

/* ---- migrations ---- */

static int put_times(struct db_row *r, const struct coord_migration *m, struct kedge_err *err)
{
	json_t *times = json_object();
	char *text;

	for (unsigned i = 0; i < COORD_NR_STEPS; i++)
		if (m->times_ms[i])
			json_object_set_new(times, coord_row_of((enum coord_step)i)->name, json_integer((json_int_t)m->times_ms[i]));
	text = json_dumps(times, JSON_COMPACT);
	json_decref(times);
	if (!text) {
		db_end(r);
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for a record");
	}
	db_put_text(r, text);
	free(text);
	return 0;
}

static int put_migration(struct coord_store *s, const struct coord_migration *m, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db,
			     "INSERT INTO migrations(id,drain,volume_uuid,volume,workload,source,dest,epoch,size_bytes,lbs_bytes,"
			     "rate_bps,hold_ms,is_release_delete,wants_start,step,aborted_at,is_failed,reason_code,reason,portal,"
			     "verified_bytes,written_bytes,mismatch_bytes,is_released,hold_until_ms,times,engine,"
			     "hole_bytes,sampled_bytes,sample_seed,left_out_bytes,checksum_bytes," PACE_COLUMNS ")"
			     " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
			     " ON CONFLICT(id) DO UPDATE SET size_bytes=excluded.size_bytes, lbs_bytes=excluded.lbs_bytes,"
			     " wants_start=excluded.wants_start, step=excluded.step, aborted_at=excluded.aborted_at,"
			     " is_failed=excluded.is_failed, reason_code=excluded.reason_code, reason=excluded.reason,"
			     " portal=excluded.portal, verified_bytes=excluded.verified_bytes, written_bytes=excluded.written_bytes,"
			     " mismatch_bytes=excluded.mismatch_bytes, is_released=excluded.is_released,"
			     " hold_until_ms=excluded.hold_until_ms, times=excluded.times, hole_bytes=excluded.hole_bytes,"
			     " sampled_bytes=excluded.sampled_bytes, sample_seed=excluded.sample_seed,"
			     " left_out_bytes=excluded.left_out_bytes, checksum_bytes=excluded.checksum_bytes",
			     &r, err);

	if (res)
		return res;
	db_put_uuid(&r, &m->id);
	db_put_uuid(&r, &m->drain);
	db_put_uuid(&r, &m->volume_uuid);
	db_put_text(&r, m->volume);
	db_put_text(&r, m->workload);
	db_put_text(&r, m->from);
	db_put_text(&r, m->to);
	db_put_number(&r, m->epoch);
	db_put_number(&r, m->size_bytes);
	db_put_number(&r, m->lbs_bytes);
	db_put_number(&r, m->rate_bps);
	db_put_number(&r, m->hold_ms);
	db_put_number(&r, m->is_release_delete);
	db_put_number(&r, m->wants_start);
	db_put_text(&r, coord_row_of(m->step)->name);
	db_put_text(&r, coord_row_of(m->aborted_at)->name);
	db_put_number(&r, m->is_failed);
	db_put_number(&r, (uint64_t)(int64_t)m->reason_code);
	db_put_text(&r, m->reason);
	db_put_text(&r, m->portal);
	db_put_number(&r, m->verified_bytes);
	db_put_number(&r, m->written_bytes);
	db_put_number(&r, m->mismatch_bytes);
	db_put_number(&r, m->is_released);
	db_put_number(&r, m->hold_until_ms);
	res = put_times(&r, m, err);
	if (!res)
		db_put_text(&r, m->engine[0] ? m->engine : "user");
	db_put_number(&r, m->hole_bytes);
	db_put_number(&r, m->sampled_bytes);
	db_put_number(&r, m->sample_seed);
	db_put_number(&r, m->left_out_bytes);
	db_put_number(&r, m->checksum_bytes);
	pace_put(&r, &m->pace);
	return res ? res : db_run(&r, "migration", err);
}

static int get_times(struct db_row *r, struct coord_migration *m)
{
	char text[TIMES_MAX];
	json_t *times = db_get_text(r, text, sizeof text) ? NULL : json_loads(text, 0, NULL), *value;
	const char *name;
	enum coord_step step;
	int res = times ? 0 : -EINVAL;

	json_object_foreach(times, name, value) {
		if (coord_step_by_name(name, &step))
			res = -EINVAL;
		else
			m->times_ms[step] = (uint64_t)json_integer_value(value);
	}
	json_decref(times);
	return res;
}

static int get_step(struct db_row *r, enum coord_step *ret_step)
{
	char name[32];

	return db_get_text(r, name, sizeof name) || coord_step_by_name(name, ret_step) ? -EINVAL : 0;
}

static int get_migration(struct db_row *r, struct coord_migration *m)
{
	if (db_get_uuid(r, &m->id) || db_get_uuid(r, &m->drain) || db_get_uuid(r, &m->volume_uuid) ||
	    db_get_text(r, m->volume, sizeof m->volume) || db_get_text(r, m->workload, sizeof m->workload) ||
	    db_get_text(r, m->from, sizeof m->from) || db_get_text(r, m->to, sizeof m->to))
		return -EINVAL;
	m->epoch = db_get_number(r);
	m->size_bytes = db_get_number(r);
	m->lbs_bytes = (uint32_t)db_get_number(r);
	m->rate_bps = db_get_number(r);
	m->hold_ms = db_get_number(r);
	m->is_release_delete = db_get_number(r) != 0;
	m->wants_start = db_get_number(r) != 0;
	if (get_step(r, &m->step) || get_step(r, &m->aborted_at))
		return -EINVAL;
	m->is_failed = db_get_number(r) != 0;
	m->reason_code = (int)(int64_t)db_get_number(r);
	if (db_get_text(r, m->reason, sizeof m->reason) || db_get_text(r, m->portal, sizeof m->portal))
		return -EINVAL;
	m->verified_bytes = db_get_number(r);
	m->written_bytes = db_get_number(r);
	m->mismatch_bytes = db_get_number(r);
	m->is_released = db_get_number(r) != 0;
	m->hold_until_ms = db_get_number(r);
	if (get_times(r, m) || db_get_text(r, m->engine, sizeof m->engine))
		return -EINVAL;
	m->hole_bytes = db_get_number(r);
	m->sampled_bytes = db_get_number(r);
	m->sample_seed = db_get_number(r);
	m->left_out_bytes = db_get_number(r);
	m->checksum_bytes = db_get_number(r);
	return pace_get(r, &m->pace);
}

int coord_store_load_migrations(struct coord_store *s, int (*fn)(void *arg, const struct coord_migration *m), void *arg,
				struct kedge_err *err)
{
	struct db_row r;
	int more = 0, res = db_prepare(s->db,
				       "SELECT id,drain,volume_uuid,volume,workload,source,dest,epoch,size_bytes,lbs_bytes,rate_bps,hold_ms,"
				       "is_release_delete,wants_start,step,aborted_at,is_failed,reason_code,reason,portal,verified_bytes,"
				       "written_bytes,mismatch_bytes,is_released,hold_until_ms,times,engine,hole_bytes,sampled_bytes,"
				       "sample_seed,left_out_bytes,checksum_bytes," PACE_COLUMNS " FROM migrations ORDER BY nr",
				       &r, err);

	if (res)
		return res;
	for (more = db_next(&r, err); !res && more == 1; more = res ? more : db_next(&r, err)) {
		struct coord_migration m = {0};
		const char *broken = get_migration(&r, &m) ? "a column" : coord_core_broken_invariant(&m);
		if (broken)
			res = kedge_err_set(err, KEDGE_E_META_CORRUPT, KEDGE_SIDE_CONTROL, "coordinator records: a migration of volume %s: %s",
					    m.volume, broken);
		else
			res = fn(arg, &m);
	}
	db_end(&r);
	return res ? res : more < 0 ? more : 0;
}

static int run_with_uuid(struct coord_store *s, const char *sql, const struct kedge_uuid *u, const char *doing, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, sql, &r, err);

	if (res)
		return res;
	db_put_uuid(&r, u);
	return db_run(&r, doing, err);
}

/* In one transaction, which is ended here either way. */
static int end_transaction(struct coord_store *s, int res, struct kedge_err *err)
{
	if (!res)
		res = db_commit(s->db, err);
	if (res)
		db_rollback(s->db);
	return res;
}

int coord_store_put_migration(struct coord_store *s, const struct coord_migration *m, bool is_lazy, struct kedge_err *err)
{
	bool is_secret_over = m->step == COORD_UNEXPORTED || m->step == COORD_ABORTED;
	int res;

	if (is_lazy)
		db_set_lazy(s->db, true);
	res = db_begin(s->db, err);
	if (!res) {
		res = put_migration(s, m, err);
		if (!res && is_secret_over)
			res = run_with_uuid(s, "DELETE FROM secrets WHERE migration=?", &m->id, "secrets", err);
		res = end_transaction(s, res, err);
	}
	if (is_lazy)
		db_set_lazy(s->db, false);
	if (!res && is_secret_over)
		db_scrub(s->db);
	return res;
}

/* ---- a new drain ---- */

static int put_spec(struct coord_store *s, const struct kedge_uuid *migration, const char *spec, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "INSERT INTO specs VALUES(?,?)", &r, err);

	if (res)
		return res;
	db_put_uuid(&r, migration);
	db_put_text(&r, spec);
	return db_run(&r, "spec", err);
}

static int put_chap(struct coord_store *s, const struct kedge_uuid *migration, const struct kedge_chap *c, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "INSERT INTO secrets VALUES(?,?,?,?,?)", &r, err);

	if (res)
		return res;
	db_put_uuid(&r, migration);
	db_put_text(&r, c->user);
	db_put_text(&r, c->secret);
	db_put_text(&r, c->mutual_user);
	db_put_text(&r, c->mutual_secret);
	return db_run(&r, "secrets", err);
}

static int put_epoch(struct coord_store *s, const struct coord_migration *m, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "INSERT OR REPLACE INTO epochs VALUES(?,?)", &r, err);

	if (res)
		return res;
	db_put_uuid(&r, &m->volume_uuid);
	db_put_number(&r, m->epoch);
	return db_run(&r, "epoch", err);
}

int coord_store_add_drain(struct coord_store *s, const struct coord_drain *d, const struct coord_migration *m, char *const *specs,
			  const struct kedge_chap *chaps, size_t nr, struct kedge_err *err)
{
	int res = db_begin(s->db, err);

	if (res)
		return res;
	res = coord_store_put_drain(s, d, err);
	for (size_t i = 0; !res && i < nr; i++) {
		res = put_migration(s, &m[i], err);
		if (!res && specs[i])
			res = put_spec(s, &m[i].id, specs[i], err);
		if (!res)
			res = put_chap(s, &m[i].id, &chaps[i], err);
		if (!res)
			res = put_epoch(s, &m[i], err);
	}
	return end_transaction(s, res, err);
}

char *coord_store_get_spec(struct coord_store *s, const struct kedge_uuid *migration)
{
	struct db_row r;
	char *text = NULL;

	if (db_prepare(s->db, "SELECT spec FROM specs WHERE migration=?", &r, NULL))
		return NULL;
	db_put_uuid(&r, migration);
	if (db_next(&r, NULL) == 1)
		text = db_get_heap_text(&r);
	db_end(&r);
	return text;
}

int coord_store_get_chap(struct coord_store *s, const struct kedge_uuid *migration, struct kedge_chap *c, struct kedge_err *err)
{
	struct db_row r;
	int more, res = db_prepare(s->db, "SELECT user,secret,mutual_user,mutual_secret FROM secrets WHERE migration=?", &r, err);

	if (res)
		return res;
	db_put_uuid(&r, migration);
	more = db_next(&r, err);
	if (more == 1 && (db_get_text(&r, c->user, sizeof c->user) || db_get_text(&r, c->secret, sizeof c->secret) ||
			  db_get_text(&r, c->mutual_user, sizeof c->mutual_user) ||
			  db_get_text(&r, c->mutual_secret, sizeof c->mutual_secret)))
		res = damaged(err, "a secret");
	else if (more == 0)
		res = kedge_err_set(err, -ENOENT, KEDGE_SIDE_CONTROL, "the credentials of this migration are gone");
	else if (more < 0)
		res = more;
	db_end(&r);
	return res;
}

int coord_store_get_epoch(struct coord_store *s, const struct kedge_uuid *volume, uint64_t *ret_epoch, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "SELECT epoch FROM epochs WHERE volume_uuid=?", &r, err);

	if (res)
		return res;
	db_put_uuid(&r, volume);
	res = db_next(&r, err);
	if (res >= 0)
		*ret_epoch = res == 1 ? db_get_number(&r) : 0;
	db_end(&r);
	return res < 0 ? res : 0;
}

/* ---- cordons ---- */

int coord_store_put_cordon(struct coord_store *s, const struct coord_cordon *c, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "INSERT OR REPLACE INTO cordons VALUES(?,?,?,?)", &r, err);

	if (res)
		return res;
	db_put_text(&r, c->host);
	db_put_text(&r, c->owner);
	db_put_text(&r, c->reason);
	db_put_number(&r, c->expires_ms);
	return db_run(&r, "cordon", err);
}

int coord_store_delete_cordon(struct coord_store *s, const char *host, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "DELETE FROM cordons WHERE host=?", &r, err);

	if (res)
		return res;
	db_put_text(&r, host);
	return db_run(&r, "cordon", err);
}

int coord_store_load_cordons(struct coord_store *s, int (*fn)(void *arg, const struct coord_cordon *c), void *arg,
			     struct kedge_err *err)
{
	struct db_row r;
	int more = 0, res = db_prepare(s->db, "SELECT * FROM cordons", &r, err);

	if (res)
		return res;
	for (more = db_next(&r, err); !res && more == 1; more = res ? more : db_next(&r, err)) {
		struct coord_cordon c = {0};
		if (db_get_text(&r, c.host, sizeof c.host) || db_get_text(&r, c.owner, sizeof c.owner) ||
		    db_get_text(&r, c.reason, sizeof c.reason)) {
			res = damaged(err, "a cordon");
		} else {
			c.expires_ms = db_get_number(&r);
			res = fn(arg, &c);
		}
	}
	db_end(&r);
	return res ? res : more < 0 ? more : 0;
}

/* ---- events and receipts ---- */

int coord_store_add_event(struct coord_store *s, struct coord_event *e, struct kedge_err *err)
{
	struct db_row r;
	int res;

	db_set_lazy(s->db, true);
	res = db_prepare(s->db, "INSERT INTO events(time_ms,drain,migration,volume,kind,text) VALUES(?,?,?,?,?,?)", &r, err);
	if (!res) {
		db_put_number(&r, e->time_ms);
		db_put_uuid(&r, &e->drain);
		db_put_uuid(&r, &e->migration);
		db_put_text(&r, e->volume);
		db_put_text(&r, e->kind);
		db_put_text(&r, e->text);
		res = db_run(&r, "event", err);
	}
	db_set_lazy(s->db, false);
	if (!res)
		e->seq = coord_store_last_event(s);
	return res;
}

uint64_t coord_store_last_event(struct coord_store *s)
{
	struct db_row r;
	uint64_t seq = 0;

	if (db_prepare(s->db, "SELECT COALESCE(MAX(seq), 0) FROM events", &r, NULL))
		return 0;
	if (db_next(&r, NULL) == 1)
		seq = db_get_number(&r);
	db_end(&r);
	return seq;
}

static json_t *event_json(struct db_row *r)
{
	uint64_t seq = db_get_number(r), time_ms = db_get_number(r);
	char drain[KEDGE_UUID_TEXT_MAX], migration[KEDGE_UUID_TEXT_MAX], volume[KEDGE_NAME_MAX + 1], kind[32];
	json_t *event = NULL;
	char *text;

	if (db_get_text(r, drain, sizeof drain) || db_get_text(r, migration, sizeof migration) ||
	    db_get_text(r, volume, sizeof volume) || db_get_text(r, kind, sizeof kind))
		return NULL;
	text = db_get_heap_text(r);
	if (text)
		event = json_pack("{s:I, s:I, s:s?, s:s?, s:s?, s:s, s:s}", "seq", (json_int_t)seq, "time_ms", (json_int_t)time_ms, "drain",
				  drain[0] ? drain : NULL, "migration", migration[0] ? migration : NULL, "volume",
				  volume[0] ? volume : NULL, "kind", kind, "text", text);
	free(text);
	return event;
}

json_t *coord_store_events(struct coord_store *s, uint64_t since, const char *drain, unsigned max)
{
	json_t *events = json_array();
	struct db_row r;

	if (db_prepare(s->db,
		       drain ? "SELECT * FROM events WHERE seq>?1 AND drain=?2 ORDER BY seq LIMIT ?3"
			     : "SELECT * FROM events WHERE seq>?1 AND ?2='' ORDER BY seq LIMIT ?3",
		       &r, NULL))
		return events;
	db_put_number(&r, since);
	db_put_text(&r, drain ? drain : "");
	db_put_number(&r, max);
	while (db_next(&r, NULL) == 1) {
		json_t *event = event_json(&r);
		if (event)
			json_array_append_new(events, event);
	}
	db_end(&r);
	return events;
}

int coord_store_put_receipt(struct coord_store *s, const struct kedge_uuid *migration, const char *text, struct kedge_err *err)
{
	struct db_row r;
	int res = db_prepare(s->db, "INSERT OR REPLACE INTO receipts VALUES(?,?)", &r, err);

	if (res)
		return res;
	db_put_uuid(&r, migration);
	db_put_text(&r, text);
	return db_run(&r, "receipt", err);
}

char *coord_store_get_receipt(struct coord_store *s, const char *migration)
{
	struct db_row r;
	char *text = NULL;

	if (db_prepare(s->db, "SELECT receipt FROM receipts WHERE migration=?", &r, NULL))
		return NULL;
	db_put_text(&r, migration);
	if (db_next(&r, NULL) == 1)
		text = db_get_heap_text(&r);
	db_end(&r);
	return text;
}

/* ---- open, close ---- */

int coord_store_open(const char *path, struct coord_store **ret_s, struct kedge_err *err)
{
	struct coord_store *s = calloc(1, sizeof *s);
	int res;

	if (!s)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "no memory for the coordinator's records");
	res = db_open(&schema, path, &s->db, err);
	if (res) {
		free(s);
		return res;
	}
	*ret_s = s;
	return 0;
}

void coord_store_close(struct coord_store *s)
{
	if (!s)
		return;
	db_close(s->db);
	free(s);
}
