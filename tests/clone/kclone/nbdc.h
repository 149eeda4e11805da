/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TEST_NBDC_H
#define TEST_NBDC_H

/* A small NBD client of our own, blocking, over a Unix socket, so that a test decides itself what is in flight when. Every
 * failure is a negative errno and closes the connection. */

#include <stdint.h>

struct nbdc {
	int fd;
	uint64_t size_bytes;
	uint64_t cookie;
};

int nbdc_open(struct nbdc *c, const char *socket_path);
void nbdc_close(struct nbdc *c);
/* Send a request; buf: data of a write. */
int nbdc_send(struct nbdc *c, uint16_t cmd, uint16_t flags, uint64_t cookie, uint64_t start_bytes, uint32_t nr_bytes,
	      const void *buf);
/* Take the next simple reply. *ret_error is its error number; the data of a read is the caller's to take with nbdc_recv. */
int nbdc_reply(struct nbdc *c, uint64_t *ret_cookie, uint32_t *ret_error);
int nbdc_recv(struct nbdc *c, void *buf, uint32_t nr_bytes);
/* One read and its answer. */
int nbdc_read(struct nbdc *c, uint64_t start_bytes, uint32_t nr_bytes, void *buf);

#endif
