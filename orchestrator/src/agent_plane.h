/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_AGENT_PLANE_H
#define ORCH_AGENT_PLANE_H

/* The data-plane processes of a volume: kclone at the destination, ktarget at the source. Each function blocks with a deadline
 * of its own: worker threads only. Processes are known by their pid files (pid, start time, boot id) and nothing else is ever
 * signalled. */

#include <jansson.h>

#include "agent_types.h"
#include "kedge/err.h"
#include "orch/kedged.h"

/* ---- kclone ---- */
/* Metadata path of a migration's clone: STATE/clones/NAME.<uuid8>.<epoch>.meta. */
void plane_clone_meta_path(const struct kedged_config *c, const struct agent_volume *v, uint64_t epoch, char out[AGENT_PATH_MAX]);
/* Removes what an earlier try left and creates, with that engine; "": the engine that the earlier try had. The source's place may not be known yet: it comes with attach. */
int plane_clone_create(const struct kedged_config *c, const struct agent_unit *u, const char *engine, struct kedge_err *err);
/* Does the kernel run this clone (engine dm)? By its files. */
bool plane_clone_is_kernel(const struct agent_unit *u);
/* Has it a device of the kernel's, which is there after its kclone was lost: a kernel clone, or one under a dm-linear? */
bool plane_clone_has_device(const struct agent_unit *u);
/* … that needs no kclone, of a clone that stands alone? */
bool plane_clone_is_alone(const struct agent_unit *u);
/* Which engine this host has, as `kclone doctor` says; *ret_why: the reason, for people. */
void plane_doctor(const struct kedged_config *c, bool *ret_has_dm, char ret_why[256]);
/* Starts `kclone serve` (or finds it running) and waits until its device is there. */
int plane_clone_serve(const struct kedged_config *c, const struct agent_unit *u, char ret_device[AGENT_DEVICE_MAX],
		      struct kedge_err *err);
/* The running one's identity; false when it is dead or was never started. */
bool plane_clone_find(const struct kedged_config *c, const char *name, struct kedge_proc *ret_proc);
int plane_clone_attach(const struct kedged_config *c, const struct agent_unit *u, struct kedge_err *err);
/* Its CHAP file: not needed any more. */
void plane_clone_drop_secret(const struct kedged_config *c, const struct agent_unit *u);
/* One command of its control socket. ret_result may be NULL. */
int plane_clone_call(const struct kedged_config *c, const char *name, const char *cmd, json_t *args, unsigned timeout_ms,
		     json_t **ret_result, struct kedge_err *err);
/* Drains and ends it, harder when it does not listen; loop device and mount are gone afterwards. 0 also when none runs. */
int plane_clone_stop(const struct kedged_config *c, const struct agent_unit *u, struct kedge_err *err);
/* Forget its metadata, secrets and directories, after stop. */
int plane_clone_remove(const struct kedged_config *c, const struct agent_unit *u, struct kedge_err *err);
/* Pids that belong to it, for the opener check. */
unsigned plane_clone_pids(const struct kedged_config *c, const char *name, pid_t *out, unsigned max);

/* ---- ktarget ---- */
/* Starts it (or finds it running) and tells its port, and how much free space it leaves out. u->export.port 0: it is the first time, any port, and the
 * configuration decides about free space; otherwise what it was the first time. */
int plane_export_start(const struct kedged_config *c, const struct agent_unit *u, uint16_t *ret_port, uint64_t *ret_left_out_bytes,
		       struct kedge_err *err);
bool plane_export_find(const struct kedged_config *c, const struct agent_unit *u, struct kedge_proc *ret_proc);
/* Ends it, drops its credentials. 0 also when none runs. */
int plane_export_stop(const struct kedged_config *c, const struct agent_unit *u, struct kedge_err *err);

/* The directories that all of it lives in. */
int plane_make_dirs(const struct kedged_config *c, struct kedge_err *err);

#endif
