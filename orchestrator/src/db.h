/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_DB_H
#define ORCH_DB_H

/* Durable records of the daemons: SQLite, WAL, synchronous=FULL, in a file of mode 0600. Loop thread only; a call that writes
 * blocks for as long as an fsync takes. Errors: -ENOSPC, KEDGE_E_META_CORRUPT, -EIO. */

#include <stdbool.h>
#include <stdint.h>

#include "kedge/err.h"
#include "kedge/uuid.h"

struct db;

struct db_schema {
	const char *what; /* "agent records": begins messages */
	const char *sql;  /* makes an empty database, in one transaction */
	int application_id;
	int version;
	/* upgrades[i]: SQL from version i + 1 to i + 2; NULL when version is 1 */
	const char *const *upgrades;
};

/* A statement, and the column next to be bound or read. */
struct db_row {
	struct db *db;
	void *stmt;
	int col;
};

/* Creates or opens. KEDGE_E_META_VERSION for a schema this program does not know. schema is kept, not copied. */
int db_open(const struct db_schema *schema, const char *path, struct db **ret_db, struct kedge_err *err);
void db_close(struct db *db);

/* Each write outside of a transaction is one of its own. After a failed call inside one, roll back. */
int db_begin(struct db *db, struct kedge_err *err);
int db_commit(struct db *db, struct kedge_err *err);
void db_rollback(struct db *db);
bool db_is_in_transaction(const struct db *db);
/* Lazy: commits survive the daemon's death but perhaps not a power cut, which takes the last ones, whole and in order. */
void db_set_lazy(struct db *db, bool is_lazy);
/* Deleted rows are overwritten in the file (secure_delete); this takes their old pages out of the log too. Best effort. */
void db_scrub(struct db *db);

int db_exec(struct db *db, const char *sql, const char *doing, struct kedge_err *err);
int db_prepare(struct db *db, const char *sql, struct db_row *ret_row, struct kedge_err *err);
void db_put_text(struct db_row *r, const char *text);
void db_put_number(struct db_row *r, uint64_t v);
/* A number that may be missing: NULL in the table. */
void db_put_maybe(struct db_row *r, bool is_there, uint64_t v);
bool db_get_maybe(struct db_row *r, uint64_t *ret_v);
/* A null uuid is an empty text. */
void db_put_uuid(struct db_row *r, const struct kedge_uuid *u);
/* Runs a statement that gives no rows, and ends it. */
int db_run(struct db_row *r, const char *doing, struct kedge_err *err);
/* 1: a row is there; 0: no more; negative: an error. The caller ends it in every case. */
int db_next(struct db_row *r, struct kedge_err *err);
void db_end(struct db_row *r);
/* -EINVAL for a value too long for its place: nothing is cut. */
int db_get_text(struct db_row *r, char *out, size_t out_max);
/* Heap memory that the caller frees; NULL without memory. */
char *db_get_heap_text(struct db_row *r);
uint64_t db_get_number(struct db_row *r);
int db_get_uuid(struct db_row *r, struct kedge_uuid *ret_uuid);

#endif
