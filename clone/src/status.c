/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The status of a clone, as JSON (docs/formats.md) and for people; the verbs that talk to a serving process.
 * Owns. Nothing beyond each call. Locks. None.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dm_record.h"
#include "kclone.h"
#include "kedge/bytes.h"
#include "kedge/ctl.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/size.h"

#define TIMEOUT_MS 15000

json_t *status_json(const struct uclone_create_opts *o, const struct uclone_status *s)
{
	char volume[KEDGE_UUID_TEXT_MAX], migration[KEDGE_UUID_TEXT_MAX];

	kedge_uuid_format(&o->source.volume, volume);
	kedge_uuid_format(&o->migration, migration);
	return json_pack("{s:i,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:I,s:I,s:I,s:s}", "v", 1, "state",
			 uclone_state_name(s->state), "volume", volume, "migration", migration, "epoch",
			 (json_int_t)o->source.epoch, "size_bytes", (json_int_t)s->size_bytes, "here_bytes",
			 (json_int_t)s->here_bytes, "durable_bytes", (json_int_t)s->durable_bytes, "written_bytes",
			 (json_int_t)s->written_bytes, "bad_bytes", (json_int_t)s->bad_bytes, "unknown_bytes",
			 (json_int_t)s->unknown_bytes, "had_unclean_stop", s->had_unclean_stop, "generation",
			 (json_int_t)s->generation, "nr_commits", (json_int_t)s->nr_commits, "waiting_ios",
			 (json_int_t)s->nr_waiting, "failure", s->failure.msg);
}

static uint64_t number(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));

	return t ? t : "-";
}

static void print_governor(const json_t *g)
{
	char a[32], b[32];
	uint64_t percent = number(g, "latency_percent");

	printf("governor   bound by %s, %" PRIu64 " copies of %s, floor %s/s", text(g, "bound"), number(g, "copies"),
	       kedge_size_format(number(g, "copy_bytes"), a, sizeof a), kedge_size_format(number(g, "floor_bps"), b, sizeof b));
	if (percent && number(g, "baseline_us"))
		printf("; 99th percentile %" PRIu64 " us beside hydration, %" PRIu64 " us alone, %" PRIu64 " us allowed", number(g, "latency_us"),
		       number(g, "baseline_us"), number(g, "allowed_us"));
	printf("%s\n", percent ? "" : "; the workload waits");
}

void status_print(const json_t *s)
{
	const json_t *src = json_object_get(s, "source"), *hyd = json_object_get(s, "hydration");
	const json_t *dev = json_object_get(s, "device"), *ver = json_object_get(s, "verify");
	uint64_t size = number(s, "size_bytes"), durable = number(s, "durable_bytes");
	char a[32], b[32], c[32], d[32];

	printf("state      %s%s\n", text(s, "state"), number(s, "had_unclean_stop") ? " (stopped uncleanly once)" : "");
	printf("engine     %s\n", text(s, "engine"));
	printf("volume     %s epoch %" PRIu64 "\n", text(s, "volume"), number(s, "epoch"));
	printf("durable    %s of %s (%.1f %%), written by the workload %s\n", kedge_size_format(durable, a, sizeof a),
	       kedge_size_format(size, b, sizeof b), size ? 100.0 * (double)durable / (double)size : 100.0,
	       kedge_size_format(number(s, "written_bytes"), c, sizeof c));
	if (!json_object_get(s, "worker_pid"))
		printf("served     no\n");
	printf("exposed    %s live on the source only\n", kedge_size_format(size - durable, a, sizeof a));
	if (src)
		printf("source     %s, %s %s\n", text(src, "state"), text(src, "url"), text(src, "error"));
	if (hyd)
		printf("hydration  %s, %s/s%s\n", text(hyd, "state"), kedge_size_format(number(hyd, "rate_bps"), a, sizeof a),
		       json_is_true(json_object_get(hyd, "urgent")) ? ", urgent: the source has failed, no limit holds" : "");
	const json_t *gov = hyd ? json_object_get(hyd, "governor") : NULL;
	if (gov)
		print_governor(gov);
	const json_t *kernel = json_object_get(s, "kernel");
	if (kernel)
		printf("kernel     %" PRIu64 " of %" PRIu64 " regions, %" PRIu64 " under way, governor %s, foreground at %" PRIu64 " %%\n",
		       number(kernel, "hydrated"), number(kernel, "regions"), number(kernel, "hydrating"), text(kernel, "governor"),
		       number(kernel, "foreground_percent"));
	const json_t *attach = kernel ? json_object_get(kernel, "source") : NULL;
	if (attach && strcmp(text(attach, "attach"), "kernel") == 0)
		printf("initiator  the kernel's: %s %s %s\n", text(attach, "state"), text(attach, "disk"), text(attach, "error"));
	if (ver)
		printf("verify     %s, %s compared byte by byte, %s by 128-bit checksums made at the source, %s of all samples of holes; %s agreed as holes by status\n",
		       text(ver, "state"), kedge_size_format(number(ver, "verified_bytes") - number(ver, "checksum_bytes"), a, sizeof a),
		       kedge_size_format(number(ver, "checksum_bytes"), d, sizeof d),
		       kedge_size_format(number(ver, "sampled_bytes"), b, sizeof b), kedge_size_format(number(ver, "hole_bytes"), c, sizeof c));
	if (dev)
		printf("device     %s %s %s\n", text(dev, "block"), text(dev, "fuse"), text(dev, "nbd"));
	if (text(s, "failure")[0] && strcmp(text(s, "failure"), "-") != 0)
		printf("failure    %s\n", text(s, "failure"));
}

/* Nobody serves it: what the metadata says. */

