/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Access histories in a worker: recording what the workload touches (command trace), and the order in which a recorded one has
 * blocks copied (--prefetch).
 *
 * Owns. The recorder, the order.
 *
 * Locks. None: one thread.
 *
 * Crash. Nothing durable: a recording ends with its worker; the file is written by whoever asked for it, elsewhere, for it may lie on the very
 * volume that is served here. An order is only an order: whatever it says, each block is copied as it would have been.
 */
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "history.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"

#define RECORDS_MAX 1000 /* in an answer, which is to fit in a line of the control socket */

/* ---- recording ---- */

static void note_cb(void *arg, const struct uclone_io *io)
{
	struct worker *w = arg;
	uint64_t size_bytes = engine_size_bytes(w->e);

	if (io->op == UCLONE_FLUSH || io->nr_bytes == 0 || io->start_bytes > size_bytes || io->nr_bytes > size_bytes - io->start_bytes)
		return;
	recorder_note(w->recorder, io->start_bytes, io->nr_bytes, io->op != UCLONE_READ, kedge_clock_ns());
}

static int can_record(const struct worker *w, struct kedge_err *err)
{
	if (w->e->ops->steer)
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL,
				     "a kernel clone cannot be traced: its workload's I/O goes to the kernel, and does not come here");
	if (worker_is_alone(w))
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL,
				     "the device goes straight to the destination: its workload's I/O does not come here any more");
	return 0;
}

static void stop_recording(struct worker *w)
{
	w->e->note_fn = NULL;
	recorder_destroy(w->recorder);
	w->recorder = NULL;
}

/* Anew, when there is one. */
static int start_recording(struct worker *w, struct kedge_err *err)
{
	int r = can_record(w, err);

	if (r < 0)
		return r;
	stop_recording(w);
	w->record_begin_ns = kedge_clock_ns();
	w->recorder = recorder_create(&w->e->stored->source.volume, engine_size_bytes(w->e), w->record_begin_ns);
	if (!w->recorder)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for a recording");
	w->e->note_arg = w;
	w->e->note_fn = note_cb;
	return 0;
}

static json_t *records_json(const struct history *h, uint32_t from)
{
	json_t *list = json_array();

	for (uint32_t i = from; i < h->nr && i - from < RECORDS_MAX; i++) {
		const struct history_record *r = &h->records[i];
		json_array_append_new(list, json_pack("[I,I,i,i]", (json_int_t)r->grain, (json_int_t)r->at_ms, r->read, r->written));
	}
	return list;
}

static json_t *get_records(struct worker *w, const json_t *args)
{
	const struct history *h = recorder_history(w->recorder, kedge_clock_ns());
	json_int_t from = json_integer_value(json_object_get(args, "from"));
	uint32_t at = (uint32_t)kedge_min_u64(from > 0 ? (uint64_t)from : 0, h->nr);
	char volume[KEDGE_UUID_TEXT_MAX];

	kedge_uuid_format(&h->volume, volume);
	return json_pack("{s:I,s:s,s:I,s:I,s:b,s:I,s:o}", "id", (json_int_t)(w->record_begin_ns & INT64_MAX), "volume", volume, "size_bytes",
			 (json_int_t)h->size_bytes, "length_ms", (json_int_t)h->length_ms, "full", (int)h->is_full, "nr", (json_int_t)h->nr,
			 "records", records_json(h, at));
}

void worker_trace(struct worker *w, const json_t *args, struct control_call *call)
{
	const char *what = json_string_value(json_object_get(args, "do"));
	struct kedge_err err = {0};
	json_t *result = NULL;

	if (what && strcmp(what, "start") == 0)
		start_recording(w, &err);
	else if (!what || (strcmp(what, "get") != 0 && strcmp(what, "stop") != 0))
		kedge_err_set(&err, -EINVAL, KEDGE_SIDE_CONTROL, "trace needs do: start, get or stop");
	else if (!w->recorder)
		kedge_err_set(&err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL, "nothing is being recorded");
	else if (what[0] == 'g')
		result = get_records(w, args);
	else
		stop_recording(w);
	if (err.code)
		control_refuse(call, &err);
	else
		control_answer(call, result);
}

/* ---- the order ---- */

static int load_order(struct worker *w, const char *path, struct kedge_err *err)
{
	struct history h;
	struct kcopy_range *ranges = NULL;
	char *file;
	size_t nr_bytes;
	uint32_t nr = 0;
	int r = kedge_file_read(path, HISTORY_FILE_MAX, &file, &nr_bytes, err);

	if (r < 0)
		return r;
	r = history_decode((const uint8_t *)file, nr_bytes, &h, err);
	free(file);
	if (r < 0) {
		kedge_err_prefix(err, "%s", path);
		return r;
	}
	r = history_check(&h, &w->e->stored->source.volume, engine_size_bytes(w->e), err);
	if (r < 0)
		kedge_err_prefix(err, "%s", path);
	if (r == 0 && history_order(&h, &ranges, &nr, &w->first_bytes) < 0)
		r = kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory for an order");
	history_fini(&h);
	if (r < 0)
		return r;
	w->e->first = w->first = ranges;
	w->e->nr_first = nr;
	kedge_info("%s: %u ranges, %llu bytes are copied first", path, nr, (unsigned long long)w->first_bytes);
	return 0;
}

void worker_trace_begin(struct worker *w)
{
	struct kedge_err err = {0};

	/* a volume that is not served because of a wish would be a bad bargain */
	if (w->args->prefetch && load_order(w, w->args->prefetch, &err) < 0) {
		w->is_first_refused = true;
		kedge_warn("%s; copying without it", err.msg);
	}
	err = (struct kedge_err){0};
	if (w->args->is_trace && start_recording(w, &err) < 0)
		kedge_warn("not recording: %s", err.msg);
}

void worker_trace_end(struct worker *w)
{
	if (w->e)
		w->e->note_fn = NULL;
	recorder_destroy(w->recorder);
	w->recorder = NULL;
	free(w->first);
	w->first = NULL;
}

static const char *order_state(const struct worker *w, uint32_t nr_left)
{
	if (w->is_first_refused)
		return "refused";
	if (w->e->nr_first == 0)
		return "none";
	if (w->e->ops->steer && !w->is_hydrated)
		return "head-start"; /* its figures are there */
	if (w->is_hydrated || w->is_comparing || (w->hydrator && nr_left == 0))
		return "done";
	return w->hydrator && w->is_hydrating ? "running" : "waiting";
}

json_t *worker_order_status(struct worker *w)
{
	struct kcopy_status ks = {0};

	if (w->hydrator && !w->is_comparing)
		kcopy_hydrator_status(w->hydrator, &ks);
	return json_pack("{s:s,s:I,s:I,s:I}", "state", order_state(w, ks.nr_first_left), "ranges", (json_int_t)w->e->nr_first, "bytes",
			 (json_int_t)w->first_bytes, "left_ranges", (json_int_t)ks.nr_first_left);
}

json_t *worker_record_status(struct worker *w)
{
	const struct history *h = w->recorder ? recorder_history(w->recorder, kedge_clock_ns()) : NULL;

	return json_pack("{s:b,s:I,s:b}", "recording", h != NULL, "records", (json_int_t)(h ? h->nr : 0), "full", h ? (int)h->is_full : 0);
}
