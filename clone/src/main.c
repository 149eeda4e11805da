/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. kclone: verbs and options, from one table.
 * Owns. Nothing. Locks. None.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ahead.h"
#include "dm_table.h"
#include "kclone.h"
#include "kedge/bytes.h"
#include "kedge/log.h"
#include "kedge/size.h"

enum opt {
	OPT_SOURCE = 256, OPT_DEST, OPT_META, OPT_SIZE, OPT_SERIAL, OPT_LBS, OPT_CHAP_FILE, OPT_INITIATOR, OPT_MIGRATION,
	OPT_FUSE, OPT_BLOCK, OPT_NBD, OPT_CONTROL, OPT_NO_ATTACH, OPT_NO_HYDRATE, OPT_URGENT, OPT_RATE, OPT_FLOOR, OPT_LATENCY, OPT_CONNECTIONS, OPT_IO_TIMEOUT,
	OPT_URL, OPT_TIMEOUT, OPT_ENGINE, OPT_REGION, OPT_TOP, OPT_SOURCE_ATTACH, OPT_HEAD_START, OPT_WINDOWS, OPT_TRANSIT,
	OPT_VERIFY_HOLES, OPT_VERIFY_DATA, OPT_READ_AROUND, OPT_PREFETCH, OPT_TRACE, OPT_START, OPT_STOP, OPT_OUTPUT, OPT_SHOW, OPT_JSON, OPT_HELP, OPT_END,
};

struct opt_row {
	enum opt opt;
	const char *name, *arg, *help;
};

static const struct opt_row opt_rows[] = {
	{OPT_SOURCE, "source", "URL", "iscsi://ADDR:PORT/IQN/LUN, or the path of a file or device"},
	{OPT_DEST, "dest", "PATH", "destination: a file or block device that exists and is large enough"},
	{OPT_META, "meta", "PATH", "metadata of the clone; PATH.seen lies beside it"},
	{OPT_SIZE, "size", "BYTES", "size of the volume; with --serial the source is not asked"},
	{OPT_SERIAL, "serial", "UUID.EPOCH", "identity that the source must show"},
	{OPT_LBS, "lbs", "BYTES", "logical block size of the source (512 or 4096)"},
	{OPT_CHAP_FILE, "chap-file", "FILE", "CHAP names and secrets, mode 0600"},
	{OPT_INITIATOR, "initiator", "IQN", "our iSCSI name"},
	{OPT_MIGRATION, "migration", "UUID", "recorded in the metadata; default: a new one"},
	{OPT_FUSE, "fuse", "FILE", "serve the volume as this file"},
	{OPT_BLOCK, "block", NULL, "and as a block device on top of it"},
	{OPT_TOP, "top", "WHEN", "with --block: /dev/mapper/kedge-MIGRATION above the loop device: auto (default), never"},
	{OPT_NBD, "nbd", "SOCKET", "serve NBD on this Unix socket"},
	{OPT_CONTROL, "control", "SOCKET", "control socket"},
	{OPT_NO_ATTACH, "no-attach", NULL, "do not connect to the source until the attach command"},
	{OPT_NO_HYDRATE, "no-hydrate", NULL, "do not hydrate until the hydrate command"},
	{OPT_URGENT, "urgent", NULL, "a source that was lost once lifts the limit, as one that fails to read does"},
	{OPT_RATE, "rate", "BYTES", "hydrate at most so many bytes a second (0: no limit)"},
	{OPT_FLOOR, "floor", "BYTES", "hydrate at least so many bytes a second, whatever it costs the workload (default 64M; engine dm 8M)"},
	{OPT_LATENCY, "latency-factor", "X", "so many times slower the workload's slow I/O may become (default 1.5; 0: hydration goes first)"},
	{OPT_CONNECTIONS, "connections", "N", "iSCSI sessions, 1 to 16 (default 2)"},
	{OPT_IO_TIMEOUT, "io-timeout", "MS", "a read waits so long for an absent source (0: for ever; default 30000)"},
	{OPT_URL, "url", "URL", "where the source is now"},
	{OPT_TIMEOUT, "timeout", "MS", "deadline of the command"},
	{OPT_ENGINE, "engine", "NAME", "user (default), dm (the kernel's dm-clone), or auto: dm where the kernel has it"},
	{OPT_REGION, "region", "BYTES", "engine dm: unit that the kernel copies, a power of two (default 64K)"},
	{OPT_HEAD_START, "head-start", "LIMIT", "engine dm: copy before the device is there, at most so many bytes or so long (3s, 500ms)"},
	{OPT_WINDOWS, "windows", "BYTES", "engine dm: hydrate in moments in which the workload's I/O waits, so much in each (1M)"},
	{OPT_READ_AROUND, "read-around", "BYTES", "read at most so much ahead of a workload that reads in order (0: nothing; default 2M)"},
	{OPT_PREFETCH, "prefetch", "FILE", "copy first what this access history says (kclone trace)"},
	{OPT_TRACE, "trace", NULL, "record what the workload touches from its first I/O on"},
	{OPT_START, "start", NULL, "begin a recording, anew when there is one"},
	{OPT_OUTPUT, "output", "FILE", "write what was recorded so far"},
	{OPT_STOP, "stop", NULL, "end the recording"},
	{OPT_SHOW, "show", "FILE", "print an access history: MS START END read|written"},
	{OPT_SOURCE_ATTACH, "source-attach", "HOW", "engine dm: how the kernel reads the source: feed (default), or kernel: its own initiator"},
	{OPT_VERIFY_HOLES, "verify-holes", "HOW", "status (default): as the source says anew, with samples; read: on both sides"},
	{OPT_VERIFY_DATA, "verify-data", "HOW", "checksum (default): by 128-bit checksums where the source makes them; bytes: byte by byte"},
	{OPT_TRANSIT, "transit", "MODE", "how copies travel from the source: auto (default), plain, checked, zstd"},
	{OPT_JSON, "json", NULL, "for programs"},
};

