/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. kclone trace: begin, end and fetch a recording of what a workload touches; show one.
 *
 * Owns. The file it writes.
 *
 * Locks. None.
 *
 * Crash. The file is replaced whole or not at all.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "history.h"
#include "kclone.h"
#include "kedge/bytes.h"
#include "kedge/ctl.h"
#include "kedge/file.h"
#include "kedge/log.h"

#define TIMEOUT_MS 15000

static int ask(const char *control, const char *what, uint64_t from, json_t **ret_answer, struct kedge_err *err)
{
	json_t *args = json_pack("{s:s,s:I}", "do", what, "from", (json_int_t)from);
	int r = kedge_ctl_call(control, "trace", args, TIMEOUT_MS, ret_answer, err);

	json_decref(args);
	return r;
}

static int take_head(const json_t *answer, struct history *h, struct kedge_err *err)
{
	const char *volume = json_string_value(json_object_get(answer, "volume"));
	json_int_t size = json_integer_value(json_object_get(answer, "size_bytes"));

	if (!volume || kedge_uuid_parse(volume, &h->volume) < 0 || size <= 0)
		return kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "the recording that was answered cannot be read");
	h->size_bytes = (uint64_t)size;
	h->length_ms = (uint64_t)json_integer_value(json_object_get(answer, "length_ms"));
	h->is_full = json_is_true(json_object_get(answer, "full"));
	return 0;
}

/* How many came; the rest is asked for again. */
static int take_records(const json_t *answer, struct history *h, struct kedge_err *err)
{
	const json_t *list = json_object_get(answer, "records");
	size_t nr = json_array_size(list);

	if (nr > HISTORY_MAX - h->nr)
		return kedge_err_set(err, KEDGE_E_PROTO, KEDGE_SIDE_CONTROL, "the recording that was answered is too long");
	for (size_t i = 0; i < nr; i++) {
		const json_t *r = json_array_get(list, i);
		h->records[h->nr++] = (struct history_record){
			.grain = (uint32_t)json_integer_value(json_array_get(r, 0)),
			.at_ms = (uint32_t)json_integer_value(json_array_get(r, 1)),
			.read = (uint16_t)json_integer_value(json_array_get(r, 2)),
			.written = (uint16_t)json_integer_value(json_array_get(r, 3)),
		};
	}
	return (int)nr;
}

static int fetch(const char *control, struct history *h, struct kedge_err *err)
{
	json_int_t id = -1;
	int r = 1;

	while (r > 0) {
		json_t *answer = NULL;
		r = ask(control, "get", h->nr, &answer, err);
		if (r == 0 && id >= 0 && json_integer_value(json_object_get(answer, "id")) != id)
			r = kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL, "another recording was begun meanwhile");
		id = json_integer_value(json_object_get(answer, "id"));
		if (r == 0)
			r = take_head(answer, h, err);
		if (r == 0)
			r = take_records(answer, h, err);
		json_decref(answer);
	}
	return r;
}

/* What was put together is read as a reader will, before it takes the place of a good file. */
static int write_file(const char *path, const struct history *h, struct kedge_err *err)
{
	uint8_t *file = malloc(HISTORY_FILE_MAX);
	struct history check;
	int r;

	if (!file)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory");
	size_t nr_bytes = history_encode(h, file);
	r = history_decode(file, nr_bytes, &check, err);
	if (r == 0) {
		history_fini(&check);
		r = kedge_file_replace(path, file, nr_bytes, 0600, err);
	}
	free(file);
	return r;
}

static int save(const char *control, const char *path, struct kedge_err *err)
{
	struct history h = {.records = calloc(HISTORY_MAX, sizeof *h.records)};
	int r;

	if (!h.records)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory");
	r = fetch(control, &h, err);
	if (r == 0)
		r = write_file(path, &h, err);
	if (r == 0 && h.is_full)
		kedge_warn("the recording was full after %u grains: what came later is not in it", h.nr);
	history_fini(&h);
	return r;
}

/* Runs of blocks of one kind in a grain. */
static void show_runs(const struct history_record *r, const char *kind, uint16_t mask)
{
	uint64_t start_bytes = (uint64_t)r->grain * HISTORY_GRAIN_BYTES;

	for (unsigned b = 0, end; b < 16; b = end + 1) {
		for (end = b; end < 16 && (mask >> end & 1); end++)
			;
		if (end > b)
			printf("%" PRIu32 " %" PRIu64 " %" PRIu64 " %s\n", r->at_ms, start_bytes + (uint64_t)b * KEDGE_BLOCK_BYTES,
			       start_bytes + (uint64_t)end * KEDGE_BLOCK_BYTES, kind);
	}
}

static int show(const char *path, struct kedge_err *err)
{
	char *file, volume[KEDGE_UUID_TEXT_MAX];
	struct history h;
	size_t nr_bytes;
	int r = kedge_file_read(path, HISTORY_FILE_MAX, &file, &nr_bytes, err);

	if (r < 0)
		return r;
	r = history_decode((const uint8_t *)file, nr_bytes, &h, err);
	free(file);
	if (r < 0) {
		kedge_err_prefix(err, "%s", path);
		return r;
	}
	kedge_uuid_format(&h.volume, volume);
	printf("# volume %s, %" PRIu64 " bytes, %" PRIu32 " grains in %" PRIu64 " ms%s\n", volume, h.size_bytes, h.nr, h.length_ms,
	       h.is_full ? ", full" : "");
	for (uint32_t i = 0; i < h.nr; i++) {
		show_runs(&h.records[i], "read", h.records[i].read);
		show_runs(&h.records[i], "written", h.records[i].written);
	}
	history_fini(&h);
	return 0;
}

int cmd_trace(const struct kclone_args *a)
{
	char found[UCLONE_PATH_MAX];
	const char *control = a->control;
	struct kedge_err err = {0};
	int r = 0;

	if ((a->show != NULL) + a->is_start + (a->is_stop || a->output) != 1) {
		kedge_error("trace does one thing: --start, --output FILE (and --stop), or --show FILE");
		return KEDGE_EXIT_USAGE;
	}
	if (a->show)
		return show(a->show, &err) < 0 ? kclone_fail(&err) : KEDGE_EXIT_OK;
	if (!control && a->meta && kclone_find_control(a->meta, found, sizeof found))
		control = found;
	if (!control) {
		kedge_error("no process that serves the clone is known; give its --control SOCKET");
		return a->meta ? KEDGE_EXIT_UNREACHABLE : KEDGE_EXIT_USAGE;
	}
	if (a->is_start)
		r = ask(control, "start", 0, NULL, &err);
	if (r == 0 && a->output)
		r = save(control, a->output, &err);
	if (r == 0 && a->is_stop)
		r = ask(control, "stop", 0, NULL, &err);
	return r < 0 ? kclone_fail(&err) : KEDGE_EXIT_OK;
}
