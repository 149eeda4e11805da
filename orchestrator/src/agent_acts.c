/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What steps and reconcile do to processes, files and devices. Worker threads; each function looks at its
 * job only, may be run again after it failed or was cut off, and ends within deadlines.
 *
 * Owns. Nothing beyond the job's outputs.
 *
 * Locks. None: one job a unit.
 *
 * Crash. Every action is idempotent: started processes are found by their pid files, files are completed, secrets are
 * overwritten. The order inside each action is the safety argument, and numbered where it matters.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "agent_driver.h"
#include "agent_files.h"
#include "agent_int.h"
#include "agent_openers.h"
#include "agent_spawn.h"
#include "kedge/loop.h"
#include "kedge/loopdev.h"

#define STATUS_TIMEOUT_MS 2000
#define CONTROL_TIMEOUT_MS 10000
#define LOOK_MS 800         /* how long one HYDRATE or FINISH call looks for the end */
#define LOOK_NAP_MS 25
#define LOOP_DETACH_MS 2000
#define OPENERS_PATIENCE_MS 3000 /* udev and the like open a device for a moment after each writer */

/* Nobody uses the file or device, our own data plane excepted. */
static int prove_unused(struct job *j, const char *path, const pid_t *except, unsigned nr_except)
{
	uint64_t end_ns = kedge_clock_ns() + (uint64_t)OPENERS_PATIENCE_MS * 1000000;
	struct agent_target t = {0};
	int res = agent_target_add(&t, path, &j->err);

	while (!res) {
		struct kedge_err err = {0};
		res = agent_openers_check(&t, except, nr_except, &err);
		if (res != KEDGE_E_STILL_OPEN || kedge_clock_ns() >= end_ns) {
			if (res) {
				kedge_err_prefix(&err, "volume %s", j->d.vol.name);
				j->err = err;
			}
			break;
		}
		res = 0;
		agent_nap(100);
	}
	return res;
}

/* ---- destination ---- */

static void make_clone(struct job *j)
{
	j->res = plane_clone_stop(j->config, &j->d, &j->err);
	if (!j->res)
		j->res = plane_clone_create(j->config, &j->d, j->engine, &j->err);
	if (!j->res)
		j->res = plane_clone_serve(j->config, &j->d, j->ret_device, &j->err);
}

void act_reserve(struct job *j)
{
	json_int_t reserved = (json_int_t)j->d.vol.size_bytes;

	/* 1. a workload that could run here; 2. room that is really taken; 3. metadata; 4. a device that is ready before the source is
	 * stopped */
	if (j->is_start && j->d.work.is_defined)
		j->res = driver_check(&j->d, &j->err);
	if (j->res)
		kedge_err_prefix(&j->err, "host %s", j->config->host);
	else
		j->res = agent_file_create(j->d.vol.path, j->d.vol.size_bytes, &j->err);
	if (!j->res)
		make_clone(j);
	if (!j->res)
		j->result = json_pack("{s:s, s:I}", "device", j->ret_device, "reserved_bytes", reserved);
}

void act_attach(struct job *j)
{
	if (j->d.clone.mode == AGENT_CLONE_MAKING)
		make_clone(j);
	else
		j->res = plane_clone_serve(j->config, &j->d, j->ret_device, &j->err);
	if (!j->res)
		j->res = plane_clone_attach(j->config, &j->d, &j->err);
	if (!j->res)
		j->result = json_object();
}

static int64_t wall_clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* The device a workload gets: the clone's, the block volume itself, or a loop device over the raw file. */
static int ready_device(struct job *j)
{
	if (j->d.clone.mode != AGENT_CLONE_NONE)
		return plane_clone_serve(j->config, &j->d, j->ret_device, &j->err);
	if (j->d.vol.record.state != AGENT_STATE_LOCAL)
		return kedge_err_set(&j->err, KEDGE_E_BUG, KEDGE_SIDE_DESTINATION, "volume %s is not whole and has no clone", j->d.vol.name);
	if (j->d.vol.is_block) {
		snprintf(j->ret_device, sizeof j->ret_device, "%.*s", AGENT_DEVICE_MAX - 1, j->d.vol.path);
		return 0;
	}
	if (kedge_loopdev_find(j->d.vol.path, j->ret_device) == 0)
		return 0;
	return kedge_loopdev_attach(j->d.vol.path, j->d.vol.lbs_bytes, j->ret_device, &j->err);
}