#define B(o) (1ull << (OPT_##o - OPT_SOURCE))

struct verb {
	const char *name, *help;
	uint64_t opts, needed;
};

static const struct verb verbs[] = {
	{"create", "make the metadata of a new clone",
	 B(SOURCE) | B(DEST) | B(META) | B(SIZE) | B(SERIAL) | B(LBS) | B(CHAP_FILE) | B(INITIATOR) | B(MIGRATION) |
		 B(ENGINE) | B(REGION) | B(SOURCE_ATTACH) | B(TIMEOUT),
	 B(SOURCE) | B(DEST) | B(META)},
	{"serve", "serve a clone until it is stopped",
	 B(META) | B(FUSE) | B(BLOCK) | B(TOP) | B(NBD) | B(CONTROL) | B(NO_ATTACH) | B(NO_HYDRATE) | B(URGENT) | B(RATE) | B(FLOOR) | B(LATENCY) | B(CONNECTIONS) | B(IO_TIMEOUT) |
		 B(HEAD_START) | B(WINDOWS) | B(SOURCE_ATTACH) | B(READ_AROUND) | B(PREFETCH) | B(TRACE) | B(TRANSIT),
	 B(META)},
	{"status", "say where the data is", B(META) | B(CONTROL) | B(JSON), 0},
	{"map", "say of every run of bytes where it lives", B(META) | B(CONTROL) | B(JSON), 0},
	{"trace", "record what a workload touches, in the order of its first touch", B(META) | B(CONTROL) | B(START) | B(OUTPUT) | B(STOP) | B(SHOW), 0},
	{"check", "verify the metadata of a clone that is not served", B(META), B(META)},
	{"attach", "connect to the source", B(CONTROL) | B(META) | B(URL) | B(CHAP_FILE) | B(TIMEOUT), 0},
	{"hydrate", "begin to hydrate", B(CONTROL) | B(META), 0},
	{"pause", "pause hydration", B(CONTROL) | B(META), 0},
	{"resume", "resume hydration", B(CONTROL) | B(META), 0},
	{"rate", "limit hydration", B(CONTROL) | B(META) | B(RATE), B(RATE)},
	{"set", "say how fast hydration may and shall be", B(CONTROL) | B(META) | B(RATE) | B(FLOOR) | B(LATENCY), 0},
	{"verify", "compare every unwritten block with the source, holes by status and samples", B(CONTROL) | B(META) | B(VERIFY_HOLES) | B(VERIFY_DATA), 0},
	{"finish", "record that the clone stands alone, close the source", B(CONTROL) | B(META) | B(TIMEOUT), 0},
	{"abort", "give up a clone that nothing was written to", B(CONTROL) | B(META), 0},
	{"commit", "make everything durable now", B(CONTROL) | B(META), 0},
	{"doctor", "say which engine this host gets, and why", B(JSON), 0},
	{"stop", "end a serving kclone whose device nobody has open", B(CONTROL) | B(META), 0},
};

