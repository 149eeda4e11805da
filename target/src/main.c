/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. ktarget, the stand-alone program.
 * Owns. The loop and the server. Locks. None.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#include "kedge/bytes.h"
#include "kedge/log.h"
#include "kedge/name.h"
#include "tgt/tgt.h"

struct program {
	struct kedge_loop *loop;
	struct tgt_server *server;
	struct kedge_op sig_op;
	struct signalfd_siginfo sig_info;
};

static const char help[] =
	"usage: ktarget --portal ADDR:PORT --iqn IQN --lun PATH [OPTIONS]: export files and devices over iSCSI, read-only\n\n"
	"  --portal ADDR:PORT    a private address of this host; port 0: any free one\n"
	"  --iqn IQN             name of the target\n"
	"  --lun PATH            file or block device; may be repeated: LUN 1, 2, ...\n"
	"  --serial TEXT         unit serial number of the --lun before it (or of the first)\n"
	"  --read-only           accepted; there is no other mode\n"
	"  --initiator IQN       only this initiator may log in\n"
	"  --chap-file FILE      CHAP names and secrets, mode 0600\n"
	"  --max-sessions N      at most so many sessions (default 16)\n"
	"  --free-space HOW      of a file system directly on a LUN (ext4, XFS): copy (default), skip, or must\n"
	"  --help, --version\n"
	"\nPrints \"ktarget: listening on ADDR:PORT\" when it does. Ends with 0 on SIGTERM.\n";

static void stopped_cb(void *arg)
{
	kedge_loop_stop(((struct program *)arg)->loop);
}

static void sig_cb(struct kedge_op *op, int res)
{
	struct program *p = kedge_container_of(op, struct program, sig_op);

	tgt_server_stop(p->server, stopped_cb, p);
}

static int usage(const char *what)
{
	kedge_error("%s; see ktarget --help", what);
	return KEDGE_EXIT_USAGE;
}

static bool take_sessions(const char *text, unsigned *ret_nr)
{
	char *end;
	unsigned long nr = strtoul(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || *end || nr < 1 || nr > 256)
		return false;
	*ret_nr = (unsigned)nr;
	return true;
}

static bool take_free_space(const char *text, enum tgt_free_space *ret_how)
{
	static const char *const names[] = {[TGT_FREE_COPY] = "copy", [TGT_FREE_SKIP] = "skip", [TGT_FREE_MUST] = "must"};

	int i = kedge_word_find(names, KEDGE_ARRAY_LEN(names), text);

	if (i < 0)
		return false;
	*ret_how = (enum tgt_free_space)i;
	return true;
}

static int serve(const struct tgt_opts *o)
{
	struct program p = {.sig_op.fn = sig_cb};
	struct kedge_err err = {0};
	sigset_t set;
	int fd, r = kedge_loop_create(256, &p.loop, &err);

	if (r == 0)
		r = tgt_server_create(p.loop, o, &p.server, &err);
	if (r < 0) {
		kedge_error("%s", err.msg);
		kedge_loop_destroy(p.loop);
		return r == KEDGE_E_AUTH ? KEDGE_EXIT_REFUSED : kedge_exit_of(r);
	}
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	kedge_op_read(p.loop, &p.sig_op, fd, &p.sig_info, sizeof p.sig_info, 0);
	/* both at once: who has seen the first has the second */
	printf("ktarget: listening on %s\n", tgt_server_portal(p.server));
	if (o->free_space != TGT_FREE_COPY)
		printf("ktarget: %llu bytes of free space are left out\n", (unsigned long long)tgt_server_left_out_bytes(p.server));
	fflush(stdout);
	r = kedge_loop_run(p.loop);
	tgt_server_destroy(p.server);
	kedge_loop_destroy(p.loop);
	return r < 0 ? KEDGE_EXIT_FAILED : KEDGE_EXIT_OK;
}

int main(int argc, char **argv)
{
	enum { PORTAL = 256, IQN, LUN, SERIAL, READ_ONLY, INITIATOR, CHAP_FILE, MAX_SESSIONS, FREE_SPACE, HELP, VERSION };
	static const struct option longs[] = {
		{"portal", required_argument, NULL, PORTAL}, {"iqn", required_argument, NULL, IQN},
		{"lun", required_argument, NULL, LUN}, {"serial", required_argument, NULL, SERIAL},
		{"read-only", no_argument, NULL, READ_ONLY}, {"initiator", required_argument, NULL, INITIATOR},
		{"chap-file", required_argument, NULL, CHAP_FILE}, {"max-sessions", required_argument, NULL, MAX_SESSIONS},
		{"free-space", required_argument, NULL, FREE_SPACE},
		{"help", no_argument, NULL, HELP}, {"version", no_argument, NULL, VERSION}, {0},
	};
	struct tgt_opts o = {0};
	const char *chap_file = NULL;
	struct kedge_chap chap;
	struct kedge_err err = {0};
	int c, r;

	kedge_log_init("ktarget", KEDGE_LOG_INFO);
	prctl(PR_SET_DUMPABLE, 0); /* secrets in memory: no core, no ptrace by others */
	setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
	mallopt(M_TRIM_THRESHOLD, 16 << 20); /* else each answer's buffer is taken from the kernel and given back */
	opterr = 0;
	for (c = getopt_long(argc, argv, "", longs, NULL); c != -1; c = getopt_long(argc, argv, "", longs, NULL)) {
		switch (c) {
		case PORTAL: o.portal = optarg; break;
		case IQN: o.iqn = optarg; break;
		case INITIATOR: o.initiator_iqn = optarg; break;
		case CHAP_FILE: chap_file = optarg; break;
		case READ_ONLY: break;
		case LUN:
			if (o.nr_luns == TGT_LUNS_MAX)
				return usage("too many --lun");
			o.lun_paths[o.nr_luns++] = optarg;
			break;
		case SERIAL: o.serials[o.nr_luns ? o.nr_luns - 1 : 0] = optarg; break;
		case MAX_SESSIONS:
			if (!take_sessions(optarg, &o.nr_sessions_max))
				return usage("--max-sessions: 1 to 256");
			break;
		case FREE_SPACE:
			if (!take_free_space(optarg, &o.free_space))
				return usage("--free-space: copy, skip or must");
			break;
		case HELP: fputs(help, stdout); return 0;
		case VERSION: printf("ktarget " KEDGE_VERSION "\n"); return 0;
		default: return usage("unknown or incomplete option");
		}
	}
	if (optind < argc)
		return usage("unexpected argument");
	if (!o.portal || !o.iqn || !o.nr_luns)
		return usage("--portal, --iqn and --lun are needed");
	if (chap_file) {
		r = kedge_chap_read(chap_file, &chap, &err);
		if (r < 0) {
			kedge_error("%s", err.msg);
			return r == -EINVAL ? KEDGE_EXIT_USAGE : KEDGE_EXIT_FAILED;
		}
		o.chap = &chap;
	}
	r = serve(&o);
	if (chap_file)
		kedge_chap_fini(&chap);
	return r;
}
