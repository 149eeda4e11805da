/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_FILE_H
#define KEDGE_FILE_H

/* Small files: whole reads, durable replacement, secrets. All of it blocks. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "kedge/err.h"

/* The whole file as heap memory with a NUL behind it; the caller frees. -EFBIG above max_bytes. */
int kedge_file_read(const char *path, size_t max_bytes, char **ret_text, size_t *ret_bytes, struct kedge_err *err);
/* Write to a temporary file beside path, fsync it, rename over path, fsync the directory: after success the
 * new content survives a power cut, after failure or a crash the old one does. */
int kedge_file_replace(const char *path, const void *data, size_t nr_bytes, mode_t mode, struct kedge_err *err);
/* Like kedge_file_read, but refuses a file that group or others may read or write, or that is not ours. */
int kedge_file_read_secret(const char *path, size_t max_bytes, char **ret_text, size_t *ret_bytes,
			   struct kedge_err *err);
/* fsync the directory that holds path, so that a create, rename or unlink in it survives a power cut. */
int kedge_file_sync_dir_of(const char *path, struct kedge_err *err);
/* mkdir -p with mode for the last part made. */
int kedge_mkdir_p(const char *path, mode_t mode, struct kedge_err *err);
/* Size of a regular file or block device, and the logical block size (512 for files). */
int kedge_file_geometry(int fd, uint64_t *ret_size_bytes, uint32_t *ret_lbs_bytes, struct kedge_err *err);
/* Up to where, from start_bytes on and at most to end_bytes, the file reads as zeroes because nothing was ever written there: a hole, or space
 * that is only reserved. start_bytes where there is data, past the end of the file, for devices, and for file systems that cannot tell. Moves the
 * descriptor's own offset. One call may look through everything up to the next data: ask for large ranges, not for many. */
uint64_t kedge_file_hole_end(int fd, uint64_t start_bytes, uint64_t end_bytes);
/* Is the file on a file system whose SEEK_DATA is known never to call data a hole that was just written (decision 0013)? */
bool kedge_file_knows_holes(int fd);
/* Is it on a tmpfs, where a read or write waits for no device while there is memory (else for swap, as everything in memory does)? */
bool kedge_file_is_in_memory(int fd);
/* flock(2), exclusive. One that was killed a moment ago may hold it until the kernel has let go of its last operations: so ask for at most
 * wait_ms. 0, -EWOULDBLOCK, -errno. Blocks. */
int kedge_lock(int fd, unsigned wait_ms);
/* write(2) until all is out. 0 or -errno. */
int kedge_write_full(int fd, const void *buf, size_t nr_bytes);
/* close(2) that keeps errno, for cleanup ladders; -1 is a no-op. */
void kedge_close(int fd);

#endif
