/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The bare TCP server that read-through is measured against: each request of 48 bytes is answered with 4 KiB by a send of its own,
 * from memory that is there. Its client is `bench_reads ping`.
 *
 * Owns. A listening socket on loopback; one connection at a time.
 *
 * Locks. None: one thread.
 */
#include <string.h>
#include <unistd.h>

#include "wire.h"

enum { REQUEST_BYTES = 48, REPLY_BYTES = 4096 };

int main(void)
{
	static char requests[256 * REQUEST_BYTES], reply[REPLY_BYTES];
	int listener = wire_listen(WIRE_LOOPBACK);

	memset(reply, 0x5a, sizeof reply);
	for (;;) {
		int sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		size_t have = 0;
		ssize_t n;

		if (sock < 0)
			wire_fail("accept");
		wire_nodelay(sock);
		while ((n = recv(sock, requests + have, sizeof requests - have, 0)) > 0) {
			for (have += (size_t)n; have >= REQUEST_BYTES; have -= REQUEST_BYTES)
				wire_send(sock, reply, sizeof reply, 0);
		}
		close(sock);
	}
}
