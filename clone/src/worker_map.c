/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. What lives where, exactly: the command map, and META.bad, the ranges that the source cannot read.
 *
 * Owns. META.bad.
 *
 * Locks. None: one thread.
 *
 * Crash. META.bad is replaced whole, and a next worker begins a new one: it tries those ranges again.
 */
#include "worker.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/file.h"
#include "kedge/log.h"

/* An answer has at most 64 KiB, and must not keep the data plane: so many runs, so much of the volume looked at. */
#define ANSWER_RUNS 500u
#define ANSWER_BYTES (1ull << 40)
#define BAD_FILE_NS 1000000000ull

void worker_map(struct worker *w, const json_t *args, struct control_call *call)
{
	json_int_t from = json_integer_value(json_object_get(args, "from_bytes"));
	uint64_t size = engine_size_bytes(w->e), at = from < 0 ? 0 : (uint64_t)from, n;
	uint64_t end = kedge_min_u64(size, at < size ? at + ANSWER_BYTES : size);
	json_t *runs = json_array();

	for (unsigned i = 0; i < ANSWER_RUNS && at < end; i++, at += n) {
		enum uclone_block_kind kind = w->e->ops->map(w->e, at, end - at, &n);
		json_array_append_new(runs, json_pack("[I,I,s]", (json_int_t)at, (json_int_t)n, uclone_block_kind_name(kind)));
	}
	control_answer(call, json_pack("{s:o,s:o}", "runs", runs, "next_bytes", at < size ? json_integer((json_int_t)at) : json_null()));
}

static void write_bad_file(struct worker *w, const char *path)
{
	uint64_t at = 0, start, n;
	struct kedge_err err = {0};
	char *text = NULL;
	size_t nr_bytes = 0;
	FILE *f = open_memstream(&text, &nr_bytes);

	unsigned nr = 0;

	if (!f)
		return;
	for (; w->e->ops->next_bad(w->e, at, &start, &n) == 0; at = start + n, nr++)
		fprintf(f, "%" PRIu64 " %" PRIu64 "\n", start, start + n);
	if (fclose(f) == 0 && nr_bytes == 0)
		unlink(path);
	else if (text && kedge_file_replace(path, text, nr_bytes, 0600, &err) < 0)
		kedge_warn("the list of bad ranges: %s", err.msg);
	else
		kedge_info("the source cannot read %u ranges: %s", nr, path);
	free(text);
}

void worker_note_bad(struct worker *w, const struct uclone_status *s)
{
	char path[UCLONE_PATH_MAX + 16];
	uint64_t now = kedge_clock_ns();

	if (!w->e->ops->next_bad || s->nr_bad_changes == w->nr_bad_noted || (w->bad_noted_ns && now - w->bad_noted_ns < BAD_FILE_NS))
		return;
	w->nr_bad_noted = s->nr_bad_changes;
	w->bad_noted_ns = now;
	snprintf(path, sizeof path, "%s.bad", w->args->meta);
	write_bad_file(w, path);
}
