/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. kclone map: every run of bytes and where it lives, from the process that serves the clone or from its metadata.
 *
 * Owns. The run that is being put together.
 *
 * Locks. See kclone.h, "the files of a clone".
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kclone.h"
#include "kedge/bytes.h"
#include "kedge/ctl.h"

#define TIMEOUT_MS 15000

struct map_out {
	bool is_json;
	uint64_t start_bytes, end_bytes;
	char kind[16];
};

static void put_last(struct map_out *o)
{
	if (o->end_bytes == o->start_bytes)
		return;
	if (o->is_json)
		printf("{\"start_bytes\":%" PRIu64 ",\"end_bytes\":%" PRIu64 ",\"kind\":\"%s\"}\n", o->start_bytes, o->end_bytes, o->kind);
	else
		printf("%" PRIu64 " %" PRIu64 " %s\n", o->start_bytes, o->end_bytes, o->kind);
}

/* Answers end anywhere: what follows and is of the same kind is one run. */
static void put_run(struct map_out *o, uint64_t start_bytes, uint64_t nr_bytes, const char *kind)
{
	if (start_bytes == o->end_bytes && strcmp(kind, o->kind) == 0) {
		o->end_bytes += nr_bytes;
		return;
	}
	put_last(o);
	o->start_bytes = start_bytes;
	o->end_bytes = start_bytes + nr_bytes;
	snprintf(o->kind, sizeof o->kind, "%s", kind);
}

static int take_answer(struct map_out *o, const json_t *answer, uint64_t *ret_next_bytes, struct kedge_err *err)
{
	const json_t *runs = json_object_get(answer, "runs"), *next = json_object_get(answer, "next_bytes");

	for (size_t i = 0; i < json_array_size(runs); i++) {
		const json_t *r = json_array_get(runs, i);
		const char *kind = json_string_value(json_array_get(r, 2));
		json_int_t start = json_integer_value(json_array_get(r, 0)), nr = json_integer_value(json_array_get(r, 1));
		if (!kind || start < 0 || nr <= 0)
			return kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "the map that was answered cannot be read");
		put_run(o, (uint64_t)start, (uint64_t)nr, kind);
	}
	if (json_is_integer(next) && (uint64_t)json_integer_value(next) <= *ret_next_bytes)
		return kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "the map that was answered does not go on");
	*ret_next_bytes = json_is_integer(next) ? (uint64_t)json_integer_value(next) : UINT64_MAX;
	return 0;
}

static int map_served(const char *control, struct map_out *o, struct kedge_err *err)
{
	uint64_t at = 0;
	int r = 0;

	while (r == 0 && at != UINT64_MAX) {
		json_t *args = json_pack("{s:I}", "from_bytes", (json_int_t)at), *answer = NULL;
		r = kedge_ctl_call(control, "map", args, TIMEOUT_MS, &answer, err);
		if (r == 0)
			r = take_answer(o, answer, &at, err);
		json_decref(args);
		json_decref(answer);
	}
	return r;
}

static void run_cb(void *arg, uint64_t start_bytes, uint64_t nr_bytes, enum uclone_block_kind kind)
{
	put_run(arg, start_bytes, nr_bytes, uclone_block_kind_name(kind));
}

static int map_offline(const char *meta, struct map_out *o, struct kedge_err *err)
{
	struct uclone_create_opts opts;
	struct uclone_status s;
	struct kedge_loop *l;
	struct clone_files f;
	int r;

	if (clone_is_dm(meta))
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_METADATA, "a kernel clone shows its map only while it is served");
	r = kedge_loop_create(64, &l, err);
	if (r < 0)
		return r;
	r = clone_files_open(l, meta, CLONE_OPEN_READ, &f, err);
	if (r == 0) {
		r = meta_scan(&f, &opts, &s, run_cb, o, err);
		clone_files_close(&f);
	}
	kedge_loop_destroy(l);
	return r;
}

int cmd_map(const struct kclone_args *a)
{
	struct map_out o = {.is_json = a->is_json};
	char found[UCLONE_PATH_MAX];
	struct kedge_err err = {0};
	int r;

	if (a->control)
		r = map_served(a->control, &o, &err);
	else if (kclone_find_control(a->meta, found, sizeof found) && kedge_ctl_call(found, "status", NULL, TIMEOUT_MS, NULL, NULL) == 0)
		r = map_served(found, &o, &err);
	else
		r = map_offline(a->meta, &o, &err);
	if (r < 0)
		return kclone_fail(&err);
	put_last(&o);
	return KEDGE_EXIT_OK;
}