void act_start_workload(struct job *j)
{
	j->res = ready_device(j);
	if (!j->res)
		j->res = driver_start(j->config, &j->d, j->ret_device, &j->proc, &j->err);
	/* A workload that runs but is not healthy is still one that runs. */
	if (j->res && !driver_find(j->config, &j->d, &j->proc))
		memset(&j->proc, 0, sizeof j->proc);
}

void act_boot(struct job *j)
{
	if (j->is_start && j->d.work.is_defined) {
		bool is_healthy;
		act_start_workload(j);
		/* It runs here, healthy or not: the blocks must follow it. */
		is_healthy = j->res == 0;
		if (j->proc.pid) {
			j->res = 0;
			j->result = json_pack("{s:i, s:I, s:b}", "pid", (int)j->proc.pid, "start_ms", (json_int_t)wall_clock_ms(), "healthy",
					      is_healthy);
		}
	} else {
		j->res = ready_device(j);
		if (!j->res)
			j->result = json_pack("{s:n, s:I}", "pid", "start_ms", (json_int_t)wall_clock_ms());
	}
}

static uint64_t number(const json_t *o, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(o, key));

	return v > 0 ? (uint64_t)v : 0;
}

/* The clone's status, or its failure. */
static int look(struct job *j)
{
	const char *state;

	json_decref(j->clone_status);
	j->clone_status = NULL;
	j->res = plane_clone_call(j->config, j->d.vol.name, "status", NULL, STATUS_TIMEOUT_MS, &j->clone_status, &j->err);
	if (j->res)
		return j->res;
	state = json_string_value(json_object_get(j->clone_status, "state"));
	if (state && strcmp(state, "failed") == 0) {
		const char *why = json_string_value(json_object_get(j->clone_status, "failure"));
		j->res = kedge_err_set(&j->err, KEDGE_E_FAILED, KEDGE_SIDE_DESTINATION, "the clone of %s has failed: %s", j->d.vol.name,
				       why ? why : "no reason given");
	}
	return j->res;
}

static bool is_state(const json_t *status, const char *state)
{
	const char *s = json_string_value(json_object_get(status, "state"));

	return s && strcmp(s, state) == 0;
}

static void call_clone(struct job *j, const char *cmd, json_t *args)
{
	j->res = plane_clone_call(j->config, j->d.vol.name, cmd, args, CONTROL_TIMEOUT_MS, NULL, &j->err);
	json_decref(args);
}

static bool is_hydrated(const json_t *status, uint64_t size_bytes)
{
	return is_state(status, "hydrated") || number(status, "durable_bytes") >= size_bytes;
}

static void go_on(struct job *j)
{
	j->is_more = true;
	j->result = json_incref(j->clone_status);
}

void act_hydrate(struct job *j)
{
	uint64_t end_ns = kedge_clock_ns() + (uint64_t)LOOK_MS * 1000000;

	if (look(j))
		return;
	if (!is_hydrated(j->clone_status, j->d.vol.size_bytes)) {
		if (number(json_object_get(j->clone_status, "hydration"), "limit_bps") != j->rate_bps)
			call_clone(j, "rate", json_pack("{s:I}", "bps", (json_int_t)j->rate_bps));
		const char *h = json_string_value(json_object_get(json_object_get(j->clone_status, "hydration"), "state"));
		if (!j->res && (!h || strcmp(h, "running") != 0))
			call_clone(j, "hydrate", NULL);
	}
	while (!j->res && !is_hydrated(j->clone_status, j->d.vol.size_bytes) && kedge_clock_ns() < end_ns) {
		agent_nap(LOOK_NAP_MS);
		look(j);
	}
	if (j->res)
		return;
	if (is_hydrated(j->clone_status, j->d.vol.size_bytes))
		j->result = json_object();
	else
		go_on(j);
}

/* verify: idle, running, passed, failed. */
static const char *verify_state(struct job *j)
{
	const char *s = json_string_value(json_object_get(json_object_get(j->clone_status, "verify"), "state"));

	return s ? s : "idle";
}

