/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_CLI_VIEW_H
#define ORCH_CLI_VIEW_H

/* Pure. What the kedge command shows: a drain as rows of text. No I/O, no clock: time, width and colour come in. */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VIEW_LINE_MAX 1024

/* Fields of JSON objects for printing: otherwise when the field is missing or no string; 0 when it is no positive integer. */
const char *view_text(const json_t *object, const char *key, const char *otherwise);
uint64_t view_u64(const json_t *object, const char *key);

/* What was shown before, per migration, so that a bar never runs backwards whatever the daemon reports. Zero-initialise;
 * view_memory_fini frees. */
struct view_memory {
	struct view_shown {
		char migration[40];
		unsigned best_permille;
		unsigned line_permille; /* the last one printed as a line */
		bool is_line_verify;    /* it was about the comparison, which counts anew */
		uint64_t line_ms;
	} *rows;
	size_t nr_rows;
};
void view_memory_fini(struct view_memory *m);

/* 0 to 1000, 1000 only when every byte is durable; never less than the last answer for that migration. */
unsigned view_permille(struct view_memory *m, const json_t *migration);

/* A bar of width cells between brackets, NUL-terminated; out_max >= width + 3. */
char *view_bar(unsigned permille, unsigned width, char *out, size_t out_max);

/* "9 s to 14 s", "no estimate yet", or "" for one that does not move bytes. */
char *view_eta(const json_t *migration, char *out, size_t out_max);

/* One line about a migration under way, for the live view, at most width characters. */
void view_migration_line(struct view_memory *m, const json_t *migration, unsigned width, bool has_colour, char *out,
			 size_t out_max);
/* Which of them are shown when at most max lines are free: those under way or in trouble before those that wait, and these before
 * those that are done. ret_is_shown: one a migration. Returns how many are shown; less than all: one line is left for
 * view_rest_line(). */
size_t view_pick(const json_t *migrations, size_t max, bool *ret_is_shown);
/* "  and 92 more: 40 done, 52 waiting" about those that are not shown. */
void view_rest_line(const json_t *migrations, const bool *is_shown, char *out, size_t out_max);
/* The line above all of them. */
void view_drain_line(const json_t *drain, unsigned width, char *out, size_t out_max);
/* A migration at its end: "db: moved from a to b, downtime 812 ms, …, receipt ID". */
void view_outcome_line(const json_t *migration, char *out, size_t out_max);
/* Should a progress line be printed off a terminal: every 5 percent or 10 s while bytes move or are compared. Fills out when so. */
bool view_progress_due(struct view_memory *m, const json_t *migration, uint64_t now_ms, char *out, size_t out_max);
/* "12:00:01  db  text", UTC. */
void view_event_line(const json_t *event, char *out, size_t out_max);

/* Is the step before the durable intent to boot: an abort loses nothing. */
bool view_is_before_intent(const json_t *migration);

/* A table: columns as wide as their widest cell, two blanks between. Cells are copied. */
struct view_table;
struct view_table *view_table_create(unsigned nr_columns);
void view_table_cell(struct view_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Heap text; the caller frees. */
char *view_table_text(const struct view_table *t);
void view_table_destroy(struct view_table *t);

/* Control characters become '?', in place: text of other machines never steers the terminal. */
char *view_clean(char *text);

#endif
