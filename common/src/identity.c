/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The identity of a source, its text form in the serial number page, and the comparison that every login makes.
 * Pure.
 */
#include "kedge/identity.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void kedge_serial_format(const struct kedge_identity *id, char out[KEDGE_SERIAL_MAX])
{
	char uuid[KEDGE_UUID_TEXT_MAX];

	if (kedge_uuid_is_null(&id->volume)) {
		out[0] = 0;
		return;
	}
	kedge_uuid_format(&id->volume, uuid);
	snprintf(out, KEDGE_SERIAL_MAX, "%s.%" PRIu64, uuid, id->epoch);
}

int kedge_serial_parse(const char *text, struct kedge_uuid *ret_volume, uint64_t *ret_epoch)
{
	char uuid_text[KEDGE_UUID_TEXT_MAX];
	struct kedge_uuid uuid;
	size_t n = strnlen(text, KEDGE_SERIAL_MAX);
	uint64_t epoch = 0;

	while (n && text[n - 1] == ' ')
		n--;
	if (n < 38 || n >= KEDGE_SERIAL_MAX || text[36] != '.')
		return -EINVAL;
	memcpy(uuid_text, text, 36);
	uuid_text[36] = 0;
	if (kedge_uuid_parse(uuid_text, &uuid) < 0)
		return -EINVAL;
	for (size_t i = 37; i < n; i++) {
		if (text[i] < '0' || text[i] > '9' || epoch > (UINT64_MAX - 9) / 10)
			return -EINVAL;
		epoch = epoch * 10 + (uint64_t)(text[i] - '0');
	}
	*ret_volume = uuid;
	*ret_epoch = epoch;
	return 0;
}

int kedge_identity_check(const struct kedge_identity *expected, const struct kedge_identity *found,
			 struct kedge_err *err)
{
	if (!kedge_uuid_is_null(&expected->volume)) {
		char want[KEDGE_SERIAL_MAX], have[KEDGE_SERIAL_MAX];

		kedge_serial_format(expected, want);
		kedge_serial_format(found, have);
		if (strcmp(want, have) != 0)
			return kedge_err_set(err, KEDGE_E_SOURCE_IDENTITY, KEDGE_SIDE_SOURCE,
					     "the source says it is volume %s, expected %s",
					     have[0] ? have : "(no serial of ours)", want);
	}
	if (expected->size_bytes && expected->size_bytes != found->size_bytes)
		return kedge_err_set(err, KEDGE_E_SOURCE_IDENTITY, KEDGE_SIDE_SOURCE,
				     "the source has %" PRIu64 " bytes, expected %" PRIu64, found->size_bytes,
				     expected->size_bytes);
	if (expected->lbs_bytes && expected->lbs_bytes != found->lbs_bytes)
		return kedge_err_set(err, KEDGE_E_SOURCE_IDENTITY, KEDGE_SIDE_SOURCE,
				     "the source has %u-byte logical blocks, expected %u", found->lbs_bytes,
				     expected->lbs_bytes);
	return 0;
}