static void print_help(FILE *to, const struct verb *v)
{
	if (!v) {
		fprintf(to, "usage: kclone VERB [OPTIONS]\n\n");
		for (size_t i = 0; i < KEDGE_ARRAY_LEN(verbs); i++)
			fprintf(to, "  %-8s  %s\n", verbs[i].name, verbs[i].help);
		fprintf(to, "\nkclone VERB --help lists the options of a verb. --version prints the version.\n");
		return;
	}
	fprintf(to, "usage: kclone %s [OPTIONS]: %s\n\n", v->name, v->help);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(opt_rows); i++) {
		const struct opt_row *o = &opt_rows[i];
		char left[48];
		if (!(v->opts >> (o->opt - OPT_SOURCE) & 1))
			continue;
		snprintf(left, sizeof left, "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
		fprintf(to, "  %-24s  %s%s\n", left, o->help, v->needed >> (o->opt - OPT_SOURCE) & 1 ? " (needed)" : "");
	}
}

static int usage(const char *what, const char *detail, const char *verb)
{
	kedge_error("%s%s%s; see kclone %s%s--help", what, detail ? " " : "", detail ? detail : "", verb ? verb : "", verb ? " " : "");
	return KEDGE_EXIT_USAGE;
}

static int take_number(const char *text, uint64_t max, uint64_t *ret)
{
	uint64_t v;

	if (kedge_size_parse(text, &v) < 0 || v > max)
		return -EINVAL;
	*ret = v;
	return 0;
}

static int take_latency(const char *text, uint32_t *ret_percent)
{
	uint32_t percent;

	if (kedge_factor_parse(text, &percent) < 0 || (percent && (percent < KCOPY_LATENCY_PERCENT_MIN || percent > KCOPY_LATENCY_PERCENT_MAX)))
		return -EINVAL;
	*ret_percent = percent;
	return 0;
}

/* Bytes, or a time: a number that ends in "s" or "ms". */
static int take_head_start(struct kclone_args *a, const char *text)
{
	unsigned long n;
	char unit[3];
	int used = 0;

	a->head_start_bytes = a->head_start_ms = 0;
	if (sscanf(text, "%6lu%2[ms]%n", &n, unit, &used) == 2 && text[used] == 0 && text[0] != '-' &&
	    (strcmp(unit, "s") == 0 || strcmp(unit, "ms") == 0)) {
		a->head_start_ms = (unsigned)n * (unit[0] == 's' ? 1000 : 1);
		return n ? 0 : -EINVAL;
	}
	return take_number(text, INT64_MAX, &a->head_start_bytes);
}

