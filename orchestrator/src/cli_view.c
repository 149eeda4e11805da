/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Rows of text about drains and migrations for the kedge command.
 *
 * Pure.
 */
#include "cli_view.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kedge/size.h"

#define PROGRESS_LINE_MS 10000
#define PROGRESS_LINE_PERMILLE 50

char *view_clean(char *text)
{
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	return text;
}

const char *view_text(const json_t *object, const char *key, const char *otherwise)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : otherwise;
}

uint64_t view_u64(const json_t *object, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(object, key));

	return v > 0 ? (uint64_t)v : 0;
}

void view_memory_fini(struct view_memory *m)
{
	free(m->rows);
	*m = (struct view_memory){0};
}

static struct view_shown *shown_of(struct view_memory *m, const char *migration)
{
	for (size_t i = 0; i < m->nr_rows; i++)
		if (strcmp(m->rows[i].migration, migration) == 0)
			return &m->rows[i];
	struct view_shown *rows = realloc(m->rows, (m->nr_rows + 1) * sizeof *rows);
	if (!rows)
		return NULL;
	m->rows = rows;
	struct view_shown *row = &rows[m->nr_rows++];
	memset(row, 0, sizeof *row);
	snprintf(row->migration, sizeof row->migration, "%s", migration);
	return row;
}

unsigned view_permille(struct view_memory *m, const json_t *migration)
{
	struct view_shown *row = shown_of(m, view_text(migration, "id", ""));
	uint64_t size_bytes = view_u64(migration, "size_bytes"), durable_bytes = view_u64(migration, "durable_bytes");
	unsigned permille = 0;

	if (size_bytes && durable_bytes >= size_bytes)
		permille = 1000;
	else if (size_bytes) {
		permille = (unsigned)((double)durable_bytes / (double)size_bytes * 1000.0);
		if (permille > 999) /* rounding must not say "all" */
			permille = 999;
	}
	if (!row)
		return permille;
	if (permille > row->best_permille)
		row->best_permille = permille;
	return row->best_permille;
}

char *view_bar(unsigned permille, unsigned width, char *out, size_t out_max)
{
	if (out_max < 3)
		return out;
	if (width > out_max - 3)
		width = (unsigned)(out_max - 3);
	if (permille > 1000)
		permille = 1000;
	unsigned full = width * permille / 1000;
	out[0] = '[';
	memset(out + 1, '#', full);
	memset(out + 1 + full, '.', width - full);
	out[1 + width] = ']';
	out[2 + width] = 0;
	return out;
}

static bool is_moving(const json_t *migration)
{
	return strcmp(view_text(migration, "state", ""), "running") == 0 && !view_is_before_intent(migration) &&
	       view_u64(migration, "durable_bytes") < view_u64(migration, "size_bytes");
}

/* Every block is here and is compared with the source; how much of it, so far. */
static bool is_verifying(const json_t *migration, uint64_t *ret_bytes, uint64_t *ret_of_bytes)
{
	uint64_t size_bytes = view_u64(migration, "size_bytes"), written_bytes = view_u64(migration, "written_bytes");

	if (strcmp(view_text(migration, "state", ""), "running") != 0 || strcmp(view_text(migration, "step", ""), "HYDRATED") != 0)
		return false;
	*ret_of_bytes = size_bytes > written_bytes ? size_bytes - written_bytes : 0;
	*ret_bytes = view_u64(migration, "verified_bytes") + view_u64(migration, "hole_bytes");
	if (*ret_bytes > *ret_of_bytes)
		*ret_bytes = *ret_of_bytes;
	return *ret_of_bytes != 0;
}

char *view_eta(const json_t *migration, char *out, size_t out_max)
{
	const json_t *low = json_object_get(migration, "eta_ms"), *high = json_object_get(migration, "eta_max_ms");
	char low_text[32], high_text[32];

	out[0] = 0;
	if (!is_moving(migration))
		return out;
	if (!json_is_integer(low)) {
		snprintf(out, out_max, "no estimate yet");
		return out;
	}
	kedge_duration_format(view_u64(migration, "eta_ms"), low_text, sizeof low_text);
	kedge_duration_format(view_u64(migration, "eta_max_ms"), high_text, sizeof high_text);
	if (!json_is_integer(high) || strcmp(low_text, high_text) == 0)
		snprintf(out, out_max, "about %s left", low_text);
	else
		snprintf(out, out_max, "%s to %s left", low_text, high_text);
	return out;
}

