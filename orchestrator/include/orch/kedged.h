/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_KEDGED_H
#define ORCH_KEDGED_H

/* The daemon: configuration, and the two roles as services on one libuv loop. */

#include <stdbool.h>
#include <uv.h>

#include "kedge/err.h"
#include "kedge/name.h"
#include "orch/http.h"

#define KEDGED_PATH_MAX 512
#define KEDGED_ADDR_MAX 64
#define KEDGED_HOSTS_MAX 64

struct kedged_host {
	char name[KEDGE_NAME_MAX + 1];
	char address[KEDGED_ADDR_MAX]; /* ADDR:PORT of its daemon */
};

/* kedged.conf(5); read by config.c (libinih). Unknown sections or keys are errors with file and line. */
struct kedged_config {
	/* [daemon] */
	char host[KEDGE_NAME_MAX + 1];
	bool is_agent, is_coordinator;          /* roles = agent, coordinator */
	char listen[KEDGED_ADDR_MAX];           /* listen = 10.0.0.1:7420 */
	char socket[KEDGED_PATH_MAX];           /* socket = /run/kedge/api.sock */
	char state_dir[KEDGED_PATH_MAX];        /* state_dir = /var/lib/kedge */
	char run_dir[KEDGED_PATH_MAX];          /* run_dir = /run/kedge */
	char cluster_secret_file[KEDGED_PATH_MAX]; /* cluster_secret_file = /etc/kedge/cluster.secret */
	char coordinator[KEDGED_ADDR_MAX];      /* coordinator = ADDR:PORT (agents: for messages to operators) */
	/* [agent] */
	char volume_dir[KEDGED_PATH_MAX];       /* volume_dir = STATE_DIR/volumes */
	char portal_address[KEDGED_ADDR_MAX];   /* portal_address = the address of listen */
	char bin_dir[KEDGED_PATH_MAX];          /* bin_dir = where kedged itself is: ktarget, kclone */
	bool is_verify_holes_read;              /* verify_holes = status | read */
	bool is_verify_data_bytes;              /* verify_data = checksum | bytes */
	bool is_free_skipped;                   /* free_space = copy | skip: what exports do with free blocks of file systems */
	char hydrate_floor[24], latency_factor[12], transit[8]; /* as kclone serve takes them; empty: its own */
	/* [coordinator] */
	uint64_t hold_ms;                       /* hold = 0s: how long a source copy is kept after the move */
	bool is_release_delete;                 /* release = delete | keep */
	/* [host NAME] address = ADDR:PORT */
	struct kedged_host hosts[KEDGED_HOSTS_MAX];
	unsigned nr_hosts;
	/* read from cluster_secret_file */
	char secret[256];
	size_t secret_bytes;
};

int kedged_config_read(const char *path, struct kedged_config *ret_config, struct kedge_err *err);

struct coord_service;
struct agent_service;

/* Each opens its database under state_dir (coordinator.db, agent.db), resumes what was under way, adds its routes. The
 * config must outlive the service. */
int coord_service_create(uv_loop_t *loop, const struct kedged_config *config, struct http_server *server,
			 struct http_client *client, struct coord_service **ret_s, struct kedge_err *err);
void coord_service_destroy(struct coord_service *s);
int agent_service_create(uv_loop_t *loop, const struct kedged_config *config, struct http_server *server,
			 struct agent_service **ret_s, struct kedge_err *err);
/* Leaves all data-plane processes and workloads running. */
void agent_service_destroy(struct agent_service *s);

#endif
