/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Purpose. The pool behind sim_alloc.h. Owns. Two lists of live allocations, one of them in use. Locks. None: one thread. */
#include "sim_alloc.h"

#include <stdint.h>
#include <string.h>

struct node {
	struct node *next, *prev;
	void *start; /* what malloc gave */
	uint64_t pad;
};
#define ALIGN 4096u

static struct pool {
	struct node head;
	unsigned long nr_nodes;
} pools[2] = {
	{.head = {.next = &pools[0].head, .prev = &pools[0].head}},
	{.head = {.next = &pools[1].head, .prev = &pools[1].head}},
};
static struct pool *pool = &pools[0];

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
	n->next = pool->head.next;
	n->prev = &pool->head;
	n->next->prev = n;
	pool->head.next = n;
	pool->nr_nodes++;
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
	pool->nr_nodes--;
	free(n->start);
}

void sim_alloc_reset(void)
{
	while (pool->head.next != &pool->head)
		sim_free((char *)pool->head.next + sizeof(struct node));
}

void sim_alloc_push(void)
{
	pool = &pools[1];
}

void sim_alloc_pop(void)
{
	sim_alloc_reset();
	pool = &pools[0];
}

unsigned long sim_alloc_nr(void)
{
	return pool->nr_nodes;
}
