/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

/* Sockets for the floor and the ping-pong. Every failure ends the program: a bench that goes on measures nothing. */

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

void wire_fail(const char *what) __attribute__((noreturn));
/* A listener on a free port of an address, which is printed on stdout. */
int wire_listen(const char *address);
int wire_connect(const char *address, uint16_t port);
#define WIRE_LOOPBACK "127.0.0.1"
void wire_nodelay(int sock);
void wire_send(int sock, const void *data, size_t nr_bytes, int flags);
void wire_recv(int sock, void *data, size_t nr_bytes);

#endif
