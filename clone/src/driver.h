/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCLONE_DRIVER_H
#define KCLONE_DRIVER_H

/* Inside of the driver of a kernel clone; one thread that may sleep in the kernel. cmd_driver.c has its life, driver_orders.c what the worker
 * orders. */

#include "dm_governor.h"
#include "dm_mark.h"
#include "dm_stack.h"
#include "dm_windows.h"
#include "kattach_use.h"
#include "front.h"

struct driver {
	const struct kclone_args *a;
	struct holder_share *share;
	struct dm_share *m;
	struct dm_record rec;
	struct dm_stack st;
	struct governor g;
	struct uc_bits bits; /* of a head start, shared with the worker; w NULL: there is none */
	struct dm_windows win;
	int dest_fd; /* the destination's lock (dm_block.h), from before the clone is handed out; -1: not yet */
	struct kattach_use use; /* of the kernel's initiator, where that has the source */
	uint64_t recorded_ms, next_ms;
	uint32_t pause_ms; /* of the last dose */
	uint64_t hydrated_before; /* by the status before */
	enum gov_phase phase_told;
	bool is_free, is_ready_told, is_apart;
	int end_code;
};

void driver_set_phase(struct driver *d, enum dm_phase p);
int driver_go_live(struct driver *d, struct kedge_err *err);
void driver_look_at_orders(struct driver *d);

#endif
