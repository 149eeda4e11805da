/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The kedge command: the one table of verbs and their options, from which parsing and help come, and dispatch.
 *
 * Owns. The command line of this invocation.
 *
 * Locks. None: one thread.
 */
#include <ctype.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "kedge/bytes.h"

#define SOCKET_DEFAULT "/run/kedge/api.sock"

#define OPT_JSON {"json", NULL, "print JSON"}

/* In the order in which help shows them. */
const struct cli_verb cli_verbs[] = {
	{"host list", "", "list the hosts", 0, 0, false, {OPT_JSON}, cli_host_list},
	{"host cordon", "HOST", "place nothing new on a host", 1, 1, false,
	 {{"reason", "TEXT", "why, shown to others"}, {"expires", "DURATION", "until then (default: until uncordon)"}, OPT_JSON},
	 cli_host_cordon},
	{"host uncordon", "HOST", "allow placement again", 1, 1, false, {OPT_JSON}, cli_host_uncordon},
	{"doctor", "", "which clone engine each host has, and why", 0, 0, false, {OPT_JSON}, cli_doctor},
	{"volume create", "NAME", "make a volume of zeroes on a host", 1, 1, false,
	 {{"host", "HOST", "where"}, {"size", "SIZE", "bytes, or 2G; a multiple of 4 KiB"}, OPT_JSON}, cli_volume_create},
	{"volume import", "NAME", "take a file or block device into use, in place", 1, 1, false,
	 {{"host", "HOST", "where it is"}, {"path", "PATH", "absolute path on that host"}, OPT_JSON}, cli_volume_import},
	{"volume list", "", "list the volumes of all hosts", 0, 0, false, {OPT_JSON}, cli_volume_list},
	{"volume show", "NAME", "show one volume", 1, 1, false, {OPT_JSON}, cli_volume_show},
	{"workload add", "NAME [-- CMD ARG...]", "describe a workload that uses a volume", 1, 1, true,
	 {{"volume", "VOLUME", "its volume; the workload runs where that is"},
	  {"start", "ARGV", "JSON array; or give the command after --"},
	  {"stop", "ARGV", "JSON array; without it: SIGTERM"},
	  {"health", "ARGV", "JSON array; exit code 0 means healthy"},
	  {"grace", "DURATION", "from stop to SIGKILL (default 30s)"},
	  {"env", "K=V", "add to its environment; may be repeated"},
	  {"cwd", "DIR", "working directory (default /)"},
	  {"spec", "FILE", "all of the above as a JSON object"},
	  OPT_JSON},
	 cli_workload_add},
	{"workload list", "", "list the workloads of all hosts", 0, 0, false, {OPT_JSON}, cli_workload_list},
	{"workload start", "NAME", "start a workload where its volume is", 1, 1, false, {OPT_JSON}, cli_workload_start},
	{"workload stop", "NAME", "stop a workload and prove it gone", 1, 1, false, {OPT_JSON}, cli_workload_stop},
	{"plan", "HOST", "what a drain of a host would do, and what stands in the way", 1, 1, false,
	 {{"to", "HOST", "destination (default: chosen per volume)"},
	  {"engine", "NAME", "of the clone: auto (default: dm where the host has it), user, dm"},
	  OPT_JSON},
	 cli_plan},
	{"drain", "HOST", "move every workload of a host away, with its volume", 1, 1, false,
	 {{"to", "HOST", "destination (default: chosen per volume)"},
	  {"max-parallel", "N", "volumes at a time (default 1)"},
	  {"rate", "BYTES/S", "limit for each copy, e.g. 100M (default: none)"},
	  {"floor", "BYTES/S", "copy so much at least, whatever it costs the workload (default: the destination's)"},
	  {"latency-factor", "X", "how much slower its slow I/O may become, 0: any (default: the destination's)"},
	  {"transit", "WHAT", "how copies travel: auto, plain, checked, zstd (default: the destination's)"},
	  {"release", "POLICY", "the source copy afterwards: delete or keep"},
	  {"hold", "DURATION", "how long the source copy is kept first"},
	  {"engine", "NAME", "of the clone: auto (default: dm where the host has it), user, dm"},
	  {"dry-run", NULL, "print the plan and stop nothing"},
	  {"detach", NULL, "do not watch"},
	  OPT_JSON},
	 cli_drain},
	{"move", "WORKLOAD", "move one workload with its volume", 1, 1, false,
	 {{"to", "HOST", "destination"},
	  {"rate", "BYTES/S", "limit for the copy (default: none)"},
	  {"floor", "BYTES/S", "copy so much at least, whatever it costs the workload (default: the destination's)"},
	  {"latency-factor", "X", "how much slower its slow I/O may become, 0: any (default: the destination's)"},
	  {"transit", "WHAT", "how copies travel: auto, plain, checked, zstd (default: the destination's)"},
	  {"release", "POLICY", "the source copy afterwards: delete or keep"},
	  {"hold", "DURATION", "how long the source copy is kept first"},
	  {"engine", "NAME", "of the clone: auto (default: dm where the host has it), user, dm"},
	  {"dry-run", NULL, "print the plan and stop nothing"},
	  {"detach", NULL, "do not watch"},
	  OPT_JSON},
	 cli_move},
	{"status", "[ID]", "what is going on: everything, or one drain, migration or volume", 0, 1, false,
	 {{"watch", NULL, "go on showing it until it ends"},
	  {"exit-code", NULL, "the state as exit code: 0 done, 7 not done yet or partly, 1 failed"},
	  OPT_JSON},
	 cli_status},
	{"why", "ID", "the one reason that decides, and the command that would clear it", 1, 1, false, {OPT_JSON}, cli_why},
	{"abort", "ID", "give up a drain or migration where that loses nothing", 1, 1, false, {OPT_JSON}, cli_abort},
	{"events", "", "what happened, in order", 0, 0, false,
	 {{"since", "N", "only events after number N"},
	  {"drain", "ID", "only those of one drain"},
	  {"follow", NULL, "wait for more"},
	  OPT_JSON},
	 cli_events},
	{"receipt", "ID", "the receipt of a migration, or of all of a drain", 1, 1, false,
	 {{"verify", "FILE", "check the seal with the cluster secret in FILE"}, OPT_JSON}, cli_receipt},
	{0},
};

