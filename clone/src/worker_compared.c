/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What the comparison with the source really compared: in status, and beside the metadata, because a receipt may be written by an agent
 * that asks after everybody who saw the comparison has ended.
 *
 * Owns. META.compared.
 *
 * Locks. None: one thread.
 *
 * Crash. Written whole when a comparison has passed, before HYDRATED is recorded, and looked at only when it is; where it cannot be written, the
 * comparison has not passed. A crash in between leaves a file that a next comparison replaces before the state is reached.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/file.h"
#include "worker.h"

#define FILE_BYTES_MAX 4096

static void path_of(const struct worker *w, char out[UCLONE_PATH_MAX + 16])
{
	snprintf(out, UCLONE_PATH_MAX + 16, "%s.compared", w->args->meta);
}

json_t *worker_compared_json(const struct kcopy_status *s)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:s,s:I,s:I,s:s}", "verified_bytes", (json_int_t)s->verified_bytes, "mismatch_bytes",
			 (json_int_t)s->mismatch_bytes, "hole_bytes", (json_int_t)s->hole_bytes, "sampled_bytes", (json_int_t)s->sampled_bytes,
			 "holes", kcopy_holes_name(s->holes), "sample_seed", (json_int_t)s->sample_seed,
			 "checksum_bytes", (json_int_t)s->checksum_bytes, "data", kcopy_data_name(s->data));
}

int worker_compared_keep(const struct worker *w, struct kedge_err *err)
{
	char path[UCLONE_PATH_MAX + 16];
	json_t *o = worker_compared_json(&w->compared);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	int r;

	path_of(w, path);
	r = text ? kedge_file_replace(path, text, strlen(text), 0600, err) : kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory");
	if (r < 0)
		kedge_err_prefix(err, "what was compared cannot be kept");
	free(text);
	json_decref(o);
	return r;
}

static uint64_t number(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

void worker_compared_recall(struct worker *w)
{
	char path[UCLONE_PATH_MAX + 16], *text = NULL;
	json_t *o = NULL;

	path_of(w, path);
	if (kedge_file_read(path, FILE_BYTES_MAX, &text, NULL, NULL) == 0)
		o = json_loads(text, 0, NULL);
	const char *holes = json_string_value(json_object_get(o, "holes"));
	if (holes && kcopy_holes_parse(holes, &w->compared.holes)) {
		w->verify = VERIFY_PASSED;
		w->compared.verified_bytes = number(o, "verified_bytes");
		w->compared.mismatch_bytes = number(o, "mismatch_bytes");
		w->compared.hole_bytes = number(o, "hole_bytes");
		w->compared.sampled_bytes = number(o, "sampled_bytes");
		w->compared.sample_seed = number(o, "sample_seed");
		w->compared.checksum_bytes = number(o, "checksum_bytes");
		const char *data = json_string_value(json_object_get(o, "data")); /* not there: before there was a choice it was bytes */
		if (data)
			kcopy_data_parse(data, &w->compared.data);
	}
	json_decref(o);
	free(text);
}
