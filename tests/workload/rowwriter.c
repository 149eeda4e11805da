/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A workload with a memory: commits numbered, checksummed rows to a SQLite database without pause, and records every
 * commit that returned in a file outside the volume, so that a lost acknowledged write can be told from one that never was.
 *
 * Owns. DIR/rows.db while it runs; a lock on RECORD.lock that proves that no other writer runs.
 *
 * Locks. None: one thread; SIGTERM only sets a flag.
 *
 * Crash. A row is acknowledged in the record only after its COMMIT (synchronous=FULL) has returned: a kill between the two
 * leaves a row without an acknowledgement, never the other way round.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "kedge/file.h"
#include "kedge/log.h"
#include "rows.h"

struct writer {
	sqlite3 *db;
	sqlite3_stmt *insert, *head, *read;
	int record_fd;
	const char *host;
	int64_t epoch, next_n;
	uint64_t pause_ns; /* between rows; 0: none */
	uint64_t random;
	unsigned char payload[ROW_PAYLOAD_MAX];
};

static volatile sig_atomic_t is_stopping;

static void on_stop(int signum)
{
	is_stopping = 1;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static int record(struct writer *w, const char *line)
{
	int res = kedge_write_full(w->record_fd, line, strlen(line));

	if (res)
		kedge_error("the record cannot be written: %s", strerror(-res));
	return res;
}

static int record_run(struct writer *w, const char *what)
{
	char line[256];

	snprintf(line, sizeof line, "%s %s %" PRId64 " %d %" PRIu64 "\n", what, w->host, w->epoch, (int)getpid(), now_ns());
	return record(w, line);
}

static int db_failed(struct writer *w, const char *what)
{
	kedge_error("%s: %s", what, sqlite3_errmsg(w->db));
	return -EIO;
}

static int db_open(struct writer *w, const char *dir, const char *journal)
{
	static const char *const inserts[] = {"INSERT INTO rows(n, host, epoch, payload, crc) VALUES(?, ?, ?, ?, ?)",
					      "UPDATE head SET n = ?, epoch = ?",
					      "SELECT host, epoch, payload, crc FROM rows WHERE n = ?",
					      "SELECT coalesce(max(n), 0) FROM rows"};
	sqlite3_stmt *last = NULL, **prepared[] = {&w->insert, &w->head, &w->read, &last};
	char path[1024], sql[512];

	snprintf(path, sizeof path, "%s/rows.db", dir);
	if (sqlite3_open(path, &w->db) != SQLITE_OK)
		return db_failed(w, path);
	snprintf(sql, sizeof sql,
		 "PRAGMA journal_mode = %s; PRAGMA synchronous = FULL;"
		 "BEGIN IMMEDIATE;"
		 "CREATE TABLE IF NOT EXISTS rows(n INTEGER PRIMARY KEY, host TEXT, epoch INTEGER, payload BLOB, crc INTEGER);"
		 "CREATE TABLE IF NOT EXISTS head(one INTEGER PRIMARY KEY CHECK (one = 1), n INTEGER, epoch INTEGER);"
		 "INSERT OR IGNORE INTO head VALUES(1, 0, 0);"
		 "COMMIT;",
		 journal);
	if (sqlite3_exec(w->db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return db_failed(w, path);
	for (size_t i = 0; i < sizeof prepared / sizeof prepared[0]; i++)
		if (sqlite3_prepare_v2(w->db, inserts[i], -1, prepared[i], NULL) != SQLITE_OK)
			return db_failed(w, inserts[i]);
	if (sqlite3_step(last) != SQLITE_ROW)
		return db_failed(w, "the last row");
	w->next_n = sqlite3_column_int64(last, 0) + 1;
	sqlite3_finalize(last);
	return 0;
}

static void db_close(struct writer *w)
{
	sqlite3_finalize(w->insert);
	sqlite3_finalize(w->head);
	sqlite3_finalize(w->read);
	sqlite3_close(w->db);
}

/* An old row, somewhere: after a move this reads through to the source. */
static int read_back(struct writer *w)
{
	char line[256];
	int64_t n = 1 + (int64_t)(next_random(&w->random) % (uint64_t)w->next_n);

	if (n >= w->next_n)
		return 0;
	sqlite3_bind_int64(w->read, 1, n);
	int res = sqlite3_step(w->read) == SQLITE_ROW ? 0 : db_failed(w, "read");
	if (!res) {
		const char *host = (const char *)sqlite3_column_text(w->read, 0);
		uint32_t crc = row_crc(n, host ? host : "", sqlite3_column_int64(w->read, 1), sqlite3_column_blob(w->read, 2),
				       (size_t)sqlite3_column_bytes(w->read, 2));
		if (crc != (uint32_t)sqlite3_column_int64(w->read, 3)) {
			snprintf(line, sizeof line, "badread %" PRId64 " %s %" PRId64 " %" PRIu64 "\n", n, w->host, w->epoch, now_ns());
			record(w, line);
			res = -EIO;
		}
	}
	sqlite3_reset(w->read);
	return res;
}

static int commit_row(struct writer *w)
{
	char line[256];
	size_t payload_bytes = 100 + next_random(&w->random) % (ROW_PAYLOAD_MAX - 100);
	int64_t n = w->next_n;
	uint32_t crc;

	for (size_t i = 0; i < payload_bytes; i++)
		w->payload[i] = (unsigned char)(next_random(&w->random) >> 32);
	crc = row_crc(n, w->host, w->epoch, w->payload, payload_bytes);
	sqlite3_bind_int64(w->insert, 1, n);
	sqlite3_bind_text(w->insert, 2, w->host, -1, SQLITE_STATIC);
	sqlite3_bind_int64(w->insert, 3, w->epoch);
	sqlite3_bind_blob(w->insert, 4, w->payload, (int)payload_bytes, SQLITE_STATIC);
	sqlite3_bind_int64(w->insert, 5, crc);
	sqlite3_bind_int64(w->head, 1, n);
	sqlite3_bind_int64(w->head, 2, w->epoch);
	if (sqlite3_exec(w->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK || sqlite3_step(w->insert) != SQLITE_DONE ||
	    sqlite3_step(w->head) != SQLITE_DONE)
		return db_failed(w, "row");
	sqlite3_reset(w->insert);
	sqlite3_reset(w->head);
	if (sqlite3_exec(w->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
		return db_failed(w, "commit");
	snprintf(line, sizeof line, "ack %" PRId64 " %" PRIu32 " %s %" PRId64 " %" PRIu64 "\n", n, crc, w->host, w->epoch, now_ns());
	w->next_n++;
	return record(w, line);
}

/* Held until the process ends, whatever ends it. A second writer records that it was one and goes on: the proof must see it. */
static int take_lock(struct writer *w, const char *record_path)
{
	char path[1024];
	int fd;

	snprintf(path, sizeof path, "%s.lock", record_path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0) {
		kedge_error("%s: %s", path, strerror(errno));
		return -errno;
	}
	return flock(fd, LOCK_EX | LOCK_NB) ? record_run(w, "overlap") : 0;
}

static int run(struct writer *w, const char *dir, const char *record_path, const char *journal)
{
	int res;

	w->record_fd = open(record_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
	if (w->record_fd < 0) {
		kedge_error("%s: %s", record_path, strerror(errno));
		return -errno;
	}
	res = record_run(w, "started");
	if (!res)
		res = take_lock(w, record_path);
	if (!res)
		res = db_open(w, dir, journal);
	struct timespec pause = {.tv_sec = (time_t)(w->pause_ns / 1000000000u), .tv_nsec = (long)(w->pause_ns % 1000000000u)};
	while (!res && !is_stopping) {
		res = commit_row(w);
		if (!res)
			res = read_back(w);
		if (w->pause_ns)
			nanosleep(&pause, NULL);
	}
	/* Closing first: the checkpoint is a write of this run too. */
	db_close(w);
	if (record_run(w, "stopped") && !res)
		res = -EIO;
	return res;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"dir", required_argument, NULL, 'd'},
						{"record", required_argument, NULL, 'r'},
						{"journal", required_argument, NULL, 'j'},
						{"pause-ms", required_argument, NULL, 'p'},
						{NULL, 0, NULL, 0}};
	static struct writer w;
	const char *dir = ".", *record_path = NULL, *journal = "wal", *epoch = getenv("KEDGE_EPOCH");
	int opt;

	kedge_log_init("rowwriter", KEDGE_LOG_INFO);
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'd')
			dir = optarg;
		else if (opt == 'r')
			record_path = optarg;
		else if (opt == 'j' && (strcmp(optarg, "wal") == 0 || strcmp(optarg, "delete") == 0))
			journal = optarg;
		else if (opt == 'p')
			w.pause_ns = strtoull(optarg, NULL, 10) * 1000000u;
		else
			return 2;
	}
	if (!record_path || optind < argc) {
		kedge_error("usage: rowwriter --record FILE [--dir DIR] [--journal wal|delete] [--pause-ms N]");
		return 2;
	}
	w.host = getenv("KEDGE_HOST");
	w.host = w.host && strlen(w.host) < ROW_HOST_MAX ? w.host : "unknown";
	w.epoch = epoch ? strtoll(epoch, NULL, 10) : 0;
	w.random = now_ns() | 1;
	struct sigaction sa = {.sa_handler = on_stop};
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	return run(&w, dir, record_path, journal) ? 1 : 0;
}
