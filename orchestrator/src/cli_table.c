/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Tables for people: columns as wide as they must be.
 *
 * Pure.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_view.h"
#include "kedge/err.h"

struct view_table {
	unsigned nr_columns;
	char **cells;
	size_t nr_cells;
	bool has_failed; /* out of memory: the text is NULL */
};

struct view_table *view_table_create(unsigned nr_columns)
{
	struct view_table *t = calloc(1, sizeof *t);

	kedge_assert(nr_columns > 0);
	if (t)
		t->nr_columns = nr_columns;
	return t;
}

void view_table_cell(struct view_table *t, const char *fmt, ...)
{
	va_list ap;
	char *text = NULL;

	if (!t)
		return;
	char **cells = realloc(t->cells, (t->nr_cells + 1) * sizeof *cells);
	if (!cells) {
		t->has_failed = true;
		return;
	}
	t->cells = cells;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	if (!text) {
		t->has_failed = true;
		return;
	}
	cells[t->nr_cells++] = view_clean(text);
}

char *view_table_text(const struct view_table *t)
{
	char *text = NULL;
	size_t text_bytes, *widths;
	FILE *out;

	if (!t || t->has_failed)
		return NULL;
	widths = calloc(t->nr_columns, sizeof *widths);
	out = widths ? open_memstream(&text, &text_bytes) : NULL;
	if (!out) {
		free(widths);
		return NULL;
	}
	for (size_t i = 0; i < t->nr_cells; i++) {
		size_t n = strlen(t->cells[i]);
		if (n > widths[i % t->nr_columns])
			widths[i % t->nr_columns] = n;
	}
	for (size_t i = 0; i < t->nr_cells; i++) {
		bool is_end = i % t->nr_columns == t->nr_columns - 1;
		/* Nothing trails the last column. */
		if (is_end)
			fprintf(out, "%s\n", t->cells[i]);
		else
			fprintf(out, "%-*s  ", (int)widths[i % t->nr_columns], t->cells[i]);
	}
	free(widths);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}

void view_table_destroy(struct view_table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->nr_cells; i++)
		free(t->cells[i]);
	free(t->cells);
	free(t);
}
