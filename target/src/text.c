/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. key=value text: parsing, building, values. Pure. Every output has a bound that is checked before it is written: two
 * targets have been broken into by the reply to unknown keys.
 */
#include "text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int tgt_keys_parse(char *text, size_t nr_bytes, struct tgt_keys *k)
{
	size_t at = 0;

	k->nr_pairs = 0;
	while (at < nr_bytes) {
		char *pair = text + at, *end = memchr(pair, 0, nr_bytes - at), *eq;
		if (!end)
			return -EBADMSG;
		at += (size_t)(end - pair) + 1;
		if (end == pair)
			continue; /* padding */
		eq = strchr(pair, '=');
		if (!eq || eq == pair || eq - pair > (int)TGT_KEY_NAME_MAX)
			return -EBADMSG;
		if (k->nr_pairs == TGT_KEYS_MAX)
			return -E2BIG;
		*eq = 0;
		k->pairs[k->nr_pairs++] = (struct tgt_pair){pair, eq + 1};
	}
	return 0;
}

const char *tgt_keys_get(const struct tgt_keys *k, const char *key)
{
	for (unsigned i = 0; i < k->nr_pairs; i++)
		if (strcmp(k->pairs[i].key, key) == 0)
			return k->pairs[i].value;
	return NULL;
}

void tgt_reply_add(struct tgt_reply *r, const char *key, const char *value)
{
	size_t n = strlen(key) + strlen(value) + 2;

	if (r->is_full || n > sizeof r->text - r->nr_bytes) {
		r->is_full = true;
		return;
	}
	snprintf(r->text + r->nr_bytes, n, "%s=%s", key, value);
	r->nr_bytes += n;
}

void tgt_reply_add_number(struct tgt_reply *r, const char *key, uint32_t value)
{
	char text[16];

	snprintf(text, sizeof text, "%u", value);
	tgt_reply_add(r, key, text);
}

bool tgt_list_has(const char *list, const char *item)
{
	size_t n = strlen(item);

	while (list) {
		const char *comma = strchr(list, ',');
		size_t len = comma ? (size_t)(comma - list) : strlen(list);
		if (len == n && strncmp(list, item, n) == 0)
			return true;
		list = comma ? comma + 1 : NULL;
	}
	return false;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool tgt_number_parse(const char *text, uint32_t max, uint32_t *ret_value)
{
	bool is_hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
	uint64_t v = 0;

	if (is_hex)
		text += 2;
	if (!*text)
		return false;
	for (; *text; text++) {
		int d = hex(*text);
		if (d < 0 || (!is_hex && d > 9))
			return false;
		v = v * (is_hex ? 16 : 10) + (unsigned)d;
		if (v > max)
			return false;
	}
	*ret_value = (uint32_t)v;
	return true;
}

static int base64(char c)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *p = c ? strchr(digits, c) : NULL;

	return p ? (int)(p - digits) : -1;
}

static int decode_base64(const char *text, uint8_t *out, size_t out_max)
{
	uint32_t bits = 0;
	unsigned nr_bits = 0;
	size_t n = 0;

	for (; *text && *text != '='; text++) {
		int d = base64(*text);
		if (d < 0)
			return -EINVAL;
		bits = bits << 6 | (unsigned)d;
		nr_bits += 6;
		if (nr_bits >= 8) {
			nr_bits -= 8;
			if (n == out_max)
				return -E2BIG;
			out[n++] = (uint8_t)(bits >> nr_bits);
		}
	}
	return (int)n;
}

int tgt_binary_decode(const char *text, uint8_t *out, size_t out_max)
{
	size_t n = 0, len;

	if (text[0] != '0')
		return -EINVAL;
	if (text[1] == 'b' || text[1] == 'B')
		return decode_base64(text + 2, out, out_max);
	if (text[1] != 'x' && text[1] != 'X')
		return -EINVAL;
	text += 2;
	len = strlen(text);
	if (len == 0)
		return -EINVAL;
	if ((len + 1) / 2 > out_max)
		return -E2BIG;
	if (len % 2) { /* a leading zero digit was left out */
		int d = hex(*text++);
		if (d < 0)
			return -EINVAL;
		out[n++] = (uint8_t)d;
	}
	for (; *text; text += 2) {
		int hi = hex(text[0]), lo = hi < 0 ? -1 : hex(text[1]);
		if (lo < 0)
			return -EINVAL;
		out[n++] = (uint8_t)(hi << 4 | lo);
	}
	return (int)n;
}

void tgt_binary_encode(const uint8_t *in, size_t nr_bytes, char *out)
{
	static const char digits[] = "0123456789abcdef";

	*out++ = '0';
	*out++ = 'x';
	for (size_t i = 0; i < nr_bytes; i++) {
		*out++ = digits[in[i] >> 4];
		*out++ = digits[in[i] & 15];
	}
	*out = 0;
}
