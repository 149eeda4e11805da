/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_AGENT_TYPES_H
#define ORCH_AGENT_TYPES_H

/* What the agent knows of a volume and all that belongs to it. By value, so that a worker thread gets a copy. */

#include <stdbool.h>
#include <stdint.h>

#include "agent_core.h"
#include "kedge/chapfile.h"
#include "kedge/name.h"
#include "kedge/proc.h"
#include "kedge/uuid.h"
#include "pace.h"

#define AGENT_PATH_MAX 512
#define AGENT_URL_MAX 512
#define AGENT_DEVICE_MAX 64

struct agent_volume {
	struct kedge_uuid uuid;
	char name[KEDGE_NAME_MAX + 1];
	uint64_t size_bytes;
	uint32_t lbs_bytes;
	bool is_block;
	char path[AGENT_PATH_MAX]; /* empty: nothing is here (any more) */
	struct agent_record record;
};

enum agent_clone_mode {
	AGENT_CLONE_NONE,
	AGENT_CLONE_MAKING,      /* its metadata is about to be made (anew) */
	AGENT_CLONE_RESERVED,    /* served, not attached */
	AGENT_CLONE_ATTACHED,    /* served with its source */
	AGENT_CLONE_PASSTHROUGH, /* hydrated: serves the workload that runs, needed no more after it */
};

struct agent_clone {
	enum agent_clone_mode mode;
	char meta[AGENT_PATH_MAX];
	char url[AGENT_URL_MAX];
	char initiator[KEDGE_IQN_MAX + 1]; /* the name it logs in with: in its metadata from create on */
	struct kedge_chap chap;
	bool is_hydrating; /* HYDRATE was asked: a clone that is served again goes on by itself, at this rate */
	uint64_t rate_bps; /* 0: no limit */
	struct pace pace;  /* what its move asks for; the rest is the host's */
};

struct agent_export {
	bool is_recorded;
	char iqn[KEDGE_IQN_MAX + 1];
	char initiator[KEDGE_IQN_MAX + 1];
	struct kedge_chap chap;
	uint16_t port; /* 0: not known yet */
	uint64_t left_out_bytes; /* free space, zeroes for who reads the export; as long as it lives. With port. */
};

struct agent_workload {
	bool is_defined;
	char name[KEDGE_NAME_MAX + 1];
	char *spec;       /* JSON text as sent, checked; owned */
	bool is_wanted;   /* should run, as far as the volume allows */
	uint64_t epoch;   /* KEDGE_EPOCH of its last start */
	uint64_t nr_restarts;
	struct kedge_proc proc; /* of its last start; the pid file has the first word (it is written before the program runs) */
};

/* All that is durable about one volume. */
struct agent_unit {
	struct agent_volume vol;
	struct agent_clone clone;
	struct agent_export export;
	struct agent_workload work;
};

/* Deep copy and its end. */
int agent_unit_copy(const struct agent_unit *from, struct agent_unit *ret_unit);
void agent_unit_fini(struct agent_unit *u);

#endif
