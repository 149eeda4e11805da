/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_TRANSIT_H
#define KCOPY_TRANSIT_H

/* How background reads of an iSCSI source travel: as plain READs, or as READ EXTENTs, checked and perhaps compressed. */

#include "kcopy/kcopy.h"

#include "choice.h"
#include "kedge/transit.h"

struct kcopy_isource;
struct kcopy_isession;
struct kcopy_part;

struct kcopy_transit {
	enum kcopy_transit_mode mode;
	struct kedge_transit_coder *coder;
	uint8_t *packed; /* what is being unpacked: zstd must not read and write one buffer */
	uint64_t wire_bytes, nr_damaged;
	struct kcopy_choice choice; /* AUTO */
};

/* Errors: -ENOMEM. */
int kcopy_transit_init(struct kcopy_transit *t, enum kcopy_transit_mode mode, struct kedge_err *err);
void kcopy_transit_fini(struct kcopy_transit *t);
/* Send a part of a read over a session with a free place, one way or the other. 0 or -ENOMEM. */
int kcopy_transit_send(struct kcopy_isource *src, struct kcopy_isession *s, struct kcopy_part *p, void *buf);
/* A read was answered with GOOD or SHORT. True: its bytes are in its buffer and, of an extent, what the source's checksum says. False: the
 * outcome says why not, DAMAGED or SHORT. */
bool kcopy_transit_take(struct kcopy_isource *src, struct kcopy_part *p);
/* Does this session's target make sums? */
bool kcopy_transit_can_sum(const struct kcopy_isession *s);
/* Ask for the sum of a part, whatever the mode. 0 or -ENOMEM. */
int kcopy_transit_send_sum(struct kcopy_isource *src, struct kcopy_isession *s, struct kcopy_part *p);
/* As kcopy_transit_take: the sum is in its place of the request's buffer. */
bool kcopy_transit_take_sum(struct kcopy_isource *src, struct kcopy_part *p);
/* What was sent has been answered, or is lost. is_good: as kcopy_transit_take says. */
void kcopy_transit_ended(struct kcopy_isource *src, struct kcopy_part *p, bool is_good);

#endif
