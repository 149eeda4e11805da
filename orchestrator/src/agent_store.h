/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_AGENT_STORE_H
#define ORCH_AGENT_STORE_H

/* The agent's durable records: SQLite, WAL, synchronous=FULL, in a file of mode 0600 (it holds CHAP secrets). Loop
 * thread only; calls block for as long as an fsync takes. */

#include "agent_types.h"

struct agent_store;

/* Creates or opens. Errors: KEDGE_E_META_VERSION for a schema this program does not know, KEDGE_E_META_CORRUPT, -EIO. */
int agent_store_open(const char *path, struct agent_store **ret_store, struct kedge_err *err);
void agent_store_close(struct agent_store *s);

/* Calls fn for each unit; the unit is fn's to keep. A negative return ends it. */
int agent_store_load(struct agent_store *s, int (*fn)(void *arg, struct agent_unit *unit), void *arg, struct kedge_err *err);

/* Transactions: begin, puts, commit. Each put outside of a transaction is one of its own. After a failed call inside a
 * transaction, roll back. */
int agent_store_begin(struct agent_store *s, struct kedge_err *err);
int agent_store_commit(struct agent_store *s, struct kedge_err *err);
void agent_store_rollback(struct agent_store *s);

/* The whole unit as it is. Durable on return when outside of a transaction. */
int agent_store_put_unit(struct agent_store *s, const struct agent_unit *u, struct kedge_err *err);

/* Credentials were dropped: let no copy of them stay in the log either. Best effort. */
void agent_store_scrub(struct agent_store *s);

/* The result of a step (or of an operator's verb, with epoch 0 and the request as id). result: JSON text. */
int agent_store_put_result(struct agent_store *s, const struct kedge_uuid *id, uint64_t epoch, const char *step,
			   const char *result, struct kedge_err *err);
/* Heap text that the caller frees, or NULL when there is none (or err->code is set). */
char *agent_store_get_result(struct agent_store *s, const struct kedge_uuid *id, uint64_t epoch, const char *step,
			     struct kedge_err *err);
int agent_store_forget_result(struct agent_store *s, const struct kedge_uuid *id, uint64_t epoch, const char *step,
			      struct kedge_err *err);

/* A copy of a volume that an earlier move left on this host and that a later arrival took the name of. */
int agent_store_put_kept(struct agent_store *s, const struct agent_volume *v, struct kedge_err *err);

/* The boot id of the host when the agent last ran; empty at first. */
int agent_store_get_boot_id(struct agent_store *s, char out[KEDGE_BOOT_ID_MAX], struct kedge_err *err);
int agent_store_put_boot_id(struct agent_store *s, const char *boot_id, struct kedge_err *err);

#endif