static const char *given_value(const struct cli *c, const char *name, unsigned nth, bool is_last)
{
	const char *found = NULL;

	for (unsigned i = 0; i < c->nr_given; i++) {
		if (strcmp(c->given[i].opt->name, name) != 0)
			continue;
		found = c->given[i].value;
		if (!is_last && nth-- == 0)
			return found;
	}
	return is_last ? found : NULL;
}

const char *cli_opt(const struct cli *c, const char *name)
{
	return given_value(c, name, 0, true);
}

const char *cli_opt_nth(const struct cli *c, const char *name, unsigned i)
{
	return given_value(c, name, i, false);
}

/* The verb of this invocation, once it is known. */
static const struct cli_verb *present_verb;

int cli_error(int exit_code, const char *next, const char *fmt, ...)
{
	va_list ap;

	fputs("kedge: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	if (next)
		fprintf(stderr, "next: %s\n", next);
	else
		fprintf(stderr, "next: kedge %s%s--help\n", present_verb ? present_verb->name : "", present_verb ? " " : "");
	return exit_code;
}

int cli_check_id(const char *what, const char *text)
{
	size_t n = strlen(text);

	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
			n = 0;
	if (n == 0 || n > 64 || text[0] == '.')
		return cli_error(KEDGE_EXIT_USAGE, "kedge status", "\"%s\" is not a name or id of a %s", text, what);
	return 0;
}

static void print_usage_line(FILE *out, const struct cli_verb *v)
{
	char left[64];

	snprintf(left, sizeof left, "%s %s", v->name, v->args);
	fprintf(out, "  %-36s %s\n", left, v->help);
}

static void print_help(FILE *out)
{
	fputs("usage: kedge VERB [ARGUMENT...] [--OPTION...]\n\n", out);
	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		print_usage_line(out, v);
	fputs("\n"
	      "With every verb:\n"
	      "  --socket PATH                        the daemon's socket (default $KEDGE_SOCKET, then " SOCKET_DEFAULT ")\n"
	      "  --help                               explain one verb\n"
	      "  --version                            print the version and end\n"
	      "\n"
	      "Names are exact, never prefixes. Exit codes and examples: kedge(1).\n",
	      out);
}

static void print_verb_help(FILE *out, const struct cli_verb *v)
{
	fprintf(out, "usage: kedge %s%s%s%s\n\n%s\n", v->name, v->args[0] ? " " : "", v->args,
		v->opts[0].name ? " [--OPTION...]" : "", v->help);
	if (v->opts[0].name)
		fputc('\n', out);
	for (unsigned i = 0; i < CLI_OPTS_MAX && v->opts[i].name; i++) {
		char left[48];
		snprintf(left, sizeof left, "--%s%s%s", v->opts[i].name, v->opts[i].arg ? " " : "",
			 v->opts[i].arg ? v->opts[i].arg : "");
		fprintf(out, "  %-24s %s\n", left, v->opts[i].help);
	}
}

/* The verb that argv begins with; *ret_words is how many words it took. */
static const struct cli_verb *find_verb(int argc, char **argv, int *ret_words)
{
	char two[64];

	for (const struct cli_verb *v = cli_verbs; v->name; v++) {
		*ret_words = 1;
		if (strcmp(v->name, argv[0]) == 0)
			return v;
		if (argc < 2 || snprintf(two, sizeof two, "%s %s", argv[0], argv[1]) >= (int)sizeof two)
			continue;
		*ret_words = 2;
		if (strcmp(v->name, two) == 0)
			return v;
	}
	return NULL;
}

static int unknown_verb(int argc, char **argv)
{
	size_t n = strlen(argv[0]);
	bool is_group = false;

	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		if (strncmp(v->name, argv[0], n) == 0 && v->name[n] == ' ')
			is_group = true;
	if (!is_group)
		return cli_error(KEDGE_EXIT_USAGE, "kedge --help", "no such verb: %s", argv[0]);
	bool is_asked = argc > 1 && strcmp(argv[1], "--help") == 0;
	FILE *out = is_asked ? stdout : stderr;
	for (const struct cli_verb *v = cli_verbs; v->name; v++)
		if (strncmp(v->name, argv[0], n) == 0 && v->name[n] == ' ')
			print_usage_line(out, v);
	if (is_asked)
		return KEDGE_EXIT_OK;
	if (argc > 1)
		return cli_error(KEDGE_EXIT_USAGE, "kedge --help", "no such verb: %s %s", argv[0], argv[1]);
	return KEDGE_EXIT_USAGE;
}

/* getopt_long takes any unambiguous beginning of an option; we take whole names only. */
static bool is_spelled_out(char *const *argv, int end, bool has_arg, const char *name)
{
	size_t n = strlen(name);

	for (int back = 1; back <= (has_arg ? 2 : 1) && end - back >= 0; back++) {
		const char *word = argv[end - back];
		if (strncmp(word, "--", 2) == 0 && strncmp(word + 2, name, n) == 0 && (word[2 + n] == 0 || word[2 + n] == '='))
			return true;
	}
	return false;
}

enum { OPT_SOCKET = 1000, OPT_HELP };

static int parse_options(struct cli *c, int argc, char **argv)
{
	struct option options[CLI_OPTS_MAX + 3] = {0};
	unsigned nr = 0;
	int opt, at = -1;

	for (; nr < CLI_OPTS_MAX && c->verb->opts[nr].name; nr++)
		options[nr] = (struct option){c->verb->opts[nr].name,
					      c->verb->opts[nr].arg ? required_argument : no_argument, NULL, (int)nr};
	options[nr++] = (struct option){"socket", required_argument, NULL, OPT_SOCKET};
	options[nr] = (struct option){"help", no_argument, NULL, OPT_HELP};
	opterr = 0;
	optind = 1;
	while ((opt = getopt_long(argc, argv, ":", options, &at)) != -1) {
		if (opt == ':')
			return cli_error(KEDGE_EXIT_USAGE, NULL, "%s wants a value", argv[optind - 1]);
		if (opt == '?')
			return cli_error(KEDGE_EXIT_USAGE, NULL, "no such option: %s", argv[optind - 1]);
		if (!is_spelled_out(argv, optind, options[at].has_arg, options[at].name))
			return cli_error(KEDGE_EXIT_USAGE, NULL, "options are spelled out: --%s", options[at].name);
		if (opt == OPT_HELP) {
			print_verb_help(stdout, c->verb);
			return -1;
		}
		if (opt == OPT_SOCKET) {
			c->socket = optarg;
			continue;
		}
		if (c->nr_given == CLI_GIVEN_MAX)
			return cli_error(KEDGE_EXIT_USAGE, NULL, "more than %d options", CLI_GIVEN_MAX);
		c->given[c->nr_given].opt = &c->verb->opts[opt];
		c->given[c->nr_given++].value = optarg ? optarg : "";
	}
	c->args = argv + optind;
	c->nr_args = (unsigned)(argc - optind);
	if (c->verb->has_argv && c->nr_args > c->verb->nr_args_max) {
		c->argv = c->args + c->verb->nr_args_max;
		c->nr_argv = c->nr_args - c->verb->nr_args_max;
		c->nr_args = c->verb->nr_args_max;
	}
	if (c->nr_args < c->verb->nr_args_min || c->nr_args > c->verb->nr_args_max)
		return cli_error(KEDGE_EXIT_USAGE, NULL, "usage: kedge %s %s", c->verb->name, c->verb->args);
	return 0;
}

int main(int argc, char **argv)
{
	struct cli c = {.socket = getenv("KEDGE_SOCKET")};
	int words, res;

	if (!c.socket || !c.socket[0])
		c.socket = SOCKET_DEFAULT;
	/* --socket may also stand before the verb. */
	if (argc > 2 && strcmp(argv[1], "--socket") == 0) {
		c.socket = argv[2];
		argv += 2;
		argc -= 2;
	}
	if (argc < 2) {
		print_help(stderr);
		return KEDGE_EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
		print_help(stdout);
		return KEDGE_EXIT_OK;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("kedge " KEDGE_VERSION);
		return KEDGE_EXIT_OK;
	}
	c.verb = find_verb(argc - 1, argv + 1, &words);
	if (!c.verb)
		return unknown_verb(argc - 1, argv + 1);
	present_verb = c.verb;
	res = parse_options(&c, argc - words, argv + words);
	if (res)
		return res < 0 ? KEDGE_EXIT_OK : res;
	c.http = cli_http_create(c.socket);
	if (!c.http)
		return cli_error(KEDGE_EXIT_FAILED, NULL, "out of memory");
	res = c.verb->run(&c);
	cli_http_destroy(c.http);
	if (fflush(stdout) && res == KEDGE_EXIT_OK)
		return cli_error(KEDGE_EXIT_FAILED, NULL, "standard output cannot be written");
	return res;
}
