/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Reads kcopy's command line.
 *
 * Owns. Nothing; strings stay argv's.
 *
 * Locks. None.
 */
#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "kedge/err.h"
#include "kedge/log.h"
#include "kedge/size.h"

static const char help[] =
	"usage: kcopy [options] SRC DST\n"
	"\n"
	"Copy a volume. SRC: iscsi://ADDR:PORT/IQN/LUN (numeric address), a file or a block device.\n"
	"DST: a file (made when missing) or a block device that is large enough.\n"
	"\n"
	"  --map FILE         keep a map of what is copied in FILE: a copy that was ended goes on there\n"
	"  --verify           compare source and destination after the copy\n"
	"  --verify-holes HOW status (default): the source says anew where its holes are, samples of them are read;\n"
	"                     read: all of them are read on both sides\n"
	"  --verify-data HOW  checksum (default): by 128-bit checksums where the source makes them; bytes: byte by byte\n"
	"  --connections N    iSCSI sessions, 1 to 16 (default 2)\n"
	"  --transit MODE     how data travels: auto (default), plain, checked, zstd\n"
	"  --rate BYTES       at most so many bytes a second (suffixes K, M, G)\n"
	"  --chap-file FILE   CHAP names and secrets, mode 0600\n"
	"  --initiator IQN    our iSCSI name\n"
	"  --serial TEXT      the unit serial number the source must have\n"
	"  --no-create        DST must exist\n"
	"  --json             one JSON object a line on stdout: progress, then the result\n"
	"  --progress=FD      write \"N/100\" lines to a file descriptor\n"
	"  --help, --version\n"
	"\n"
	"Environment: KEDGE_SOURCE_TIMEOUTS=login=15000,command=10000,nop=5000,nop-reply=5000,logout=1000,\n"
	"backoff-min=100,backoff-max=30000 (ms; any of them, joined by commas); KEDGE_LOG=debug|info|warn|err\n"
	"\n"
	"Exit codes: 0 done, 1 failed or interrupted, 2 usage, 7 done but for ranges that cannot be read,\n"
	"20-27 the map, 30-32 the source (identity, no answer, login), 33-34 the destination, 35 differs.\n";

enum option_id { OPT_MAP = 256, OPT_VERIFY, OPT_VERIFY_HOLES, OPT_VERIFY_DATA, OPT_CONNECTIONS, OPT_TRANSIT, OPT_RATE, OPT_CHAP, OPT_INITIATOR, OPT_SERIAL, OPT_NO_CREATE, OPT_JSON,
		 OPT_PROGRESS, OPT_HELP, OPT_VERSION };

static const struct option options[] = {
	{ "map", required_argument, NULL, OPT_MAP },
	{ "verify", no_argument, NULL, OPT_VERIFY },
	{ "verify-holes", required_argument, NULL, OPT_VERIFY_HOLES },
	{ "verify-data", required_argument, NULL, OPT_VERIFY_DATA },
	{ "connections", required_argument, NULL, OPT_CONNECTIONS },
	{ "transit", required_argument, NULL, OPT_TRANSIT },
	{ "rate", required_argument, NULL, OPT_RATE },
	{ "chap-file", required_argument, NULL, OPT_CHAP },
	{ "initiator", required_argument, NULL, OPT_INITIATOR },
	{ "serial", required_argument, NULL, OPT_SERIAL },
	{ "no-create", no_argument, NULL, OPT_NO_CREATE },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "progress", required_argument, NULL, OPT_PROGRESS },
	{ "help", no_argument, NULL, OPT_HELP },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ 0 },
};

static bool parse_unsigned(const char *text, unsigned min, unsigned max, unsigned *ret_value)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || *end || v < min || v > max)
		return false;
	*ret_value = (unsigned)v;
	return true;
}

static int wrong(int *ret_exit)
{
	*ret_exit = KEDGE_EXIT_USAGE;
	return -EINVAL;
}

static int take_option(int opt, struct kcopy_options *o, int *ret_exit)
{
	unsigned fd;
	int mode;

	switch (opt) {
	case OPT_MAP:
		o->map_path = optarg;
		return 0;
	case OPT_VERIFY:
		o->must_verify = true;
		return 0;
	case OPT_VERIFY_HOLES:
		o->must_verify = true;
		if (kcopy_holes_parse(optarg, &o->holes))
			return 0;
		kedge_error("--verify-holes %s: expected status or read", optarg);
		return wrong(ret_exit);
	case OPT_VERIFY_DATA:
		o->must_verify = true;
		if (kcopy_data_parse(optarg, &o->data))
			return 0;
		kedge_error("--verify-data %s: expected checksum or bytes", optarg);
		return wrong(ret_exit);
	case OPT_CONNECTIONS:
		if (parse_unsigned(optarg, 1, 16, &o->nr_connections))
			return 0;
		kedge_error("--connections %s: expected a number from 1 to 16", optarg);
		return wrong(ret_exit);
	case OPT_TRANSIT:
		mode = kcopy_transit_mode_parse(optarg);
		if (mode >= 0) {
			o->transit = (enum kcopy_transit_mode)mode;
			return 0;
		}
		kedge_error("--transit %s: expected auto, plain, checked or zstd", optarg);
		return wrong(ret_exit);
	case OPT_RATE:
		if (kedge_size_parse(optarg, &o->rate_bps) == 0 && o->rate_bps > 0)
			return 0;
		kedge_error("--rate %s: expected bytes a second, such as 100M", optarg);
		return wrong(ret_exit);
	case OPT_CHAP:
		o->chap_path = optarg;
		return 0;
	case OPT_INITIATOR:
		o->initiator_iqn = optarg;
		return 0;
	case OPT_SERIAL:
		o->serial = optarg;
		return 0;
	case OPT_NO_CREATE:
		o->can_create = false;
		return 0;
	case OPT_JSON:
		o->is_json = true;
		return 0;
	case OPT_PROGRESS:
		if (parse_unsigned(optarg, 0, 65535, &fd) && fcntl((int)fd, F_GETFD) >= 0) {
			o->progress_fd = (int)fd;
			return 0;
		}
		kedge_error("--progress=%s: expected the number of an open file descriptor", optarg);
		return wrong(ret_exit);
	case OPT_HELP:
		fputs(help, stdout);
		*ret_exit = KEDGE_EXIT_OK;
		return -ECANCELED;
	case OPT_VERSION:
		puts("kcopy " KEDGE_VERSION);
		*ret_exit = KEDGE_EXIT_OK;
		return -ECANCELED;
	default:
		fputs("kcopy: see kcopy --help\n", stderr);
		return wrong(ret_exit);
	}
}

int kcopy_options_parse(int argc, char **argv, struct kcopy_options *ret_options, int *ret_exit)
{
	struct kcopy_options o = { .progress_fd = -1, .can_create = true, .data = KCOPY_DATA_BY_CHECKSUM };
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		int rc = take_option(opt, &o, ret_exit);
		if (rc < 0)
			return rc;
	}
	if (argc - optind != 2) {
		kedge_error("expected SRC and DST; see kcopy --help");
		return wrong(ret_exit);
	}
	o.source = argv[optind];
	o.destination = argv[optind + 1];
	*ret_options = o;
	return 0;
}
