/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Prints docs/state-machines.md from the coordinator's table, so that the page cannot say anything else.
 */
#include <stdio.h>

#include "coord_core.h"

static const char *side_name(enum coord_side side)
{
	return side == COORD_SOURCE ? "source" : side == COORD_DEST ? "destination" : "";
}

static void print_flags(unsigned flags)
{
	static const struct {
		unsigned flag;
		const char *text;
	} words[] = {{COORD_DOWN, "workload down"}, {COORD_LAZY, "lazy"}, {COORD_COMMITTED, "forward only"}, {COORD_UNDOING, "undoing"},
		     {COORD_HASTY, "hasty"}, {COORD_ENDED, "end"}};
	const char *between = "";

	for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++) {
		if (!(flags & words[i].flag))
			continue;
		printf("%s%s", between, words[i].text);
		between = ", ";
	}
}

int main(void)
{
	puts("# State machines\n\n"
	     "Made from `orchestrator/src/coord_core.h` by `coord_states`; the test `docs.state_machines` fails when it differs.\n\n"
	     "## A migration at the coordinator\n\n"
	     "In a step, the agent step of the third column is asked of that side; when it is done the next step is recorded, and only then is\n"
	     "anything of it sent. *lazy*: a power cut may forget the step; the agents' recorded results give it back. *hasty*: a failure that\n"
	     "waiting does not heal ends the migration at once, nothing has been stopped. Patience: how long failures are tried again before the\n"
	     "migration is undone; forward-only steps and undoing are tried for ever.\n\n"
	     "| step | next | asks | of | patience | | shown as |\n|---|---|---|---|---|---|---|");
	for (unsigned i = 0; i < COORD_NR_STEPS; i++) {
		const struct coord_row *r = coord_row_of((enum coord_step)i);
		printf("| %s | %s | %s | %s | ", r->name, r->flags & COORD_ENDED ? "" : coord_row_of(r->next)->name,
		       r->ask == COORD_NO_ASK ? "" : agent_step_name(r->ask), side_name(r->side));
		if (r->patience_ms)
			printf("%u s", r->patience_ms / 1000);
		printf(" | ");
		print_flags(r->flags);
		printf(" | %s |\n", r->text);
	}
	puts("\nAny step before BOOT_INTENT may turn to ABORTING (PLANNED to ABORTED at once): an operator's abort, patience that ended, or a lasting\n"
	     "failure. From REVOKED an untouched source (before SRC_STOPPING) goes to ABORTED without a question. ABORTING turns to UNFENCING when the\n"
	     "destination does not answer for 10 s and the source was stopped: the source gets its volume back first, the destination is revoked\n"
	     "when it comes back.\n\n"
	     "## A volume at an agent\n\n| state | may a workload start here |\n|---|---|");
	static const char *const starts[AGENT_NR_STATES] = {
		[AGENT_STATE_UNKNOWN] = "no", [AGENT_STATE_LOCAL] = "yes, unless a STOP holds it", [AGENT_STATE_RESERVED] = "no",
		[AGENT_STATE_CLONING] = "yes", [AGENT_STATE_FENCED] = "never", [AGENT_STATE_RETAINED] = "never", [AGENT_STATE_REVOKED] = "never",
	};
	for (unsigned i = 0; i < AGENT_NR_STATES; i++)
		printf("| %s | %s |\n", agent_state_name((enum agent_state)i), starts[i]);
	return 0;
}
