/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef SIM_ALLOC_H
#define SIM_ALLOC_H

/* Included in front of every engine file in the simulation builds: all memory of the engine comes from a pool that the simulated
 * crash throws away as a whole and that a clean close must leave empty. */

#include <stdlib.h>
#include <sys/mman.h>

#include "kedge/disk.h"

void *sim_malloc(size_t nr_bytes);
void *sim_calloc(size_t nr, size_t nr_bytes);
void sim_free(void *p);
void *sim_buf_alloc(size_t nr_bytes);
/* What a process death does to memory. */
void sim_alloc_reset(void);
/* A second world beside the first: from push to pop the pool is another one, thrown away by pop. No deeper than one. */
void sim_alloc_push(void);
void sim_alloc_pop(void);
/* Allocations not freed yet. */
unsigned long sim_alloc_nr(void);

#ifdef SIM_ENGINE
#define malloc sim_malloc
#define calloc sim_calloc
#define free sim_free
#define kedge_buf_alloc sim_buf_alloc
#define kedge_buf_free sim_free
#define mmap(addr, nr_bytes, prot, flags, fd, offset) sim_calloc(1, nr_bytes)
#define munmap(p, nr_bytes) sim_free(p)
#endif
#endif
