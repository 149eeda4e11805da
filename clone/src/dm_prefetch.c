/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Pieces of the source for the driver's quiesce windows.
 *
 * Owns. Memory of its own for each slot: a read that outlives this process must not land in what the driver takes from a later one.
 *
 * Locks. None: the driver writes what it asks for before ask_nr, we what we answer before done_nr.
 *
 * Crash. The next worker finds the same question and answers it.
 */
#include "dm_prefetch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"
#include "kedge/disk.h"

struct slot {
	struct prefetch *p;
	unsigned i;
	bool is_reading;
	uint64_t nr; /* of the question that is being read for */
	uint8_t *buf;
	struct uclone_io io;
};

struct prefetch {
	struct dm_share *m;
	uint8_t *mem;
	uint64_t size_bytes;
	struct feed *feed;
	struct slot slots[DM_NR_SLOTS];
};

static void answer(struct slot *s, int res)
{
	struct dm_slot *d = &s->p->m->slots[s->i];

	d->res = res;
	__atomic_store_n(&d->done_nr, s->nr, __ATOMIC_RELEASE);
}

static void read_cb(struct uclone_io *io, int res)
{
	struct slot *s = kedge_container_of(io, struct slot, io);
	struct dm_slot *d = &s->p->m->slots[s->i];

	s->is_reading = false;
	/* another driver may have asked for something else meanwhile: it waits for its own number */
	if (__atomic_load_n(&d->ask_nr, __ATOMIC_ACQUIRE) != s->nr)
		return;
	if (res == 0)
		memcpy(s->p->mem + (size_t)s->i * DM_SLOT_BYTES, s->buf, io->nr_bytes);
	answer(s, res);
}

static void begin(struct slot *s, uint64_t nr)
{
	const struct dm_slot *d = &s->p->m->slots[s->i];
	uint64_t start = d->start_bytes, n = d->nr_bytes;

	s->nr = nr;
	if (!s->buf)
		s->buf = kedge_buf_alloc(DM_SLOT_BYTES);
	if (!s->buf || n == 0 || n > DM_SLOT_BYTES || start > s->p->size_bytes || n > s->p->size_bytes - start) {
		answer(s, s->buf ? -EINVAL : -ENOMEM);
		return;
	}
	s->is_reading = true;
	s->io = (struct uclone_io){.op = UCLONE_READ, .start_bytes = start, .nr_bytes = n, .buf = s->buf, .fn = read_cb};
	feed_submit(s->p->feed, &s->io);
}

void prefetch_look(struct prefetch *p)
{
	for (unsigned i = 0; i < DM_NR_SLOTS; i++) {
		const struct dm_slot *d = &p->m->slots[i];
		uint64_t nr = __atomic_load_n(&d->ask_nr, __ATOMIC_ACQUIRE);
		if (!p->slots[i].is_reading && nr != d->done_nr)
			begin(&p->slots[i], nr);
	}
}

struct prefetch *prefetch_create(struct dm_share *m, void *slots_mem, uint64_t size_bytes, struct feed *f)
{
	struct prefetch *p = calloc(1, sizeof *p);

	kedge_assert(p != NULL);
	*p = (struct prefetch){.m = m, .mem = slots_mem, .size_bytes = size_bytes, .feed = f};
	for (unsigned i = 0; i < DM_NR_SLOTS; i++)
		p->slots[i] = (struct slot){.p = p, .i = i};
	return p;
}

void prefetch_destroy(struct prefetch *p)
{
	for (unsigned i = 0; p && i < DM_NR_SLOTS; i++)
		kedge_buf_free(p->slots[i].buf);
	free(p);
}
