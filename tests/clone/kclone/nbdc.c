/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. A small NBD client for tests: option EXPORT_NAME, simple replies.
 * Owns. The socket. Locks. None.
 */
#include "nbdc.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kedge/bytes.h"

static int send_all(struct nbdc *c, const void *buf, size_t n)
{
	const uint8_t *p = buf;

	while (n) {
		ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w < 0 ? -errno : -EPIPE;
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

int nbdc_recv(struct nbdc *c, void *buf, uint32_t nr_bytes)
{
	uint8_t *p = buf;

	while (nr_bytes) {
		ssize_t r = recv(c->fd, p, nr_bytes, 0);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? -errno : -EPIPE;
		p += r;
		nr_bytes -= (uint32_t)r;
	}
	return 0;
}

void nbdc_close(struct nbdc *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

static int shake_hands(struct nbdc *c)
{
	uint8_t greeting[18], hello[20], export[10];
	int r = nbdc_recv(c, greeting, sizeof greeting);

	if (r < 0)
		return r;
	if (memcmp(greeting, "NBDMAGICIHAVEOPT", 16) != 0)
		return -EPROTO;
	kedge_put_be32(hello, 3); /* fixed newstyle, no zeroes */
	memcpy(hello + 4, "IHAVEOPT", 8);
	kedge_put_be32(hello + 12, 1); /* EXPORT_NAME, "" */
	kedge_put_be32(hello + 16, 0);
	r = send_all(c, hello, sizeof hello);
	if (r == 0)
		r = nbdc_recv(c, export, sizeof export);
	if (r == 0)
		c->size_bytes = kedge_get_be64(export);
	return r;
}

int nbdc_open(struct nbdc *c, const char *socket_path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int r;

	if (strlen(socket_path) >= sizeof sa.sun_path)
		return -ENAMETOOLONG;
	strcpy(sa.sun_path, socket_path);
	*c = (struct nbdc){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	if (c->fd < 0)
		return -errno;
	r = connect(c->fd, (struct sockaddr *)&sa, sizeof sa) < 0 ? -errno : 0;
	if (r == 0)
		r = shake_hands(c);
	if (r < 0)
		nbdc_close(c);
	return r;
}

int nbdc_send(struct nbdc *c, uint16_t cmd, uint16_t flags, uint64_t cookie, uint64_t start_bytes, uint32_t nr_bytes,
	      const void *buf)
{
	uint8_t h[28];
	int r;

	kedge_put_be32(h, 0x25609513);
	kedge_put_be16(h + 4, flags);
	kedge_put_be16(h + 6, cmd);
	kedge_put_be64(h + 8, cookie);
	kedge_put_be64(h + 16, start_bytes);
	kedge_put_be32(h + 24, nr_bytes);
	r = send_all(c, h, sizeof h);
	return r == 0 && buf ? send_all(c, buf, nr_bytes) : r;
}

int nbdc_reply(struct nbdc *c, uint64_t *ret_cookie, uint32_t *ret_error)
{
	uint8_t h[16];
	int r = nbdc_recv(c, h, sizeof h);

	if (r < 0)
		return r;
	if (kedge_get_be32(h) != 0x67446698)
		return -EPROTO;
	*ret_error = kedge_get_be32(h + 4);
	*ret_cookie = kedge_get_be64(h + 8);
	return 0;
}

int nbdc_read(struct nbdc *c, uint64_t start_bytes, uint32_t nr_bytes, void *buf)
{
	uint64_t cookie;
	uint32_t error;
	int r = nbdc_send(c, 0, 0, ++c->cookie, start_bytes, nr_bytes, NULL);

	if (r == 0)
		r = nbdc_reply(c, &cookie, &error);
	if (r == 0 && (error || cookie != c->cookie))
		return error ? -EIO : -EPROTO;
	return r == 0 ? nbdc_recv(c, buf, nr_bytes) : r;
}