bool view_is_before_intent(const json_t *migration)
{
	static const char *const before[] = {"PLANNED",    "DEST_RESERVED", "SRC_STOPPING", "SRC_STOPPED",
					     "SRC_FENCED", "EXPORTED", "ATTACHED", "CHECKED"};
	const char *step = view_text(migration, "step", "");

	for (size_t i = 0; i < sizeof before / sizeof before[0]; i++)
		if (strcmp(step, before[i]) == 0)
			return true;
	return false;
}

/* Appends to a line and never past its end. */
static void add(char *out, size_t out_max, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void add(char *out, size_t out_max, const char *fmt, ...)
{
	size_t n = strlen(out);
	va_list ap;

	if (n + 1 >= out_max)
		return;
	va_start(ap, fmt);
	vsnprintf(out + n, out_max - n, fmt, ap);
	va_end(ap);
}

static const char *colour_of(const json_t *migration)
{
	const char *state = view_text(migration, "state", "");

	if (strcmp(state, "done") == 0)
		return "\033[32m";
	if (strcmp(state, "failed") == 0 || strcmp(state, "held") == 0)
		return "\033[31m";
	if (json_is_object(json_object_get(migration, "last_error")) || strncmp(state, "abort", 5) == 0)
		return "\033[33m";
	return "";
}

static const char *phase_of(const json_t *migration)
{
	const char *state = view_text(migration, "state", "");
	const char *phase = view_text(migration, "phase_text", view_text(migration, "step", "?"));

	return strcmp(state, "running") == 0 || !state[0] ? phase : state;
}

static void add_error(const json_t *migration, char *out, size_t out_max)
{
	const json_t *error = json_object_get(migration, "last_error");

	if (json_is_object(error) && strcmp(view_text(migration, "state", ""), "done") != 0)
		add(out, out_max, "  (%s: %s, try %" PRIu64 ")", view_text(error, "code", "?"), view_text(error, "message", ""),
		    view_u64(migration, "attempts"));
}

void view_migration_line(struct view_memory *m, const json_t *migration, unsigned width, bool has_colour, char *out,
			 size_t out_max)
{
	char bar[64], durable[32], size[32], rate[32], eta[80], downtime[32];
	uint64_t compared_bytes, of_bytes;
	unsigned permille = view_permille(m, migration);
	const char *colour = has_colour ? colour_of(migration) : "";

	out[0] = 0;
	add(out, out_max, "  %-12s %-22s %s %3u%%  %s of %s", view_text(migration, "volume", "?"), phase_of(migration),
	    view_bar(permille, width >= 110 ? 20 : 10, bar, sizeof bar), permille / 10,
	    kedge_size_format(view_u64(migration, "durable_bytes"), durable, sizeof durable),
	    kedge_size_format(view_u64(migration, "size_bytes"), size, sizeof size));
	if (is_moving(migration))
		add(out, out_max, "  %s/s", kedge_size_format(view_u64(migration, "rate_bps"), rate, sizeof rate));
	if (view_eta(migration, eta, sizeof eta)[0])
		add(out, out_max, "  %s", eta);
	if (is_verifying(migration, &compared_bytes, &of_bytes))
		add(out, out_max, "  %u%% compared", (unsigned)((double)compared_bytes * 100 / (double)of_bytes));
	if (json_is_integer(json_object_get(migration, "downtime_ms")))
		add(out, out_max, "  downtime %s",
		    kedge_duration_format(view_u64(migration, "downtime_ms"), downtime, sizeof downtime));
	add_error(migration, out, out_max);
	view_clean(out);
	if (strcmp(view_text(migration, "engine", "user"), "user") != 0)
		add(out, out_max, "  engine %s", view_text(migration, "engine", "?"));
	if (width && strlen(out) > width)
		out[width] = 0;
	if (!colour[0] || strlen(out) + 12 > out_max)
		return;
	memmove(out + strlen(colour), out, strlen(out) + 1);
	memcpy(out, colour, strlen(colour));
	add(out, out_max, "\033[0m");
}

/* ---- more of them than lines ---- */

enum { RANK_NOW, RANK_WAITS, RANK_DONE, NR_RANKS };

static unsigned rank_of(const json_t *migration)
{
	const char *state = view_text(migration, "state", "");

	if (strcmp(state, "done") == 0)
		return RANK_DONE;
	return strcmp(state, "running") == 0 && strcmp(view_text(migration, "step", ""), "PLANNED") == 0 ? RANK_WAITS : RANK_NOW;
}

size_t view_pick(const json_t *migrations, size_t max, bool *ret_is_shown)
{
	size_t i, nr = json_array_size(migrations), nr_shown = 0, room = nr <= max ? nr : max ? max - 1 : 0;
	json_t *migration;

	memset(ret_is_shown, 0, nr * sizeof *ret_is_shown);
	for (unsigned rank = 0; rank < NR_RANKS; rank++) {
		json_array_foreach(migrations, i, migration) {
			if (nr_shown == room || rank_of(migration) != rank)
				continue;
			ret_is_shown[i] = true;
			nr_shown++;
		}
	}
	return nr_shown;
}

void view_rest_line(const json_t *migrations, const bool *is_shown, char *out, size_t out_max)
{
	static const char *const words[NR_RANKS] = {"under way or in trouble", "waiting", "done"};
	size_t i, nr[NR_RANKS] = {0}, sum = 0;
	const char *between = ": ";
	json_t *migration;

	json_array_foreach(migrations, i, migration) {
		if (is_shown[i])
			continue;
		nr[rank_of(migration)]++;
		sum++;
	}
	out[0] = 0;
	add(out, out_max, "  and %zu more", sum);
	for (unsigned rank = 0; rank < NR_RANKS; rank++) {
		if (!nr[rank])
			continue;
		add(out, out_max, "%s%zu %s", between, nr[rank], words[rank]);
		between = ", ";
	}
}

/* What the drain itself says of how it copies. */
static void add_pace(const json_t *drain, char *out, size_t out_max)
{
	char floor[32];

	if (json_is_integer(json_object_get(drain, "floor_bps")))
		add(out, out_max, ", floor %s/s", kedge_size_format(view_u64(drain, "floor_bps"), floor, sizeof floor));
	if (json_is_integer(json_object_get(drain, "latency_percent")))
		add(out, out_max, ", latency factor %.2f", (double)view_u64(drain, "latency_percent") / 100);
	if (view_text(drain, "transit", "")[0])
		add(out, out_max, ", transit %s", view_text(drain, "transit", ""));
}

void view_drain_line(const json_t *drain, unsigned width, char *out, size_t out_max)
{
	const json_t *migrations = json_object_get(drain, "migrations");
	uint64_t size_bytes = 0, durable_bytes = 0, exposed_bytes = 0;
	size_t i, nr_done = 0, nr_running = 0;
	json_t *migration;
	char durable[32], size[32], exposed[32];

	json_array_foreach(migrations, i, migration) {
		const char *state = view_text(migration, "state", "");
		nr_done += strcmp(state, "done") == 0;
		nr_running += strcmp(state, "running") == 0 && strcmp(view_text(migration, "step", ""), "PLANNED") != 0;
		size_bytes += view_u64(migration, "size_bytes");
		durable_bytes += view_u64(migration, "durable_bytes");
		exposed_bytes += view_u64(migration, "exposed_bytes");
	}
	out[0] = 0;
	if (view_text(drain, "workload", "")[0])
		add(out, out_max, "move of %s: %s", view_text(drain, "workload", "?"), view_text(drain, "state", "?"));
	else
		add(out, out_max, "drain of %s: %s, %zu of %zu volumes done, %zu under way", view_text(drain, "host", "?"),
		    view_text(drain, "state", "?"), nr_done, json_array_size(migrations), nr_running);
	add(out, out_max, ", %s of %s moved, %s exposed", kedge_size_format(durable_bytes, durable, sizeof durable),
	    kedge_size_format(size_bytes, size, sizeof size), kedge_size_format(exposed_bytes, exposed, sizeof exposed));
	add_pace(drain, out, out_max);
	view_clean(out);
	if (width && strlen(out) > width)
		out[width] = 0;
}

void view_outcome_line(const json_t *migration, char *out, size_t out_max)
{
	const char *state = view_text(migration, "state", "?");
	const json_t *error = json_object_get(migration, "last_error");
	const char *workload = view_text(migration, "workload", "");
	char downtime[32], size[32];

	out[0] = 0;
	add(out, out_max, "%s%s%s%s: ", view_text(migration, "volume", "?"), workload[0] ? " (" : "", workload,
	    workload[0] ? ")" : "");
	if (strcmp(state, "done") == 0) {
		add(out, out_max, "moved from %s to %s, %s", view_text(migration, "from", "?"), view_text(migration, "to", "?"),
		    kedge_size_format(view_u64(migration, "size_bytes"), size, sizeof size));
		if (json_is_integer(json_object_get(migration, "downtime_ms")))
			add(out, out_max, ", downtime %s",
			    kedge_duration_format(view_u64(migration, "downtime_ms"), downtime, sizeof downtime));
		add(out, out_max, ", receipt %s", view_text(migration, "id", "?"));
	} else if (strcmp(state, "aborted") == 0) {
		add(out, out_max, "aborted, stays on %s", view_text(migration, "from", "?"));
	} else {
		add(out, out_max, "%s at %s", state, view_text(migration, "step", "?"));
	}
	if (strcmp(state, "done") != 0 && json_is_object(error))
		add(out, out_max, " (%s: %s)", view_text(error, "code", "?"), view_text(error, "message", ""));
	view_clean(out);
}

/* Is it time for a line about a share that stands at permille now? Remembers that there was one. */
static bool is_line_due(struct view_shown *row, bool is_verify, unsigned permille, uint64_t now_ms)
{
	if (!row)
		return false;
	if (!row->line_ms || row->is_line_verify != is_verify) { /* begin to count; the step itself was an event */
		row->is_line_verify = is_verify;
		row->line_ms = now_ms;
		row->line_permille = permille;
		return false;
	}
	if (permille < row->line_permille + PROGRESS_LINE_PERMILLE && now_ms < row->line_ms + PROGRESS_LINE_MS)
		return false;
	row->line_ms = now_ms;
	row->line_permille = permille;
	return true;
}

bool view_progress_due(struct view_memory *m, const json_t *migration, uint64_t now_ms, char *out, size_t out_max)
{
	char durable[32], size[32], rate[32], eta[80];
	uint64_t compared_bytes, of_bytes;
	unsigned permille;

	if (is_verifying(migration, &compared_bytes, &of_bytes)) {
		permille = (unsigned)((double)compared_bytes * 1000 / (double)of_bytes);
		if (!is_line_due(shown_of(m, view_text(migration, "id", "")), true, permille, now_ms))
			return false;
		snprintf(out, out_max, "%s: %u%% compared with the source, %s of %s", view_text(migration, "volume", "?"), permille / 10,
			 kedge_size_format(compared_bytes, durable, sizeof durable), kedge_size_format(of_bytes, size, sizeof size));
		view_clean(out);
		return true;
	}
	if (!is_moving(migration))
		return false;
	permille = view_permille(m, migration);
	if (!is_line_due(shown_of(m, view_text(migration, "id", "")), false, permille, now_ms))
		return false;
	out[0] = 0;
	add(out, out_max, "%s: %u%%, %s of %s, %s/s, %s", view_text(migration, "volume", "?"), permille / 10,
	    kedge_size_format(view_u64(migration, "durable_bytes"), durable, sizeof durable),
	    kedge_size_format(view_u64(migration, "size_bytes"), size, sizeof size),
	    kedge_size_format(view_u64(migration, "rate_bps"), rate, sizeof rate), view_eta(migration, eta, sizeof eta));
	view_clean(out);
	return true;
}

void view_event_line(const json_t *event, char *out, size_t out_max)
{
	time_t s = (time_t)(view_u64(event, "time_ms") / 1000);
	const char *volume = view_text(event, "volume", "");
	struct tm tm;

	gmtime_r(&s, &tm);
	out[0] = 0;
	add(out, out_max, "%02d:%02d:%02d  %s%s%s", tm.tm_hour, tm.tm_min, tm.tm_sec, volume, volume[0] ? ": " : "",
	    view_text(event, "text", view_text(event, "kind", "?")));
	view_clean(out);
}
