/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_BYTES_H
#define KEDGE_BYTES_H

/* Pure. Big- and little-endian numbers in byte buffers, alignment arithmetic. */

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KEDGE_DEF_GETPUT(bits, end, END)                                       \
	static inline uint##bits##_t kedge_get_##end##bits(const void *p)      \
	{                                                                      \
		uint##bits##_t v;                                              \
		memcpy(&v, p, sizeof v);                                       \
		return end##bits##toh(v);                                      \
	}                                                                      \
	static inline void kedge_put_##end##bits(void *p, uint##bits##_t host) \
	{                                                                      \
		uint##bits##_t v = hto##end##bits(host);                       \
		memcpy(p, &v, sizeof v);                                       \
	}
KEDGE_DEF_GETPUT(16, be, BE)
KEDGE_DEF_GETPUT(32, be, BE)
KEDGE_DEF_GETPUT(64, be, BE)
KEDGE_DEF_GETPUT(16, le, LE)
KEDGE_DEF_GETPUT(32, le, LE)
KEDGE_DEF_GETPUT(64, le, LE)
#undef KEDGE_DEF_GETPUT

static inline uint32_t kedge_get_be24(const uint8_t *p)
{
	return ((uint32_t)p[0] << 16) | ((uint32_t)p[1] << 8) | p[2];
}

static inline void kedge_put_be24(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 16);
	p[1] = (uint8_t)(v >> 8);
	p[2] = (uint8_t)v;
}

/* align is a power of two */
static inline uint64_t kedge_round_up(uint64_t v, uint64_t align)
{
	return (v + align - 1) & ~(align - 1);
}

static inline uint64_t kedge_round_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

static inline uint64_t kedge_min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t kedge_max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

#define kedge_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define KEDGE_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define KEDGE_BLOCK_BYTES 4096u

/* Is this memory all zero bytes? */
static inline int kedge_is_zero(const void *buf, size_t nr_bytes)
{
	const unsigned char *p = buf;

	if (nr_bytes < 16) {
		for (size_t i = 0; i < nr_bytes; i++)
			if (p[i])
				return 0;
		return 1;
	}
	for (size_t i = 0; i < 16; i++)
		if (p[i])
			return 0;
	return memcmp(p, p + 16, nr_bytes - 16) == 0;
}

#endif
