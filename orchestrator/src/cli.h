/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef ORCH_CLI_H
#define ORCH_CLI_H

/* The kedge command: options of one invocation, calls to the daemon, and the verbs. Blocking, one thread. Data goes to
 * stdout, talk to stderr, every error ends with the next command to run. */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "kedge/err.h"

#define CLI_OPTS_MAX 12  /* options of one verb */
#define CLI_GIVEN_MAX 64 /* options on one command line */

struct cli;

struct cli_opt {
	const char *name; /* without the dashes */
	const char *arg;  /* how its value is called in help; NULL: a flag */
	const char *help;
};

struct cli_verb {
	const char *name; /* "drain", "host list" */
	const char *args; /* positional arguments, for help */
	const char *help; /* one line */
	unsigned nr_args_min, nr_args_max;
	bool has_argv; /* arguments past nr_args_max are the argv of a workload */
	struct cli_opt opts[CLI_OPTS_MAX];
	int (*run)(struct cli *c);
};

struct cli_http;

struct cli {
	const struct cli_verb *verb;
	struct {
		const struct cli_opt *opt;
		const char *value;
	} given[CLI_GIVEN_MAX];
	unsigned nr_given;
	char **args; /* positional */
	unsigned nr_args;
	char **argv; /* of a workload */
	unsigned nr_argv;
	const char *socket;
	struct cli_http *http;
};

/* All verbs; ends with a NULL name. */
extern const struct cli_verb cli_verbs[];

/* ---- options (cli_main.c) ---- */
/* The last value given ("" for a flag), or NULL. */
const char *cli_opt(const struct cli *c, const char *name);
/* The i-th value given, or NULL. */
const char *cli_opt_nth(const struct cli *c, const char *name, unsigned i);
/* "kedge: text" and "next: command" on stderr; next NULL: the help of the verb. Returns code. */
int cli_error(int exit_code, const char *next, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* An id or name as it may stand in a path; prints and returns KEDGE_EXIT_USAGE otherwise, 0 when good. */
int cli_check_id(const char *what, const char *text);

/* ---- the daemon (cli_http.c) ---- */
struct cli_http *cli_http_create(const char *socket);
void cli_http_destroy(struct cli_http *h);
/* body is taken over and may be NULL. 0 when an answer came, whatever its status; KEDGE_E_UNREACHABLE; -EINTR after Ctrl-C.
 * *ret_body: a new reference, never NULL on success. */
int cli_http_call(struct cli_http *h, const char *method, const char *path, json_t *body, unsigned timeout_ms,
		  unsigned *ret_status, json_t **ret_body, struct kedge_err *err);
/* From now on Ctrl-C interrupts calls instead of ending the process. */
void cli_interrupt_init(void);
bool cli_is_interrupted(void);
/* Sleeps at most ms, less after Ctrl-C. */
void cli_sleep(unsigned ms);

/* As cli_http_call with the usual deadline; an answer other than 2xx is printed as the error it is. 0 or an exit code. */
int cli_get(struct cli *c, const char *path, json_t **ret_body);
int cli_post(struct cli *c, const char *path, json_t *body, json_t **ret_body);
/* Print the error of an answer; returns its exit code. */
int cli_answer_error(unsigned status, const json_t *body);
/* Print why there was no answer; returns the exit code. */
int cli_no_answer(const struct cli *c, int res, const struct kedge_err *err);
/* Print one table or, with --json, the answer itself. Takes both over. */
struct view_table;
int cli_print_answer(struct cli *c, json_t *answer, struct view_table *t);
/* Say what was done on stderr; the object itself with --json. Takes it over. */
int cli_print_done(struct cli *c, json_t *answer, const char *text);
/* JSON and a newline on stdout. */
int cli_print_json(const json_t *body, bool is_pretty);

/* ---- watching a drain (cli_watch.c) ---- */
/* Until the drain has ended or Ctrl-C; prints to stdout as it goes. Returns an exit code. */
int cli_watch_drain(struct cli *c, const char *id);
/* The same without a word: the drain as it ended in *ret_drain, a new reference. */
int cli_wait_drain(struct cli *c, const char *id, json_t **ret_drain);
/* One line a volume and the receipts' ids. */
void cli_print_outcome(const json_t *drain);
/* The exit code for a drain or migration object's state. */
int cli_exit_of_state(const json_t *object);

/* ---- verbs ---- */
int cli_host_list(struct cli *c);
int cli_doctor(struct cli *c);
int cli_host_cordon(struct cli *c);
int cli_host_uncordon(struct cli *c);
int cli_volume_create(struct cli *c);
int cli_volume_import(struct cli *c);
int cli_volume_list(struct cli *c);
int cli_volume_show(struct cli *c);
int cli_workload_add(struct cli *c);
int cli_workload_list(struct cli *c);
int cli_workload_start(struct cli *c);
int cli_workload_stop(struct cli *c);
int cli_plan(struct cli *c);
int cli_drain(struct cli *c);
int cli_move(struct cli *c);
int cli_status(struct cli *c);
int cli_why(struct cli *c);
int cli_abort(struct cli *c);
int cli_events(struct cli *c);
int cli_receipt(struct cli *c);

#endif