static int take_option(struct kclone_args *a, int c, const char *arg)
{
	uint64_t v = 0;
	int r = 0;

	switch (c) {
	case OPT_SOURCE: a->source = arg; break;
	case OPT_DEST: a->dest = arg; break;
	case OPT_META: a->meta = arg; break;
	case OPT_SERIAL: a->serial = arg; break;
	case OPT_CHAP_FILE: a->chap_file = arg; break;
	case OPT_INITIATOR: a->initiator = arg; break;
	case OPT_MIGRATION: a->migration = arg; break;
	case OPT_FUSE: a->fuse = arg; break;
	case OPT_NBD: a->nbd = arg; break;
	case OPT_CONTROL: a->control = arg; break;
	case OPT_URL: a->url = arg; break;
	case OPT_BLOCK: a->is_block = true; break;
	case OPT_NO_ATTACH: a->is_no_attach = true; break;
	case OPT_URGENT: a->is_urgent = true; break;
	case OPT_NO_HYDRATE: a->is_no_hydrate = true; break;
	case OPT_ENGINE:
		if (strcmp(arg, "user") != 0 && strcmp(arg, "dm") != 0 && strcmp(arg, "auto") != 0)
			r = -EINVAL;
		a->engine = arg;
		break;
	case OPT_TOP:
		if (strcmp(arg, "auto") != 0 && strcmp(arg, "never") != 0)
			r = -EINVAL;
		a->is_top_never = strcmp(arg, "never") == 0;
		break;
	case OPT_SOURCE_ATTACH:
		if (strcmp(arg, "feed") != 0 && strcmp(arg, "kernel") != 0)
			r = -EINVAL;
		a->source_attach = arg;
		break;
	case OPT_REGION:
		r = take_number(arg, 1u << 30, &v);
		a->region_bytes = (uint32_t)v;
		break;
	case OPT_HEAD_START: r = take_head_start(a, arg); break;
	case OPT_WINDOWS:
		r = take_number(arg, DM_SLOT_BYTES, &v);
		if (r == 0 && (v < DM_REGION_MIN_BYTES || v & (v - 1)))
			r = -EINVAL;
		a->window_bytes = (uint32_t)v;
		break;
	case OPT_VERIFY_HOLES:
		if (!kcopy_holes_parse(arg, &(enum kcopy_holes){0}))
			r = -EINVAL;
		a->verify_holes = arg;
		break;
	case OPT_VERIFY_DATA:
		if (!kcopy_data_parse(arg, &(enum kcopy_data){0}))
			r = -EINVAL;
		a->verify_data = arg;
		break;
	case OPT_READ_AROUND:
		r = take_number(arg, AHEAD_WINDOW_MAX_BYTES, &v);
		a->read_around_bytes = (uint32_t)v;
		break;
	case OPT_PREFETCH: a->prefetch = arg; break;
	case OPT_TRACE: a->is_trace = true; break;
	case OPT_START: a->is_start = true; break;
	case OPT_STOP: a->is_stop = true; break;
	case OPT_OUTPUT: a->output = arg; break;
	case OPT_SHOW: a->show = arg; break;
	case OPT_TRANSIT:
		r = kcopy_transit_mode_parse(arg);
		if (r >= 0) {
			a->transit = (enum kcopy_transit_mode)r;
			r = 0;
		}
		break;
	case OPT_JSON: a->is_json = true; break;
	case OPT_SIZE: r = take_number(arg, 16ull << 40, &a->size_bytes); break;
	case OPT_RATE:
		r = take_number(arg, INT64_MAX, &a->rate_bps);
		a->has_rate = true;
		break;
	case OPT_FLOOR:
		r = take_number(arg, INT64_MAX, &a->floor_bps);
		a->has_floor = true;
		break;
	case OPT_LATENCY:
		r = take_latency(arg, &a->latency_percent);
		a->has_latency = true;
		break;
	case OPT_LBS:
		r = take_number(arg, 4096, &v);
		if (r == 0 && v != 512 && v != 4096)
			r = -EINVAL;
		a->lbs_bytes = (uint32_t)v;
		break;
	case OPT_CONNECTIONS:
		r = take_number(arg, 16, &v);
		if (r == 0 && v == 0)
			r = -EINVAL;
		a->nr_sessions = (unsigned)v;
		break;
	case OPT_IO_TIMEOUT:
		r = take_number(arg, 86400000, &v);
		a->io_timeout_ms = (uint32_t)v;
		a->has_io_timeout = true;
		break;
	case OPT_TIMEOUT:
		r = take_number(arg, 86400000, &v);
		a->timeout_ms = (unsigned)v;
		break;
	default:
		r = -EINVAL;
	}
	return r;
}

