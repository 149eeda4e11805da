/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. kclone doctor: which engine this host gets, and why; what else a clone needs here.
 * Owns. Nothing. Locks. None.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "dm_stack.h"
#include "kclone.h"
#include "kedge/loop.h"
#include "kiscsi.h"

struct finding {
	const char *what;
	bool is_good, is_needed;
	char text[KEDGE_ERR_MSG_MAX + 64];
};

static void look_at_file(struct finding *f, const char *path, const char *hint)
{
	f->is_good = access(path, R_OK | W_OK) == 0;
	snprintf(f->text, sizeof f->text, "%s%s%s%s", path, f->is_good ? "" : ": ", f->is_good ? "" : strerror(errno), f->is_good ? "" : hint);
}

int cmd_doctor(const struct kclone_args *a)
{
	struct finding all[] = {{.what = "io_uring", .is_needed = true},
				{.what = "fuse", .is_needed = true},
				{.what = "loop", .is_needed = true},
				{.what = "dm-linear"},
				{.what = "dm-clone"},
				{.what = "open-iscsi"}};
	struct finding *ring = &all[0], *top = &all[3], *clone = &all[4], *initiator = &all[5];
	struct kedge_err err = {0};
	struct kedge_loop *l = NULL;
	struct utsname u = {0};
	bool is_usable = true;

	uname(&u);
	ring->is_good = kedge_loop_create(8, &l, &err) == 0;
	snprintf(ring->text, sizeof ring->text, "%s", ring->is_good ? "works" : err.msg);
	kedge_loop_destroy(l);
	look_at_file(&all[1], "/dev/fuse", " (modprobe fuse)");
	look_at_file(&all[2], "/dev/loop-control", " (modprobe loop)");
	err = (struct kedge_err){0};
	top->is_good = dm_top_probe(&err) == 0;
	snprintf(top->text, sizeof top->text, "%s",
		 top->is_good ? "a clone ends as a plain device on its destination" : err.msg);
	err = (struct kedge_err){0};
	clone->is_good = top->is_good && dm_probe(&err) == 0;
	snprintf(clone->text, sizeof clone->text, "%s", clone->is_good ? "the kernel can run clones itself" : top->is_good ? err.msg : top->text);
	err = (struct kedge_err){0};
	initiator->is_good = kiscsi_probe(&err) == 0;
	snprintf(initiator->text, sizeof initiator->text, "%s",
		 initiator->is_good ? "the kernel's initiator can be a clone's source (--source-attach kernel)" : err.msg);
	const char *engine = clone->is_good ? "dm" : "user";
	char why[KEDGE_ERR_MSG_MAX + 160];
	snprintf(why, sizeof why, "%s%s", clone->is_good ? "the kernel has dm-clone" : clone->text,
		 clone->is_good || !top->is_good ? "" : "; with dm-linear a clone ends as a plain device on its destination all the same");
	json_t *list = json_array();
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
		is_usable = is_usable && (all[i].is_good || !all[i].is_needed);
		json_array_append_new(list, json_pack("{s:s,s:b,s:b,s:s}", "name", all[i].what, "good", all[i].is_good, "needed",
						      all[i].is_needed, "text", all[i].text));
	}
	json_t *o = json_pack("{s:i,s:s,s:s,s:s,s:b,s:b,s:o}", "v", 1, "kernel", u.release, "engine", engine, "why", why, "top", top->is_good,
			      "usable", is_usable, "findings", list);
	if (a->is_json) {
		json_dumpf(o, stdout, JSON_COMPACT);
		printf("\n");
	} else {
		printf("kernel     %s\nengine     %s: %s\n", u.release, engine, why);
		for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
			printf("%-10s %s%s\n", all[i].what, all[i].is_good ? "" : all[i].is_needed ? "MISSING: " : "no: ", all[i].text);
	}
	json_decref(o);
	return is_usable ? KEDGE_EXIT_OK : KEDGE_EXIT_FAILED;
}
