/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Purpose. The pool behind sim_alloc.h. Owns. A list of all live allocations. Locks. None: one thread. */
#include "sim_alloc.h"

#include <stdint.h>
#include <string.h>

struct node {
	struct node *next, *prev;
	void *start; /* what malloc gave */
	uint64_t pad;
};
#define ALIGN 4096u

static struct node head = {.next = &head, .prev = &head};
static unsigned long nr_nodes;

static void *take(size_t nr_bytes, size_t align)
{
	char *raw = malloc(nr_bytes + sizeof(struct node) + align);
	char *at;
	struct node *n;

	if (!raw)
		abort();
	at = (char *)(((uintptr_t)raw + sizeof(struct node) + align - 1) & ~(uintptr_t)(align - 1));
	n = (struct node *)(void *)(at - sizeof *n);
	n->start = raw;
	n->next = head.next;
	n->prev = &head;
	head.next->prev = n;
	head.next = n;
	nr_nodes++;
	return at;
}

void *sim_malloc(size_t nr_bytes)
{
	return take(nr_bytes, 16);
}

void *sim_calloc(size_t nr, size_t nr_bytes)
{
	void *p = take(nr * nr_bytes, 16);

	memset(p, 0, nr * nr_bytes);
	return p;
}

void *sim_buf_alloc(size_t nr_bytes)
{
	return take(nr_bytes, ALIGN);
}

void sim_free(void *p)
{
	if (!p)
		return;
	struct node *n = (struct node *)(void *)((char *)p - sizeof *n);
	n->next->prev = n->prev;
	n->prev->next = n->next;
	nr_nodes--;
	free(n->start);
}

void sim_alloc_reset(void)
{
	while (head.next != &head)
		sim_free((char *)head.next + sizeof(struct node));
}

unsigned long sim_alloc_nr(void)
{
	return nr_nodes;
}