static int fail_verify(struct job *j)
{
	const json_t *v = json_object_get(j->clone_status, "verify");
	const char *why = json_string_value(json_object_get(v, "error"));

	return kedge_err_set(&j->err, KEDGE_E_VERIFY, KEDGE_SIDE_DESTINATION, "volume %s: %" PRIu64 " bytes differ from the source: %s",
			     j->d.vol.name, number(v, "mismatch_bytes"), why && *why ? why : "verification failed");
}

static void report_finish(struct job *j)
{
	const json_t *v = json_object_get(j->clone_status, "verify");
	uint64_t written = number(j->clone_status, "written_bytes"), verified = number(v, "verified_bytes");

	/* Served anew after it had become HYDRATED, and it does not tell the figures of the comparison that this state rests on. One of before there
	 * was a choice for holes never did: every block that is not written, holes too, byte by byte. Else they are lost, and nobody makes them up. */
	bool is_told = strcmp(verify_state(j), "passed") == 0;
	if (!is_told && !json_object_get(v, "holes")) {
		verified = j->d.vol.size_bytes - written;
		is_told = true;
	}
	plane_clone_drop_secret(j->config, &j->d);
	if (!is_told) {
		j->result = json_pack("{s:i, s:I, s:I}", "mismatch_bytes", 0, "written_bytes", (json_int_t)written, "size_bytes",
				      (json_int_t)j->d.vol.size_bytes);
		return;
	}
	j->result = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "verified_bytes", (json_int_t)verified, "checksum_bytes",
			      (json_int_t)number(v, "checksum_bytes"), "hole_bytes",
			      (json_int_t)number(v, "hole_bytes"), "sampled_bytes", (json_int_t)number(v, "sampled_bytes"), "sample_seed",
			      (json_int_t)number(v, "sample_seed"), "mismatch_bytes", (json_int_t)number(v, "mismatch_bytes"), "written_bytes",
			      (json_int_t)written, "size_bytes", (json_int_t)j->d.vol.size_bytes);
}

/* By what the source says of its holes while this agent is to have them read, or by checksums while it is to have the bytes compared. One
 * that has passed with no bytes by checksums was by bytes: the source makes none. */
static bool is_compared_by_less(struct job *j)
{
	const json_t *v = json_object_get(j->clone_status, "verify");
	const char *holes = json_string_value(json_object_get(v, "holes")), *data = json_string_value(json_object_get(v, "data"));
	bool is_by_bytes = !data || strcmp(data, "bytes") == 0 || (strcmp(verify_state(j), "passed") == 0 && number(v, "checksum_bytes") == 0);

	return (j->config->is_verify_holes_read && holes && strcmp(holes, "read") != 0) ||
	       (j->config->is_verify_data_bytes && !is_by_bytes);
}

static bool has_passed(struct job *j)
{
	return strcmp(verify_state(j), "passed") == 0 && !is_compared_by_less(j);
}

/* There is none yet, or one under way or passed that somebody asked for before the configuration wanted more. */
static bool is_comparison_wanted(struct job *j)
{
	return strcmp(verify_state(j), "idle") == 0 || (strcmp(verify_state(j), "failed") != 0 && is_compared_by_less(j));
}

static json_t *verify_args(const struct job *j)
{
	return json_pack("{s:s, s:s}", "holes", j->config->is_verify_holes_read ? "read" : "status", "data",
			 j->config->is_verify_data_bytes ? "bytes" : "checksum");
}

void act_finish(struct job *j)
{
	uint64_t end_ns = kedge_clock_ns() + (uint64_t)LOOK_MS * 1000000;

	if (look(j))
		return;
	if (!is_state(j->clone_status, "hydrated") && is_comparison_wanted(j))
		call_clone(j, "verify", verify_args(j));
	while (!j->res && !look(j) && !is_state(j->clone_status, "hydrated") && !has_passed(j) &&
	       strcmp(verify_state(j), "failed") != 0 && kedge_clock_ns() < end_ns)
		agent_nap(LOOK_NAP_MS);
	if (j->res)
		return;
	if (is_state(j->clone_status, "hydrated")) {
		report_finish(j);
	} else if (has_passed(j)) {
		call_clone(j, "finish", NULL);
		if (!j->res)
			report_finish(j);
	} else if (strcmp(verify_state(j), "failed") == 0) {
		j->res = fail_verify(j);
		/* compared anew for who asks next: a source that could not be read may have come to its senses */
		json_t *args = verify_args(j);
		plane_clone_call(j->config, j->d.vol.name, "verify", args, CONTROL_TIMEOUT_MS, NULL, NULL);
		json_decref(args);
	} else {
		go_on(j);
	}
}

