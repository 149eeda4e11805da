/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TGT_TEXT_H
#define TGT_TEXT_H

/* Pure. key=value text of login and text PDUs: parsing with lengths, building with a bound. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TGT_TEXT_MAX 8192u
#define TGT_KEYS_MAX 64u
#define TGT_KEY_NAME_MAX 63u

struct tgt_pair {
	const char *key;   /* both end with NUL, inside the text that was parsed */
	const char *value;
};

struct tgt_keys {
	struct tgt_pair pairs[TGT_KEYS_MAX];
	unsigned nr_pairs;
};

/* text gets NULs in place of '='; it must stay while keys is used. -EBADMSG: no '=', an empty or long key, text without an end;
 * -E2BIG: more than 64 pairs. */
int tgt_keys_parse(char *text, size_t nr_bytes, struct tgt_keys *ret_keys);
/* NULL when there is none. */
const char *tgt_keys_get(const struct tgt_keys *k, const char *key);

struct tgt_reply {
	char text[TGT_TEXT_MAX];
	size_t nr_bytes;
	bool is_full; /* something did not fit: end the login */
};
void tgt_reply_add(struct tgt_reply *r, const char *key, const char *value);
void tgt_reply_add_number(struct tgt_reply *r, const char *key, uint32_t value);

/* Is item one of the comma-separated values of list? */
bool tgt_list_has(const char *list, const char *item);
/* Decimal or 0x…; false when it is neither or more than max. */
bool tgt_number_parse(const char *text, uint32_t max, uint32_t *ret_value);
/* "0x…" (hex) or "0b…" (base64) into out; the number of bytes, or -EINVAL, -E2BIG when out is too small. */
int tgt_binary_decode(const char *text, uint8_t *out, size_t out_max);
/* "0x…"; out holds 2 * nr_bytes + 3. */
void tgt_binary_encode(const uint8_t *in, size_t nr_bytes, char *out);

#endif