static int run(const struct verb *v, const struct kclone_args *a, char **argv)
{
	/* the processes of serve take its options */
	if (strcmp(argv[1], "worker") == 0)
		return cmd_worker(a);
	if (strcmp(argv[1], "driver") == 0)
		return clone_is_dm(a->meta) ? cmd_driver(a) : cmd_top(a);
	if (strcmp(v->name, "doctor") == 0)
		return cmd_doctor(a);
	if (strcmp(v->name, "create") == 0)
		return cmd_create(a);
	if (strcmp(v->name, "serve") == 0)
		return cmd_serve(a, argv + 2);
	if (strcmp(v->name, "check") == 0)
		return cmd_check(a);
	if (strcmp(v->name, "trace") == 0)
		return cmd_trace(a);
	if (!a->control && !a->meta)
		return usage(v->name, "needs --control SOCKET or --meta PATH", v->name);
	if (strcmp(v->name, "status") == 0)
		return cmd_status(a);
	if (strcmp(v->name, "map") == 0)
		return cmd_map(a);
	if (strcmp(v->name, "abort") == 0 && !a->control)
		return cmd_abort(a);
	return cmd_control(a, v->name);
}

int main(int argc, char **argv)
{
	struct option longs[KEDGE_ARRAY_LEN(opt_rows) + 2] = {{0}};
	struct kclone_args a = {.read_around_bytes = AHEAD_WINDOW_DEFAULT_BYTES};
	const struct verb *v = NULL;
	bool is_inner = argc > 1 && (strcmp(argv[1], "worker") == 0 || strcmp(argv[1], "driver") == 0);
	uint64_t seen = 0;
	unsigned n = 0;
	int c;

	kedge_log_init("kclone", KEDGE_LOG_INFO);
	if (argc > 1 && strcmp(argv[1], "--version") == 0) {
		printf("kclone " KEDGE_VERSION "\n");
		return 0;
	}
	if (argc < 2 || strcmp(argv[1], "--help") == 0) {
		print_help(argc < 2 ? stderr : stdout, NULL);
		return argc < 2 ? KEDGE_EXIT_USAGE : 0;
	}
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(verbs); i++)
		if (strcmp(is_inner ? "serve" : argv[1], verbs[i].name) == 0)
			v = &verbs[i];
	if (!v)
		return usage("unknown verb", argv[1], NULL);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(opt_rows); i++)
		if (v->opts >> (opt_rows[i].opt - OPT_SOURCE) & 1)
			longs[n++] = (struct option){opt_rows[i].name, opt_rows[i].arg ? required_argument : no_argument, NULL, opt_rows[i].opt};
	longs[n++] = (struct option){"help", no_argument, NULL, OPT_HELP};
	optind = 2;
	opterr = 0;
	for (c = getopt_long(argc, argv, "", longs, NULL); c != -1; c = getopt_long(argc, argv, "", longs, NULL)) {
		if (c == OPT_HELP) {
			print_help(stdout, v);
			return 0;
		}
		if (c == '?')
			return usage("unknown or incomplete option", argv[optind - 1], argv[1]);
		if (take_option(&a, c, optarg) < 0)
			return usage("cannot understand the value", optarg, argv[1]);
		seen |= 1ull << (c - OPT_SOURCE);
	}
	if (optind < argc)
		return usage("unexpected argument", argv[optind], argv[1]);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(opt_rows); i++)
		if ((v->needed & ~seen) >> (opt_rows[i].opt - OPT_SOURCE) & 1)
			return usage("missing option", opt_rows[i].name, argv[1]);
	return run(v, &a, argv);
}
