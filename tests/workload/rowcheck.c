/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The judge of rowwriter: compares the record of acknowledged commits with the database, and the runs in the record
 * with each other. Prints "key value" lines; every violation is a line "FAILED ..." and exit code 1.
 *
 * Owns. Nothing that lasts; the database is opened for reading only.
 *
 * Locks. None: one thread.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

#include "rows.h"

#define RUNS_MAX 256

struct run {
	char host[ROW_HOST_MAX];
	int64_t epoch;
	int pid;
	uint64_t start_ns, end_ns; /* end: "stopped", or the last acknowledgement of one that was killed */
	uint64_t nr_acks;
	bool is_stopped;
};

struct check {
	sqlite3 *db;
	sqlite3_stmt *find;
	struct run runs[RUNS_MAX];
	unsigned nr_runs;
	uint64_t nr_acks, nr_present, nr_violations;
	int64_t last_n;
	uint64_t longest_gap_ns, last_ack_ns;
};

static void violation(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void violation(struct check *c, const char *fmt, ...)
{
	va_list ap;

	/* The count is the fact; a flood of lines helps nobody. */
	if (++c->nr_violations > 20)
		return;
	fputs("FAILED ", stdout);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

static struct run *current_run(struct check *c, const char *host, int64_t epoch)
{
	for (unsigned i = c->nr_runs; i > 0; i--) {
		struct run *r = &c->runs[i - 1];
		if (strcmp(r->host, host) == 0 && r->epoch == epoch)
			return r;
	}
	return NULL;
}

static void check_ack(struct check *c, int64_t n, uint32_t crc, const char *host, int64_t epoch, uint64_t ns)
{
	struct run *r = current_run(c, host, epoch);

	c->nr_acks++;
	if (n <= c->last_n)
		violation(c, "row %" PRId64 " was acknowledged after row %" PRId64 ": a number was used twice", n, c->last_n);
	c->last_n = n;
	if (c->last_ack_ns && ns - c->last_ack_ns > c->longest_gap_ns)
		c->longest_gap_ns = ns - c->last_ack_ns;
	c->last_ack_ns = ns;
	if (!r) {
		violation(c, "row %" PRId64 " was acknowledged by a run that never started (%s, epoch %" PRId64 ")", n, host, epoch);
	} else {
		r->nr_acks++;
		if (!r->is_stopped)
			r->end_ns = ns;
		else
			violation(c, "row %" PRId64 " was acknowledged on %s after that run had stopped", n, host);
	}
	sqlite3_reset(c->find);
	sqlite3_bind_int64(c->find, 1, n);
	if (sqlite3_step(c->find) != SQLITE_ROW) {
		violation(c, "row %" PRId64 " was acknowledged on %s and is not in the database", n, host);
		return;
	}
	if ((uint32_t)sqlite3_column_int64(c->find, 0) != crc || sqlite3_column_int64(c->find, 1) != epoch) {
		violation(c, "row %" PRId64 " is not the one that was acknowledged on %s", n, host);
		return;
	}
	c->nr_present++;
}

static void check_line(struct check *c, const char *line)
{
	char host[ROW_HOST_MAX];
	int64_t n, epoch;
	uint32_t crc;
	uint64_t ns;
	int pid;

	if (sscanf(line, "ack %" SCNd64 " %" SCNu32 " %63s %" SCNd64 " %" SCNu64, &n, &crc, host, &epoch, &ns) == 5) {
		check_ack(c, n, crc, host, epoch, ns);
	} else if (sscanf(line, "started %63s %" SCNd64 " %d %" SCNu64, host, &epoch, &pid, &ns) == 4) {
		if (c->nr_runs == RUNS_MAX) {
			violation(c, "more than %d runs", RUNS_MAX);
			return;
		}
		struct run *r = &c->runs[c->nr_runs++];
		*r = (struct run){.epoch = epoch, .pid = pid, .start_ns = ns, .end_ns = ns};
		strcpy(r->host, host);
	} else if (sscanf(line, "stopped %63s %" SCNd64 " %d %" SCNu64, host, &epoch, &pid, &ns) == 4) {
		for (unsigned i = 0; i < c->nr_runs; i++)
			if (c->runs[i].pid == pid && strcmp(c->runs[i].host, host) == 0 && c->runs[i].epoch == epoch) {
				c->runs[i].is_stopped = true;
				c->runs[i].end_ns = ns;
			}
	} else if (strncmp(line, "overlap ", 8) == 0) {
		violation(c, "two writers at once: %s", line);
	} else if (strncmp(line, "badread ", 8) == 0) {
		violation(c, "wrong data was read: %s", line);
	} else {
		violation(c, "the record has a line of no known kind: %s", line);
	}
}

static void check_record(struct check *c, FILE *record)
{
	char line[512];

	while (fgets(line, sizeof line, record)) {
		line[strcspn(line, "\n")] = 0;
		check_line(c, line);
	}
}

static void check_runs(struct check *c, const char *expect_last)
{
	uint64_t nr_overlaps = 0;

	for (unsigned i = 0; i < c->nr_runs; i++) {
		const struct run *r = &c->runs[i];
		printf("run %s epoch %" PRId64 " pid %d rows %" PRIu64 " seconds %.3f%s\n", r->host, r->epoch, r->pid, r->nr_acks,
		       (double)(r->end_ns - r->start_ns) / 1e9, r->is_stopped ? "" : " killed");
		for (unsigned k = 0; k < i; k++) {
			const struct run *before = &c->runs[k];
			if (before->end_ns > r->start_ns) {
				nr_overlaps++;
				violation(c, "the run on %s (epoch %" PRId64 ") was not over when the one on %s began", before->host,
					  before->epoch, r->host);
			}
			if (before->epoch > r->epoch || (before->epoch == r->epoch && strcmp(before->host, r->host) != 0))
				violation(c, "the run on %s has epoch %" PRId64 ", an earlier one on %s had %" PRId64, r->host, r->epoch,
					  before->host, before->epoch);
		}
	}
	printf("runs %u\noverlaps %" PRIu64 "\n", c->nr_runs, nr_overlaps);
	if (expect_last && (c->nr_runs == 0 || strcmp(c->runs[c->nr_runs - 1].host, expect_last) != 0 ||
			    c->runs[c->nr_runs - 1].nr_acks == 0))
		violation(c, "the last run was not one on %s that committed rows", expect_last);
}

/* Every row of the database, acknowledged or not: checksum, number, epoch. */
static void check_rows(struct check *c)
{
	sqlite3_stmt *all = NULL;
	int64_t want_n = 1, last_epoch = -1;
	uint64_t nr_rows = 0;

	if (sqlite3_prepare_v2(c->db, "SELECT n, host, epoch, payload, crc FROM rows ORDER BY n", -1, &all, NULL) != SQLITE_OK) {
		violation(c, "the table cannot be read: %s", sqlite3_errmsg(c->db));
		return;
	}
	int res = sqlite3_step(all);
	for (; res == SQLITE_ROW; res = sqlite3_step(all)) {
		int64_t n = sqlite3_column_int64(all, 0), epoch = sqlite3_column_int64(all, 2);
		const char *host = (const char *)sqlite3_column_text(all, 1);
		uint32_t crc = row_crc(n, host ? host : "", epoch, sqlite3_column_blob(all, 3), (size_t)sqlite3_column_bytes(all, 3));
		if (n != want_n)
			violation(c, "rows %" PRId64 " to %" PRId64 " are missing", want_n, n - 1);
		if (crc != (uint32_t)sqlite3_column_int64(all, 4))
			violation(c, "row %" PRId64 " has a wrong checksum", n);
		if (epoch < last_epoch)
			violation(c, "row %" PRId64 " was written in epoch %" PRId64 ", the one before it in %" PRId64, n, epoch,
				  last_epoch);
		want_n = n + 1;
		last_epoch = epoch;
		nr_rows++;
	}
	if (res != SQLITE_DONE)
		violation(c, "the table cannot be read to its end: %s", sqlite3_errmsg(c->db));
	sqlite3_finalize(all);
	printf("rows %" PRIu64 "\n", nr_rows);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"db", required_argument, NULL, 'd'},
						{"record", required_argument, NULL, 'r'},
						{"expect-last-host", required_argument, NULL, 'l'},
						{NULL, 0, NULL, 0}};
	static struct check c;
	const char *db = NULL, *record_path = NULL, *expect_last = NULL;
	FILE *record;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'd')
			db = optarg;
		else if (opt == 'r')
			record_path = optarg;
		else if (opt == 'l')
			expect_last = optarg;
		else
			return 2;
	}
	if (!db || !record_path || optind < argc) {
		fputs("usage: rowcheck --db FILE --record FILE [--expect-last-host HOST]\n", stderr);
		return 2;
	}
	record = fopen(record_path, "r");
	if (!record) {
		fprintf(stderr, "rowcheck: %s: %s\n", record_path, strerror(errno));
		return 2;
	}
	if (sqlite3_open_v2(db, &c.db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2(c.db, "SELECT crc, epoch FROM rows WHERE n = ?", -1, &c.find, NULL) != SQLITE_OK)
		violation(&c, "%s: %s", db, sqlite3_errmsg(c.db));
	else {
		check_record(&c, record);
		sqlite3_reset(c.find);
		check_rows(&c);
	}
	fclose(record);
	check_runs(&c, expect_last);
	if (c.nr_acks == 0)
		violation(&c, "nothing was acknowledged: this proves nothing");
	printf("acknowledged %" PRIu64 "\npresent %" PRIu64 "\nlongest_gap_ms %" PRIu64 "\nviolations %" PRIu64 "\n", c.nr_acks,
	       c.nr_present, c.longest_gap_ns / 1000000, c.nr_violations);
	sqlite3_finalize(c.find);
	sqlite3_close(c.db);
	return c.nr_violations ? 1 : 0;
}
