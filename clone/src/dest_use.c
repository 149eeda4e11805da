/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Who else is over a destination, of what outlives processes: loop devices over a file, and what the kernel has over those or over a device.
 *
 * Owns. Nothing: all of it is asked of /sys.
 *
 * Locks. The caller has the clone's service lock; who writes at this moment is told by the destination's own lock.
 */
#include "dest_use.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "kedge/file.h"
#include "kedge/loopdev.h"

struct use {
	char clone[DMDEV_NAME_MAX]; /* ours: it is taken over */
	bool is_ours;
	char other[DMDEV_NAME_MAX];
};

/* A device of device-mapper goes by its name there. */
static void note_holder(struct use *u, const char *holder)
{
	char path[DMDEV_NAME_MAX], *name = NULL;

	snprintf(path, sizeof path, "/sys/block/%.64s/dm/name", holder);
	if (kedge_file_read(path, 4096, &name, NULL, NULL) == 0)
		name[strcspn(name, "\n")] = 0;
	if (name && strcmp(name, u->clone) == 0)
		u->is_ours = true;
	else
		snprintf(u->other, sizeof u->other, "%.120s", name ? name : holder);
	free(name);
}

static void look_over(struct use *u, dev_t number)
{
	char path[64];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof path, "/sys/dev/block/%u:%u/holders", major(number), minor(number));
	dir = opendir(path);
	while (dir && (e = readdir(dir)))
		if (e->d_name[0] != '.')
			note_holder(u, e->d_name);
	if (dir)
		closedir(dir);
}

static int busy(const struct uc_super *s, const char *other, struct kedge_err *err)
{
	return kedge_err_set(err, KEDGE_E_META_BUSY, KEDGE_SIDE_DESTINATION, "%s is in use: %s is over it", s->opts.dest_path, other);
}

int dest_use_check(const struct uc_super *s, struct kedge_err *err)
{
	char top[DMDEV_NAME_MAX], source[DMDEV_NAME_MAX], loop[KEDGE_LOOPDEV_MAX];
	const char *dest = s->opts.dest_path;
	bool is_dm = s->dm_region_bytes != 0;
	unsigned long after = 0;
	struct use u = {0};
	struct stat st;

	if (s->state == UCLONE_HYDRATED || stat(dest, &st) < 0)
		return 0; /* one that is missing is said by who opens it */
	/* the user engine has none over a file before that, and a device for itself alone */
	if (!is_dm)
		return S_ISREG(st.st_mode) && kedge_loopdev_find(dest, loop) == 0 ? busy(s, loop, err) : 0;
	dm_stack_names(&s->opts.migration, top, u.clone, source);
	if (S_ISBLK(st.st_mode))
		look_over(&u, st.st_rdev);
	else
		while (kedge_loopdev_next(dest, &after, loop))
			if (stat(loop, &st) == 0)
				look_over(&u, st.st_rdev);
	return u.other[0] && !u.is_ours ? busy(s, u.other, err) : 0;
}
