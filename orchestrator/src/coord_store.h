/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_COORD_STORE_H
#define ORCH_COORD_STORE_H

/* The coordinator's durable records. Loop thread only; calls block for as long as an fsync takes. */

#include <jansson.h>

#include "coord_core.h"
#include "kedge/chapfile.h"

struct coord_store;

enum coord_drain_state { COORD_DRAIN_RUNNING, COORD_DRAIN_DONE, COORD_DRAIN_FAILED, COORD_DRAIN_PARTLY, COORD_DRAIN_ABORTED };

struct coord_drain {
	struct kedge_uuid id;
	char host[KEDGE_NAME_MAX + 1];
	char to[KEDGE_NAME_MAX + 1];	   /* empty: chosen */
	char workload[KEDGE_NAME_MAX + 1]; /* a move of one; empty: all of the host */
	unsigned max_parallel;
	uint64_t rate_bps, hold_ms;
	struct pace pace;
	bool is_release_delete;
	char engine[8]; /* asked for: "auto", "user" or "dm"; not recorded: each migration has its own */
	enum coord_drain_state state;
	uint64_t started_ms, ended_ms;
};

struct coord_cordon {
	char host[KEDGE_NAME_MAX + 1];
	char owner[128];
	char reason[256];
	uint64_t expires_ms; /* 0: never */
};

int coord_store_open(const char *path, struct coord_store **ret_s, struct kedge_err *err);
void coord_store_close(struct coord_store *s);

/* A drain with its migrations, their specs (JSON text or NULL) and their secrets, all or nothing. */
int coord_store_add_drain(struct coord_store *s, const struct coord_drain *d, const struct coord_migration *m, char *const *specs,
			  const struct kedge_chap *chaps, size_t nr, struct kedge_err *err);
int coord_store_put_drain(struct coord_store *s, const struct coord_drain *d, struct kedge_err *err);
/* is_lazy: need not survive a power cut (COORD_LAZY). From UNEXPORTED and ABORTED on the secrets are gone. */
int coord_store_put_migration(struct coord_store *s, const struct coord_migration *m, bool is_lazy, struct kedge_err *err);
int coord_store_load_drains(struct coord_store *s, int (*fn)(void *arg, const struct coord_drain *d), void *arg,
			    struct kedge_err *err);
/* In the order of their drains, and in a drain in that of the plan. */
int coord_store_load_migrations(struct coord_store *s, int (*fn)(void *arg, const struct coord_migration *m), void *arg,
				struct kedge_err *err);
/* Heap text or NULL. */
char *coord_store_get_spec(struct coord_store *s, const struct kedge_uuid *migration);
/* -ENOENT when they are gone. */
int coord_store_get_chap(struct coord_store *s, const struct kedge_uuid *migration, struct kedge_chap *ret_chap,
			 struct kedge_err *err);

/* The highest epoch that was ever given to this volume here; 0: none. */
int coord_store_get_epoch(struct coord_store *s, const struct kedge_uuid *volume, uint64_t *ret_epoch, struct kedge_err *err);

int coord_store_put_cordon(struct coord_store *s, const struct coord_cordon *c, struct kedge_err *err);
int coord_store_delete_cordon(struct coord_store *s, const char *host, struct kedge_err *err);
int coord_store_load_cordons(struct coord_store *s, int (*fn)(void *arg, const struct coord_cordon *c), void *arg,
			     struct kedge_err *err);

struct coord_event {
	uint64_t seq; /* out */
	uint64_t time_ms;
	struct kedge_uuid drain, migration; /* null: none */
	const char *volume, *kind, *text;
};
/* Lazy: the log tells the story, the records decide. */
int coord_store_add_event(struct coord_store *s, struct coord_event *e, struct kedge_err *err);
/* Up to max events after since, as a JSON array; drain: NULL for all. */
json_t *coord_store_events(struct coord_store *s, uint64_t since, const char *drain, unsigned max);
uint64_t coord_store_last_event(struct coord_store *s);

int coord_store_put_receipt(struct coord_store *s, const struct kedge_uuid *migration, const char *text, struct kedge_err *err);
/* Heap text or NULL. */
char *coord_store_get_receipt(struct coord_store *s, const char *migration);

#endif
