/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Loaded before libc into a ktarget: a file system whose SEEK_DATA and SEEK_HOLE call data a hole. LIE=START,END (bytes): where.
 *
 * Owns. Nothing. Locks. None.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static off_t honest(int fd, off_t at, int whence)
{
	static off_t (*next)(int fd, off_t at, int whence);

	if (!next)
		next = (off_t (*)(int, off_t, int))dlsym(RTLD_NEXT, "lseek64");
	return next(fd, at, whence);
}

off_t lseek64(int fd, off_t at, int whence)
{
	const char *lie = getenv("LIE");
	long long start, end;

	if ((whence != SEEK_DATA && whence != SEEK_HOLE) || !lie || sscanf(lie, "%lld,%lld", &start, &end) != 2)
		return honest(fd, at, whence);
	off_t found = honest(fd, at, whence);
	if (whence == SEEK_HOLE)
		return at < start && found > start ? start : found;
	return found >= start && found < end ? honest(fd, end, SEEK_DATA) : found;
}

off_t lseek(int fd, off_t at, int whence)
{
	return lseek64(fd, at, whence);
}
