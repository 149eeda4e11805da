/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The grammars of names; words of a list. Pure.
 */
#include "kedge/name.h"

#include <errno.h>
#include <string.h>

static bool is_low(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool kedge_name_is_valid(const char *name)
{
	size_t n = strnlen(name, KEDGE_NAME_MAX + 1);

	if (n == 0 || n > KEDGE_NAME_MAX || !is_low(name[0]))
		return false;
	for (size_t i = 1; i < n; i++)
		if (!is_low(name[i]) && !strchr("._-", name[i]))
			return false;
	return true;
}

static bool is_digits(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] < '0' || p[i] > '9')
			return false;
	return true;
}

bool kedge_iqn_is_valid(const char *iqn)
{
	size_t n = strnlen(iqn, KEDGE_IQN_MAX + 1);

	/* iqn.yyyy-mm.d */
	if (n < 13 || n > KEDGE_IQN_MAX || strncmp(iqn, "iqn.", 4) != 0)
		return false;
	if (!is_digits(iqn + 4, 4) || iqn[8] != '-' || !is_digits(iqn + 9, 2) || iqn[11] != '.')
		return false;
	if (!is_low(iqn[12]))
		return false;
	for (size_t i = 13; i < n; i++)
		if (!is_low(iqn[i]) && !strchr(".-:", iqn[i]))
			return false;
	return true;
}

int kedge_word_find(const char *const *words, unsigned nr_words, const char *text)
{
	for (unsigned i = 0; i < nr_words; i++)
		if (strcmp(text, words[i]) == 0)
			return (int)i;
	return -EINVAL;
}
