/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_NAME_H
#define KEDGE_NAME_H

/* Pure. Words that stand for one of a few choices, and the grammars of names (design: security.md, "Names and paths"; RFC 3720/7143 4.2.7 for IQNs). */

#include <stdbool.h>

#define KEDGE_NAME_MAX 63
#define KEDGE_IQN_MAX 223

/* Hosts, volumes, workloads: ^[a-z0-9][a-z0-9._-]{0,62}$, and never "." or "..". */
bool kedge_name_is_valid(const char *name);
/* iqn.yyyy-mm.domain[:text], lower case letters, digits, '.', '-', ':', at most 223 bytes. */
bool kedge_iqn_is_valid(const char *iqn);

/* Which of these words it is; -EINVAL: none of them. */
int kedge_word_find(const char *const *words, unsigned nr_words, const char *text);

#endif