void act_revoke(struct job *j)
{
	struct kedge_proc proc;

	/* abort says durably that this clone will never serve again; where the process is gone, its removal says it too */
	if (j->d.clone.mode != AGENT_CLONE_NONE) {
		if (plane_clone_find(j->config, j->d.vol.name, &proc) &&
		    plane_clone_call(j->config, j->d.vol.name, "abort", NULL, CONTROL_TIMEOUT_MS, NULL, NULL) == 0)
			agent_session_wait(&proc, CONTROL_TIMEOUT_MS);
		j->res = plane_clone_stop(j->config, &j->d, &j->err);
		if (!j->res)
			j->res = plane_clone_remove(j->config, &j->d, &j->err);
	}
	if (!j->res && j->d.vol.record.state == AGENT_STATE_REVOKED && j->d.vol.path[0] && !j->d.vol.is_block)
		j->res = agent_file_remove(j->d.vol.path, &j->err);
	j->is_device_gone = true;
	if (!j->res)
		j->result = json_object();
}

/* ---- source ---- */

/* Blocks may still live at the source only, and what was written is known by the clone's metadata alone. */
static bool is_clone_needed(const struct job *j)
{
	return j->d.clone.mode != AGENT_CLONE_NONE &&
	       !(j->d.clone.mode == AGENT_CLONE_PASSTHROUGH && j->d.vol.record.state == AGENT_STATE_LOCAL);
}

/* After the workload: the clone that served it, or the loop device. */
static int drop_device(struct job *j)
{
	if (is_clone_needed(j)) {
		j->res = kedge_err_set(&j->err, KEDGE_E_BUG, KEDGE_SIDE_DESTINATION, "the clone of %s is still needed", j->d.vol.name);
		return j->res;
	}
	if (j->d.clone.mode != AGENT_CLONE_NONE) {
		j->res = plane_clone_stop(j->config, &j->d, &j->err);
		if (!j->res)
			j->res = plane_clone_remove(j->config, &j->d, &j->err);
		j->is_clone_gone = !j->res;
	} else if (!j->d.vol.is_block) {
		j->res = kedge_loopdev_detach(j->d.vol.path, LOOP_DETACH_MS, &j->err);
	}
	j->is_device_gone = !j->res;
	return j->res;
}

/* 1. the workload and its session are gone; 2. nobody has the device; 3. what was written is on the disk; and, unless a clone is
 * still needed: 4. the device is gone; 5. nobody has the file. */
static void stop_and_prove(struct job *j)
{
	char device[AGENT_DEVICE_MAX] = "";
	pid_t pids[32];
	unsigned nr_pids;

	strcpy(device, j->device);
	if (!device[0] && j->d.clone.mode == AGENT_CLONE_NONE && !j->d.vol.is_block)
		kedge_loopdev_find(j->d.vol.path, device);
	if (!device[0] && j->d.vol.is_block && j->d.clone.mode == AGENT_CLONE_NONE)
		snprintf(device, sizeof device, "%.*s", AGENT_DEVICE_MAX - 1, j->d.vol.path);
	j->res = driver_stop(j->config, &j->d, device, j->grace_ms, &j->was_running, &j->err);
	if (j->res)
		return;
	nr_pids = plane_clone_pids(j->config, j->d.vol.name, pids, 32);
	if (device[0]) {
		j->res = prove_unused(j, device, pids, nr_pids);
		if (!j->res)
			j->res = agent_flush(device, &j->err);
	}
	/* kclone goes on: it hydrates, and serves the workload when that is started again */
	if (!j->res && is_clone_needed(j))
		return;
	if (!j->res)
		j->res = drop_device(j);
	if (!j->res)
		j->res = agent_flush(j->d.vol.path, &j->err);
	if (!j->res)
		j->res = prove_unused(j, j->d.vol.path, NULL, 0);
}

