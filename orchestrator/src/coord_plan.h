/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_COORD_PLAN_H
#define ORCH_COORD_PLAN_H

/* Pure. What a drain would do: which volumes move where, and what stands in the way. */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "kedge/name.h"
#include "kedge/uuid.h"

struct coord_move {
	struct kedge_uuid volume_uuid;
	char volume[KEDGE_NAME_MAX + 1];
	char workload[KEDGE_NAME_MAX + 1]; /* empty: none */
	char to[KEDGE_NAME_MAX + 1];	   /* empty: no place */
	json_t *spec;			   /* owned; NULL without a workload */
	uint64_t size_bytes, need_bytes, free_bytes;
	uint32_t lbs_bytes;
	char engine[8]; /* that the clone gets there: "user" or "dm" */
	uint64_t epoch; /* the highest seen on any host */
	bool wants_start;
	json_t *blockers; /* owned: array of text */
};

struct coord_plan {
	char host[KEDGE_NAME_MAX + 1];
	struct coord_move *moves;
	size_t nr_moves;
	json_t *blockers; /* of the whole: array of text */
};

/* snapshot: {"hosts":[{"name","is_up","cordon":text|null,"is_draining":bool,"facts":host facts (docs/api.md)|null}],
 *            "busy":{volume name: text}, "engine":"auto"|"user"|"dm" (absent: auto)}.
 * to: NULL: the host with the most room, of those that are up, not cordoned and not being drained.
 * workload: NULL: every volume of the host. 0, or -ENOMEM. */
int coord_plan(const json_t *snapshot, const char *host, const char *to, const char *workload, struct coord_plan *ret_plan);
void coord_plan_fini(struct coord_plan *p);
bool coord_plan_is_blocked(const struct coord_plan *p);
json_t *coord_plan_json(const struct coord_plan *p);

/* How much a state of a volume's record says that the live copy is on that host: 3 local or cloning, 2 fenced, 1 reserved, 0 else. */
unsigned coord_state_rank(const char *state);

#endif
