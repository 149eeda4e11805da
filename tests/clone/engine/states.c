/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Purpose. The set of seen states (states.h). Pure. */
#include "states.h"

#include <stdlib.h>
#include <string.h>

void fingerprint_init(struct fingerprint *f)
{
	*f = (struct fingerprint){0x243f6a8885a308d3ull, 0x13198a2e03707344ull};
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
	return x ^ (x >> 29);
}

void fingerprint_add(struct fingerprint *f, const void *bytes, size_t nr_bytes)
{
	for (size_t i = 0; i < nr_bytes; i += 8) {
		uint64_t v;
		memcpy(&v, (const char *)bytes + i, 8);
		f->a = mix(f->a ^ v);
		f->b = mix(f->b + (v ^ 0xa4093822299f31d0ull)) + 0x9e3779b97f4a7c15ull;
	}
}

static struct fingerprint *find(const struct states *s, const struct fingerprint *f)
{
	size_t i = f->a & (s->max - 1);

	while ((s->slots[i].a || s->slots[i].b) && (s->slots[i].a != f->a || s->slots[i].b != f->b))
		i = (i + 1) & (s->max - 1);
	return &s->slots[i];
}

static void grow(struct states *s)
{
	struct states bigger = {.nr = s->nr, .max = s->max ? 2 * s->max : 4096};

	bigger.slots = calloc(bigger.max, sizeof *bigger.slots);
	if (!bigger.slots)
		abort();
	for (size_t i = 0; i < s->max; i++)
		if (s->slots[i].a || s->slots[i].b)
			*find(&bigger, &s->slots[i]) = s->slots[i];
	free(s->slots);
	*s = bigger;
}

bool states_add(struct states *s, const struct fingerprint *f)
{
	struct fingerprint *at;

	if (2 * s->nr >= s->max)
		grow(s);
	at = find(s, f);
	if (at->a == f->a && at->b == f->b)
		return false;
	*at = *f;
	s->nr++;
	return true;
}

void states_fini(struct states *s)
{
	free(s->slots);
	*s = (struct states){0};
}