static int scan_kernel(const char *meta, struct uclone_create_opts *ret_opts, struct uclone_status *ret_status, struct kedge_err *err)
{
	struct dm_record rec;
	uint64_t nr = 0;
	int r = dm_record_open(meta, false, &rec, err);

	if (r < 0)
		return r;
	*ret_status = (struct uclone_status){.state = rec.super.state, .size_bytes = rec.super.opts.source.size_bytes,
					     .generation = rec.super.generation};
	if (rec.super.state == UCLONE_LIVE)
		r = dm_record_count(&rec, &nr, err);
	ret_status->here_bytes = rec.super.state == UCLONE_HYDRATED
					 ? ret_status->size_bytes
					 : kedge_min_u64(nr * rec.super.dm_region_bytes, ret_status->size_bytes);
	ret_status->durable_bytes = ret_status->here_bytes;
	*ret_opts = rec.super.opts;
	dm_record_close(&rec);
	return r;
}

static int scan_user(const char *meta, struct uclone_create_opts *ret_opts, struct uclone_status *ret_status, struct kedge_err *err)
{
	struct kedge_loop *l;
	struct clone_files f;
	int r = kedge_loop_create(64, &l, err);

	if (r < 0)
		return r;
	r = clone_files_open(l, meta, CLONE_OPEN_READ, &f, err);
	if (r == 0) {
		r = meta_scan(&f, ret_opts, ret_status, NULL, NULL, err);
		clone_files_close(&f);
	}
	kedge_loop_destroy(l);
	return r;
}

static int status_offline(const char *meta, json_t **ret_status, struct kedge_err *err)
{
	struct uclone_create_opts o;
	struct uclone_status s;
	bool is_dm = clone_is_dm(meta);
	int r = (is_dm ? scan_kernel : scan_user)(meta, &o, &s, err);

	if (r < 0)
		return r;
	*ret_status = status_json(&o, &s);
	json_object_set_new(*ret_status, "source",
			    json_pack("{s:s,s:s,s:i,s:i,s:i,s:i,s:s}", "url", o.source_url, "state",
				      s.state == UCLONE_HYDRATED ? "closed" : "stopped", "since_ms", 0, "sessions", 0, "reconnects", 0,
				      "read_bytes", 0, "error", ""));
	json_object_set_new(*ret_status, "workers", json_integer(0));
	json_object_set_new(*ret_status, "engine", json_string(is_dm ? "dm" : "user"));
	return 0;
}

bool kclone_find_control(const char *meta, char *out, size_t out_max)
{
	char path[UCLONE_PATH_MAX + 8], *text;
	bool is_good;

	clone_run_path(meta, path);
	if (kedge_file_read(path, out_max - 1, &text, NULL, NULL) < 0)
		return false;
	text[strcspn(text, "\n")] = 0;
	snprintf(out, out_max, "%s", text);
	is_good = text[0] != 0;
	free(text);
	return is_good;
}

static int get_status(const struct kclone_args *a, json_t **ret_status, struct kedge_err *err)
{
	struct kedge_err away = {0};
	char path[UCLONE_PATH_MAX];

	if (a->control)
		return kedge_ctl_call(a->control, "status", NULL, TIMEOUT_MS, ret_status, err);
	if (kclone_find_control(a->meta, path, sizeof path) && kedge_ctl_call(path, "status", NULL, TIMEOUT_MS, ret_status, &away) == 0)
		return 0;
	return status_offline(a->meta, ret_status, err);
}

int cmd_status(const struct kclone_args *a)
{
	struct kedge_err err = {0};
	json_t *s;

	if (get_status(a, &s, &err) < 0)
		return kclone_fail(&err);
	if (a->is_json) {
		json_dumpf(s, stdout, JSON_COMPACT);
		printf("\n");
	} else {
		status_print(s);
	}
	json_decref(s);
	return KEDGE_EXIT_OK;
}

int cmd_control(const struct kclone_args *a, const char *cmd)
{
	json_t *args = json_object();
	struct kedge_err err = {0};
	char found[UCLONE_PATH_MAX];
	const char *control = a->control;
	int r;

	if (!control && kclone_find_control(a->meta, found, sizeof found))
		control = found;
	if (!control) {
		json_decref(args);
		kedge_error("%s: no process that serves it is known; give its --control SOCKET", a->meta);
		return KEDGE_EXIT_UNREACHABLE;
	}
	if (a->has_rate)
		json_object_set_new(args, "bps", json_integer((json_int_t)a->rate_bps));
	if (strcmp(cmd, "verify") == 0) {
		json_object_set_new(args, "holes", json_string(a->verify_holes ? a->verify_holes : "status"));
		json_object_set_new(args, "data", json_string(a->verify_data ? a->verify_data : "checksum"));
	}
	if (a->has_floor)
		json_object_set_new(args, "floor_bps", json_integer((json_int_t)a->floor_bps));
	if (a->has_latency)
		json_object_set_new(args, "latency_percent", json_integer(a->latency_percent));
	if (strcmp(cmd, "attach") == 0 && a->url)
		json_object_set_new(args, "url", json_string(a->url));
	if (strcmp(cmd, "attach") == 0 && a->chap_file)
		json_object_set_new(args, "chap_file", json_string(a->chap_file));
	if (a->timeout_ms)
		json_object_set_new(args, "timeout_ms", json_integer(a->timeout_ms));
	r = kedge_ctl_call(control, cmd, args, a->timeout_ms ? a->timeout_ms + 2000 : TIMEOUT_MS, NULL, &err);
	json_decref(args);
	return r < 0 ? kclone_fail(&err) : KEDGE_EXIT_OK;
}
