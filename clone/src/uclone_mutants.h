/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef UCLONE_MUTANTS_H
#define UCLONE_MUTANTS_H

/* Deliberate faults (E13): each stands where a rule of design engine.md is kept, and the crash tests must notice it. Only the test build
 * with UCLONE_WITH_MUTANTS has them; everywhere else the condition is the constant 0. */
enum uc_mutant {
	UC_MUT_NONE,
	UC_MUT_NO_DEST_FLUSH,      /* commit: metadata without a flush of the destination */
	UC_MUT_NO_META_FLUSH,      /* commit: answered without a flush of the metadata */
	UC_MUT_NO_TOKEN,           /* fill: overwrites blocks that the workload wrote meanwhile */
	UC_MUT_EARLY_BIT,          /* write: bits before the data */
	UC_MUT_EARLY_ACK,          /* FUA: answered before the commit */
	UC_MUT_NO_INTENT,          /* write: over copied blocks without a durable intent */
	UC_MUT_ZERO_SKIP,          /* fill: trusts the destination to hold zeroes already */
	UC_MUT_LATE_ENCODE,        /* commit: pages encoded after the flush of the destination */
	UC_MUT_DISCARD_NO_ZERO,    /* discard: the bit without zeroing the destination */
	UC_MUT_DISCARD_BY_HOLES,   /* discard: trusts the file system to know where it has holes */
	UC_MUT_FILL_NO_LOCK,       /* fill: does not wait for writes */
	UC_MUT_FLUSH_JOINS,        /* FLUSH: joins the commit that runs already */
	UC_MUT_MERGE_DEST,         /* partial write: merges with the destination of an empty block */
	UC_MUT_IGNORE_INTENT,      /* open: an unclean stop is not looked at */
	UC_MUT_FLUSH_NO_META,      /* commit: answered after the destination alone */
	UC_MUT_SEEN_FIRST,         /* commit: the generation record before the generation */
	UC_MUT_NOT_STICKY,         /* a failed flush is forgotten */
	UC_MUT_SHOW_UNCOMMITTED,   /* after a failure uncommitted blocks are still read */
	UC_MUT_UNKNOWN_IS_EMPTY,   /* a damaged sector counts as 0 */
	UC_MUT_NO_AGE_CHECK,       /* an older copy of the metadata is taken */
	UC_MUT_WRITE_NO_LOCK,      /* write: does not wait for others */
	UC_MUT_NO_MARKS,           /* write: answered without a mark for the next worker */
	UC_MUT_UNKNOWN_HEALS,      /* commit: a damaged sector is written anew, as an empty one */
	UC_MUT_FINISH_ABORTED,     /* finish: brings back a clone that was given up */
	UC_MUT_FAILURE_FORGOTTEN,  /* open: a failure of the worker before is not looked at */
	UC_MUT_BAD_STAYS,          /* write: a block that the source cannot read stays bad */
	UC_MUT_BAD_NOT_FORGOTTEN,  /* a range that was bad is never offered again */
	UC_MUT_BAD_IS_OFFERED,     /* take: a bad range is read again in every pass */
	UC_MUT_MAP_PAST_BAD,       /* map: what lies behind a bad range counts as bad */
	UC_NR_MUTANTS,
};
#ifdef UCLONE_WITH_MUTANTS
extern enum uc_mutant uc_mutant;
#define UC_MUTANT(name) (uc_mutant == UC_MUT_##name)
#else
#define UC_MUTANT(name) 0
#endif
#endif
