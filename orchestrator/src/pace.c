/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. How a volume is copied: checks what operators and peers say of it. Pure.
 */
#include "pace.h"

#include <string.h>

#include "kedge/bytes.h"

bool pace_is_transit(const char *text)
{
	static const char *const names[] = {"auto", "plain", "checked", "zstd"};

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(names); i++)
		if (strcmp(text, names[i]) == 0)
			return true;
	return false;
}