void act_stop(struct job *j)
{
	stop_and_prove(j);
	if (!j->res)
		j->result = json_pack("{s:b}", "was_running", j->was_running);
}

void act_stop_workload(struct job *j)
{
	stop_and_prove(j);
}

void act_fence(struct job *j)
{
	struct kedge_proc proc;

	if (driver_find(j->config, &j->d, &proc))
		j->res = kedge_err_set(&j->err, KEDGE_E_STATE, KEDGE_SIDE_SOURCE, "workload %s runs again (pid %d)", j->d.work.name,
				       (int)proc.pid);
	else
		j->res = prove_unused(j, j->d.vol.path, NULL, 0);
	if (!j->res)
		j->result = json_object();
}

void act_export(struct job *j)
{
	const char *a = j->config->portal_address;
	bool is_bare_v6 = strchr(a, ':') && a[0] != '[';
	char portal[KEDGED_ADDR_MAX + 16];

	j->res = plane_export_start(j->config, &j->d, &j->port, &j->left_out_bytes, &j->err);
	if (j->res)
		return;
	snprintf(portal, sizeof portal, is_bare_v6 ? "[%s]:%u" : "%s:%u", a, (unsigned)j->port);
	j->result = json_pack("{s:s, s:s, s:I}", "portal", portal, "iqn", j->d.export.iqn, "left_out_bytes", (json_int_t)j->left_out_bytes);
}

/* UNEXPORT and UNFENCE. */
void act_unexport(struct job *j)
{
	j->res = plane_export_stop(j->config, &j->d, &j->err);
	if (!j->res)
		j->result = json_object();
}

void act_release(struct job *j)
{
	const char *policy = j->q.is_release_delete ? "delete" : "keep";

	if (j->q.is_release_delete && !j->d.vol.is_block && j->d.vol.path[0])
		j->res = agent_file_remove(j->d.vol.path, &j->err);
	if (!j->res)
		j->result = json_pack("{s:s, s:b}", "policy", policy, "released", j->q.is_release_delete);
}

/* ---- reconcile ---- */

static bool has_source(struct job *j)
{
	const char *state;

	if (look(j))
		return false;
	state = json_string_value(json_object_get(json_object_get(j->clone_status, "source"), "state"));
	return state && strcmp(state, "up") == 0;
}

static void serve_again(struct job *j)
{
	j->res = plane_clone_serve(j->config, &j->d, j->ret_device, &j->err);
	if (!j->res && j->d.clone.mode == AGENT_CLONE_ATTACHED && !has_source(j) && !j->res)
		j->res = plane_clone_attach(j->config, &j->d, &j->err);
}

/* To its workload a lost kclone is a power cut: what is left of the workload ends, then the device comes back. A device of the kernel's is not
 * lost with its kclone: alone, nobody notices; before that, reads of its source wait (and some may have failed), or it was on its way to
 * the destination, so its workload cannot even end before it is served again. */
void act_recover_clone(struct job *j)
{
	bool has_device = plane_clone_has_device(&j->d), is_lost;
	struct kedge_proc proc;

	is_lost = !plane_clone_find(j->config, j->d.vol.name, &proc);
	if (is_lost && !has_device)
		j->res = driver_kill(j->config, &j->d, &j->err);
	if (!j->res)
		serve_again(j);
	if (!j->res && is_lost && has_device && j->d.clone.mode != AGENT_CLONE_PASSTHROUGH)
		j->res = driver_kill(j->config, &j->d, &j->err);
	if (!j->res && j->d.clone.is_hydrating && j->d.clone.mode == AGENT_CLONE_ATTACHED) {
		call_clone(j, "rate", json_pack("{s:I}", "bps", (json_int_t)j->d.clone.rate_bps));
		if (!j->res)
			call_clone(j, "hydrate", NULL);
	}
}

/* The volume stands alone: no process between the workload and its file any more. */
void act_retire_clone(struct job *j)
{
	pid_t pids[32];
	unsigned nr_pids;

	j->res = driver_kill(j->config, &j->d, &j->err);
	nr_pids = plane_clone_pids(j->config, j->d.vol.name, pids, 32);
	if (!j->res && j->device[0])
		j->res = prove_unused(j, j->device, pids, nr_pids);
	if (!j->res)
		drop_device(j);
}
